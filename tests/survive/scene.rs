//! A small repository with acknowledged restore points, as it is before an operation is disturbed.

use crate::inputs;
use crate::operations::{Before, Ends, Operation};
use crate::rig::Random;
use crate::run::Run;
use crate::walker::{Manifest, manifest};
use relict::store::{CreateOptions, create};
use repo_format::KdfParams;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What opens a repository of these tests: at first, and after its password was changed.
pub const PASSWORD: &str = "correct horse";
pub const NEW_PASSWORD: &str = "new horse";

/// What a restore point holds, at a path in it.
#[derive(Debug, Clone)]
pub struct Content {
    pub path: String,
    pub manifest: Arc<Manifest>,
}

/// A restore point that was acknowledged.
#[derive(Debug, Clone)]
pub struct Known {
    pub content: Content,
    /// Whether it is forgotten before the operation.
    pub hidden: bool,
    /// Whether the operation forgets it.
    pub goes: bool,
    /// What the operation leaves of it, where that is not all.
    pub thinned: Option<Content>,
}

/// A repository as it is before the operation. Runs work on copies of it.
pub struct Scene {
    pub dir: TempDir,
    pub operation: Operation,
    /// What was acknowledged, by id.
    pub known: BTreeMap<String, Known>,
    /// What points may hold that nobody has acknowledged yet.
    pub new: Vec<Content>,
    /// Name of the key slot that was added last.
    pub slot: String,
    server: Option<Server>,
}

/// Gives the disk to who asks by NBD, until it is dropped.
struct Server(Child);

impl Server {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("nbd");
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-e", "64", "-f", "raw", "-k"]).arg(&socket).arg(dir.join("disk"));
        let server = Self(command.stdin(Stdio::null()).spawn().expect("qemu-nbd (tests/setup.sh installs it)"));
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "qemu-nbd does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    /// Makes the scene of an operation; then runs the operation on a copy, to know what it does undisturbed.
    pub fn new(operation: Operation, random: &mut Random) -> Self {
        let mut scene = Self::before(operation, random);
        if matches!(operation.ends, Ends::Makes | Ends::Hides | Ends::Thins) {
            let run = Run::new(&scene);
            let output = run.disturbed(&[]);
            assert!(output.status.success(), "{}: {}", operation.name, words(&output));
            let after = run.ids().unwrap();
            let made: Vec<Content> = after
                .iter()
                .filter(|id| !scene.known.contains_key(*id))
                .map(|id| scene.content_of(operation.args, run.dir(), id))
                .collect();
            assert_eq!(made.is_empty(), operation.ends != Ends::Makes, "{} made {} points", operation.name, made.len());
            let mut thinned = if operation.ends == Ends::Thins { run.thinned() } else { BTreeMap::new() };
            drop(run);
            scene.new.extend(made);
            let goes = |known: &Known, id: &String| !known.hidden && !after.contains(id);
            scene.known.iter_mut().for_each(|(id, known)| {
                known.goes = goes(known, id);
                known.thinned = thinned.remove(id);
            });
            let going = scene.known.values().filter(|known| known.goes).count();
            assert!(operation.ends != Ends::Hides || going > 0, "{} hides nothing", operation.name);
            assert!(operation.ends != Ends::Makes || going == 0, "{} hides {going} points", operation.name);
            let thinned = scene.known.values().filter(|known| known.thinned.is_some()).count();
            assert_eq!(thinned > 0, operation.ends == Ends::Thins, "{} thins {thinned} points", operation.name);
        }
        scene
    }

    fn before(operation: Operation, random: &mut Random) -> Self {
        let (dir, slot) = (place(), String::new());
        let mut scene = Self { dir, operation, known: BTreeMap::new(), new: Vec::new(), slot, server: None };
        inputs::fill(scene.dir.path(), random);
        // A password that costs nothing to hash: it is hashed some ten thousand times.
        let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        let options = CreateOptions { kdf, store: operation.store, ..CreateOptions::default() };
        create(&scene.repo(), &mut || Ok(PASSWORD.as_bytes().to_vec()), &options).unwrap();
        for step in operation.before {
            match step {
                Before::Change => inputs::change(scene.dir.path(), random),
                Before::Run(program, args) => scene.run(program, args),
                Before::KilledBackup => scene.kill_a_backup(random),
                Before::Copy => copy(&scene.repo(), &scene.dir.path().join("copy")),
                Before::Damage => damage(&scene.repo()),
                Before::Serve => scene.server = Some(Server::start(scene.dir.path())),
                Before::LoseIndex => std::fs::remove_dir_all(scene.repo().join("db")).unwrap(),
            }
        }
        scene
    }

    /// Runs a program undisturbed, and keeps the books.
    fn run(&mut self, name: &str, args: &[&str]) {
        let args_here = self.resolved(args, self.dir.path());
        let slots = || -> Vec<PathBuf> {
            std::fs::read_dir(self.repo().join("keys")).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let before = slots();
        said(program(name, &self.repo(), PASSWORD).args(args_here));
        if let Some(new) = slots().into_iter().find(|path| !before.contains(path)) {
            self.slot = new.file_stem().unwrap().to_str().unwrap().to_owned();
        }
        let listed = ids(&self.repo(), PASSWORD).unwrap();
        for id in &listed {
            if !self.known.contains_key(id) {
                let content = self.content_of(args, self.dir.path(), id);
                self.known.insert(id.clone(), Known { content, hidden: false, goes: false, thinned: None });
            }
        }
        self.known.iter_mut().for_each(|(id, known)| known.hidden = !listed.contains(id));
        if args.contains(&"--keep-versions") {
            for (id, left) in Run::new(self).thinned() {
                self.known.get_mut(&id).unwrap().content = left;
            }
        }
    }

    /// What a point that `args` has just made in the repository of `dir` must hold: the source, or what was put in.
    fn content_of(&self, args: &[&str], dir: &Path, id: &str) -> Content {
        if args.contains(&"backup") {
            return self.source_content();
        }
        let target = dir.join(format!("reference-{id}"));
        let from = format!("{id}:/");
        let mut restore = program("relict", &dir.join("repo"), PASSWORD);
        let output = restore.args(["--quiet", "restore", &from, "-t"]).arg(&target).output().unwrap();
        // No other file system takes btrfs.compression: restore says so. What else may be missing, the comparison finds.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", words(&output));
        let restored = manifest(&target);
        self.assert_is_disk(args, &restored);
        std::fs::remove_dir_all(&target).unwrap();
        Content { path: "/".into(), manifest: Arc::new(restored) }
    }

    /// An ingested disk is the disk that was given. (What btrfs streams must give, `tests/streams` knows.)
    fn assert_is_disk(&self, args: &[&str], restored: &Manifest) {
        if args.contains(&"DISK") || args.contains(&"NBD") {
            let bytes = std::fs::read(self.dir.path().join("disk")).unwrap();
            assert_eq!(restored[&b"sda.raw"[..]].content, Some(*blake3::hash(&bytes).as_bytes()));
        } else {
            assert!(restored.len() > 1, "{args:?} made an empty point");
        }
    }

    fn source_content(&self) -> Content {
        let source = self.dir.path().join("source");
        Content { path: source.to_str().unwrap().to_owned(), manifest: Arc::new(manifest(&source)) }
    }

    /// Leaves a backup that was killed in its second half.
    fn kill_a_backup(&mut self, random: &mut Random) {
        let backup = crate::operations::named("backup");
        let steps = Run::of(self, backup).count().len() as u64;
        let at = steps / 2 + random.below(steps / 3);
        let run = Run::of(self, backup);
        let output = run.disturbed(&[("FAULTS_KILL", &at.to_string())]);
        assert!(!output.status.success(), "the backup was not killed: {output:?}");
        let killed = run.into_dir();
        std::fs::remove_dir_all(self.repo()).unwrap();
        copy(&killed.path().join("repo"), &self.repo());
        // Its point may be whole already; then it stays, or comes with the next writer.
        let content = self.source_content();
        for id in ids(&self.repo(), PASSWORD).unwrap() {
            let known = Known { content: content.clone(), hidden: false, goes: false, thinned: None };
            self.known.entry(id).or_insert(known);
        }
        self.new.push(content);
    }

    /// The arguments with what they stand for. `dir` is where the repository that is worked on lies.
    pub fn resolved(&self, args: &[&str], dir: &Path) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let one = |arg: &&str| {
            let mut out = String::new();
            for (number, word) in arg.split(' ').enumerate() {
                out.extend((number > 0).then_some(' '));
                let (front, word) = word.split_once('=').map_or(("", word), |(front, word)| (front, word));
                if !front.is_empty() {
                    out.push_str(front);
                    out.push('=');
                }
                match word {
                    "SNAPSHOT" => out.push_str(&text(dir.join("snapshot"))),
                    "NBD" => out.push_str(&format!("nbd+unix:///?socket={}", text(self.dir.path().join("nbd")))),
                    "POINT0" => out.push_str(self.known.keys().next().unwrap()),
                    "SLOT1" => out.push_str(&self.slot),
                    _ => out.push_str(&inputs::place(self.dir.path(), word).map_or_else(|| word.to_owned(), text)),
                }
            }
            out
        };
        args.iter().map(one).collect()
    }

    /// The repository before the operation.
    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }
}

/// Zeros in the middle of the largest package.
fn damage(repo: &Path) {
    let mut packages: Vec<(u64, PathBuf)> = Vec::new();
    for dir in std::fs::read_dir(repo.join("packages")).unwrap() {
        for file in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            packages.push((path.metadata().unwrap().len(), path));
        }
    }
    let (len, path) = packages.into_iter().max().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], len / 2).unwrap();
}

/// A directory in memory, where a sync costs nothing: what matters here is that it was asked for.
pub fn place() -> TempDir {
    tempfile::tempdir_in(memory()).unwrap()
}

fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// The ids of all restore points, or what went wrong.
pub fn ids(repo: &Path, password: &str) -> Result<Vec<String>, Output> {
    let output = program("relict", repo, password).args(["snapshots", "--json"]).output().unwrap();
    if !output.status.success() {
        return Err(output);
    }
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(id).collect())
}

pub fn words(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One of our programs, pointed at a repository.
pub fn bare(name: &str, repo: &Path, password: &str) -> Command {
    let mut command = Command::new(binary(name));
    environment(&mut command, repo, password);
    command
}

/// As [`bare`], but whoever hangs is killed, which no test takes for an end.
pub fn program(name: &str, repo: &Path, password: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "120"]).arg(binary(name));
    environment(&mut command, repo, password);
    command
}

/// `RELICT_BIN`: a directory with copies of the programs, so that a long run is not disturbed by who builds.
fn binary(name: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(name);
    let path = std::env::var_os("RELICT_BIN").map_or_else(built, |dir| Path::new(&dir).join(name));
    assert!(path.exists(), "{} is missing: cargo build --release --workspace makes it", path.display());
    path
}

fn environment(command: &mut Command, repo: &Path, password: &str) {
    command.env("RELICT_REPOSITORY", repo).env("RELICT_PASSWORD", password).env("RELICT_NEW_PASSWORD", NEW_PASSWORD);
    command.env("XDG_STATE_HOME", repo.with_file_name("state")).stdin(Stdio::null());
    // Readers have a directory of their own.
    command.env("TMPDIR", memory());
}

pub fn said(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
}

/// A copy with everything, by the program that people would use.
pub fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").args([from, to]).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}
