//! Encoded writes: data as btrfs has it on disk. Expanded into one buffer that never grows past what the command
//! claims, and the claim is bounded: a small command cannot fill the memory.

use super::attributes::{Attributes, Kind};
use super::{bad, lzo};
use crate::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use std::fmt;
use zstd::zstd_safe;

/// The most that one command may expand to. Compressed extents of btrfs have at most 128 KiB.
const MAX_UNENCODED_BYTES: u64 = 1 << 20;
/// The smallest sector of LZO data; ids above [`LZO_FIRST`] double it.
const LZO_SECTOR_BYTES: usize = 4096;
const LZO_FIRST: u32 = 3;
const LZO_LAST: u32 = 7;

/// Keeps its buffers from one write to the next.
#[derive(Default)]
pub(super) struct Expander {
    out: Vec<u8>,
    zlib: Option<Decompress>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl fmt::Debug for Expander {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expander").field("out_bytes", &self.out.capacity()).finish_non_exhaustive()
    }
}

impl Expander {
    /// What an ENCODED_WRITE writes.
    ///
    /// # Errors
    /// `BadInput` for encryption, an unknown compression, data that is damaged or expands to more than it claims, and
    /// a range that is not inside of it.
    pub(super) fn expand(&mut self, a: &Attributes<'_>) -> Result<&[u8]> {
        let encryption = a.u32(Kind::Encryption).unwrap_or(0);
        if encryption != 0 {
            return Err(bad(format!(
                "its data is encrypted (method {encryption}), and cannot be read without the source"
            )));
        }
        let unencoded = a.u64(Kind::UnencodedLen)?;
        let (offset, len) = (a.u64(Kind::UnencodedOffset)?, a.u64(Kind::UnencodedFileLen)?);
        if unencoded > MAX_UNENCODED_BYTES {
            return Err(bad(format!(
                "it claims {unencoded} bytes of content; one write has at most {MAX_UNENCODED_BYTES}"
            )));
        }
        let end = offset.checked_add(len).filter(|end| *end <= unencoded);
        let end = end.ok_or_else(|| bad(format!("it takes {len} bytes from byte {offset} of its {unencoded}")))?;
        // One more, so that data which expands to more than that shows. What is missing at the end is zeros.
        self.out.clear();
        self.out.resize(unencoded as usize + 1, 0);
        let data = a.bytes(Kind::Data)?;
        let compression = a.u32(Kind::Compression).unwrap_or(0);
        let bytes = match compression {
            0 => self.plain(data),
            1 => self.zlib(data),
            2 => self.zstd(data),
            LZO_FIRST..=LZO_LAST => lzo_sectors(data, LZO_SECTOR_BYTES << (compression - LZO_FIRST), &mut self.out),
            other => return Err(bad(format!("its compression {other} is not known"))),
        }?;
        if bytes as u64 > unencoded {
            return Err(bad(format!("its data expands to more than the {unencoded} bytes that it claims")));
        }
        // Decompressors may use what lies behind their output as scratch.
        if let Some(behind) = self.out.get_mut(bytes..) {
            behind.fill(0);
        }
        Ok(self.out.get(offset as usize..end as usize).unwrap_or_default())
    }

    fn plain(&mut self, data: &[u8]) -> Result<usize> {
        let bytes = data.len().min(self.out.len());
        if let (Some(out), Some(data)) = (self.out.get_mut(..bytes), data.get(..bytes)) {
            out.copy_from_slice(data);
        }
        Ok(bytes)
    }

    /// What follows the end of the compressed data fills its last block.
    fn zlib(&mut self, data: &[u8]) -> Result<usize> {
        let zlib = self.zlib.get_or_insert_with(|| Decompress::new(true));
        zlib.reset(true);
        let status = zlib.decompress(data, &mut self.out, FlushDecompress::Finish).map_err(|e| damaged("zlib", e))?;
        let bytes = usize::try_from(zlib.total_out()).unwrap_or(usize::MAX);
        match status {
            Status::StreamEnd => Ok(bytes),
            // The buffer is full and there is more.
            _ if bytes == self.out.len() => Ok(bytes),
            _ => Err(damaged("zlib", "it has no end")),
        }
    }

    fn zstd(&mut self, data: &[u8]) -> Result<usize> {
        let named = |code| damaged("zstd", zstd_safe::get_error_name(code));
        let frame_bytes = zstd_safe::find_frame_compressed_size(data).map_err(named)?;
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(|e| Error::io("preparing zstd", e))?),
        };
        let frame = data.get(..frame_bytes).unwrap_or_default();
        zstd.decompress_to_buffer(frame, &mut self.out[..]).map_err(|e| damaged("zstd, or more than it claims", e))
    }
}

fn damaged(what: &str, why: impl fmt::Display) -> Error {
    bad(format!("its data is no valid {what}: {why}"))
}

/// LZO data of btrfs: its length, then pieces of one sector each, with a length before each. A length never
/// stands across the border of a sector.
fn lzo_sectors(data: &[u8], sector_bytes: usize, out: &mut [u8]) -> Result<usize> {
    let length_at = |at: usize| {
        let bytes =
            data.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged("LZO", "it ends within a length"))?;
        Ok::<_, Error>(u32::from_le_bytes(*bytes) as usize)
    };
    let total = length_at(0)?;
    if total > data.len() {
        return Err(damaged("LZO", format_args!("it claims {total} bytes and has {}", data.len())));
    }
    let (mut at, mut filled) = (4, 0);
    while at < total {
        let left = sector_bytes - at % sector_bytes;
        if left < 4 {
            at += left;
            continue;
        }
        let len = length_at(at)?;
        let piece = (at + 4).checked_add(len).filter(|end| *end <= total).and_then(|end| data.get(at + 4..end));
        let piece = piece.ok_or_else(|| damaged("LZO", "a piece is longer than the data"))?;
        let end = out.len().min(filled + sector_bytes);
        let room = out.get_mut(filled..end).unwrap_or_default();
        filled += lzo::expand(piece, room).map_err(|why| damaged("LZO, or more than it claims", why))?;
        at += 4 + len;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sectors as btrfs lays them out.
    fn container(pieces: &[Vec<u8>], sector: usize) -> Vec<u8> {
        let mut out = vec![0; 4];
        for piece in pieces {
            let left = sector - out.len() % sector;
            out.resize(out.len() + if left < 4 { left } else { 0 }, 0);
            out.extend((piece.len() as u32).to_le_bytes());
            out.extend(piece);
        }
        let total = (out.len() as u32).to_le_bytes();
        out[..4].copy_from_slice(&total);
        out
    }

    #[test]
    fn a_length_never_stands_across_a_border() {
        // Pieces of every length near the border, so that padding of 0 to 3 bytes occurs.
        let mut paddings = 0;
        for first in 3990..4096 {
            let mut noise = 1_u64;
            let mut byte = || {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            };
            let plain: Vec<u8> = (0..first).map(|_| byte()).collect();
            let pieces = [lzokay_native::compress(&plain).unwrap(), lzokay_native::compress(b"second").unwrap()];
            paddings +=
                usize::from(!(8 + pieces[0].len()).is_multiple_of(4096) && 4096 - (8 + pieces[0].len()) % 4096 < 4);
            let mut out = vec![0; plain.len() + 6 + 4096];
            assert_eq!(lzo_sectors(&container(&pieces, 4096), 4096, &mut out).unwrap(), plain.len() + 6);
            assert_eq!(&out[..plain.len()], plain);
            assert_eq!(&out[plain.len()..plain.len() + 6], b"second");
        }
        assert!(paddings > 0);
    }
}
