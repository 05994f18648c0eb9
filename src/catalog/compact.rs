//! Compact: chunks that are still needed move out of packages that are mostly dead or small, side by side with what is
//! read together with them; the old packages go (SPEC.md section 10).
//!
//! A moved chunk is stored again first, durably and indexed; only then is its old place freed, by the same journal that
//! prune uses. So a chunk always has a place, and a compaction that was killed has cost room and nothing else.

use super::points::Points;
use super::prune::{Plan, PruneOptions, plan};
use super::tree::range;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Location, PACKAGE_BYTES, PackageInfo, Repository, Writer, announce, scan_package};
use repo_format::{ChunkId, Extent, Key, PackageKind, PointRecord, SegmentKind};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Content bytes of a segment that compact writes.
const SEGMENT_BYTES: usize = 256 << 10;
/// Packages below this share of a full one are merged with others.
const SMALL_SHARE: f64 = 0.25;
/// Bytes moved before the old places are freed: what compact needs free on the disk.
const ROUND_BYTES: u64 = 2 * PACKAGE_BYTES;

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
    /// What moves: in which kind of segment each chunk stands, in physical order.
    chunks: Vec<(SegmentKind, ChunkId)>,
    /// What nobody needs and the index still names in it.
    dead: Vec<ChunkId>,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
}

/// Which packages to rewrite, those with the least live bytes first. Nothing is changed.
///
/// # Errors
/// As [`plan`].
pub fn plan_compact(writer: &Writer, options: &CompactOptions<'_>) -> Result<Vec<Rewrite>> {
    let repository = writer.repository();
    // What is forgotten can be brought back: compact removes no restore point.
    let states = repository.index().states()?;
    let keep = states.keys().map(|id| (*id, String::new())).collect();
    let as_before = repository.index().points()?.into_iter().map(|(id, _)| id).collect();
    let dead = plan(writer, &PruneOptions { keep, as_before, discard_unfinished: false, stop: options.stop })?;
    let dead_ids = dead.dead_by_package()?;
    let mut small = HashMap::<PackageKind, Vec<Rewrite>>::new();
    let mut out = Vec::new();
    for info in
        repository.index().packages()?.into_iter().filter(|info| info.sealed && !dead.unfinished.contains(&info.number))
    {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped before anything was changed"));
        }
        let occupied = repository.packages().occupied(&info.id)?;
        let gone = dead_ids.get(&info.number);
        let is_small = (info.bytes as f64) < PACKAGE_BYTES as f64 * SMALL_SHARE;
        let has_holes = (occupied as f64) < info.bytes as f64 * 0.95;
        if gone.is_none() && !is_small && !has_holes {
            continue;
        }
        let indexed = dead.indexed.get(&info.number).copied().unwrap_or(0);
        let rewrite = measure(repository, info, occupied, gone, indexed)?;
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
    Ok(out)
}

fn measure(
    repository: &Repository,
    info: PackageInfo,
    occupied: u64,
    gone: Option<&HashSet<ChunkId>>,
    indexed: u64,
) -> Result<Rewrite> {
    let scanned = scan_package(&**repository.packages(), &info.id)?;
    let dead = gone.map(|gone| gone.iter().copied().collect()).unwrap_or_default();
    // Without a chunk that another package has too, there is nothing to look up.
    let plain = scanned.segments.iter().map(|found| found.header.table.len() as u64).sum::<u64>() == indexed;
    let mut out = Rewrite { info, live_bytes: 0, occupied, chunks: Vec::new(), dead };
    for found in &scanned.segments {
        let ids: Vec<ChunkId> = found.header.table.iter().map(|row| row.id).collect();
        let places = if plain { vec![None; ids.len()] } else { repository.index().locate_many(&ids)? };
        let mut live = 0;
        for (row, place) in found.header.table.iter().zip(places) {
            let at_home = |at: Location| at.package == info.number && u64::from(at.offset) == found.offset;
            let here = plain || place.is_some_and(at_home);
            if here && gone.is_none_or(|gone| !gone.contains(&row.id)) {
                live += u64::from(row.raw_bytes);
                out.chunks.push((found.header.kind, row.id));
            }
        }
        out.live_bytes += found.header.segment_bytes() * live / found.header.raw_bytes().max(1);
    }
    Ok(out)
}

/// Rewrites packages, in rounds, until `deadline` or `stop`. Content goes in the order of the newest restore points.
///
/// # Errors
/// When the medium fails, `NoSpace` above all: compact needs about two packages of room. Nothing is lost.
pub fn compact(
    writer: &Writer,
    rewrites: &[Rewrite],
    deadline: Option<Instant>,
    stop: &AtomicBool,
) -> Result<Compacted> {
    let mut out = Compacted::default();
    let before = writer.stats();
    let mut rest = rewrites;
    while !rest.is_empty() && !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline)
    {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|rewrite| {
            bytes += rewrite.live_bytes;
            bytes <= ROUND_BYTES
        });
        let (round, later) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = later;
        let chunks: Vec<_> = round.iter().flat_map(|rewrite| rewrite.chunks.iter().copied()).collect();
        out.moved_chunks += chunks.len() as u64;
        out.freed += move_chunks(
            writer,
            &in_reading_order(writer.repository(), chunks)?,
            round.iter().map(|r| (r.info, &r.dead[..])),
        )?;
        out.packages += round.len() as u64;
    }
    out.packages_left = rest.len() as u64;
    out.written = writer.stats().stored_bytes - before.stored_bytes;
    Ok(out)
}

/// Makes the content of one restore point sequential: all its chunks, in the order of its tree, in new packages.
///
/// # Errors
/// As [`compact`]; it needs room for the whole point, as stored.
pub fn sequence(writer: &Writer, point: &PointRecord, stop: &AtomicBool) -> Result<Compacted> {
    let before = writer.stats();
    let order = extents(writer.repository(), point, stop)?;
    let packages: HashMap<u32, PackageInfo> =
        writer.repository().index().packages()?.into_iter().map(|p| (p.number, p)).collect();
    let mut touched = Vec::new();
    for place in writer.repository().locate_many(&order)?.into_iter().flatten() {
        touched.extend(packages.get(&place.package).copied());
    }
    touched.sort_unstable_by_key(|info| info.number);
    touched.dedup();
    let moving: Vec<_> = order.into_iter().map(|id| (SegmentKind::Data, id)).collect();
    let freed = move_chunks(writer, &moving, touched.iter().map(|info| (*info, &[][..])))?;
    let written = writer.stats().stored_bytes - before.stored_bytes;
    Ok(Compacted {
        moved_chunks: moving.len() as u64,
        written,
        freed,
        packages: touched.len() as u64,
        packages_left: 0,
    })
}

/// The content chunks of a point in the order of its tree, each once.
fn extents(repository: &Repository, point: &PointRecord, stop: &AtomicBool) -> Result<Vec<ChunkId>> {
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    for entry in range(repository, &point.root, &[]) {
        let entry = entry?;
        if let Key::Extent(..) = Key::decode(entry.key())? {
            let chunk = Extent::decode(entry.value())?.chunk;
            if seen.insert(chunk) {
                out.push(chunk);
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped before anything was changed"));
        }
    }
    Ok(out)
}

/// Content in the order in which the newest points read it; what they do not read keeps its order behind that.
fn in_reading_order(
    repository: &Repository,
    chunks: Vec<(SegmentKind, ChunkId)>,
) -> Result<Vec<(SegmentKind, ChunkId)>> {
    let mut waiting: HashSet<ChunkId> =
        chunks.iter().filter(|(kind, _)| *kind == SegmentKind::Data).map(|(_, id)| *id).collect();
    let mut out = Vec::with_capacity(chunks.len());
    let points = Points::new(repository.point_records()?);
    for group in super::retention::groups(points.all().to_vec()).into_values() {
        let Some(newest) = group.last().filter(|_| !waiting.is_empty()) else { continue };
        for id in extents(repository, newest, &AtomicBool::new(false))? {
            if waiting.remove(&id) {
                out.push((SegmentKind::Data, id));
            }
        }
    }
    out.extend(chunks.into_iter().filter(|(kind, id)| *kind != SegmentKind::Data || waiting.remove(id)));
    Ok(out)
}

/// Stores chunks again in this order, then frees what the index does not name of `packages` any more, and what is dead.
fn move_chunks<'a>(
    writer: &Writer,
    chunks: &[(SegmentKind, ChunkId)],
    packages: impl Iterator<Item = (PackageInfo, &'a [ChunkId])>,
) -> Result<u64> {
    let mut buffers = HashMap::<u8, (Vec<(ChunkId, u32)>, Vec<u8>)>::new();
    for (kind, id) in chunks {
        let chunk = writer.repository().chunk(id)?;
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
    writer.finish()?;
    announce("chunks-moved");
    let mut freed = 0;
    for (info, dead) in packages {
        freed += writer.free_unnamed(info.number, &info.id, dead)?;
        announce("old-place-freed");
    }
    writer.settle()?;
    Ok(freed)
}

impl Plan {
    /// What nobody needs, by package. For packages that compact may rewrite, so as large as the dead part of the index.
    fn dead_by_package(&self) -> Result<HashMap<u32, HashSet<ChunkId>>> {
        let mut out = HashMap::<u32, HashSet<ChunkId>>::new();
        for row in self.dead_rows()? {
            let (package, _, id) = row?;
            out.entry(package).or_default().insert(id);
        }
        Ok(out)
    }
}
