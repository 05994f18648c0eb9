//! Does the operations of a plan (`tree_gen`) in a real directory.
//!
//! The outcome depends on the plan and the state it meets alone: names are kept sorted, content comes
//! from seeds, and where an operation is refused by the file system (no device nodes, no room for another
//! attribute, not root) it is left out in the same way each time.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![expect(unsafe_code, reason = "deep directories by descriptor")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::tree_gen::{Content, IDS, MODES, NAMES, Op, TIMES, TreePlan, XATTRS};
use super::tree_items::{
    allowed, checked, is_root, link_target, make_dir, make_file, make_special, noise, punch, remove_xattr, set_mtime,
    set_xattr, write_content, xattr_value,
};

/// Paths stay far below `PATH_MAX`: this module works by path. See [`build_deep`] for the others.
const MOST_PATH_BYTES: usize = 2500;

/// Makes the plan's tree in `root`, an empty directory, and sets the times of everything in it.
///
/// # Errors
/// With the operation that failed.
pub fn build(plan: &TreePlan, root: &Path) -> io::Result<()> {
    let mut tree = Tree { root: root.into(), items: BTreeMap::new(), building: true };
    tree.apply_all(plan)?;
    for path in tree.items.keys().map(Vec::as_slice).chain([b"".as_slice()]) {
        let sum = path.iter().fold(usize::from(plan.salt), |sum, b| sum * 31 % 65_521 + usize::from(*b));
        set_mtime(&tree.at(path), TIMES[sum % TIMES.len()])?;
    }
    Ok(())
}

/// Applies the plan to the tree in `root`. Times change as they do in life: by themselves.
///
/// # Errors
/// With the operation that failed.
pub fn mutate(plan: &TreePlan, root: &Path) -> io::Result<()> {
    let mut tree = Tree { root: root.into(), items: BTreeMap::new(), building: false };
    tree.scan(b"")?;
    tree.apply_all(plan)
}

/// Makes directories in each other until the path of the file `bottom` is longer than `PATH_MAX`.
///
/// # Errors
/// Of the system calls.
pub fn build_deep(root: &Path, levels: usize, name_bytes: usize) -> io::Result<()> {
    let name = CString::new(vec![b'd'; name_bytes])?;
    let mut at = File::open(root)?;
    for _ in 0..levels {
        // SAFETY: an open descriptor and a NUL-terminated name.
        checked(unsafe { libc::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o755) })?;
        // SAFETY: as above.
        let fd = checked(unsafe { libc::openat(at.as_raw_fd(), name.as_ptr(), libc::O_RDONLY) })?;
        // SAFETY: a new descriptor that nobody else has.
        at = unsafe { File::from_raw_fd(fd) };
    }
    let flags = libc::O_WRONLY | libc::O_CREAT;
    // SAFETY: an open descriptor and a NUL-terminated name.
    let fd = checked(unsafe { libc::openat(at.as_raw_fd(), c"bottom".as_ptr(), flags, 0o644) })?;
    // SAFETY: a new descriptor that nobody else has.
    unsafe { File::from_raw_fd(fd) }.write_all_at(b"deep", 0)
}

/// What exists: paths below the root, and their kinds in the letters of the walker.
struct Tree {
    root: PathBuf,
    items: BTreeMap<Vec<u8>, char>,
    building: bool,
}

impl Tree {
    fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }

    fn scan(&mut self, path: &[u8]) -> io::Result<()> {
        for entry in fs::read_dir(self.at(path))? {
            let entry = entry?;
            let child = joined(path, entry.file_name().as_bytes());
            let kind = kind_letter(&entry.file_type()?);
            self.items.insert(child.clone(), kind);
            if kind == 'd' && child.len() < MOST_PATH_BYTES {
                self.scan(&child)?;
            }
        }
        Ok(())
    }

    fn apply_all(&mut self, plan: &TreePlan) -> io::Result<()> {
        for op in &plan.ops {
            self.apply(op).map_err(|e| io::Error::new(e.kind(), format!("{op:?}: {e}")))?;
        }
        Ok(())
    }

    /// The `index`th item of these kinds, wrapping around.
    fn pick(&self, kinds: &str, index: u8) -> Option<Vec<u8>> {
        let found: Vec<_> = self.items.iter().filter(|(_, kind)| kinds.contains(**kind)).collect();
        found.get(usize::from(index) % found.len().max(1)).map(|(path, _)| (*path).clone())
    }

    /// A path that is free, in the `dir`th directory (the root is the first).
    fn free(&self, dir: u8, name: u8) -> Option<Vec<u8>> {
        self.place(dir, name).filter(|path| !self.items.contains_key(path))
    }

    fn place(&self, dir: u8, name: u8) -> Option<Vec<u8>> {
        let dirs: Vec<_> = self.items.iter().filter(|(_, kind)| **kind == 'd').map(|(path, _)| path).collect();
        let parent = match usize::from(dir) % (dirs.len() + 1) {
            0 => b"".as_slice(),
            index => dirs[index - 1],
        };
        let path = joined(parent, NAMES[usize::from(name) % NAMES.len()]);
        (path.len() < MOST_PATH_BYTES).then_some(path)
    }

    fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::File { .. } | Op::Copy { .. } | Op::Dir { .. } | Op::Symlink { .. } => self.create(op),
            Op::HardLink { .. } | Op::Special { .. } => self.create(op),
            Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::Mode { .. } => self.attribute(op),
            Op::Owner { .. } | Op::Touch { .. } => self.attribute(op),
            Op::Write { .. } | Op::Append { .. } | Op::Truncate { .. } | Op::Punch { .. } => self.content(op),
            _ => self.names(op),
        }
        .map(drop)
    }

    /// `None` from here on: the operation does not fit the state, and nothing was done.
    fn create(&mut self, op: &Op) -> io::Result<Option<()>> {
        let (dir, name) = match op {
            Op::File { dir, name, .. } | Op::Copy { dir, name, .. } | Op::Dir { dir, name } => (*dir, *name),
            Op::Symlink { dir, name, .. } | Op::HardLink { dir, name, .. } => (*dir, *name),
            Op::Special { dir, name, .. } => (*dir, *name),
            _ => return Ok(None),
        };
        let Some(path) = self.free(dir, name) else { return Ok(None) };
        let full = self.at(&path);
        let kind = match op {
            Op::File { content, .. } => make_file(&full, content)?,
            Op::Copy { of, .. } => {
                let Some(from) = self.pick("f", *of) else { return Ok(None) };
                let bytes = fs::read(self.at(&from))?;
                make_file(&full, &Content::Empty)?;
                fs::write(&full, bytes)?;
                'f'
            }
            Op::Dir { .. } => make_dir(&full)?,
            Op::Symlink { target, .. } => {
                // The longest targets are too long for xfs (1023 bytes) and btrfs.
                let made = symlink(OsStr::from_bytes(&link_target(*target)), &full);
                if !allowed(made, &[libc::ENAMETOOLONG])? {
                    return Ok(None);
                }
                'l'
            }
            Op::HardLink { of, .. } => {
                let Some(from) = self.pick("flpscb", *of) else { return Ok(None) };
                if !allowed(fs::hard_link(self.at(&from), &full), &[libc::EPERM])? {
                    return Ok(None);
                }
                self.items[&from]
            }
            Op::Special { kind, .. } => match make_special(&full, *kind)? {
                Some(letter) => letter,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.items.insert(path, kind);
        Ok(Some(()))
    }

    fn attribute(&mut self, op: &Op) -> io::Result<Option<()>> {
        match op {
            Op::SetXattr { of, name, value } => {
                let (name, kinds) = XATTRS[usize::from(*name) % XATTRS.len()];
                let Some(path) = self.pick(kinds, *of) else { return Ok(None) };
                set_xattr(&self.at(&path), name, &xattr_value(name, *value))?;
            }
            Op::RemoveXattr { of, name } => {
                let (name, kinds) = XATTRS[usize::from(*name) % XATTRS.len()];
                let Some(path) = self.pick(kinds, *of) else { return Ok(None) };
                remove_xattr(&self.at(&path), name)?;
            }
            Op::Mode { of, mode } => {
                let Some(path) = self.pick("fdpscb", *of) else { return Ok(None) };
                // Without root we must be able to go on working in it.
                let least = if is_root() { 0 } else { 0o700 };
                let mode = MODES[usize::from(*mode) % MODES.len()] | least;
                fs::set_permissions(self.at(&path), Permissions::from_mode(mode))?;
            }
            Op::Owner { of, uid, gid } if is_root() => {
                let Some(path) = self.pick("fdlpscb", *of) else { return Ok(None) };
                let id = |index: u8| Some(IDS[usize::from(index) % IDS.len()]);
                lchown(self.at(&path), id(*uid), id(*gid))?;
            }
            Op::Touch { of, time } if !self.building => {
                let Some(path) = self.pick("fdlpscb", *of) else { return Ok(None) };
                set_mtime(&self.at(&path), TIMES[usize::from(*time) % TIMES.len()])?;
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn content(&mut self, op: &Op) -> io::Result<Option<()>> {
        let of = match op {
            Op::Write { of, .. } | Op::Append { of, .. } | Op::Truncate { of, .. } | Op::Punch { of, .. } => *of,
            _ => return Ok(None),
        };
        let Some(path) = self.pick("f", of) else { return Ok(None) };
        let full = self.at(&path);
        let file = OpenOptions::new().write(true).open(&full)?;
        let before = file.metadata()?;
        let part = |in_256ths: u8| before.len() * u64::from(in_256ths) / 256;
        match op {
            Op::Write { at, bytes, seed, hide, .. } => {
                file.write_all_at(&noise(*seed, *bytes as usize), part(*at))?;
                if *hide {
                    set_mtime(&full, (before.mtime(), before.mtime_nsec() as u32))?;
                }
            }
            // Not without end: a file may be appended to in each of many rounds.
            Op::Append { content, .. } if before.len() < 4 << 20 => write_content(&file, content, before.len())?,
            Op::Truncate { grow: true, .. } if before.len() < 4 << 20 => file.set_len(before.len() * 2 + 1)?,
            Op::Truncate { to, grow: false, .. } => file.set_len(part(*to))?,
            Op::Punch { at, blocks, .. } => punch(&file, part(*at) & !4095, u64::from(*blocks) * 4096)?,
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn names(&mut self, op: &Op) -> io::Result<Option<()>> {
        match op {
            Op::Rename { of, dir, name } => return self.rename(*of, *dir, *name),
            Op::Delete { of } => {
                let Some(path) = self.pick("fdlpscb", *of) else { return Ok(None) };
                self.delete(&path)?;
            }
            Op::UnlinkOne { of } => {
                let mut several = Vec::new();
                for path in self.items.iter().filter(|(_, kind)| **kind != 'd').map(|(path, _)| path) {
                    if fs::symlink_metadata(self.at(path))?.nlink() > 1 {
                        several.push(path.clone());
                    }
                }
                let Some(path) = several.get(usize::from(*of) % several.len().max(1)) else {
                    return Ok(None);
                };
                self.delete(path)?;
            }
            Op::ReplaceByDir { of } => {
                let Some(path) = self.pick("flpscb", *of) else { return Ok(None) };
                self.delete(&path)?;
                let kind = make_dir(&self.at(&path))?;
                self.items.insert(path, kind);
            }
            Op::ReplaceByFile { of, content } => {
                let Some(path) = self.pick("fdlpscb", *of) else { return Ok(None) };
                self.delete(&path)?;
                let kind = make_file(&self.at(&path), content)?;
                self.items.insert(path, kind);
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn rename(&mut self, of: u8, dir: u8, name: u8) -> io::Result<Option<()>> {
        let (Some(from), Some(to)) = (self.pick("fdlpscb", of), self.place(dir, name)) else {
            return Ok(None);
        };
        let below = joined(&from, b"");
        let moved: Vec<_> =
            self.items.keys().filter(|path| **path == from || path.starts_with(&below)).cloned().collect();
        let longest = moved.iter().map(Vec::len).max().unwrap_or(0) + to.len() - from.len().min(to.len());
        if to == from || to.starts_with(&below) || longest >= MOST_PATH_BYTES {
            return Ok(None);
        }
        if let Some(kind) = self.items.get(&to) {
            let ino = |path: &[u8]| fs::symlink_metadata(self.at(path)).map(|m| m.ino());
            // Over a file is fine, but between two names of one inode rename(2) does nothing.
            if *kind == 'd' || self.items[&from] == 'd' || ino(&from)? == ino(&to)? {
                return Ok(None);
            }
        }
        fs::rename(self.at(&from), self.at(&to))?;
        for path in moved {
            if let Some(kind) = self.items.remove(&path) {
                self.items.insert([&to, &path[from.len()..]].concat(), kind);
            }
        }
        Ok(Some(()))
    }

    fn delete(&mut self, path: &[u8]) -> io::Result<()> {
        let below = joined(path, b"");
        if self.items[path] == 'd' {
            fs::remove_dir_all(self.at(path))?;
        } else {
            fs::remove_file(self.at(path))?;
        }
        self.items.retain(|other, _| other != path && !other.starts_with(&below));
        Ok(())
    }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn kind_letter(kind: &fs::FileType) -> char {
    match kind {
        kind if kind.is_dir() => 'd',
        kind if kind.is_symlink() => 'l',
        kind if kind.is_fifo() => 'p',
        kind if kind.is_socket() => 's',
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => 'f',
    }
}
