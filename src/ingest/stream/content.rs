//! One file's content while a stream changes it.
//!
//! Two layers. Below, the *layout*: extents as a full read of the content would cut them, which are the rows of the
//! tree the state began from, without those that are cleared, and with new rows. Above, *staged* pieces: ranges
//! that hold something else by now and are not cut yet. `recut` moves pieces from the upper layer to the lower.
//!
//! Invariant: every offset below `size` is in a staged piece or below `layout_size`. Staged pieces neither overlap
//! nor are empty; they may reach past `size`, which then says what a file that grows again holds there.

use repo_format::{ChunkId, Extent};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Names a content for as long as the overlay holds it; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct ContentId(pub(super) u64);

/// See above.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// The inode of the base tree whose extents lie below.
    pub(super) base: Option<u64>,
    /// Of these, the ones that begin in such a range are gone.
    pub(super) cleared: Ranges,
    /// Extents in their place.
    pub(super) rows: BTreeMap<u64, Extent>,
    /// The size of the file for which the layout was cut.
    pub(super) layout_size: u64,
    /// The size by now.
    pub(super) size: u64,
    /// What is not cut yet.
    pub(super) staged: BTreeMap<u64, Piece>,
    /// Some of `staged` must be read from the source.
    pub(super) has_unread: bool,
    /// Cutting paused at the first offset, which is a cut, in a piece that began at the second.
    pub(super) paused: Option<(u64, u64)>,
    /// The layout as clones took it, until it changes.
    pub(super) shared: Option<Arc<Layout>>,
}

/// A staged range; its start is its key.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The offset behind it.
    pub(super) end: u64,
    pub(super) what: What,
}

/// What a staged range holds. Positions belong to the start of the piece.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// Zeros.
    Hole,
    /// Bytes of the spool from here.
    Spool(u64),
    /// Content of another layout from this offset of it.
    Layout(Arc<Layout>, u64),
    /// What the source holds there.
    Unread,
}

/// A layout that does not change any more.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) rows: LayoutRows,
    /// Size of the file it belongs to, in bytes.
    pub(super) size: u64,
}

/// Where its extents are.
#[derive(Debug)]
pub(super) enum LayoutRows {
    /// In a tree.
    Tree { root: ChunkId, ino: u64 },
    /// Here, ascending.
    List(Vec<(u64, Extent)>),
}

impl What {
    /// What a piece holds whose start is `by` bytes on.
    fn advanced(&self, by: u64) -> Self {
        match self {
            Self::Spool(at) => Self::Spool(at + by),
            Self::Layout(layout, at) => Self::Layout(Arc::clone(layout), at + by),
            Self::Hole | Self::Unread => self.clone(),
        }
    }

    /// Whether `next`, `by` bytes behind the start of this, goes on where this ends.
    fn goes_on(&self, by: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Hole, Self::Hole) | (Self::Unread, Self::Unread) => true,
            (Self::Spool(a), Self::Spool(b)) => a + by == *b,
            (Self::Layout(a, from), Self::Layout(b, to)) => from.checked_add(by) == Some(*to) && a.is(b),
            _ => false,
        }
    }
}

impl Layout {
    fn is(&self, other: &Self) -> bool {
        let tree = |layout: &Self| match &layout.rows {
            LayoutRows::Tree { root, ino } => Some((*root, *ino)),
            LayoutRows::List(_) => None,
        };
        std::ptr::eq(self, other) || (tree(self).is_some() && tree(self) == tree(other))
    }
}

impl Content {
    /// The content of an inode of the base tree.
    pub(super) fn of_base(ino: u64, size: u64) -> Self {
        Self { base: Some(ino), layout_size: size, size, ..Self::default() }
    }

    /// Whether the layout is all there is.
    pub(super) fn is_cut(&self) -> bool {
        self.staged.is_empty() && self.size == self.layout_size
    }

    /// Whether nothing but holes was ever in it.
    pub(super) fn is_blank(&self) -> bool {
        let is_hole = |piece: &Piece| matches!(piece.what, What::Hole);
        self.base.is_none() && self.rows.is_empty() && self.layout_size == 0 && self.staged.values().all(is_hole)
    }

    /// Puts a piece over what is in its range. The file grows to its end. Returns the bytes of memory it takes.
    pub(super) fn stage(&mut self, range: Range<u64>, what: What) -> usize {
        if range.start > self.size {
            self.cover(self.size..range.start, What::Hole);
        }
        self.size = self.size.max(range.end);
        self.cover(range, what);
        size_of::<(u64, Piece)>() * 2
    }

    /// As [`Content::stage`], and the size stays.
    pub(super) fn stage_inside(&mut self, range: Range<u64>, what: What) -> usize {
        let end = range.end.min(self.size);
        if range.start < end {
            self.cover(range.start..end, what);
        }
        size_of::<(u64, Piece)>() * 2
    }

    /// Sets the size; what is beyond goes away for good.
    pub(super) fn resize(&mut self, size: u64) {
        if size > self.size {
            self.cover(self.size..size, What::Hole);
        } else if size < self.size {
            self.cut_out(size..u64::MAX);
            if size < self.layout_size {
                self.cover(size..self.layout_size, What::Hole);
            }
        }
        self.size = size;
    }

    fn cover(&mut self, mut range: Range<u64>, mut what: What) {
        if range.is_empty() {
            return;
        }
        self.has_unread |= matches!(what, What::Unread);
        self.shared = None;
        self.cut_out(range.clone());
        if let Some((start, before)) = self.staged.range(..range.start).next_back()
            && before.end == range.start
            && before.what.goes_on(before.end - start, &what)
        {
            (range.start, what) = (*start, before.what.clone());
        }
        if let Some(after) = self.staged.get(&range.end)
            && what.goes_on(range.end - range.start, &after.what)
        {
            let end = after.end;
            self.staged.remove(&range.end);
            range.end = end;
        }
        self.staged.insert(range.start, Piece { end: range.end, what });
    }

    /// Takes away what is staged in a range.
    pub(super) fn cut_out(&mut self, range: Range<u64>) {
        self.paused = None;
        if let Some((start, piece)) = self.staged.range(..range.start).next_back().map(|(s, p)| (*s, p.clone()))
            && piece.end > range.start
        {
            self.staged.insert(start, Piece { end: range.start, what: piece.what.clone() });
            if piece.end > range.end {
                let what = piece.what.advanced(range.end - start);
                self.staged.insert(range.end, Piece { end: piece.end, what });
            }
        }
        while let Some((start, piece)) = self.staged.range(range.clone()).next().map(|(s, p)| (*s, p.clone())) {
            self.staged.remove(&start);
            if piece.end > range.end {
                let what = piece.what.advanced(range.end - start);
                self.staged.insert(range.end, Piece { end: piece.end, what });
                break;
            }
        }
    }

    /// The staged piece that holds `offset`, if one does, with its start; else the start of the next one.
    pub(super) fn piece_at(&self, offset: u64) -> std::result::Result<(u64, &Piece), Option<u64>> {
        match self.staged.range(..=offset).next_back() {
            Some((start, piece)) if piece.end > offset => Ok((*start, piece)),
            _ => Err(self.staged.range(offset..).next().map(|(start, _)| *start)),
        }
    }

    /// Takes the layout's extents that begin in a range away.
    pub(super) fn clear(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.shared = None;
        while let Some((start, _)) = self.rows.range(range.clone()).next() {
            let start = *start;
            self.rows.remove(&start);
        }
        if self.base.is_some() {
            self.cleared.add(range);
        }
    }
}

/// A set of offsets, as ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range.
    pub(super) fn add(&mut self, mut range: Range<u64>) {
        if let Some((start, end)) = self.0.range(..=range.start).next_back()
            && *end >= range.start
        {
            range = *start..range.end.max(*end);
        }
        while let Some((start, end)) = self.0.range(range.start..=range.end).next().map(|(s, e)| (*s, *e)) {
            range.end = range.end.max(end);
            self.0.remove(&start);
        }
        self.0.insert(range.start, range.end);
    }

    /// The end of the range that holds `offset`, if one does.
    pub(super) fn end_around(&self, offset: u64) -> Option<u64> {
        let (_, end) = self.0.range(..=offset).next_back()?;
        Some(*end).filter(|end| *end > offset)
    }

    /// The ranges, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Hole(u64, u64),
        Spool(u64, u64, u64),
        Resize(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40_u64, 1..20_u64).prop_map(|(at, len)| Step::Hole(at, len)),
            (0..40_u64, 1..20_u64, 100..150_u64).prop_map(|(at, len, spool)| Step::Spool(at, len, spool)),
            (0..60_u64).prop_map(Step::Resize),
        ];
        prop::collection::vec(step, 0..12)
    }

    /// What each byte is: 0 for a hole, the spool's offset, or 1000 and more for the layout below.
    fn bytes(content: &Content) -> Vec<u64> {
        let byte = |at: u64| match content.piece_at(at) {
            Ok((_, Piece { what: What::Hole, .. })) => 0,
            Ok((start, Piece { what: What::Spool(spool), .. })) => spool + at - start,
            Ok(_) => unreachable!(),
            Err(_) => {
                assert!(at < content.layout_size, "byte {at} is nowhere");
                1000 + at
            }
        };
        (0..content.size).map(byte).collect()
    }

    proptest! {
        #[test]
        fn pieces_are_what_bytes_would_be(size in 0..50_u64, steps in steps()) {
            let mut content = Content::of_base(7, size);
            let mut model: Vec<u64> = (0..size).map(|at| 1000 + at).collect();
            for step in steps {
                match step {
                    Step::Hole(at, len) => {
                        content.stage_inside(at..at + len, What::Hole);
                        let end = model.len().min((at + len) as usize);
                        (at as usize..end).for_each(|at| model[at] = 0);
                    }
                    Step::Spool(at, len, spool) => {
                        content.stage(at..at + len, What::Spool(spool));
                        model.resize(model.len().max((at + len) as usize), 0);
                        (0..len).for_each(|by| model[(at + by) as usize] = spool + by);
                    }
                    Step::Resize(size) => {
                        content.resize(size);
                        model.resize(size as usize, 0);
                    }
                }
                prop_assert_eq!(bytes(&content), &model[..]);
                let mut last = 0;
                for (start, piece) in &content.staged {
                    prop_assert!(*start >= last && piece.end > *start);
                    last = piece.end;
                }
            }
        }

        #[test]
        fn ranges_are_sets(parts in prop::collection::vec((0..60_u64, 1..12_u64), 0..12)) {
            let mut ranges = Ranges::default();
            let mut model = std::collections::BTreeSet::new();
            for (start, len) in parts {
                ranges.add(start..start + len);
                model.extend(start..start + len);
            }
            for at in 0..80 {
                prop_assert_eq!(ranges.end_around(at).is_some(), model.contains(&at));
            }
            let all: Vec<_> = ranges.iter().collect();
            prop_assert!(all.windows(2).all(|two| two[0].end < two[1].start));
        }
    }
}
