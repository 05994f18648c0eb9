//! Where chunks go: the narrow seam between ingest and the store.

use crate::Result;
use crate::store::Search;
use repo_format::ChunkId;

/// Takes chunks of content. One for all threads of a run.
pub trait ChunkSink: Sync {
    /// The id of a chunk with these bytes.
    fn chunk_id(&self, bytes: &[u8]) -> ChunkId;

    /// For each id, whether it is new: then the caller must store the chunk in this run. An id that is
    /// stored, was claimed before, or stands earlier in `ids`, is not new.
    ///
    /// # Errors
    /// When the index cannot be asked.
    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>>;

    /// Whether anything stored is known to be lost, so that it is worth asking [`ChunkSink::lacks`].
    fn knows_damage(&self) -> bool {
        false
    }

    /// Whether one of these chunks, which a restore point names, is lost as far as is known.
    ///
    /// # Errors
    /// When the index cannot be asked.
    fn lacks(&self, _ids: &[ChunkId]) -> Result<bool> {
        Ok(false)
    }

    /// Stores claimed chunks as a segment, given with their lengths in bytes; `raw` is all of them, one after the other.
    ///
    /// # Errors
    /// When they cannot be stored. The run is over then.
    fn store_content(&self, search: Search, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()>;
}
