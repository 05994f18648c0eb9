//! Directories: finding a name, listing, and the way up.
//!
//! An offset says what comes next. 0 is `.`, 1 is `..`; after them a restore point's directory uses the
//! position of the next entry in the whole tree plus [`FIRST_OFFSET`], a virtual one the entry's place for
//! ever: both can be continued any time later, by anyone.

use super::attr::Attr;
use super::computed::is_gmt;
use super::damage::SEARCHED_ENTRIES;
use super::inode::Ino;
use super::layout::{HEALTH, Layout, METRICS};
use super::ranked::Ranked;
use super::{Place, View, errno};
use crate::catalog::tree::{self, Range};
use crate::store::without_waiting;
use crate::{Error, Result};
use repo_format::{Dirent, FileKind, Key, KeyKind};

/// Offset of the first entry after `.` and `..`.
const FIRST_OFFSET: u64 = 2;

/// A directory entry.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// The inode it names.
    pub ino: Ino,
    /// That inode's type.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Where to go on after this entry.
    pub next: u64,
}

/// Takes an entry, with its attributes where they were asked for and could be read; true: it had no room.
type Sink<'s> = dyn FnMut(&DirEntry<'_>, Option<&Attr>) -> bool + 's;

impl View {
    /// The inode that `name` means in `parent`; None if there is no such name.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`, or when the metadata cannot be read.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        let parent = self.inner(parent);
        match name {
            b"." => return self.getattr(parent).map(Some),
            b".." => return self.getattr(self.parent_for_certain(parent)?).map(Some),
            _ if parent.is_virtual() => return self.lookup_virtual(parent, name),
            _ => {}
        }
        let place = self.place(parent)?;
        let found = self.find_name(&place, name);
        let Some(dirent) = self.noted(parent, None, found)? else { return self.lookup_gmt(parent, name) };
        let ino = in_slot(parent, dirent.ino)?;
        if dirent.kind == FileKind::Dir {
            self.noted(parent, None, self.stands_in(ino, parent, name))?;
        }
        self.noted(ino, None, self.inode_attr(&Place { ino, ..place })).map(Some)
    }

    /// Remembers where a directory stands. One that stood elsewhere is refused: a damaged tree could otherwise have
    /// more paths than anybody could walk.
    fn stands_in(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
        let here = (parent, name_hash(name));
        let known = self.parents.get(&ino);
        if ino.is_point_root() || known.is_some_and(|known| known != here) {
            let what = format!("directory {} stands in more than one place", ino.tree());
            return Err(Error::damaged(what));
        }
        if known.is_none() {
            self.parents.insert(ino, here);
        }
        Ok(())
    }

    fn find_name(&self, place: &Place, name: &[u8]) -> Result<Option<Dirent>> {
        let key = Key::Dirent(place.ino.tree(), name).encode();
        let entry = tree::get(self.nodes(), &place.root, &key)?;
        entry.map(|entry| Dirent::decode(entry.value()).map_err(Error::from)).transpose()
    }

    fn lookup_virtual(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        let layout = self.layout();
        if parent.is_computed() {
            return self.lookup_computed(&layout, parent, name);
        }
        let dir = layout.dir(parent).ok_or_else(|| not_dir(&layout, parent))?;
        let child = std::str::from_utf8(name).ok().and_then(|name| dir.child(name));
        match child {
            Some(child) => self.getattr(child.ino).map(Some),
            None if is_gmt(name) => self.lookup_gmt(parent, name),
            None => self.lookup_computed(&layout, parent, name),
        }
    }

    /// The directory above. Below a restore point's root it is known of directories met by name lately; of
    /// others the directory itself is given, as nothing but the number shown for `..` hangs on it.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Ino {
        let (layout, ino) = (self.layout(), self.inner(ino));
        let parent = if ino == self.root {
            ino
        } else if ino.is_virtual() {
            layout.dir(ino).map_or(ino, |dir| dir.parent)
        } else if ino.is_point_root() {
            self.slot(&layout, ino.slot()).map_or(Ino::ROOT, |slot| slot.parent)
        } else {
            self.parents.get(&ino).map_or(ino, |(parent, _)| parent)
        };
        self.shown(parent)
    }

    /// The directory above, looked for in the whole tree if it was not met by name. An NFS server asks for it with
    /// the number of a directory that it has had from another mount.
    fn parent_for_certain(&self, ino: Ino) -> Result<Ino> {
        let parent = self.parent(ino);
        if parent != ino || ino.is_virtual() {
            return Ok(parent);
        }
        let place = self.place(ino)?;
        let found = self.noted(ino, None, self.learn_parents(&place))?;
        // Not there, or further than is looked: the number is of no use to who has it.
        found.ok_or_else(|| errno(libc::ESTALE))
    }

    fn learn_parents(&self, place: &Place) -> Result<Option<Ino>> {
        for entry in tree::range(self.nodes(), &place.root, &[]).take(SEARCHED_ENTRIES) {
            let entry = entry?;
            let Ok(Key::Dirent(parent, name)) = Key::decode(entry.key()) else { continue };
            let dirent = Dirent::decode(entry.value()).map_err(Error::from)?;
            if dirent.kind != FileKind::Dir {
                continue;
            }
            let (child, parent) = (in_slot(place.ino, dirent.ino)?, in_slot(place.ino, parent)?);
            // The first place counts, as it does for who walks.
            let _ = self.stands_in(child, parent, name);
            if child == place.ino {
                return Ok(Some(parent));
            }
        }
        Ok(None)
    }

    /// Lists a directory from `offset` until `sink` is full or the directory ends.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`, or when the metadata cannot be read.
    pub fn readdir(&self, ino: Ino, offset: u64, sink: &mut Sink<'_>) -> Result<()> {
        self.list(ino, offset, false, sink)
    }

    /// As [`View::readdir`], with attributes. An entry whose attributes cannot be read comes without.
    ///
    /// # Errors
    /// As [`View::readdir`].
    pub fn readdir_plus(&self, ino: Ino, offset: u64, sink: &mut Sink<'_>) -> Result<()> {
        self.list(ino, offset, true, sink)
    }

    fn list(&self, ino: Ino, offset: u64, plus: bool, sink: &mut Sink<'_>) -> Result<()> {
        let dots = [(self.shown(ino), &b"."[..]), (self.parent(ino), b"..")];
        let ino = self.inner(ino);
        for ((ino, name), next) in dots.into_iter().zip(1..).filter(|(_, next)| *next > offset) {
            if sink(&DirEntry { ino, kind: FileKind::Dir, name, next }, None) {
                return Ok(());
            }
        }
        if ino.is_virtual() {
            return self.list_virtual(ino, offset, plus, sink);
        }
        let place = self.place(ino)?;
        let listed = self.list_tree(&place, offset, plus, sink);
        self.noted(ino, None, listed)
    }

    fn list_virtual(&self, ino: Ino, offset: u64, plus: bool, sink: &mut Sink<'_>) -> Result<()> {
        if ino.is_computed() {
            let mut take = |name: &[u8], ino: Ino, kind: FileKind, next: u64, attr: Option<&Attr>| {
                sink(&DirEntry { ino, kind, name, next: next + FIRST_OFFSET }, attr)
            };
            return self.list_computed(ino, offset.saturating_sub(FIRST_OFFSET), plus, &mut take);
        }
        let layout = self.layout();
        let dir = layout.dir(ino).ok_or_else(|| not_dir(&layout, ino))?;
        for child in dir.children_from(offset.saturating_sub(FIRST_OFFSET)) {
            let next = child.place + FIRST_OFFSET + 1;
            // A list of points does not wait for their trees.
            let attr = || without_waiting(|| self.getattr(child.ino).ok()).flatten();
            let attr = if plus { attr() } else { None };
            if sink(&DirEntry { ino: child.ino, kind: child.kind, name: child.name.as_bytes(), next }, attr.as_ref()) {
                break;
            }
        }
        Ok(())
    }

    fn list_tree(&self, place: &Place, offset: u64, plus: bool, sink: &mut Sink<'_>) -> Result<()> {
        let prefix = Key::prefix(place.ino.tree(), KeyKind::Dirent);
        let mut entries = match offset.checked_sub(FIRST_OFFSET) {
            None | Some(0) => Ranked::at_key(self.nodes(), &place.root, &prefix)?,
            Some(rank) => Ranked::at_rank(self.nodes(), &place.root, rank)?,
        };
        let mut inodes = tree::range(self.nodes(), &place.root, &prefix);
        while let Some((node, index)) = entries.next()? {
            let Some((key, value)) = node.entry(index) else { break };
            let Some(name) = key.strip_prefix(prefix.as_slice()) else { break };
            let dirent = Dirent::decode(value).map_err(Error::from)?;
            let ino = in_slot(place.ino, dirent.ino)?;
            let stands = dirent.kind != FileKind::Dir || self.stands_in(ino, place.ino, name).is_ok();
            // Who is interested looks it up, and is told what is wrong with it.
            let attr = if plus && stands { self.attr_near(&mut inodes, ino) } else { None };
            let next = entries.rank().saturating_add(FIRST_OFFSET);
            if sink(&DirEntry { ino, kind: dirent.kind, name, next }, attr.as_ref()) {
                break;
            }
        }
        Ok(())
    }

    /// Attributes by a cursor that stays where it was: inodes of one directory are mostly near each other.
    fn attr_near(&self, inodes: &mut Range<'_>, ino: Ino) -> Option<Attr> {
        let key = Key::Inode(ino.tree()).encode();
        inodes.seek(&key);
        let attr = match inodes.next() {
            Some(Ok(entry)) if entry.key() == key => Attr::decode(ino, entry.value()),
            Some(Err(error)) => Err(error),
            _ => Err(super::missing_inode(ino)),
        };
        self.noted(ino, None, attr).ok()
    }
}

/// Tells names of one directory from each other, nearly always.
fn name_hash(name: &[u8]) -> u32 {
    let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    std::hash::BuildHasher::hash_one(&hasher, name) as u32
}

fn in_slot(beside: Ino, tree_ino: u64) -> Result<Ino> {
    let ino = Ino::in_slot(beside.slot(), tree_ino);
    ino.ok_or_else(|| Error::damaged(format!("inode number {tree_ino} is out of range")))
}

fn not_dir(layout: &Layout, ino: Ino) -> Error {
    errno(if layout.link(ino).is_some() || ino == HEALTH || ino == METRICS { libc::ENOTDIR } else { libc::ESTALE })
}
