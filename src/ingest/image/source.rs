//! Where a disk's content is read: an image file, a block device, or an NBD server; and what lies over it.

use super::disk::{Disk, check_size};
use super::nbd::session::{ALLOCATION, Run, Session};
use super::nbd::{SILENCE, Socket, connect, uri::NbdUri};
use crate::ingest::stream::ReadSource;
use crate::os::{self, FileKind};
use crate::{Error, ErrorKind, Result};
use repo_format::Time;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Set in the answers of `base:allocation` where a range reads as zeros.
const NBD_ZERO: u32 = 2;
/// Permissions of a disk that is no file where it comes from.
const DEFAULT_MODE: u32 = 0o600;

/// The content of a disk.
pub trait BlockSource {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `out` from `offset`; all of it lies inside the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The first range inside `within` that may be anything but zeros.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn next_data(&mut self, within: Range<u64>) -> Result<Option<Range<u64>>>;
}

/// An image file or a block device.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    path: PathBuf,
    size: u64,
    stat: os::Stat,
}

impl RawDisk {
    /// Opens one.
    ///
    /// # Errors
    /// When it cannot be opened, or is neither.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("opening the disk {}", path.display()), e);
        let mut file = File::open(path).map_err(failed)?;
        let stat = os::stat_file(&file).map_err(failed)?;
        if !matches!(stat.kind(), Some(FileKind::File | FileKind::BlockDevice)) {
            let what = format!("{} is neither an image file nor a block device", path.display());
            return Err(Error::new(ErrorKind::Usage, what).advise("directories are for 'relict backup'"));
        }
        // The end of a device is its size; its stat says 0.
        let size = check_size(file.seek(SeekFrom::End(0)).map_err(failed)?)?;
        os::fadvise_sequential(&file);
        Ok(Self { file, path: path.to_owned(), size, stat })
    }

    /// As a file of a restore point: with the image's attributes; of a device, those of any disk.
    #[must_use]
    pub fn as_file(&self, name: Vec<u8>, taken: Time) -> Disk {
        if self.stat.kind() == Some(FileKind::BlockDevice) {
            return plain_disk(name, taken);
        }
        let os::Stat { mode, uid, gid, mtime, .. } = self.stat;
        Disk { name, mode: mode & 0o777, uid, gid, mtime: Time { sec: mtime.sec, nsec: mtime.nsec } }
    }

    /// What says that an image file was written to since it was opened; None if it was not.
    #[must_use]
    pub fn changed(&self) -> Option<String> {
        let now = os::stat_file(&self.file).ok()?;
        let same =
            (now.mtime, now.size) == (self.stat.mtime, self.stat.size) || self.stat.kind() != Some(FileKind::File);
        (!same).then(|| {
            format!("{} changed while it was read: the disk is a mixture of before and after", self.path.display())
        })
    }
}

impl BlockSource for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = out.len();
        match os::pread_drop_behind(&self.file, out, offset) {
            Ok(got) if got == len => Ok(()),
            Ok(_) => {
                Err(Error::new(ErrorKind::Io, format!("{} became shorter while it was read", self.path.display())))
            }
            Err(error) => Err(Error::io(format!("reading {len} bytes at {offset} of {}", self.path.display()), error)),
        }
    }

    fn next_data(&mut self, within: Range<u64>) -> Result<Option<Range<u64>>> {
        match os::data_ranges_from(&self.file, within.start, self.size).next() {
            None => Ok(None),
            Some(Ok((start, len))) => Ok(clip(start..start + len, &within)),
            // Who cannot say where data is may still be able to read it.
            Some(Err(_)) => Ok(Some(within)),
        }
    }
}

/// An export of an NBD server.
#[derive(Debug)]
pub struct NbdDisk<'s> {
    /// Set to end the conversation.
    stop: &'s AtomicBool,
    session: Session<Socket>,
    /// What the server said last about zeros: the range, and its runs.
    known: (Range<u64>, Vec<Run>),
    /// Up to here data was found, which will be wanted.
    wanted: u64,
}

impl<'s> NbdDisk<'s> {
    /// Connects; asks for `context` beside that of zeros. No more is asked about zeros once `stop` is set.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn open(uri: &NbdUri, context: Option<&str>, stop: &'s AtomicBool) -> Result<Self> {
        let contexts: Vec<&str> = std::iter::once(ALLOCATION).chain(context).collect();
        Ok(Self { stop, session: connect(uri, &contexts, SILENCE)?, known: (0..0, Vec::new()), wanted: 0 })
    }

    /// The conversation, for what is not content.
    pub const fn session(&mut self) -> &mut Session<Socket> {
        &mut self.session
    }

    /// Ends the conversation.
    pub fn close(self) {
        self.session.close();
    }
}

impl BlockSource for NbdDisk<'_> {
    fn size(&self) -> u64 {
        self.session.size()
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.session.read_ahead(offset, out, self.wanted)
    }

    fn next_data(&mut self, within: Range<u64>) -> Result<Option<Range<u64>>> {
        if !self.session.has_context(ALLOCATION) {
            self.wanted = within.end;
            return Ok(Some(within));
        }
        let mut at = within.start;
        while at < within.end {
            if !self.known.0.contains(&at) {
                if self.stop.load(Relaxed) {
                    return Err(Error::new(ErrorKind::Interrupted, "the ingest was stopped"));
                }
                let runs = self.session.status(ALLOCATION, at)?;
                let end = runs.last().map_or(at, |run| run.offset + run.len);
                if end <= at {
                    // An answer that ends inside a block, which no server may give: from where it ends nothing can be asked.
                    self.wanted = within.end;
                    return Ok(Some(at..within.end));
                }
                self.known = (at..end, runs);
            }
            for run in &self.known.1 {
                let range = run.offset..run.offset + run.len;
                if run.flags & NBD_ZERO == 0
                    && let Some(found) = clip(range, &(at..within.end))
                {
                    self.wanted = found.end;
                    return Ok(Some(found));
                }
            }
            at = self.known.0.end;
        }
        Ok(None)
    }
}

/// A disk without attributes of its own.
#[must_use]
pub fn plain_disk(name: Vec<u8>, taken: Time) -> Disk {
    Disk { name, mode: DEFAULT_MODE, uid: os::geteuid(), gid: os::getegid(), mtime: taken }
}

/// The part of `range` that lies in `within`, if there is one.
fn clip(range: Range<u64>, within: &Range<u64>) -> Option<Range<u64>> {
    let part = range.start.max(within.start)..range.end.min(within.end);
    (part.start < part.end).then_some(part)
}

/// A source with ranges that read as zeros whatever is there.
pub struct Masked<'s> {
    source: &'s mut dyn BlockSource,
    /// Ascending, not overlapping.
    zeros: Vec<Range<u64>>,
}

impl<'s> Masked<'s> {
    /// With these ranges as zeros; they ascend and do not overlap.
    pub fn new(source: &'s mut dyn BlockSource, zeros: Vec<Range<u64>>) -> Self {
        Self { source, zeros }
    }
}

impl ReadSource for Masked<'_> {
    fn is_state(&self, _id: &[u8]) -> Option<bool> {
        Some(true)
    }

    fn read_at(&mut self, _path: &[u8], offset: u64, out: &mut [u8]) -> Result<usize> {
        let len = self.source.size().saturating_sub(offset).min(out.len() as u64);
        let asked = offset..offset + len;
        let out = out.get_mut(..usize::try_from(len).unwrap_or_default()).unwrap_or_default();
        self.source.read(offset, out)?;
        for zeros in self.zeros.iter().filter_map(|zeros| clip(zeros.clone(), &asked)) {
            let within = |at: u64| usize::try_from(at - offset).unwrap_or_default();
            out.get_mut(within(zeros.start)..within(zeros.end)).unwrap_or_default().fill(0);
        }
        Ok(out.len())
    }

    fn next_data(&mut self, _path: &[u8], within: Range<u64>) -> Result<Option<Range<u64>>> {
        let mut rest = within;
        while let Some(found) = self.source.next_data(rest.clone())? {
            let Some(zeros) = self.zeros.iter().find_map(|zeros| clip(zeros.clone(), &found)) else {
                return Ok(Some(found));
            };
            if zeros.start > found.start {
                return Ok(Some(found.start..zeros.start));
            }
            if zeros.end < found.end {
                // What follows may hold the next of them.
                rest = zeros.end..rest.end;
                continue;
            }
            rest = found.end..rest.end;
            if rest.is_empty() {
                break;
            }
        }
        Ok(None)
    }
}

/// A source as a file to read and seek in, for partition tables. Small reads, one after the other.
pub struct Cursor<'s> {
    source: &'s mut dyn BlockSource,
    at: u64,
}

impl<'s> Cursor<'s> {
    /// At the disk's start.
    pub fn new(source: &'s mut dyn BlockSource) -> Self {
        Self { source, at: 0 }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.source.size().saturating_sub(self.at).min(out.len() as u64);
        let out = out.get_mut(..usize::try_from(len).unwrap_or_default()).unwrap_or_default();
        if !out.is_empty() {
            self.source.read(self.at, out).map_err(io::Error::other)?;
            self.at += len;
        }
        Ok(out.len())
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
