//! Package header and footer: what makes a package self-describing (SPEC.md section 4).

use crate::error::{Problem, Result};
use crate::id::{PackageId, RepoId};
use crate::segment::{MAX_SEGMENT_CHUNKS, SEGMENT_HEADER_BYTES, TABLE_ENTRY_BYTES};
use crate::wire::{Reader, Writer, len_u32};
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of a package header; the first segment follows.
pub const PACKAGE_HEADER_BYTES: usize = 64;
/// Bytes at the very end of a sealed package that lead to its footer.
pub const FOOTER_TRAILER_BYTES: usize = 24;

const MAGIC: &[u8; 8] = b"RELICTPK";
const FOOTER_MAGIC: &[u8; 4] = b"RFTR";
const END_MAGIC: &[u8; 4] = b"RPKE";
/// Bytes of one row of a package footer.
pub const FOOTER_ENTRY_BYTES: usize = 20;
/// Longest package, in bytes: the index keeps offsets in 32 bits.
pub const MAX_PACKAGE_BYTES: u64 = u32::MAX as u64;
const ENCRYPTED: u8 = 1;

/// What a package holds. Zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PackageKind {
    /// Segments of file content.
    Data = 1,
    /// Segments of tree nodes and restore point records.
    Meta = 2,
}

/// The first bytes of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageHeader {
    /// What it holds.
    pub kind: PackageKind,
    /// Whether its segments are encrypted.
    pub encrypted: bool,
    /// The repository it belongs to.
    pub repo: RepoId,
    /// Its own id, which is also its name and the salt of its key.
    pub package: PackageId,
}

impl PackageHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(PACKAGE_HEADER_BYTES);
        w.bytes(MAGIC).u16(1).u8(self.kind as u8).u8(if self.encrypted { ENCRYPTED } else { 0 }).u32(0);
        w.bytes(&self.repo.0).bytes(&self.package.0);
        w.finish_checked()
    }

    /// Decodes the first [`PACKAGE_HEADER_BYTES`] bytes of a package.
    ///
    /// # Errors
    /// On bytes that [`PackageHeader::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("package header", bytes);
        let bytes = r.take(PACKAGE_HEADER_BYTES)?;
        Reader::new("package header", bytes).magic(MAGIC)?;
        let mut r = Reader::checked("package header", bytes)?;
        r.magic(MAGIC)?;
        if r.u16()? != 1 {
            return Err(r.error(Problem::Version));
        }
        let kind = match r.u8()? {
            1 => PackageKind::Data,
            2 => PackageKind::Meta,
            _ => return Err(r.field("kind")),
        };
        let flags = r.u8()?;
        if flags & !ENCRYPTED != 0 {
            return Err(r.error(Problem::Reserved));
        }
        r.zeros(4)?;
        let header = Self { kind, encrypted: flags != 0, repo: RepoId(r.array()?), package: PackageId(r.array()?) };
        r.end()?;
        Ok(header)
    }
}

/// Where one segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterEntry {
    /// Byte offset of the segment header in the package.
    pub offset: u64,
    /// Bytes of header, table and payload together.
    pub bytes: u32,
    /// The segment's number.
    pub number: u32,
    /// Chunks in it.
    pub chunks: u32,
}

impl FooterEntry {
    /// The name of the field that is wrong, if this is row `index` and the segment must lie in `room`.
    fn validate(&self, index: usize, room: Range<u64>) -> core::result::Result<(), &'static str> {
        let end = self.offset.checked_add(u64::from(self.bytes)).ok_or("offset")?;
        if self.offset < room.start || end > room.end || end > MAX_PACKAGE_BYTES {
            return Err("offset");
        }
        if self.number as usize != index {
            return Err("number");
        }
        let chunks = self.chunks as usize;
        if chunks == 0 || chunks > MAX_SEGMENT_CHUNKS {
            return Err("chunks");
        }
        // The payload has at least one byte.
        if self.bytes as usize <= SEGMENT_HEADER_BYTES + chunks * TABLE_ENTRY_BYTES { Err("bytes") } else { Ok(()) }
    }
}

/// The table of a sealed package's segments, in order of offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackageFooter {
    /// One entry a segment.
    pub entries: Vec<FooterEntry>,
}

impl PackageFooter {
    /// The footer with the trailer that ends the package.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(8 + self.entries.len() * FOOTER_ENTRY_BYTES + FOOTER_TRAILER_BYTES);
        w.bytes(FOOTER_MAGIC).u32(len_u32(self.entries.len()));
        for e in &self.entries {
            w.u64(e.offset).u32(e.bytes).u32(e.number).u32(e.chunks);
        }
        let bytes = len_u32(w.0.len() + FOOTER_TRAILER_BYTES);
        w.bytes(END_MAGIC).u32(bytes);
        w.finish_checked()
    }

    /// Whether a footer may begin with these bytes, although it is damaged further on.
    #[must_use]
    pub fn may_begin(bytes: &[u8]) -> bool {
        bytes.starts_with(FOOTER_MAGIC)
    }

    /// Whether these last [`FOOTER_TRAILER_BYTES`] bytes may be those of a footer, although it is damaged before or in them.
    #[must_use]
    pub fn may_end(trailer: &[u8]) -> bool {
        trailer.starts_with(END_MAGIC)
    }

    /// Bytes of footer and trailer together, from the last [`FOOTER_TRAILER_BYTES`] bytes of a package.
    ///
    /// # Errors
    /// When the package does not end in a trailer: it is not sealed, or its end is damaged.
    pub fn encoded_bytes(trailer: &[u8]) -> Result<usize> {
        let mut r = Reader::new("package trailer", trailer);
        r.magic(END_MAGIC)?;
        let bytes = r.u32()? as usize;
        let entries = bytes.checked_sub(8 + FOOTER_TRAILER_BYTES).ok_or(r.field("footer bytes"))?;
        if entries % FOOTER_ENTRY_BYTES == 0 { Ok(bytes) } else { Err(r.field("footer bytes")) }
    }

    /// Decodes footer and trailer; `bytes` is exactly both, and they begin at `footer_offset` in the package.
    ///
    /// # Errors
    /// On bytes that [`PackageFooter::encode`] would not make, or entries that overlap or lie outside the package.
    pub fn decode(bytes: &[u8], footer_offset: u64) -> Result<Self> {
        let mut r = Reader::checked("package footer", bytes)?;
        r.magic(FOOTER_MAGIC)?;
        let count = r.u32()? as usize;
        if r.remaining() != count.saturating_mul(FOOTER_ENTRY_BYTES).saturating_add(8) {
            return Err(r.field("count"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut floor = PACKAGE_HEADER_BYTES as u64;
        for index in 0..count {
            let e = FooterEntry { offset: r.u64()?, bytes: r.u32()?, number: r.u32()?, chunks: r.u32()? };
            e.validate(index, floor..footer_offset).map_err(|name| r.field(name))?;
            floor = e.offset + u64::from(e.bytes);
            entries.push(e);
        }
        r.magic(END_MAGIC)?;
        if r.u32()? as usize != bytes.len() {
            return Err(r.field("footer bytes"));
        }
        r.end()?;
        Ok(Self { entries })
    }
}

const _: () = {
    // The check is the last 16 bytes of header and trailer alike.
    assert!(PACKAGE_HEADER_BYTES == 8 + 2 + 1 + 1 + 4 + 16 + 16 + 16);
    assert!(FOOTER_TRAILER_BYTES == 4 + 4 + 16);
};
