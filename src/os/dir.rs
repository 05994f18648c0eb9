//! Directory handles: how ingest walks a source and restore reaches its target.
//!
//! A handle stays the same directory whatever is renamed above it, so a walk neither leaves the source
//! through a symbolic link that was swapped in, nor meets `PATH_MAX`.
#![expect(unsafe_code, reason = "openat, getdents64, readlinkat")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::stat::{FileKind, Stat, stat_at, stat_file};
use super::sys::{CName, check, check_len, errno, is_errno};

/// Bytes asked of the kernel in one listing call.
const LIST_BYTES: usize = 64 << 10;

/// Bytes of a listing record before its name: inode, offset, length, type.
const RECORD_HEAD_BYTES: usize = 19;

const OPEN_DIR: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;

/// An open directory, and whether its listing has begun.
#[derive(Debug)]
pub struct Dir(File, AtomicBool);

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it is, where the file system tells without a `stat`.
    pub kind: Option<FileKind>,
    /// Inode number in this directory's file system; of a mount point it is the covered directory's.
    pub ino: u64,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<File> for Dir {
    /// Of a directory opened just now, by nobody else.
    fn from(file: File) -> Self {
        Self(file, AtomicBool::new(false))
    }
}

impl Dir {
    /// Opens the directory that a walk begins at. Here, and only here, symbolic links in the path are
    /// followed, for the user has named it.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open_root(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        match open_noatime(None, &CName::any(bytes)?, OPEN_DIR) {
            Err(e) if is_errno(&e, &[libc::ENAMETOOLONG]) => Self::open_long(path),
            opened => opened.map(Self::from),
        }
    }

    /// A path longer than `PATH_MAX`, component by component.
    fn open_long(path: &Path) -> io::Result<Self> {
        let mut at: Option<File> = None;
        for component in path.components() {
            let name = match component {
                Component::CurDir => continue,
                other => CName::any(other.as_os_str().as_bytes())?,
            };
            at = Some(open_noatime(at.as_ref(), &name, OPEN_DIR)?);
        }
        at.map(Self::from).ok_or_else(|| errno(libc::ENOENT))
    }

    /// Opens a directory in this one; a symbolic link is ENOTDIR or ELOOP.
    ///
    /// # Errors
    /// As openat(2); EINVAL for a name that is not one entry's name.
    pub fn open_dir(&self, name: &[u8]) -> io::Result<Self> {
        let name = CName::entry(name)?;
        open_noatime(Some(&self.0), &name, OPEN_DIR | libc::O_NOFOLLOW).map(Self::from)
    }

    /// Goes down component by component and never through a symbolic link; no components give a
    /// second handle of this directory.
    ///
    /// # Errors
    /// As [`Self::open_dir`], for the first component that cannot be opened.
    pub fn open_beneath<N: AsRef<[u8]>>(&self, components: &[N]) -> io::Result<Self> {
        let Some((first, rest)) = components.split_first() else {
            // The two share one position, so neither may take it for the start.
            return self.0.try_clone().map(|file| Self(file, AtomicBool::new(true)));
        };
        rest.iter().try_fold(self.open_dir(first.as_ref())?, |dir, name| dir.open_dir(name.as_ref()))
    }

    /// Opens a file for reading. Neither a symbolic link is followed nor a pipe waited for: what was a
    /// file when it was listed may be anything now, so look at [`stat_file`] of the result.
    ///
    /// # Errors
    /// As openat(2): ELOOP for a symbolic link, ENXIO for a socket.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        open_noatime(Some(&self.0), &CName::entry(name)?, flags)
    }

    /// This directory as a file, for the calls that take one (flags, xattrs, fsync).
    #[must_use]
    pub const fn as_file(&self) -> &File {
        &self.0
    }

    /// Attributes of an entry; of a symbolic link its own.
    ///
    /// # Errors
    /// As statx(2).
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        stat_at(self.as_fd(), &CName::entry(name)?)
    }

    /// Attributes of the directory itself.
    ///
    /// # Errors
    /// As statx(2).
    pub fn stat_self(&self) -> io::Result<Stat> {
        stat_file(self)
    }

    /// Everything in the directory but `.` and `..`, in the file system's order.
    ///
    /// Moves the handle's position: two threads must not list one handle at a time.
    ///
    /// # Errors
    /// As getdents64(2); EIO for a listing that makes no sense.
    pub fn entries(&self) -> io::Result<Vec<DirEntry>> {
        let fd = self.0.as_raw_fd();
        // SAFETY: a plain system call on an open descriptor.
        if self.1.swap(true, Relaxed) && unsafe { libc::lseek(fd, 0, libc::SEEK_SET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut entries = Vec::new();
        let mut buffer = Vec::<u8>::with_capacity(LIST_BYTES);
        loop {
            // SAFETY: the kernel writes at most LIST_BYTES, which the buffer has room for.
            let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), LIST_BYTES) };
            let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
            if got == 0 {
                return Ok(entries);
            }
            // SAFETY: the kernel has written this many bytes.
            unsafe { buffer.set_len(got) };
            parse_listing(&buffer, &mut entries).ok_or_else(|| errno(libc::EIO))?;
        }
    }

    /// The target of a symbolic link, of any length.
    ///
    /// # Errors
    /// As readlinkat(2): EINVAL if it is not a symbolic link.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let name = CName::entry(name)?;
        let mut target = Vec::<u8>::with_capacity(256);
        loop {
            let room = target.capacity();
            // SAFETY: `name` is NUL-terminated, and the kernel writes at most `room` bytes.
            let got = check_len(unsafe {
                libc::readlinkat(self.0.as_raw_fd(), name.as_ptr(), target.as_mut_ptr().cast(), room)
            })?;
            if got < room {
                // SAFETY: the kernel has written this many bytes.
                unsafe { target.set_len(got) };
                return Ok(target);
            }
            // A full buffer may mean a cut target: ask again with more room.
            target.reserve_exact(room * 2);
        }
    }
}

/// Opens without touching the access time where we may; only an owner (or root) may ask for that.
fn open_noatime(dir: Option<&File>, name: &CName, flags: i32) -> io::Result<File> {
    match open_at(dir, name, flags | libc::O_NOATIME, 0) {
        Err(e) if is_errno(&e, &[libc::EPERM]) => open_at(dir, name, flags, 0),
        opened => opened,
    }
}

/// openat(2), repeated when a signal interrupts it (which FUSE and NFS can do).
pub(super) fn open_at(dir: Option<&File>, name: &CName, flags: i32, mode: u32) -> io::Result<File> {
    let at = dir.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    loop {
        // SAFETY: `name` is NUL-terminated and lives through the call.
        match check(unsafe { libc::openat(at, name.as_ptr(), flags, mode) }) {
            // SAFETY: a descriptor that is new and nobody else's.
            Ok(fd) => return Ok(unsafe { File::from_raw_fd(fd) }),
            Err(e) if is_errno(&e, &[libc::EINTR]) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes the records of one getdents64 answer apart; `None` if they do not add up.
fn parse_listing(mut bytes: &[u8], entries: &mut Vec<DirEntry>) -> Option<()> {
    while !bytes.is_empty() {
        let record_bytes = u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?);
        let (record, rest) = bytes.split_at_checked(usize::from(record_bytes))?;
        bytes = rest;
        let name = record.get(RECORD_HEAD_BYTES..)?;
        let name = name.get(..name.iter().position(|b| *b == 0)?)?;
        if name != b"." && name != b".." {
            let ino = u64::from_ne_bytes(record.get(..8)?.try_into().ok()?);
            // d_type is the type bits of a mode, moved down; 0 is "unknown".
            let kind = FileKind::from_mode(u32::from(*record.get(18)?) << 12);
            entries.push(DirEntry { name: name.to_vec(), kind, ino });
        }
    }
    Some(())
}
