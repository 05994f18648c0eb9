//! Writing: a sorted batch of edits against an old tree, or against nothing, level by level from the leaves.
//!
//! A level is rewritten from the start of the old node that holds the first edit, since borders depend
//! on what stands before them in their own node only. It is left alone again as soon as a new node ends
//! where an old node ends and the next old node has no edit. Nodes that went and nodes that came are
//! the edits of the level above; the first level with a single node has the root. So the tree is the
//! one that a full build makes, at the price of what changed.

use super::cursor::{Cursor, entries_below, first_key};
use super::level::{LevelChanges, LevelWriter};
use super::{NodeRef, ReadNodes, WriteNodes};
use crate::{Error, ErrorKind, Result};
use repo_format::{Child, ChunkId, MAX_NAME_BYTES, MAX_XATTR_BYTES, NodeWriter};

/// Longest key of a tree, in bytes: inode, kind, name.
pub const MAX_KEY_BYTES: usize = 9 + MAX_NAME_BYTES;
/// Longest value of a tree, in bytes: that of an extended attribute.
pub const MAX_VALUE_BYTES: usize = MAX_XATTR_BYTES;

/// Highest level a node can have.
const MAX_LEVEL: u8 = 31;

/// What becomes of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The key has this value from now on.
    Put(Vec<u8>),
    /// The key has no entry from now on; it need not have had one.
    Delete,
}

/// The tree without entries: one leaf.
///
/// # Errors
/// When the sink cannot store it.
pub fn empty(sink: &mut dyn WriteNodes) -> Result<ChunkId> {
    sink.write_node(NodeWriter::new(0).finish())
}

/// The root of the tree at `root` (None: the empty tree) after `edits`, which must ascend strictly by key.
///
/// Nodes whose content does not change are not written; edits that change nothing return `root` itself.
/// Memory grows with the number of changed nodes, not of edits.
///
/// # Errors
/// `Usage` for edits out of order or longer than the format allows; those of the edits, of the nodes
/// and of the sink. Nodes written before an error are garbage.
pub fn apply<I>(nodes: &dyn ReadNodes, root: Option<&ChunkId>, edits: I, sink: &mut dyn WriteNodes) -> Result<ChunkId>
where
    I: IntoIterator<Item = Result<(Vec<u8>, Edit)>>,
{
    let old = root.map(|root| Ok::<_, Error>(Tree { nodes, id: *root, root: nodes.node(root)? })).transpose()?;
    let filled = old.as_ref().filter(|old| !old.root.is_empty());
    let changes = rewrite_level(filled, 0, edits.into_iter().map(|edit| edit.and_then(within_limits)), sink)?;
    match &old {
        Some(old) if changes.is_empty() => Ok(old.id),
        _ => match raise(filled, changes, sink)? {
            Some(root) => Ok(root),
            None => empty(sink),
        },
    }
}

fn within_limits((key, edit): (Vec<u8>, Edit)) -> Result<(Vec<u8>, Edit)> {
    let value_bytes = if let Edit::Put(value) = &edit { value.len() } else { 0 };
    if key.len() <= MAX_KEY_BYTES && value_bytes <= MAX_VALUE_BYTES {
        return Ok((key, edit));
    }
    Err(Error::new(ErrorKind::Usage, format!("a tree entry of {} + {value_bytes} bytes is too long", key.len())))
}

/// An old tree with at least one entry.
struct Tree<'n> {
    nodes: &'n dyn ReadNodes,
    id: ChunkId,
    root: NodeRef,
}

impl Tree<'_> {
    /// The root as an entry of a level above it would describe it.
    fn as_entry(&self) -> Result<(Vec<u8>, Child)> {
        let entries = entries_below(&self.root)?;
        Ok((first_key(&self.root).unwrap_or_default().to_vec(), Child { id: self.id, entries }))
    }
}

/// Makes the levels above the leaves; the root, or None when no entry is left.
fn raise(old: Option<&Tree<'_>>, mut changes: LevelChanges, sink: &mut dyn WriteNodes) -> Result<Option<ChunkId>> {
    for level in 0..MAX_LEVEL {
        let below = old.filter(|old| level < old.root.level());
        let few = match below {
            Some(old) => few_nodes(old, level, &changes)?,
            None => {
                // The old level was the root, or was not at all: what follows is built from nothing.
                changes = whole_level(old.filter(|old| level == old.root.level()), changes)?;
                Some(changes.born.first().map(|(_, child)| child.id)).filter(|_| changes.born.len() < 2)
            }
        };
        if let Some(root) = few {
            return Ok(root);
        }
        changes = rewrite_level(below, level + 1, changes.into_edits(), sink)?;
    }
    Err(Error::damaged("a tree has too many levels"))
}

/// All nodes of a level whose only old node was the root.
fn whole_level(old: Option<&Tree<'_>>, mut changes: LevelChanges) -> Result<LevelChanges> {
    if let Some(old) = old.filter(|_| changes.dead.is_empty()) {
        let entry = old.as_entry()?;
        let place = changes.born.partition_point(|(key, _)| *key < entry.0);
        changes.born.insert(place, entry);
    }
    changes.dead.clear();
    Ok(changes)
}

/// If `changes` leave `level`, which is not the old root's, fewer than two nodes: Some(that node, if any).
fn few_nodes(old: &Tree<'_>, level: u8, changes: &LevelChanges) -> Result<Option<Option<ChunkId>>> {
    let LevelChanges { dead, born } = changes;
    // There were two or more, so that at least one net must have gone.
    if born.len() > 1 || dead.len() <= born.len() {
        return Ok(None);
    }
    let mut dead = dead.iter().peekable();
    let mut only = born.first().map(|(_, child)| child.id);
    let mut cursor = Cursor::new(old.nodes, old.id, level + 1);
    cursor.seek(&[])?;
    loop {
        let Some((node, _)) = cursor.place() else { return Ok(Some(only)) };
        for index in 0..node.len() {
            let key = node.entry(index).map(|(key, _)| key);
            if dead.next_if(|dead| Some(dead.as_slice()) == key).is_some() {
                continue;
            }
            if only.is_some() {
                return Ok(None);
            }
            only = node.child(index).map(|child| child.id);
        }
        if !cursor.next_node()? {
            return Ok(Some(only));
        }
    }
}

/// Applies edits to the entries of one level; `old` is None where the old tree has no such level.
fn rewrite_level<I>(old: Option<&Tree<'_>>, level: u8, edits: I, sink: &mut dyn WriteNodes) -> Result<LevelChanges>
where
    I: Iterator<Item = Result<(Vec<u8>, Edit)>>,
{
    let mut edits = Edits::new(edits)?;
    let mut out = LevelWriter::new(level, sink);
    if let Some(old) = old
        && let Some(first) = edits.key()
    {
        let mut cursor = Cursor::new(old.nodes, old.id, level);
        cursor.seek(first)?;
        loop {
            rewrite_node(&mut cursor, &mut edits, &mut out)?;
            match edits.key() {
                None if out.at_border() => break,
                Some(next) if out.at_border() => cursor.seek(next)?,
                _ if cursor.next_node()? => {}
                _ => break,
            }
        }
    }
    edits.put_below(None, &mut out)?;
    out.finish()
}

/// Sends the entries of the cursor's node, as edited, to the new level.
fn rewrite_node<I>(cursor: &mut Cursor<'_>, edits: &mut Edits<I>, out: &mut LevelWriter<'_>) -> Result<()>
where
    I: Iterator<Item = Result<(Vec<u8>, Edit)>>,
{
    let Some((node, _)) = cursor.place() else { return Ok(()) };
    let node = NodeRef::clone(node);
    // Only the first node of a level can have edits before it. They may end at a border themselves.
    edits.put_below(first_key(&node), out)?;
    out.replaces(&node);
    for (key, value) in (0..node.len()).filter_map(|index| node.entry(index)) {
        edits.put_below(Some(key), out)?;
        match edits.take(key)? {
            Some(Edit::Delete) => {}
            Some(Edit::Put(new)) => out.push(key, &new)?,
            None => out.push(key, value)?,
        }
    }
    match cursor.upper() {
        Some(upper) => edits.put_below(Some(upper), out),
        None => edits.put_below(None, out),
    }
}

/// Edits with one looked at ahead, held to their order.
struct Edits<I> {
    head: Option<(Vec<u8>, Edit)>,
    rest: I,
}

impl<I: Iterator<Item = Result<(Vec<u8>, Edit)>>> Edits<I> {
    fn new(mut rest: I) -> Result<Self> {
        Ok(Self { head: rest.next().transpose()?, rest })
    }

    fn key(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|(key, _)| key.as_slice())
    }

    fn advance(&mut self) -> Result<Option<(Vec<u8>, Edit)>> {
        let next = self.rest.next().transpose()?;
        let head = std::mem::replace(&mut self.head, next);
        if let (Some((before, _)), Some(after)) = (&head, self.key())
            && before.as_slice() >= after
        {
            return Err(Error::new(ErrorKind::Usage, "edits of a tree are out of order"));
        }
        Ok(head)
    }

    /// The edit of exactly this key, if it is the next one.
    fn take(&mut self, key: &[u8]) -> Result<Option<Edit>> {
        if self.key() != Some(key) {
            return Ok(None);
        }
        Ok(self.advance()?.map(|(_, edit)| edit))
    }

    /// Sends all edits below `upper` to the new level; no old entry stands at their keys.
    fn put_below(&mut self, upper: Option<&[u8]>, out: &mut LevelWriter<'_>) -> Result<()> {
        while self.key().is_some_and(|key| upper.is_none_or(|upper| key < upper)) {
            if let Some((key, Edit::Put(value))) = self.advance()? {
                out.push(&key, &value)?;
            }
        }
        Ok(())
    }
}
