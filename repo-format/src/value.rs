//! Values of the tree: what stands behind each kind of key (SPEC.md section 7).

use crate::error::Result;
use crate::id::ChunkId;
use crate::key::{KeyKind, MAX_FILE_BYTES, MAX_INO, TREE_INO};
use crate::segment::MAX_CHUNK_BYTES;
use crate::wire::{Reader, Writer};
use alloc::vec::Vec;

/// Longest extended attribute value, in bytes (Linux XATTR_SIZE_MAX).
pub const MAX_XATTR_BYTES: usize = 65_536;

/// Longest target of a symbolic link, in bytes (Linux PATH_MAX without its NUL).
pub const MAX_TARGET_BYTES: usize = 4095;

const S_IFMT: u32 = 0o170_000;

/// Type of a file. The value is the byte in a directory entry; zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// Regular file.
    File = 1,
    /// Directory.
    Dir = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    Char = 6,
    /// Block device.
    Block = 7,
}

impl FileKind {
    /// The kind that the type bits of a mode name.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => Self::File,
            0o040_000 => Self::Dir,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::Char,
            0o060_000 => Self::Block,
            _ => return None,
        })
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::Char,
            7 => Self::Block,
            _ => return None,
        })
    }
}

/// The value behind a key, as the key's kind says. Attribute values and targets are borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Behind [`KeyKind::Inode`].
    Inode(Inode),
    /// Behind [`KeyKind::Xattr`]: the attribute's bytes.
    Xattr(&'a [u8]),
    /// Behind [`KeyKind::Dirent`].
    Dirent(Dirent),
    /// Behind [`KeyKind::Extent`].
    Extent(Extent),
    /// Behind [`KeyKind::Target`]: where the symbolic link leads.
    Target(&'a [u8]),
    /// Behind [`KeyKind::SourceIno`]: the tree's inode number.
    SourceIno(u64),
}

impl<'a> Value<'a> {
    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Inode(inode) => inode.encode(),
            Self::Dirent(dirent) => dirent.encode(),
            Self::Extent(extent) => extent.encode(),
            Self::Xattr(bytes) | Self::Target(bytes) => bytes.to_vec(),
            Self::SourceIno(ino) => ino.to_le_bytes().to_vec(),
        }
    }

    /// Decodes the value behind a key of `kind`.
    ///
    /// # Errors
    /// On bytes that [`Value::encode`] would not make from a valid value.
    pub fn decode(kind: KeyKind, bytes: &'a [u8]) -> Result<Self> {
        match kind {
            KeyKind::Inode => Inode::decode(bytes).map(Self::Inode),
            KeyKind::Dirent => Dirent::decode(bytes).map(Self::Dirent),
            KeyKind::Extent => Extent::decode(bytes).map(Self::Extent),
            KeyKind::Xattr if bytes.len() <= MAX_XATTR_BYTES => Ok(Self::Xattr(bytes)),
            KeyKind::Xattr => Err(Reader::new("extended attribute", bytes).field("length")),
            KeyKind::Target if valid_target(bytes) => Ok(Self::Target(bytes)),
            KeyKind::Target => Err(Reader::new("symlink target", bytes).field("target")),
            KeyKind::SourceIno => read_source_ino(bytes).map(Self::SourceIno),
        }
    }
}

fn valid_target(bytes: &[u8]) -> bool {
    (1..=MAX_TARGET_BYTES).contains(&bytes.len()) && !bytes.contains(&0)
}

fn read_source_ino(bytes: &[u8]) -> Result<u64> {
    let mut r = Reader::new("source inode", bytes);
    let ino = r.u64()?;
    if ino == TREE_INO || ino > MAX_INO {
        return Err(r.field("ino"));
    }
    r.end()?;
    Ok(ino)
}

/// A point in time: seconds since 1970 (may be negative) plus 0..=999,999,999 nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since the epoch.
    pub sec: i64,
    /// Nanoseconds past `sec`.
    pub nsec: u32,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Where an inode was found: how the next scan recognises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceIdentity {
    /// Ordinal of the file system in the restore point record's list.
    pub fs: u32,
    /// Inode number there.
    pub ino: u64,
    /// 0, or [`SourceIdentity::READ_IN_PART`].
    pub generation: u32,
}

impl SourceIdentity {
    /// As a generation: not all of the inode's content or attributes could be read, so the next scan has to read it again,
    /// however unchanged it looks.
    pub const READ_IN_PART: u32 = u32::MAX;

    /// Whether both are the same inode of the same file system.
    #[must_use]
    pub const fn is_same_inode(&self, other: &Self) -> bool {
        self.fs == other.fs && self.ino == other.ino
    }
}

/// The attributes of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of this inode in the tree; for a directory 2 + its subdirectories.
    pub nlink: u32,
    /// Size in bytes (of a symlink: of its target; of a directory: as the source said).
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth, where the source tells it.
    pub btime: Option<Time>,
    /// Device number, of device nodes only.
    pub rdev: Option<Device>,
    /// Inode flags as of FS_IOC_GETFLAGS; 0 = none.
    pub flags: u32,
    /// Bytes of a regular file covered by extents; `size - data_bytes` are holes.
    pub data_bytes: u64,
    /// Where it came from, when the source is a scan.
    pub source: Option<SourceIdentity>,
}

const HAS_BTIME: u16 = 1;
const HAS_RDEV: u16 = 2;
const HAS_FLAGS: u16 = 4;
const HAS_HOLES: u16 = 8;
const HAS_SOURCE: u16 = 16;

impl Inode {
    /// The type of the inode.
    ///
    /// # Panics
    /// Never for a decoded inode: decoding checks the type bits. A hand-made one with no type reads as a regular file.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::File)
    }

    fn present(&self) -> u16 {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        bit(self.btime.is_some(), HAS_BTIME)
            | bit(self.rdev.is_some(), HAS_RDEV)
            | bit(self.flags != 0, HAS_FLAGS)
            | bit(self.kind() == FileKind::File && self.data_bytes != self.size, HAS_HOLES)
            | bit(self.source.is_some(), HAS_SOURCE)
    }

    /// The inode's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(96);
        w.u16(self.present()).u32(self.mode).u32(self.uid).u32(self.gid).u32(self.nlink).u64(self.size);
        time(&mut w, self.mtime);
        time(&mut w, self.ctime);
        if let Some(btime) = self.btime {
            time(&mut w, btime);
        }
        if let Some(rdev) = self.rdev {
            w.u32(rdev.major).u32(rdev.minor);
        }
        if self.flags != 0 {
            w.u32(self.flags);
        }
        if self.present() & HAS_HOLES != 0 {
            w.u64(self.data_bytes);
        }
        if let Some(source) = self.source {
            w.u32(source.fs).u64(source.ino).u32(source.generation);
        }
        w.0
    }

    /// Decodes an inode.
    ///
    /// # Errors
    /// On bytes that [`Inode::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("inode", bytes);
        let present = r.u16()?;
        if present >= HAS_SOURCE << 1 {
            return Err(r.field("present"));
        }
        let has = |bit: u16| present & bit != 0;
        let mode = r.u32()?;
        let kind = FileKind::from_mode(mode).filter(|_| mode <= 0o177_777).ok_or(r.field("mode"))?;
        let (uid, gid, nlink, size) = (r.u32()?, r.u32()?, r.u32()?, r.u64()?);
        if size > MAX_FILE_BYTES {
            return Err(r.field("size"));
        }
        let (mtime, ctime) = (read_time(&mut r)?, read_time(&mut r)?);
        let btime = has(HAS_BTIME).then(|| read_time(&mut r)).transpose()?;
        let rdev = has(HAS_RDEV).then(|| read_device(&mut r)).transpose()?;
        let flags = if has(HAS_FLAGS) { r.u32()? } else { 0 };
        let default_data = if kind == FileKind::File { size } else { 0 };
        let data_bytes = if has(HAS_HOLES) { r.u64()? } else { default_data };
        let source = has(HAS_SOURCE).then(|| read_source(&mut r)).transpose()?;
        let inode = Self { mode, uid, gid, nlink, size, mtime, ctime, btime, rdev, flags, data_bytes, source };
        let is_device = matches!(kind, FileKind::Char | FileKind::Block);
        if inode.present() != present || is_device != rdev.is_some() || data_bytes > size {
            return Err(r.field("present"));
        }
        r.end()?;
        Ok(inode)
    }
}

fn time(w: &mut Writer, t: Time) {
    w.i64(t.sec).u32(t.nsec);
}

pub(crate) fn read_time(r: &mut Reader<'_>) -> Result<Time> {
    let time = Time { sec: r.i64()?, nsec: r.u32()? };
    if time.nsec < 1_000_000_000 { Ok(time) } else { Err(r.field("nsec")) }
}

fn read_device(r: &mut Reader<'_>) -> Result<Device> {
    Ok(Device { major: r.u32()?, minor: r.u32()? })
}

fn read_source(r: &mut Reader<'_>) -> Result<SourceIdentity> {
    Ok(SourceIdentity { fs: r.u32()?, ino: r.u64()?, generation: r.u32()? })
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    /// The inode it names.
    pub ino: u64,
    /// That inode's type.
    pub kind: FileKind,
}

impl Dirent {
    /// The entry's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(9);
        w.u64(self.ino).u8(self.kind as u8);
        w.0
    }

    /// Decodes a directory entry.
    ///
    /// # Errors
    /// On bytes that [`Dirent::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("directory entry", bytes);
        let ino = r.u64()?;
        if ino == TREE_INO || ino > MAX_INO {
            return Err(r.field("ino"));
        }
        let kind = FileKind::from_byte(r.u8()?).ok_or(r.field("kind"))?;
        r.end()?;
        Ok(Self { ino, kind })
    }
}

/// A run of a file's content: `len` bytes of a chunk, from byte `skip` of it. A range without an extent is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The chunk.
    pub chunk: ChunkId,
    /// First byte of the chunk that belongs to the file.
    pub skip: u32,
    /// Bytes of the file that this extent covers; never 0.
    pub len: u32,
}

impl Extent {
    /// The extent's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(40);
        w.u32(self.skip).u32(self.len).bytes(&self.chunk.0);
        w.0
    }

    /// Decodes an extent.
    ///
    /// # Errors
    /// On bytes that [`Extent::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("extent", bytes);
        let (skip, len) = (r.u32()?, r.u32()?);
        let end = u64::from(skip) + u64::from(len);
        if len == 0 || end > MAX_CHUNK_BYTES as u64 {
            return Err(r.field("len"));
        }
        let chunk = ChunkId(r.array()?);
        r.end()?;
        Ok(Self { chunk, skip, len })
    }
}
