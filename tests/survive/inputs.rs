//! What operations read: a directory, a disk with the list of what changed in it, RBD streams, btrfs streams.

use crate::rig::Random;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const DISK_BYTES: usize = 4 << 20;

/// Some of everything: small and larger files, a hole, a hard link, an attribute, a symbolic link; a disk and its streams.
pub fn fill(dir: &Path, random: &mut Random) {
    let source = dir.join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..30 {
        let len = random.below(9000) as usize;
        std::fs::write(source.join(format!("small-{number}")), random.bytes(len)).unwrap();
    }
    std::fs::write(source.join("large"), random.bytes(900_000)).unwrap();
    let holes = std::fs::File::create(source.join("holes")).unwrap();
    holes.set_len(3_000_000).unwrap();
    holes.write_all_at(&random.bytes(5000), 2_000_000).unwrap();
    std::fs::hard_link(source.join("small-1"), source.join("link")).unwrap();
    std::os::unix::fs::symlink("small-2", source.join("symlink")).unwrap();
    let mut disk = vec![0; DISK_BYTES];
    for _ in 0..12 {
        scribble(&mut disk, random);
    }
    std::fs::write(dir.join("disk"), &disk).unwrap();
    streams(dir, &mut disk, random);
    for (name, step) in [("step0", "step0.v2-compressed.btrfs"), ("step1", "step1.v2-compressed.btrfs")] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/btrfs/s1").join(step), dir.join(name))
            .unwrap();
    }
}

/// Changes the directory, and the disk, whose list says where.
pub fn change(dir: &Path, random: &mut Random) {
    let source = dir.join("source");
    let name = |random: &mut Random| source.join(format!("small-{}", 3 + random.below(40)));
    for _ in 0..6 {
        let (path, len) = (name(random), random.below(20_000) as usize);
        std::fs::write(path, random.bytes(len)).unwrap();
    }
    let _ = std::fs::rename(name(random), source.join(format!("moved-{}", random.below(5))));
    let large = std::fs::OpenOptions::new().write(true).open(source.join("large")).unwrap();
    large.write_all_at(&random.bytes(50_000), random.below(800_000)).unwrap();
    let mut disk = std::fs::read(dir.join("disk")).unwrap();
    let mut ranges: Vec<(u64, u64)> = (0..3).map(|_| scribble(&mut disk, random)).collect();
    std::fs::write(dir.join("disk"), &disk).unwrap();
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (at, len) in ranges {
        match joined.last_mut() {
            Some(last) if at <= last.0 + last.1 => last.1 = last.1.max(at + len - last.0),
            _ => joined.push((at, len)),
        }
    }
    let one = |(offset, length): &(u64, u64)| format!(r#"{{"offset": {offset}, "length": {length}}}"#);
    let list = joined.iter().map(one).collect::<Vec<_>>().join(", ");
    let text = format!(r#"{{"format": "relict-extents-1", "base": "s1", "size": {DISK_BYTES}, "changed": [{list}]}}"#);
    std::fs::write(dir.join("list"), text).unwrap();
}

/// Writes somewhere, data mostly and zeros sometimes; where and how much.
fn scribble(disk: &mut [u8], random: &mut Random) -> (u64, u64) {
    let len = 512 * (1 + random.below(200));
    let at = 512 * random.below((disk.len() as u64 - len) / 512);
    let range = at as usize..(at + len) as usize;
    if random.below(5) == 0 {
        disk[range].fill(0);
    } else {
        disk[range].copy_from_slice(&random.bytes(len as usize));
    }
    (at, len)
}

/// `full`: the disk as a diff from nothing to snapshot s1. `diff`: from s1 to s2.
fn streams(dir: &Path, disk: &mut [u8], random: &mut Random) {
    let begin = |from: Option<&str>, to: &str| {
        let mut out = b"rbd diff v1\n".to_vec();
        for (tag, name) in from.map(|from| (b'f', from)).into_iter().chain([(b't', to)]) {
            out.push(tag);
            out.extend((name.len() as u32).to_le_bytes());
            out.extend(name.as_bytes());
        }
        out.push(b's');
        out.extend((DISK_BYTES as u64).to_le_bytes());
        out
    };
    let write = |out: &mut Vec<u8>, at: u64, bytes: &[u8]| {
        out.push(b'w');
        out.extend(at.to_le_bytes());
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    };
    let mut full = begin(None, "s1");
    for (number, block) in disk.chunks(65_536).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        write(&mut full, number as u64 * 65_536, block);
    }
    full.push(b'e');
    std::fs::write(dir.join("full"), full).unwrap();
    let mut diff = begin(Some("s1"), "s2");
    for _ in 0..3 {
        let (at, len) = scribble(disk, random);
        write(&mut diff, at, &disk[at as usize..(at + len) as usize]);
    }
    diff.push(b'e');
    std::fs::write(dir.join("diff"), diff).unwrap();
}

/// Where the argument of this name lies in a scene's directory.
pub fn place(dir: &Path, argument: &str) -> Option<PathBuf> {
    let names = ["SOURCE", "DISK", "LIST", "FULL", "DIFF", "STEP0", "STEP1", "COPY"];
    names.contains(&argument).then(|| dir.join(argument.to_lowercase()))
}
