//! Content on its way to the store: one thread applies changes and cuts, all others hash, compress and write.
//!
//! The applying thread sends jobs through a bounded queue and takes results from an unbounded one, whose
//! length the first bounds; a worker waits for nothing but jobs. So nobody waits in a circle.

use super::content::ContentId;
use super::store::Store;
use crate::ingest::chunker::{Chunker, Piece, Splitter};
use crate::ingest::packer::{Filling, HUGE_FILE_BYTES, Packer};
use crate::ingest::report::Monitor;
use crate::ingest::run::lock;
use crate::ingest::small;
use crate::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use repo_format::{ChunkId, Extent};
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Content bytes of a block of chunks.
const BLOCK_BYTES: usize = 512 * 1024;

/// Whole contents, or chunks that are cut already.
enum Job {
    Files { buffer: Vec<u8>, files: Vec<(ContentId, Range<usize>)> },
    Block { content: ContentId, buffer: Vec<u8>, cuts: Vec<(u64, usize)> },
}

/// What became of a piece of content: where its chunks are in it.
pub(super) struct Stored {
    pub(super) content: ContentId,
    pub(super) extents: Vec<(u64, Extent)>,
}

/// The workers' side.
pub(super) struct Workers<'s> {
    store: &'s dyn Store,
    monitor: &'s dyn Monitor,
    chunker: Chunker,
    /// Each worker's segments: of small files, of large ones, and of huge ones. A stream does not say how large a file will be:
    /// what stands where only a huge one has content counts as of one.
    packers: Vec<Mutex<[Packer; 3]>>,
    /// Somebody failed: jobs are dropped from here on.
    failed: AtomicBool,
    jobs: Receiver<Job>,
    results: Sender<Result<Vec<Stored>>>,
}

/// The applying thread's side.
pub(super) struct Pipeline<'s> {
    workers: &'s Workers<'s>,
    jobs: Sender<Job>,
    results: Receiver<Result<Vec<Stored>>>,
    /// Small contents that wait for more of their kind.
    batch: (Vec<u8>, Vec<(ContentId, Range<usize>)>),
    /// Chunks of one content that wait for more.
    block: (ContentId, Vec<u8>, Vec<(u64, usize)>),
    /// Results that are still to come, by content; with those that wait here.
    awaited: HashMap<ContentId, u32>,
    ready: Vec<Stored>,
    /// Chunks were sent since the last `settle`.
    unsettled: bool,
}

/// The ends of the queues that the applying thread keeps.
pub(super) struct Ends {
    jobs: Sender<Job>,
    results: Receiver<Result<Vec<Stored>>>,
}

impl<'s> Workers<'s> {
    /// `threads` workers, and queues that hold at most `memory_bytes` of content.
    pub(super) fn new(
        store: &'s dyn Store,
        monitor: &'s dyn Monitor,
        chunker: Chunker,
        threads: usize,
        memory_bytes: usize,
    ) -> (Self, Ends) {
        let job_bytes = 2 * BLOCK_BYTES + chunker.max_bytes();
        let waiting = (memory_bytes / job_bytes).saturating_sub(threads).clamp(1, 4 * threads);
        let (jobs, jobs_out) = bounded(waiting);
        let (results, results_out) = unbounded();
        let packers = || Mutex::new([Filling::SmallFiles, Filling::LargeFile, Filling::HugeFile].map(Packer::new));
        let packers = (0..threads).map(|_| packers()).collect();
        let failed = AtomicBool::new(false);
        let workers = Self { store, monitor, chunker, packers, failed, jobs: jobs_out, results };
        (workers, Ends { jobs, results: results_out })
    }

    /// Works until the applying thread is done; `worker` is below the number of threads.
    pub(super) fn work(&self, worker: usize) {
        let Some(packers) = self.packers.get(worker) else { return };
        let mut panicked = None;
        while let Ok(job) = self.jobs.recv() {
            if self.failed.load(Relaxed) {
                continue;
            }
            // A thread that ended here would leave the applying one waiting for ever, for a result or for room for a job.
            let done = catch_unwind(AssertUnwindSafe(|| self.run(&mut lock(packers), job)));
            let result = done.unwrap_or_else(|panic| {
                panicked = Some(panic);
                Err(Error::new(ErrorKind::Io, "a thread that stores content has panicked"))
            });
            self.failed.fetch_or(result.is_err(), Relaxed);
            let _ = self.results.send(result);
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        // Also when the stream was bad or stopped: what was taken is stored, so that the next run finds it.
        if !self.failed.load(Relaxed) {
            let _ = flush(self.store, packers);
        }
    }

    fn run(&self, [small, large, huge]: &mut [Packer; 3], job: Job) -> Result<Vec<Stored>> {
        match job {
            Job::Files { buffer, files } => {
                let cuts = files.iter().flat_map(|(content, bytes)| self.cut(*content, &buffer, bytes.clone()));
                let cuts: Vec<Cut> = cuts.collect();
                let mut stored: Vec<Stored> =
                    files.iter().map(|(content, _)| Stored { content: *content, extents: Vec::new() }).collect();
                let ids = self.store(small, &buffer, &cuts)?;
                let mut files = stored.iter_mut().peekable();
                for (cut, id) in cuts.iter().zip(ids) {
                    while files.next_if(|file| file.content != cut.content).is_some() {}
                    if let Some(file) = files.peek_mut() {
                        file.extents.push(cut.extent(id));
                    }
                }
                small.end_group(self.store)?;
                Ok(stored)
            }
            Job::Block { content, buffer, cuts } => {
                let mut at = 0;
                let cuts = cuts.into_iter().map(|(offset, len)| {
                    at += len;
                    Cut { content, offset, bytes: at - len..at }
                });
                let cuts: Vec<Cut> = cuts.collect();
                let is_huge = cuts.first().is_some_and(|cut| cut.offset >= HUGE_FILE_BYTES);
                let ids = self.store(if is_huge { huge } else { large }, &buffer, &cuts)?;
                let extents = cuts.iter().zip(ids).map(|(cut, id)| cut.extent(id)).collect();
                Ok(vec![Stored { content, extents }])
            }
        }
    }

    /// Cuts one whole content.
    fn cut(&self, content: ContentId, buffer: &[u8], bytes: Range<usize>) -> Vec<Cut> {
        let start = bytes.start;
        let file = buffer.get(bytes).unwrap_or_default();
        let mut splitter = Splitter::new(self.chunker);
        let mut cuts = Vec::new();
        loop {
            let offset = splitter.at();
            let window = usize::try_from(offset).ok().and_then(|at| file.get(at..)).unwrap_or_default();
            match splitter.next(window, true) {
                Piece::Hole(_) => {}
                Piece::Chunk(len) => {
                    let at = start + file.len() - window.len();
                    cuts.push(Cut { content, offset, bytes: at..at + len });
                }
                Piece::More => return cuts,
            }
        }
    }

    /// Stores the chunks that are new, and returns the ids of all.
    fn store(&self, packer: &mut Packer, buffer: &[u8], cuts: &[Cut]) -> Result<Vec<ChunkId>> {
        let bytes_of = |cut: &Cut| buffer.get(cut.bytes.clone()).unwrap_or_default();
        let ids: Vec<ChunkId> = cuts.iter().map(|cut| self.store.chunk_id(bytes_of(cut))).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let new = self.store.claim(&ids)?;
        let mut new_bytes = 0;
        for ((cut, id), _) in cuts.iter().zip(&ids).zip(new).filter(|(_, new)| *new) {
            new_bytes += cut.bytes.len() as u64;
            packer.add(self.store, *id, bytes_of(cut))?;
        }
        self.monitor.on_new(new_bytes);
        Ok(ids)
    }

    /// Stores what waits for full segments. Nobody may be at work.
    fn flush(&self) -> Result<()> {
        self.packers.iter().try_for_each(|packers| flush(self.store, packers))
    }
}

fn flush(store: &dyn Store, packers: &Mutex<[Packer; 3]>) -> Result<()> {
    lock(packers).iter_mut().try_for_each(|packer| packer.flush(store))
}

/// A chunk: where it is in its content, and where in the buffer.
struct Cut {
    content: ContentId,
    offset: u64,
    bytes: Range<usize>,
}

impl Cut {
    fn extent(&self, chunk: ChunkId) -> (u64, Extent) {
        // Chunks are at most 8 MiB.
        (self.offset, Extent { chunk, skip: 0, len: self.bytes.len() as u32 })
    }
}

impl<'s> Pipeline<'s> {
    pub(super) fn new(workers: &'s Workers<'s>, ends: Ends) -> Self {
        let batch = (Vec::with_capacity(small::BATCH_BYTES as usize), Vec::new());
        let block = (ContentId::default(), Vec::new(), Vec::new());
        let Ends { jobs, results } = ends;
        Self { workers, jobs, results, batch, block, awaited: HashMap::new(), ready: Vec::new(), unsettled: false }
    }

    /// The parameters content is cut by.
    pub(super) const fn chunker(&self) -> Chunker {
        self.workers.chunker
    }

    /// A whole content, not yet cut.
    pub(super) fn whole(&mut self, content: ContentId, bytes: &[u8]) -> Result<()> {
        let full = !self.batch.0.is_empty() && self.batch.0.len() + bytes.len() > small::BATCH_BYTES as usize;
        if full || self.batch.1.len() >= small::BATCH_FILES {
            self.send_batch()?;
        }
        let start = self.batch.0.len();
        self.batch.0.extend_from_slice(bytes);
        self.batch.1.push((content, start..start + bytes.len()));
        *self.awaited.entry(content).or_default() += 1;
        Ok(())
    }

    /// One chunk, cut by the caller.
    pub(super) fn chunk(&mut self, content: ContentId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.block.0 != content || self.block.1.len() + bytes.len() > BLOCK_BYTES + self.chunker().max_bytes() {
            self.send_block()?;
        }
        if self.block.2.is_empty() {
            self.block.0 = content;
            *self.awaited.entry(content).or_default() += 1;
        }
        self.block.1.extend_from_slice(bytes);
        self.block.2.push((offset, bytes.len()));
        if self.block.1.len() >= BLOCK_BYTES { self.send_block() } else { Ok(()) }
    }

    fn send_batch(&mut self) -> Result<()> {
        if self.batch.1.is_empty() {
            return Ok(());
        }
        let next = (Vec::with_capacity(small::BATCH_BYTES as usize), Vec::new());
        let (buffer, files) = std::mem::replace(&mut self.batch, next);
        self.send(Job::Files { buffer, files })
    }

    fn send_block(&mut self) -> Result<()> {
        if self.block.2.is_empty() {
            return Ok(());
        }
        let next = (self.block.0, Vec::with_capacity(BLOCK_BYTES), Vec::new());
        let (content, buffer, cuts) = std::mem::replace(&mut self.block, next);
        self.send(Job::Block { content, buffer, cuts })
    }

    fn send(&mut self, job: Job) -> Result<()> {
        self.unsettled = true;
        self.jobs.send(job).map_err(|_| gone())?;
        while let Ok(result) = self.results.try_recv() {
            self.take(result?);
        }
        Ok(())
    }

    fn take(&mut self, stored: Vec<Stored>) {
        for one in stored {
            if let Some(left) = self.awaited.get_mut(&one.content) {
                *left -= 1;
                if *left == 0 {
                    self.awaited.remove(&one.content);
                }
            }
            self.ready.push(one);
        }
    }

    /// What came back since the last call.
    pub(super) fn ready(&mut self) -> Vec<Stored> {
        std::mem::take(&mut self.ready)
    }

    /// Whether results of this content are still to come.
    pub(super) fn awaits(&self, content: ContentId) -> bool {
        self.awaited.contains_key(&content)
    }

    /// Waits for all results of one content.
    pub(super) fn wait_for(&mut self, content: ContentId) -> Result<()> {
        if self.awaits(content) {
            self.send_batch()?;
            self.send_block()?;
        }
        while self.awaits(content) {
            let result = self.results.recv().map_err(|_| gone())?;
            self.take(result?);
        }
        Ok(())
    }

    /// Waits for all results.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.send_batch()?;
        self.send_block()?;
        while !self.awaited.is_empty() {
            let result = self.results.recv().map_err(|_| gone())?;
            self.take(result?);
        }
        Ok(())
    }

    /// Waits for all results and makes all chunks so far readable.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.drain()?;
        self.workers.flush()?;
        self.workers.store.settle()?;
        self.unsettled = false;
        Ok(())
    }

    /// Somebody else made everything readable that was handed over.
    pub(super) fn settled(&mut self) {
        self.unsettled = false;
    }

    /// Whether there may be chunks that cannot be read before [`Pipeline::settle`].
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled || !self.awaited.is_empty()
    }

    /// Waits for all results and hands all chunks to the store.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.drain()?;
        self.workers.flush()
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Io, "the threads that store content have ended")
}
