//! Requests that must wait for the medium, off the threads that take them.
//!
//! A request for what is in memory is answered where it is taken. Any other goes to a thread of its own here, so
//! that a slow or dead disk stops nobody who does not want what is on it. No request waits longer than
//! [`WAIT_LIMIT`]: it then gives EIO, and so do further requests of that file that have to wait, at once, until the thread that is stuck
//! comes back.

use super::errno::errno;
use super::neighbours::Neighbours;
use crate::view::{Ino, Piece, Read, ReadPlan, View};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use fuser::{
    Errno, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyXattr,
};
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

/// Takes requests that have to wait and answers them. The threads end when this is dropped and their work is done.
pub(super) struct Fetch {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
    /// Ends the thread that looks at the time.
    _alive: Sender<()>,
}

struct Job {
    number: u64,
    work: Box<dyn FnOnce(&Shared) + Send>,
}

/// An answer that is still owed, until somebody gives it or gives up.
struct Owed<R>(Mutex<Option<R>>);

impl<R> Owed<R> {
    fn take(&self) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A reply that can be an error.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, errno: Errno) {
            self.error(errno);
        }
    })* };
}
refuse!(ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyXattr);

trait GiveUp: Send + Sync {
    /// False: it was answered before.
    fn give_up(&self) -> bool;
}

impl<R: Refuse> GiveUp for Owed<R> {
    fn give_up(&self) -> bool {
        self.take().map(|reply| reply.refuse(Errno::EIO)).is_some()
    }
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
    /// Of the content.
    offset: Option<u64>,
    owed: Arc<dyn GiveUp>,
    /// It was answered that it took too long.
    late: bool,
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
        self.later(ino, Some(plan.offset()), reply, move |shared, owed| shared.read(ino, plan, owed));
    }

    /// Answers a read of which it is not known yet what it needs.
    pub(super) fn plan(&self, ino: Ino, offset: u64, len: u64, reply: ReplyData) {
        self.later(ino, Some(offset), reply, move |shared, owed| match shared.view.plan(ino, offset, len) {
            Ok(plan) => shared.read(ino, plan, owed),
            Err(error) => {
                if let Some(reply) = owed.take() {
                    reply.error(errno(&error));
                }
            }
        });
    }

    /// Asks the view about `ino` and tells the answer, where that may take its time.
    pub(super) fn ask<R: Refuse, T>(
        &self,
        ino: Ino,
        reply: R,
        ask: impl FnOnce(&View) -> T + Send + 'static,
        tell: impl FnOnce(T, R) + Send + 'static,
    ) {
        self.later(ino, None, reply, move |shared, owed| {
            let answer = ask(&shared.view);
            if let Some(reply) = owed.take() {
                tell(answer, reply);
            }
        });
    }

    fn later<R: Refuse>(
        &self,
        ino: Ino,
        offset: Option<u64>,
        reply: R,
        work: impl FnOnce(&Shared, &Owed<R>) + Send + 'static,
    ) {
        let shared = &self.shared;
        if shared.is_stuck(ino) {
            return reply.refuse(Errno::EIO);
        }
        let owed = Arc::new(Owed(Mutex::new(Some(reply))));
        let number = shared.enter(ino, offset, Arc::clone(&owed) as Arc<dyn GiveUp>);
        let work = Box::new(move |shared: &Shared| work(shared, &owed));
        // It cannot fail: the queue's other end is in `shared`.
        let _ = self.jobs.send(Job { number, work });
        if shared.queue.len() > shared.idle.load(Ordering::SeqCst) {
            shared.grow();
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stuck(&self, ino: Ino) -> bool {
        self.waiting().requests.values().any(|other| other.ino == ino && other.late)
    }

    /// Notes a request, and gives it a number.
    fn enter(&self, ino: Ino, offset: Option<u64>, owed: Arc<dyn GiveUp>) -> u64 {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.requests.insert(number, Request { since: Instant::now(), ino, offset, owed, late: false });
        number
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
        (job.work)(self);
        self.waiting().requests.remove(&job.number);
    }

    fn read(&self, ino: Ino, plan: ReadPlan, owed: &Owed<ReplyData>) {
        let small = plan.is_small_file();
        let read = self.view.carry_out(ino, plan);
        if let Some(reply) = owed.take() {
            send(&read, reply);
        }
        self.done(ino, small);
    }

    fn done(&self, ino: Ino, small: bool) {
        if let (true, Some(neighbours)) = (small, self.neighbours.get()) {
            neighbours.saw(ino);
        }
    }

    /// Tells of what was given up, on a thread of its own: the path is in the metadata, which may be as stuck.
    fn report(&self, late: Vec<(Ino, Option<u64>)>) {
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
                if !request.late && request.owed.give_up() {
                    request.late = true;
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
