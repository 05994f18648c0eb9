//! A look at the database's logs before RocksDB follows them.
//!
//! RocksDB's reader for running logs (`FragmentBufferedReader`, in 10.x) never comes back from a record whose type says that
//! its log was recycled under another number: it neither takes the record nor passes over it. We never recycle logs, so
//! such a type is a flipped bit. Whoever opens or follows the database to read it looks at the records' headers first.

use super::index::REBUILD;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind as Io, Read};
use std::path::{Path, PathBuf};

/// A log is a row of blocks; no record crosses from one into the next.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length as u16, type.
const HEADER_BYTES: usize = 7;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Of the records that RocksDB writes of a flush, the second says in this many bytes at most which logs are still needed.
const SECOND_RECORD_BYTES: usize = 64;

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
        let found = match File::open(&path).and_then(strange_record) {
            // A writer beside us removes what it no longer needs.
            Err(e) if e.kind() == Io::NotFound => continue,
            other => other.map_err(failed)?,
        };
        if let Some((at, kind)) = found {
            return Err(strange(&path, at, kind));
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
    Ok(!broken_logs(db)?.is_empty())
}

/// Refuses a log whose first record that is not whole has a type that no program of ours writes. What a crash tears has the
/// type that it was written with, or none; RocksDB never comes back from the others, here neither.
///
/// # Errors
/// `Damaged` with the file and the byte; when a log cannot be read.
pub(super) fn refuse_recycled(db: &Path) -> Result<()> {
    match broken_logs(db)?.into_iter().find(|(.., kind)| !is_ours(*kind)) {
        Some((path, at, kind)) => Err(strange(&path, at, kind)),
        None => Ok(()),
    }
}

/// Logs with a record that is not whole: the file, where the first such record begins, and its type; 0 where it ends before that.
fn broken_logs(db: &Path) -> Result<Vec<(PathBuf, u64, u8)>> {
    let failed = |e| Error::io(format!("reading {}", db.display()), e);
    let entries = match std::fs::read_dir(db) {
        // Opening it says that it is lost, and what helps.
        Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|end| end != "log") {
            continue;
        }
        let log = match std::fs::read(&path) {
            // A writer beside us removes what it no longer needs.
            Err(e) if e.kind() == Io::NotFound => continue,
            other => other.map_err(failed)?,
        };
        if let Some(at) = broken_at(&log) {
            out.push((path, at as u64, log.get(at + HEADER_BYTES - 1).copied().unwrap_or(0)));
        }
    }
    Ok(out)
}

fn strange(path: &Path, at: u64, kind: u8) -> Error {
    let what = format!("the index is damaged: {}, byte {at}, holds a record of type {kind}", path.display());
    Error::damaged(what).advise(REBUILD)
}

/// Whether a log or the manifest is as a crash leaves it.
pub(super) fn is_torn(db: &Path) -> bool {
    is_broken(db).unwrap_or(false) || torn_manifest(db).is_ok_and(|torn| torn.is_some())
}

/// Where the first record stands that is not whole.
fn broken_at(log: &[u8]) -> Option<usize> {
    for (number, block) in log.chunks(BLOCK_BYTES).enumerate() {
        let mut rest = block;
        while rest.len() >= HEADER_BYTES && rest.iter().any(|byte| *byte != 0) {
            let Some(bytes) = whole_record(rest) else { break };
            rest = rest.get(bytes..).unwrap_or_default();
        }
        // The end of a block that no header fits into is filled with zeros, and so is room that nothing was written to.
        let is_room = rest.len() >= HEADER_BYTES || block.len() == BLOCK_BYTES;
        if !(rest.is_empty() || is_room && rest.iter().all(|byte| *byte == 0)) {
            return Some(number * BLOCK_BYTES + block.len() - rest.len());
        }
    }
    None
}

/// Bytes of the record at the front of what is left of a block, if its checksum is right.
fn whole_record(rest: &[u8]) -> Option<usize> {
    let (header, behind) = rest.split_at_checked(HEADER_BYTES)?;
    let payload = behind.get(..usize::from(u16::from_le_bytes([header[4], header[5]])))?;
    let sum = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let is_whole = sum == masked(crc32c::crc32c_append(crc32c::crc32c(&[header[6]]), payload));
    is_whole.then_some(HEADER_BYTES + payload.len())
}

/// Where the database's manifest breaks off, if power was lost while its last records were written: its file, and the bytes
/// before them. RocksDB calls that damage.
///
/// What the lost records say was not durable, so nothing that it replaces was removed. A last record that rotted later looks the
/// same, but for that: of a flush, the logs that it emptied are gone. So there must be more logs older than the newest file of
/// the database than the one that was begun for the flush.
///
/// # Errors
/// When the database's directory cannot be read.
fn torn_manifest(db: &Path) -> Result<Option<(PathBuf, u64)>> {
    let failed = |e| Error::io(format!("reading {}", db.display()), e);
    let Ok(current) = std::fs::read_to_string(db.join("CURRENT")) else { return Ok(None) };
    let name = current.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Ok(None);
    }
    let path = db.join(name);
    let Ok(manifest) = std::fs::read(&path) else { return Ok(None) };
    let Some(at) = broken_at(&manifest).filter(|at| *at > 0 && breaks_off(&manifest, *at)) else { return Ok(None) };
    let (mut logs, mut newest) = (Vec::new(), 0);
    for entry in std::fs::read_dir(db).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        match (path.extension().and_then(|end| end.to_str()), number) {
            (Some("log"), Some(number)) => logs.push(number),
            (Some("sst" | "blob"), Some(number)) => newest = newest.max(number),
            _ => {}
        }
    }
    let kept = logs.into_iter().filter(|log| *log < newest).count() > 1;
    Ok(kept.then_some((path, at as u64)))
}

/// Cuts the manifest where it breaks off. Only who holds the lease may do that.
///
/// # Errors
/// As [`torn_manifest`]; when the manifest cannot be written.
pub(super) fn cut_torn_manifest(db: &Path) -> Result<()> {
    let Some((manifest, end)) = torn_manifest(db)? else { return Ok(()) };
    let cut =
        File::options().write(true).open(&manifest).and_then(|file| file.set_len(end).and_then(|()| file.sync_all()));
    cut.map_err(|e| Error::io(format!("cutting {}", manifest.display()), e))
}

/// Whether what stands from `at` on did not arrive: no record behind it is whole. But RocksDB writes a flush down as two records, and
/// syncs them together: the second, which is short, may have arrived where a sector of the first did not and is zeros.
fn breaks_off(log: &[u8], at: usize) -> bool {
    let is_last = |behind: usize| log.len() - behind <= SECOND_RECORD_BYTES;
    record_behind(log, at).is_none_or(|behind| is_last(behind) && lacks_sector(log, at, behind))
}

/// Whether one of the sectors that these bytes lie in is zeros as far as it is theirs.
fn lacks_sector(log: &[u8], mut at: usize, end: usize) -> bool {
    while at < end {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if next - at > HEADER_BYTES && log[at..next].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = next;
    }
    false
}

/// Where the first record begins behind `at` that is whole.
fn record_behind(log: &[u8], at: usize) -> Option<usize> {
    let begins = |at: &usize| {
        let end = log.len().min((at / BLOCK_BYTES + 1) * BLOCK_BYTES);
        let rest = log.get(*at..end).unwrap_or_default();
        rest.get(4..HEADER_BYTES).is_some_and(|head| head != [0; 3]) && whole_record(rest).is_some()
    };
    (at + 1..log.len()).find(begins)
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
        assert!(log.len() > 3 * BLOCK_BYTES && broken_at(&log).is_none() && !is_broken(dir.path()).unwrap());
        for at in (0..log.len()).step_by(61) {
            let mut broken = log.clone();
            broken[at] ^= 1 << (at % 8);
            assert!(broken_at(&broken).is_some(), "byte {at}");
        }
        std::fs::write(&path, &log[..log.len() - 1]).unwrap();
        assert!(is_broken(dir.path()).unwrap());
    }

    fn numbered(dir: &Path, end: &str) -> Vec<PathBuf> {
        let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|found| found == end)).collect()
    }

    fn record_starts(log: &[u8]) -> Vec<usize> {
        let mut out = vec![0];
        while let Some(bytes) = whole_record(&log[out[out.len() - 1]..]) {
            out.push(out[out.len() - 1] + bytes);
        }
        out.pop();
        out
    }

    #[test]
    fn a_manifest_that_breaks_off_is_told_from_one_that_rots() {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        db.put(b"first", b"1").unwrap();
        db.flush().unwrap();
        db.put(b"second", b"2").unwrap();
        db.flush_wal(true).unwrap();
        for log in numbered(dir.path(), "log") {
            std::fs::copy(&log, kept.path().join(log.file_name().unwrap())).unwrap();
        }
        db.flush().unwrap();
        drop(db);
        let name = std::fs::read_to_string(dir.path().join("CURRENT")).unwrap();
        let manifest = dir.path().join(name.trim_end());
        let whole = std::fs::read(&manifest).unwrap();
        assert_eq!(torn_manifest(dir.path()).unwrap(), None);
        let torn = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&manifest, bytes).unwrap();
            torn_manifest(dir.path()).unwrap()
        };
        let last = whole.len() - 3;
        assert_eq!(torn(last), None, "the log that the flush emptied is gone: this is no crash");
        for log in numbered(kept.path(), "log") {
            std::fs::copy(&log, dir.path().join(log.file_name().unwrap())).unwrap();
        }
        for at in 0..whole.len() / 2 {
            assert_eq!(torn(at), None, "byte {at}: whole records follow");
        }
        // Of two records that are synced together the first has lost a sector.
        let starts = record_starts(&whole);
        let [first, second] = starts[starts.len() - 2..] else { panic!("{starts:?}") };
        let lost = |range: std::ops::Range<usize>| {
            let mut bytes = whole.clone();
            bytes[range].fill(0);
            std::fs::write(&manifest, bytes).unwrap();
            torn_manifest(dir.path()).unwrap()
        };
        assert_eq!(lost(first..second), Some((manifest.clone(), first as u64)));
        assert_eq!(lost(first + 20..first + 40), None, "this is no sector");
        for two in starts.windows(3) {
            assert_eq!(lost(two[0]..two[1]).is_some(), two[1] == second, "more than one record follows");
        }
        let (path, end) = torn(last).unwrap();
        assert_eq!(path, manifest);
        assert!(rocksdb::DB::open_default(dir.path()).is_err());
        assert!(end < whole.len() as u64);
        cut_torn_manifest(dir.path()).unwrap();
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        assert_eq!([db.get(b"first").unwrap().unwrap(), db.get(b"second").unwrap().unwrap()], [b"1", b"2"]);
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
