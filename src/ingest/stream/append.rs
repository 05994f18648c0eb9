//! A new file that is written in order: cut as it comes, without a detour.

use super::content::ContentId;
use super::pipeline::Pipeline;
use crate::Result;
use crate::ingest::chunker::{BLOCK_BYTES, Piece, Splitter};
use crate::ingest::small::SMALL_FILE_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Content that waits uncut; a file that ends before goes to the store with others like it.
const WINDOW_BYTES: usize = SMALL_FILE_BYTES as usize;

/// The file that is being written.
pub(super) struct Appender {
    pub(super) content: ContentId,
    splitter: Splitter,
    /// Bytes from `splitter.at()` on.
    window: Vec<u8>,
    /// Something is cut already.
    started: bool,
}

impl Appender {
    /// For a content that is empty.
    pub(super) fn new(content: ContentId, pipeline: &Pipeline<'_>, window: Vec<u8>) -> Self {
        Self { content, splitter: Splitter::new(pipeline.chunker()), window, started: false }
    }

    /// Where the next byte goes if none is left out.
    pub(super) fn end(&self) -> u64 {
        self.splitter.at() + self.window.len() as u64
    }

    /// Bytes at or behind the end; what is between are zeros.
    pub(super) fn write(&mut self, pipeline: &mut Pipeline<'_>, offset: u64, data: &[u8]) -> Result<()> {
        self.skip_to(pipeline, offset)?;
        self.window.extend_from_slice(data);
        if self.window.len() >= WINDOW_BYTES { self.cut(pipeline, false) } else { Ok(()) }
    }

    /// Moves the end to `size` without anything being written; false if what must go is cut already.
    pub(super) fn truncate(&mut self, size: u64) -> bool {
        match size.checked_sub(self.splitter.at()).map(usize::try_from) {
            Some(Ok(left)) if left <= self.window.len() => {
                self.window.truncate(left);
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    fn skip_to(&mut self, pipeline: &mut Pipeline<'_>, offset: u64) -> Result<()> {
        let end = self.end();
        let to = offset - offset % BLOCK;
        let border = end.next_multiple_of(BLOCK);
        if to > border {
            self.zeros(border - end);
            self.cut(pipeline, true)?;
            self.splitter.skip_to(to);
        }
        self.zeros(offset - self.end());
        Ok(())
    }

    fn zeros(&mut self, bytes: u64) {
        // At most two blocks.
        self.window.resize(self.window.len() + usize::try_from(bytes).unwrap_or(0), 0);
    }

    fn cut(&mut self, pipeline: &mut Pipeline<'_>, last: bool) -> Result<()> {
        self.started = true;
        let mut start = 0;
        loop {
            let offset = self.splitter.at();
            let window = self.window.get(start..).unwrap_or_default();
            match self.splitter.next(window, last) {
                Piece::Hole(len) => start += len,
                Piece::Chunk(len) => {
                    pipeline.chunk(self.content, offset, window.get(..len).unwrap_or(window))?;
                    start += len;
                }
                Piece::More => break,
            }
        }
        self.window.drain(..start);
        Ok(())
    }

    /// The file ends at `size`, at or behind the end. Returns the window, for the next file.
    pub(super) fn finish(mut self, pipeline: &mut Pipeline<'_>, size: u64) -> Result<Vec<u8>> {
        let border = self.end().next_multiple_of(BLOCK).min(size);
        self.zeros(border - self.end());
        if self.started {
            self.cut(pipeline, true)?;
        } else if !self.window.is_empty() {
            pipeline.whole(self.content, &self.window)?;
        }
        self.window.clear();
        Ok(self.window)
    }
}
