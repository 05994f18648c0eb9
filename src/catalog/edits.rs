//! Edits of a tree as they come, made into the sorted stream that `tree::apply` takes, in bounded memory.
//!
//! Edits are framed into one buffer. Past its limit the buffer is sorted and appended as a run to a
//! temporary file that has no name; `finish` merges the runs. A frame, in the buffer and in the file
//! alike, is: key length u16, value length u32 (all ones: delete), key, value, little endian. The file
//! never outlives the process, so it has no magic, no checksum and no version.

use crate::catalog::tree::Edit;
use crate::{Error, ErrorKind, Result};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A good limit for one ingest: runs of about half a million edits.
pub const DEFAULT_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Offsets in the buffer are u32, and one frame may pass the limit.
const MAX_LIMIT_BYTES: usize = 1 << 30;
const FRAME_HEADER_BYTES: usize = 6;
const DELETE: u32 = u32::MAX;
const MIN_READ_BYTES: usize = 8 * 1024;
const MAX_READ_BYTES: usize = 1024 * 1024;

/// Collects edits in any order; of two with the same key the later one counts.
pub struct EditSet {
    frames: Vec<u8>,
    places: Vec<Place>,
    limit_bytes: usize,
    spill: Option<Spill>,
    pushed: u64,
}

/// Where a frame is, after the first bytes of its key: most comparisons end there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key_start: [u64; 2],
    at: u32,
}

struct Spill {
    file: Arc<File>,
    /// End offsets of the runs, oldest first.
    ends: Vec<u64>,
}

impl EditSet {
    /// An empty set that keeps about `limit_bytes` in memory while edits are pushed.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        let limit_bytes = limit_bytes.min(MAX_LIMIT_BYTES);
        Self { frames: Vec::new(), places: Vec::new(), limit_bytes, spill: None, pushed: 0 }
    }

    /// Number of edits pushed, of the same key too.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    /// Adds an edit, which replaces an earlier one of the same key.
    ///
    /// # Errors
    /// `Usage` for a key of 64 KiB or a value of 1 GiB; `NoSpace` or `Io` from the temporary file.
    pub fn push(&mut self, key: impl AsRef<[u8]>, edit: Edit) -> Result<()> {
        let key = key.as_ref();
        let value = if let Edit::Put(value) = &edit { Some(value.as_slice()) } else { None };
        let value_bytes = value.map_or(0, <[u8]>::len);
        if key.len() > usize::from(u16::MAX) || value_bytes > MAX_LIMIT_BYTES {
            return Err(Error::new(ErrorKind::Usage, "an edit of a tree is too long"));
        }
        let frame_bytes = FRAME_HEADER_BYTES + key.len() + value_bytes;
        if !self.places.is_empty() && self.bytes() + frame_bytes + size_of::<Place>() > self.limit_bytes {
            self.spill()?;
        }
        self.places.push(Place { key_start: key_start(key), at: self.frames.len() as u32 });
        self.frames.reserve(frame_bytes);
        self.frames.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.frames.extend_from_slice(&value.map_or(DELETE, |value| value.len() as u32).to_le_bytes());
        self.frames.extend_from_slice(key);
        self.frames.extend_from_slice(value.unwrap_or_default());
        self.pushed += 1;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.frames.len() + self.places.len() * size_of::<Place>()
    }

    /// Sorts the buffer by key, and keeps the latest edit of each.
    fn sort(&mut self) {
        let frames = &self.frames;
        let key = |place: &Place| Frame::at(frames, place.at).key;
        let by_key = |a: &Place, b: &Place| a.key_start.cmp(&b.key_start).then_with(|| key(a).cmp(key(b)));
        self.places.sort_unstable_by(|a, b| by_key(a, b).then(b.at.cmp(&a.at)));
        self.places.dedup_by(|later, first| by_key(later, first) == Ordering::Equal);
    }

    /// Moves the buffer to the file.
    fn spill(&mut self) -> Result<()> {
        self.sort();
        let spill = match &mut self.spill {
            Some(spill) => spill,
            empty => empty.insert(Spill { file: Arc::new(unnamed_file(&std::env::temp_dir())?), ends: Vec::new() }),
        };
        let start = spill.ends.last().copied().unwrap_or(0);
        let mut out = BufWriter::with_capacity(MAX_READ_BYTES.min(self.limit_bytes), &*spill.file);
        let mut run_bytes = 0;
        for place in &self.places {
            let frame = Frame::at(&self.frames, place.at);
            out.write_all(frame.bytes).map_err(temp_error)?;
            run_bytes += frame.bytes.len() as u64;
        }
        out.flush().map_err(temp_error)?;
        drop(out);
        spill.ends.push(start + run_bytes);
        self.frames.clear();
        self.places.clear();
        Ok(())
    }

    /// The edits, one a key, ascending.
    ///
    /// # Errors
    /// `NoSpace` or `Io` from the temporary file, here or from the iterator.
    pub fn finish(mut self) -> Result<SortedEdits> {
        if self.spill.is_none() {
            self.sort();
            let Self { frames, places, .. } = self;
            return Ok(SortedEdits(Source::Memory { frames, places: places.into_iter() }));
        }
        self.spill()?;
        let Self { spill, limit_bytes, frames, places, .. } = self;
        // Gives the buffer back before the runs take theirs.
        drop((frames, places));
        let spill = spill.into_iter().flat_map(|Spill { file, ends }| Run::all(&file, &ends, limit_bytes));
        let mut heads = BinaryHeap::new();
        for mut run in spill {
            if run.advance()? {
                heads.push(Reverse(run));
            }
        }
        Ok(SortedEdits(Source::Runs { heads, last: None }))
    }
}

/// The first 16 bytes of a key as numbers that compare as the bytes do; shorter keys are filled with
/// zeros, so equal numbers say nothing.
fn key_start(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let wide = u128::from_be_bytes(bytes);
    [(wide >> 64) as u64, wide as u64]
}

/// A frame in the buffer. The buffer holds what `push` put there, so that reading it cannot fail.
struct Frame<'a> {
    bytes: &'a [u8],
    key: &'a [u8],
}

impl<'a> Frame<'a> {
    fn at(frames: &'a [u8], at: u32) -> Self {
        let bytes = frames.get(at as usize..).unwrap_or_default();
        let (key_bytes, value_bytes) = bytes.first_chunk().map_or((0, None), lengths);
        let key_end = FRAME_HEADER_BYTES + key_bytes;
        let bytes = bytes.get(..key_end + value_bytes.unwrap_or(0)).unwrap_or_default();
        Self { bytes, key: bytes.get(FRAME_HEADER_BYTES..key_end).unwrap_or_default() }
    }

    fn edit(&self) -> Edit {
        let deletes = self.bytes.first_chunk().is_none_or(|header| lengths(header).1.is_none());
        let value = self.bytes.get(FRAME_HEADER_BYTES + self.key.len()..).unwrap_or_default();
        if deletes { Edit::Delete } else { Edit::Put(value.to_vec()) }
    }
}

/// Key length and, unless the edit deletes, value length.
fn lengths(header: &[u8; FRAME_HEADER_BYTES]) -> (usize, Option<usize>) {
    let [k0, k1, v0, v1, v2, v3] = *header;
    let value = u32::from_le_bytes([v0, v1, v2, v3]);
    (usize::from(u16::from_le_bytes([k0, k1])), Some(value as usize).filter(|_| value != DELETE))
}

/// One sorted run of the temporary file and the edit at its front.
struct Run {
    /// Runs are numbered by age; of equal keys the highest number counts.
    number: usize,
    reader: BufReader<FilePart>,
    key: Vec<u8>,
    edit: Edit,
}

impl Run {
    fn all(file: &Arc<File>, ends: &[u64], limit_bytes: usize) -> Vec<Self> {
        let read_bytes = (limit_bytes / ends.len().max(1)).clamp(MIN_READ_BYTES, MAX_READ_BYTES);
        let starts = std::iter::once(&0).chain(ends);
        let parts = starts.zip(ends).map(|(start, end)| FilePart { file: Arc::clone(file), at: *start, end: *end });
        let readers = parts.map(|part| BufReader::with_capacity(read_bytes, part));
        let run = |(number, reader)| Self { number, reader, key: Vec::new(), edit: Edit::Delete };
        readers.enumerate().map(run).collect()
    }

    /// Reads the next frame; false at the end of the run.
    fn advance(&mut self) -> Result<bool> {
        self.read_frame().map_err(temp_error)
    }

    fn read_frame(&mut self) -> io::Result<bool> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.reader.read_exact(&mut header)?;
        let (key_bytes, value_bytes) = lengths(&header);
        self.key = vec![0; key_bytes];
        self.reader.read_exact(&mut self.key)?;
        self.edit = match value_bytes {
            None => Edit::Delete,
            Some(bytes) => {
                let mut value = vec![0; bytes];
                self.reader.read_exact(&mut value)?;
                Edit::Put(value)
            }
        };
        Ok(true)
    }
}

/// Order of the merge: by key, then the latest run first.
impl Ord for Run {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Run {}

/// A range of the file, read without moving the file's own position.
struct FilePart {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for FilePart {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let want = out.len().min(left);
        let got = self.file.read_at(out.get_mut(..want).unwrap_or_default(), self.at)?;
        self.at += got as u64;
        if got == 0 && want > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(got) }
    }
}

/// What [`EditSet::finish`] gives: edits strictly ascending by key.
pub struct SortedEdits(Source);

enum Source {
    Memory { frames: Vec<u8>, places: std::vec::IntoIter<Place> },
    Runs { heads: BinaryHeap<Reverse<Run>>, last: Option<Vec<u8>> },
}

impl Iterator for SortedEdits {
    type Item = Result<(Vec<u8>, Edit)>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Memory { frames, places } => {
                let frame = Frame::at(frames, places.next()?.at);
                Some(Ok((frame.key.to_vec(), frame.edit())))
            }
            Source::Runs { heads, last } => next_of_runs(heads, last),
        }
    }
}

fn next_of_runs(heads: &mut BinaryHeap<Reverse<Run>>, last: &mut Option<Vec<u8>>) -> Option<Result<(Vec<u8>, Edit)>> {
    loop {
        let mut head = heads.peek_mut()?;
        let run = &mut head.0;
        let stale = last.as_ref() == Some(&run.key);
        let (key, edit) = (std::mem::take(&mut run.key), std::mem::replace(&mut run.edit, Edit::Delete));
        match run.advance() {
            Ok(true) => drop(head),
            Ok(false) => drop(PeekMut::pop(head)),
            Err(error) => {
                drop(head);
                heads.clear();
                return Some(Err(error));
            }
        }
        if !stale {
            *last = Some(key.clone());
            return Some(Ok((key, edit)));
        }
    }
}

/// A file without a name in `dir`: it goes away with its last handle, however the process ends.
pub(crate) fn unnamed_file(dir: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(dir) {
        // These are what file systems and kernels without O_TMPFILE say.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT)) => {}
        result => return result.map_err(|error| in_dir(dir, error)),
    }
    named_and_removed(dir, &mut options).map_err(|error| in_dir(dir, error))
}

fn named_and_removed(dir: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let start = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.subsec_nanos());
    for attempt in 0..100 {
        let path = dir.join(format!("relict-{}-{start}-{attempt}.tmp", std::process::id()));
        match options.create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return std::fs::remove_file(&path).map(|()| file),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn in_dir(dir: &Path, error: io::Error) -> Error {
    let what = format!("creating a temporary file in {}", dir.display());
    Error::io(what, error).advise("set TMPDIR to a directory with free space")
}

pub(crate) fn temp_error(error: io::Error) -> Error {
    Error::io("using a temporary file", error).advise("set TMPDIR to a directory with free space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn pushes() -> impl Strategy<Value = Vec<(Vec<u8>, Edit)>> {
        let key = prop::collection::vec(prop::sample::select(vec![0, b'a', b'b']), 0..20);
        let value = (any::<u8>(), 0..90_usize).prop_map(|(byte, bytes)| vec![byte; bytes]);
        let edit = prop_oneof![3 => value.prop_map(Edit::Put), 1 => Just(Edit::Delete)];
        prop::collection::vec((key, edit), 0..400)
    }

    fn collect(set: EditSet) -> Vec<(Vec<u8>, Edit)> {
        set.finish().unwrap().map(|edit| edit.unwrap()).collect()
    }

    proptest! {
        #[test]
        fn the_later_push_of_a_key_counts(pushes in pushes(), limit_bytes in prop_oneof![Just(0), 100..5_000_usize, Just(1 << 20)]) {
            let mut set = EditSet::new(limit_bytes);
            for (key, edit) in &pushes {
                set.push(key, edit.clone()).unwrap();
                prop_assert!(set.bytes() <= limit_bytes || set.places.len() == 1, "the limit does not hold");
            }
            let expected: BTreeMap<_, _> = pushes.into_iter().collect();
            prop_assert_eq!(collect(set), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_runs_merge_in_order() {
        let mut set = EditSet::new(64 * 1024);
        for n in 0..100_000_u64 {
            let key = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 60_000).to_be_bytes();
            set.push(key, Edit::Put(n.to_le_bytes().to_vec())).unwrap();
        }
        assert!(set.spill.as_ref().unwrap().ends.len() > 50);
        let edits = collect(set);
        assert!(edits.is_sorted_by(|a, b| a.0 < b.0));
        assert!(edits.len() > 45_000);
    }

    #[test]
    fn a_file_system_without_unnamed_files_gets_a_removed_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new();
        let file = named_and_removed(dir.path(), options.read(true).write(true)).unwrap();
        file.write_all_at(b"run", 0).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_temporary_directory_that_is_missing_is_an_error_with_advice() {
        let error = unnamed_file(Path::new("/nonexistent/dir")).unwrap_err();
        assert!(error.advice().is_some_and(|advice| advice.contains("TMPDIR")));
    }
}
