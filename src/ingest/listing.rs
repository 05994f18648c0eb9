//! Listings of directories, made by idle workers before the walker needs them.
//!
//! The walker goes through the directories in one order, since inode numbers depend on it. Asking the
//! kernel depends on nothing: whoever has time takes one of the next few directories on the walker's
//! stack, lists it and asks for its entries' attributes. The walker makes what nobody took.

use super::exclude::Excludes;
use super::run::lock;
use super::source::{Attributes, SourceDir, Stat};
use crate::os::{self, Dir, DirEntry};
use repo_format::FileKind;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How far down the walker's stack a helper looks for work.
const LOOK_AHEAD: usize = 16;
/// Listings that may wait for the walker; each keeps its directory open.
const MAX_WAITING: usize = 128;
/// Attributes that a listing holds; of longer ones the walker asks for the rest as it gets there.
const MAX_STATS: usize = 8192;

/// A snapshot's directory that is read in the place of the directory it is a snapshot of, under that one's name.
#[derive(Debug, Clone)]
pub struct StandIn {
    /// The directory that is backed up, absolute.
    pub path: PathBuf,
    /// Where its snapshot is.
    pub snapshot: PathBuf,
}

impl StandIn {
    fn is_for(&self, path: &[u8]) -> bool {
        self.path.as_os_str().as_bytes() == path
    }

    fn open(&self) -> io::Result<Dir> {
        Dir::open_root(&self.snapshot)
    }
}

/// A directory as it was read.
pub(super) struct Listing {
    pub(super) dir: Arc<SourceDir>,
    /// Ascending by name, without what is excluded.
    pub(super) entries: Vec<DirEntry>,
    /// Attributes of the first entries.
    stats: Vec<io::Result<Stat>>,
}

impl Listing {
    /// Reads a directory; of `only`, if given, no more than these names.
    fn read(dir: SourceDir, only: Option<&[Vec<u8>]>, excludes: &Excludes, stand_in: Option<&StandIn>) -> io::Result<Self> {
        let entries = match only {
            Some(names) => names.iter().map(|name| DirEntry { name: name.clone(), kind: None, ino: 0 }).collect(),
            None => listed(&dir, excludes)?,
        };
        let stat = |entry: &DirEntry| match stand_in.filter(|other| other.is_for(&dir.path_of(&entry.name))) {
            Some(other) => Stat::try_from(other.open()?.stat_self()?),
            None => Stat::of_entry(&dir.dir, &entry.name),
        };
        let stats = entries.iter().take(MAX_STATS).map(stat).collect();
        Ok(Self { dir: Arc::new(dir), entries, stats })
    }

    /// Attributes of entry number `index`.
    pub(super) fn stat(&mut self, index: usize) -> io::Result<Stat> {
        if let Some(stat) = self.stats.get_mut(index) {
            return std::mem::replace(stat, Err(io::Error::from_raw_os_error(libc::ENOENT)));
        }
        let entry = self.entries.get(index).ok_or(io::ErrorKind::NotFound)?;
        Stat::of_entry(&self.dir.dir, &entry.name)
    }
}

fn listed(dir: &SourceDir, excludes: &Excludes) -> io::Result<Vec<DirEntry>> {
    let mut entries = dir.dir.entries()?;
    // A marker that cannot be read marks nothing: rather too much is kept than too little.
    if let Ok(Some(marker)) = excludes.dir_is_marked(&dir.dir) {
        entries.retain(|entry| entry.name == marker.name);
    }
    let mut path = dir.path_of(b"");
    let dir_bytes = path.len();
    entries.retain(|entry| {
        let is_dir = match entry.kind {
            Some(kind) => kind == os::FileKind::Dir,
            None => Stat::of_entry(&dir.dir, &entry.name).is_ok_and(|stat| stat.kind == FileKind::Dir),
        };
        path.truncate(dir_bytes);
        path.extend_from_slice(&entry.name);
        !excludes.excluded(Path::new(OsStr::from_bytes(&path)), is_dir)
    });
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // A directory that changes while it is listed may show a name twice.
    entries.dedup_by(|a, b| a.name == b.name);
    Ok(entries)
}

/// A directory that the walker will come to.
pub(super) struct Slot {
    parent: Arc<SourceDir>,
    name: Vec<u8>,
    /// If given, no more than these names.
    only: Option<Vec<Vec<u8>>>,
    state: Mutex<State>,
    ready: Condvar,
}

enum State {
    Waiting,
    Running,
    Done(io::Result<Listing>),
    Taken,
}

impl Slot {
    pub(super) fn new(parent: &Arc<SourceDir>, name: &[u8], only: Option<Vec<Vec<u8>>>) -> Self {
        let state = Mutex::new(State::Waiting);
        Self { parent: Arc::clone(parent), name: name.to_vec(), only, state, ready: Condvar::new() }
    }

    /// The directory's path.
    pub(super) fn path(&self) -> Vec<u8> {
        self.parent.path_of(&self.name)
    }

    /// The directory's attributes, when it could not be opened.
    pub(super) fn attributes(&self) -> (Attributes, Option<io::Error>) {
        Attributes::of_entry(&self.parent.dir, &self.name)
    }

    fn start(&self) -> bool {
        let mut state = lock(&self.state);
        let free = matches!(*state, State::Waiting);
        if free {
            *state = State::Running;
        }
        free
    }

    fn list(&self, excludes: &Excludes, stand_in: Option<&StandIn>) -> io::Result<Listing> {
        let path = self.path();
        let dir = match stand_in.filter(|other| other.is_for(&path)) {
            Some(other) => other.open()?,
            None => self.parent.dir.open_dir(&self.name)?,
        };
        Listing::read(SourceDir { dir, path }, self.only.as_deref(), excludes, stand_in)
    }
}

/// The directories before the walker, and who lists them.
pub(super) struct Ahead<'a> {
    excludes: &'a Excludes,
    stand_in: Option<&'a StandIn>,
    /// The next one is the last.
    stack: Mutex<Vec<Arc<Slot>>>,
    waiting: AtomicUsize,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(excludes: &'a Excludes, stand_in: Option<&'a StandIn>) -> Self {
        Self { excludes, stand_in, stack: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// What is left out.
    pub(super) const fn excludes(&self) -> &Excludes {
        self.excludes
    }

    /// Lists the directory that a walk begins at; nobody does that ahead.
    pub(super) fn list_top(&self, dir: Dir, only: Option<&[Vec<u8>]>) -> io::Result<Listing> {
        Listing::read(SourceDir { dir, path: b"/".to_vec() }, only, self.excludes, self.stand_in)
    }

    /// Tells which directories come next, the first of them last.
    pub(super) fn push(&self, slots: impl Iterator<Item = Arc<Slot>>) {
        lock(&self.stack).extend(slots);
    }

    /// Makes one listing of the next few, if there is one to make.
    pub(super) fn list_one(&self) -> bool {
        if self.waiting.load(Relaxed) >= MAX_WAITING {
            return false;
        }
        let slot = {
            let stack = lock(&self.stack);
            stack.iter().rev().take(LOOK_AHEAD).find(|slot| slot.start()).cloned()
        };
        let Some(slot) = slot else { return false };
        self.waiting.fetch_add(1, Relaxed);
        let listing = slot.list(self.excludes, self.stand_in);
        *lock(&slot.state) = State::Done(listing);
        slot.ready.notify_one();
        true
    }

    /// The listing of the next directory, which must be the last one pushed.
    pub(super) fn take(&self, slot: &Slot) -> io::Result<Listing> {
        lock(&self.stack).pop();
        let mut state = lock(&slot.state);
        if matches!(*state, State::Waiting) {
            *state = State::Taken;
            drop(state);
            return slot.list(self.excludes, self.stand_in);
        }
        while matches!(*state, State::Running) {
            state = slot.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.fetch_sub(1, Relaxed);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(listing) => listing,
            State::Waiting | State::Running | State::Taken => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
