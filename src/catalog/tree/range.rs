//! Reading: one entry, the entry at or before a key, and entries in order.

use super::cursor::{Cursor, entries_below, open_child};
use super::{Entry, NodeRef, ReadNodes};
use crate::Result;
use repo_format::ChunkId;

/// The entry with exactly this key.
///
/// # Errors
/// When a node on the way cannot be read or is damaged.
pub fn get(nodes: &dyn ReadNodes, root: &ChunkId, key: &[u8]) -> Result<Option<Entry>> {
    let leaf = leaf_of(nodes, root, key)?;
    Ok(leaf.search(key).ok().map(|index| Entry { node: leaf, index }))
}

/// The last entry whose key is not above `key`: of a file's extents, the one that may cover an offset.
///
/// # Errors
/// As [`get`].
pub fn floor(nodes: &dyn ReadNodes, root: &ChunkId, key: &[u8]) -> Result<Option<Entry>> {
    let leaf = leaf_of(nodes, root, key)?;
    let index = leaf.search(key).map_or_else(|above| above.checked_sub(1), Some);
    Ok(index.map(|index| Entry { node: leaf, index }))
}

/// The leaf that holds `key` or would hold it.
fn leaf_of(nodes: &dyn ReadNodes, root: &ChunkId, key: &[u8]) -> Result<NodeRef> {
    let mut node = nodes.node(root)?;
    while node.level() > 0 {
        let index = node.search(key).unwrap_or_else(|above| above.saturating_sub(1));
        node = open_child(nodes, &node, index)?;
    }
    Ok(node)
}

/// Number of entries of the tree, as its root says.
///
/// # Errors
/// As [`get`].
pub fn count(nodes: &dyn ReadNodes, root: &ChunkId) -> Result<u64> {
    entries_below(&nodes.node(root)?)
}

/// All entries from `from` (inclusive) upwards.
pub fn range<'n>(nodes: &'n dyn ReadNodes, root: &ChunkId, from: &[u8]) -> Range<'n> {
    Range { cursor: Cursor::new(nodes, *root, 0), seek: Some(from.to_vec()), prefix: Vec::new(), done: false }
}

/// All entries whose key begins with `prefix`.
pub fn range_prefix<'n>(nodes: &'n dyn ReadNodes, root: &ChunkId, prefix: &[u8]) -> Range<'n> {
    Range { prefix: prefix.to_vec(), ..range(nodes, root, prefix) }
}

/// Entries in ascending order. Ends after the first error.
pub struct Range<'n> {
    cursor: Cursor<'n>,
    /// Where to go before the next entry is taken.
    seek: Option<Vec<u8>>,
    prefix: Vec<u8>,
    done: bool,
}

impl Range<'_> {
    /// Goes on at the first entry not below `key`, forwards or backwards; a prefix stays in force.
    pub fn seek(&mut self, key: &[u8]) {
        let target = self.seek.get_or_insert_default();
        target.clear();
        target.extend_from_slice(key.max(&self.prefix));
        self.done = false;
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        if let Some(key) = self.seek.take() {
            self.cursor.seek(&key)?;
        }
        loop {
            let Some((node, index)) = self.cursor.place() else { return Ok(None) };
            if *index < node.len() {
                let entry = Entry::new(node, *index);
                *index += 1;
                return Ok(Some(entry).filter(|entry| entry.key().starts_with(&self.prefix)));
            }
            if !self.cursor.next_node()? {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Range<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.step().transpose();
        self.done = !matches!(entry, Some(Ok(_)));
        entry
    }
}
