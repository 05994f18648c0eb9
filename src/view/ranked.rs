//! Entries of a tree by position. Inner nodes count the entries below them, so a directory offset can be the
//! position of the next entry: it needs no memory, survives seekdir(3), and costs one way down the tree.

use crate::catalog::tree::{NodeRef, ReadNodes};
use crate::{Error, Result};
use repo_format::{Child, ChunkId};

/// Reads entries upwards from a key or a position.
pub(super) struct Ranked<'n> {
    nodes: &'n dyn ReadNodes,
    path: Vec<(NodeRef, usize)>,
    rank: u64,
}

impl<'n> Ranked<'n> {
    /// Before the first entry not below `key`.
    pub(super) fn at_key(nodes: &'n dyn ReadNodes, root: &ChunkId, key: &[u8]) -> Result<Self> {
        let mut cursor = Self { nodes, path: Vec::new(), rank: 0 };
        let mut node = nodes.node(root)?;
        while node.level() > 0 {
            let index = node.search(key).unwrap_or_else(|above| above.saturating_sub(1));
            let entries = (0..index).map(|at| child(&node, at).map_or(0, |child| child.entries));
            cursor.rank = entries.fold(cursor.rank, u64::saturating_add);
            node = cursor.descend(node, index)?;
        }
        let index = node.search(key).unwrap_or_else(|above| above);
        cursor.rank = cursor.rank.saturating_add(index as u64);
        cursor.path.push((node, index));
        Ok(cursor)
    }

    /// Before entry number `rank` of the tree.
    pub(super) fn at_rank(nodes: &'n dyn ReadNodes, root: &ChunkId, rank: u64) -> Result<Self> {
        let mut cursor = Self { nodes, path: Vec::new(), rank };
        let mut left = rank;
        let mut node = nodes.node(root)?;
        while node.level() > 0 {
            let mut index = 0;
            while index + 1 < node.len() {
                let below = child(&node, index).map_or(0, |child| child.entries);
                if left < below {
                    break;
                }
                left -= below;
                index += 1;
            }
            node = cursor.descend(node, index)?;
        }
        let index = usize::try_from(left).unwrap_or(usize::MAX).min(node.len());
        cursor.path.push((node, index));
        Ok(cursor)
    }

    /// Position of the entry that `next` will give.
    pub(super) fn rank(&self) -> u64 {
        self.rank
    }

    /// The next entry: its leaf and its place there.
    pub(super) fn next(&mut self) -> Result<Option<(NodeRef, usize)>> {
        loop {
            let Some((node, index)) = self.path.last_mut() else { return Ok(None) };
            if *index < node.len() {
                let entry = (node.clone(), *index);
                *index += 1;
                self.rank = self.rank.saturating_add(1);
                return Ok(Some(entry));
            }
            if !self.next_leaf()? {
                return Ok(None);
            }
        }
    }

    fn next_leaf(&mut self) -> Result<bool> {
        self.path.pop();
        while let Some((mut node, index)) = self.path.pop() {
            if index + 1 < node.len() {
                let mut index = index + 1;
                while node.level() > 0 {
                    node = self.descend(node, index)?;
                    index = 0;
                }
                self.path.push((node, 0));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remembers the way and opens the child. Levels must fall, so no way is longer than the format allows.
    fn descend(&mut self, node: NodeRef, index: usize) -> Result<NodeRef> {
        let id = child(&node, index).ok_or_else(|| Error::damaged("a tree node has no such child"))?.id;
        let below = self.nodes.node(&id)?;
        if below.level() + 1 != node.level() {
            return Err(Error::damaged(format!("tree node {id} has another level than its parent says")));
        }
        self.path.push((node, index));
        Ok(below)
    }
}

fn child(node: &NodeRef, index: usize) -> Option<Child> {
    node.child(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tree::{self, Edit, MemoryNodes};

    fn key(n: u64) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    #[test]
    fn keys_and_positions_find_the_same_entries() {
        let nodes = MemoryNodes::new();
        let edits = (0..30_000_u64).map(|n| Ok((key(n * 2), Edit::Put(vec![1; 40]))));
        let root = tree::apply(&nodes, None, edits, &mut &nodes).unwrap();
        for n in [0, 1, 2, 499, 500, 12_345, 29_999, 30_000] {
            for mut cursor in [
                Ranked::at_key(&nodes, &root, &key((n * 2_u64).saturating_sub(1))).unwrap(),
                Ranked::at_key(&nodes, &root, &key(n * 2)).unwrap(),
                Ranked::at_rank(&nodes, &root, n).unwrap(),
            ] {
                assert_eq!(cursor.rank(), n);
                for expected in n..(n + 600).min(30_000) {
                    let (node, index) = cursor.next().unwrap().unwrap();
                    assert_eq!(node.entry(index).unwrap().0, key(expected * 2));
                }
                assert_eq!(cursor.next().unwrap().is_none(), n + 600 >= 30_000);
            }
        }
        assert!(Ranked::at_rank(&nodes, &root, u64::MAX).unwrap().next().unwrap().is_none());
    }
}
