//! Paths of a stream: plain ones only, whatever the stream says.

use crate::catalog::points::printable;
use crate::{Error, ErrorKind, Result};
use repo_format::MAX_NAME_BYTES;

/// The names of a path, from the root down. None for the root itself.
///
/// # Errors
/// `BadInput` for a path that is absolute or ends in a slash, has an empty part, `.`, `..`, a NUL, or a name of more
/// than 255 bytes.
pub(super) fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let wrong = |why: &str| Err(refused(path, why));
    if path.first() == Some(&b'/') {
        return wrong("is an absolute path");
    }
    for name in &names {
        match *name {
            b"" => return wrong("has an empty part"),
            b"." | b".." => return wrong("has a part that is . or .."),
            name if name.contains(&0) => return wrong("has a NUL byte in it"),
            name if name.len() > MAX_NAME_BYTES => return wrong("has a name of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(names)
}

/// The directory of a path and its last name.
///
/// # Errors
/// As [`names`], and for the root.
pub(super) fn split(path: &[u8]) -> Result<(Vec<&[u8]>, &[u8])> {
    let mut names = names(path)?;
    match names.pop() {
        Some(last) => Ok((names, last)),
        None => Err(refused(path, "is the root, which has no name")),
    }
}

/// A change that must not be, because of `path`.
pub(super) fn refused(path: &[u8], why: &str) -> Error {
    let name = if path.is_empty() { "the root".to_owned() } else { format!("'{}'", printable(path)) };
    Error::new(ErrorKind::BadInput, format!("{name} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_taken() {
        assert_eq!(names(b"").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(names(b"a").unwrap(), [b"a"]);
        assert_eq!(names(b"a/..b/...").unwrap(), [&b"a"[..], b"..b", b"..."]);
        assert!(names(&[b'x'; 255]).is_ok());
        for bad in [&b"/"[..], b"/a", b"a/", b"a//b", b".", b"..", b"a/./b", b"a/..", b"a\0b", b"\0", &[b'x'; 256]] {
            let error = names(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadInput, "{bad:?}");
        }
        assert_eq!(split(b"a/b/c").unwrap(), (vec![&b"a"[..], b"b"], &b"c"[..]));
        assert!(split(b"").is_err());
    }
}
