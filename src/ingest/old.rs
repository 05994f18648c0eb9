//! The parent point's tree, as the scan asks it; and the comparison of new rows with the old ones.

use crate::Result;
use crate::catalog::tree::{self, Edit, Entry, Range, ReadNodes};
use repo_format::{ChunkId, Extent, Inode, Key, KeyKind};

/// Edits on their way to the batch.
pub(super) type Edits = Vec<(Vec<u8>, Edit)>;

/// The tree that is compared with.
#[derive(Clone, Copy)]
pub(super) struct OldTree<'a> {
    pub(super) nodes: &'a dyn ReadNodes,
    pub(super) root: ChunkId,
}

impl<'a> OldTree<'a> {
    /// All entries of one kind of one inode.
    pub(super) fn rows(&self, ino: u64, kind: KeyKind) -> Range<'a> {
        tree::range_prefix(self.nodes, &self.root, &Key::prefix(ino, kind))
    }

    /// The extents of one inode that begin at `offset` or behind it.
    pub(super) fn extents(&self, ino: u64, offset: u64) -> Range<'a> {
        let mut rows = self.rows(ino, KeyKind::Extent);
        rows.seek(&Key::Extent(ino, offset).encode());
        rows
    }

    /// All entries of one inode.
    pub(super) fn all_rows(&self, ino: u64) -> Range<'a> {
        tree::range_prefix(self.nodes, &self.root, &ino.to_be_bytes())
    }

    /// Look-ups that mostly go forwards.
    pub(super) fn finger(&self) -> Finger<'a> {
        Finger { range: tree::range(self.nodes, &self.root, &[]) }
    }

    /// The attributes of one inode.
    pub(super) fn inode(&self, ino: u64) -> Result<Option<Inode>> {
        let entry = tree::get(self.nodes, &self.root, &Key::Inode(ino).encode())?;
        Ok(entry.map(|entry| Inode::decode(entry.value())).transpose()?)
    }
}

/// A place in the old tree from which near keys are found without walking down again.
pub(super) struct Finger<'a> {
    range: Range<'a>,
}

impl Finger<'_> {
    /// The entry with exactly this key.
    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Entry>> {
        self.range.seek(key);
        let entry = self.range.next().transpose()?;
        Ok(entry.filter(|entry| entry.key() == key))
    }
}

/// Compares the rows of one kind of one inode with the old ones, in key order, and makes the edits.
pub(super) struct RowMerge<'a> {
    old: Option<Range<'a>>,
    ahead: Option<Entry>,
}

impl<'a> RowMerge<'a> {
    /// With the old rows, if the old tree has the inode.
    pub(super) fn new(old: Option<Range<'a>>) -> Result<Self> {
        let mut merge = Self { old, ahead: None };
        merge.advance()?;
        Ok(merge)
    }

    fn advance(&mut self) -> Result<()> {
        self.ahead = match &mut self.old {
            Some(rows) => rows.next().transpose()?,
            None => None,
        };
        Ok(())
    }

    /// The next new row; keys ascend.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, edits: &mut Edits) -> Result<()> {
        self.delete_below(Some(&key), edits)?;
        let same_key = self.ahead.as_ref().filter(|old| old.key() == key);
        let unchanged = same_key.is_some_and(|old| old.value() == value);
        if same_key.is_some() {
            self.advance()?;
        }
        if !unchanged {
            edits.push((key, Edit::Put(value)));
        }
        Ok(())
    }

    /// No more new rows follow.
    pub(super) fn finish(&mut self, edits: &mut Edits) -> Result<()> {
        self.delete_below(None, edits)
    }

    /// No more new rows below `key` follow; what is not below it is left to others.
    pub(super) fn finish_below(&mut self, key: &[u8], edits: &mut Edits) -> Result<()> {
        self.delete_below(Some(key), edits)
    }

    fn delete_below(&mut self, key: Option<&[u8]>, edits: &mut Edits) -> Result<()> {
        while let Some(old) = self.ahead.take_if(|old| key.is_none_or(|key| old.key() < key)) {
            edits.push((old.key().to_vec(), Edit::Delete));
            self.advance()?;
        }
        Ok(())
    }
}

/// Where the old tree's state of a file was cut. Where an old chunk's bytes stand again at their old place, to hash them costs
/// less than to look for the cut behind them.
pub(super) struct OldCuts<'a> {
    rows: Option<Range<'a>>,
    this: Option<(u64, Extent)>,
}

impl<'a> OldCuts<'a> {
    /// Of the old extents, if the old tree has the inode.
    pub(super) const fn new(rows: Option<Range<'a>>) -> Self {
        Self { rows, this: None }
    }

    /// The old chunk that began at `offset`, which does not fall from call to call, and its length.
    pub(super) fn at(&mut self, offset: u64) -> Option<(ChunkId, usize)> {
        while self.this.is_none_or(|(at, _)| at < offset) {
            // A row that cannot be read ends them: whoever needs the rows themselves says what is wrong.
            let Some(Ok(entry)) = self.rows.as_mut().and_then(Iterator::next) else {
                self.rows = None;
                return None;
            };
            if let (Ok(Key::Extent(_, at)), Ok(extent)) = (Key::decode(entry.key()), Extent::decode(entry.value())) {
                self.this = Some((at, extent));
            }
        }
        let (_, extent) = self.this.filter(|(at, extent)| *at == offset && extent.skip == 0 && extent.len > 0)?;
        Some((extent.chunk, extent.len as usize))
    }
}
