//! A segment: consecutive chunks in one frame, the unit of compression, encryption and I/O (SPEC.md section 4).

use crate::error::{Problem, Result};
use crate::id::{CheckSum, ChunkId, check_of};
use crate::wire::{Reader, Writer, len_u32};
use alloc::vec::Vec;

/// Bytes of the fixed part of a segment header; the chunk table follows.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of one row of the chunk table.
pub const TABLE_ENTRY_BYTES: usize = 36;
/// Largest chunk, in bytes; the bound of every allocation for content.
pub const MAX_CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// Most uncompressed bytes in a segment.
pub const MAX_SEGMENT_RAW_BYTES: usize = 16 * 1024 * 1024;
/// Most chunks in a segment.
pub const MAX_SEGMENT_CHUNKS: usize = 65_536;

const MAGIC: &[u8; 4] = b"RSEG";
const _: () = assert!(MAX_CHUNK_BYTES <= MAX_SEGMENT_RAW_BYTES);

/// What the chunks of a segment are. Zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentKind {
    /// Runs of file content.
    Data = 1,
    /// Tree nodes.
    Node = 2,
    /// One restore point record.
    Point = 3,
    /// One point state record.
    State = 4,
}

/// How the payload holds the chunks' bytes. Zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// One after the other.
    Raw = 1,
    /// One zstd frame over all of them.
    Zstd = 2,
}

/// A row of the chunk table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableEntry {
    /// The chunk's id.
    pub id: ChunkId,
    /// Its uncompressed length in bytes; never 0.
    pub raw_bytes: u32,
}

/// A segment's header with its chunk table; the payload follows it in the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What the chunks are.
    pub kind: SegmentKind,
    /// How the payload holds them.
    pub codec: Codec,
    /// Number of the segment in its package; the nonce of its encryption.
    pub number: u32,
    /// Bytes of the payload as stored.
    pub stored_bytes: u32,
    /// AES-256-GCM tag of the payload, or without a key the checksum of the stored payload.
    pub payload_check: CheckSum,
    /// The chunks, in the order of their bytes.
    pub table: Vec<TableEntry>,
}

impl SegmentHeader {
    /// Bytes of the encoded header and table.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        SEGMENT_HEADER_BYTES + self.table.len() * TABLE_ENTRY_BYTES
    }

    /// Bytes of the whole segment in the package.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.encoded_bytes() as u64 + u64::from(self.stored_bytes)
    }

    /// Uncompressed bytes of all chunks.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.table.iter().map(|row| u64::from(row.raw_bytes)).sum()
    }

    /// The header's bytes. They begin with everything but the two checks, see [`SegmentHeader::associated_data`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.encoded_bytes());
        w.bytes(&self.front()).bytes(&self.payload_check);
        let table = self.table_bytes();
        let mut covered = w.0.clone();
        covered.extend_from_slice(&table);
        w.bytes(&check_of(&covered)).bytes(&table);
        w.0
    }

    /// What AES-256-GCM authenticates beside the payload: the header's first 32 bytes, then the table.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        let mut out = self.front();
        out.extend_from_slice(&self.table_bytes());
        out
    }

    fn front(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(32);
        w.bytes(MAGIC).u8(self.kind as u8).u8(self.codec as u8).u16(0).u32(self.number);
        w.u32(len_u32(self.table.len())).u32(u32::try_from(self.raw_bytes()).unwrap_or(u32::MAX));
        w.u32(self.stored_bytes).u64(0);
        w.0
    }

    fn table_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.table.len() * TABLE_ENTRY_BYTES);
        for row in &self.table {
            w.bytes(&row.id.0).u32(row.raw_bytes);
        }
        w.0
    }

    /// Bytes of header and table, from the first [`SEGMENT_HEADER_BYTES`] bytes: how much a reader must
    /// have before [`SegmentHeader::decode`]. The table's length is not verified yet, only bounded.
    ///
    /// # Errors
    /// When the bytes cannot begin a segment.
    pub fn needed_bytes(front: &[u8]) -> Result<usize> {
        let mut r = Reader::new("segment header", front);
        r.magic(MAGIC)?;
        r.take(8)?;
        let count = r.u32()? as usize;
        if count == 0 || count > MAX_SEGMENT_CHUNKS {
            return Err(r.field("chunk count"));
        }
        Ok(SEGMENT_HEADER_BYTES + count * TABLE_ENTRY_BYTES)
    }

    /// Decodes header and table from the start of `bytes`; what follows them is not looked at.
    ///
    /// # Errors
    /// On bytes that [`SegmentHeader::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let needed = Self::needed_bytes(bytes)?;
        let mut r = Reader::new("segment header", bytes);
        let bytes = r.take(needed)?;
        let mut r = Reader::new("segment header", bytes);
        verify(&r, bytes)?;
        r.magic(MAGIC)?;
        let kind = match r.u8()? {
            1 => SegmentKind::Data,
            2 => SegmentKind::Node,
            3 => SegmentKind::Point,
            4 => SegmentKind::State,
            _ => return Err(r.field("kind")),
        };
        let codec = match r.u8()? {
            1 => Codec::Raw,
            2 => Codec::Zstd,
            _ => return Err(r.field("codec")),
        };
        r.zeros(2)?;
        let number = r.u32()?;
        let count = r.u32()?;
        if matches!(kind, SegmentKind::Point | SegmentKind::State) && count != 1 {
            return Err(r.field("chunk count"));
        }
        let (raw_bytes, stored_bytes) = (r.u32()?, r.u32()?);
        r.zeros(8)?;
        let payload_check = r.array()?;
        r.take(16)?;
        let table = read_table(&mut r, count)?;
        let header = Self { kind, codec, number, stored_bytes, payload_check, table };
        let total = header.raw_bytes();
        if total != u64::from(raw_bytes) || total > MAX_SEGMENT_RAW_BYTES as u64 {
            return Err(r.field("raw bytes"));
        }
        let fits = if codec == Codec::Raw { stored_bytes == raw_bytes } else { (1..raw_bytes).contains(&stored_bytes) };
        if fits { Ok(header) } else { Err(r.field("stored bytes")) }
    }
}

/// The header's check covers its first 48 bytes and the table.
fn verify(r: &Reader<'_>, bytes: &[u8]) -> Result<()> {
    let short = || r.error(Problem::Truncated);
    let (front, rest) = bytes.split_at_checked(48).ok_or_else(short)?;
    let (check, table) = rest.split_at_checked(16).ok_or_else(short)?;
    let mut covered = Vec::with_capacity(bytes.len());
    covered.extend_from_slice(front);
    covered.extend_from_slice(table);
    if check_of(&covered).as_slice() == check { Ok(()) } else { Err(r.error(Problem::Check)) }
}

fn read_table(r: &mut Reader<'_>, count: u32) -> Result<Vec<TableEntry>> {
    let mut table = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let row = TableEntry { id: ChunkId(r.array()?), raw_bytes: r.u32()? };
        if row.raw_bytes == 0 || row.raw_bytes as usize > MAX_CHUNK_BYTES {
            return Err(r.field("chunk length"));
        }
        table.push(row);
    }
    Ok(table)
}
