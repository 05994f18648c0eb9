//! `relict backup --snapshot btrfs` on a real btrfs, and `--snapshot-command` with a directory as its storage.

use crate::lab::Lab;
use crate::live::same;
use crate::rig::{Random, Rig};
use crate::walker::{CompareOptions, assert_same, manifest};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn backup(rig: &Rig, path: &Path) -> (Option<i32>, Value) {
    let out =
        rig.command("relict", &["backup", "--snapshot", "btrfs", path.to_str().unwrap(), "--json"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let last = text.lines().last().map(|line| serde_json::from_str(line).unwrap());
    (out.status.code(), last.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&out.stderr))))
}

fn made(rig: &Rig, path: &Path) -> Value {
    let (code, summary) = backup(rig, path);
    assert_eq!((code, summary["message_type"].as_str()), (Some(0), Some("summary")), "{summary}");
    summary
}

/// Our snapshots in the subvolume.
fn kept(lab: &Lab) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(lab.source().join(".relict-snapshots")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn id(summary: &Value) -> String {
    summary["id"].as_str().unwrap().to_owned()
}

fn notes(summary: &Value) -> String {
    summary["notes"].to_string()
}

/// A directory for PATH in which `script` is called btrfs.
fn instead_of_btrfs(rig: &Rig, script: &str) -> PathBuf {
    let bin = rig.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("btrfs"), script).unwrap();
    std::fs::set_permissions(bin.join("btrfs"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn first_everything_then_differences_then_what_a_lost_snapshot_needs() {
    let Some(lab) = Lab::new("zstd") else { return };
    let mut random = Random::from_env();
    let rig = Rig::new();
    rig.mount();
    lab.work(&mut random, 120);
    let first = made(&rig, &lab.source());
    assert!(notes(&first).contains("there was no restore point of this source"), "{first}");
    assert_eq!((kept(&lab).len(), &first["kind"]), (1, &"btrfs".into()));
    same(&rig, &id(&first), &kept(&lab)[0]);
    let before = kept(&lab);

    lab.work(&mut random, 30);
    let second = made(&rig, &lab.source());
    assert_eq!((second["notes"].as_array().unwrap().len(), &second["parent"]), (0, &first["id"]), "{second}");
    assert!(kept(&lab).len() == 1 && kept(&lab) != before);
    same(&rig, &id(&second), &kept(&lab)[0]);

    // Somebody removed it.
    lab.btrfs(&["subvolume", "delete"], &[&kept(&lab)[0]]);
    let third = made(&rig, &lab.source());
    assert!(notes(&third).contains("no snapshot that the repository knows"), "{third}");
    assert_eq!(third["parent"], Value::Null);
    same(&rig, &id(&third), &kept(&lab)[0]);

    // A snapshot that has our name and is not ours: left by a run that was killed, as far as anybody can tell.
    let name = kept(&lab)[0].clone();
    let foreign = name.with_file_name(format!("{}0", name.file_name().unwrap().to_str().unwrap()));
    lab.btrfs(&["subvolume", "snapshot", "-r"], &[&lab.source(), &foreign]);
    let fourth = made(&rig, &lab.source());
    assert_eq!((&fourth["parent"], kept(&lab).len()), (&third["id"], 1));
    assert!(!foreign.exists() && !name.exists());
    rig.maint(&["check", "--read-data"]);
    rig.umount();
}

/// A snapshot of the subvolume takes its place: where snapshots were, it has the empty directories that btrfs leaves of
/// nested subvolumes.
#[test]
fn after_a_rollback_everything_is_sent_once() {
    let Some(lab) = Lab::new("zstd") else { return };
    let (rig, mut random) = (Rig::new(), Random::from_env());
    rig.mount();
    lab.work(&mut random, 40);
    made(&rig, &lab.source());
    let (new, old) = (lab.mount().join("new"), lab.mount().join("old"));
    lab.btrfs(&["subvolume", "snapshot"], &[&lab.source(), &new]);
    std::fs::rename(lab.source(), &old).unwrap();
    std::fs::rename(&new, lab.source()).unwrap();
    let stubs = kept(&lab);
    assert!(stubs.len() == 1 && std::fs::read_dir(&stubs[0]).unwrap().next().is_none());
    lab.work(&mut random, 10);
    let point = made(&rig, &lab.source());
    assert!(notes(&point).contains("sent completely: no snapshot that the repository knows"), "{point}");
    let snapshots = |lab: &Lab| kept(lab).into_iter().filter(|path| !stubs.contains(path)).collect::<Vec<_>>();
    same(&rig, &id(&point), &snapshots(&lab)[0]);
    lab.work(&mut random, 10);
    let point = made(&rig, &lab.source());
    assert!(!notes(&point).contains("sent completely"), "{point}");
    assert_eq!(snapshots(&lab).len(), 1);
    same(&rig, &id(&point), &snapshots(&lab)[0]);
    rig.umount();
}

#[test]
fn what_backup_is_told_of_the_restore_point_stands_in_it() {
    let Some(lab) = Lab::new("zstd") else { return };
    let rig = Rig::new();
    lab.work(&mut Random::from_env(), 20);
    let guid = "0123abcd-4567-89ef-0123-456789abcdef";
    for _ in 0..2 {
        let path = lab.source();
        let args =
            ["backup", "--snapshot", "btrfs", path.to_str().unwrap(), "--json", "--set", guid, "--tag", "weekly"];
        let text = rig.relict(&[&args[..], &["--host", "nas1", "--source", "data"]].concat());
        let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let of = |field: &str| summary[field].to_string();
        assert_eq!(
            (of("host"), of("source"), of("tags")),
            ("\"nas1\"".into(), "\"data\"".into(), "[\"weekly\"]".into())
        );
        assert_eq!(summary["set"], guid, "{summary}");
    }
    rig.mount();
    assert!(rig.path("mnt/sets").join(guid).is_dir());
    rig.umount();
    rig.maint(&["check", "--read-data"]);
}

#[test]
fn a_failure_removes_the_new_snapshot_and_keeps_the_old_one() {
    let Some(lab) = Lab::new("zstd") else { return };
    let mut random = Random::from_env();
    let rig = Rig::new();
    lab.work(&mut random, 50);
    made(&rig, &lab.source());
    let before = kept(&lab);
    // A btrfs whose send fails in the middle of the stream.
    let script = "#!/bin/sh\nif [ \"$1\" = send ]; then shift; /usr/bin/env -i PATH=\"$REAL\" btrfs send \"$@\" | head -c 300; echo broken >&2; exit 3; fi\nPATH=\"$REAL\" exec btrfs \"$@\"\n";
    let bin = instead_of_btrfs(&rig, script);
    lab.work(&mut random, 20);
    let path = std::env::var("PATH").unwrap();
    let mut command = rig.command("relict", &["backup", "--snapshot", "btrfs", lab.source().to_str().unwrap()]);
    let out = command.env("REAL", &path).env("PATH", format!("{}:{path}", bin.display())).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("btrfs send failed") && said.contains("broken"), "{said}");
    assert_eq!(kept(&lab), before);
    assert_eq!(rig.relict(&["snapshots", "--json"]).lines().count(), 1);
    // What is no subvolume, and more than one.
    for paths in [vec![rig.source()], vec![lab.source(), rig.source()]] {
        let mut args = vec!["backup", "--snapshot", "btrfs"];
        args.extend(paths.iter().map(|path| path.to_str().unwrap()));
        assert_eq!(rig.command("relict", &args).output().unwrap().status.code(), Some(2), "{paths:?}");
    }
    assert_eq!(made(&rig, &lab.source())["notes"].as_array().unwrap().len(), 0);
}

/// A `btrfs` that notes what it was called for, and kills its caller when it is called the `$DIE_AT`th time: before it
/// does it, after it has done it, or in the middle of the stream.
const DEADLY: &str = r#"#!/bin/sh
echo "$1 $2" >> "$CALLS"
PATH="$REAL"
[ "$(wc -l < "$CALLS")" = "${DIE_AT:-0}" ] || exec btrfs "$@"
case $DIE_WHEN in
before) kill -9 $PPID ;;
after) btrfs "$@"; kill -9 $PPID ;;
within) btrfs "$@" | head -c 1000000; kill -9 $PPID ;;
esac
"#;

/// Kills in `make test`; all there are with RELICT_SURVIVE.
const KILLS: usize = 8;

#[test]
fn killed_at_any_step_the_next_run_cleans_up_and_goes_on() {
    let Some(lab) = Lab::new("zstd") else { return };
    let mut random = Random::from_env();
    let rig = Rig::new();
    rig.mount();
    lab.work(&mut random, 60);
    made(&rig, &lab.source());
    let (bin, calls, steps) = (instead_of_btrfs(&rig, DEADLY), rig.path("calls"), rig.path("steps"));
    let path = std::env::var("PATH").unwrap();
    // A backup of changes, with faults: whether it ended by itself.
    let ended = |random: &mut Random, faults: &[(&str, String)]| {
        let large = lab.source().join("large");
        if large.is_dir() {
            // Earlier work has exchanged the two.
            std::fs::rename(&large, lab.source().join(format!("was large {}", random.next()))).unwrap();
        }
        std::fs::write(&large, random.bytes(4 << 20)).unwrap();
        lab.work(random, 10);
        let _ = std::fs::remove_file(&calls);
        let mut command =
            rig.command("relict", &["-q", "backup", "--snapshot", "btrfs", lab.source().to_str().unwrap()]);
        command.env("CALLS", &calls).env("REAL", &path).env("PATH", format!("{}:{path}", bin.display()));
        command.env("LD_PRELOAD", crate::shim::library()).env("FAULTS_ROOT", rig.path("repo").canonicalize().unwrap());
        let status = command.envs(faults.iter().map(|(name, value)| (name, value))).stderr(Stdio::null()).status();
        status.unwrap().code().is_some()
    };
    assert!(ended(&mut random, &[("FAULTS_COUNT", steps.display().to_string())]));
    let steps = std::fs::read_to_string(&steps).unwrap().lines().count();
    let called = std::fs::read_to_string(&calls).unwrap();
    println!("{steps} steps in the repository; btrfs was called for:\n{called}");
    let at_calls = called.lines().enumerate().flat_map(|(at, call)| {
        let within = call.starts_with("send").then_some("within");
        let faults = move |when: &str| vec![("DIE_AT", (at + 1).to_string()), ("DIE_WHEN", when.to_owned())];
        ["before", "after"].into_iter().chain(within).map(faults)
    });
    let mut jobs: Vec<Vec<(&str, String)>> = at_calls.collect();
    let kills = jobs.len();
    assert!(kills > 6 && steps > 20, "{kills} of btrfs, {steps} of the repository");
    jobs.extend((1..=steps).map(|step| vec![("FAULTS_KILL", step.to_string())]));
    for at in (1..jobs.len()).rev() {
        jobs.swap(at, random.below(at as u64 + 1) as usize);
    }
    if std::env::var_os("RELICT_SURVIVE").is_none() {
        // Every call of btrfs has what no other has.
        jobs.sort_by_key(|job| job[0].0 != "DIE_AT");
        jobs.truncate(kills + KILLS);
    }
    let all = jobs.len();
    let (mut died, mut left) = (0, 0);
    for (number, faults) in jobs.iter().enumerate() {
        let ended = ended(&mut random, faults);
        died += usize::from(!ended);
        left += usize::from(kept(&lab).len() > 1);
        assert!(!ended || faults[0].0 == "FAULTS_KILL", "{faults:?} killed nobody");
        // Some are killed again before one ends.
        if random.below(2) == 0 || number + 1 == all {
            let point = made(&rig, &lab.source());
            assert!(!notes(&point).contains("sent completely"), "{faults:?}: the snapshot before was lost: {point}");
            assert_eq!(kept(&lab).len(), 1, "{faults:?}: {:?}", kept(&lab));
            same(&rig, &id(&point), &kept(&lab)[0]);
        }
    }
    println!("{died} of {all} died, {left} of them left a snapshot more");
    // The number of steps is not the same each time: the last ones may not come.
    assert!(died * 10 >= all * 8 && left > 0, "{died} of {all} died, {left} left a snapshot more");
    rig.maint(&["check", "--read-data"]);
    rig.umount();
}

#[test]
fn any_storage_by_commands_of_the_user() {
    let mut random = Random::from_env();
    let rig = Rig::new();
    rig.mount();
    std::fs::create_dir_all(rig.source().join("dir/below")).unwrap();
    std::fs::write(rig.source().join("dir/below/file"), random.bytes(70_000)).unwrap();
    std::fs::write(rig.source().join("top"), b"as it was").unwrap();
    let copies = rig.path("copies");
    std::fs::create_dir(&copies).unwrap();
    // The original changes while its snapshot is read.
    let create = format!(
        "create=cp -a \"$RELICT_PATH\" {0}/$RELICT_SNAPSHOT && echo changed > \"$RELICT_PATH/top\"",
        copies.display()
    );
    let show = format!("path=echo {}/$RELICT_SNAPSHOT", copies.display());
    let delete = format!("delete=rm -r {}/$RELICT_SNAPSHOT", copies.display());
    let source = rig.source();
    let run = |create: &str| {
        let args = ["backup", "--snapshot-command", create, &show, &delete, source.to_str().unwrap(), "--json"];
        rig.command("relict", &args).output().unwrap()
    };
    let want = manifest(&source);
    let out = run(&create);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let summary: Value = serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(summary["paths"][0].as_str(), source.to_str());
    let mounted = rig.path("mnt/ids").join(id(&summary)).join(source.strip_prefix("/").unwrap());
    let begun = Instant::now();
    while !mounted.exists() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_same(&want, &manifest(&mounted), &CompareOptions::restored());
    assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 0, "the snapshot is still there");
    // A failure removes what was made, and so does the run after one that was killed.
    let failed = run(&format!("{create} && false"));
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 0);
    let marker = format!("{create} && kill -9 $PPID");
    assert_eq!(run(&marker).status.code(), None);
    assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 1);
    assert!(run(&create).status.success());
    assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 0);
    assert_eq!(rig.relict(&["snapshots", "--json"]).lines().count(), 2);
    rig.umount();
}
