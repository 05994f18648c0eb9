//! Fixed-size records sorted in bounded memory: runs are spilled to a temporary file that has no name.
//! Prune sorts chunk ids with it, a hundred million of them if need be.

use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

/// Bytes kept in memory before a run is spilled.
pub const SORT_BYTES: usize = 64 << 20;
/// Bytes read of a run at a time.
const READ_BYTES: usize = 256 << 10;

/// Collects records in any order.
pub struct Sorter<const N: usize> {
    buffer: Vec<[u8; N]>,
    most: usize,
    file: Option<Arc<File>>,
    /// Records in each run.
    runs: Vec<u64>,
}

/// The records, ascending and each once. They can be read again and again.
pub struct Sorted<const N: usize> {
    buffer: Vec<[u8; N]>,
    file: Option<Arc<File>>,
    runs: Vec<u64>,
}

impl<const N: usize> Sorter<N> {
    /// A sorter that keeps about `bytes` in memory.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        let most = bytes / N;
        Self { buffer: Vec::new(), most: if most == 0 { 1 } else { most }, file: None, runs: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `NoSpace` or `Io` from the temporary file.
    pub fn push(&mut self, record: [u8; N]) -> Result<()> {
        if self.buffer.len() >= self.most {
            self.spill()?;
        }
        self.buffer.push(record);
        Ok(())
    }

    fn tidy(&mut self) {
        self.buffer.sort_unstable();
        self.buffer.dedup();
    }

    fn spill(&mut self) -> Result<()> {
        self.tidy();
        if self.file.is_none() {
            let open = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(std::env::temp_dir());
            self.file = Some(Arc::new(open.map_err(temp_error)?));
        }
        let Some(file) = &self.file else { return Ok(()) };
        let mut out = BufWriter::with_capacity(READ_BYTES, &**file);
        self.buffer.iter().try_for_each(|record| out.write_all(record)).map_err(temp_error)?;
        out.flush().map_err(temp_error)?;
        self.runs.push(self.buffer.len() as u64);
        self.buffer.clear();
        Ok(())
    }

    /// Ends the collection.
    ///
    /// # Errors
    /// As [`Sorter::push`].
    pub fn finish(mut self) -> Result<Sorted<N>> {
        if self.file.is_some() {
            self.spill()?;
            self.buffer = Vec::new();
        }
        self.tidy();
        Ok(Sorted { buffer: self.buffer, file: self.file, runs: self.runs })
    }
}

impl<const N: usize> Sorted<N> {
    /// The records from the first.
    ///
    /// # Errors
    /// `Io` from the temporary file, here and in the items.
    pub fn iter(&self) -> Result<Records<'_, N>> {
        let mut heads = BinaryHeap::new();
        let mut runs = Vec::new();
        let mut start = 0;
        for (number, records) in self.runs.iter().enumerate() {
            let mut run =
                Run { file: self.file.clone(), at: start, end: start + records * N as u64, read: Vec::new(), next: 0 };
            start = run.end;
            if let Some(first) = run.next()? {
                heads.push(Reverse((first, number)));
            }
            runs.push(run);
        }
        Ok(Records { buffer: self.buffer.iter(), heads, runs, last: None })
    }
}

/// One run of the file, read in pieces.
struct Run<const N: usize> {
    file: Option<Arc<File>>,
    at: u64,
    end: u64,
    read: Vec<u8>,
    next: usize,
}

impl<const N: usize> Run<N> {
    fn next(&mut self) -> Result<Option<[u8; N]>> {
        if self.next >= self.read.len() {
            let bytes = (self.end - self.at).min((READ_BYTES / N * N).max(N) as u64) as usize;
            let Some(file) = self.file.as_ref().filter(|_| bytes > 0) else { return Ok(None) };
            self.read.resize(bytes, 0);
            file.read_exact_at(&mut self.read, self.at).map_err(temp_error)?;
            self.at += bytes as u64;
            self.next = 0;
        }
        let record = self.read.get(self.next..self.next + N).and_then(|bytes| bytes.try_into().ok());
        self.next += N;
        Ok(record)
    }
}

/// Records ascending, each once.
pub struct Records<'a, const N: usize> {
    buffer: std::slice::Iter<'a, [u8; N]>,
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
    runs: Vec<Run<N>>,
    last: Option<[u8; N]>,
}

impl<const N: usize> Records<'_, N> {
    fn merged(&mut self) -> Result<Option<[u8; N]>> {
        while let Some(Reverse((record, number))) = self.heads.pop() {
            if let Some(next) = self.runs.get_mut(number).map_or(Ok(None), Run::next)? {
                self.heads.push(Reverse((next, number)));
            }
            if self.last != Some(record) {
                self.last = Some(record);
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

impl<const N: usize> Iterator for Records<'_, N> {
    type Item = Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.buffer.next() {
            Some(record) => Some(Ok(*record)),
            None => self.merged().transpose(),
        }
    }
}

fn temp_error(error: std::io::Error) -> Error {
    Error::io(format!("sorting in {}", std::env::temp_dir().display()), error).advise(
        "the directory for temporary files needs room for 32 bytes a chunk; the variable TMPDIR names another one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_sorted_and_once_with_and_without_a_file() {
        for (bytes, records) in [(1 << 20, 1000_u32), (64, 1000), (4, 3), (4096, 0), (80_000, 100_000)] {
            let mut sorter = Sorter::<4>::new(bytes);
            (0..records).for_each(|n| sorter.push((n.wrapping_mul(2_654_435_761) % 5000).to_be_bytes()).unwrap());
            let sorted = sorter.finish().unwrap();
            let mut want: Vec<u32> = (0..records).map(|n| n.wrapping_mul(2_654_435_761) % 5000).collect();
            want.sort_unstable();
            want.dedup();
            for _ in 0..2 {
                let got: Vec<u32> = sorted.iter().unwrap().map(|r| u32::from_be_bytes(r.unwrap())).collect();
                assert_eq!(got, want, "{bytes} bytes");
            }
        }
    }
}
