//! What restore points need: every node and chunk below a set of roots, sorted by id. Prune compares it with the index,
//! which has the same order, so that neither has to be held in memory (SPEC.md section 10).

use super::sorter::{SORT_BYTES, Sorted, Sorter};
use super::tree::{Lost, NodeVisitor, walk_nodes};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{NodeRef, Repository};
use repo_format::{ChunkId, Extent, Key};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// The ids of chunks that are needed.
pub type Needed = Sorted<32>;

struct Marker<'a> {
    out: Sorter<32>,
    /// Nodes that were walked, by half of their ids: sixteen bytes of a keyed hash are as good a name as all.
    walked: HashSet<[u8; 16]>,
    /// In trees that others took the place of: where to ask what is still there. Nothing else of them is needed.
    left: Option<&'a Repository>,
    stop: &'a AtomicBool,
}

impl Marker<'_> {
    fn need(&mut self, ids: &[ChunkId]) -> Result<()> {
        match self.left {
            None => ids.iter().try_for_each(|id| self.out.push(id.0)),
            Some(repository) => {
                let found = repository.index().locate_many(ids)?;
                let there = ids.iter().zip(found).filter(|(_, at)| at.is_some());
                there.map(|(id, _)| *id).try_for_each(|id| self.out.push(id.0))
            }
        }
    }
}

impl NodeVisitor for Marker<'_> {
    fn enter(&mut self, id: &ChunkId) -> Result<bool> {
        let half = id.0.first_chunk().copied().unwrap_or_default();
        let new = self.walked.insert(half);
        if new {
            self.need(&[*id])?;
        }
        Ok(new)
    }

    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped before anything was removed"));
        }
        if node.level() > 0 {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for (key, value) in (0..node.len()).filter_map(|index| node.entry(index)) {
            if let Key::Extent(..) = Key::decode(key)? {
                chunks.push(Extent::decode(value)?.chunk);
            }
        }
        self.need(&chunks)
    }

    fn lost(&mut self, lost: Lost) -> Result<()> {
        if self.left.is_some() { Ok(()) } else { Err(lost.error) }
    }
}

/// Everything below `roots`, and `others` themselves. Nodes that trees share are read once. Of what is below `left`, the roots of
/// trees that others took the place of, by a repair too, only what is still there: the rest nobody can show any more.
///
/// # Errors
/// `Damaged` when a node cannot be read: what lies below it cannot be known then. `Interrupted` once `stop` is set.
pub fn mark(
    repository: &Repository,
    roots: &[ChunkId],
    left: &[ChunkId],
    others: &[ChunkId],
    stop: &AtomicBool,
) -> Result<Needed> {
    let mut marker = Marker { out: Sorter::new(SORT_BYTES), walked: HashSet::new(), left: None, stop };
    others.iter().try_for_each(|id| marker.out.push(id.0))?;
    for root in roots {
        walk_nodes(repository, root, &mut marker).map_err(|e| match e.kind() {
            ErrorKind::Damaged => e.context("a restore point's tree cannot be read, so what it needs is not known").advise(
                "nothing was removed; 'relict-maint check' names what is damaged: mend that first, or forget the restore point",
            ),
            _ => e,
        })?;
    }
    marker.left = Some(repository);
    left.iter().try_for_each(|root| walk_nodes(repository, root, &mut marker))?;
    marker.out.finish()
}
