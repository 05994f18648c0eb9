//! Inodes with more than one name in the source: their names in the tree are counted.

use repo_format::{FileKind, SourceIdentity};
use std::collections::HashMap;

/// An inode that may have more names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) ino: u64,
    pub(super) kind: FileKind,
    /// Names found so far.
    pub(super) names: u32,
    /// If its entries stay as they are in the old tree: the number of names they say.
    pub(super) old_nlink: Option<u32>,
}

/// What another name of an inode needs to know.
pub(super) struct AnotherName {
    pub(super) ino: u64,
    /// Whether its content is read in this run, and may turn out unreadable.
    pub(super) is_read: bool,
}

/// Such inodes by where they are in the source. Only these are kept in memory.
#[derive(Default)]
pub(super) struct Links(HashMap<(u32, u64), Link>);

impl Links {
    /// Keeps an inode at its first name.
    pub(super) fn add(&mut self, source: SourceIdentity, link: Link) {
        self.0.insert((source.fs, source.ino), link);
    }

    /// Counts another name of an inode that is known; None at the first name.
    pub(super) fn another_name(&mut self, source: SourceIdentity, kind: FileKind) -> Option<AnotherName> {
        let link = self.0.get_mut(&(source.fs, source.ino)).filter(|link| link.kind == kind)?;
        link.names += 1;
        Some(AnotherName { ino: link.ino, is_read: link.old_nlink.is_none() })
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }
}
