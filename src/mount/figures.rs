//! Requests answered, as `.relict/metrics` shows them.

use super::adapter::{Request, RequestCounts};
use crate::view::Figure;

const KINDS: [(Request, &str); 15] = [
    (Request::Lookup, "lookup"),
    (Request::Getattr, "getattr"),
    (Request::Readlink, "readlink"),
    (Request::Open, "open"),
    (Request::Read, "read"),
    (Request::Getxattr, "getxattr"),
    (Request::Listxattr, "listxattr"),
    (Request::Flush, "flush"),
    (Request::Release, "release"),
    (Request::Opendir, "opendir"),
    (Request::Readdir, "readdir"),
    (Request::Readdirplus, "readdirplus"),
    (Request::Statfs, "statfs"),
    (Request::Lseek, "lseek"),
    (Request::Other, "other"),
];

impl RequestCounts {
    /// All counts.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let figure = |(request, name): (Request, &str)| Figure {
            name: "fuse_requests_total",
            help: "Requests of the kernel answered since mounting.",
            label: Some(("request", name.to_owned())),
            value: self.of(request),
        };
        KINDS.map(figure).into()
    }
}
