//! Reading ranges that a stream names without saying what they are (`Change::Changed`).

use crate::Result;
use std::ops::Range;

/// Where content comes from that a stream only points at: a snapshot's directory, a device, an NBD export.
pub trait ReadSource {
    /// Fills `out` with the bytes of `path` from `offset` on, and returns how many came: fewer only at the end of the
    /// content. `path` is relative to the source's root, as in `Change`.
    ///
    /// # Errors
    /// When the source cannot be read. Nothing of the state is made visible then.
    fn read_at(&mut self, path: &[u8], offset: u64, out: &mut [u8]) -> Result<usize>;

    /// Whether this is the state with this id, to its last byte; None where that is not known. What surely is may be read
    /// beyond what the stream points at, where content is damaged in the repository; what surely is not is not read at all.
    fn is_state(&self, id: &[u8]) -> Option<bool> {
        let _ = id;
        None
    }

    /// Whether `path` is the file with this inode number already, with `bytes` of content or more, so that what is asked
    /// for later under its last name may be read now under this one.
    fn has(&mut self, path: &[u8], ino: u64, bytes: u64) -> bool {
        let _ = (path, ino, bytes);
        false
    }

    /// The first range inside `within` that may be anything but zeros; None when all of it is zeros. What lies before
    /// the returned range is taken for zeros without being read.
    ///
    /// # Errors
    /// As [`ReadSource::read_at`].
    fn next_data(&mut self, path: &[u8], within: Range<u64>) -> Result<Option<Range<u64>>> {
        let _ = path;
        Ok(Some(within))
    }
}
