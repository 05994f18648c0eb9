//! The law: a disk read whole, and its base with the differences applied, end in the same tree. Every producer of
//! differences has its rows here. Seeds are printed; RELICT_SEED repeats a run.

use crate::rig::{Random, Rig};
use crate::tools::{
    Server, cat, corpus, have, ingest, last_point, listed, notes, our_list, points, run, scribble, sha256, write_sparse,
};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
const DISK_BYTES: usize = (24 << 20) + 512 * 7;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk with something on it.
fn first_disk(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut disk = vec![0; bytes];
    scribble(random, &mut disk, 60, 400_000);
    disk
}

/// Writes a disk beside the others.
fn disk_file(rig: &Rig, name: &str, disk: &[u8]) -> PathBuf {
    let path = rig.path(name);
    write_sparse(&path, disk);
    path
}

/// The last point's disk is this, and was made by differences.
fn by_differences(rig: &Rig, disk: &[u8]) {
    let point = last_point(rig);
    assert!(notes(&point).contains("by differences"), "{}", notes(&point));
    assert!(cat(rig, &point, "sda.raw") == disk, "the disk is another one");
}

#[test]
fn our_own_list() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let mut disk = first_disk(&mut random, DISK_BYTES);
    let image = disk_file(&rig, "0.raw", &disk);
    ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--state", "s0"]);
    for round in 1..=4 {
        let (writes, most) = ([0, 1, 20, 120][round - 1], [0, 512, 300_000, 5000][round - 1]);
        let changed = listed(scribble(&mut random, &mut disk, writes, most));
        // The other half of the rounds says it in larger pieces than it is.
        let rough = changed
            .iter()
            .map(|(at, len)| (at / 65536 * 65536, ((at + len).div_ceil(65536) * 65536).min(disk.len() as u64), true));
        let rough = listed(rough.map(|(start, end, zero)| (start, end - start, zero)).collect());
        let list = rig.path("changed.json");
        std::fs::write(
            &list,
            our_list(&format!("s{}", round - 1), disk.len(), if round % 2 == 0 { &rough } else { &changed }),
        )
        .unwrap();
        let image = disk_file(&rig, &format!("{round}.raw"), &disk);
        let state = format!("s{round}");
        let difference =
            ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--extents", text(&list), "--state", &state]);
        by_differences(&rig, &disk);
        let whole = ingest(&rig, &["image", text(&image), "--source", &format!("whole{round}:vm/sda")]);
        assert_eq!(difference.root, whole.root, "round {round}");
        let compared = ingest(&rig, &["image", text(&image), "--source", "compared:vm/sda"]);
        assert_eq!(compared.root, whole.root, "read and compared, round {round}");
    }
}

#[test]
fn a_disk_that_grows_and_shrinks() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let mut disk = first_disk(&mut random, 8 << 20);
    let image = disk_file(&rig, "0.raw", &disk);
    ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--state", "s0"]);
    for (round, bytes) in [(10 << 20) + 512, (3 << 20) + 1536, 12 << 20].into_iter().enumerate() {
        let before = disk.len();
        disk.resize(bytes, 0);
        let new = random.bytes(bytes.saturating_sub(before) / 2);
        disk[before.min(bytes)..before.min(bytes) + new.len()].copy_from_slice(&new);
        // The list says nothing of what was added.
        let changed = listed(scribble(&mut random, &mut disk[..before.min(bytes)], 10, 50_000));
        let list = rig.path("changed.json");
        std::fs::write(&list, our_list(&format!("s{round}"), bytes, &changed)).unwrap();
        let image = disk_file(&rig, &format!("{}.raw", round + 1), &disk);
        let state = format!("s{}", round + 1);
        let difference =
            ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--extents", text(&list), "--state", &state]);
        by_differences(&rig, &disk);
        let whole = ingest(&rig, &["image", text(&image), "--source", &format!("whole{round}:vm/sda")]);
        assert_eq!(difference.root, whole.root, "{bytes} bytes");
    }
}

/// Commands for qemu-io that write to a disk.
fn qemu_writes(random: &mut Random, writes: u64, most: u64) -> Vec<String> {
    let one = |_| {
        let len = 512 * (1 + random.below(most));
        let at = 512 * random.below((DISK_BYTES as u64 - len) / 512);
        match random.below(8) {
            0..5 => format!("write -P {} {at} {len}", 1 + random.below(255)),
            5..7 => format!("write -z {at} {len}"),
            _ => format!("discard {} 65536", at / 65536 * 65536),
        }
    };
    (0..writes).map(one).collect()
}

fn qemu_io(image: &Path, commands: &[String]) {
    let mut args = vec!["-f", "qcow2"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(text(image));
    let said = run("qemu-io", &args);
    assert!(!said.contains("error") && !said.contains("failed"), "{said}");
}

fn as_raw(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("as-raw");
    run("qemu-img", &["convert", "-O", "raw", text(image), text(&raw)]);
    std::fs::read(raw).unwrap()
}

#[test]
fn dirty_bitmaps_of_qcow2() {
    if !have(&["qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon"]) {
        return;
    }
    let rig = Rig::new();
    let mut random = Random::from_env();
    let image = rig.path("disk.qcow2");
    let cluster = ["cluster_size=65536", "cluster_size=4096"][random.below(2) as usize];
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", cluster, text(&image), &DISK_BYTES.to_string()]);
    qemu_io(&image, &qemu_writes(&mut random, 20, 300));
    run("qemu-img", &["bitmap", "--add", "-g", "65536", text(&image), "bk0"]);
    {
        let server = Server::storage_daemon(&image, &[]);
        ingest(&rig, &["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--state", "bk0"]);
    }
    for round in 0..3 {
        qemu_io(&image, &qemu_writes(&mut random, 8 + 20 * round, 40 * (round + 1)));
        let (old, new) = (format!("bk{round}"), format!("bk{}", round + 1));
        run("qemu-img", &["bitmap", "--add", "-g", "65536", text(&image), &new]);
        run("qemu-img", &["bitmap", "--disable", text(&image), &old]);
        let disk = as_raw(&image);
        // Both of QEMU's servers.
        let server = if round == 1 {
            Server::qemu_nbd(&image, "qcow2", Some(&old))
        } else {
            Server::storage_daemon(&image, &[&old])
        };
        let difference =
            ingest(&rig, &["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--bitmap", &old, "--state", &new]);
        by_differences(&rig, &disk);
        let whole = ingest(&rig, &["image", "--nbd", &server.uri, "--source", &format!("whole{round}:vm/sda")]);
        assert_eq!(difference.root, whole.root, "round {round}");
        assert!(
            difference.counts.read_bytes < whole.counts.read_bytes,
            "{} and {}",
            difference.counts.read_bytes,
            whole.counts.read_bytes
        );
    }
}

#[test]
fn dirty_bitmaps_of_the_corpus() {
    let Some(corpus) = corpus("qcow2-s11") else { return };
    if !have(&["qemu-img", "qemu-storage-daemon", "zstd"]) {
        return;
    }
    let rig = Rig::new();
    let (image, base) = (rig.path("disk.qcow2"), rig.path("base.raw"));
    for (from, to) in [("disk.qcow2.zst", &image), ("step0.raw.zst", &base)] {
        run("zstd", &["-q", "-d", text(&corpus.join(from)), "-o", text(to)]);
    }
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(corpus.join("expected.json")).unwrap()).unwrap();
    assert_eq!(sha256(&base), expected["steps"][0]["sha256"]);
    // The two bitmaps are of two steps: together they are against the first state.
    run("qemu-img", &["bitmap", "--add", "-g", "65536", text(&image), "both"]);
    run("qemu-img", &["bitmap", "--disable", text(&image), "both"]);
    run("qemu-img", &["bitmap", "--merge", "bk0", "--merge", "bk1", text(&image), "both"]);
    ingest(&rig, &["image", text(&base), "--source", "a:vm/sda", "--state", "step0"]);
    let server = Server::storage_daemon(&image, &["both", "bk1"]);
    let args = ["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--bitmap", "both", "--base", "step0"];
    let difference = ingest(&rig, &args);
    let out = rig.path("out.raw");
    std::fs::write(&out, cat(&rig, &difference, "sda.raw")).unwrap();
    assert_eq!(sha256(&out), expected["steps"][2]["sha256"]);
    let how = format!("by differences: the bitmap 'both', {} bytes", expected["dirty_bytes"]);
    assert!(notes(&difference).contains(&how), "{}", notes(&difference));
    let whole = ingest(&rig, &["image", "--nbd", &server.uri, "--source", "whole:vm/sda"]);
    assert_eq!(difference.root, whole.root);
}

#[test]
fn the_map_of_an_overlay() {
    if !have(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let rig = Rig::new();
    let mut random = Random::from_env();
    let base = disk_file(&rig, "base.raw", &first_disk(&mut random, DISK_BYTES));
    ingest(&rig, &["image", text(&base), "--source", "a:vm/sda", "--state", "before"]);
    let overlay = rig.path("overlay.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "raw", text(&overlay)]);
    qemu_io(&overlay, &qemu_writes(&mut random, 25, 200));
    let map = rig.path("map.json");
    std::fs::write(&map, run("qemu-img", &["map", "--output=json", text(&overlay)])).unwrap();
    let server = Server::qemu_nbd(&overlay, "qcow2", None);
    let difference = ingest(
        &rig,
        &["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--extents", text(&map), "--base", "before"],
    );
    by_differences(&rig, &as_raw(&overlay));
    let whole = ingest(&rig, &["image", "--nbd", &server.uri, "--source", "whole:vm/sda"]);
    assert_eq!(difference.root, whole.root);
}

/// A pool's data blocks, as the devices' mappings lay them out.
fn mapped(pool: &[u8], block: usize, blocks: usize, mappings: &[(usize, usize, usize)]) -> Vec<u8> {
    let mut out = vec![0; block * blocks];
    for (origin, data, length) in mappings {
        out[origin * block..(origin + length) * block].copy_from_slice(&pool[data * block..(data + length) * block]);
    }
    out
}

#[test]
fn thin_delta_of_two_snapshots() {
    if !have(&["thin_restore", "thin_delta"]) {
        return;
    }
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let (block, blocks) = (64 * 1024, 220);
    let pool = random.bytes(block * 1024);
    let left = [(0, 0, 30), (100, 100, 10), (150, 400, 4)];
    let right = [(0, 0, 5), (5, 500, 3), (8, 8, 20), (100, 100, 10), (200, 600, 5)];
    let device = |id: u32, mappings: &[(usize, usize, usize)]| {
        let ranges: String = mappings
            .iter()
            .map(|(origin, data, length)| {
                format!(r#"<range_mapping origin_begin="{origin}" data_begin="{data}" length="{length}" time="0"/>"#)
            })
            .collect();
        let mapped: usize = mappings.iter().map(|(_, _, length)| length).sum();
        format!(
            r#"<device dev_id="{id}" mapped_blocks="{mapped}" transaction="{id}" creation_time="0" snap_time="1">{ranges}</device>"#
        )
    };
    let (xml, metadata) = (rig.path("meta.xml"), rig.path("meta.bin"));
    let head = r#"<superblock uuid="" time="2" transaction="3" flags="0" version="1" data_block_size="128" nr_data_blocks="1024">"#;
    std::fs::write(&xml, format!("{head}{}{}</superblock>", device(1, &left), device(2, &right))).unwrap();
    std::fs::File::create(&metadata).unwrap().set_len(4 * MIB).unwrap();
    run("thin_restore", &["-q", "-i", text(&xml), "-o", text(&metadata)]);
    let before = disk_file(&rig, "left.raw", &mapped(&pool, block, blocks, &left));
    ingest(&rig, &["image", text(&before), "--source", "a:vm/sda", "--state", "1"]);
    let disk = mapped(&pool, block, blocks, &right);
    let after = disk_file(&rig, "right.raw", &disk);
    let whole = ingest(&rig, &["image", text(&after), "--source", "whole:vm/sda"]);
    for verbose in [&[][..], &["--verbose"]] {
        let list = rig.path("delta.xml");
        let delta = run("thin_delta", &[verbose, &["--snap1", "1", "--snap2", "2", text(&metadata)]].concat());
        std::fs::write(&list, delta).unwrap();
        // Which snapshot it is against, thin_delta says itself.
        let difference = ingest(&rig, &["image", text(&after), "--source", "a:vm/sda", "--extents", text(&list)]);
        by_differences(&rig, &disk);
        assert_eq!(difference.root, whole.root, "{verbose:?}");
    }
}

/// A disk with a GPT: data, and a swap partition with pages in it.
fn disk_with_swap(rig: &Rig, random: &mut Random) -> (PathBuf, std::ops::Range<usize>) {
    use std::io::Write;
    let path = rig.path("swap.raw");
    std::fs::write(&path, random.bytes(24 << 20)).unwrap();
    let mut sfdisk = Command::new("sfdisk").arg("-q").arg(&path).stdin(std::process::Stdio::piped()).spawn().unwrap();
    sfdisk
        .stdin
        .take()
        .unwrap()
        .write_all(b"label: gpt\nstart=2048, size=8192, type=L\nstart=10247, size=16000, type=S\n")
        .unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let space = rig.path("swap-space");
    std::fs::File::create(&space).unwrap().set_len(16000 * 512).unwrap();
    run("mkswap", &["-q", "-L", "pages", text(&space)]);
    let header = std::fs::read(&space).unwrap();
    let disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    disk.write_all_at(&header[..4096], 10247 * 512).unwrap();
    (path, 10247 * 512 + 4096..26247 * 512)
}

#[test]
fn swap_that_is_left_out_and_taken_in_again() {
    if !have(&["sfdisk", "mkswap"]) {
        return;
    }
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let (image, pages) = disk_with_swap(&rig, &mut random);
    let first = ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--state", "s0", "--skip-swap"]);
    let said = format!(
        "left out: the pages of swap partition 2, {} bytes at {}; its header is kept",
        pages.len(),
        pages.start
    );
    assert!(notes(&first).contains(&said), "{}", notes(&first));
    let content = std::fs::read(&image).unwrap();
    let mut without = content.clone();
    without[pages.clone()].fill(0);
    assert!(cat(&rig, &first, "sda.raw") == without);
    // Something changes, in the swap partition too.
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    let marks: [(u64, u64); 2] = [(3 * MIB, 5000), (7 * MIB, 4096)];
    for (at, len) in marks {
        file.write_all_at(&random.bytes(len as usize), at).unwrap();
    }
    let list = rig.path("changed.json");
    std::fs::write(&list, our_list("s0", content.len(), &marks)).unwrap();
    let args = ["image", text(&image), "--source", "a:vm/sda", "--extents", text(&list)];
    let again = ingest(&rig, &[&args[..], &["--skip-swap"]].concat());
    let whole = ingest(&rig, &["image", text(&image), "--source", "whole:vm/sda", "--skip-swap"]);
    assert!(notes(&again).contains("by differences") && again.root == whole.root, "{}", notes(&again));
    // The list says that nothing else changed, and the base does not have the pages.
    let taken_in = ingest(&rig, &args);
    by_differences(&rig, &std::fs::read(&image).unwrap());
    let whole = ingest(&rig, &["image", text(&image), "--source", "kept:vm/sda"]);
    assert_eq!(taken_in.root, whole.root);
}

/// Reading and writing is in proportion to the change, not to the disk: counted, on a disk of a tebibyte.
#[test]
fn a_change_costs_what_it_is() {
    const CHANGED: u64 = 20 * MIB;
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let image = rig.path("large.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(1 << 40).unwrap();
    for n in 0..64 {
        file.write_all_at(&random.bytes(1 << 20), n << 34).unwrap();
    }
    let first = ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--state", "s0"]);
    // Behind each piece a little more is read, to know where it ends.
    assert!(first.counts.read_bytes < 64 * (MIB + MIB / 3), "holes were read: {}", first.counts.read_bytes);
    let changed: Vec<(u64, u64)> = (0..80).map(|n| (n * (12 << 30) + (n << 12), CHANGED / 80)).collect();
    for (at, len) in &changed {
        file.write_all_at(&random.bytes(*len as usize), *at).unwrap();
    }
    let list = rig.path("changed.json");
    std::fs::write(&list, our_list("s0", 1 << 40, &changed)).unwrap();
    let args = ["image", text(&image), "--source", "a:vm/sda", "--extents", text(&list)];
    let second = ingest(&rig, &args);
    assert!(notes(&second).contains("by differences"), "{}", notes(&second));
    let counts = second.counts;
    assert!((CHANGED..CHANGED + 2 * MIB).contains(&counts.read_bytes), "{counts:?}");
    // A cut before and behind each range may move.
    assert!(counts.new_bytes < CHANGED + 80 * 3 * 256 * 1024, "{counts:?}");
    let whole = ingest(&rig, &["image", text(&image), "--source", "whole:vm/sda"]);
    assert_eq!(second.root, whole.root);
}

#[test]
fn the_mount_and_restore_give_the_disk_back_sparse() {
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let mut disk = vec![0; 64 << 20];
    scribble(&mut random, &mut disk[..8 << 20], 20, 200_000);
    let image = disk_file(&rig, "disk.raw", &disk);
    let point = ingest(&rig, &["image", text(&image), "--source", "kvm1:vm/sda"]);
    assert_eq!((point.host.as_slice(), point.source.as_slice()), (&b"kvm1"[..], &b"vm/sda"[..]));
    rig.mount();
    let mounted = rig.path("mnt/latest/sda.raw");
    let copy = rig.path("copy.raw");
    run("cp", &["-a", text(&mounted), text(&copy)]);
    rig.relict(&["--quiet", "restore", "latest:/sda.raw", "-t", text(&rig.path("restored.raw"))]);
    let restored = rig.path("restored.raw");
    for path in [&mounted, &copy, &restored] {
        assert_eq!(sha256(path), sha256(&image), "{}", path.display());
        let meta = std::fs::metadata(path).unwrap();
        assert!(meta.blocks() * 512 < 9 << 20, "{} has {} blocks", path.display(), meta.blocks());
        assert_eq!(meta.modified().unwrap(), std::fs::metadata(&image).unwrap().modified().unwrap());
    }
    rig.umount();
}

#[test]
fn a_block_device_is_read_to_its_end() {
    if !have(&["losetup"]) {
        return;
    }
    struct Loop(String);
    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["-d", &self.0]).status();
        }
    }
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let disk = first_disk(&mut random, 8 << 20);
    let image = disk_file(&rig, "disk.raw", &disk);
    let device = Loop(run("losetup", &["-f", "--show", text(&image)]).trim().to_owned());
    let point = ingest(&rig, &["image", &device.0, "--source", "kvm1:vm/sda"]);
    assert!(cat(&rig, &point, "sda.raw") == disk);
    assert_eq!(points(&rig).len(), 1);
}
