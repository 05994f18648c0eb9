//! Giving room back: segments and packages that the index does not name any more (SPEC.md section 10).
//!
//! The index is the plan: rows go first, in one synced batch with a journal record; then whatever of the package has
//! no row is freed; then the journal record goes. So a free that was killed is finished by looking at the index
//! again, and nobody has to remember what was meant.

use super::index::{Index, IndexBatch, PackageInfo};
use super::package_store::PackageStore;
use super::scan::{FoundSegment, ScannedPackage, scan_package};
use super::writer::Writer;
use crate::error::Result;
use repo_format::{ChunkId, PackageId, PointId, SegmentKind};
use std::collections::{BTreeMap, HashSet};

/// Chunks of packages that are looked up together before anything of these packages is freed.
const GROUP_CHUNKS: usize = 1 << 18;

/// A byte range of a package: first byte and the one after the last.
pub type Range = (u64, u64);

/// What of a package nobody needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dead {
    /// Segments without a chunk that is needed here and with a restore point's record.
    pub records: Vec<Range>,
    /// All segments without a chunk that is needed here, and what was freed between them before, as ranges that do not touch.
    pub ranges: Vec<Range>,
    /// Whether a segment of the package is still needed.
    pub needed: bool,
}

/// Sorts the segments of a package by whether `needed` says so.
///
/// # Errors
/// Those of `needed`.
pub fn dead_segments(scanned: &ScannedPackage, mut needed: impl FnMut(&FoundSegment) -> Result<bool>) -> Result<Dead> {
    let mut out = Dead::default();
    // (start, end, dead now); what was freed before joins its neighbours, so that their common blocks go too.
    let mut places: Vec<(u64, u64, bool)> =
        scanned.freed.iter().map(|(at, bytes)| (*at, at + u64::from(*bytes), false)).collect();
    for found in &scanned.segments {
        let end = found.offset + found.header.segment_bytes();
        if needed(found)? {
            out.needed = true;
            continue;
        }
        if found.header.kind == SegmentKind::Point {
            out.records.push((found.offset, end));
        }
        places.push((found.offset, end, true));
    }
    places.sort_unstable();
    let mut run: Option<(u64, u64, bool)> = None;
    for place in places {
        run = match run {
            Some((start, end, dead)) if end == place.0 => Some((start, place.1, dead || place.2)),
            before => {
                out.ranges.extend(before.filter(|run| run.2).map(|run| (run.0, run.1)));
                Some(place)
            }
        };
    }
    out.ranges.extend(run.filter(|run| run.2).map(|run| (run.0, run.1)));
    Ok(out)
}

/// Whether the index names a chunk of this segment at this place.
pub(super) fn is_named(index: &Index, number: u32, found: &FoundSegment) -> Result<bool> {
    let ids: Vec<ChunkId> = found.header.table.iter().map(|row| row.id).collect();
    let places = index.locate_many(&ids)?;
    Ok(places.into_iter().flatten().any(|at| at.is_in(number, found.offset)))
}

/// Finishes every free that the journal names. Returns the bytes given back.
pub(super) fn finish_freeing(index: &Index, store: &dyn PackageStore) -> Result<u64> {
    let open = index.freeing()?;
    if open.is_empty() {
        return Ok(0);
    }
    let mut freed = 0;
    // Records everywhere before anything that they need (SPEC.md section 10).
    for (number, id) in &open {
        freed += free_records(index, store, *number, id)?;
    }
    for (number, id) in open {
        freed += free_unnamed(index, store, number, &id)?;
        let mut batch = IndexBatch::default();
        index.end_journal(&mut batch, number)?;
        index.commit(batch)?;
    }
    Ok(freed)
}

fn listed(index: &Index, number: u32) -> Result<bool> {
    Ok(index.packages()?.iter().any(|info| info.number == number))
}

/// Wipes the records of restore points that the index does not name, durably.
fn free_records(index: &Index, store: &dyn PackageStore, number: u32, id: &PackageId) -> Result<u64> {
    if !listed(index, number)? {
        // All of it goes, in one step.
        return Ok(0);
    }
    let dead = dead_segments(&scan_package(store, id)?, |found| is_named(index, number, found))?;
    if dead.records.is_empty() { Ok(0) } else { store.free(id, &dead.records, true) }
}

/// Frees what the index does not name of a package; all of it, when the index does not list it.
fn free_unnamed(index: &Index, store: &dyn PackageStore, number: u32, id: &PackageId) -> Result<u64> {
    if !listed(index, number)? {
        let room = store.occupied(id).unwrap_or(0);
        return store.delete(id).map(|()| room);
    }
    let dead = dead_segments(&scan_package(store, id)?, |found| is_named(index, number, found))?;
    if dead.ranges.is_empty() { Ok(0) } else { store.free(id, &dead.ranges, false) }
}

/// What became of a package of which the index names less than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// So many bytes were given back.
    Bytes(u64),
    /// Nothing was done: the package is damaged, so what else it holds is not known.
    Damaged,
}

/// A place of a restore point's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Number of the package.
    pub package: u32,
    /// Its id.
    pub id: PackageId,
    /// Where the segment lies.
    pub range: Range,
    /// The record.
    pub chunk: ChunkId,
}

impl Writer {
    /// Takes restore points out of the catalogue and their records out of all packages, durably: what they need may go
    /// after that and not before. Returns the bytes given back.
    ///
    /// # Errors
    /// When the medium fails; the next writer finishes what was begun.
    pub fn remove_points(&self, points: &[PointId], records: &[RecordPlace]) -> Result<u64> {
        let (index, store) = (self.repository().index(), self.repository().packages());
        let mut batch = IndexBatch::default();
        points.iter().try_for_each(|point| index.remove_point(&mut batch, point))?;
        for record in records {
            index.remove_chunk(&mut batch, &record.chunk)?;
            index.add_freeing(&mut batch, record.package, record.id)?;
        }
        index.commit(batch)?;
        announce("points-removed");
        let mut places = BTreeMap::<PackageId, Vec<Range>>::new();
        records.iter().for_each(|record| places.entry(record.id).or_default().push(record.range));
        let mut freed = 0;
        for (package, ranges) in places {
            freed += store.free(&package, &ranges, true)?;
            announce("records-wiped");
        }
        let mut batch = IndexBatch::default();
        records.iter().try_for_each(|record| index.end_journal(&mut batch, record.package))?;
        index.commit(batch)?;
        Ok(freed)
    }

    /// Drops the states of points that are not there any more.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn remove_states(&self, points: &[PointId]) -> Result<()> {
        let index = self.repository().index();
        let mut batch = IndexBatch::default();
        points.iter().try_for_each(|point| index.remove_state(&mut batch, point))?;
        if batch.is_empty() { Ok(()) } else { index.commit(batch) }
    }

    /// Removes a whole package, and `chunks` that the index has in it. Returns the bytes given back.
    ///
    /// # Errors
    /// When the medium fails; the next writer finishes what was begun.
    pub fn remove_package(&self, number: u32, id: &PackageId, chunks: &[ChunkId]) -> Result<u64> {
        let (index, store) = (self.repository().index(), self.repository().packages());
        let mut batch = IndexBatch::default();
        chunks.iter().try_for_each(|chunk| index.remove_chunk(&mut batch, chunk))?;
        index.remove_package(&mut batch, number)?;
        index.add_freeing(&mut batch, number, *id)?;
        index.commit(batch)?;
        announce("package-unlisted");
        let room = store.occupied(id).unwrap_or(0);
        store.delete(id)?;
        announce("package-deleted");
        self.end_freeing(number)?;
        Ok(room)
    }

    /// Frees `dead` parts of a package, and forgets `chunks`, which are all that the index has in them. Returns the
    /// bytes given back.
    ///
    /// # Errors
    /// When the medium fails; the next writer finishes what was begun.
    pub fn free_segments(&self, number: u32, id: &PackageId, dead: &Dead, chunks: &[ChunkId]) -> Result<u64> {
        let (index, store) = (self.repository().index(), self.repository().packages());
        let mut batch = IndexBatch::default();
        chunks.iter().try_for_each(|chunk| index.remove_chunk(&mut batch, chunk))?;
        index.add_freeing(&mut batch, number, *id)?;
        index.commit(batch)?;
        announce("segments-unlisted");
        let freed = store.free(id, &dead.ranges, false)?;
        announce("segments-freed");
        self.end_freeing(number)?;
        Ok(freed)
    }

    /// Forgets `dead` chunks of some packages, then frees whatever the index does not name of them, all of one if it names
    /// nothing. Of a package that is not whole nothing is forgotten or freed. Says what became of each, in their order.
    ///
    /// # Errors
    /// When the medium fails; the next writer finishes what was begun.
    pub fn free_unnamed(&self, packages: &[(PackageInfo, &[ChunkId])]) -> Result<Vec<Freed>> {
        let (index, store) = (self.repository().index(), self.repository().packages());
        let mut out = vec![Freed::Damaged; packages.len()];
        let mut rest = packages.iter().zip(&mut out).peekable();
        while rest.peek().is_some() {
            let (mut group, mut chunks, mut batch) = (Vec::new(), 0, IndexBatch::default());
            while let Some(((info, dead), freed)) = rest.next_if(|_| chunks < GROUP_CHUNKS) {
                let scanned = scan_package(&**store, &info.id)?;
                // A segment that was not found may be needed as much as those that were.
                if !scanned.is_whole() {
                    continue;
                }
                chunks += scanned.segments.iter().map(|found| found.header.table.len()).sum::<usize>();
                dead.iter().try_for_each(|chunk| index.remove_chunk(&mut batch, chunk))?;
                index.add_freeing(&mut batch, info.number, info.id)?;
                group.push((info, scanned, freed));
            }
            if group.is_empty() {
                continue;
            }
            index.commit(batch)?;
            announce("dead-unlisted");
            let tables = group.iter().flat_map(|(_, scanned, _)| &scanned.segments).map(|found| &found.header.table);
            let ids: Vec<ChunkId> = tables.flatten().map(|row| row.id).collect();
            let places = index.locate_many(&ids)?.into_iter().flatten();
            let named: HashSet<(u32, u64)> = places.map(|at| (at.package, u64::from(at.offset))).collect();
            for (info, scanned, freed) in group {
                let dead = dead_segments(&scanned, |found| Ok(named.contains(&(info.number, found.offset))))?;
                *freed = Freed::Bytes(self.free_dead(info, &dead)?);
            }
        }
        Ok(out)
    }

    /// Ends what [`Writer::free_unnamed`] has begun with a package.
    fn free_dead(&self, info: &PackageInfo, dead: &Dead) -> Result<u64> {
        if !dead.needed {
            return self.remove_package(info.number, &info.id, &[]);
        }
        if dead.ranges.is_empty() || !self.repository().packages().frees_parts(&info.id)? {
            return self.end_freeing(info.number).map(|()| 0);
        }
        self.free_segments(info.number, &info.id, dead, &[])
    }

    /// From here on, nothing that is there is what an interrupted backup left.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn settle(&self) -> Result<()> {
        let index = self.repository().index();
        let mut batch = IndexBatch::default();
        index.set_settled(&mut batch, index.next_package()?.saturating_sub(1))?;
        index.commit(batch)
    }

    fn end_freeing(&self, number: u32) -> Result<()> {
        let index = self.repository().index();
        let mut batch = IndexBatch::default();
        index.end_journal(&mut batch, number)?;
        index.commit(batch)
    }
}

/// Says that a step of maintenance is done, for the kill tests: `RELICT_STEPS` names a file that gets a line for each
/// step, and the process dies without a word when that file has as many lines as `RELICT_DIE_AT` says.
pub fn announce(step: &str) {
    static STEPS: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let Some(path) = STEPS.get_or_init(|| std::env::var_os("RELICT_STEPS")) else { return };
    let stop = std::env::var("RELICT_DIE_AT").ok().and_then(|n| n.parse::<u64>().ok());
    let before = std::fs::read(path).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count() as u64);
    let append = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let _ = append.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{step}\n").as_bytes()));
    if stop == Some(before + 1) {
        std::process::abort();
    }
}
