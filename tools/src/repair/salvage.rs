//! Storing again what can still be read: chunks of damaged packages, spare copies, and what other sources gave.

use relict::store::{Location, PackageInfo, Repository, Segment, Writer};
use relict::{Error, Result};
use repo_format::{ChunkId, Node, PackageKind, PointRecord, PointState, SegmentKind};
use std::collections::{HashMap, HashSet};

/// Chunks are collected up to so many bytes before they become a segment.
const SEGMENT_BYTES: usize = 256 << 10;

/// Stores chunks again, whether the index knows them or not: its rows are to lead to the new place.
pub struct Restorer<'a> {
    writer: &'a Writer,
    data: Batch,
    nodes: Batch,
    /// Records of all kinds: each has a segment of its own.
    records: Vec<(SegmentKind, ChunkId, Vec<u8>)>,
    stored: HashSet<ChunkId>,
}

#[derive(Default)]
struct Batch {
    chunks: Vec<(ChunkId, u32)>,
    raw: Vec<u8>,
}

impl Batch {
    fn flush(&mut self, writer: &Writer, kind: SegmentKind) -> Result<()> {
        writer.store_segment(kind, &self.chunks, &self.raw)?;
        self.chunks.clear();
        self.raw.clear();
        Ok(())
    }
}

impl<'a> Restorer<'a> {
    pub fn new(writer: &'a Writer) -> Self {
        Self { writer, data: Batch::default(), nodes: Batch::default(), records: Vec::new(), stored: HashSet::new() }
    }

    /// Takes a chunk, once. Its bytes must have its id.
    pub fn store(&mut self, kind: SegmentKind, id: &ChunkId, bytes: &[u8]) -> Result<()> {
        if self.writer.chunk_id(bytes) != *id {
            return Err(Error::damaged(format!("chunk {id} changed while it was being repaired")));
        }
        if !self.stored.insert(*id) {
            return Ok(());
        }
        let batch = match kind {
            SegmentKind::Data => &mut self.data,
            SegmentKind::Node => &mut self.nodes,
            other => {
                self.records.push((other, *id, bytes.to_vec()));
                return Ok(());
            }
        };
        batch.chunks.push((*id, bytes.len() as u32));
        batch.raw.extend_from_slice(bytes);
        if batch.raw.len() >= SEGMENT_BYTES {
            batch.flush(self.writer, kind)?;
        }
        Ok(())
    }

    /// Makes all of it durable, in the order of SPEC.md section 10: content, nodes, records. Gives the number of chunks.
    pub fn finish(mut self) -> Result<u64> {
        self.data.flush(self.writer, SegmentKind::Data)?;
        self.writer.finish()?;
        self.nodes.flush(self.writer, SegmentKind::Node)?;
        self.writer.finish()?;
        for (kind, id, bytes) in &self.records {
            self.writer.store_segment(*kind, &[(*id, bytes.len() as u32)], bytes)?;
        }
        self.writer.finish()?;
        Ok(self.stored.len() as u64)
    }
}

/// What a chunk of this package is, told by its bytes where the package does not.
pub fn kind_of(package: Option<PackageKind>, bytes: &[u8]) -> SegmentKind {
    if package == Some(PackageKind::Data) {
        SegmentKind::Data
    } else if Node::decode(bytes).is_ok() {
        SegmentKind::Node
    } else if PointRecord::decode(bytes).is_ok() {
        SegmentKind::Point
    } else if PointState::decode(bytes).is_ok() {
        SegmentKind::State
    } else {
        SegmentKind::Data
    }
}

/// The chunks that the index places in damaged packages: readable, or not.
pub struct Inventory {
    /// Readable ones, in physical order.
    pub readable: Vec<(Location, ChunkId)>,
    /// The others, with the kind of their package.
    pub lost: HashMap<ChunkId, PackageKind>,
}

/// Reads every segment of damaged packages that the index knows.
pub fn inventory(repository: &Repository, packages: &[PackageInfo]) -> Result<Inventory> {
    let numbers: HashMap<u32, PackageKind> = packages.iter().map(|p| (p.number, p.kind)).collect();
    let mut out = Inventory { readable: Vec::new(), lost: HashMap::new() };
    let mut last: Option<((u32, u32), Option<Segment>)> = None;
    for (at, id) in repository.index().chunks_in(&numbers.keys().copied().collect())? {
        let place = (at.package, at.offset);
        if last.as_ref().is_none_or(|(known, _)| *known != place) {
            last = Some((place, repository.read_segment(&at).ok()));
        }
        let segment = last.as_ref().and_then(|(_, segment)| segment.as_ref());
        let bytes = segment.and_then(|segment| slice(segment, &at));
        if bytes.is_some_and(|bytes| repository.keys().chunk_id(bytes) == id) {
            out.readable.push((at, id));
        } else if let Some(kind) = numbers.get(&at.package) {
            out.lost.insert(id, *kind);
        }
    }
    Ok(out)
}

/// The bytes of a chunk in its segment.
pub fn slice<'s>(segment: &'s Segment, at: &Location) -> Option<&'s [u8]> {
    let start = at.skip as usize;
    segment.raw().get(start..start.checked_add(at.len as usize)?)
}

/// Stores the readable chunks of damaged packages again.
pub fn save(repository: &Repository, readable: &[(Location, ChunkId)], to: &mut Restorer<'_>) -> Result<()> {
    let mut last: Option<((u32, u32), Segment)> = None;
    for (at, id) in readable {
        let place = (at.package, at.offset);
        if last.as_ref().is_none_or(|(known, _)| *known != place) {
            last = Some((place, repository.read_segment(at)?));
        }
        let Some((_, segment)) = &last else { continue };
        let bytes = slice(segment, at)
            .ok_or_else(|| Error::damaged(format!("chunk {id} changed while it was being repaired")))?;
        to.store(segment.header().kind, id, bytes)?;
    }
    Ok(())
}
