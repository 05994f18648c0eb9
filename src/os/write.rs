//! What restore does to its target, and tests to their sources: each call takes a directory handle and
//! one name in it, and never follows a symbolic link.
//!
//! Order matters to callers: owner before mode (changing the owner clears setuid), both before
//! `security.capability`, content before times, and inode flags last (an immutable file takes nothing).
#![expect(unsafe_code, reason = "the *at calls and ioctl")]

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::dir::{Dir, open_at};
use super::stat::{FileKind, Time, inode_flags, stat_file};
use super::sys::{CName, check, errno, is_errno};

/// Inode flags that a user can mean to set; the others (extents, encrypted, verity, inline data, ...)
/// say how one file system keeps one file.
pub const USER_FLAGS: u32 = 0x0000_00ff // secure delete, undelete, compress, sync, immutable, append, nodump, noatime
    | 0x0000_0400 // do not compress
    | 0x0000_4000 // journal data
    | 0x0000_8000 // do not merge tails
    | 0x0001_0000 // synchronous directory
    | 0x0002_0000 // top of a hierarchy
    | 0x0080_0000 // do not copy on write
    | 0x0200_0000 // direct access
    | 0x2000_0000 // inherit the project
    | 0x4000_0000; // fold case

impl Dir {
    /// Makes a directory; the process's umask applies.
    ///
    /// # Errors
    /// As mkdirat(2).
    pub fn mkdir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let name = CName::entry(name)?;
        // SAFETY: `name` is NUL-terminated and lives through the call.
        check(unsafe { libc::mkdirat(self.raw(), name.as_ptr(), mode) }).map(drop)
    }

    /// Makes a file that did not exist, open for writing; the process's umask applies.
    ///
    /// # Errors
    /// As openat(2): EEXIST for anything that is there, a symbolic link too.
    pub fn create_file(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        open_at(Some(self.as_file()), &CName::entry(name)?, flags, mode)
    }

    /// Opens a regular file that exists for writing; its content stays.
    ///
    /// # Errors
    /// As openat(2); EINVAL if it is no regular file, ELOOP for a symbolic link.
    pub fn open_existing_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = open_at(Some(self.as_file()), &CName::entry(name)?, flags, 0)?;
        if stat_file(&file)?.is_file() { Ok(file) } else { Err(errno(libc::EINVAL)) }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlinkat(2).
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        let (target, name) = (CName::any(target)?, CName::entry(name)?);
        // SAFETY: both strings are NUL-terminated and live through the call.
        check(unsafe { libc::symlinkat(target.as_ptr(), self.raw(), name.as_ptr()) }).map(drop)
    }

    /// Makes a pipe, socket or device node; `rdev` (major, minor) counts for devices only.
    ///
    /// # Errors
    /// As mknodat(2): EPERM for devices when not root, EINVAL for other kinds.
    pub fn mknod(&self, name: &[u8], kind: FileKind, mode: u32, rdev: (u32, u32)) -> io::Result<()> {
        use FileKind::{BlockDevice, CharDevice, Fifo, Socket};
        let dev = match kind {
            Fifo | Socket => 0,
            CharDevice | BlockDevice => libc::makedev(rdev.0, rdev.1),
            _ => return Err(errno(libc::EINVAL)),
        };
        let name = CName::entry(name)?;
        let mode = kind.mode_bits() | (mode & 0o7777);
        // SAFETY: `name` is NUL-terminated and lives through the call.
        check(unsafe { libc::mknodat(self.raw(), name.as_ptr(), mode, dev) }).map(drop)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, 0)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn rmdir(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, libc::AT_REMOVEDIR)
    }

    fn remove(&self, name: &[u8], flags: i32) -> io::Result<()> {
        let name = CName::entry(name)?;
        // SAFETY: `name` is NUL-terminated and lives through the call.
        check(unsafe { libc::unlinkat(self.raw(), name.as_ptr(), flags) }).map(drop)
    }

    /// Sets owner and group of an entry, of a symbolic link its own.
    ///
    /// # Errors
    /// As fchownat(2).
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let name = CName::entry(name)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `name` is NUL-terminated and lives through the call.
        check(unsafe { libc::fchownat(self.raw(), name.as_ptr(), uid, gid, flags) }).map(drop)
    }

    /// Sets the permission bits (with setuid, setgid, sticky) of anything but a symbolic link.
    ///
    /// # Errors
    /// As fchmodat(2): EOPNOTSUPP for a symbolic link, whose mode means nothing on Linux.
    pub fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let name = CName::entry(name)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // The C library uses fchmodat2, or an O_PATH handle and /proc where the kernel has no such call.
        // SAFETY: `name` is NUL-terminated and lives through the call.
        check(unsafe { libc::fchmodat(self.raw(), name.as_ptr(), mode & 0o7777, flags) }).map(drop)
    }

    /// Sets the modification time of an entry, of a symbolic link its own; the access time stays if
    /// `None`. The kernel clamps what its file system cannot keep.
    ///
    /// # Errors
    /// As utimensat(2); EINVAL for nanoseconds of a second or more.
    pub fn set_times(&self, name: &[u8], mtime: Time, atime: Option<Time>) -> io::Result<()> {
        let name = CName::entry(name)?;
        let times = timespecs(mtime, atime)?;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `name` is NUL-terminated, `times` are two, and both live through the call.
        check(unsafe { libc::utimensat(self.raw(), name.as_ptr(), times.as_ptr(), flags) }).map(drop)
    }

    /// As [`Self::set_owner`], of the directory itself.
    ///
    /// # Errors
    /// As fchown(2).
    pub fn set_owner_self(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::fchown(self.as_file(), Some(uid), Some(gid))
    }

    /// As [`Self::set_mode`], of the directory itself.
    ///
    /// # Errors
    /// As fchmod(2).
    pub fn set_mode_self(&self, mode: u32) -> io::Result<()> {
        self.as_file().set_permissions(Permissions::from_mode(mode & 0o7777))
    }

    /// As [`Self::set_times`], of the directory itself.
    ///
    /// # Errors
    /// As futimens(3).
    pub fn set_times_self(&self, mtime: Time, atime: Option<Time>) -> io::Result<()> {
        set_times_file(self, mtime, atime)
    }

    fn raw(&self) -> i32 {
        self.as_fd().as_raw_fd()
    }
}

/// Gives an item a second name; of a symbolic link the link itself.
///
/// # Errors
/// As linkat(2).
pub fn hard_link(from_dir: &Dir, from_name: &[u8], to_dir: &Dir, to_name: &[u8]) -> io::Result<()> {
    let (from, to) = (CName::entry(from_name)?, CName::entry(to_name)?);
    // SAFETY: both names are NUL-terminated and live through the call.
    check(unsafe { libc::linkat(from_dir.raw(), from.as_ptr(), to_dir.raw(), to.as_ptr(), 0) }).map(drop)
}

/// Moves a name, over an existing one if there is one.
///
/// # Errors
/// As renameat(2).
pub fn rename(from_dir: &Dir, from_name: &[u8], to_dir: &Dir, to_name: &[u8]) -> io::Result<()> {
    let (from, to) = (CName::entry(from_name)?, CName::entry(to_name)?);
    // SAFETY: both names are NUL-terminated and live through the call.
    check(unsafe { libc::renameat(from_dir.raw(), from.as_ptr(), to_dir.raw(), to.as_ptr()) }).map(drop)
}

/// Two directories or files take each other's name, in one step.
///
/// # Errors
/// As renameat2(2); EINVAL where the file system cannot, ENOSYS where the kernel cannot.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) = (CString::new(one.as_os_str().as_bytes())?, CString::new(other.as_os_str().as_bytes())?);
    // SAFETY: both names are NUL-terminated and live through the call.
    let done =
        unsafe { libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    check(done).map(drop)
}

/// As [`Dir::set_times`], of an open file.
///
/// # Errors
/// As futimens(3); EINVAL for nanoseconds of a second or more.
pub fn set_times_file(file: &impl AsFd, mtime: Time, atime: Option<Time>) -> io::Result<()> {
    let times = timespecs(mtime, atime)?;
    // SAFETY: `times` are two and live through the call.
    check(unsafe { libc::futimens(file.as_fd().as_raw_fd(), times.as_ptr()) }).map(drop)
}

/// Access and modification time as the kernel wants them.
fn timespecs(mtime: Time, atime: Option<Time>) -> io::Result<[libc::timespec; 2]> {
    let omit = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
    let convert = |time: Time| {
        // Two values above a second mean "now" and "leave it": stored bytes must not reach those.
        if time.nsec >= 1_000_000_000 {
            return Err(errno(libc::EINVAL));
        }
        Ok(libc::timespec { tv_sec: time.sec, tv_nsec: i64::from(time.nsec) })
    };
    Ok([atime.map_or(Ok(omit), convert)?, convert(mtime)?])
}

/// Brings the [`USER_FLAGS`] of an open file or directory to `flags`, and gives those bits that differ
/// still because the file system does not have them. No write if nothing differs.
///
/// # Errors
/// As ioctl(2): EPERM for immutable and append-only when not root.
pub fn set_inode_flags(file: &File, flags: u32) -> io::Result<u32> {
    let current = inode_flags(file)?;
    let differing = (current ^ flags) & USER_FLAGS;
    if differing == 0 {
        return Ok(0);
    }
    match put_flags(file, current ^ differing) {
        Err(e) if is_unsupported(&e) => set_flags_singly(file, differing),
        other => other.map(|()| 0),
    }
}

/// One bit that a file system lacks makes the whole call fail: try them one at a time.
fn set_flags_singly(file: &File, differing: u32) -> io::Result<u32> {
    let mut refused = 0;
    for bit in (0..32).map(|shift| 1u32 << shift).filter(|bit| differing & bit != 0) {
        match put_flags(file, inode_flags(file)? ^ bit) {
            Err(e) if is_unsupported(&e) => refused |= bit,
            other => other?,
        }
    }
    Ok(refused)
}

fn is_unsupported(error: &io::Error) -> bool {
    is_errno(error, &[libc::EOPNOTSUPP, libc::ENOTTY, libc::ENOSYS, libc::EINVAL])
}

fn put_flags(file: &File, flags: u32) -> io::Result<()> {
    // Two words for the reason that `inode_flags` reads two.
    let value = [flags, 0u32];
    // SAFETY: `value` has the bytes of the larger of the two sizes that are read.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, value.as_ptr()) }).map(drop)
}

/// Sets a file's length; what is added is a hole.
///
/// # Errors
/// As ftruncate(2).
pub fn ftruncate(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// As pwrite(2), but for interruptions and short writes, which are gone on with.
pub fn pwrite_all(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}
