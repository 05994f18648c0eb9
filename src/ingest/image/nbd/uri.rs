//! Where an NBD server is, as its users write it: `nbd://host:port/export`, `nbd+unix:///export?socket=PATH`.

use crate::catalog::points::printable;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The port of NBD (IANA).
const PORT: u16 = 10809;
/// Longest name of an export that the protocol allows, in bytes.
const MAX_EXPORT_BYTES: usize = 4096;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// A socket of this machine.
    Unix(PathBuf),
}

/// A server and one of its exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// The server.
    pub address: Address,
    /// The export's name; empty for the server's default one.
    pub export: Vec<u8>,
}

impl NbdUri {
    /// Parses an URI, as of the NBD project's uri.md: schemes `nbd` and `nbd+unix`.
    ///
    /// # Errors
    /// `Usage` for anything else, and for parts that would be ignored.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(usage(text, why));
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("it has no scheme") };
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let Some(export) = decode(path) else { return wrong("a % in it is not followed by two digits") };
        if export.len() > MAX_EXPORT_BYTES {
            return wrong("the export's name is too long");
        }
        let address = match scheme {
            "nbd" | "nbd+tcp" => match query {
                None => tcp(authority).ok_or_else(|| usage(text, "host or port cannot be understood"))?,
                Some(_) => return wrong("it has parameters that mean nothing here"),
            },
            "nbd+unix" => match query.and_then(|query| query.strip_prefix("socket=")).map(decode) {
                Some(Some(path)) if authority.is_empty() && !path.is_empty() && !path.contains(&b'&') => {
                    Address::Unix(PathBuf::from(OsString::from_vec(path)))
                }
                _ => return wrong("it must end in ?socket=PATH and name no host"),
            },
            "nbds" | "nbds+tcp" | "nbds+unix" => return wrong("TLS is not supported"),
            _ => return wrong("the schemes are nbd and nbd+unix"),
        };
        Ok(Self { address, export })
    }
}

fn usage(text: &str, why: &str) -> Error {
    let what = format!("'{}' is not the URI of an NBD export: {why}", printable(text.as_bytes()));
    Error::new(ErrorKind::Usage, what).advise("use nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")
}

fn tcp(authority: &str) -> Option<Address> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').map(|(host, rest)| (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))))?
        }
        None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
    };
    let named = authority.ends_with(':') || host.is_empty() || host.contains(['@', '%']);
    let port = match port? {
        "" => PORT,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().filter(|port| *port > 0)?,
        _ => return None,
    };
    (!named).then(|| Address::Tcp(host.to_owned(), port))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_that_mean_an_export() {
        let tcp =
            |host: &str, port, export: &str| NbdUri { address: Address::Tcp(host.into(), port), export: export.into() };
        let unix = |path: &str, export: &str| NbdUri { address: Address::Unix(path.into()), export: export.into() };
        for (text, expected) in [
            ("nbd://kvm1", tcp("kvm1", 10809, "")),
            ("nbd://kvm1/", tcp("kvm1", 10809, "")),
            ("nbd://kvm1:99/vm/sda", tcp("kvm1", 99, "vm/sda")),
            ("nbd+tcp://[::1]:1/a%20b", tcp("::1", 1, "a b")),
            ("nbd://[fe80::1]/x", tcp("fe80::1", 10809, "x")),
            ("nbd+unix:///sda?socket=/run/a%3fb", unix("/run/a?b", "sda")),
            ("nbd+unix://?socket=s", unix("s", "")),
        ] {
            assert_eq!(NbdUri::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn and_that_do_not() {
        for text in [
            "",
            "sda",
            "nbd:kvm1",
            "nbd:///x",
            "nbd://kvm1:/x",
            "nbd://kvm1:0/x",
            "nbd://kvm1:65536",
            "nbd://kvm1:+1",
            "nbd://a@b/x",
            "nbd://kvm1/%4",
            "nbd://kvm1/%zz",
            "nbd://kvm1/x?socket=/s",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=/s",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?socket=/s&tls=1",
            "nbds://kvm1/x",
            "http://kvm1/x",
            "nbd://[::1/x",
            "nbd://[::1]x/x",
        ] {
            assert_eq!(NbdUri::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        assert!(NbdUri::parse(&format!("nbd://h/{}", "x".repeat(4097))).is_err());
    }
}
