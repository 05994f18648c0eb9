//! Every operation beside every other, with real processes: the one that runs is held in the middle of its work, the other
//! is started, and what SPEC.md section 20 says of the two must come true.

use crate::beside::while_read;
use crate::operations::named;
use crate::rig::Random;
use crate::run::{Run, Verdict};
use crate::scene::{Known, PASSWORD, Scene, bare, copy, words};
use crate::walker::{CompareOptions, diff, manifest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What can run: its name in the table, and how it is called. `POINT` is the newest restore point, `OUT` a new directory.
const RUNNERS: [(&str, &str, &[&str]); 11] = [
    ("backup", "relict", &["--quiet", "backup", "SOURCE"]),
    (
        "ingest",
        "relict",
        &["--quiet", "ingest", "image", "DISK", "--source", "h:vm/sda", "--time", "2026-11-21T10:00:00Z"],
    ),
    ("mount", "relict", &["mount"]),
    ("restore", "relict", &["--quiet", "restore", "POINT:SOURCE", "-t", "OUT"]),
    ("check", "relict-maint", &["check", "--read-data"]),
    ("forget", "relict-maint", &["--quiet", "forget", "--yes", "--keep-last", "1"]),
    ("prune", "relict-maint", &["--quiet", "prune", "--yes"]),
    ("compact", "relict-maint", &["--quiet", "compact", "--yes", "--min-live", "1"]),
    ("repair", "relict-maint", &["--quiet", "repair", "--yes"]),
    ("rebuild", "relict-maint", &["--quiet", "rebuild"]),
    ("keys", "relict-maint", &["--quiet", "keys", "add", "--label", "other"]),
];

/// What the table says of two operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// Both succeed.
    Beside,
    /// The second is refused with exit code 11, and told who is there.
    Refused,
}

/// The table of SPEC.md: by what runs and what is started.
fn table() -> BTreeMap<(String, String), Cell> {
    let spec = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let (_, after) =
        spec.split_once("<!-- beside each other -->\n").expect("SPEC.md has no table of what runs beside what");
    let rows: Vec<Vec<&str>> = after
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let started: Vec<&str> = rows[0][1..].to_vec();
    let mut out = BTreeMap::new();
    for row in &rows[2..] {
        for (name, cell) in started.iter().zip(&row[1..]) {
            let cell = match *cell {
                "beside" => Cell::Beside,
                "refused" => Cell::Refused,
                other => panic!("SPEC.md, {} and {name}: {other}", row[0]),
            };
            assert!(out.insert((row[0].to_owned(), (*name).to_owned()), cell).is_none());
        }
    }
    out
}

#[test]
fn the_table_has_every_pair() {
    let table = table();
    for (running, ..) in RUNNERS {
        for (started, ..) in RUNNERS {
            assert!(table.contains_key(&(running.to_owned(), started.to_owned())), "{running} and {started}");
        }
    }
    assert_eq!(table.len(), RUNNERS.len() * RUNNERS.len());
}

/// Three points of the source, of which the oldest is forgotten and the second may be.
fn scene(random: &mut Random) -> (Scene, String) {
    let mut scene = Scene::new(named("prune"), random);
    let image = Scene::new(named("image"), random);
    // The disk and its content, and the source as it is now, are what new points hold.
    copy(&image.dir.path().join("disk"), &scene.dir.path().join("disk"));
    scene.new.extend(image.new.iter().cloned());
    let visible: Vec<(&String, &Known)> = scene.known.iter().filter(|(_, known)| !known.hidden).collect();
    let (newest, known) = (visible[0].0.clone(), visible[0].1.clone());
    assert_eq!(visible.len(), 1);
    scene.new.push(known.content);
    (scene, newest)
}

/// How one of [`RUNNERS`] is called on a run.
fn command(run: &Run<'_>, number: usize, point: &str, out: &Path) -> Command {
    let (_, program, args) = RUNNERS[number];
    let mut command = bare(program, &run.repo(), PASSWORD);
    for arg in run.scene.resolved(args, run.dir()) {
        let source = run.scene.dir.path().join("source");
        match arg.as_str() {
            "POINT:SOURCE" => command.arg(format!("{point}:{}", source.display())),
            "OUT" => command.arg(out),
            _ => command.arg(arg),
        };
    }
    command
}

/// A process that waits in the middle of its work, until it is told to go on.
struct Held {
    child: Child,
    file: PathBuf,
}

impl Held {
    /// `reads`: it is held at a read of a package, because it changes nothing.
    fn start(run: &Run<'_>, mut command: Command, hold: (&str, usize)) -> Self {
        let file = run.path("held");
        command.env("LD_PRELOAD", crate::shim::library()).env("FAULTS_ROOT", run.repo().canonicalize().unwrap());
        command.env(hold.0, hold.1.to_string()).env("FAULTS_HELD", &file);
        let mut held = Self { child: command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), file };
        let begun = Instant::now();
        while !held.file.exists() {
            assert!(held.child.try_wait().unwrap().is_none(), "{command:?} ended before it was held");
            assert!(begun.elapsed() < Duration::from_secs(60), "{command:?} is never held");
            std::thread::sleep(Duration::from_millis(1));
        }
        held
    }

    fn go_on(self) -> Output {
        std::fs::remove_file(&self.file).unwrap();
        self.child.wait_with_output().unwrap()
    }
}

/// Where `running` is held: in the middle of what it writes, or of what it reads.
fn middle(scene: &Scene, number: usize, point: &str) -> (&'static str, usize) {
    if matches!(RUNNERS[number].0, "restore" | "check") {
        return ("FAULTS_READ", 2);
    }
    let run = Run::new(scene);
    let list = run.path("steps");
    let mut command = command(&run, number, point, &run.path("out"));
    command.env("LD_PRELOAD", crate::shim::library()).env("FAULTS_ROOT", run.repo().canonicalize().unwrap());
    let output = command.env("FAULTS_COUNT", &list).output().unwrap();
    assert!(output.status.success(), "{}: {}", RUNNERS[number].0, words(&output));
    let steps = std::fs::read_to_string(list).unwrap().lines().count();
    ("FAULTS_HOLD", steps / 2 + 1)
}

/// Starts `number` and says how it ended; a mount is read and ends well.
fn start(run: &Run<'_>, number: usize, point: &str) -> Result<(), (Option<i32>, String)> {
    if RUNNERS[number].0 == "mount" {
        let ((), wrong) = while_read(run, || std::thread::sleep(Duration::from_millis(20)));
        return if wrong.is_empty() { Ok(()) } else { Err((None, wrong.join("; "))) };
    }
    let out = run.path("out-started");
    let output = command(run, number, point, &out).output().unwrap();
    if !output.status.success() {
        return Err((output.status.code(), words(&output)));
    }
    restored(run, number, point, &out)
}

/// What a restore has written is what it should be.
fn restored(run: &Run<'_>, number: usize, point: &str, out: &Path) -> Result<(), (Option<i32>, String)> {
    if RUNNERS[number].0 != "restore" {
        return Ok(());
    }
    let differences = diff(&run.scene.known[point].content.manifest, &manifest(out), &CompareOptions::restored());
    if differences.is_empty() { Ok(()) } else { Err((Some(0), differences.join("; "))) }
}

fn pair(
    scene: &Scene,
    point: &str,
    hold: Option<(&str, usize)>,
    running: usize,
    started: usize,
    cell: Cell,
) -> Vec<String> {
    let run = Run::new(scene);
    let mut wrong = Vec::new();
    let out = run.path("out-running");
    match hold {
        None => {
            let (ended, read) = while_read(&run, || start(&run, started, point));
            wrong.extend(read);
            wrong.extend(judged(ended, cell, None));
        }
        Some(hold) => {
            let held = Held::start(&run, command(&run, running, point, &out), hold);
            let pid = held.child.id();
            wrong.extend(judged(start(&run, started, point), cell, Some(pid)));
            let output = held.go_on();
            if !output.status.success() {
                wrong.push(format!("what ran ended with {}", words(&output)));
            } else if let Err((_, words)) = restored(&run, running, point, &out) {
                wrong.push(format!("what ran: {words}"));
            }
        }
    }
    let mut verdict = Verdict::default();
    let mut say = |words| wrong.push(words);
    match run.ids() {
        Ok(ids) => {
            if !ids.contains(&point.to_owned()) {
                say(format!("restore point {point} is lost"));
            }
            run.compare(&ids, false, &mut verdict, &mut say);
        }
        Err(words) => say(format!("the points cannot be listed: {words}")),
    }
    run.must("relict", &["--quiet", "backup", "SOURCE"], &[0], &mut verdict, &mut say);
    run.must("relict-maint", &["check", "--read-data"], &[0], &mut verdict, &mut say);
    wrong
}

fn judged(ended: Result<(), (Option<i32>, String)>, cell: Cell, pid: Option<u32>) -> Option<String> {
    match (cell, ended) {
        (Cell::Beside, Ok(())) => None,
        (Cell::Refused, Err((Some(11), words))) if pid.is_none_or(|pid| words.contains(&format!("pid {pid}"))) => None,
        (_, ended) => Some(format!("what was started ended with {ended:?}")),
    }
}

/// One row of the table.
fn beside_others(name: &str) {
    let mut random = Random::from_env();
    let (table, (scene, point)) = (table(), scene(&mut random));
    let running = RUNNERS.iter().position(|runner| runner.0 == name).unwrap();
    let hold = (name != "mount").then(|| middle(&scene, running, &point));
    let jobs: Vec<usize> = (0..RUNNERS.len()).collect();
    crate::table::row(&format!("beside each other: {name}"), &jobs, |started, say| {
        let cell = table[&(name.to_owned(), RUNNERS[*started].0.to_owned())];
        let wrong = pair(&scene, &point, hold, running, *started, cell);
        let verdict = Verdict { wrong: wrong.len() as u64, ..Verdict::default() };
        wrong.into_iter().for_each(|words| say(format!("{name}, then {}: {words}", RUNNERS[*started].0)));
        verdict
    });
}

macro_rules! rows {
    ($($name:ident)*) => { $(#[test] fn $name() { beside_others(stringify!($name)); })* };
}
rows!(backup ingest mount restore check forget prune compact repair rebuild keys);

/// A prune keeps what is being restored, also when the point was forgotten after the restore began.
#[test]
fn a_point_that_is_restored_is_not_pruned() {
    let mut random = Random::from_env();
    let scene = Scene::new(named("forget"), &mut random);
    let (going, known) = scene.known.iter().find(|(_, known)| known.goes).unwrap();
    let run = Run::new(&scene);
    let (restore, out) = (RUNNERS.iter().position(|runner| runner.0 == "restore").unwrap(), run.path("out"));
    let held = Held::start(&run, command(&run, restore, going, &out), ("FAULTS_READ", 3));
    let (mut verdict, mut said) = (Verdict::default(), Vec::new());
    let mut say = |words| said.push(words);
    run.must("relict-maint", &["--quiet", "forget", "--yes", "--keep-last", "1"], &[0], &mut verdict, &mut say);
    run.must("relict-maint", &["--quiet", "prune", "--yes"], &[0], &mut verdict, &mut say);
    let output = held.go_on();
    assert!(output.status.success() && said.is_empty(), "{} {said:?}", words(&output));
    let differences = diff(&known.content.manifest, &manifest(&out), &CompareOptions::restored());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // The pin ends with the restore.
    assert!(std::fs::read_dir(run.repo().join("pins")).unwrap().next().is_none());
    run.must("relict-maint", &["--quiet", "prune", "--yes"], &[0], &mut verdict, &mut |words| panic!("{words}"));
    let target = run.path("gone");
    let output = run.program("relict").args(["restore", &format!("{going}:/"), "-t"]).arg(target).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
}

/// Every line of the promise in SPEC.md names files that are there, and functions that are in them.
#[test]
fn the_promise_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = std::fs::read_to_string(root.join("SPEC.md")).unwrap();
    let (_, after) = spec.split_once("| fault | relict | caused by |\n|---|---|---|\n").unwrap();
    let rows: Vec<&str> = after.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10);
    for row in rows {
        let causes = row.trim_matches('|').rsplit('|').next().unwrap();
        let names: Vec<&str> = causes.split('`').skip(1).step_by(2).collect();
        let (files, functions): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains('/'));
        assert!(!files.is_empty(), "no test causes: {row}");
        let text: String = files.iter().map(|file| text_of(&root.join(file))).collect();
        // What has a space is a command.
        for name in functions.into_iter().filter(|name| !name.contains(' ')) {
            let wanted = name.strip_suffix('*').map_or_else(|| format!("fn {name}("), |front| format!("fn {front}"));
            assert!(text.contains(&wanted) || text.contains(&format!(" {name}: ")), "no {name}: {row}");
        }
    }
}

/// A file, or all files of a directory.
fn text_of(path: &Path) -> String {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().map(|entry| text_of(&entry.unwrap().path())).collect();
    }
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}
