//! Room set aside for maintenance: removing what is not needed writes a little first, also when the disk is full.
//!
//! `reserve` in the repository's directory is a file of preallocated, never written blocks. Maintenance removes it when it
//! begins and makes it again when it ends; nothing else touches it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes set aside: opening the database and a few batches take less than a quarter, unless a log of a large backup has to
/// be read first.
pub const RESERVE_BYTES: u64 = 4 << 20;
const NAME: &str = "reserve";

/// Gives the reserve back to the file system. True when there was one.
pub fn spend(repository: &Path) -> bool {
    let spent = std::fs::remove_file(repository.join(NAME)).is_ok();
    if spent {
        // ext4 hands blocks out again only when the removal itself is on the disk.
        let _ = super::files::sync_dir(repository);
    }
    spent
}

/// Sets room aside, as much as there is up to [`RESERVE_BYTES`]. A file system that cannot is left as it is.
/// What fails here is made up for by the next call.
pub fn refill(repository: &Path) {
    let path = repository.join(NAME);
    if path.exists() {
        return;
    }
    let open = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let Ok(file) = open else { return };
    let mut bytes = RESERVE_BYTES;
    while bytes >= 1 << 20 {
        match crate::os::allocate(&file, bytes) {
            Ok(()) => return,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => bytes /= 2,
            Err(_) => break,
        }
    }
    drop(file);
    let _ = std::fs::remove_file(&path);
}
