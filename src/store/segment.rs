//! Segments between memory and package: compress and seal, open and verify (SPEC.md section 4).

use super::buffers::Buffer;
use super::keys::PackageKey;
use crate::error::{Error, Result};
use repo_format::{Codec, SegmentHeader, SegmentKind, TableEntry, check_of};
use std::cell::RefCell;
use std::str::FromStr;
use zstd::zstd_safe::{CParameter, Strategy};

/// How hard segments are compressed. Readers need not know: each segment says its codec (SPEC.md section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// By zstd at this level, 1 to 19. At level 1, [`Search`] says where a bit more is done.
    Zstd(u8),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Compression {
    /// As one number: 0 is off.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Zstd(level) => level,
        }
    }

    pub(super) const fn from_number(number: u8) -> Self {
        if number == 0 { Self::Off } else { Self::Zstd(number) }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("off", _) => Ok(Self::Off),
            (_, Ok(level @ 1..=19)) => Ok(Self::Zstd(level)),
            _ => Err("'off', or a level from 1 (fast) to 19 (small)".into()),
        }
    }
}

/// A compressed, not yet sealed segment: its number and place are the packager's to give.
pub(super) struct Packed {
    header: SegmentHeader,
    payload: Vec<u8>,
}

/// Where zstd searches for matches at level 1; other levels search as zstd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// In one table, as zstd does.
    Once,
    /// In two tables, small enough for a core's cache: two kernel trees get 6 % smaller for 7 % more of a backup's CPU time.
    Twice,
}

impl Search {
    fn compressor(self, level: u8) -> std::io::Result<zstd::bulk::Compressor<'static>> {
        let mut compressor = zstd::bulk::Compressor::new(level.into())?;
        if self == Self::Twice && level == 1 {
            for parameter in [
                CParameter::Strategy(Strategy::ZSTD_dfast),
                CParameter::MinMatch(5),
                CParameter::HashLog(15),
                CParameter::ChainLog(15),
            ] {
                compressor.set_parameter(parameter)?;
            }
        }
        Ok(compressor)
    }
}

thread_local! {
    /// One for each search, with the level it was made for: a thread takes large and small files in turn.
    static COMPRESSORS: RefCell<[Option<(u8, zstd::bulk::Compressor<'static>)>; 2]> = const { RefCell::new([None, None]) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Packed {
    /// Compresses `raw`, the concatenation of the chunks of `table`.
    pub(super) fn new(
        kind: SegmentKind,
        table: Vec<TableEntry>,
        raw: &[u8],
        how: Compression,
        search: Search,
    ) -> Result<Self> {
        let compressed = match how {
            Compression::Off => None,
            Compression::Zstd(level) => Some(compress(raw, level, search)?),
        };
        // Decompression must pay for itself: at least a 32nd.
        let (codec, payload) = match compressed {
            Some(bytes) if bytes.len() + raw.len() / 32 < raw.len() => (Codec::Zstd, bytes),
            _ => (Codec::Raw, raw.to_vec()),
        };
        let stored_bytes = payload.len() as u32;
        let header = SegmentHeader { kind, codec, number: 0, stored_bytes, payload_check: [0; 16], table };
        Ok(Self { header, payload })
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.header.segment_bytes()
    }

    pub(super) fn table(&self) -> &[TableEntry] {
        &self.header.table
    }

    /// Encrypts or checksums the payload under its final number; returns header bytes and payload.
    pub(super) fn seal(mut self, number: u32, key: Option<&PackageKey>) -> Result<(Vec<u8>, Vec<u8>)> {
        self.header.number = number;
        self.header.payload_check = match key {
            Some(key) => key.seal(number, &self.header.associated_data(), &mut self.payload)?,
            None => check_of(&self.payload),
        };
        Ok((self.header.encode(), self.payload))
    }
}

fn compress(raw: &[u8], level: u8, search: Search) -> Result<Vec<u8>> {
    COMPRESSORS.with_borrow_mut(|slots| {
        let failed = |e| Error::io("compressing a segment", e);
        let slot = &mut slots[search as usize];
        let (_, compressor) = match slot.take_if(|(made_for, _)| *made_for == level) {
            Some(ready) => slot.insert(ready),
            None => slot.insert((level, search.compressor(level).map_err(failed)?)),
        };
        compressor.compress(raw).map_err(failed)
    })
}

/// A verified, decompressed segment.
pub struct Segment {
    header: SegmentHeader,
    raw: Buffer,
    starts: Vec<u32>,
}

impl Segment {
    /// Verifies and opens a whole segment as read from its package; `bytes` are decrypted where they are.
    ///
    /// # Errors
    /// `Damaged`, when anything in it is not what was written. With a key the tag vouches for header,
    /// table and payload; without, their checksums do.
    pub fn open(bytes: &mut [u8], key: Option<&PackageKey>) -> Result<Self> {
        let header = SegmentHeader::decode(bytes)?;
        let front = header.encoded_bytes();
        if header.segment_bytes() != bytes.len() as u64 {
            return Err(Error::damaged("a segment has another length than its header says"));
        }
        let payload = &mut bytes[front..];
        let whole = match key {
            Some(key) => key.open(header.number, &header.associated_data(), payload, header.payload_check),
            None => check_of(payload) == header.payload_check,
        };
        if !whole {
            return Err(Error::damaged("a segment's content does not match its checksum"));
        }
        let mut raw = Buffer::with_room(header.raw_bytes() as usize);
        match header.codec {
            Codec::Raw => raw.vec().extend_from_slice(payload),
            Codec::Zstd => decompress(payload, raw.vec())?,
        }
        if raw.len() as u64 != header.raw_bytes() {
            return Err(Error::damaged("a segment decompresses to another length than its header says"));
        }
        let starts = header
            .table
            .iter()
            .scan(0_u32, |at, row| {
                let start = *at;
                *at += row.raw_bytes;
                Some(start)
            })
            .collect();
        Ok(Self { header, raw, starts })
    }

    /// Kind, number and chunk table.
    #[must_use]
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The chunks' bytes, one after the other.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let row = size_of::<TableEntry>() + size_of::<u32>();
        self.raw.capacity() + self.header.table.len() * row + size_of::<Self>()
    }

    /// The table row of the chunk that begins at byte `skip` of [`Segment::raw`].
    #[must_use]
    pub fn row_at(&self, skip: u32) -> Option<&TableEntry> {
        self.starts.binary_search(&skip).ok().and_then(|index| self.header.table.get(index))
    }

    /// (start, row) of every chunk.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &TableEntry)> {
        self.starts.iter().copied().zip(&self.header.table)
    }
}

/// Decompresses into the room that `out` has: a bomb fails instead of growing it.
fn decompress(payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let failed = |e: std::io::Error| Error::damaged("a segment cannot be decompressed").because(e);
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().map_err(failed)?);
        }
        slot.as_mut().map(|d| d.decompress_to_buffer(payload, out)).transpose().map_err(failed)?;
        Ok(())
    })
}
