//! The tree against a `BTreeMap`: the same entries, the same root, and no more nodes touched than needed.

use super::*;
use proptest::prelude::*;
use repo_format::{Child, Key, KeyKind, NodeWriter};
use std::collections::BTreeMap;

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
    let long = (0..60_u8, any::<bool>()).prop_map(|(n, last)| {
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
    prop::collection::btree_map(any_key(), value(), 0..300)
}

/// Every node's borders, and that nothing is in the tree that should not be.
fn assert_canonical(store: &MemoryNodes, root: &ChunkId, map: &Map) {
    let fresh = MemoryNodes::new();
    assert_eq!(*root, build(&fresh, map), "a full build has another root");
    let mut seen = 0;
    walk_nodes(store, root, &mut |id: &ChunkId, _: &NodeRef| {
        assert!(fresh.node(id).is_ok());
        seen += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, fresh.len(), "a full build wrote nodes that are not in the tree");
    assert_eq!(count(store, root).unwrap(), map.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

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
            root = edit(&store, &root, batch);
            edit_map(&mut map, batch);
            assert_canonical(&store, &root, &map);
            store.reset_counts();
            prop_assert_eq!(edit(&store, &root, batch), root, "the same edits again change something");
            prop_assert_eq!(store.writes(), 0);
        }
        let all = map.keys().map(|key| (key.clone(), Edit::Delete)).collect();
        let end = edit(&store, &root, &all);
        assert_canonical(&store, &end, &Map::new());
        prop_assert_eq!(edit(&store, &end, &map.iter().map(|(k, v)| (k.clone(), Edit::Put(v.clone()))).collect()), root);
    }
}
