//! Finding things in a restore point's tree: the inode behind a path, and an inode's entries.

use crate::catalog::points::printable;
use crate::catalog::tree::{self, Range, ReadNodes};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Dirent, Extent, FileKind, Inode, Key, KeyKind, ROOT_INO};
use std::collections::HashMap;

/// Extended attributes: names and values.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// An inode's attributes.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its number.
    pub ino: u64,
    /// Its attributes.
    pub inode: Inode,
    /// Its extended attributes.
    pub xattrs: Xattrs,
}

/// Reads the tree of one restore point.
#[derive(Clone, Copy)]
pub struct TreeReader<'n> {
    nodes: &'n dyn ReadNodes,
    root: ChunkId,
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name: one path component, never empty, `.` or `..`.
    pub name: Box<[u8]>,
    /// What it names.
    pub entry: Dirent,
}

impl<'n> TreeReader<'n> {
    /// A reader of the tree with this root node.
    #[must_use]
    pub const fn new(nodes: &'n dyn ReadNodes, root: ChunkId) -> Self {
        Self { nodes, root }
    }

    /// A place in the tree from which neighbouring inodes are read without going down from the root each time.
    #[must_use]
    pub fn cursor(&self) -> Range<'n> {
        tree::range(self.nodes, &self.root, &[])
    }

    /// Attributes and extended attributes of `ino`.
    ///
    /// # Errors
    /// `Damaged` when the tree cannot be read there or has no such inode.
    pub fn head(&self, cursor: &mut Range<'_>, ino: u64) -> Result<Head> {
        let first = Key::Inode(ino).encode();
        cursor.seek(&first);
        let missing = || Error::damaged(format!("the restore point names inode {ino} but does not have it"));
        let entry = cursor.next().ok_or_else(missing)??;
        if entry.key() != first {
            return Err(missing());
        }
        let inode = Inode::decode(entry.value())?;
        let mut xattrs = Xattrs::new();
        // Nearly every inode has none, and the caller goes on from here: look before seeking.
        let prefix = Key::prefix(ino, KeyKind::Xattr);
        for entry in cursor.by_ref() {
            let entry = entry?;
            match Key::decode(entry.key())? {
                Key::Xattr(_, name) if entry.key().starts_with(&prefix) => {
                    xattrs.push((name.into(), entry.value().into()))
                }
                _ => break,
            }
        }
        Ok(Head { ino, inode, xattrs })
    }

    /// The names of a directory, in order of their bytes.
    pub fn names(&self, ino: u64) -> impl Iterator<Item = Result<Name>> + use<'n> {
        tree::range_prefix(self.nodes, &self.root, &Key::prefix(ino, KeyKind::Dirent)).map(|entry| {
            let entry = entry?;
            match Key::decode(entry.key())? {
                Key::Dirent(_, name) => Ok(Name { name: name.into(), entry: Dirent::decode(entry.value())? }),
                _ => Err(Error::damaged("a directory holds an entry of another kind")),
            }
        })
    }

    /// The extents of a file of `size` bytes, ascending, without overlaps.
    pub fn extents<'c>(
        &self,
        cursor: &'c mut Range<'n>,
        ino: u64,
        size: u64,
    ) -> impl Iterator<Item = Result<(u64, Extent)>> + use<'c, 'n> {
        let prefix = Key::prefix(ino, KeyKind::Extent);
        cursor.seek(&prefix);
        let inside = move |entry: &Result<tree::Entry>| {
            entry.as_ref().is_ok_and(|e| e.key().starts_with(&prefix)) || entry.is_err()
        };
        let mut end = 0;
        cursor.take_while(inside).map(move |entry| {
            let entry = entry?;
            let Key::Extent(_, offset) = Key::decode(entry.key())? else {
                return Err(Error::damaged("a file holds an entry of another kind"));
            };
            let extent = Extent::decode(entry.value())?;
            let stop = offset.checked_add(u64::from(extent.len)).filter(|stop| *stop <= size && offset >= end);
            end = stop.ok_or_else(|| Error::damaged("a file's extents overlap or go past its end"))?;
            Ok((offset, extent))
        })
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// `Damaged` when the tree cannot be read there or has none.
    pub fn target(&self, ino: u64) -> Result<Box<[u8]>> {
        let entry = tree::get(self.nodes, &self.root, &Key::Target(ino).encode())?;
        let entry = entry.ok_or_else(|| Error::damaged(format!("symbolic link {ino} has no target")))?;
        let target = entry.value();
        if target.is_empty() || target.contains(&0) {
            return Err(Error::damaged(format!("symbolic link {ino} has an impossible target")));
        }
        Ok(target.into())
    }

    /// What `path` names, counted from the root directory; empty components and `.` mean nothing.
    /// Symbolic links on the way are not followed.
    ///
    /// # Errors
    /// `NotFound` when there is nothing, `Usage` for `..`, `Damaged` when the tree cannot be read.
    pub fn find(&self, path: &[u8]) -> Result<Dirent> {
        let mut at = Dirent { ino: ROOT_INO, kind: FileKind::Dir };
        let mut walked: Vec<u8> = Vec::new();
        for part in components(path) {
            if part == b".." {
                return Err(Error::new(ErrorKind::Usage, "a path inside of a restore point cannot contain '..'"));
            }
            if at.kind != FileKind::Dir {
                return Err(self.not_a_directory(&walked, at));
            }
            walked.push(b'/');
            walked.extend_from_slice(part);
            let key = Key::Dirent(at.ino, part).encode();
            let entry = tree::get(self.nodes, &self.root, &key)?;
            at = Dirent::decode(entry.ok_or_else(|| nothing(&walked))?.value())?;
        }
        Ok(at)
    }

    fn not_a_directory(&self, path: &[u8], at: Dirent) -> Error {
        let shown = printable(path);
        let error = Error::new(ErrorKind::NotFound, format!("{shown} is not a directory in the restore point"));
        match self.target(at.ino).ok().filter(|_| at.kind == FileKind::Symlink) {
            Some(target) => {
                error.advise(format!("it is a symbolic link to {}; name that path instead", printable(&target)))
            }
            None => error,
        }
    }
}

fn nothing(path: &[u8]) -> Error {
    let parent = path.iter().rposition(|b| *b == b'/').and_then(|i| path.get(..i)).filter(|p| !p.is_empty());
    Error::new(ErrorKind::NotFound, format!("{} is not in the restore point", printable(path)))
        .advise(format!("'relict ls POINT:{}' lists what is there", printable(parent.unwrap_or(b"/"))))
}

/// The components of a path that mean something.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A set of inode numbers; they are dense, so it is a set of bit maps.
#[derive(Debug, Default)]
pub struct InoSet(HashMap<u64, Box<[u64; 64]>>);

impl InoSet {
    /// Adds a number; false when the number was in the set already.
    pub fn insert(&mut self, ino: u64) -> bool {
        const PAGE: u64 = 64 * 64;
        let page = self.0.entry(ino / PAGE).or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = ((ino % PAGE / 64) as usize, 1_u64 << (ino % 64));
        let Some(word) = page.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_numbers_are_new_once() {
        let mut set = InoSet::default();
        for ino in [0, 1, 63, 64, 4095, 4096, u64::MAX] {
            assert!(set.insert(ino));
            assert!(!set.insert(ino));
        }
    }
}
