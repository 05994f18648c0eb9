//! Large files: one worker reads and cuts, all workers hash and store the blocks it hands out.
//!
//! A reader offers a block to the others, and does it itself when nobody takes it: so nobody ever waits
//! for anybody, and one large file keeps all workers busy as well as many do. Blocks may be done in any
//! order; their extents become edits in the order of the file.
//!
//! Where little of a file has changed there is little to do but to read it. A reader that sees the others idle then ends at a
//! hole half way and hands out the rest as a part of its own, which may be parted again. The cuts are the same: none depends on
//! what is behind a hole. A part has its own range of the old rows, so parts wait for each other in nothing but the inode.

use super::chunker::{BLOCK_BYTES, Piece, Splitter};
use super::file::{Content, FileJob, FileRead, wait_for_tick};
use super::old::{Edits, OldCuts, RowMerge};
use super::packer::{Filling, HUGE_FILE_BYTES, Packer};
use super::run::{Run, into_inner, lock};
use super::source::{Attributes, Stat};
use super::zero::is_zero;
use crate::Result;
use crate::os::read::{DataRanges, data_ranges_from, pread_exact_or_short};
use crossbeam_channel::{Sender, TrySendError};
use repo_format::{ChunkId, Extent};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Content bytes of a block, besides the start of a chunk that is not in it yet.
const BLOCK_CONTENT_BYTES: usize = 512 * 1024;
/// A read for less is not worth its system call.
const MIN_READ_BYTES: usize = 64 * 1024;
/// So many bytes of chunks are read before another worker reads as well, if for each that is not as it was before there are at
/// least [`MOSTLY`] that are: where much is new, all workers have enough to do. At least as much is left for each of the two.
const READ_ALONE_BYTES: u64 = 8 * 1024 * 1024;
const MOSTLY: u64 = 8;
/// How far behind the middle a hole is looked for, at which another reader could begin.
const MAX_BORDER_BYTES: u64 = 1024 * 1024;

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

/// What a reader hands to the other workers.
pub(super) enum Share<'a> {
    Block(Block<'a>),
    Part(Part<'a>),
}

/// Whole chunks of a part on their way to a worker.
pub(super) struct Block<'a> {
    part: Arc<OpenPart<'a>>,
    number: u64,
    buffer: Vec<u8>,
    cuts: Vec<Cut>,
}

/// A part of a large file that is to be read. It begins and ends where the file does or a hole begins.
pub(super) struct Part<'a> {
    file: Arc<LargeFile>,
    start: u64,
    end: u64,
    others: Sender<Share<'a>>,
}

/// A large file until its last part is done.
struct LargeFile {
    job: FileJob,
    file: File,
    stat: Stat,
    attributes: Attributes,
    sums: Mutex<Sums>,
}

/// What the parts of a file that are done add up to.
#[derive(Default)]
struct Sums {
    /// The file's end, as far as was read.
    size: u64,
    data_bytes: u64,
    lost_bytes: u64,
    error: Option<io::Error>,
}

/// A part between its first and its last block. Its reader and each of its blocks hold it; who lets go last finishes it.
struct OpenPart<'a> {
    file: Arc<LargeFile>,
    done: Mutex<Done<'a>>,
}

/// What is known of a part's blocks.
struct Done<'a> {
    rows: RowMerge<'a>,
    /// The block whose extents come next.
    next: u64,
    /// Blocks that overtook it.
    waiting: BTreeMap<u64, Vec<(u64, Extent)>>,
    sums: Sums,
    /// Where the next part begins, if there is one. Known, as the sums are, when all is read.
    end: Option<u64>,
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

    /// Does what a reader handed out.
    pub(super) fn run_share<'a>(&mut self, run: &Run<'a>, buffers: &Buffers, share: Share<'a>) -> Result<()> {
        match share {
            Share::Block(block) => self.run_block(run, buffers, block),
            Share::Part(part) => self.run_part(run, buffers, part),
        }
    }

    /// Hashes a block and stores what is new of it.
    fn run_block<'a>(&mut self, run: &Run<'a>, buffers: &Buffers, block: Block<'a>) -> Result<()> {
        run.check()?;
        let bytes_of = |cut: &Cut| block.buffer.get(cut.start..cut.start + cut.len).unwrap_or_default();
        let ids: Vec<ChunkId> =
            block.cuts.iter().map(|cut| cut.id.unwrap_or_else(|| run.sink.chunk_id(bytes_of(cut)))).collect();
        let new = run.sink.claim(&ids)?;
        let is_huge = block.part.file.stat.size >= HUGE_FILE_BYTES;
        let packer = if is_huge { &mut self.huge } else { &mut self.large };
        let mut new_bytes = 0;
        for ((cut, id), _) in block.cuts.iter().zip(&ids).zip(new).filter(|(_, new)| *new) {
            new_bytes += cut.len as u64;
            packer.add(run.sink, *id, bytes_of(cut))?;
        }
        run.monitor.on_new(new_bytes);
        let extent = |(cut, id): (&Cut, ChunkId)| (cut.offset, Extent { chunk: id, skip: 0, len: cut.len as u32 });
        let extents = block.cuts.iter().zip(ids).map(extent).collect();
        block.part.block_done(block.number, extents, &mut self.edits)?;
        buffers.give_back(block.buffer);
        self.leave(run, block.part)
    }

    /// Reads a large file to its end. A file that cannot be read is reported, not an error.
    pub(super) fn run_file<'a>(
        &mut self,
        run: &Run<'a>,
        buffers: &Buffers,
        job: FileJob,
        others: Sender<Share<'a>>,
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
        let end = stat.size;
        let file = Arc::new(LargeFile { job, file, stat, attributes, sums: Mutex::default() });
        self.run_part(run, buffers, Part { file, start: 0, end, others })
    }

    fn run_part<'a>(&mut self, run: &Run<'a>, buffers: &Buffers, part: Part<'a>) -> Result<()> {
        let Part { file, start, end, others } = part;
        let rows = file.job.old_extents(run, start)?;
        let done = Done { rows, next: 0, waiting: BTreeMap::new(), sums: Sums::default(), end: None };
        let part = Arc::new(OpenPart { file, done: Mutex::new(done) });
        let mut reader = Reader::new(run, buffers, &part, start, end);
        while let Some(block) = reader.next_block()? {
            let all_is_done = others.is_empty();
            match others.try_send(Share::Block(block)) {
                Ok(()) => {}
                Err(TrySendError::Full(share) | TrySendError::Disconnected(share)) => {
                    self.run_share(run, buffers, share)?;
                }
            }
            // Others who do all that this reader hands out at once have time to read themselves.
            if all_is_done && let Some(border) = reader.border() {
                let (file, end) = (Arc::clone(&part.file), reader.end);
                let rest = Part { file, start: border, end, others: others.clone() };
                if others.try_send(Share::Part(rest)).is_ok() {
                    reader.end_at(border);
                }
            }
        }
        match reader.finish() {
            Ok(()) => self.leave(run, part),
            Err(error) => {
                part.file.job.leave_out(run, &error);
                Ok(())
            }
        }
    }

    /// Lets a part go; if nobody else holds it, it is done.
    fn leave<'a>(&mut self, run: &Run<'a>, part: Arc<OpenPart<'a>>) -> Result<()> {
        if let Some(part) = Arc::into_inner(part) {
            part.finish(run, &mut self.edits)?;
        }
        run.push(&mut self.edits)
    }
}

impl OpenPart<'_> {
    /// Takes the extents of a block, and turns all that are next into edits.
    fn block_done(&self, number: u64, extents: Vec<(u64, Extent)>, edits: &mut Edits) -> Result<()> {
        let mut done = lock(&self.done);
        done.waiting.insert(number, extents);
        let done = &mut *done;
        while let Some(extents) = done.waiting.remove(&done.next) {
            for (offset, extent) in extents {
                let (key, value) = self.file.job.extent_row(offset, &extent);
                done.rows.put(key, value, edits)?;
                done.sums.data_bytes += u64::from(extent.len);
            }
            done.next += 1;
        }
        Ok(())
    }

    fn finish(self, run: &Run<'_>, edits: &mut Edits) -> Result<()> {
        let Self { file, done } = self;
        let Done { mut rows, sums, end, .. } = into_inner(done);
        match end {
            Some(end) => rows.finish_below(&file.job.extent_key(end), edits)?,
            None => rows.finish(edits)?,
        }
        lock(&file.sums).add(sums);
        Arc::into_inner(file).map_or(Ok(()), |file| file.finish(run, edits))
    }
}

impl LargeFile {
    fn finish(self, run: &Run<'_>, edits: &mut Edits) -> Result<()> {
        let Self { job, file, stat, attributes, sums } = self;
        let Sums { size, data_bytes, lost_bytes, error } = into_inner(sums);
        let changed = Stat::of_file(&file).map_or(true, |now| !stat.same_content(&now));
        job.report_content(run, error.as_ref().map(|error| (lost_bytes, error)), changed);
        let read = FileRead { stat, attributes, size, data_bytes, in_part: error.is_some() };
        job.finish(run, read, edits)
    }
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.size = self.size.max(other.size);
        self.data_bytes += other.data_bytes;
        self.lost_bytes += other.lost_bytes;
        self.error = self.error.take().or(other.error);
    }
}

/// Reads a file through a sliding window and cuts it into blocks.
struct Reader<'r, 'a> {
    run: &'r Run<'a>,
    buffers: &'r Buffers,
    part: &'r Arc<OpenPart<'a>>,
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
    /// Where the part begins and ends.
    part_start: u64,
    end: u64,
    /// Up to where there is something to read: the end, less once a read ended early.
    size: u64,
    ranges: DataRanges<'r>,
    /// End of the source's data around the window; zeros follow.
    data_end: u64,
    lately: Lately,
    failed: Option<io::Error>,
}

/// What a reader did since another one was last thought of.
struct Lately {
    began: Instant,
    reading: Duration,
    /// Bytes of chunks that are known to be as before.
    as_before: u64,
    /// Bytes of other chunks.
    other: u64,
}

impl Default for Lately {
    fn default() -> Self {
        Self { began: Instant::now(), reading: Duration::ZERO, as_before: 0, other: 0 }
    }
}

impl Lately {
    /// Most of the time went into reads. Two readers would only have the disk's heads move back and forth.
    fn waits_for_disk(&self) -> bool {
        self.reading > self.began.elapsed() * 3 / 4
    }
}

impl<'r, 'a> Reader<'r, 'a> {
    fn new(run: &'r Run<'a>, buffers: &'r Buffers, part: &'r Arc<OpenPart<'a>>, start: u64, end: u64) -> Self {
        let LargeFile { job, file, .. } = &*part.file;
        let mut splitter = Splitter::new(run.chunker);
        splitter.skip_to(start);
        Self {
            run,
            buffers,
            part,
            content: Content::new(file),
            splitter,
            old_cuts: job.old_cuts(run, start),
            buffer: buffers.take(buffer_bytes(run.chunker.max_bytes())),
            start: 0,
            filled: 0,
            cuts: Vec::new(),
            cut_bytes: 0,
            blocks: 0,
            part_start: start,
            end,
            size: end,
            ranges: data_ranges_from(file, start, end),
            data_end: start,
            lately: Lately::default(),
            failed: None,
        }
    }

    /// The next block, or None at the end of the file.
    fn next_block(&mut self) -> Result<Option<Block<'a>>> {
        loop {
            let window = self.buffer.get(self.start..self.filled).unwrap_or_default();
            let (offset, read_until) = (self.splitter.at(), self.splitter.at() + window.len() as u64);
            let (run, old_cuts, mut hashed) = (self.run, &mut self.old_cuts, None);
            let mut is_as_before = false;
            let mut known_len = |at: u64, front: &[u8]| {
                let (old_id, len) = old_cuts.at(at)?;
                let bytes = front.get(..len).filter(|_| run.chunker.cuts_after_chunk(front, len))?;
                let id = run.sink.chunk_id(bytes);
                hashed = Some((len, id));
                is_as_before = id == old_id;
                is_as_before.then_some(len)
            };
            match self.splitter.next_known(window, read_until >= self.data_end, &mut known_len) {
                Piece::Hole(len) => self.start += len,
                Piece::Chunk(len) => {
                    // Other bytes than before are often cut as before.
                    let id = hashed.and_then(|(of, id)| (of == len).then_some(id));
                    self.cuts.push(Cut { start: self.start, len, offset, id });
                    self.start += len;
                    self.cut_bytes += len;
                    *(if is_as_before { &mut self.lately.as_before } else { &mut self.lately.other }) += len as u64;
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
        let begin = Instant::now();
        let read = self.content.read(room.get_mut(..want).unwrap_or_default(), at);
        self.lately.reading += begin.elapsed();
        match read {
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
        Some(Block { part: Arc::clone(self.part), number, buffer, cuts: std::mem::take(&mut self.cuts) })
    }

    /// Where another reader should begin, if that is of use: at a hole about in the middle of what is left to read.
    fn border(&mut self) -> Option<u64> {
        if self.lately.as_before + self.lately.other < READ_ALONE_BYTES {
            return None;
        }
        let lately = std::mem::take(&mut self.lately);
        let at = self.splitter.at() + (self.filled - self.start) as u64;
        let rest = self.size.saturating_sub(at);
        if lately.other > lately.as_before / MOSTLY || lately.waits_for_disk() || rest < 2 * READ_ALONE_BYTES {
            return None;
        }
        let middle = (at + rest / 2).next_multiple_of(BLOCK_BYTES as u64);
        let mut buffer = vec![0; MIN_READ_BYTES];
        (middle..middle + MAX_BORDER_BYTES).step_by(MIN_READ_BYTES).find_map(|at| {
            let got = pread_exact_or_short(&self.part.file.file, &mut buffer, at).ok()?;
            let hole = buffer.get(..got)?.chunks_exact(BLOCK_BYTES).position(is_zero)?;
            Some(at + (hole * BLOCK_BYTES) as u64)
        })
    }

    /// Ends the part at `border`.
    fn end_at(&mut self, border: u64) {
        self.end = border;
        self.size = self.size.min(border);
        self.data_end = self.data_end.min(border);
    }

    /// Says what is known when everything is read, or why nothing of the file can be.
    fn finish(self) -> io::Result<()> {
        self.buffers.give_back(self.buffer);
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut done = lock(&self.part.done);
        // A part of which nothing is there any more says nothing about the file's end.
        done.sums.size = if self.size > self.part_start { self.size } else { 0 };
        done.sums.lost_bytes = self.content.lost_bytes;
        done.sums.error = self.content.error;
        done.end = Some(self.end).filter(|end| *end < self.part.file.stat.size);
        Ok(())
    }
}
