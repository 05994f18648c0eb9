//! Ending a mount from outside, as root or through `fusermount3`.

use crate::os;
use crate::{Error, ErrorKind, Result};
use std::io;
use std::path::Path;
use std::process::Command;

/// Unmounts `path`. `lazy`: takes it out of the directory tree now and ends it when its last file is closed.
///
/// # Errors
/// `Usage` when nothing is mounted there, `Locked` when files in it are in use.
pub fn umount(path: &Path, lazy: bool) -> Result<()> {
    match os::mount::umount(path, lazy) {
        Ok(()) => Ok(()),
        // Not root: the setuid helper may do for its own mounts what we may not.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => by_helper(path, lazy),
        Err(error) => Err(explain(path, error)),
    }
}

fn by_helper(path: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let output = command
        .output()
        .map_err(|e| Error::io("starting fusermount3", e).advise("install the package fuse3, or run as root"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let number = if words.contains("busy") { libc::EBUSY } else { libc::EINVAL };
    Err(explain(path, io::Error::from_raw_os_error(number)))
}

fn explain(path: &Path, error: io::Error) -> Error {
    let shown = path.display();
    match error.raw_os_error() {
        Some(libc::EBUSY) => Error::new(ErrorKind::Locked, format!("{shown} is in use")).advise(format!(
            "'fuser -vm {shown}' shows who uses it; 'relict umount -l {shown}' ends it when they are done"
        )),
        Some(libc::EINVAL | libc::ENOENT) => Error::new(ErrorKind::Usage, format!("nothing is mounted at {shown}"))
            .advise("'findmnt -t fuse.relict,fuse' lists what is mounted"),
        _ => Error::io(format!("unmounting {shown}"), error),
    }
}
