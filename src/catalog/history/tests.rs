//! Random chains: what the tree walks say is what full listings of every point say. And what the walks cost.

use super::paths::ROOT;
use super::*;
use crate::catalog::tree::{Edit, MemoryNodes, ReadNodes, apply};
use proptest::prelude::*;
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, PointId, PointRecord, ROOT_INO, RepoId, SourceKind, Time,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a path is in the model: None is a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    ino: u64,
    content: Option<u8>,
    mode: u32,
}

/// A source as it changes.
#[derive(Debug, Clone)]
struct Source {
    things: BTreeMap<String, Thing>,
    next_ino: u64,
}

type Listing = BTreeMap<String, (Option<u8>, u32)>;

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

    fn put(&mut self, path: &str, content: Option<u8>) {
        if !self.is_dir(path.rsplit_once('/').map_or("", |(parent, _)| parent)) {
            return;
        }
        match self.things.get_mut(path) {
            Some(thing) if thing.content.is_some() == content.is_some() => thing.content = content,
            _ => {
                self.remove(path);
                self.things.insert(path.to_string(), Thing { ino: self.next_ino, content, mode: 0o644 });
                self.next_ino += 1;
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let inside = to == from || to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"));
        if inside
            || !self.things.contains_key(from)
            || !self.is_dir(to.rsplit_once('/').map_or("", |(parent, _)| parent))
        {
            return;
        }
        self.remove(to);
        let old = std::mem::take(&mut self.things);
        let moved = |path: String| match path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{to}{rest}"),
            _ => path,
        };
        self.things = old.into_iter().map(|(path, thing)| (moved(path), thing)).collect();
    }

    /// A chain that is begun anew: every inode has another number.
    fn renumber(&mut self) {
        self.next_ino = ROOT_INO + 1;
        for thing in self.things.values_mut().rev() {
            thing.ino = self.next_ino;
            self.next_ino += 1;
        }
    }

    fn listing(&self) -> Listing {
        self.things.iter().map(|(path, thing)| (path.clone(), (thing.content, thing.mode))).collect()
    }

    fn write(&self, nodes: &MemoryNodes) -> ChunkId {
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        entries.insert(Key::Inode(ROOT_INO).encode(), inode(0o040_755, 0, 0).encode());
        for (path, thing) in &self.things {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = self.things.get(parent).map_or(ROOT_INO, |thing| thing.ino);
            let kind = if thing.content.is_some() { FileKind::File } else { FileKind::Dir };
            entries.insert(Key::Dirent(parent, name.as_bytes()).encode(), Dirent { ino: thing.ino, kind }.encode());
            let size = thing.content.map_or(0, u64::from) * 10;
            let mode = if kind == FileKind::Dir { 0o040_111 } else { 0o100_000 } | thing.mode;
            entries.insert(Key::Inode(thing.ino).encode(), inode(mode, size, 7).encode());
            for at in 0..thing.content.unwrap_or(0) {
                let extent = Extent { chunk: ChunkId([at; 32]), skip: 0, len: 10 };
                entries.insert(Key::Extent(thing.ino, u64::from(at) * 10).encode(), extent.encode());
            }
        }
        let edits = entries.into_iter().map(|(key, value)| Ok((key, Edit::Put(value))));
        apply(nodes, None, edits, &mut &*nodes).unwrap()
    }
}

fn inode(mode: u32, size: u64, sec: i64) -> Inode {
    let time = Time { sec, nsec: 0 };
    Inode {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        mtime: time,
        ctime: time,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: size,
        source: None,
    }
}

fn point(index: usize, root: ChunkId) -> Arc<PointRecord> {
    let time = Time { sec: index as i64, nsec: 0 };
    Arc::new(PointRecord {
        repo: RepoId::default(),
        id: PointId([index as u8; 16]),
        time,
        sealed: time,
        root,
        next_ino: 2,
        kind: SourceKind::Dir,
        host: Vec::new(),
        source: Vec::new(),
        parent: None,
        counts: Counts::default(),
        paths: Vec::new(),
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: Vec::new(),
        extra: Vec::new(),
    })
}

/// Few names, so that steps meet: two or three levels of `a`, `b`, `c`.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

#[derive(Debug, Clone)]
enum Step {
    File(String, u8),
    Dir(String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Renumber,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (path(), 0..4_u8).prop_map(|(path, content)| Step::File(path, content)),
        4 => path().prop_map(Step::Dir),
        3 => path().prop_map(Step::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (path(), prop::sample::select(vec![0o600, 0o644])).prop_map(|(path, mode)| Step::Mode(path, mode)),
        1 => Just(Step::Renumber),
        5 => Just(Step::Seal),
    ]
}

fn run(steps: &[Step], nodes: &MemoryNodes) -> (Vec<Arc<PointRecord>>, Vec<Listing>) {
    let (mut source, mut chain, mut listings) = (Source::new(), Vec::new(), Vec::new());
    for step in steps.iter().chain([&Step::Seal]) {
        match step {
            Step::File(path, content) => source.put(path, Some(*content)),
            Step::Dir(path) => source.put(path, None),
            Step::Remove(path) => source.remove(path),
            Step::Rename(from, to) => source.rename(from, to),
            Step::Mode(path, mode) => drop(source.things.get_mut(path).map(|thing| thing.mode = *mode)),
            Step::Renumber => source.renumber(),
            Step::Seal => {
                chain.push(point(chain.len(), source.write(nodes)));
                listings.push(source.listing());
            }
        }
    }
    (chain, listings)
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn join(above: &str, name: &[u8]) -> String {
    let name = std::str::from_utf8(name).unwrap();
    if above.is_empty() { name.to_string() } else { format!("{above}/{name}") }
}

/// Path to the last point with it; and the directories on the way, that are still there.
type GoneThings = (BTreeMap<String, usize>, BTreeSet<String>);

fn gone_by_listing(listings: &[Listing]) -> GoneThings {
    let newest = listings.last().unwrap();
    let last: BTreeMap<&String, usize> =
        listings.iter().enumerate().flat_map(|(at, l)| l.keys().map(move |path| (path, at))).collect();
    let gone: BTreeMap<&String, usize> = last.into_iter().filter(|(path, _)| !newest.contains_key(*path)).collect();
    let is_dir = |path: &str| match gone.get(&path.to_string()) {
        Some(at) => listings[*at][path].0.is_none(),
        None => newest.contains_key(path),
    };
    let shown: BTreeMap<String, usize> =
        gone.iter().filter(|(path, _)| parents(path).all(is_dir)).map(|(path, at)| ((*path).clone(), *at)).collect();
    let on_the_way = shown.keys().flat_map(|path| parents(path)).filter(|path| newest.contains_key(*path));
    let on_the_way = on_the_way.map(str::to_string).collect();
    (shown, on_the_way)
}

fn gone_by_walk(nodes: &dyn ReadNodes, chain: &Chain) -> GoneThings {
    let index = GoneIndex::new(nodes, chain).unwrap();
    let mut out = GoneThings::default();
    let mut pending = vec![(String::new(), root_span(chain), false)];
    while let Some((path, spans, all)) = pending.pop() {
        let all = index.all_below(chain, &spans, all);
        for row in index.rows(nodes, chain, &spans, all).unwrap() {
            let below = child_spans(nodes, chain, &spans, &row.name).unwrap();
            assert_eq!(index.row(nodes, chain, &below, all).unwrap(), Some(row.gone), "{path} {row:?}");
            let path = join(&path, &row.name);
            match row.gone {
                Gone::Last(last, entry) => {
                    out.0.insert(path.clone(), last);
                    if entry.kind != FileKind::Dir {
                        continue;
                    }
                }
                Gone::Below => drop(out.1.insert(path.clone())),
            }
            let newest_is_file =
                below.last().is_some_and(|span| span.last + 1 == chain.len() && span.entry.kind != FileKind::Dir);
            pending.push((path, below, all || newest_is_file));
        }
    }
    out
}

/// Paths by side; of what was added or removed with all below it, everything.
fn differences_by_listing(old: &Listing, new: &Listing) -> BTreeMap<String, Difference> {
    let mut out = BTreeMap::new();
    for path in old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)) {
        let difference = match (old.get(path), new.get(path)) {
            (None, _) => Difference::Added,
            (_, None) => Difference::Removed,
            (Some((old, _)), Some((new, _))) if old.is_some() != new.is_some() => Difference::Replaced,
            (Some((old, _)), Some((new, _))) if old != new => Difference::Content,
            _ => Difference::Metadata,
        };
        out.insert(path.clone(), difference);
    }
    // What lies below something added, removed or replaced is not said again.
    let whole =
        |path: &str| matches!(out.get(path), Some(Difference::Added | Difference::Removed | Difference::Replaced));
    let inside: Vec<String> = out.keys().filter(|path| parents(path).any(whole)).cloned().collect();
    out.retain(|path, _| !inside.contains(path));
    out
}

fn differences_by_walk(nodes: &dyn ReadNodes, old: &PointRecord, new: &PointRecord) -> BTreeMap<String, Difference> {
    let comparison = Comparison::new(nodes, old.root, new.root).unwrap();
    let mut out = BTreeMap::new();
    let mut pending = vec![(String::new(), ROOT_INO, ROOT_INO)];
    let mut sides = BTreeSet::new();
    while let Some((path, old, new)) = pending.pop() {
        for row in comparison.rows(nodes, old, new).unwrap() {
            let path = join(&path, &row.name);
            if row.difference != Difference::Below {
                out.insert(path.clone(), row.difference);
                sides.extend([Side::Added, Side::Removed, Side::Changed].into_iter().filter(|side| row.is_of(*side)));
            }
            if row.goes_down() {
                pending.push((path, row.old.unwrap().ino, row.new.unwrap().ino));
            }
        }
    }
    for side in [Side::Added, Side::Removed, Side::Changed] {
        assert_eq!(comparison.any(nodes, side, ROOT_INO, ROOT_INO).unwrap(), sides.contains(&side), "{side:?}");
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn walks_and_listings_agree(steps in prop::collection::vec(step(), 0..60)) {
        let nodes = MemoryNodes::new();
        let (chain, listings) = run(&steps, &nodes);
        let paths: BTreeSet<&String> = listings.iter().flat_map(BTreeMap::keys).collect();
        for path in &paths {
            let mut contents: Vec<(u8, usize, usize, usize)> = Vec::new();
            for (at, listing) in listings.iter().enumerate() {
                let Some((Some(content), _)) = listing.get(*path) else { continue };
                match contents.iter_mut().find(|known| known.0 == *content) {
                    Some(known) => (known.2, known.3) = (at, known.3 + 1),
                    None => contents.push((*content, at, at, 1)),
                }
            }
            let spans = path_spans(&nodes, &chain, path.as_bytes()).unwrap();
            let found: Vec<_> = versions(&nodes, &chain, &spans).unwrap().iter().map(|v| ((v.size / 10) as u8, v.first, v.last, v.points)).collect();
            prop_assert_eq!(found, contents, "{}", path);
            let names: Vec<String> = ever_names(&nodes, &chain, &spans).unwrap().keys().map(|name| join(path, name)).collect();
            let below = format!("{path}/");
            let expected: Vec<String> = paths.iter().filter(|p| p.strip_prefix(below.as_str()).is_some_and(|rest| !rest.contains('/'))).map(|p| (*p).clone()).collect();
            prop_assert_eq!(names, expected);
        }
        prop_assert_eq!(gone_by_walk(&nodes, &chain), gone_by_listing(&listings));
        for (old, new) in (0..chain.len()).flat_map(|a| (0..chain.len()).map(move |b| (a, b))) {
            let expected = differences_by_listing(&listings[old], &listings[new]);
            prop_assert_eq!(differences_by_walk(&nodes, &chain[old], &chain[new]), expected, "{} to {}", old, new);
        }
    }
}

/// 100 points of a source of 20,000 files; in each, another file changes; `hot` changes in ten of them.
#[test]
fn versions_read_in_proportion_to_what_changed() {
    let nodes = MemoryNodes::new();
    let mut source = Source::new();
    (0..40).for_each(|dir| source.put(&format!("d{dir:02}"), None));
    (0..20_000).for_each(|file| source.put(&format!("d{:02}/f{file:05}", file % 40), Some(1)));
    source.put("d20/hot", Some(1));
    let mut chain = Vec::new();
    for index in 0..100_usize {
        source.put(&format!("d{:02}/f{:05}", index * 200 % 40, index * 200), Some(2));
        if index % 10 == 5 {
            source.put("d20/hot", Some((index / 10) as u8 + 2));
        }
        chain.push(point(index, source.write(&nodes)));
    }
    nodes.reset_counts();
    let spans = path_spans(&nodes, &chain, b"d20/hot").unwrap();
    let found = versions(&nodes, &chain, &spans).unwrap();
    assert_eq!(found.iter().map(|v| v.first).collect::<Vec<_>>(), [0, 5, 15, 25, 35, 45, 55, 65, 75, 85, 95]);
    let mut whole = Whole(0);
    crate::catalog::tree::walk_nodes(&nodes, &chain[0].root, &mut whole).unwrap();
    let reads = nodes.reads() - whole.0;
    // Twice a point, for the path and for the file, the root and the inner node that changed; and ten leaves.
    assert!(whole.0 > 100 && reads < 100 * 2 * 2 + 10 * 2 + 20, "{reads} reads, {} nodes in one point", whole.0);
    assert_eq!(path_spans(&nodes, &chain, b"").unwrap(), [Span { first: 0, last: 99, entry: ROOT }]);
}

struct Whole(u64);

impl crate::catalog::tree::NodeVisitor for Whole {
    fn enter(&mut self, _: &ChunkId) -> crate::Result<bool> {
        self.0 += 1;
        Ok(true)
    }

    fn node(&mut self, _: &ChunkId, _: &crate::catalog::tree::NodeRef) -> crate::Result<()> {
        Ok(())
    }

    fn lost(&mut self, lost: crate::catalog::tree::Lost) -> crate::Result<()> {
        Err(lost.error)
    }
}
