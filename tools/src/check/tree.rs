//! Check of one restore point's tree: every node, every entry, and that the entries agree with each other.

use super::finding::{Finding, Kind};
use relict::Result;
use relict::catalog::tree::{Lost, NodeVisitor, walk_nodes};
use relict::store::{NodeRef, Repository};
use repo_format::{ChunkId, Dirent, Extent, FileKind, Inode, Key, PointRecord, ROOT_INO};
use std::collections::{HashMap, HashSet};

/// What repeated entries of a tree say of one inode.
#[derive(Default)]
struct Seen {
    kind: Option<FileKind>,
    nlink: u32,
    /// Names that stand for it, and of these the first parent.
    names: u32,
    parent: u64,
    subdirs: u32,
    has_target: bool,
    size: u64,
    data_bytes: u64,
    covered: u64,
    extents_end: u64,
}

/// Walks one tree. Chunks known to be stored are shared between the points of one check.
pub struct TreeCheck<'a> {
    repository: &'a Repository,
    point: &'a PointRecord,
    label: String,
    present: &'a mut HashSet<ChunkId>,
    seen: HashMap<u64, Seen>,
    /// Problems: how many, and the first few in words.
    wrong: Vec<String>,
    wrong_count: u64,
    missing: HashMap<ChunkId, u64>,
    pub findings: Vec<Finding>,
    lost_nodes: bool,
    pub entries: u64,
}

const WRONG_SHOWN: usize = 5;

impl<'a> TreeCheck<'a> {
    pub fn new(repository: &'a Repository, point: &'a PointRecord, label: String, present: &'a mut HashSet<ChunkId>) -> Self {
        Self {
            repository,
            point,
            label,
            present,
            seen: HashMap::new(),
            wrong: Vec::new(),
            wrong_count: 0,
            missing: HashMap::new(),
            findings: Vec::new(),
            lost_nodes: false,
            entries: 0,
        }
    }

    /// Walks the tree and judges it.
    pub fn run(mut self) -> Result<(Vec<Finding>, u64)> {
        walk_nodes(self.repository, &self.point.root, &mut self)?;
        // With nodes missing, what is left cannot agree; the nodes are reported already.
        if !self.lost_nodes {
            self.judge();
        }
        if self.wrong_count > 0 {
            let more = self.wrong_count.saturating_sub(self.wrong.len() as u64);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let what = format!("{}: {}{more}", self.label, self.wrong.join("; "));
            self.findings.push(Finding::new(Kind::Tree, what));
        }
        if !self.missing.is_empty() {
            let what = format!("{}: {} chunks of its files are not stored", self.label, self.missing.len());
            self.findings.push(Finding::new(Kind::ChunkMissing, what).losing(self.missing.into_keys().collect()));
        }
        Ok((self.findings, self.entries))
    }

    fn problem(&mut self, what: impl FnOnce() -> String) {
        self.wrong_count += 1;
        if self.wrong.len() < WRONG_SHOWN {
            self.wrong.push(what());
        }
    }

    fn entry(&mut self, key: &[u8], value: &[u8], chunks: &mut Vec<ChunkId>) {
        let Ok(key) = Key::decode(key) else {
            return self.problem(|| "a key is not valid".into());
        };
        let ino = key.ino();
        if ino >= self.point.next_ino {
            self.problem(|| format!("inode {ino} was never allotted"));
        }
        let seen = self.seen.entry(ino).or_default();
        match key {
            Key::Inode(_) => match Inode::decode(value) {
                Ok(i) => {
                    (seen.kind, seen.nlink, seen.size, seen.data_bytes) = (Some(i.kind()), i.nlink, i.size, i.data_bytes);
                }
                Err(e) => self.problem(|| format!("inode {ino}: {e}")),
            },
            Key::Dirent(..) => match Dirent::decode(value) {
                Ok(d) => self.name(ino, d),
                Err(e) => self.problem(|| format!("directory {ino}: {e}")),
            },
            Key::Extent(_, offset) => match Extent::decode(value) {
                Ok(e) => self.extent(ino, offset, &e, chunks),
                Err(e) => self.problem(|| format!("file {ino}: {e}")),
            },
            Key::Target(_) => seen.has_target = !value.is_empty(),
            Key::Xattr(..) if value.len() > repo_format::MAX_XATTR_BYTES => self.problem(|| format!("inode {ino}: an attribute is too long")),
            Key::Xattr(..) => {}
            Key::SourceIno(..) if value.len() != 8 => self.problem(|| "a source inode entry has a wrong length".into()),
            Key::SourceIno(..) => {}
        }
    }

    fn name(&mut self, parent: u64, dirent: Dirent) {
        if dirent.kind == FileKind::Dir {
            self.seen.entry(parent).or_default().subdirs += 1;
        }
        let child = self.seen.entry(dirent.ino).or_default();
        child.names += 1;
        child.parent = parent;
        // Children may stand before their parents; the kinds are compared when both are known.
        let differs = child.kind.is_some_and(|kind| kind != dirent.kind);
        if differs || (child.names > 1 && dirent.kind == FileKind::Dir) {
            self.problem(|| format!("directory {parent} names inode {} as what it is not", dirent.ino));
        }
    }

    fn extent(&mut self, ino: u64, offset: u64, extent: &Extent, chunks: &mut Vec<ChunkId>) {
        let len = u64::from(extent.len);
        let seen = self.seen.entry(ino).or_default();
        let overlaps = offset < seen.extents_end;
        let end = offset.checked_add(len);
        seen.covered += len;
        seen.extents_end = end.unwrap_or(u64::MAX);
        if overlaps || end.is_none() {
            self.problem(|| format!("file {ino}: extents overlap at {offset}"));
        }
        chunks.push(extent.chunk);
        // A slice must lie inside its chunk.
        if let Ok(Some(at)) = self.repository.locate(&extent.chunk)
            && extent.skip.checked_add(extent.len).is_none_or(|end| end > at.len)
        {
            self.problem(|| format!("file {ino}: the extent at {offset} reaches past its chunk"));
        }
    }

    fn judge(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        if seen.get(&ROOT_INO).is_none_or(|root| root.kind != Some(FileKind::Dir)) {
            self.problem(|| "the root directory is missing".into());
        }
        for (ino, s) in &seen {
            if *ino == repo_format::TREE_INO {
                continue;
            }
            if let Some(what) = judge_inode(*ino, s, &seen) {
                self.problem(|| format!("inode {ino}: {what}"));
            }
        }
    }
}

fn judge_inode(ino: u64, s: &Seen, all: &HashMap<u64, Seen>) -> Option<String> {
    let Some(kind) = s.kind else { return Some("it is named but has no attributes".into()) };
    if (s.names == 0) != (ino == ROOT_INO) {
        return Some("no directory names it".into());
    }
    let links = if kind == FileKind::Dir { 2 + s.subdirs } else { s.names };
    if s.nlink != links {
        return Some(format!("it counts {} links and has {links}", s.nlink));
    }
    if kind == FileKind::File && (s.covered != s.data_bytes || s.extents_end > s.size) {
        return Some(format!("its extents cover {} bytes up to {}, its attributes say {} of {}", s.covered, s.extents_end, s.data_bytes, s.size));
    }
    if kind != FileKind::File && s.covered > 0 || s.has_target != (kind == FileKind::Symlink) || (kind != FileKind::Dir && s.subdirs > 0) {
        return Some("it has entries of another type".into());
    }
    // A cycle of directories would never reach the root; the bound is the number of inodes.
    let mut at = ino;
    for _ in 0..=all.len() {
        if at == ROOT_INO {
            return None;
        }
        at = all.get(&at)?.parent;
    }
    Some("its directories form a circle".into())
}

impl NodeVisitor for TreeCheck<'_> {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() > 0 {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for index in 0..node.len() {
            self.entries += 1;
            match node.entry(index) {
                Some((key, value)) => self.entry(key, value, &mut chunks),
                None => self.problem(|| "a node has a hole".into()),
            }
        }
        chunks.retain(|id| !self.present.contains(id));
        for (id, at) in chunks.iter().zip(self.repository.index().locate_many(&chunks)?) {
            match at {
                Some(_) => {
                    self.present.insert(*id);
                }
                None => *self.missing.entry(*id).or_default() += 1,
            }
        }
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Result<()> {
        self.lost_nodes = true;
        let entries = lost.entries.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let what = format!("{}: a tree node with {entries} entries cannot be read: {}", self.label, lost.error);
        let mut finding = Finding::new(Kind::Node, what).losing(vec![lost.id]);
        finding.affected.push((self.label.clone(), describe_range(&lost.from, lost.to.as_deref())));
        self.findings.push(finding);
        Ok(())
    }
}

fn describe_range(from: &[u8], to: Option<&[u8]>) -> String {
    let ino = |key: &[u8]| key.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
    match to.map(ino) {
        Some(to) if to == ino(from) => format!("(part of inode {to})"),
        Some(to) => format!("(inodes {} to {to})", ino(from)),
        None => format!("(inodes from {})", ino(from)),
    }
}
