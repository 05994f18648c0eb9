//! The directories above something: a tree knows no parents, so its names are read once.

use crate::catalog::tree::{ReadNodes, range};
use crate::{Error, Result};
use repo_format::{ChunkId, Dirent, FileKind, Key};
use std::collections::HashSet;

/// `marked` and all directories above them in the tree at `root`. Memory: 16 bytes for each directory of the tree.
pub(super) fn with_parents(nodes: &dyn ReadNodes, root: &ChunkId, marked: &HashSet<u64>) -> Result<HashSet<u64>> {
    let mut above: Vec<(u64, u64)> = Vec::new();
    let mut out: HashSet<u64> = HashSet::new();
    for entry in range(nodes, root, &[]) {
        let entry = entry?;
        // The kind byte: most entries are of other kinds and not worth decoding.
        if entry.key().get(8) != Some(&(repo_format::KeyKind::Dirent as u8)) {
            continue;
        }
        let Key::Dirent(parent, _) = Key::decode(entry.key()).map_err(Error::from)? else { continue };
        let named = Dirent::decode(entry.value()).map_err(Error::from)?;
        if named.kind == FileKind::Dir {
            above.push((named.ino, parent));
        } else if marked.contains(&named.ino) {
            out.insert(parent);
        }
    }
    above.sort_unstable();
    let mut pending: Vec<u64> = marked.iter().chain(&out).copied().collect();
    out.extend(marked);
    while let Some(ino) = pending.pop() {
        let at = above.partition_point(|(child, _)| *child < ino);
        if let Some((_, parent)) = above.get(at).filter(|(child, _)| *child == ino)
            && out.insert(*parent)
        {
            pending.push(*parent);
        }
    }
    Ok(out)
}
