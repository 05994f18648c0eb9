//! Batches of small files: read together, hashed, asked for in one question, stored as one segment.

use super::chunker::{Piece, Splitter};
use super::file::{Content, FileJob, FileRead, wait_for_tick};
use super::old::Edits;
use super::packer::{Filling, Packer};
use super::run::Run;
use super::source::{Attributes, Stat};
use crate::Result;
use repo_format::{ChunkId, Extent};
use std::fs::File;
use std::io;
use std::ops::Range;

/// Files up to this size are read in batches, in bytes.
pub(super) const SMALL_FILE_BYTES: u64 = 1024 * 1024;
/// A batch is full at so many bytes of files,
pub(super) const BATCH_BYTES: u64 = 512 * 1024;
/// or at so many files,
pub(super) const BATCH_FILES: usize = 128;
/// or at so many directories, since it keeps them open.
pub(super) const BATCH_DIRS: usize = 16;

/// One worker's tools for batches.
pub(super) struct SmallFiles {
    packer: Packer,
    /// The content of the whole batch.
    buffer: Vec<u8>,
    chunks: Vec<BatchChunk>,
    ids: Vec<ChunkId>,
    edits: Edits,
}

/// A chunk of the batch: where it is in the buffer, and where in its file.
struct BatchChunk {
    bytes: Range<usize>,
    offset: u64,
}

/// A file of the batch that was read.
struct ReadFile {
    job: FileJob,
    read: FileRead,
    /// Its chunks.
    chunks: Range<usize>,
}

impl SmallFiles {
    pub(super) fn new() -> Self {
        Self {
            packer: Packer::new(Filling::SmallFiles),
            buffer: Vec::new(),
            chunks: Vec::new(),
            ids: Vec::new(),
            edits: Edits::new(),
        }
    }

    /// Takes a batch from the source to the store and the tree's edits.
    pub(super) fn run_batch(&mut self, run: &Run<'_>, jobs: Vec<FileJob>) -> Result<()> {
        self.buffer.clear();
        self.chunks.clear();
        self.ids.clear();
        let mut files = Vec::with_capacity(jobs.len());
        for job in jobs {
            run.check()?;
            files.extend(self.read_file(run, job));
        }
        run.count_read(self.buffer.len() as u64);
        self.store(run)?;
        for file in files {
            self.finish(run, file)?;
        }
        run.push(&mut self.edits)
    }

    /// Stores what is still waiting for a full segment.
    pub(super) fn flush(&mut self, run: &Run<'_>) -> Result<()> {
        self.packer.flush(run.sink)
    }

    /// Reads one file behind the others; None if it is left out.
    fn read_file(&mut self, run: &Run<'_>, job: FileJob) -> Option<ReadFile> {
        let (file, attributes) = job.open(run)?;
        let start = self.buffer.len();
        let mut content = Content::new(&file);
        let read = if job.kernel {
            self.read_content(&mut content, job.stat.size, start).map(|()| (job.stat, false))
        } else {
            self.read_twice(&file, &mut content, &job.stat, start)
        };
        match read {
            Ok((stat, changed)) => {
                job.report_content(run, content.lost(), changed);
                let mut file = self.split(run, job, stat, attributes, start);
                file.read.in_part = content.error.is_some();
                Some(file)
            }
            Err(error) => {
                self.buffer.truncate(start);
                job.leave_out(run, &error);
                None
            }
        }
    }

    /// Reads the content; a second time if the file changed meanwhile. Returns the attributes from before
    /// the reading that counts, and whether the file changed during that one too.
    fn read_twice<'f>(
        &mut self,
        file: &'f File,
        content: &mut Content<'f>,
        listed: &Stat,
        start: usize,
    ) -> io::Result<(Stat, bool)> {
        self.read_content(content, listed.size, start)?;
        let now = Stat::of_file(file)?;
        if listed.same_content(&now) {
            return Ok((*listed, false));
        }
        // A file that grew past the limit keeps what a small one may have; the next backup reads it all.
        *content = Content::new(file);
        wait_for_tick(now.ctime);
        self.read_content(content, now.size.min(2 * SMALL_FILE_BYTES), start)?;
        let after = Stat::of_file(file)?;
        Ok((now, !now.same_content(&after) || now.size > 2 * SMALL_FILE_BYTES))
    }

    fn read_content(&mut self, content: &mut Content<'_>, size: u64, start: usize) -> io::Result<()> {
        // Sizes are those of small files.
        self.buffer.resize(start + size as usize, 0);
        let got = content.read(self.buffer.get_mut(start..).unwrap_or_default(), 0)?;
        self.buffer.truncate(start + got);
        Ok(())
    }

    /// Cuts and hashes the file that begins at `start` of the buffer.
    fn split(&mut self, run: &Run<'_>, job: FileJob, stat: Stat, attributes: Attributes, start: usize) -> ReadFile {
        let bytes = self.buffer.get(start..).unwrap_or_default();
        let (first, mut data_bytes) = (self.chunks.len(), 0);
        let mut splitter = Splitter::new(run.chunker);
        loop {
            let offset = splitter.at();
            let window = bytes.get(offset as usize..).unwrap_or_default();
            match splitter.next(window, true) {
                Piece::Hole(_) => {}
                Piece::Chunk(len) => {
                    let at = start + offset as usize;
                    self.ids.push(run.sink.chunk_id(window.get(..len).unwrap_or(window)));
                    self.chunks.push(BatchChunk { bytes: at..at + len, offset });
                    data_bytes += len as u64;
                }
                Piece::More => break,
            }
        }
        let read = FileRead { stat, attributes, size: bytes.len() as u64, data_bytes, in_part: false };
        ReadFile { job, read, chunks: first..self.chunks.len() }
    }

    /// Stores the chunks that are new.
    fn store(&mut self, run: &Run<'_>) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let new = run.sink.claim(&self.ids)?;
        let mut new_bytes = 0;
        for ((chunk, id), _) in self.chunks.iter().zip(&self.ids).zip(new).filter(|(_, new)| *new) {
            let bytes = self.buffer.get(chunk.bytes.clone()).unwrap_or_default();
            new_bytes += bytes.len() as u64;
            self.packer.add(run.sink, *id, bytes)?;
        }
        run.monitor.on_new(new_bytes);
        self.packer.end_group(run.sink)
    }

    /// The file's edits.
    fn finish(&mut self, run: &Run<'_>, file: ReadFile) -> Result<()> {
        let ReadFile { job, read, chunks } = file;
        let mut rows = job.old_extents(run, 0)?;
        let ids = self.ids.get(chunks.clone()).unwrap_or_default();
        for (chunk, id) in self.chunks.get(chunks).unwrap_or_default().iter().zip(ids) {
            let extent = Extent { chunk: *id, skip: 0, len: chunk.bytes.len() as u32 };
            let (key, value) = job.extent_row(chunk.offset, &extent);
            rows.put(key, value, &mut self.edits)?;
        }
        rows.finish(&mut self.edits)?;
        job.finish(run, read, &mut self.edits)
    }
}
