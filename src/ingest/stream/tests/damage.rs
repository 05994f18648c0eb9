//! Chunks below that cannot be read: what was there stays as it is, byte for byte, and nothing else is lost; where the
//! source is the state itself, nothing is.

use super::*;
use crate::ingest::report::Severity;
use proptest::prelude::*;
use std::ops::Range;

const FILES: [&str; 2] = ["a", "b"];

/// What must come of two files: their bytes, and for each byte the damaged chunk it came from, if it did.
#[derive(Clone, Default)]
struct Model {
    data: [Vec<u8>; 2],
    from: [Vec<Option<ChunkId>>; 2],
}

impl Model {
    fn resize(&mut self, file: usize, size: usize) {
        self.data[file].resize(size, 0);
        self.from[file].resize(size, None);
    }

    fn put(&mut self, file: usize, at: usize, data: &[u8], from: &[Option<ChunkId>]) {
        self.resize(file, self.data[file].len().max(at + data.len()));
        self.data[file][at..at + data.len()].copy_from_slice(data);
        self.from[file][at..at + data.len()].copy_from_slice(from);
    }

    fn step(&mut self, sealed: &Self, step: &Step) -> Option<Op> {
        let name = |file: usize| FILES[file].to_owned();
        match *step {
            Step::Write(file, at, len, seed) => {
                let data = noise(seed, len);
                self.put(file, at, &data, &vec![None; len]);
                Some(Op::Write(name(file), at as u64, data))
            }
            Step::Zero(file, at, len) => {
                let end = (at + len).min(self.data[file].len());
                if at < end {
                    self.put(file, at, &vec![0; end - at], &vec![None; end - at]);
                }
                Some(Op::Zero(name(file), at as u64, len as u64, false))
            }
            Step::Truncate(file, size) => {
                self.resize(file, size);
                Some(Op::Truncate(name(file), size as u64))
            }
            Step::Clone { to, at, of_sealed, from, offset, len } => {
                let source = if of_sealed { sealed.clone() } else { self.clone() };
                let len = len.min(source.data[from].len().saturating_sub(offset));
                let range: Range<usize> = offset..offset + len;
                if len == 0 {
                    return None;
                }
                self.put(to, at, &source.data[from][range.clone()], &source.from[from][range]);
                let (to, from, state) = (name(to), name(from), of_sealed.then_some(0));
                let (offset, from_offset, len) = (at as u64, offset as u64, len as u64);
                Some(Op::Clone { to, offset, state, from, from_offset, len })
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, usize, u64),
    Zero(usize, usize, usize),
    Truncate(usize, usize),
    Clone { to: usize, at: usize, of_sealed: bool, from: usize, offset: usize, len: usize },
}

/// Offsets at, beside and far from block borders.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![(0..70_usize).prop_map(|block| block * 4096), 0..280_000_usize]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![1..3000_usize, (1..20_usize).prop_map(|blocks| blocks * 4096), 1..80_000_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let clone = (0..2_usize, place(), any::<bool>(), 0..2_usize, place(), len());
    prop_oneof![
        3 => (0..2_usize, place(), len(), any::<u64>()).prop_map(|(f, at, len, seed)| Step::Write(f, at, len, seed)),
        1 => (0..2_usize, place(), len()).prop_map(|(f, at, len)| Step::Zero(f, at, len)),
        1 => (0..2_usize, place()).prop_map(|(f, size)| Step::Truncate(f, size)),
        2 => clone.prop_map(|(to, at, of_sealed, from, offset, len)| Step::Clone { to, at, of_sealed, from, offset, len }),
    ]
}

/// The chunk of each byte of a file.
fn chunks_of(world: &World, sealed: &Sealed, ino: u64, size: usize) -> Vec<Option<ChunkId>> {
    let mut chunks = vec![None; size];
    let mut last = 0;
    for row in tree::range_prefix(&world.nodes, &sealed.root, &Key::prefix(ino, repo_format::KeyKind::Extent)) {
        let row = row.unwrap();
        let Key::Extent(_, at) = Key::decode(row.key()).unwrap() else { panic!() };
        let extent = Extent::decode(row.value()).unwrap();
        assert!(at >= last, "extents overlap at {at}");
        last = at + u64::from(extent.len);
        chunks[at as usize..last as usize].fill(Some(extent.chunk));
    }
    chunks
}

/// The files are as they must be, and damaged where they must be.
fn holds(world: &World, sealed: &Sealed, model: &Model) {
    let seen = world.read_back(sealed);
    let damaged = world.damaged.lock().unwrap().clone();
    for (file, name) in FILES.iter().enumerate() {
        assert!(seen[*name].data == model.data[file], "{name} is not what it must be");
        let chunks = chunks_of(world, sealed, file as u64 + 2, model.data[file].len());
        for (at, (is, must)) in chunks.iter().zip(&model.from[file]).enumerate() {
            let (is, must) = (is.filter(|id| damaged.contains(id)), must.filter(|id| damaged.contains(id)));
            assert_eq!(is, must, "byte {at} of {name}: damage of chunk");
        }
    }
    let lost = world.findings.lock().unwrap().iter().any(|finding| finding.severity == Severity::Error);
    let has = model.from.iter().flatten().flatten().any(|id| damaged.contains(id));
    assert!(!lost || has, "damage is told of that is not there: {:?}", world.findings.lock().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 20 } else { 250 }))]

    #[test]
    fn damage_is_taken_over_and_spreads_nowhere(
        parts in prop::collection::vec((place(), len(), any::<u64>()), 1..6),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        first in prop::collection::vec(step(), 1..6),
        second in prop::collection::vec(step(), 1..6),
        mended: bool,
        max_extents in prop::sample::select(vec![2_usize, 100_000]),
    ) {
        let world = World { max_extents, ..World::new() };
        world.is_cut_freely.store(true, Relaxed);
        let mut model = Model::default();
        let mut ops: Vec<Op> = (0..2).map(|file| Op::Create(FILES[file].into(), FileKind::File, Some(file as u64 + 2))).collect();
        for (at, len, seed) in parts {
            ops.extend(model.step(&Model::default(), &Step::Write(0, at, len, seed)));
        }
        let base = world.ingest(None, &ops).unwrap();
        let chunks = chunks_of(&world, &base, 2, model.data[0].len());
        let all: Vec<ChunkId> = chunks.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        *world.damaged.lock().unwrap() = picks.iter().map(|pick| all[pick.index(all.len())]).collect();
        model.from[0] = chunks;
        let sealed = model.clone();
        let run = |model: &mut Model, parent: usize, steps: &[Step]| {
            let ops: Vec<Op> = steps.iter().filter_map(|step| model.step(&sealed, step)).collect();
            let after = world.ingest(Some(parent), &ops).unwrap();
            holds(&world, &after, model);
        };
        run(&mut model, 0, &first);
        if mended {
            world.damaged.lock().unwrap().clear();
        }
        run(&mut model, 1, &second);
    }

    /// The law, beside damage: what the source gives again makes the tree that a full read makes.
    #[test]
    fn damage_is_read_again_where_the_source_is_the_state(
        parts in prop::collection::vec((place(), len(), any::<u64>()), 1..6),
        changes in prop::collection::vec((place(), len(), any::<u64>()), 1..4),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        size in 1..280_000_usize,
        max_extents in prop::sample::select(vec![2_usize, 100_000]),
    ) {
        let world = World { max_extents, ..World::new() };
        world.source_is_state.store(true, Relaxed);
        let (mut model, none) = (Model::default(), Model::default());
        for (at, len, seed) in parts {
            model.step(&none, &Step::Write(0, at, len, seed));
        }
        let full = |world: &World, data: &[u8]| {
            world.source.lock().unwrap().insert("a".into(), data.to_vec());
            let size = data.len() as u64;
            let file = || "a".to_owned();
            let ops = [Op::Create(file(), FileKind::File, Some(2)), Op::Truncate(file(), size), Op::Changed(file(), 0, size)];
            world.ingest(None, &ops).unwrap()
        };
        let base = full(&world, &model.data[0]);
        let all: Vec<ChunkId> = chunks_of(&world, &base, 2, model.data[0].len()).into_iter().flatten().collect();
        *world.damaged.lock().unwrap() = picks.iter().map(|pick| all[pick.index(all.len())]).collect();
        model.resize(0, size);
        let mut ops = vec![Op::Truncate("a".into(), size as u64)];
        for (at, len, seed) in changes {
            let len = len.min(size.saturating_sub(at));
            if len > 0 {
                model.step(&none, &Step::Write(0, at, len, seed));
                ops.push(Op::Changed("a".into(), at as u64, len as u64));
            }
        }
        world.source.lock().unwrap().insert("a".into(), model.data[0].clone());
        let after = world.ingest(Some(0), &ops).unwrap();
        let said = world.findings.lock().unwrap().clone();
        prop_assert!(said.iter().all(|finding| finding.severity == Severity::Warning), "{:?}", said);
        world.read_back(&after);
        prop_assert_eq!(after.root, full(&World::new(), &model.data[0]).root);
    }
}

/// A file of one run, its chunks as (offset, extent).
fn base(world: &World, bytes: usize) -> Vec<(u64, Extent)> {
    let ops = [Op::Create("a".into(), FileKind::File, Some(2)), Op::Write("a".into(), 0, noise(1, bytes))];
    world.ingest(None, &ops).unwrap();
    full_read(CHUNK_BYTES, &noise(1, bytes))
}

fn findings(world: &World) -> Vec<String> {
    world
        .findings
        .lock()
        .unwrap()
        .iter()
        .map(|one| format!("{}: {}", String::from_utf8_lossy(&one.path), one.what))
        .collect()
}

#[test]
fn damage_beside_a_change_is_named_with_the_name_the_file_has_at_the_end() {
    let world = World::new();
    world.is_cut_freely.store(true, Relaxed);
    let rows = base(&world, 200_000);
    let (at, damaged) = rows[10];
    world.damaged.lock().unwrap().insert(damaged.chunk);
    // Right behind it, so that its end would be needed to cut anew.
    let next = at + u64::from(damaged.len);
    let ops =
        [Op::Write("a".into(), next + 1, b"new".to_vec()), Op::Link("b".into(), "a".into()), Op::Unlink("a".into())];
    let sealed = world.ingest(Some(0), &ops).unwrap();
    let seen = &world.read_back(&sealed)["b"].data;
    let mut want = noise(1, 200_000);
    want[next as usize + 1..][..3].copy_from_slice(b"new");
    assert!(*seen == want);
    let said = findings(&world);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with(&format!("b: {} bytes at {at} were damaged", damaged.len)), "{said:?}");
    assert!(said[0].contains(&damaged.chunk.to_string()), "{said:?}");
}

/// Seen while reading ahead, where the old layout is right again before it.
#[test]
fn damage_that_is_only_seen_is_mended_too() {
    let world = World::new();
    world.source_is_state.store(true, Relaxed);
    let rows = base(&world, 200_000);
    // The changed chunk is cut as it was but for its bytes, so the one behind it begins where it did.
    let (changed, (_, damaged)) = (rows[10], rows[12]);
    let mut data = noise(1, 200_000);
    data[changed.0 as usize + 1100] ^= 1;
    world.damaged.lock().unwrap().insert(damaged.chunk);
    world.source.lock().unwrap().insert("a".into(), data.clone());
    let sealed = world.ingest(Some(0), &[Op::Changed("a".into(), changed.0 + 1100, 1)]).unwrap();
    assert!(world.read_back(&sealed)["a"].data == data);
    assert!(world.damaged.lock().unwrap().is_empty(), "{:?}", findings(&world));
    assert!(findings(&world)[0].contains("were read again from the source"), "{:?}", findings(&world));
}

#[test]
fn a_part_of_a_damaged_extent_is_overwritten() {
    let world = World::new();
    world.is_cut_freely.store(true, Relaxed);
    let rows = base(&world, 200_000);
    let (at, damaged) = rows[10];
    world.damaged.lock().unwrap().insert(damaged.chunk);
    let (start, len) = (at + 100, u64::from(damaged.len) - 300);
    let sealed = world.ingest(Some(0), &[Op::Write("a".into(), start, noise(2, len as usize))]).unwrap();
    let chunks = chunks_of(&world, &sealed, 2, 200_000);
    let lost = chunks.iter().filter(|id| **id == Some(damaged.chunk)).count();
    assert_eq!(lost, 300, "what is lost is what was not overwritten");
    assert!(findings(&world)[0].contains("300 bytes in 2 places"), "{:?}", findings(&world));
}

#[test]
fn an_extent_that_is_overwritten_heals() {
    let world = World::new();
    let rows = base(&world, 200_000);
    let (at, damaged) = rows[10];
    world.damaged.lock().unwrap().insert(damaged.chunk);
    // With another content, and with its own.
    for (state, data) in
        [(0, noise(2, damaged.len as usize)), (0, noise(1, 200_000)[at as usize..][..damaged.len as usize].to_vec())]
    {
        // From block to block, that nothing of it is left.
        let (from, to) = (at / 4096 * 4096, (at + u64::from(damaged.len)).next_multiple_of(4096));
        let mut all = noise(1, 200_000);
        all[at as usize..][..data.len()].copy_from_slice(&data);
        let write = Op::Write("a".into(), from, all[from as usize..to as usize].to_vec());
        let sealed = world.ingest(Some(state), &[write]).unwrap();
        assert!(world.read_back(&sealed)["a"].data == all);
        assert_eq!(findings(&world), [""; 0]);
    }
    assert!(world.damaged.lock().unwrap().is_empty(), "the chunk was not stored again");
}

/// It may be newer than the state: nothing of it is read but what the stream names.
#[test]
fn a_source_that_is_not_known_to_be_the_state_mends_nothing() {
    let world = World::new();
    world.is_cut_freely.store(true, Relaxed);
    let rows = base(&world, 200_000);
    let (at, damaged) = rows[10];
    world.damaged.lock().unwrap().insert(damaged.chunk);
    let changed = (at + u64::from(damaged.len)) as usize + 1;
    let copy = noise(2, 200_000);
    world.source.lock().unwrap().insert("a".into(), copy.clone());
    let sealed = world.ingest(Some(0), &[Op::Changed("a".into(), changed as u64, 3)]).unwrap();
    let mut want = noise(1, 200_000);
    want[changed..][..3].copy_from_slice(&copy[changed..][..3]);
    assert!(world.read_back(&sealed)["a"].data == want);
    let said = findings(&world);
    assert!(said.len() == 1 && said[0].contains("were damaged in the repository already"), "{said:?}");
}

#[test]
fn a_chunk_that_is_shorter_than_its_extent_is_told_of() {
    let world = World::new();
    world.is_cut_freely.store(true, Relaxed);
    let rows = base(&world, 200_000);
    let (at, short) = rows[10];
    world.halved.lock().unwrap().insert(short.chunk);
    world.ingest(Some(0), &[Op::Write("a".into(), at + u64::from(short.len) + 1, b"new".to_vec())]).unwrap();
    let said = findings(&world);
    assert!(said.len() == 1 && said[0].contains("were damaged in the repository already"), "{said:?}");
}

/// More places than are remembered, all of them read again: nothing is lost, and nothing else is said.
#[test]
fn what_was_read_again_beyond_the_places_that_are_remembered_is_not_lost() {
    let world = World { chunk_bytes: [1024, 1024, 1024], ..World::new() };
    world.source_is_state.store(true, Relaxed);
    let bytes = 11_000 * 1024;
    let mut data = noise(1, bytes);
    world
        .ingest(None, &[Op::Create("a".into(), FileKind::File, Some(2)), Op::Write("a".into(), 0, data.clone())])
        .unwrap();
    let rows = full_read(world.chunk_bytes, &data);
    assert!(rows.len() > 10_500);
    *world.damaged.lock().unwrap() = rows.iter().map(|(_, row)| row.chunk).collect();
    let mut ops = Vec::new();
    for (at, _) in &rows {
        data[*at as usize + 500] ^= 1;
        ops.push(Op::Changed("a".into(), at + 500, 1));
    }
    world.source.lock().unwrap().insert("a".into(), data.clone());
    let sealed = world.ingest(Some(0), &ops).unwrap();
    assert!(world.read_back(&sealed)["a"].data == data);
    let said = world.findings.lock().unwrap().clone();
    assert!(said.len() == 2 && said.iter().all(|one| one.severity == Severity::Warning), "{said:?}");
    assert!(said.iter().all(|one| !one.path.is_empty()) && said[1].what.contains("more places"), "{said:?}");
}
