//! After a crash: what a killed writer appended is found again, without a manual step (SPEC.md section 10).

use super::free::Range;
use super::index::{Index, IndexBatch, Location, PackageInfo};
use super::keys::Keys;
use super::package_store::PackageStore;
use super::scan::{FoundSegment, read_segment, scan_package};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{
    ChunkId, FooterEntry, PACKAGE_HEADER_BYTES, PackageFooter, PackageId, PointId, PointRecord, PointState,
    SegmentKind, Time,
};
use std::collections::HashMap;

/// Whether the place that the index names for a chunk still holds it.
pub(super) type Holds<'a> = &'a dyn Fn(&Location) -> Result<bool>;

/// Finishes every package the journal names: its whole segments are indexed, it gets a footer and is sealed.
/// A package without one whole segment is removed, if nothing of it was durable. Nothing is ever appended to such a
/// package again but the footer, so no segment number is used twice. True if there were any.
pub(super) fn finish_open_packages(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    holds: Holds<'_>,
) -> Result<bool> {
    let open: Vec<PackageInfo> = index.packages()?.into_iter().filter(|p| !p.sealed).collect();
    if open.is_empty() {
        return Ok(false);
    }
    let present = store.list()?;
    for info in open {
        let found =
            if present.contains(&info.id) { whole_segments(store, keys, &info.id) } else { Ok(Whole::default()) };
        let found = found.map_err(|e| cannot_finish(&info.id, e))?;
        finish(index, store, keys, info, &found, holds)?;
    }
    Ok(true)
}

fn cannot_finish(id: &PackageId, error: Error) -> Error {
    error.context(format!("package {id}, which an interrupted run left, cannot be read")).advise(
        "nothing was changed, and restore points can be read; if it stays like that, copy the repository to another medium",
    )
}

/// None for what a crash leaves; an error for a medium that fails, of which nobody knows what it holds.
fn if_whole<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(out) => Ok(Some(out)),
        Err(e) if e.kind() == ErrorKind::Damaged => Ok(None),
        Err(e) => Err(e),
    }
}

/// What is whole of a package that was left open.
#[derive(Default)]
pub(super) struct Whole {
    /// The segments from the start up to the first that is not whole, payloads verified.
    pub segments: Vec<FoundSegment>,
    /// Whether it has its footer: only the index does not know yet that it is sealed.
    has_footer: bool,
    /// First byte and end of the segments that the footer names and that are not whole.
    torn: Vec<Range>,
}

/// Looks what is whole of a package that was left open.
///
/// # Errors
/// When the medium fails.
pub(super) fn whole_segments(store: &dyn PackageStore, keys: &Keys, id: &PackageId) -> Result<Whole> {
    if store.len(id)? < PACKAGE_HEADER_BYTES as u64 {
        return Ok(Whole::default());
    }
    let Some(scanned) = if_whole(scan_package(store, id))? else { return Ok(Whole::default()) };
    let has_footer = scanned.footer.is_some();
    for (_, error) in scanned.damage {
        if_whole::<()>(Err(error))?;
    }
    let (mut out, mut end) = (Vec::new(), PACKAGE_HEADER_BYTES as u64);
    for found in scanned.segments {
        let bytes = found.header.segment_bytes();
        // Without a footer that says otherwise, a gap is what did not arrive, and what stands behind it may need that.
        let follows = has_footer || found.offset == end;
        if follows && if_whole(read_segment(store, keys, id, found.offset, bytes as u32))?.is_some() {
            end = found.offset + bytes;
            out.push(found);
        } else if !has_footer {
            break;
        }
    }
    let gone = |at: u64| out.iter().any(|s| s.offset == at) || scanned.freed.iter().any(|(freed, _)| *freed == at);
    let named = scanned.footer.iter().flat_map(|footer| &footer.entries);
    let torn =
        named.filter(|row| !gone(row.offset)).map(|row| (row.offset, row.offset + u64::from(row.bytes))).collect();
    Ok(Whole { segments: out, has_footer, torn })
}

/// Gives a package that was left open its footer, unless it has one, and seals it. What its footer names and is torn becomes
/// zeros, as what prune frees. Gives its length.
///
/// # Errors
/// When the medium fails.
pub(super) fn close(store: &dyn PackageStore, id: &PackageId, whole: &Whole) -> Result<u64> {
    if !whole.has_footer {
        store.append(id, store.len(id)?, &[&footer_of(&whole.segments).encode()])?;
    }
    store.seal(id)?;
    if !whole.torn.is_empty() {
        store.free(id, &whole.torn, true)?;
    }
    store.len(id)
}

fn finish(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    mut info: PackageInfo,
    whole: &Whole,
    holds: Holds<'_>,
) -> Result<()> {
    let mut batch = IndexBatch::default();
    let end =
        whole.segments.last().map_or(PACKAGE_HEADER_BYTES as u64, |last| last.offset + last.header.segment_bytes());
    // What was durable once and is not whole now was damaged since. Check names it; a new footer would hide what is behind it.
    let is_damaged = match whole.torn.first() {
        Some((at, _)) => *at < info.bytes,
        None => !whole.has_footer && end < info.bytes,
    };
    if whole.segments.is_empty() && !whole.has_footer && !is_damaged {
        // The bytes go first: after a crash in between the journal still names the package, and the next writer
        // comes here again. Nothing in the index points into it.
        store.delete(&info.id)?;
        index.remove_package(&mut batch, info.number)?;
        index.end_journal(&mut batch, info.number)?;
        return index.commit(batch);
    }
    if !is_damaged {
        info.bytes = close(store, &info.id, whole)?;
    }
    info.sealed = true;
    let (mut states, mut points) = (Vec::new(), HashMap::new());
    for found in &whole.segments {
        index_segment(index, &mut batch, info.number, found, Some(holds))?;
        // A point's record is appended when all that it needs is durable: where it is whole, the point is.
        // A record of a version unknown here stays in its package, and check reports it.
        if found.header.kind == SegmentKind::Point
            && let Ok((record, chunk)) = read_record(store, keys, &info.id, found)
            && counts(index, store, keys, &mut points, &record)?
        {
            index.add_point(&mut batch, &record.id, &chunk)?;
        }
        if found.header.kind == SegmentKind::State {
            states.extend(read_state(store, keys, &info.id, found).ok());
        }
    }
    index.add_states(&mut batch, &states)?;
    index.add_package(&mut batch, &info)?;
    index.end_journal(&mut batch, info.number)?;
    index.commit(batch)
}

/// Whether a record is to stand in the catalogue: of two of one point the one that was sealed later counts. `found` are those
/// that were found before it and are not in the index yet.
fn counts(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    found: &mut HashMap<PointId, Time>,
    record: &PointRecord,
) -> Result<bool> {
    let known = match found.get(&record.id) {
        Some(sealed) => Some(*sealed),
        None => listed_record(index, store, keys, &record.id)?.map(|known| known.sealed),
    };
    let newer = known.is_none_or(|known| record.sealed > known);
    if newer {
        found.insert(record.id, record.sealed);
    }
    Ok(newer)
}

/// The record that the catalogue has of a point; None where it has none, or one that is lost.
fn listed_record(index: &Index, store: &dyn PackageStore, keys: &Keys, point: &PointId) -> Result<Option<PointRecord>> {
    let Some(chunk) = index.point(point)? else { return Ok(None) };
    let Some(at) = index.locate(&chunk)? else { return Ok(None) };
    let Some(info) = index.packages()?.into_iter().find(|info| info.number == at.package) else { return Ok(None) };
    let read = read_segment(store, keys, &info.id, u64::from(at.offset), at.segment_bytes);
    Ok(if_whole(read)?.and_then(|segment| PointRecord::decode(segment.raw()).ok()))
}

fn footer_of(segments: &[FoundSegment]) -> PackageFooter {
    let entry = |found: &FoundSegment| FooterEntry {
        offset: found.offset,
        bytes: found.header.segment_bytes() as u32,
        number: found.header.number,
        chunks: found.header.table.len() as u32,
    };
    PackageFooter { entries: segments.iter().map(entry).collect() }
}

/// Adds a segment's chunks to the index, except those that are there already: a chunk stored twice keeps its first place,
/// unless that is lost. Without `holds` nothing is asked, and what is there is replaced.
pub(super) fn index_segment(
    index: &Index,
    batch: &mut IndexBatch,
    package: u32,
    found: &FoundSegment,
    holds: Option<Holds<'_>>,
) -> Result<()> {
    let ids: Vec<_> = found.header.table.iter().map(|row| row.id).collect();
    let known = if holds.is_some() { index.locate_many(&ids)? } else { vec![None; ids.len()] };
    let mut skip = 0;
    for (row, known) in found.header.table.iter().zip(known) {
        let at = Location {
            package,
            offset: found.offset as u32,
            segment_bytes: found.header.segment_bytes() as u32,
            skip,
            len: row.raw_bytes,
        };
        let there = match (known, holds) {
            (Some(known), Some(holds)) => holds(&known)?,
            _ => false,
        };
        if !there {
            index.add_chunk(batch, &row.id, at)?;
        }
        skip += row.raw_bytes;
    }
    Ok(())
}

/// The record that a segment of kind `Point` holds, and its chunk.
pub(super) fn read_record(
    store: &dyn PackageStore,
    keys: &Keys,
    id: &PackageId,
    found: &FoundSegment,
) -> Result<(PointRecord, ChunkId)> {
    let segment = read_segment(store, keys, id, found.offset, found.header.segment_bytes() as u32)?;
    Ok((PointRecord::decode(segment.raw())?, keys.chunk_id(segment.raw())))
}

/// The point state that a segment of kind `State` holds.
pub(super) fn read_state(
    store: &dyn PackageStore,
    keys: &Keys,
    id: &PackageId,
    found: &FoundSegment,
) -> Result<PointState> {
    let segment = read_segment(store, keys, id, found.offset, found.header.segment_bytes() as u32)?;
    Ok(PointState::decode(segment.raw())?)
}
