//! What all of `os` shares: return values to errors, names to C strings, and who we are.
#![expect(unsafe_code, reason = "system calls without arguments")]

use std::ffi::{CString, c_char};
use std::io;

/// Longest name kept on the stack; longer ones (some FUSE file systems have them) go to the heap.
const STACK_NAME_BYTES: usize = 255;

/// A NUL-terminated string for one system call, without an allocation for ordinary names.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one and lives on the stack")]
pub(super) enum CName {
    Stack([u8; STACK_NAME_BYTES + 1]),
    Heap(CString),
}

impl CName {
    /// One directory entry's name. What would leave the directory (`..`, a `/`) is refused with
    /// EINVAL: names come from repositories and streams, and restore must not be led astray by them.
    pub(super) fn entry(name: &[u8]) -> io::Result<Self> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(errno(libc::EINVAL));
        }
        Self::any(name)
    }

    /// Any string without a NUL byte.
    pub(super) fn any(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() > STACK_NAME_BYTES {
            return CString::new(bytes).map(Self::Heap).map_err(|_| errno(libc::EINVAL));
        }
        if bytes.contains(&0) {
            return Err(errno(libc::EINVAL));
        }
        let mut buffer = [0; STACK_NAME_BYTES + 1];
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(Self::Stack(buffer))
    }

    /// Valid as long as `self` lives and does not move.
    pub(super) fn as_ptr(&self) -> *const c_char {
        match self {
            Self::Stack(buffer) => buffer.as_ptr().cast(),
            Self::Heap(string) => string.as_ptr(),
        }
    }
}

/// Ends the process without any cleaning up.
pub fn exit_at_once(code: u8) -> ! {
    // SAFETY: it takes a number and does not come back.
    unsafe { libc::_exit(i32::from(code)) }
}

/// An error from its number.
pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Whether an error is one of these errno values.
pub(super) fn is_errno(error: &io::Error, numbers: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// The result of a system call that gives -1 on error; EINTR is the caller's to repeat.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that give a length or an offset.
pub(super) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The effective user id; 0 may do what others may not (devices, owners, `trusted.*`).
#[must_use]
pub fn geteuid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective group id.
#[must_use]
pub fn getegid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getegid() }
}

/// Sets the process's file mode creation mask and gives the old one.
///
/// Restore sets it to 0o077, so that nothing is readable by others before its owner and mode are set.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: a plain number, cannot fail.
    unsafe { libc::umask(mask) }
}
