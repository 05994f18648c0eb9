//! The walk: every directory in order of names, compared with the parent point's as it goes.
//!
//! One thread walks, so that numbers are allotted in one order: the entries of a directory get
//! neighbouring numbers before the walk goes down. What it finds becomes edits, except for regular files
//! with new content, which go to the workers.

use super::file::{FileJob, as_read, inode_of, merge_xattrs};
use super::file_systems::{FileSystems, device_of};
use super::links::{Link, Links, OtherName};
use super::listing::{Ahead, Listing, OpenDirs, Slot};
use super::old::{Edits, Finger, RowMerge};
use super::report::{News, Severity};
use super::roots::Roots;
use super::run::Run;
use super::seen::Seen;
use super::small::{BATCH_BYTES, BATCH_FILES, SMALL_FILE_BYTES};
use super::source::{Attributes, SourceDir, Stat};
use super::workers::{Files, Queues};
use crate::catalog::tree::{self, Edit, Entry};
use crate::os::Dir;
use crate::{Error, ErrorKind, Result};
use repo_format::{Counts, Dirent, Extent, FileKind, Inode, Key, KeyKind, MAX_NAME_BYTES, ROOT_INO, SourceIdentity};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Edits the walker gathers before it takes the lock of the batch.
const EDITS: usize = 1024;
/// Entries between two looks at the stop flag.
const CHECK_EVERY: usize = 256;

/// What the walk is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Not to go down into other file systems than those of the roots.
    pub(super) one_file_system: bool,
    /// To read all content.
    pub(super) force: bool,
    /// A directory not to go down into: the repository itself, as (device, inode).
    pub(super) not_into: Option<((u32, u32), u64)>,
}

/// What the walk knows at its end.
pub(super) struct WalkEnd {
    pub(super) next_ino: u64,
    pub(super) file_systems: FileSystems,
    pub(super) links: Links,
    /// Old inodes that are still there.
    pub(super) seen: Seen,
    /// Old inodes that lost a name.
    pub(super) lost: Vec<u64>,
    /// Source inodes with an old entry that now stands for another inode.
    pub(super) reclaimed: HashSet<(u32, u64)>,
    pub(super) counts: Counts,
}

/// The walking thread.
pub(super) struct Walker<'w, 'a> {
    run: &'w Run<'a>,
    ahead: &'w Ahead<'w>,
    queues: Queues<'a>,
    rules: Rules,
    old_inodes: Option<Finger<'a>>,
    old_sources: Option<Finger<'a>>,
    end: WalkEnd,
    edits: Edits,
    batch: Batch,
    stack: Vec<Pending>,
    parents: OpenParents,
    open_dirs: OpenDirs,
    /// File systems of the kernel's state of which it was said that their files are empty here.
    told_kernel: HashSet<u32>,
}

/// Small files on their way to a worker.
#[derive(Default)]
struct Batch {
    jobs: Vec<FileJob>,
    bytes: u64,
    dirs: usize,
}

/// A directory to come.
struct Pending {
    slot: Arc<Slot>,
    item: DirItem,
}

/// A directory of the walk.
struct DirItem {
    ino: u64,
    stat: Stat,
    source: SourceIdentity,
    /// Its attributes in the old tree.
    old: Option<Box<Inode>>,
    take: Take,
    /// Whether its file system shows the kernel's state.
    kernel: bool,
}

/// What to take of a directory.
#[derive(Clone)]
enum Take {
    /// Everything, but with a device given no directories of other devices.
    All(Option<(u32, u32)>),
    /// The way to the roots below.
    Only(Roots),
}

/// An entry being looked at.
struct Found<'f> {
    parent: &'f Arc<SourceDir>,
    dir: &'f DirItem,
    name: &'f [u8],
    stat: Stat,
    fs: u32,
    /// What the old tree has under this name.
    old_name: Option<Dirent>,
}

impl Found<'_> {
    fn source(&self) -> SourceIdentity {
        SourceIdentity { fs: self.fs, ino: self.stat.ino, generation: 0 }
    }

    fn other_name(&self) -> OtherName {
        OtherName { dir: Arc::clone(&self.parent.path), name: self.name.into() }
    }

    /// A file that shows the kernel's state, and says that it is empty. Most are not; but what reading them does, from
    /// waiting for ever to taking messages away from others, nobody knows. Other programs go by the size as well.
    fn is_kernel_view(&self) -> bool {
        self.dir.kernel && self.stat.kind == FileKind::File && self.stat.size == 0
    }

    fn is_shared(&self) -> bool {
        self.stat.kind != FileKind::Dir && self.stat.nlink > 1
    }
}

impl<'w, 'a> Walker<'w, 'a> {
    pub(super) fn new(
        run: &'w Run<'a>,
        ahead: &'w Ahead<'w>,
        queues: Queues<'a>,
        rules: Rules,
        open_dirs: OpenDirs,
        file_systems: FileSystems,
        next_ino: u64,
    ) -> Self {
        let end = WalkEnd {
            next_ino: next_ino.max(ROOT_INO + 1),
            file_systems,
            links: Links::default(),
            seen: Seen::default(),
            lost: Vec::new(),
            reclaimed: HashSet::new(),
            counts: Counts::default(),
        };
        Self {
            run,
            ahead,
            queues,
            rules,
            old_inodes: run.old.map(|old| old.finger()),
            old_sources: run.old.map(|old| old.finger()),
            end,
            edits: Edits::new(),
            batch: Batch::default(),
            stack: Vec::new(),
            parents: OpenParents::default(),
            open_dirs,
            told_kernel: HashSet::new(),
        }
    }

    /// Walks everything. The workers' queues end with it.
    pub(super) fn walk(mut self, roots: Roots) -> Result<WalkEnd> {
        self.top(roots)?;
        while let Some(Pending { slot, item }) = self.stack.pop() {
            self.parents.popped(self.stack.len());
            let listing = self.ahead.take(&slot);
            self.directory(item, &slot.path(), listing, Some(&slot))?;
        }
        self.send_batch()?;
        self.run.push(&mut self.edits)?;
        Ok(self.end)
    }

    fn top(&mut self, roots: Roots) -> Result<()> {
        let failed = |error| Error::io("reading the root directory", error);
        let dir = Dir::open_root(Path::new("/")).map_err(failed)?;
        let stat = Stat::try_from(dir.stat_self().map_err(failed)?).map_err(failed)?;
        let fs = self.end.file_systems.number(&stat, b"/");
        let old = self.old_inode(ROOT_INO)?.filter(|old| old.kind() == FileKind::Dir);
        self.end.seen.insert(ROOT_INO);
        let take = self.take_of(roots, &stat);
        let names = take.names();
        let source = SourceIdentity { fs, ino: stat.ino, generation: 0 };
        let kernel = self.end.file_systems.holds_no_files(&stat);
        let item = DirItem { ino: ROOT_INO, stat, source, old: old.map(Box::new), take, kernel };
        let listing = self.ahead.list_top(dir, names.as_deref());
        self.directory(item, b"/", listing, None)
    }

    fn take_of(&self, roots: Roots, stat: &Stat) -> Take {
        if roots.whole { Take::All(self.rules.one_file_system.then_some(stat.dev)) } else { Take::Only(roots) }
    }

    fn directory(
        &mut self,
        item: DirItem,
        path: &[u8],
        listing: io::Result<Listing>,
        slot: Option<&Slot>,
    ) -> Result<()> {
        self.run.monitor.on_dir(path);
        self.end.counts.dirs += 1;
        let mut old_names = OldNames::new(self.run, &item)?;
        let mut subdirs = Vec::new();
        let mut source = None;
        match listing {
            Ok(mut listing) => {
                self.entries(&item, &mut listing, &mut old_names, &mut subdirs)?;
                source = Some(listing.dir);
            }
            Err(error) => self.report(path.to_vec(), &error, "it cannot be listed; its content is left out"),
        }
        old_names.lose_all(&mut self.end.lost, &mut self.edits)?;
        let attributes = || match (&source, slot) {
            (Some(dir), _) => Attributes::of_file(dir.dir.as_file()),
            (None, Some(slot)) => slot.attributes(self.ahead.stand_in()),
            (None, None) => (Attributes::default(), None),
        };
        self.finish_dir(item, path, subdirs.len(), attributes)?;
        self.go_down(subdirs);
        if self.edits.len() >= EDITS { self.run.push(&mut self.edits) } else { Ok(()) }
    }

    fn entries(
        &mut self,
        item: &DirItem,
        listing: &mut Listing,
        old_names: &mut OldNames<'_>,
        subdirs: &mut Vec<Pending>,
    ) -> Result<()> {
        let parent = Arc::clone(&listing.dir);
        for index in 0..listing.entries.len() {
            if index % CHECK_EVERY == 0 {
                self.run.check()?;
            }
            let stat = listing.stat(index);
            let Some(entry) = listing.entries.get(index) else { break };
            let name = &entry.name[..];
            let old_name = old_names.find(name, &mut self.end.lost, &mut self.edits)?;
            match stat {
                Ok(stat) if name.len() <= MAX_NAME_BYTES => {
                    let fs = self.file_system(item, &stat, &parent, name);
                    let found = Found { parent: &parent, dir: item, name, stat, fs, old_name };
                    subdirs.extend(self.entry(&found)?);
                }
                Ok(_) => {
                    let error = io::Error::from_raw_os_error(libc::ENAMETOOLONG);
                    self.report(parent.path_of(name), &error, "it is left out");
                }
                Err(error) => {
                    self.report(parent.path_of(name), &error, "it is left out");
                    self.lose_name(item.ino, name, old_name);
                }
            }
        }
        Ok(())
    }

    fn report(&self, path: Vec<u8>, error: &io::Error, meaning: &str) {
        match error.raw_os_error() {
            Some(libc::ENOENT) => self.run.find(path, Severity::Note, "it went away during the backup"),
            _ => self.run.find(path, Severity::Error, format!("{meaning}: {error}")),
        }
    }

    fn file_system(&mut self, dir: &DirItem, stat: &Stat, parent: &SourceDir, name: &[u8]) -> u32 {
        if device_of(stat) == device_of(&dir.stat) {
            return dir.source.fs;
        }
        self.end.file_systems.number(stat, &parent.path_of(name))
    }

    /// One entry; a directory is returned, to be gone into later.
    fn entry(&mut self, found: &Found<'_>) -> Result<Option<Pending>> {
        let too_large = found.stat.kind == FileKind::File && self.ahead.excludes().excluded_by_size(found.stat.size);
        if too_large || self.is_other_mount(found) {
            self.lose_name(found.dir.ino, found.name, found.old_name);
            return Ok(None);
        }
        if found.is_shared()
            && let Some(link) = self.end.links.another_name(found.source(), found.stat.kind, || found.other_name())
        {
            self.put_name(found, link.ino, link.is_read);
            return Ok(None);
        }
        let known = self.known(found)?;
        let ino = known.as_ref().map_or(self.end.next_ino, |(ino, _)| *ino);
        let old = known.map(|(_, inode)| inode);
        if found.stat.kind != FileKind::Dir && !self.take_file(found, ino, old)? {
            self.end.seen.remove(ino);
            self.lose_name(found.dir.ino, found.name, found.old_name);
            return Ok(None);
        }
        if old.is_none() {
            self.end.next_ino += 1;
            let key = Key::SourceIno(found.fs, found.stat.ino).encode();
            self.edits.push((key, Edit::Put(ino.to_le_bytes().to_vec())));
        }
        self.put_name(found, ino, false);
        Ok((found.stat.kind == FileKind::Dir).then(|| self.pending(found, ino, old)))
    }

    /// A file that is mounted from elsewhere, where that is not wanted.
    fn is_other_mount(&self, found: &Found<'_>) -> bool {
        let Take::All(Some(device)) = found.dir.take else { return false };
        found.stat.kind != FileKind::Dir && found.stat.dev != device && found.stat.mount != found.dir.stat.mount
    }

    /// The old inode that an entry is, if it is one: found by its name, or by its number in the source.
    fn known(&mut self, found: &Found<'_>) -> Result<Option<(u64, Inode)>> {
        let is = |old: &Inode| {
            let same_birth = old.btime.is_none() || found.stat.btime.is_none() || old.btime == found.stat.btime;
            old.source.is_some_and(|source| source.is_same_inode(&found.source()))
                && old.kind() == found.stat.kind
                && same_birth
        };
        if let Some(name) = found.old_name
            && let Some(old) = self.old_inode(name.ino)?
            && is(&old)
            && self.end.seen.insert(name.ino)
        {
            return Ok(Some((name.ino, old)));
        }
        let Some(ino) = self.old_source(found.fs, found.stat.ino)? else { return Ok(None) };
        // An inode seen already is one that moved while the walk was under way: its second place gets a number of its own.
        match self.old_inode(ino)?.filter(is) {
            Some(old) if self.end.seen.insert(ino) => Ok(Some((ino, old))),
            _ => {
                self.end.reclaimed.insert((found.fs, found.stat.ino));
                Ok(None)
            }
        }
    }

    fn old_inode(&mut self, ino: u64) -> Result<Option<Inode>> {
        let Some(finger) = &mut self.old_inodes else { return Ok(None) };
        let entry = finger.get(&Key::Inode(ino).encode())?;
        Ok(entry.map(|entry| Inode::decode(entry.value())).transpose()?)
    }

    fn old_source(&mut self, fs: u32, ino: u64) -> Result<Option<u64>> {
        let Some(finger) = &mut self.old_sources else { return Ok(None) };
        let entry = finger.get(&Key::SourceIno(fs, ino).encode())?;
        let number = |entry: Entry| entry.value().try_into().map(u64::from_le_bytes);
        entry.map(number).transpose().map_err(|_| Error::damaged("a source inode entry is not a number"))
    }

    /// The name's entry, if it is not there yet; `always` if it may have to go again.
    fn put_name(&mut self, found: &Found<'_>, ino: u64, always: bool) {
        let dirent = Dirent { ino, kind: found.stat.kind };
        let same = found.old_name == Some(dirent);
        if !same || always {
            let key = Key::Dirent(found.dir.ino, found.name).encode();
            self.edits.push((key, Edit::Put(dirent.encode())));
        }
        if !same {
            self.end.lost.extend(found.old_name.map(|old| old.ino));
        }
    }

    /// An old name that is not in the new tree.
    fn lose_name(&mut self, dir: u64, name: &[u8], old_name: Option<Dirent>) {
        if let Some(old) = old_name {
            self.end.lost.push(old.ino);
            self.edits.push((Key::Dirent(dir, name).encode(), Edit::Delete));
        }
    }

    /// The first name of anything but a directory; false if it is left out.
    fn take_file(&mut self, found: &Found<'_>, ino: u64, old: Option<Inode>) -> Result<bool> {
        let unchanged = old.filter(|old| is_unchanged(&found.stat, old));
        let content_bytes = if found.stat.kind == FileKind::File { found.stat.size } else { 0 };
        if found.dir.kernel && found.stat.kind == FileKind::File && !self.take_kernel_file(found) {
            return Ok(false);
        }
        let must_read = unchanged.is_none() || self.rules.force || self.is_lost(found, ino)?;
        let is_other = found.stat.kind != FileKind::File || found.is_kernel_view();
        if must_read && is_other && !self.read_other(found, ino, old)? {
            return Ok(false);
        }
        self.run.monitor.on_file(
            content_bytes,
            match old {
                None => News::New,
                Some(_) if must_read => News::Changed,
                Some(_) => News::Unchanged,
            },
        );
        self.end.counts.files += 1;
        // Three files of holes can be larger than all numbers.
        self.end.counts.bytes = self.end.counts.bytes.saturating_add(content_bytes);
        if found.is_shared() {
            let old_nlink = unchanged.filter(|_| !must_read).map(|old| old.nlink);
            let link = Link { ino, kind: found.stat.kind, names: 1, old_nlink };
            self.end.links.add(found.source(), link);
        }
        match unchanged {
            Some(old) if !must_read && !found.is_shared() => {
                self.put_inode(ino, Some(&old), &Inode { nlink: 1, ..old })
            }
            Some(_) if !must_read => {}
            _ if !is_other => {
                if found.is_shared() {
                    self.put_name(found, ino, true);
                }
                self.send_file(found, ino, old)?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Whether content of an unchanged file is known to be lost in the repository: then it is read and stored again.
    fn is_lost(&self, found: &Found<'_>, ino: u64) -> Result<bool> {
        let Some(old) = self.run.old.filter(|_| found.stat.kind == FileKind::File && self.run.sink.knows_damage())
        else {
            return Ok(false);
        };
        let chunk = |entry: Result<Entry>| Ok(Extent::decode(entry?.value())?.chunk);
        let chunks = old.rows(ino, KeyKind::Extent).map(chunk).collect::<Result<Vec<_>>>()?;
        self.run.sink.lacks(&chunks)
    }

    /// Whether a file of the kernel's state is to be taken, and the word that most are taken without content.
    fn take_kernel_file(&mut self, found: &Found<'_>) -> bool {
        if found.stat.size > SMALL_FILE_BYTES {
            let what = format!("it shows the kernel's state and claims {} bytes; it is left out", found.stat.size);
            self.run.find(found.parent.path_of(found.name), Severity::Error, what);
            return false;
        }
        if found.stat.size == 0 && self.told_kernel.insert(found.fs) {
            let what = "it shows the kernel's state, not files: those that give no size, here and below, are kept without content";
            self.run.find(found.parent.path.to_vec(), Severity::Error, what);
        }
        true
    }

    /// Symbolic links, pipes, sockets and device nodes; false if it is left out.
    fn read_other(&mut self, found: &Found<'_>, ino: u64, old: Option<Inode>) -> Result<bool> {
        let path = || found.parent.path_of(found.name);
        let (attributes, error) = match found.is_kernel_view() {
            true => (Attributes::default(), None),
            false => Attributes::of_entry(&found.parent.dir, found.name),
        };
        if found.stat.kind == FileKind::Symlink {
            match found.parent.dir.read_link(found.name) {
                Ok(target) => {
                    let mut rows = RowMerge::new(
                        self.run.old.filter(|_| old.is_some()).map(|tree| tree.rows(ino, KeyKind::Target)),
                    )?;
                    rows.put(Key::Target(ino).encode(), target, &mut self.edits)?;
                    rows.finish(&mut self.edits)?;
                }
                Err(error) => {
                    self.report(path(), &error, "it cannot be read and is left out");
                    return Ok(false);
                }
            }
        }
        if let Some(error) = error {
            self.report(path(), &error, "its extended attributes cannot be read");
        }
        merge_xattrs(self.run, ino, old.is_some(), &attributes, &mut self.edits)?;
        let source = as_read(found.source(), attributes.in_part);
        let inode = inode_of(&found.stat, 1, attributes.flags, Some(source));
        if found.is_shared() {
            self.run.keep_shared(ino, inode);
        } else {
            self.put_inode(ino, old.as_ref(), &inode);
        }
        Ok(true)
    }

    fn put_inode(&mut self, ino: u64, old: Option<&Inode>, inode: &Inode) {
        if old != Some(inode) {
            self.edits.push((Key::Inode(ino).encode(), Edit::Put(inode.encode())));
        }
    }

    fn send_file(&mut self, found: &Found<'_>, ino: u64, old: Option<Inode>) -> Result<()> {
        let job = FileJob {
            dir: Arc::clone(found.parent),
            name: found.name.to_vec(),
            ino,
            dir_ino: found.dir.ino,
            stat: found.stat,
            source: found.source(),
            old: old.map(Box::new),
            many_names: found.is_shared(),
            kernel: found.dir.kernel,
        };
        if found.stat.size > SMALL_FILE_BYTES {
            let blocks = self.queues.blocks.clone();
            return self.send(Files::Large(job, blocks));
        }
        if self.batch.bytes + found.stat.size > BATCH_BYTES {
            // A batch that is a segment, rather than one and a bit.
            self.send_batch()?;
        }
        if self.batch.add(job, self.open_dirs.batch) { self.send_batch() } else { Ok(()) }
    }

    fn send_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.jobs.is_empty() { Ok(()) } else { self.send(Files::Small(batch.jobs)) }
    }

    fn send(&self, files: Files<'a>) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Io, "the threads that read files have ended");
        self.queues.files.send(files).map_err(gone)
    }

    fn pending(&mut self, found: &Found<'_>, ino: u64, old: Option<Inode>) -> Pending {
        let take = self.take_below(found);
        let slot = Arc::new(Slot::new(found.parent, found.name, take.names()));
        let same_mount = found.stat.mount == found.dir.stat.mount;
        let kernel = if same_mount { found.dir.kernel } else { self.end.file_systems.holds_no_files(&found.stat) };
        let item = DirItem { ino, stat: found.stat, source: found.source(), old: old.map(Box::new), take, kernel };
        Pending { slot, item }
    }

    /// What to take of a directory found in another.
    fn take_below(&self, found: &Found<'_>) -> Take {
        let nothing = || Take::Only(Roots::default());
        match &found.dir.take {
            Take::Only(roots) => {
                let below = roots.children.get(found.name).cloned().unwrap_or_default();
                self.take_of(below, &found.stat)
            }
            Take::All(Some(device)) if *device != found.stat.dev => nothing(),
            Take::All(_) if self.rules.not_into == Some((found.stat.dev, found.stat.ino)) => {
                let what = "it is the repository itself; its content is left out";
                self.run.find(found.parent.path_of(found.name), Severity::Note, what);
                nothing()
            }
            Take::All(_)
                if found.stat.mount != found.dir.stat.mount && self.end.file_systems.holds_no_files(&found.stat) =>
            {
                let what = "it shows the kernel's state, not files; its content is left out";
                self.run.find(found.parent.path_of(found.name), Severity::Note, what);
                nothing()
            }
            Take::All(device) => Take::All(*device),
        }
    }

    /// A directory's own entries, once its subdirectories are counted.
    fn finish_dir(
        &mut self,
        item: DirItem,
        path: &[u8],
        subdirs: usize,
        attributes: impl Fn() -> (Attributes, Option<io::Error>),
    ) -> Result<()> {
        let nlink = u32::try_from(subdirs + 2).unwrap_or(u32::MAX);
        if let Some(old) = item.old.as_deref().filter(|old| is_unchanged(&item.stat, old) && !self.rules.force) {
            self.put_inode(item.ino, Some(old), &Inode { nlink, source: Some(item.source), ..*old });
            return Ok(());
        }
        let (attributes, error) = attributes();
        if let Some(error) = error {
            self.report(path.to_vec(), &error, "its attributes cannot be read");
        }
        merge_xattrs(self.run, item.ino, item.old.is_some(), &attributes, &mut self.edits)?;
        let source = as_read(item.source, attributes.in_part);
        let inode = inode_of(&item.stat, nlink, attributes.flags, Some(source));
        self.put_inode(item.ino, item.old.as_deref(), &inode);
        Ok(())
    }

    /// Puts directories on the stack, the first on top, and wakes somebody to list them.
    fn go_down(&mut self, subdirs: Vec<Pending>) {
        if subdirs.is_empty() {
            return;
        }
        self.ahead.push(subdirs.iter().rev().map(|pending| Arc::clone(&pending.slot)));
        self.parents.pushed(self.stack.len());
        self.stack.extend(subdirs.into_iter().rev());
        for place in self.parents.closing(self.open_dirs.parents) {
            if let Some(pending) = self.stack.get(place) {
                pending.slot.close();
            }
        }
        // With no room for another wake-up, everyone is awake.
        let _ = self.queues.wake.try_send(());
    }
}

/// The walker's stack in groups of one parent. Each group keeps its parent open, so of a tree that is deep and wide the
/// ones that come last are closed.
#[derive(Default)]
struct OpenParents {
    /// Where in the stack each group begins.
    groups: Vec<usize>,
    /// Groups at the bottom that are closed.
    closed: usize,
}

impl OpenParents {
    /// A group begins at `start`.
    fn pushed(&mut self, start: usize) {
        self.groups.push(start);
    }

    /// The stack is `len` high.
    fn popped(&mut self, len: usize) {
        while self.groups.pop_if(|start| *start >= len).is_some() {}
        self.closed = self.closed.min(self.groups.len());
    }

    /// Places of the stack that must be closed, so that no more than `max` groups are open.
    fn closing(&mut self, max: usize) -> Range<usize> {
        if self.groups.len() - self.closed <= max {
            return 0..0;
        }
        let at = self.closed;
        self.closed += 1;
        let bound = |at: usize| self.groups.get(at).copied().unwrap_or_default();
        bound(at)..bound(at + 1)
    }
}

impl Take {
    /// The names to look at, if not all.
    fn names(&self) -> Option<Vec<Vec<u8>>> {
        match self {
            Self::All(_) => None,
            Self::Only(roots) => Some(roots.children.keys().cloned().collect()),
        }
    }
}

impl Batch {
    /// Adds a file; true if the batch is full.
    fn add(&mut self, job: FileJob, max_dirs: usize) -> bool {
        let same_dir = self.jobs.last().is_some_and(|last| Arc::ptr_eq(&last.dir, &job.dir));
        self.dirs += usize::from(!same_dir);
        self.bytes = self.bytes.saturating_add(job.stat.size);
        self.jobs.push(job);
        self.bytes >= BATCH_BYTES || self.jobs.len() >= BATCH_FILES || self.dirs >= max_dirs
    }
}

/// Whether nothing about an item can have changed since it was read, and all of it was.
fn is_unchanged(stat: &Stat, old: &Inode) -> bool {
    let in_part = old.source.is_some_and(|source| source.generation == SourceIdentity::READ_IN_PART);
    !in_part
        && (stat.size, stat.mtime, stat.ctime) == (old.size, old.mtime, old.ctime)
        && (stat.mode, stat.uid, stat.gid, stat.rdev) == (old.mode, old.uid, old.gid, old.rdev)
}

/// The old tree's names of one directory, met in the order of the new ones.
struct OldNames<'a> {
    dir: u64,
    rows: Option<tree::Range<'a>>,
    ahead: Option<Entry>,
}

impl<'a> OldNames<'a> {
    fn new(run: &Run<'a>, item: &DirItem) -> Result<Self> {
        let old = run.old.filter(|_| item.old.is_some());
        let rows = old.map(|old| old.rows(item.ino, KeyKind::Dirent));
        let mut names = Self { dir: item.ino, rows, ahead: None };
        names.advance()?;
        Ok(names)
    }

    fn advance(&mut self) -> Result<()> {
        self.ahead = match &mut self.rows {
            Some(rows) => rows.next().transpose()?,
            None => None,
        };
        Ok(())
    }

    /// What the old tree has under `name`; old names before it are gone.
    fn find(&mut self, name: &[u8], lost: &mut Vec<u64>, edits: &mut Edits) -> Result<Option<Dirent>> {
        while let Some(entry) = &self.ahead {
            match entry_name(entry).cmp(name) {
                std::cmp::Ordering::Less => self.lose(lost, edits)?,
                std::cmp::Ordering::Equal => {
                    let dirent = Dirent::decode(entry.value())?;
                    self.advance()?;
                    return Ok(Some(dirent));
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn lose_all(&mut self, lost: &mut Vec<u64>, edits: &mut Edits) -> Result<()> {
        while self.ahead.is_some() {
            self.lose(lost, edits)?;
        }
        Ok(())
    }

    fn lose(&mut self, lost: &mut Vec<u64>, edits: &mut Edits) -> Result<()> {
        if let Some(entry) = &self.ahead {
            lost.push(Dirent::decode(entry.value())?.ino);
            edits.push((Key::Dirent(self.dir, entry_name(entry)).encode(), Edit::Delete));
        }
        self.advance()
    }
}

/// The name in the key of a directory entry.
fn entry_name(entry: &Entry) -> &[u8] {
    entry.key().get(9..).unwrap_or_default()
}
