//! A file's content as a number: equal numbers, equal content.
//!
//! The number is a sum over the extents, each hashed with its offset, so that it follows a change of a large file
//! without reading the file's other extents. It holds between points of one repository. Two files with the
//! same bytes have the same number if they were cut into the same chunks, as the same bytes nearly always are.

use super::keys_of;
use crate::catalog::tree::{Entry, ReadNodes, diff_range, range};
use crate::{Error, Result};
use repo_format::{ChunkId, Device, FileKind, Inode, Key};

/// What tells contents apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::catalog) struct Content {
    kind: Option<FileKind>,
    /// Of regular files.
    pub(in crate::catalog) size: u64,
    device: Option<(u32, u32)>,
    sum: [u64; 4],
}

/// What of an inode is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// Bytes, target or device number.
    pub(super) content: bool,
    /// Mode, owner, modification time, flags or extended attributes.
    pub(super) metadata: bool,
}

impl Content {
    /// Reads all that belongs to an inode.
    pub(in crate::catalog) fn read(nodes: &dyn ReadNodes, root: &ChunkId, ino: u64) -> Result<Self> {
        let (from, to) = keys_of(ino);
        let mut content = Self { kind: None, size: 0, device: None, sum: [0; 4] };
        for entry in range(nodes, root, &from) {
            let entry = entry?;
            if entry.key() >= to.as_slice() {
                break;
            }
            content.put(&entry)?;
        }
        match content.kind {
            Some(_) => Ok(content),
            None => Err(Error::damaged(format!("the restore point names inode {ino} but does not have it"))),
        }
    }

    /// The same inode's content in tree `new`, from what it is in tree `old`.
    pub(in crate::catalog) fn follow(
        &self,
        nodes: &dyn ReadNodes,
        old: &ChunkId,
        new: &ChunkId,
        ino: u64,
    ) -> Result<Self> {
        let (from, to) = keys_of(ino);
        let mut content = *self;
        for change in diff_range(nodes, old, new, from, to) {
            let change = change?;
            if let Some(old) = &change.old {
                content.take(old)?;
            }
            if let Some(new) = &change.new {
                content.put(new)?;
            }
        }
        Ok(content)
    }

    /// A name for this content that is shorter than what it says.
    pub(in crate::catalog) fn name(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        let (major, minor) = self.device.unwrap_or_default();
        hasher.update(&[self.kind.map_or(0, |kind| kind as u8), u8::from(self.device.is_some())]);
        hasher.update(&major.to_le_bytes()).update(&minor.to_le_bytes()).update(&self.size.to_le_bytes());
        hasher.update(self.sum.map(u64::to_le_bytes).as_flattened());
        hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        if let Some(value) = self.inode_or_hash(entry)? {
            self.sum.iter_mut().zip(value).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
        }
        Ok(())
    }

    fn take(&mut self, entry: &Entry) -> Result<()> {
        if let Some(value) = self.inode_or_hash(entry)? {
            self.sum.iter_mut().zip(value).for_each(|(sum, value)| *sum = sum.wrapping_sub(value));
        }
        Ok(())
    }

    /// Takes over an inode; hashes an entry of content, without the inode's number.
    fn inode_or_hash(&mut self, entry: &Entry) -> Result<Option<[u64; 4]>> {
        match Key::decode(entry.key()).map_err(Error::from)? {
            Key::Inode(_) => {
                let inode = Inode::decode(entry.value()).map_err(Error::from)?;
                self.kind = Some(inode.kind());
                self.size = if inode.kind() == FileKind::File { inode.size } else { 0 };
                self.device = inode.rdev.map(|Device { major, minor }| (major, minor));
                Ok(None)
            }
            Key::Extent(..) | Key::Target(_) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(entry.key().get(8..).unwrap_or_default()).update(entry.value());
                let hash = hasher.finalize();
                let mut lanes = [0; 4];
                for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
                    *lane = u64::from_le_bytes(*bytes);
                }
                Ok(Some(lanes))
            }
            _ => Ok(None),
        }
    }
}

/// What of an inode a restore would bring back differently. The time of a directory is left out: it
/// changes with every name in it, and the name is the news.
pub(super) fn metadata_differs(old: &Inode, new: &Inode) -> bool {
    let time = old.kind() != FileKind::Dir && old.mtime != new.mtime;
    time || (old.mode, old.uid, old.gid, old.flags) != (new.mode, new.uid, new.gid, new.flags)
}

/// What changed of an inode that is in both trees under one number.
pub(super) fn changes(nodes: &dyn ReadNodes, old: &ChunkId, new: &ChunkId, ino: u64) -> Result<Changes> {
    let (from, to) = keys_of(ino);
    let mut found = Changes::default();
    for change in diff_range(nodes, old, new, from, to) {
        let change = change?;
        match Key::decode(change.key()).map_err(Error::from)? {
            Key::Inode(_) => {
                let (Some(old), Some(new)) = (&change.old, &change.new) else { continue };
                let (old, new) = (
                    Inode::decode(old.value()).map_err(Error::from)?,
                    Inode::decode(new.value()).map_err(Error::from)?,
                );
                found.content |= old.kind() == FileKind::File && old.size != new.size || old.rdev != new.rdev;
                found.metadata |= metadata_differs(&old, &new);
            }
            Key::Extent(..) | Key::Target(_) => found.content = true,
            Key::Xattr(..) => found.metadata = true,
            _ => {}
        }
    }
    Ok(found)
}
