//! A repository in memory, and a builder of trees: what tests and benches of view and mount stand on.

use super::backing::{Backing, ChunkRef, StoreFigures};
use crate::catalog::tree::{self, Edit, MemoryNodes, NodeRef, ReadNodes};
use crate::store::may_wait;
use crate::{Error, Result};
use repo_format::{
    ChunkId, Counts, Device, Dirent, Extent, FileKind, Inode, Key, PointId, PointRecord, ROOT_INO, RepoId, SourceKind,
    Time,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

/// Nodes, chunks and points in maps. Writable while a view reads.
#[derive(Default)]
pub struct MemoryBacking {
    /// The tree nodes.
    pub nodes: MemoryNodes,
    chunks: RwLock<HashMap<ChunkId, Arc<[u8]>>>,
    points: RwLock<Vec<Arc<PointRecord>>>,
    prefetched: AtomicU64,
    held: Mutex<HashSet<ChunkId>>,
    released: Condvar,
}

impl MemoryBacking {
    /// Keeps a chunk.
    pub fn put_chunk(&self, bytes: &[u8]) -> ChunkId {
        let id = ChunkId::of(None, bytes);
        self.chunks.write().unwrap_or_else(PoisonError::into_inner).insert(id, bytes.into());
        id
    }

    /// Damage for tests: forgets a chunk.
    pub fn lose_chunk(&self, id: &ChunkId) {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// A slow medium for tests: whoever reads the chunk or node waits until it is released.
    pub fn hold_chunk(&self, id: &ChunkId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(*id);
    }

    /// Lets all go on that wait for held chunks.
    pub fn release_chunks(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.released.notify_all();
    }

    /// Shows another restore point.
    pub fn add_point(&self, point: Arc<PointRecord>) {
        self.points.write().unwrap_or_else(PoisonError::into_inner).push(point);
    }

    /// Hides a restore point.
    pub fn remove_point(&self, id: &PointId) {
        self.points.write().unwrap_or_else(PoisonError::into_inner).retain(|point| point.id != *id);
    }

    /// Chunks asked for by `prefetch` so far.
    pub fn prefetched(&self) -> u64 {
        self.prefetched.load(Ordering::Relaxed)
    }
}

impl ReadNodes for MemoryBacking {
    fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(id) {
            may_wait()?;
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        drop(held);
        self.nodes.node(id)
    }
}

impl Backing for MemoryBacking {
    fn chunk(&self, id: &ChunkId) -> Result<ChunkRef> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(id) {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        drop(held);
        let found = self.chunks.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        found.map(ChunkRef::Bytes).ok_or_else(|| Error::damaged(format!("chunk {id} is missing")))
    }

    fn at_hand(&self, id: &ChunkId) -> bool {
        !self.held.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn points(&self) -> Result<Vec<Arc<PointRecord>>> {
        Ok(self.points.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn refresh(&self) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> StoreFigures {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = chunks.values().map(|chunk| chunk.len() as u64).sum();
        StoreFigures { stored_bytes: bytes, raw_bytes: bytes }
    }

    fn prefetch(&self, ids: &[ChunkId]) {
        self.prefetched.fetch_add(ids.len() as u64, Ordering::Relaxed);
    }
}

/// A restore point with an id of sixteen times `id`, without a tree: `sec` is its time.
#[must_use]
pub fn point(id: u8, sec: i64, host: &str, source: &str, tags: &[&str]) -> Arc<PointRecord> {
    let time = Time { sec, nsec: 0 };
    Arc::new(PointRecord {
        repo: RepoId::default(),
        id: PointId([id; 16]),
        time,
        sealed: time,
        root: ChunkId::default(),
        next_ino: 0,
        kind: SourceKind::Dir,
        host: host.into(),
        source: source.into(),
        parent: None,
        counts: Counts::default(),
        paths: Vec::new(),
        tags: tags.iter().map(|tag| tag.as_bytes().to_vec()).collect(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: Vec::new(),
        extra: Vec::new(),
    })
}

/// Makes a tree from entries given by path. Parents must be added before what is in them; misuse panics, as
/// this is for tests.
pub struct TreeBuilder {
    inodes: BTreeMap<u64, Inode>,
    by_path: HashMap<String, u64>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    next_ino: u64,
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// A tree with an empty root directory, `""`.
    #[must_use]
    pub fn new() -> Self {
        let mut new =
            Self { inodes: BTreeMap::new(), by_path: HashMap::new(), entries: BTreeMap::new(), next_ino: ROOT_INO };
        new.inode("", 0o040_755);
        new
    }

    fn inode(&mut self, path: &str, mode: u32) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        let time = Time { sec: 1_700_000_000 + ino as i64, nsec: 123_456_789 };
        let nlink = if FileKind::from_mode(mode) == Some(FileKind::Dir) { 2 } else { 1 };
        let inode = Inode {
            mode,
            uid: 0,
            gid: 0,
            nlink,
            size: 0,
            mtime: time,
            ctime: Time { sec: time.sec + 1, nsec: 5 },
            btime: None,
            rdev: None,
            flags: 0,
            data_bytes: 0,
            source: None,
        };
        self.inodes.insert(ino, inode);
        self.by_path.insert(path.to_string(), ino);
        ino
    }

    fn add(&mut self, path: &str, mode: u32) -> u64 {
        let ino = self.inode(path, mode);
        self.name(path, ino);
        ino
    }

    fn name(&mut self, path: &str, ino: u64) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.ino(parent);
        let kind = self.inodes[&ino].kind();
        if kind == FileKind::Dir {
            self.edit_ino(parent, |inode| inode.nlink += 1);
        }
        self.entries.insert(Key::Dirent(parent, name.as_bytes()).encode(), Dirent { ino, kind }.encode());
    }

    fn edit_ino(&mut self, ino: u64, edit: impl FnOnce(&mut Inode)) {
        edit(self.inodes.get_mut(&ino).expect("a known inode"));
    }

    /// The inode number of a path.
    #[must_use]
    pub fn ino(&self, path: &str) -> u64 {
        *self.by_path.get(path).unwrap_or_else(|| panic!("{path} was not added"))
    }

    /// Changes the attributes of a path.
    pub fn edit(&mut self, path: &str, edit: impl FnOnce(&mut Inode)) {
        self.edit_ino(self.ino(path), edit);
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &str) {
        self.add(path, 0o040_755);
    }

    /// Adds a file of one chunk, or of none.
    pub fn file(&mut self, backing: &MemoryBacking, path: &str, content: &[u8]) {
        let id = backing.put_chunk(content);
        let extents: &[_] = if content.is_empty() { &[] } else { &[(0, id, 0, content.len() as u32)] };
        self.extents(path, content.len() as u64, extents);
    }

    /// Adds a file of extents (offset, chunk, skip, length); the rest are holes.
    pub fn extents(&mut self, path: &str, size: u64, extents: &[(u64, ChunkId, u32, u32)]) {
        let ino = self.add(path, 0o100_644);
        for &(offset, chunk, skip, len) in extents {
            self.entries.insert(Key::Extent(ino, offset).encode(), Extent { chunk, skip, len }.encode());
        }
        let data_bytes = extents.iter().map(|extent| u64::from(extent.3)).sum();
        self.edit_ino(ino, |inode| (inode.size, inode.data_bytes) = (size, data_bytes));
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        let ino = self.add(path, 0o120_777);
        self.entries.insert(Key::Target(ino).encode(), target.into());
        self.edit_ino(ino, |inode| inode.size = target.len() as u64);
    }

    /// Adds a fifo, socket or device by mode.
    pub fn special(&mut self, path: &str, mode: u32, rdev: Option<(u32, u32)>) {
        let ino = self.add(path, mode);
        self.edit_ino(ino, |inode| inode.rdev = rdev.map(|(major, minor)| Device { major, minor }));
    }

    /// Adds another name of a file.
    pub fn hard_link(&mut self, path: &str, to: &str) {
        let ino = self.ino(to);
        self.edit_ino(ino, |inode| inode.nlink += 1);
        self.by_path.insert(path.to_string(), ino);
        self.name(path, ino);
    }

    /// Adds an extended attribute.
    pub fn xattr(&mut self, path: &str, name: &str, value: &[u8]) {
        let ino = self.ino(path);
        self.entries.insert(Key::Xattr(ino, name.as_bytes()).encode(), value.to_vec());
    }

    /// Writes the tree.
    ///
    /// # Errors
    /// When the node store gives one.
    pub fn finish(mut self, backing: &MemoryBacking) -> Result<ChunkId> {
        for (ino, inode) in &self.inodes {
            self.entries.insert(Key::Inode(*ino).encode(), inode.encode());
        }
        let edits = self.entries.into_iter().map(|(key, value)| Ok((key, Edit::Put(value))));
        tree::apply(&backing.nodes, None, edits, &mut &backing.nodes)
    }

    /// Writes the tree and shows it as a restore point.
    ///
    /// # Errors
    /// When the node store gives one.
    pub fn publish(self, backing: &MemoryBacking, record: &PointRecord) -> Result<()> {
        let root = self.finish(backing)?;
        backing.add_point(Arc::new(PointRecord { root, ..record.clone() }));
        Ok(())
    }
}
