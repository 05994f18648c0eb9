//! A small repository with acknowledged restore points, an operation to disturb, and what must hold afterwards.

use crate::rig::Random;
use crate::walker::{CompareOptions, Manifest, diff, manifest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

/// What is disturbed.
#[derive(Clone, Copy)]
pub struct Operation {
    pub name: &'static str,
    /// How many backups were made before, each of a changed source.
    pub points: usize,
    /// Whether a backup was killed before, so that there is something to recover.
    pub after_a_kill: bool,
    /// Whether the source changed since the last restore point.
    pub changed: bool,
    /// The program and its arguments; `SOURCE` stands for the source.
    pub program: &'static str,
    pub args: &'static [&'static str],
    /// Whether it makes a restore point of the source.
    pub makes_a_point: bool,
}

const BACKUP: Operation = Operation {
    name: "backup",
    points: 2,
    after_a_kill: false,
    changed: true,
    program: "relict",
    args: &["--quiet", "backup", "SOURCE"],
    makes_a_point: true,
};

/// Every operation that is disturbed.
pub const OPERATIONS: [Operation; 5] = [
    Operation { name: "first backup", points: 0, ..BACKUP },
    BACKUP,
    Operation { name: "unchanged backup", changed: false, ..BACKUP },
    Operation { name: "backup after a kill", after_a_kill: true, ..BACKUP },
    Operation { name: "rebuild", program: "relict-maint", args: &["rebuild"], makes_a_point: false, ..BACKUP },
];

/// What a fault did that it must not do. All zero is the promise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged restore points that are gone.
    pub lost: u64,
    /// Restore points that give other bytes than they must.
    pub wrong: u64,
    /// Errors that were not told.
    pub undetected: u64,
    /// Times that somebody would have to do something by hand.
    pub manual: u64,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.undetected += other.undetected;
        self.manual += other.manual;
    }
}

/// A repository as it is before the operation. Runs work on copies of it.
pub struct Scene {
    dir: TempDir,
    pub operation: Operation,
    /// What each acknowledged point holds, by its id.
    acknowledged: BTreeMap<String, Arc<Manifest>>,
    /// What the source holds when the operation runs.
    source: Arc<Manifest>,
}

/// A copy of the scene's repository, at a path of its own.
pub struct Run<'s> {
    scene: &'s Scene,
    dir: TempDir,
}

impl Scene {
    pub fn new(operation: Operation, random: &mut Random) -> Self {
        let dir = place();
        let (repo, source) = (dir.path().join("repo"), dir.path().join("source"));
        std::fs::create_dir(&source).unwrap();
        said(&mut program("relict", &repo, &["--quiet", "init"]));
        let mut acknowledged = BTreeMap::new();
        fill(&source, random);
        for _ in 0..operation.points {
            change(&source, random);
            said(&mut program("relict", &repo, &["--quiet", "backup", source.to_str().unwrap()]));
            let content = Arc::new(manifest(&source));
            for id in ids(&repo).unwrap() {
                acknowledged.entry(id).or_insert_with(|| Arc::clone(&content));
            }
        }
        assert_eq!(acknowledged.len(), operation.points);
        if operation.changed {
            change(&source, random);
        }
        let mut scene = Self { source: Arc::new(manifest(&source)), dir, operation, acknowledged };
        if operation.after_a_kill {
            scene.kill_a_backup(random);
        }
        scene
    }

    /// Leaves a backup that was killed in its second half.
    fn kill_a_backup(&mut self, random: &mut Random) {
        let steps = Run::new(self).count().len() as u64;
        let at = steps / 2 + random.below(steps / 3);
        let mut run = Run::new(self);
        let output = run.disturbed(&[("FAULTS_KILL", &at.to_string())]);
        assert!(!output.status.success(), "the backup was not killed: {output:?}");
        std::fs::remove_dir_all(self.dir.path().join("repo")).unwrap();
        copy(&run.repo(), &self.dir.path().join("repo"));
        run.dir = place();
        // Its point may be whole already; then it stays.
        let known = ids(&self.dir.path().join("repo")).unwrap();
        self.acknowledged.extend(
            known
                .into_iter()
                .filter(|id| !self.acknowledged.contains_key(id))
                .map(|id| (id, Arc::clone(&self.source)))
                .collect::<Vec<_>>(),
        );
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// The repository before the operation.
    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }
}

impl<'s> Run<'s> {
    /// A copy to disturb.
    pub fn new(scene: &'s Scene) -> Self {
        let dir = place();
        copy(&scene.repo(), &dir.path().join("repo"));
        Self { scene, dir }
    }

    /// A repository that is made otherwise, by `make` at the path it is given.
    pub fn made(scene: &'s Scene, make: impl FnOnce(&Path)) -> Self {
        let dir = place();
        make(&dir.path().join("repo"));
        Self { scene, dir }
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the operation with the faults that `environment` tells.
    pub fn disturbed(&self, environment: &[(&str, &str)]) -> Output {
        let source = self.scene.source();
        let args: Vec<&str> = self
            .scene
            .operation
            .args
            .iter()
            .map(|arg| if *arg == "SOURCE" { source.to_str().unwrap() } else { arg })
            .collect();
        let mut command = program(self.scene.operation.program, &self.repo(), &args);
        command.env("LD_PRELOAD", crate::shim::library()).env("FAULTS_ROOT", self.repo().canonicalize().unwrap());
        command.envs(environment.iter().copied()).output().unwrap()
    }

    /// Runs the operation undisturbed, and gives the kind and the path of each of its steps.
    pub fn count(&self) -> Vec<(String, String)> {
        let list = self.path("steps");
        let output = self.disturbed(&[("FAULTS_COUNT", list.to_str().unwrap())]);
        assert!(output.status.success(), "{output:?}");
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ').skip(1).map(str::to_owned);
            (words.next().unwrap(), words.next().unwrap())
        };
        std::fs::read_to_string(list).unwrap().lines().map(line).collect()
    }

    /// Looks at the repository as its owner would on the next morning. `done`: the operation said that it was done.
    /// What is wrong is counted, and told to `say`.
    pub fn judge(&self, done: bool, say: &mut dyn FnMut(String)) -> Verdict {
        let mut verdict = Verdict::default();
        let repo = self.repo();
        let before = match ids(&repo) {
            Ok(ids) => ids,
            Err(words) => {
                say(format!("the restore points cannot be listed: {words}"));
                verdict.manual += 1;
                Vec::new()
            }
        };
        self.points(&before, done, &mut verdict, say);
        let source = self.scene.source();
        for args in [&["--quiet", "backup", source.to_str().unwrap()][..], &["check", "--read-data"]] {
            let name = if args.len() == 3 { "relict" } else { "relict-maint" };
            let output = program(name, &repo, args).output().unwrap();
            if !output.status.success() {
                say(format!("{name} {}: {}", args.join(" "), words(&output)));
                verdict.manual += 1;
            }
        }
        let after = ids(&repo).unwrap_or_default();
        let lost = before.iter().filter(|id| !after.contains(id)).count();
        if lost > 0 {
            say(format!("the next backup lost {lost} restore points"));
            verdict.lost += lost as u64;
        }
        verdict
    }

    /// Restores every acknowledged point from a damaged repository. Files that come out otherwise than they went in, and
    /// that `restore` did not name.
    pub fn wrong_bytes(&self, say: &mut dyn FnMut(String)) -> u64 {
        let mut wrong = 0;
        for (number, (id, want)) in self.scene.acknowledged.iter().enumerate() {
            let target = self.path(&format!("damaged-{number}"));
            let from = format!("{id}:{}", self.scene.source().display());
            let output = program("relict", &self.repo(), &["--json", "restore", &from, "-t", target.to_str().unwrap()])
                .output()
                .unwrap();
            let words = words(&output);
            if !matches!(output.status.code(), Some(0..=3 | 10 | 12)) || words.contains("panicked") {
                say(format!("restore: {words}"));
                wrong += 1;
            }
            let found = if target.is_dir() { manifest(&target) } else { Manifest::new() };
            let differs = |path: &[u8]| found.get(path).is_some_and(|entry| entry.content != want[path].content);
            let named = |path: &[u8]| words.contains(&*String::from_utf8_lossy(path));
            let missing = want.keys().any(|path| !found.contains_key(path));
            let silent: Vec<_> = want.keys().filter(|path| differs(path) && !named(path)).collect();
            if !silent.is_empty() || (missing && output.status.success()) {
                say(format!("restore point {id} gives wrong bytes in {silent:?}, or lacks files: {words}"));
                wrong += 1;
            }
        }
        wrong
    }

    /// Whether `check --read-data` finds nothing.
    pub fn check_is_content(&self) -> bool {
        program("relict-maint", &self.repo(), &["check", "--read-data"]).output().unwrap().status.success()
    }

    /// Every acknowledged point is there, and every point that is there is whole.
    fn points(&self, there: &[String], done: bool, verdict: &mut Verdict, say: &mut dyn FnMut(String)) {
        let scene = self.scene;
        for id in scene.acknowledged.keys().filter(|id| !there.contains(id)) {
            say(format!("restore point {id} is lost"));
            verdict.lost += 1;
        }
        let new = there.iter().filter(|id| !scene.acknowledged.contains_key(*id)).count();
        if done && scene.operation.makes_a_point && new == 0 {
            say("the restore point that was acknowledged is not there".to_owned());
            verdict.lost += 1;
        }
        for (number, id) in there.iter().enumerate() {
            let target = self.path(&format!("restored-{number}"));
            let from = format!("{id}:{}", scene.source().display());
            let args = ["--quiet", "restore", &from, "-t", target.to_str().unwrap()];
            let output = program("relict", &self.repo(), &args).output().unwrap();
            let want = scene.acknowledged.get(id).unwrap_or(&scene.source);
            let differences = if output.status.success() {
                diff(want, &manifest(&target), &CompareOptions::restored())
            } else {
                vec![words(&output)]
            };
            if !differences.is_empty() {
                say(format!("restore point {id}: {}", differences.join("; ")));
                verdict.wrong += 1;
            }
        }
    }
}

/// A directory in memory, where a sync costs nothing: what matters here is that it was asked for.
fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The ids of all restore points, or what went wrong.
fn ids(repo: &Path) -> Result<Vec<String>, String> {
    let output = program("relict", repo, &["snapshots", "--json"]).output().unwrap();
    if !output.status.success() {
        return Err(words(&output));
    }
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(id).collect())
}

fn words(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn program(name: &str, repo: &Path, args: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --release --workspace makes it", path.display());
    // Whoever hangs is killed, which no test takes for an end.
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", "120"])
        .arg(path)
        .args(args)
        .env("RELICT_REPOSITORY", repo)
        .env("RELICT_PASSWORD", PASSWORD)
        .stdin(Stdio::null());
    command
}

fn said(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
}

/// Some of everything: small and larger files, a hole, a hard link, an attribute, a symbolic link.
fn fill(source: &Path, random: &mut Random) {
    for number in 0..30 {
        let len = random.below(9000) as usize;
        std::fs::write(source.join(format!("small-{number}")), random.bytes(len)).unwrap();
    }
    std::fs::write(source.join("large"), random.bytes(900_000)).unwrap();
    let holes = std::fs::File::create(source.join("holes")).unwrap();
    holes.set_len(50_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, &random.bytes(5000), 30_000_000).unwrap();
    std::fs::hard_link(source.join("small-1"), source.join("link")).unwrap();
    std::os::unix::fs::symlink("small-2", source.join("symlink")).unwrap();
}

fn change(source: &Path, random: &mut Random) {
    let name = |random: &mut Random| source.join(format!("small-{}", 3 + random.below(40)));
    for _ in 0..6 {
        let (path, len) = (name(random), random.below(20_000) as usize);
        std::fs::write(path, random.bytes(len)).unwrap();
    }
    let _ = std::fs::rename(name(random), source.join(format!("moved-{}", random.below(5))));
    let large = std::fs::OpenOptions::new().write(true).open(source.join("large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, &random.bytes(50_000), random.below(800_000)).unwrap();
}

/// A copy with everything, by the program that people would use.
pub fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").args([from, to]).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}
