//! What moves, goes away or changes between two scans or in the middle of one.

use super::*;

impl World {
    /// Small files, a large one, and an empty directory that the walk comes to later.
    fn with_large(name: &str, bytes: usize) -> Self {
        let world = Self::new();
        (0..200).for_each(|n| world.write(&format!("a{n}"), &noise(n, 5000)));
        world.write(name, &noise(9, bytes));
        fs::create_dir(world.at("other")).unwrap();
        world
    }

    /// Acts in the next scan, once it has listed a file of `bytes`.
    fn when_listed(&self, bytes: u64, act: impl FnOnce() + Send + 'static) {
        *self.watch.at_file_of.lock().unwrap() = Some((bytes, Box::new(act)));
    }

    /// The same for names that go away then.
    fn go_when_listed(&self, bytes: u64, names: &[&str]) {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.at(name)).collect();
        self.when_listed(bytes, move || paths.iter().for_each(|path| fs::remove_file(path).unwrap()));
    }

    /// A file that is renamed keeps its inode number: it is known by its number in the source.
    fn keeps_its_number(&mut self, name: &str, new_name: &str) {
        self.scan();
        let ino = self.ino_of(name);
        fs::rename(self.at(name), self.at(new_name)).unwrap();
        self.scan();
        assert_eq!(self.ino_of(new_name), ino);
    }

    /// The extents of a source with one file.
    pub(super) fn extents(&self, point: &Point) -> Vec<(u64, Vec<u8>)> {
        let at = |(key, value): (Vec<u8>, Vec<u8>)| match Key::decode(&key) {
            Ok(Key::Extent(_, at)) => Some((at, value)),
            _ => None,
        };
        self.dump(point).into_iter().filter_map(at).collect()
    }
}

/// What the old state knows of cuts is of use only where the content says the same.
#[test]
fn a_large_file_that_changes_is_cut_as_if_there_were_no_old_state() {
    let mut world = World::new();
    let mut content = noise(1, 1_200_000);
    let mut random = noise(2, 100_000).into_iter();
    let mut below = |n: usize| (0..4).fold(0, |r, _| (r << 8) | random.next().unwrap() as usize) % n;
    for round in 0..120 {
        let (at, len) = (below(content.len()), 1 + below(60_000));
        let end = (at + len).min(content.len());
        // Where a chunk of the state before begins.
        let cuts = if round == 0 { Vec::new() } else { world.extents(&world.last) };
        let cut = cuts.get(below(cuts.len().max(1))).map_or(4096, |(at, _)| *at as usize);
        match below(8) {
            0 => content[at..end].copy_from_slice(&noise(round + 10, end - at)),
            1 => content[at / 4096 * 4096..end].fill(0),
            2 => drop(content.splice(at..at, noise(round + 10, len))),
            3 => drop(content.drain(at..end)),
            4 => content.extend(noise(round + 10, len)),
            // The end of the file, or of a run of data, where an old cut was.
            5 => content.truncate(cut.max(1_000_000)),
            6 => content[cut.next_multiple_of(4096).min(end)..end].fill(0),
            // Holes become data again.
            _ => {
                for (at, block) in content.chunks_mut(4096).enumerate().filter(|(at, _)| at % 7 == round as usize % 7) {
                    if block.iter().all(|byte| *byte == 0) {
                        block.copy_from_slice(&noise(at as u64 + 1, block.len()));
                    }
                }
            }
        }
        if content.len() < 1_100_000 {
            content.extend(noise(round + 10, 200_000));
        }
        world.write("file", &content);
        world.scan();
        let (now, fresh) = (world.extents(&world.last), world.scan_from(&Point::default(), false).point);
        let fresh = world.extents(&fresh);
        let first = now.iter().zip(&fresh).find(|(a, b)| a != b).map(|(a, b)| (a.0, b.0));
        assert!(now == fresh, "round {round}: {} and {} chunks, first at {first:?}", now.len(), fresh.len());
    }
}

#[test]
fn files_that_go_away_during_the_scan_are_left_out_whole() {
    let mut world = World::new();
    for n in 0..600 {
        world.write(&format!("f{n}"), &noise(n, 2000));
    }
    for n in 0..20 {
        fs::hard_link(world.at("f599"), world.at(&format!("a{n}"))).unwrap();
    }
    world.write("g-large", &noise(7, 4_000_000));
    world.write("h0", b"shared");
    (1..20).for_each(|n| fs::hard_link(world.at("h0"), world.at(&format!("h{n}"))).unwrap());
    world.scan();
    // All are to be read again; when the first batch is hashed, most are gone.
    world.write("h0", b"shared and new");
    for n in 0..600 {
        world.write(&format!("f{n}"), &noise(n + 1000, 2000));
    }
    let source = world.source.clone();
    let go = move || {
        (100..600).for_each(|n| fs::remove_file(source.join(format!("f{n}"))).unwrap());
        (0..20).for_each(|n| fs::remove_file(source.join(format!("a{n}"))).unwrap());
        (0..19).for_each(|n| fs::remove_file(source.join(format!("h{n}"))).unwrap());
    };
    *world.sink.at_first_claim.lock().unwrap() = Some(Box::new(go));
    let made = world.scan_from(&world.last, false);
    let gone = made.findings.iter().filter(|(severity, _)| *severity == Severity::Note).count();
    let worse: Vec<_> = made.findings.iter().filter(|(severity, _)| *severity != Severity::Note).collect();
    assert!(gone > 0 && worse.is_empty(), "{worse:?}");
    assert_eq!(made.counts.errors, 0, "the file with a name that is still there was read by that");
    assert!(made.findings.iter().any(|(_, what)| what.contains("another of its names")), "{:?}", made.findings);
    let tree = Tree::read(&world, &made.point);
    tree.check_whole(&made.point);
    let files = tree.inodes.values().filter(|inode| inode.kind() == FileKind::File);
    assert_eq!(files.count() as u64, made.counts.files);
    world.last = made.point;
    // All names that the listing saw, but the one that was found to be gone.
    assert_eq!((world.inode("h19").nlink, world.inode("h19").size), (19, 14));
    world.scan();
}

#[test]
fn a_large_file_is_read_by_another_name_too() {
    let mut world = World::with_large("dir/first", 4_000_000);
    for name in ["name", "stays", "gone"] {
        fs::hard_link(world.at("dir/first"), world.at(&format!("other/{name}"))).unwrap();
    }
    world.go_when_listed(4_000_000, &["dir/first", "other/gone"]);
    let made = world.scan_from(&Point::default(), false);
    Tree::read(&world, &made.point).check_whole(&made.point);
    assert_eq!(made.counts.errors, 0, "{:?}", made.findings);
    assert!(made.findings.iter().any(|(_, what)| what.contains("another of its names")), "{:?}", made.findings);
    world.last = made.point;
    assert_eq!(world.inode("other/name").size, 4_000_000);
    world.scan();
}

#[test]
fn a_file_that_moves_before_it_is_read_is_known_at_its_new_place() {
    let mut world = World::with_large("dir/file", 4_000_000);
    let (from, to) = (world.at("dir/file"), world.at("other/file"));
    // `other` is listed ahead, or when the walk comes to it: both is right.
    world.when_listed(4_000_000, move || fs::rename(from, to).unwrap());
    let made = world.scan_from(&Point::default(), false);
    Tree::read(&world, &made.point).check_whole(&made.point);
    assert_eq!(made.findings, [(Severity::Note, "it went away before it was read".to_owned())]);
    world.last = made.point;
    world.keeps_its_number("other/file", "dir/again");
}

#[test]
fn a_file_whose_place_is_taken_before_it_is_read_is_known_at_its_new_place() {
    for was_there in [false, true] {
        let mut world = World::with_large("dir/file", 4_000_000);
        if was_there {
            world.scan();
            world.write("dir/file", &noise(8, 4_000_000));
        }
        let (from, to) = (world.at("dir/file"), world.at("other/file"));
        world.when_listed(4_000_000, move || {
            fs::rename(&from, to).unwrap();
            fs::write(from, b"another").unwrap();
        });
        world.last = world.scan_from(&world.last, false).point;
        assert_eq!(world.inode("dir/file").source, None, "it is not what was listed");
        world.keeps_its_number("other/file", "dir/again");
    }
}

#[test]
fn a_file_with_names_that_are_all_gone_is_left_out_under_all() {
    let mut world = World::with_large("first", 2_000_000);
    fs::hard_link(world.at("first"), world.at("second")).unwrap();
    world.go_when_listed(2_000_000, &["first", "second"]);
    let made = world.scan_from(&Point::default(), false);
    assert_eq!(made.findings, [(Severity::Note, "it went away before it was read, under all its names".to_owned())]);
    Tree::read(&world, &made.point).check_whole(&made.point);
    world.last = made.point;
    world.scan();
}
