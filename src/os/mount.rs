//! Ending a mount.
#![expect(unsafe_code, reason = "system calls")]

use super::sys::{check, errno};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Unmounts what is mounted at `path`; a symbolic link there is not followed. `lazy` takes it out of the
/// directory tree at once and ends it when the last file in it is closed.
///
/// # Errors
/// As umount2(2): EBUSY, EINVAL when nothing is mounted there, EPERM without the privilege.
pub fn umount(path: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| errno(libc::EINVAL))?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), flags) }).map(|_| ())
}
