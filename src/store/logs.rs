//! A look at the database's logs before RocksDB follows them.
//!
//! RocksDB's reader for running logs (`FragmentBufferedReader`, in 10.x) never comes back from a record whose type says that
//! its log was recycled under another number: it neither takes the record nor passes over it. We never recycle logs, so
//! such a type is a flipped bit. Whoever opens or follows the database to read it looks at the records' headers first.

use super::index::REBUILD;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind as Io, Read};
use std::path::Path;

/// A log is a row of blocks; no record crosses from one into the next.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length as u16, type.
const HEADER_BYTES: usize = 7;

/// Whether RocksDB writes records of this type into a log that it does not recycle: parts of a record, the kind of
/// compression, the size of timestamps, the log before this one.
const fn is_ours(kind: u8) -> bool {
    matches!(kind, 0..=4 | 9 | 10 | 130)
}

/// Refuses logs and manifests with a record that no program of ours has written.
///
/// # Errors
/// `Damaged` with the file and the byte; when a file cannot be read.
pub(super) fn refuse_unreadable(db: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("reading {}", db.display()), e);
    for entry in std::fs::read_dir(db).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST-") {
            continue;
        }
        let strange = match File::open(&path).and_then(strange_record) {
            // A writer beside us removes what it no longer needs.
            Err(e) if e.kind() == Io::NotFound => continue,
            other => other.map_err(failed)?,
        };
        if let Some((at, kind)) = strange {
            let what = format!("the index is damaged: {}, byte {at}, holds a record of type {kind}", path.display());
            return Err(Error::damaged(what).advise(REBUILD));
        }
    }
    Ok(())
}

/// Where the first record stands whose type is not one of ours, and its type.
fn strange_record(mut file: impl Read) -> std::io::Result<Option<(u64, u8)>> {
    let mut start = 0;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut rest = &block[..];
        while let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) {
            let (len, kind) = (usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]);
            if !is_ours(kind) {
                return Ok(Some((start + (block.len() - rest.len()) as u64, kind)));
            }
            // Zeros are room that nothing was written to yet; what is longer than its block is being written, or damaged
            // in a way that RocksDB knows.
            if kind == 0 || len > behind.len() {
                break;
            }
            rest = &behind[len..];
        }
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
        start += BLOCK_BYTES as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, len: usize) -> Vec<u8> {
        [&[1, 2, 3, 4], &(len as u16).to_le_bytes()[..], &[kind], &vec![7; len]].concat()
    }

    #[test]
    fn a_recycled_record_is_found_wherever_it_is() {
        let sound = [record(1, 100), record(2, BLOCK_BYTES - 2 * HEADER_BYTES - 100), record(4, 30)].concat();
        assert_eq!(strange_record(&sound[..]).unwrap(), None);
        for kind in [5, 6, 7, 8, 11, 131, 255] {
            let strange = [sound.clone(), record(kind, 10), record(1, 1)].concat();
            assert_eq!(strange_record(&strange[..]).unwrap(), Some((sound.len() as u64, kind)));
        }
    }

    #[test]
    fn what_is_not_written_yet_is_no_damage() {
        let whole = [record(1, 100), record(1, 50)].concat();
        for len in 0..whole.len() {
            assert_eq!(strange_record(&whole[..len]).unwrap(), None);
        }
        let room = [whole, vec![0; 100_000], record(5, 1)].concat();
        assert_eq!(strange_record(&room[..150_000.min(room.len() - 10)]).unwrap(), None);
    }
}
