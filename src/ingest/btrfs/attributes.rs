//! The attributes of one command: type, length, value; each type at most once, each with its width.

use super::bad;
use crate::{Error, Result};
use repo_format::Time;

/// What an attribute's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// So many bytes.
    Exactly(usize),
    /// Any number.
    Any,
}

use Width::{Any, Exactly};

/// Names, widths and the version of the stream that first may have it, by type from 1 on.
const KNOWN: [(&str, Width, u32); 35] = [
    ("UUID", Exactly(16), 1),
    ("CTRANSID", Exactly(8), 1),
    ("INO", Exactly(8), 1),
    ("SIZE", Exactly(8), 1),
    ("MODE", Exactly(8), 1),
    ("UID", Exactly(8), 1),
    ("GID", Exactly(8), 1),
    ("RDEV", Exactly(8), 1),
    ("CTIME", Exactly(12), 1),
    ("MTIME", Exactly(12), 1),
    ("ATIME", Exactly(12), 1),
    ("OTIME", Exactly(12), 1),
    ("XATTR_NAME", Any, 1),
    ("XATTR_DATA", Any, 1),
    ("PATH", Any, 1),
    ("PATH_TO", Any, 1),
    ("PATH_LINK", Any, 1),
    ("FILE_OFFSET", Exactly(8), 1),
    ("DATA", Any, 1),
    ("CLONE_UUID", Exactly(16), 1),
    ("CLONE_CTRANSID", Exactly(8), 1),
    ("CLONE_PATH", Any, 1),
    ("CLONE_OFFSET", Exactly(8), 1),
    ("CLONE_LEN", Exactly(8), 1),
    ("FALLOCATE_MODE", Exactly(4), 2),
    ("FILEATTR", Exactly(8), 2),
    ("UNENCODED_FILE_LEN", Exactly(8), 2),
    ("UNENCODED_LEN", Exactly(8), 2),
    ("UNENCODED_OFFSET", Exactly(8), 2),
    ("COMPRESSION", Exactly(4), 2),
    ("ENCRYPTION", Exactly(4), 2),
    ("VERITY_ALGORITHM", Exactly(1), 3),
    ("VERITY_BLOCK_SIZE", Exactly(4), 3),
    ("VERITY_SALT_DATA", Any, 3),
    ("VERITY_SIG_DATA", Any, 3),
];

/// Types of attributes that commands are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Uuid = 1,
    Ctransid = 2,
    Ino = 3,
    Size = 4,
    Mode = 5,
    Uid = 6,
    Gid = 7,
    Rdev = 8,
    Ctime = 9,
    Mtime = 10,
    Otime = 12,
    XattrName = 13,
    XattrData = 14,
    Path = 15,
    PathTo = 16,
    PathLink = 17,
    FileOffset = 18,
    Data = 19,
    CloneUuid = 20,
    ClonePath = 22,
    CloneOffset = 23,
    CloneLen = 24,
    FallocateMode = 25,
    Fileattr = 26,
    UnencodedFileLen = 27,
    UnencodedLen = 28,
    UnencodedOffset = 29,
    Compression = 30,
    Encryption = 31,
}

/// From this version on DATA has no length: it is what is left of the command.
const DATA_WITHOUT_LEN: u32 = 2;

/// The attributes of a command, parsed.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    values: [Option<&'a [u8]>; KNOWN.len() + 1],
}

impl<'a> Attributes<'a> {
    /// Takes a command's payload apart.
    ///
    /// # Errors
    /// `BadInput` for attributes that are not known to this version, of the wrong width, there twice, or longer than
    /// the command.
    pub(super) fn parse(payload: &'a [u8], version: u32) -> Result<Self> {
        let mut values = [None; KNOWN.len() + 1];
        let mut rest = payload;
        while !rest.is_empty() {
            let (kind, behind) = take_u16(rest).ok_or_else(|| bad("an attribute begins at its last byte"))?;
            let (name, width) = known(kind, version)?;
            let (value, behind) = if kind == Kind::Data as u16 && version >= DATA_WITHOUT_LEN {
                (behind, &[][..])
            } else {
                let cut = || bad(format!("its attribute {name} is longer than the command"));
                let (len, behind) = take_u16(behind).ok_or_else(cut)?;
                behind.split_at_checked(usize::from(len)).ok_or_else(cut)?
            };
            if let Exactly(bytes) = width
                && bytes != value.len()
            {
                return Err(bad(format!("its attribute {name} has {} bytes instead of {bytes}", value.len())));
            }
            match values.get_mut(usize::from(kind)) {
                Some(slot @ None) => *slot = Some(value),
                _ => return Err(bad(format!("its attribute {name} is there twice"))),
            }
            rest = behind;
        }
        Ok(Self { values })
    }

    /// A value that may be missing.
    pub(super) fn get(&self, kind: Kind) -> Option<&'a [u8]> {
        self.values.get(kind as usize).copied().flatten()
    }

    /// A value.
    ///
    /// # Errors
    /// `BadInput` when it is missing.
    pub(super) fn bytes(&self, kind: Kind) -> Result<&'a [u8]> {
        self.get(kind).ok_or_else(|| missing(kind))
    }

    /// A number of 8 bytes.
    ///
    /// # Errors
    /// As [`Attributes::bytes`].
    pub(super) fn u64(&self, kind: Kind) -> Result<u64> {
        self.bytes(kind)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| missing(kind))
    }

    /// A number of 8 bytes whose values end at 2^32.
    ///
    /// # Errors
    /// As [`Attributes::bytes`], and `BadInput` for a larger one.
    pub(super) fn small(&self, kind: Kind) -> Result<u32> {
        let value = self.u64(kind)?;
        u32::try_from(value).map_err(|_| bad(format!("its attribute {} is {value}, which cannot be", name_of(kind))))
    }

    /// A number of 4 bytes; None when it is missing.
    pub(super) fn u32(&self, kind: Kind) -> Option<u32> {
        self.get(kind)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// A time; None when it is missing.
    ///
    /// # Errors
    /// `BadInput` for more than 999,999,999 nanoseconds.
    pub(super) fn time(&self, kind: Kind) -> Result<Option<Time>> {
        let Some(bytes) = self.get(kind) else { return Ok(None) };
        let (sec, nsec) = bytes
            .split_first_chunk()
            .zip(bytes.last_chunk())
            .ok_or_else(|| missing(kind))
            .map(|((s, _), n)| (*s, *n))?;
        let time = Time { sec: i64::from_le_bytes(sec), nsec: u32::from_le_bytes(nsec) };
        if time.nsec >= 1_000_000_000 {
            return Err(bad(format!("its attribute {} has {} nanoseconds", name_of(kind), time.nsec)));
        }
        Ok(Some(time))
    }
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u16::from_le_bytes(*number), rest))
}

fn known(kind: u16, version: u32) -> Result<(&'static str, Width)> {
    let row = usize::from(kind).checked_sub(1).and_then(|row| KNOWN.get(row));
    match row {
        Some((name, width, since)) if *since <= version => Ok((name, *width)),
        Some((name, _, since)) => {
            Err(bad(format!("its attribute {name} came with version {since}, and this stream has version {version}")))
        }
        None => Err(bad(format!("its attribute of type {kind} is not known"))),
    }
}

fn name_of(kind: Kind) -> &'static str {
    KNOWN.get(kind as usize - 1).map_or("?", |(name, ..)| name)
}

fn missing(kind: Kind) -> Error {
    bad(format!("its attribute {} is missing", name_of(kind)))
}
