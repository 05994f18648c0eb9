//! What could not be read: said once a file, with its path where that can be found, and counted.

use super::View;
use super::inode::Ino;
use crate::Error;
use crate::catalog::tree::{ReadNodes, range};
use repo_format::{ChunkId, Key, ROOT_INO};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Inodes whose damage is remembered as said; past that it is only counted.
const REMEMBERED: usize = 10_000;
/// Tree entries looked at for a path or a parent: a second or so. A bigger tree gives the inode number only.
pub(super) const SEARCHED_ENTRIES: usize = 2_000_000;
/// Damage that `.relict/health.json` lists.
const LISTED: usize = 100;

/// Something in a restore point that cannot be read.
#[derive(Debug, Clone)]
pub struct Damage {
    /// Path below the mount, or below the restore point the inode number.
    pub path: String,
    /// First unreadable byte of the content; None when it is the metadata.
    pub offset: Option<u64>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}: content at byte {offset} cannot be read: {}", self.path, self.reason),
            None => write!(f, "{}: metadata cannot be read: {}", self.path, self.reason),
        }
    }
}

pub(super) struct DamageLog {
    report: Box<dyn Fn(&Damage) + Send + Sync>,
    said: Mutex<HashSet<Ino>>,
    listed: Mutex<Vec<Damage>>,
}

impl DamageLog {
    pub(super) fn new(report: impl Fn(&Damage) + Send + Sync + 'static) -> Self {
        Self { report: Box::new(report), said: Mutex::default(), listed: Mutex::default() }
    }

    pub(super) fn count(&self) -> u64 {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Reports the first error of an inode.
    pub(super) fn note(&self, view: &View, ino: Ino, offset: Option<u64>, error: &Error) {
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() >= REMEMBERED || !said.insert(ino) {
                return;
            }
        }
        let damage = Damage { path: view.path_of(ino), offset, reason: error.to_string() };
        (self.report)(&damage);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() < LISTED {
            listed.push(damage);
        }
    }

    /// The first damage met.
    pub(super) fn listed(&self) -> Vec<Damage> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl View {
    /// The path of an inode below the mount: the first of its names, or its number where none is found.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> String {
        let layout = self.layout();
        let Ok(slot) = self.slot(&layout, ino.slot()) else { return format!("inode {}", ino.0) };
        match names_to(self.nodes(), &slot.point.root, ino.tree()) {
            Some(names) => {
                let parts = names.iter().rev().map(|name| String::from_utf8_lossy(name).into_owned());
                std::iter::once(slot.path.to_string()).chain(parts).collect::<Vec<_>>().join("/")
            }
            None => format!("{} (inode {})", slot.path, ino.tree()),
        }
    }
}

/// Names from an inode up to the root. A tree knows no parents, so all names are looked through.
pub(super) fn names_to(nodes: &dyn ReadNodes, root: &ChunkId, ino: u64) -> Option<Vec<Vec<u8>>> {
    let mut above: HashMap<u64, (u64, Vec<u8>)> = HashMap::new();
    for entry in range(nodes, root, &[]).take(SEARCHED_ENTRIES) {
        // What comes before a damaged node is still good for a path.
        let Ok(entry) = entry else { break };
        if let Ok(Key::Dirent(parent, name)) = Key::decode(entry.key())
            && let Ok(dirent) = repo_format::Dirent::decode(entry.value())
            && (dirent.kind == repo_format::FileKind::Dir || dirent.ino == ino)
        {
            above.entry(dirent.ino).or_insert_with(|| (parent, name.to_vec()));
        }
    }
    let mut names = Vec::new();
    let mut at = ino;
    while at != ROOT_INO {
        let (parent, name) = above.remove(&at)?;
        names.push(name);
        at = parent;
    }
    Some(names)
}
