//! Keys of the tree. Their byte order is the order of the tree (SPEC.md section 7), so integers in keys are big endian.

use crate::error::{FormatError, Problem, Result};
use alloc::vec::Vec;

/// Inode number of a restore point's root directory.
pub const ROOT_INO: u64 = 1;
/// The inode number under which entries about the tree itself stand.
pub const TREE_INO: u64 = 0;
/// Largest inode number: 40 bits, so that a mount can put the restore point's number above it in 64.
pub const MAX_INO: u64 = (1 << 40) - 1;
/// Largest size of a file and largest end of an extent, in bytes: what Linux can seek to.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;
/// Longest directory entry or extended attribute name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The kind byte of a key; its value is its rank among the entries of an inode. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// The inode's attributes.
    Inode = 1,
    /// One extended attribute.
    Xattr = 2,
    /// One name in a directory.
    Dirent = 3,
    /// A run of a file's content.
    Extent = 4,
    /// A symbolic link's target.
    Target = 5,
    /// Source inode number to tree inode number; under [`TREE_INO`] only.
    SourceIno = 6,
}

/// A decoded key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// `(ino, Inode)`.
    Inode(u64),
    /// `(ino, Xattr, name)`.
    Xattr(u64, &'a [u8]),
    /// `(ino, Dirent, name)`.
    Dirent(u64, &'a [u8]),
    /// `(ino, Extent, offset in bytes)`.
    Extent(u64, u64),
    /// `(ino, Target)`.
    Target(u64),
    /// `(0, SourceIno, file system ordinal, source inode number)`.
    SourceIno(u32, u64),
}

impl<'a> Key<'a> {
    /// The inode the entry belongs to.
    #[must_use]
    pub const fn ino(&self) -> u64 {
        match *self {
            Key::Inode(i) | Key::Xattr(i, _) | Key::Dirent(i, _) | Key::Extent(i, _) | Key::Target(i) => i,
            Key::SourceIno(..) => TREE_INO,
        }
    }

    /// The kind byte.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        match self {
            Key::Inode(_) => KeyKind::Inode,
            Key::Xattr(..) => KeyKind::Xattr,
            Key::Dirent(..) => KeyKind::Dirent,
            Key::Extent(..) => KeyKind::Extent,
            Key::Target(_) => KeyKind::Target,
            Key::SourceIno(..) => KeyKind::SourceIno,
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Self::prefix(self.ino(), self.kind());
        match *self {
            Key::Xattr(_, name) | Key::Dirent(_, name) => out.extend_from_slice(name),
            Key::Extent(_, offset) => out.extend_from_slice(&offset.to_be_bytes()),
            Key::SourceIno(fs, ino) => {
                out.extend_from_slice(&fs.to_be_bytes());
                out.extend_from_slice(&ino.to_be_bytes());
            }
            Key::Inode(_) | Key::Target(_) => {}
        }
        out
    }

    /// The bytes that all entries of `kind` of inode `ino` begin with.
    #[must_use]
    pub fn prefix(ino: u64, kind: KeyKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(&ino.to_be_bytes());
        out.push(kind as u8);
        out
    }

    /// Decodes a key.
    ///
    /// # Errors
    /// On any byte string that [`Key::encode`] would not make from a valid key.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let error = |at, problem| FormatError::new("tree key", at, problem);
        let (ino, rest) = bytes.split_first_chunk::<8>().ok_or(error(0, Problem::Truncated))?;
        let (kind, rest) = rest.split_first().ok_or(error(8, Problem::Truncated))?;
        let ino = u64::from_be_bytes(*ino);
        let empty = |key| if rest.is_empty() { Ok(key) } else { Err(error(9, Problem::Trailing)) };
        let key = match kind {
            1 => empty(Key::Inode(ino))?,
            2 if valid_xattr_name(rest) => Key::Xattr(ino, rest),
            3 if valid_entry_name(rest) => Key::Dirent(ino, rest),
            2 | 3 => return Err(error(9, Problem::Field("name"))),
            4 => Key::Extent(ino, decode_offset(rest)?),
            5 => empty(Key::Target(ino))?,
            6 => decode_source(rest)?,
            _ => return Err(error(8, Problem::Field("kind"))),
        };
        if (key.kind() == KeyKind::SourceIno) == (ino == TREE_INO) && ino <= MAX_INO {
            Ok(key)
        } else {
            Err(error(0, Problem::Field("ino")))
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    let problem = if bytes.len() < N { Problem::Truncated } else { Problem::Trailing };
    bytes.try_into().map_err(|_| FormatError::new("tree key", 9, problem))
}

fn decode_source(rest: &[u8]) -> Result<Key<'static>> {
    let short = FormatError::new("tree key", 9, Problem::Truncated);
    let (fs, ino) = rest.split_first_chunk::<4>().ok_or(short)?;
    Ok(Key::SourceIno(u32::from_be_bytes(*fs), u64::from_be_bytes(exactly(ino)?)))
}

fn decode_offset(rest: &[u8]) -> Result<u64> {
    let offset = u64::from_be_bytes(exactly(rest)?);
    let error = FormatError::new("tree key", 9, Problem::Field("offset"));
    // An extent has at least one byte, so none begins at the last offset.
    if offset < MAX_FILE_BYTES { Ok(offset) } else { Err(error) }
}

/// A directory entry's name: 1..=255 bytes, no NUL, no slash, not `.` and not `..`.
fn valid_entry_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.iter().any(|b| *b == 0 || *b == b'/')
        && name != b"."
        && name != b".."
}

/// An extended attribute's name: 1..=255 bytes, no NUL.
fn valid_xattr_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(&0)
}
