//! Random chains: a thinned point's root is that of a tree made from nothing but what the plain rule keeps.

use super::*;
use crate::catalog::tree::MemoryNodes;
use proptest::prelude::*;
use repo_format::{Dirent, Extent, FileKind, Inode, Key, PointId, ROOT_INO, RepoId, SourceIdentity, SourceKind, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a path is: None is a directory. Two paths of one number are hard links.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    ino: u64,
    content: Option<u8>,
}

#[derive(Debug, Clone)]
struct Source {
    things: BTreeMap<String, Thing>,
    next_ino: u64,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Source {
    fn new() -> Self {
        Self { things: BTreeMap::new(), next_ino: ROOT_INO + 1 }
    }

    fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.things.get(path).is_some_and(|thing| thing.content.is_none())
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.things.retain(|at, _| at != path && !at.starts_with(&below));
    }

    fn create(&mut self, path: &str, content: Option<u8>) {
        if self.is_dir(parent(path)) {
            self.remove(path);
            self.things.insert(path.into(), Thing { ino: self.next_ino, content });
            self.next_ino += 1;
        }
    }

    /// In place, for all names.
    fn write(&mut self, path: &str, content: u8) {
        match self.things.get(path).filter(|thing| thing.content.is_some()).map(|thing| thing.ino) {
            Some(ino) => self.things.values_mut().filter(|t| t.ino == ino).for_each(|t| t.content = Some(content)),
            None => self.create(path, Some(content)),
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let inside = to == from || to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"));
        if inside || !self.things.contains_key(from) || !self.is_dir(parent(to)) {
            return;
        }
        self.remove(to);
        let moved = |path: String| match path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{to}{rest}"),
            _ => path,
        };
        self.things = std::mem::take(&mut self.things).into_iter().map(|(path, thing)| (moved(path), thing)).collect();
    }

    fn link(&mut self, from: &str, to: &str) {
        let Some(thing) = self.things.get(from).filter(|thing| thing.content.is_some()).cloned() else { return };
        if !self.things.contains_key(to) && self.is_dir(parent(to)) {
            self.things.insert(to.into(), thing);
        }
    }

    /// A chain that is begun anew: every inode has another number.
    fn renumber(&mut self) {
        let mut new = BTreeMap::new();
        for thing in self.things.values_mut().rev() {
            thing.ino = *new.entry(thing.ino).or_insert_with(|| {
                self.next_ino += 1;
                self.next_ino - 1
            });
        }
    }

    fn files(&self) -> BTreeMap<String, u8> {
        self.things.iter().filter_map(|(path, thing)| Some((path.clone(), thing.content?))).collect()
    }

    /// Only these files, and no directory that became empty by it.
    fn thinned(&self, keep: &BTreeSet<String>) -> Self {
        let mut out = self.clone();
        out.things.retain(|path, thing| thing.content.is_none() || keep.contains(path));
        loop {
            let used = |source: &Self, dir: &str| source.things.keys().any(|path| parent(path) == dir);
            let emptied: Vec<String> = out
                .things
                .keys()
                .filter(|path| out.is_dir(path) && !used(&out, path) && used(self, path))
                .cloned()
                .collect();
            if emptied.is_empty() {
                return out;
            }
            emptied.iter().for_each(|path| out.remove(path));
        }
    }

    fn names(&self, ino: u64) -> u32 {
        self.things.values().filter(|thing| thing.ino == ino).count() as u32
    }

    fn subdirs(&self, dir: &str) -> u32 {
        self.things.iter().filter(|(path, t)| t.content.is_none() && parent(path) == dir).count() as u32
    }

    fn counts(&self) -> Counts {
        let files: BTreeMap<u64, u8> = self.things.values().filter_map(|t| Some((t.ino, t.content?))).collect();
        let dirs = self.things.values().filter(|t| t.content.is_none()).count() as u64 + 1;
        let bytes = files.values().map(|content| u64::from(*content) * 10).sum();
        Counts { files: files.len() as u64, dirs, bytes, ..Counts::default() }
    }

    fn tree(&self, nodes: &MemoryNodes) -> ChunkId {
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        entries.insert(Key::Inode(ROOT_INO).encode(), inode(ROOT_INO, None, 2 + self.subdirs("")).encode());
        for (path, thing) in &self.things {
            let name = path.rsplit('/').next().unwrap();
            let above = self.things.get(parent(path)).map_or(ROOT_INO, |thing| thing.ino);
            let kind = if thing.content.is_some() { FileKind::File } else { FileKind::Dir };
            entries.insert(Key::Dirent(above, name.as_bytes()).encode(), Dirent { ino: thing.ino, kind }.encode());
            let links = if kind == FileKind::Dir { 2 + self.subdirs(path) } else { self.names(thing.ino) };
            entries.insert(Key::Inode(thing.ino).encode(), inode(thing.ino, thing.content, links).encode());
            entries.insert(Key::Xattr(thing.ino, b"user.x").encode(), b"x".to_vec());
            entries.insert(Key::SourceIno(0, thing.ino + 1000).encode(), Value::SourceIno(thing.ino).encode());
            for at in 0..thing.content.unwrap_or(0) {
                let extent = Extent { chunk: ChunkId([at; 32]), skip: 0, len: 10 };
                entries.insert(Key::Extent(thing.ino, u64::from(at) * 10).encode(), extent.encode());
            }
        }
        apply(nodes, None, entries.into_iter().map(|(key, value)| Ok((key, Edit::Put(value)))), &mut &*nodes).unwrap()
    }
}

fn inode(ino: u64, content: Option<u8>, nlink: u32) -> Inode {
    let (time, size) = (Time::default(), u64::from(content.unwrap_or(0)) * 10);
    Inode {
        mode: if content.is_some() { 0o100_644 } else { 0o040_755 },
        uid: 0,
        gid: 0,
        nlink,
        size,
        mtime: time,
        ctime: time,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: size,
        source: (ino != ROOT_INO).then_some(SourceIdentity { fs: 0, ino: ino + 1000, generation: 0 }),
    }
}

const DAY: i64 = 86_400;

fn member(index: usize, source: &Source, nodes: &MemoryNodes, whole: bool) -> Member {
    let time = Time { sec: index as i64 * DAY, nsec: 0 };
    let point = PointRecord {
        repo: RepoId::default(),
        id: PointId([index as u8; 16]),
        time,
        sealed: time,
        root: source.tree(nodes),
        next_ino: source.next_ino,
        kind: SourceKind::Dir,
        host: Vec::new(),
        source: Vec::new(),
        parent: None,
        counts: source.counts(),
        paths: Vec::new(),
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: Vec::new(),
        extra: vec![(0x8001, vec![1])],
    };
    Member { point, whole }
}

/// The rule as one would say it: files of each point that stay, contents that are gone, files that lost one.
fn plain(points: &[Source], whole: &[bool], most: Option<u32>, days: Option<i64>) -> (Vec<BTreeSet<String>>, u64, u64) {
    let files: Vec<BTreeMap<String, u8>> = points.iter().map(Source::files).collect();
    let paths: BTreeSet<&String> = files.iter().flat_map(BTreeMap::keys).collect();
    let mut keep: Vec<BTreeSet<String>> = vec![BTreeSet::new(); points.len()];
    let (mut gone, mut hurt) = (0, 0);
    for path in paths {
        let last = files.iter().rposition(|files| files.contains_key(path)).unwrap();
        let since = last as i64 + 1;
        let newest = points.len() as i64 - 1;
        let expired = since <= newest && days.is_some_and(|days| since + days <= newest);
        let mut contents: Vec<u8> = Vec::new();
        for content in files.iter().rev().filter_map(|files| files.get(path)) {
            if !contents.contains(content) {
                contents.push(*content);
            }
        }
        let stay = if expired { 0 } else { most.map_or(usize::MAX, |most| most as usize) };
        let staying: Vec<u8> = contents.iter().copied().take(stay).collect();
        let mut loses = false;
        for content in &contents {
            let with: Vec<usize> = (0..points.len()).filter(|at| files[*at].get(path) == Some(content)).collect();
            let left: Vec<usize> = with.iter().copied().filter(|at| staying.contains(content) || whole[*at]).collect();
            left.iter().for_each(|at| _ = keep[*at].insert(path.clone()));
            loses |= left.len() < with.len();
            gone += u64::from(left.is_empty());
        }
        hurt += u64::from(loses);
    }
    (keep, gone, hurt)
}

fn agree(points: &[Source], whole: &[bool], most: Option<u32>, days: Option<i64>) {
    let nodes = MemoryNodes::new();
    let chain: Vec<Member> =
        points.iter().enumerate().map(|(index, source)| member(index, source, &nodes, whole[index])).collect();
    let (keep, gone, hurt) = plain(points, whole, most, days);
    let want: Vec<Source> = points.iter().zip(&keep).map(|(source, keep)| source.thinned(keep)).collect();
    let rule = VersionRule { most, deleted_for: days.map(|days| format!("{days}d").parse().unwrap()) };
    let stop = AtomicBool::new(false);
    let plan = plan(&nodes, chain.clone(), rule, &stop).unwrap();
    assert_eq!((plan.versions, plan.files), (gone, hurt));
    let names: Vec<u64> =
        points.iter().zip(&keep).map(|(source, keep)| (source.files().len() - keep.len()) as u64).collect();
    assert_eq!(plan.names, names);
    let emptied: Vec<bool> = (0..points.len()).map(|index| names[index] > 0 && keep[index].is_empty()).collect();
    assert_eq!(plan.emptied, if points.len() > 1 { emptied.clone() } else { Vec::new() });
    let lost = |index: usize| {
        let kept = &keep[index];
        points[index].files().into_iter().filter(move |(path, _)| !kept.contains(path))
    };
    let raw: Vec<u64> = (0..points.len()).map(|index| lost(index).map(|(_, c)| u64::from(c) * 10).sum()).collect();
    assert_eq!(plan.raw_bytes, raw);
    let mut found: BTreeMap<usize, (ChunkId, Counts)> = BTreeMap::new();
    let made = |thinner: Thinner| {
        found.insert(thinner.member, (thinner.root, thinner.counts));
        Ok(())
    };
    plan.trees(&nodes, &mut &nodes, &stop, made).unwrap();
    for (index, want) in want.iter().enumerate() {
        if emptied[index] {
            assert!(!found.contains_key(&index), "point {index} has no file left");
            continue;
        }
        let same = (chain[index].point.root, chain[index].point.counts);
        let (root, counts) = found.get(&index).copied().unwrap_or(same);
        assert_eq!(counts, want.counts(), "counts of point {index}");
        assert_eq!(root, want.tree(&nodes), "point {index}");
        assert_eq!(found.contains_key(&index), names[index] > 0);
    }
    // What is thinned is thin: the same rule takes nothing more.
    let again: Vec<Member> = want.iter().enumerate().map(|(i, s)| member(i, s, &nodes, whole[i])).collect();
    let second = super::plan(&nodes, again, rule, &stop).unwrap();
    assert!(second.is_empty(), "a second time");
}

#[derive(Debug, Clone)]
enum Step {
    Write(String, u8),
    Create(String, Option<u8>),
    Remove(String),
    Rename(String, String),
    Link(String, String),
    Renumber,
    Seal,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (path(), 0..4_u8).prop_map(|(path, content)| Step::Write(path, content)),
        4 => (path(), prop::option::of(0..4_u8)).prop_map(|(path, content)| Step::Create(path, content)),
        3 => path().prop_map(Step::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => Just(Step::Renumber),
        6 => Just(Step::Seal),
    ]
}

fn sealed(steps: &[Step]) -> Vec<Source> {
    let (mut source, mut points) = (Source::new(), Vec::new());
    for step in steps {
        match step {
            Step::Write(path, content) => source.write(path, *content),
            Step::Create(path, content) => source.create(path, *content),
            Step::Remove(path) => source.remove(path),
            Step::Rename(from, to) => source.rename(from, to),
            Step::Link(from, to) => source.link(from, to),
            Step::Renumber => source.renumber(),
            Step::Seal => points.push(source.clone()),
        }
    }
    points.push(source);
    points
}

proptest! {
    #[test]
    fn thinned_trees_are_those_of_what_the_rule_keeps(
        steps in prop::collection::vec(step(), 4..60),
        whole in prop::collection::vec(prop::bool::weighted(0.2), 64),
        most in prop::option::of(1..4_u32),
        days in prop::option::of(1..6_i64),
    ) {
        agree(&sealed(&steps), &whole, most, days);
    }
}

/// Files of a chain whose contents are given by letters, one a point; a dot is no file.
fn story(contents: &str, whole: &str, most: Option<u32>, days: Option<i64>) {
    let mut source = Source::new();
    source.create("d", None);
    let points: Vec<Source> = contents
        .bytes()
        .map(|content| {
            if content == b'.' {
                source.remove("d/f")
            } else {
                source.write("d/f", content - b'a')
            }
            source.clone()
        })
        .collect();
    let whole: Vec<bool> = whole.bytes().map(|byte| byte == b'w').collect();
    agree(&points, &whole, most, days);
}

#[test]
fn stories_of_one_file() {
    story("abcd", "----", Some(2), None);
    story("abcd", "w---", Some(2), None);
    story("aabba", "-----", Some(1), None);
    story("ab..", "----", Some(1), None);
    story("ab....", "------", Some(1), Some(3));
    story("ab....", "------", Some(1), Some(30));
    story("a.b.", "----", None, Some(1));
    story("a", "-", Some(1), Some(1));
}

/// Work follows what changed, not what there is.
#[test]
fn a_chain_costs_its_newest_point_and_its_changes() {
    let nodes = MemoryNodes::new();
    let mut source = Source::new();
    for dir in 0..40 {
        source.create(&format!("d{dir}"), None);
        (0..100).for_each(|file| source.create(&format!("d{dir}/f{file}"), Some(3)));
    }
    let mut chain = Vec::new();
    for day in 0..12 {
        source.write("d7/f7", day % 4);
        chain.push(member(usize::from(day), &source, &nodes, false));
    }
    let stop = AtomicBool::new(false);
    let whole = nodes.len() as u64;
    nodes.reset_counts();
    let rule = VersionRule { most: Some(2), deleted_for: None };
    let plan = plan(&nodes, chain, rule, &stop).unwrap();
    assert_eq!((plan.versions, plan.files), (2, 1));
    // One tree has about 60 nodes; a difference of two reads a path in each, four times for each of 11 pairs.
    assert!(nodes.reads() < 1200, "{} reads, {whole} nodes", nodes.reads());
    nodes.reset_counts();
    plan.trees(&nodes, &mut &nodes, &stop, |_| Ok(())).unwrap();
    assert!(nodes.writes() < 60, "{} nodes written for 6 points", nodes.writes());
}

/// Nothing may be applied to a thinned point, and it says what it replaces.
#[test]
fn a_thinned_record_holds_no_state_and_names_the_record_before() {
    let nodes = MemoryNodes::new();
    let before = member(3, &Source::new(), &nodes, false).point;
    let thinner = Thinner { member: 0, root: ChunkId([9; 32]), counts: Counts::default(), names: 4 };
    let once = record::thinned(&before, ChunkId([1; 32]), &thinner, Time::default());
    assert_eq!(Thinned::of(&once), Some(Thinned { replaces: ChunkId([1; 32]), names: 4 }));
    assert_eq!((once.id, once.root, once.extra.len()), (before.id, ChunkId([9; 32]), 1));
    assert!(once.sealed > before.sealed, "the later of two records counts, whatever the clock says");
    let twice = record::thinned(&once, ChunkId([2; 32]), &thinner, Time { sec: i64::MAX - 1, nsec: 0 });
    assert_eq!(Thinned::of(&twice), Some(Thinned { replaces: ChunkId([2; 32]), names: 8 }));
    assert_eq!(Thinned::of(&PointRecord::decode(&twice.encode()).unwrap()), Thinned::of(&twice));
    assert_eq!(Thinned::of(&before), None);
}
