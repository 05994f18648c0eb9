//! Little-endian cursor over borrowed bytes, and the matching writer. All decoders stand on these.

use crate::error::{FormatError, Problem, Result};
use crate::id::{CHECK_BYTES, check_of};
use alloc::vec::Vec;

/// A cursor that knows the record it reads, so that every error names it.
pub(crate) struct Reader<'a> {
    record: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(record: &'static str, bytes: &'a [u8]) -> Self {
        Self { record, bytes, at: 0 }
    }

    /// A reader over the bytes before a trailing checksum, which is verified first.
    pub(crate) fn checked(record: &'static str, bytes: &'a [u8]) -> Result<Self> {
        let error = |problem| FormatError::new(record, bytes.len(), problem);
        let body = bytes.len().checked_sub(CHECK_BYTES).ok_or(error(Problem::Truncated))?;
        let (body, check) = bytes.split_at_checked(body).ok_or(error(Problem::Truncated))?;
        if check_of(body).as_slice() != check {
            return Err(error(Problem::Check));
        }
        Ok(Self::new(record, body))
    }

    pub(crate) const fn error(&self, problem: Problem) -> FormatError {
        FormatError::new(self.record, self.at, problem)
    }

    pub(crate) const fn field(&self, name: &'static str) -> FormatError {
        self.error(Problem::Field(name))
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).ok_or(self.error(Problem::Truncated))?;
        let part = self.bytes.get(self.at..end).ok_or(self.error(Problem::Truncated))?;
        self.at = end;
        Ok(part)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn magic(&mut self, magic: &[u8]) -> Result<()> {
        if self.take(magic.len())? == magic { Ok(()) } else { Err(self.error(Problem::Magic)) }
    }

    /// `len` bytes that must all be zero.
    pub(crate) fn zeros(&mut self, len: usize) -> Result<()> {
        if self.take(len)?.iter().all(|b| *b == 0) { Ok(()) } else { Err(self.error(Problem::Reserved)) }
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.error(Problem::Trailing)) }
    }
}

/// Appending writer; infallible.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }
    pub(crate) fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.0.extend_from_slice(b);
        self
    }
    pub(crate) fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }
    pub(crate) fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn i64(&mut self, v: i64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// The bytes so far, followed by their checksum.
    pub(crate) fn finish_checked(mut self) -> Vec<u8> {
        let check = check_of(&self.0);
        self.bytes(&check);
        self.0
    }
}

/// A length as the u32 the format gives it. Encoders are called with lengths bounded far below 4 GiB;
/// a longer one saturates, and the decoder then refuses the record instead of reading a wrong one.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// As [`len_u32`], for u16 lengths.
pub(crate) fn len_u16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
