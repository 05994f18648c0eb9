//! Maintenance dies at every step that it announces: the repository passes a check, no visible point is lost, and doing
//! the same again completes it.

use crate::rig::{Random, Rig};
use crate::walker::{CompareOptions, diff, manifest};
use crate::{listed, stored};
use std::fs;
use std::path::Path;

/// Three points of many small and one large file; the first two are forgotten.
fn prepared() -> (Rig, Vec<String>) {
    let rig = Rig::new();
    let mut random = Random::from_env();
    for round in 0..3 {
        for n in (0..600).filter(|n| n % 3 == round || round == 0) {
            fs::write(rig.source().join(format!("f{n}")), random.bytes(3000)).unwrap();
        }
        fs::write(rig.source().join("large"), random.bytes(5 << 20)).unwrap();
        rig.backup();
    }
    let points = listed(&rig);
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    (rig, points)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(
        std::process::Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().unwrap().success()
    );
}

fn killed_everywhere(rig: &Rig, command: &[&str], hidden: usize) -> usize {
    let (repo, kept) = (rig.path("repo"), rig.path("kept"));
    let (visible, want) = (listed(rig), manifest(&rig.source()));
    copy(&repo, &kept);
    let mut died = 0;
    for step in 1.. {
        copy(&kept, &repo);
        let steps = rig.path("steps");
        let _ = fs::remove_file(&steps);
        let mut program = rig.command("relict-maint", command);
        let ended = program.env("RELICT_STEPS", &steps).env("RELICT_DIE_AT", step.to_string()).output().unwrap();
        if ended.status.success() {
            break;
        }
        assert!(ended.status.code().is_none(), "{}", String::from_utf8_lossy(&ended.stderr));
        died += 1;
        let last = fs::read_to_string(&steps).unwrap().lines().last().unwrap().to_owned();
        rig.maint(&["check", "--read-data"]);
        assert_eq!(listed(rig), visible, "after {last}");
        if step % 2 == 0 {
            // The database is lost on top: what comes back is whole.
            rig.maint(&["rebuild"]);
            rig.maint(&["check", "--read-data"]);
            let found = listed(rig).len();
            assert!((visible.len()..=visible.len() + hidden).contains(&found), "after {last}: {found} points");
        }
        rig.maint(command);
        rig.maint(&["check", "--read-data"]);
        let differences =
            diff(&want, &manifest(&rig.restore("latest", &format!("out-{step}"))), &CompareOptions::restored());
        assert!(differences.is_empty(), "after {last}: {}", differences.join("\n"));
        fs::remove_dir_all(rig.path(&format!("out-{step}"))).unwrap();
    }
    died
}

#[test]
fn prune_is_killed_at_every_step() {
    let (rig, points) = prepared();
    let before = stored(&rig);
    let died = killed_everywhere(&rig, &["prune", "--yes"], points.len() - 1);
    println!("{died} kills");
    assert!(died >= 6, "{died} steps only");
    assert!(stored(&rig) + (8 << 20) < before);
}

#[test]
fn compact_is_killed_at_every_step() {
    let (rig, _) = prepared();
    rig.maint(&["prune", "--yes"]);
    let died = killed_everywhere(&rig, &["compact", "--yes", "--min-live", "0.9"], 0);
    println!("{died} kills");
    assert!(died >= 4, "{died} steps only");
}

/// Three points of so many files, all contents different but that of one more, and nothing forgotten.
fn with_versions(files: usize) -> Rig {
    let rig = Rig::new();
    let mut random = Random::from_env();
    fs::write(rig.source().join("same"), random.bytes(3000)).unwrap();
    for _ in 0..3 {
        (0..files).for_each(|n| fs::write(rig.source().join(format!("f{n}")), random.bytes(3000)).unwrap());
        rig.backup();
    }
    rig
}

const THIN: [&str; 4] = ["forget", "--yes", "--keep-versions", "1"];

#[test]
fn thinning_is_killed_at_every_step() {
    let rig = with_versions(600);
    let oldest = listed(&rig)[0].clone();
    let died = killed_everywhere(&rig, &THIN, 0);
    println!("{died} kills");
    assert!(died >= 3, "{died} steps only");
    assert_eq!(fs::read_dir(rig.restore(&oldest, "old")).unwrap().count(), 1, "the oldest point is thinned in the end");
}

/// A point that would be left without a file is there as it was, or forgotten as a whole.
#[test]
fn forgetting_what_would_be_empty_is_killed_at_every_step() {
    let rig = Rig::new();
    for round in 0..3 {
        (0..100).for_each(|n| fs::write(rig.source().join(format!("f{n}")), format!("{round} {n}")).unwrap());
        rig.backup();
        fs::write(rig.source().join("same"), b"same").unwrap();
    }
    let (points, kept) = (listed(&rig), rig.path("kept"));
    copy(&rig.path("repo"), &kept);
    let args = ["forget", "--yes", "--keep-versions", "1"];
    let mut died = 0;
    for step in 1.. {
        copy(&kept, &rig.path("repo"));
        let _ = fs::remove_file(rig.path("steps"));
        let mut program = rig.command("relict-maint", &args);
        program.env("RELICT_STEPS", rig.path("steps")).env("RELICT_DIE_AT", step.to_string());
        if program.output().unwrap().status.success() {
            break;
        }
        died += 1;
        rig.maint(&["check", "--read-data"]);
        for point in listed(&rig) {
            assert!(fs::read_dir(rig.restore(&point, "seen")).unwrap().count() > 0, "step {step}: {point} is empty");
            fs::remove_dir_all(rig.path("seen")).unwrap();
        }
        rig.maint(&args);
        assert_eq!(listed(&rig), &points[1..], "step {step}");
        rig.maint(&["undelete"]);
        assert_eq!(listed(&rig), points, "step {step}");
        rig.maint(&["check", "--read-data"]);
    }
    assert!(died >= 3, "{died} steps only");
}

#[test]
fn a_prune_of_thinned_points_is_killed_at_every_step() {
    let rig = with_versions(600);
    rig.maint(&THIN);
    let before = stored(&rig);
    let died = killed_everywhere(&rig, &["prune", "--yes"], 0);
    println!("{died} kills");
    assert!(died >= 3, "{died} steps only");
    assert!(stored(&rig) + (1 << 20) < before, "two thirds of 4 MB went");
}

/// A thinned point's older record stays and moves with the rest: it must not take the newer one's place after a kill.
#[test]
fn a_compaction_of_thinned_points_is_killed_at_every_step() {
    let rig = with_versions(60);
    rig.maint(&THIN);
    let (points, kept, args) = (listed(&rig), rig.path("kept"), ["compact", "--yes", "--min-live", "1"]);
    copy(&rig.path("repo"), &kept);
    let oldest_is_thinned = |after: &str| {
        let names = fs::read_dir(rig.restore(&points[0], "seen")).unwrap().count();
        assert_eq!(names, 1, "after {after}: the oldest point has {names} files");
        fs::remove_dir_all(rig.path("seen")).unwrap();
    };
    let mut died = Vec::new();
    for step in 1.. {
        copy(&kept, &rig.path("repo"));
        let _ = fs::remove_file(rig.path("steps"));
        let mut program = rig.command("relict-maint", &args);
        program.env("RELICT_STEPS", rig.path("steps")).env("RELICT_DIE_AT", step.to_string());
        if program.output().unwrap().status.success() {
            break;
        }
        let last = fs::read_to_string(rig.path("steps")).unwrap().lines().last().unwrap().to_owned();
        if step % 2 == 0 {
            fs::remove_dir_all(rig.path("repo/db")).unwrap();
            rig.maint(&["rebuild"]);
        } else {
            // The next writer: it finishes what is left, and changes nothing itself.
            rig.maint(&["protect", "latest"]);
        }
        oldest_is_thinned(&last);
        rig.maint(&["check", "--read-data"]);
        rig.maint(&args);
        oldest_is_thinned(&last);
        assert_eq!(listed(&rig), points, "after {last}");
        rig.maint(&["undelete"]);
        let names = fs::read_dir(rig.restore(&points[0], "seen")).unwrap().count();
        assert_eq!(names, 61, "after {last}: undelete brings all of it back");
        fs::remove_dir_all(rig.path("seen")).unwrap();
        died.push(last);
    }
    println!("{died:?}");
    assert!(died.len() >= 4 && died.iter().any(|step| step == "chunks-appended"), "{died:?}");
}
