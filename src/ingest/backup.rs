//! One backup of a directory tree: scan, tree, seal.

use super::exclude::Excludes;
pub use super::listing::StandIn;
use super::report::{Monitor, Report};
use super::roots::resolve;
use super::scan::{Scan, Scanned};
use super::sink::ChunkSink;
use super::walker::Rules;
use crate::catalog::tree::{self, ReadNodes};
use crate::store::{Search, Writer, WriterStats};
use crate::{Error, ErrorKind, Result};
use repo_format::{
    ChunkId, Counts, Key, NO_ACLS_TAG, PointId, PointRecord, ROOT_INO, SET_TAG, SegmentKind, SetId, SourceKind, Time,
};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// Memory a backup may use unless told otherwise, in bytes.
pub const DEFAULT_MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Directories or files. Relative ones are taken from the working directory.
    pub paths: Vec<PathBuf>,
    /// Host name for the point record.
    pub host: Vec<u8>,
    /// The source's name on that host.
    pub source: Vec<u8>,
    /// Tags.
    pub tags: Vec<Vec<u8>>,
    /// The set of points that this one belongs to.
    pub set: Option<SetId>,
    /// What to leave out.
    pub excludes: Excludes,
    /// A snapshot that is read in the place of one of `paths`.
    pub stand_in: Option<StandIn>,
    /// Not to go down into other file systems than those of `paths`.
    pub one_file_system: bool,
    /// To read all content, whatever looks unchanged.
    pub force: bool,
    /// The point to compare with, the last one of the chain; None to read everything.
    pub parent: Option<PointRecord>,
    /// Threads that read; 0 for one a core.
    pub threads: usize,
    /// Bound of the memory for content, edits and buffers, in bytes; 0 for [`DEFAULT_MEMORY_BYTES`].
    pub memory_bytes: usize,
    /// When the state was taken; the point's name.
    pub time: Time,
}

/// A backup that is done.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The point, sealed.
    pub point: PointRecord,
    /// What happened to single files. With errors in it the point lacks something.
    pub report: Report,
}

/// Backs up `options.paths` and seals a restore point.
///
/// Files that cannot be read are reported and left out; that is no error here.
///
/// # Errors
/// `Interrupted` once `stop` is set: nothing is sealed, and what was stored is found by the next run;
/// `Usage` or `Io` for paths that do not exist; those of the repository.
pub fn backup(writer: &Writer, options: &BackupOptions, monitor: &dyn Monitor, stop: &AtomicBool) -> Result<Outcome> {
    let paths = resolve(&options.paths)?;
    let before = writer.stats();
    let run = Backup { writer, options, paths: &paths, monitor, stop };
    let mut notes = Vec::new();
    let (scanned, compared) = match (run.scan(options.parent.as_ref()), &options.parent) {
        (Err(error), Some(parent)) if error.is_loss() => {
            let why = format!("read completely: the tree of point {} is damaged: {error}", parent.id);
            notes.push(why.into_bytes());
            (run.scan(None), None)
        }
        (result, parent) => (result, parent.as_ref()),
    };
    let scanned = match scanned {
        Ok(scanned) => scanned,
        Err(error) => {
            // What is stored so far is made findable; the first error is the one to tell.
            let _ = writer.checkpoint();
            return Err(error);
        }
    };
    match (&options.parent, options.force) {
        (None, _) => notes.push(b"read completely: there was no point to compare with".to_vec()),
        (Some(_), true) => notes.push(b"read completely: as asked for".to_vec()),
        _ => {}
    }
    run.seal(scanned, compared, notes, before)
}

struct Backup<'a> {
    writer: &'a Writer,
    options: &'a BackupOptions,
    paths: &'a [PathBuf],
    monitor: &'a dyn Monitor,
    stop: &'a AtomicBool,
}

impl Backup<'_> {
    /// Scans against `parent`. Numbers of the chain are never used again, also when nothing is compared.
    fn scan(&self, parent: Option<&PointRecord>) -> Result<Scanned> {
        let repository = self.writer.repository();
        let chain = self.options.parent.as_ref();
        let nodes: &dyn ReadNodes = &**repository;
        let (one_file_system, force) = (self.options.one_file_system, self.options.force);
        let scan = Scan {
            paths: self.paths,
            excludes: &self.options.excludes,
            stand_in: self.options.stand_in.as_ref(),
            rules: Rules { one_file_system, force, not_into: identity_of(repository.path()) },
            old: parent.map(|parent| (nodes, parent.root)),
            next_ino: chain.map_or(ROOT_INO + 1, |chain| chain.next_ino),
            file_systems: chain.map(|chain| chain.file_systems.clone()).unwrap_or_default(),
            chunk_bytes: repository.header().chunk_bytes,
            threads: match self.options.threads {
                0 => std::thread::available_parallelism().map_or(2, usize::from),
                threads => threads,
            },
            memory_bytes: match self.options.memory_bytes {
                0 => DEFAULT_MEMORY_BYTES,
                bytes => bytes,
            },
        };
        scan.run(self.writer, self.monitor, self.stop)
    }

    fn seal(
        &self,
        scanned: Scanned,
        compared: Option<&PointRecord>,
        notes: Vec<Vec<u8>>,
        before: WriterStats,
    ) -> Result<Outcome> {
        let (options, writer) = (self.options, self.writer);
        let mut point = PointRecord {
            repo: writer.repository().header().repo,
            id: new_point_id()?,
            time: options.time,
            sealed: now(),
            root: ChunkId::default(),
            next_ino: scanned.next_ino,
            kind: SourceKind::Dir,
            host: options.host.clone(),
            source: options.source.clone(),
            parent: compared.map(|parent| parent.id),
            counts: scanned.counts,
            paths: self.paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            tags: options.tags.clone(),
            file_systems: scanned.file_systems.clone(),
            notes,
            program: concat!("relict ", env!("CARGO_PKG_VERSION")).into(),
            extra: options.set.iter().map(|set| (SET_TAG, set.0.to_vec())).collect(),
        };
        let report = scanned.report.clone();
        let mut acls = compared.is_some_and(|parent| !parent.has_no_acls());
        point.root = self.write_tree(scanned, compared, &mut acls)?;
        point.extra.extend((!acls).then_some((NO_ACLS_TAG, Vec::new())));
        point.counts = counts_since(point.counts, before, writer.stats());
        point.sealed = now();
        writer.seal(&point)?;
        Ok(Outcome { point, report })
    }

    /// Sets `acls` if the tree gets an ACL.
    fn write_tree(&self, scanned: Scanned, compared: Option<&PointRecord>, acls: &mut bool) -> Result<ChunkId> {
        let nodes: &dyn ReadNodes = &**self.writer.repository();
        let old = compared.map(|parent| &parent.root);
        let edits = scanned.into_edits()?.inspect(|edit| *acls |= edit.as_ref().is_ok_and(|(key, _)| is_acl(key)));
        self.writer.write_nodes(|packer| tree::apply(nodes, old, edits, packer))
    }
}

/// Whether a key is that of a POSIX ACL.
fn is_acl(key: &[u8]) -> bool {
    matches!(Key::decode(key), Ok(Key::Xattr(_, name)) if is_acl_name(name))
}

/// Whether an extended attribute is a POSIX ACL.
pub(super) fn is_acl_name(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

impl ChunkSink for Writer {
    fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        self.chunk_id(bytes)
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.claim(ids)
    }

    fn knows_damage(&self) -> bool {
        self.knows_damage()
    }

    fn lacks(&self, ids: &[ChunkId]) -> Result<bool> {
        self.lacks(ids)
    }

    fn store_content(&self, search: Search, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()> {
        self.store_segment_by(search, SegmentKind::Data, chunks, raw)
    }
}

pub(super) fn counts_since(scanned: Counts, before: WriterStats, after: WriterStats) -> Counts {
    Counts {
        new_chunks: after.new_chunks - before.new_chunks,
        new_bytes: after.new_bytes - before.new_bytes,
        stored_bytes: after.stored_bytes - before.stored_bytes,
        ..scanned
    }
}

/// A directory as the walk recognises it.
fn identity_of(path: &Path) -> Option<((u32, u32), u64)> {
    let meta = path.metadata().ok()?;
    Some(((libc::major(meta.dev()), libc::minor(meta.dev())), meta.ino()))
}

pub(super) fn new_point_id() -> Result<PointId> {
    let mut id = PointId::default();
    let failed =
        |error: getrandom::Error| Error::new(ErrorKind::Io, format!("the system gives no random numbers: {error}"));
    getrandom::fill(&mut id.0).map_err(failed)?;
    Ok(id)
}

pub(super) fn now() -> Time {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nsec: since.subsec_nanos() }
}
