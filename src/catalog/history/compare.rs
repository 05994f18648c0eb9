//! What differs between two restore points, by path.
//!
//! A directory that has the same number in both trees, and is not above anything that changed, is the same with all
//! below it; that is known from one tree diff and one reading of the new tree's names. All other directories are
//! compared name by name. A file that became a directory, or the like, is one thing removed and another added.

use super::MOST_LEVELS;
use super::closure::with_parents;
use super::content::{Changes, Content, changes, metadata_differs};
use super::paths::{inode, names};
use crate::catalog::tree::{Entry, ReadNodes, diff, range_prefix};
use crate::{Error, Result};
use repo_format::{ChunkId, Dirent, FileKind, Key, KeyKind, TREE_INO};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::iter::Peekable;

/// One of the three ways in which paths differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// In the new point only.
    Added,
    /// In the old point only.
    Removed,
    /// In both, of one type, and different.
    Changed,
}

/// How one name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// In the new point only, with all below it.
    Added,
    /// In the old point only, with all below it.
    Removed,
    /// Of another type: the old one was removed, with all below it, and the new one added.
    Replaced,
    /// Different bytes, target or device number; perhaps different metadata too.
    Content,
    /// Different mode, owner, time, flags or extended attributes only.
    Metadata,
    /// A directory that is itself the same, and may have differences below it.
    Below,
}

/// A name that differs, or may have differences below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name.
    pub name: Box<[u8]>,
    /// What it is in the old point.
    pub old: Option<Dirent>,
    /// What it is in the new point.
    pub new: Option<Dirent>,
    /// How it differs.
    pub difference: Difference,
}

/// Two trees, and what is known of their differences. Memory: about 32 bytes for each inode that changed.
pub struct Comparison {
    old: ChunkId,
    new: ChunkId,
    changed: HashSet<u64>,
    way: HashSet<u64>,
}

impl Row {
    /// Whether both are directories, so that there may be differences below.
    #[must_use]
    pub fn goes_down(&self) -> bool {
        let is_dir = |entry: Option<Dirent>| entry.is_some_and(|entry| entry.kind == FileKind::Dir);
        is_dir(self.old) && is_dir(self.new)
    }

    /// Whether the name itself belongs to a side.
    #[must_use]
    pub const fn is_of(&self, side: Side) -> bool {
        matches!(
            (side, self.difference),
            (Side::Added, Difference::Added | Difference::Replaced)
                | (Side::Removed, Difference::Removed | Difference::Replaced)
                | (Side::Changed, Difference::Content | Difference::Metadata)
        )
    }
}

impl Comparison {
    /// Finds out what changed between two trees.
    ///
    /// # Errors
    /// When a tree cannot be read.
    pub fn new(nodes: &dyn ReadNodes, old: ChunkId, new: ChunkId) -> Result<Self> {
        let (mut changed, mut marked) = (HashSet::new(), HashSet::new());
        for change in diff(nodes, &old, nodes, &new) {
            let change = change?;
            match Key::decode(change.key()).map_err(Error::from)? {
                Key::Dirent(parent, _) => drop(marked.insert(parent)),
                key if key.ino() != TREE_INO => drop(changed.insert(key.ino())),
                _ => {}
            }
        }
        marked.extend(&changed);
        let way = if marked.is_empty() { HashSet::new() } else { with_parents(nodes, &new, &marked)? };
        Ok(Self { old, new, changed, way })
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        (self.changed.len() + self.way.len()) as u64 * 16 + 128
    }

    /// The names that differ, or may have differences below, in directory `old` of the old tree and `new` of the
    /// new one, in order.
    ///
    /// # Errors
    /// When a tree cannot be read there.
    pub fn rows(&self, nodes: &dyn ReadNodes, old: u64, new: u64) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        if old == new && !self.way.contains(&new) {
            return Ok(out);
        }
        let (mut olds, mut news) = (names(nodes, &self.old, old).peekable(), names(nodes, &self.new, new).peekable());
        while let Some((name, old, new)) = next_name(&mut olds, &mut news)? {
            out.extend(self.row(nodes, &name, old, new)?);
        }
        Ok(out)
    }

    /// One name, that is `old` in the old tree and `new` in the new one; None if nothing about it can differ.
    ///
    /// # Errors
    /// When a tree cannot be read there.
    pub fn row(
        &self,
        nodes: &dyn ReadNodes,
        name: &[u8],
        old: Option<Dirent>,
        new: Option<Dirent>,
    ) -> Result<Option<Row>> {
        let difference = match (old, new) {
            (Some(old), Some(new)) => self.difference(nodes, old, new)?,
            (None, Some(_)) => Some(Difference::Added),
            (Some(_), None) => Some(Difference::Removed),
            (None, None) => None,
        };
        Ok(difference.map(|difference| Row { name: name.into(), old, new, difference }))
    }

    fn difference(&self, nodes: &dyn ReadNodes, old: Dirent, new: Dirent) -> Result<Option<Difference>> {
        if old.kind != new.kind {
            return Ok(Some(Difference::Replaced));
        }
        let is_dir = new.kind == FileKind::Dir;
        let same_number = old.ino == new.ino;
        let found = match same_number {
            true if self.changed.contains(&new.ino) => changes(nodes, &self.old, &self.new, new.ino)?,
            true => Changes::default(),
            false => self.changes_of_two(nodes, old.ino, new.ino)?,
        };
        Ok(match found {
            Changes { content: true, .. } if !is_dir => Some(Difference::Content),
            Changes { metadata: true, .. } => Some(Difference::Metadata),
            _ if is_dir && (!same_number || self.way.contains(&new.ino)) => Some(Difference::Below),
            _ => None,
        })
    }

    fn changes_of_two(&self, nodes: &dyn ReadNodes, old: u64, new: u64) -> Result<Changes> {
        let (a, b) = (inode(nodes, &self.old, old)?, inode(nodes, &self.new, new)?);
        let content =
            b.kind() != FileKind::Dir && Content::read(nodes, &self.old, old)? != Content::read(nodes, &self.new, new)?;
        let metadata = metadata_differs(&a, &b) || xattrs(nodes, &self.old, old)? != xattrs(nodes, &self.new, new)?;
        Ok(Changes { content, metadata })
    }

    /// Whether a directory that is in both has something of `side` below it.
    ///
    /// # Errors
    /// When a tree cannot be read there.
    pub fn any(&self, nodes: &dyn ReadNodes, side: Side, old: u64, new: u64) -> Result<bool> {
        self.any_within(nodes, side, (old, new), MOST_LEVELS, &mut HashSet::new())
    }

    /// `seen` are pairs of directories that were looked at: a damaged tree can lead to one of them on many ways.
    fn any_within(
        &self,
        nodes: &dyn ReadNodes,
        side: Side,
        (old, new): (u64, u64),
        levels: usize,
        seen: &mut HashSet<(u64, u64)>,
    ) -> Result<bool> {
        let Some(levels) = levels.checked_sub(1) else { return Ok(true) };
        if !seen.insert((old, new)) {
            return Ok(false);
        }
        for row in self.rows(nodes, old, new)? {
            if row.is_of(side) {
                return Ok(true);
            }
            if let (true, Some(old), Some(new)) = (row.goes_down(), row.old, row.new)
                && self.any_within(nodes, side, (old.ino, new.ino), levels, seen)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Extended attributes: names and values.
type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

fn xattrs(nodes: &dyn ReadNodes, root: &ChunkId, ino: u64) -> Result<Xattrs> {
    let prefix = Key::prefix(ino, KeyKind::Xattr);
    let pair = |entry: Entry| (entry.key().get(prefix.len()..).unwrap_or_default().into(), entry.value().into());
    range_prefix(nodes, root, &prefix).map(|entry| entry.map(pair)).collect()
}

type Merged = Option<(Box<[u8]>, Option<Dirent>, Option<Dirent>)>;

/// The lower of the next names of two directories, with what it is in each.
fn next_name<A, B>(olds: &mut Peekable<A>, news: &mut Peekable<B>) -> Result<Merged>
where
    A: Iterator<Item = Result<super::paths::Named>>,
    B: Iterator<Item = Result<super::paths::Named>>,
{
    let order = match (olds.peek(), news.peek()) {
        (None, None) => return Ok(None),
        (Some(Ok((old, _))), Some(Ok((new, _)))) => old.cmp(new),
        (Some(Err(_)), _) | (_, None) => Ordering::Less,
        _ => Ordering::Greater,
    };
    let old = if order.is_le() { olds.next().transpose()? } else { None };
    let new = if order.is_ge() { news.next().transpose()? } else { None };
    let name = old.as_ref().or(new.as_ref()).map(|(name, _)| name.clone()).unwrap_or_default();
    Ok(Some((name, old.map(|(_, entry)| entry), new.map(|(_, entry)| entry))))
}
