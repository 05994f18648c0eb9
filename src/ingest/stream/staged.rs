//! The half-applied state: what differs from the tree it began from, in memory; and how names are found in it.
//!
//! Nothing is loaded but what a path touches. A staged inode stands for itself: its attributes here are what they are
//! by now, its entries, extended attributes and content what differs from the rows of `origin` in the base tree.

use super::content::ContentId;
use super::path::{self, refused};
use crate::catalog::tree::{self, Entry, ReadNodes};
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Dirent, FileKind, Inode, Key, KeyKind, MAX_INO, ROOT_INO};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Numbers from here on are given to directories that a new inode has pushed out of theirs, from the top down. A
/// source's numbers below this are kept.
pub(super) const FIRST_EXILE: u64 = MAX_INO + 1 - (1 << 20);

/// Directories of the parent that the stream has moved stay in memory, up to so many: see `exile`.
const MAX_MOVED: usize = 20_000;

type Name = Box<[u8]>;

/// An inode that is touched.
pub(super) struct Staged {
    /// As by now. Of files, `size` and `data_bytes` are those of the content if there is one.
    pub(super) inode: Inode,
    /// As in the base tree.
    pub(super) was: Option<Inode>,
    /// Its number in the base tree, if it has rows there.
    pub(super) origin: Option<u64>,
    /// The stream has made it, as far as is still known: after a move to a tree it may be any other.
    pub(super) is_new: bool,
    /// A name it has, or had when it was found by one: the directory, and the name in it.
    pub(super) parent: u64,
    pub(super) name: Name,
    /// Another name that it got since, for when that one goes away.
    also: Option<Box<(u64, Name)>>,
    /// Of a directory: names that came (Some) or went.
    pub(super) entries: BTreeMap<Name, Option<Dirent>>,
    pub(super) xattrs: BTreeMap<Name, Option<Vec<u8>>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) content: Option<ContentId>,
}

/// See the head of this file.
pub(super) struct StagedTree<'s> {
    pub(super) nodes: &'s dyn ReadNodes,
    /// The tree below. None: there is none.
    pub(super) base: Option<ChunkId>,
    pub(super) inodes: HashMap<u64, Staged>,
    /// Numbers whose rows in the base tree are nobody's any more.
    pub(super) dead: HashSet<u64>,
    /// Numbers from [`FIRST_EXILE`] on that are in use.
    pub(super) exiles: Vec<u64>,
    next_exile: u64,
    /// Directories of the parent that were renamed.
    moved: HashSet<u64>,
    /// The next number for an inode that brings none, or not a good one.
    pub(super) next_ino: u64,
    /// Symbolic links that lead nowhere yet.
    pub(super) without_target: HashSet<u64>,
    /// What died of what the base tree has: files, directories, bytes of files.
    pub(super) lost: (u64, u64, u64),
    /// Contents whose file is gone.
    pub(super) orphans: Vec<ContentId>,
    /// Rough bytes of memory that all this takes.
    pub(super) charge_bytes: usize,
    /// Of these, what moving everything to a tree would not free.
    pub(super) kept_bytes: usize,
    /// The path that was found last, and what it names.
    last_found: Option<(Vec<u8>, u64)>,
    last_dir: Option<(Vec<u8>, u64)>,
}

impl<'s> StagedTree<'s> {
    /// The state that a base tree is, or an empty root directory.
    pub(super) fn new(nodes: &'s dyn ReadNodes, base: Option<ChunkId>, next_ino: u64) -> Self {
        let mut staged = Self {
            nodes,
            base,
            inodes: HashMap::new(),
            dead: HashSet::new(),
            exiles: Vec::new(),
            next_exile: MAX_INO,
            moved: HashSet::new(),
            next_ino: next_ino.max(ROOT_INO + 1),
            without_target: HashSet::new(),
            lost: (0, 0, 0),
            orphans: Vec::new(),
            charge_bytes: 0,
            kept_bytes: 0,
            last_found: None,
            last_dir: None,
        };
        if base.is_none() {
            staged.insert(ROOT_INO, Staged::new(new_inode(FileKind::Dir, 0o755), ROOT_INO, b""));
        }
        staged
    }

    /// Forgets what was found where: a name goes away. A new one makes no path that was found wrong.
    fn forget(&mut self) {
        (self.last_found, self.last_dir) = (None, None);
    }

    pub(super) fn charge(&mut self, bytes: usize) {
        self.charge_bytes += bytes;
    }

    fn insert(&mut self, ino: u64, staged: Staged) {
        self.charge(size_of::<Staged>() + 64 + staged.name.len());
        self.inodes.insert(ino, staged);
    }

    /// A row of the base tree.
    fn base_row(&self, key: &Key<'_>) -> Result<Option<Entry>> {
        self.base.as_ref().map_or(Ok(None), |root| tree::get(self.nodes, root, &key.encode()))
    }

    /// What a directory has under a name. The directory is staged.
    pub(super) fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<Dirent>> {
        let Some(staged) = self.inodes.get(&dir) else { return Ok(None) };
        if let Some(known) = staged.entries.get(name) {
            return Ok(*known);
        }
        let Some(origin) = staged.origin else { return Ok(None) };
        let row = self.base_row(&Key::Dirent(origin, name))?;
        Ok(row.map(|row| Dirent::decode(row.value())).transpose()?)
    }

    /// Makes an inode that a name leads to a staged one.
    fn load(&mut self, ino: u64, parent: u64, name: &[u8]) -> Result<()> {
        if self.inodes.contains_key(&ino) {
            return Ok(());
        }
        let row = self.base_row(&Key::Inode(ino))?.filter(|_| !self.dead.contains(&ino));
        let row = row
            .ok_or_else(|| Error::damaged(format!("inode {ino} has a name in the parent's tree, but is not there")))?;
        let inode = Inode::decode(row.value())?;
        let staged = Staged { was: Some(inode), origin: Some(ino), is_new: false, ..Staged::new(inode, parent, name) };
        self.insert(ino, staged);
        Ok(())
    }

    /// The directory that `names` lead to; all on the way are staged.
    fn walk(&mut self, path: &[u8], names: &[&[u8]]) -> Result<u64> {
        let dir_path = || path.get(..names.iter().map(|name| name.len() + 1).sum::<usize>().saturating_sub(1));
        if let Some((last, ino)) = &self.last_dir
            && dir_path() == Some(&**last)
        {
            return Ok(*ino);
        }
        self.load(ROOT_INO, ROOT_INO, b"")?;
        let mut dir = ROOT_INO;
        let mut upto = 0;
        for name in names {
            upto += name.len() + 1;
            let here = || path.get(..upto - 1).unwrap_or(path);
            let found = self.lookup(dir, name)?.ok_or_else(|| refused(here(), "does not exist"))?;
            match found.kind {
                FileKind::Dir => {}
                FileKind::Symlink => return Err(refused(here(), "is a symbolic link, and no path leads through one")),
                _ => return Err(refused(here(), "is not a directory")),
            }
            self.load(found.ino, dir, name)?;
            dir = found.ino;
        }
        self.last_dir = dir_path().map(|path| (path.to_vec(), dir));
        Ok(dir)
    }

    /// The inode that a path names, which is staged then.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<u64> {
        if let Some((last, ino)) = &self.last_found
            && *last == path
        {
            return Ok(*ino);
        }
        let ino = if path.is_empty() {
            self.walk(path, &[])?
        } else {
            let (names, last) = path::split(path)?;
            let dir = self.walk(path, &names)?;
            let found = self.lookup(dir, last)?.ok_or_else(|| refused(path, "does not exist"))?;
            self.load(found.ino, dir, last)?;
            found.ino
        };
        self.last_found = Some((path.to_vec(), ino));
        Ok(ino)
    }

    /// The staged inode with this number.
    pub(super) fn get_mut(&mut self, ino: u64) -> Result<&mut Staged> {
        self.inodes.get_mut(&ino).ok_or_else(|| Error::new(ErrorKind::Io, format!("inode {ino} is not staged")))
    }

    /// The inode that a path names, to be changed.
    pub(super) fn find_mut(&mut self, path: &[u8]) -> Result<(u64, &mut Staged)> {
        let ino = self.find(path)?;
        Ok((ino, self.get_mut(ino)?))
    }

    /// The regular file that a path names.
    pub(super) fn find_file(&mut self, path: &[u8]) -> Result<(u64, &mut Staged)> {
        let (ino, staged) = self.find_mut(path)?;
        match staged.inode.kind() {
            FileKind::File => Ok((ino, staged)),
            FileKind::Dir => Err(refused(path, "is a directory, which has no content")),
            _ => Err(refused(path, "is not a regular file, and has no content")),
        }
    }

    /// The directory and last name of a path that must be free.
    fn free_place<'p>(&mut self, path: &'p [u8]) -> Result<(u64, &'p [u8])> {
        let (names, last) = path::split(path)?;
        let dir = self.walk(path, &names)?;
        match self.lookup(dir, last)? {
            None => Ok((dir, last)),
            Some(_) => Err(refused(path, "exists already")),
        }
    }

    /// A new inode under a free name.
    pub(super) fn create(&mut self, path: &[u8], inode: Inode, wanted: Option<u64>) -> Result<u64> {
        // The number first: what must give it up may be the directory itself.
        let ino = self.number(wanted)?;
        let (dir, name) = self.free_place(path)?;
        let kind = inode.kind();
        self.insert(ino, Staged::new(inode, dir, name));
        if kind == FileKind::Symlink {
            self.without_target.insert(ino);
        }
        self.put_entry(dir, name, Some(Dirent { ino, kind }))?;
        self.last_found = Some((path.to_vec(), ino));
        Ok(ino)
    }

    /// The number of a new inode: the source's, if that is free or can be made so.
    fn number(&mut self, wanted: Option<u64>) -> Result<u64> {
        let wanted = wanted.filter(|ino| (ROOT_INO + 1..FIRST_EXILE).contains(ino));
        if let Some(ino) = wanted
            && (!self.in_use(ino)? || self.exile(ino)?)
        {
            self.next_ino = self.next_ino.max(ino + 1);
            return Ok(ino);
        }
        self.next_number()
    }

    /// A number that nobody of this chain has.
    fn next_number(&mut self) -> Result<u64> {
        let ino = self.next_ino;
        if ino >= FIRST_EXILE {
            return Err(Error::new(ErrorKind::BadInput, "there are no inode numbers left for this chain"));
        }
        self.next_ino += 1;
        Ok(ino)
    }

    fn in_use(&self, ino: u64) -> Result<bool> {
        if self.inodes.contains_key(&ino) {
            return Ok(true);
        }
        Ok(!self.dead.contains(&ino) && self.base_row(&Key::Inode(ino))?.is_some())
    }

    /// Gives a directory another number, so that its own is free. Only one that the stream has renamed: it is one
    /// that the source has removed already and that the stream takes apart later.
    fn exile(&mut self, ino: u64) -> Result<bool> {
        if !self.moved.contains(&ino) || self.next_exile < FIRST_EXILE {
            return Ok(false);
        }
        let number = self.next_exile;
        self.next_exile -= 1;
        self.exiles.push(number);
        self.renumber(ino, number)?;
        Ok(true)
    }

    /// Moves a staged directory to a number that is free.
    pub(super) fn renumber(&mut self, from: u64, to: u64) -> Result<()> {
        let Some(staged) = self.inodes.remove(&from) else { return Ok(()) };
        self.moved.remove(&from);
        self.forget();
        let (parent, name) = (staged.parent, staged.name.clone());
        if staged.origin == Some(from) {
            self.dead.insert(from);
        }
        self.inodes.insert(to, staged);
        self.put_entry(parent, &name, Some(Dirent { ino: to, kind: FileKind::Dir }))?;
        for child in self.inodes.values_mut() {
            let also = child.also.as_deref_mut().map(|(parent, _)| parent);
            let parents = also.into_iter().chain([&mut child.parent]);
            parents.filter(|parent| **parent == from).for_each(|parent| *parent = to);
        }
        Ok(())
    }

    /// Gives the directories that lost their numbers good ones. When the state is complete.
    pub(super) fn end_exile(&mut self) -> Result<()> {
        for exile in std::mem::take(&mut self.exiles) {
            let number = self.next_number()?;
            self.renumber(exile, number)?;
        }
        Ok(())
    }

    /// Sets what a directory has under a name.
    fn put_entry(&mut self, dir: u64, name: &[u8], entry: Option<Dirent>) -> Result<()> {
        if entry.is_none() {
            self.forget();
        }
        self.charge(name.len() + 96);
        let was_known = self.get_mut(dir)?.origin.is_some();
        let dir = self.get_mut(dir)?;
        // What the base tree does not have need not be taken away from it.
        if entry.is_some() || was_known {
            dir.entries.insert(name.into(), entry);
        } else {
            dir.entries.remove(name);
        }
        Ok(())
    }

    /// Counts a directory's subdirectories up or down.
    fn count_subdirs(&mut self, dir: u64, by: i32) -> Result<()> {
        let inode = &mut self.get_mut(dir)?.inode;
        inode.nlink = inode.nlink.saturating_add_signed(by);
        Ok(())
    }

    /// After [`StagedTree::create`] of a directory.
    pub(super) fn created_dir(&mut self, ino: u64) -> Result<()> {
        let parent = self.get_mut(ino)?.parent;
        self.count_subdirs(parent, 1)
    }

    /// Another name for what is no directory.
    pub(super) fn link(&mut self, path: &[u8], existing: &[u8]) -> Result<()> {
        let (ino, staged) = self.find_mut(existing)?;
        let kind = staged.inode.kind();
        if kind == FileKind::Dir {
            return Err(refused(existing, "is a directory, which has one name only"));
        }
        let (dir, name) = self.free_place(path)?;
        let inode = &mut self.get_mut(ino)?.inode;
        inode.nlink = inode.nlink.checked_add(1).ok_or_else(|| refused(existing, "has too many names"))?;
        self.get_mut(ino)?.also = Some(Box::new((dir, name.into())));
        self.charge(name.len() + 64);
        self.put_entry(dir, name, Some(Dirent { ino, kind }))
    }

    /// Takes a name away from what is no directory.
    pub(super) fn unlink(&mut self, path: &[u8]) -> Result<()> {
        let (ino, staged) = self.find_mut(path)?;
        if staged.inode.kind() == FileKind::Dir {
            return Err(refused(path, "is a directory, which UNLINK does not take away"));
        }
        staged.inode.nlink = staged.inode.nlink.saturating_sub(1);
        let gone = staged.inode.nlink == 0;
        let dir = self.drop_entry(path)?;
        if gone {
            self.bury(ino);
            return Ok(());
        }
        let (_, name) = path::split(path)?;
        self.get_mut(ino)?.lost_name(dir, name);
        Ok(())
    }

    /// Takes an empty directory away.
    pub(super) fn remove_dir(&mut self, path: &[u8]) -> Result<()> {
        let (ino, staged) = self.find_mut(path)?;
        if staged.inode.kind() != FileKind::Dir {
            return Err(refused(path, "is not a directory"));
        }
        if ino == ROOT_INO {
            return Err(refused(path, "cannot be removed"));
        }
        if !self.is_empty(ino)? {
            return Err(refused(path, "is a directory that is not empty"));
        }
        let parent = self.drop_entry(path)?;
        self.count_subdirs(parent, -1)?;
        self.bury(ino);
        Ok(())
    }

    fn drop_entry(&mut self, path: &[u8]) -> Result<u64> {
        let (names, last) = path::split(path)?;
        let dir = self.walk(path, &names)?;
        self.put_entry(dir, last, None)?;
        Ok(dir)
    }

    fn is_empty(&self, dir: u64) -> Result<bool> {
        let Some(staged) = self.inodes.get(&dir) else { return Ok(true) };
        if staged.entries.values().any(Option::is_some) {
            return Ok(false);
        }
        let (Some(root), Some(origin)) = (&self.base, staged.origin) else { return Ok(true) };
        for row in tree::range_prefix(self.nodes, root, &Key::prefix(origin, KeyKind::Dirent)) {
            let row = row?;
            if !row.key().get(9..).is_some_and(|name| staged.entries.contains_key(name)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An inode has lost its last name.
    fn bury(&mut self, ino: u64) {
        let Some(staged) = self.inodes.remove(&ino) else { return };
        self.without_target.remove(&ino);
        self.moved.remove(&ino);
        self.exiles.retain(|exile| *exile != ino);
        self.dead.extend(staged.origin);
        self.orphans.extend(staged.content);
        if let Some(was) = staged.was {
            let (files, dirs, bytes) = &mut self.lost;
            match was.kind() {
                FileKind::Dir => *dirs += 1,
                FileKind::File => (*files, *bytes) = (*files + 1, *bytes + was.size),
                _ => *files += 1,
            }
        }
    }

    /// Moves a name to a free one.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let (old_names, old_name) = path::split(from)?;
        let ino = self.find(from)?;
        let kind = self.get_mut(ino)?.inode.kind();
        let old_dir = self.walk(from, &old_names)?;
        let (dir, name) = self.free_place(to)?;
        if kind == FileKind::Dir && self.is_below(dir, ino) {
            return Err(refused(from, "would become its own ancestor"));
        }
        self.put_entry(old_dir, old_name, None)?;
        self.put_entry(dir, name, Some(Dirent { ino, kind }))?;
        let staged = self.get_mut(ino)?;
        if (staged.parent, &*staged.name) != (old_dir, old_name) {
            staged.lost_name(old_dir, old_name);
        }
        (staged.parent, staged.name) = (dir, name.into());
        if kind == FileKind::Dir && !staged.is_new && self.moved.len() < MAX_MOVED {
            self.moved.insert(ino);
        }
        if kind == FileKind::Dir && dir != old_dir {
            self.count_subdirs(old_dir, -1)?;
            self.count_subdirs(dir, 1)?;
        }
        Ok(())
    }

    /// Whether a staged directory is `above` or below it.
    fn is_below(&self, mut dir: u64, above: u64) -> bool {
        while dir != above && dir != ROOT_INO {
            match self.inodes.get(&dir) {
                Some(staged) => dir = staged.parent,
                None => return false,
            }
        }
        dir == above
    }

    /// Remembers the name by which a file was found, for [`StagedTree::path_of`].
    pub(super) fn remember_name(&mut self, path: &[u8]) -> Result<()> {
        let (names, last) = path::split(path)?;
        let (ino, dir) = (self.find(path)?, self.walk(path, &names)?);
        let staged = self.get_mut(ino)?;
        (staged.parent, staged.name) = (dir, last.into());
        Ok(())
    }

    /// A path of a staged file, if the name it was found by is still its own.
    pub(super) fn path_of(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            // A damaged parent's directories can form a circle.
            let Some(staged) = self.inodes.get(&at).filter(|_| parts.len() <= self.inodes.len()) else {
                return Ok(None);
            };
            let named = self.lookup(staged.parent, &staged.name)?;
            if named.is_none_or(|dirent| dirent.ino != at) {
                return Ok(None);
            }
            parts.push(&staged.name);
            at = staged.parent;
        }
        parts.reverse();
        Ok(Some(parts.join(&b'/')))
    }

    /// Starts over on a new base that holds everything staged; keeps the inodes in `kept`, which have contents
    /// that could not be written yet, and the directories that lead to them.
    pub(super) fn rebase(&mut self, base: ChunkId, kept: &HashSet<u64>) {
        let mut above: HashSet<u64> = HashSet::new();
        for ino in kept.iter().chain(&self.moved) {
            let mut at = *ino;
            while let Some(staged) = self.inodes.get(&at).filter(|_| above.insert(at)) {
                at = staged.parent;
            }
        }
        self.inodes.retain(|ino, _| above.contains(ino));
        for (ino, staged) in &mut self.inodes {
            (staged.origin, staged.was) = (Some(*ino), Some(staged.inode));
            staged.entries.clear();
            staged.xattrs.clear();
            staged.target = None;
        }
        self.base = Some(base);
        self.dead.clear();
        self.forget();
        self.charge_bytes = self.inodes.len() * (size_of::<Staged>() + 96);
        self.kept_bytes = self.charge_bytes;
    }
}

impl Staged {
    fn new(inode: Inode, parent: u64, name: &[u8]) -> Self {
        Self {
            inode,
            was: None,
            origin: None,
            is_new: true,
            parent,
            name: name.into(),
            also: None,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            target: None,
            content: None,
        }
    }

    /// A name went away: if it was one that is remembered, the other one is.
    fn lost_name(&mut self, dir: u64, name: &[u8]) {
        if self.also.as_deref().is_some_and(|(parent, also)| (*parent, &**also) == (dir, name)) {
            self.also = None;
        } else if (self.parent, &*self.name) == (dir, name)
            && let Some(also) = self.also.take()
        {
            (self.parent, self.name) = *also;
        }
    }
}

/// An inode that a stream makes. What the stream does not say of it is nothing: the owner is 0, and nobody else has
/// access.
pub(super) fn new_inode(kind: FileKind, permissions: u32) -> Inode {
    let kind_bits = match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Dir => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::Char => libc::S_IFCHR,
        FileKind::Block => libc::S_IFBLK,
    };
    Inode {
        mode: kind_bits | permissions,
        uid: 0,
        gid: 0,
        nlink: if kind == FileKind::Dir { 2 } else { 1 },
        size: 0,
        mtime: repo_format::Time::default(),
        ctime: repo_format::Time::default(),
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: 0,
        source: None,
    }
}
