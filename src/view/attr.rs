//! Attributes of an inode as stat(2) wants them.

use super::inode::Ino;
use crate::{Error, Result};
use repo_format::{Device, FileKind, Inode, Time};

/// What stat(2) says of an inode. The access time is not kept; it is shown as the modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type.
    pub kind: FileKind,
    /// The mode's low twelve bits.
    pub perm: u16,
    /// Number of names; of a directory 2 and its subdirectories.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Units of 512 bytes that hold data. Less than the size says that there are holes, and `cp` asks for them.
    pub blocks: u64,
    /// Bytes of a file that are not holes.
    pub data_bytes: u64,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth, where known.
    pub btime: Option<Time>,
    /// Device number in the kernel's 32-bit encoding; 0 for all but devices.
    pub rdev: u32,
    /// Inode flags as of `FS_IOC_GETFLAGS`.
    pub flags: u32,
}

const BLOCK_BYTES: u64 = 4096;

/// Data bytes in units of 512, as a file system of 4096-byte blocks counts them.
#[must_use]
pub const fn blocks_of(data_bytes: u64) -> u64 {
    data_bytes.div_ceil(BLOCK_BYTES) * (BLOCK_BYTES / 512)
}

/// Linux `new_encode_dev`: 12 bits of major, 20 bits of minor number.
#[must_use]
pub const fn encode_device(device: Device) -> u32 {
    let (major, minor) = (device.major & 0xfff, device.minor & 0xf_ffff);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

impl Attr {
    /// Attributes of a stored inode.
    #[must_use]
    pub fn of_inode(ino: Ino, inode: &Inode) -> Self {
        Self {
            ino,
            kind: inode.kind(),
            perm: (inode.mode & 0o7777) as u16,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            data_bytes: inode.data_bytes,
            blocks: if inode.kind() == FileKind::File { blocks_of(inode.data_bytes) } else { 0 },
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            rdev: inode.rdev.map_or(0, encode_device),
            flags: inode.flags,
        }
    }

    /// Decodes a stored inode's attributes.
    pub(super) fn decode(ino: Ino, value: &[u8]) -> Result<Self> {
        Ok(Self::of_inode(ino, &Inode::decode(value).map_err(Error::from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_encode_as_the_kernel_does() {
        for (major, minor, expected) in
            [(8, 1, 0x801), (1, 3, 0x103), (259, 300, 0x0011_032c), (4095, 0xf_ffff, u32::MAX)]
        {
            assert_eq!(encode_device(Device { major, minor }), expected, "{major}:{minor}");
        }
    }

    #[test]
    fn blocks_are_whole_pages() {
        for (bytes, blocks) in [(0, 0), (1, 8), (4096, 8), (4097, 16), (1 << 30, 1 << 21)] {
            assert_eq!(blocks_of(bytes), blocks);
        }
    }
}
