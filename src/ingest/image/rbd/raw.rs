//! Decoder of a disk without any framing, as plain `rbd export` or `dd` write it: the bytes, to the end.
//!
//! Nothing in such a stream says that it is whole. A producer that dies leaves a shorter disk, which the
//! caller has to know from the producer's exit status, or from a size that it gives.

use super::PIECE_BYTES;
use crate::Result;
use crate::ingest::change::{Change, Decode, Step};
use crate::ingest::image::bad;
use crate::ingest::image::disk::{Disk, Opening, check_size};

/// Decodes a raw disk; see this module.
#[derive(Debug)]
pub struct RawDecoder {
    disk: Disk,
    id: Vec<u8>,
    /// Bytes that must come, if that is known.
    size: Option<u64>,
    opening: Opening,
    at: u64,
    /// Whether the last piece's content was passed on; its bytes are not used up yet then.
    told: bool,
    ended: bool,
}

impl RawDecoder {
    /// For a disk that becomes the state `id`, of `size` bytes if that is known.
    #[must_use]
    pub fn new(id: Vec<u8>, disk: Disk, size: Option<u64>) -> Self {
        Self { disk, id, size, opening: Opening::default(), at: 0, told: false, ended: false }
    }
}

impl Decode for RawDecoder {
    fn next<'a>(&'a mut self, input: &'a [u8], last: bool) -> Result<Step<'a>> {
        if self.ended {
            return Err(bad("bytes follow the end"));
        }
        if let Some(change) = self.opening.next(&self.disk, &self.id, None, self.size.unwrap_or(0)) {
            return Ok(Step::Change(0, Some(change)));
        }
        let have = input.len().min(PIECE_BYTES);
        if have < PIECE_BYTES && !last {
            return Ok(Step::More(PIECE_BYTES));
        }
        // The end needs bytes to be told with: it takes the last piece, whose content was passed on before.
        let (offset, ends) = (self.at, last && have == input.len());
        let end = check_size(offset.saturating_add(have as u64))?;
        if self.size.is_some_and(|size| end > size || (ends && end < size)) {
            let size = self.size.unwrap_or_default();
            let more = if end > size { "more" } else { "fewer" };
            return Err(bad(format!("{more} bytes than the {size} that were announced")));
        }
        let data = input.get(..have).unwrap_or_default();
        let content = Change::Write { path: &self.disk.name, offset, data };
        if !ends {
            self.at = end;
            return Ok(Step::Change(have, Some(content)));
        }
        self.ended = self.told;
        self.told = true;
        Ok(if self.ended { Step::Change(have, Some(Change::End)) } else { Step::Change(0, Some(content)) })
    }

    fn may_end(&self) -> bool {
        self.ended
    }

    fn max_input_bytes(&self) -> usize {
        PIECE_BYTES
    }

    fn doing(&self) -> &str {
        "the disk's content"
    }
}
