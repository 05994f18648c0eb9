//! A reader's private directory, where RocksDB keeps notes of its own. It goes with the reader; what a killed reader left
//! goes with the next one.

use crate::error::{Error, Result};
use crate::os;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const PREFIX: &str = "relict-reader-";
/// A directory that is younger may belong to somebody who has not locked it yet.
const GRACE: Duration = Duration::from_mins(1);

/// Removed when it is dropped.
pub(super) struct Scratch {
    path: PathBuf,
    /// Locked as long as the process lives, however it ends.
    _held: File,
}

impl Scratch {
    /// A new one in the system's temporary directory.
    ///
    /// # Errors
    /// When it cannot be made there.
    pub(super) fn make() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let name: [u8; 8] = super::keys::random()?;
        let path = parent.join(format!("{PREFIX}{:016x}", u64::from_le_bytes(name)));
        let failed = |e| Error::io(format!("making the temporary directory {}", path.display()), e);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let held = File::open(&path).map_err(failed)?;
        // Where nothing can be locked, it is never taken for left over either.
        let _ = held.try_lock();
        Ok(Self { path, _held: held })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes what readers of ours left there that were killed. Best effort: it is only litter.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) && is_left_over(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_left_over(path: &Path) -> bool {
    let Ok(meta) = path.symlink_metadata() else { return false };
    let old = meta.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > GRACE));
    old && meta.is_dir() && meta.uid() == os::geteuid() && File::open(path).is_ok_and(|dir| dir.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_readers_left_goes_and_what_is_held_stays() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("LOG"), b"notes").unwrap();
            let dir = File::open(&path).unwrap();
            dir.set_modified(SystemTime::now() - age).unwrap();
            (path, dir)
        };
        let (left, _) = make("relict-reader-1", GRACE * 2);
        let (held, lock) = make("relict-reader-2", GRACE * 2);
        lock.lock().unwrap();
        let (young, _) = make("relict-reader-3", GRACE / 2);
        let (foreign, _) = make("somebody-else", GRACE * 2);
        std::os::unix::fs::symlink(&foreign, parent.path().join("relict-reader-4")).unwrap();
        sweep(parent.path());
        assert_eq!([&left, &held, &young, &foreign].map(|path| path.exists()), [false, true, true, true]);
        assert!(foreign.join("LOG").exists());
        drop(lock);
        sweep(parent.path());
        assert!(!held.exists());
    }
}
