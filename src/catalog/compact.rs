//! Compact: chunks that are still needed move out of packages that are mostly dead or small, side by side with what is
//! read together with them; the old packages go (SPEC.md section 10).
//!
//! A moved chunk is stored again first, durably and indexed; only then is its old place freed, by the same journal that
//! prune uses. So a chunk always has a place, and a compaction that was killed has cost room and nothing else.
//!
//! Memory: a bit for each chunk of the packages that are rewritten, and the chunks of one batch.

use super::points::Points;
use super::prune::{PruneOptions, plan};
use super::tree::range;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Freed, Location, PACKAGE_BYTES, PACKAGE_CHUNKS, PackageInfo, Repository, Writer, announce, scan_package,
};
use repo_format::{ChunkId, Extent, Key, PackageId, PackageKind, PointRecord, SegmentKind};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Content bytes of a segment that compact writes.
const SEGMENT_BYTES: usize = 256 << 10;
/// Packages below this share of a full one are merged with others.
const SMALL_SHARE: f64 = 0.25;
/// Bytes moved before the old places are freed: what compact needs free on the disk.
const ROUND_BYTES: u64 = 2 * PACKAGE_BYTES;
/// Chunks whose places and order are looked up together, and that one round of [`sequence`] moves.
const BATCH_CHUNKS: u64 = 1 << 18;

/// What to compact.
pub struct CompactOptions<'a> {
    /// Packages with a lower share of live bytes are rewritten.
    pub min_live: f64,
    /// Most bytes to rewrite, as stored.
    pub max_bytes: u64,
    /// Ends the planning.
    pub stop: &'a AtomicBool,
}

/// A package that will be rewritten.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// The package.
    pub info: PackageInfo,
    /// Bytes of segments in it that are needed, in proportion.
    pub live_bytes: u64,
    /// Bytes it takes now.
    pub occupied: u64,
    /// Chunks that move.
    live_chunks: u64,
    /// One bit for each chunk of the package, in physical order: nobody needs it, and the index still names it.
    dead: Vec<u64>,
}

/// What of a package moves, and what of it goes.
#[derive(Default)]
struct Contents {
    /// In physical order.
    live: Vec<Moving>,
    dead: Vec<ChunkId>,
}

/// A chunk to be stored again: in which kind of segment it stands, and where.
#[derive(Clone, Copy)]
struct Moving {
    kind: SegmentKind,
    id: ChunkId,
    at: Location,
}

/// What is to be compacted.
#[derive(Debug, Default)]
pub struct CompactPlan {
    /// Packages to rewrite, those with the least live bytes first.
    pub rewrites: Vec<Rewrite>,
    /// Packages that stay as they are because they are damaged: what is not found in them may still be needed.
    pub damaged: Vec<PackageId>,
}

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Chunks moved.
    pub moved_chunks: u64,
    /// Bytes written for them.
    pub written: u64,
    /// Bytes given back, as the medium counts them.
    pub freed: u64,
    /// Packages rewritten.
    pub packages: u64,
    /// Packages of the plan that are left for another time.
    pub packages_left: u64,
    /// Packages that were left as they are because they are damaged.
    pub damaged: Vec<PackageId>,
}

/// Which packages to rewrite. Nothing is changed.
///
/// # Errors
/// As [`plan`].
pub fn plan_compact(writer: &Writer, options: &CompactOptions<'_>) -> Result<CompactPlan> {
    let repository = writer.repository();
    // What is forgotten can be brought back: compact removes no restore point.
    let states = repository.index().states()?;
    let keep = states.keys().map(|id| (*id, String::new())).collect();
    let as_before = repository.index().points()?.into_iter().map(|(id, _)| id).collect();
    let dead = plan(writer, &PruneOptions { keep, as_before, discard_unfinished: false, stop: options.stop })?;
    let mut dead_rows = dead.dead_rows()?.peekable();
    let mut small = HashMap::<PackageKind, Vec<Rewrite>>::new();
    let (mut out, mut damaged) = (Vec::new(), Vec::new());
    let mut packages = repository.index().packages()?;
    packages.sort_unstable_by_key(|info| info.number);
    for info in packages {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped before anything was changed"));
        }
        // Those of one package at a time: both are in the order of its number.
        let mut gone = HashSet::new();
        while let Some(row) = dead_rows.next_if(|row| row.as_ref().map_or(true, |(number, ..)| *number <= info.number))
        {
            let (number, _, id) = row?;
            gone.extend((number == info.number).then_some(id));
        }
        if !info.sealed || dead.unfinished.contains(&info.number) {
            continue;
        }
        let occupied = repository.packages().occupied(&info.id)?;
        let indexed = dead.indexed.get(&info.number).copied().unwrap_or(0);
        let is_small = is_small(info.bytes, indexed);
        let has_holes = (occupied as f64) < info.bytes as f64 * 0.95;
        if gone.is_empty() && !is_small && !has_holes {
            continue;
        }
        // Also where the index names chunks here that are not here: that is for check and repair.
        let Some(rewrite) = measure(repository, info, occupied, &gone, indexed)?.filter(|r| r.has_all(indexed)) else {
            damaged.push(info.id);
            continue;
        };
        if (rewrite.live_bytes as f64) < options.min_live * info.bytes as f64 {
            out.push(rewrite);
        } else if is_small {
            small.entry(info.kind).or_default().push(rewrite);
        }
    }
    // One small package alone gains nothing.
    out.extend(small.into_values().filter(|group| group.len() > 1).flatten());
    out.sort_by_key(|rewrite| (rewrite.live_bytes, rewrite.info.number));
    let mut bytes = 0;
    out.retain(|rewrite| {
        bytes += rewrite.live_bytes;
        bytes <= options.max_bytes
    });
    Ok(CompactPlan { rewrites: out, damaged })
}

/// Neither in bytes nor in chunks a quarter of what a package is sealed at.
fn is_small(bytes: u64, chunks: u64) -> bool {
    let below = |count: u64, full: u64| (count as f64) < full as f64 * SMALL_SHARE;
    below(bytes, PACKAGE_BYTES) && below(chunks, PACKAGE_CHUNKS as u64)
}

/// What is live and what is dead in a package; none for one that is damaged. Which chunks the index has here need not be asked
/// where it has as many as the package.
fn measure(
    repository: &Repository,
    info: PackageInfo,
    occupied: u64,
    gone: &HashSet<ChunkId>,
    indexed: u64,
) -> Result<Option<Rewrite>> {
    let scanned = scan_package(&**repository.packages(), &info.id)?;
    if !scanned.is_whole() {
        return Ok(None);
    }
    let mut out = Rewrite { info, live_bytes: 0, occupied, live_chunks: 0, dead: Vec::new() };
    let all_here = indexed == scanned.segments.iter().map(|found| found.header.table.len() as u64).sum::<u64>();
    let mut number = 0;
    for found in &scanned.segments {
        let table = &found.header.table;
        let ids: Vec<ChunkId> = table.iter().map(|row| row.id).collect();
        let places = if all_here { vec![None; ids.len()] } else { repository.locate_many(&ids)? };
        let mut live = 0;
        for (row, place) in table.iter().zip(places) {
            if gone.contains(&row.id) {
                set(&mut out.dead, number);
            } else if all_here || place.is_some_and(|at| at.is_in(info.number, found.offset)) {
                live += u64::from(row.raw_bytes);
                out.live_chunks += 1;
            }
            number += 1;
        }
        out.live_bytes += found.header.segment_bytes() * live / found.header.raw_bytes().max(1);
    }
    Ok(Some(out))
}

fn set(bits: &mut Vec<u64>, number: usize) {
    bits.resize(bits.len().max(number / 64 + 1), 0);
    if let Some(word) = bits.get_mut(number / 64) {
        *word |= 1 << (number % 64);
    }
}

impl Rewrite {
    /// Whether all chunks that the index has in the package were found in it.
    fn has_all(&self, indexed: u64) -> bool {
        self.chunks() >= indexed
    }

    /// Chunks that the index has in it.
    fn chunks(&self) -> u64 {
        self.live_chunks + self.dead.iter().map(|word| u64::from(word.count_ones())).sum::<u64>()
    }

    fn is_dead(&self, number: usize) -> bool {
        self.dead.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

/// What is to be done with each chunk of some packages, as the index has it now; nothing with those of a package that was damaged
/// meanwhile.
fn contents(repository: &Repository, rewrites: &[Rewrite]) -> Result<Vec<Contents>> {
    let mut out: Vec<Contents> = rewrites.iter().map(|_| Contents::default()).collect();
    let mut rest = rewrites.iter().zip(&mut out).peekable();
    while rest.peek().is_some() {
        // Packages can have many chunks that the index does not name.
        let (mut ids, mut found) = (Vec::new(), Vec::new());
        while let Some((rewrite, contents)) = rest.next_if(|_| (ids.len() as u64) < BATCH_CHUNKS) {
            let scanned = scan_package(&**repository.packages(), &rewrite.info.id)?;
            let before = ids.len();
            let mut kinds = Vec::new();
            for segment in scanned.segments.iter().filter(|_| scanned.is_whole()) {
                ids.extend(segment.header.table.iter().map(|row| row.id));
                kinds.push((segment.header.kind, segment.offset, segment.header.table.len()));
            }
            found.push((rewrite, contents, before, kinds));
        }
        let places = repository.locate_many(&ids)?;
        for (rewrite, contents, first, kinds) in found {
            let heads = kinds.iter().flat_map(|(kind, offset, chunks)| std::iter::repeat_n((*kind, *offset), *chunks));
            let rows = ids.iter().zip(&places).skip(first).zip(heads);
            for (number, ((id, place), (kind, offset))) in rows.enumerate() {
                if rewrite.is_dead(number) {
                    contents.dead.push(*id);
                } else if let Some(at) = place.filter(|at| at.is_in(rewrite.info.number, offset)) {
                    contents.live.push(Moving { kind, id: *id, at });
                }
            }
        }
    }
    Ok(out)
}

/// Rewrites packages, in rounds, until `deadline` or `stop`. Content goes in the order of the newest restore points. `progress`
/// is told the bytes of packages moved so far, as planned, after each round.
///
/// # Errors
/// When the medium fails, `NoSpace` above all: compact needs about two packages of room. Nothing is lost.
pub fn compact(
    writer: &Writer,
    rewrites: &[Rewrite],
    deadline: Option<Instant>,
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<Compacted> {
    let mut out = Compacted::default();
    let before = writer.stats();
    let (mut rest, mut bytes) = (rewrites, 0_u64);
    let goes_on = || !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline);
    while !rest.is_empty() && goes_on() {
        let batch = rest.get(..first_of(rest, BATCH_CHUNKS, Rewrite::chunks)).unwrap_or(rest);
        // Nobody else moves chunks: this holds until they have moved.
        let contents = contents(writer.repository(), batch)?;
        let order = Order::of(writer.repository(), &contents)?;
        let (mut batch, mut contents) = (batch, &contents[..]);
        while !batch.is_empty() && goes_on() {
            let round = first_of(batch, ROUND_BYTES, |rewrite| rewrite.live_bytes);
            let (now, later) = batch.split_at(round);
            let (what, whats_later) = contents.split_at(round);
            let mut chunks: Vec<Moving> = what.iter().flat_map(|contents| contents.live.iter().copied()).collect();
            order.sort(&mut chunks);
            out.moved_chunks += chunks.len() as u64;
            store_again(writer, &chunks)?;
            let emptied = now.iter().zip(what).map(|(rewrite, contents)| (rewrite.info, &contents.dead[..]));
            free(writer, &emptied.collect::<Vec<_>>(), &mut out)?;
            bytes = now.iter().fold(bytes, |sum, rewrite| sum.saturating_add(rewrite.live_bytes));
            progress(bytes);
            (batch, contents) = (later, whats_later);
            rest = rest.get(round..).unwrap_or_default();
        }
    }
    out.packages_left = rest.len() as u64;
    out.written = writer.stats().stored_bytes - before.stored_bytes;
    Ok(out)
}

/// Makes the content of one restore point sequential: all its chunks, in the order of its tree, in new packages. `progress` is
/// told the bytes of content so far.
///
/// # Errors
/// As [`compact`]; it needs room for the whole point, as stored.
pub fn sequence(writer: &Writer, point: &PointRecord, stop: &AtomicBool, progress: &dyn Fn(u64)) -> Result<Compacted> {
    let before = writer.stats();
    let repository = writer.repository();
    let packages: HashMap<u32, PackageInfo> =
        repository.index().packages()?.into_iter().map(|p| (p.number, p)).collect();
    let (mut touched, mut moved, mut bytes) = (Homes::default(), 0, 0_u64);
    let (mut batch, mut seen) = (Vec::new(), HashSet::new());
    let mut extents = extents(repository, point).peekable();
    while let Some(chunk) = extents.next() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Interrupted,
                "stopped; chunks that were stored again are where they were, too",
            ));
        }
        let chunk = chunk?;
        batch.extend(seen.insert(chunk).then_some(chunk));
        if (batch.len() as u64) < BATCH_CHUNKS && extents.peek().is_some() {
            continue;
        }
        let places = repository.locate_many(&batch)?;
        let (mut moving, mut homes) = (Vec::with_capacity(batch.len()), Vec::new());
        bytes = places.iter().flatten().fold(bytes, |sum, place| sum.saturating_add(u64::from(place.len)));
        for (id, place) in batch.drain(..).zip(places) {
            let place = place.ok_or_else(|| lost(&id))?;
            // A package that was not there before holds what an earlier batch has moved.
            let Some(info) = packages.get(&place.package) else { continue };
            if touched.is_whole(repository, info)? {
                moving.push(Moving { kind: SegmentKind::Data, id, at: place });
                homes.push(place.package);
            }
        }
        touched.packages.extend(homes);
        moved += moving.len() as u64;
        store_again(writer, &moving)?;
        progress(bytes);
        seen.clear();
    }
    let damaged = touched.known.values().filter_map(|(id, is_whole)| (!is_whole).then_some(*id)).collect();
    let mut out = Compacted { moved_chunks: moved, damaged, ..Compacted::default() };
    let touched = touched.packages.iter().filter_map(|number| packages.get(number));
    free(writer, &touched.map(|info| (*info, &[][..])).collect::<Vec<_>>(), &mut out)?;
    out.written = writer.stats().stored_bytes - before.stored_bytes;
    Ok(out)
}

/// The packages that a point's content is in.
#[derive(Default)]
struct Homes {
    /// Out of which chunks move.
    packages: BTreeSet<u32>,
    /// Whether each that was looked at is whole.
    known: HashMap<u32, (PackageId, bool)>,
}

impl Homes {
    fn is_whole(&mut self, repository: &Repository, info: &PackageInfo) -> Result<bool> {
        if let Some((_, is_whole)) = self.known.get(&info.number) {
            return Ok(*is_whole);
        }
        let is_whole = scan_package(&**repository.packages(), &info.id)?.is_whole();
        self.known.insert(info.number, (info.id, is_whole));
        Ok(is_whole)
    }
}

/// The content chunks of a point in the order of its tree, as often as it has them.
fn extents(repository: &Repository, point: &PointRecord) -> impl Iterator<Item = Result<ChunkId>> {
    range(repository, &point.root, &[]).filter_map(|entry| {
        let chunk = entry.and_then(|entry| match Key::decode(entry.key())? {
            Key::Extent(..) => Ok(Some(Extent::decode(entry.value())?.chunk)),
            _ => Ok(None),
        });
        chunk.transpose()
    })
}

/// Where the newest points read chunks: what they do not read has no place.
struct Order(HashMap<ChunkId, u64>);

impl Order {
    /// For the content of some packages.
    fn of(repository: &Repository, contents: &[Contents]) -> Result<Self> {
        let live = contents.iter().flat_map(|contents| &contents.live);
        let data = live.filter(|chunk| chunk.kind == SegmentKind::Data);
        let mut out: HashMap<ChunkId, u64> = data.map(|chunk| (chunk.id, u64::MAX)).collect();
        let (mut waiting, mut next) = (out.len(), 0);
        let points = Points::new(repository.point_records()?);
        for group in super::retention::groups(points.all().to_vec()).into_values() {
            let Some(newest) = group.last().filter(|_| waiting > 0) else { continue };
            for id in extents(repository, newest) {
                let Some(place) = out.get_mut(&id?).filter(|place| **place == u64::MAX) else { continue };
                (*place, next, waiting) = (next, next + 1, waiting - 1);
                if waiting == 0 {
                    break;
                }
            }
        }
        Ok(Self(out))
    }

    /// Content in this order; what has no place keeps its order behind that.
    fn sort(&self, chunks: &mut [Moving]) {
        chunks.sort_by_key(|chunk| match chunk.kind {
            SegmentKind::Data => (0, self.0.get(&chunk.id).copied().unwrap_or(u64::MAX)),
            _ => (1, 0),
        });
    }
}

fn lost(id: &ChunkId) -> Error {
    Error::damaged(format!("chunk {id} is not in the index; compact ends here"))
        .advise("nothing is lost by that; 'relict-maint check' says which files need it")
}

/// How many come together to at most so much, but one at least.
fn first_of(rewrites: &[Rewrite], most: u64, amount: impl Fn(&Rewrite) -> u64) -> usize {
    let mut sum = 0_u64;
    let fits = rewrites.iter().take_while(|rewrite| {
        sum = sum.saturating_add(amount(rewrite));
        sum <= most
    });
    fits.count().max(1).min(rewrites.len())
}

/// Stores chunks again in this order.
fn store_again(writer: &Writer, chunks: &[Moving]) -> Result<()> {
    let mut buffers = HashMap::<u8, (Vec<(ChunkId, u32)>, Vec<u8>)>::new();
    for Moving { kind, id, at } in chunks {
        let chunk = writer.repository().chunk_in(id, Some(*at))?;
        // What is written again under a new checksum must be what its name says.
        if writer.chunk_id(&chunk) != *id {
            return Err(Error::damaged(format!(
                "chunk {id} does not have the content that its id names; compact ends here"
            ))
            .advise("nothing is lost by that; 'relict-maint check --read-data' says which files need it"));
        }
        let (table, raw) = buffers.entry(*kind as u8).or_default();
        table.push((*id, chunk.len() as u32));
        raw.extend_from_slice(&chunk);
        if raw.len() >= SEGMENT_BYTES || matches!(kind, SegmentKind::Point | SegmentKind::State) {
            writer.store_segment(*kind, table, raw)?;
            table.clear();
            raw.clear();
        }
    }
    for kind in [SegmentKind::Data, SegmentKind::Node] {
        if let Some((table, raw)) = buffers.get(&(kind as u8)) {
            writer.store_segment(kind, table, raw)?;
        }
    }
    announce("chunks-appended");
    writer.finish()?;
    announce("chunks-moved");
    Ok(())
}

/// Frees what the index does not name of `packages` any more, and what is dead; counts it in `out`.
fn free(writer: &Writer, packages: &[(PackageInfo, &[ChunkId])], out: &mut Compacted) -> Result<()> {
    for ((info, _), freed) in packages.iter().zip(writer.free_unnamed(packages)?) {
        match freed {
            Freed::Bytes(bytes) => (out.freed, out.packages) = (out.freed + bytes, out.packages + 1),
            Freed::Damaged => out.damaged.push(info.id),
        }
    }
    announce("old-places-freed");
    writer.settle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_many_small_chunks_is_not_small() {
        assert!(is_small(1 << 20, 100));
        assert!(!is_small(PACKAGE_BYTES, 100));
        // It was sealed for its chunks, and so would be the one that it is rewritten to.
        assert!(!is_small(1 << 20, PACKAGE_CHUNKS as u64));
    }
}
