//! Reading file content: where the data is, whole reads at an offset, what the page cache should do,
//! and the two calls that the store needs (freeing a range of a package, making a new name durable).
#![expect(unsafe_code, reason = "lseek, posix_fadvise, fallocate, preadv2")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::sys::{check, check_len, errno, is_errno};

/// The ranges of a file that hold data, ascending; see [`data_ranges`].
#[derive(Debug)]
pub struct DataRanges<'f> {
    file: &'f File,
    at: u64,
    size: u64,
}

/// The data ranges `(offset, bytes)` of the first `size` bytes of a file; what lies between them is
/// holes. A dense file costs one system call. Where the file system cannot tell, all is data. Moves the
/// file's position. A file that is cut meanwhile ends early, one that grows ends at `size`.
#[must_use]
pub const fn data_ranges(file: &File, size: u64) -> DataRanges<'_> {
    DataRanges { file, at: 0, size }
}

/// As [`data_ranges`], from `from` on.
#[must_use]
pub const fn data_ranges_from(file: &File, from: u64, size: u64) -> DataRanges<'_> {
    DataRanges { file, at: from, size }
}

impl DataRanges<'_> {
    fn next_range(&mut self) -> io::Result<Option<(u64, u64)>> {
        // A file mostly begins with data, which then mostly goes to the end: ask for the end first.
        let leading = if self.at == 0 { self.seek(0, libc::SEEK_HOLE)? } else { Some(0) };
        let (start, end) = match leading {
            None => return Ok(None),
            Some(0) => {
                let Some(start) = self.seek(self.at, libc::SEEK_DATA)? else { return Ok(None) };
                (start, self.seek(start, libc::SEEK_HOLE)?.unwrap_or(start))
            }
            Some(end) => (0, end),
        };
        if start >= self.size {
            return Ok(None);
        }
        // No data where data was is a race with a writer: the rest counts as data, so that it is read.
        let end = if end <= start { self.size } else { end.min(self.size) };
        self.at = end;
        Ok(Some((start, end - start)))
    }

    /// Next data or hole at or after `from`; `None` behind the last data or the end of the file.
    fn seek(&self, from: u64, whence: i32) -> io::Result<Option<u64>> {
        let from = i64::try_from(from).map_err(|_| errno(libc::EOVERFLOW))?;
        // SAFETY: a plain system call on an open descriptor.
        let found = unsafe { libc::lseek64(self.file.as_raw_fd(), from, whence) };
        if let Ok(found) = u64::try_from(found) {
            return Ok(Some(found));
        }
        let error = io::Error::last_os_error();
        if is_errno(&error, &[libc::ENXIO]) { Ok(None) } else { Err(error) }
    }
}

impl Iterator for DataRanges<'_> {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.size {
            return None;
        }
        let from = self.at;
        let found = match self.next_range() {
            Err(e) if is_errno(&e, &[libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOTTY]) => {
                self.at = self.size;
                Ok(Some((from, self.size - from)))
            }
            other => other,
        };
        if !matches!(found, Ok(Some(_))) {
            self.at = self.size;
        }
        found.transpose()
    }
}

/// Fills `buffer` from `offset`; fewer bytes than asked for mean the end of the file.
///
/// # Errors
/// As pread(2), but for interruptions, which are repeated.
pub fn pread_exact_or_short(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Fills `buffer` from `offset` and leaves in the page cache only what was there before, so that reading
/// a large disk does not push out what the machine works with. Fewer bytes than asked for mean the end.
///
/// Linux before 6.14 and some file systems cannot do that: there the range is dropped from the cache
/// whether it was there before or not.
///
/// # Errors
/// As pread(2), but for interruptions, which are repeated.
pub fn pread_drop_behind(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match pread_uncached(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_errno(&e, &[libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL]) => {
                let (start, want) = (offset + done as u64, rest.len() as u64);
                done += pread_exact_or_short(file, rest, start)?;
                fadvise_dontneed(file, start, want);
                break;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn pread_uncached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| errno(libc::EOVERFLOW))?;
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: one vector that covers exactly the borrowed buffer, which outlives the call.
    check_len(unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_DONTCACHE) })
}

/// Tells the kernel that a file will be read from front to back. A hint: errors do not matter.
pub fn fadvise_sequential(file: &File) {
    fadvise(file, 0, 0, libc::POSIX_FADV_SEQUENTIAL);
}

/// Tells the kernel that a range of clean pages is not needed any more, so that a backup does not push
/// out what the machine works with; 0 bytes mean to the end. A hint: errors do not matter.
pub fn fadvise_dontneed(file: &File, offset: u64, bytes: u64) {
    fadvise(file, offset, bytes, libc::POSIX_FADV_DONTNEED);
}

/// Tells the kernel that a whole file will be read soon. A hint: errors do not matter.
pub fn fadvise_willneed(file: &File) {
    fadvise(file, 0, 0, libc::POSIX_FADV_WILLNEED);
}

fn fadvise(file: &File, offset: u64, bytes: u64, advice: i32) {
    // SAFETY: a plain system call on an open descriptor; its result is of no consequence.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset.cast_signed(), bytes.cast_signed(), advice) };
}

/// Has the kernel begin to write a range of a file, so that a later fsync has less to wait for. A hint: errors do not matter, the
/// fsync reports them.
pub fn begin_writing(file: &File, offset: u64, bytes: u64) {
    // SAFETY: a plain system call on an open descriptor; its result is of no consequence.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset.cast_signed(), bytes.cast_signed(), libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// Waits until the disk has a range of a file. Says nothing about durability, and errors do not matter here, either.
pub fn finish_writing(file: &File, offset: u64, bytes: u64) {
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: a plain system call on an open descriptor; its result is of no consequence.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset.cast_signed(), bytes.cast_signed(), how) };
}

/// Frees a byte range of a file, which then reads as zeroes; its length stays.
///
/// # Errors
/// As fallocate(2): EOPNOTSUPP where the file system cannot.
pub fn punch_hole(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    loop {
        // SAFETY: a plain system call on an open descriptor.
        let done =
            check(unsafe { libc::fallocate64(file.as_raw_fd(), flags, offset.cast_signed(), bytes.cast_signed()) });
        match done {
            Err(e) if is_errno(&e, &[libc::EINTR]) => {}
            other => return other.map(drop),
        }
    }
}

/// Gives a new file blocks without writing them.
///
/// # Errors
/// As fallocate(2): ENOSPC, and EOPNOTSUPP where the file system cannot.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: a plain system call on an open descriptor.
    check(unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, bytes.cast_signed()) }).map(drop)
}

/// Makes the names in a directory durable: new, renamed and removed ones.
///
/// # Errors
/// As open(2) and fsync(2).
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
