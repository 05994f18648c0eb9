//! `relict backup` is killed (SIGKILL) at random moments, with a mount reading beside it all the time. After every kill:
//! the restore points that were there are there, at most one is new, every point that can be seen is whole, `check`
//! finds nothing, and the next backup needs no manual step. SIGINT is kinder, and says how to go on.
//!
//! `RELICT_KILLS` (default 20) sets how many, `RELICT_SEED` repeats a run; the seed is printed.

#[path = "support/rig.rs"]
mod rig;
#[path = "support/walker.rs"]
mod walker;

use rig::{Random, Rig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use walker::{CompareOptions, Manifest, diff, manifest};

/// Restore points, by id, and what they must hold.
type Points = BTreeMap<String, Arc<Manifest>>;

/// Small files written by one change of the source.
const SMALL_FILES: u64 = 400;
/// Bytes of the file that each change makes new.
const NEW_BYTES: u64 = 24 << 20;
/// Bytes of the source before the first backup: more than one package.
const FIRST_BYTES: usize = 100 << 20;

fn through_the_mount() -> CompareOptions {
    CompareOptions::all().ignoring(&["btime", "holes", "blocks"])
}

fn first_source(source: &Path, random: &mut Random) {
    std::fs::write(source.join("base"), random.bytes(FIRST_BYTES)).unwrap();
    change(source, random);
}

/// New small files in place of a part of the old ones, a new large file, and a part of the base rewritten.
fn change(source: &Path, random: &mut Random) {
    let dir = source.join(format!("dir-{}", random.below(6)));
    std::fs::create_dir_all(&dir).unwrap();
    for _ in 0..SMALL_FILES {
        let len = random.below(20_000) as usize;
        std::fs::write(dir.join(format!("file-{}", random.below(2 * SMALL_FILES))), random.bytes(len)).unwrap();
    }
    let len = random.below(NEW_BYTES) as usize;
    std::fs::write(source.join("new"), random.bytes(len)).unwrap();
    let base = std::fs::OpenOptions::new().write(true).open(source.join("base")).unwrap();
    let at = random.below(FIRST_BYTES as u64 - (1 << 20));
    std::os::unix::fs::FileExt::write_all_at(&base, &random.bytes(1 << 20), at).unwrap();
}

/// The restore points as `relict snapshots` gives them: id, and when the state was taken.
fn listed(rig: &Rig) -> Vec<(String, jiff::Timestamp)> {
    let lines = rig.relict(&["snapshots", "--json"]);
    let point = |line: &str| {
        let json = serde_json::from_str::<serde_json::Value>(line).unwrap();
        (json["id"].as_str().unwrap().to_owned(), json["time"].as_str().unwrap().parse().unwrap())
    };
    lines.lines().map(point).collect()
}

/// Every backup that was started: when, and what the source held.
type Runs = Vec<(jiff::Timestamp, Arc<Manifest>)>;

/// What must hold at any time: all of `known` are listed, and a new point holds what the source held when its backup
/// ran. True when the last run has its point. A point whose backup died between its record and its acknowledgement may
/// appear with the next backup's recovery, so there can be two new ones, but never two of one run.
fn account(rig: &Rig, known: &Mutex<Points>, runs: &Runs) -> bool {
    let listed = listed(rig);
    let mut known = known.lock().unwrap();
    for id in known.keys() {
        assert!(listed.iter().any(|(found, _)| found == id), "restore point {id} was lost");
    }
    let mut owners = Vec::new();
    for (id, time) in listed.iter().filter(|(id, _)| !known.contains_key(id)).cloned().collect::<Vec<_>>() {
        let owner = runs.iter().rposition(|(begun, _)| *begun <= time).unwrap();
        assert!(!owners.contains(&owner), "one backup, two restore points");
        owners.push(owner);
        known.insert(id, Arc::clone(&runs[owner].1));
    }
    owners.contains(&(runs.len() - 1))
}

/// Starts a backup and kills it after `delay`; true when it had ended before, and so had acknowledged its point.
fn killed_after(rig: &Rig, delay: Duration) -> bool {
    let source = rig.source();
    let args = ["--quiet", "backup", source.to_str().unwrap()];
    let mut child = rig.command("relict", &args).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(delay);
    child.kill().unwrap();
    let ended = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code().is_none_or(|code| code == 0), "the backup failed: {words}");
    ended.status.success()
}

/// Compares restore points with what they must hold, through the mount, until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Reader {
    fn start(rig: &Rig, known: Arc<Mutex<Points>>) -> Self {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&read));
        let place: Vec<PathBuf> = vec![rig.path("mnt/ids"), rig.source()];
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let round = count.load(Ordering::Relaxed) as usize;
                let points = known.lock().unwrap().clone();
                if let Some((id, want)) = points.iter().nth(round % points.len().max(1)) {
                    compare(id, want, &place[0].join(id).join(place[1].strip_prefix("/").unwrap()));
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { stop, read, thread }
    }

    fn finish(self, rig: &Rig) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        assert!(ended.is_ok(), "the reader found a difference; the mount says:\n{}", rig.mount_log());
        self.read.load(Ordering::Relaxed)
    }
}

/// A new restore point may take a moment to be seen in a running mount.
fn compare(id: &str, want: &Manifest, path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "restore point {id} does not appear in the running mount");
        std::thread::sleep(Duration::from_millis(50));
    }
    let differences = diff(want, &manifest(path), &through_the_mount());
    assert!(differences.is_empty(), "restore point {id}, mounted:\n{}", differences.join("\n"));
}

#[test]
fn kill_9_loses_no_restore_point() {
    let kills: u64 = std::env::var("RELICT_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let mut random = Random::from_env();
    let rig = Rig::new();
    let known = Arc::new(Mutex::new(Points::new()));
    first_source(&rig.source(), &mut random);
    let mut source = Arc::new(manifest(&rig.source()));
    let mut runs = Runs::new();
    let mut mount = rig.mount_in_foreground();
    let reader = Reader::start(&rig, Arc::clone(&known));
    let mut whole = Duration::from_millis(1500);
    let (mut died, mut seen_unacknowledged) = (0, 0);
    for round in 0..kills {
        // The first backup is killed several times before anything is there.
        if round >= kills / 5 && round % 2 == 0 {
            change(&rig.source(), &mut random);
            source = Arc::new(manifest(&rig.source()));
        }
        let delay = whole.mul_f64(random.below(1100) as f64 / 1000.0);
        runs.push((jiff::Timestamp::now(), Arc::clone(&source)));
        let acknowledged = killed_after(&rig, delay);
        let new = account(&rig, &known, &runs);
        assert!(new || !acknowledged, "an acknowledged restore point is not there");
        died += u32::from(!acknowledged);
        // On a machine that is faster than thought, the next kills come earlier.
        if acknowledged {
            whole = whole.min(delay).mul_f64(0.9);
        }
        seen_unacknowledged += u32::from(new && !acknowledged);
        println!("kill {round} after {delay:?} of about {whole:?}: acknowledged {acknowledged}, new point {new}");
        rig.maint(if round % 5 == 4 { &["check", "--read-data"] } else { &["check"] });
        if round >= kills / 5 && round % 4 == 3 {
            change(&rig.source(), &mut random);
            source = Arc::new(manifest(&rig.source()));
            let begun = Instant::now();
            runs.push((jiff::Timestamp::now(), Arc::clone(&source)));
            rig.backup();
            whole = begun.elapsed();
            assert!(account(&rig, &known, &runs), "the backup after a kill made no restore point");
        }
    }
    runs.push((jiff::Timestamp::now(), Arc::clone(&source)));
    rig.backup();
    assert!(account(&rig, &known, &runs));
    rig.maint(&["check", "--read-data"]);
    let read = reader.finish(&rig);
    let points = known.lock().unwrap().clone();
    println!(
        "{died} of {kills} died before they acknowledged, {seen_unacknowledged} of them sealed; {} points; {read} compared in the mount beside",
        points.len()
    );
    for (id, want) in &points {
        compare(id, want, &rig.mounted(&format!("ids/{id}")));
    }
    rig.umount();
    assert!(mount.wait().unwrap().success(), "{}", rig.mount_log());
    for (number, (id, want)) in points.iter().enumerate().step_by(4) {
        let restored = manifest(&rig.restore(id, &format!("out-{number}")));
        let differences = diff(want, &restored, &CompareOptions::restored());
        assert!(differences.is_empty(), "restore point {id}, restored:\n{}", differences.join("\n"));
    }
    assert!(died > 0 && read > 0, "{died} died, {read} were read beside them");
}

#[test]
fn an_interrupted_backup_says_how_to_go_on_and_its_chunks_are_found_again() {
    let mut random = Random::from_env();
    let rig = Rig::new();
    let source = rig.source();
    std::fs::write(source.join("large"), random.bytes(400 << 20)).unwrap();
    let child = rig.command("relict", &["backup", source.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    // Two packages, so that something is sealed.
    let packages = rig.path("repo/packages");
    let stored = || std::fs::read_dir(&packages).unwrap().count();
    while stored() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{words}");
    assert!(words.contains("again"), "{words}");
    assert!(listed(&rig).is_empty());
    rig.maint(&["check", "--read-data"]);
    let summary = rig.relict(&["backup", "--json", source.to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    let new = summary["new_bytes"].as_u64().unwrap();
    assert!(new < 300 << 20, "{new} bytes were stored again, of {}", summary["bytes"]);
    assert_eq!(listed(&rig).len(), 1);
}
