//! Changes applied to a repository in memory, held against a naive file system and against the definition of a cut.

mod damage;
mod law;
mod model;
mod scale;
mod session;
mod table;

use super::apply::{Apply, Around, FindState, State};
use super::pipeline::{Pipeline, Workers};
use super::source::ReadSource;
use super::store::Store;
use crate::catalog::edits::SortedEdits;
use crate::catalog::tree::{self, MemoryNodes, NodeRef, ReadNodes};
use crate::ingest::change::{Change, SetAttr};
use crate::ingest::chunker::{Chunker, Piece, Splitter};
use crate::ingest::report::{Finding, Progress};
use crate::ingest::sink::ChunkSink;
use crate::store::Search;
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Counts, Device, Dirent, Extent, FileKind, Inode, Key, ROOT_INO, Time, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Small chunks, so that small files have many.
const CHUNK_BYTES: [u32; 3] = [1024, 4096, 16384];

/// One change, owned.
#[derive(Debug, Clone, PartialEq)]
enum Op {
    Create(String, FileKind, Option<u64>),
    Device(String, u32, u32),
    Link(String, String),
    Unlink(String),
    RemoveDir(String),
    Rename(String, String),
    Mode(String, u32),
    Time(String, i64),
    Xattr(String, String, Option<Vec<u8>>),
    Target(String, String),
    Write(String, u64, Vec<u8>),
    Zero(String, u64, u64, bool),
    /// From another state, if one is named.
    Clone {
        to: String,
        offset: u64,
        state: Option<usize>,
        from: String,
        from_offset: u64,
        len: u64,
    },
    Truncate(String, u64),
    Changed(String, u64, u64),
}

fn state_id(state: usize) -> [u8; 8] {
    (state as u64 + 1).to_be_bytes()
}

impl Op {
    fn with<T>(&self, run: impl FnOnce(&Change<'_>) -> T) -> T {
        let id;
        let change = match self {
            Self::Create(path, kind, ino) => {
                Change::Create { path: path.as_bytes(), kind: *kind, ino: *ino, device: None }
            }
            Self::Device(path, major, minor) => {
                let device = Some(Device { major: *major, minor: *minor });
                Change::Create { path: path.as_bytes(), kind: FileKind::Char, ino: None, device }
            }
            Self::Link(path, existing) => Change::Link { path: path.as_bytes(), existing: existing.as_bytes() },
            Self::Unlink(path) => Change::Unlink { path: path.as_bytes() },
            Self::RemoveDir(path) => Change::RemoveDir { path: path.as_bytes() },
            Self::Rename(from, to) => Change::Rename { from: from.as_bytes(), to: to.as_bytes() },
            Self::Mode(path, mode) => Change::SetAttr {
                path: path.as_bytes(),
                set: SetAttr { mode: Some(*mode), uid: Some(7), ..SetAttr::default() },
            },
            Self::Time(path, sec) => {
                let mtime = Some(Time { sec: *sec, nsec: u32::from(*sec != 0) });
                Change::SetAttr { path: path.as_bytes(), set: SetAttr { mtime, ctime: mtime, ..SetAttr::default() } }
            }
            Self::Xattr(path, name, Some(value)) => {
                Change::SetXattr { path: path.as_bytes(), name: name.as_bytes(), value }
            }
            Self::Xattr(path, name, None) => Change::RemoveXattr { path: path.as_bytes(), name: name.as_bytes() },
            Self::Target(path, target) => Change::SetTarget { path: path.as_bytes(), target: target.as_bytes() },
            Self::Write(path, offset, data) => Change::Write { path: path.as_bytes(), offset: *offset, data },
            Self::Zero(path, offset, len, extend) => {
                Change::Zero { path: path.as_bytes(), offset: *offset, len: *len, extend: *extend }
            }
            Self::Clone { to, offset, state, from, from_offset, len } => {
                id = state.map(state_id);
                let state = id.as_ref().map(|id| &id[..]);
                let (path, from) = (to.as_bytes(), from.as_bytes());
                Change::Clone { path, offset: *offset, state, from, from_offset: *from_offset, len: *len }
            }
            Self::Truncate(path, size) => Change::Truncate { path: path.as_bytes(), size: *size },
            Self::Changed(path, offset, len) => Change::Changed { path: path.as_bytes(), offset: *offset, len: *len },
        };
        run(&change)
    }
}

/// A sealed state.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sealed {
    root: ChunkId,
    next_ino: u64,
    counts: Counts,
}

/// A repository in memory that counts.
struct World {
    nodes: MemoryNodes,
    /// Chunks, and whether they can be read yet.
    chunks: Mutex<HashMap<ChunkId, (Vec<u8>, bool)>>,
    claimed: Mutex<HashSet<ChunkId>>,
    chunk_reads: AtomicU64,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    /// How each segment was searched, and its bytes.
    segments: Mutex<Vec<(Search, usize)>>,
    settles: AtomicU64,
    /// Different nodes read.
    touched: Mutex<HashSet<ChunkId>>,
    states: Mutex<Vec<Sealed>>,
    chunk_bytes: [u32; 3],
    limit_bytes: usize,
    max_extents: usize,
    source: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Whether more may be read from it than what is said to have changed.
    source_is_state: AtomicBool,
    /// Chunks that cannot be read, until they are stored again.
    damaged: Mutex<HashSet<ChunkId>>,
    /// Chunks of which only the first half is there.
    halved: Mutex<HashSet<ChunkId>>,
    /// Whoever asks what is new panics.
    panics: AtomicBool,
    /// What the last ingest had to say of single files.
    findings: Mutex<Vec<Finding>>,
    /// Beside damage contents are cut as they can be, and not as a full read would.
    is_cut_freely: AtomicBool,
}

impl World {
    fn new() -> Self {
        Self {
            nodes: MemoryNodes::new(),
            chunks: Mutex::default(),
            claimed: Mutex::default(),
            chunk_reads: AtomicU64::new(0),
            new_chunks: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            segments: Mutex::default(),
            settles: AtomicU64::new(0),
            touched: Mutex::default(),
            states: Mutex::default(),
            chunk_bytes: CHUNK_BYTES,
            limit_bytes: 64 << 20,
            max_extents: 100_000,
            source: Mutex::default(),
            source_is_state: AtomicBool::new(false),
            damaged: Mutex::default(),
            halved: Mutex::default(),
            panics: AtomicBool::new(false),
            findings: Mutex::default(),
            is_cut_freely: AtomicBool::new(false),
        }
    }

    /// Applies `ops` to a state, or to nothing; the new state is numbered in order.
    fn ingest(&self, parent: Option<usize>, ops: &[Op]) -> Result<Sealed> {
        let id = state_id(self.states.lock().unwrap().len());
        let base = parent.map(|parent| self.states.lock().unwrap()[parent]);
        let sealed =
            self.run(&id, base, &mut |apply| ops.iter().try_for_each(|op| op.with(|change| apply.change(change))))?;
        self.states.lock().unwrap().push(sealed);
        Ok(sealed)
    }

    fn run(
        &self,
        id: &[u8],
        base: Option<Sealed>,
        feed: &mut dyn FnMut(&mut Apply<'_, '_>) -> Result<()>,
    ) -> Result<Sealed> {
        let (progress, stop) = (Progress::default(), AtomicBool::new(false));
        let (workers, ends) = Workers::new(self, &progress, Chunker::new(self.chunk_bytes), 2, 8 << 20);
        let mut source = MapSource(self.source.lock().unwrap().clone(), self.source_is_state.load(Relaxed));
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let workers = &workers;
                scope.spawn(move || workers.work(worker));
            }
            let (limit_bytes, max_extents) = (self.limit_bytes, self.max_extents);
            let around = Around { store: self, monitor: &progress, stop: &stop, limit_bytes, max_extents };
            let counts = base.map_or_else(Counts::default, |base| Counts { read_bytes: 0, ..base.counts });
            let mut state = State::new(&around, id, base.map(|b| b.root), base.map_or(0, |b| b.next_ino), 1, counts);
            let mut pipeline = Pipeline::new(&workers, ends);
            let mut apply = Apply {
                around: &around,
                pipeline: &mut pipeline,
                source: Some(&mut source),
                states: self,
                state: &mut state,
            };
            feed(&mut apply)?;
            let (root, next_ino) = apply.finish()?;
            *self.findings.lock().unwrap() = apply.damage()?;
            self.settle()?;
            Ok(Sealed { root, next_ino, counts: Counts { read_bytes: 0, ..state.counts } })
        })
    }

    fn reset_counts(&self) {
        self.touched.lock().unwrap().clear();
        [&self.chunk_reads, &self.new_chunks, &self.new_bytes, &self.settles]
            .iter()
            .for_each(|count| count.store(0, Relaxed));
    }

    /// What the tree says, path by path, after checking that it is whole and that every content is cut as a full
    /// read of it would be.
    fn read_back(&self, sealed: &Sealed) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        let mut inodes = BTreeSet::new();
        let mut todo = vec![(String::new(), Dirent { ino: ROOT_INO, kind: FileKind::Dir })];
        let (mut files, mut dirs, mut bytes) = (0, 0, 0);
        while let Some((path, dirent)) = todo.pop() {
            *names.entry(dirent.ino).or_default() += 1;
            let (one, subdirs) = self.read_inode(sealed, &path, dirent, &mut todo);
            if inodes.insert(dirent.ino) {
                let is_file = dirent.kind == FileKind::File;
                (files, dirs) = if dirent.kind == FileKind::Dir { (files, dirs + 1) } else { (files + 1, dirs) };
                bytes += if is_file { one.inode.size } else { 0 };
            }
            assert!(dirent.kind != FileKind::Dir || one.inode.nlink == 2 + subdirs, "nlink of {path}");
            seen.insert(path, one);
        }
        for (path, one) in seen.iter().filter(|(_, one)| one.inode.kind() != FileKind::Dir) {
            assert_eq!(one.inode.nlink, names[&one.ino], "nlink of {path}");
        }
        assert_eq!((sealed.counts.files, sealed.counts.dirs, sealed.counts.bytes), (files, dirs, bytes), "counts");
        // Nothing is left behind of inodes without a name.
        for entry in tree::range(&self.nodes, &sealed.root, &[]) {
            let entry = entry.unwrap();
            let key = Key::decode(entry.key()).unwrap();
            assert!(inodes.contains(&key.ino()), "{key:?} is nobody's");
            assert!(key.ino() < sealed.next_ino.max(2), "{key:?} is not below {}", sealed.next_ino);
            Value::decode(key.kind(), entry.value()).unwrap();
        }
        seen
    }

    fn read_inode(&self, sealed: &Sealed, path: &str, dirent: Dirent, todo: &mut Vec<(String, Dirent)>) -> (Seen, u32) {
        let row = tree::get(&self.nodes, &sealed.root, &Key::Inode(dirent.ino).encode()).unwrap().unwrap();
        let inode = Inode::decode(row.value()).unwrap();
        assert_eq!(inode.kind(), dirent.kind, "{path}");
        let mut one = Seen { ino: dirent.ino, inode, xattrs: BTreeMap::new(), target: None, data: Vec::new() };
        let (mut subdirs, mut extents) = (0, Vec::new());
        for entry in tree::range_prefix(&self.nodes, &sealed.root, &dirent.ino.to_be_bytes()) {
            let entry = entry.unwrap();
            match Key::decode(entry.key()).unwrap() {
                Key::Dirent(_, name) => {
                    let below = Dirent::decode(entry.value()).unwrap();
                    subdirs += u32::from(below.kind == FileKind::Dir);
                    let name = String::from_utf8(name.to_vec()).unwrap();
                    todo.push((if path.is_empty() { name } else { format!("{path}/{name}") }, below));
                }
                Key::Xattr(_, name) => {
                    one.xattrs.insert(String::from_utf8(name.to_vec()).unwrap(), entry.value().to_vec());
                }
                Key::Target(_) => one.target = Some(entry.value().to_vec()),
                Key::Extent(_, offset) => extents.push((offset, Extent::decode(entry.value()).unwrap())),
                _ => {}
            }
        }
        if dirent.kind == FileKind::File {
            one.data = self.content(inode.size, &extents);
            assert!(
                self.is_cut_freely.load(Relaxed) || extents == full_read(self.chunk_bytes, &one.data),
                "{path} is cut otherwise than a full read cuts it"
            );
            assert_eq!(
                inode.data_bytes,
                extents.iter().map(|(_, e)| u64::from(e.len)).sum::<u64>(),
                "data bytes of {path}"
            );
        }
        (one, subdirs)
    }

    fn content(&self, size: u64, extents: &[(u64, Extent)]) -> Vec<u8> {
        let mut data = vec![0; size as usize];
        let chunks = self.chunks.lock().unwrap();
        for (offset, extent) in extents {
            let (chunk, _) = &chunks[&extent.chunk];
            let bytes = &chunk[extent.skip as usize..(extent.skip + extent.len) as usize];
            data[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        data
    }
}

/// What the tree says of one path.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    ino: u64,
    inode: Inode,
    xattrs: BTreeMap<String, Vec<u8>>,
    target: Option<Vec<u8>>,
    data: Vec<u8>,
}

/// The extents that a full read of a content gives: the definition.
fn full_read(chunk_bytes: [u32; 3], data: &[u8]) -> Vec<(u64, Extent)> {
    let mut splitter = Splitter::new(Chunker::new(chunk_bytes));
    let mut extents = Vec::new();
    loop {
        let at = splitter.at();
        let window = &data[at as usize..];
        match splitter.next(window, true) {
            Piece::Hole(_) => {}
            Piece::Chunk(len) => {
                let chunk = ChunkId::of(None, &window[..len]);
                extents.push((at, Extent { chunk, skip: 0, len: len as u32 }));
            }
            Piece::More => return extents,
        }
    }
}

impl ChunkSink for World {
    fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId::of(None, bytes)
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        assert!(!self.panics.load(Relaxed), "as the test wants it");
        let (mut claimed, mut damaged) = (self.claimed.lock().unwrap(), self.damaged.lock().unwrap());
        for id in ids.iter().filter(|id| damaged.remove(*id)) {
            self.chunks.lock().unwrap().remove(id);
            claimed.remove(id);
        }
        Ok(ids.iter().map(|id| claimed.insert(*id)).collect())
    }

    fn store_content(&self, search: Search, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()> {
        let mut at = 0;
        for (id, len) in chunks {
            let bytes = raw[at..at + *len as usize].to_vec();
            assert_eq!(*id, ChunkId::of(None, &bytes));
            assert!(self.chunks.lock().unwrap().insert(*id, (bytes, false)).is_none(), "stored twice");
            self.new_chunks.fetch_add(1, Relaxed);
            self.new_bytes.fetch_add(u64::from(*len), Relaxed);
            at += *len as usize;
        }
        assert_eq!(at, raw.len());
        self.segments.lock().unwrap().push((search, at));
        Ok(())
    }
}

impl Store for World {
    fn nodes(&self) -> &dyn ReadNodes {
        self
    }

    fn chunk(&self, id: &ChunkId, with: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.chunk_reads.fetch_add(1, Relaxed);
        if self.damaged.lock().unwrap().contains(id) {
            return Err(Error::damaged(format!("chunk {id} is rotten")));
        }
        match self.chunks.lock().unwrap().get(id) {
            Some((bytes, true)) if self.halved.lock().unwrap().contains(id) => with(&bytes[..bytes.len() / 2]),
            Some((bytes, true)) => with(bytes),
            Some(_) => return Err(Error::damaged("a chunk that is not settled")),
            None => return Err(Error::damaged("a chunk that is not there")),
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.settles.fetch_add(1, Relaxed);
        self.chunks.lock().unwrap().values_mut().for_each(|(_, readable)| *readable = true);
        Ok(())
    }

    fn apply(&self, root: Option<&ChunkId>, edits: SortedEdits, readable: bool) -> Result<ChunkId> {
        let root = tree::apply(self, root, edits, &mut &self.nodes)?;
        if readable {
            self.settle()?;
        }
        Ok(root)
    }
}

impl ReadNodes for World {
    fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        self.touched.lock().unwrap().insert(*id);
        self.nodes.node(id)
    }
}

impl FindState for World {
    fn root_of(&self, id: &[u8]) -> Result<ChunkId> {
        let states = self.states.lock().unwrap();
        let found = (0..states.len()).find(|state| state_id(*state) == id);
        found.map(|state| states[state].root).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such state"))
    }
}

/// Files by path, in memory; holes are told block by block.
struct MapSource(BTreeMap<String, Vec<u8>>, bool);

impl ReadSource for MapSource {
    fn read_at(&mut self, path: &[u8], offset: u64, out: &mut [u8]) -> Result<usize> {
        let path = std::str::from_utf8(path).unwrap();
        let data = self.0.get(path).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {path}")))?;
        let rest = data.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn is_state(&self, _id: &[u8]) -> Option<bool> {
        self.1.then_some(true)
    }

    /// As the tests of memory number their files: `f7` is inode 1007.
    fn has(&mut self, path: &[u8], ino: u64, bytes: u64) -> bool {
        let path = std::str::from_utf8(path).unwrap();
        let number = path.rsplit('f').next().and_then(|number| number.parse::<u64>().ok());
        number.is_some_and(|number| number + 1000 == ino)
            && self.0.get(path).is_some_and(|data| data.len() as u64 >= bytes)
    }

    fn next_data(&mut self, path: &[u8], within: std::ops::Range<u64>) -> Result<Option<std::ops::Range<u64>>> {
        let Some(data) = self.0.get(std::str::from_utf8(path).unwrap()) else { return Ok(Some(within)) };
        let end = within.end.min(data.len() as u64);
        let first = (within.start..end).find(|at| data[*at as usize] != 0);
        Ok(first.map(|first| first..within.end))
    }
}

/// Bytes that do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}
