//! The one writer: claims chunks, packs segments, and makes things durable in the one order that survives
//! a crash: package bytes, fsync, index batch, restore point, acknowledge (SPEC.md section 10).
//!
//! Any number of threads call [`Writer::claim`] and [`Writer::store_segment`]; compression runs on the
//! calling thread. One syncer thread makes full packages durable while others go on.

use super::index::{Index, IndexBatch, Location, PackageInfo};
use super::keys::{Keys, PackageKey, random};
use super::lease::Lease;
use super::package_store::PackageStore;
use super::present::Present;
use super::recover;
use super::repository::{OpenOptions, Repository, Unlock, open_keys_and_index, writable_header};
use super::segment::{Compression, Packed, Search};
use crate::error::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use repo_format::{
    ChunkId, FooterEntry, PACKAGE_HEADER_BYTES, PackageFooter, PackageHeader, PackageId, PackageKind, PointId,
    PointRecord, PointState, SegmentKind, StoreKind, TableEntry,
};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A package is sealed once it has this many bytes.
pub const PACKAGE_BYTES: u64 = 64 << 20;
/// Or from so many chunks on: their places are in memory until it is sealed. As many as 8 GiB of chunks of usual length.
pub const PACKAGE_CHUNKS: usize = 1 << 17;
/// Tree nodes are collected up to this many bytes before they become a segment.
const NODE_SEGMENT_BYTES: usize = 256 << 10;
/// From so many bytes of a data package on, the next one is entered in the journal: the sync that this takes, beside those of
/// the content, is over before the package is full, and nobody waits for it.
const RESERVE_FROM: u64 = 1 << 20;
/// Full packages that may wait for the disk; a writer faster than the disk waits here.
const SYNC_QUEUE: usize = 2;

/// What a writer has added so far. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterStats {
    /// Chunks stored (content and nodes).
    pub new_chunks: u64,
    /// Of these, content chunks.
    pub new_data_chunks: u64,
    /// Their uncompressed bytes (content and nodes).
    pub new_bytes: u64,
    /// Bytes appended to packages.
    pub stored_bytes: u64,
    /// Segments stored.
    pub segments: u64,
    /// Data packages begun.
    pub data_packages: u64,
    /// Metadata packages begun.
    pub meta_packages: u64,
}

#[derive(Default)]
struct Counters {
    new_chunks: AtomicU64,
    new_data_chunks: AtomicU64,
    new_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    segments: AtomicU64,
    data_packages: AtomicU64,
    meta_packages: AtomicU64,
}

/// The open repository of the process that holds the lease.
pub struct Writer {
    shared: Arc<Shared>,
    syncer: Option<(Sender<Job>, JoinHandle<()>)>,
    /// Set by tests that want the end of a killed process.
    abandoned: bool,
    _lease: Lease,
}

struct Shared {
    repository: Arc<Repository>,
    index: Arc<Index>,
    packages: Arc<dyn PackageStore>,
    keys: Keys,
    /// Chunks of this run that are not in the index yet.
    pending: Mutex<HashSet<ChunkId>>,
    data: Mutex<Option<OpenPackage>>,
    meta: Mutex<Option<OpenPackage>>,
    /// The next data package: durably in the journal, and nothing of it on the disk. Locked while it is entered.
    reserved: Mutex<Option<PackageInfo>>,
    /// Whether it was asked for.
    reserving: AtomicBool,
    next_package: AtomicU32,
    /// [`Compression::number`].
    compression: AtomicU8,
    present: Present,
    counters: Counters,
    /// The first error of the syncer; every later call fails with it.
    failure: Mutex<Option<(ErrorKind, String)>>,
}

/// A package being appended to.
struct OpenPackage {
    info: PackageInfo,
    key: Option<PackageKey>,
    offset: u64,
    footer: PackageFooter,
    /// Chunks in it.
    chunks: usize,
    /// Chunks whose index entries wait for the package to be durable.
    unindexed: Vec<(ChunkId, Location)>,
    /// Restore points whose records are among them: they become visible in the same batch.
    points: Vec<(PointId, ChunkId)>,
    /// Point states among them.
    states: Vec<PointState>,
}

/// What a segment puts into the catalogue beside its chunks.
enum Listed {
    Nothing,
    Point(PointId),
    State(PointState),
}

enum Job {
    Seal(Box<OpenPackage>),
    Reserve,
    Barrier(Sender<()>),
}

impl Writer {
    /// Takes the lease, opens for writing, and finishes what a killed writer left behind.
    ///
    /// # Errors
    /// `Locked`, and as [`Repository::open`].
    pub fn open(path: &Path, unlock: &mut Unlock<'_>, options: &OpenOptions) -> Result<Self> {
        let header = writable_header(path)?;
        let lease = Lease::take(&path.join("lock"))?;
        let with_blobs = header.store == StoreKind::RocksDb;
        let open_index = || Index::open_writer(&path.join("db"), with_blobs, false);
        let (keys, index) = open_keys_and_index(path, &header, unlock, open_index)?;
        let index = Arc::new(index);
        let repository = Arc::new(Repository::assemble(path, header, keys.clone(), index.clone(), options));
        Self::over(repository, index, keys, lease)
    }

    fn over(repository: Arc<Repository>, index: Arc<Index>, keys: Keys, lease: Lease) -> Result<Self> {
        let packages = repository.packages().clone();
        super::free::finish_freeing(&index, &*packages)?;
        repository.note_damaged(index.damaged()?);
        let mut present = Present::new(&index, &*packages)?;
        let holds = |at: &Location| present.holds(&repository, &*packages, at);
        if recover::finish_open_packages(&index, &*packages, &keys, &holds)? {
            present = Present::new(&index, &*packages)?;
        }
        repository.learn(&index.packages()?);
        let next = index.next_package()?;
        let shared = Arc::new(Shared {
            repository,
            index,
            packages,
            keys,
            pending: Mutex::default(),
            data: Mutex::default(),
            meta: Mutex::default(),
            reserved: Mutex::default(),
            reserving: AtomicBool::new(false),
            next_package: AtomicU32::new(next),
            compression: AtomicU8::new(Compression::default().number()),
            present,
            counters: Counters::default(),
            failure: Mutex::default(),
        });
        let (sender, receiver) = bounded(SYNC_QUEUE);
        let thread = std::thread::Builder::new().name("relict-sync".into()).spawn({
            let shared = shared.clone();
            move || shared.sync_packages(&receiver)
        });
        let thread = thread.map_err(|e| Error::io("starting a thread", e))?;
        Ok(Self { shared, syncer: Some((sender, thread)), abandoned: false, _lease: lease })
    }

    /// The same repository for reading; sees chunks once they are indexed.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.shared.repository
    }

    /// The id of a chunk.
    #[must_use]
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        self.shared.keys.chunk_id(bytes)
    }

    /// For each id: true when it is new, and the caller must store it in this run.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.shared.healthy()?;
        let mut new: Vec<bool> = {
            let mut pending = self.shared.pending();
            ids.iter().map(|id| pending.insert(*id)).collect()
        };
        // Whoever asks meanwhile sees the claim and takes the chunk for present, which is right either way.
        let asked: Vec<ChunkId> = ids.iter().zip(&new).filter(|(_, new)| **new).map(|(id, _)| *id).collect();
        if asked.is_empty() {
            return Ok(new);
        }
        let found = self.shared.index.locate_many(&asked)?;
        let mut pending = self.shared.pending();
        let answers = new.iter_mut().filter(|n| **n);
        for ((answer, id), found) in answers.zip(&asked).zip(found) {
            if found.map_or(Ok(false), |at| self.shared.holds(&at))? {
                *answer = false;
                pending.remove(id);
            }
        }
        Ok(new)
    }

    /// Whether anything stored is known to be lost, so that it is worth asking [`Writer::lacks`].
    #[must_use]
    pub fn knows_damage(&self) -> bool {
        self.shared.present.knows_damage(&self.shared.repository)
    }

    /// Whether one of these chunks is not there, or known to be damaged.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn lacks(&self, ids: &[ChunkId]) -> Result<bool> {
        let found = self.shared.index.locate_many(ids)?;
        for (id, at) in ids.iter().zip(found) {
            let there = at.map_or(Ok(false), |at| self.shared.holds(&at))?;
            if !there && !self.shared.pending().contains(id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes segments that were found damaged (package number and offset), durably: from now on no chunk in them counts
    /// as present, and the next backup that meets its content stores it again.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn mark_damaged(&self, places: &[(u32, u32)]) -> Result<()> {
        self.shared.repository.note_damaged(places.iter().copied());
        self.shared.keep_damage()
    }

    /// From here on, segments are compressed like this.
    pub fn compress_by(&self, how: Compression) {
        self.shared.compression.store(how.number(), Ordering::Relaxed);
    }

    /// Stores chunks as one segment: `raw` is their bytes, one after the other. Not durable before a checkpoint.
    ///
    /// # Errors
    /// When the medium fails; the run cannot go on then, and what was stored before stays whole.
    pub fn store_segment(&self, kind: SegmentKind, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()> {
        self.store(kind, chunks, raw, Search::Twice, Listed::Nothing)
    }

    /// As [`Writer::store_segment`], searched for matches like this.
    ///
    /// # Errors
    /// As [`Writer::store_segment`].
    pub fn store_segment_by(
        &self,
        search: Search,
        kind: SegmentKind,
        chunks: &[(ChunkId, u32)],
        raw: &[u8],
    ) -> Result<()> {
        self.store(kind, chunks, raw, search, Listed::Nothing)
    }

    fn store(
        &self,
        kind: SegmentKind,
        chunks: &[(ChunkId, u32)],
        raw: &[u8],
        search: Search,
        listed: Listed,
    ) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        debug_assert_eq!(chunks.iter().map(|c| c.1 as usize).sum::<usize>(), raw.len());
        self.shared.healthy()?;
        let table = chunks.iter().map(|(id, raw_bytes)| TableEntry { id: *id, raw_bytes: *raw_bytes }).collect();
        let how = Compression::from_number(self.shared.compression.load(Ordering::Relaxed));
        let packed = Packed::new(kind, table, raw, how, search)?;
        let counters = &self.shared.counters;
        counters.new_chunks.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        counters.new_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
        if kind == SegmentKind::Data {
            counters.new_data_chunks.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        }
        let job = self.shared.append(kind, packed, listed)?;
        let Some((sender, _)) = &self.syncer else { return Ok(()) };
        match job {
            None => Ok(()),
            Some(Job::Reserve) => {
                if sender.try_send(Job::Reserve).is_err() {
                    // The syncer is busy; asked again with the next segment.
                    self.shared.reserving.store(false, Ordering::Relaxed);
                }
                Ok(())
            }
            Some(job) => sender.send(job).map_err(|_| self.shared.gone()),
        }
    }

    /// Makes everything stored so far durable and findable.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn checkpoint(&self) -> Result<()> {
        self.drain()?;
        for slot in [&self.shared.data, &self.shared.meta] {
            if let Some(open) = lock(slot).as_mut() {
                self.shared.index_open(open)?;
            }
        }
        Ok(())
    }

    /// Waits until full packages are durable and indexed.
    fn drain(&self) -> Result<()> {
        if let Some((sender, _)) = &self.syncer {
            let (done, wait) = bounded(1);
            sender.send(Job::Barrier(done)).map_err(|_| self.shared.gone())?;
            wait.recv().map_err(|_| self.shared.gone())?;
        }
        self.shared.healthy()
    }

    /// Seals the open packages; the next segment begins a new one. Ends in the state of a checkpoint.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn finish(&self) -> Result<()> {
        self.drain()?;
        self.shared.seal_data()?;
        let meta = lock(&self.shared.meta).take();
        meta.map_or(Ok(()), |open| self.shared.seal_package(open, None))
    }

    /// Makes a restore point visible: everything it needs first, then its record with the catalogue entry.
    ///
    /// # Errors
    /// When the medium fails: the point is then not there, and what it shares with others is unharmed.
    pub fn seal(&self, point: &PointRecord) -> Result<()> {
        self.publish(std::slice::from_ref(point), &[])
    }

    /// As [`Writer::seal`], for several points at once. Killed in between, some may be visible: each of them is whole.
    ///
    /// # Errors
    /// As [`Writer::seal`].
    pub fn seal_all(&self, points: &[PointRecord]) -> Result<()> {
        self.publish(points, &[])
    }

    /// Content, then the nodes that name it, then the records that name them: each is durable before the next is written.
    fn publish(&self, points: &[PointRecord], states: &[PointState]) -> Result<()> {
        self.drain()?;
        self.shared.seal_data()?;
        self.sync_nodes()?;
        points.iter().try_for_each(|point| self.append_record(point))?;
        self.append_states(states)?;
        self.finish()
    }

    /// Of bytes that were not synced, the later may arrive and the earlier not.
    fn sync_nodes(&self) -> Result<()> {
        match lock(&self.shared.meta).as_ref() {
            Some(open) if !open.unindexed.is_empty() => self.shared.sync(open),
            _ => Ok(()),
        }
    }

    fn append_record(&self, point: &PointRecord) -> Result<()> {
        let record = point.encode();
        let chunk = (self.chunk_id(&record), record.len() as u32);
        self.store(SegmentKind::Point, &[chunk], &record, Search::Twice, Listed::Point(point.id))
    }

    /// Makes point states hold, all of them or none of them for the index; when this returns they are durable.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn record_states(&self, states: &[PointState]) -> Result<()> {
        self.append_states(states)?;
        self.finish()
    }

    fn append_states(&self, states: &[PointState]) -> Result<()> {
        for state in states {
            let record = state.encode();
            let chunk = (self.chunk_id(&record), record.len() as u32);
            self.store(SegmentKind::State, &[chunk], &record, Search::Twice, Listed::State(*state))?;
        }
        Ok(())
    }

    /// As [`Writer::seal`]; the states hold from the same moment.
    ///
    /// # Errors
    /// As [`Writer::seal`].
    pub fn seal_with_states(&self, point: &PointRecord, states: &[PointState]) -> Result<()> {
        self.publish(std::slice::from_ref(point), states)
    }

    /// Ends as a process killed between the record and the catalogue would.
    #[cfg(test)]
    pub(super) fn seal_unfinished(&self, point: &PointRecord) -> Result<()> {
        self.append_record(point)
    }

    /// Takes tree nodes, stores each once, and packs them into segments.
    #[must_use]
    pub fn node_writer(&self) -> NodePacker<'_> {
        NodePacker { writer: self, chunks: Vec::new(), raw: Vec::with_capacity(NODE_SEGMENT_BYTES), beside: None }
    }

    /// Runs `write` with such a packer; full segments are compressed beside it on a thread of their own, since whoever builds a
    /// large tree keeps one core busy with that alone. All nodes are stored when this returns; not durable before a
    /// checkpoint (SPEC.md section 10).
    ///
    /// # Errors
    /// Those of `write`; `Io` when there can be no thread; otherwise when the medium fails.
    pub fn write_nodes<T>(&self, write: impl FnOnce(&mut NodePacker<'_>) -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let (sender, segments) = bounded::<NodeSegment>(1);
            let store = move || segments.iter().try_for_each(|(chunks, raw)| self.store_nodes(&chunks, &raw));
            let thread = std::thread::Builder::new().name("relict-nodes".into()).spawn_scoped(scope, store);
            let thread = thread.map_err(|e| Error::io("starting a thread", e))?;
            let mut packer = NodePacker { beside: Some(sender), ..self.node_writer() };
            let written = write(&mut packer).and_then(|out| packer.flush().map(|()| out));
            drop(packer);
            let stored = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            stored.and(written)
        })
    }

    fn store_nodes(&self, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()> {
        self.store_segment(SegmentKind::Node, chunks, raw)
    }

    /// Ends as a killed process would: nothing is finished.
    #[cfg(test)]
    pub(super) fn abandon(mut self) {
        self.abandoned = true;
    }

    /// What was added so far.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        let c = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterStats {
            new_chunks: get(&c.new_chunks),
            new_data_chunks: get(&c.new_data_chunks),
            new_bytes: get(&c.new_bytes),
            stored_bytes: get(&c.stored_bytes),
            segments: get(&c.segments),
            data_packages: get(&c.data_packages),
            meta_packages: get(&c.meta_packages),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An orderly end indexes what is there; after an error the next writer's recovery does.
        if !self.abandoned {
            let _ = self.finish();
            let _ = self.shared.keep_damage();
            let _ = self.shared.index.tidy_log();
        }
        if let Some((sender, thread)) = self.syncer.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    fn holds(&self, at: &Location) -> Result<bool> {
        self.present.holds(&self.repository, &*self.packages, at)
    }

    /// Writes down what this process found damaged and the index does not know yet.
    fn keep_damage(&self) -> Result<()> {
        if !self.repository.knows_damage() {
            return Ok(());
        }
        let known: HashSet<(u32, u32)> = self.index.damaged()?.into_iter().collect();
        // A package that this process has put aside or removed is nothing that a backup could take for present.
        let listed: HashSet<u32> = self.index.packages()?.into_iter().map(|info| info.number).collect();
        let mut batch = IndexBatch::default();
        for place in self.repository.damaged() {
            if !known.contains(&place) && listed.contains(&place.0) {
                self.index.add_damaged(&mut batch, place)?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.index.commit(batch) }
    }

    fn pending(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        lock(&self.pending)
    }

    fn healthy(&self) -> Result<()> {
        match &*lock(&self.failure) {
            None => Ok(()),
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
        }
    }

    fn gone(&self) -> Error {
        self.healthy()
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Io, "the thread that makes packages durable has ended"))
    }

    fn fail(&self, error: Error) -> Error {
        lock(&self.failure).get_or_insert_with(|| (error.kind(), error.to_string()));
        error
    }

    /// Appends a segment; returns what the syncer is to do now.
    fn append(&self, kind: SegmentKind, packed: Packed, listed: Listed) -> Result<Option<Job>> {
        let (slot, kind) = match kind {
            SegmentKind::Data => (&self.data, PackageKind::Data),
            SegmentKind::Node | SegmentKind::Point | SegmentKind::State => (&self.meta, PackageKind::Meta),
        };
        let mut slot = lock(slot);
        // Another thread's append may have failed half way while this one compressed: then nothing may follow it.
        self.healthy()?;
        if slot.is_none() {
            *slot = Some(self.begin(kind).map_err(|e| self.fail(e))?);
        }
        let Some(open) = slot.as_mut() else { return Ok(None) };
        let record = packed.table().first().map(|row| row.id);
        self.append_to(open, packed).map_err(|e| self.fail(e))?;
        match listed {
            Listed::Nothing => {}
            Listed::Point(point) => open.points.extend(record.map(|record| (point, record))),
            Listed::State(state) => open.states.push(state),
        }
        if open.offset >= PACKAGE_BYTES || open.chunks >= PACKAGE_CHUNKS {
            return Ok(slot.take().map(|full| Job::Seal(Box::new(full))));
        }
        let begun = kind == PackageKind::Data && open.offset >= RESERVE_FROM;
        Ok((begun && !self.reserving.swap(true, Ordering::Relaxed)).then_some(Job::Reserve))
    }

    /// Enters a package in the journal. That is durable before the first byte of it, so no package can be overlooked.
    fn enter(&self, kind: PackageKind) -> Result<PackageInfo> {
        let id = PackageId(random()?);
        let number = self.next_package.fetch_add(1, Ordering::SeqCst);
        let info = PackageInfo { number, id, kind, sealed: false, bytes: PACKAGE_HEADER_BYTES as u64 };
        let mut batch = IndexBatch::default();
        self.index.add_package(&mut batch, &info)?;
        self.index.add_journal(&mut batch, &info)?;
        self.index.commit(batch)?;
        Ok(info)
    }

    fn reserve(&self) -> Result<()> {
        let mut reserved = lock(&self.reserved);
        if reserved.is_none() {
            *reserved = Some(self.enter(PackageKind::Data)?);
        }
        Ok(())
    }

    fn begin(&self, kind: PackageKind) -> Result<OpenPackage> {
        let reserved = if kind == PackageKind::Data {
            self.reserving.store(false, Ordering::Relaxed);
            lock(&self.reserved).take()
        } else {
            None
        };
        let info = reserved.map_or_else(|| self.enter(kind), Ok)?;
        let id = info.id;
        self.packages.create(&id)?;
        let repo = self.repository.header().repo;
        let header = PackageHeader { kind, encrypted: self.keys.encrypted(), repo, package: id };
        self.packages.append(&id, 0, &[&header.encode()])?;
        self.repository.learn(&[info]);
        let counter = match kind {
            PackageKind::Data => &self.counters.data_packages,
            PackageKind::Meta => &self.counters.meta_packages,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let offset = PACKAGE_HEADER_BYTES as u64;
        let key = self.keys.package(&id);
        Ok(OpenPackage {
            info,
            key,
            offset,
            footer: PackageFooter::default(),
            chunks: 0,
            unindexed: Vec::new(),
            points: Vec::new(),
            states: Vec::new(),
        })
    }

    fn append_to(&self, open: &mut OpenPackage, packed: Packed) -> Result<()> {
        let number = open.footer.entries.len() as u32;
        let (offset, bytes) = (open.offset, packed.segment_bytes());
        let mut skip = 0;
        for row in packed.table() {
            let segment_bytes = bytes as u32;
            let at =
                Location { package: open.info.number, offset: offset as u32, segment_bytes, skip, len: row.raw_bytes };
            open.unindexed.push((row.id, at));
            skip += row.raw_bytes;
        }
        let chunks = packed.table().len() as u32;
        let (header, payload) = packed.seal(number, open.key.as_ref())?;
        self.packages.append(&open.info.id, offset, &[&header, &payload])?;
        open.footer.entries.push(FooterEntry { offset, bytes: bytes as u32, number, chunks });
        open.chunks += chunks as usize;
        open.offset += bytes;
        self.counters.segments.fetch_add(1, Ordering::Relaxed);
        self.counters.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Seals the open data package, and gives up the one that was reserved after it. Only when the syncer has nothing to do.
    fn seal_data(&self) -> Result<()> {
        let (open, unused) = (lock(&self.data).take(), lock(&self.reserved).take());
        self.reserving.store(false, Ordering::Relaxed);
        match (open, unused) {
            (Some(open), unused) => self.seal_package(open, unused),
            (None, Some(unused)) => {
                let mut batch = IndexBatch::default();
                self.give_up(&mut batch, &unused)?;
                self.index.commit(batch)
            }
            (None, None) => Ok(()),
        }
    }

    fn give_up(&self, batch: &mut IndexBatch, unused: &PackageInfo) -> Result<()> {
        self.index.remove_package(batch, unused.number)?;
        self.index.end_journal(batch, unused.number)
    }

    /// Footer, fsync, index batch: after this the package is immutable. The same batch gives up a package that was reserved.
    fn seal_package(&self, mut open: OpenPackage, unused: Option<PackageInfo>) -> Result<()> {
        let footer = open.footer.encode();
        self.packages.append(&open.info.id, open.offset, &[&footer])?;
        self.counters.stored_bytes.fetch_add((footer.len() + PACKAGE_HEADER_BYTES) as u64, Ordering::Relaxed);
        open.offset += footer.len() as u64;
        self.packages.seal(&open.info.id)?;
        open.info.sealed = true;
        self.commit_entries(&mut open, unused)
    }

    /// fsync and index batch of a package that goes on.
    fn index_open(&self, open: &mut OpenPackage) -> Result<()> {
        if open.unindexed.is_empty() {
            return Ok(());
        }
        self.sync(open)?;
        self.commit_entries(open, None)
    }

    /// A sync that fails is the end: the next one could succeed without what this one lost.
    fn sync(&self, open: &OpenPackage) -> Result<()> {
        self.packages.sync(&open.info.id).map_err(|e| self.fail(e))
    }

    fn commit_entries(&self, open: &mut OpenPackage, unused: Option<PackageInfo>) -> Result<()> {
        open.info.bytes = open.offset;
        let mut batch = IndexBatch::default();
        for (id, at) in &open.unindexed {
            self.index.add_chunk(&mut batch, id, *at)?;
        }
        for (point, record) in &open.points {
            self.index.add_point(&mut batch, point, record)?;
        }
        self.index.add_states(&mut batch, &open.states)?;
        self.index.add_package(&mut batch, &open.info)?;
        if open.info.sealed {
            self.index.end_journal(&mut batch, open.info.number)?;
        }
        if let Some(unused) = unused {
            self.give_up(&mut batch, &unused)?;
        }
        self.index.commit(batch)?;
        open.points.clear();
        open.states.clear();
        let mut pending = self.pending();
        open.unindexed.drain(..).for_each(|(id, _)| {
            pending.remove(&id);
        });
        Ok(())
    }

    /// The syncer thread.
    fn sync_packages(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Seal(open) => {
                    if self.healthy().is_ok() {
                        let _ = self.seal_package(*open, None).map_err(|e| self.fail(e));
                    }
                }
                Job::Reserve => {
                    if self.healthy().is_ok() {
                        let _ = self.reserve().map_err(|e| self.fail(e));
                    }
                }
                Job::Barrier(done) => {
                    let _ = done.send(());
                }
            }
        }
    }
}

/// Nodes that are a segment together, and their bytes.
type NodeSegment = (Vec<(ChunkId, u32)>, Vec<u8>);

/// Packs tree nodes into segments.
pub struct NodePacker<'a> {
    writer: &'a Writer,
    chunks: Vec<(ChunkId, u32)>,
    raw: Vec<u8>,
    /// To a thread that stores full segments.
    beside: Option<Sender<NodeSegment>>,
}

impl NodePacker<'_> {
    /// Stores a node unless it is known, and returns its id.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn write_node(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        let id = self.writer.chunk_id(bytes);
        if self.writer.claim(&[id])?.first() == Some(&true) {
            self.chunks.push((id, bytes.len() as u32));
            self.raw.extend_from_slice(bytes);
            if self.raw.len() >= NODE_SEGMENT_BYTES {
                self.store_full()?;
            }
        }
        Ok(id)
    }

    /// Hands a full segment to the thread beside; stores it here when there is none, or when it has enough to do.
    fn store_full(&mut self) -> Result<()> {
        let Some(beside) = &self.beside else { return self.flush() };
        let room = Vec::with_capacity(self.raw.capacity());
        let segment = (std::mem::take(&mut self.chunks), std::mem::replace(&mut self.raw, room));
        match beside.try_send(segment) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full((chunks, raw)) | TrySendError::Disconnected((chunks, raw))) => {
                self.writer.store_nodes(&chunks, &raw)
            }
        }
    }

    /// Stores what is collected. Must be called before the tree's root is used.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.store_nodes(&self.chunks, &self.raw)?;
        self.chunks.clear();
        self.raw.clear();
        Ok(())
    }
}
