//! kill -9 of a running backup at random times, with a mount reading beside it: every acknowledged restore
//! point stays whole, and the next commands need no manual step. `RELICT_SEED` repeats a run, `RELICT_KILLS` sets how many.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.path("mnt")).status();
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(args).env("RELICT_REPOSITORY", self.path("repo")).env("RELICT_PASSWORD", "secret");
        command
    }

    fn relict(&self, args: &[&str]) -> String {
        let out = self.command(Path::new(env!("CARGO_BIN_EXE_relict")), args).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "relict {args:?}: {text}");
        text
    }

    fn backup(&self) -> Child {
        let source = self.path("source");
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_relict")), &["backup", "--quiet"]);
        command.arg(source).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn points(&self) -> usize {
        self.relict(&["snapshots", "--json"]).lines().filter(|line| line.contains("\"message_type\":\"snapshot\"")).count()
    }
}

/// Fills `dir` with files whose content follows from `round`; about 12 MB.
fn fill(dir: &Path, round: u64) {
    std::fs::create_dir_all(dir).unwrap();
    for number in 0..400_u64 {
        let mut state = round << 32 | number | 1;
        let mut bytes = Vec::new();
        while bytes.len() < 30_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 16).to_le_bytes());
        }
        std::fs::write(dir.join(format!("{number}")), bytes).unwrap();
    }
}

fn same(a: &Path, b: &Path) {
    let out = Command::new("diff").arg("-r").arg(a).arg(b).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_killed_backup_costs_nothing_that_was_acknowledged() {
    let seed = from_env("RELICT_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let kills = from_env("RELICT_KILLS").unwrap_or(20);
    println!("RELICT_SEED={seed} RELICT_KILLS={kills}");
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    std::fs::create_dir(bench.path("mnt")).unwrap();
    fill(&bench.path("source"), 0);
    bench.relict(&["init"]);
    let begun = Instant::now();
    assert!(bench.backup().wait().unwrap().success());
    let whole = begun.elapsed();
    std::fs::create_dir(bench.path("kept")).unwrap();
    same_copy(&bench);
    bench.relict(&["mount", bench.path("mnt").to_str().unwrap()]);
    let shown = std::fs::read_link(bench.path("mnt/latest")).unwrap();
    let first = bench.path("mnt").join(shown).join(bench.path("source").strip_prefix("/").unwrap());

    let mut random = seed | 1;
    let (mut killed, mut acknowledged) = (0, 1);
    for round in 1..=kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        fill(&bench.path("source"), round);
        let mut child = bench.backup();
        std::thread::sleep(whole.mul_f64((random >> 40) as f64 / f64::from(1 << 24) * 1.6));
        let done = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let success = child.wait().unwrap().success();
        killed += usize::from(!done);
        // Acknowledged if it said so; a point sealed just before the kill may be there as well, and is then whole.
        let points = bench.points();
        assert!(points >= acknowledged + usize::from(success) && points <= acknowledged + 1, "round {round}: {points}");
        acknowledged = points;
        // The mount was there all the time and still shows the first point, bit for bit.
        same(&bench.path("kept/source"), &first);
    }
    assert!(killed > 0, "no backup was killed while it ran; seed {seed}");
    println!("{killed} of {kills} backups were killed while they ran");

    // No manual step: the next backup works, finds what was stored, and everything verifies.
    assert!(bench.backup().wait().unwrap().success());
    assert_eq!(bench.points(), acknowledged + 1);
    let target = bench.path("restored");
    let from = format!("latest:{}", bench.path("source").display());
    bench.relict(&["restore", "--quiet", &from, "-t", target.to_str().unwrap()]);
    same(&bench.path("source"), &target);
    same(&bench.path("kept/source"), &first);
    wait_for(|| std::fs::read_dir(bench.path("mnt/ids")).unwrap().count() > acknowledged);
    bench.relict(&["umount", bench.path("mnt").to_str().unwrap()]);
}

/// Keeps a copy of the first state.
fn same_copy(bench: &Bench) {
    let status = Command::new("cp").arg("-a").arg(bench.path("source")).arg(bench.path("kept")).status().unwrap();
    assert!(status.success());
}

/// New points appear in a running mount within seconds.
fn wait_for(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the mount does not show the new restore point");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_interrupted_backup_says_how_to_go_on_and_is_found_again() {
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    fill(&bench.path("source"), 7);
    for extra in 8..30 {
        fill(&bench.path(&format!("source/{extra}x")), extra);
    }
    bench.relict(&["init"]);
    let source = bench.path("source");
    let args = ["backup", source.to_str().unwrap()];
    let child = bench.command(Path::new(env!("CARGO_BIN_EXE_relict")), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(250));
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{text}");
    assert!(text.contains("run it again") || text.contains("again"), "{text}");
    assert_eq!(bench.points(), 0);
    let summary = bench.relict(&["backup", "--json", source.to_str().unwrap()]);
    let last: serde_json::Value = serde_json::from_str(summary.trim().lines().last().unwrap()).unwrap();
    assert_eq!(last["message_type"], "summary");
    assert_eq!(bench.points(), 1);
}
