//! What a view stands on: tree nodes, chunks and the list of restore points. The repository is one, memory another.

use crate::Result;
use crate::catalog::tree::ReadNodes;
use crate::store::{Chunk, Location, Repository};
use repo_format::{ChunkId, PointId, PointRecord};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// A verified chunk in memory. Cloning is cheap and keeps the bytes alive.
#[derive(Clone)]
pub enum ChunkRef {
    /// A part of a decompressed segment.
    Stored(Chunk),
    /// Bytes of their own.
    Bytes(Arc<[u8]>),
}

impl Deref for ChunkRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Stored(chunk) => chunk,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// How big the repository is, for `df`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreFigures {
    /// Bytes of all packages as stored.
    pub stored_bytes: u64,
    /// Bytes before deduplication and compression; 0 when unknown.
    pub raw_bytes: u64,
}

/// A source of tree nodes, chunks and restore points. Caching is the implementor's business.
pub trait Backing: ReadNodes {
    /// A chunk, verified.
    ///
    /// # Errors
    /// `Damaged` when it is missing or wrong, `Io` when it cannot be read.
    fn chunk(&self, id: &ChunkId) -> Result<ChunkRef>;

    /// Whether [`Backing::chunk`] would answer from memory, as far as can be told at once.
    fn at_hand(&self, _id: &ChunkId) -> bool {
        true
    }

    /// All restore points to show, in any order.
    ///
    /// # Errors
    /// When the list cannot be read.
    fn points(&self) -> Result<Vec<Arc<PointRecord>>>;

    /// Sees what a writer has committed since the last call.
    ///
    /// # Errors
    /// When that cannot be read.
    fn refresh(&self) -> Result<()>;

    /// These points are not shown any more, and need not be kept for it.
    fn release(&self, _points: &[PointId]) {}

    /// The directory it is in, if it is in one.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// What `mount` shows as the source of the file system.
    fn name(&self) -> String {
        "relict".to_string()
    }

    /// Figures of the store.
    fn stats(&self) -> StoreFigures;

    /// Bytes of content and tree nodes in memory.
    fn cache_bytes(&self) -> u64 {
        0
    }

    /// Loads chunks into the cache; the caller has set a thread aside for it. Errors show when the chunk is read.
    fn prefetch(&self, _ids: &[ChunkId]) {}
}

impl Backing for Repository {
    fn chunk(&self, id: &ChunkId) -> Result<ChunkRef> {
        Self::chunk(self, id).map(ChunkRef::Stored)
    }

    fn at_hand(&self, id: &ChunkId) -> bool {
        self.is_cached(id)
    }

    fn points(&self) -> Result<Vec<Arc<PointRecord>>> {
        Ok(self.shown_points()?.into_iter().map(Arc::new).collect())
    }

    fn refresh(&self) -> Result<()> {
        Self::refresh(self)
    }

    fn release(&self, points: &[PointId]) {
        Self::release(self, points);
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.path())
    }

    fn name(&self) -> String {
        self.path().canonicalize().unwrap_or_else(|_| self.path().to_path_buf()).display().to_string()
    }

    fn cache_bytes(&self) -> u64 {
        Self::cache_bytes(self)
    }

    fn stats(&self) -> StoreFigures {
        let packages = self.index().packages().unwrap_or_default();
        StoreFigures {
            stored_bytes: packages.iter().map(|package| package.bytes).fold(0, u64::saturating_add),
            raw_bytes: 0,
        }
    }

    fn prefetch(&self, ids: &[ChunkId]) {
        let Ok(places) = self.locate_many(ids) else { return };
        let segments: BTreeSet<Location> =
            places.into_iter().flatten().map(|at| Location { skip: 0, len: 0, ..at }).collect();
        for at in segments {
            // An error is reported by the read that needs the chunk.
            let _ = self.segment(&at);
        }
    }
}
