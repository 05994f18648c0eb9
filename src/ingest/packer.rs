//! Gathering the new chunks of one worker until they make a segment.

use super::sink::ChunkSink;
use crate::Result;
use repo_format::{ChunkId, SegmentKind};

/// The segment a worker is filling.
///
/// It stays open between batches, so that a backup in which few chunks are new still makes whole
/// segments: they compress better than scraps.
pub(super) struct Packer {
    target_bytes: usize,
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl Packer {
    /// An empty segment that is closed at about `target_bytes` of content.
    pub(super) fn new(target_bytes: usize) -> Self {
        Self { target_bytes, raw: Vec::new(), chunks: Vec::new() }
    }

    /// Adds a claimed chunk; stores the segment first if it is nearer to its target without the chunk.
    pub(super) fn add(&mut self, sink: &dyn ChunkSink, id: ChunkId, bytes: &[u8]) -> Result<()> {
        if self.raw.len() + bytes.len() / 2 > self.target_bytes {
            self.flush(sink)?;
        }
        self.raw.extend_from_slice(bytes);
        // Chunks are at most 8 MiB.
        self.chunks.push((id, bytes.len() as u32));
        Ok(())
    }

    /// Stores the segment if it is nearly full: a natural end, such as that of a batch of files, is a
    /// better border than the middle of the next one.
    pub(super) fn end_group(&mut self, sink: &dyn ChunkSink) -> Result<()> {
        if self.raw.len() * 4 >= self.target_bytes * 3 { self.flush(sink) } else { Ok(()) }
    }

    /// Stores what is there.
    pub(super) fn flush(&mut self, sink: &dyn ChunkSink) -> Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let stored = sink.store_segment(SegmentKind::Data, &self.chunks, &self.raw);
        self.raw.clear();
        self.chunks.clear();
        stored
    }
}
