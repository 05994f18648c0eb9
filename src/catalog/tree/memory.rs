//! A node store in memory that counts: what tests of every room build trees in.

use super::{NodeRef, ReadNodes, WriteNodes};
use crate::{Error, Result};
use repo_format::{ChunkId, Node};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nodes by unkeyed id. Write through `&mut &store` while others read.
#[derive(Default)]
pub struct MemoryNodes {
    nodes: Mutex<HashMap<ChunkId, NodeRef>>,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl MemoryNodes {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls of `node` so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Calls of `write_node` so far, of nodes known before too.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Sets both counters to zero.
    pub fn reset_counts(&self) {
        self.reads.store(0, Ordering::Relaxed);
        self.writes.store(0, Ordering::Relaxed);
    }

    /// Number of different nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Damage for tests: forgets a node, or puts another in its place under the same id.
    ///
    /// # Errors
    /// When `bytes` do not decode.
    pub fn replace(&self, id: &ChunkId, bytes: Option<&[u8]>) -> Result<()> {
        match bytes {
            Some(bytes) => self.lock().insert(*id, Arc::new(Node::decode(bytes.into())?)),
            None => self.lock().remove(id),
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChunkId, NodeRef>> {
        // No code panics while it holds the map half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadNodes for MemoryNodes {
    fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let found = self.lock().get(id).cloned();
        found.ok_or_else(|| Error::damaged(format!("tree node {id} is missing")))
    }
}

impl WriteNodes for &MemoryNodes {
    fn write_node(&mut self, bytes: Vec<u8>) -> Result<ChunkId> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let id = ChunkId::of(None, &bytes);
        let node = Arc::new(Node::decode(bytes.into_boxed_slice())?);
        self.lock().insert(id, node);
        Ok(id)
    }
}

impl WriteNodes for MemoryNodes {
    fn write_node(&mut self, bytes: Vec<u8>) -> Result<ChunkId> {
        (&mut &*self).write_node(bytes)
    }
}
