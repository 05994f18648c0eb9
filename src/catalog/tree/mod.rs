//! The tree: a sorted map in content-addressed nodes, a restore point's whole metadata (SPEC.md section 6).
//!
//! Node borders depend on the entries alone, so one map has one tree however it was reached, and an
//! edit rewrites one path of nodes. `cursor` walks down, `range` reads, `apply` edits level by level
//! through `level`, `diff` compares two trees, `walk` visits every node, `memory` is the store of tests.
//! Nothing here caches and nothing here locks: readers share `ReadNodes`, a writer owns its sink.

mod apply;
mod cursor;
mod diff;
mod level;
mod memory;
mod range;
#[cfg(test)]
mod tests;
mod walk;

pub use apply::{Edit, MAX_KEY_BYTES, MAX_VALUE_BYTES, apply, empty};
pub use diff::{Change, Diff, diff, diff_range};
pub use memory::MemoryNodes;
pub use range::{Range, count, floor, get, range, range_prefix};
pub use walk::{Lost, NodeVisitor, walk_nodes};

use crate::Result;
use repo_format::{ChunkId, Node};
use std::fmt;
use std::sync::Arc;

/// A node in memory, shared by everyone who reads it.
pub type NodeRef = Arc<Node<Box<[u8]>>>;

/// Where nodes are read. Caching is the implementor's business.
pub trait ReadNodes: Send + Sync {
    /// The node with this id, verified: its bytes hash to `id` and decode.
    ///
    /// # Errors
    /// `Damaged` when the node is missing or wrong, `Io` when it cannot be read.
    fn node(&self, id: &ChunkId) -> Result<NodeRef>;
}

/// Where new nodes go.
pub trait WriteNodes {
    /// Keeps an encoded node and returns its id. A node that is already stored is not stored again.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn write_node(&mut self, bytes: Vec<u8>) -> Result<ChunkId>;
}

/// One entry of a tree, in place in its leaf.
#[derive(Clone)]
pub struct Entry {
    node: NodeRef,
    index: usize,
}

impl Entry {
    fn new(node: &NodeRef, index: usize) -> Self {
        Self { node: Arc::clone(node), index }
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.node.entry(self.index).unwrap_or_default().0
    }

    /// The value's bytes.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.node.entry(self.index).unwrap_or_default().1
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?} -> {:02x?}", self.key(), self.value())
    }
}
