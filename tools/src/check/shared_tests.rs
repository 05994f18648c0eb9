//! What many trees share is read once, and who says that a tree is sound says what the walk of all of it says.

use super::super::tree::TreeCheck;
use super::*;
use proptest::prelude::*;
use relict::catalog::tree::{Edit, MemoryNodes, WriteNodes, apply};
use relict::store::Location;
use repo_format::{Counts, NodeWriter, PointId, RepoId, SourceKind, Time};
use std::collections::BTreeMap;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

const CHUNK: u32 = 10;
const CHUNKS: u8 = 5;

fn table() -> ChunkTable {
    let at = Location { package: 1, offset: 0, segment_bytes: 0, skip: 0, len: CHUNK };
    ChunkTable::made_of((0..CHUNKS).map(|n| (ChunkId([n; 32]), at)))
}

fn inode(kind: FileKind, nlink: u32, size: u64) -> Vec<u8> {
    let mode = match kind {
        FileKind::Dir => 0o040_755,
        FileKind::Symlink => 0o120_777,
        _ => 0o100_644,
    };
    let (mtime, ctime, data_bytes) = (Time::default(), Time::default(), if kind == FileKind::File { size } else { 0 });
    let (btime, rdev, source) = (None, None, None);
    Inode { mode, uid: 0, gid: 0, nlink, size, mtime, ctime, btime, rdev, flags: 0, data_bytes, source }.encode()
}

fn name(parent: u64, name: &str, ino: u64, kind: FileKind) -> (Vec<u8>, Vec<u8>) {
    (Key::Dirent(parent, name.as_bytes()).encode(), Dirent { ino, kind }.encode())
}

fn extent(ino: u64, offset: u64, chunk: u8) -> (Vec<u8>, Vec<u8>) {
    let extent = Extent { chunk: ChunkId([chunk; 32]), skip: 0, len: CHUNK };
    (Key::Extent(ino, offset).encode(), extent.encode())
}

/// Directories `2..2 + dirs`, each in the one with half its number, and in each files of three extents, a link, and a hard
/// link. Gives the next inode, too.
fn source(dirs: u64, files: u64) -> (Entries, u64) {
    let (mut out, mut next) = (Entries::new(), 2 + dirs);
    let above = |dir: u64| if dir < 4 { ROOT_INO } else { dir / 2 };
    for dir in std::iter::once(ROOT_INO).chain(2..2 + dirs) {
        let subdirs = (2..2 + dirs).filter(|child| above(*child) == dir).count() as u32;
        out.insert(Key::Inode(dir).encode(), inode(FileKind::Dir, 2 + subdirs, 0));
        if dir != ROOT_INO {
            out.extend([name(above(dir), &format!("directory {dir}"), dir, FileKind::Dir)]);
        }
        for file in 0..files {
            let (links, size) = (if file == 0 { 2 } else { 1 }, 3 * u64::from(CHUNK));
            out.insert(Key::Inode(next).encode(), inode(FileKind::File, links, size));
            out.extend((0..3).map(|n| extent(next, n * u64::from(CHUNK), (n + file) as u8 % CHUNKS)));
            out.extend([name(dir, &format!("a file with a rather long name {file}"), next, FileKind::File)]);
            out.extend((file == 0).then(|| name(ROOT_INO, &format!("hard link {next}"), next, FileKind::File)));
            next += 1;
        }
        out.insert(Key::Inode(next).encode(), inode(FileKind::Symlink, 1, 4));
        out.insert(Key::Target(next).encode(), b"else".to_vec());
        out.extend([name(dir, "symbolic link", next, FileKind::Symlink)]);
        next += 1;
    }
    (out, next)
}

fn point(root: ChunkId, next_ino: u64) -> PointRecord {
    PointRecord {
        repo: RepoId::default(),
        id: PointId::default(),
        time: Time::default(),
        sealed: Time::default(),
        root,
        next_ino,
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
    }
}

fn tree(nodes: &MemoryNodes, entries: &Entries) -> ChunkId {
    let edits = entries.iter().map(|(key, value)| Ok((key.clone(), Edit::Put(value.clone()))));
    apply(nodes, None, edits, &mut &*nodes).unwrap()
}

fn change(nodes: &MemoryNodes, root: &ChunkId, mut edits: Vec<(Vec<u8>, Edit)>) -> ChunkId {
    edits.sort_by(|a, b| a.0.cmp(&b.0));
    apply(nodes, Some(root), edits.into_iter().map(Ok), &mut &*nodes).unwrap()
}

/// Whether each tree is sound, as both say.
fn judged(nodes: &MemoryNodes, points: &[PointRecord]) -> Vec<bool> {
    let (table, stop) = (table(), AtomicBool::new(false));
    let walked: Vec<Option<u64>> = points
        .iter()
        .map(|point| {
            let report = TreeCheck::new(nodes, &table, point, "tree".into()).run().unwrap();
            report.findings.is_empty().then_some(report.entries)
        })
        .collect();
    assert_eq!(SharedCheck::new(nodes, &table, &stop).run(points, 2), walked);
    walked.iter().map(Option::is_some).collect()
}

#[test]
fn a_hundred_similar_trees_cost_their_distinct_nodes() {
    let nodes = MemoryNodes::new();
    let (entries, mut next) = source(100, 100);
    let mut points = vec![point(tree(&nodes, &entries), next)];
    let of_one = nodes.len() as u64;
    for n in 1..100_u64 {
        // One file in place, and a new directory: the sums and the circles go on from the tree before.
        let (key, value) = extent(2000 + n * 3, 0, (n % 5) as u8);
        let links = 2 + 2 + n as u32;
        let (dirent, named) = name(ROOT_INO, &format!("new {n}"), next, FileKind::Dir);
        let edits = vec![
            (dirent, Edit::Put(named)),
            (Key::Inode(next).encode(), Edit::Put(inode(FileKind::Dir, 2, 0))),
            (Key::Inode(ROOT_INO).encode(), Edit::Put(inode(FileKind::Dir, links, 0))),
        ];
        let edits = if entries.contains_key(&key) { [edits, vec![(key, Edit::Put(value))]].concat() } else { edits };
        next += 1;
        points.push(point(change(&nodes, &points[points.len() - 1].root, edits), next));
    }
    let (table, stop, distinct) = (table(), AtomicBool::new(false), nodes.len() as u64);
    nodes.reset_counts();
    let sound = SharedCheck::new(&nodes, &table, &stop).run(&points, 1);
    assert!(sound.iter().all(Option::is_some), "{sound:?}");
    println!("{} reads, {distinct} distinct nodes, {of_one} in the first of 100 trees", nodes.reads());
    // Each node, each root once more, and two paths of nodes for what differs from the tree before.
    assert!(nodes.reads() < 3 * distinct + 400, "{} reads of {distinct} nodes", nodes.reads());
    assert!(nodes.reads() * 10 < 100 * of_one, "{} reads, {of_one} nodes in one tree", nodes.reads());
    nodes.reset_counts();
    let same: Vec<PointRecord> = (0..100).map(|_| points[0].clone()).collect();
    assert!(SharedCheck::new(&nodes, &table, &stop).run(&same, 1).iter().all(Option::is_some));
    assert!(nodes.reads() <= of_one + 1, "{} reads of {of_one} nodes", nodes.reads());
}

#[test]
fn directories_in_a_circle_are_seen_by_nothing_but_following_them() {
    let nodes = MemoryNodes::new();
    let (entries, next) = source(7, 3);
    let sound = tree(&nodes, &entries);
    // Directory 4 is in 2 and goes into its own child 8; all counts of links are right.
    let (from, _) = name(2, "directory 4", 4, FileKind::Dir);
    let (to, value) = name(8, "directory 4", 4, FileKind::Dir);
    let links = |dir, subdirs: u32| (Key::Inode(dir).encode(), Edit::Put(inode(FileKind::Dir, 2 + subdirs, 0)));
    let edits = vec![(from, Edit::Delete), (to, Edit::Put(value)), links(2, 1), links(8, 1)];
    let circle = change(&nodes, &sound, edits);
    let all = [sound, circle, circle, sound, circle].map(|root| point(root, next));
    for points in [&all[..], &all[1..], &all[2..], &all[3..]] {
        let want: Vec<bool> = points.iter().map(|point| point.root == sound).collect();
        assert_eq!(judged(&nodes, points), want);
    }
}

#[test]
fn nodes_that_end_elsewhere_or_say_other_things_of_their_children() {
    let nodes = MemoryNodes::new();
    let (entries, next) = source(2, 2);
    let all: Vec<(&[u8], &[u8])> = entries.iter().map(|(key, value)| (&**key, &**value)).collect();
    let node = |level: u8, entries: &[(&[u8], &[u8])]| {
        let mut writer = NodeWriter::new(level);
        entries.iter().for_each(|(key, value)| writer.push(key, value));
        (&mut &nodes).write_node(writer.finish()).unwrap()
    };
    let child = |id: ChunkId, entries: usize| repo_format::Child { id, entries: entries as u64 }.encode();
    let (left, right) = all.split_at(all.len() / 2);
    let (one, two) = (node(0, left), node(0, right));
    let root = |first: &[u8], second: &[u8], counts: (usize, usize)| {
        let (a, b) = (child(one, counts.0), child(two, counts.1));
        point(node(1, &[(first, &a[..]), (second, &b[..])]), next)
    };
    let (a, b) = (left[0].0, right[0].0);
    let whole = point(tree(&nodes, &entries), next);
    assert_eq!(judged(&nodes, std::slice::from_ref(&whole)), [true]);
    assert_eq!(judged(&nodes, &[PointRecord { next_ino: next - 1, ..whole }]), [false]);
    let right_but_for_the_border = root(a, b, (left.len(), right.len()));
    let wrong_count = root(a, b, (left.len(), right.len() + 1));
    let wrong_key = root(a, right[1].0, (left.len(), right.len()));
    assert_eq!(judged(&nodes, &[right_but_for_the_border, wrong_count, wrong_key]), [false; 3]);
    nodes.replace(&two, None).unwrap();
    assert_eq!(judged(&nodes, &[root(a, b, (left.len(), right.len()))]), [false]);
}

/// What is done to an entry: taken out, given the value of another one of its kind, or put under another inode.
#[derive(Debug, Clone)]
enum Wrong {
    Nothing,
    Out(prop::sample::Index),
    Like(prop::sample::Index, prop::sample::Index),
    Under(prop::sample::Index, u64),
}

fn wrong() -> impl Strategy<Value = Wrong> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        1 => Just(Wrong::Nothing),
        2 => any().prop_map(Wrong::Out),
        4 => (any(), any()).prop_map(|(a, b)| Wrong::Like(a, b)),
        2 => (any(), 1..60_u64).prop_map(|(a, ino)| Wrong::Under(a, ino)),
    ]
}

fn spoil(entries: &mut Entries, wrong: &Wrong) {
    let keys: Vec<Vec<u8>> = entries.keys().cloned().collect();
    let kind = |key: &[u8]| key.get(8).copied();
    match wrong {
        Wrong::Nothing => {}
        Wrong::Out(at) => _ = entries.remove(at.get(&keys)),
        Wrong::Like(at, other) => {
            let of_kind = kind(&keys[at.index(keys.len())]);
            let same: Vec<&Vec<u8>> = keys.iter().filter(|key| kind(key) == of_kind).collect();
            let value = entries[*other.get(&same)].clone();
            entries.insert(at.get(&keys).clone(), value);
        }
        Wrong::Under(at, ino) => {
            let value = entries[at.get(&keys)].clone();
            let key = [&ino.to_be_bytes()[..], &at.get(&keys)[8..]].concat();
            entries.insert(key, value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn both_say_the_same_of_any_chain(wrongs in prop::collection::vec(prop::collection::vec(wrong(), 0..3), 1..4)) {
        let nodes = MemoryNodes::new();
        let (mut entries, next) = source(12, 25);
        let mut points = vec![point(tree(&nodes, &entries), next)];
        for step in &wrongs {
            step.iter().for_each(|wrong| spoil(&mut entries, wrong));
            points.push(point(tree(&nodes, &entries), next));
        }
        prop_assert!(judged(&nodes, &points)[0]);
        prop_assert!(nodes.len() > 3, "one tree has several nodes");
    }
}
