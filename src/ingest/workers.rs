//! The worker threads, and what travels to them.
//!
//! Three kinds of work reach a worker: blocks of large files first (they free memory), then listings
//! that the walker will soon want, then files. Who sends what to whom, and why nothing can wait in a
//! circle: the walker waits for workers (a full queue of files, a listing in the making); a worker waits
//! for nothing but work, since blocks it cannot hand out it does itself. The queue of blocks ends when
//! the last job that may make blocks is gone: each holds a sender, and so does each part of a file.

use super::file::FileJob;
use super::large::{Buffers, LargeFiles, Share, buffer_bytes};
use super::listing::Ahead;
use super::run::Run;
use super::small::SmallFiles;
use crate::Result;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never, select};

/// Files to read.
pub(super) enum Files<'a> {
    /// Small ones, in the order of the walk.
    Small(Vec<FileJob>),
    /// A large one, with the way to hand out its blocks.
    Large(FileJob, Sender<Share<'a>>),
}

/// The walker's ends of the queues.
pub(super) struct Queues<'a> {
    pub(super) files: Sender<Files<'a>>,
    pub(super) blocks: Sender<Share<'a>>,
    /// Wakes a worker that may make a listing.
    pub(super) wake: Sender<()>,
}

/// A worker's ends of the queues.
#[derive(Clone)]
pub(super) struct Inbox<'a> {
    files: Receiver<Files<'a>>,
    blocks: Receiver<Share<'a>>,
    wake: Receiver<()>,
}

/// Bounds of what may be under way, from the number of workers and the bytes they may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) workers: usize,
    /// Batches of files that wait; each may hold open directories, and no content.
    pub(super) batches: usize,
    /// Blocks that wait; each holds a buffer.
    pub(super) blocks: usize,
}

impl Bounds {
    /// A buffer a block that waits, two for each worker (one it reads into, one it works on), and half
    /// of the memory for everything else: segments, nodes, edits.
    pub(super) fn new(workers: usize, memory_bytes: usize, max_chunk_bytes: usize) -> Self {
        let workers = workers.max(2);
        let buffers = memory_bytes / 2 / buffer_bytes(max_chunk_bytes);
        let blocks = buffers.saturating_sub(2 * workers).clamp(1, 4 * workers);
        Self { workers, batches: 2 * workers, blocks }
    }
}

/// Makes the queues.
pub(super) fn queues<'a>(bounds: Bounds) -> (Queues<'a>, Inbox<'a>) {
    let (files, files_out) = bounded(bounds.batches);
    let (blocks, blocks_out) = bounded(bounds.blocks);
    let (wake, wake_out) = bounded(bounds.workers);
    (Queues { files, blocks, wake }, Inbox { files: files_out, blocks: blocks_out, wake: wake_out })
}

/// Runs a worker until all queues have ended. An error ends the run for all.
pub(super) fn work<'a>(run: &Run<'a>, buffers: &Buffers, ahead: &Ahead<'_>, inbox: Inbox<'a>) {
    let mut worker = Worker { run, buffers, ahead, small: SmallFiles::new(), large: LargeFiles::new() };
    worker.until_end(inbox);
    // Also when the run was stopped: what was read is stored, so that the next run finds it.
    let flushed = worker.small.flush(run).and_then(|()| worker.large.flush(run));
    worker.settle(flushed);
}

struct Worker<'w, 'a> {
    run: &'w Run<'a>,
    buffers: &'w Buffers,
    ahead: &'w Ahead<'w>,
    small: SmallFiles,
    large: LargeFiles,
}

impl<'a> Worker<'_, 'a> {
    fn until_end(&mut self, inbox: Inbox<'a>) {
        let Inbox { mut files, mut blocks, mut wake } = inbox;
        let (mut no_files, mut no_blocks, mut no_wake) = (false, false, false);
        while !(no_files && no_blocks && no_wake) {
            match blocks.try_recv() {
                Ok(share) => {
                    self.share(share);
                    continue;
                }
                Err(TryRecvError::Disconnected) => {
                    (no_blocks, blocks) = (true, never());
                    continue;
                }
                Err(TryRecvError::Empty) => {}
            }
            if self.ahead.list_one() {
                continue;
            }
            select! {
                recv(blocks) -> share => match share {
                    Ok(share) => self.share(share),
                    Err(_) => (no_blocks, blocks) = (true, never()),
                },
                recv(wake) -> token => if token.is_err() {
                    (no_wake, wake) = (true, never());
                },
                recv(files) -> job => match job {
                    Ok(job) => self.files(job),
                    Err(_) => (no_files, files) = (true, never()),
                },
            }
        }
    }

    fn share(&mut self, share: Share<'a>) {
        let result = self.large.run_share(self.run, self.buffers, share);
        self.settle(result);
    }

    fn files(&mut self, job: Files<'a>) {
        // After a stop, jobs are taken and dropped, so that nobody waits for room in a queue.
        let result = self.run.check().and_then(|()| match job {
            Files::Small(jobs) => self.small.run_batch(self.run, jobs),
            Files::Large(job, others) => self.large.run_file(self.run, self.buffers, job, others),
        });
        self.settle(result);
    }

    fn settle(&self, result: Result<()>) {
        if let Err(error) = result {
            self.run.fail(error);
        }
    }
}
