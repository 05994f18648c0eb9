//! The planner: walks the wanted part of a restore point's tree, makes directories, and feeds the window.

use super::dir::{DirNode, MOST_DEPTH};
use super::file::{self, LargeFile};
use super::lookup::{Head, InoSet, Name, TreeReader};
use super::report::Progress;
use super::select::{Selection, Wanted};
use super::shared::{Shared, Unwritten};
use super::special::{LinkJob, Named, link};
use super::window::{Job, NodeJob, PartJob, Piece, Window};
use super::{Mode, dry, meta};
use crate::catalog::points::printable;
use crate::catalog::tree::Range;
use crate::error::{Error, Result};
use repo_format::{Dirent, FileKind};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Extents of one job: a file with more is restored in parts.
const PART_PIECES: usize = 64;
/// Second names of hard links kept until all that was handed out is done.
const MOST_LINKS: usize = 64 * 1024;

pub(super) struct Planner<'s, 'w> {
    shared: &'s Shared<'s>,
    tree: TreeReader<'s>,
    cursor: Range<'s>,
    selection: &'w Selection,
    window: Window<'s, 'w>,
    /// First names of inodes that have more names to come.
    firsts: HashMap<u64, First<'s>>,
    links: Vec<LinkJob<'s>>,
    /// Inodes whose flags must wait until they have all their names.
    flagged: Vec<(Named<'s>, Head)>,
    /// Names that became the first of their inodes because those before could not.
    instead: HashMap<u64, Named<'s>>,
    seen: InoSet,
}

struct First<'s> {
    dir: Arc<DirNode<'s>>,
    name: Arc<[u8]>,
    names_left: u32,
}

/// A directory that is known and not yet listed.
struct Pending<'s> {
    above: Arc<DirNode<'s>>,
    name: Box<[u8]>,
    ino: u64,
    wanted: Wanted,
}

impl<'s, 'w> Planner<'s, 'w> {
    pub fn new(shared: &'s Shared<'s>, selection: &'w Selection, window: Window<'s, 'w>) -> Self {
        let tree = shared.tree();
        let cursor = tree.cursor();
        let (firsts, links, flagged, seen) = (HashMap::new(), Vec::new(), Vec::new(), InoSet::default());
        let instead = HashMap::new();
        Self { shared, tree, cursor, selection, window, firsts, links, flagged, instead, seen }
    }

    /// Restores everything below `root`, which is made already.
    pub fn run(mut self, root: Arc<DirNode<'s>>) {
        let wanted = if self.selection.is_all() { Wanted::Yes } else { Wanted::OnTheWay };
        let mut pending = Vec::new();
        self.seen.insert(root.ino);
        self.list(&root, wanted, &mut pending);
        drop(root);
        while let Some(next) = pending.pop() {
            if self.shared.stopping() {
                break;
            }
            self.enter(next, &mut pending);
        }
        drop(pending);
        self.end();
    }

    /// Restores one thing that is not a directory as `name` in `dir`.
    pub fn run_one(mut self, dir: &Arc<DirNode<'s>>, name: Box<[u8]>, entry: Dirent) {
        self.other(dir, Name { name, entry });
        self.end();
    }

    fn end(&mut self) {
        self.window.drain();
        self.do_links();
        if self.shared.mode == Mode::Restore {
            self.do_flags();
        }
    }

    fn enter(&mut self, next: Pending<'s>, pending: &mut Vec<Pending<'s>>) {
        let Pending { above, name, ino, wanted } = next;
        let refuse = |what: &str| self.shared.found(above.path_of(&name), what.to_owned());
        if above.depth >= MOST_DEPTH {
            return refuse("the directory is too deep to be restored");
        }
        if above.is_within(ino) || !self.seen.insert(ino) {
            return refuse(
                "the restore point is damaged: this directory stands in more than one place; it was restored once",
            );
        }
        let head = match self.tree.head(&mut self.cursor, ino) {
            Ok(head) if head.inode.kind() == FileKind::Dir => head,
            Ok(_) => return refuse("the restore point is damaged: it is listed as a directory but is none"),
            Err(error) => return refuse(&format!("the directory is lost with all that is in it: {error}")),
        };
        let node = DirNode::below(&above, name, head);
        drop(above);
        if wanted == Wanted::Yes && !self.make(&node) {
            return;
        }
        self.list(&node, wanted, pending);
    }

    fn make(&self, node: &Arc<DirNode<'s>>) -> bool {
        let known = node.state().is_some();
        let made = node.make();
        Progress::add(&self.shared.progress.dirs, u64::from(made && !known));
        made
    }

    fn list(&mut self, node: &Arc<DirNode<'s>>, wanted: Wanted, pending: &mut Vec<Pending<'s>>) {
        self.shared.progress.at(node.path());
        let first_new = pending.len();
        for entry in self.tree.names(node.ino) {
            if self.shared.stopping() {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let what = format!("its list of names is damaged; what the rest of it named is lost: {error}");
                    self.shared.found(node.path(), what);
                    break;
                }
            };
            let is_dir = entry.entry.kind == FileKind::Dir;
            match self.ask(node, &entry.name, is_dir, wanted) {
                Wanted::No => {}
                answer if is_dir => {
                    let (name, ino) = (entry.name, entry.entry.ino);
                    pending.push(Pending { above: Arc::clone(node), name, ino, wanted: answer });
                }
                _ => self.other(node, entry),
            }
        }
        // The stack gives the last first; chunks lie in the order of names.
        if let Some(new) = pending.get_mut(first_new..) {
            new.reverse();
        }
    }

    fn ask(&self, node: &DirNode<'s>, name: &[u8], is_dir: bool, parent: Wanted) -> Wanted {
        if self.selection.is_all() {
            return Wanted::Yes;
        }
        let path = node.path_of(name);
        self.selection.ask(path.strip_prefix(b"/").unwrap_or(&path), is_dir, parent)
    }

    /// A name that is not a directory.
    fn other(&mut self, dir: &Arc<DirNode<'s>>, entry: Name) {
        // Names were validated when they were decoded; they are the one thing that could lead out of the target.
        if entry.name.is_empty() || entry.name.contains(&b'/') || *entry.name == *b".." || *entry.name == *b"." {
            return self.shared.found(dir.path(), format!("the name '{}' is no name", printable(&entry.name)));
        }
        if !self.make(dir) || self.further_name(dir, &entry) {
            return;
        }
        let path = || dir.path_of(&entry.name);
        match self.head_of(&entry) {
            Ok((head, target)) => {
                self.remember(dir, &entry, &head);
                let job = NodeJob { dir: Arc::clone(dir), name: entry.name, head, pieces: Vec::new(), target };
                self.emit(job);
            }
            Err(error) => self.shared.found(path(), format!("it is lost: {error}")),
        }
    }

    fn head_of(&mut self, entry: &Name) -> Result<(Head, Option<Box<[u8]>>)> {
        let head = self.tree.head(&mut self.cursor, entry.entry.ino)?;
        if head.inode.kind() != entry.entry.kind {
            return Err(Error::damaged("its directory says that it is of another type"));
        }
        let target = if entry.entry.kind == FileKind::Symlink { Some(self.tree.target(head.ino)?) } else { None };
        Ok((head, target))
    }

    /// Whether the inode has a name in the target already; then this one becomes a link.
    fn further_name(&mut self, dir: &Arc<DirNode<'s>>, entry: &Name) -> bool {
        let ino = entry.entry.ino;
        let Some(first) = self.firsts.get_mut(&ino) else { return false };
        let names = (Arc::clone(&first.dir), Arc::clone(&first.name));
        first.names_left = first.names_left.saturating_sub(1);
        if first.names_left == 0 {
            self.firsts.remove(&ino);
        }
        if self.shared.mode == Mode::Dry {
            Progress::add(&self.shared.progress.links, 1);
            Progress::add(&self.shared.progress.files, 1);
            return true;
        }
        self.links.push(LinkJob { first: names, dir: Arc::clone(dir), name: entry.clone() });
        if self.links.len() >= MOST_LINKS {
            self.window.drain();
            self.do_links();
        }
        true
    }

    fn remember(&mut self, dir: &Arc<DirNode<'s>>, entry: &Name, head: &Head) {
        if head.inode.nlink < 2 {
            return;
        }
        let name: Arc<[u8]> = entry.name.clone().into();
        if meta::has_settable_flags(&head.inode) {
            self.flagged.push(((Arc::clone(dir), Arc::clone(&name)), head.clone()));
        }
        let first = First { dir: Arc::clone(dir), name, names_left: head.inode.nlink - 1 };
        self.firsts.insert(head.ino, first);
    }

    fn do_links(&mut self) {
        for mut job in std::mem::take(&mut self.links) {
            if self.shared.stopping() {
                break;
            }
            let ino = job.name.entry.ino;
            if self.shared.unwritten(ino) == Some(Unwritten::Other) {
                self.first_anew(job);
                continue;
            }
            if let Some(other) = self.instead.get(&ino) {
                job.first = other.clone();
            }
            link(self.shared, &job);
        }
    }

    /// Restores a further name as if it were the first, since there is nothing that it could be linked to.
    fn first_anew(&mut self, job: LinkJob<'s>) {
        let LinkJob { dir, name, .. } = job;
        match self.head_of(&name) {
            Ok((head, target)) => {
                self.shared.begin_anew(head.ino);
                self.instead.insert(head.ino, (Arc::clone(&dir), name.name.clone().into()));
                self.emit(NodeJob { dir, name: name.name, head, pieces: Vec::new(), target });
                self.window.drain();
            }
            Err(error) => self.shared.found(dir.path_of(&name.name), format!("it is lost: {error}")),
        }
    }

    /// Inode flags that forbid changes, of files that have all their names now.
    fn do_flags(&mut self) {
        for ((dir, name), head) in self.flagged.drain(..) {
            let (dir, name) = self.instead.get(&head.ino).cloned().unwrap_or((dir, name));
            if self.shared.unwritten(head.ino).is_none() {
                meta::late_flags(self.shared, &dir, &name, &head);
            }
        }
    }

    fn emit(&mut self, mut job: NodeJob<'s>) {
        if self.shared.mode == Mode::Dry {
            return dry::count(self.shared, &job);
        }
        if job.inode().kind() != FileKind::File || job.inode().data_bytes == 0 {
            return self.window.push(Job::Node(job));
        }
        let size = job.inode().size;
        let mut rest = self.tree.extents(&mut self.cursor, job.head.ino, size);
        let (pieces, error) = take_pieces(&mut rest, PART_PIECES);
        drop(rest);
        if error.is_none() && pieces.len() < PART_PIECES {
            job.pieces = pieces;
            self.window.push(Job::Node(job));
        } else {
            self.large(job);
        }
    }

    /// A file of many extents, or of damaged ones: several workers share it, and its extents are read as
    /// they are needed.
    fn large(&mut self, job: NodeJob<'s>) {
        let (ino, size) = (job.head.ino, job.inode().size);
        let path = job.path();
        let shared = self.shared;
        let tree = self.tree;
        let mut right = |file: &File| compare_whole(shared, &tree, ino, size, file);
        let Some(file) = file::begin_large(shared, job, &mut right) else { return };
        shared.progress.at(path);
        self.parts(&file, ino, size);
        file::release(shared, file);
        if shared.open_files.load(Ordering::Relaxed) >= self.shared.most_large {
            self.window.drain();
        }
    }

    fn parts(&mut self, file: &Arc<LargeFile<'s>>, ino: u64, size: u64) {
        let mut cursor = self.tree.cursor();
        let mut rest = self.tree.extents(&mut cursor, ino, size);
        let mut start = 0;
        loop {
            let (pieces, error) = take_pieces(&mut rest, PART_PIECES);
            let last = pieces.len() < PART_PIECES;
            let known = pieces.last().map_or(start, |p| p.offset + u64::from(p.extent.len));
            if let Some(error) = error {
                let mut damage = super::content::Damage::default();
                damage.add(known, size - known, || error.to_string());
                file.add(damage, None);
                self.push_part(file, start, known, pieces);
                return;
            }
            let end = if last { size } else { known };
            self.push_part(file, start, end, pieces);
            start = end;
            if last || self.shared.stopping() {
                return;
            }
        }
    }

    fn push_part(&mut self, file: &Arc<LargeFile<'s>>, start: u64, end: u64, pieces: Vec<Piece>) {
        if start < end || !pieces.is_empty() {
            self.window.push(Job::Part(PartJob { file: Arc::clone(file), start, end, pieces }));
        }
    }
}

/// At most `most` pieces, and the error that ended them before.
fn take_pieces(
    rest: &mut dyn Iterator<Item = Result<(u64, repo_format::Extent)>>,
    most: usize,
) -> (Vec<Piece>, Option<Error>) {
    let mut pieces = Vec::new();
    while pieces.len() < most {
        match rest.next() {
            Some(Ok((offset, extent))) => pieces.push(Piece { offset, extent, at: None }),
            Some(Err(error)) => return (pieces, Some(error)),
            None => break,
        }
    }
    (pieces, None)
}

/// Compares a large file that is there already, piece by piece.
pub(super) fn compare_whole(
    shared: &Shared<'_>,
    tree: &TreeReader<'_>,
    ino: u64,
    size: u64,
    file: &File,
) -> io::Result<bool> {
    let mut segments = super::content::Segments::new(shared);
    let mut cursor = tree.cursor();
    let mut rest = tree.extents(&mut cursor, ino, size);
    let mut start = 0;
    loop {
        let (mut pieces, error) = take_pieces(&mut rest, PART_PIECES);
        for piece in &mut pieces {
            piece.at = shared.repo.locate(&piece.extent.chunk).map_err(io::Error::other)?;
        }
        let last = pieces.len() < PART_PIECES;
        let end = if last { size } else { pieces.last().map_or(size, |p| p.offset + u64::from(p.extent.len)) };
        let mut damage = super::content::Damage::default();
        segments.compare(file, start, end, &pieces, &mut damage)?;
        if error.is_some() || !damage.ranges.is_empty() {
            return Ok(false);
        }
        if last {
            return Ok(true);
        }
        start = end;
    }
}
