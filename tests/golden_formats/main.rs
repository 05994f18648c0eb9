//! Old repositories: every format that was ever written stays readable. `repositories/` has small ones, each with what it
//! must show; make.sh made them and never makes them again. And newer ones, which are refused politely.

mod newer;
#[path = "../support/rig.rs"]
mod rig;

use rig::PASSWORD;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// All golden repositories: what is in the folder and not here is tested by nobody, and fails.
const GOLDEN: [&str; 6] = ["1-encrypted", "1-interrupted-prune", "1-plain", "1-rocksdb", "1-streams", "1-thinned"];
/// Of the encrypted one.
const GOLDEN_PASSWORD: &str = "golden";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_formats")
}

/// A copy of a repository, and room beside it.
pub(crate) struct Copy {
    dir: TempDir,
    password: &'static str,
}

impl Copy {
    fn of(golden: &str) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap(), password: GOLDEN_PASSWORD };
        let from = folder().join("repositories").join(golden).join("repository");
        let copied = Command::new("cp").arg("-a").arg(from).arg(copy.path("repo")).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// A new repository, encrypted.
    pub(crate) fn new() -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap(), password: PASSWORD };
        copy.says("relict --quiet init", 0);
        copy
    }

    /// A place beside the copy.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line on it.
    pub(crate) fn run(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        let program = Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(words.next().unwrap());
        assert!(program.exists(), "{} is missing: cargo build --release --workspace makes it", program.display());
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60"]).arg(program).args(words).stdin(Stdio::null());
        command.env("RELICT_REPOSITORY", self.path("repo")).env("RELICT_PASSWORD", self.password);
        command.env("XDG_STATE_HOME", self.path("state")).output().unwrap()
    }

    /// Runs a command line that must end with this exit code; what it said.
    pub(crate) fn says(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        text
    }
}

/// The points that a golden repository shows: id, path, and what is below that.
fn expected(golden: &str) -> Vec<(String, String, String)> {
    let dir = folder().join("repositories").join(golden);
    let points = fs::read_to_string(dir.join("points")).unwrap();
    let point = |line: &str| {
        let (id, path) = line.split_once(' ').unwrap();
        let manifest = fs::read(dir.join(format!("{id}.manifest"))).unwrap();
        // Names are bytes.
        let manifest = String::from_utf8_lossy(&manifest).into_owned();
        assert!(manifest.lines().count() > 1, "{golden}/{id}.manifest says nothing");
        (id.to_owned(), path.to_owned(), manifest)
    };
    points.lines().map(point).collect()
}

fn manifest(dir: &Path) -> String {
    let output = Command::new(folder().join("manifest.sh")).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn restored(copy: &Copy, points: &[(String, String, String)], round: &str) {
    for (id, path, want) in points {
        let target = copy.path(&format!("{round}-{id}"));
        copy.says(&format!("relict --quiet restore {id}:{path} -t {}", target.display()), 0);
        assert_eq!(&manifest(&target), want, "{round}: restore point {id}");
    }
}

#[test]
fn every_folder_is_tested() {
    let dirs = fs::read_dir(folder().join("repositories")).unwrap();
    let mut found: Vec<String> = dirs.map(|dir| dir.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, GOLDEN, "list what is new in GOLDEN; what was there must stay");
}

/// Everything that people do with a repository, on a copy of an old one.
fn opens(golden: &str) {
    let copy = Copy::of(golden);
    let points = expected(golden);
    assert!(!points.is_empty());
    for (id, ..) in &points {
        assert!(copy.says("relict snapshots --json", 0).contains(id.as_str()), "{id} is not listed");
    }
    restored(&copy, &points, "first");
    mounted(&copy, &points);
    copy.says("relict-maint check --read-data", 0);
    copy.says(&format!("relict --quiet backup --host golden --source tree {}", folder().display()), 0);
    copy.says("relict-maint protect latest --yes", 0);
    copy.says("relict-maint prune --yes", 0);
    restored(&copy, &points, "pruned");
    copy.says("relict-maint compact --yes --min-live 0.9", 0);
    // The packages of this one are in the database that would be made anew.
    copy.says("relict-maint rebuild", if golden.ends_with("rocksdb") { 2 } else { 0 });
    restored(&copy, &points, "rebuilt");
    copy.says(&format!("relict-maint forget {} --yes --unsafe-allow-remove-all", points[0].0), 0);
    copy.says("relict-maint prune --yes", 0);
    restored(&copy, &points[1..], "fewer");
    copy.says("relict-maint check --read-data", 0);
}

#[test]
fn what_was_protected_then_is_protected_now() {
    let copy = Copy::of("1-thinned");
    let newest = expected("1-thinned").pop().unwrap().0;
    for round in ["as it was", "rebuilt"] {
        let said = copy.says(&format!("relict-maint forget {newest} --yes --unsafe-allow-remove-all"), 2);
        assert!(said.contains("protected"), "{round}: {said}");
        copy.says("relict-maint rebuild", 0);
    }
    // And what was forgotten and not removed can be had back.
    let hidden = copy.says("relict-maint forget --keep-last all --dry-run", 0).lines().count();
    copy.says("relict-maint undelete --yes", 0);
    assert!(copy.says("relict-maint forget --keep-last all --dry-run", 0).lines().count() > hidden);
}

fn mounted(copy: &Copy, points: &[(String, String, String)]) {
    let mnt = copy.path("mnt");
    fs::create_dir(&mnt).unwrap();
    copy.says(&format!("relict --quiet mount {}", mnt.display()), 0);
    let shown: Vec<_> = points
        .iter()
        .map(|(id, path, _)| manifest(&mnt.join("ids").join(id).join(&path[path.len().min(1)..])))
        .collect();
    copy.says(&format!("relict --quiet umount {}", mnt.display()), 0);
    for ((id, _, want), shown) in points.iter().zip(shown) {
        assert_eq!(&shown, want, "mounted: restore point {id}");
    }
}

macro_rules! golden {
    ($($name:ident $folder:literal)*) => { $(#[test] fn $name() { opens($folder); })* };
}

golden! {
    an_encrypted_one_of_format_1 "1-encrypted"
    one_whose_prune_was_interrupted_of_format_1 "1-interrupted-prune"
    a_plain_one_of_format_1 "1-plain"
    one_in_rocksdb_of_format_1 "1-rocksdb"
    one_of_streams_of_format_1 "1-streams"
    a_thinned_one_of_format_1 "1-thinned"
}
