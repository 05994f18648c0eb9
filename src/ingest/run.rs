//! What all threads of one run share.

use super::chunker::Chunker;
use super::old::{Edits, OldTree};
use super::report::{Finding, Monitor, Report, Severity};
use super::sink::ChunkSink;
use super::source::Stat;
use crate::catalog::edits::EditSet;
use crate::{Error, ErrorKind, Result};
use repo_format::{Inode, SourceIdentity};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A regular file that could not be opened: its name and entries leave the tree when the scan is over.
pub(super) struct LeftOut {
    pub(super) ino: u64,
    pub(super) dir_ino: u64,
    pub(super) name: Vec<u8>,
    pub(super) source: SourceIdentity,
    pub(super) stat: Stat,
    /// Its attributes in the parent point, if it is there.
    pub(super) old: Option<Box<Inode>>,
    pub(super) path: Vec<u8>,
    /// Of a file that has other names: why this one was of no use. It is not reported yet.
    pub(super) unread: Option<io::Error>,
}

/// The shared state of a run. Locks are held for the moments of a push, never while reading or storing.
pub(super) struct Run<'a> {
    pub(super) sink: &'a dyn ChunkSink,
    pub(super) old: Option<OldTree<'a>>,
    pub(super) chunker: Chunker,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) stop: &'a AtomicBool,
    pub(super) read_bytes: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    edits: Mutex<EditSet>,
    report: Mutex<Report>,
    shared_inodes: Mutex<HashMap<u64, Inode>>,
    left_out: Mutex<Vec<LeftOut>>,
    replaced: Mutex<Vec<(u64, Option<Inode>)>>,
}

/// What is left of a [`Run`] when its threads are gone.
pub(super) struct RunEnd {
    pub(super) edits: EditSet,
    pub(super) report: Report,
    pub(super) shared_inodes: HashMap<u64, Inode>,
    pub(super) left_out: Vec<LeftOut>,
    /// Files that are not what was listed, with their attributes in the parent point, if they are there.
    pub(super) replaced: Vec<(u64, Option<Inode>)>,
}

impl<'a> Run<'a> {
    /// The state at the start.
    pub(super) fn new(
        sink: &'a dyn ChunkSink,
        old: Option<OldTree<'a>>,
        chunker: Chunker,
        monitor: &'a dyn Monitor,
        stop: &'a AtomicBool,
        edit_bytes: usize,
    ) -> Self {
        Self {
            sink,
            old,
            chunker,
            monitor,
            stop,
            read_bytes: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            edits: Mutex::new(EditSet::new(edit_bytes)),
            report: Mutex::default(),
            shared_inodes: Mutex::default(),
            left_out: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// An error if the run is to end: the user said stop, or another thread failed.
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.load(Relaxed) || self.failed.load(Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "the backup was stopped"));
        }
        Ok(())
    }

    /// Ends the run because of `error`, unless it ends already.
    pub(super) fn fail(&self, error: Error) {
        let mut first = lock(&self.error);
        if first.is_none() {
            *first = Some(error);
        }
        self.failed.store(true, Relaxed);
    }

    /// Moves edits to the batch.
    pub(super) fn push(&self, edits: &mut Edits) -> Result<()> {
        if edits.is_empty() {
            return Ok(());
        }
        let mut set = lock(&self.edits);
        edits.drain(..).try_for_each(|(key, edit)| set.push(key, edit))
    }

    /// Reports something about a file.
    pub(super) fn find(&self, path: Vec<u8>, severity: Severity, what: impl Into<String>) {
        let finding = Finding { path, severity, what: what.into() };
        self.monitor.on_finding(&finding);
        lock(&self.report).add(finding);
    }

    /// Keeps the attributes of an inode whose number of names is known at the end only.
    pub(super) fn keep_shared(&self, ino: u64, inode: Inode) {
        lock(&self.shared_inodes).insert(ino, inode);
    }

    /// Leaves a file out.
    pub(super) fn leave_out(&self, file: LeftOut) {
        lock(&self.left_out).push(file);
    }

    /// Says that a file was put in the place of the one that was listed; `old` is what the parent point has there.
    pub(super) fn replace(&self, ino: u64, old: Option<Inode>) {
        lock(&self.replaced).push((ino, old));
    }

    /// The files that were left out so far.
    pub(super) fn take_left_out(&self) -> Vec<LeftOut> {
        std::mem::take(&mut lock(&self.left_out))
    }

    /// Counts content read.
    pub(super) fn count_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
        self.monitor.on_read(bytes);
    }

    /// The error that ended the run, or what it gathered.
    pub(super) fn end(self) -> Result<RunEnd> {
        if let Some(error) = into_inner(self.error) {
            return Err(error);
        }
        Ok(RunEnd {
            edits: into_inner(self.edits),
            report: into_inner(self.report),
            shared_inodes: into_inner(self.shared_inodes),
            left_out: into_inner(self.left_out),
            replaced: into_inner(self.replaced),
        })
    }
}

/// No code panics while it holds one of these locks half way through a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
