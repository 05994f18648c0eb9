//! A part of the layout as the mount's root: one source, or one restore point.
//!
//! The kernel calls the root 1, whatever it is; here it is the inode it really is. Every question goes through
//! [`View::inner`], every number that is shown through [`View::shown`].

use super::View;
use super::inode::Ino;
use crate::catalog::points::{Filter, Points, printable};
use crate::{Error, ErrorKind, Result};
use repo_format::ROOT_INO;
use std::sync::{Arc, PoisonError};

/// What to show as the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Only {
    /// The host, as it is or as it is shown below `hosts/`.
    pub host: Vec<u8>,
    /// The source, likewise.
    pub source: Vec<u8>,
    /// A restore point of it; None for all of them.
    pub point: Option<String>,
}

impl Only {
    /// Reads `HOST/SOURCE[@POINT]`: the host ends at the first slash, the point begins behind the last `@`.
    ///
    /// # Errors
    /// `Usage` when there is no slash, or a name is empty.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Usage, format!("'{}' does not name a source", printable(text)))
                .advise("write HOST/SOURCE or HOST/SOURCE@POINT; 'relict snapshots' lists hosts and sources")
        };
        let slash = text.iter().position(|byte| *byte == b'/').ok_or_else(wrong)?;
        let (host, rest) = text.split_at(slash);
        let rest = rest.get(1..).unwrap_or_default();
        let (source, point) = match rest.iter().rposition(|byte| *byte == b'@') {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        let point = point.map(|point| String::from_utf8_lossy(point).into_owned());
        if host.is_empty() || source.is_empty() || point.as_deref() == Some("") {
            return Err(wrong());
        }
        Ok(Self { host: host.to_vec(), source: source.to_vec(), point })
    }
}

impl View {
    /// The same view, with a part of it as the root. A point is chosen now and stays; of a source, points come and go.
    ///
    /// # Errors
    /// `NotFound` when there is no such source or point.
    pub fn with_root(mut self, only: &Only) -> Result<Self> {
        let layout = self.layout();
        let same = |name: &[u8], shown: &str, wanted: &[u8]| name == wanted || shown.as_bytes() == wanted;
        let source = layout.sources().find(|source| {
            source.points.first().is_some_and(|point| {
                same(&point.host, &source.host, &only.host) && same(&point.source, &source.source, &only.source)
            })
        });
        let source = source.ok_or_else(|| {
            let (host, source) = (printable(&only.host), printable(&only.source));
            Error::new(ErrorKind::NotFound, format!("no restore point is of source '{source}' on host '{host}'"))
                .advise("'relict snapshots' lists hosts and sources")
        })?;
        let dir = format!("hosts/{}/{}", source.host, source.source);
        self.root = match &only.point {
            None => layout.find(&dir).unwrap_or(Ino::ROOT),
            Some(expression) => {
                let points = Points::new(source.points.iter().map(|point| (**point).clone()).collect());
                let id = points.resolve(expression, &Filter::default())?.id;
                let index = source.points.iter().position(|point| point.id == id).unwrap_or_default();
                let slot = source.slots.get(index).copied().unwrap_or_default();
                Ino::in_slot(slot, ROOT_INO).unwrap_or(Ino::ROOT)
            }
        };
        let mut kept = (*layout).clone();
        kept.keep(dir);
        *self.layout.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(kept);
        Ok(self)
    }

    /// The inode behind a number of the kernel's.
    pub(super) fn inner(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.root } else { ino }
    }

    /// The number that the kernel knows an inode by.
    pub(super) fn shown(&self, ino: Ino) -> Ino {
        if ino == self.root { Ino::ROOT } else { ino }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_points_are_told_apart() {
        let only = |host: &str, source: &str, point: Option<&str>| Only {
            host: host.into(),
            source: source.into(),
            point: point.map(str::to_owned),
        };
        for (text, expected) in [
            ("web/etc", only("web", "etc", None)),
            ("web//srv/data", only("web", "/srv/data", None)),
            ("web/etc@latest~1", only("web", "etc", Some("latest~1"))),
            ("web/me@home@2026-11-21", only("web", "me@home", Some("2026-11-21"))),
        ] {
            assert_eq!(Only::parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for wrong in ["", "web", "web/", "/etc", "web/@latest", "web/etc@"] {
            assert_eq!(Only::parse(wrong.as_bytes()).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
