//! Content: pieces of files out of segments into files, or held against them.

use super::report::join_range;
use super::shared::Shared;
use super::window::Piece;
use crate::error::{Error, Result};
use crate::os::data_ranges_from;
use crate::store::{Location, Segment};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Bytes of a file read at once when it is compared.
const COMPARE_BYTES: usize = 256 * 1024;

/// What of a file's content is not right, and the first reason.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// (offset, bytes), ascending within one call.
    pub ranges: Vec<(u64, u64)>,
    pub why: Option<String>,
}

impl Damage {
    pub fn add(&mut self, offset: u64, bytes: u64, why: impl FnOnce() -> String) {
        join_range(&mut self.ranges, offset, bytes);
        self.why.get_or_insert_with(why);
    }

    pub fn merge(&mut self, other: Self) {
        self.ranges.extend(other.ranges);
        if self.why.is_none() {
            self.why = other.why;
        }
    }

    /// Ranges in order, neighbours joined.
    pub fn into_ranges(mut self) -> Vec<(u64, u64)> {
        self.ranges.sort_unstable();
        let mut out = Vec::new();
        self.ranges.iter().for_each(|(offset, bytes)| join_range(&mut out, *offset, *bytes));
        out
    }
}

/// Remembers the segment read last, so that neighbouring files share it without asking the cache.
pub(super) struct Segments<'s> {
    shared: &'s Shared<'s>,
    last: Option<((u32, u32), Arc<Segment>)>,
    buffer: Vec<u8>,
}

/// A range of a decompressed segment.
type Span = std::ops::Range<usize>;

impl<'s> Segments<'s> {
    pub const fn new(shared: &'s Shared<'s>) -> Self {
        Self { shared, last: None, buffer: Vec::new() }
    }

    fn segment(&mut self, at: &Location) -> Result<Arc<Segment>> {
        let place = (at.package, at.offset);
        match &self.last {
            Some((known, segment)) if *known == place => Ok(Arc::clone(segment)),
            _ => {
                let segment = self.shared.repo.segment(at)?;
                self.last = Some((place, Arc::clone(&segment)));
                Ok(segment)
            }
        }
    }

    /// The segment of a piece, and where in it the piece's bytes are. Where maintenance has moved the chunk since the
    /// restore was planned, it is looked for again.
    fn find(&mut self, piece: &Piece) -> Result<(Arc<Segment>, Span)> {
        let id = &piece.extent.chunk;
        let planned = match piece.at {
            Some(at) => self.find_at(piece, at),
            None => Err(Error::damaged(format!("chunk {id} is not in the index"))),
        };
        planned.or_else(|error| match self.shared.repo.moved(id, piece.at)? {
            Some(now) => self.find_at(piece, now),
            None => Err(error),
        })
    }

    fn find_at(&mut self, piece: &Piece, at: Location) -> Result<(Arc<Segment>, Span)> {
        let id = &piece.extent.chunk;
        let segment = self.segment(&at)?;
        let span = span_of(&segment, piece, &at);
        let span = span.ok_or_else(|| Error::damaged(format!("chunk {id} is not where the index says")))?;
        Ok((segment, span))
    }

    /// Writes pieces to a file. What cannot be read stays a hole and is added to `damage`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, file: &File, pieces: &[Piece], damage: &mut Damage) -> io::Result<()> {
        let progress = self.shared.progress;
        let mut rest = pieces;
        while let Some((first, others)) = rest.split_first() {
            if self.shared.stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            rest = others;
            let (segment, mut span) = match self.find(first) {
                Ok(found) => found,
                Err(error) => {
                    damage.add(first.offset, u64::from(first.extent.len), || error.to_string());
                    continue;
                }
            };
            while let Some((next, others)) = rest.split_first() {
                let Some(longer) = joined(&segment, first, &span, next) else { break };
                span = longer;
                rest = others;
            }
            let bytes = segment.raw().get(span).unwrap_or_default();
            file.write_all_at(bytes, first.offset)?;
            add(&progress.bytes, bytes.len());
            add(&progress.written_bytes, bytes.len());
        }
        Ok(())
    }

    /// Compares bytes `start..end` of a file with its pieces; between them it must read as zeros.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn compare(
        &mut self,
        file: &File,
        start: u64,
        end: u64,
        pieces: &[Piece],
        damage: &mut Damage,
    ) -> io::Result<()> {
        let mut at = start;
        for piece in pieces {
            self.shared.go_on()?;
            self.compare_zeros(file, at, piece.offset, damage)?;
            let len = u64::from(piece.extent.len);
            match self.find(piece) {
                Ok((segment, span)) => {
                    let bytes = segment.raw().get(span).unwrap_or_default();
                    self.buffer.resize(bytes.len(), 0);
                    read_at(file, &mut self.buffer, piece.offset)?;
                    if self.buffer != bytes {
                        damage.add(piece.offset, len, || "the content differs from the restore point".to_owned());
                    }
                }
                Err(error) => damage.add(piece.offset, len, || error.to_string()),
            }
            at = piece.offset + len;
            add(&self.shared.progress.verified_bytes, bytes_usize(len));
        }
        self.compare_zeros(file, at, end, damage)
    }

    /// What is a hole in the file, too, is not read: it may be longer than anybody can wait for.
    fn compare_zeros(&mut self, file: &File, start: u64, end: u64, damage: &mut Damage) -> io::Result<()> {
        if start >= end {
            return Ok(());
        }
        for range in data_ranges_from(file, start, end) {
            let (mut at, bytes) = range?;
            let stop = at + bytes;
            while at < stop {
                self.shared.go_on()?;
                let len = bytes_usize(stop - at).min(COMPARE_BYTES);
                self.buffer.resize(len, 0);
                read_at(file, &mut self.buffer, at)?;
                if self.buffer.iter().any(|b| *b != 0) {
                    damage.add(at, len as u64, || "there is data where the restore point has a hole".to_owned());
                }
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// `span` made longer by `next`, if that follows in the file and in the segment.
fn joined(segment: &Segment, first: &Piece, span: &Span, next: &Piece) -> Option<Span> {
    let (mine, its) = (first.at?, next.at?);
    if (mine.package, mine.offset) != (its.package, its.offset) || first.offset + span.len() as u64 != next.offset {
        return None;
    }
    let more = span_of(segment, next, &its)?;
    (more.start == span.end).then_some(span.start..more.end)
}

fn span_of(segment: &Segment, piece: &Piece, at: &Location) -> Option<Span> {
    let row = segment.row_at(at.skip).filter(|row| row.id == piece.extent.chunk)?;
    let within = piece.extent.skip.checked_add(piece.extent.len)? <= row.raw_bytes;
    let start = (at.skip as usize).checked_add(piece.extent.skip as usize)?;
    within.then(|| start..start + piece.extent.len as usize)
}

/// Fills `buffer` from the file.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_exact_at(buffer, offset) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter meanwhile"))
        }
        other => other,
    }
}

fn bytes_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn add(counter: &AtomicU64, bytes: usize) {
    super::report::Progress::add(counter, bytes as u64);
}
