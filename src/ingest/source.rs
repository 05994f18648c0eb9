//! What the scan takes from the operating system, in the types of the tree.

use crate::os::{self, Dir, xattr};
use repo_format::{Device, FileKind, Time};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Flags that chattr(1) can set; the others (extents, inline data, ...) are the file system's own affair.
const KEPT_FLAGS: u32 = os::USER_FLAGS;

/// An open directory of the source and its path, for messages and excludes only.
pub(super) struct SourceDir {
    pub(super) dir: Dir,
    pub(super) path: Arc<[u8]>,
}

impl SourceDir {
    /// The path of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        path_of(&self.path, name)
    }
}

/// The path of an entry of the directory at `dir`.
pub(super) fn path_of(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// What one statx told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Device and mount, for as long as the scan runs.
    pub(super) dev: (u32, u32),
    pub(super) mount: u64,
    pub(super) ino: u64,
    pub(super) mode: u32,
    pub(super) kind: FileKind,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) btime: Option<Time>,
    pub(super) rdev: Option<Device>,
    /// Whether less is allocated than the size asks for.
    pub(super) may_have_holes: bool,
}

impl TryFrom<os::Stat> for Stat {
    type Error = io::Error;

    fn try_from(stat: os::Stat) -> io::Result<Self> {
        let time = |time: os::Time| Time { sec: time.sec, nsec: time.nsec };
        let kind = FileKind::from_mode(stat.mode).ok_or_else(|| io::Error::other("it is of an unknown type"))?;
        let (major, minor) = stat.rdev;
        let is_device = matches!(kind, FileKind::Char | FileKind::Block);
        Ok(Self {
            dev: stat.dev,
            mount: stat.mnt_id.unwrap_or(0),
            ino: stat.ino,
            mode: stat.mode,
            kind,
            uid: stat.uid,
            gid: stat.gid,
            nlink: stat.nlink,
            size: stat.size,
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
            btime: stat.btime.map(time),
            rdev: is_device.then_some(Device { major, minor }),
            may_have_holes: stat.may_have_holes(),
        })
    }
}

impl Stat {
    /// Of an entry of a directory; of a symbolic link its own.
    pub(super) fn of_entry(dir: &Dir, name: &[u8]) -> io::Result<Self> {
        dir.stat(name)?.try_into()
    }

    /// Of an open file, which must be a regular one.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        let stat = Self::try_from(os::stat_file(file)?)?;
        if stat.kind == FileKind::File { Ok(stat) } else { Err(io::Error::from_raw_os_error(libc::ENXIO)) }
    }

    /// Whether two looks at a file saw the same content.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        (self.size, self.mtime, self.ctime, self.ino) == (other.size, other.mtime, other.ctime, other.ino)
    }
}

/// What is known of an item beside its stat.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Inode flags.
    pub(super) flags: u32,
    /// Extended attributes, ascending by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether some of them could not be read.
    pub(super) in_part: bool,
}

impl Attributes {
    /// Of an open file or directory, with the error if they are not all there.
    pub(super) fn of_file(file: &File) -> (Self, Option<io::Error>) {
        let (flags, error) = split(os::inode_flags(file));
        let (xattrs, xattr_error) = split(xattr::read_all(file));
        let error = error.or(xattr_error);
        (Self { flags: flags & KEPT_FLAGS, xattrs: storable(xattrs), in_part: error.is_some() }, error)
    }

    /// Of an entry that is not opened; it has no flags that could be asked for.
    pub(super) fn of_entry(dir: &Dir, name: &[u8]) -> (Self, Option<io::Error>) {
        let (xattrs, error) = split(xattr::read_all_at(dir, name));
        (Self { flags: 0, xattrs: storable(xattrs), in_part: error.is_some() }, error)
    }
}

/// What the format can hold; Linux has the same limits, but FUSE servers may say anything.
fn storable(mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    xattrs.retain(|(name, value)| {
        (1..=repo_format::MAX_NAME_BYTES).contains(&name.len()) && value.len() <= repo_format::MAX_XATTR_BYTES
    });
    xattrs
}

fn split<T: Default>(result: io::Result<T>) -> (T, Option<io::Error>) {
    match result {
        Ok(value) => (value, None),
        Err(error) => (T::default(), Some(error)),
    }
}
