//! Reading a package without the index: what recovery, rebuild and check stand on.

use super::keys::Keys;
use super::package_store::PackageStore;
use super::segment::Segment;
use crate::error::{Error, Result};
use repo_format::{
    FOOTER_ENTRY_BYTES, FOOTER_TRAILER_BYTES, FooterEntry, MAX_PACKAGE_BYTES, MAX_SEGMENT_CHUNKS,
    MAX_SEGMENT_RAW_BYTES, PACKAGE_HEADER_BYTES, PackageFooter, PackageHeader, PackageId, RepoId, SEGMENT_HEADER_BYTES,
    SegmentHeader, TABLE_ENTRY_BYTES,
};
use std::cell::RefCell;

/// The longest segment: header, table and payload, which is not longer than what it expands to.
const MAX_SEGMENT_BYTES: u32 =
    (SEGMENT_HEADER_BYTES + MAX_SEGMENT_CHUNKS * TABLE_ENTRY_BYTES + MAX_SEGMENT_RAW_BYTES) as u32;

/// Zeros are read in pieces of this.
const ZEROS_BYTES: usize = 256 << 10;

/// A thread keeps a read buffer up to this; segments are rarely larger.
const KEPT_READ_BUFFER_BYTES: usize = 1 << 20;

/// A segment found in a package.
#[derive(Debug, Clone)]
pub struct FoundSegment {
    /// Byte offset of its header.
    pub offset: u64,
    /// Its header and table.
    pub header: SegmentHeader,
}

/// What a package says of itself.
pub struct ScannedPackage {
    /// Its header.
    pub header: PackageHeader,
    /// Its footer, None when it is not sealed or the footer is damaged.
    pub footer: Option<PackageFooter>,
    /// Segments whose header is whole, in order of offset.
    pub segments: Vec<FoundSegment>,
    /// What prune has freed, offset and bytes: segments that the footer names, or without one, zeros up to the next segment.
    pub freed: Vec<(u64, u32)>,
    /// Places that should hold a segment and do not: offset and error.
    pub damage: Vec<(u64, Error)>,
    /// Whether it was sealed once: there is a footer, or what is left of one.
    pub was_sealed: bool,
    /// Length of the package.
    pub bytes: u64,
}

impl ScannedPackage {
    /// Whether all of it is known: its footer is whole, and every segment that it names is there or was freed. What is not
    /// in `segments` of another package may still be in the package, and nothing may be removed for it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.footer.is_some() && self.damage.is_empty()
    }

    /// Holds the header to the repository's: its id, and whether segments are encrypted.
    ///
    /// # Errors
    /// `Damaged` with what differs. Such a package is not this repository's, or somebody changed it.
    pub fn belongs_to(&self, repo: RepoId, encrypted: bool) -> Result<()> {
        if self.header.repo != repo {
            return Err(Error::damaged("it belongs to another repository"));
        }
        match (self.header.encrypted, encrypted) {
            (false, true) => Err(Error::damaged("it says that it is not encrypted, but the repository is")),
            (true, false) => Err(Error::damaged("it says that it is encrypted, but the repository is not")),
            _ => Ok(()),
        }
    }
}

/// Reads header, footer and all segment headers of a package; payloads are not read.
///
/// # Errors
/// When the package cannot be read at all or its header is not valid; anything else is in `damage`.
pub fn scan_package(store: &dyn PackageStore, id: &PackageId) -> Result<ScannedPackage> {
    let bytes = store.len(id)?;
    if bytes > MAX_PACKAGE_BYTES {
        return Err(Error::damaged(format!("package {id} has {bytes} bytes, more than a package may have")));
    }
    let mut front = [0; PACKAGE_HEADER_BYTES];
    store.read(id, 0, &mut front)?;
    let header = PackageHeader::decode(&front).map_err(|e| Error::from(e).context(format!("package {id}")))?;
    if header.package != *id {
        return Err(Error::damaged(format!("package {id} holds the bytes of package {}", header.package)));
    }
    let footer = read_footer(store, id, bytes)?;
    let (segments, freed, damage) = (Vec::new(), Vec::new(), Vec::new());
    let was_sealed = footer.is_some();
    let mut out = ScannedPackage { header, footer, segments, freed, damage, was_sealed, bytes };
    match out.footer.clone() {
        Some(footer) => by_footer(store, id, &footer, &mut out),
        None => by_hopping(store, id, &mut out),
    }
    Ok(out)
}

fn read_footer(store: &dyn PackageStore, id: &PackageId, bytes: u64) -> Result<Option<PackageFooter>> {
    let Some(at) = bytes.checked_sub(FOOTER_TRAILER_BYTES as u64) else { return Ok(None) };
    let mut trailer = [0; FOOTER_TRAILER_BYTES];
    store.read(id, at, &mut trailer)?;
    let Ok(len) = PackageFooter::encoded_bytes(&trailer) else { return Ok(None) };
    // Every row stands for a segment that is longer than it.
    let Some(at) = bytes.checked_sub(len as u64).filter(|at| at * FOOTER_ENTRY_BYTES as u64 >= rows_bytes(len)) else {
        return Ok(None);
    };
    let mut footer = vec![0; len];
    store.read(id, at, &mut footer)?;
    Ok(PackageFooter::decode(&footer, at).ok())
}

/// What a footer's rows would take if each were as long as the shortest segment, header and table row, times a row's bytes.
fn rows_bytes(footer_bytes: usize) -> u64 {
    let rows = footer_bytes.saturating_sub(8 + FOOTER_TRAILER_BYTES) as u64;
    rows * (SEGMENT_HEADER_BYTES + TABLE_ENTRY_BYTES) as u64
}

fn by_footer(store: &dyn PackageStore, id: &PackageId, footer: &PackageFooter, out: &mut ScannedPackage) {
    for entry in &footer.entries {
        match read_header(store, id, entry.offset, out.bytes, entry.chunks) {
            Ok(h) if h.number == entry.number && h.segment_bytes() == u64::from(entry.bytes) => {
                out.segments.push(FoundSegment { offset: entry.offset, header: h });
            }
            Ok(_) => out.damage.push((entry.offset, Error::damaged("a segment header differs from the footer"))),
            Err(_) if is_freed(store, id, entry) => out.freed.push((entry.offset, entry.bytes)),
            Err(e) => out.damage.push((entry.offset, e)),
        }
    }
}

/// Whether nothing but zeros is where the footer names a segment. All of it is read: a header of zeros before a payload
/// that is there is damage.
fn is_freed(store: &dyn PackageStore, id: &PackageId, entry: &FooterEntry) -> bool {
    if entry.bytes > MAX_SEGMENT_BYTES {
        return false;
    }
    let mut bytes = vec![0; entry.bytes as usize];
    store.read(id, entry.offset, &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// Without a footer: from segment to segment, as far as they are whole. What prune has freed reads as zeros and is passed over:
/// the next segment begins with the first byte that is not zero.
fn by_hopping(store: &dyn PackageStore, id: &PackageId, out: &mut ScannedPackage) {
    let mut at = PACKAGE_HEADER_BYTES as u64;
    let mut numbers = 0..=0;
    while at < out.bytes {
        match read_header(store, id, at, out.bytes, 0) {
            Ok(header) if !numbers.contains(&u64::from(header.number)) => {
                out.damage.push((at, Error::damaged("a segment has another number than its place")));
                break;
            }
            Ok(header) => {
                let next = at + header.segment_bytes();
                numbers = u64::from(header.number) + 1..=u64::from(header.number) + 1;
                out.segments.push(FoundSegment { offset: at, header });
                at = next;
            }
            Err(e) => match end_of_zeros(store, id, at, out.bytes) {
                Ok(end) if end - at >= SHORTEST_SEGMENT_BYTES && end < out.bytes => {
                    out.freed.push((at, (end - at) as u32));
                    numbers = numbers.start() + 1..=numbers.start() + (end - at) / SHORTEST_SEGMENT_BYTES;
                    at = end;
                }
                zeros => {
                    out.damage.push((at, zeros.err().unwrap_or(e)));
                    break;
                }
            },
        }
    }
    out.was_sealed = has_rest_of_footer(store, id, at, out.bytes);
}

/// Header, a row of the table, a byte of payload.
const SHORTEST_SEGMENT_BYTES: u64 = (SEGMENT_HEADER_BYTES + TABLE_ENTRY_BYTES + 1) as u64;

/// Where the zeros end that begin at `at`: the first byte that is not zero, or `end`.
fn end_of_zeros(store: &dyn PackageStore, id: &PackageId, mut at: u64, end: u64) -> Result<u64> {
    let mut buffer = vec![0; ZEROS_BYTES];
    while at < end {
        let bytes = usize::try_from(end - at).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
        let part = buffer.get_mut(..bytes).unwrap_or_default();
        store.read(id, at, part)?;
        if let Some(zeros) = part.iter().position(|byte| *byte != 0) {
            return Ok(at + zeros as u64);
        }
        at += bytes as u64;
    }
    Ok(end)
}

/// Whether the package was sealed, although its footer is not valid: it is there in part where segments end, or at its end.
fn has_rest_of_footer(store: &dyn PackageStore, id: &PackageId, at: u64, bytes: u64) -> bool {
    let read = |at: u64| {
        let mut part = [0; FOOTER_TRAILER_BYTES];
        store.read(id, at, &mut part).is_ok().then_some(part)
    };
    let end = bytes.checked_sub(FOOTER_TRAILER_BYTES as u64);
    read(at).is_some_and(|part| PackageFooter::may_begin(&part))
        || end.and_then(read).is_some_and(|part| PackageFooter::may_end(&part))
}

/// `chunks` is how long the table is likely to be: then one read is enough.
fn read_header(store: &dyn PackageStore, id: &PackageId, at: u64, end: u64, chunks: u32) -> Result<SegmentHeader> {
    let short = || Error::damaged("a segment reaches past the end of its package");
    let room = end.checked_sub(at).ok_or_else(short)?;
    if room < SEGMENT_HEADER_BYTES as u64 {
        return Err(short());
    }
    let likely = SEGMENT_HEADER_BYTES + (chunks as usize).min(MAX_SEGMENT_CHUNKS) * TABLE_ENTRY_BYTES;
    let mut bytes = vec![0; likely.min(usize::try_from(room).unwrap_or(likely))];
    store.read(id, at, &mut bytes)?;
    let needed = SegmentHeader::needed_bytes(&bytes)?;
    if needed as u64 > room {
        return Err(short());
    }
    if needed != bytes.len() {
        bytes.resize(needed, 0);
        store.read(id, at, &mut bytes)?;
    }
    let header = SegmentHeader::decode(&bytes)?;
    if header.segment_bytes() > room { Err(short()) } else { Ok(header) }
}

/// Reads, verifies and opens a whole segment.
///
/// # Errors
/// `Damaged` with the package and the place, or the medium's error.
pub fn read_segment(store: &dyn PackageStore, keys: &Keys, id: &PackageId, offset: u64, bytes: u32) -> Result<Segment> {
    let key = keys.package(id);
    read_segment_with(store, key.as_ref(), id, offset, bytes)
}

pub(super) fn read_segment_with(
    store: &dyn PackageStore,
    key: Option<&super::keys::PackageKey>,
    id: &PackageId,
    offset: u64,
    bytes: u32,
) -> Result<Segment> {
    if bytes > MAX_SEGMENT_BYTES {
        let what = format!("package {id}, segment at byte {offset}: {bytes} bytes are more than a segment may have");
        return Err(Error::damaged(what));
    }
    with_read_buffer(bytes as usize, |buffer| {
        store.read(id, offset, buffer)?;
        Segment::open(buffer, key).map_err(|e| e.context(format!("package {id}, segment at byte {offset}")))
    })
}

/// A buffer that each thread keeps, so that reading costs neither zeroing nor page faults.
fn with_read_buffer<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        let done = work(buffer.get_mut(..bytes).unwrap_or_default());
        if buffer.len() > KEPT_READ_BUFFER_BYTES {
            *buffer = Vec::new();
        }
        done
    })
}
