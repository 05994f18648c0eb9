//! Check of one restore point's tree against the invariants of SPEC.md sections 6 and 7.
//!
//! All entries of an inode stand together, so most is judged when the walk leaves the inode; only the number of names,
//! the kind and the parents are kept for the end: 12 bytes an inode.

use super::finding::{Affected, Finding, Kind};
use super::table::ChunkTable;
use relict::Result;
use relict::catalog::tree::{Lost, NodeVisitor, ReadNodes, walk_nodes};
use relict::cli::text::counted;
use relict::store::NodeRef;
use repo_format::{
    ChunkId, Dirent, Extent, FileKind, Inode, Key, KeyKind, PointRecord, ROOT_INO, TREE_INO, Value, entry_bytes,
    is_border,
};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The attribute by which repair marks a file that lost something (SPEC.md section 17).
pub const DAMAGED: &[u8] = b"user.relict.damaged";
/// Problems of one tree that are spelled out; the rest are counted.
const WRONG_SHOWN: usize = 10;

/// What stands under one inode number, while the walk is there.
#[derive(Default)]
struct Current {
    ino: u64,
    inode: Option<Inode>,
    subdirs: u32,
    names: u64,
    covered: u64,
    extents_end: u64,
    has_target: bool,
    /// A repair has written down that something of it is lost.
    marked: bool,
}

/// What is kept of an inode until the end.
#[derive(Clone, Copy, Default)]
struct Kept {
    kind: u8,
    named_kind: u8,
    links: u32,
    names: u32,
}

/// [`Kept`] of all inodes: numbers are dense, so pages of them are.
#[derive(Default)]
struct Inodes(HashMap<u64, Box<[Kept; Inodes::PAGE]>>);

impl Inodes {
    /// Small, so that numbers that a hostile tree scatters do not take hundreds of bytes each.
    const PAGE: usize = 16;

    fn get_mut(&mut self, ino: u64) -> &mut Kept {
        let page = self.0.entry(ino / Self::PAGE as u64).or_insert_with(|| Box::new([Kept::default(); Self::PAGE]));
        &mut page[(ino % Self::PAGE as u64) as usize]
    }

    fn iter(&self) -> impl Iterator<Item = (u64, Kept)> {
        let numbered = |(page, kept): (u64, &[Kept; Self::PAGE])| {
            let first = page * Self::PAGE as u64;
            kept.iter().copied().enumerate().map(|(i, kept)| (first + i as u64, kept)).collect::<Vec<_>>()
        };
        self.0
            .iter()
            .map(|(page, kept)| (*page, &**kept))
            .flat_map(numbered)
            .filter(|(_, kept)| kept.kind != 0 || kept.names > 0)
    }
}

/// A tree under check.
pub struct TreeCheck<'a> {
    point: &'a PointRecord,
    nodes: &'a dyn ReadNodes,
    table: &'a ChunkTable,
    label: String,
    current: Current,
    inodes: Inodes,
    /// Parents of directories.
    parents: HashMap<u64, u64>,
    wrong: Vec<String>,
    wrong_count: u64,
    missing: HashSet<ChunkId>,
    /// Chunks that are missing in files that a repair has marked.
    known_missing: HashSet<ChunkId>,
    /// Those files, and directories that a repair has marked: they may have lost names.
    known: BTreeSet<u64>,
    /// Per level, whether the last node seen there ended at a border: only the last of a level may not.
    ended: Vec<bool>,
    outcome: TreeReport,
}

/// What the check of a tree gives.
#[derive(Default)]
pub struct TreeReport {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Tree entries seen.
    pub entries: u64,
    /// Key ranges that cannot be read: (first inode, last inode, node).
    pub lost: Vec<LostRange>,
}

/// A range of keys whose node cannot be read.
#[derive(Debug, Clone)]
pub struct LostRange {
    /// The node.
    pub node: ChunkId,
    /// First key that may be lost; empty: from the beginning.
    pub from: Vec<u8>,
    /// First key that is not; None: to the end.
    pub to: Option<Vec<u8>>,
}

impl LostRange {
    /// Whether an entry of this inode may be among what is lost.
    pub fn touches(&self, ino: u64) -> bool {
        let number = |key: &[u8]| key.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
        ino >= number(&self.from) && self.to.as_ref().is_none_or(|to| ino <= number(to))
    }
}

impl<'a> TreeCheck<'a> {
    pub fn new(nodes: &'a dyn ReadNodes, table: &'a ChunkTable, point: &'a PointRecord, label: String) -> Self {
        Self {
            point,
            nodes,
            table,
            label,
            current: Current::default(),
            inodes: Inodes::default(),
            parents: HashMap::new(),
            wrong: Vec::new(),
            wrong_count: 0,
            missing: HashSet::new(),
            known_missing: HashSet::new(),
            known: BTreeSet::new(),
            ended: Vec::new(),
            outcome: TreeReport::default(),
        }
    }

    /// Walks the tree and judges it.
    pub fn run(mut self) -> Result<TreeReport> {
        walk_nodes(self.nodes, &self.point.root, &mut self)?;
        // With nodes missing, what is left cannot agree; the nodes are reported already.
        if self.outcome.lost.is_empty() {
            self.leave();
            self.judge();
        }
        let mut out = self.outcome;
        if self.wrong_count > 0 {
            let more = self.wrong_count.saturating_sub(self.wrong.len() as u64);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            out.findings.push(Finding::new(Kind::Tree, format!("{}: {}{more}", self.label, self.wrong.join("; "))));
        }
        if !self.missing.is_empty() {
            let what = format!("{}: {} chunks of its files are not stored", self.label, self.missing.len());
            out.findings.push(Finding::new(Kind::ChunkMissing, what).losing(sorted(self.missing)));
        }
        if !self.known.is_empty() {
            let what = format!(
                "{}: {} here lost content or names, as a repair has written down",
                self.label,
                counted(self.known.len() as u64, "file")
            );
            let mut finding = Finding::new(Kind::KnownLoss, what).losing(sorted(self.known_missing));
            let known: Vec<u64> = self.known.into_iter().collect();
            let paths = super::rot::paths(self.nodes, self.point, &known)?;
            finding.affected = paths.into_iter().map(|path| Affected { point: self.label.clone(), path }).collect();
            out.findings.push(finding);
        }
        Ok(out)
    }

    fn problem(&mut self, what: impl FnOnce() -> String) {
        self.wrong_count += 1;
        if self.wrong.len() < WRONG_SHOWN {
            self.wrong.push(what());
        }
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) {
        let Ok(key) = Key::decode(key) else {
            return self.problem(|| "a key is not valid".into());
        };
        let ino = key.ino();
        if ino != self.current.ino {
            if self.outcome.lost.is_empty() {
                self.leave();
            }
            self.current = Current { ino, ..Current::default() };
            if ino >= self.point.next_ino {
                self.problem(|| format!("inode {ino} was never allotted"));
            }
        }
        match key {
            Key::Inode(_) => match Inode::decode(value) {
                Ok(inode) => self.current.inode = Some(inode),
                Err(e) => self.problem(|| format!("inode {ino}: {e}")),
            },
            Key::Dirent(..) => match Dirent::decode(value) {
                Ok(d) => self.name(ino, d),
                Err(e) => self.problem(|| format!("directory {ino}: {e}")),
            },
            Key::Extent(_, offset) => match Extent::decode(value) {
                Ok(e) => self.extent(ino, offset, &e),
                Err(e) => self.problem(|| format!("file {ino}: {e}")),
            },
            Key::Target(_) => match Value::decode(KeyKind::Target, value) {
                Ok(_) => self.current.has_target = true,
                Err(e) => self.problem(|| format!("symbolic link {ino}: {e}")),
            },
            Key::Xattr(..) if value.len() > repo_format::MAX_XATTR_BYTES => {
                self.problem(|| format!("inode {ino}: an attribute is too long"))
            }
            Key::Xattr(_, name) => self.current.marked |= name == DAMAGED,
            Key::SourceIno(..) => {
                if let Err(e) = Value::decode(KeyKind::SourceIno, value) {
                    self.problem(|| format!("an entry that finds inodes again: {e}"));
                }
            }
        }
    }

    fn name(&mut self, parent: u64, dirent: Dirent) {
        self.current.names += 1;
        if dirent.kind == FileKind::Dir {
            self.current.subdirs += 1;
            if self.parents.insert(dirent.ino, parent).is_some() {
                self.problem(|| format!("directory inode {} has two names", dirent.ino));
            }
        }
        let child = self.inodes.get_mut(dirent.ino);
        let differs = child.named_kind != 0 && child.named_kind != dirent.kind as u8;
        child.named_kind = dirent.kind as u8;
        child.names += 1;
        if differs {
            self.problem(|| format!("inode {} is named as two kinds of file", dirent.ino));
        }
    }

    fn extent(&mut self, ino: u64, offset: u64, extent: &Extent) {
        let len = u64::from(extent.len);
        let overlaps = offset < self.current.extents_end;
        let end = offset.checked_add(len);
        self.current.covered = self.current.covered.saturating_add(len);
        self.current.extents_end = end.unwrap_or(u64::MAX);
        if overlaps || end.is_none() {
            self.problem(|| format!("file {ino}: extents overlap at {offset}"));
        }
        match self.table.locate(&extent.chunk) {
            None if self.current.marked => {
                self.known.insert(ino);
                self.known_missing.insert(extent.chunk);
            }
            None => {
                self.missing.insert(extent.chunk);
            }
            // A slice must lie inside its chunk.
            Some(at) if extent.skip.checked_add(extent.len).is_none_or(|end| end > at.len) => {
                self.problem(|| format!("file {ino}: the extent at {offset} reaches past its chunk"));
            }
            Some(_) => {}
        }
    }

    /// Judges the inode that the walk has passed.
    fn leave(&mut self) {
        let current = std::mem::take(&mut self.current);
        if current.ino == TREE_INO {
            return;
        }
        let Some(inode) = &current.inode else {
            return self.problem(|| format!("inode {}: it has entries but no attributes", current.ino));
        };
        let kind = inode.kind();
        if current.marked && kind == FileKind::Dir {
            self.known.insert(current.ino);
        }
        let kept = self.inodes.get_mut(current.ino);
        (kept.kind, kept.links) = (kind as u8, inode.nlink);
        if kind == FileKind::Dir && inode.nlink.checked_sub(2) != Some(current.subdirs) {
            self.problem(|| {
                format!(
                    "inode {}: it counts {} links and has {}",
                    current.ino,
                    inode.nlink,
                    u64::from(current.subdirs) + 2
                )
            });
        }
        if kind == FileKind::File && (current.covered != inode.data_bytes || current.extents_end > inode.size) {
            let (covered, end) = (current.covered, current.extents_end);
            self.problem(|| {
                format!(
                    "inode {}: its extents cover {covered} bytes up to {end}, its attributes say {} of {}",
                    current.ino, inode.data_bytes, inode.size
                )
            });
        }
        let strange =
            kind != FileKind::File && current.covered > 0 || current.has_target != (kind == FileKind::Symlink);
        if strange || (kind != FileKind::Dir && current.names > 0) {
            self.problem(|| format!("inode {}: it has entries of another type", current.ino));
        }
    }

    /// What can only be said when every name is known.
    fn judge(&mut self) {
        if self.inodes.get_mut(ROOT_INO).kind != FileKind::Dir as u8 {
            self.problem(|| "the root directory is missing".into());
        }
        let all: Vec<(u64, Kept)> = self.inodes.iter().collect();
        for (ino, kept) in all {
            if let Some(what) = judge_names(ino, kept) {
                self.problem(|| format!("inode {ino}: {what}"));
            }
        }
        self.circles();
    }

    fn circles(&mut self) {
        let parents = std::mem::take(&mut self.parents);
        leads_to_root(&parents, parents.keys().copied(), |dir| {
            self.problem(|| format!("inode {dir}: its directories form a circle"));
        });
    }

    /// SPEC.md section 6: a node ends where the rule says, so that one map has one tree.
    fn borders(&mut self, node: &NodeRef) {
        let level = usize::from(node.level());
        self.ended.resize(self.ended.len().max(level + 1), true);
        let border = ended_at_border(node);
        let wrong = self.ended.get(level) == Some(&false) || border.is_none();
        if let Some(ended) = self.ended.get_mut(level) {
            // After a wrong node nothing more is said of this level.
            *ended = border.unwrap_or(true);
        }
        if wrong {
            self.problem(|| format!("a tree node of level {level} does not end where the rule puts borders"));
        }
    }
}

/// Whether a node ends at a border; None when there is one inside of it, which is wrong.
pub(super) fn ended_at_border(node: &NodeRef) -> Option<bool> {
    let (mut bytes, mut border) = (0, false);
    for (key, value) in (0..node.len()).filter_map(|i| node.entry(i)) {
        if border {
            return None;
        }
        let entry = entry_bytes(key.len(), value.len());
        bytes += entry;
        border = is_border(node.level(), key, entry, bytes);
    }
    Some(border)
}

/// Whether each of `dirs` leads to the root by `parents`; `circle` is told of those that do not. Those that are known to do
/// are not followed again.
pub(super) fn leads_to_root(
    parents: &HashMap<u64, u64>,
    dirs: impl Iterator<Item = u64>,
    mut circle: impl FnMut(u64),
) -> bool {
    let (mut sound, mut all) = (HashSet::from([ROOT_INO]), true);
    for dir in dirs {
        let (mut way, mut at) = (HashSet::new(), dir);
        while !sound.contains(&at) && way.insert(at) {
            match parents.get(&at) {
                Some(parent) => at = *parent,
                None => break,
            }
        }
        if way.contains(&at) && parents.contains_key(&at) {
            circle(dir);
            all = false;
        }
        sound.extend(way);
    }
    all
}

fn sorted(ids: HashSet<ChunkId>) -> Vec<ChunkId> {
    let mut out: Vec<ChunkId> = ids.into_iter().collect();
    out.sort_unstable();
    out
}

fn judge_names(ino: u64, kept: Kept) -> Option<String> {
    if kept.kind == 0 {
        return Some("it is named but has no attributes".into());
    }
    if (kept.names == 0) != (ino == ROOT_INO) {
        return Some("no directory names it".into());
    }
    if kept.names > 0 && kept.kind != kept.named_kind {
        return Some("a directory names it as what it is not".into());
    }
    let links_differ = kept.kind != FileKind::Dir as u8 && kept.links != kept.names;
    links_differ.then(|| format!("it counts {} links and has {}", kept.links, kept.names))
}

impl NodeVisitor for TreeCheck<'_> {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        self.borders(node);
        if node.level() > 0 {
            return Ok(());
        }
        for index in 0..node.len() {
            self.outcome.entries += 1;
            match node.entry(index) {
                Some((key, value)) => self.entry(key, value),
                None => self.problem(|| "a node has a hole".into()),
            }
        }
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Result<()> {
        let entries = lost.entries.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let what = format!("{}: a tree node with {entries} entries cannot be read: {}", self.label, lost.error);
        let mut finding = Finding::new(Kind::Node, what).losing(vec![lost.id]);
        finding
            .affected
            .push(Affected { point: self.label.clone(), path: describe_range(&lost.from, lost.to.as_deref()) });
        self.outcome.findings.push(finding);
        self.outcome.lost.push(LostRange { node: lost.id, from: lost.from, to: lost.to });
        // The node before the gap need not be the last of its level.
        self.ended.iter_mut().for_each(|ended| *ended = true);
        Ok(())
    }
}

/// A lost range for people: what stood there nobody can say any more.
pub fn describe_range(from: &[u8], to: Option<&[u8]>) -> String {
    let ino = |key: &[u8]| key.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
    match to.map(ino) {
        None if from.is_empty() || ino(from) == TREE_INO => "(the whole tree)".to_owned(),
        Some(to) if to == ino(from) => format!("(part of inode {to})"),
        Some(to) => format!("(inodes {} to {to})", ino(from)),
        None => format!("(inodes from {})", ino(from)),
    }
}
