//! A disk as a file of a restore point: its name, its attributes, and how each state of it begins.

use crate::ingest::change::{Change, SetAttr, StateId};
use crate::{Error, ErrorKind, Result};
use repo_format::{FileKind, MAX_FILE_BYTES, MAX_NAME_BYTES, Time};

/// Inode number of the disk's file. Its own in every tree, so that trees of equal content are equal.
pub const DISK_INO: u64 = 2;
/// What stands behind the last component of the source's name.
const SUFFIX: &[u8] = b".raw";
/// Permissions of the root directory of a point.
const ROOT_MODE: u32 = 0o755;

/// The file that a disk is, and the attributes that it and the root directory get (SPEC.md section 15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name in the root of the restore point.
    pub name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: of the image file, or when the state was taken.
    pub mtime: Time,
}

/// `vm/sda` is `sda.raw`: the last component of the source's name that is not empty.
///
/// # Errors
/// `Usage` for a source without one, or with one that no file can have as its name.
pub fn file_name(source: &[u8]) -> Result<Vec<u8>> {
    let last = source.rsplit(|byte| matches!(byte, b'/' | b':')).find(|part| !part.is_empty());
    let name = [last.unwrap_or_default(), SUFFIX].concat();
    let plain = last.is_some_and(|last| !last.contains(&0)) && name.len() <= MAX_NAME_BYTES;
    if plain {
        return Ok(name);
    }
    let what = format!("no file can be named after the source '{}'", crate::catalog::points::printable(source));
    Err(Error::new(ErrorKind::Usage, what).advise("--source kvm1:vm/sda gives a disk that is the file sda.raw"))
}

/// A size that a file may have.
///
/// # Errors
/// For larger ones.
pub fn check_size(size: u64) -> Result<u64> {
    if size <= MAX_FILE_BYTES {
        return Ok(size);
    }
    Err(super::bad(format!("the disk has {size} bytes; a file cannot be larger than {MAX_FILE_BYTES}")))
}

/// How a state of a disk begins, step by step: the state, the file (if there is none yet), attributes, size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opening {
    step: u8,
}

impl Opening {
    /// The next change, or None when the file stands as it is to be changed.
    pub fn next<'a>(
        &mut self,
        disk: &'a Disk,
        id: StateId<'a>,
        parent: Option<StateId<'a>>,
        size: u64,
    ) -> Option<Change<'a>> {
        let path: &[u8] = &disk.name;
        let attributes = |mode| SetAttr {
            mode: Some(mode),
            uid: Some(disk.uid),
            gid: Some(disk.gid),
            mtime: Some(disk.mtime),
            ctime: Some(disk.mtime),
            ..SetAttr::default()
        };
        if self.step == 1 && parent.is_some() {
            self.step = 2;
        }
        let change = match self.step {
            0 => Change::Begin { id, parent, name: path, generation: 0 },
            1 => Change::Create { path, kind: FileKind::File, ino: Some(DISK_INO), device: None },
            2 => Change::SetAttr { path: b"", set: attributes(ROOT_MODE) },
            3 => Change::SetAttr { path, set: attributes(disk.mode) },
            4 => Change::Truncate { path, size },
            _ => return None,
        };
        self.step += 1;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_after_its_source() {
        let name = |source: &str| file_name(source.as_bytes()).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(name("kvm1:vm/sda").unwrap(), "sda.raw");
        assert_eq!(name("sda").unwrap(), "sda.raw");
        assert_eq!(name("ceph:pool/vm/").unwrap(), "vm.raw");
        // A suffix makes plain names of these, too.
        assert_eq!(name("kvm1:..").unwrap(), "...raw");
        for wrong in ["", "/", ":/", "a/b\0"] {
            assert_eq!(name(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong:?}");
        }
        assert!(name(&"x".repeat(252)).is_err() && name(&"x".repeat(251)).is_ok());
    }
}
