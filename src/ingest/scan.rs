//! A scan from its first directory to the sorted edits of the tree.
//!
//! Streams speak `Change`; a scan does not go through it. It holds the parent point's tree against what
//! it finds, so it knows every entry that differs and makes the edits directly: no change is spelled out
//! that would have to be looked up again, and an unchanged tree costs no edit at all.

use super::chunker::Chunker;
use super::exclude::Excludes;
use super::file_systems::FileSystems;
use super::large::Buffers;
use super::links::Link;
use super::listing::{Ahead, OpenDirs, StandIn};
use super::old::{Edits, OldTree};
use super::other_names;
use super::report::{Monitor, Report};
use super::roots::Roots;
use super::run::{LeftOut, Run, RunEnd};
use super::seen::Seen;
use super::sink::ChunkSink;
use super::walker::{Rules, WalkEnd, Walker};
use super::workers::{Bounds, Queues, queues, work};
use crate::catalog::edits::EditSet;
use crate::catalog::tree::{Edit, ReadNodes};
use crate::{Error, Result};
use repo_format::{ChunkId, Counts, Dirent, Inode, Key, KeyKind};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What to scan, and against what.
pub(super) struct Scan<'a> {
    /// Absolute paths.
    pub(super) paths: &'a [PathBuf],
    pub(super) excludes: &'a Excludes,
    /// What is read in the place of another directory.
    pub(super) stand_in: Option<&'a StandIn>,
    pub(super) rules: Rules,
    /// The tree to compare with: where its nodes are, and its root.
    pub(super) old: Option<(&'a dyn ReadNodes, ChunkId)>,
    /// What the chain has used up: inode numbers below this one, and file systems.
    pub(super) next_ino: u64,
    pub(super) file_systems: Vec<Vec<u8>>,
    pub(super) chunk_bytes: [u32; 3],
    pub(super) threads: usize,
    pub(super) memory_bytes: usize,
}

/// What came of it.
pub(super) struct Scanned {
    /// Edits of the old tree, or of the empty one.
    pub(super) edits: EditSet,
    /// Inodes whose names must not be put into the tree, see [`Scanned::into_edits`].
    unreadable: HashSet<u64>,
    /// Inodes that are not what was listed under their number in the source; see there, too.
    replaced: HashSet<u64>,
    pub(super) next_ino: u64,
    pub(super) file_systems: Vec<Vec<u8>>,
    /// Files, directories, bytes, bytes read and errors.
    pub(super) counts: Counts,
    pub(super) report: Report,
}

impl Scan<'_> {
    /// Scans; chunks are in the sink afterwards.
    pub(super) fn run(&self, sink: &dyn ChunkSink, monitor: &dyn Monitor, stop: &AtomicBool) -> Result<Scanned> {
        let roots = Roots::new(self.paths)?;
        let chunker = Chunker::new(self.chunk_bytes);
        let bounds = Bounds::new(self.threads, self.memory_bytes, chunker.max_bytes());
        let old = self.old.map(|(nodes, root)| OldTree { nodes, root });
        let run = Run::new(sink, old, chunker, monitor, stop, self.memory_bytes / 4);
        let (buffers, ahead) =
            (Buffers::default(), Ahead::new(self.excludes, self.stand_in, self.open_dirs(bounds).waiting));
        let walked = std::thread::scope(|scope| {
            let (queues, inbox) = queues(bounds);
            for _ in 0..bounds.workers {
                let (inbox, run, buffers, ahead) = (inbox.clone(), &run, &buffers, &ahead);
                let thread = std::thread::Builder::new().name("relict-ingest".into());
                thread.spawn_scoped(scope, move || work(run, buffers, ahead, inbox)).map_err(no_thread)?;
            }
            drop(inbox);
            self.walk(&run, &ahead, queues, roots, bounds)
        });
        // A worker's error is the cause of the walker's.
        let mut walked = match (run.check(), walked) {
            (Ok(()), walked) => walked?,
            (Err(stopped), walked) => return Err(run.end().err().or(walked.err()).unwrap_or(stopped)),
        };
        if let Err(error) = other_names::read(&run, &mut walked) {
            run.fail(error);
        }
        let read_bytes = run.read_bytes.load(Relaxed);
        let end = run.end()?;
        walked.counts.read_bytes = read_bytes;
        Finish { old, walked, dead: Seen::default() }.finish(end)
    }

    fn walk<'a>(
        &self,
        run: &Run<'a>,
        ahead: &Ahead<'_>,
        queues: Queues<'a>,
        roots: Roots,
        bounds: Bounds,
    ) -> Result<WalkEnd> {
        let file_systems = FileSystems::new(self.file_systems.clone());
        let open_dirs = self.open_dirs(bounds);
        let walker = Walker::new(run, ahead, queues, self.rules, open_dirs, file_systems, self.next_ino);
        walker.walk(roots)
    }

    /// A batch waits, is worked on, or is being filled.
    fn open_dirs(&self, bounds: Bounds) -> OpenDirs {
        OpenDirs::new(crate::os::open_files(), bounds.batches + bounds.workers + 1)
    }
}

fn no_thread(error: std::io::Error) -> Error {
    Error::io("starting a thread", error)
}

impl Scanned {
    /// The edits in order. What the walk put for inodes before anybody knew what becomes of them is taken out here: the
    /// last put counts, so the row of a source inode that was met again at another place stays with that place.
    pub(super) fn into_edits(self) -> Result<impl Iterator<Item = Result<(Vec<u8>, Edit)>>> {
        let Self { edits, unreadable, replaced, .. } = self;
        let all_real = unreadable.is_empty() && replaced.is_empty();
        let is_void = move |key: &[u8], value: &[u8]| {
            let is = |kind: KeyKind| key.get(8) == Some(&(kind as u8));
            if is(KeyKind::Dirent) {
                Dirent::decode(value).is_ok_and(|dirent| unreadable.contains(&dirent.ino))
            } else if is(KeyKind::SourceIno) {
                let ino = value.try_into().map(u64::from_le_bytes);
                ino.is_ok_and(|ino| unreadable.contains(&ino) || replaced.contains(&ino))
            } else {
                false
            }
        };
        let real = move |(key, edit): (Vec<u8>, Edit)| match &edit {
            Edit::Put(value) if !all_real && is_void(&key, value) => (key, Edit::Delete),
            _ => (key, edit),
        };
        Ok(edits.finish()?.map(move |edit| edit.map(&real)))
    }
}

/// What can be done only when everything was seen.
struct Finish<'a> {
    old: Option<OldTree<'a>>,
    walked: WalkEnd,
    dead: Seen,
}

impl Finish<'_> {
    fn finish(mut self, end: RunEnd) -> Result<Scanned> {
        let RunEnd { edits: mut set, report, shared_inodes, left_out, replaced } = end;
        let mut edits = Edits::new();
        let unreadable = left_out.iter().map(|file| file.ino).collect();
        for file in left_out {
            self.leave_out(file, &mut edits);
        }
        if let Some(old) = self.old {
            for (ino, inode) in &replaced {
                inode.iter().try_for_each(|inode| self.forget_source(&old, *ino, inode, &mut edits))?;
            }
        }
        self.count_names(&shared_inodes, &mut edits)?;
        self.remove_dead(&mut edits, &mut set)?;
        push_all(&mut set, &mut edits)?;
        let mut counts = self.walked.counts;
        counts.errors = report.errors;
        Ok(Scanned {
            edits: set,
            unreadable,
            replaced: replaced.into_iter().map(|(ino, _)| ino).collect(),
            next_ino: self.walked.next_ino,
            file_systems: self.walked.file_systems.into_texts(),
            counts,
            report,
        })
    }

    fn leave_out(&mut self, file: LeftOut, edits: &mut Edits) {
        edits.push((Key::Dirent(file.dir_ino, &file.name).encode(), Edit::Delete));
        self.walked.counts.files -= 1;
        self.walked.counts.bytes -= file.stat.size;
        if file.old.is_some() {
            self.walked.seen.remove(file.ino);
            self.walked.lost.push(file.ino);
        }
    }

    /// Inodes with several names, now that the names are counted.
    fn count_names(&self, shared_inodes: &HashMap<u64, Inode>, edits: &mut Edits) -> Result<()> {
        for link in self.walked.links.all().filter(|link| link.old_nlink != Some(link.names)) {
            if let Some(inode) = self.inode_of(link, shared_inodes)? {
                let inode = Inode { nlink: link.names, ..inode };
                edits.push((Key::Inode(link.ino).encode(), Edit::Put(inode.encode())));
            }
        }
        Ok(())
    }

    fn inode_of(&self, link: &Link, shared_inodes: &HashMap<u64, Inode>) -> Result<Option<Inode>> {
        match (&self.old, link.old_nlink) {
            (Some(old), Some(_)) => old.inode(link.ino),
            _ => Ok(shared_inodes.get(&link.ino).copied()),
        }
    }

    /// Old inodes that have no name any more go with all their entries, directories with what is in them
    /// and was not found elsewhere.
    fn remove_dead(&mut self, edits: &mut Edits, set: &mut EditSet) -> Result<()> {
        let Some(old) = self.old else { return Ok(()) };
        while let Some(ino) = self.walked.lost.pop() {
            if self.walked.seen.contains(ino) || !self.dead.insert(ino) {
                continue;
            }
            for entry in old.all_rows(ino) {
                let entry = entry?;
                match Key::decode(entry.key())? {
                    Key::Dirent(..) => self.walked.lost.push(Dirent::decode(entry.value())?.ino),
                    Key::Inode(_) => self.forget_source(&old, ino, &Inode::decode(entry.value())?, edits)?,
                    _ => {}
                }
                edits.push((entry.key().to_vec(), Edit::Delete));
            }
            push_all(set, edits)?;
        }
        Ok(())
    }

    /// The entry by which an inode was known that is dead or another one now, unless it is another inode's by now.
    fn forget_source(&self, old: &OldTree<'_>, ino: u64, inode: &Inode, edits: &mut Edits) -> Result<()> {
        let Some(source) = inode.source else { return Ok(()) };
        if self.walked.reclaimed.contains(&(source.fs, source.ino)) {
            return Ok(());
        }
        let key = Key::SourceIno(source.fs, source.ino).encode();
        if old.finger().get(&key)?.is_some_and(|entry| entry.value() == ino.to_le_bytes()) {
            edits.push((key, Edit::Delete));
        }
        Ok(())
    }
}

fn push_all(set: &mut EditSet, edits: &mut Edits) -> Result<()> {
    edits.drain(..).try_for_each(|(key, edit)| set.push(key, edit))
}
