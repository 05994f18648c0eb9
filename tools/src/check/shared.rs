//! Check of many trees that share most of their nodes: every node is read and judged once, whatever the number of restore
//! points that have it.
//!
//! Of a node is kept what its neighbours must know of it ([`Stretch`], some 300 bytes), and what is kept of two neighbours
//! joins to what would be kept of both. So a tree is judged from the nodes that no earlier tree had. Two things are not
//! local. That every inode has as many names as it says is a sum over all entries, in which each name takes away what its
//! inode has brought in; the summands are hashes under a key drawn for this run, so a sum is zero by chance once in 2^64.
//! That no directories form a circle is followed from point to point by what differs.
//!
//! This says only whether a tree is sound. What is wrong with one that is not, [`super::tree`] says, by walking all of it.

use super::table::ChunkTable;
use super::tree::{DAMAGED, ended_at_border, leads_to_root};
use relict::Result;
use relict::catalog::tree::{Entry, ReadNodes, diff};
use relict::store::NodeRef;
use repo_format::{
    ChunkId, Dirent, Extent, FileKind, Inode, Key, KeyKind, MAX_XATTR_BYTES, PointRecord, ROOT_INO, TREE_INO, Value,
};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What of one inode stands in a stretch of entries.
#[derive(Clone, Copy, Default)]
struct Part {
    ino: u64,
    /// From its attributes: kind, links, size, bytes of content.
    said: Option<(FileKind, u32, u64, u64)>,
    subdirs: u32,
    has_names: bool,
    has_target: bool,
    covered: u64,
    extents: Option<(u64, u64)>,
}

/// What is kept of a node: all that is below it, judged but for its ends.
struct Stretch {
    level: u8,
    entries: u64,
    first_key: Box<[u8]>,
    last_key: Box<[u8]>,
    /// It ends at a border on its own level and on all below.
    ends: bool,
    /// Other entries of these inodes may stand before and behind.
    first: Part,
    last: Option<Part>,
    has_root: bool,
    /// What inodes say of their names, less the names.
    balance: u128,
    /// A sum over the places of directories.
    places: u128,
    /// Directories named in a leaf, each with the one that names it.
    dirs: Box<[(u64, u64)]>,
    /// Nodes below that name directories.
    below: Box<[ChunkId]>,
}

/// Half of an id: as good a name as all of it.
type Half = [u8; 16];

/// The trees of a repository under check.
pub struct SharedCheck<'a> {
    nodes: &'a dyn ReadNodes,
    table: &'a ChunkTable,
    stop: &'a AtomicBool,
    /// None: something is wrong below.
    known: Mutex<HashMap<Half, Option<Arc<Stretch>>>>,
    names: RandomState,
    places: RandomState,
}

impl<'a> SharedCheck<'a> {
    pub fn new(nodes: &'a dyn ReadNodes, table: &'a ChunkTable, stop: &'a AtomicBool) -> Self {
        let (names, places) = (RandomState::new(), RandomState::new());
        Self { nodes, table, stop, known: Mutex::default(), names, places }
    }

    /// Entries of each tree that is sound; None for one that has to be walked. `threads` work at once.
    pub fn run(&self, points: &[PointRecord], threads: usize) -> Vec<Option<u64>> {
        self.prepare(points, threads);
        let mut out = vec![None; points.len()];
        let mut order: Vec<usize> = (0..points.len()).collect();
        let chain = |index: &usize| points.get(*index).map(|p| (&p.host, &p.source, &p.paths));
        // Stable: of one chain the oldest stay first, and neighbours differ least.
        order.sort_by(|a, b| chain(a).cmp(&chain(b)));
        let mut circles = Circles::default();
        for index in order {
            let (Some(point), Some(entries)) = (points.get(index), out.get_mut(index)) else { continue };
            *entries =
                self.tree(point).filter(|tree| circles.none_in(self, &point.root, tree)).map(|tree| tree.entries);
        }
        out
    }

    /// Judges what is below the roots' children, each once, on several threads.
    fn prepare(&self, points: &[PointRecord], threads: usize) {
        let (mut work, mut seen) = (Vec::new(), HashSet::new());
        for root in points.iter().map(|point| point.root).filter(|root| seen.insert(*root)).collect::<Vec<_>>() {
            let Ok(node) = self.nodes.node(&root) else { continue };
            let children = (0..node.len()).filter_map(|index| node.child(index));
            let below = node.level().saturating_sub(1);
            work.extend(children.filter(|child| seen.insert(child.id)).map(|child| (child.id, below)));
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((id, level)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.below(id, Some(*level));
                    }
                });
            }
        });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Half, Option<Arc<Stretch>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self, point: &PointRecord) -> Option<Arc<Stretch>> {
        let tree = self.below(&point.root, None)?;
        let last = tree.last.unwrap_or(tree.first);
        let sound = tree.first.is_sound() && last.is_sound() && tree.has_root && tree.balance == 0;
        (sound && last.ino < point.next_ino).then_some(tree)
    }

    /// Everything below a node of this level, if it is sound.
    fn below(&self, id: &ChunkId, level: Option<u8>) -> Option<Arc<Stretch>> {
        let half: Half = id.0.first_chunk().copied().unwrap_or_default();
        if let Some(known) = self.known().get(&half) {
            return known.clone().filter(|known| level.is_none_or(|level| known.level == level));
        }
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let node = self.nodes.node(id).ok()?;
        // Levels fall on the way down, so this ends.
        if level.is_some_and(|level| node.level() != level) {
            return None;
        }
        let out = if node.level() == 0 { self.leaf(&node) } else { self.inner(&node) }.map(Arc::new);
        self.known().insert(half, out.clone());
        out
    }

    fn inner(&self, node: &NodeRef) -> Option<Stretch> {
        let ends = ended_at_border(node)?;
        let (mut out, mut below): (Option<Stretch>, Vec<ChunkId>) = (None, Vec::new());
        for index in 0..node.len() {
            let (child, (key, _)) = (node.child(index)?, node.entry(index)?);
            let part = self.below(&child.id, node.level().checked_sub(1))?;
            let upper = node.entry(index + 1).map(|(key, _)| key);
            let fits = *part.first_key == *key && upper.is_none_or(|upper| *part.last_key < *upper);
            if !fits || part.entries != child.entries || (upper.is_some() && !part.ends) {
                return None;
            }
            if part.places != 0 {
                below.push(child.id);
            }
            match &mut out {
                None => out = Some(part.again()),
                Some(out) => out.join(&part)?,
            }
        }
        let out = out?;
        Some(Stretch { level: node.level(), ends: ends && out.ends, below: below.into(), ..out })
    }

    fn leaf(&self, node: &NodeRef) -> Option<Stretch> {
        let ends = ended_at_border(node)?;
        let ((first_key, _), (last_key, _)) = (node.entry(0)?, node.entry(node.len().checked_sub(1)?)?);
        let mut leaf =
            Leaf { check: self, parts: [None, None], current: None, has_root: false, balance: 0, dirs: Vec::new() };
        for index in 0..node.len() {
            let (key, value) = node.entry(index)?;
            leaf.entry(Key::decode(key).ok()?, value)?;
        }
        leaf.close()?;
        let place = |sum: u128, dir: &(u64, u64)| sum.wrapping_add(u128::from(self.places.hash_one(dir)));
        let [first, last] = leaf.parts;
        Some(Stretch {
            level: 0,
            entries: node.len() as u64,
            first_key: first_key.into(),
            last_key: last_key.into(),
            ends,
            first: first?,
            last,
            has_root: leaf.has_root,
            balance: leaf.balance,
            places: leaf.dirs.iter().fold(0, place),
            dirs: leaf.dirs.into(),
            below: Box::default(),
        })
    }
}

/// A leaf while its entries are gone through.
struct Leaf<'a> {
    check: &'a SharedCheck<'a>,
    /// The first inode and the last one.
    parts: [Option<Part>; 2],
    current: Option<Part>,
    has_root: bool,
    balance: u128,
    dirs: Vec<(u64, u64)>,
}

impl Leaf<'_> {
    /// None: something is wrong.
    fn entry(&mut self, key: Key<'_>, value: &[u8]) -> Option<()> {
        let ino = key.ino();
        if self.current.is_none_or(|current| current.ino != ino) {
            self.close()?;
        }
        let mut part = self.current.take().unwrap_or(Part { ino, ..Part::default() });
        match key {
            Key::Inode(_) => self.inode(&mut part, &Inode::decode(value).ok()?)?,
            Key::Dirent(..) => self.name(&mut part, &Dirent::decode(value).ok()?)?,
            Key::Extent(_, offset) => self.extent(&mut part, offset, &Extent::decode(value).ok()?)?,
            Key::Target(_) => {
                Value::decode(KeyKind::Target, value).ok()?;
                part.has_target = true;
            }
            Key::Xattr(_, name) if value.len() > MAX_XATTR_BYTES || name == DAMAGED => return None,
            Key::Xattr(..) => {}
            Key::SourceIno(..) => _ = Value::decode(KeyKind::SourceIno, value).ok()?,
        }
        self.current = Some(part);
        Some(())
    }

    fn of_name(&self, ino: u64, kind: FileKind) -> u128 {
        u128::from(self.check.names.hash_one((ino, kind as u8)))
    }

    fn inode(&mut self, part: &mut Part, inode: &Inode) -> Option<()> {
        let (ino, kind) = (part.ino, inode.kind());
        part.said = Some((kind, inode.nlink, inode.size, inode.data_bytes));
        let names = match kind {
            FileKind::Dir if ino == ROOT_INO => 0,
            FileKind::Dir => 1,
            _ if ino == ROOT_INO || inode.nlink == 0 => return None,
            _ => inode.nlink,
        };
        self.has_root |= ino == ROOT_INO;
        self.balance = self.balance.wrapping_add(self.of_name(ino, kind).wrapping_mul(u128::from(names)));
        Some(())
    }

    fn name(&mut self, part: &mut Part, name: &Dirent) -> Option<()> {
        if name.ino == ROOT_INO {
            return None;
        }
        part.has_names = true;
        self.balance = self.balance.wrapping_sub(self.of_name(name.ino, name.kind));
        if name.kind == FileKind::Dir {
            part.subdirs = part.subdirs.checked_add(1)?;
            self.dirs.push((name.ino, part.ino));
        }
        Some(())
    }

    fn extent(&self, part: &mut Part, offset: u64, extent: &Extent) -> Option<()> {
        let end = offset.checked_add(u64::from(extent.len))?;
        let (first, before) = part.extents.unwrap_or((offset, 0));
        let stored = self.check.table.locate(&extent.chunk)?;
        if offset < before || extent.skip.checked_add(extent.len)? > stored.len {
            return None;
        }
        part.extents = Some((first, end));
        part.covered = part.covered.saturating_add(u64::from(extent.len));
        Some(())
    }

    /// The inode that the entries have passed: the first and the last may go on in other nodes.
    fn close(&mut self) -> Option<()> {
        let Some(part) = self.current.take() else { return Some(()) };
        match &mut self.parts {
            [None, _] => self.parts[0] = Some(part),
            [_, last] => {
                if last.replace(part).is_some_and(|passed| !passed.is_sound()) {
                    return None;
                }
            }
        }
        Some(())
    }
}

impl Part {
    /// With what stands behind it of the same inode.
    fn join(self, next: &Self) -> Option<Self> {
        if self.said.is_some() && next.said.is_some() {
            return None;
        }
        let extents = match (self.extents, next.extents) {
            (Some((_, end)), Some((start, _))) if start < end => return None,
            (Some((start, _)), Some((_, end))) => Some((start, end)),
            (one, other) => one.or(other),
        };
        Some(Self {
            ino: self.ino,
            said: self.said.or(next.said),
            subdirs: self.subdirs.checked_add(next.subdirs)?,
            has_names: self.has_names || next.has_names,
            has_target: self.has_target || next.has_target,
            covered: self.covered.saturating_add(next.covered),
            extents,
        })
    }

    /// Judges an inode of which all entries were seen.
    fn is_sound(&self) -> bool {
        if self.ino == TREE_INO {
            return true;
        }
        let Some((kind, links, size, data_bytes)) = self.said else { return false };
        let end = self.extents.map_or(0, |(_, end)| end);
        let of_kind = match kind {
            FileKind::Dir => links.checked_sub(2) == Some(self.subdirs),
            FileKind::File => self.covered == data_bytes && end <= size,
            _ => true,
        };
        let strange = (kind != FileKind::File && self.covered > 0) || (kind != FileKind::Dir && self.has_names);
        of_kind && !strange && self.has_target == (kind == FileKind::Symlink)
    }
}

impl Stretch {
    /// The same, to be joined with what follows.
    fn again(&self) -> Self {
        let (first_key, last_key) = (self.first_key.clone(), self.last_key.clone());
        Self { first_key, last_key, dirs: Box::default(), below: Box::default(), ..*self }
    }

    /// Adds what stands behind it.
    fn join(&mut self, next: &Self) -> Option<()> {
        let tail = self.last.unwrap_or(self.first);
        // What is done with at both ends: judged, or left open to the left.
        let passed = if tail.ino == next.first.ino { tail.join(&next.first)? } else { tail };
        let mut queue = vec![passed];
        queue.extend((tail.ino != next.first.ino).then_some(next.first));
        queue.extend(next.last);
        if self.last.is_none() {
            self.first = queue.remove(0);
        }
        self.last = queue.pop();
        if !queue.iter().all(Part::is_sound) {
            return None;
        }
        self.entries = self.entries.checked_add(next.entries)?;
        self.last_key = next.last_key.clone();
        self.ends = next.ends;
        self.has_root |= next.has_root;
        self.balance = self.balance.wrapping_add(next.balance);
        self.places = self.places.wrapping_add(next.places);
        Some(())
    }
}

/// Where the directories of one tree are, stepped from tree to tree.
#[derive(Default)]
struct Circles {
    /// The tree, and the sum over its directories' places; None: not known to have no circle.
    at: Option<(ChunkId, u128)>,
    parents: HashMap<u64, u64>,
}

impl Circles {
    /// Whether every directory of a tree leads to the root.
    fn none_in(&mut self, check: &SharedCheck<'_>, root: &ChunkId, tree: &Stretch) -> bool {
        let moved = match self.at {
            Some((_, places)) if places == tree.places => Some(Vec::new()),
            Some((before, _)) => self.step(check.nodes, &before, root).ok(),
            None => self.all(check, root),
        };
        let sound = moved.is_some_and(|moved| leads_to_root(&self.parents, moved.into_iter(), |_| ()));
        self.at = sound.then_some((*root, tree.places));
        if !sound {
            self.parents.clear();
        }
        sound
    }

    /// The directories that have another place than in the tree before.
    fn step(&mut self, nodes: &dyn ReadNodes, before: &ChunkId, root: &ChunkId) -> Result<Vec<u64>> {
        let (mut left, mut come) = (Vec::new(), Vec::new());
        for change in diff(nodes, before, nodes, root) {
            let change = change?;
            let Key::Dirent(parent, _) = Key::decode(change.key())? else { continue };
            let dir = |entry: &Option<Entry>| {
                let name = entry.as_ref().and_then(|entry| Dirent::decode(entry.value()).ok());
                name.filter(|name| name.kind == FileKind::Dir).map(|name| (name.ino, parent))
            };
            left.extend(dir(&change.old));
            come.extend(dir(&change.new));
        }
        for (dir, parent) in left {
            if self.parents.get(&dir) == Some(&parent) {
                self.parents.remove(&dir);
            }
        }
        self.parents.extend(come.iter().copied());
        Ok(come.into_iter().map(|(dir, _)| dir).collect())
    }

    /// All directories of a tree whose nodes are known.
    fn all(&mut self, check: &SharedCheck<'_>, root: &ChunkId) -> Option<Vec<u64>> {
        self.parents.clear();
        let mut pending = vec![*root];
        while let Some(id) = pending.pop() {
            let node = check.below(&id, None)?;
            self.parents.extend(node.dirs.iter().copied());
            pending.extend_from_slice(&node.below);
        }
        Some(self.parents.keys().copied().collect())
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
