//! Gathering the new chunks of one worker until they make a segment.

use super::sink::ChunkSink;
use crate::Result;
use crate::store::Search;
use repo_format::ChunkId;

/// What segments are filled with. How long they get and how hard they are searched follows from it: long ones take less room, and
/// whoever reads a few bytes of one decompresses all of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filling {
    /// Whole small files: many of them together compress far better, and are read together.
    SmallFiles,
    /// Pieces of a large file. A second search would take 3 % off a database and nothing off a log, and compression a quarter
    /// longer.
    LargeFile,
    /// Pieces of a file of at least [`HUGE_FILE_BYTES`]: a disk image or a database, often most of what is stored. Images get
    /// 4 % smaller than as large files, and 4 KiB at a random place take a third longer.
    HugeFile,
}

/// Bytes of a file from which on it is huge.
pub(super) const HUGE_FILE_BYTES: u64 = 1 << 30;

impl Filling {
    /// Uncompressed bytes of a segment.
    const fn segment_bytes(self) -> usize {
        match self {
            Self::SmallFiles => 512 << 10,
            Self::LargeFile => 256 << 10,
            Self::HugeFile => 384 << 10,
        }
    }

    const fn search(self) -> Search {
        match self {
            Self::LargeFile => Search::Once,
            Self::SmallFiles | Self::HugeFile => Search::Twice,
        }
    }
}

/// The segment a worker is filling.
///
/// It stays open between batches, so that a backup in which few chunks are new still makes whole
/// segments: they compress better than scraps.
pub(super) struct Packer {
    filling: Filling,
    raw: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

impl Packer {
    pub(super) fn new(filling: Filling) -> Self {
        Self { filling, raw: Vec::new(), chunks: Vec::new() }
    }

    /// Adds a claimed chunk; stores the segment first if it is nearer to its target without the chunk.
    pub(super) fn add(&mut self, sink: &dyn ChunkSink, id: ChunkId, bytes: &[u8]) -> Result<()> {
        if self.raw.len() + bytes.len() / 2 > self.filling.segment_bytes() {
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
        if self.raw.len() * 4 >= self.filling.segment_bytes() * 3 { self.flush(sink) } else { Ok(()) }
    }

    /// Stores what is there.
    pub(super) fn flush(&mut self, sink: &dyn ChunkSink) -> Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let stored = sink.store_content(self.filling.search(), &self.chunks, &self.raw);
        self.raw.clear();
        self.chunks.clear();
        stored
    }
}
