//! What `make fuzz` begins with, and what it has found: every file of `fuzz/corpus` through the check of its target; and then,
//! for some seconds, what chance makes of these files. Chance knows nothing of the code it runs through: libFuzzer, by
//! `make fuzz`, looks deeper. This one needs nothing but the stable compiler, so it runs with all other tests.

extern crate relict as decoders;

#[path = "../fuzz/src/checks.rs"]
mod checks;

#[path = "support/rig.rs"]
mod rig;

use rig::Random;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that each target has at least, so that a corpus that went away is noticed.
const LEAST: usize = 7;

#[test]
fn every_file_of_the_corpus_ends_well() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut dirs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    dirs.sort();
    let mut names: Vec<_> = checks::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(dirs, names, "each target has a corpus, and each corpus a target");
    for (name, check) in checks::TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            // Printed only if the check panics.
            println!("{}", path.display());
            check(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= LEAST, "{name}: {files}");
    }
}

/// Longest input that chance makes.
const MOST_BYTES: usize = 64 << 10;

/// Runs the check of one target on what chance makes of its corpus, for `RELICT_FUZZ_SECONDS` (2 without it). An input that
/// fails is kept, and its path is printed.
fn by_chance(name: &str) {
    let (_, check) = *checks::TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let seconds = std::env::var("RELICT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let mut random = Random::from_env();
    let corpus = corpus_of(name);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0_u64;
    while Instant::now() < end {
        let input = changed(&corpus, &mut random);
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}", random.next()));
            fs::write(&path, &input).unwrap();
            panic!("{name} fails on {}: mend it, and copy that to fuzz/corpus/{name}", path.display());
        }
        runs += 1;
    }
    println!("{name}: {runs} inputs in {seconds} s");
    assert!(runs > 0);
}

fn corpus_of(name: &str) -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // In one order, so that a seed means the same everywhere.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One file of the corpus after a few accidents.
fn changed(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];
    let pick = |random: &mut Random| &corpus[random.below(corpus.len() as u64) as usize];
    let mut out = pick(random).clone();
    for _ in 0..=random.below(6) {
        let at = random.below(out.len() as u64 + 1) as usize;
        let len = (random.below(32) as usize).min(out.len() - at);
        match random.below(9) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..at + len)),
            2 => {
                let part = out[at..at + len].to_vec();
                drop(out.splice(at..at, part));
            }
            3 => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                let until = other.len().min(from + random.below(256) as usize);
                drop(out.splice(at..at + len, other[from..until].iter().copied()));
            }
            4 => {
                // A number in one of the widths and orders that formats have.
                let number = NUMBERS[random.below(10) as usize].wrapping_sub(random.below(2));
                let width = 1 << random.below(4);
                let bytes = if random.below(2) == 0 {
                    number.to_le_bytes()[..width].to_vec()
                } else {
                    number.to_be_bytes()[8 - width..].to_vec()
                };
                let end = out.len().min(at + width);
                drop(out.splice(at..end, bytes));
            }
            5 => drop(out.splice(at..at, random.bytes(len))),
            6 => out[at..at + len].fill(random.next() as u8),
            7 if at < out.len() => out[at] ^= 1 << random.below(8),
            _ if at < out.len() => out[at] = random.next() as u8,
            _ => out.push(random.next() as u8),
        }
    }
    out.truncate(MOST_BYTES);
    out
}

macro_rules! chance {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            by_chance(stringify!($name));
        })*

        const BY_CHANCE: &[&str] = &[$(stringify!($name)),*];
    };
}

chance!(btrfs rbd nbd extents partitions records segment package times words excludes);

#[test]
fn every_target_is_run_by_chance() {
    assert_eq!(checks::TARGETS.map(|(name, _)| name).as_slice(), BY_CHANCE);
}
