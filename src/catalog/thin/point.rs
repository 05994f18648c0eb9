//! The edits that take files out of one point, with the invariants of SPEC.md section 7 kept: counts of links, and no
//! directory that became empty by it.

use super::choose::Drop;
use super::names::Names;
use crate::catalog::edits::{DEFAULT_LIMIT_BYTES, EditSet, SortedEdits};
use crate::catalog::history::paths::{child, components, inode, names};
use crate::catalog::tree::{Edit, ReadNodes, get, range};
use crate::{Error, Result};
use repo_format::{Counts, FileKind, Inode, Key, PointRecord, ROOT_INO, Value};
use std::collections::{BTreeMap, HashSet};

/// What a directory loses.
#[derive(Default, Clone, Copy)]
struct Loss {
    names: u64,
    subdirs: u32,
}

/// Collects the edits of one point.
pub(super) struct PointEdits<'a> {
    nodes: &'a dyn ReadNodes,
    point: &'a PointRecord,
    dirs: &'a Names,
    edits: EditSet,
    counts: Counts,
    losses: BTreeMap<u64, Loss>,
    /// The root, and the directories that were backed up with those on the way to them: they stay, if only empty.
    stay: HashSet<u64>,
    /// The file that names are being taken from, and how many were.
    file: Option<(u64, u32)>,
}

impl<'a> PointEdits<'a> {
    pub(super) fn new(nodes: &'a dyn ReadNodes, point: &'a PointRecord, dirs: &'a Names) -> Result<Self> {
        let (edits, losses) = (EditSet::new(DEFAULT_LIMIT_BYTES), BTreeMap::new());
        let mut stay = HashSet::from([ROOT_INO]);
        for path in &point.paths {
            let mut at = ROOT_INO;
            for name in components(path) {
                let Some(entry) = child(nodes, &point.root, at, name)? else { break };
                at = entry.ino;
                stay.insert(at);
            }
        }
        Ok(Self { nodes, point, dirs, edits, counts: point.counts, losses, stay, file: None })
    }

    /// Takes a name out. Names of one inode come one after the other.
    pub(super) fn take_out(&mut self, name: &Drop) -> Result<()> {
        if self.file.is_none_or(|(ino, _)| ino != name.ino) {
            self.end_file()?;
            self.file = Some((name.ino, 0));
        }
        if let Some((_, taken)) = &mut self.file {
            *taken += 1;
        }
        self.edits.push(Key::Dirent(name.parent, &name.name).encode(), Edit::Delete)?;
        self.losses.entry(name.parent).or_default().names += 1;
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        let Some((ino, taken)) = self.file.take() else { return Ok(()) };
        let known = inode(self.nodes, &self.point.root, ino)?;
        if let Some(left) = known.nlink.checked_sub(taken).filter(|left| *left > 0) {
            return self.put(ino, Inode { nlink: left, ..known });
        }
        self.counts.files = self.counts.files.saturating_sub(1);
        if known.kind() == FileKind::File {
            self.counts.bytes = self.counts.bytes.saturating_sub(known.size);
        }
        self.remove(ino, &known)
    }

    fn put(&mut self, ino: u64, inode: Inode) -> Result<()> {
        self.edits.push(Key::Inode(ino).encode(), Edit::Put(inode.encode()))
    }

    /// Everything about an inode, and the way to it from the source's number.
    fn remove(&mut self, ino: u64, known: &Inode) -> Result<()> {
        let (from, to) = (Key::Inode(ino).encode(), Key::Inode(ino.saturating_add(1)).encode());
        for entry in range(self.nodes, &self.point.root, &from) {
            let entry = entry?;
            if entry.key() >= to.as_slice() {
                break;
            }
            self.edits.push(entry.key(), Edit::Delete)?;
        }
        let Some(source) = known.source else { return Ok(()) };
        let key = Key::SourceIno(source.fs, source.ino).encode();
        let leads = get(self.nodes, &self.point.root, &key)?;
        let here = Value::SourceIno(ino).encode();
        if leads.is_some_and(|entry| entry.value() == here) {
            self.edits.push(key, Edit::Delete)?;
        }
        Ok(())
    }

    /// The edits and what is in the point after them; None when there are none.
    pub(super) fn finish(mut self) -> Result<Option<(SortedEdits, Counts)>> {
        self.end_file()?;
        if self.edits.is_empty() {
            return Ok(None);
        }
        let mut pending: Vec<u64> = self.losses.keys().copied().collect();
        while let Some(dir) = pending.pop() {
            if !self.stay.contains(&dir) && self.is_emptied(dir)? {
                pending.push(self.remove_dir(dir)?);
            }
        }
        for (dir, loss) in std::mem::take(&mut self.losses) {
            if loss.subdirs > 0 {
                let known = inode(self.nodes, &self.point.root, dir)?;
                self.put(dir, Inode { nlink: known.nlink.saturating_sub(loss.subdirs), ..known })?;
            }
        }
        Ok(Some((self.edits.finish()?, self.counts)))
    }

    fn is_emptied(&self, dir: u64) -> Result<bool> {
        let Some(lost) = self.losses.get(&dir).map(|loss| loss.names) else { return Ok(false) };
        let mut there = 0;
        for named in names(self.nodes, &self.point.root, dir) {
            named?;
            there += 1;
            if there > lost {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the directory above.
    fn remove_dir(&mut self, dir: u64) -> Result<u64> {
        self.losses.remove(&dir);
        let lost = || Error::damaged(format!("directory {dir} of restore point {} has no name", self.point.id));
        let (parent, name) = self.dirs.place(dir).cloned().ok_or_else(lost)?;
        let known = inode(self.nodes, &self.point.root, dir)?;
        self.counts.dirs = self.counts.dirs.saturating_sub(1);
        self.remove(dir, &known)?;
        self.edits.push(Key::Dirent(parent, &name).encode(), Edit::Delete)?;
        let loss = self.losses.entry(parent).or_default();
        loss.names += 1;
        loss.subdirs += 1;
        Ok(parent)
    }
}
