//! `relict-maint forget`, `undelete`, `protect`, `prune` and `compact`, by the real programs on real file systems.
//!
//! `model` compares random sequences with a naive model, a mount open across them; `kill` ends maintenance at every step
//! that it announces; here are the stories of what went wrong in other tools. `RELICT_SEED` repeats a run.

#[path = "../support/rig.rs"]
mod rig;
#[path = "../support/walker.rs"]
mod walker;

mod damage;
mod full;
mod kill;
mod model;
mod review;
mod terminal;
mod thin;

use rig::{Random, Rig};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;
use walker::{CompareOptions, diff, manifest};

/// Lines of JSON that a command printed.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The last message of a kind.
pub fn message(text: &str, kind: &str) -> Value {
    let found = json_lines(text).into_iter().rfind(|line| line["message_type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {text}"))
}

/// Ids of the visible restore points, oldest first.
pub fn listed(rig: &Rig) -> Vec<String> {
    json_lines(&rig.relict(&["snapshots", "--json"]))
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs `relict-maint`, which may fail.
pub fn maint(rig: &Rig, args: &[&str]) -> Output {
    rig.command("relict-maint", args).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Bytes that the packages take on the disk.
fn stored(rig: &Rig) -> u64 {
    let dirs = fs::read_dir(rig.path("repo/packages")).unwrap().map(|dir| dir.unwrap().path());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap()));
    files.map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512).sum()
}

/// Three restore points; of each, `own` bytes are nobody else's.
fn three_points(rig: &Rig, own: usize) -> Vec<String> {
    let mut random = Random::from_env();
    fs::write(rig.source().join("shared"), random.bytes(3 << 20)).unwrap();
    for _ in 0..3 {
        fs::write(rig.source().join("own"), random.bytes(own)).unwrap();
        rig.backup();
    }
    listed(rig)
}

fn restored_is(rig: &Rig, point: &str, want: &walker::Manifest, name: &str) {
    let differences = diff(want, &manifest(&rig.restore(point, name)), &CompareOptions::restored());
    assert!(differences.is_empty(), "{point}: {}", differences.join("\n"));
}

#[test]
fn a_bare_forget_and_one_that_leaves_nothing_are_refused() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    for args in [
        &["forget", "--yes"][..],
        &["forget", "--yes", "--keep-last", "0"],
        &["forget", "--yes", "--keep-tag", "no such tag"],
        &["forget", "--yes", "--keep-last", "1", &points[0]],
        &["forget", "--keep-last", "1"],
        &["forget", "--yes", "--keep-last", "many"],
        &["forget", "--yes", "--keep-within", "90"],
    ] {
        let refused = maint(&rig, args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", words(&refused));
        assert!(
            words(&refused).contains("nothing was changed")
                || words(&refused).contains("write it like")
                || words(&refused).contains("give a number"),
            "{}",
            words(&refused)
        );
        assert_eq!(listed(&rig), points, "{args:?}");
    }
    rig.maint(&["forget", "--yes", "--keep-last", "0", "--unsafe-allow-remove-all"]);
    assert!(listed(&rig).is_empty());
    rig.maint(&["undelete"]);
    assert_eq!(listed(&rig), points);
    // Names of points that are not there change nothing.
    assert_eq!(maint(&rig, &["forget", "--yes", "beef"]).status.code(), Some(1));
}

#[test]
fn forget_says_why_it_keeps_and_a_dry_run_changes_nothing() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    let text = rig.maint(&["--json", "forget", "--dry-run", "--keep-last", "1", "--keep-id", &points[0][..8]]);
    let lines: Vec<Value> = json_lines(&text).into_iter().filter(|line| line["message_type"] == "point").collect();
    let what: Vec<(&str, &str)> =
        lines.iter().map(|l| (l["point"]["id"].as_str().unwrap(), l["action"].as_str().unwrap())).collect();
    assert_eq!(what, [(&*points[2], "keep"), (&*points[1], "forget"), (&*points[0], "keep")]);
    assert_eq!(lines[0]["reasons"][0], "last");
    assert_eq!(lines[2]["reasons"][0], format!("id {}", &points[0][..8]));
    assert_eq!(listed(&rig), points);
}

#[test]
fn prune_frees_what_it_said_and_writes_next_to_nothing() {
    let rig = Rig::new();
    let points = three_points(&rig, 40 << 20);
    rig.maint(&["forget", "--yes", &points[1]]);
    assert_eq!(listed(&rig), [&*points[0], &*points[2]]);
    let before = stored(&rig);
    let plan = message(&rig.maint(&["--json", "prune", "--dry-run"]), "plan");
    assert_eq!(stored(&rig), before, "a dry run");
    let (text, written) = bytes_written(&rig, &["--json", "prune", "--yes"]);
    let summary = message(&text, "summary");
    let freed = summary["freed_bytes"].as_u64().unwrap();
    assert_eq!(before - stored(&rig), freed, "what it says it freed");
    assert_eq!(plan["bytes"], summary["freed_bytes"], "what the dry run said");
    assert!(freed > 20 << 20, "{freed}");
    assert!(written < freed / 100, "{written} bytes written for {freed} freed");
    rig.maint(&["check", "--read-data"]);
    assert_eq!(message(&rig.maint(&["--json", "prune", "--yes"]), "summary")["planned_bytes"], 0, "a second prune");
    let gone = maint(&rig, &["undelete", &points[1]]);
    assert!(
        !gone.status.success() && words(&gone).contains("what was pruned cannot be brought back"),
        "{}",
        words(&gone)
    );
    // A new index does not bring it back either.
    rig.maint(&["rebuild"]);
    assert_eq!(listed(&rig), [&*points[0], &*points[2]]);
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, "latest", &manifest(&rig.source()), "out");
}

/// Runs `relict-maint` and counts what it gave to the kernel to write into files.
fn bytes_written(rig: &Rig, args: &[&str]) -> (String, u64) {
    let trace = rig.path("trace");
    let program = rig.command("relict-maint", args);
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", "trace=write,writev,pwrite64,pwritev", "-o"]).arg(&trace);
    strace.arg(program.get_program()).args(program.get_args());
    program.get_envs().for_each(|(name, value)| _ = strace.env(name, value.unwrap()));
    let text = rig::succeeded(strace.stdin(std::process::Stdio::null()));
    let repo = format!("<{}", rig.path("repo").display());
    let lines = fs::read_to_string(&trace).unwrap();
    let result = |line: &str| line.rsplit("= ").next().and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    (text, lines.lines().filter(|line| line.contains(&repo)).map(result).sum())
}

#[test]
fn protection_outlives_the_database_and_a_lock_outlives_unprotect() {
    let rig = Rig::new();
    let points = three_points(&rig, 1 << 20);
    rig.maint(&["protect", &points[0]]);
    rig.maint(&["protect", &points[1], "--until", "2999-12-31"]);
    fs::remove_dir_all(rig.path("repo/db")).unwrap();
    rig.maint(&["rebuild"]);
    for point in &points[..2] {
        let refused = maint(&rig, &["forget", "--yes", point]);
        assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    }
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    assert_eq!(listed(&rig), points, "a policy keeps what is protected");
    let shorter = maint(&rig, &["protect", &points[1], "--until", "2998-12-31"]);
    assert!(words(&shorter).contains("locked until 2999-12-31"), "{}", words(&shorter));
    rig.maint(&["unprotect", "--yes", &points[0], &points[1]]);
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    assert_eq!(listed(&rig), &points[1..]);
    rig.maint(&["forget", "--yes", "--keep-last", "0", "--unsafe-allow-remove-all"]);
    assert_eq!(listed(&rig), &points[1..2], "a lock holds against everything");
    rig.maint(&["prune", "--yes"]);
    rig.maint(&["check", "--read-data"]);
    assert_eq!(listed(&rig), &points[1..2]);
}

#[test]
fn what_a_mount_shows_stays_until_it_ends() {
    let rig = Rig::new();
    let points = three_points(&rig, 8 << 20);
    let want = fs::read(rig.source().join("own")).unwrap();
    rig.mount();
    let file = fs::File::open(rig.mounted(&format!("ids/{}", points[2])).join("own")).unwrap();
    rig.maint(&["forget", "--yes", &points[2]]);
    let text = rig.maint(&["--json", "prune", "--yes"]);
    let plan = message(&text, "plan");
    assert_eq!(plan["kept"][0]["id"], points[2], "{text}");
    assert!(plan["kept"][0]["why"].as_str().unwrap().contains("pid"), "{text}");
    let mut read = vec![0; want.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
    assert_eq!(read, want);
    drop(file);
    end_mount(&rig);
    let freed = message(&rig.maint(&["--json", "prune", "--yes"]), "summary")["freed_bytes"].as_u64().unwrap();
    assert!(freed > 4 << 20, "{freed}");
    assert_eq!(fs::read_dir(rig.path("repo/pins")).unwrap().count(), 0);
    rig.maint(&["check", "--read-data"]);
}

/// A running reader follows the database's log; when that is emptied into files it must not go on with what it had.
/// Shrunk from `model`: chunks that had moved were looked for in packages that were gone.
#[test]
fn a_mount_finds_what_was_moved_before_the_log_was_emptied() {
    let rig = Rig::new();
    three_points(&rig, 2 << 20);
    rig.mount();
    let file = fs::File::open(rig.mounted("latest").join("own")).unwrap();
    rig.maint(&["compact", "--yes", "--min-live", "1.0"]);
    // More openings than the log has files before it is emptied.
    for _ in 0..12 {
        rig.maint(&["protect", "latest"]);
        rig.maint(&["unprotect", "--yes", "latest"]);
    }
    let want = fs::read(rig.source().join("own")).unwrap();
    let mut read = vec![0; want.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
    assert!(read == want);
    drop(file);
    end_mount(&rig);
}

#[test]
fn a_killed_mount_leaves_no_pin_behind() {
    let rig = Rig::new();
    let points = three_points(&rig, 1 << 20);
    let mut mount = rig.mount_in_foreground();
    rig.maint(&["forget", "--yes", &points[0]]);
    assert_eq!(message(&rig.maint(&["--json", "prune", "--yes"]), "plan")["kept"][0]["id"], points[0]);
    mount.kill().unwrap();
    mount.wait().unwrap();
    assert_eq!(fs::read_dir(rig.path("repo/pins")).unwrap().count(), 1, "the file is there, its lock is not");
    let text = rig.maint(&["--json", "prune", "--yes"]);
    assert_eq!(message(&text, "plan")["points"][0]["id"], points[0], "{text}");
    assert_eq!(fs::read_dir(rig.path("repo/pins")).unwrap().count(), 0);
}

#[test]
fn a_running_writer_is_named_or_waited_for() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    let lease = relict::store::Lease::take(&rig.path("repo/lock")).unwrap();
    let refused = maint(&rig, &["prune", "--yes"]);
    assert_eq!(refused.status.code(), Some(11), "{}", words(&refused));
    assert!(words(&refused).contains(&format!("pid {}", std::process::id())), "{}", words(&refused));
    let waiting = rig.command("relict-maint", &["forget", "--yes", "--wait", &points[0]]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    drop(lease);
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(listed(&rig), &points[1..]);
}

#[test]
fn an_interrupted_backup_is_kept_for_the_next_one_unless_told_otherwise() {
    let mut random = Random::from_env();
    let rig = Rig::new();
    three_points(&rig, 1000);
    fs::write(rig.source().join("large"), random.bytes(200 << 20)).unwrap();
    let source = rig.source();
    let mut backup = rig.command("relict", &["--quiet", "backup", source.to_str().unwrap()]).spawn().unwrap();
    let before = stored(&rig);
    while stored(&rig) < before + (70 << 20) {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(backup.try_wait().unwrap().is_none(), "it ended too early");
    }
    backup.kill().unwrap();
    backup.wait().unwrap();
    let kept = message(&rig.maint(&["--json", "prune", "--yes"]), "plan");
    assert!(kept["unfinished_bytes"].as_u64().unwrap() > 30 << 20, "{kept}");
    assert!(stored(&rig) > before + (30 << 20));
    rig.maint(&["check"]);
    rig.maint(&["prune", "--yes", "--discard-unfinished"]);
    assert!(stored(&rig) < before + (1 << 20));
    rig.maint(&["check", "--read-data"]);
    rig.backup();
    restored_is(&rig, "latest", &manifest(&rig.source()), "out");
}

#[test]
fn a_stale_index_and_a_damaged_tree_stop_a_prune() {
    let rig = Rig::new();
    let points = three_points(&rig, 1 << 20);
    let copy = rig.path("old-db");
    assert!(std::process::Command::new("cp").arg("-a").arg(rig.path("repo/db")).arg(&copy).status().unwrap().success());
    fs::write(rig.source().join("own"), b"new").unwrap();
    rig.backup();
    fs::remove_dir_all(rig.path("repo/db")).unwrap();
    fs::rename(&copy, rig.path("repo/db")).unwrap();
    rig.maint(&["forget", "--yes", &points[0]]);
    let before = stored(&rig);
    let refused = maint(&rig, &["prune", "--yes"]);
    assert!(!refused.status.success() && words(&refused).contains("rebuild"), "{}", words(&refused));
    assert_eq!(stored(&rig), before);
    rig.maint(&["rebuild"]);
    rig.maint(&["prune", "--yes"]);
    assert_eq!(listed(&rig).len(), 3);
    rig.maint(&["check", "--read-data"]);
}

#[test]
fn compact_rewrites_what_is_mostly_dead_and_keeps_every_byte() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    // Small files, packed together: forgetting one point kills most of each segment and none completely.
    for n in 0..3000 {
        fs::write(rig.source().join(format!("f{n}")), random.bytes(4000)).unwrap();
    }
    rig.backup();
    for n in (0..3000).filter(|n| n % 8 != 0) {
        fs::remove_file(rig.source().join(format!("f{n}"))).unwrap();
    }
    rig.backup();
    let want = manifest(&rig.source());
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    let stuck = message(&rig.maint(&["--json", "prune", "--yes"]), "plan")["stuck_bytes"].as_u64().unwrap();
    assert!(stuck > 1 << 20, "{stuck}");
    let before = stored(&rig);
    let plan = rig.maint(&["--json", "compact", "--dry-run"]);
    assert_eq!(stored(&rig), before);
    let done = message(&rig.maint(&["--json", "compact", "--yes"]), "summary");
    assert!(stored(&rig) < before / 2, "{before} bytes became {}; {plan} {done}", stored(&rig));
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, "latest", &want, "out");
    assert_eq!(message(&rig.maint(&["--json", "compact", "--yes"]), "summary")["packages"], 0, "a second time");
    // Sequential again, whatever is where.
    rig.maint(&["compact", "--yes", "--point", "latest"]);
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, "latest", &want, "again");
    rig.maint(&["rebuild"]);
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, "latest", &want, "rebuilt");
    assert_eq!(listed(&rig).len(), 1);
}

/// Where each chunk of the newest point is, in the order of its tree: (package number, offset, byte in the segment).
fn places(rig: &Rig) -> Vec<(u32, u32, u32)> {
    let mut unlock = || Ok(rig::PASSWORD.as_bytes().to_vec());
    let options = relict::store::OpenOptions { cache_bytes: 1 << 20 };
    let repository = relict::store::Repository::open(&rig.path("repo"), &mut unlock, &options).unwrap();
    let point = repository.point_records().unwrap().into_iter().max_by_key(|point| point.time).unwrap();
    let mut out = Vec::new();
    for entry in relict::catalog::tree::range(&*repository, &point.root, &[]) {
        let entry = entry.unwrap();
        if let repo_format::Key::Extent(..) = repo_format::Key::decode(entry.key()).unwrap() {
            let chunk = repo_format::Extent::decode(entry.value()).unwrap().chunk;
            let at = repository.locate(&chunk).unwrap().unwrap();
            out.push((at.package, at.offset, at.skip));
        }
    }
    out
}

#[test]
fn compact_puts_side_by_side_what_is_read_together() {
    for point in [false, true] {
        let rig = Rig::new();
        let mut random = Random::from_env();
        // Each backup changes every eighth file: the newest point is spread over all packages.
        for round in 0..8 {
            for n in (0..800).filter(|n| round == 0 || n % 8 == round) {
                fs::write(rig.source().join(format!("f{n:03}")), random.bytes(5000)).unwrap();
            }
            rig.backup();
        }
        let packages = |places: &[(u32, u32, u32)]| places.windows(2).filter(|two| two[0].0 != two[1].0).count();
        let before = places(&rig);
        assert!(packages(&before) > 400, "{} changes of package", packages(&before));
        let args: &[&str] = if point { &["--point", "latest"] } else { &["--min-live", "1.0"] };
        rig.maint(&[&["compact", "--yes"], args].concat());
        let after = places(&rig);
        assert!(after.is_sorted(), "the order of the tree is the order on the medium");
        assert_eq!(packages(&after), 0);
        rig.maint(&["check", "--read-data"]);
        restored_is(&rig, "latest", &manifest(&rig.source()), "out");
    }
}

#[test]
fn limits_of_time_and_bytes_leave_the_rest_for_another_time() {
    let rig = Rig::new();
    let points = three_points(&rig, 8 << 20);
    rig.maint(&["forget", "--yes", &points[1]]);
    let before = stored(&rig);
    let left = maint(&rig, &["--json", "prune", "--yes", "--max-duration", "0s"]);
    let summary = message(&words(&left), "summary");
    assert_eq!(left.status.code(), Some(3), "{summary}");
    assert!(summary["packages_left"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["packages_removed"], 0, "{summary}");
    assert!(stored(&rig) + (1 << 20) > before);
    rig.maint(&["check", "--read-data"]);
    assert_eq!(listed(&rig), [&*points[0], &points[2]]);
    // A limit beyond all clocks is none.
    let summary = message(&rig.maint(&["--json", "prune", "--yes", "--max-duration", "5000000000000000h"]), "summary");
    assert!(summary["freed_bytes"].as_u64() > Some(5 << 20), "{summary}");
    let all = message(&rig.maint(&["--json", "compact", "--dry-run", "--min-live", "1.0"]), "plan");
    let some = ["--json", "compact", "--dry-run", "--min-live", "1.0", "--max-bytes", "100K"];
    let some = message(&rig.maint(&some), "plan");
    assert!(some["live_bytes"].as_u64() <= Some(102_400) && some["packages"].as_u64() < all["packages"].as_u64());
    let none = maint(&rig, &["--json", "compact", "--yes", "--min-live", "1.0", "--max-duration", "0s"]);
    let summary = message(&words(&none), "summary");
    assert_eq!((none.status.code(), &summary["packages"]), (Some(3), &serde_json::json!(0)), "{summary}");
    assert_eq!(summary["packages_left"], all["packages"], "{summary}");
    rig.maint(&["check", "--read-data", "--max-duration", "5000000000000000h"]);
    restored_is(&rig, "latest", &manifest(&rig.source()), "out");
}

/// The package with most bytes: that of the content.
fn largest_package(rig: &Rig) -> std::path::PathBuf {
    let dirs = fs::read_dir(rig.path("repo/packages")).unwrap().map(|dir| dir.unwrap().path());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()));
    files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
}

#[test]
fn the_next_backup_brings_back_what_older_points_lost() {
    for flip in [false, true] {
        let rig = Rig::new();
        let mut random = Random::from_env();
        for n in 0..3 {
            fs::write(rig.source().join(format!("f{n}")), random.bytes(2_000_000)).unwrap();
        }
        rig.backup();
        let (point, want) = (listed(&rig)[0].clone(), manifest(&rig.source()));
        let package = largest_package(&rig);
        if flip {
            let mut bytes = fs::read(&package).unwrap();
            bytes[1_000_000] ^= 1;
            fs::write(&package, bytes).unwrap();
        } else {
            fs::remove_file(&package).unwrap();
        }
        // Which files feel it, and a note about it for the backup.
        let check = maint(&rig, &["check", "--read-data"]);
        assert!(check.status.code() == Some(1) && words(&check).contains("/f"), "{}", words(&check));
        // Nothing changed at the source, and what is lost is read all the same.
        rig.backup();
        restored_is(&rig, &point, &want, "out");
        rig.maint(&["repair", "--yes"]);
        rig.maint(&["check", "--read-data"]);
        restored_is(&rig, &point, &want, "again");
    }
}

#[test]
fn compact_leaves_forgotten_points_whole() {
    let rig = Rig::new();
    let points = three_points(&rig, 1 << 20);
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    rig.maint(&["compact", "--yes", "--min-live", "1.0"]);
    rig.maint(&["undelete"]);
    assert_eq!(listed(&rig), points);
    rig.maint(&["check", "--read-data"]);
}

/// Ends the mount and waits until its process has ended, too: then its pin is not held. (The file may stay: threads that end
/// with the process drop nothing.)
pub fn end_mount(rig: &Rig) {
    rig.umount();
    let begun = std::time::Instant::now();
    while !relict::store::pin_holders(&rig.path("repo")).unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 20, "the mount's process does not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Whether a directory is there; the mount leaves out what is forgotten.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
