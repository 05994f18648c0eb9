//! What applying a stream needs of the store: chunks in and out, tree nodes in and out.

use crate::Result;
use crate::catalog::edits::SortedEdits;
use crate::catalog::tree::{self, ReadNodes};
use crate::ingest::sink::ChunkSink;
use crate::store::Writer;
use repo_format::ChunkId;

/// The narrow seam to the repository; the tests have one in memory that counts.
pub(super) trait Store: ChunkSink {
    /// Where tree nodes are read.
    fn nodes(&self) -> &dyn ReadNodes;

    /// Shows `with` the bytes of a chunk that a sealed state names, or that this run stored before the last `settle`.
    fn chunk(&self, id: &ChunkId, with: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Makes everything stored so far readable, and durable.
    fn settle(&self) -> Result<()>;

    /// The tree `root`, or the empty one, with `edits`. With `readable`, everything stored so far can be read
    /// when this returns; without, a seal follows.
    fn apply(&self, root: Option<&ChunkId>, edits: SortedEdits, readable: bool) -> Result<ChunkId>;
}

impl Store for Writer {
    fn nodes(&self) -> &dyn ReadNodes {
        &**self.repository()
    }

    fn chunk(&self, id: &ChunkId, with: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.repository().chunk(id).map(|chunk| with(&chunk))
    }

    fn settle(&self) -> Result<()> {
        self.checkpoint()
    }

    fn apply(&self, root: Option<&ChunkId>, edits: SortedEdits, readable: bool) -> Result<ChunkId> {
        let root = self.write_nodes(|packer| tree::apply(Store::nodes(self), root, edits, packer))?;
        if readable {
            self.checkpoint()?;
        }
        Ok(root)
    }
}
