//! Bytes that wait to be cut: a bounded buffer, and behind it a temporary file without a name.

use crate::Result;
use crate::catalog::edits::{temp_error, unnamed_file};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Only grows; offsets stay good until it is cleared.
pub(super) struct Spool {
    limit_bytes: usize,
    /// The first bytes that are not in the file.
    memory: Vec<u8>,
    /// Bytes in the file.
    filed: u64,
    file: Option<File>,
}

impl Spool {
    /// Keeps at most `limit_bytes` in memory, and what is added last.
    pub(super) const fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, memory: Vec::new(), filed: 0, file: None }
    }

    /// Adds bytes and returns where they are.
    ///
    /// # Errors
    /// `NoSpace` or `Io` of the temporary file.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<u64> {
        if !self.memory.is_empty() && self.memory.len() + bytes.len() > self.limit_bytes {
            let file = match &mut self.file {
                Some(file) => file,
                empty => empty.insert(unnamed_file(&std::env::temp_dir())?),
            };
            file.write_all_at(&self.memory, self.filed).map_err(temp_error)?;
            self.filed += self.memory.len() as u64;
            self.memory.clear();
        }
        let at = self.filed + self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        Ok(at)
    }

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// `Io` of the temporary file.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let in_file = usize::try_from(self.filed.saturating_sub(at)).unwrap_or(usize::MAX).min(out.len());
        let (front, back) = out.split_at_mut(in_file);
        if let Some(file) = self.file.as_ref().filter(|_| !front.is_empty()) {
            file.read_exact_at(front, at).map_err(temp_error)?;
        }
        let start = usize::try_from((at + in_file as u64).saturating_sub(self.filed)).unwrap_or(usize::MAX);
        let from = self.memory.get(start..).and_then(|rest| rest.get(..back.len()));
        if let Some(from) = from {
            back.copy_from_slice(from);
        }
        Ok(())
    }

    /// Bytes in it.
    pub(super) const fn bytes(&self) -> u64 {
        self.filed + self.memory.len() as u64
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limit_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_across_the_border_of_file_and_memory() {
        let mut spool = Spool::new(100);
        let bytes: Vec<u8> = (0..=255).collect();
        let places: Vec<u64> = bytes.chunks(30).map(|part| spool.push(part).unwrap()).collect();
        assert!(spool.filed > 0 && !spool.memory.is_empty());
        assert_eq!(places, (0..9).map(|n| n * 30).collect::<Vec<_>>());
        for start in 0..256_usize {
            for end in start..=256 {
                let mut out = vec![0; end - start];
                spool.read(start as u64, &mut out).unwrap();
                assert_eq!(out, &bytes[start..end]);
            }
        }
        spool.clear();
        assert_eq!((spool.bytes(), spool.push(b"x").unwrap()), (0, 0));
    }
}
