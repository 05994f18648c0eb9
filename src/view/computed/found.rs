//! Restore points found by a time: below `at/`, and by the names that Windows gives to previous versions.
//!
//! Each is a directory in a slot of its own, as a directory must not have two names. Slots are computed from
//! where a point was found, and remembered in a table of bounded size: one that fell out of it is found again
//! by its path.

use super::{Entry, Found, Listing, Node, Slot, Source, View, newest_before};
use crate::Result;
use crate::catalog::history::paths;
use crate::catalog::points::time_limit;
use crate::view::attr::Attr;
use crate::view::damage::names_to;
use crate::view::inode::{FIRST_FOUND_SLOT, Ino, MAX_SLOT};
use crate::view::layout::Layout;
use crate::view::names::escape;
use repo_format::{Dirent, FileKind, PointRecord, ROOT_INO, Time};
use std::sync::{Arc, PoisonError};

const GMT: &[u8] = b"@GMT-";
/// Slots given in the life of a mount; 10 MiB of memory.
const MOST_FOUND_SLOTS: usize = 1 << 19;

/// Whether this may be a name of Windows for a previous version. What it means changes as points come.
pub(in crate::view) fn is_gmt(name: &[u8]) -> bool {
    name.starts_with(GMT)
}

/// The source that a directory belongs to, and its path in that source's points.
type Whence = (Arc<Source>, Arc<Vec<u8>>);

impl View {
    /// A slot for a point that was found in directory `parent`; `path` is where, for reports of damage.
    ///
    /// A slot is given to one pair of directory and point as long as the mount lives, as the kernel keeps what it
    /// read under its numbers. When very many were given, a point keeps the slot that it has below `hosts/`.
    pub(super) fn found_slot(&self, layout: &Layout, parent: Ino, point: &Arc<PointRecord>, path: &str) -> u32 {
        let hash = blake3::Hasher::new().update(&parent.0.to_le_bytes()).update(&point.id.0).finalize();
        let key = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let slots = MAX_SLOT - FIRST_FOUND_SLOT + 1;
        let mut at = (key % u64::from(slots)) as u32;
        let mut given = self.computed.given.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = loop {
            match given.get(&at) {
                Some(known) if *known == key => break FIRST_FOUND_SLOT + at,
                // Far fewer are given than there are, so one is free.
                Some(_) => at = (at + 1) % slots,
                None if given.len() < MOST_FOUND_SLOTS => {
                    given.insert(at, key);
                    break FIRST_FOUND_SLOT + at;
                }
                None => return shown_slot(layout, point),
            }
        };
        drop(given);
        let known = self.computed.slots.get(&slot);
        if known.is_none() {
            self.computed.slots.insert(slot, Arc::new(Slot { point: Arc::clone(point), parent, path: path.into() }));
        }
        slot
    }

    pub(super) fn found_listing(
        &self,
        layout: &Layout,
        host: Option<&str>,
        found: &Arc<Found>,
        parent: Ino,
    ) -> Result<Listing> {
        let mut out = Listing::new();
        for (of_host, source, point) in &found.points {
            match host {
                // They are in order of hosts.
                None if out.last().is_some_and(|last: &Entry| *last.name == *of_host.as_bytes()) => {}
                None => {
                    let node = Node::At { host: Some(of_host.clone()), found: Arc::clone(found) };
                    out.push(Entry::node(of_host.as_bytes(), node));
                }
                Some(host) if host == of_host => {
                    let path = format!("at/{}/{host}/{source}", found.expression);
                    let slot = self.found_slot(layout, parent, point, &path);
                    let ino = Ino::in_slot(slot, ROOT_INO).unwrap_or(Ino(0));
                    out.push(Entry::inode(source.as_bytes(), FileKind::Dir, ino));
                }
                Some(_) => {}
            }
        }
        Ok(out)
    }

    /// The directory that was `parent` in the newest point of its source not after the time in `name`.
    pub(in crate::view) fn lookup_gmt(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        if !is_gmt(name) {
            return Ok(None);
        }
        let (layout, text) = (self.layout(), std::str::from_utf8(name).ok());
        let Some((text, limit)) = text.and_then(|text| Some((text, time_limit(text, Time::default())?))) else {
            return Ok(None);
        };
        let (source, path) = match self.source_and_path(&layout, parent)? {
            Some(found) => found,
            None => return Ok(None),
        };
        let Some((_, point)) = newest_before(&source, limit) else { return Ok(None) };
        let dir = paths::find(self.nodes(), &point.root, &path)?;
        let Some(Dirent { ino, kind: FileKind::Dir }) = dir else { return Ok(None) };
        let slot = self.found_slot(&layout, parent, point, text);
        Ino::in_slot(slot, ino).map(|ino| self.getattr(ino)).transpose()
    }

    fn source_and_path(&self, layout: &Layout, dir: Ino) -> Result<Option<Whence>> {
        if dir.is_virtual() {
            return Ok(layout.source_at(dir).map(|source| (Arc::clone(source), Arc::default())));
        }
        let slot = self.slot(layout, dir.slot())?;
        let source = layout.source(&escape(&slot.point.host), &escape(&slot.point.source)).cloned();
        let path = self.path_in_point(dir, &slot)?;
        Ok(source.zip(path))
    }

    /// The path of a directory in its restore point: up as far as parents are known, and else by looking through
    /// all names.
    fn path_in_point(&self, dir: Ino, slot: &Slot) -> Result<Option<Arc<Vec<u8>>>> {
        if let Some(known) = self.computed.paths.get(&dir) {
            return Ok(Some(known));
        }
        let names = match self.names_by_parents(dir, slot)? {
            Some(names) => Some(names),
            None => names_to(self.nodes(), &slot.point.root, dir.tree()),
        };
        let path = names.map(|names| Arc::new(names.into_iter().rev().collect::<Vec<_>>().join(&b'/')));
        if let Some(path) = &path {
            self.computed.paths.insert(dir, Arc::clone(path));
        }
        Ok(path)
    }

    /// Names from a directory up to the root; None when a parent on the way is not remembered.
    fn names_by_parents(&self, dir: Ino, slot: &Slot) -> Result<Option<Vec<Vec<u8>>>> {
        let (mut names, mut at) = (Vec::new(), dir);
        while !at.is_point_root() {
            let parent = self.parent(at);
            // The longest path the kernel takes has half as many names as bytes.
            if parent == at || names.len() > libc::PATH_MAX as usize / 2 {
                return Ok(None);
            }
            let mut found = None;
            for named in paths::names(self.nodes(), &slot.point.root, parent.tree()) {
                let (name, entry) = named?;
                if entry.ino == at.tree() {
                    found = Some(name.into_vec());
                    break;
                }
            }
            let Some(name) = found else { return Ok(None) };
            names.push(name);
            at = parent;
        }
        Ok(Some(names))
    }
}

/// The slot that a point has below `hosts/`.
fn shown_slot(layout: &Layout, point: &PointRecord) -> u32 {
    let source = layout.source(&escape(&point.host), &escape(&point.source));
    let slot = source.and_then(|source| {
        let index = source.points.iter().position(|known| known.id == point.id)?;
        source.slots.get(index).copied()
    });
    slot.unwrap_or_default()
}
