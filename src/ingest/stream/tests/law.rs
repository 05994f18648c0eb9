//! The law (SPEC.md section 14): ingest of a full state, and of what changed, end in the same root. Here for content
//! that the stream only points at, as images have it, and for clones at the borders of chunks.

use super::*;
use proptest::prelude::*;

const FILE: &str = "sda.raw";

fn image(size: usize, parts: &[(usize, usize, u64)]) -> Vec<u8> {
    let mut image = vec![0; size];
    for (at, len, seed) in parts {
        let end = (at + len).min(size);
        if *at < end {
            let bytes = if seed % 5 == 0 { vec![0; end - at] } else { noise(*seed, end - at) };
            image[*at..end].copy_from_slice(&bytes);
        }
    }
    image
}

fn full(world: &World, image: &[u8]) -> Sealed {
    world.source.lock().unwrap().insert(FILE.to_owned(), image.to_vec());
    let size = image.len() as u64;
    let file = FILE.to_owned();
    let ops = [
        Op::Create(file.clone(), FileKind::File, Some(2)),
        Op::Truncate(file.clone(), size),
        Op::Changed(file, 0, size),
    ];
    world.ingest(None, &ops).unwrap()
}

fn part() -> impl Strategy<Value = (usize, usize, u64)> {
    (0..600_000_usize, prop_oneof![1..5000_usize, 1..200_000_usize], any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 20 } else { 150 }))]

    #[test]
    fn images_by_changed_ranges(
        before in prop::collection::vec(part(), 0..6),
        after in prop::collection::vec(part(), 0..6),
        sizes in (1..600_000_usize, 1..600_000_usize),
        same_size: bool,
        granularity in prop::sample::select(vec![512_u64, 4096, 65_536]),
        max_extents in prop::sample::select(vec![2_usize, 100_000]),
    ) {
        let world = World { max_extents, ..World::new() };
        let old = image(sizes.0, &before);
        let mut new = old.clone();
        new.resize(if same_size { sizes.0 } else { sizes.1 }, 0);
        let size = new.len() as u64;
        let mut ops = vec![Op::Truncate(FILE.to_owned(), size)];
        for (at, len, seed) in &after {
            let end = (at + len).min(new.len());
            if *at < end {
                let bytes = if seed % 5 == 0 { vec![0; end - at] } else { noise(*seed, end - at) };
                new[*at..end].copy_from_slice(&bytes);
                let (start, end) = (*at as u64 / granularity * granularity, (end as u64).next_multiple_of(granularity).min(size));
                ops.push(Op::Changed(FILE.to_owned(), start, end - start));
            }
        }
        let a = full(&world, &old);
        world.read_back(&a);
        world.source.lock().unwrap().insert(FILE.to_owned(), new.clone());
        let b = world.ingest(Some(0), &ops).unwrap();
        prop_assert!(world.read_back(&b)[FILE].data == new);
        let other = World::new();
        let again = full(&other, &new);
        prop_assert_eq!(again.root, b.root);
        prop_assert_eq!(again.counts, b.counts);
    }

    #[test]
    fn clones_are_what_writing_would_be(
        parts in prop::collection::vec(part(), 1..5),
        clones in prop::collection::vec((0..150_u64, 0..150_u64, 1..150_u64, 0..3_u8), 1..8),
        pause in prop::sample::select(vec![2_usize, 100_000]),
    ) {
        let world = World { max_extents: pause, ..World::new() };
        let data = image(600_000, &parts);
        let files = ["a".to_owned(), "b".to_owned()];
        let mut ops: Vec<Op> = files.iter().enumerate().map(|(n, f)| Op::Create(f.clone(), FileKind::File, Some(n as u64 + 2))).collect();
        ops.push(Op::Write(files[0].clone(), 0, data.clone()));
        world.ingest(None, &ops).unwrap();
        let mut contents = [data.clone(), Vec::new()];
        let mut ops = Vec::new();
        for (at, from, blocks, how) in clones {
            let (at, from) = (at * 4096, from * 4096);
            // From the sealed file, from itself, from the other.
            let (source, target) = [(0, 1), (0, 0), (1, 0)][usize::from(how)];
            let state = (how == 0).then_some(0);
            let bytes = if how == 0 { &data } else { &contents[source] };
            let len = (blocks * 4096).min((bytes.len() as u64).saturating_sub(from));
            if len == 0 {
                continue;
            }
            let bytes = bytes[from as usize..(from + len) as usize].to_vec();
            let end = (at + len) as usize;
            let grown = contents[target].len().max(end);
            contents[target].resize(grown, 0);
            contents[target][at as usize..end].copy_from_slice(&bytes);
            let (to, source) = (files[target].clone(), files[source].clone());
            ops.push(Op::Clone { to, offset: at, state, from: source, from_offset: from, len });
        }
        let cloned = world.ingest(Some(0), &ops).unwrap();
        let seen = world.read_back(&cloned);
        prop_assert!(seen["a"].data == contents[0] && seen["b"].data == contents[1]);
    }
}
