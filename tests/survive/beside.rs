//! A mount that reads the acknowledged restore points all the time, while something happens to the repository.

use crate::run::Run;
use crate::scene::Content;
use crate::walker::{CompareOptions, diff, try_manifest};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Unmounted when it is dropped.
struct Mounted {
    child: Child,
    at: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Mounted {
    fn new(run: &Run<'_>) -> Self {
        let at = run.path("mnt");
        std::fs::create_dir_all(&at).unwrap();
        let log = std::fs::File::create(run.path("mount.log")).unwrap();
        let mut command = crate::scene::bare("relict", &run.repo(), crate::scene::PASSWORD);
        command.args(["mount", "--foreground"]).arg(&at).stdout(log.try_clone().unwrap()).stderr(log);
        let mounted = Self { child: command.spawn().unwrap(), at };
        let begun = Instant::now();
        while !is_mounted(&mounted.at) {
            let said = std::fs::read_to_string(run.path("mount.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(30), "no mount: {said}");
            std::thread::sleep(Duration::from_millis(2));
        }
        mounted
    }
}

fn is_mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

/// `damaged`: what the repository has lost cannot be read, which is no wrong byte.
fn compare(at: &Path, id: &str, want: &Content, damaged: bool) -> Result<(), String> {
    let path = at.join("ids").join(id).join(want.path.trim_start_matches('/'));
    let found = match try_manifest(&path) {
        Err(error) if damaged && error.raw_os_error() == Some(libc::EIO) => return Ok(()),
        found => found.map_err(|error| format!("restore point {id} in the mount: {error}"))?,
    };
    // What is wanted was restored to a file system that has no btrfs.compression.
    let options = CompareOptions::all().ignoring(&["btime", "holes", "blocks"]).ignoring_xattrs(b"btrfs.");
    let differences = diff(&want.manifest, &found, &options);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(format!("restore point {id} in the mount: {}", differences.join("; ")))
    }
}

/// Does `work` while every point that stays visible is read through a mount, again and again; once more afterwards. Gives
/// what `work` gave, and what was wrong.
pub fn while_read<T>(run: &Run<'_>, work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let mounted = Mounted::new(run);
    let staying: Vec<(&String, &Content)> = run
        .scene
        .known
        .iter()
        .filter(|(_, known)| !known.hidden && !known.goes)
        .map(|(id, known)| (id, &known.content))
        .collect();
    assert!(!staying.is_empty(), "{}: there is nothing to read", run.scene.operation.name);
    let (stop, read, wrong) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    let pass = || {
        for (id, want) in &staying {
            wrong.lock().unwrap().extend(compare(&mounted.at, id, want, run.scene.operation.broken).err());
            read.fetch_add(1, Ordering::Relaxed);
        }
    };
    let done = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pass()
            }
        });
        while read.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = work();
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        done
    });
    // What the kernel has kept of it proves nothing about the repository as it is now.
    let _ = Command::new("sh").args(["-c", "echo 2 > /proc/sys/vm/drop_caches"]).status();
    pass();
    (done, wrong.into_inner().unwrap())
}
