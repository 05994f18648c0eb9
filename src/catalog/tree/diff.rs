//! What differs between two trees, reading only nodes that are not in both.

use super::cursor::{Path, key_after, open_child};
use super::{Entry, ReadNodes};
use crate::Result;
use repo_format::ChunkId;
use std::cmp::Ordering;

/// One key whose entry differs. At least one side has an entry.
#[derive(Debug, Clone)]
pub struct Change {
    /// The entry in the old tree.
    pub old: Option<Entry>,
    /// The entry in the new tree.
    pub new: Option<Entry>,
}

impl Change {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.old.as_ref().or(self.new.as_ref()).map_or(&[], Entry::key)
    }
}

/// The changes that lead from tree `old` to tree `new`, ascending by key.
///
/// Both stores must name chunks with the same id key. Subtrees with the same id are not read, at
/// whatever heights the two roots stand.
pub fn diff<'n>(old_nodes: &'n dyn ReadNodes, old: &ChunkId, new_nodes: &'n dyn ReadNodes, new: &ChunkId) -> Diff<'n> {
    let side = |nodes| Side { nodes, path: Path::new() };
    let roots = Some((*old, *new)).filter(|(old, new)| old != new);
    Diff { old: side(old_nodes), new: side(new_nodes), roots, bounds: None }
}

/// As [`diff`] with one store, for keys from `from` up to but not including `to`. Nodes that hold none of them are
/// not read.
pub fn diff_range<'n>(nodes: &'n dyn ReadNodes, old: &ChunkId, new: &ChunkId, from: Vec<u8>, to: Vec<u8>) -> Diff<'n> {
    Diff { bounds: Some((from, to)), ..diff(nodes, old, nodes, new) }
}

/// Changes in key order. Ends after the first error.
pub struct Diff<'n> {
    old: Side<'n>,
    new: Side<'n>,
    /// The roots, until they are read.
    roots: Option<(ChunkId, ChunkId)>,
    /// The first key that counts, and the first that does not any more.
    bounds: Option<(Vec<u8>, Vec<u8>)>,
}

/// What to do about the two places where the sides stand.
enum Step {
    SkipBoth,
    OpenOld,
    OpenNew,
    TakeOld,
    TakeNew,
    TakeBoth,
    End,
}

impl Diff<'_> {
    fn step(&self) -> Step {
        let (old, new) = match (self.old.item(), self.new.item()) {
            (Some(old), Some(new)) => (old, new),
            (Some(old), None) => return old.alone(Step::TakeOld, Step::OpenOld),
            (None, Some(new)) => return new.alone(Step::TakeNew, Step::OpenNew),
            (None, None) => return Step::End,
        };
        if old.same(&new) {
            Step::SkipBoth
        } else if old.ends_before(&new) {
            old.alone(Step::TakeOld, Step::OpenOld)
        } else if new.ends_before(&old) {
            new.alone(Step::TakeNew, Step::OpenNew)
        } else {
            // They overlap. The larger one is opened, so that equal nodes meet at one level.
            match (old.level.cmp(&new.level), old.key.cmp(new.key)) {
                (Ordering::Equal, _) if old.level == 0 => Step::TakeBoth,
                (Ordering::Greater, _) | (Ordering::Equal, Ordering::Less | Ordering::Equal) => Step::OpenOld,
                _ => Step::OpenNew,
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Change>> {
        if let Some((old, new)) = self.roots.take() {
            self.old.path.push((self.old.nodes.node(&old)?, 0));
            self.new.path.push((self.new.nodes.node(&new)?, 0));
            self.old.settle();
            self.new.settle();
        }
        loop {
            if let Some((from, to)) = &self.bounds {
                self.old.keep_within(from, to);
                self.new.keep_within(from, to);
            }
            let (old, new) = match self.step() {
                Step::End => return Ok(None),
                Step::OpenOld => {
                    self.old.open()?;
                    continue;
                }
                Step::OpenNew => {
                    self.new.open()?;
                    continue;
                }
                Step::SkipBoth => {
                    self.old.skip();
                    self.new.skip();
                    continue;
                }
                Step::TakeOld => (self.old.take(), None),
                Step::TakeNew => (None, self.new.take()),
                Step::TakeBoth => (self.old.take(), self.new.take()),
            };
            return Ok(Some(Change { old, new }));
        }
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        let change = self.advance().transpose();
        if !matches!(change, Some(Ok(_))) {
            self.old.path.clear();
            self.new.path.clear();
        }
        change
    }
}

/// A place in one of the trees: at a leaf entry, or before a subtree that is not read yet.
struct Side<'n> {
    nodes: &'n dyn ReadNodes,
    /// The lowest index is in range, or the path is empty.
    path: Path,
}

/// What stands at a place.
struct Item<'a> {
    /// 0: a leaf entry; else the level of the node that names the subtree.
    level: u8,
    key: &'a [u8],
    /// The leaf entry's value or the subtree's id and count.
    value: &'a [u8],
    /// For a subtree, the first key after it.
    upper: Option<&'a [u8]>,
}

impl Item<'_> {
    fn same(&self, other: &Self) -> bool {
        self.level == other.level && self.key == other.key && self.value == other.value
    }

    fn ends_before(&self, other: &Self) -> bool {
        if self.level == 0 { self.key < other.key } else { self.upper.is_some_and(|upper| upper <= other.key) }
    }

    /// The step when the other side has nothing at this place.
    fn alone(&self, take: Step, open: Step) -> Step {
        if self.level == 0 { take } else { open }
    }
}

impl Side<'_> {
    fn item(&self) -> Option<Item<'_>> {
        let (node, index) = self.path.last()?;
        let (key, value) = node.entry(*index)?;
        let level = node.level();
        Some(Item { level, key, value, upper: if level == 0 { None } else { key_after(&self.path) } })
    }

    /// Goes below the subtree at this place.
    fn open(&mut self) -> Result<()> {
        if let Some((node, index)) = self.path.last() {
            let child = open_child(self.nodes, node, *index)?;
            self.path.push((child, 0));
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Entry> {
        let (node, index) = self.path.last()?;
        let entry = Entry::new(node, *index);
        self.skip();
        Some(entry)
    }

    fn skip(&mut self) {
        if let Some((_, index)) = self.path.last_mut() {
            *index += 1;
        }
        self.settle();
    }

    /// Passes over what ends before `from`, and ends at `to`.
    fn keep_within(&mut self, from: &[u8], to: &[u8]) {
        while let Some(item) = self.item() {
            let below = if item.level == 0 { item.key < from } else { item.upper.is_some_and(|upper| upper <= from) };
            if item.key >= to {
                return self.path.clear();
            }
            if !below {
                return;
            }
            self.skip();
        }
    }

    /// Leaves nodes that are at their end.
    fn settle(&mut self) {
        while self.path.last().is_some_and(|(node, index)| *index >= node.len()) {
            self.path.pop();
            if let Some((_, index)) = self.path.last_mut() {
                *index += 1;
            }
        }
    }
}
