//! What all threads of one restore share.

use super::dir::most_open;
use super::lookup::{Head, TreeReader};
use super::report::{Finding, Log, Progress};
use super::{Mode, Overwrite};
use crate::catalog::points::printable;
use crate::error::{Error, ErrorKind};
use crate::store::Repository;
use repo_format::ChunkId;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Large files open at a time, where the process may have many.
const MOST_LARGE: usize = 128;

/// Shared by the planner and the workers.
pub(super) struct Shared<'s> {
    pub repo: &'s Repository,
    pub root: ChunkId,
    /// Path in the restore point of what becomes the target.
    pub base: Vec<u8>,
    pub mode: Mode,
    pub overwrite: Overwrite,
    /// Compare the content of files that look right.
    pub compare: bool,
    pub progress: &'s Progress,
    pub log: &'s Log,
    /// Set from outside.
    pub stop: &'s AtomicBool,
    pub us: Us,
    /// Set by an error that ends everything.
    failed: AtomicBool,
    pub open_dirs: AtomicUsize,
    /// Directories kept open, and those of deep paths on top.
    pub most_open: (usize, u32),
    /// Large files open at a time.
    pub most_large: usize,
    pub open_files: AtomicUsize,
    temporary: AtomicU64,
    /// Inodes with several names of which the first was not written.
    unwritten: Mutex<HashMap<u64, Unwritten>>,
}

/// What stands under the first name of an inode with several names when it was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// What should be there, and it is to be left as it is.
    Kept,
    /// Something else, or nothing.
    Other,
}

/// Who we are, as far as it decides what can be restored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Us {
    pub uid: u32,
    pub gid: u32,
}

impl Us {
    fn find() -> Self {
        let own = std::fs::metadata("/proc/self");
        // Without /proc every owner is set, needed or not.
        Self { uid: crate::os::geteuid(), gid: own.map_or(u32::MAX, |m| m.gid()) }
    }

    pub const fn is_root(self) -> bool {
        self.uid == 0
    }
}

impl<'s> Shared<'s> {
    pub fn new(
        repo: &'s Repository,
        root: ChunkId,
        progress: &'s Progress,
        log: &'s Log,
        stop: &'s AtomicBool,
    ) -> Self {
        let limit = crate::os::open_files();
        Self {
            repo,
            root,
            base: Vec::new(),
            mode: Mode::Restore,
            overwrite: Overwrite::IfChanged,
            compare: false,
            progress,
            log,
            stop,
            us: Us::find(),
            failed: AtomicBool::new(false),
            open_dirs: AtomicUsize::new(0),
            most_open: most_open(limit),
            most_large: usize::try_from(limit / 8).unwrap_or(MOST_LARGE).min(MOST_LARGE),
            open_files: AtomicUsize::new(0),
            temporary: AtomicU64::new(0),
            unwritten: Mutex::default(),
        }
    }

    pub fn tree(&self) -> TreeReader<'s> {
        TreeReader::new(self.repo, self.root)
    }

    /// Whether to stop, for whatever reason.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// For work that takes long.
    ///
    /// # Errors
    /// `Interrupted`, when it is to stop.
    pub fn go_on(&self) -> io::Result<()> {
        if self.stopping() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Ends everything.
    pub fn fail(&self, error: Error) {
        self.log.fail(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Reports a finding; ends everything when its cause would hit every other file too.
    pub fn find(&self, finding: Finding, cause: &io::Error) {
        let what = format!("writing {} to the target", printable(&finding.path));
        let error = Error::io(what, io::Error::from_raw_os_error(cause.raw_os_error().unwrap_or(0)));
        match (self.mode, error.kind()) {
            (Mode::Restore, ErrorKind::NoSpace) => self.fail(error.advise(
                "free some space, then run the same command again: what is restored already is not written again",
            )),
            (Mode::Restore, ErrorKind::ReadOnly) => {
                self.fail(error.advise("the target's file system is read-only: remount it, or choose another target"));
            }
            _ => self.log.find(self.progress, finding),
        }
    }

    /// As [`Shared::find`], where no system call of the target is the cause.
    pub fn found(&self, path: Vec<u8>, what: String) {
        self.log.find(self.progress, Finding { path, what, ranges: Vec::new() });
    }

    /// Says that a name was not written. Of an inode with more names, the others must know.
    pub fn not_written(&self, head: &Head, first: Unwritten) {
        if head.inode.nlink > 1 {
            self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).insert(head.ino, first);
        }
    }

    /// What stands under the first name of an inode, if it was not written.
    pub fn unwritten(&self, ino: u64) -> Option<Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).get(&ino).copied()
    }

    /// Another name is going to be the first.
    pub fn begin_anew(&self, ino: u64) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino);
    }

    /// A name for a file that gets its real one when it is whole.
    pub fn temporary_name(&self) -> Vec<u8> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        format!(".relict-{}-{number}.tmp", std::process::id()).into_bytes()
    }
}
