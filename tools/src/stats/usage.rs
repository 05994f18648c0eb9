//! Who needs each chunk: nobody, one owner, or several. Exact, from trees and index alone; no content is read.
//!
//! An owner is a restore point or a source. Every tree node is visited twice at most: once by its first owner, and once
//! more when it turns out to have a second one; below a node that is shared, everything is.

use crate::check::ChunkTable;
use relict::Result;
use relict::catalog::tree::{Lost, NodeVisitor, walk_nodes};
use relict::store::{NodeRef, Repository};
use repo_format::{ChunkId, Extent, Key, PointRecord};

/// More than one owner needs it.
const MANY: u32 = u32::MAX;

/// The owner of each chunk, by its place in the table.
pub struct Usage<'a> {
    table: &'a ChunkTable,
    owners: Vec<u32>,
}

/// Bytes that only one owner needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Chunks.
    pub chunks: u64,
    /// Their uncompressed bytes.
    pub raw_bytes: u64,
    /// Their part of their segments' stored bytes: what a prune with rewriting frees.
    pub stored_bytes: u64,
    /// Stored bytes of the segments in which nothing else is needed: what a prune frees without writing.
    pub whole_segments_bytes: u64,
}

/// A walk through one owner's tree.
struct Mark<'u, 'a> {
    usage: &'u mut Usage<'a>,
    owner: u32,
    lost: u64,
}

impl<'a> Usage<'a> {
    pub fn new(table: &'a ChunkTable) -> Self {
        Self { table, owners: vec![0; table.len()] }
    }

    /// Marks all that a restore point needs as needed by `owner`, from 1. Gives the number of tree nodes that cannot be read.
    pub fn mark(&mut self, repository: &Repository, point: &PointRecord, record: &ChunkId, owner: u32) -> Result<u64> {
        self.own(record, owner);
        let mut mark = Mark { usage: self, owner, lost: 0 };
        walk_nodes(repository, &point.root, &mut mark)?;
        Ok(mark.lost)
    }

    /// Gives a chunk one more owner; true when its owners changed.
    fn own(&mut self, id: &ChunkId, owner: u32) -> bool {
        let Some(slot) = self.table.find(id).next().and_then(|i| self.owners.get_mut(i)) else { return true };
        let next = match *slot {
            0 => owner,
            known if known == owner => owner,
            _ => MANY,
        };
        let changed = *slot != next;
        *slot = next;
        changed
    }

    /// What each of `owners` needs alone; at 0 what nobody needs. `order` is [`ChunkTable::by_place`].
    pub fn shares(&self, owners: usize, order: &[u32]) -> Vec<Share> {
        let mut out = vec![Share::default(); owners + 1];
        let chunk = |n: &u32| Some((self.table.places().get(*n as usize)?, *self.owners.get(*n as usize)?));
        let place = |n: &u32| chunk(n).map(|(at, _)| (at.package, at.offset));
        for segment in order.chunk_by(|a, b| place(a) == place(b)) {
            let raw_bytes: u64 = segment.iter().filter_map(chunk).map(|(at, _)| u64::from(at.len)).sum();
            let mut only = 0;
            for (at, owner) in segment.iter().filter_map(chunk) {
                // A chunk that nobody needs keeps no segment.
                only = match (only, owner) {
                    (0, owner) | (owner, 0) => owner,
                    (a, b) if a == b => a,
                    _ => MANY,
                };
                if let Some(share) = out.get_mut(owner as usize) {
                    share.chunks += 1;
                    share.raw_bytes += u64::from(at.len);
                    share.stored_bytes += u64::from(at.segment_bytes) * u64::from(at.len) / raw_bytes.max(1);
                }
            }
            let stored_bytes = segment.first().and_then(chunk).map_or(0, |(at, _)| u64::from(at.segment_bytes));
            if let Some(share) = out.get_mut(only as usize) {
                share.whole_segments_bytes += stored_bytes;
            }
        }
        out
    }
}

impl NodeVisitor for Mark<'_, '_> {
    fn enter(&mut self, id: &ChunkId) -> Result<bool> {
        Ok(self.usage.own(id, self.owner))
    }

    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() == 0 {
            for (key, value) in (0..node.len()).filter_map(|i| node.entry(i)) {
                if let (Ok(Key::Extent(..)), Ok(extent)) = (Key::decode(key), Extent::decode(value)) {
                    self.usage.own(&extent.chunk, self.owner);
                }
            }
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Result<()> {
        self.lost += 1;
        Ok(())
    }
}
