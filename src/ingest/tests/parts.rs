//! Large files of which little has changed: several workers read them, each a part.

use super::*;

const MIB: usize = 1 << 20;

/// An image of noise with holes.
fn image(bytes: usize) -> Vec<u8> {
    let mut content = noise(1, bytes);
    (0..bytes).step_by(700_000).for_each(|at| content[at / 4096 * 4096..][..8192].fill(0));
    content
}

impl World {
    /// How many threads read a file that is as it was: readers hash all chunks but those that are hardly longer than the
    /// shortest.
    fn readers(&self) -> usize {
        self.sink.hashed.lock().unwrap().clear();
        self.sink.slow.store(true, Relaxed);
        let again = self.scan_from(&self.last, true);
        assert_eq!(again.edits, Vec::new());
        let hashed = self.sink.hashed.lock().unwrap();
        let all: usize = hashed.values().sum();
        hashed.values().filter(|chunks| **chunks > all / 10).count()
    }
}

#[test]
fn a_file_in_parts_is_cut_as_one_that_is_read_by_one() {
    let mut world = World::new();
    let mut content = image(64 * MIB);
    let mut random = noise(2, 10_000).into_iter();
    let mut below = |n: usize| (0..4).fold(0, |r, _| (r << 8) | random.next().unwrap() as usize) % n;
    world.write("file", &content);
    world.scan();
    for round in 0..8 {
        match round {
            // Little changes here and there.
            0..=3 => (0..round).for_each(|n| {
                let (at, len) = (below(content.len() - 9000), below(9000));
                content[at..at + len].copy_from_slice(&noise(n + 10, len));
            }),
            4 => content.truncate(48 * MIB + below(MIB)),
            5 => content.extend(image(20 * MIB + below(MIB))),
            // A hole where another reader would begin, or none.
            6 => (24..40).for_each(|at| content[at * MIB..][..MIB].fill(0)),
            _ => content[24 * MIB..56 * MIB].copy_from_slice(&noise(round, 32 * MIB)),
        }
        world.write("file", &content);
        world.sink.slow.store(true, Relaxed);
        world.scan();
        world.sink.slow.store(false, Relaxed);
        let fresh = world.scan_from(&Point::default(), false).point;
        let (now, fresh) = (world.extents(&world.last), world.extents(&fresh));
        let first = now.iter().zip(&fresh).find(|(a, b)| a != b).map(|(a, b)| (a.0, b.0));
        assert!(now == fresh, "round {round}: {} and {} chunks, first at {first:?}", now.len(), fresh.len());
        let inode = world.inode("file");
        assert_eq!(inode.size, content.len() as u64);
    }
}

#[test]
fn a_file_that_is_as_it_was_is_read_by_several_if_it_has_holes() {
    let mut world = World::new();
    world.write("file", &image(64 * MIB));
    world.scan();
    assert!(world.readers() > 1);
    world.write("file", &noise(1, 64 * MIB));
    world.scan();
    assert_eq!(world.readers(), 1);
}

#[test]
fn a_file_that_shrinks_while_several_read_it_ends_where_bytes_were_read() {
    for size in [0, 3 * MIB, 33 * MIB, 50 * MIB] {
        let mut world = World::new();
        let content = image(64 * MIB);
        world.write("file", &content);
        world.scan();
        let path = world.at("file");
        world.sink.hashed.lock().unwrap().clear();
        world.sink.slow.store(true, Relaxed);
        let cut = move || File::options().write(true).open(path).unwrap().set_len(size as u64).unwrap();
        *world.sink.at_second_hasher.lock().unwrap() = Some((500, Box::new(cut)));
        let made = world.scan_from(&world.last, true);
        let severities: Vec<_> = made.findings.iter().map(|(severity, _)| *severity).collect();
        assert_eq!((severities, made.counts.errors), (vec![Severity::Warning], 0), "{:?}", made.findings);
        Tree::read(&world, &made.point).check_whole(&made.point);
        world.last = made.point;
        let now = world.inode("file");
        assert!(now.size >= size as u64 && now.data_bytes <= now.size, "{now:?}");
        world.scan();
        assert_eq!(world.inode("file").size, size as u64);
    }
}
