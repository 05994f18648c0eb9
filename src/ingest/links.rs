//! Inodes with more than one name in the source: their names in the tree are counted.

use repo_format::{FileKind, SourceIdentity};
use std::collections::HashMap;
use std::sync::Arc;

/// Further names that are remembered, about a hundred bytes each; of files with more, some names cannot be tried.
const MAX_OTHER_NAMES: usize = 100_000;

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

/// A further name of a file that is read in this run.
#[derive(Debug, Clone)]
pub(super) struct OtherName {
    /// Path of its directory.
    pub(super) dir: Arc<[u8]>,
    pub(super) name: Box<[u8]>,
}

/// Such inodes by where they are in the source. Only these are kept in memory.
#[derive(Default)]
pub(super) struct Links {
    links: HashMap<(u32, u64), Link>,
    /// Other names than the first, should that have gone when the file is read.
    others: HashMap<(u32, u64), Vec<OtherName>>,
    other_names: usize,
}

impl Links {
    /// Keeps an inode at its first name.
    pub(super) fn add(&mut self, source: SourceIdentity, link: Link) {
        self.links.insert((source.fs, source.ino), link);
    }

    /// Counts another name of an inode that is known; None at the first name.
    pub(super) fn another_name(
        &mut self,
        source: SourceIdentity,
        kind: FileKind,
        name: impl FnOnce() -> OtherName,
    ) -> Option<AnotherName> {
        let place = (source.fs, source.ino);
        let link = self.links.get_mut(&place).filter(|link| link.kind == kind)?;
        link.names += 1;
        let is_read = link.old_nlink.is_none();
        if is_read && kind == FileKind::File && self.other_names < MAX_OTHER_NAMES {
            self.others.entry(place).or_default().push(name());
            self.other_names += 1;
        }
        Some(AnotherName { ino: link.ino, is_read })
    }

    /// Names that an inode has beside the first.
    pub(super) fn other_names(&mut self, source: SourceIdentity) -> Vec<OtherName> {
        self.others.remove(&(source.fs, source.ino)).unwrap_or_default()
    }

    /// A name that was counted is not there any more.
    pub(super) fn lose_name(&mut self, source: SourceIdentity) {
        if let Some(link) = self.links.get_mut(&(source.fs, source.ino)) {
            link.names = link.names.saturating_sub(1);
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }
}
