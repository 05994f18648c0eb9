//! The extents of a layout in order, wherever they are: in a tree, in a list, or in a tree with changes.

use super::content::{Content, Layout, LayoutRows};
use crate::Result;
use crate::catalog::tree::{self, Range, ReadNodes};
use repo_format::{ChunkId, Extent, Key, KeyKind};
use std::collections::btree_map;
use std::iter::Peekable;

/// Extents that end behind an offset, ascending. Ends after the first error.
pub(super) struct Rows<'a> {
    tree: Option<TreeRows<'a>>,
    list: Peekable<ListRows<'a>>,
    content: Option<&'a Content>,
    ahead: Option<(u64, Extent)>,
}

enum ListRows<'a> {
    Slice(std::slice::Iter<'a, (u64, Extent)>),
    Map { covering: Option<(u64, Extent)>, rest: btree_map::Range<'a, u64, Extent> },
}

impl Iterator for ListRows<'_> {
    type Item = (u64, Extent);

    fn next(&mut self) -> Option<(u64, Extent)> {
        match self {
            Self::Slice(rows) => rows.next().copied(),
            Self::Map { covering, rest } => covering.take().or_else(|| rest.next().map(|(at, row)| (*at, *row))),
        }
    }
}

/// Where the base of a content is.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) nodes: &'a dyn ReadNodes,
    pub(super) root: Option<ChunkId>,
}

impl<'a> Rows<'a> {
    /// Of a layout that clones took.
    pub(super) fn of_layout(nodes: &'a dyn ReadNodes, layout: &'a Layout, from: u64) -> Result<Self> {
        match &layout.rows {
            LayoutRows::Tree { root, ino } => {
                let tree = Some(TreeRows::new(nodes, root, *ino, from)?);
                Self::start(tree, ListRows::Slice([].iter()), None)
            }
            LayoutRows::List(rows) => {
                let first = rows.partition_point(|(at, row)| at + u64::from(row.len) <= from);
                let rows = rows.get(first..).unwrap_or_default();
                Self::start(None, ListRows::Slice(rows.iter()), None)
            }
        }
    }

    /// Of a content's own layout.
    pub(super) fn of_content(base: Base<'a>, content: &'a Content, from: u64) -> Result<Self> {
        let tree = match (base.root, content.base) {
            (Some(root), Some(ino)) => Some(TreeRows::new(base.nodes, &root, ino, from)?),
            _ => None,
        };
        let covering = content.rows.range(..=from).next_back().map(|(at, row)| (*at, *row));
        let covering = covering.filter(|(at, row)| at + u64::from(row.len) > from);
        let rest = content.rows.range(from.saturating_add(1)..);
        Self::start(tree, ListRows::Map { covering, rest }, Some(content))
    }

    fn start(tree: Option<TreeRows<'a>>, list: ListRows<'a>, content: Option<&'a Content>) -> Result<Self> {
        let mut rows = Self { tree, list: list.peekable(), content, ahead: None };
        rows.advance()?;
        Ok(rows)
    }

    /// Takes the tree's next extent that is not cleared.
    fn advance(&mut self) -> Result<()> {
        self.ahead = None;
        let Some(tree) = &mut self.tree else { return Ok(()) };
        while let Some((at, row)) = tree.next()? {
            match self.content.and_then(|content| content.cleared.end_around(at)) {
                Some(end) => tree.seek(end),
                None => {
                    self.ahead = Some((at, row));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The next extent, which stays.
    pub(super) fn peek(&mut self) -> Option<(u64, Extent)> {
        let listed = self.list.peek().copied();
        match (self.ahead, listed) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// The next extent.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Extent)>> {
        let next = self.peek();
        if next.is_some() && next == self.ahead {
            self.advance()?;
        } else {
            self.list.next();
        }
        Ok(next)
    }
}

/// Extents of an inode of a tree.
struct TreeRows<'a> {
    ino: u64,
    covering: Option<(u64, Extent)>,
    rest: Range<'a>,
}

impl<'a> TreeRows<'a> {
    fn new(nodes: &'a dyn ReadNodes, root: &ChunkId, ino: u64, from: u64) -> Result<Self> {
        let mut covering = None;
        if let Some(entry) = tree::floor(nodes, root, &Key::Extent(ino, from).encode())?
            && let Some(at) = offset_of(entry.key(), ino)
        {
            covering = Some((at, Extent::decode(entry.value())?));
        }
        let covering = covering.filter(|(at, row)| at + u64::from(row.len) > from);
        let rest = tree::range_prefix(nodes, root, &Key::prefix(ino, KeyKind::Extent));
        let mut rows = Self { ino, covering, rest };
        rows.rest.seek(&Key::Extent(ino, from.saturating_add(1)).encode());
        Ok(rows)
    }

    fn seek(&mut self, offset: u64) {
        self.covering = None;
        self.rest.seek(&Key::Extent(self.ino, offset).encode());
    }

    fn next(&mut self) -> Result<Option<(u64, Extent)>> {
        if let Some(row) = self.covering.take() {
            return Ok(Some(row));
        }
        let Some(entry) = self.rest.next().transpose()? else { return Ok(None) };
        let Some(at) = offset_of(entry.key(), self.ino) else { return Ok(None) };
        Ok(Some((at, Extent::decode(entry.value())?)))
    }
}

/// The offset in the key of an extent of `ino`.
fn offset_of(key: &[u8], ino: u64) -> Option<u64> {
    match Key::decode(key) {
        Ok(Key::Extent(of, offset)) if of == ino => Some(offset),
        _ => None,
    }
}
