//! Cost in proportion to the change, counted: nodes and chunks that are touched, not seconds.

use super::*;
use crate::catalog::tree::Edit;
use crate::ingest::stream::staged::new_inode;

const CHUNK: u64 = 64 << 10;
const TIB: u64 = 1 << 40;
const DEFAULT_CHUNKS: [u32; 3] = [16 << 10, 64 << 10, 256 << 10];

fn build(world: &World, rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>, counts: Counts, next_ino: u64) -> Sealed {
    let edits = rows.map(|(key, value)| Ok((key, Edit::Put(value))));
    let root = tree::apply(&world.nodes, None, edits, &mut &world.nodes).unwrap();
    let sealed = Sealed { root, next_ino, counts };
    world.states.lock().unwrap().push(sealed);
    sealed
}

fn root_rows(names: impl Iterator<Item = (String, Dirent)>, subdirs: u32) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let inode = Inode { nlink: 2 + subdirs, ..new_inode(FileKind::Dir, 0o755) };
    let names = names.map(|(name, dirent)| (Key::Dirent(ROOT_INO, name.as_bytes()).encode(), dirent.encode()));
    std::iter::once((Key::Inode(ROOT_INO).encode(), inode.encode())).chain(names)
}

/// An image of 1 TiB, of which the first `chunks` of 64 KiB are data. Only names of chunks are there, no bytes: to
/// read one is an error.
fn image(world: &World, chunks: u64) -> Sealed {
    let dirent = Dirent { ino: 2, kind: FileKind::File };
    let inode = Inode { size: TIB, data_bytes: chunks * CHUNK, ..new_inode(FileKind::File, 0o600) };
    let file = std::iter::once((Key::Inode(2).encode(), inode.encode()));
    let extents = (0..chunks).map(|n| {
        let extent = Extent { chunk: ChunkId::of(None, &n.to_le_bytes()), skip: 0, len: CHUNK as u32 };
        (Key::Extent(2, n * CHUNK).encode(), extent.encode())
    });
    let counts = Counts { files: 1, dirs: 1, bytes: TIB, ..Counts::default() };
    build(world, root_rows(std::iter::once(("sda.raw".into(), dirent)), 0).chain(file).chain(extents), counts, 3)
}

fn extents_of(world: &World, sealed: &Sealed, ino: u64) -> impl Iterator<Item = (u64, Extent)> {
    let rows = tree::range_prefix(&world.nodes, &sealed.root, &Key::prefix(ino, repo_format::KeyKind::Extent));
    rows.map(|row| row.unwrap()).map(|row| match Key::decode(row.key()) {
        Ok(Key::Extent(_, at)) => (at, Extent::decode(row.value()).unwrap()),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_hundred_megabytes_in_a_tebibyte() {
    let world = World { chunk_bytes: DEFAULT_CHUNKS, ..World::new() };
    // 32 GiB of data that nobody may read, and 1 TiB of room.
    image(&world, 500_000);
    let nodes = world.nodes.len() as u64;
    // First 1,600 places behind the data; each is written as three blocks of 64 KiB whose middle one changes later.
    let place = |n: u64| (40 << 30) + n * ((TIB - (40 << 30)) / 1600) / 4096 * 4096;
    let write = |n: u64, at: u64, bytes: usize, seed: u64| {
        Op::Write("sda.raw".into(), place(n) + at, noise(seed * 10_000 + n, bytes))
    };
    let ops: Vec<Op> = (0..1600).map(|n| write(n, 0, 3 * CHUNK as usize, 1)).collect();
    let base = world.ingest(Some(0), &ops).unwrap();
    world.reset_counts();
    let ops: Vec<Op> = (0..1600).map(|n| write(n, CHUNK, CHUNK as usize, 2)).collect();
    let sealed = world.ingest(Some(1), &ops).unwrap();
    let touched = world.touched.lock().unwrap().len() as u64;
    let (reads, new) = (world.chunk_reads.load(Relaxed), world.new_bytes.load(Relaxed));
    // 100 MiB changed in 1,600 places. A place needs its own leaf, and the leaf beside it where it begins one.
    assert!(touched < 1600 && touched < nodes / 2, "{touched} nodes of {nodes}");
    assert!(reads <= 1600 * 12, "{reads} chunk reads");
    assert!(new <= 3 * 1600 * CHUNK, "{new} bytes of new chunks");
    for n in [0, 1, 800, 1599] {
        let mut data = noise(10_000 + n, 3 * CHUNK as usize);
        data[CHUNK as usize..2 * CHUNK as usize].copy_from_slice(&noise(20_000 + n, CHUNK as usize));
        let here = extents_of(&world, &sealed, 2).filter(|(at, _)| (place(n)..place(n) + 3 * CHUNK).contains(at));
        let here: Vec<_> = here.map(|(at, extent)| (at - place(n), extent)).collect();
        assert_eq!(here, full_read(DEFAULT_CHUNKS, &data), "place {n}");
    }
    assert_eq!(extents_of(&world, &sealed, 2).take(500_000).last(), extents_of(&world, &base, 2).take(500_000).last());
}

#[test]
fn a_thousand_changes_in_a_million_files() {
    let world = World::new();
    let ino_of = |dir: u64, file: u64| 2000 + dir * 1000 + file;
    let dirent = |ino: u64, kind: FileKind| Dirent { ino, kind };
    let root = root_rows((0..1000).map(|d| (format!("d{d:03}"), dirent(2 + d, FileKind::Dir))), 1000);
    let dirs = (0..1000).flat_map(|d| {
        let inode = (Key::Inode(2 + d).encode(), new_inode(FileKind::Dir, 0o755).encode());
        let names = (0..1000).map(move |f| {
            (Key::Dirent(2 + d, format!("f{f:03}").as_bytes()).encode(), dirent(ino_of(d, f), FileKind::File).encode())
        });
        std::iter::once(inode).chain(names)
    });
    let files = (0..1_000_000_u64).map(|f| (Key::Inode(2000 + f).encode(), new_inode(FileKind::File, 0o644).encode()));
    let counts = Counts { files: 1_000_000, dirs: 1001, ..Counts::default() };
    build(&world, root.chain(dirs).chain(files), counts, 2_000_000);
    let nodes = world.nodes.len();

    let one = |n: u64| -> Vec<Op> {
        let (d, f) = (n * 7 % 1000, n * 13 % 1000);
        let path = format!("d{d:03}/f{f:03}");
        match n % 4 {
            0 => vec![Op::Write(path, 0, noise(n, 5000))],
            1 => vec![Op::Unlink(path)],
            2 => vec![Op::Rename(path, format!("d{:03}/moved{n}", (d + 1) % 1000))],
            _ => {
                vec![Op::Create(format!("d{d:03}/new{n}"), FileKind::File, Some(3_000_000 + n)), Op::Mode(path, 0o600)]
            }
        }
    };
    for (changes, most) in [(1, 12), (10, 80), (1000, 3000)] {
        world.reset_counts();
        let ops: Vec<Op> = (0..changes).flat_map(one).collect();
        let sealed = world.ingest(Some(0), &ops).unwrap();
        let touched = world.touched.lock().unwrap().len();
        assert!(touched <= most, "{changes} changes touched {touched} of {nodes} nodes");
        assert_eq!(world.chunk_reads.load(Relaxed), 0);
        let (gone, new) = ((changes + 2) / 4, changes / 4);
        assert_eq!(sealed.counts.files, 1_000_000 - gone.min(changes) + new, "{changes}");
    }
    assert!(nodes > 5000, "{nodes}");
}

/// What must be read from the source waits in memory only where its name is not yet the one it has there.
#[test]
fn a_stream_without_content_of_many_files_is_read_as_it_goes() {
    const FILES: u64 = 20_000;
    let limit_bytes = 1 << 20;
    let world = World { limit_bytes, ..World::new() };
    let (old, new) = (|n: u64| format!("o{n}"), |n: u64| format!("d/f{n}"));
    // One of a hundred has another name until the end, as btrfs names what it has no place for yet.
    let is_late = |n: u64| n % 100 == 7;
    let data = |n: u64| noise(n, 700 + (n % 50) as usize);
    world.source.lock().unwrap().extend((0..FILES).map(|n| (new(n), data(n))));
    let mut peak = 0;
    let sealed = world
        .run(&state_id(0), None, &mut |apply| {
            let mut give = |op: Op| {
                op.with(|change| apply.change(change))?;
                peak = peak.max(apply.state.tree.charge_bytes);
                Ok::<_, Error>(())
            };
            give(Op::Create("d".into(), FileKind::Dir, Some(900)))?;
            for n in 0..FILES {
                give(Op::Create(old(n), FileKind::File, Some(1000 + n)))?;
                if !is_late(n) {
                    give(Op::Rename(old(n), new(n)))?;
                }
                let path = if is_late(n) { old(n) } else { new(n) };
                give(Op::Changed(path, 0, data(n).len() as u64))?;
            }
            (0..FILES).filter(|n| is_late(*n)).try_for_each(|n| give(Op::Rename(old(n), new(n))))
        })
        .unwrap();
    let each = peak as u64 / FILES;
    assert!(peak < 2 * limit_bytes, "{peak} bytes at most, {each} for each file: it grows with the files");
    let seen = world.read_back(&sealed);
    assert!((0..FILES).all(|n| seen[&new(n)].data == data(n)));
}

#[test]
fn an_exbibyte_of_nothing_costs_nothing() {
    let world = World::new();
    let f = || "f".to_owned();
    let ops = [
        Op::Create(f(), FileKind::File, Some(257)),
        Op::Truncate(f(), 1 << 60),
        Op::Write(f(), (1 << 59) + 5, b"in the middle".to_vec()),
        Op::Zero(f(), 0, 1 << 58, false),
    ];
    let sealed = world.ingest(None, &ops).unwrap();
    assert_eq!(extents_of(&world, &sealed, 257).map(|(at, e)| (at, e.len)).collect::<Vec<_>>(), [(1 << 59, 4096)]);
    world.reset_counts();
    let ops = [
        Op::Truncate(f(), 0),
        Op::Truncate(f(), (1 << 62) + 1),
        Op::Create("g".into(), FileKind::File, Some(258)),
        Op::Clone { to: "g".into(), offset: 1 << 61, state: Some(0), from: f(), from_offset: 0, len: 1 << 60 },
        Op::Zero("g".into(), 0, 1 << 62, true),
        Op::Write("g".into(), 1 << 62, b"x".to_vec()),
    ];
    let sealed = world.ingest(Some(0), &ops).unwrap();
    assert_eq!(extents_of(&world, &sealed, 257).count(), 0);
    assert_eq!(extents_of(&world, &sealed, 258).map(|(at, e)| (at, e.len)).collect::<Vec<_>>(), [(1 << 62, 1)]);
    assert!(world.touched.lock().unwrap().len() < 10);
    assert_eq!(world.chunk_reads.load(Relaxed), 0);
}

#[test]
fn segments_behind_the_first_gib_are_longer_and_searched_twice() {
    for (offset, search, bytes) in [(0, Search::Once, 256 << 10), (1 << 30, Search::Twice, 384 << 10)] {
        let world = World::new();
        let ops =
            [Op::Create("f".into(), FileKind::File, Some(257)), Op::Write("f".into(), offset, noise(9, 6_000_000))];
        world.ingest(None, &ops).unwrap();
        let segments = world.segments.lock().unwrap();
        assert!(segments.iter().all(|(how, _)| *how == search), "{segments:?}");
        // As near to that as chunks allow; the others are the ends of the workers.
        let full = segments.iter().filter(|(_, len)| len.abs_diff(bytes) <= 16 << 10).count();
        assert!(full * bytes > 3_000_000 && full + 2 >= segments.len(), "{segments:?}");
    }
}

#[test]
fn a_clone_of_a_large_file_reads_nothing() {
    let world = World { chunk_bytes: DEFAULT_CHUNKS, ..World::new() };
    image(&world, 250_000);
    let create = || Op::Create("copy".into(), FileKind::File, Some(3));
    let clone = |offset: u64, from_offset: u64, len: u64| {
        let (to, from) = ("copy".into(), "sda.raw".into());
        Op::Clone { to, offset, state: Some(0), from, from_offset, len }
    };
    // All of it, in one step and in steps of 128 MiB as btrfs makes them.
    let steps = (0..TIB >> 27).map(|n| clone(n << 27, n << 27, 1 << 27));
    let whole = world.ingest(Some(0), &[create(), clone(0, 0, TIB)]).unwrap();
    let stepwise = world.ingest(Some(0), &std::iter::once(create()).chain(steps).collect::<Vec<_>>()).unwrap();
    assert_eq!(whole, stepwise);
    let rows = |ino| extents_of(&world, &whole, ino);
    assert!(rows(2).eq(rows(3)), "the copy has other extents");
    assert_eq!((world.chunk_reads.load(Relaxed), world.new_chunks.load(Relaxed)), (0, 0));
    // Into the middle of nothing: whole chunks from the first cut on, as the copy's run begins there, too.
    let shifted = world.ingest(Some(0), &[create(), clone(1 << 30, 0, 250_000 * CHUNK + (1 << 20))]).unwrap();
    assert_eq!(extents_of(&world, &shifted, 3).count(), 250_000);
    assert_eq!((world.chunk_reads.load(Relaxed), world.new_chunks.load(Relaxed)), (0, 0));
}
