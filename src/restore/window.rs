//! Bounded windows of work, put into the order in which chunks lie in packages, and cut into batches for workers.

use super::content::Segments;
use super::dir::DirNode;
use super::file::{self, LargeFile};
use super::lookup::Head;
use super::shared::Shared;
use crate::error::Result;
use crate::store::Location;
use crossbeam_channel::Sender;
use repo_format::{Extent, Inode};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Most jobs of a window.
const MOST_JOBS: usize = 16 * 1024;
/// Most extents of a window.
const MOST_PIECES: usize = 32 * 1024;
/// The first window is small, so that workers start at once; each next one is larger by this factor.
const FIRST_JOBS: usize = 512;
const GROWTH: usize = 4;
/// A batch ends at a new segment after this many bytes, or this many files, or both in part.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_FILE_BYTES: u64 = BATCH_BYTES / 256;
/// Chunks looked up in one call.
const LOOKUP: usize = 1024;

/// A run of a file's content and where it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub offset: u64,
    pub extent: Extent,
    /// None while not looked up, and when the index does not know the chunk.
    pub at: Option<Location>,
}

/// One name to restore, with all of its content.
pub(super) struct NodeJob<'s> {
    pub dir: Arc<DirNode<'s>>,
    pub name: Box<[u8]>,
    pub head: Head,
    pub pieces: Vec<Piece>,
    /// Of a symbolic link.
    pub target: Option<Box<[u8]>>,
}

impl NodeJob<'_> {
    pub fn path(&self) -> Vec<u8> {
        self.dir.path_of(&self.name)
    }

    pub const fn inode(&self) -> &Inode {
        &self.head.inode
    }
}

/// A range of a large file.
pub(super) struct PartJob<'s> {
    pub file: Arc<LargeFile<'s>>,
    pub start: u64,
    pub end: u64,
    pub pieces: Vec<Piece>,
}

/// Work for one worker.
pub(super) enum Job<'s> {
    Node(NodeJob<'s>),
    Part(PartJob<'s>),
}

impl Job<'_> {
    fn pieces(&mut self) -> &mut Vec<Piece> {
        match self {
            Self::Node(job) => &mut job.pieces,
            Self::Part(job) => &mut job.pieces,
        }
    }

    fn place(&self) -> Option<Location> {
        match self {
            Self::Node(job) => job.pieces.first()?.at,
            Self::Part(job) => job.pieces.first()?.at,
        }
    }

    fn cost(&mut self) -> u64 {
        let content: u64 = self.pieces().iter().map(|p| u64::from(p.extent.len)).sum();
        content + BATCH_FILE_BYTES
    }
}

/// Jobs that one worker does one after the other.
pub(super) type Batch<'s> = Vec<Job<'s>>;

/// Batches that were handed out and are not finished.
#[derive(Default)]
pub(super) struct Outstanding {
    batches: Mutex<u64>,
    none: Condvar,
}

impl Outstanding {
    fn begin(&self) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Calls [`Outstanding::end`] when the value is dropped, however the batch ends.
    pub fn ending(&self) -> impl Drop + '_ {
        struct Ending<'o>(&'o Outstanding);
        impl Drop for Ending<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        Ending(self)
    }

    /// A batch is finished.
    fn end(&self) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        *batches = batches.saturating_sub(1);
        if *batches == 0 {
            self.none.notify_all();
        }
    }

    /// Waits until no batch is outstanding.
    pub fn wait(&self) {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.none.wait_while(batches, |b| *b > 0));
    }
}

/// Collects jobs and hands them out.
pub(super) struct Window<'s, 'w> {
    shared: &'s Shared<'s>,
    outstanding: &'w Outstanding,
    workers: Sender<Batch<'s>>,
    jobs: Vec<Job<'s>>,
    pieces: usize,
    limit: usize,
}

impl<'s, 'w> Window<'s, 'w> {
    pub fn new(shared: &'s Shared<'s>, workers: Sender<Batch<'s>>, outstanding: &'w Outstanding) -> Self {
        Self { shared, outstanding, workers, jobs: Vec::new(), pieces: 0, limit: FIRST_JOBS }
    }

    /// Takes a job; hands out a window when it is full.
    pub fn push(&mut self, mut job: Job<'s>) {
        self.pieces += job.pieces().len();
        self.jobs.push(job);
        if self.jobs.len() >= self.limit || self.pieces >= MOST_PIECES {
            self.limit = (self.limit * GROWTH).min(MOST_JOBS);
            self.flush();
        }
    }

    /// Hands out everything and waits until it is done.
    pub fn drain(&mut self) {
        self.flush();
        self.outstanding.wait();
    }

    fn flush(&mut self) {
        self.pieces = 0;
        let mut jobs = std::mem::take(&mut self.jobs);
        if let Err(error) = self.locate(&mut jobs) {
            self.shared.fail(error);
            // Nothing is restored any more, but files that were begun are taken back.
            for job in jobs {
                if let Job::Part(part) = job {
                    file::part(self.shared, &mut Segments::new(self.shared), part);
                }
            }
            return;
        }
        // Stable: files without content stay in the order of their directories.
        jobs.sort_by_key(Job::place);
        let mut batch = Batch::new();
        let (mut cost, mut segment) = (0, None);
        for mut job in jobs {
            let place = job.place().map(|at| (at.package, at.offset));
            if cost >= BATCH_BYTES && (place != segment || place.is_none()) {
                self.send(std::mem::take(&mut batch));
                cost = 0;
            }
            segment = place;
            cost += job.cost();
            batch.push(job);
        }
        self.send(batch);
    }

    fn send(&self, batch: Batch<'s>) {
        if batch.is_empty() {
            return;
        }
        self.outstanding.begin();
        if self.workers.send(batch).is_err() {
            // All workers are gone; whoever ended them has reported why.
            self.outstanding.end();
        }
    }

    fn locate(&self, jobs: &mut [Job<'s>]) -> Result<()> {
        let mut unknown: Vec<&mut Piece> = jobs.iter_mut().flat_map(|j| j.pieces().iter_mut()).collect();
        for some in unknown.chunks_mut(LOOKUP) {
            let ids: Vec<_> = some.iter().map(|p| p.extent.chunk).collect();
            let places = self.shared.repo.locate_many(&ids)?;
            some.iter_mut().zip(places).for_each(|(piece, at)| piece.at = at);
        }
        Ok(())
    }
}
