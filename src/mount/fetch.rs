//! Reads that must wait for the medium, off the threads that take requests.
//!
//! A request whose chunks are in memory is answered where it is taken. Any other goes to a thread of its own here, so
//! that a package on a slow or dead disk stops nobody who does not want it. No request waits longer than
//! [`WAIT_LIMIT`]: it then gives EIO, and so do further reads of that file, at once, until the thread that is stuck
//! comes back.

use super::neighbours::Neighbours;
use crate::view::{Ino, Piece, Read, ReadPlan, View};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use fuser::{Errno, ReplyData};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Threads at most. The kernel has no more than `MAX_BACKGROUND` reads ahead of all files under way.
const THREADS: usize = 32;
/// A thread that has nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);
/// How long the medium may take for one request; also half of what would make the kernel report a hung task.
pub(super) const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Zeros for reads of holes.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Takes planned reads and answers them. The threads end when this is dropped and their work is done.
pub(super) struct Fetch {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
    /// Ends the thread that looks at the time.
    _alive: Sender<()>,
}

struct Job {
    number: u64,
    ino: Ino,
    plan: ReadPlan,
}

struct Shared {
    view: Arc<View>,
    neighbours: Arc<OnceLock<Neighbours>>,
    limit: Duration,
    queue: Receiver<Job>,
    threads: AtomicUsize,
    idle: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    requests: HashMap<u64, Request>,
}

struct Request {
    since: Instant,
    ino: Ino,
    offset: u64,
    /// None when it was answered that it took too long.
    reply: Option<ReplyData>,
}

impl Fetch {
    /// `neighbours` is set once there is a connection to the kernel.
    pub(super) fn start(
        view: &Arc<View>,
        neighbours: Arc<OnceLock<Neighbours>>,
        limit: Duration,
    ) -> std::io::Result<Self> {
        // As many as the kernel has requests under way, and it bounds those.
        let (jobs, queue) = unbounded();
        let (threads, idle) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let waiting = Mutex::default();
        let shared = Arc::new(Shared { view: Arc::clone(view), neighbours, limit, queue, threads, idle, waiting });
        let (alive, ended) = bounded::<()>(0);
        let watched = Arc::clone(&shared);
        std::thread::Builder::new().name("fetch-watch".into()).spawn(move || watched.watch(&ended))?;
        Ok(Self { jobs, shared, _alive: alive })
    }

    /// Answers a read, here if that needs nothing from the medium.
    pub(super) fn run(&self, ino: Ino, plan: ReadPlan, reply: ReplyData) {
        let shared = &self.shared;
        if shared.view.at_hand(&plan) {
            let small = plan.is_small_file();
            send(&shared.view.carry_out(ino, plan), reply);
            return shared.done(ino, small);
        }
        let Some(number) = shared.enter(ino, plan.offset(), reply) else { return };
        // It cannot fail: the queue's other end is in `shared`.
        let _ = self.jobs.send(Job { number, ino, plan });
        if shared.queue.len() > shared.idle.load(Ordering::SeqCst) {
            shared.grow();
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; None when its file is known to be stuck, and it has been answered so.
    fn enter(&self, ino: Ino, offset: u64, reply: ReplyData) -> Option<u64> {
        let mut waiting = self.waiting();
        if waiting.requests.values().any(|other| other.ino == ino && other.reply.is_none()) {
            drop(waiting);
            reply.error(Errno::EIO);
            return None;
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.requests.insert(number, Request { since: Instant::now(), ino, offset, reply: Some(reply) });
        Some(number)
    }

    fn grow(self: &Arc<Self>) {
        let more = |threads: usize| (threads < THREADS).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            return;
        }
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new().name("fetch".into()).spawn(move || shared.serve());
        if started.is_err() && self.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nobody else is there to do it.
            self.queue.try_iter().for_each(|job| self.work(job));
        }
    }

    fn serve(&self) {
        loop {
            self.idle.fetch_add(1, Ordering::SeqCst);
            let job = self.queue.recv_timeout(IDLE);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            match job {
                Ok(job) => self.work(job),
                // Who sent a job meanwhile may have counted on this thread.
                Err(RecvTimeoutError::Timeout) if !self.queue.is_empty() => {}
                Err(_) => break,
            }
        }
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    fn work(&self, job: Job) {
        let small = job.plan.is_small_file();
        let read = self.view.carry_out(job.ino, job.plan);
        let reply = self.waiting().requests.remove(&job.number).and_then(|request| request.reply);
        if let Some(reply) = reply {
            send(&read, reply);
        }
        self.done(job.ino, small);
    }

    fn done(&self, ino: Ino, small: bool) {
        if let (true, Some(neighbours)) = (small, self.neighbours.get()) {
            neighbours.saw(ino);
        }
    }

    /// Tells of what was given up, on a thread of its own: the path is in the metadata, which may be as stuck.
    fn report(&self, late: Vec<(Ino, u64)>) {
        if late.is_empty() {
            return;
        }
        let (view, limit) = (Arc::clone(&self.view), self.limit);
        let tell = move || late.into_iter().for_each(|(ino, offset)| view.gave_up(ino, offset, limit));
        // Without a thread it goes untold; who reads has had the error.
        let _ = std::thread::Builder::new().name("fetch-report".into()).spawn(tell);
    }

    /// Once a second: answers what has waited too long.
    fn watch(&self, ended: &Receiver<()>) {
        let every = Duration::from_secs(1).min(self.limit / 4);
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
            let mut late = Vec::new();
            for request in self.waiting().requests.values_mut().filter(|r| r.since.elapsed() >= self.limit) {
                if let Some(reply) = request.reply.take() {
                    reply.error(Errno::EIO);
                    late.push((request.ino, request.offset));
                }
            }
            self.report(late);
        }
    }
}

/// Answers with what was read.
pub(super) fn send(read: &Read, reply: ReplyData) {
    match read.pieces.as_slice() {
        [] => reply.data(&[]),
        [Piece::Zero(len)] if *len <= ZEROS.len() as u64 => reply.data(ZEROS.get(..*len as usize).unwrap_or_default()),
        [piece] if piece.data().is_some() => reply.data(piece.data().unwrap_or_default()),
        // Less than asked for would mean the end of the file. The kernel asks again page by page, so
        // that what is not lost can be read.
        pieces if pieces.iter().any(|piece| matches!(piece, Piece::Lost(_))) => reply.error(Errno::EIO),
        pieces => with_joined(pieces, |bytes| reply.data(bytes)),
    }
}

/// The pieces in a row, in a buffer that each thread keeps.
fn with_joined(pieces: &[Piece], reply: impl FnOnce(&[u8])) {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        for piece in pieces {
            match piece.data() {
                Some(data) => buffer.extend_from_slice(data),
                None => buffer.resize(buffer.len() + piece.len() as usize, 0),
            }
        }
        reply(buffer);
    });
}
