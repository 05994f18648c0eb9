//! Real increments on a repository that has rotted: they go on, lose nothing more, say which file has lost what, and read it
//! again where the snapshot is at hand.

use crate::lab::Lab;
use crate::rig::{Random, Rig};
use crate::shim::with_bad_sectors;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BYTES: usize = 12 << 20;

fn summary(out: &std::process::Output) -> (i32, String, Value) {
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let mut values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = values.rfind(|value| value["message_type"] == "summary");
    (out.status.code().unwrap(), text.clone(), last.unwrap_or_else(|| panic!("no point: {text}")))
}

/// `btrfs send WORDS | relict ingest btrfs`: exit code, what was said, the point.
fn pipe(rig: &Rig, words: &[&Path], more: &[&str]) -> (i32, String, Value) {
    let words = words.iter().map(|word| word.as_os_str());
    let mut send = Command::new("btrfs").args(["send", "-q"]).args(words).stdout(Stdio::piped()).spawn().unwrap();
    let args = [&["ingest", "btrfs", "--source", "n:data", "--json"], more].concat();
    let out = rig.command("relict", &args).stdin(send.stdout.take().unwrap()).output().unwrap();
    assert!(send.wait().unwrap().success());
    summary(&out)
}

fn packages(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { packages(&path) } else { vec![path] }).collect()
}

fn largest_package(rig: &Rig) -> PathBuf {
    let all = packages(&rig.path("repo/packages"));
    all.into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

/// Flips a bit in the middle of the largest package.
fn rot(rig: &Rig) {
    let path = largest_package(rig);
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (mut byte, middle) = ([0], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 4], middle).unwrap();
}

/// A file of a point as restore gives it: what is lost is zeros.
fn restored(rig: &Rig, point: &Value, name: &str) -> Vec<u8> {
    let target = rig.path("restored");
    let _ = std::fs::remove_dir_all(&target);
    let args = ["-q", "restore", point["id"].as_str().unwrap(), "-t", target.to_str().unwrap()];
    let out = rig.command("relict", &args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{said}");
    std::fs::read(target.join(name)).unwrap_or_else(|error| panic!("{name}: {error}: {said}"))
}

fn wrong(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|at| a[*at] != b[*at]).collect()
}

/// A few bytes in each eighth of a mebibyte, as a database writes, so that some are beside and in what is damaged, a segment.
fn change(path: &Path, random: &mut Random) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for at in (100_001..BYTES as u64).step_by(128 << 10) {
        file.write_all_at(&random.bytes(3000), at).unwrap();
    }
}

fn notes(point: &Value) -> String {
    point["notes"].to_string()
}

#[test]
fn an_increment_on_rotten_content_goes_on_and_says_what_is_lost() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (rig, mut random) = (Rig::new(), Random::from_env());
    std::fs::write(lab.source().join("big"), random.bytes(BYTES)).unwrap();
    let first = lab.snapshot(&lab.source(), "s0");
    let (code, said, base) = pipe(&rig, &[&first], &[]);
    assert_eq!(code, 0, "{said}");
    rot(&rig);
    let lost = wrong(&restored(&rig, &base, "big"), &std::fs::read(first.join("big")).unwrap());
    assert!(!lost.is_empty());
    change(&lab.source().join("big"), &mut random);
    std::fs::rename(lab.source().join("big"), lab.source().join("renamed")).unwrap();
    std::fs::write(lab.source().join("other"), b"as it should be").unwrap();
    let second = lab.snapshot(&lab.source(), "s1");
    let want = std::fs::read(second.join("renamed")).unwrap();

    let (code, said, point) = pipe(&rig, &[Path::new("-p"), &first, &second], &[]);
    assert_eq!(code, 3, "{said}");
    let noted = notes(&point);
    assert!(noted.contains("'renamed': ") && noted.contains("were damaged in the repository already"), "{noted}");
    assert_eq!((&point["errors"], said.matches("\"message_type\":\"finding\"").count()), (&1.into(), 1), "{said}");
    let left = wrong(&restored(&rig, &point, "renamed"), &want);
    assert!(left.len() < lost.len() && left.iter().all(|at| lost.contains(at)), "{} of {}", left.len(), lost.len());
    assert_eq!(restored(&rig, &point, "other"), b"as it should be");
    let out = rig.command("relict-maint", &["check", "--read-data"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("renamed"), "check does not name it");

    // The same with the snapshot at hand: what is met is read there. Another snapshot is not taken.
    let second_path = second.to_str().unwrap();
    let (code, said, point) = pipe(&rig, &[Path::new("-p"), &first, &second], &["--read-from", second_path]);
    assert_eq!(code, 0, "{said}");
    assert!(notes(&point).contains("were read again from the source"), "{}", notes(&point));
    assert!(wrong(&restored(&rig, &point, "renamed"), &want).len() < left.len());
    let words = [Path::new("--no-data"), Path::new("-p"), &first, &second].map(|word| word.as_os_str());
    let mut send = Command::new("btrfs").args(["send", "-q"]).args(words).stdout(Stdio::piped()).spawn().unwrap();
    let args = ["ingest", "btrfs", "--source", "n:data", "--read-from", first.to_str().unwrap()];
    let out = rig.command("relict", &args).stdin(send.stdout.take().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let _ = send.wait();
    assert!(out.status.code() == Some(1) && said.contains("the one given is another"), "{said}");

    // The whole state heals everything, also in the points before.
    let (code, said, point) = pipe(&rig, &[&first], &[]);
    assert_eq!((code, wrong(&restored(&rig, &point, "big"), &std::fs::read(first.join("big")).unwrap()).len()), (0, 0));
    let whole = restored(&rig, &base, "big");
    assert!(wrong(&whole, &std::fs::read(first.join("big")).unwrap()).is_empty(), "{said}");
}

/// It has the uuid of the stream, and may have been written to since.
#[test]
fn a_snapshot_that_can_be_written_to_mends_nothing() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (rig, mut random) = (Rig::new(), Random::from_env());
    let big = lab.source().join("big");
    std::fs::write(&big, random.bytes(BYTES)).unwrap();
    let first = lab.snapshot(&lab.source(), "first");
    let (code, said, base) = pipe(&rig, &[&first], &[]);
    assert_eq!(code, 0, "{said}");
    rot(&rig);
    let lost = wrong(&restored(&rig, &base, "big"), &std::fs::read(&big).unwrap());
    change(&big, &mut random);
    let second = lab.snapshot(&lab.source(), "second");
    let want = std::fs::read(&big).unwrap();
    let stream = rig.path("stream");
    lab.btrfs(&["send", "-q", "-p"], &[&first, &second, Path::new("-f"), &stream]);
    lab.btrfs(&["property", "set", "-ts"], &[&second, Path::new("ro"), Path::new("false")]);
    std::fs::write(second.join("big"), random.bytes(BYTES)).unwrap();
    let args = ["ingest", "btrfs", stream.to_str().unwrap(), "--source", "n:data", "--json", "--read-from"];
    let out = rig.command("relict", &[&args[..], &[second.to_str().unwrap()]].concat()).output().unwrap();
    let (code, said, point) = summary(&out);
    assert_eq!(code, 3, "{said}");
    let left = wrong(&restored(&rig, &point, "big"), &want);
    assert!(left.iter().all(|at| lost.contains(at)), "{}: {said}", left.len());
}

#[test]
fn a_backup_of_a_snapshot_reads_again_what_has_rotted() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (rig, mut random) = (Rig::new(), Random::from_env());
    std::fs::write(lab.source().join("big"), random.bytes(BYTES)).unwrap();
    let source = lab.source();
    let args = ["backup", "--snapshot", "btrfs", source.to_str().unwrap(), "--json"];
    let run = || summary(&rig.command("relict", &args).output().unwrap());
    let (code, said, base) = run();
    assert_eq!(code, 0, "{said}");
    rot(&rig);
    let lost = wrong(&restored(&rig, &base, "big"), &std::fs::read(source.join("big")).unwrap());
    change(&source.join("big"), &mut random);
    let (code, said, point) = run();
    assert_eq!(code, 0, "{said}");
    assert!(notes(&point).contains("'big': ") && notes(&point).contains("were read again from the source"), "{point}");
    assert_eq!(point["parent"], base["id"]);
    let left = wrong(&restored(&rig, &point, "big"), &std::fs::read(source.join("big")).unwrap());
    assert!(left.len() < lost.len() && left.iter().all(|at| lost.contains(at)), "{} of {}", left.len(), lost.len());
}

#[test]
fn a_backup_of_a_snapshot_reads_again_what_bad_sectors_took() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (rig, mut random) = (Rig::new(), Random::from_env());
    std::fs::write(lab.source().join("big"), random.bytes(BYTES)).unwrap();
    let source = lab.source();
    let run = |bad: Option<(&Path, u64)>| {
        let args = ["backup", "--snapshot", "btrfs", source.to_str().unwrap(), "--json"];
        let mut command = rig.command("relict", &args);
        if let Some((package, at)) = bad {
            with_bad_sectors(&mut command, package, at..at + 1, None);
        }
        summary(&command.output().unwrap())
    };
    let (code, said, base) = run(None);
    assert_eq!(code, 0, "{said}");
    let package = largest_package(&rig);
    let bad = (&*package, package.metadata().unwrap().len() / 2);
    change(&source.join("big"), &mut random);
    let (code, said, point) = run(Some(bad));
    assert_eq!(code, 0, "{said}");
    assert!(notes(&point).contains("were read again from the source"), "{point}");
    assert_eq!(point["parent"], base["id"]);
    // What was met there and read again is somewhere else by now.
    change(&source.join("big"), &mut random);
    let (code, said, point) = run(Some(bad));
    assert_eq!((code, &point["notes"]), (0, &Value::Array(Vec::new())), "{said}");
}

/// Where the tree of the last point is on a bad sector, everything is read: by both kinds of backup.
#[test]
fn a_tree_on_a_bad_sector_is_made_again() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (source, mut random) = (lab.source(), Random::from_env());
    lab.work(&mut random, 40);
    for way in [&["backup", "--snapshot", "btrfs"][..], &["backup"]] {
        let rig = Rig::new();
        let args = [way, &[source.to_str().unwrap(), "--json"]].concat();
        let mut run = |bad: Option<(&Path, u64)>| {
            std::fs::write(source.join("new"), random.bytes(100)).unwrap();
            let mut command = rig.command("relict", &args);
            if let Some((package, at)) = bad {
                with_bad_sectors(&mut command, package, at..at + 1, None);
            }
            let (code, said, point) = summary(&command.output().unwrap());
            assert_eq!(code, 0, "{way:?}: {bad:?}: {said}");
            point
        };
        // Most places are of files or of what no backup reads; where nodes end hangs on the seed.
        let (mut hit, mut round) = (0, 0);
        while round < 12 || hit == 0 && round < 80 {
            let before = packages(&rig.path("repo/packages"));
            run(None);
            let mut new = packages(&rig.path("repo/packages"));
            new.retain(|path| !before.contains(path));
            let package = &new[round % new.len()];
            let bytes = package.metadata().unwrap().len();
            let point = run(Some((package, bytes * (round as u64 % 12 + 1) / 14)));
            // Not by restore: attributes that btrfs has room for are too long for other file systems.
            let path = if way.len() > 1 { PathBuf::from("/new") } else { source.join("new") };
            let what = format!("{}:{}", point["id"].as_str().unwrap(), path.display());
            let out = rig.command("relict", &["cat", &what]).output().unwrap();
            assert!(out.stdout == std::fs::read(source.join("new")).unwrap(), "{out:?}");
            hit += usize::from(notes(&point).contains("is damaged: "));
            round += 1;
        }
        assert!(hit > 0, "{way:?}: no place met the tree");
    }
}
