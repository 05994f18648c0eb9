//! Lists of what changed on a disk since another state of it, as three kinds of producers write them.
//!
//! | module | holds |
//! |---|---|
//! | [`json`] | our own documented JSON (SPEC.md section 15), for everything that can be turned into it |
//! | [`qemu_map`] | `qemu-img map --output=json`: of an overlay, what differs from its backing file |
//! | [`thin_delta`] | the XML of `thin_delta`: two snapshots of a dm-thin pool |
//!
//! A list that is not understood to its last byte says nothing: the disk is then read whole.

pub mod json;
pub mod qemu_map;
#[cfg(test)]
mod tests;
pub mod thin_delta;

use super::bad;
use crate::Result;
use repo_format::MAX_FILE_BYTES;

/// Longest list in bytes; it bounds the memory for what is in it.
pub const MAX_LIST_BYTES: u64 = 64 << 20;

/// A range that is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRange {
    /// First byte.
    pub offset: u64,
    /// Bytes, not 0.
    pub len: u64,
    /// Whether it is zeros now, so that it need not be read.
    pub zero: bool,
}

/// What changed on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtentList {
    /// Name of the state that it is against, if the list says so.
    pub base: Option<Vec<u8>>,
    /// Size of the disk now, in bytes, if the list says so.
    pub size: Option<u64>,
    /// Ascending, not overlapping, and no two of one kind that touch.
    pub ranges: Vec<ChangedRange>,
    /// Where the list has come to, in bytes of the disk.
    at: u64,
}

impl ExtentList {
    /// A list of `ranges`, which ascend and do not overlap, of a disk of `size` bytes.
    pub(super) fn new(base: &[u8], size: u64, ranges: Vec<ChangedRange>) -> Self {
        Self { base: Some(base.to_vec()), size: Some(size), ranges, at: size }
    }

    /// Adds the next range; unchanged ones too, so that their order is looked at.
    fn add(&mut self, offset: u64, len: u64, changed: Option<bool>) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_BYTES);
        let Some(end) = end else { return Err(bad(format!("a range of {len} bytes at {offset} is beyond any disk"))) };
        if len == 0 {
            return Err(bad(format!("the range at {offset} has no bytes")));
        }
        if offset < self.at {
            return Err(bad(format!("the range at {offset} begins before the end of the one before, {}", self.at)));
        }
        self.at = end;
        let Some(zero) = changed else { return Ok(()) };
        match self.ranges.last_mut() {
            Some(last) if last.zero == zero && last.offset + last.len == offset => last.len += len,
            _ => self.ranges.push(ChangedRange { offset, len, zero }),
        }
        Ok(())
    }
}

/// Parses a list of any kind: the first byte tells them apart.
///
/// # Errors
/// For what is none of them, or not valid as what it begins as.
pub fn parse(list: &[u8]) -> Result<ExtentList> {
    match list.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => json::parse(list),
        Some(b'[') => qemu_map::parse(list),
        Some(b'<') => thin_delta::parse(list),
        _ => Err(bad("it is no list of changed extents: neither JSON nor thin_delta's XML")),
    }
}
