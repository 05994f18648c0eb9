//! Names and inodes of one restore point's tree.

use crate::catalog::tree::{self, Entry, ReadNodes};
use crate::{Error, Result};
use repo_format::{ChunkId, Dirent, FileKind, Inode, Key, KeyKind, ROOT_INO};

/// A name, and what it names.
pub type Named = (Box<[u8]>, Dirent);

/// The components of a path that mean something.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// The root directory as an entry.
pub const ROOT: Dirent = Dirent { ino: ROOT_INO, kind: FileKind::Dir };

/// What `name` is in directory `dir`.
///
/// # Errors
/// When the tree cannot be read there.
pub fn child(nodes: &dyn ReadNodes, root: &ChunkId, dir: u64, name: &[u8]) -> Result<Option<Dirent>> {
    let entry = tree::get(nodes, root, &Key::Dirent(dir, name).encode())?;
    entry.map(|entry| dirent(&entry)).transpose()
}

/// What `path` is; symbolic links are not followed.
///
/// # Errors
/// When the tree cannot be read there.
pub fn find(nodes: &dyn ReadNodes, root: &ChunkId, path: &[u8]) -> Result<Option<Dirent>> {
    let mut at = ROOT;
    for name in components(path) {
        if at.kind != FileKind::Dir {
            return Ok(None);
        }
        match child(nodes, root, at.ino, name)? {
            Some(found) => at = found,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The names of a directory, in order of their bytes.
pub fn names<'n>(nodes: &'n dyn ReadNodes, root: &ChunkId, dir: u64) -> impl Iterator<Item = Result<Named>> + use<'n> {
    tree::range_prefix(nodes, root, &Key::prefix(dir, KeyKind::Dirent)).map(|entry| {
        let entry = entry?;
        Ok((name_of(entry.key())?.into(), dirent(&entry)?))
    })
}

/// Attributes of an inode that has a name.
///
/// # Errors
/// `Damaged` when the tree cannot be read there or has no such inode.
pub fn inode(nodes: &dyn ReadNodes, root: &ChunkId, ino: u64) -> Result<Inode> {
    let entry = tree::get(nodes, root, &Key::Inode(ino).encode())?;
    let entry =
        entry.ok_or_else(|| Error::damaged(format!("the restore point names inode {ino} but does not have it")))?;
    Inode::decode(entry.value()).map_err(Error::from)
}

pub(super) fn dirent(entry: &Entry) -> Result<Dirent> {
    Dirent::decode(entry.value()).map_err(Error::from)
}

/// The name in the key of a directory entry.
pub(super) fn name_of(key: &[u8]) -> Result<&[u8]> {
    match Key::decode(key).map_err(Error::from)? {
        Key::Dirent(_, name) => Ok(name),
        _ => Err(Error::damaged("a directory holds an entry of another kind")),
    }
}

/// The keys of a directory's entries: from the first to one after the last.
pub(super) fn entry_keys(dir: u64) -> (Vec<u8>, Vec<u8>) {
    (Key::prefix(dir, KeyKind::Dirent), Key::prefix(dir, KeyKind::Extent))
}
