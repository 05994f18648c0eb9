//! Prune: what no visible, protected or pinned restore point needs is removed (SPEC.md section 10).
//!
//! A plan is made first, from metadata alone, and is a value: the dry run, the question to the user, the tests and the
//! execution share it.

use super::mark::{Needed, mark};
use super::sorter::{SORT_BYTES, Sorted, Sorter};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Dead, FoundSegment, Location, PackageInfo, Range, RecordPlace, Repository, ScannedPackage, Writer};
use crate::store::{dead_segments, scan_package};
use repo_format::{ChunkId, PackageId, PackageKind, PointId, PointRecord, SegmentKind};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What to plan for.
pub struct PruneOptions<'a> {
    /// Hidden points that must stay, each with its reason for people.
    pub keep: HashMap<PointId, String>,
    /// Points that a mount shows, perhaps as they were before they were thinned, made whole again or repaired: their older
    /// records stay.
    pub as_before: HashSet<PointId>,
    /// Also remove what an interrupted backup stored and the next one would find.
    pub discard_unfinished: bool,
    /// Ends the planning.
    pub stop: &'a AtomicBool,
}

/// What will be done to one package.
#[derive(Debug, Clone)]
pub struct PackagePlan {
    /// The package.
    pub info: PackageInfo,
    /// What of it goes; None: all of it.
    pub parts: Option<Vec<Range>>,
    /// Bytes that come back, as the medium counts them.
    pub room: u64,
}

/// What a prune will do.
pub struct Plan {
    /// Points that are removed.
    pub points: Vec<Arc<PointRecord>>,
    /// Hidden points that stay, and why.
    pub kept: Vec<(PointId, String)>,
    records: Vec<RecordPlace>,
    stale_states: Vec<PointId>,
    /// What happens to packages.
    pub packages: Vec<PackagePlan>,
    /// (package, segment offset, chunk id) of every chunk that nobody needs.
    dead: Sorted<40>,
    /// Chunks that the index has in each package.
    pub(super) indexed: HashMap<u32, u64>,
    /// Chunks in the index that nobody needs.
    pub dead_chunks: u64,
    /// Chunks that are needed.
    pub live_chunks: u64,
    /// Bytes that come back.
    pub room: u64,
    /// Bytes of dead content in packages that keep it: other chunks of the same segment are needed, or the medium
    /// cannot give back parts. `compact` gets them back.
    pub stuck_bytes: u64,
    /// Packages of an interrupted backup, by number.
    pub(super) unfinished: HashSet<u32>,
    /// Bytes of an interrupted backup, kept for the next one.
    pub unfinished_bytes: u64,
}

/// What a prune did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Bytes given back, as the medium counts them.
    pub freed: u64,
    /// Packages removed.
    pub packages_removed: u64,
    /// Packages of which parts were freed.
    pub packages_punched: u64,
    /// Packages of the plan that are left for another time.
    pub packages_left: u64,
}

/// What the index has in one package.
#[derive(Default, Clone, Copy)]
struct Count {
    chunks: u64,
    dead: u64,
}

/// A meta package's own words.
struct Meta {
    info: PackageInfo,
    scanned: ScannedPackage,
}

struct Planner<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions<'a>,
    packages: Vec<PackageInfo>,
    meta: Vec<Meta>,
}

/// Plans a prune; nothing is changed.
///
/// # Errors
/// `Damaged` when the repository is not whole enough to know what is needed. Then nothing may be removed.
pub fn plan(writer: &Writer, options: &PruneOptions<'_>) -> Result<Plan> {
    let repository = writer.repository();
    let packages = repository.index().packages()?;
    known_packages(repository, &packages)?;
    let metas = packages.iter().filter(|info| info.kind == PackageKind::Meta);
    let meta: Result<Vec<Meta>> =
        metas.map(|info| Ok(Meta { info: *info, scanned: scan(repository, info)? })).collect();
    Planner { repository, options, meta: meta?, packages }.plan()
}

/// The index must know every package, or it is older than the repository and what it does not name may be needed.
fn known_packages(repository: &Repository, packages: &[PackageInfo]) -> Result<()> {
    let known: HashSet<_> = packages.iter().map(|info| info.id).collect();
    for id in repository.packages().list()?.into_iter().filter(|id| !known.contains(id)) {
        match scan_package(&**repository.packages(), &id) {
            Ok(scanned) if scanned.segments.is_empty() && !scanned.was_sealed => {}
            Err(e) if e.kind() == ErrorKind::Damaged => {}
            Ok(_) => return Err(stale(&format!("package {id} is not in the index"))),
            Err(e) => return Err(unreadable(&id, e)),
        }
    }
    Ok(())
}

fn stale(what: &str) -> Error {
    Error::damaged(format!("{what}: the index is older than the packages, so what can go is not known"))
        .advise("nothing was removed; 'relict-maint rebuild' makes a new index, then run this again")
}

fn scan(repository: &Repository, info: &PackageInfo) -> Result<ScannedPackage> {
    let scanned = scan_package(&**repository.packages(), &info.id).map_err(|e| unreadable(&info.id, e))?;
    match scanned.damage.first() {
        None if scanned.is_whole() || !info.sealed => Ok(scanned),
        None => Err(unreadable(&info.id, Error::damaged("its footer is damaged"))),
        Some((at, e)) => Err(unreadable(&info.id, Error::damaged(format!("byte {at}: {e}")))),
    }
}

fn unreadable(id: &PackageId, error: Error) -> Error {
    error
        .context(format!("package {id} cannot be read"))
        .advise("nothing was removed; run 'relict-maint check', mend what it names, then run this again")
}

impl Planner<'_> {
    fn plan(self) -> Result<Plan> {
        let (points, states) = (self.repository.all_points()?, self.repository.index().states()?);
        let (mut roots, mut others) = (Vec::new(), Vec::new());
        let (mut removed, mut kept) = (Vec::new(), Vec::new());
        let catalogue: HashMap<PointId, ChunkId> = self.repository.index().points()?.into_iter().collect();
        for (id, record) in points {
            let state = states.get(&id);
            let why = self.options.keep.get(&id);
            let stays = state.is_none_or(|state| state.hidden.is_none()) || why.is_some();
            let Ok(record) = record else { return Err(unknown_point(&id)) };
            if stays {
                kept.extend(why.filter(|_| state.is_some_and(|s| s.hidden.is_some())).map(|why| (id, why.clone())));
                roots.push(record.root);
                others.extend(catalogue.get(&id));
                // A state whose segment was lost still stands in the database; that does not stop a prune.
                let state = state.map(|state| self.repository.keys().chunk_id(&state.encode()));
                if let Some(id) = state.filter(|id| self.repository.locate(id).is_ok_and(|at| at.is_some())) {
                    others.push(id);
                }
            } else {
                removed.push(record);
            }
        }
        let older = self.older(&catalogue)?;
        others.extend(older.keys());
        let left: Vec<ChunkId> = older.values().copied().collect();
        let going: HashSet<PointId> = removed.iter().map(|record| record.id).collect();
        let (records, newest) = self.records(&catalogue, &going, &older)?;
        let stale_states = states.into_keys().filter(|id| !catalogue.contains_key(id)).collect();
        let needed = mark(self.repository, &roots, &left, &others, self.options.stop)?;
        let mut plan = Plan {
            points: removed,
            kept,
            records,
            stale_states,
            packages: Vec::new(),
            dead: Sorter::new(1).finish()?,
            indexed: HashMap::new(),
            dead_chunks: 0,
            live_chunks: 0,
            room: 0,
            stuck_bytes: 0,
            unfinished: HashSet::new(),
            unfinished_bytes: 0,
        };
        let counts = self.compare(&needed, &mut plan)?;
        self.choose(&counts, newest, &mut plan)?;
        plan.indexed = counts.into_iter().map(|(number, count)| (number, count.chunks)).collect();
        Ok(plan)
    }

    /// The records that others took the place of, of points that a mount shows: it shows the one that it read first, whatever
    /// thinning, undelete and repair have made of the point since. Chunk and root.
    fn older(&self, catalogue: &HashMap<PointId, ChunkId>) -> Result<HashMap<ChunkId, ChunkId>> {
        let mut out = HashMap::new();
        if self.options.as_before.is_empty() {
            return Ok(out);
        }
        let current: HashSet<&ChunkId> = catalogue.values().collect();
        for Meta { info, scanned } in &self.meta {
            for found in scanned.segments.iter().filter(|found| found.header.kind == SegmentKind::Point) {
                let Some(row) = found.header.table.first().filter(|row| !current.contains(&row.id)) else { continue };
                let record = self.record(info, found)?;
                let wanted = self.options.as_before.contains(&record.id) && catalogue.contains_key(&record.id);
                if wanted && self.repository.index().locate(&row.id)?.is_some() {
                    out.insert(row.id, record.root);
                }
            }
        }
        Ok(out)
    }

    fn record(&self, info: &PackageInfo, found: &FoundSegment) -> Result<PointRecord> {
        let bytes = found.header.segment_bytes() as u32;
        let at = Location { package: info.number, offset: found.offset as u32, segment_bytes: bytes, skip: 0, len: 0 };
        Ok(PointRecord::decode(self.repository.read_segment(&at)?.raw())?)
    }

    /// Every copy of every record that goes, and the number of the newest package with a record.
    fn records(
        &self,
        catalogue: &HashMap<PointId, ChunkId>,
        going: &HashSet<PointId>,
        older: &HashMap<ChunkId, ChunkId>,
    ) -> Result<(Vec<RecordPlace>, u32)> {
        let stays: HashSet<&ChunkId> =
            catalogue.iter().filter(|(id, _)| !going.contains(id)).map(|(_, chunk)| chunk).collect();
        let goes: HashSet<&ChunkId> =
            catalogue.iter().filter(|(id, _)| going.contains(id)).map(|(_, chunk)| chunk).collect();
        let (mut out, mut newest) = (Vec::new(), 0);
        for Meta { info, scanned } in &self.meta {
            for found in scanned.segments.iter().filter(|found| found.header.kind == SegmentKind::Point) {
                let Some(row) = found.header.table.first() else { continue };
                newest = newest.max(info.number);
                if stays.contains(&row.id) || older.contains_key(&row.id) {
                    continue;
                }
                if !goes.contains(&row.id) {
                    self.replaced(info, found, catalogue)?;
                }
                let range = (found.offset, found.offset + found.header.segment_bytes());
                out.push(RecordPlace { package: info.number, id: info.id, range, chunk: row.id });
            }
        }
        Ok((out, newest))
    }

    /// A record that the catalogue does not name is an older one of a point that it does name, or the index is stale.
    fn replaced(&self, info: &PackageInfo, found: &FoundSegment, catalogue: &HashMap<PointId, ChunkId>) -> Result<()> {
        let record = self.record(info, found)?;
        if catalogue.contains_key(&record.id) {
            return Ok(());
        }
        Err(stale(&format!("the index does not know restore point {}, which package {} holds", record.id, info.id)))
    }

    /// Goes through the index beside what is needed: both are sorted by id.
    fn compare(&self, needed: &Needed, plan: &mut Plan) -> Result<HashMap<u32, Count>> {
        let mut counts = HashMap::<u32, Count>::new();
        let mut dead = Sorter::<40>::new(SORT_BYTES);
        let mut needed = needed.iter()?.peekable();
        for row in self.repository.index().chunks()? {
            let (id, at) = row?;
            let count = counts.entry(at.package).or_default();
            count.chunks += 1;
            match needed.peek() {
                Some(Ok(next)) if *next == id.0 => {
                    needed.next();
                    plan.live_chunks += 1;
                }
                Some(Ok(next)) if *next < id.0 => return Err(lost_chunk(&ChunkId(*next))),
                Some(Err(_)) => {
                    needed.next().transpose()?;
                }
                _ => {
                    count.dead += 1;
                    plan.dead_chunks += 1;
                    dead.push(dead_row(&at, &id))?;
                }
            }
        }
        if let Some(next) = needed.next() {
            return Err(lost_chunk(&ChunkId(next?)));
        }
        plan.dead = dead.finish()?;
        Ok(counts)
    }

    /// What happens to each package.
    fn choose(&self, counts: &HashMap<u32, Count>, newest: u32, plan: &mut Plan) -> Result<()> {
        let settled = self.repository.index().settled()?.max(newest);
        let mut dead = plan.dead.iter()?.peekable();
        let (mut packages, mut stuck, mut unfinished, mut left) = (Vec::new(), 0, 0, HashSet::new());
        let mut all = self.packages.clone();
        all.sort_unstable_by_key(|info| info.number);
        for info in all.iter().filter(|info| info.sealed) {
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "stopped before anything was removed"));
            }
            let mut ids: HashMap<u32, Vec<ChunkId>> = HashMap::new();
            while let Some(row) = dead.next_if(|row| row.as_ref().map_or(true, |row| package_of(row) == info.number)) {
                let (offset, id) = split(&row?);
                ids.entry(offset).or_default().push(id);
            }
            let count = counts.get(&info.number).copied().unwrap_or_default();
            if info.number > settled && !self.options.discard_unfinished && !self.only_states(info) {
                if count.dead > 0 {
                    left.insert(info.number);
                }
                if count.dead > 0 && count.dead == count.chunks {
                    unfinished += self.repository.packages().occupied(&info.id).unwrap_or(0);
                }
                continue;
            }
            if count.chunks == count.dead {
                let room = self.repository.packages().occupied(&info.id).unwrap_or(0);
                packages.push(PackagePlan { info: *info, parts: None, room });
            } else if count.dead > 0 || info.kind == PackageKind::Meta {
                self.parts(info, count, &ids, &mut packages, &mut stuck)?;
            }
        }
        plan.room = packages.iter().map(|package| package.room).sum();
        (plan.packages, plan.stuck_bytes, plan.unfinished_bytes, plan.unfinished) = (packages, stuck, unfinished, left);
        Ok(())
    }

    /// Packages of `forget` and `protect` are not those of an interrupted backup.
    fn only_states(&self, info: &PackageInfo) -> bool {
        let meta = self.meta.iter().find(|meta| meta.info.number == info.number);
        meta.is_some_and(|meta| meta.scanned.segments.iter().all(|found| found.header.kind == SegmentKind::State))
    }

    fn parts(
        &self,
        info: &PackageInfo,
        count: Count,
        ids: &HashMap<u32, Vec<ChunkId>>,
        packages: &mut Vec<PackagePlan>,
        stuck: &mut u64,
    ) -> Result<()> {
        let known = self.meta.iter().find(|meta| meta.info.number == info.number).map(|meta| &meta.scanned);
        let own;
        let scanned = match known {
            Some(scanned) => scanned,
            None => {
                own = scan(self.repository, info)?;
                &own
            }
        };
        let rows: usize = scanned.segments.iter().map(|found| found.header.table.len()).sum();
        // Without a chunk that another package has too, counting is enough.
        let plain = rows as u64 == count.chunks;
        let mut partly = 0;
        let dead = dead_segments(scanned, |found| {
            let gone = ids.get(&(found.offset as u32)).map_or(0, Vec::len);
            let here = if plain { found.header.table.len() } else { self.indexed_here(info.number, found)? };
            if gone > 0 && gone < here {
                partly += found.header.segment_bytes() * gone as u64 / here as u64;
            }
            Ok(gone < here)
        })?;
        *stuck += partly;
        if dead.ranges.is_empty() {
            return Ok(());
        }
        if !self.repository.packages().frees_parts(&info.id)? {
            *stuck += dead.ranges.iter().map(|(start, end)| end - start).sum::<u64>();
            return Ok(());
        }
        let room = self.repository.packages().room(&info.id, &dead.ranges)?;
        packages.push(PackagePlan { info: *info, parts: Some(dead.ranges), room });
        Ok(())
    }

    fn indexed_here(&self, number: u32, found: &FoundSegment) -> Result<usize> {
        let ids: Vec<ChunkId> = found.header.table.iter().map(|row| row.id).collect();
        let places = self.repository.index().locate_many(&ids)?;
        Ok(places.into_iter().flatten().filter(|at| at.is_in(number, found.offset)).count())
    }
}

fn unknown_point(id: &PointId) -> Error {
    Error::damaged(format!("the record of restore point {id} cannot be read, so what it needs is not known"))
        .advise("nothing was removed; 'relict-maint check' says what is damaged; mend it, then run this again")
}

fn lost_chunk(id: &ChunkId) -> Error {
    Error::damaged(format!("chunk {id} is needed by a restore point and is not in the index")).advise(
        "nothing was removed; run 'relict-maint rebuild', or 'relict-maint check' to see what is lost, then this again",
    )
}

/// Sorts by place.
fn dead_row(at: &Location, id: &ChunkId) -> [u8; 40] {
    let mut out = [0; 40];
    out[..4].copy_from_slice(&at.package.to_be_bytes());
    out[4..8].copy_from_slice(&at.offset.to_be_bytes());
    out[8..].copy_from_slice(&id.0);
    out
}

fn package_of(row: &[u8; 40]) -> u32 {
    row.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn split(row: &[u8; 40]) -> (u32, ChunkId) {
    let offset = row[4..8].try_into().map_or(0, u32::from_be_bytes);
    (offset, ChunkId(row[8..].try_into().unwrap_or_default()))
}

impl Plan {
    /// (package, segment offset, chunk) of everything that nobody needs, in physical order.
    pub(super) fn dead_rows(&self) -> Result<impl Iterator<Item = Result<(u32, u32, ChunkId)>> + '_> {
        Ok(self.dead.iter()?.map(|row| row.map(|row| (package_of(&row), split(&row).0, split(&row).1))))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.records.is_empty() && self.packages.is_empty() && self.stale_states.is_empty()
    }

    /// Does what was planned: records of points first, then packages, until `deadline` or `stop`. `progress` is told the
    /// bytes freed so far after each package.
    ///
    /// # Errors
    /// When the medium fails. What was done stays done; the next prune goes on.
    pub fn execute(
        &self,
        writer: &Writer,
        deadline: Option<Instant>,
        stop: &AtomicBool,
        progress: &dyn Fn(u64),
    ) -> Result<Pruned> {
        let mut out = Pruned::default();
        let going: Vec<PointId> = self.points.iter().map(|record| record.id).collect();
        out.freed += writer.remove_points(&going, &self.records)?;
        writer.remove_states(&self.stale_states)?;
        let mut dead = self.dead.iter()?.peekable();
        for (done, package) in self.packages.iter().enumerate() {
            if stop.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                out.packages_left = (self.packages.len() - done) as u64;
                break;
            }
            let number = package.info.number;
            let mut chunks = Vec::new();
            while let Some(row) = dead.next_if(|row| row.as_ref().map_or(true, |row| package_of(row) <= number)) {
                let row = row?;
                let (offset, id) = split(&row);
                let goes =
                    |parts: &Vec<Range>| parts.iter().any(|(start, end)| (*start..*end).contains(&u64::from(offset)));
                if package_of(&row) == number && package.parts.as_ref().is_none_or(goes) {
                    chunks.push(id);
                }
            }
            out.freed += match &package.parts {
                None => {
                    out.packages_removed += 1;
                    writer.remove_package(number, &package.info.id, &chunks)?
                }
                Some(ranges) => {
                    out.packages_punched += 1;
                    let dead = Dead { ranges: ranges.clone(), ..Dead::default() };
                    writer.free_segments(number, &package.info.id, &dead, &chunks)?
                }
            };
            progress(out.freed);
        }
        Ok(out)
    }
}
