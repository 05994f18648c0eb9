//! One level of a tree being written: entries go in, nodes come out, and what changed goes up.

use super::apply::Edit;
use super::cursor::first_key;
use super::{NodeRef, WriteNodes};
use crate::{Error, Result};
use repo_format::{Child, NodeWriter, entry_bytes, is_border};
use std::cmp::Ordering;
use std::iter::Peekable;

/// What rewriting a level did to its nodes; both lists ascend. One key may stand in both.
#[derive(Default)]
pub(super) struct LevelChanges {
    /// First keys of old nodes that are no longer part of the level.
    pub(super) dead: Vec<Vec<u8>>,
    /// New nodes, by first key.
    pub(super) born: Vec<(Vec<u8>, Child)>,
}

impl LevelChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.dead.is_empty() && self.born.is_empty()
    }

    /// The same as edits of the level above.
    pub(super) fn into_edits(self) -> impl Iterator<Item = Result<(Vec<u8>, Edit)>> {
        let (mut dead, mut born) = (self.dead.into_iter().peekable(), self.born.into_iter().peekable());
        std::iter::from_fn(move || next_edit(&mut dead, &mut born).map(Ok))
    }
}

fn next_edit(
    dead: &mut Peekable<impl Iterator<Item = Vec<u8>>>,
    born: &mut Peekable<impl Iterator<Item = (Vec<u8>, Child)>>,
) -> Option<(Vec<u8>, Edit)> {
    let order = match (dead.peek(), born.peek()) {
        (Some(dead), Some((born, _))) => dead.cmp(born),
        (Some(_), None) => Ordering::Less,
        (None, _) => Ordering::Greater,
    };
    if order == Ordering::Less {
        return dead.next().map(|key| (key, Edit::Delete));
    }
    if order == Ordering::Equal {
        dead.next();
    }
    born.next().map(|(key, child)| (key, Edit::Put(child.encode())))
}

/// Collects the entries of a level and closes nodes by the border rule.
pub(super) struct LevelWriter<'s> {
    level: u8,
    sink: &'s mut dyn WriteNodes,
    node: NodeWriter,
    first: Vec<u8>,
    entries: u64,
    /// The old node that began where the open node begins: the only one that it can equal.
    twin: Option<NodeRef>,
    changes: LevelChanges,
}

impl<'s> LevelWriter<'s> {
    pub(super) fn new(level: u8, sink: &'s mut dyn WriteNodes) -> Self {
        let node = NodeWriter::new(level);
        Self { level, sink, node, first: Vec::new(), entries: 0, twin: None, changes: LevelChanges::default() }
    }

    /// Announces an old node, whose entries come next.
    pub(super) fn replaces(&mut self, old: &NodeRef) {
        if let Some(first) = first_key(old) {
            self.changes.dead.push(first.to_vec());
            self.twin = self.at_border().then(|| old.clone());
        }
    }

    /// Whether the next entry begins a node.
    pub(super) fn at_border(&self) -> bool {
        self.node.is_empty()
    }

    /// Appends an entry above all before it.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.node.is_empty() {
            self.first.clear();
            self.first.extend_from_slice(key);
        }
        self.node.push(key, value);
        let below = if self.level == 0 { Some(1) } else { Child::decode(value).map(|child| child.entries) };
        let sum = below.and_then(|below| self.entries.checked_add(below));
        self.entries = sum.ok_or_else(|| Error::damaged("a tree node counts too many entries"))?;
        if is_border(self.level, key, entry_bytes(key.len(), value.len()), self.node.entry_bytes()) {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let entries = std::mem::take(&mut self.entries);
        let bytes = self.node.finish();
        if self.twin.take().is_some_and(|twin| twin.bytes() == bytes) {
            // Its old self was the last one announced: it ends where this node ends.
            self.changes.dead.pop();
            return Ok(());
        }
        let id = self.sink.write_node(bytes)?;
        self.changes.born.push((self.first.clone(), Child { id, entries }));
        Ok(())
    }

    /// Ends the level, or the part of it that changed.
    pub(super) fn finish(mut self) -> Result<LevelChanges> {
        if !self.at_border() {
            self.close()?;
        }
        Ok(self.changes)
    }
}
