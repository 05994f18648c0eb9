//! After a crash: what a killed writer appended is found again, without a manual step (SPEC.md section 10).

use super::index::{Index, IndexBatch, Location, PackageInfo};
use super::keys::Keys;
use super::package_store::PackageStore;
use super::scan::{FoundSegment, read_segment, scan_package};
use crate::error::Result;
use repo_format::{
    ChunkId, FooterEntry, PACKAGE_HEADER_BYTES, PackageFooter, PackageId, PointId, PointRecord, PointState, SegmentKind,
};

/// Whether the place that the index names for a chunk still holds it.
pub(super) type Holds<'a> = &'a dyn Fn(&Location) -> Result<bool>;

/// Finishes every package the journal names: its whole segments are indexed, it gets a footer and is sealed.
/// A package without one whole segment is removed. Nothing is ever appended to such a package again but the
/// footer, so no segment number is used twice. True if there were any.
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
        let whole = if present.contains(&info.id) { whole_segments(store, keys, &info.id)? } else { Vec::new() };
        finish(index, store, keys, info, &whole, holds)?;
    }
    Ok(true)
}

/// The segments from the start up to the first that is not whole, payloads verified.
fn whole_segments(store: &dyn PackageStore, keys: &Keys, id: &PackageId) -> Result<Vec<FoundSegment>> {
    if store.len(id)? < PACKAGE_HEADER_BYTES as u64 {
        return Ok(Vec::new());
    }
    let Ok(scanned) = scan_package(store, id) else { return Ok(Vec::new()) };
    let whole = |found: &FoundSegment| {
        let bytes = found.header.segment_bytes() as u32;
        read_segment(store, keys, id, found.offset, bytes).is_ok()
    };
    Ok(scanned.segments.into_iter().take_while(whole).collect())
}

fn finish(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    mut info: PackageInfo,
    whole: &[FoundSegment],
    holds: Holds<'_>,
) -> Result<()> {
    let mut batch = IndexBatch::default();
    if whole.is_empty() {
        // The bytes go first: after a crash in between the journal still names the package, and the next writer
        // comes here again. Nothing in the index points into it.
        store.delete(&info.id)?;
        index.remove_package(&mut batch, info.number)?;
        index.end_journal(&mut batch, info.number)?;
        return index.commit(batch);
    }
    let length = store.len(&info.id)?;
    if scan_package(store, &info.id)?.footer.is_none() {
        let footer = footer_of(whole).encode();
        store.append(&info.id, length, &[&footer])?;
    }
    store.seal(&info.id)?;
    info.sealed = true;
    info.bytes = store.len(&info.id)?;
    let mut states = Vec::new();
    for found in whole {
        index_segment(index, &mut batch, info.number, found, Some(holds))?;
        // A point's record is appended when all that it needs is durable: where it is whole, the point is.
        // A record of a version unknown here stays in its package, and check reports it.
        if found.header.kind == SegmentKind::Point
            && let Ok((point, record)) = read_point(store, keys, &info.id, found)
        {
            index.add_point(&mut batch, &point, &record)?;
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

/// The restore point that a segment of kind `Point` holds, and the chunk of its record.
pub(super) fn read_point(
    store: &dyn PackageStore,
    keys: &Keys,
    id: &PackageId,
    found: &FoundSegment,
) -> Result<(PointId, ChunkId)> {
    read_record(store, keys, id, found).map(|(record, chunk)| (record.id, chunk))
}

/// As [`read_point`], with the whole record.
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
