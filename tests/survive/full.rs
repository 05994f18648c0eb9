//! A real file system fills in the middle of an operation: ext4 on a loop device, or tmpfs, with a file that takes all room
//! but so much. What was acknowledged can be read at 0 bytes free, forget and prune work there, and when somebody has made
//! room, everything goes on.

use crate::operations::{Ends, Operation};
use crate::rig::Random;
use crate::run::{Run, Say, Verdict};
use crate::scene::{Scene, words};
use crate::table;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Disks of one operation in `make test`, and in all.
const SOME: usize = 4;
const MANY: usize = 100;
const DISK_BYTES: u64 = 96 << 20;

#[derive(Debug, Clone, Copy)]
struct Full {
    ext4: bool,
    /// What is free when the operation begins: so many thousandths of what it takes.
    thousandths: u64,
    /// What is done about it: points are forgotten and pruned, or the disk becomes larger.
    prune: bool,
}

/// A file system that is mounted where a run has its repository. Unmounted when it is dropped.
struct Disk {
    at: PathBuf,
    filler: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn must(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", words(&output));
}

impl Disk {
    /// Mounts at `at` and copies the repository `from` there.
    fn new(at: &Path, from: &Path, ext4: bool) -> Self {
        std::fs::create_dir(at).unwrap();
        let (image, place) = (at.with_file_name("image"), at.to_str().unwrap());
        if ext4 {
            File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
            // No blocks are kept back for root.
            must("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
            must("mount", &["-o", "loop", image.to_str().unwrap(), place]);
        } else {
            must("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "none", place]);
        }
        let disk = Self { at: at.to_owned(), filler: at.join("filler") };
        must("cp", &["-a", &format!("{}/.", from.display()), place]);
        // A copy of the reserve has no blocks; the real one has.
        if at.join("reserve").exists() {
            must("rm", &[at.join("reserve").to_str().unwrap()]);
            must("fallocate", &["-l", "8388608", at.join("reserve").to_str().unwrap()]);
        }
        disk
    }

    fn free(&self) -> u64 {
        let output = Command::new("df").args(["-B1", "--output=avail"]).arg(&self.at).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap()
    }

    /// Leaves so much room.
    fn leave(&self, bytes: u64) {
        self.fill();
        let file = std::fs::OpenOptions::new().write(true).open(&self.filler).unwrap();
        file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
        file.sync_all().unwrap();
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&self.filler).unwrap();
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; bytes]).is_ok() {}
        }
        let _ = file.sync_all();
    }

    fn enlarge(&self) {
        // Its room comes back at once, also while a process that another thread starts has it open until it is executed.
        drop(File::create(&self.filler).unwrap());
        std::fs::remove_file(&self.filler).unwrap();
        // ext4 gives freed blocks out again when it has committed that they are free.
        let synced = Command::new("sync").arg("-f").arg(&self.at).status().unwrap();
        assert!(synced.success());
    }
}

/// What an operation takes of a disk.
fn taken(scene: &Scene, ext4: bool) -> u64 {
    let (mut disk, mut before) = (None, 0);
    let run = Run::made(scene, |repo| {
        let new = Disk::new(repo, &scene.repo(), ext4);
        before = new.free();
        disk = Some(new);
    });
    let output = run.operation().output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    before.saturating_sub(disk.unwrap().free())
}

fn fills(operation: Operation) {
    let mut random = Random::from_env();
    let scene = Scene::new(operation, &mut random);
    let needs = [taken(&scene, false), taken(&scene, true)];
    // With two visible points, one may be forgotten.
    let may_prune = !operation.broken && scene.known.values().filter(|known| !known.hidden).count() > 1;
    let some = if table::all() { table::setting("RELICT_SURVIVE_DISKS", MANY) } else { SOME };
    let jobs: Vec<Full> = (0..some)
        .map(|number| Full {
            ext4: number % 2 == 1,
            thousandths: if number < 2 { 0 } else { random.below(1000) },
            prune: may_prune && number % 4 < 2,
        })
        .collect();
    table::row(&format!("disk full: {}", operation.name), &jobs, |job, say| one(&scene, *job, needs, say));
}

fn one(scene: &Scene, job: Full, needs: [u64; 2], say: Say<'_>) -> Verdict {
    let mut disk = None;
    let run = Run::made(scene, |repo| disk = Some(Disk::new(repo, &scene.repo(), job.ext4)));
    let disk = disk.unwrap();
    disk.leave(needs[usize::from(job.ext4)] * job.thousandths / 1000);
    let output = run.operation().output().unwrap();
    let (code, told) = (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
    let mut verdict = Verdict::default();
    if !matches!(code, Some(0 | 1)) || told.contains("panicked") || (code == Some(1) && told.trim().is_empty()) {
        say(format!("ended with {}: {told}", output.status));
        verdict.undetected += 1;
    }
    // These need next to no room, and there is a reserve for it.
    let frugal =
        ["forget", "thin", "undelete", "protect", "prune", "prune_what_a_kill_left", "prune_of_what_was_thinned"]
            .contains(&scene.operation.name);
    if frugal && code != Some(0) {
        say(format!("did not work on a full disk: {told}"));
        verdict.manual += 1;
    }
    let stores = scene.operation.ends == Ends::Makes && scene.operation.name != "unchanged_backup";
    if stores && !job.ext4 && job.thousandths == 0 && code == Some(0) {
        say("it was done without any room: this test does not fill the disk".to_owned());
        verdict.undetected += 1;
    }
    disk.fill();
    let done = code == Some(0);
    if job.prune {
        verdict += emptied(&run, &disk, done, say);
    } else {
        if !scene.operation.broken {
            // Reading needs no room.
            match run.ids() {
                Ok(ids) => run.compare(&ids, false, &mut verdict, say),
                Err(words) => {
                    say(format!("the points cannot be listed on a full disk: {words}"));
                    verdict.manual += 1;
                }
            }
        }
        disk.enlarge();
        verdict += run.judge(done, say);
    }
    verdict
}

/// Forgets and prunes at 0 bytes free; then there is room again, and what was not forgotten is whole.
fn emptied(run: &Run<'_>, disk: &Disk, done: bool, say: Say<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if disk.free() > 4096 {
        say(format!("{} bytes are free before", disk.free()));
        verdict.undetected += 1;
    }
    run.must("relict-maint", &["--quiet", "forget", "--yes", "--keep-last", "1"], &[0], &mut verdict, say);
    run.must("relict-maint", &["--quiet", "prune", "--yes", "--discard-unfinished"], &[0], &mut verdict, say);
    run.must("relict-maint", &["check", "--read-data"], &[0], &mut verdict, say);
    let ids = run.ids().unwrap_or_default();
    if ids.is_empty()
        || (done && run.scene.operation.ends == Ends::Makes && ids.iter().all(|id| run.scene.known.contains_key(id)))
    {
        say(format!("the newest restore point is not there: {ids:?}"));
        verdict.lost += 1;
    }
    run.compare(&ids, false, &mut verdict, say);
    disk.enlarge();
    run.must("relict", &["--quiet", "backup", "SOURCE"], &[0], &mut verdict, say);
    run.must("relict-maint", &["check", "--read-data"], &[0], &mut verdict, say);
    verdict
}

mod at {
    use crate::operations::{operations, tests};
    operations!(tests crate::full::fills);
}
