//! The commands of a send stream, and which change each one is.

use super::attributes::{Attributes, Kind};
use super::bad;
use super::encoded::Expander;
use crate::Result;
use crate::ingest::change::{Change, SetAttr};
use repo_format::{Device, FileKind};

/// Names of the commands by number from 1 on, and the version of the stream that first may have it.
const KNOWN: [(&str, u32, Command); 26] = [
    ("SUBVOL", 1, Command::Subvol),
    ("SNAPSHOT", 1, Command::Snapshot),
    ("MKFILE", 1, Command::Mkfile),
    ("MKDIR", 1, Command::Mkdir),
    ("MKNOD", 1, Command::Mknod),
    ("MKFIFO", 1, Command::Mkfifo),
    ("MKSOCK", 1, Command::Mksock),
    ("SYMLINK", 1, Command::Symlink),
    ("RENAME", 1, Command::Rename),
    ("LINK", 1, Command::Link),
    ("UNLINK", 1, Command::Unlink),
    ("RMDIR", 1, Command::Rmdir),
    ("SET_XATTR", 1, Command::SetXattr),
    ("REMOVE_XATTR", 1, Command::RemoveXattr),
    ("WRITE", 1, Command::Write),
    ("CLONE", 1, Command::Clone),
    ("TRUNCATE", 1, Command::Truncate),
    ("CHMOD", 1, Command::Chmod),
    ("CHOWN", 1, Command::Chown),
    ("UTIMES", 1, Command::Utimes),
    ("END", 1, Command::End),
    ("UPDATE_EXTENT", 1, Command::UpdateExtent),
    ("FALLOCATE", 2, Command::Fallocate),
    ("FILEATTR", 2, Command::Fileattr),
    ("ENCODED_WRITE", 2, Command::EncodedWrite),
    ("ENABLE_VERITY", 3, Command::EnableVerity),
];

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Subvol = 1,
    Snapshot,
    Mkfile,
    Mkdir,
    Mknod,
    Mkfifo,
    Mksock,
    Symlink,
    Rename,
    Link,
    Unlink,
    Rmdir,
    SetXattr,
    RemoveXattr,
    Write,
    Clone,
    Truncate,
    Chmod,
    Chown,
    Utimes,
    End,
    UpdateExtent,
    Fallocate,
    Fileattr,
    EncodedWrite,
    EnableVerity,
}

/// What a command means.
#[derive(Debug)]
pub(super) enum Translated<'a> {
    /// This, and nothing more.
    Last(Option<Change<'a>>),
    /// This, and the command is to be asked again.
    MoreFollow(Change<'a>),
}

/// fallocate(2): the file's size stays.
const KEEP_SIZE: u32 = 1;
/// fallocate(2): the range becomes a hole.
const PUNCH_HOLE: u32 = 2;
/// Type and permissions of a mode.
const MODE_BITS: u32 = libc::S_IFMT | 0o7777;
/// Flags of btrfs inodes, and what chattr(1) calls them. The others say how btrfs stores a file, and stay there.
const INODE_FLAGS: [(u64, u32); 9] = [
    (1 << 1, 0x0080_0000),  // no copy on write
    (1 << 3, 0x0000_0400),  // no compression
    (1 << 5, 0x0000_0008),  // synchronous
    (1 << 6, 0x0000_0010),  // immutable
    (1 << 7, 0x0000_0020),  // append only
    (1 << 8, 0x0000_0040),  // no dump
    (1 << 9, 0x0000_0080),  // no atime
    (1 << 10, 0x0001_0000), // synchronous directory
    (1 << 11, 0x0000_0004), // compressed
];

/// The block that an inline extent fills, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// What the restore point's record says once when files had fs-verity.
const VERITY_NOTE: &[u8] = b"fs-verity of some files was left out: their content is here, their verity digests are not";

impl Command {
    /// The command of this number.
    ///
    /// # Errors
    /// `BadInput` when no version up to this one has it.
    pub(super) fn from_number(number: u16, version: u32) -> Result<Self> {
        match usize::from(number).checked_sub(1).and_then(|row| KNOWN.get(row)) {
            Some((_, since, command)) if *since <= version => Ok(*command),
            Some((name, since, _)) => {
                Err(bad(format!("{name} came with version {since}, and this stream has version {version}")))
            }
            None => Err(bad(format!("command {number} is not known"))),
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        KNOWN.get(self as usize - 1).map_or("?", |(name, ..)| name)
    }

    /// Whether a state begins with it.
    pub(super) const fn begins(self) -> bool {
        matches!(self, Self::Subvol | Self::Snapshot)
    }

    /// Change number `given` of this command, from 0 on. `noted`: a note on verity was given for this state.
    ///
    /// # Errors
    /// `BadInput` for attributes that are missing or cannot be.
    pub(super) fn translate<'a>(
        self,
        a: &Attributes<'a>,
        given: u32,
        noted: bool,
        expander: &'a mut Expander,
    ) -> Result<Translated<'a>> {
        let path = a.bytes(Kind::Path)?;
        let set = |set: SetAttr| Change::SetAttr { path, set };
        let change = match self {
            Self::Subvol | Self::Snapshot => begin(a, path, self == Self::Snapshot)?,
            Self::Symlink if given == 0 => return Ok(Translated::MoreFollow(create(a, path, FileKind::Symlink)?)),
            Self::Symlink => Change::SetTarget { path, target: a.bytes(Kind::PathLink)? },
            Self::Mkfile => create(a, path, FileKind::File)?,
            Self::Mkdir => create(a, path, FileKind::Dir)?,
            Self::Mknod | Self::Mkfifo | Self::Mksock => special(a, path, self)?,
            Self::Rename => Change::Rename { from: path, to: a.bytes(Kind::PathTo)? },
            Self::Link => Change::Link { path, existing: a.bytes(Kind::PathLink)? },
            Self::Unlink => Change::Unlink { path },
            Self::Rmdir => Change::RemoveDir { path },
            Self::SetXattr => {
                Change::SetXattr { path, name: a.bytes(Kind::XattrName)?, value: a.bytes(Kind::XattrData)? }
            }
            Self::RemoveXattr => Change::RemoveXattr { path, name: a.bytes(Kind::XattrName)? },
            Self::Write => Change::Write { path, offset: a.u64(Kind::FileOffset)?, data: a.bytes(Kind::Data)? },
            Self::EncodedWrite if given == 0 => {
                let write = Change::Write { path, offset: a.u64(Kind::FileOffset)?, data: expander.expand(a)? };
                return Ok(if rest_of_inline(a)?.is_some() {
                    Translated::MoreFollow(write)
                } else {
                    Translated::Last(Some(write))
                });
            }
            Self::EncodedWrite => {
                return Ok(Translated::Last(rest_of_inline(a)?.map(|(offset, len)| Change::Zero {
                    path,
                    offset,
                    len,
                    extend: false,
                })));
            }
            Self::Clone => clone(a, path)?,
            Self::Truncate => Change::Truncate { path, size: a.u64(Kind::Size)? },
            Self::Chmod => set(SetAttr { mode: Some(mode(a)? & 0o7777), ..SetAttr::default() }),
            Self::Chown => {
                set(SetAttr { uid: Some(a.small(Kind::Uid)?), gid: Some(a.small(Kind::Gid)?), ..SetAttr::default() })
            }
            Self::Utimes => set(times(a)?),
            Self::UpdateExtent => Change::Changed { path, offset: a.u64(Kind::FileOffset)?, len: a.u64(Kind::Size)? },
            Self::Fallocate => return fallocate(a, path).map(Translated::Last),
            Self::Fileattr => set(SetAttr { flags: Some(flags(a.u64(Kind::Fileattr)?)), ..SetAttr::default() }),
            Self::EnableVerity if noted => return Ok(Translated::Last(None)),
            Self::EnableVerity => Change::Note { text: VERITY_NOTE },
            Self::End => Change::End,
        };
        Ok(Translated::Last(Some(change)))
    }
}

fn begin<'a>(a: &Attributes<'a>, name: &'a [u8], is_snapshot: bool) -> Result<Change<'a>> {
    let parent = if is_snapshot { Some(a.bytes(Kind::CloneUuid)?) } else { None };
    Ok(Change::Begin { id: a.bytes(Kind::Uuid)?, parent, name, generation: a.u64(Kind::Ctransid)? })
}

fn create<'a>(a: &Attributes<'a>, path: &'a [u8], kind: FileKind) -> Result<Change<'a>> {
    let ino = a.get(Kind::Ino).map(|_| a.u64(Kind::Ino)).transpose()?;
    Ok(Change::Create { path, kind, ino, device: None })
}

/// A pipe, a socket or a device: the mode says which, and must fit the command.
fn special<'a>(a: &Attributes<'a>, path: &'a [u8], command: Command) -> Result<Change<'a>> {
    let mode = mode(a)?;
    let kind = FileKind::from_mode(mode);
    let kind = match (command, kind) {
        (Command::Mknod, Some(kind @ (FileKind::Char | FileKind::Block)))
        | (Command::Mkfifo, Some(kind @ FileKind::Fifo))
        | (Command::Mksock, Some(kind @ FileKind::Socket)) => kind,
        _ => return Err(bad(format!("its mode {mode:o} is of another type"))),
    };
    let device = if command == Command::Mknod { Some(device(a.small(Kind::Rdev)?)) } else { None };
    let ino = a.get(Kind::Ino).map(|_| a.u64(Kind::Ino)).transpose()?;
    Ok(Change::Create { path, kind, ino, device })
}

fn mode(a: &Attributes<'_>) -> Result<u32> {
    let mode = a.small(Kind::Mode)?;
    if mode & !MODE_BITS == 0 { Ok(mode) } else { Err(bad(format!("its mode {mode:o} has bits that no mode has"))) }
}

/// A device number as Linux writes it to disks.
const fn device(dev: u32) -> Device {
    Device { major: (dev >> 8) & 0xfff, minor: (dev & 0xff) | ((dev >> 12) & 0xf_ff00) }
}

fn times(a: &Attributes<'_>) -> Result<SetAttr> {
    let (mtime, ctime, btime) = (a.time(Kind::Mtime)?, a.time(Kind::Ctime)?, a.time(Kind::Otime)?);
    if mtime.is_none() {
        return Err(bad("its attribute MTIME is missing"));
    }
    Ok(SetAttr { mtime, ctime, btime, ..SetAttr::default() })
}

fn clone<'a>(a: &Attributes<'a>, path: &'a [u8]) -> Result<Change<'a>> {
    Ok(Change::Clone {
        path,
        offset: a.u64(Kind::FileOffset)?,
        state: Some(a.bytes(Kind::CloneUuid)?),
        from: a.bytes(Kind::ClonePath)?,
        from_offset: a.u64(Kind::CloneOffset)?,
        len: a.u64(Kind::CloneLen)?,
    })
}

/// Offset and length of what an encoded write of an inline extent leaves unsaid: such an extent is a file's whole first
/// block, and behind its content the block is zeros. The kernel sends the content alone, so that what the parent has
/// there would stay, as it does with `btrfs receive` (SPEC.md section 19).
fn rest_of_inline(a: &Attributes<'_>) -> Result<Option<(u64, u64)>> {
    let (offset, len) = (a.u64(Kind::FileOffset)?, a.u64(Kind::UnencodedFileLen)?);
    let is_inline = offset == 0 && len > 0 && len < BLOCK_BYTES;
    Ok(is_inline.then(|| (len, BLOCK_BYTES - len)))
}

/// A hole, or room at the end of a file. Room that leaves the size as it is cannot be seen by anybody.
fn fallocate<'a>(a: &Attributes<'a>, path: &'a [u8]) -> Result<Option<Change<'a>>> {
    let mode = a.u32(Kind::FallocateMode).ok_or_else(|| bad("its attribute FALLOCATE_MODE is missing"))?;
    let (offset, len) = (a.u64(Kind::FileOffset)?, a.u64(Kind::Size)?);
    let end = offset
        .checked_add(len)
        .ok_or_else(|| bad(format!("{len} bytes from byte {offset} on end behind byte 2^64")))?;
    Ok(match mode {
        0 => Some(Change::Zero { path, offset: end, len: 0, extend: true }),
        KEEP_SIZE => None,
        mode if mode == PUNCH_HOLE | KEEP_SIZE => Some(Change::Zero { path, offset, len, extend: false }),
        mode => return Err(bad(format!("its mode {mode:#x} is none of 0, 1 (keep the size) and 3 (punch a hole)"))),
    })
}

/// The flags of a btrfs inode, as chattr(1) has them.
fn flags(btrfs: u64) -> u32 {
    INODE_FLAGS.iter().filter(|(from, _)| btrfs & from != 0).fold(0, |flags, (_, to)| flags | to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_stands_at_its_number() {
        for (row, (name, _, command)) in KNOWN.iter().enumerate() {
            assert_eq!((*command as usize, command.name()), (row + 1, *name));
        }
    }

    #[test]
    fn device_numbers_are_taken_apart() {
        assert_eq!(device(0x0103), Device { major: 1, minor: 3 });
        // What new_encode makes of major 0xf0f, minor 0xabcde.
        assert_eq!(device(0xabcf_0fde), Device { major: 0xf0f, minor: 0xabcde });
    }

    #[test]
    fn flags_have_the_names_of_chattr() {
        assert_eq!(flags(1 | 1 << 4), 0);
        assert_eq!(flags(1 << 6 | 1 << 7), 0x30);
        assert_eq!(flags(u64::MAX), 0x0081_04fc);
    }
}
