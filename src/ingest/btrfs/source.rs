//! Content that a `--no-data` stream only points at, read from the snapshot that it was made of.

use crate::ingest::stream::ReadSource;
use crate::os::{self, Dir};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// What is known of a subvolume of btrfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// What streams call it: its uuid, or that of the snapshot it was received from.
    pub uuid: [u8; 16],
    /// Whether it is read-only. What can be written to may have changed since it was called so.
    pub read_only: bool,
}

/// A snapshot's directory. Paths are opened name by name and never through a symbolic link.
#[derive(Debug)]
pub struct SnapshotDir {
    root: Dir,
    /// For messages.
    shown: String,
    /// Which snapshot it is, where that is known.
    id: Option<SnapshotId>,
    /// The file that was read last.
    open: Option<(Vec<u8>, File)>,
}

impl SnapshotDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let root = Dir::open_root(path).map_err(|e| Error::io(format!("opening the snapshot {shown}"), e))?;
        Ok(Self { root, shown, id: None, open: None })
    }

    /// The same, known to be this snapshot.
    #[must_use]
    pub fn with_id(self, id: Option<SnapshotId>) -> Self {
        Self { id, ..self }
    }

    fn file(&mut self, path: &[u8]) -> Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            let file = self.open_file(path)?;
            self.open = Some((path.to_vec(), file));
        }
        match &self.open {
            Some((_, file)) => Ok(file),
            None => Err(self.failed(path, std::io::Error::other("it is not open"))),
        }
    }

    fn open_file(&self, path: &[u8]) -> Result<File> {
        let failed = |error| self.failed(path, error);
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let last = names.pop().unwrap_or_default();
        let file = self.root.open_beneath(&names).and_then(|dir| dir.open_file(last)).map_err(failed)?;
        let stat = os::stat_file(&file).map_err(failed)?;
        if stat.mode & libc::S_IFMT == libc::S_IFREG {
            return Ok(file);
        }
        Err(Error::new(
            ErrorKind::BadInput,
            format!("{}/{} is not a regular file there", self.shown, String::from_utf8_lossy(path)),
        ))
    }

    fn failed(&self, path: &[u8], error: std::io::Error) -> Error {
        let what = format!("reading {}/{}", self.shown, String::from_utf8_lossy(path));
        Error::io(what, error)
            .advise("name the snapshot that the stream was made of, not another one; nothing of this state was kept")
    }
}

impl ReadSource for SnapshotDir {
    fn is_state(&self, id: &[u8]) -> Option<bool> {
        match self.id {
            Some(own) if own.uuid != id => Some(false),
            own => own.filter(|own| own.read_only).map(|_| true),
        }
    }

    fn has(&mut self, path: &[u8], ino: u64, bytes: u64) -> bool {
        let stat = self.file(path).ok().and_then(|file| os::stat_file(file).ok());
        stat.is_some_and(|stat| stat.ino == ino && stat.size >= bytes)
    }

    fn read_at(&mut self, path: &[u8], offset: u64, out: &mut [u8]) -> Result<usize> {
        let read = os::pread_exact_or_short(self.file(path)?, out, offset);
        read.map_err(|e| self.failed(path, e))
    }

    fn next_data(&mut self, path: &[u8], within: Range<u64>) -> Result<Option<Range<u64>>> {
        let next = os::data_ranges_from(self.file(path)?, within.start, within.end).next().transpose();
        let next = next.map_err(|e| self.failed(path, e))?;
        Ok(next.map(|(start, bytes)| start..start + bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn it_reads_files_of_the_snapshot_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let file = File::create(dir.path().join("d/f")).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("d/passwd")).unwrap();
        let mut source = SnapshotDir::open(dir.path()).unwrap();
        let mut out = [1; 8];
        assert_eq!(source.read_at(b"d/f", (1 << 20) + 2, &mut out).unwrap(), 8);
        assert_eq!(out, *b"ta\0\0\0\0\0\0");
        assert_eq!(source.read_at(b"d/f", (4 << 20) - 3, &mut out).unwrap(), 3);
        let data = source.next_data(b"d/f", 5..4 << 20).unwrap().unwrap();
        assert!(data.contains(&(1 << 20)) && data.start >= 5 && data.end <= 4 << 20, "{data:?}");
        assert_eq!(source.next_data(b"d/f", 2 << 20..4 << 20).unwrap(), None);
        let ino = std::os::unix::fs::MetadataExt::ino(&dir.path().join("d/f").metadata().unwrap());
        assert!(source.has(b"d/f", ino, 4 << 20) && !source.has(b"d/f", ino, (4 << 20) + 1));
        assert!(!source.has(b"d/f", ino + 1, 0) && !source.has(b"link/f", ino, 0));
        assert_eq!((source.is_state(&[1; 16]), source.is_state(&[])), (None, None));
        for (read_only, is_state) in [(true, Some(true)), (false, None)] {
            source = source.with_id(Some(SnapshotId { uuid: [1; 16], read_only }));
            assert_eq!((source.is_state(&[1; 16]), source.is_state(&[2; 16])), (is_state, Some(false)));
        }
        for path in [&b"link/f"[..], b"d/passwd", b"d", b"none", b"../x", b"d/../d/f", b"", b"/etc/passwd"] {
            assert!(source.read_at(path, 0, &mut out).is_err(), "{}", String::from_utf8_lossy(path));
        }
        assert!(SnapshotDir::open(&dir.path().join("none")).is_err());
    }
}
