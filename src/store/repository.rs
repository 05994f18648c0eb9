//! An open repository for reading: finds chunks, verifies them, and keeps what was decompressed for a while.

use super::index::{Index, Location, PackageInfo};
use super::keys::{self, Keys, PackageKey};
use super::package_store::PackageStore;
use super::patience::get_or_load;
use super::scan::read_segment_with;
use super::segment::Segment;
use super::{FileStore, RocksStore};
use crate::error::{Error, ErrorKind, Result};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use repo_format::{ChunkId, Encryption, KeySlot, Node, PackageId, PointId, PointRecord, RepoHeader, StoreKind};
use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A tree node as it is shared between readers.
pub type NodeRef = Arc<Node<Box<[u8]>>>;

/// Chunk places remembered from the segments read last; a hundred bytes each.
const REMEMBERED_LOCATIONS: usize = 64 * 1024;
/// Decoded restore point records kept; about a kilobyte each.
const REMEMBERED_POINTS: usize = 16 * 1024;

/// What an entry of a cache costs beside its value, about.
const ENTRY_BYTES: usize = 128;

/// How to open a repository.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Bound of the caches, in bytes: three quarters for decompressed segments, one for tree nodes.
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20 }
    }
}

/// Asks for the password; called once at most, and only when the repository has one.
pub type Unlock<'a> = dyn FnMut() -> Result<Vec<u8>> + 'a;

/// An open repository. Reading never takes the lease and never waits for a writer.
pub struct Repository {
    path: PathBuf,
    header: RepoHeader,
    keys: Keys,
    index: Arc<Index>,
    packages: Arc<dyn PackageStore>,
    known: RwLock<HashMap<u32, Arc<Package>>>,
    segments: Cache<(u32, u32), Arc<Segment>, SegmentWeight>,
    nodes: Cache<ChunkId, NodeRef, NodeWeight>,
    locations: Cache<ChunkId, Location>,
    points: Cache<PointId, Arc<PointRecord>>,
    pub(super) pin: std::sync::OnceLock<super::pins::Pin>,
    /// Segments that are not what was written, or cannot be read: package number and offset.
    damaged: Mutex<HashSet<(u32, u32)>>,
}

struct Package {
    id: PackageId,
    key: Option<PackageKey>,
}

#[derive(Clone)]
struct SegmentWeight;

impl Weighter<(u32, u32), Arc<Segment>> for SegmentWeight {
    fn weight(&self, _: &(u32, u32), segment: &Arc<Segment>) -> u64 {
        (segment.memory_bytes() + ENTRY_BYTES) as u64
    }
}

#[derive(Clone)]
struct NodeWeight;

impl Weighter<ChunkId, NodeRef> for NodeWeight {
    fn weight(&self, _: &ChunkId, node: &NodeRef) -> u64 {
        (node.bytes().len() + size_of::<Node<Box<[u8]>>>() + ENTRY_BYTES) as u64
    }
}

/// A verified chunk: a part of its decompressed segment, which it keeps alive.
#[derive(Clone)]
pub struct Chunk {
    segment: Arc<Segment>,
    start: usize,
    end: usize,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.segment.raw().get(self.start..self.end).unwrap_or_default()
    }
}

impl Repository {
    /// Opens for reading, beside a writer or on a read-only directory.
    ///
    /// # Errors
    /// `NoRepository`, `WrongPassword`, `NewerFormat`, `Damaged`, or what `unlock` gives.
    pub fn open(path: &Path, unlock: &mut Unlock<'_>, options: &OpenOptions) -> Result<Arc<Self>> {
        let header = read_header(path)?;
        let with_blobs = header.store == StoreKind::RocksDb;
        let open_index = || Index::open_reader(&path.join("db"), with_blobs);
        let (keys, index) = open_keys_and_index(path, &header, unlock, open_index)?;
        Ok(Arc::new(Self::assemble(path, header, keys, Arc::new(index), options)))
    }

    pub(super) fn assemble(
        path: &Path,
        header: RepoHeader,
        keys: Keys,
        index: Arc<Index>,
        options: &OpenOptions,
    ) -> Self {
        let packages = package_store(path, &header, &index);
        let bytes = options.cache_bytes.max(8 << 20) as u64;
        Self {
            path: path.to_path_buf(),
            header,
            keys,
            index,
            packages,
            known: RwLock::default(),
            segments: Cache::with_weighter((bytes >> 18) as usize + 16, bytes / 4 * 3, SegmentWeight),
            nodes: Cache::with_weighter((bytes >> 14) as usize + 16, bytes / 4, NodeWeight),
            locations: Cache::new(REMEMBERED_LOCATIONS),
            points: Cache::new(REMEMBERED_POINTS),
            pin: std::sync::OnceLock::new(),
            damaged: Mutex::default(),
        }
    }

    /// The repository's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &RepoHeader {
        &self.header
    }

    /// Its keys.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The index, for maintenance.
    #[must_use]
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The package store, for maintenance.
    #[must_use]
    pub fn packages(&self) -> &Arc<dyn PackageStore> {
        &self.packages
    }

    /// Sees what a writer has committed since the last call.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn refresh(&self) -> Result<()> {
        self.index.refresh()
    }

    /// All visible restore points whose record can be read, in no order. `relict-maint check` names the others.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn point_records(&self) -> Result<Vec<PointRecord>> {
        let all = self.points()?.into_iter();
        Ok(all.filter_map(|(_, record)| record.ok()).map(|record| PointRecord::clone(&record)).collect())
    }

    /// All visible restore points, in no order; a record that cannot be read is its item's error.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn points(&self) -> Result<Vec<(PointId, Result<Arc<PointRecord>>)>> {
        let states = self.index.states()?;
        let hidden = |id: &PointId| states.get(id).is_some_and(|state| state.hidden.is_some());
        let visible = self.index.points()?.into_iter().filter(|(id, _)| !hidden(id));
        Ok(visible.map(|(id, chunk)| (id, self.point(&id, &chunk))).collect())
    }

    /// As [`Repository::points`], hidden ones too.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn all_points(&self) -> Result<Vec<(PointId, Result<Arc<PointRecord>>)>> {
        Ok(self.index.points()?.into_iter().map(|(id, chunk)| (id, self.point(&id, &chunk))).collect())
    }

    /// Lets go of a record that was replaced. Otherwise a process keeps to the one that it read first: what it shows of a
    /// restore point does not change.
    pub(super) fn forget_record(&self, id: &PointId) {
        self.points.remove(id);
    }

    fn point(&self, id: &PointId, chunk: &ChunkId) -> Result<Arc<PointRecord>> {
        self.points.get_or_insert_with(id, || {
            let record = PointRecord::decode(&self.chunk(chunk)?)?;
            let ours = record.id == *id && record.repo == self.header.repo;
            if ours { Ok(Arc::new(record)) } else { Err(lost(chunk, "it is the record of another restore point")) }
        })
    }

    /// Where a chunk is.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn locate(&self, id: &ChunkId) -> Result<Option<Location>> {
        match self.locations.get(id) {
            Some(at) => Ok(Some(at)),
            None => self.index.locate(id),
        }
    }

    /// Where many chunks are.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn locate_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        self.index.locate_many(ids)
    }

    /// A chunk, verified.
    ///
    /// # Errors
    /// `Damaged` when the chunk is not in the index or its segment is not what was written.
    pub fn chunk(&self, id: &ChunkId) -> Result<Chunk> {
        self.chunk_in(id, self.locate(id)?)
    }

    /// A chunk, verified, of which it is known where it was.
    ///
    /// # Errors
    /// As [`Repository::chunk`].
    pub fn chunk_in(&self, id: &ChunkId, place: Option<Location>) -> Result<Chunk> {
        let first = match place {
            Some(at) => self.chunk_at(id, at),
            None => Err(lost(id, "it is not in the index")),
        };
        // What was wrong at first says more than why the index could not be asked again.
        first.or_else(|error| match self.moved(id, place) {
            Ok(Some(now)) => self.chunk_at(id, now),
            Ok(None) | Err(_) => Err(error),
        })
    }

    /// Where a chunk is now that could not be read at the place that was `tried`, if that is another one: maintenance may
    /// have moved it. What counts is the place that was tried: another thread that met the same may have refreshed the
    /// index already.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn moved(&self, id: &ChunkId, tried: Option<Location>) -> Result<Option<Location>> {
        self.locations.remove(id);
        self.refresh()?;
        Ok(self.index.locate(id)?.filter(|now| Some(*now) != tried))
    }

    fn chunk_at(&self, id: &ChunkId, at: Location) -> Result<Chunk> {
        let segment = self.segment(&at)?;
        let row = segment.row_at(at.skip).filter(|row| row.id == *id && row.raw_bytes == at.len);
        if row.is_none() {
            return Err(lost(id, "its segment holds another chunk in its place"));
        }
        let start = at.skip as usize;
        Ok(Chunk { segment, start, end: start + at.len as usize })
    }

    /// Bytes of segments and tree nodes in memory; at most what [`OpenOptions`] allows.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.segments.weight() + self.nodes.weight()
    }

    /// Whether a chunk is in the cache, and known to be there: then [`Repository::chunk`] reads nothing.
    #[must_use]
    pub fn is_cached(&self, id: &ChunkId) -> bool {
        self.locations.peek(id).is_some_and(|at| self.segments.contains_key(&(at.package, at.offset)))
    }

    /// The decompressed segment at a location, through the cache; two readers never decompress it twice at once.
    ///
    /// # Errors
    /// `Damaged` when it is not what was written, or the medium's error.
    pub fn segment(&self, at: &Location) -> Result<Arc<Segment>> {
        self.segments.get_or_insert_with(&(at.package, at.offset), || {
            let segment = self.read_segment(at)?;
            for (skip, row) in segment.rows() {
                self.locations.insert(row.id, Location { skip, len: row.raw_bytes, ..*at });
            }
            Ok(Arc::new(segment))
        })
    }

    /// As [`Repository::segment`], past the cache: what is on the medium now.
    ///
    /// # Errors
    /// As [`Repository::segment`].
    pub fn read_segment(&self, at: &Location) -> Result<Segment> {
        let package = self.package(at.package)?;
        let (key, offset) = (package.key.as_ref(), u64::from(at.offset));
        let segment = read_segment_with(&*self.packages, key, &package.id, offset, at.segment_bytes);
        let segment = segment.map_err(Error::of_stored);
        if segment.as_ref().is_err_and(Error::is_loss) {
            self.note_damaged([(at.package, at.offset)]);
        }
        segment
    }

    fn damage(&self) -> MutexGuard<'_, HashSet<(u32, u32)>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_damaged(&self, places: impl IntoIterator<Item = (u32, u32)>) {
        self.damage().extend(places);
    }

    /// Whether the segment at a place is known to be damaged: this process could not read it, or a writer was told.
    #[must_use]
    pub fn is_damaged(&self, at: &Location) -> bool {
        self.damage().contains(&(at.package, at.offset))
    }

    /// Whether any segment is known to be damaged.
    #[must_use]
    pub fn knows_damage(&self) -> bool {
        !self.damage().is_empty()
    }

    /// The places of all segments known to be damaged: package number and offset, in no order.
    #[must_use]
    pub fn damaged(&self) -> Vec<(u32, u32)> {
        self.damage().iter().copied().collect()
    }

    /// The id of a package, by its number.
    ///
    /// # Errors
    /// `Damaged` when the index does not know the number.
    pub fn package_id(&self, number: u32) -> Result<PackageId> {
        self.package(number).map(|p| p.id)
    }

    fn package(&self, number: u32) -> Result<Arc<Package>> {
        let look = || self.known.read().unwrap_or_else(|e| e.into_inner()).get(&number).cloned();
        if let Some(found) = look() {
            return Ok(found);
        }
        self.learn(&self.index.packages()?);
        look().ok_or_else(|| Error::damaged(format!("the index names package number {number} but does not list it")))
    }

    pub(super) fn learn(&self, packages: &[PackageInfo]) {
        let mut known = self.known.write().unwrap_or_else(|e| e.into_inner());
        for info in packages {
            let make = || Arc::new(Package { id: info.id, key: self.keys.package(&info.id) });
            known.entry(info.number).or_insert_with(make);
        }
    }

    /// A tree node, through a cache of its own.
    ///
    /// # Errors
    /// As [`Repository::chunk`], and when the chunk is not a node.
    pub fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        get_or_load(&self.nodes, id, || {
            let bytes: Box<[u8]> = (*self.chunk(id)?).into();
            let node = Node::decode(bytes).map_err(|e| lost(id, "it is not a tree node").because(e))?;
            Ok(Arc::new(node))
        })
    }
}

fn lost(id: &ChunkId, why: &str) -> Error {
    Error::damaged(format!("chunk {id} cannot be read: {why}"))
        .advise("run 'relict-maint check' to see which files this affects; everything else stays readable")
}

pub(super) fn package_store(path: &Path, header: &RepoHeader, index: &Arc<Index>) -> Arc<dyn PackageStore> {
    match header.store {
        StoreKind::Files => Arc::new(FileStore::new(path.join("packages"))),
        StoreKind::RocksDb => Arc::new(RocksStore::new(index.clone())),
    }
}

/// `relict.toml` and key slots have some hundred bytes.
pub(super) const MAX_SMALL_FILE_BYTES: u64 = 64 << 10;

/// Reads and validates `relict.toml`.
///
/// # Errors
/// `NoRepository` when it is not there, `NewerFormat` or `Damaged` when it cannot be used.
pub fn read_header(path: &Path) -> Result<RepoHeader> {
    let file = path.join("relict.toml");
    let bytes = match super::files::read_small(&file, MAX_SMALL_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(Error::new(ErrorKind::NoRepository, format!("there is no repository at {}", path.display()))
                .advise(format!(
                    "looked for {}; 'relict init' makes one, -r or RELICT_REPOSITORY names another",
                    file.display()
                )));
        }
        Err(e) => return Err(Error::io(format!("reading {}", file.display()), e)),
    };
    RepoHeader::decode(&bytes).map_err(|e| {
        let error = Error::from(e).context(file.display());
        match error.kind() {
            ErrorKind::NewerFormat => {
                error.advise("this repository was made by a newer relict: nothing was changed; use that version")
            }
            _ => error.advise(
                "the header is damaged, the data is not affected by that; 'relict-maint repair' makes a new one",
            ),
        }
    })
}

/// As [`read_header`], for who is going to write.
///
/// # Errors
/// As [`read_header`]; `NewerFormat` for a repository with features that this program can only read.
pub(super) fn writable_header(path: &Path) -> Result<RepoHeader> {
    let header = read_header(path)?;
    if header.writable() {
        return Ok(header);
    }
    let what = format!("{} uses features this program can only read", path.display());
    Err(Error::new(ErrorKind::NewerFormat, what)
        .advise("nothing was changed; write to it with the newer relict that made it"))
}

/// The key slots of a repository, with their file names.
///
/// # Errors
/// When the directory cannot be read; a slot that is damaged is an item's error, so that one cannot lock out the others.
pub fn key_slots(path: &Path) -> Result<Vec<(PathBuf, Result<KeySlot>)>> {
    let dir = path.join("keys");
    let context = |e| Error::io(format!("reading {}", dir.display()), e);
    let mut out = Vec::new();
    if !dir.exists() {
        return Ok(out);
    }
    for entry in std::fs::read_dir(&dir).map_err(context)? {
        let file = entry.map_err(context)?.path();
        if file.extension().is_some_and(|e| e == "key") {
            let slot = super::files::read_small(&file, MAX_SMALL_FILE_BYTES).map_err(context);
            let slot = slot.and_then(|bytes| Ok(KeySlot::decode(&bytes)?));
            out.push((file, slot));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

fn contradiction(path: &Path) -> Error {
    Error::damaged(format!("relict.toml says that {} is not encrypted, but it has key slots", path.display()))
        .advise("nothing was read or written; somebody changed relict.toml: restore it from a copy you trust")
}

/// Checks the password on one thread and opens the database on another: each takes tens of milliseconds. What the
/// password has to say comes first. A wrong one leaves the database's content as it was (SPEC.md section 10).
pub(super) fn open_keys_and_index(
    path: &Path,
    header: &RepoHeader,
    unlock: &mut Unlock<'_>,
    open_index: impl FnOnce() -> Result<Index> + Send,
) -> Result<(Keys, Index)> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("relict-open".into()).spawn_scoped(scope, open_index);
        let thread = thread.map_err(|e| Error::io("starting a thread", e))?;
        let keys = open_keys(path, header, unlock);
        let index = thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "opening the index ended early")));
        Ok((keys?, index?))
    })
}

pub(super) fn open_keys(path: &Path, header: &RepoHeader, unlock: &mut Unlock<'_>) -> Result<Keys> {
    let slots = key_slots(path)?;
    if header.encryption == Encryption::None {
        // The header is not authenticated: who can write to the medium must not talk us into writing in the clear.
        return if slots.is_empty() { Ok(Keys::none()) } else { Err(contradiction(path)) };
    }
    if !slots.iter().any(|(_, slot)| slot.is_ok()) {
        return Err(Error::damaged(format!("no key slot in {} can be read", path.join("keys").display()))
            .advise(
                "without a key slot the data cannot be decrypted; restore keys/ from a copy of the repository, or a slot from \
                 its recovery sheet ('relict-maint keys import')",
            ));
    }
    let password = unlock()?;
    let damaged: Vec<String> =
        slots.iter().filter(|(_, slot)| slot.is_err()).map(|(file, _)| file.display().to_string()).collect();
    let slots: Vec<_> = slots.into_iter().filter_map(|(_, slot)| slot.ok()).collect();
    if let Some((_, master)) = keys::open_any(slots, &password)? {
        return Ok(Keys::from_master(master));
    }
    let wrong = Error::new(ErrorKind::WrongPassword, format!("wrong password for the repository {}", path.display()));
    Err(if damaged.is_empty() {
        wrong.advise(
            "nothing was read or changed; passwords come from RELICT_PASSWORD, _FILE, _COMMAND, _FD or the terminal",
        )
    } else {
        wrong.advise(format!(
            "it may be right: {} cannot be read, so it could not be tried there. Nothing was read or changed; take the slot \
             from a copy of the repository or from its recovery sheet ('relict-maint keys import'), or give the password of \
             another slot",
            damaged.join(", ")
        ))
    })
}
