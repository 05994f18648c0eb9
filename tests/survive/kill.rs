//! The process is killed before every step it takes, in the middle of every write, and at random times; a mount reads
//! beside some of them.

use crate::beside::while_read;
use crate::operations::{Before, OPERATIONS, Operation};
use crate::rig::Random;
use crate::run::{Run, Say, Verdict};
use crate::scene::{PASSWORD, Scene, bare, copy, ids, place, program, words};
use crate::shim;
use crate::table;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kills of one operation in `make test`: at steps, at random times, and with a mount reading beside.
const SOME: [usize; 3] = [9, 3, 2];
/// Scenes of an operation in `make survive`, and of each the kills at random times.
const ROUNDS: usize = 4;
const TIMES: usize = 40;

#[derive(Debug, Clone, Copy)]
enum When {
    Before(usize),
    /// In the middle of the write.
    Within(usize),
    /// After so many thousandths of the time that it takes.
    After(u64),
}

#[derive(Debug, Clone, Copy)]
struct Kill {
    when: When,
    /// A mount reads beside.
    read: bool,
}

fn kill(run: &Run<'_>, when: When, whole: Duration) -> bool {
    match when {
        When::Before(step) => run.disturbed(&[("FAULTS_KILL", &step.to_string())]).status.success(),
        When::Within(step) => {
            run.disturbed(&[("FAULTS_KILL", &step.to_string()), ("FAULTS_TORN", "1")]).status.success()
        }
        When::After(thousandths) => {
            let mut child = run.operation().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole.mul_f64(thousandths as f64 / 1000.0));
            let _ = child.kill();
            child.wait().unwrap().success()
        }
    }
}

fn kills(operation: Operation) {
    let mut random = Random::from_env();
    for round in 0..if table::all() { table::setting("RELICT_SURVIVE_ROUNDS", ROUNDS) } else { 1 } {
        let scene = Scene::new(operation, &mut random);
        let run = Run::new(&scene);
        let steps = run.count();
        let begun = Instant::now();
        let _ = Run::new(&scene).operation().stdout(Stdio::null()).stderr(Stdio::null()).status();
        let whole = begun.elapsed();
        let jobs = jobs(&steps, may_be_read(&scene), &mut random);
        table::row(&format!("killed: {}, {round}", operation.name), &jobs, |job, say| one(&scene, *job, whole, say));
    }
}

/// Whether there is something that a mount could read beside.
fn may_be_read(scene: &Scene) -> bool {
    let lost_index = |step: &Before| matches!(step, Before::LoseIndex);
    !scene.operation.before.iter().any(lost_index) && scene.known.values().any(|known| !known.hidden && !known.goes)
}

fn jobs(steps: &[(String, String)], may_be_read: bool, random: &mut Random) -> Vec<Kill> {
    let torn = steps.iter().enumerate().filter(|(_, (kind, _))| kind == "write");
    let whole = (1..=steps.len()).map(When::Before);
    let at_steps: Vec<When> = whole.chain(torn.map(|(at, _)| When::Within(at + 1))).collect();
    let times: Vec<When> = (0..TIMES).map(|_| When::After(random.below(1100))).collect();
    let mut beside: Vec<When> = Vec::new();
    if may_be_read {
        beside.extend(at_steps.iter().filter(|_| random.below(8) == 0));
        beside.extend((0..TIMES / 4).map(|_| When::After(random.below(1100))));
    }
    let lists = [(at_steps, false), (times, false), (beside, true)];
    let mut all = Vec::new();
    for ((list, read), some) in lists.into_iter().zip(SOME) {
        all.extend(table::sample(list, some, random).into_iter().map(|when| Kill { when, read }));
    }
    table::sample(all, usize::MAX, random)
}

fn one(scene: &Scene, job: Kill, whole: Duration, say: Say<'_>) -> Verdict {
    let run = Run::new(scene);
    let (done, wrong) = if job.read {
        while_read(&run, || kill(&run, job.when, whole))
    } else {
        (kill(&run, job.when, whole), Vec::new())
    };
    let mut verdict = Verdict { wrong: wrong.len() as u64, ..Verdict::default() };
    wrong.into_iter().for_each(&mut *say);
    verdict += run.judge(done, say);
    verdict
}

mod at {
    use crate::operations::{operations, tests};
    operations!(tests crate::kill::kills);
}

/// What a file of the repository is there for; numbers and ids left out.
fn kind_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap();
    let plain: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
    let kind = match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "pkg" => "package".to_owned(),
        "key" | "new" if path.starts_with("/keys") => format!("key slot .{}", name.rsplit('.').next().unwrap()),
        "pin" => "pin".to_owned(),
        _ if path.starts_with("/packages/") && name.len() == 2 => "packages/*".to_owned(),
        _ => plain,
    };
    let top = path.trim_start_matches('/').split('/').next().unwrap();
    if path.matches('/').count() > 1 && top != "packages" && top != "keys" { format!("{top}/{kind}") } else { kind }
}

/// The points at which a kill is different from others: an operation, a kind of call, a kind of file.
#[test]
fn there_are_at_least_forty_points_to_be_killed_at() {
    let mut random = Random::from_env();
    let mut points = BTreeSet::new();
    for operation in OPERATIONS {
        let scene = Scene::new(*operation, &mut random);
        let steps = Run::new(&scene).count();
        assert!(steps.len() >= 5, "{} takes {} steps", operation.name, steps.len());
        points.extend(steps.iter().map(|(call, path)| format!("{}: {call} {}", operation.name, kind_of(path))));
    }
    println!("{} points:\n{}", points.len(), points.iter().cloned().collect::<Vec<_>>().join("\n"));
    let calls: BTreeSet<&str> = points.iter().map(|point| point.split(": ").nth(1).unwrap()).collect();
    println!("{} of them whatever the operation", calls.len());
    assert!(calls.len() >= 40, "{} only", calls.len());
}

/// There is no repository yet: init has a test of its own.
#[test]
fn a_killed_init_is_done_again() {
    for store in ["files", "rocksdb"] {
        let place = place();
        for step in 1.. {
            let repo = place.path().join(format!("repo{step}"));
            let init =
                || program("relict", &repo, PASSWORD).args(["--quiet", "init", "--store", store]).output().unwrap();
            let mut killed = bare("relict", &repo, PASSWORD);
            killed.args(["--quiet", "init", "--store", store]).env("LD_PRELOAD", shim::library());
            let killed = killed.env("FAULTS_ROOT", &repo).env("FAULTS_KILL", step.to_string()).output().unwrap();
            if killed.status.success() {
                assert!(step > 20, "{step} steps only");
                break;
            }
            let again = init();
            assert!(
                again.status.success() || words(&again).contains("is a repository already"),
                "{step}: {}",
                words(&again)
            );
            let check = program("relict-maint", &repo, PASSWORD).arg("check").output().unwrap();
            assert!(check.status.success(), "{step}: {}", words(&check));
            std::fs::remove_dir_all(&repo).unwrap();
        }
    }
}

/// A canary: a repository that lost its packages is not taken for whole, by the judge or by who lists its points.
#[test]
fn lost_packages_are_noticed() {
    let mut random = Random::from_env();
    let scene = Scene::new(crate::operations::named("backup"), &mut random);
    let run = Run::new(&scene);
    std::fs::remove_dir_all(run.repo().join("packages")).unwrap();
    let listing = ids(&run.repo(), PASSWORD).unwrap_err();
    let told = words(&listing);
    assert!(listing.status.code() == Some(3) && scene.known.keys().all(|id| told.contains(id)), "{told}");
    let mut said = Vec::new();
    let verdict = run.judge(false, &mut |words| said.push(words));
    assert!(verdict.lost >= 2 && verdict.manual >= 3, "{verdict:?} {said:?}");
}

/// A sealed package is read-only. Killed before the index says that it is sealed, it must not lock out who is not root.
#[test]
fn a_kill_between_seal_and_index_locks_nobody_out() {
    let place = place();
    let (repo, source, kept) = (place.path().join("repo"), place.path().join("source"), place.path().join("kept"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), vec![7; 50_000]).unwrap();
    // Not everybody may go where they were built.
    for name in ["relict", "relict-maint"] {
        std::fs::copy(bare(name, &repo, PASSWORD).get_program(), place.path().join(name)).unwrap();
    }
    let faults_library = place.path().join("faults.so");
    std::fs::copy(shim::library(), &faults_library).unwrap();
    own(place.path());
    let run = |name: &str, args: &[&str], faults: &[(&str, &str)]| {
        let mut command = bare(name, &repo, PASSWORD);
        command.args(args).envs(faults.iter().copied());
        if !faults.is_empty() {
            command.env("LD_PRELOAD", &faults_library).env("FAULTS_ROOT", &repo);
        }
        unprivileged(&command, &place.path().join(name)).output().unwrap()
    };
    let backup = ["--quiet", "backup", source.to_str().unwrap()];
    assert!(run("relict", &["--quiet", "init"], &[]).status.success());
    copy(&repo, &kept);
    let list = place.path().join("list");
    assert!(run("relict", &backup, &[("FAULTS_COUNT", list.to_str().unwrap())]).status.success());
    let steps = Run::steps_of(&list);
    let is_sync_of_packages = |(call, path): &(String, String)| call == "sync" && path.starts_with("/packages");
    let is_index = |(call, path): &(String, String)| call == "write" && path.contains("/db/");
    // Numbers of steps begin at 1: that of the write to the index which follows upon a sync of packages.
    let sealed = steps.windows(2).enumerate().filter(|(_, two)| is_sync_of_packages(&two[0]) && is_index(&two[1]));
    let sealed: Vec<usize> = sealed.map(|(at, _)| at + 2).collect();
    assert!(sealed.len() >= 2, "{sealed:?} of {steps:?}");
    let mut read_only = 0;
    for step in sealed {
        std::fs::remove_dir_all(&repo).unwrap();
        copy(&kept, &repo);
        let killed = run("relict", &backup, &[("FAULTS_KILL", &step.to_string())]);
        assert!(!killed.status.success(), "step {step} is not reached");
        read_only += packages_of(&repo).iter().filter(|file| file.metadata().unwrap().permissions().readonly()).count();
        let again = run("relict", &backup, &[]);
        assert!(again.status.success(), "killed before step {step}: {}", words(&again));
        let check = run("relict-maint", &["check", "--read-data"], &[]);
        assert!(check.status.success(), "killed before step {step}: {}", words(&check));
        assert!(packages_of(&repo).iter().all(|file| file.metadata().unwrap().permissions().readonly()));
    }
    assert!(read_only >= 2, "{read_only} sealed packages were met");
    // A footer rots: the rebuild of who is not root has no need to write to a read-only package.
    let file = packages_of(&repo).pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let open = std::fs::OpenOptions::new().write(true).open(&file).or_else(|_| {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::fs::OpenOptions::new().write(true).open(&file)
    });
    std::os::unix::fs::FileExt::write_all_at(&open.unwrap(), &bytes[last..], last as u64).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    for (args, code) in [(&["rebuild"][..], 3), (&["repair", "--yes"], 0), (&["check", "--read-data"], 0)] {
        let done = run("relict-maint", args, &[]);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {}", words(&done));
    }
}

fn packages_of(repo: &Path) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(repo.join("packages")).unwrap().map(|dir| dir.unwrap().path());
    dirs.flat_map(|dir| std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path())).collect()
}

/// Whoever has no rights: the user "nobody" where the test runs as root, otherwise who runs it.
const NOBODY: &str = "65534";

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Gives a directory with all that is in it to who has no rights.
fn own(dir: &Path) {
    if is_root() {
        assert!(Command::new("chown").args(["-R", NOBODY]).arg(dir).status().unwrap().success());
    }
}

/// The same command by a copy of its program, run by who has no rights.
fn unprivileged(command: &Command, program: &Path) -> Command {
    let mut out = Command::new(if is_root() { "setpriv" } else { "env" });
    if is_root() {
        out.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "env"]);
    }
    // Not for setpriv itself, which would be disturbed by what is preloaded, as root.
    for (name, value) in command.get_envs() {
        let mut set = name.to_owned();
        set.push("=");
        set.push(value.unwrap());
        out.arg(set);
    }
    out.arg(program).args(command.get_args()).stdin(Stdio::null());
    out
}

/// The name of a repository that init has made is durable, and those of directories that it made above.
#[test]
fn init_makes_the_name_of_the_repository_durable() {
    let place = place();
    let root = place.path().canonicalize().unwrap();
    for (number, above) in ["", "new", "newer/still"].into_iter().enumerate() {
        let (list, dir) = (root.join(format!("list{number}")), root.join(above));
        let repo = dir.join(format!("repo{number}"));
        let mut init = bare("relict", &repo, PASSWORD);
        init.args(["--quiet", "init"]).env("LD_PRELOAD", shim::library()).env("FAULTS_ROOT", &root);
        assert!(init.env("FAULTS_COUNT", &list).status().unwrap().success());
        let steps = Run::steps_of(&list);
        let done = steps.iter().position(|(call, path)| call == "rename" && path.contains("relict.toml")).unwrap();
        let is_synced = |dir: &Path| {
            let dir = Path::new("/").join(dir.strip_prefix(&root).unwrap());
            let same = |path: &str| Path::new("/").join(path.trim_start_matches('/')) == dir;
            steps[..done].iter().any(|(call, path)| call == "sync" && same(path))
        };
        let names: Vec<&Path> = repo.ancestors().skip(1).take_while(|dir| dir.starts_with(&root)).collect();
        assert!(names.iter().all(|dir| is_synced(dir)), "{names:?} in {steps:?}");
    }
}
