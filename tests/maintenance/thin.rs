//! `forget --keep-versions` and `--keep-deleted-for`: what a restore point shows when old contents of files are let go.

use crate::rig::{PASSWORD, Rig};
use crate::walker::manifest;
use crate::{end_mount, exists, json_lines, listed, maint, message, restored_is, stored, words};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Some 600 kB that are like nothing else.
fn content(file: &str, version: u32) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(file.as_bytes()).update(&version.to_le_bytes());
    let mut out = vec![0; 600_000];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn write(rig: &Rig, file: &str, version: u32) {
    let path = rig.source().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content(file, version)).unwrap();
}

/// Five points: `changing` is new in each, `dir/twice` in two, `same` never; `gone/file` is in the first two only.
fn five_points(rig: &Rig) -> Vec<String> {
    write(rig, "same", 0);
    for version in 0..5 {
        write(rig, "changing", version);
        write(rig, "dir/twice", version / 3);
        match version {
            0 => write(rig, "gone/file", 0),
            2 => fs::remove_dir_all(rig.source().join("gone")).unwrap(),
            _ => {}
        }
        rig.backup();
    }
    listed(rig)
}

/// Files below a directory, with their content's name.
fn files(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => pending.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                    let bytes = fs::read(entry.path()).unwrap();
                    let version = (0..5).find(|version| content(&name, *version) == bytes);
                    out.push(format!("{name}={}", version.map_or("?".to_owned(), |v| v.to_string())));
                }
            }
        }
    }
    out.sort();
    out
}

fn in_point(rig: &Rig, point: &str) -> Vec<String> {
    let out = rig.restore(point, "in-point");
    let found = files(&out);
    fs::remove_dir_all(out).unwrap();
    found
}

fn thinned(rig: &Rig) -> Vec<Option<u64>> {
    let points = json_lines(&rig.relict(&["snapshots", "--json"]));
    points.iter().map(|point| point["thinned"]["files"].as_u64()).collect()
}

const KEEP_TWO: [&str; 4] = ["forget", "--yes", "--keep-versions", "2"];

#[test]
fn the_last_contents_of_every_file_stay() {
    let rig = Rig::new();
    let points = five_points(&rig);
    let before: Vec<_> = points.iter().map(|point| in_point(&rig, point)).collect();
    assert_eq!(before[0], ["changing=0", "dir/twice=0", "gone/file=0", "same=0"]);
    let dry = rig.maint(&["--json", "forget", "--dry-run", "--keep-versions", "2"]);
    let plan: Vec<Value> = json_lines(&dry).into_iter().filter(|line| line["message_type"] == "point").collect();
    let what: Vec<_> = plan.iter().map(|l| (l["action"].as_str().unwrap(), l["files"].as_u64().unwrap())).collect();
    assert_eq!(what, [("keep", 0), ("keep", 0), ("thin", 1), ("thin", 1), ("thin", 1)]);
    let sums = message(&dry, "summary");
    let number = |name: &str| sums[name].as_u64().unwrap_or_else(|| panic!("{name}: {dry}"));
    let dropped = (number("files"), number("versions_dropped"), number("versions_dropped_raw_bytes"));
    assert_eq!(dropped, (1, 3, 1_800_000), "{dry}");
    assert_eq!(["to_thin", "to_forget", "thinned", "forgotten"].map(number), [3, 0, 0, 0], "{dry}");
    assert!(plan.iter().all(|line| line["raw_bytes"] == line["files"].as_u64().unwrap() * 600_000), "{dry}");
    let shown = rig.maint(&["forget", "--dry-run", "--keep-versions", "2"]);
    for words in
        ["thin: 1 file (585.9 KiB as restored) will not", "keeps 3 versions, 1.7 MiB as restored", "prune --dry-run"]
    {
        assert!(shown.contains(words), "'{words}' is not in: {shown}");
    }
    assert!(shown.ends_with("dry run: nothing was changed\n"), "{shown}");
    assert_eq!(thinned(&rig), [None; 5], "a dry run");
    rig.maint(&KEEP_TWO);
    assert_eq!(listed(&rig), points);
    assert_eq!(thinned(&rig), [Some(1), Some(1), Some(1), None, None]);
    let text = rig.relict(&["snapshots"]);
    assert_eq!(text.matches("thinned: 1 file no longer here").count(), 3, "{text}");
    assert_eq!(in_point(&rig, &points[0]), ["dir/twice=0", "gone/file=0", "same=0"]);
    assert_eq!(in_point(&rig, &points[2]), ["dir/twice=0", "same=0"]);
    assert_eq!(in_point(&rig, &points[3]), before[3]);
    // versions shows exactly what is kept.
    let versions = json_lines(&rig.relict(&["versions", "--json", rig.source().join("changing").to_str().unwrap()]));
    assert_eq!(versions.len(), 2, "{versions:?}");
    rig.maint(&["check", "--read-data"]);
    // Until prune it can be taken back, as a whole.
    rig.maint(&["undelete"]);
    assert_eq!(thinned(&rig), [None; 5]);
    for (point, before) in points.iter().zip(&before) {
        assert_eq!(in_point(&rig, point), *before);
    }
    rig.maint(&KEEP_TWO);
    let summary = message(&rig.maint(&["--json", "prune", "--yes"]), "summary");
    assert!(summary["freed_bytes"].as_u64().unwrap() > 1_700_000, "{summary}");
    let late = maint(&rig, &["undelete", &points[0]]);
    assert!(words(&late).contains("what was pruned cannot be brought back"), "{}", words(&late));
    for step in ["prune", "rebuild"] {
        rig.maint(&["check", "--read-data"]);
        assert_eq!(in_point(&rig, &points[0]), ["dir/twice=0", "gone/file=0", "same=0"], "after {step}");
        assert_eq!(in_point(&rig, &points[4]), before[4], "after {step}");
        rig.maint(&["rebuild"]);
    }
    // The next backup compares with the newest point, which is whole.
    rig.backup();
    restored_is(&rig, "latest", &manifest(&rig.source()), "out");
    let again = message(&rig.maint(&["--json", "forget", "--yes", "--keep-versions", "2"]), "summary");
    assert_eq!(again["to_thin"], 0, "{again}");
}

#[test]
fn what_a_rule_keeps_or_protection_holds_stays_whole() {
    let rig = Rig::new();
    let points = five_points(&rig);
    let before: Vec<_> = points.iter().map(|point| in_point(&rig, point)).collect();
    rig.maint(&["protect", &points[0]]);
    let text =
        rig.maint(&["--json", "forget", "--yes", "--keep-versions", "1", "--keep-id", &points[2], "--keep-last", "1"]);
    let reasons: Vec<Value> =
        json_lines(&text).into_iter().filter(|l| l["message_type"] == "point").map(|l| l["reasons"].clone()).collect();
    assert_eq!(reasons[0][0], "last", "{text}");
    assert_eq!(reasons[4][0], "protected", "{text}");
    assert_eq!(thinned(&rig), [None, Some(2), None, Some(1), None]);
    rig.maint(&["prune", "--yes"]);
    for whole in [0, 2, 4] {
        assert_eq!(in_point(&rig, &points[whole]), before[whole]);
    }
    // Contents that a whole point shows are not lost, although its neighbours let them go.
    assert_eq!(in_point(&rig, &points[1]), ["gone/file=0", "same=0"]);
    rig.maint(&["check", "--read-data"]);
    for wrong in [
        &["--keep-versions", "0"][..],
        &["--keep-versions", "x"],
        &["--keep-deleted-for", "90"],
        &["--keep-versions", "1", "latest"],
    ] {
        let refused = maint(&rig, &[&["forget", "--yes"], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", words(&refused));
    }
}

/// Gives restore points other times: that many days before now. Otherwise this test would take them.
fn age(rig: &Rig, days: &[i64]) {
    age_secs(rig, &days.iter().map(|days| days * 86_400).collect::<Vec<_>>());
}

fn age_secs(rig: &Rig, secs: &[i64]) {
    let mut unlock = || Ok(PASSWORD.as_bytes().to_vec());
    let options = relict::store::OpenOptions { cache_bytes: 1 << 20 };
    let writer = relict::store::Writer::open(&rig.path("repo"), &mut unlock, &options).unwrap();
    let points = relict::catalog::points::Points::new(writer.repository().point_records().unwrap());
    let mut aged: Vec<_> = points.all().to_vec();
    for (point, secs) in aged.iter_mut().zip(secs) {
        point.time.sec -= secs;
        point.sealed.sec = point.time.sec.max(point.sealed.sec + 1);
    }
    writer.seal_all(&aged).unwrap();
}

#[test]
fn deleted_files_stay_for_a_time() {
    let rig = Rig::new();
    let points = five_points(&rig);
    // The third point, 60 days old, is the first without `gone`.
    age(&rig, &[100, 90, 60, 30, 0]);
    let keep = |age: &str| rig.maint(&["forget", "--yes", "--keep-versions", "3", "--keep-deleted-for", age]);
    keep("61d");
    assert_eq!(in_point(&rig, &points[0]), ["dir/twice=0", "gone/file=0", "same=0"]);
    keep("60d");
    for point in &points[..2] {
        assert_eq!(in_point(&rig, point), ["dir/twice=0", "same=0"]);
        assert!(!exists(&rig.restore(point, "out").join("gone")), "no empty directory stays behind");
        fs::remove_dir_all(rig.path("out")).unwrap();
    }
    rig.maint(&["prune", "--yes"]);
    rig.maint(&["check", "--read-data"]);
    // Alone it keeps all contents of what is not deleted.
    write(&rig, "changing", 0);
    fs::remove_file(rig.source().join("same")).unwrap();
    rig.backup();
    rig.maint(&["forget", "--yes", "--keep-deleted-for", "1h"]);
    assert_eq!(in_point(&rig, &points[3]), ["changing=3", "dir/twice=1", "same=0"]);
}

#[test]
fn a_mount_shows_what_it_showed_and_the_next_one_what_is_left() {
    let rig = Rig::new();
    let points = five_points(&rig);
    rig.mount();
    let old = rig.mounted(&format!("ids/{}", points[0]));
    let file = fs::File::open(old.join("changing")).unwrap();
    rig.maint(&KEEP_TWO);
    let before = stored(&rig);
    rig.maint(&["prune", "--yes"]);
    rig.maint(&["compact", "--yes", "--min-live", "1.0"]);
    assert!(stored(&rig) + 100_000 > before, "what the mount shows stays");
    let mut read = vec![0; 600_000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
    assert!(read == content("changing", 0));
    // Not read before, and not shown by anyone but this mount.
    assert_eq!(fs::read(rig.mounted(&format!("ids/{}", points[1])).join("changing")).unwrap(), content("changing", 1));
    drop(file);
    end_mount(&rig);
    rig.mount();
    assert_eq!(files(&old), ["dir/twice=0", "gone/file=0", "same=0"]);
    let (host, source) = (&json_lines(&rig.relict(&["snapshots", "--json"]))[0], rig.source());
    let name = |field: &str| host[field].as_str().unwrap().replace('/', "+");
    let versions = rig.path("mnt/versions").join(name("host")).join(name("source"));
    let versions = versions.join(source.strip_prefix("/").unwrap()).join("changing");
    assert_eq!(fs::read_dir(&versions).unwrap().count(), 2, "{}", versions.display());
    end_mount(&rig);
    let freed = message(&rig.maint(&["--json", "prune", "--yes"]), "summary")["freed_bytes"].as_u64().unwrap();
    // Three contents of 600 kB, but for what shares a segment since compact.
    assert!(freed > 1_200_000, "{freed}");
    rig.maint(&["check", "--read-data"]);
}

/// The mount came when the point was thinned; what `undelete` put in its place is not what the mount shows.
#[test]
fn a_mount_keeps_a_thinned_tree_that_was_made_whole_again() {
    let rig = Rig::new();
    let name = |n: u32| rig.source().join(format!("{n:04} {}", "long name ".repeat(15)));
    (0..3000).for_each(|n| fs::write(name(n), "").unwrap());
    for version in 0..3 {
        // Some in every tree node, so that all nodes of a thinned point are its own; they are in several segments.
        (0..3000).step_by(20).for_each(|n| fs::write(name(n), format!("{n} {version}")).unwrap());
        rig.backup();
    }
    let point = &listed(&rig)[0];
    rig.maint(&["forget", "--yes", "--keep-versions", "1"]);
    let thinned = in_point(&rig, point);
    assert_eq!(thinned.len(), 3000 - 150);
    rig.mount();
    assert_eq!(fs::read_dir(rig.path("mnt/ids")).unwrap().count(), 3);
    rig.maint(&["undelete"]);
    rig.maint(&["prune", "--yes"]);
    // Shown when the mount has read the index again.
    rig.backup();
    let begun = std::time::Instant::now();
    while fs::read_dir(rig.path("mnt/ids")).unwrap().count() < 4 {
        assert!(begun.elapsed().as_secs() < 20, "the mount does not show the new restore point");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let old = rig.mounted(&format!("ids/{point}"));
    assert!(files(&old) == thinned, "the mount shows what it showed");
    end_mount(&rig);
    let freed = message(&rig.maint(&["--json", "prune", "--yes"]), "summary")["freed_bytes"].as_u64().unwrap();
    assert!(freed > 0, "what nobody shows any more goes");
    assert_eq!(in_point(&rig, point).len(), 3000);
    rig.maint(&["check", "--read-data"]);
}

/// A path of its own for each version: what the newest point lacks, and what it has.
#[test]
fn a_point_in_which_no_file_would_be_left_is_forgotten_as_a_whole() {
    let rig = Rig::new();
    fs::create_dir(rig.source().join("never a file in it")).unwrap();
    for version in 0..4 {
        write(&rig, "changing", version);
        write(&rig, "dir/linked", version);
        let other = rig.source().join("other name");
        let _ = fs::remove_file(&other);
        fs::hard_link(rig.source().join("dir/linked"), other).unwrap();
        rig.backup();
    }
    let points = listed(&rig);
    let whole = in_point(&rig, &points[1]);
    rig.maint(&["protect", &points[0]]);
    let keep = ["--keep-versions", "2"];
    let dry = rig.maint(&[&["--json", "forget", "--dry-run"], &keep[..]].concat());
    let lines = json_lines(&dry);
    let actions: Vec<&str> = lines.iter().filter_map(|line| line["action"].as_str()).collect();
    assert_eq!(actions, ["keep", "keep", "forget", "keep"], "{dry}");
    let sums = message(&dry, "summary");
    assert_eq!((sums["to_thin"].as_u64(), sums["to_forget"].as_u64()), (Some(0), Some(1)), "{dry}");
    assert_eq!(listed(&rig), points, "a dry run");
    let text = rig.maint(&[&["forget", "--yes"], &keep[..]].concat());
    assert!(text.contains("forget: no file would be left of 3 files ("), "{text}");
    assert!(text.contains("1 restore point forgotten; 'relict-maint undelete' takes that back"), "{text}");
    assert_eq!(listed(&rig), [&*points[0], &points[2], &points[3]]);
    assert_eq!(thinned(&rig), [None; 3]);
    rig.maint(&["undelete"]);
    assert_eq!((listed(&rig), in_point(&rig, &points[1])), (points.clone(), whole));
    // Thinned first and without a file later: both are taken back together.
    write(&rig, "same", 0);
    rig.backup();
    write(&rig, "changing", 1);
    write(&rig, "same", 1);
    rig.backup();
    let points = listed(&rig);
    rig.maint(&["forget", "--yes", "--keep-versions", "2"]);
    assert_eq!(thinned(&rig), [None, Some(2), Some(1), None, None, None]);
    rig.maint(&["forget", "--yes", "--keep-versions", "1"]);
    let left = [0, 1, 3, 4, 5].map(|n| &*points[n]);
    assert_eq!(listed(&rig), left);
    rig.maint(&["undelete"]);
    assert_eq!(listed(&rig), points);
    assert_eq!(thinned(&rig), [None; 6]);
    rig.maint(&["forget", "--yes", "--keep-versions", "1"]);
    rig.maint(&["prune", "--yes"]);
    rig.maint(&["check", "--read-data"]);
    assert_eq!(listed(&rig), left);
}

/// Policies count from the newest point. One that was made while the clock was wrong must not make all others old.
#[test]
fn a_source_with_a_point_from_the_future_is_left_alone_and_the_others_are_not() {
    let rig = Rig::new();
    let points = five_points(&rig);
    let other = rig.path("other");
    for version in 0..3 {
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("file"), content("file", version)).unwrap();
        rig.relict(&["--quiet", "backup", "--source", "other", "--tag", "t", other.to_str().unwrap()]);
    }
    let of_other: Vec<String> = listed(&rig).into_iter().filter(|id| !points.contains(id)).collect();
    let left_alone = |rule: &[&str], gone: &[String]| {
        let done = maint(&rig, &[&["forget", "--yes", "--json"], rule].concat());
        let text = words(&done);
        assert_eq!(done.status.code(), Some(3), "{rule:?}: {text}");
        let said = message(&text, "left_alone");
        assert_eq!(said["point"]["id"], points[4], "{text}");
        assert!(said["what"].as_str().unwrap().contains("is dated"), "{text}");
        let visible = listed(&rig);
        assert!(points.iter().all(|id| visible.contains(id)), "{rule:?}: {text}");
        assert!(gone.iter().all(|id| !visible.contains(id)), "{rule:?}: {text}");
        assert_eq!(thinned(&rig).into_iter().flatten().count(), 0, "{rule:?}: {text}");
        let _ = maint(&rig, &["undelete"]);
    };
    let mut ahead = [0; 8];
    ahead[listed(&rig).iter().position(|id| *id == points[4]).unwrap()] = -400;
    age(&rig, &ahead);
    for rule in [&["--keep-last", "1"][..], &["--keep-daily", "1"], &["--keep-versions", "1"]] {
        left_alone(rule, &of_other[..2]);
    }
    for rule in [
        &["--keep-within", "90d"][..],
        &["--keep-within-daily", "1y", "--keep-tag", "t"],
        &["--keep-deleted-for", "90d"],
    ] {
        left_alone(rule, &[]);
    }
    let done = maint(&rig, &["forget", "--yes", "--keep-last", "1", "--source", "other"]);
    assert_eq!(done.status.code(), Some(0), "{}", words(&done));
    // By its id it can be forgotten; then the policy is applied.
    rig.maint(&["forget", "--yes", &points[4]]);
    rig.maint(&["forget", "--yes", "--keep-last", "2"]);
    assert_eq!(listed(&rig).iter().filter(|id| points.contains(id)).count(), 2);
}

#[test]
fn a_point_from_the_future_counts_when_it_is_not_asked_about_too() {
    let rig = Rig::new();
    let backup = |tag: &[&str], version| {
        write(&rig, "changing", version);
        let source = rig.source();
        rig.relict(&[&["--quiet", "backup"], tag, &[source.to_str().unwrap()]].concat());
    };
    backup(&["--tag", "t"], 0);
    backup(&["--tag", "t"], 1);
    backup(&[], 2);
    let points = listed(&rig);
    age(&rig, &[0, 0, -400]);
    for rule in [["--keep-last", "1"], ["--keep-versions", "1"]] {
        let done = maint(&rig, &[&["forget", "--yes", "--tag", "t"], &rule[..]].concat());
        assert_eq!(done.status.code(), Some(3), "{}", words(&done));
        assert_eq!((listed(&rig), thinned(&rig)), (points.clone(), vec![None; 3]));
    }
}

#[test]
fn a_point_less_than_a_day_ahead_is_like_any_other() {
    let rig = Rig::new();
    let points = five_points(&rig);
    age_secs(&rig, &[0, 0, 0, 0, -80_000]);
    rig.maint(&["forget", "--yes", "--keep-last", "2"]);
    assert_eq!(listed(&rig), &points[3..]);
}
