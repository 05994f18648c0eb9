//! The way down: a stack of (node, index) from the root to one level, checked at every step.

use super::{NodeRef, ReadNodes};
use crate::{Error, Result};
use repo_format::{ChunkId, Node};

/// Nodes from the root downwards, each with the index of the entry that leads on.
pub(super) type Path = Vec<(NodeRef, usize)>;

/// Stands between the nodes of one level, `floor`.
pub(super) struct Cursor<'n> {
    nodes: &'n dyn ReadNodes,
    root: ChunkId,
    floor: u8,
    path: Path,
}

impl<'n> Cursor<'n> {
    /// A cursor that has read nothing yet; `seek` places it.
    pub(super) fn new(nodes: &'n dyn ReadNodes, root: ChunkId, floor: u8) -> Self {
        Self { nodes, root, floor, path: Path::new() }
    }

    /// Moves to the floor node that holds `key` or would hold it, and in it to the first entry not
    /// below `key` (which may be past its end). Nodes above that cover both places are not read again.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<()> {
        while self.path.len() > 1 && !self.covers(key) {
            self.path.pop();
        }
        if self.path.is_empty() {
            let root = self.nodes.node(&self.root)?;
            if root.level() < self.floor {
                return Err(Error::damaged(format!("tree node {} is of level {}", self.root, root.level())));
            }
            self.path.push((root, 0));
        }
        while let Some((node, index)) = self.path.last_mut() {
            // Seeks mostly go a little forwards from where the last one ended; in a new node nothing is known.
            let found = if *index == 0 { node.search(key) } else { node.search_near(key, *index) };
            if node.level() <= self.floor {
                *index = found.unwrap_or_else(|above| above);
                break;
            }
            *index = found.unwrap_or_else(|above| above.saturating_sub(1));
            let child = open_child(self.nodes, node, *index)?;
            self.path.push((child, 0));
        }
        Ok(())
    }

    /// Whether the lowest node's keys surround `key`.
    fn covers(&self, key: &[u8]) -> bool {
        let starts = self.path.last().is_some_and(|(node, _)| first_key(node).is_some_and(|first| first <= key));
        starts && self.upper().is_none_or(|upper| key < upper)
    }

    /// The first key of the floor node after this one; None at the last.
    pub(super) fn upper(&self) -> Option<&[u8]> {
        let (_, above) = self.path.split_last()?;
        key_after(above)
    }

    /// The floor node and the index in it.
    pub(super) fn place(&mut self) -> Option<(&NodeRef, &mut usize)> {
        self.path.last_mut().map(|(node, index)| (&*node, index))
    }

    /// Moves to the start of the next floor node; false at the last.
    pub(super) fn next_node(&mut self) -> Result<bool> {
        let Some((left, _)) = self.path.pop() else { return Ok(false) };
        while let Some((node, index)) = self.path.last_mut() {
            *index += 1;
            if *index < node.len() {
                break;
            }
            self.path.pop();
        }
        while let Some((node, index)) = self.path.last() {
            let child = open_child(self.nodes, node, *index)?;
            let floor = child.level() <= self.floor;
            self.path.push((child, 0));
            if floor {
                break;
            }
        }
        let Some((right, _)) = self.path.last() else { return Ok(false) };
        if last_key(&left) < first_key(right) { Ok(true) } else { Err(Error::damaged("tree nodes overlap")) }
    }
}

/// The key that follows everything below the path's last entry, as the nodes of the path know it.
pub(super) fn key_after(path: &[(NodeRef, usize)]) -> Option<&[u8]> {
    path.iter().rev().find_map(|(node, index)| node.entry(index + 1)).map(|(key, _)| key)
}

/// The first key of a node; None if the tree is empty.
pub(super) fn first_key<B: AsRef<[u8]>>(node: &Node<B>) -> Option<&[u8]> {
    node.entry(0).map(|(key, _)| key)
}

/// The last key of a node; None if the tree is empty.
pub(super) fn last_key<B: AsRef<[u8]>>(node: &Node<B>) -> Option<&[u8]> {
    node.entry(node.len().checked_sub(1)?).map(|(key, _)| key)
}

/// Leaf entries below a node, as it says itself.
pub(super) fn entries_below(node: &NodeRef) -> Result<u64> {
    if node.level() == 0 {
        return Ok(node.len() as u64);
    }
    let mut children = (0..node.len()).filter_map(|index| node.child(index));
    let sum = children.try_fold(0_u64, |sum, child| sum.checked_add(child.entries));
    sum.ok_or_else(|| Error::damaged("a tree node counts too many entries"))
}

/// Reads the child behind an inner node's entry and holds it to what the parent says of it.
///
/// A child's level is below its parent's, so no path is longer than the format's 32 levels.
pub(super) fn open_child(nodes: &dyn ReadNodes, parent: &NodeRef, index: usize) -> Result<NodeRef> {
    let missing = || Error::damaged("a tree node has no such child");
    let (key, _) = parent.entry(index).ok_or_else(missing)?;
    let child = parent.child(index).ok_or_else(missing)?;
    let node = nodes.node(&child.id)?;
    let wrong =
        |what: &str| Err(Error::damaged(format!("tree node {} has another {what} than its parent says", child.id)));
    if node.level() + 1 != parent.level() {
        return wrong("level");
    }
    if first_key(&node) != Some(key) {
        return wrong("first key");
    }
    // Inner nodes are counted by `walk_nodes` only: a sum over all children is no price for a look-up.
    if node.level() == 0 && node.len() as u64 != child.entries {
        return wrong("number of entries");
    }
    Ok(node)
}
