//! A file system without a byte free: forgetting and pruning make room again (what restic#3464 could not).

use crate::rig::{PASSWORD, Random};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A small file system that is unmounted when this is dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at()).status();
    }
}

impl Small {
    fn new(kind: &str) -> Self {
        let small = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(small.at()).unwrap();
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let (at, image) = (small.at(), small.dir.path().join("image"));
        if kind == "tmpfs" {
            run("mount", &["-t", "tmpfs", "-o", "size=160m", "none", at.to_str().unwrap()]);
        } else {
            fs::File::create(&image).unwrap().set_len(160 << 20).unwrap();
            // No blocks are kept back for root.
            run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
            run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        }
        small
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(program);
        let mut command = Command::new(program);
        command.args(args).env("RELICT_REPOSITORY", self.at().join("repo")).env("RELICT_PASSWORD", PASSWORD);
        command.output().unwrap()
    }

    fn done(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn free(&self) -> u64 {
        let output = Command::new("df").args(["-B1", "--output=avail"]).arg(self.at()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap()
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.at().join("filler")).unwrap();
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; bytes]).is_ok() {}
        }
        let _ = file.sync_all();
    }
}

fn room_is_made_again(kind: &str, rule: &str) {
    let small = Small::new(kind);
    let mut random = Random::from_env();
    let source = tempfile::tempdir().unwrap();
    let path = source.path().to_str().unwrap();
    small.done("relict", &["--quiet", "init"]);
    for _ in 0..2 {
        fs::write(source.path().join("own"), random.bytes(40 << 20)).unwrap();
        small.done("relict", &["--quiet", "backup", path]);
    }
    // The third does not fit, and is told so.
    fs::write(source.path().join("own"), random.bytes(400 << 20)).unwrap();
    let refused = small.run("relict", &["--quiet", "backup", path]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    small.fill();
    assert_eq!(small.free(), 0);
    small.done("relict-maint", &["forget", "--yes", rule, "1"]);
    small.done("relict-maint", &["prune", "--yes", "--discard-unfinished"]);
    assert!(small.free() > 30 << 20, "{kind}: {} bytes free", small.free());
    small.done("relict-maint", &["check", "--read-data"]);
    fs::remove_file(small.at().join("filler")).unwrap();
    fs::write(source.path().join("own"), random.bytes(1 << 20)).unwrap();
    small.done("relict", &["--quiet", "backup", path]);
    small.done("relict-maint", &["check", "--read-data"]);
}

#[test]
fn a_full_ext4_is_pruned() {
    room_is_made_again("ext4", "--keep-last");
}

#[test]
fn a_full_ext4_is_thinned_and_pruned() {
    room_is_made_again("ext4", "--keep-versions");
}

#[test]
fn a_full_tmpfs_is_pruned() {
    room_is_made_again("tmpfs", "--keep-last");
}
