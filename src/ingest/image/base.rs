//! A disk as a restore point has it: what differences are against.

use super::source::BlockSource;
use crate::Result;
use crate::catalog::tree;
use crate::store::Repository;
use repo_format::{ChunkId, Dirent, Extent, Inode, Key, PointRecord, ROOT_INO};
use std::ops::Range;

/// The file of one disk in one restore point.
pub struct BaseDisk<'r> {
    repository: &'r Repository,
    root: ChunkId,
    ino: u64,
    size: u64,
}

impl<'r> BaseDisk<'r> {
    /// The file `name` in the root of `point`; None if there is no such file.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn open(repository: &'r Repository, point: &PointRecord, name: &[u8]) -> Result<Option<Self>> {
        let root = point.root;
        let Some(entry) = tree::get(repository, &root, &Key::Dirent(ROOT_INO, name).encode())? else { return Ok(None) };
        let ino = Dirent::decode(entry.value())?.ino;
        let Some(inode) = tree::get(repository, &root, &Key::Inode(ino).encode())? else { return Ok(None) };
        let size = Inode::decode(inode.value())?.size;
        Ok(Some(Self { repository, root, ino, size }))
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// A number that is another one for another tree.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.root.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The first extent that begins at `offset` or behind it.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn extent_from(&self, offset: u64) -> Result<Option<(u64, Extent)>> {
        let key = Key::Extent(self.ino, offset).encode();
        let Some(entry) = tree::range(self.repository, &self.root, &key).next().transpose()? else { return Ok(None) };
        match Key::decode(entry.key())? {
            Key::Extent(ino, at) if ino == self.ino => Ok(Some((at, Extent::decode(entry.value())?))),
            _ => Ok(None),
        }
    }

    /// Whether `disk` has what this extent holds; None if that is damaged in the repository.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn agrees(&self, disk: &mut dyn BlockSource, offset: u64, extent: &Extent) -> Result<Option<bool>> {
        let chunk = match self.repository.chunk(&extent.chunk) {
            Err(error) if error.is_loss() => return Ok(None),
            chunk => chunk?,
        };
        let range = extent.skip as usize..extent.skip as usize + extent.len as usize;
        let Some(ours) = chunk.get(range) else { return Ok(None) };
        let mut theirs = vec![0; ours.len()];
        disk.read(offset, &mut theirs)?;
        Ok(Some(theirs == ours))
    }
}

/// Whether two ranges have a byte in common.
#[must_use]
pub const fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
