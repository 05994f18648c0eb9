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

/// Whether a log holds a record that is not whole: what a crash left of the last one, or rot. RocksDB's writer takes it for
/// the log's end, its readers that follow a writer refuse the log.
///
/// # Errors
/// When a log cannot be read.
pub(super) fn is_broken(db: &Path) -> Result<bool> {
    let failed = |e| Error::io(format!("reading {}", db.display()), e);
    let entries = match std::fs::read_dir(db) {
        // Opening it says that it is lost, and what helps.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "log") && !is_whole(&std::fs::read(&path).map_err(failed)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_whole(log: &[u8]) -> bool {
    log.chunks(BLOCK_BYTES).all(|block| {
        let mut rest = block;
        while let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) {
            let (len, kind) = (usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]);
            let sum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            if kind == 0 && len == 0 && sum == 0 {
                return behind.iter().all(|byte| *byte == 0);
            }
            let Some(payload) = behind.get(..len) else { return false };
            if sum != masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)) {
                return false;
            }
            rest = &behind[len..];
        }
        // The end of a block that no header fits into is filled with zeros.
        block.len() < BLOCK_BYTES && rest.is_empty() || block.len() == BLOCK_BYTES && rest.iter().all(|byte| *byte == 0)
    })
}

/// As RocksDB writes checksums down, so that the checksum of what holds checksums is no special one.
const fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
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
    fn a_log_of_rocksdb_is_whole_until_a_bit_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        (0..200_u32).for_each(|n| db.put(n.to_le_bytes(), vec![n as u8; n as usize * 7]).unwrap());
        db.flush_wal(true).unwrap();
        let logs = || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = logs().find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
        let log = std::fs::read(&path).unwrap();
        assert!(log.len() > 3 * BLOCK_BYTES && is_whole(&log) && !is_broken(dir.path()).unwrap());
        for at in (0..log.len()).step_by(61) {
            let mut broken = log.clone();
            broken[at] ^= 1 << (at % 8);
            assert!(!is_whole(&broken), "byte {at}");
        }
        std::fs::write(&path, &log[..log.len() - 1]).unwrap();
        assert!(is_broken(dir.path()).unwrap());
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
