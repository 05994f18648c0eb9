//! Nodes of the tree that was read last, kept for the next one: points of a chain share nearly all of theirs.

use crate::Result;
use crate::catalog::tree::{NodeRef, ReadNodes};
use repo_format::ChunkId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Nodes kept of one point; more are read again. About 16 KiB each.
const MOST_NODES: usize = 512;

/// Reads nodes once, as long as each point needs those of the point before it.
pub struct Memo<'n> {
    nodes: &'n dyn ReadNodes,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    before: HashMap<ChunkId, NodeRef>,
    now: HashMap<ChunkId, NodeRef>,
}

impl<'n> Memo<'n> {
    /// An empty memo over `nodes`.
    #[must_use]
    pub fn new(nodes: &'n dyn ReadNodes) -> Self {
        Self { nodes, kept: Mutex::default() }
    }

    /// The next point begins: what the last one did not need is let go.
    pub fn next_point(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.before = std::mem::take(&mut kept.now);
    }
}

impl ReadNodes for Memo<'_> {
    fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = kept.now.get(id) {
            return Ok(NodeRef::clone(node));
        }
        let node = match kept.before.get(id) {
            Some(node) => NodeRef::clone(node),
            None => self.nodes.node(id)?,
        };
        if kept.now.len() < MOST_NODES {
            kept.now.insert(*id, NodeRef::clone(&node));
        }
        Ok(node)
    }
}
