//! Every node of a tree once, parents first: what `check` and `prune` read.

use super::cursor::{Path, entries_below, last_key, open_child};
use super::{NodeRef, ReadNodes};
use crate::{Error, Result};
use repo_format::{Child, ChunkId};

/// A part of a tree that cannot be read.
#[derive(Debug)]
pub struct Lost {
    /// The node that is missing or wrong.
    pub id: ChunkId,
    /// The first key below it; empty for the root.
    pub from: Vec<u8>,
    /// The first key after it; None if it was the last of the tree.
    pub to: Option<Vec<u8>>,
    /// What its parent says it holds; None for the root.
    pub entries: Option<u64>,
    /// What is wrong with it.
    pub error: Error,
}

/// Who is told about nodes. A closure over `(&ChunkId, &NodeRef)` is one that stops at the first damage.
pub trait NodeVisitor {
    /// Asked before a node is read: false leaves it and all below it out.
    ///
    /// # Errors
    /// Any error ends the walk.
    fn enter(&mut self, _id: &ChunkId) -> Result<bool> {
        Ok(true)
    }

    /// A sound node. Its children come later.
    ///
    /// # Errors
    /// Any error ends the walk.
    fn node(&mut self, id: &ChunkId, node: &NodeRef) -> Result<()>;

    /// A node that cannot be read; `Ok` goes on with the next.
    ///
    /// # Errors
    /// Any error ends the walk; as written here, every damage does.
    fn lost(&mut self, lost: Lost) -> Result<()> {
        Err(lost.error)
    }
}

impl<F: FnMut(&ChunkId, &NodeRef) -> Result<()>> NodeVisitor for F {
    fn node(&mut self, id: &ChunkId, node: &NodeRef) -> Result<()> {
        self(id, node)
    }
}

/// Visits every node of the tree once, in key order and parents first, with all that a parent says of a
/// child verified: level, first key, number of entries, and that no key reaches into the next child.
///
/// # Errors
/// Those of the visitor.
pub fn walk_nodes(nodes: &dyn ReadNodes, root: &ChunkId, visitor: &mut dyn NodeVisitor) -> Result<()> {
    let mut path = Path::new();
    if visitor.enter(root)? {
        match nodes.node(root) {
            Ok(node) => descend(&mut path, root, node, visitor)?,
            Err(error) => visitor.lost(Lost { id: *root, from: Vec::new(), to: None, entries: None, error })?,
        }
    }
    while let Some((parent, index)) = path.last_mut() {
        let Some(child) = parent.child(*index) else {
            path.pop();
            continue;
        };
        // Taken before the child is pushed; `place` below is the entry that was meant.
        let place = *index;
        *index += 1;
        if visitor.enter(&child.id)? {
            match checked_child(nodes, &path, place, child.entries) {
                Ok(node) => descend(&mut path, &child.id, node, visitor)?,
                Err(error) => visitor.lost(lost(&path, place, child, error))?,
            }
        }
    }
    Ok(())
}

/// Tells of a sound node and has its children visited next.
fn descend(path: &mut Path, id: &ChunkId, node: NodeRef, visitor: &mut dyn NodeVisitor) -> Result<()> {
    visitor.node(id, &node)?;
    if node.level() > 0 {
        path.push((node, 0));
    }
    Ok(())
}

/// The first key after entry `place` of the lowest node. Every index on the path has moved on already.
fn upper(path: &[(NodeRef, usize)], place: usize) -> Option<&[u8]> {
    let (parent, _) = path.last()?;
    let next = parent.entry(place + 1).or_else(|| path.iter().rev().skip(1).find_map(|(node, next)| node.entry(*next)));
    next.map(|(key, _)| key)
}

fn checked_child(nodes: &dyn ReadNodes, path: &[(NodeRef, usize)], place: usize, entries: u64) -> Result<NodeRef> {
    let (parent, _) = path.last().ok_or_else(|| Error::damaged("a tree node has no parent"))?;
    let node = open_child(nodes, parent, place)?;
    if upper(path, place).is_some_and(|upper| last_key(&node).is_some_and(|last| last >= upper)) {
        return Err(Error::damaged("tree nodes overlap"));
    }
    if entries_below(&node)? != entries {
        return Err(Error::damaged("a tree node has another number of entries than its parent says"));
    }
    Ok(node)
}

fn lost(path: &[(NodeRef, usize)], place: usize, child: Child, error: Error) -> Lost {
    let from = path.last().and_then(|(parent, _)| parent.entry(place)).unwrap_or_default().0;
    let to = upper(path, place).map(<[u8]>::to_vec);
    Lost { id: child.id, from: from.to_vec(), to, entries: Some(child.entries), error }
}
