//! The tree against a `BTreeMap`: the same entries, the same root, and no more nodes touched than needed.

use super::*;
use crate::catalog::edits::EditSet;
use crate::{Error, ErrorKind};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use repo_format::{Child, Key, NodeWriter};
use std::collections::{BTreeMap, BTreeSet};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Batch = BTreeMap<Vec<u8>, Edit>;

fn build(store: &MemoryNodes, map: &Map) -> ChunkId {
    let edits = map.iter().map(|(k, v)| Ok((k.clone(), Edit::Put(v.clone()))));
    apply(store, None, edits, &mut &*store).unwrap()
}

fn edit(store: &MemoryNodes, root: &ChunkId, batch: &Batch) -> ChunkId {
    apply(store, Some(root), batch.clone().into_iter().map(Ok), &mut &*store).unwrap()
}

fn edit_map(map: &mut Map, batch: &Batch) {
    for (key, edit) in batch {
        match edit {
            Edit::Put(value) => map.insert(key.clone(), value.clone()),
            Edit::Delete => map.remove(key),
        };
    }
}

fn entries(range: Range<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    range.map(|entry| entry.unwrap()).map(|entry| (entry.key().to_vec(), entry.value().to_vec())).collect()
}

fn pairs<'a>(range: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    range.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// `count` entries as of a directory tree of small files: inode, name and extent.
fn files(count: u64) -> Map {
    let mut map = Map::new();
    for ino in 2..2 + count / 3 {
        map.insert(Key::Inode(ino).encode(), vec![ino as u8; 70]);
        map.insert(Key::Dirent(1 + ino / 50, format!("file-{ino}.txt").as_bytes()).encode(), vec![1; 9]);
        map.insert(Key::Extent(ino, 0).encode(), vec![(ino >> 3) as u8; 40]);
    }
    map
}

fn height(store: &MemoryNodes, root: &ChunkId) -> u8 {
    store.node(root).unwrap().level()
}

/// Entries with keys and values so long that 3000 of them make three levels.
fn tall(count: u16) -> Map {
    (0..count).map(|n| ([&n.to_be_bytes()[..], &[b'k'; MAX_KEY_BYTES - 2]].concat(), vec![n as u8; 1_500])).collect()
}

fn node_ids(store: &MemoryNodes, root: &ChunkId) -> BTreeSet<ChunkId> {
    let mut ids = BTreeSet::new();
    walk_nodes(store, root, &mut |id: &ChunkId, _: &NodeRef| {
        assert!(ids.insert(*id), "a node was visited twice");
        Ok(())
    })
    .unwrap();
    ids
}

fn deletes<'a>(keys: impl Iterator<Item = &'a Vec<u8>>) -> Batch {
    keys.map(|key| (key.clone(), Edit::Delete)).collect()
}

fn puts(map: &Map) -> Batch {
    map.iter().map(|(key, value)| (key.clone(), Edit::Put(value.clone()))).collect()
}

/// Keys from a tiny alphabet, so that edits hit entries that are there.
fn tiny_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"abc".to_vec()), 0..6)
}

fn real_key() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(prop::sample::select(b"xyz".to_vec()), 1..4);
    prop_oneof![
        (1..40_u64).prop_map(|ino| Key::Inode(ino).encode()),
        (1..40_u64, name).prop_map(|(ino, name)| Key::Dirent(ino, &name).encode()),
        (1..40_u64, 0..8_u64).prop_map(|(ino, block)| Key::Extent(ino, block << 16).encode()),
        (1..40_u64).prop_map(|ino| Key::Target(ino).encode()),
        (0..2_u32, 1..40_u64).prop_map(|(fs, ino)| Key::SourceIno(fs, ino).encode()),
    ]
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    // Long keys make for few children a node, so that a few hundred entries give three levels.
    let long = (0..120_u8, any::<bool>()).prop_map(|(n, last)| {
        let mut key = vec![n; MAX_KEY_BYTES];
        key[MAX_KEY_BYTES - 1] = u8::from(last);
        key
    });
    prop_oneof![2 => tiny_key(), 2 => real_key(), 3 => long]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let sized = |bytes: std::ops::Range<usize>| (any::<u8>(), bytes).prop_map(|(byte, bytes)| vec![byte; bytes]);
    prop_oneof![4 => sized(0..60), 3 => sized(2_000..6_000), 1 => sized(20_000..MAX_VALUE_BYTES)]
}

fn batch(edits: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Batch> {
    let edit = prop_oneof![2 => value().prop_map(Edit::Put), 1 => Just(Edit::Delete)];
    prop::collection::btree_map(any_key(), edit, edits)
}

fn map() -> impl Strategy<Value = Map> {
    let sized = |entries| prop::collection::btree_map(any_key(), value(), entries);
    prop_oneof![1 => sized(0..4), 5 => sized(0..300), 1 => sized(300..500)]
}

/// The root is that of a full build, and so are the nodes below it.
fn assert_canonical(store: &MemoryNodes, root: &ChunkId, map: &Map) {
    let fresh = MemoryNodes::new();
    assert_eq!(*root, build(&fresh, map), "a full build has another root");
    assert_eq!(fresh.writes(), fresh.len() as u64, "a full build wrote a node twice");
    let ids = node_ids(store, root);
    assert!(ids.iter().all(|id| fresh.node(id).is_ok()));
    assert_eq!(ids.len(), fresh.len(), "a full build wrote nodes that are not in the tree");
    assert_eq!(count(store, root).unwrap(), map.len() as u64);
}

/// Applies a batch and asserts that exactly the new nodes were written.
fn edit_counted(store: &MemoryNodes, root: &ChunkId, batch: &Batch) -> ChunkId {
    store.reset_counts();
    let new = edit(store, root, batch);
    let writes = store.writes();
    let fresh = node_ids(store, &new).difference(&node_ids(store, root)).count();
    assert_eq!(writes, fresh as u64, "nodes were written that are not new in the tree");
    new
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_built_tree_reads_like_its_map(map in map(), probes in prop::collection::vec(any_key(), 1..30)) {
        let store = MemoryNodes::new();
        let root = build(&store, &map);
        assert_canonical(&store, &root, &map);
        let mut wandering = range(&store, &root, &[]);
        for probe in &probes {
            prop_assert_eq!(get(&store, &root, probe).unwrap().map(|e| e.value().to_vec()), map.get(probe).cloned());
            let before = floor(&store, &root, probe).unwrap().map(|e| e.key().to_vec());
            prop_assert_eq!(before, map.range(..=probe.clone()).next_back().map(|(k, _)| k.clone()));
            prop_assert_eq!(entries(range(&store, &root, probe)), pairs(map.range(probe.clone()..)));
            let prefix = &probe[..probe.len().min(9)];
            let expected = pairs(map.iter().filter(|(k, _)| k.starts_with(prefix)));
            prop_assert_eq!(entries(range_prefix(&store, &root, prefix)), expected);
            wandering.seek(probe);
            let next: Vec<_> = wandering.by_ref().take(3).map(|e| e.unwrap().key().to_vec()).collect();
            let expected: Vec<_> = map.range(probe.clone()..).take(3).map(|(k, _)| k.clone()).collect();
            prop_assert_eq!(next, expected);
        }
    }

    #[test]
    fn batches_lead_to_the_root_of_a_full_build(map in map(), batches in prop::collection::vec(batch(0..40), 1..5)) {
        let store = MemoryNodes::new();
        let mut map = map;
        let mut root = build(&store, &map);
        for batch in &batches {
            root = edit_counted(&store, &root, batch);
            edit_map(&mut map, batch);
            assert_canonical(&store, &root, &map);
            store.reset_counts();
            prop_assert_eq!(edit(&store, &root, batch), root, "the same edits again change something");
            prop_assert_eq!(store.writes(), 0);
        }
        let end = edit_counted(&store, &root, &deletes(map.keys()));
        assert_canonical(&store, &end, &Map::new());
        prop_assert_eq!(edit(&store, &end, &puts(&map)), root);
    }

    #[test]
    fn edits_pushed_in_any_order_lead_to_one_root(map in map(), batch in batch(0..80), seed in any::<u64>()) {
        let store = MemoryNodes::new();
        let root = build(&store, &map);
        let expected = edit(&store, &root, &batch);
        let mut shuffled: Vec<_> = batch.into_iter().collect();
        shuffled.sort_by_key(|(key, _)| *blake3::hash(&[key.as_slice(), &seed.to_le_bytes()].concat()).as_bytes());
        let mut set = EditSet::new(20_000);
        for (key, edit) in &shuffled {
            set.push(key, Edit::Delete).unwrap();
            set.push(key, edit.clone()).unwrap();
        }
        prop_assert_eq!(apply(&store, Some(&root), set.finish().unwrap(), &mut &store).unwrap(), expected);
    }

    #[test]
    fn a_diff_is_the_naive_one_and_reads_differing_nodes_only(map in map(), batch in batch(0..30), fresh in prop::option::weighted(0.2, self::map())) {
        let store = MemoryNodes::new();
        let old = build(&store, &map);
        let mut changed = map.clone();
        edit_map(&mut changed, &batch);
        let changed = fresh.unwrap_or(changed);
        let new = build(&store, &changed);
        assert_diff(&store, (&old, &map), (&new, &changed));
        assert_diff(&store, (&new, &changed), (&old, &map));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic(
        map in map(), batch in batch(1..10), victims in prop::collection::vec((any::<prop::sample::Index>(), any::<Option<prop::sample::Index>>()), 1..4)
    ) {
        let store = MemoryNodes::new();
        let root = build(&store, &map);
        let other = edit(&store, &root, &batch);
        let ids: Vec<_> = node_ids(&store, &root).union(&node_ids(&store, &other)).copied().collect();
        for (victim, cuckoo) in victims {
            let cuckoo = cuckoo.and_then(|cuckoo| store.node(cuckoo.get(&ids)).ok());
            store.replace(victim.get(&ids), cuckoo.as_ref().map(|node| node.bytes())).unwrap();
        }
        for key in map.keys().chain(batch.keys()) {
            drop((get(&store, &root, key), floor(&store, &root, key)));
        }
        drop((range(&store, &root, &[]).count(), diff(&store, &root, &store, &other).count(), count(&store, &root)));
        drop(apply(&store, Some(&root), batch.into_iter().map(Ok), &mut &store));
        let mut check = Check::default();
        walk_nodes(&store, &root, &mut check).unwrap();
        // What the check finds sound is all readable, and the reverse.
        let read: Vec<_> = range(&store, &root, &[]).collect();
        prop_assert!(check.lost.is_empty() || read.last().is_none_or(|entry| entry.is_err()) || !check.hard);
        prop_assert!(!check.lost.is_empty() || read.iter().all(|entry| entry.is_ok()));
    }
}

/// Collects what a check would.
#[derive(Default)]
struct Check {
    leaves: Vec<NodeRef>,
    lost: Vec<Lost>,
    /// Damage that a range over everything meets too: all but wrong counts of inner nodes.
    hard: bool,
}

impl NodeVisitor for Check {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() == 0 {
            self.leaves.push(NodeRef::clone(node));
        }
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> Result<()> {
        assert_eq!(lost.error.kind(), ErrorKind::Damaged);
        self.hard |= !lost.error.to_string().contains("number of entries");
        self.lost.push(lost);
        Ok(())
    }
}

fn assert_diff(store: &MemoryNodes, (old, old_map): (&ChunkId, &Map), (new, new_map): (&ChunkId, &Map)) {
    store.reset_counts();
    let changes: Vec<_> = diff(store, old, store, new).map(|change| change.unwrap()).collect();
    let reads = store.reads();
    let keys: BTreeSet<_> =
        old_map.keys().chain(new_map.keys()).filter(|key| old_map.get(*key) != new_map.get(*key)).collect();
    assert_eq!(changes.iter().map(Change::key).collect::<Vec<_>>(), keys.into_iter().collect::<Vec<_>>());
    for change in &changes {
        let value = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.value().to_vec());
        assert_eq!(value(&change.old), old_map.get(change.key()).cloned());
        assert_eq!(value(&change.new), new_map.get(change.key()).cloned());
    }
    // A root that is an inner part of the other tree is read on both sides, hence two more.
    let differing = node_ids(store, old).symmetric_difference(&node_ids(store, new)).count();
    assert!(reads <= differing as u64 + 2, "{reads} nodes read of {differing} that differ");
}

#[test]
fn trees_shrink_and_grow_through_all_heights() {
    let store = MemoryNodes::new();
    let mut heights = BTreeSet::new();
    for count in (2_900..3_000).step_by(9) {
        let map = tall(count);
        let root = build(&store, &map);
        heights.insert(height(&store, &root));
        for kept in [0, 1, 4, 40, 200, 2_000] {
            let gone = usize::from(count) - kept;
            for (first, last) in [(0, gone), (kept, usize::from(count)), (kept / 2, kept / 2 + gone)] {
                let batch = deletes(map.keys().skip(first).take(last - first));
                let end = edit_counted(&store, &root, &batch);
                heights.insert(height(&store, &end));
                let mut left = map.clone();
                edit_map(&mut left, &batch);
                assert_eq!(end, build(&MemoryNodes::new(), &left), "{count} entries without {first}..{last}");
                assert_eq!(edit_counted(&store, &end, &puts(&map)), root);
            }
        }
    }
    assert_eq!(heights, BTreeSet::from([0, 1, 2]));
}

#[test]
fn diffs_between_heights_skip_what_both_have() {
    let store = MemoryNodes::new();
    let map = tall(3_000);
    let root = build(&store, &map);
    for kept in [0, 1, 30, 300, 1_000, 2_999] {
        let part: Map = map.iter().take(kept).map(|(k, v)| (k.clone(), v.clone())).collect();
        let small = build(&store, &part);
        assert_diff(&store, (&root, &map), (&small, &part));
        assert_diff(&store, (&small, &part), (&root, &map));
    }
}

#[test]
fn one_edit_in_a_large_tree_costs_a_path() {
    let store = MemoryNodes::new();
    let map = files(200_000);
    let root = build(&store, &map);
    assert_eq!(height(&store, &root), 2, "{} nodes", store.len());
    for (n, key) in map.keys().enumerate().step_by(1_999) {
        let edits = [Edit::Put(vec![n as u8 ^ 0x55; 70]), Edit::Delete, Edit::Put(vec![9; 3_000])];
        let batch = Batch::from([(key.clone(), edits[n % 3].clone())]);
        store.reset_counts();
        let new = edit(&store, &root, &batch);
        // A path of three, and where a border moved the nodes up to the next common one.
        assert!(store.writes() <= 8, "{} nodes written", store.writes());
        assert!(store.reads() <= 14, "{} nodes read", store.reads());
        store.reset_counts();
        assert_eq!(diff(&store, &root, &store, &new).count(), 1);
        assert!(store.reads() <= 16, "{} nodes read by diff", store.reads());
    }
}

#[test]
fn edits_before_the_first_key_leave_the_first_node_alone() {
    // Shrunk from a failure: the new entries end at a border, and the old first node was written again.
    let store = MemoryNodes::new();
    let map = files(20_000);
    let old = map.iter().skip(6_000).map(|(k, v)| (k.clone(), v.clone())).collect();
    for added in (1..6_000).step_by(97) {
        let root = build(&store, &old);
        let front: Map = map.iter().skip(6_000 - added).take(added).map(|(k, v)| (k.clone(), v.clone())).collect();
        edit_counted(&store, &root, &puts(&front));
    }
}

#[test]
fn generated_maps_make_trees_of_up_to_three_levels() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = [0; 32];
    for _ in 0..100 {
        let map = map().new_tree(&mut runner).unwrap().current();
        let store = MemoryNodes::new();
        seen[height(&store, &build(&store, &map)) as usize] += 1;
    }
    assert!(seen[..3].iter().all(|count| *count >= 3), "trees by height: {seen:?}");
}

#[test]
fn edits_without_effect_write_nothing() {
    let store = MemoryNodes::new();
    let map = files(20_000);
    let root = build(&store, &map);
    let absent = map.keys().step_by(7).map(|key| ([key.as_slice(), b"!"].concat(), Edit::Delete));
    let batch: Batch = puts(&map).into_iter().step_by(3).chain(absent).collect();
    store.reset_counts();
    assert_eq!(edit(&store, &root, &batch), root);
    assert_eq!(edit(&store, &root, &Batch::new()), root);
    assert_eq!(store.writes(), 0);
    let none = empty(&mut &store).unwrap();
    store.reset_counts();
    assert_eq!(edit(&store, &none, &deletes(map.keys())), none);
    assert_eq!(store.writes(), 0);
    assert_eq!(build(&store, &Map::new()), none);
    assert_eq!(range(&store, &none, &[]).count(), 0);
    assert!(get(&store, &none, b"key").unwrap().is_none());
}

#[test]
fn edits_out_of_order_too_long_or_broken_are_refused() {
    let store = MemoryNodes::new();
    let kind = |edits: Vec<Result<(Vec<u8>, Edit)>>| apply(&store, None, edits, &mut &store).unwrap_err().kind();
    let put = |key: &[u8], value_bytes: usize| Ok((key.to_vec(), Edit::Put(vec![0; value_bytes])));
    assert_eq!(kind(vec![put(b"b", 1), put(b"a", 1)]), ErrorKind::Usage);
    assert_eq!(kind(vec![put(b"a", 1), put(b"a", 1)]), ErrorKind::Usage);
    assert_eq!(kind(vec![put(&[1; MAX_KEY_BYTES + 1], 1)]), ErrorKind::Usage);
    assert_eq!(kind(vec![put(b"a", MAX_VALUE_BYTES + 1)]), ErrorKind::Usage);
    assert_eq!(kind(vec![put(b"a", 1), Err(Error::new(ErrorKind::Interrupted, "stop"))]), ErrorKind::Interrupted);
}

#[test]
fn a_lost_leaf_is_reported_by_its_keys_and_the_rest_is_visited() {
    let store = MemoryNodes::new();
    let map = tall(3_000);
    let root = build(&store, &map);
    let mut sound = Check::default();
    walk_nodes(&store, &root, &mut sound).unwrap();
    for place in [0, sound.leaves.len() / 2, sound.leaves.len() - 1] {
        let leaf = &sound.leaves[place];
        store.replace(&ChunkId::of(None, leaf.bytes()), None).unwrap();
        let mut check = Check::default();
        walk_nodes(&store, &root, &mut check).unwrap();
        let [lost] = &check.lost[..] else { panic!("{} nodes lost", check.lost.len()) };
        assert_eq!(check.leaves.len() + 1, sound.leaves.len());
        assert_eq!(lost.from, leaf.entry(0).unwrap().0);
        assert_eq!(lost.to.as_deref(), sound.leaves.get(place + 1).map(|next| next.entry(0).unwrap().0));
        assert_eq!(lost.entries, Some(leaf.len() as u64));
        assert!(get(&store, &root, &lost.from).is_err());
        assert!(range(&store, &root, &[]).last().unwrap().is_err());
        store.replace(&ChunkId::of(None, leaf.bytes()), Some(leaf.bytes())).unwrap();
    }
}

/// An inner node over one child.
fn parent(level: u8, key: &[u8], id: ChunkId, entries: u64) -> Vec<u8> {
    let mut node = NodeWriter::new(level);
    node.push(key, &Child { id, entries }.encode());
    node.finish()
}

#[test]
fn nodes_that_contradict_their_parent_are_damage() {
    let store = MemoryNodes::new();
    let leaf = build(&store, &Map::from([(b"b".to_vec(), b"1".to_vec())]));
    let none = empty(&mut &store).unwrap();
    let loops = ChunkId([7; 32]);
    store.replace(&loops, Some(&parent(3, b"b", loops, 1))).unwrap();
    let cases = [
        parent(2, b"b", leaf, 1),
        parent(1, b"a", leaf, 1),
        parent(1, b"b", leaf, 2),
        parent(1, b"b", none, 0),
        parent(1, b"b", ChunkId([9; 32]), 1),
        parent(4, b"b", loops, 1),
        parent(1, b"b", leaf, u64::MAX),
    ];
    for (case, bytes) in cases.into_iter().enumerate() {
        let root = (&mut &store).write_node(bytes).unwrap();
        let damaged =
            |error: Option<Error>| assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Damaged), "case {case}");
        damaged(get(&store, &root, b"b").err());
        damaged(range(&store, &root, &[]).next().and_then(Result::err));
        damaged(diff(&store, &root, &store, &leaf).find_map(Result::err));
        damaged(apply(&store, Some(&root), [Ok((b"c".to_vec(), Edit::Delete))], &mut &store).err());
        damaged(walk_nodes(&store, &root, &mut |_: &ChunkId, _: &NodeRef| Ok(())).err());
    }
}
