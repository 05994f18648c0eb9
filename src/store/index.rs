//! The database: where every chunk is, which packages and restore points there are, and the writer's
//! journal (SPEC.md section 9). All of it can be rebuilt from packages.

use super::files::FileStore;
use super::lease::Lease;
use super::package_store::PackageStore;
use super::scratch::Scratch;
use crate::error::{Error, ErrorKind, Result};
use repo_format::{ChunkId, JournalRecord, PackageId, PackageKind, PointId};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, Options, WriteBatch,
    WriteOptions,
};
use std::collections::HashSet;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Column families, in the order of SPEC.md section 9.
pub const COLUMN_FAMILIES: [&str; 8] = ["chunks", "packages", "points", "sources", "pins", "journal", "health", "meta"];
/// The column family of package bytes when the store is RocksDB.
pub const BLOBS: &str = "blobs";

const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// Looked up in one call: what each of them is found in stays in memory until all are found.
const LOOKUP_CHUNKS: usize = 1024;
/// A walk through the index is taken to cost as much as lookups of a 64th of it, most of which wait for the disk.
const WALK_SHARE: u64 = 64;
/// Fewer are looked up one by one, however few there are.
const WALK_CHUNKS: usize = 1 << 16;
const LOCATION_BYTES: usize = 20;
/// Key in `meta`: the lowest package number that was never given out.
const NEXT_PACKAGE: &[u8] = b"next_package";
/// Prefix of keys in `meta`: a segment that was found damaged, by package number and offset.
const DAMAGED: &[u8] = b"damaged/";
/// A process that may have so many files open need not count them: a terabyte has a few hundred.
const PLENTY_OF_FILES: u64 = 4096;
/// Threads that open the files of one column family.
const OPENING_THREADS: i32 = 2;
/// The log is emptied at the end of a run when it has more files than this, one for each run,
const MAX_LOG_FILES: usize = 8;
/// or more bytes; reading a megabyte takes about ten milliseconds.
const MAX_LOG_BYTES: u64 = 1 << 20;
/// A reader may open files at the moment the writer replaces them; then it looks again.
const OPEN_ATTEMPTS: u32 = 20;

/// Where a chunk is: package number, the segment's place in it, and the chunk's place in the segment.
/// The order is physical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Package number.
    pub package: u32,
    /// Byte offset of the segment in the package.
    pub offset: u32,
    /// Bytes of the segment, header and table included.
    pub segment_bytes: u32,
    /// First byte of the chunk in the decompressed segment.
    pub skip: u32,
    /// Uncompressed bytes of the chunk.
    pub len: u32,
}

impl Location {
    /// Whether it is in the segment that begins there.
    #[must_use]
    pub fn is_in(&self, package: u32, offset: u64) -> bool {
        self.package == package && u64::from(self.offset) == offset
    }

    fn fields(self) -> [u32; 5] {
        [self.package, self.offset, self.segment_bytes, self.skip, self.len]
    }

    fn encode(self) -> [u8; LOCATION_BYTES] {
        let mut out = [0; LOCATION_BYTES];
        out.chunks_exact_mut(4).zip(self.fields()).for_each(|(o, f)| o.copy_from_slice(&f.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::damaged("an index entry has a wrong length").advise(REBUILD);
        let bytes: &[u8; LOCATION_BYTES] = bytes.try_into().map_err(|_| bad())?;
        let mut fields = bytes.chunks_exact(4).map(|f| f.try_into().map_or(0, u32::from_le_bytes));
        let mut next = || fields.next().unwrap_or(0);
        Ok(Self { package: next(), offset: next(), segment_bytes: next(), skip: next(), len: next() })
    }
}

/// What the index knows of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageInfo {
    /// Number, the index's short name of the package.
    pub number: u32,
    /// The package's id.
    pub id: PackageId,
    /// What it holds.
    pub kind: PackageKind,
    /// Whether it ends in a footer and never grows again.
    pub sealed: bool,
    /// Bytes that are known durable.
    pub bytes: u64,
}

impl PackageInfo {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind as u8, u8::from(self.sealed)];
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.id.0);
        out
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self> {
        let bad = || Error::damaged("a package entry of the index is not valid").advise(REBUILD);
        let number = u32::from_be_bytes(key.try_into().map_err(|_| bad())?);
        let value: &[u8; 26] = value.try_into().map_err(|_| bad())?;
        let kind = match value[0] {
            1 => PackageKind::Data,
            2 => PackageKind::Meta,
            _ => return Err(bad()),
        };
        let bytes = u64::from_le_bytes(value[2..10].try_into().map_err(|_| bad())?);
        let id = PackageId(value[10..].try_into().map_err(|_| bad())?);
        Ok(Self { number, id, kind, sealed: value[1] == 1, bytes })
    }
}

/// How long a database may take to close after a write has failed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) const REBUILD: &str = "the packages are not affected; 'relict-maint rebuild' makes a new index from them";

/// The open database, as the one writer or as a reader that follows it.
pub struct Index {
    db: Database,
    /// A reader's private directory; after the database, which writes there to its end.
    scratch: Option<Scratch>,
    /// A reader that follows nobody: see [`Index::open_at_rest`].
    at_rest: bool,
}

/// Key and value of the database.
pub(super) type Row = (Box<[u8]>, Box<[u8]>);

/// Changes that become visible and durable together.
#[derive(Default)]
pub struct IndexBatch(pub(super) WriteBatch);

impl Index {
    const fn over(db: DB, scratch: Option<Scratch>, at_rest: bool) -> Self {
        Self { db: Database { db: Some(db), stopped: AtomicBool::new(false) }, scratch, at_rest }
    }

    /// Opens for writing; `create` makes a new database.
    ///
    /// # Errors
    /// `Damaged` when the database is missing or cannot be read.
    pub fn open_writer(path: &Path, with_blobs: bool, create: bool) -> Result<Self> {
        let mut options = writer_options()?;
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        super::logs::cut_torn_manifest(path)?;
        let has_broken_log = !create && super::logs::is_broken(path)?;
        if has_broken_log {
            // Looked at before anything is changed.
            drop(Self::open_at_rest(path, with_blobs)?);
        }
        let opened = DB::open_cf_descriptors(&options, path, descriptors(with_blobs));
        let index = Self::over(opened.map_err(|e| unusable(path, &e))?, None, false);
        if has_broken_log {
            index.replace_logs(with_blobs)?;
        }
        Ok(index)
    }

    /// What the logs hold goes to files, and they go: one of them breaks off where a crash has torn it, and readers refuse it.
    fn replace_logs(&self, with_blobs: bool) -> Result<()> {
        if with_blobs {
            self.written("flushing the index", self.db.flush_cf(self.blobs()?))?;
        }
        self.flush()
    }

    /// Opens for reading beside a writer, or on a read-only directory. [`Index::refresh`] follows the writer.
    ///
    /// # Errors
    /// `Damaged` when the database is missing or cannot be read, `Io` when there is no temporary directory.
    pub fn open_reader(path: &Path, with_blobs: bool) -> Result<Self> {
        match Self::open_follower(path, with_blobs) {
            Err(e) if e.kind() == ErrorKind::Damaged && super::logs::is_torn(path) => {
                Self::open_after_crash(path, with_blobs)
            }
            other => other,
        }
    }

    /// For a log that a crash has torn: what any writer does at once, to have it out of the readers' way; where nothing can be
    /// written, the database as it lies there. It stays as it is as long as nobody writes.
    fn open_after_crash(path: &Path, with_blobs: bool) -> Result<Self> {
        match path.parent().map(|repo| Lease::take(&repo.join("lock"))) {
            Some(Ok(_lease)) => {
                drop(Self::open_writer(path, with_blobs, false)?);
                Self::open_follower(path, with_blobs)
            }
            Some(Err(e)) if e.kind() == ErrorKind::Locked => Self::open_follower(path, with_blobs),
            _ => Self::open_at_rest(path, with_blobs),
        }
    }

    /// The database as it lies there, its log up to where it breaks off.
    pub(super) fn open_at_rest(path: &Path, with_blobs: bool) -> Result<Self> {
        super::logs::refuse_recycled(path)?;
        let scratch = Scratch::make()?;
        let mut options = database_options();
        options.set_db_log_dir(scratch.path());
        let packages = || match path.parent().filter(|_| !with_blobs) {
            Some(repo) => FileStore::new(repo.join("packages")).list(),
            None => Ok(Vec::new()),
        };
        let before = packages()?;
        let opened = DB::open_cf_descriptors_read_only(&options, path, descriptors(with_blobs), false);
        let index = Self::over(opened.map_err(|e| unusable(path, &e))?, Some(scratch), true);
        index.refuse_rotten_log(path, &before, packages)?;
        Ok(index)
    }

    /// A log breaks off where a crash has torn it, or where it rots. No package is made before the index knows it durably: so a
    /// package that was there `before` the index was opened and that it does not know was in a part that rotted, and with it
    /// restore points that were acknowledged; unless a writer beside us has removed it meanwhile, and it is not there `now`.
    fn refuse_rotten_log(
        &self,
        path: &Path,
        before: &[PackageId],
        now: impl Fn() -> Result<Vec<PackageId>>,
    ) -> Result<()> {
        let mut known: HashSet<PackageId> = self.packages()?.into_iter().map(|info| info.id).collect();
        known.extend(self.freeing()?.into_iter().map(|(_, id)| id));
        let mut unknown: HashSet<&PackageId> = before.iter().filter(|id| !known.contains(id)).collect();
        if !unknown.is_empty() {
            let now = now()?;
            unknown.retain(|id| now.contains(id));
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let what = format!(
            "the index {} is damaged: a part of its log is lost, and with it the entries of {} of the {} packages",
            path.display(),
            unknown.len(),
            before.len()
        );
        Err(Error::damaged(what).advise(REBUILD))
    }

    fn open_follower(path: &Path, with_blobs: bool) -> Result<Self> {
        if !path.join("CURRENT").exists() {
            return Err(Error::damaged(format!("the index {} is missing", path.display())).advise(REBUILD));
        }
        super::logs::refuse_unreadable(path)?;
        let scratch = Scratch::make()?;
        let options = database_options();
        let mut attempt = 0;
        loop {
            let opened = DB::open_cf_descriptors_as_secondary(&options, path, scratch.path(), descriptors(with_blobs));
            match opened {
                Ok(db) => return Ok(Self::over(db, Some(scratch), false)),
                Err(e) if attempt >= OPEN_ATTEMPTS => return Err(unusable(path, &e)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            attempt += 1;
        }
    }

    /// Sees what the writer has committed since. Nothing to do for the writer itself.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn refresh(&self) -> Result<()> {
        if self.scratch.is_some() && !self.at_rest {
            super::logs::refuse_unreadable(self.db.path())?;
            self.db.try_catch_up_with_primary().map_err(|e| failed("following the writer", &e))?;
        }
        Ok(())
    }

    /// Grows with every change that this index has seen.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    pub(super) fn cf(&self, name: &str) -> Result<&ColumnFamily> {
        let missing = || Error::damaged(format!("the index has no column family '{name}'")).advise(REBUILD);
        self.db.cf_handle(name).ok_or_else(missing)
    }

    /// Where a chunk is, None when it is not stored.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn locate(&self, id: &ChunkId) -> Result<Option<Location>> {
        let found = self.db.get_pinned_cf(self.cf("chunks")?, id.0).map_err(|e| failed("looking up a chunk", &e))?;
        found.map(|value| Location::decode(&value)).transpose()
    }

    /// As [`Index::locate`], for many at once. Very many are found by one walk through the index: each lookup of its own
    /// would read a block that the cache has lost by the time its neighbour is asked for.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn locate_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        if ids.len() >= WALK_CHUNKS && ids.len() as u64 >= self.estimated_chunks()? / WALK_SHARE {
            return self.locate_by_walk(ids);
        }
        let cf = self.cf("chunks")?;
        let decode = |value: std::result::Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>| {
            let value = value.map_err(|e| failed("looking up chunks", &e))?;
            value.map(|bytes| Location::decode(&bytes)).transpose()
        };
        let mut out = Vec::with_capacity(ids.len());
        for some in ids.chunks(LOOKUP_CHUNKS) {
            for found in self.db.batched_multi_get_cf(cf, some.iter().map(|id| &id.0), false) {
                out.push(decode(found)?);
            }
        }
        Ok(out)
    }

    /// By one walk through the index, in the order of the ids.
    pub(super) fn locate_by_walk(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|at| ids.get(*at).map(|id| id.0));
        let mut out = vec![None; ids.len()];
        let mut wanted = order.into_iter().filter_map(|at| Some((at, ids.get(at)?))).peekable();
        for row in self.chunks()? {
            let (id, place) = row?;
            while wanted.next_if(|(_, wanted)| wanted.0 < id.0).is_some() {}
            while let Some((at, _)) = wanted.next_if(|(_, wanted)| **wanted == id) {
                out.get_mut(at).into_iter().for_each(|slot| *slot = Some(place));
            }
            if wanted.peek().is_none() {
                break;
            }
        }
        Ok(out)
    }

    /// About how many chunks there are, without a look at them.
    fn estimated_chunks(&self) -> Result<u64> {
        let keys = self.db.property_int_value_cf(self.cf("chunks")?, "rocksdb.estimate-num-keys");
        Ok(keys.map_err(|e| failed("counting chunks", &e))?.unwrap_or(u64::MAX))
    }

    /// All chunks, in order of their ids.
    ///
    /// # Errors
    /// In the items, when the database cannot be read.
    pub fn chunks(&self) -> Result<impl Iterator<Item = Result<(ChunkId, Location)>> + '_> {
        Ok(self.scan("chunks")?.map(|row| {
            let (key, value) = row?;
            let id =
                key[..].try_into().map_err(|_| Error::damaged("an index key is not a chunk id").advise(REBUILD))?;
            Ok((ChunkId(id), Location::decode(&value)?))
        }))
    }

    /// All packages.
    ///
    /// # Errors
    /// When the database cannot be read or an entry is not valid.
    pub fn packages(&self) -> Result<Vec<PackageInfo>> {
        self.scan("packages")?.map(|row| row.and_then(|(k, v)| PackageInfo::decode(&k, &v))).collect()
    }

    /// All visible restore points, with the chunk that holds each one's record: the record itself stands in a
    /// package only, where it is encrypted.
    ///
    /// # Errors
    /// When the database cannot be read or an entry is not valid.
    pub fn points(&self) -> Result<Vec<(PointId, ChunkId)>> {
        let bad = || Error::damaged("a restore point entry of the index is not valid").advise(REBUILD);
        let entry = |(key, value): Row| {
            let point = PointId(key[..].try_into().map_err(|_| bad())?);
            Ok((point, ChunkId(value[..].try_into().map_err(|_| bad())?)))
        };
        self.scan("points")?.map(|row| row.and_then(entry)).collect()
    }

    /// The chunk that holds the record of a visible restore point.
    pub(super) fn point(&self, id: &PointId) -> Result<Option<ChunkId>> {
        let bad = || Error::damaged("a restore point entry of the index is not valid").advise(REBUILD);
        let found = self.db.get_cf(self.cf("points")?, id.0).map_err(|e| failed("reading the index", &e))?;
        found.map(|chunk| Ok(ChunkId(chunk.try_into().map_err(|_| bad())?))).transpose()
    }

    /// All journal records.
    ///
    /// # Errors
    /// When the database cannot be read or a record is not valid.
    pub fn journal(&self) -> Result<Vec<JournalRecord>> {
        self.scan("journal")?.map(|row| Ok(JournalRecord::decode(&row?.1)?)).collect()
    }

    pub(super) fn scan(&self, cf: &str) -> Result<impl Iterator<Item = Result<Row>> + '_> {
        let rows = self.db.iterator_cf(self.cf(cf)?, rocksdb::IteratorMode::Start);
        Ok(rows.map(|row| row.map_err(|e| failed("reading the index", &e))))
    }

    /// Applies a batch; it is durable when this returns.
    ///
    /// # Errors
    /// When the database cannot be written: nothing of the batch counts then.
    pub fn commit(&self, batch: IndexBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.written("writing the index", self.db.write_opt(batch.0, &options))
    }

    /// Writes a batch that is durable only after [`Index::flush`]: for an index that nobody uses before that.
    pub(super) fn commit_until_flush(&self, batch: IndexBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.written("writing the index", self.db.write_opt(batch.0, &options))
    }

    pub(super) fn add_chunk(&self, batch: &mut IndexBatch, id: &ChunkId, at: Location) -> Result<()> {
        batch.0.put_cf(self.cf("chunks")?, id.0, at.encode());
        Ok(())
    }

    pub(super) fn remove_chunk(&self, batch: &mut IndexBatch, id: &ChunkId) -> Result<()> {
        batch.0.delete_cf(self.cf("chunks")?, id.0);
        Ok(())
    }

    pub(super) fn drop_point(&self, batch: &mut IndexBatch, id: &PointId) -> Result<()> {
        batch.0.delete_cf(self.cf("points")?, id.0);
        Ok(())
    }

    pub(super) fn add_package(&self, batch: &mut IndexBatch, info: &PackageInfo) -> Result<()> {
        batch.0.put_cf(self.cf("packages")?, info.number.to_be_bytes(), info.encode());
        Ok(())
    }

    /// Forgets a package. Its number is not given out again: readers remember which package a number named.
    pub(super) fn remove_package(&self, batch: &mut IndexBatch, number: u32) -> Result<()> {
        batch.0.delete_cf(self.cf("packages")?, number.to_be_bytes());
        let next = self.next_package()?.max(number.saturating_add(1));
        batch.0.put_cf(self.cf("meta")?, NEXT_PACKAGE, next.to_be_bytes());
        Ok(())
    }

    /// The number of the next package: above all that there are and all that were removed.
    pub(super) fn next_package(&self) -> Result<u32> {
        let bad = || Error::damaged("the index's next package number is not valid").advise(REBUILD);
        let kept = self.db.get_cf(self.cf("meta")?, NEXT_PACKAGE).map_err(|e| failed("reading the index", &e))?;
        let kept = kept.map_or(Ok([0; 4]), |bytes| bytes.try_into().map_err(|_| bad()))?;
        let above = |info: &PackageInfo| info.number.saturating_add(1);
        Ok(self.packages()?.iter().map(above).max().unwrap_or(0).max(u32::from_be_bytes(kept)))
    }

    /// Segments that were found damaged: package number and offset.
    ///
    /// # Errors
    /// When the database cannot be read or an entry is not valid.
    pub fn damaged(&self) -> Result<Vec<(u32, u32)>> {
        let bad = || Error::damaged("a note of damage in the index is not valid").advise(REBUILD);
        let from = rocksdb::IteratorMode::From(DAMAGED, rocksdb::Direction::Forward);
        let mut out = Vec::new();
        for row in self.db.iterator_cf(self.cf("meta")?, from) {
            let (key, _) = row.map_err(|e| failed("reading the index", &e))?;
            let Some(place) = key.strip_prefix(DAMAGED) else { break };
            let place: [u8; 8] = place.try_into().map_err(|_| bad())?;
            let place = u64::from_be_bytes(place);
            out.push(((place >> 32) as u32, place as u32));
        }
        Ok(out)
    }

    pub(super) fn add_damaged(&self, batch: &mut IndexBatch, (package, offset): (u32, u32)) -> Result<()> {
        let place = u64::from(package) << 32 | u64::from(offset);
        batch.0.put_cf(self.cf("meta")?, [DAMAGED, &place.to_be_bytes()].concat(), []);
        Ok(())
    }

    pub(super) fn add_point(&self, batch: &mut IndexBatch, id: &PointId, record: &ChunkId) -> Result<()> {
        batch.0.put_cf(self.cf("points")?, id.0, record.0);
        Ok(())
    }

    /// The journal entry of an open package is keyed by its number.
    pub(super) fn add_journal(&self, batch: &mut IndexBatch, info: &PackageInfo) -> Result<()> {
        let record = JournalRecord::PackageOpen { package: info.id, kind: info.kind };
        batch.0.put_cf(self.cf("journal")?, u64::from(info.number).to_be_bytes(), record.encode());
        Ok(())
    }

    pub(super) fn end_journal(&self, batch: &mut IndexBatch, number: u32) -> Result<()> {
        batch.0.delete_cf(self.cf("journal")?, u64::from(number).to_be_bytes());
        Ok(())
    }

    /// Writes memory tables out, so that a copy of the files is a copy of the index.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn flush(&self) -> Result<()> {
        for name in COLUMN_FAMILIES {
            self.written("flushing the index", self.db.flush_cf(self.cf(name)?))?;
        }
        self.wake_readers()
    }

    /// A reader follows the log into memory tables and looks there first. When the log it has followed is emptied into
    /// files, it keeps what it had in memory, older than the files, until a newer log has something for the column
    /// family. So the new log begins with something for each: the removal of a key that nothing has.
    fn wake_readers(&self) -> Result<()> {
        let mut batch = IndexBatch::default();
        for name in COLUMN_FAMILIES {
            batch.0.delete_cf(self.cf(name)?, []);
        }
        // Not synced: no reader outlives a lost power supply.
        self.written("writing the index", self.db.write(batch.0))
    }

    /// Writes memory tables out if the log has become long: whoever opens the index next has to go through it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub(super) fn tidy_log(&self) -> Result<()> {
        let entries = std::fs::read_dir(self.db.path()).map_err(|e| Error::io("listing the index", e))?;
        let is_log = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "log");
        let logs = entries.filter_map(|entry| entry.ok().filter(is_log)?.metadata().ok());
        let (files, bytes) = logs.fold((0, 0), |(files, bytes), meta| (files + 1, bytes + meta.len()));
        if files > MAX_LOG_FILES || bytes > MAX_LOG_BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn raw(&self) -> &DB {
        &self.db
    }

    /// Says what the database answered to a write, and keeps in mind when it failed.
    pub(super) fn written<T>(&self, what: &str, answer: std::result::Result<T, rocksdb::Error>) -> Result<T> {
        answer.map_err(|e| {
            self.db.stopped.store(true, Ordering::Relaxed);
            failed(what, &e)
        })
    }

    pub(super) fn blobs(&self) -> Result<&ColumnFamily> {
        self.cf(BLOBS)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if self.scratch.is_some() {
            self.db.cancel_all_background_work(true);
        }
    }
}

/// Closes it when it is dropped.
struct Database {
    /// There until then.
    db: Option<DB>,
    /// A write has failed.
    stopped: AtomicBool,
}

impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        let Some(db) = &self.db else { unreachable!("it is taken when it is dropped") };
        db
    }
}

/// Out of room, RocksDB looks for room on a thread of its own. When it finds some and a flush was under way before, that thread waits
/// for a flush that nobody does, and to close the database waits for that thread. So a stopped one is closed beside us, and given up
/// when that takes too long: what was durable is, and nothing else was promised.
impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        if !self.stopped.load(Ordering::Relaxed) {
            return;
        }
        close_within(CLOSE_PATIENCE, move || drop(db));
    }
}

/// Runs `close` on a thread of its own, and waits for it no longer than that. True when it is done.
pub(super) fn close_within(patience: Duration, close: impl FnOnce() + Send + 'static) -> bool {
    let (done, wait) = crossbeam_channel::bounded(1);
    let run = move || {
        close();
        let _ = done.send(());
    };
    let started = std::thread::Builder::new().name("relict-close".into()).spawn(run);
    started.is_ok() && wait.recv_timeout(patience).is_ok()
}

/// All of them, where the process may have many; RocksDB itself wants 20 at least.
fn open_files() -> i32 {
    let limit = crate::os::open_files();
    if limit >= PLENTY_OF_FILES { -1 } else { i32::try_from(limit / 4).unwrap_or(i32::MAX) }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.set_max_open_files(open_files());
    options.set_keep_log_file_num(2);
    options.set_max_background_jobs(2);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(64 << 20);
    // The default of 16 is for every column family in turn: 130 threads that mostly have nothing to open.
    options.set_max_file_opening_threads(OPENING_THREADS);
    options
}

/// As [`database_options`]; and what the log holds stays there at opening, rather than becoming four tiny files with
/// two syncs each. [`Index::tidy_log`] is what bounds the log then. Nothing is allocated ahead: on a nearly full disk ext4
/// gives a part of the 18 MB that would be asked for, which is all there is, and then there is nothing left for packages.
fn writer_options() -> Result<Options> {
    let options = database_options().get_options_from_string("avoid_flush_during_recovery=true;allow_fallocate=false");
    options.map_err(|e| failed("setting up the index", &e))
}

fn descriptors(with_blobs: bool) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(5);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Filters and indexes in pieces: whole ones of a file of 64 MiB have 2 MB, and where they do not all fit into the cache, every
    // lookup of a chunk would read and checksum one.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4096);
    table.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(16 << 20);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    let mut all: Vec<_> = COLUMN_FAMILIES
        .iter()
        .map(|name| {
            let mut options = options.clone();
            if *name == "chunks" {
                // Most chunks that are asked for are new, and would be looked for in memory all the way down.
                options.set_memtable_whole_key_filtering(true);
                options.set_memtable_prefix_bloom_ratio(0.02);
            }
            ColumnFamilyDescriptor::new(*name, options)
        })
        .collect();
    all.push(ColumnFamilyDescriptor::new("default", options.clone()));
    if with_blobs {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(1024);
        options.set_blob_file_size(64 << 20);
        all.push(ColumnFamilyDescriptor::new(BLOBS, options));
    }
    all
}

pub(super) fn failed(what: &str, error: &rocksdb::Error) -> Error {
    let text = error.to_string();
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => ErrorKind::Damaged,
        _ if text.contains("No space left") || text.contains("Disk quota") => ErrorKind::NoSpace,
        _ if text.contains("Read-only file system") => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    let out = Error::new(kind, format!("{what}: {text}"));
    if kind == ErrorKind::Damaged { out.advise(REBUILD) } else { out }
}

fn unusable(path: &Path, error: &rocksdb::Error) -> Error {
    let text = error.to_string();
    let opening = format!("opening the index {}", path.display());
    if text.contains("does not exist") || text.contains("No such file") {
        return Error::damaged(format!("{opening}: {text}")).advise(REBUILD);
    }
    failed(&opening, error)
}

impl IndexBatch {
    /// Entries in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
