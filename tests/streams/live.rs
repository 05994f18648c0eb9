//! Random work on a real btrfs; every snapshot goes through `btrfs send` into the repository, and what is mounted must be
//! the snapshot, for rsync and for the walker. `RELICT_SEED` repeats a run, `RELICT_SNAPSHOTS` makes chains longer.

use crate::lab::{Lab, run};
use crate::rig::{Random, Rig};
use crate::walker::{CompareOptions, assert_same, manifest};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `btrfs send ARGS | relict ingest btrfs --source SOURCE`: the points, as (id, root).
fn pipe(rig: &Rig, source: &str, args: &[&OsStr], more: &[&str]) -> Vec<(String, String)> {
    let mut send = Command::new("btrfs").args(["send", "-q"]).args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut ingest = rig.command("relict", &[&["ingest", "btrfs", "--source", source, "--json"], more].concat());
    let out = ingest.stdin(send.stdout.take().unwrap()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{args:?}: {text}");
    assert!(send.wait().unwrap().success());
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = lines.filter(|line| line["message_type"] == "summary");
    made.map(|line| (line["id"].as_str().unwrap().to_owned(), line["root"].as_str().unwrap().to_owned())).collect()
}

fn one(rig: &Rig, source: &str, args: &[&OsStr], more: &[&str]) -> (String, String) {
    let mut points = pipe(rig, source, args, more);
    assert_eq!(points.len(), 1);
    points.remove(0)
}

/// The mounted point is the snapshot.
pub fn same(rig: &Rig, id: &str, snapshot: &Path) {
    let mounted = rig.path("mnt/ids").join(id);
    let begun = Instant::now();
    while !mounted.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "point {id} does not appear in the mount");
        std::thread::sleep(Duration::from_millis(20));
    }
    // FUSE tells no birth times; how blocks are allotted is the file system's affair.
    let options = CompareOptions::all().ignoring(&["btime", "holes", "blocks"]);
    // Snapshots in a snapshot are empty directories there, and not in any stream.
    let want = manifest(snapshot).into_iter().filter(|(path, _)| !path.starts_with(b".relict-snapshots/")).collect();
    assert_same(&want, &manifest(&mounted), &options);
    for (from, to) in [(snapshot, mounted.as_path()), (mounted.as_path(), snapshot)] {
        let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
        let args =
            ["-aHAXSn", "--checksum", "--delete", "--itemize-changes", "--exclude=/.relict-snapshots/*", &from, &to]
                .map(OsStr::new);
        let said = run("rsync", &args);
        assert!(said.is_empty(), "rsync {from} {to}:\n{said}");
    }
}

/// Ways to send, each a chain of its own.
const WAYS: [(&str, &[&str]); 3] = [
    ("n:v1", &["--proto", "1"]),
    ("n:v2", &["--proto", "2"]),
    ("n:compressed", &["--proto", "2", "--compressed-data"]),
];

fn args<'a>(words: &[&'a str], paths: &[&'a Path]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).chain(paths.iter().map(|path| path.as_os_str())).collect()
}

fn chain(compress: &str, snapshots: usize) {
    let Some(lab) = Lab::new(compress) else { return };
    let mut random = Random::from_env();
    let rig = Rig::new();
    rig.mount();
    let mut worked = lab.work(&mut random, 150);
    let mut taken: Vec<PathBuf> = Vec::new();
    let mut roots: [Vec<String>; 3] = Default::default();
    for number in 0..snapshots {
        worked += lab.work(&mut random, 25);
        let snapshot = lab.snapshot(&lab.source(), &format!("s{number}"));
        for (way, (source, words)) in WAYS.iter().enumerate() {
            let made = match taken.last() {
                None => one(&rig, source, &args(words, &[&snapshot]), &[]),
                Some(parent) => one(&rig, source, &args(&[words, &["-p"][..]].concat(), &[parent, &snapshot]), &[]),
            };
            // In turns: each way is compared for every third snapshot, and all for the last.
            if number % 3 == way || number + 1 == snapshots {
                same(&rig, &made.0, &snapshot);
            }
            roots[way].push(made.1);
        }
        taken.push(snapshot);
    }
    println!("{worked} of {} things worked", 150 + 25 * snapshots);
    assert!(worked > 60 + 10 * snapshots);
    assert_eq!(roots[1], roots[2], "compressed on the way, or not");
    for (way, (_, words)) in WAYS.iter().enumerate() {
        for number in [snapshots / 2, snapshots - 1] {
            let full = one(&rig, &format!("n:full{way}"), &args(words, &[&taken[number]]), &[]);
            assert_eq!(full.1, roots[way][number], "the law: full of snapshot {number} and the chain to it, {words:?}");
        }
    }
    let (first, middle, last) = (&taken[0], &taken[snapshots / 2], &taken[snapshots - 1]);
    let skipped = one(&rig, "n:v2", &args(&["--proto", "2", "-p"], &[first, last]), &[]);
    assert_eq!(&skipped.1, roots[1].last().unwrap(), "over all, or through all");
    let back = one(&rig, "n:v2", &args(&["--proto", "2", "-p"], &[last, middle]), &[]);
    assert_eq!(back.1, roots[1][snapshots / 2], "back");
    several(&rig, &taken, &roots[1]);
    clones(&rig, &lab, first, last, &mut random);
    without_data(&rig, &lab, first, last);
    rig.maint(&["check", "--read-data"]);
    rig.umount();
}

/// Several subvolumes in one stream without an END between them (`-e`), each against the first: one point for each.
fn several(rig: &Rig, taken: &[PathBuf], roots: &[String]) {
    let paths: Vec<&Path> = [0, 1, 2, 3].map(|number| taken[number].as_path()).to_vec();
    let made = pipe(rig, "n:several", &args(&["--proto", "2", "-e", "-p"], &paths), &[]);
    let made: Vec<&String> = made.iter().map(|(_, root)| root).collect();
    assert_eq!(made, [&roots[1], &roots[2], &roots[3]], "several in one stream");
}

/// A subvolume that has gone another way, with reflinks of what both had: against an old parent, with a newer snapshot as
/// the source of clones. (btrfs finds a parent by itself only among snapshots of one subvolume.)
fn clones(rig: &Rig, lab: &Lab, parent: &Path, base: &Path, random: &mut Random) {
    let other = lab.mount().join("other");
    lab.btrfs(&["subvolume", "snapshot"], &[base, &other]);
    std::fs::write(other.join("own"), random.bytes(5000)).unwrap();
    let copy = other.join("copy");
    run("cp", &args(&["-a", "--reflink=always"], &[base, &copy]));
    let snapshot = lab.snapshot(&other, "other-1");
    let words = [OsStr::new("-p"), parent.as_os_str(), OsStr::new("-c"), base.as_os_str(), snapshot.as_os_str()];
    let words = [&args(&["--proto", "2"], &[])[..], &words].concat();
    let made = one(rig, "n:v2", &words, &[]);
    same(rig, &made.0, &snapshot);
}

/// `--no-data`, the content read from the snapshot.
fn without_data(rig: &Rig, lab: &Lab, first: &Path, last: &Path) {
    assert!(lab.mount().exists());
    let read_from = ["--read-from", last.to_str().unwrap()];
    let made = one(rig, "n:v1", &args(&["--no-data", "-p"], &[first, last]), &read_from);
    same(rig, &made.0, last);
}

fn snapshots() -> usize {
    std::env::var("RELICT_SNAPSHOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[test]
fn twenty_snapshots_of_random_work_with_zstd() {
    chain("zstd", snapshots());
}

#[test]
fn a_chain_with_lzo() {
    chain("lzo", 5);
}

#[test]
fn a_chain_with_zlib() {
    chain("zlib", 5);
}
