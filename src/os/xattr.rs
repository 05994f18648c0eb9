//! Extended attributes. POSIX ACLs (`system.posix_acl_access`, `system.posix_acl_default`) and file
//! capabilities (`security.capability`) are among them, so ingest and restore need no code for those.
//!
//! What can be opened is asked by descriptor. Symbolic links, pipes, sockets and devices cannot be, so
//! they are reached as an entry of a directory handle, through `/proc/self/fd`, and never followed.
#![expect(unsafe_code, reason = "the xattr calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::dir::Dir;
use super::sys::{CName, check, check_len, errno, is_errno};

/// Room for the names at the first try: one call is enough for nearly all items.
const LIST_BYTES: usize = 1024;

/// Room for a value at the first try; ACLs, capabilities and labels are far below.
const VALUE_BYTES: usize = 1024;

/// How often a list or value that grows while it is read is asked for again.
const TRIES: usize = 16;

/// Names and values, ascending by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Whose attributes.
enum Item {
    Open(i32),
    Named(CString),
}

/// All attributes of an open file or directory. Names that we may not read (`trusted.*` when not
/// root) are not listed by the kernel. Empty where the file system has no attributes.
///
/// # Errors
/// As flistxattr(2) and fgetxattr(2). An attribute removed in between is left out.
pub fn read_all(file: &impl AsFd) -> io::Result<Xattrs> {
    Item::Open(file.as_fd().as_raw_fd()).read_all()
}

/// As [`read_all`], for any entry of a directory, also one that cannot be opened.
///
/// # Errors
/// As llistxattr(2) and lgetxattr(2); ENOENT also when `/proc` is not mounted.
pub fn read_all_at(dir: &Dir, name: &[u8]) -> io::Result<Xattrs> {
    Item::named(dir, name)?.read_all()
}

/// Names of the attributes of an open file, ascending.
///
/// # Errors
/// As flistxattr(2).
pub fn list_fd(file: &impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    Item::Open(file.as_fd().as_raw_fd()).list()
}

/// Names of the attributes of a directory's entry, ascending.
///
/// # Errors
/// As llistxattr(2).
pub fn list_at(dir: &Dir, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Item::named(dir, name)?.list()
}

/// One attribute of an open file, or `None` if it has no such attribute.
///
/// # Errors
/// As fgetxattr(2).
pub fn get_fd(file: &impl AsFd, attribute: &[u8]) -> io::Result<Option<Vec<u8>>> {
    Item::Open(file.as_fd().as_raw_fd()).get(attribute)
}

/// One attribute of a directory's entry, or `None` if it has no such attribute.
///
/// # Errors
/// As lgetxattr(2).
pub fn get_at(dir: &Dir, name: &[u8], attribute: &[u8]) -> io::Result<Option<Vec<u8>>> {
    Item::named(dir, name)?.get(attribute)
}

/// Sets an attribute of an open file, new or not.
///
/// # Errors
/// As fsetxattr(2).
pub fn set_xattr_fd(file: &impl AsFd, attribute: &[u8], value: &[u8]) -> io::Result<()> {
    Item::Open(file.as_fd().as_raw_fd()).set(attribute, value)
}

/// Sets an attribute of a directory's entry, of a symbolic link its own.
///
/// # Errors
/// As lsetxattr(2): EPERM for `user.*` on anything but files and directories.
pub fn set_xattr_at(dir: &Dir, name: &[u8], attribute: &[u8], value: &[u8]) -> io::Result<()> {
    Item::named(dir, name)?.set(attribute, value)
}

/// Removes an attribute of an open file.
///
/// # Errors
/// As fremovexattr(2): ENODATA if it has no such attribute.
pub fn remove_xattr_fd(file: &impl AsFd, attribute: &[u8]) -> io::Result<()> {
    Item::Open(file.as_fd().as_raw_fd()).remove(attribute)
}

/// Removes an attribute of a directory's entry, of a symbolic link its own.
///
/// # Errors
/// As lremovexattr(2): ENODATA if it has no such attribute.
pub fn remove_xattr_at(dir: &Dir, name: &[u8], attribute: &[u8]) -> io::Result<()> {
    Item::named(dir, name)?.remove(attribute)
}

impl Item {
    fn named(dir: &Dir, name: &[u8]) -> io::Result<Self> {
        // For the check alone: a path would be followed where a name is not.
        CName::entry(name)?;
        let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        CString::new(path).map(Self::Named).map_err(|_| errno(libc::EINVAL))
    }

    fn read_all(&self) -> io::Result<Xattrs> {
        let mut found = Xattrs::new();
        for name in self.list()? {
            if let Some(value) = self.get(&name)? {
                found.push((name, value));
            }
        }
        Ok(found)
    }

    fn list(&self) -> io::Result<Vec<Vec<u8>>> {
        let listed = match growing(LIST_BYTES, |buffer, room| self.list_into(buffer, room)) {
            Err(e) if is_errno(&e, &[libc::EOPNOTSUPP, libc::ENOSYS]) => return Ok(Vec::new()),
            other => other?,
        };
        let mut names: Vec<_> = listed.split(|b| *b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn get(&self, attribute: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let attribute = CName::any(attribute)?;
        match growing(VALUE_BYTES, |buffer, room| self.get_into(&attribute, buffer, room)) {
            Ok(value) => Ok(Some(value)),
            // Gone since it was listed, or listed by a server that then does not know it.
            Err(e) if is_errno(&e, &[libc::ENODATA, libc::EOPNOTSUPP]) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `buffer` must have `room` bytes; room 0 asks for the size only.
    fn list_into(&self, buffer: *mut u8, room: usize) -> io::Result<usize> {
        check_len(match self {
            // SAFETY: the caller gives a buffer with `room` bytes; the path is NUL-terminated.
            Self::Open(fd) => unsafe { libc::flistxattr(*fd, buffer.cast(), room) },
            // SAFETY: as above.
            Self::Named(path) => unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), room) },
        })
    }

    /// `buffer` must have `room` bytes; room 0 asks for the size only.
    fn get_into(&self, attribute: &CName, buffer: *mut u8, room: usize) -> io::Result<usize> {
        let name = attribute.as_ptr();
        check_len(match self {
            // SAFETY: the caller gives a buffer with `room` bytes; name and path are NUL-terminated.
            Self::Open(fd) => unsafe { libc::fgetxattr(*fd, name, buffer.cast(), room) },
            // SAFETY: as above.
            Self::Named(path) => unsafe { libc::lgetxattr(path.as_ptr(), name, buffer.cast(), room) },
        })
    }

    fn set(&self, attribute: &[u8], value: &[u8]) -> io::Result<()> {
        let name = CName::any(attribute)?;
        let (at, len) = (value.as_ptr().cast(), value.len());
        check(match self {
            // SAFETY: `at` has `len` bytes; name and path are NUL-terminated.
            Self::Open(fd) => unsafe { libc::fsetxattr(*fd, name.as_ptr(), at, len, 0) },
            // SAFETY: as above.
            Self::Named(path) => unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), at, len, 0) },
        })
        .map(drop)
    }

    fn remove(&self, attribute: &[u8]) -> io::Result<()> {
        let name = CName::any(attribute)?;
        check(match self {
            // SAFETY: name and path are NUL-terminated.
            Self::Open(fd) => unsafe { libc::fremovexattr(*fd, name.as_ptr()) },
            // SAFETY: as above.
            Self::Named(path) => unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) },
        })
        .map(drop)
    }
}

/// Runs a call that fills a buffer, with more room until it fits: others may add to it meanwhile.
fn growing(first_room: usize, mut call: impl FnMut(*mut u8, usize) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::<u8>::with_capacity(first_room);
    for _ in 0..TRIES {
        match call(buffer.as_mut_ptr(), buffer.capacity()) {
            Ok(got) => {
                assert!(got <= buffer.capacity());
                // SAFETY: the kernel has written this many bytes, within the capacity.
                unsafe { buffer.set_len(got) };
                return Ok(buffer);
            }
            Err(e) if is_errno(&e, &[libc::ERANGE]) => {}
            Err(e) => return Err(e),
        }
        let needed = call(std::ptr::null_mut(), 0)?;
        buffer.reserve_exact(needed.max(buffer.capacity()) + 64);
    }
    Err(errno(libc::ERANGE))
}
