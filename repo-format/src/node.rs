//! A node of the tree: sorted entries behind an offset table, so that a look-up is a binary search in place (SPEC.md section 6).

use crate::border::entry_bytes;
use crate::error::{FormatError, Problem, Result};
use crate::id::ChunkId;
use crate::key::MAX_NAME_BYTES;
use crate::wire::{Reader, Writer, len_u16, len_u32};
use alloc::vec::Vec;

/// Bytes before the offset table: magic, level, zeros, count.
pub const NODE_HEADER_BYTES: usize = 12;
const MAGIC: &[u8; 4] = b"RNOD";
/// Highest level of a node; leaves have level 0.
pub const MAX_LEVEL: u8 = 31;
/// Longest key, in bytes: inode, kind, name.
pub const MAX_KEY_BYTES: usize = 9 + MAX_NAME_BYTES;

/// A validated node over the bytes of its chunk.
#[derive(Debug, Clone)]
pub struct Node<B> {
    bytes: B,
    level: u8,
    count: usize,
}

impl<B: AsRef<[u8]>> Node<B> {
    /// Validates a node: every length, and that keys ascend strictly.
    ///
    /// # Errors
    /// On bytes that [`NodeWriter`] would not make.
    pub fn decode(bytes: B) -> Result<Self> {
        let all = bytes.as_ref();
        let mut r = Reader::new("tree node", all);
        r.magic(MAGIC)?;
        let level = r.u8()?;
        if level > MAX_LEVEL {
            return Err(r.field("level"));
        }
        r.zeros(3)?;
        let count = r.u32()? as usize;
        r.take(count.checked_mul(4).ok_or(r.error(Problem::Truncated))?)?;
        if count == 0 && level > 0 {
            return Err(r.field("count"));
        }
        let node = Self { bytes, level, count };
        node.validate()?;
        Ok(node)
    }

    fn validate(&self) -> Result<()> {
        let error = |at, problem| FormatError::new("tree node", at, problem);
        let mut end = NODE_HEADER_BYTES + self.count * 4;
        let mut last: Option<&[u8]> = None;
        for index in 0..self.count {
            let stop = self.end_of(index).ok_or_else(|| error(end, Problem::Truncated))?;
            let entry = self.bytes.as_ref().get(end..stop).ok_or_else(|| error(end, Problem::Field("offset")))?;
            let (key, value) = split(entry).ok_or_else(|| error(end, Problem::Field("key length")))?;
            if last.is_some_and(|last| last >= key) {
                return Err(error(end, Problem::Order));
            }
            if self.level > 0 && Child::decode(value).is_none() {
                return Err(error(end, Problem::Field("child")));
            }
            last = Some(key);
            end = stop;
        }
        if end == self.bytes.as_ref().len() { Ok(()) } else { Err(error(end, Problem::Trailing)) }
    }

    fn end_of(&self, index: usize) -> Option<usize> {
        let at = NODE_HEADER_BYTES + index * 4;
        let field = self.bytes.as_ref().get(at..at + 4)?;
        Some(u32::from_le_bytes(field.try_into().ok()?) as usize)
    }

    /// 0 for leaves.
    #[must_use]
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether this is the empty tree's only node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The whole encoded node.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Entry number `index` as (key, value), or None past the end.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<(&[u8], &[u8])> {
        if index >= self.count {
            return None;
        }
        let start = match index.checked_sub(1) {
            Some(before) => self.end_of(before)?,
            None => NODE_HEADER_BYTES + self.count * 4,
        };
        split(self.bytes.as_ref().get(start..self.end_of(index)?)?)
    }

    /// The child behind entry `index` of an inner node.
    #[must_use]
    pub fn child(&self, index: usize) -> Option<Child> {
        let (_, value) = self.entry(index)?;
        if self.level == 0 { None } else { Child::decode(value) }
    }

    /// `Ok(index)` of the entry with this key, or `Err(index)` of the first entry above it.
    ///
    /// # Errors
    /// As for [`slice::binary_search`]: the place where the key would stand.
    pub fn search(&self, key: &[u8]) -> core::result::Result<usize, usize> {
        self.search_within(key, 0, self.count)
    }

    /// As [`Node::search`], faster where the place is a little behind `hint`; a wrong hint is no error.
    ///
    /// # Errors
    /// As [`Node::search`].
    pub fn search_near(&self, key: &[u8], hint: usize) -> core::result::Result<usize, usize> {
        if self.entry(hint).is_none_or(|(at, _)| at > key) {
            return self.search_within(key, 0, hint.min(self.count));
        }
        let (mut low, mut step) = (hint, 1);
        while let Some((at, _)) = self.entry(low + step) {
            if at > key {
                break;
            }
            (low, step) = (low + step, step * 2);
        }
        self.search_within(key, low, self.count.min(low + step))
    }

    /// The search between two indices, of which the key is known not to stand outside.
    fn search_within(&self, key: &[u8], mut low: usize, mut high: usize) -> core::result::Result<usize, usize> {
        while low < high {
            let middle = low.midpoint(high);
            let found = self.entry(middle).map_or(&[][..], |(k, _)| k);
            match found.cmp(key) {
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }
}

fn split(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = entry.split_first_chunk::<2>()?;
    let len = u16::from_le_bytes(*len) as usize;
    if len > MAX_KEY_BYTES {
        return None;
    }
    rest.split_at_checked(len)
}

/// What an inner node says of one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The child node's chunk.
    pub id: ChunkId,
    /// Leaf entries below it.
    pub entries: u64,
}

impl Child {
    /// The child's bytes, the value of an inner entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(40);
        w.bytes(&self.id.0).u64(self.entries);
        w.0
    }

    /// Decodes the value of an inner entry.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new("child", bytes);
        let child = Self { id: ChunkId(r.array().ok()?), entries: r.u64().ok()? };
        r.end().ok()?;
        Some(child)
    }
}

/// Collects entries in key order and writes the node.
#[derive(Default)]
pub struct NodeWriter {
    level: u8,
    ends: Vec<u32>,
    entries: Writer,
}

impl NodeWriter {
    /// An empty node of a level.
    #[must_use]
    pub fn new(level: u8) -> Self {
        Self { level, ..Self::default() }
    }

    /// Appends an entry; the caller keeps keys ascending.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.entries.u16(len_u16(key.len())).bytes(key).bytes(value);
        self.ends.push(len_u32(self.entries.0.len()));
    }

    /// Sum of [`entry_bytes`] so far.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        self.entries.0.len() + 4 * self.ends.len()
    }

    /// Entries so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing was pushed since the last [`NodeWriter::finish`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The encoded node; the writer is empty afterwards and can be used again.
    pub fn finish(&mut self) -> Vec<u8> {
        let base = len_u32(NODE_HEADER_BYTES + 4 * self.ends.len());
        let mut w = Writer::with_capacity(base as usize + self.entries.0.len());
        w.bytes(MAGIC).u8(self.level).bytes(&[0; 3]).u32(len_u32(self.ends.len()));
        for end in &self.ends {
            w.u32(base.saturating_add(*end));
        }
        w.bytes(&self.entries.0);
        self.ends.clear();
        self.entries.0.clear();
        w.0
    }
}

const _: () = assert!(entry_bytes(0, 0) == 6);
