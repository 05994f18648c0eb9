//! Change tracking that is not to be believed: everything is read and compared, and the point says why.

use crate::rig::{Random, Rig};
use crate::tools::{Server, cat, have, ingest, notes, our_list, points, refused, run, scribble, write_sparse};
use std::path::{Path, PathBuf};
use std::process::Command;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Disk {
    rig: Rig,
    now: Vec<u8>,
    image: PathBuf,
    changed: Vec<(u64, u64)>,
}

/// A disk of which the state `s0` is in the repository, changed since.
fn changed_disk() -> Disk {
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let mut now = random.bytes(8 << 20);
    let image = rig.path("0.raw");
    write_sparse(&image, &now);
    ingest(&rig, &["image", text(&image), "--source", "a:vm/sda", "--state", "s0"]);
    let changed = crate::tools::listed(scribble(&mut random, &mut now[..6 << 20], 10, 40_000));
    // Without holes: what is read can be counted.
    let image = rig.path("1.raw");
    std::fs::write(&image, &now).unwrap();
    Disk { rig, now, image, changed }
}

impl Disk {
    /// Ingests with a list that must not be used.
    fn distrusts(&self, list: &str, args: &[&str], why: &str) {
        let path = self.rig.path("list");
        std::fs::write(&path, list).unwrap();
        let all = [&["image", text(&self.image), "--source", "a:vm/sda", "--extents", text(&path)], args].concat();
        let point = ingest(&self.rig, &all);
        let said = notes(&point);
        assert!(
            said.starts_with("read and compared completely: the list ") && said.contains(why),
            "{said}\nand not: {why}"
        );
        assert!(cat(&self.rig, &point, "sda.raw") == self.now, "{why}");
        assert_eq!(point.counts.read_bytes, self.now.len() as u64, "{why}");
    }
}

#[test]
fn lists_that_cannot_be_used() {
    let disk = changed_disk();
    let size = disk.now.len();
    let list = our_list("s0", size, &disk.changed);
    disk.distrusts("", &[], "it is no list of changed extents");
    disk.distrusts(&list[..list.len() - 9], &[], "the list of changed extents is not valid");
    disk.distrusts(&list.replace("extents-1", "extents-9"), &[], "not in the format relict-extents-1");
    disk.distrusts(
        &our_list("s7", size, &disk.changed),
        &[],
        "no restore point of this source is its base, the state 's7' (there: ",
    );
    disk.distrusts(&list, &["--base", "s7"], "the state 's7'");
    disk.distrusts(
        &our_list("s0", size + 512, &disk.changed),
        &[],
        "it is of a disk of 8389120 bytes, and this one has 8388608",
    );
    let map =
        format!(r#"[{{"start": 0, "length": {size}, "depth": 1, "present": true, "zero": false, "data": true}}]"#);
    disk.distrusts(&map, &[], "it does not say against which state it is; --base says it");
    let delta = r#"<superblock data_block_size="128"><diff left="1" right="2"><different begin="200" length="1"/></diff></superblock>"#;
    disk.distrusts(delta, &["--base", "s0"], "it names a range at 13107200, and the disk has 8388608 bytes");
    // Another source's state of that name is no base.
    let path = disk.rig.path("list");
    std::fs::write(&path, &list).unwrap();
    let other = ingest(&disk.rig, &["image", text(&disk.image), "--source", "b:vm/sda", "--extents", text(&path)]);
    assert!(notes(&other).contains("the state 's0' (there: none)"), "{}", notes(&other));
    // A list that is not there at all.
    std::fs::remove_file(&path).unwrap();
    let missing = ingest(&disk.rig, &["image", text(&disk.image), "--source", "a:vm/sda", "--extents", text(&path)]);
    assert!(notes(&missing).contains("it cannot be read: No such file"), "{}", notes(&missing));
    // And the good one is used.
    std::fs::write(&path, &list).unwrap();
    let good = ingest(&disk.rig, &["image", text(&disk.image), "--source", "a:vm/sda", "--extents", text(&path)]);
    assert!(notes(&good).starts_with("by differences"), "{}", notes(&good));
    assert_eq!(good.root, missing.root);
}

#[test]
fn a_list_of_another_base_is_found_out() {
    let disk = changed_disk();
    // Everything changed, and the list says: nearly nothing.
    let all = disk.rig.path("all.raw");
    write_sparse(&all, &disk.now.iter().map(|byte| !byte).collect::<Vec<u8>>());
    let path = disk.rig.path("list");
    std::fs::write(&path, our_list("s0", disk.now.len(), &[(0, 4096)])).unwrap();
    let point = ingest(&disk.rig, &["image", text(&all), "--source", "a:vm/sda", "--extents", text(&path)]);
    assert!(notes(&point).contains("the disk differs from its base at "), "{}", notes(&point));
    assert!(cat(&disk.rig, &point, "sda.raw") == std::fs::read(&all).unwrap());
}

#[test]
fn a_base_is_named_by_state_or_by_restore_point() {
    let disk = changed_disk();
    let first = points(&disk.rig).remove(0).id.to_string();
    let path = disk.rig.path("list");
    std::fs::write(&path, our_list("whatever", disk.now.len(), &disk.changed)).unwrap();
    let args = ["image", text(&disk.image), "--source", "a:vm/sda", "--extents", text(&path), "--base"];
    for base in ["s0", &first[..8], "latest"] {
        let point = ingest(&disk.rig, &[&args[..], &[base, "--state", "s1"]].concat());
        assert!(notes(&point).starts_with("by differences"), "{base}: {}", notes(&point));
        assert!(cat(&disk.rig, &point, "sda.raw") == disk.now);
    }
    // A restore point whose state was named again is not what the name means any more.
    ingest(&disk.rig, &["image", text(&disk.image), "--source", "a:vm/sda", "--state", "s0"]);
    let (code, said) = refused(&disk.rig, &[&args[..], &[&first[..8]]].concat());
    assert!(code == 2 && said.contains("a newer restore point has the same state"), "{said}");
}

#[test]
fn a_bitmap_that_is_missing() {
    if !have(&["qemu-img", "qemu-nbd"]) {
        return;
    }
    let disk = changed_disk();
    let image = disk.rig.path("disk.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&disk.image), text(&image)]);
    run("qemu-img", &["bitmap", "--add", text(&image), "other"]);
    run("qemu-img", &["bitmap", "--disable", text(&image), "other"]);
    let server = Server::qemu_nbd(&image, "qcow2", Some("other"));
    let args = ["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--bitmap"];
    let missing = ingest(&disk.rig, &[&args[..], &["bk0"]].concat());
    assert!(
        notes(&missing).contains("the bitmap 'bk0' was not used: the server does not have it")
            && notes(&missing).contains("(there: other)"),
        "{}",
        notes(&missing)
    );
    assert!(cat(&disk.rig, &missing, "sda.raw") == disk.now);
    // It is there, but of which state it is nobody knows.
    let unknown = ingest(&disk.rig, &[&args[..], &["other"]].concat());
    assert!(
        notes(&unknown).contains("the bitmap 'other' was not used: no restore point of this source is its base"),
        "{}",
        notes(&unknown)
    );
    assert_eq!(unknown.root, missing.root);
}

/// QEMU flags a bitmap while it is in use. After a crash the flag stays, and nobody offers the bitmap.
#[test]
fn a_bitmap_that_a_crash_left_in_use() {
    if !have(&["qemu-img", "qemu-nbd", "qemu-storage-daemon"]) {
        return;
    }
    let disk = changed_disk();
    let image = disk.rig.path("disk.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&disk.image), text(&image)]);
    run("qemu-img", &["bitmap", "--add", text(&image), "s0"]);
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.args(["--blockdev", &format!("driver=file,filename={},node-name=f", image.display())]);
    daemon.args(["--blockdev", "driver=qcow2,file=f,node-name=d"]);
    let socket = disk.rig.path("writer.sock");
    daemon.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())]);
    daemon.args(["--export", "type=nbd,id=e,node-name=d,name=x,writable=on"]);
    Server::other(&mut daemon, &socket, "x").crash();
    let info = run("qemu-img", &["info", text(&image)]);
    assert!(info.contains("in-use"), "the crash left no trace: {info}");
    let server = Server::qemu_nbd(&image, "qcow2", None);
    let point = ingest(&disk.rig, &["image", "--nbd", &server.uri, "--source", "a:vm/sda", "--bitmap", "s0"]);
    assert!(
        notes(&point).contains("QEMU offers no bitmap that is missing, inconsistent or in use"),
        "{}",
        notes(&point)
    );
    assert!(cat(&disk.rig, &point, "sda.raw") == disk.now);
}

#[test]
fn command_lines_that_make_no_sense() {
    let rig = Rig::new();
    for args in [
        &["image", "--source", "vm/sda"][..],
        &["image", "/dev/null", "--source", "vm/sda"],
        &["image", "/", "--source", "vm/sda"],
        &["image", "x.raw", "--nbd", "nbd://h/x", "--source", "vm/sda"],
        &["image", "x.raw", "--bitmap", "b", "--source", "vm/sda"],
        &["image", "x.raw", "--source", "vm/sda", "--time", "noon"],
        &["image", "x.raw", "--source", "/"],
        &["image", "x.raw", "--source", "vm/sda", "--state", ""],
    ] {
        let (code, said) = refused(&rig, args);
        assert_eq!(code, 2, "{args:?}: {said}");
    }
    let (code, said) = refused(&rig, &["image", "/nowhere.raw", "--source", "vm/sda"]);
    assert!(code == 1 && said.contains("opening the disk /nowhere.raw"), "{said}");
}

/// Half of the segments of the base's content are damaged: what changed is there, and what was met of the rest is read from
/// the disk again.
#[test]
fn a_base_that_is_damaged_is_said_and_read_again() {
    let disk = changed_disk();
    let mut flipped = 0;
    for dir in std::fs::read_dir(disk.rig.path("repo/packages")).unwrap() {
        for package in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = package.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            // Packages of tree nodes are small; only content is damaged.
            if bytes.len() > 1 << 20 {
                // Behind the headers of the first segment, and on, a byte here and there.
                (4096..bytes.len() / 2).step_by(40_000).for_each(|at| bytes[at] ^= 1);
                std::fs::write(&path, bytes).unwrap();
                flipped += 1;
            }
        }
    }
    assert!(flipped > 0);
    let path = disk.rig.path("list");
    std::fs::write(&path, our_list("s0", disk.now.len(), &disk.changed)).unwrap();
    let args = ["image", text(&disk.image), "--source", "a:vm/sda", "--extents", text(&path)];
    let point = ingest(&disk.rig, &args);
    assert!(notes(&point).contains("were read again from the source"), "{}", notes(&point));
    let target = disk.rig.path("restored");
    let args = ["-q", "restore", &point.id.to_string(), "-t", text(&target)];
    assert!(matches!(disk.rig.command("relict", &args).output().unwrap().status.code(), Some(0 | 3)));
    let now = std::fs::read(target.join("sda.raw")).unwrap();
    let is_right = |at: usize| now[at] == disk.now[at];
    assert!(disk.changed.iter().all(|(at, len)| (*at..at + len).all(|at| is_right(at as usize))));
    assert!((0..now.len()).all(|at| is_right(at) || now[at] == 0), "neither right nor lost");
}
