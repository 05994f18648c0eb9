//! The directories of one point, and the names of some of its files, stepped from point to point by what differs.
//! A tree knows no parents; this does.

use super::changes::{Seen, each_change};
use super::stopped;
use crate::catalog::tree::{ReadNodes, range};
use crate::{Error, Result};
use repo_format::{ChunkId, Dirent, FileKind, Key, KeyKind, ROOT_INO};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

/// What stands for a path: the same for the same names from the root on.
pub(super) type PathHash = [u8; 16];
/// Deepest directory; deeper is a damaged tree that contains itself.
pub(super) const MOST_LEVELS: usize = 100_000;

/// A name and the directory it is in.
pub(super) type Place = (u64, Box<[u8]>);

/// Where the directories of a point are, and some of its files.
#[derive(Default)]
pub(super) struct Names {
    dirs: HashMap<u64, Place>,
    files: HashMap<u64, Vec<Place>>,
    wanted: HashSet<u64>,
    /// How many names there are that are not directories.
    pub(super) file_names: u64,
    hashes: RefCell<HashMap<u64, PathHash>>,
}

/// The path that is `name` in the directory with this path.
pub(super) fn child_hash(parent: &PathHash, name: &[u8]) -> PathHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parent).update(name);
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

impl Names {
    /// Reads the names of a whole tree: all directories, and the files that are `wanted`.
    pub(super) fn read(nodes: &dyn ReadNodes, root: &ChunkId, wanted: HashSet<u64>, stop: &AtomicBool) -> Result<Self> {
        let mut out = Self { wanted, ..Self::default() };
        for (count, entry) in range(nodes, root, &[]).enumerate() {
            let entry = entry?;
            if count % 4096 == 0 {
                stopped(stop)?;
            }
            if entry.key().get(8) != Some(&(KeyKind::Dirent as u8)) {
                continue;
            }
            if let Key::Dirent(parent, name) = Key::decode(entry.key())? {
                out.add(parent, name, &Dirent::decode(entry.value())?);
            }
        }
        Ok(out)
    }

    /// Goes from the point with root `from` to its neighbour with root `to`.
    pub(super) fn step(
        &mut self,
        nodes: &dyn ReadNodes,
        from: &ChunkId,
        to: &ChunkId,
        stop: &AtomicBool,
    ) -> Result<()> {
        // All that goes before all that comes: a directory that was moved is both.
        let mut coming: Vec<(u64, Box<[u8]>, Dirent)> = Vec::new();
        each_change(nodes, from, to, stop, |seen| {
            if let Seen::Name { parent, name, old, new } = seen {
                if let Some(old) = old {
                    self.remove(parent, name, &old);
                }
                match new {
                    Some(new) if self.knows(&new) => coming.push((parent, name.into(), new)),
                    Some(_) => self.file_names = self.file_names.saturating_add(1),
                    None => {}
                }
            }
            Ok(())
        })?;
        for (parent, name, entry) in coming {
            self.add(parent, &name, &entry);
        }
        self.hashes.get_mut().clear();
        Ok(())
    }

    fn knows(&self, entry: &Dirent) -> bool {
        entry.kind == FileKind::Dir || self.wanted.contains(&entry.ino)
    }

    fn add(&mut self, parent: u64, name: &[u8], entry: &Dirent) {
        self.file_names = self.file_names.saturating_add(u64::from(entry.kind != FileKind::Dir));
        if entry.kind == FileKind::Dir {
            self.dirs.insert(entry.ino, (parent, name.into()));
        } else if self.wanted.contains(&entry.ino) {
            self.files.entry(entry.ino).or_default().push((parent, name.into()));
        }
    }

    fn remove(&mut self, parent: u64, name: &[u8], entry: &Dirent) {
        let here = |place: &Place| place.0 == parent && *place.1 == *name;
        self.file_names = self.file_names.saturating_sub(u64::from(entry.kind != FileKind::Dir));
        if entry.kind == FileKind::Dir {
            if self.dirs.get(&entry.ino).is_some_and(here) {
                self.dirs.remove(&entry.ino);
            }
        } else if let Some(places) = self.files.get_mut(&entry.ino) {
            places.retain(|place| !here(place));
        }
    }

    /// Where a directory is; None for the root.
    pub(super) fn place(&self, dir: u64) -> Option<&Place> {
        self.dirs.get(&dir)
    }

    /// The names of a file that was wanted.
    pub(super) fn of_file(&self, ino: u64) -> &[Place] {
        self.files.get(&ino).map_or(&[], Vec::as_slice)
    }

    /// What stands for the path of a directory.
    pub(super) fn path(&self, dir: u64) -> Result<PathHash> {
        let (mut at, mut below) = (dir, Vec::new());
        let mut hashes = self.hashes.borrow_mut();
        let mut hash = loop {
            if at == ROOT_INO {
                break PathHash::default();
            }
            if let Some(known) = hashes.get(&at) {
                break *known;
            }
            let place = self.dirs.get(&at).filter(|_| below.len() < MOST_LEVELS).ok_or_else(|| {
                Error::damaged(format!("directory {dir} of a restore point is not below its root"))
                    .advise("nothing was changed; 'relict-maint check' says what is damaged")
            })?;
            below.push((at, &place.1));
            at = place.0;
        };
        for (ino, name) in below.into_iter().rev() {
            hash = child_hash(&hash, name);
            hashes.insert(ino, hash);
        }
        Ok(hash)
    }
}
