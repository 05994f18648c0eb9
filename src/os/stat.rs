//! Attributes of one item as ingest records them: one `statx` call, plus the inode flags and the
//! generation number, which need an open file.
#![expect(unsafe_code, reason = "statx and ioctl")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::sys::{CName, check, is_errno};

/// A point in time: seconds since 1970 (negative before), and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since the epoch, rounded down.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn nanos(self) -> i128 {
        self.sec as i128 * 1_000_000_000 + self.nsec as i128
    }
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The kind in the type bits of a mode; `None` for a type that Linux does not have.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Dir => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// The attributes of one item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// Device number of the file system: major, minor. Btrfs has one for each subvolume.
    pub dev: (u32, u32),
    /// Mount that was walked through, where the kernel tells (5.8): tells bind mounts apart.
    pub mnt_id: Option<u64>,
    /// Inode number, unique within `dev` at one instant.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// What a device node stands for: major, minor.
    pub rdev: (u32, u32),
    /// Length in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks512: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of content or attributes; no program can set it.
    pub ctime: Time,
    /// Last read, as far as the file system keeps it.
    pub atime: Time,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
    /// `STATX_ATTR_*` bits that the file system gave (immutable, append, nodump, mount root, ...).
    pub attributes: u64,
}

impl Stat {
    /// What the item is; `None` for a type that Linux does not have.
    #[must_use]
    pub const fn kind(&self) -> Option<FileKind> {
        FileKind::from_mode(self.mode)
    }

    /// Whether the item is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether the item is a regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether another file system is mounted here (5.8; false where the kernel does not tell).
    #[must_use]
    pub const fn is_mount_root(&self) -> bool {
        self.attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0
    }

    /// Whether less space is allocated than the length asks for, so that asking for holes is worth it.
    #[must_use]
    pub const fn may_have_holes(&self) -> bool {
        self.blocks512.saturating_mul(512) < self.size
    }
}

/// Attributes of an open file.
///
/// # Errors
/// As statx(2).
pub fn stat_file(file: &impl AsFd) -> io::Result<Stat> {
    statx(file.as_fd(), &CName::any(b"")?, libc::AT_EMPTY_PATH)
}

/// Attributes of a directory's entry, the link itself if it is a symbolic link.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &CName) -> io::Result<Stat> {
    statx(dir, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

fn statx(dir: BorrowedFd<'_>, name: &CName, flags: libc::c_int) -> io::Result<Stat> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` is NUL-terminated and lives through the call, `raw` is one statx structure.
    check(unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, raw.as_mut_ptr()) })?;
    // SAFETY: plain integers, for which zeroes are valid, and which the kernel has filled.
    Ok(convert(&unsafe { raw.assume_init() }))
}

fn convert(raw: &libc::statx) -> Stat {
    let given = |bit: u32| raw.stx_mask & bit != 0;
    let time = |t: &libc::statx_timestamp| Time { sec: t.tv_sec, nsec: t.tv_nsec };
    Stat {
        dev: (raw.stx_dev_major, raw.stx_dev_minor),
        mnt_id: given(libc::STATX_MNT_ID).then_some(raw.stx_mnt_id),
        ino: raw.stx_ino,
        mode: u32::from(raw.stx_mode),
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        nlink: raw.stx_nlink,
        rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
        size: raw.stx_size,
        blocks512: raw.stx_blocks,
        mtime: time(&raw.stx_mtime),
        ctime: time(&raw.stx_ctime),
        atime: time(&raw.stx_atime),
        btime: given(libc::STATX_BTIME).then(|| time(&raw.stx_btime)),
        attributes: raw.stx_attributes & raw.stx_attributes_mask,
    }
}

/// Inode flags (`chattr`) of an open file or directory; 0 where the file system has none.
///
/// # Errors
/// As ioctl(2), but for the errors that mean "no such thing here".
pub fn inode_flags(file: &impl AsFd) -> io::Result<u32> {
    get_int(file.as_fd(), libc::FS_IOC_GETFLAGS)
}

/// The inode's generation, which tells a reused inode number from the old one; 0 where there is none.
///
/// # Errors
/// As ioctl(2), but for the errors that mean "no such thing here".
pub fn generation(file: &impl AsFd) -> io::Result<u32> {
    get_int(file.as_fd(), libc::FS_IOC_GETVERSION)
}

fn get_int(file: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    // The request's number says `long`, local file systems write an int, FUSE servers may write either.
    let mut value = [0u32; 2];
    // SAFETY: `value` has room for the larger of the two sizes that are written.
    match check(unsafe { libc::ioctl(file.as_raw_fd(), request, value.as_mut_ptr()) }) {
        Ok(_) => Ok(value[0]),
        Err(e) if is_errno(&e, &[libc::ENOTTY, libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL]) => Ok(0),
        Err(e) => Err(e),
    }
}
