//! From differences between neighbouring points to what a path was before and after.
//!
//! A path may be told of more often than needed (a moved directory is told of with all below it), never less; telling
//! twice says the same. What a path is not told of is the same in both points.

use super::choose::State;
use super::names::{MOST_LEVELS, Names, PathHash, child_hash};
use super::{Member, stopped};
use crate::catalog::edits::EditSet;
use crate::catalog::history::Content;
use crate::catalog::history::paths::names;
use crate::catalog::tree::{Entry, ReadNodes, diff};
use crate::{Error, Result};
use repo_format::{ChunkId, Dirent, FileKind, Inode, Key, TREE_INO};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

/// Content of files above this is remembered from point to point, and only what changed of it is read.
const LARGE_BYTES: u64 = 64 << 20;

/// One thing that differs between two points.
pub(super) enum Seen<'a> {
    /// A name.
    Name { parent: u64, name: &'a [u8], old: Option<Dirent>, new: Option<Dirent> },
    /// Content of an inode that is in both.
    Content { ino: u64 },
}

/// Tells of every difference that concerns names or content.
pub(super) fn each_change(
    nodes: &dyn ReadNodes,
    old: &ChunkId,
    new: &ChunkId,
    stop: &AtomicBool,
    mut tell: impl FnMut(Seen<'_>) -> Result<()>,
) -> Result<()> {
    // The last inode that was told of, or that is in one point only: keys of an inode stand together, attributes first.
    let mut settled = TREE_INO;
    for (count, change) in diff(nodes, old, nodes, new).enumerate() {
        let change = change?;
        if count % 1024 == 0 {
            stopped(stop)?;
        }
        match Key::decode(change.key())? {
            Key::Dirent(parent, name) => {
                let entry = |side: &Option<Entry>| side.as_ref().map(|e| Dirent::decode(e.value())).transpose();
                let (old, new) = (entry(&change.old)?, entry(&change.new)?);
                tell(Seen::Name { parent, name, old, new })?;
            }
            Key::Inode(ino) => match (&change.old, &change.new) {
                (Some(old), Some(new)) => {
                    let (old, new) = (Inode::decode(old.value())?, Inode::decode(new.value())?);
                    let file = new.kind() == FileKind::File && old.size != new.size;
                    if file || old.rdev != new.rdev || old.kind() != new.kind() {
                        settled = ino;
                        tell(Seen::Content { ino })?;
                    }
                }
                _ => settled = ino,
            },
            Key::Extent(ino, _) | Key::Target(ino) if ino != settled => {
                settled = ino;
                tell(Seen::Content { ino })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Inodes of both points whose content differs.
pub(super) fn changed_in_place(
    nodes: &dyn ReadNodes,
    old: &ChunkId,
    new: &ChunkId,
    stop: &AtomicBool,
    mut tell: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    each_change(nodes, old, new, stop, |seen| match seen {
        Seen::Content { ino } => tell(ino),
        Seen::Name { .. } => Ok(()),
    })
}

/// Which of two neighbouring points.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// Collects what paths were, pair by pair.
pub(super) struct Changes<'a> {
    nodes: &'a dyn ReadNodes,
    members: &'a [Member],
    events: &'a mut EditSet,
    stop: &'a AtomicBool,
    /// Content of large files in the newer point of the pair.
    large: HashMap<u64, Content>,
}

/// A pair of points, by the index of the older one.
#[derive(Clone, Copy)]
struct Pair {
    index: usize,
    old: ChunkId,
    new: ChunkId,
}

impl Pair {
    const fn root(&self, side: Side) -> &ChunkId {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }
}

impl<'a> Changes<'a> {
    pub(super) fn new(
        nodes: &'a dyn ReadNodes,
        members: &'a [Member],
        events: &'a mut EditSet,
        stop: &'a AtomicBool,
    ) -> Self {
        Self { nodes, members, events, stop, large: HashMap::new() }
    }

    /// Goes from the newest point to the oldest; tells of content of the inodes in `part`, and of names if `with_names`.
    /// Gives the directories of the oldest, and how many names of files each point has, newest first.
    pub(super) fn walk_back(mut self, part: HashSet<u64>, with_names: bool) -> Result<(Names, Vec<u64>)> {
        let Some(newest) = self.members.last() else { return Ok(Default::default()) };
        let mut names = Names::read(self.nodes, &newest.point.root, part.clone(), self.stop)?;
        let mut file_names = vec![names.file_names];
        for (index, two) in self.members.windows(2).enumerate().rev() {
            let [old, new] = two else { continue };
            let pair = Pair { index, old: old.point.root, new: new.point.root };
            self.side(pair, Side::New, &names, &part, with_names)?;
            names.step(self.nodes, &pair.new, &pair.old, self.stop)?;
            file_names.push(names.file_names);
            self.side(pair, Side::Old, &names, &part, with_names)?;
        }
        Ok((names, file_names))
    }

    fn side(&mut self, pair: Pair, side: Side, places: &Names, part: &HashSet<u64>, with_names: bool) -> Result<()> {
        let (nodes, stop) = (self.nodes, self.stop);
        each_change(nodes, &pair.old, &pair.new, stop, |seen| match seen {
            Seen::Name { parent, name, old, new } if with_names => {
                let Some(entry) = (if side == Side::Old { old } else { new }) else { return Ok(()) };
                let path = child_hash(&places.path(parent)?, name);
                match entry.kind {
                    FileKind::Dir => self.below(pair, side, entry.ino, path),
                    _ => self.emit(pair, side, (path, parent, name), entry.ino),
                }
            }
            Seen::Content { ino } if part.contains(&ino) => {
                let content = self.in_place(pair, side, ino)?;
                for (parent, name) in places.of_file(ino) {
                    let path = child_hash(&places.path(*parent)?, name);
                    self.push(pair, side, (path, *parent, name), ino, &content)?;
                }
                Ok(())
            }
            _ => Ok(()),
        })
    }

    /// Content of an inode that is in both points. New is asked before old.
    fn in_place(&mut self, pair: Pair, side: Side, ino: u64) -> Result<Content> {
        let new = match self.large.get(&ino) {
            Some(known) => *known,
            None => Content::read(self.nodes, &pair.new, ino)?,
        };
        if side == Side::New {
            return Ok(new);
        }
        let old = new.follow(self.nodes, &pair.new, &pair.old, ino)?;
        if new.size.max(old.size) > LARGE_BYTES {
            self.large.insert(ino, old);
        }
        Ok(old)
    }

    /// Everything below a directory that came or went.
    fn below(&mut self, pair: Pair, side: Side, dir: u64, path: PathHash) -> Result<()> {
        let mut pending = vec![(dir, path, 0_usize)];
        while let Some((dir, path, level)) = pending.pop() {
            stopped(self.stop)?;
            if level > MOST_LEVELS {
                return Err(Error::damaged("a directory of a restore point contains itself"));
            }
            for named in names(self.nodes, pair.root(side), dir) {
                let (name, entry) = named?;
                let path = child_hash(&path, &name);
                match entry.kind {
                    FileKind::Dir => pending.push((entry.ino, path, level + 1)),
                    _ => self.emit(pair, side, (path, dir, &name), entry.ino)?,
                }
            }
        }
        Ok(())
    }

    fn emit(&mut self, pair: Pair, side: Side, at: (PathHash, u64, &[u8]), ino: u64) -> Result<()> {
        let content = Content::read(self.nodes, pair.root(side), ino)?;
        self.push(pair, side, at, ino, &content)
    }

    fn push(&mut self, pair: Pair, side: Side, at: (PathHash, u64, &[u8]), ino: u64, content: &Content) -> Result<()> {
        let (path, parent, name) = at;
        let state = State { content: content.name(), bytes: content.size, parent, ino, name: name.into() };
        let key = super::choose::event_key(&path, pair.index as u32, side);
        self.events.push(key, crate::catalog::tree::Edit::Put(state.encode()))
    }
}
