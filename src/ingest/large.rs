//! Large files: one worker reads and cuts, all workers hash and store the blocks it hands out.
//!
//! A reader offers a block to the others, and does it itself when nobody takes it: so nobody ever waits
//! for anybody, and one large file keeps all workers busy as well as many do. Blocks may be done in any
//! order; their extents become edits in the order of the file.

use super::chunker::{BLOCK_BYTES, Piece, Splitter};
use super::file::{Content, FileJob, FileRead, wait_for_tick};
use super::old::{Edits, OldCuts, RowMerge};
use super::packer::{Filling, HUGE_FILE_BYTES, Packer};
use super::run::{Run, lock};
use super::source::{Attributes, Stat};
use crate::Result;
use crate::os::read::{DataRanges, data_ranges};
use crossbeam_channel::{Sender, TrySendError};
use repo_format::{ChunkId, Extent, KeyKind};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

/// Content bytes of a block, besides the start of a chunk that is not in it yet.
const BLOCK_CONTENT_BYTES: usize = 512 * 1024;
/// A read for less is not worth its system call.
const MIN_READ_BYTES: usize = 64 * 1024;

/// Bytes of a block's buffer for chunks of at most `max_chunk_bytes`.
pub(super) const fn buffer_bytes(max_chunk_bytes: usize) -> usize {
    BLOCK_CONTENT_BYTES + max_chunk_bytes
}

/// Buffers that are not in use. Their number is bounded by that of blocks, and so by the channel.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self, bytes: usize) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_else(|| vec![0; bytes])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        lock(&self.0).push(buffer);
    }
}

/// A chunk of a block: where it is in the block's buffer, and where in the file.
struct Cut {
    start: usize,
    len: usize,
    offset: u64,
    /// If it is known already.
    id: Option<ChunkId>,
}

/// Whole chunks of one file on their way to a worker.
pub(super) struct Block<'a> {
    file: Arc<LargeFile<'a>>,
    number: u64,
    buffer: Vec<u8>,
    cuts: Vec<Cut>,
}

/// A large file between its first and its last block.
struct LargeFile<'a> {
    job: FileJob,
    huge: bool,
    done: Mutex<Done<'a>>,
}

/// What is known of the file's blocks.
struct Done<'a> {
    rows: RowMerge<'a>,
    /// The block whose extents come next.
    next: u64,
    /// Blocks that overtook it.
    waiting: BTreeMap<u64, Vec<(u64, Extent)>>,
    data_bytes: u64,
    /// Once the file is read: how many blocks it has, and the rest of what is known of it.
    end: Option<(u64, FileRead)>,
}

/// One worker's tools for large files.
pub(super) struct LargeFiles {
    large: Packer,
    huge: Packer,
    edits: Edits,
}

impl LargeFiles {
    pub(super) fn new() -> Self {
        let [large, huge] = [Filling::LargeFile, Filling::HugeFile].map(Packer::new);
        Self { large, huge, edits: Edits::new() }
    }

    /// Stores what is still waiting for full segments.
    pub(super) fn flush(&mut self, run: &Run<'_>) -> Result<()> {
        self.large.flush(run.sink)?;
        self.huge.flush(run.sink)
    }

    /// Hashes a block and stores what is new of it.
    pub(super) fn run_block<'a>(&mut self, run: &Run<'a>, buffers: &Buffers, block: Block<'a>) -> Result<()> {
        run.check()?;
        let bytes_of = |cut: &Cut| block.buffer.get(cut.start..cut.start + cut.len).unwrap_or_default();
        let ids: Vec<ChunkId> =
            block.cuts.iter().map(|cut| cut.id.unwrap_or_else(|| run.sink.chunk_id(bytes_of(cut)))).collect();
        let new = run.sink.claim(&ids)?;
        let packer = if block.file.huge { &mut self.huge } else { &mut self.large };
        let mut new_bytes = 0;
        for ((cut, id), _) in block.cuts.iter().zip(&ids).zip(new).filter(|(_, new)| *new) {
            new_bytes += cut.len as u64;
            packer.add(run.sink, *id, bytes_of(cut))?;
        }
        run.monitor.on_new(new_bytes);
        let extent = |(cut, id): (&Cut, ChunkId)| (cut.offset, Extent { chunk: id, skip: 0, len: cut.len as u32 });
        let extents = block.cuts.iter().zip(ids).map(extent).collect();
        block.file.block_done(run, block.number, extents, &mut self.edits)?;
        buffers.give_back(block.buffer);
        run.push(&mut self.edits)
    }

    /// Reads a large file to its end. A file that cannot be read is reported, not an error.
    pub(super) fn run_file<'a>(
        &mut self,
        run: &Run<'a>,
        buffers: &Buffers,
        job: FileJob,
        others: &Sender<Block<'a>>,
    ) -> Result<()> {
        let Some((file, attributes)) = job.open(run) else { return Ok(()) };
        let stat = match Stat::of_file(&file) {
            Ok(stat) => stat,
            Err(error) => {
                job.leave_out(run, &error);
                return Ok(());
            }
        };
        wait_for_tick(stat.ctime);
        let rows = job.old_rows(run, KeyKind::Extent)?;
        let done = Done { rows, next: 0, waiting: BTreeMap::new(), data_bytes: 0, end: None };
        let huge = stat.size >= HUGE_FILE_BYTES;
        let large = Arc::new(LargeFile { job, huge, done: Mutex::new(done) });
        let mut reader = Reader::new(run, buffers, &large, &file, stat.size);
        while let Some(block) = reader.next_block()? {
            match others.try_send(block) {
                Ok(()) => {}
                Err(TrySendError::Full(block) | TrySendError::Disconnected(block)) => {
                    self.run_block(run, buffers, block)?;
                }
            }
        }
        let end = reader.end();
        large.read_done(run, &file, stat, attributes, end, &mut self.edits)?;
        run.push(&mut self.edits)
    }
}

impl<'a> LargeFile<'a> {
    /// Takes the extents of a block, and turns all that are next into edits.
    fn block_done(&self, run: &Run<'a>, number: u64, extents: Vec<(u64, Extent)>, edits: &mut Edits) -> Result<()> {
        let mut done = lock(&self.done);
        done.waiting.insert(number, extents);
        let done = &mut *done;
        while let Some(extents) = done.waiting.remove(&done.next) {
            for (offset, extent) in extents {
                let (key, value) = self.job.extent_row(offset, &extent);
                done.rows.put(key, value, edits)?;
                done.data_bytes += u64::from(extent.len);
            }
            done.next += 1;
        }
        self.finish_if_done(run, done, edits)
    }

    /// Takes what the reader knows at the end of the file.
    fn read_done(
        &self,
        run: &Run<'a>,
        file: &File,
        stat: Stat,
        attributes: Attributes,
        end: ReadEnd<'_>,
        edits: &mut Edits,
    ) -> Result<()> {
        if let Some(error) = &end.failed {
            self.job.leave_out(run, error);
            return Ok(());
        }
        let changed = Stat::of_file(file).map_or(true, |now| !stat.same_content(&now));
        self.job.report_content(run, &end.content, changed);
        let read = FileRead { stat, attributes, size: end.size, data_bytes: 0, in_part: end.content.error.is_some() };
        let mut done = lock(&self.done);
        done.end = Some((end.blocks, read));
        self.finish_if_done(run, &mut done, edits)
    }

    fn finish_if_done(&self, run: &Run<'a>, done: &mut Done<'a>, edits: &mut Edits) -> Result<()> {
        let Some((_, mut read)) = done.end.take_if(|(blocks, _)| *blocks == done.next) else { return Ok(()) };
        done.rows.finish(edits)?;
        read.data_bytes = done.data_bytes;
        self.job.finish(run, read, edits)
    }
}

/// Reads a file through a sliding window and cuts it into blocks.
struct Reader<'r, 'a> {
    run: &'r Run<'a>,
    buffers: &'r Buffers,
    large: &'r Arc<LargeFile<'a>>,
    content: Content<'r>,
    splitter: Splitter,
    old_cuts: OldCuts<'a>,
    /// The window is `buffer[start..filled]`; before it stand the chunks of the next block.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    cuts: Vec<Cut>,
    cut_bytes: usize,
    blocks: u64,
    /// End of the file, as far as known: the size, less once a read ended early.
    size: u64,
    ranges: DataRanges<'r>,
    /// End of the source's data around the window; zeros follow.
    data_end: u64,
    failed: Option<io::Error>,
}

/// What is known when everything is read.
struct ReadEnd<'r> {
    content: Content<'r>,
    blocks: u64,
    size: u64,
    /// Why nothing of the file can be read.
    failed: Option<io::Error>,
}

impl<'r, 'a> Reader<'r, 'a> {
    fn new(run: &'r Run<'a>, buffers: &'r Buffers, large: &'r Arc<LargeFile<'a>>, file: &'r File, size: u64) -> Self {
        Self {
            run,
            buffers,
            large,
            content: Content::new(file),
            splitter: Splitter::new(run.chunker),
            old_cuts: large.job.old_cuts(run),
            buffer: buffers.take(buffer_bytes(run.chunker.max_bytes())),
            start: 0,
            filled: 0,
            cuts: Vec::new(),
            cut_bytes: 0,
            blocks: 0,
            size,
            ranges: data_ranges(file, size),
            data_end: 0,
            failed: None,
        }
    }

    /// The next block, or None at the end of the file.
    fn next_block(&mut self) -> Result<Option<Block<'a>>> {
        loop {
            let window = self.buffer.get(self.start..self.filled).unwrap_or_default();
            let (offset, read_until) = (self.splitter.at(), self.splitter.at() + window.len() as u64);
            let (run, old_cuts, mut hashed) = (self.run, &mut self.old_cuts, None);
            let mut is_as_before = |at: u64, front: &[u8]| {
                let (old_id, len) = old_cuts.at(at)?;
                let bytes = front.get(..len).filter(|_| run.chunker.cuts_after_chunk(front, len))?;
                let id = run.sink.chunk_id(bytes);
                hashed = Some((len, id));
                (id == old_id).then_some(len)
            };
            match self.splitter.next_known(window, read_until >= self.data_end, &mut is_as_before) {
                Piece::Hole(len) => self.start += len,
                Piece::Chunk(len) => {
                    // Other bytes than before are often cut as before.
                    let id = hashed.and_then(|(of, id)| (of == len).then_some(id));
                    self.cuts.push(Cut { start: self.start, len, offset, id });
                    self.start += len;
                    self.cut_bytes += len;
                }
                Piece::More if read_until >= self.size || self.failed.is_some() => {
                    return Ok(self.take_block());
                }
                Piece::More if read_until >= self.data_end => self.find_data(),
                Piece::More => {
                    self.run.check()?;
                    if self.cut_bytes >= BLOCK_CONTENT_BYTES || !self.make_room() {
                        return Ok(self.take_block());
                    }
                    self.fill(read_until);
                }
            }
        }
    }

    /// Moves to the next data of the source. The window is empty: everything before was cut.
    fn find_data(&mut self) {
        let (at, block) = (self.splitter.at(), BLOCK_BYTES as u64);
        let (start, end) = loop {
            match self.ranges.next() {
                None => break (self.size, self.size),
                Some(Err(_)) => break (at, self.size),
                // A range may end in the block that the range before it began.
                Some(Ok((start, bytes))) if start + bytes <= at => {}
                Some(Ok((start, bytes))) => break (start, start + bytes),
            }
        };
        let start = if start >= self.size { self.size } else { start - start % block };
        self.splitter.skip_to(start.max(at));
        self.data_end = end.checked_next_multiple_of(block).unwrap_or(end).min(self.size);
    }

    /// Reads on into the window.
    fn fill(&mut self, at: u64) {
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let want = usize::try_from(self.data_end - at).unwrap_or(usize::MAX).min(room.len());
        match self.content.read(room.get_mut(..want).unwrap_or_default(), at) {
            Ok(got) => {
                self.filled += got;
                self.run.count_read(got as u64);
                if got < want {
                    // The file is shorter by now.
                    self.size = at + got as u64;
                    self.data_end = self.size;
                }
            }
            Err(error) => {
                self.failed = Some(error);
                (self.size, self.data_end) = (at, at);
            }
        }
    }

    /// Whether there is room for a read, which may need to throw away the zeros before the window.
    /// Without chunks that wait there always is: the window is shorter than a largest chunk then.
    fn make_room(&mut self) -> bool {
        let to = self.cuts.last().map_or(0, |cut| cut.start + cut.len);
        if self.buffer.len() - self.filled < MIN_READ_BYTES && to < self.start {
            self.buffer.copy_within(self.start..self.filled, to);
            self.filled = to + self.filled - self.start;
            self.start = to;
        }
        self.buffer.len() - self.filled >= MIN_READ_BYTES
    }

    /// The chunks cut so far as a block; the window moves to a new buffer.
    fn take_block(&mut self) -> Option<Block<'a>> {
        if self.cuts.is_empty() {
            return None;
        }
        let mut next = self.buffers.take(self.buffer.len());
        let window = self.buffer.get(self.start..self.filled).unwrap_or_default();
        if let Some(front) = next.get_mut(..window.len()) {
            front.copy_from_slice(window);
        }
        (self.start, self.filled) = (0, window.len());
        let buffer = std::mem::replace(&mut self.buffer, next);
        let number = self.blocks;
        self.blocks += 1;
        self.cut_bytes = 0;
        Some(Block { file: Arc::clone(self.large), number, buffer, cuts: std::mem::take(&mut self.cuts) })
    }

    fn end(self) -> ReadEnd<'r> {
        self.buffers.give_back(self.buffer);
        ReadEnd { content: self.content, blocks: self.blocks, size: self.size, failed: self.failed }
    }
}
