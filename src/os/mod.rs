//! stub
#![expect(unsafe_code, reason = "system calls")]
use std::os::fd::AsRawFd;
/// Frees a byte range of a file; its length stays.
///
/// # Errors
/// As fallocate(2).
pub fn punch_hole(file: &std::fs::File, offset: u64, bytes: u64) -> std::io::Result<()> {
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a plain system call on an open descriptor.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), flags, offset.cast_signed(), bytes.cast_signed()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
