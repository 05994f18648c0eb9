//! Makes single items for `tree_apply`: files of every shape, links, special files, attributes.
//!
//! What a file system or a missing right refuses is left out without an error, in the same way each time.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![expect(unsafe_code, reason = "mknod, xattrs, times and holes by path")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::tree_gen::{Content, Special};

/// Bytes of one part of a sparse file.
const PART_BYTES: usize = 16 << 10;

pub(super) fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

pub(super) fn make_dir(path: &Path) -> io::Result<char> {
    fs::create_dir(path)?;
    // Whatever the umask is.
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok('d')
}

pub(super) fn make_file(path: &Path, content: &Content) -> io::Result<char> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    write_content(&file, content, 0)?;
    Ok('f')
}

/// `None` where device nodes may not be made.
pub(super) fn make_special(path: &Path, kind: Special) -> io::Result<Option<char>> {
    let (letter, bits, dev) = match kind {
        Special::Fifo => ('p', libc::S_IFIFO, 0),
        Special::Socket => ('s', libc::S_IFSOCK, 0),
        Special::Char => ('c', libc::S_IFCHR, libc::makedev(1, 3)),
        Special::Block => ('b', libc::S_IFBLK, libc::makedev(259, 70_000)),
    };
    let name = c_path(path)?;
    // SAFETY: a NUL-terminated path.
    let made = checked(unsafe { libc::mknod(name.as_ptr(), bits | 0o600, dev) });
    if !allowed(made.map(drop), &[libc::EPERM])? {
        return Ok(None);
    }
    fs::set_permissions(path, Permissions::from_mode(0o640))?;
    Ok(Some(letter))
}

pub(super) fn link_target(index: u8) -> Vec<u8> {
    match index % 12 {
        0 => b"a".to_vec(),
        1 => b"nowhere".to_vec(),
        2 => b"/etc/hostname".to_vec(),
        3 => b"..".to_vec(),
        4 => b".".to_vec(),
        5 => b"../../../../../../../../etc".to_vec(),
        6 => b"\xff/\x80\n".to_vec(),
        // The lengths around which file systems change how they keep a target.
        7 => vec![b't'; 59],
        8 => vec![b't'; 60],
        9 => b"x/".repeat(1500),
        10 => vec![b'u'; 4095],
        _ => b"dir/file.txt".to_vec(),
    }
}

/// Bytes without a pattern; the same seed gives the same beginning.
pub(super) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0123_4567_89ab_cdef;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(super) fn write_content(file: &File, content: &Content, at: u64) -> io::Result<()> {
    match content {
        Content::Empty => Ok(()),
        Content::Tiny(n) => file.write_all_at(&noise(*n, usize::from(*n) + 1), at),
        Content::Block(seed) => file.write_all_at(&noise(*seed, 4096), at),
        Content::Zeros(len) => file.write_all_at(&vec![0; *len as usize], at),
        Content::Text(lines) => {
            let text: String = (0..u32::from(*lines) * 20).map(|n| format!("line {n} of a text\n")).collect();
            file.write_all_at(text.as_bytes(), at)
        }
        Content::Random { kib, seed } => file.write_all_at(&noise(*seed, usize::from(*kib) << 10), at),
        Content::Sparse { data, tail } => {
            file.set_len(at + 8 * PART_BYTES as u64 + u64::from(*tail))?;
            for part in (0..8u8).filter(|part| data & (1 << part) != 0) {
                file.write_all_at(&noise(part, PART_BYTES), at + u64::from(part) * PART_BYTES as u64)?;
            }
            Ok(())
        }
    }
}

pub(super) fn xattr_value(name: &[u8], index: u8) -> Vec<u8> {
    match name {
        b"security.capability" => capability(index),
        b"system.posix_acl_access" | b"system.posix_acl_default" => acl(index),
        _ => match index % 6 {
            0 => Vec::new(),
            1 => b"v".to_vec(),
            2 => b"\0\xff\0".to_vec(),
            3 => noise(index, 200),
            4 => noise(index, 1500),
            _ => b"another value".to_vec(),
        },
    }
}

/// `VFS_CAP_REVISION_2`, effective, with one permitted capability.
pub(super) fn capability(index: u8) -> Vec<u8> {
    let words = [0x0200_0001u32, 1 << (index % 32), 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A POSIX ACL, version 2: owner, one named user, group, mask, others.
pub(super) fn acl(index: u8) -> Vec<u8> {
    let rights = u16::from(index % 8);
    let entries =
        [(0x01, 7, u32::MAX), (0x02, rights, 1000), (0x04, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 1, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag).into_iter().chain(u16::to_le_bytes(rights)).chain(u32::to_le_bytes(id)));
    }
    bytes
}

/// Whether it was done, or refused for one of the reasons that are no fault of the test.
pub(super) fn allowed(result: io::Result<()>, refusals: &[i32]) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error().is_some_and(|number| refusals.contains(&number)) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// No support, no permission or no room are not errors here.
pub(super) fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    let (bytes, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: NUL-terminated strings, and a value of the given length.
    let done = checked(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, len, 0) });
    allowed(done.map(drop), &[libc::EOPNOTSUPP, libc::EPERM, libc::ENOSPC, libc::E2BIG]).map(drop)
}

pub(super) fn remove_xattr(path: &Path, name: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: NUL-terminated strings.
    let done = checked(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) });
    allowed(done.map(drop), &[libc::EOPNOTSUPP, libc::EPERM, libc::ENODATA]).map(drop)
}

pub(super) fn set_mtime(path: &Path, (sec, nsec): (i64, u32)) -> io::Result<()> {
    let path = c_path(path)?;
    let time = libc::timespec { tv_sec: sec, tv_nsec: i64::from(nsec) };
    let times = [time, time];
    // SAFETY: a NUL-terminated path and two times.
    checked(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
        .map(drop)
}

pub(super) fn punch(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a plain system call on an open descriptor.
    let done = checked(unsafe { libc::fallocate(file.as_raw_fd(), flags, at as i64, bytes as i64) });
    allowed(done.map(drop), &[libc::EOPNOTSUPP]).map(drop)
}
