//! What a review of `relict-maint` and its neighbours found, by the real programs.

use crate::rig::{PASSWORD, Random, Rig};
use crate::walker::manifest;
use crate::{listed, maint, restored_is, three_points, words};
use relict::store::{Location, OpenOptions, Repository};
use repo_format::PackageKind;
use std::fs;
use std::process::{Child, Command, Output, Stdio};

/// The first segment of content, in the order of packages, and the path of its package.
fn some_content(rig: &Rig) -> (std::path::PathBuf, Location) {
    let mut password = || Ok(PASSWORD.as_bytes().to_vec());
    let repository = Repository::open(&rig.path("repo"), &mut password, &OpenOptions::default()).unwrap();
    let packages = repository.index().packages().unwrap();
    let data = packages.iter().find(|package| package.kind == PackageKind::Data).unwrap();
    let (at, _) = repository.index().chunks_in(&[data.number].into()).unwrap()[0];
    let id = data.id.to_string();
    (rig.path("repo/packages").join(&id[..2]).join(format!("{id}.pkg")), at)
}

/// An extent that the file system lost reads as zeros, as a freed segment does. After a check the next backup reads the
/// unchanged file again, and the older restore point has its content back.
#[test]
fn what_became_zeros_is_brought_back_by_the_backup_after_a_check() {
    let rig = Rig::new();
    fs::write(rig.source().join("file"), Random::from_env().bytes(3 << 20)).unwrap();
    let want = manifest(&rig.source());
    rig.backup();
    let (package, at) = some_content(&rig);
    let mut bytes = fs::read(&package).unwrap();
    bytes[at.offset as usize..(at.offset + at.segment_bytes) as usize].fill(0);
    fs::remove_file(&package).unwrap();
    fs::write(&package, bytes).unwrap();
    let check = maint(&rig, &["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", words(&check));
    assert!(words(&check).contains("reads as zeros") && words(&check).contains("/file"), "{}", words(&check));
    rig.backup();
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, &listed(&rig)[0], &want, "out");
}

/// Runs `relict-maint` with nobody at the other end of standard output, nor of standard error if `both`.
fn unheard(rig: &Rig, args: &[&str], both: bool) -> Output {
    let closed = || std::io::pipe().unwrap().1;
    let mut command = rig.command("relict-maint", args);
    command.stdout(closed()).stderr(Stdio::piped());
    if both {
        command.stderr(closed());
    }
    command.spawn().unwrap().wait_with_output().unwrap()
}

/// `relict-maint ... | head`: what changes the repository finishes its work, and the exit code is that of SPEC.md section 11.
#[test]
fn a_reader_that_goes_away_cuts_no_maintenance_short() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    let gone = |args: &[&str]| {
        for both in [false, true] {
            let out = unheard(&rig, args, both);
            assert_eq!((out.status.code(), out.stderr.len()), (Some(141), 0), "{args:?}: {}", words(&out));
        }
    };
    for args in [&["stats"][..], &["health"], &["health", "--prometheus"], &["dump", "header"], &["keys", "list"]] {
        gone(args);
    }
    assert!(rig.maint(&["health"]).contains("no check has been written down"));
    gone(&["check"]);
    assert!(rig.maint(&["health"]).contains("the last check"), "written down although nobody listens");
    let one = unheard(&rig, &["forget", "--yes", &points[0]], true);
    assert_eq!((one.status.code(), listed(&rig)), (Some(141), points[1..].to_vec()), "{}", words(&one));
    let one = unheard(&rig, &["prune", "--yes"], true);
    assert_eq!(one.status.code(), Some(141), "{}", words(&one));
    assert!(rig.maint(&["prune", "--yes"]).contains("nothing to remove"));
    gone(&["--json", "compact", "--yes"]);
    gone(&["rebuild"]);
    gone(&["repair", "--yes"]);
    assert_eq!(listed(&rig), points[1..]);
    // Without --yes there is nobody to ask, and what is wrong is said where somebody listens.
    let refused = unheard(&rig, &["forget", &points[1]], false);
    assert_eq!((refused.status.code(), listed(&rig)), (Some(141), points[1..].to_vec()), "{}", words(&refused));
}

/// A program that stands still at every step that it announces until [`Steps::next`] lets it go on: the file of steps is a pipe.
struct Steps(std::path::PathBuf);

impl Steps {
    fn start(rig: &Rig, args: &[&str]) -> (Self, Child) {
        let path = rig.path("steps");
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut command = rig.command("relict-maint", args);
        command.env("RELICT_STEPS", &path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        (Self(path), child)
    }

    /// Waits until a step is announced.
    fn wait(&self) {
        drop(fs::OpenOptions::new().write(true).open(&self.0).unwrap());
    }

    /// Takes the step's name, and lets the program go on.
    fn take(&self) -> String {
        fs::read_to_string(&self.0).unwrap().trim().to_owned()
    }

    /// Lets the step that is waited for pass, and all others.
    fn pass(self, child: Child) -> Output {
        let path = self.0.clone();
        // Nobody waits for this thread: it stands at the pipe when the program has ended.
        std::thread::spawn(move || {
            let _ = fs::read(&path);
            while let Ok(file) = fs::OpenOptions::new().write(true).open(&path) {
                drop(file);
                let _ = fs::read(&path);
            }
        });
        child.wait_with_output().unwrap()
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    std::thread::sleep(std::time::Duration::from_millis(100));
}

/// Two sources. The older point of each keeps a file and loses one; of the oldest of the first nothing would be left.
#[test]
fn an_interrupted_thinning_says_what_it_has_done() {
    let rig = Rig::new();
    let backup = |source: &str, files: &[(&str, &str)]| {
        files.iter().for_each(|(name, content)| fs::write(rig.source().join(name), content).unwrap());
        rig.relict(&["--quiet", "backup", "--source", source, rig.source().to_str().unwrap()]);
    };
    backup("a", &[("changing", "0")]);
    backup("a", &[("changing", "1"), ("same", "")]);
    backup("a", &[("changing", "2")]);
    backup("b", &[("changing", "3")]);
    backup("b", &[("changing", "4")]);
    let thinned = || rig.relict(&["snapshots"]).matches("thinned: 1 file no longer here").count();
    let args = ["forget", "--yes", "--keep-versions", "1"];
    let (steps, child) = Steps::start(&rig, &args);
    // The first source: its trees are made, and then its records are sealed.
    for step in ["thinned-tree", "thinned-trees"] {
        steps.wait();
        assert_eq!(steps.take(), step);
    }
    steps.wait();
    interrupt(&child);
    let out = steps.pass(child);
    let said = words(&out);
    assert_eq!((out.status.code(), thinned(), listed(&rig).len()), (Some(130), 1, 4), "{said}");
    assert!(
        said.contains("1 restore point thinned, 1 restore point forgotten") && !said.contains("nothing was"),
        "{said}"
    );
    // The rest is done by the next.
    rig.maint(&args);
    assert_eq!((thinned(), listed(&rig).len()), (2, 4));
}

#[test]
fn a_prune_that_is_interrupted_says_so() {
    let rig = Rig::new();
    let points = three_points(&rig, 2 << 20);
    rig.maint(&["forget", "--yes", &points[0], &points[1]]);
    let (steps, child) = Steps::start(&rig, &["prune", "--yes"]);
    let of_package = |step: String| step.starts_with("package-") || step.starts_with("segments-");
    steps.wait();
    while !of_package(steps.take()) {
        steps.wait();
    }
    steps.wait();
    interrupt(&child);
    let out = steps.pass(child);
    assert_eq!(out.status.code(), Some(130), "{}", words(&out));
    assert!(words(&out).contains("left for the next prune"), "{}", words(&out));
    rig.maint(&["--quiet", "prune", "--yes"]);
    rig.maint(&["check", "--read-data"]);
}

/// Somebody takes the lease in the moment between looking for it and taking it.
#[test]
fn waiting_goes_on_when_somebody_else_was_faster() {
    let rig = Rig::new();
    three_points(&rig, 1000);
    let program = rig.command("relict-maint", &["prune", "--yes", "--wait"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:delay_enter=2000000:when=2"]);
    strace.arg(program.get_program()).args(program.get_args());
    program.get_envs().for_each(|(name, value)| _ = strace.env(name, value.unwrap()));
    let lock = rig.path("repo/lock");
    let mut child = strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !fs::read_to_string(&lock).unwrap_or_default().contains("prune") {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let lease = relict::store::Lease::take(&lock).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    drop(lease);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", words(&out));
    assert!(words(&out).contains("waiting: "), "{}", words(&out));
}
