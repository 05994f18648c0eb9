//! Listings of directories, made by idle workers before the walker needs them.
//!
//! The walker goes through the directories in one order, since inode numbers depend on it. Asking the
//! kernel depends on nothing: whoever has time takes one of the next few directories on the walker's
//! stack, lists it and asks for its entries' attributes. The walker makes what nobody took.

use super::exclude::Excludes;
use super::run::lock;
use super::small::BATCH_DIRS;
use super::source::{Attributes, SourceDir, Stat, path_of};
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
/// Directories that wait for the walker with their parents open.
const MAX_PARENTS: usize = 4096;
/// Attributes that a listing holds; of longer ones the walker asks for the rest as it gets there.
const MAX_STATS: usize = 8192;

/// How many directories a scan may keep open, by what for. Together about half of what the process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenDirs {
    /// Listings that wait for the walker.
    pub(super) waiting: usize,
    /// Of one batch of files.
    pub(super) batch: usize,
    /// Parents of directories that wait to be listed.
    pub(super) parents: usize,
}

impl OpenDirs {
    /// For a process that may have `limit` files open, and so many batches of files at a time.
    pub(super) fn new(limit: u64, batches: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            waiting: (limit / 8).clamp(2, MAX_WAITING),
            batch: (limit / 8 / batches.max(1)).clamp(1, BATCH_DIRS),
            parents: (limit / 4).clamp(2, MAX_PARENTS),
        }
    }
}

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

    /// The names from the snapshot's directory down to `path`, which is in what it stands for.
    fn below<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        path.strip_prefix(self.path.as_os_str().as_bytes()).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
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
    fn read(
        dir: SourceDir,
        only: Option<&[Vec<u8>]>,
        excludes: &Excludes,
        stand_in: Option<&StandIn>,
    ) -> io::Result<Self> {
        let entries = match only {
            Some(names) => names.iter().map(|name| DirEntry { name: name.clone(), kind: None, ino: 0 }).collect(),
            None => listed(&dir, excludes)?,
        };
        let mut stats = stats_of(&dir.dir, entries.get(..MAX_STATS).unwrap_or(&entries));
        // The entry that another directory stands in for has that one's attributes.
        if let Some(other) = stand_in {
            let is_it = |entry: &DirEntry| other.is_for(&dir.path_of(&entry.name));
            if let Some(stat) = entries.iter().position(is_it).and_then(|at| stats.get_mut(at)) {
                *stat = other.open().and_then(|dir| dir.stat_self()).and_then(Stat::try_from);
            }
        }
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

/// Attributes of entries, asked for in the order of inode numbers, which is mostly that of the disk and of memory.
fn stats_of(dir: &Dir, entries: &[DirEntry]) -> Vec<io::Result<Stat>> {
    let mut order: Vec<(u64, usize)> = entries.iter().enumerate().map(|(index, entry)| (entry.ino, index)).collect();
    order.sort_unstable();
    let mut stats: Vec<io::Result<Stat>> = Vec::new();
    stats.resize_with(entries.len(), || Err(io::ErrorKind::NotFound.into()));
    for (_, index) in order {
        if let (Some(stat), Some(entry)) = (stats.get_mut(index), entries.get(index)) {
            *stat = Stat::of_entry(dir, &entry.name);
        }
    }
    stats
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
    parent: Mutex<Parent>,
    name: Vec<u8>,
    /// If given, no more than these names.
    only: Option<Vec<Vec<u8>>>,
    state: Mutex<State>,
    ready: Condvar,
}

/// The directory that a slot's is in.
enum Parent {
    Open(Arc<SourceDir>),
    /// Closed to save its handle: its path, and what it was (device and inode), if that could be told.
    Closed(Arc<[u8]>, Option<Identity>),
}

type Identity = ((u32, u32), u64);

impl Parent {
    fn path(&self) -> &Arc<[u8]> {
        match self {
            Self::Open(dir) => &dir.path,
            Self::Closed(path, _) => path,
        }
    }
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
        let parent = Mutex::new(Parent::Open(Arc::clone(parent)));
        Self { parent, name: name.to_vec(), only, state, ready: Condvar::new() }
    }

    /// The directory's path.
    pub(super) fn path(&self) -> Vec<u8> {
        path_of(lock(&self.parent).path(), &self.name)
    }

    /// The directory's attributes, when it could not be opened.
    pub(super) fn attributes(&self, stand_in: Option<&StandIn>) -> (Attributes, Option<io::Error>) {
        match self.parent(stand_in) {
            Ok(parent) => Attributes::of_entry(&parent.dir, &self.name),
            Err(error) => (Attributes::default(), Some(error)),
        }
    }

    /// Lets the parent's handle go; it is opened again by its path when it is needed.
    pub(super) fn close(&self) {
        let mut parent = lock(&self.parent);
        if let Parent::Open(dir) = &*parent {
            let identity = dir.dir.stat_self().ok().map(|stat| (stat.dev, stat.ino));
            *parent = Parent::Closed(Arc::clone(&dir.path), identity);
        }
    }

    fn parent(&self, stand_in: Option<&StandIn>) -> io::Result<Arc<SourceDir>> {
        let (path, identity) = match &*lock(&self.parent) {
            Parent::Open(dir) => return Ok(Arc::clone(dir)),
            Parent::Closed(path, identity) => (Arc::clone(path), *identity),
        };
        Ok(Arc::new(SourceDir { dir: open_again(&path, identity, stand_in)?, path }))
    }

    fn start(&self) -> bool {
        let mut state = lock(&self.state);
        let free = matches!(*state, State::Waiting);
        if free {
            *state = State::Running;
        }
        free
    }

    fn is_running(&self) -> bool {
        matches!(*lock(&self.state), State::Running)
    }

    fn list(&self, excludes: &Excludes, stand_in: Option<&StandIn>) -> io::Result<Listing> {
        let path = self.path();
        let dir = match stand_in.filter(|other| other.is_for(&path)) {
            Some(other) => other.open()?,
            None => self.parent(stand_in)?.dir.open_dir(&self.name)?,
        };
        Listing::read(SourceDir { dir, path: path.into() }, self.only.as_deref(), excludes, stand_in)
    }
}

/// Opens a directory by its absolute path, name by name and through no symbolic link; ENOENT if another directory has
/// its place by now.
pub(super) fn open_again(path: &[u8], identity: Option<Identity>, stand_in: Option<&StandIn>) -> io::Result<Dir> {
    let other = stand_in.and_then(|other| Some((other.open(), other.below(path)?)));
    let (top, path) = other.unwrap_or_else(|| (Dir::open_root(Path::new("/")), path));
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let dir = top?.open_beneath(&names)?;
    let stat = dir.stat_self()?;
    let same = identity.is_none_or(|identity| identity == (stat.dev, stat.ino));
    if same { Ok(dir) } else { Err(io::Error::from_raw_os_error(libc::ENOENT)) }
}

/// The directories before the walker, and who lists them.
pub(super) struct Ahead<'a> {
    excludes: &'a Excludes,
    stand_in: Option<&'a StandIn>,
    /// The next one is the last.
    stack: Mutex<Vec<Arc<Slot>>>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(excludes: &'a Excludes, stand_in: Option<&'a StandIn>, max_waiting: usize) -> Self {
        Self { excludes, stand_in, stack: Mutex::default(), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// What is left out.
    pub(super) const fn excludes(&self) -> &Excludes {
        self.excludes
    }

    /// What is read in the place of another directory.
    pub(super) const fn stand_in(&self) -> Option<&StandIn> {
        self.stand_in
    }

    /// Lists the directory that a walk begins at; nobody does that ahead.
    pub(super) fn list_top(&self, dir: Dir, only: Option<&[Vec<u8>]>) -> io::Result<Listing> {
        Listing::read(SourceDir { dir, path: b"/"[..].into() }, only, self.excludes, self.stand_in)
    }

    /// Tells which directories come next, the first of them last.
    pub(super) fn push(&self, slots: impl Iterator<Item = Arc<Slot>>) {
        lock(&self.stack).extend(slots);
    }

    /// Makes one listing of the next few, if there is one to make.
    pub(super) fn list_one(&self) -> bool {
        if self.waiting.load(Relaxed) >= self.max_waiting {
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
        // While another lists it, a later one is made here: to sleep and be woken takes longer than most listings.
        while slot.is_running() && self.list_one() {}
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
