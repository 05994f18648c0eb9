//! The strongest test of the whole: random trees go in by `relict backup`, come out by the mount and by
//! `relict restore`, and an independent walker compares content and every attribute. Then the tree is
//! changed at random, backed up again, and both restore points are compared.
//!
//! `RELICT_CASES` (default 20, and 4 each on xfs and btrfs) sets how many trees, `RELICT_SEED` repeats a run; the seed is printed.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/os_test.rs"]
mod os_test;
#[path = "../support/self_test.rs"]
mod self_test;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::tree_gen::{TreePlan, arb_changes, arb_tree, build, build_deep, mutate};
use support::walker::{CompareOptions, Manifest, diff, manifest};
use tempfile::TempDir;

/// A source, a repository and a mount point that is never left mounted.
struct Bench {
    dir: TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.source()).status();
        let mount = self.path("mnt");
        if !Command::new("umount").arg("-q").arg(&mount).status().is_ok_and(|s| s.success()) {
            let _ = Command::new("umount").args(["-q", "-l"]).arg(&mount).status();
        }
        // A file that was made immutable would keep its directory.
        let _ = Command::new("chattr").args(["-R", "-f", "-ia"]).arg(self.dir.path()).output();
    }
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["source", "mnt"] {
            std::fs::create_dir(bench.path(name)).unwrap();
        }
        bench.relict(&["init"], &[0]);
        bench
    }

    /// With a source on a file system of its own, in a file.
    fn on(kind: &str) -> Self {
        let bench = Self::new();
        let image = bench.path("image");
        let image = image.to_str().unwrap();
        let run = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
            assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        run("truncate", &["-s", "400M", image]);
        run(&format!("mkfs.{kind}"), &["-q", image]);
        run("mount", &["-t", kind, "-o", "loop", image, bench.source().to_str().unwrap()]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn relict(&self, args: &[&str], codes: &[i32]) -> String {
        let out = Command::new(env!("CARGO_BIN_EXE_relict"))
            .args(args)
            .env("RELICT_REPOSITORY", self.path("repo"))
            .env("RELICT_PASSWORD", "secret")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(codes.contains(&out.status.code().unwrap()), "relict {args:?}: {:?}\n{text}", out.status);
        text
    }

    fn backup(&self) {
        self.relict(&["backup", "--quiet", self.source().to_str().unwrap()], &[0]);
    }

    /// The manifests of `points` as a mount shows them, oldest first.
    fn mounted(&self, points: &[&str]) -> Vec<Manifest> {
        let mount = self.path("mnt");
        self.relict(&["mount", mount.to_str().unwrap()], &[0]);
        let walked = points.iter().map(|point| manifest(&below(&mount.join(point), &self.source()))).collect();
        self.relict(&["umount", mount.to_str().unwrap()], &[0]);
        walked
    }

    /// Restores into `target`, which must not exist: restore adds and mends, and never deletes.
    fn restored(&self, point: &str, target: &str) -> Manifest {
        let target = self.path(target);
        let from = format!("{point}:{}", self.source().display());
        self.relict(&["restore", "--quiet", &from, "-t", target.to_str().unwrap()], &[0]);
        manifest(&target)
    }

    /// Names of the restore points in the mount, oldest first.
    fn times(&self) -> Vec<String> {
        let mount = self.path("mnt");
        self.relict(&["mount", mount.to_str().unwrap()], &[0]);
        let mut names: Vec<String> = std::fs::read_dir(mount.join("snapshots"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n != "latest")
            .collect();
        names.sort();
        self.relict(&["umount", mount.to_str().unwrap()], &[0]);
        names
    }
}

/// `source` (absolute) below the root of a restore point.
fn below(root: &Path, source: &Path) -> PathBuf {
    root.join(source.strip_prefix("/").unwrap())
}

fn same(what: &str, want: &Manifest, got: &Manifest, options: &CompareOptions, plan: &TreePlan) {
    let differences = diff(want, got, options);
    assert!(differences.is_empty(), "{what} differs from the source:\n{}\nplan: {plan:#?}", differences.join("\n"));
}

/// What a mount cannot show as the source does: birth times (FUSE has no field for them), and how blocks
/// were allotted. Zero blocks of the source may be holes in the mount; content is compared.
fn through_the_mount() -> CompareOptions {
    CompareOptions::all().ignoring(&["btime", "holes", "blocks"])
}

/// Every hole of the source must be a hole in the mount.
fn holes_stay(source: &Manifest, mounted: &Manifest) {
    let blocks =
        |runs: &[(u64, u64)]| runs.iter().flat_map(|(at, n)| *at..at + n).collect::<std::collections::BTreeSet<u64>>();
    for (path, entry) in source {
        let (before, after) = (blocks(&entry.holes), blocks(&mounted[path].holes));
        assert!(before.is_subset(&after), "{}: holes were filled", String::from_utf8_lossy(path));
    }
}

fn case(bench: &Bench, tree: &TreePlan, changes: &TreePlan) {
    build(tree, &bench.source()).unwrap();
    let first = manifest(&bench.source());
    bench.backup();
    let shown = bench.mounted(&["latest"]).remove(0);
    same("the mount", &first, &shown, &through_the_mount(), tree);
    holes_stay(&first, &shown);
    same("the restored tree", &first, &bench.restored("latest", "out"), &CompareOptions::restored(), tree);

    mutate(changes, &bench.source()).unwrap();
    let second = manifest(&bench.source());
    bench.backup();
    let times = bench.times();
    assert_eq!(times.len(), 2, "{times:?}");
    let shown = bench.mounted(&[&format!("snapshots/{}", times[0]), &format!("snapshots/{}", times[1])]);
    same("the first point", &first, &shown[0], &through_the_mount(), changes);
    same("the second point", &second, &shown[1], &through_the_mount(), changes);
    same("the second restored tree", &second, &bench.restored("latest", "out2"), &CompareOptions::restored(), changes);
    same("the first restored tree", &first, &bench.restored("latest~1", "out1"), &CompareOptions::restored(), changes);
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_trees_come_out_as_they_went_in() {
    random_trees(20, &Bench::new);
}

#[test]
fn random_trees_on_xfs_come_out_as_they_went_in() {
    random_trees(4, &|| Bench::on("xfs"));
}

#[test]
fn random_trees_on_btrfs_come_out_as_they_went_in() {
    random_trees(4, &|| Bench::on("btrfs"));
}

fn random_trees(cases: u64, bench: &dyn Fn() -> Bench) {
    let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = from_env("RELICT_SEED").unwrap_or_else(clock);
    let cases = from_env("RELICT_CASES").unwrap_or(cases);
    println!("RELICT_SEED={seed} RELICT_CASES={cases}");
    for number in 0..cases {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let tree = arb_tree().new_tree(&mut runner).unwrap().current();
        let changes = arb_changes().new_tree(&mut runner).unwrap().current();
        println!("case {number}");
        case(&bench(), &tree, &changes);
    }
}

#[test]
fn paths_beyond_path_max() {
    let bench = Bench::new();
    build_deep(&bench.source(), 40, 200).unwrap();
    let source = manifest(&bench.source());
    assert!(source.keys().map(Vec::len).max().unwrap() > 4096);
    bench.backup();
    let shown = bench.mounted(&["latest"]).remove(0);
    assert!(diff(&source, &shown, &through_the_mount()).is_empty());
    assert!(diff(&source, &bench.restored("latest", "out"), &CompareOptions::restored()).is_empty());
}

#[test]
fn inode_flags_come_back() {
    let bench = Bench::new();
    for (name, flag) in [("immutable", "+i"), ("append", "+a"), ("no-dump", "+d"), ("no-atime", "+A")] {
        let file = bench.source().join(name);
        std::fs::write(&file, name).unwrap();
        assert!(Command::new("chattr").arg(flag).arg(&file).status().unwrap().success(), "chattr {flag}");
    }
    let flags = |dir: &Path| {
        let out = Command::new("lsattr").current_dir(dir).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    bench.backup();
    bench.restored("latest", "out");
    let (before, after) = (flags(&bench.source()), flags(&bench.path("out")));
    assert_eq!(before, after);
    assert!(before.iter().any(|line| line.contains('i')) && before.len() == 4, "{before:?}");
}
