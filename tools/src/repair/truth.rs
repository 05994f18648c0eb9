//! A new tree for a restore point that lost something: what can be read stays as it is, what is lost gives EIO and is marked,
//! and the invariants of SPEC.md section 7 hold again (section 15 says how).

use crate::check::{DAMAGED, LostRange, Names};
use relict::Result;
use relict::catalog::edits::{DEFAULT_LIMIT_BYTES, EditSet};
use relict::catalog::tree::{Edit, Lost, NodeVisitor, get, walk_nodes};
use relict::store::{NodeRef, Repository};
use repo_format::{
    ChunkId, Dirent, Extent, FileKind, Inode, Key, MAX_CHUNK_BYTES, PointRecord, ROOT_INO, TREE_INO, Time,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The id that names no chunk: content that is lost together with its extents.
pub const NO_CHUNK: ChunkId = ChunkId([0; 32]);
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// Edits that lead to the new tree.
pub struct Truth {
    /// The edits, against the old tree or against nothing.
    pub edits: EditSet,
    /// Whether they stand against nothing: the old tree cannot be read completely.
    pub whole: bool,
    /// The next free inode number of the chain.
    pub next_ino: u64,
    /// Inodes that were marked.
    pub marked: u64,
}

/// The new tree of a point of which only content is lost: its files are marked, everything else stays.
pub fn mark(repository: &Repository, point: &PointRecord, hurt: &BTreeSet<u64>, why: &str) -> Result<Truth> {
    let mut edits = EditSet::new(DEFAULT_LIMIT_BYTES);
    for ino in hurt {
        let key = Key::Inode(*ino).encode();
        if let Some(inode) = get(repository, &point.root, &key)?.and_then(|e| Inode::decode(e.value()).ok()) {
            put_mark(&mut edits, *ino, inode, why)?;
        }
    }
    Ok(Truth { edits, whole: false, next_ino: point.next_ino, marked: hurt.len() as u64 })
}

/// Marks an inode. Without its ctime the next backup takes the file for changed and reads it again, which heals it.
fn put_mark(edits: &mut EditSet, ino: u64, inode: Inode, why: &str) -> Result<()> {
    let inode = Inode { ctime: Time::default(), ..inode };
    edits.push(Key::Inode(ino).encode(), Edit::Put(inode.encode()))?;
    edits.push(Key::Xattr(ino, DAMAGED).encode(), Edit::Put(why.as_bytes().to_vec()))
}

/// The new tree of a point that lost tree nodes, out of all entries that can still be read.
pub fn rescue(
    repository: &Repository,
    point: &PointRecord,
    ranges: &[LostRange],
    hurt: &BTreeSet<u64>,
    why: &str,
) -> Result<Truth> {
    let mut rest = Rest {
        edits: EditSet::new(DEFAULT_LIMIT_BYTES),
        inodes: HashMap::new(),
        names: HashMap::new(),
        contents: BTreeMap::new(),
    };
    walk_nodes(repository, &point.root, &mut rest)?;
    Rescue { rest, ranges, why, marks: hurt.clone(), next_ino: point.next_ino }.run()
}

/// What can still be read.
struct Rest {
    edits: EditSet,
    inodes: HashMap<u64, Inode>,
    /// Names of each inode: directory, name, kind.
    names: HashMap<u64, Vec<(u64, Vec<u8>, FileKind)>>,
    /// Extents and targets.
    contents: BTreeMap<u64, Content>,
}

#[derive(Default)]
struct Content {
    extents: Vec<(u64, u32)>,
    target: bool,
}

impl Rest {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // What does not decode is damage of another kind, and is left behind.
        let Ok(decoded) = Key::decode(key) else { return Ok(()) };
        match decoded {
            Key::Inode(ino) => match Inode::decode(value) {
                Ok(inode) => drop(self.inodes.insert(ino, inode)),
                Err(_) => return Ok(()),
            },
            Key::Dirent(parent, name) => match Dirent::decode(value) {
                Ok(d) => self.names.entry(d.ino).or_default().push((parent, name.to_vec(), d.kind)),
                Err(_) => return Ok(()),
            },
            Key::Extent(ino, offset) => match Extent::decode(value) {
                Ok(e) => self.contents.entry(ino).or_default().extents.push((offset, e.len)),
                Err(_) => return Ok(()),
            },
            Key::Target(ino) => self.contents.entry(ino).or_default().target = true,
            Key::Xattr(..) | Key::SourceIno(..) => {}
        }
        self.edits.push(key, Edit::Put(value.to_vec()))
    }
}

impl NodeVisitor for Rest {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() == 0 {
            for (key, value) in (0..node.len()).filter_map(|i| node.entry(i)) {
                self.take(key, value)?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Result<()> {
        Ok(())
    }
}

struct Rescue<'a> {
    rest: Rest,
    ranges: &'a [LostRange],
    why: &'a str,
    marks: BTreeSet<u64>,
    next_ino: u64,
}

impl Rescue<'_> {
    fn run(mut self) -> Result<Truth> {
        for ino in self.all_inodes() {
            self.make_whole(ino)?;
        }
        self.name_orphans()?;
        self.count_links()?;
        let (next_ino, marked) = (self.next_ino, self.marks.len() as u64);
        for ino in &self.marks {
            if let Some(inode) = self.rest.inodes.get(ino) {
                put_mark(&mut self.rest.edits, *ino, *inode, self.why)?;
            }
        }
        Ok(Truth { edits: self.rest.edits, whole: true, next_ino, marked })
    }

    /// Every inode that anything speaks of.
    fn all_inodes(&self) -> BTreeSet<u64> {
        let parents = self.rest.names.values().flatten().map(|(parent, ..)| *parent);
        let named = self.rest.names.keys().chain(self.rest.inodes.keys()).chain(self.rest.contents.keys());
        let mut all: BTreeSet<u64> = named.copied().chain(parents).chain([ROOT_INO]).collect();
        all.remove(&TREE_INO);
        all
    }

    fn touched(&self, ino: u64) -> bool {
        self.ranges.iter().any(|range| range.touches(ino))
    }

    /// Gives an inode attributes if they are lost, and its content the extents that are lost.
    fn make_whole(&mut self, ino: u64) -> Result<()> {
        let content = self.rest.contents.remove(&ino).unwrap_or_default();
        let found = self.rest.inodes.get(&ino).copied();
        let mut inode = match found {
            Some(inode) => inode,
            None => unknown(self.is_dir(ino), &content),
        };
        let headless = found.is_none();
        match inode.kind() {
            FileKind::Symlink if !content.target => {
                // A link without its target can only be a file that cannot be read.
                inode = Inode { mode: inode.mode & !S_IFMT | S_IFREG, size: 1, data_bytes: 0, ..inode };
                self.fill(ino, &mut inode, &content, true)?;
            }
            FileKind::File if headless => self.fill(ino, &mut inode, &content, true)?,
            FileKind::File if self.touched(ino) && covered(&content) != inode.data_bytes => {
                self.fill(ino, &mut inode, &content, false)?
            }
            _ if headless || (inode.kind() == FileKind::Dir && self.touched(ino)) => {
                self.marks.insert(ino);
            }
            _ => {}
        }
        self.rest.inodes.insert(ino, inode);
        self.rest.edits.push(Key::Inode(ino).encode(), Edit::Put(inode.encode()))
    }

    fn is_dir(&self, ino: u64) -> bool {
        let named = self.rest.names.get(&ino).and_then(|names| names.first()).map(|(.., kind)| *kind);
        let parent = self.rest.names.values().flatten().any(|(parent, ..)| *parent == ino);
        ino == ROOT_INO || parent || named == Some(FileKind::Dir)
    }

    /// Covers with lost extents what may have been data in the lost ranges, so that it reads as an error and not as zeros.
    fn fill(&mut self, ino: u64, inode: &mut Inode, content: &Content, all: bool) -> Result<()> {
        // Without attributes nobody knows the length: whatever no extent covers is lost, and so is a byte behind the last one.
        let known = self.ranges.iter().filter_map(|range| lost_offsets(range, ino));
        let lost: Vec<(u64, u64)> = if all { vec![(0, u64::MAX)] } else { known.collect() };
        let mut data = covered(content);
        let mut at = 0;
        let ends =
            content.extents.iter().map(|(from, len)| (*from, from + u64::from(*len))).chain([(inode.size, inode.size)]);
        for (from, end) in ends {
            for (lost_from, lost_to) in &lost {
                let (start, stop) = (at.max(*lost_from), from.min(*lost_to).min(inode.size));
                data += self.put_lost(ino, start, stop)?;
            }
            at = at.max(end);
        }
        inode.data_bytes = data;
        self.marks.insert(ino);
        Ok(())
    }

    fn put_lost(&mut self, ino: u64, from: u64, to: u64) -> Result<u64> {
        let mut at = from;
        while at < to {
            let len = (to - at).min(MAX_CHUNK_BYTES as u64) as u32;
            let extent = Extent { skip: 0, len, chunk: NO_CHUNK };
            self.rest.edits.push(Key::Extent(ino, at).encode(), Edit::Put(extent.encode()))?;
            at += u64::from(len);
        }
        Ok(to.saturating_sub(from))
    }

    /// What lost its name goes to /lost+found, under its number.
    fn name_orphans(&mut self) -> Result<()> {
        let orphans: Vec<u64> = self
            .rest
            .inodes
            .keys()
            .copied()
            .filter(|ino| *ino != ROOT_INO && !self.rest.names.contains_key(ino))
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let place = self.next_ino;
        self.next_ino += 1;
        let taken =
            |name: &[u8]| self.rest.names.values().flatten().any(|(parent, n, _)| *parent == ROOT_INO && n == name);
        let name = (0..)
            .map(|n: u32| if n == 0 { b"lost+found".to_vec() } else { format!("lost+found.{n}").into_bytes() })
            .find(|n| !taken(n));
        self.rest.inodes.insert(place, Inode { mode: S_IFDIR | 0o700, ..unknown(true, &Content::default()) });
        self.rest.names.insert(place, vec![(ROOT_INO, name.unwrap_or_default(), FileKind::Dir)]);
        for ino in orphans {
            let kind = self.rest.inodes.get(&ino).map_or(FileKind::File, Inode::kind);
            self.rest.names.insert(ino, vec![(place, format!("#{ino}").into_bytes(), kind)]);
        }
        Ok(())
    }

    /// Writes every name with the kind that its inode has now, and every inode with the number of its names.
    fn count_links(&mut self) -> Result<()> {
        let mut subdirs: HashMap<u64, u32> = HashMap::new();
        for (ino, names) in &self.rest.names {
            let kind = self.rest.inodes.get(ino).map_or(FileKind::File, Inode::kind);
            for (parent, name, _) in names {
                self.rest
                    .edits
                    .push(Key::Dirent(*parent, name).encode(), Edit::Put(Dirent { ino: *ino, kind }.encode()))?;
                *subdirs.entry(*parent).or_default() += u32::from(kind == FileKind::Dir);
            }
        }
        for (ino, inode) in &mut self.rest.inodes {
            let names = self.rest.names.get(ino).map_or(0, Vec::len) as u32;
            let links = if inode.kind() == FileKind::Dir { 2 + subdirs.get(ino).copied().unwrap_or(0) } else { names };
            if inode.nlink != links {
                inode.nlink = links;
            }
            self.rest.edits.push(Key::Inode(*ino).encode(), Edit::Put(inode.encode()))?;
        }
        Ok(())
    }
}

fn covered(content: &Content) -> u64 {
    content.extents.iter().map(|(_, len)| u64::from(*len)).sum()
}

/// Attributes of an inode that lost its own: nobody may do anything with it but its owner, root.
fn unknown(dir: bool, content: &Content) -> Inode {
    let end = content.extents.iter().map(|(from, len)| from + u64::from(*len)).max().unwrap_or(0);
    Inode {
        mode: if dir { S_IFDIR | 0o700 } else { S_IFREG | 0o400 },
        uid: 0,
        gid: 0,
        nlink: 0,
        // How long the file was nobody knows: at least one byte more than what is left.
        size: if dir { 0 } else { end + 1 },
        mtime: Time::default(),
        ctime: Time::default(),
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: 0,
        source: None,
    }
}

/// The offsets of a file whose extents stood in a lost range.
fn lost_offsets(range: &LostRange, ino: u64) -> Option<(u64, u64)> {
    if !range.touches(ino) {
        return None;
    }
    let offset = |key: &[u8]| match Key::decode(key) {
        Ok(Key::Extent(owner, offset)) if owner == ino => Some(offset),
        _ => None,
    };
    let to = range.to.as_deref().and_then(offset).unwrap_or(u64::MAX);
    Some((offset(&range.from).unwrap_or(0), to))
}

/// What content a point lost: the inodes, and the names to call them by.
#[derive(Default)]
pub struct Hurt {
    /// Inodes with an extent whose chunk is gone, but for those that a repair has marked already.
    pub inodes: BTreeSet<u64>,
    /// All names that can be read.
    pub names: Names,
}

struct FindHurt<'a> {
    out: Hurt,
    /// The marked inode that the walk is at: attributes stand before extents.
    marked: u64,
    gone: &'a dyn Fn(&ChunkId) -> bool,
}

impl NodeVisitor for FindHurt<'_> {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() > 0 {
            return Ok(());
        }
        for (key, value) in (0..node.len()).filter_map(|i| node.entry(i)) {
            match (Key::decode(key), Extent::decode(value), Dirent::decode(value)) {
                (Ok(Key::Xattr(ino, DAMAGED)), ..) => self.marked = ino,
                (Ok(Key::Extent(ino, _)), Ok(extent), _) if ino != self.marked && (self.gone)(&extent.chunk) => {
                    self.out.inodes.insert(ino);
                }
                (Ok(Key::Dirent(parent, name)), _, Ok(dirent)) => self.out.names.add(parent, name, dirent.ino),
                _ => {}
            }
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Result<()> {
        Ok(())
    }
}

/// The files of a point whose content is gone, as far as its tree can be read.
pub fn hurt(repository: &Repository, point: &PointRecord, gone: &dyn Fn(&ChunkId) -> bool) -> Result<Hurt> {
    let mut find = FindHurt { out: Hurt::default(), marked: TREE_INO, gone };
    walk_nodes(repository, &point.root, &mut find)?;
    Ok(find.out)
}
