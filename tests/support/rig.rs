//! A repository, a source and a mount point in one temporary directory, for tests of the real programs.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::borrow::BorrowMut;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// What [`Rig::new`] locks the repository with.
pub const PASSWORD: &str = "correct horse battery staple";

/// Unmounted and removed when it is dropped, however the test ends.
pub struct Rig {
    dir: TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.path("mnt")).status();
        }
    }
}

impl Rig {
    /// An encrypted repository, an empty `source` and an empty `mnt`.
    pub fn new() -> Self {
        assert!(is_root(), "this test compares owners, devices and trusted attributes: run it as root");
        let rig = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["source", "mnt"] {
            std::fs::create_dir(rig.path(name)).unwrap();
        }
        rig.relict(&["--quiet", "init"]);
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// The source below `point`, a directory of the mount such as `latest`.
    pub fn mounted(&self, point: &str) -> PathBuf {
        self.path("mnt").join(point).join(self.source().strip_prefix("/").unwrap())
    }

    /// `relict` or `relict-maint`, pointed at the repository.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let relict = Path::new(env!("CARGO_BIN_EXE_relict"));
        let path = relict.with_file_name(program);
        assert!(path.exists(), "{} is missing: cargo build --release --workspace makes it", path.display());
        let mut command = Command::new(path);
        command.args(args).env("RELICT_REPOSITORY", self.path("repo")).env("RELICT_PASSWORD", PASSWORD);
        command.env("XDG_STATE_HOME", self.path("state"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs `relict`, which must succeed, and gives what it printed.
    pub fn relict(&self, args: &[&str]) -> String {
        succeeded(self.command("relict", args))
    }

    /// Runs `relict-maint`, which must succeed, and gives what it printed.
    pub fn maint(&self, args: &[&str]) -> String {
        succeeded(self.command("relict-maint", args))
    }

    pub fn backup(&self) {
        self.relict(&["--quiet", "backup", self.source().to_str().unwrap()]);
    }

    /// Restores the source as it was at `point` into a new directory.
    pub fn restore(&self, point: &str, target: &str) -> PathBuf {
        let target = self.path(target);
        let from = format!("{point}:{}", self.source().display());
        self.relict(&["--quiet", "restore", &from, "-t", target.to_str().unwrap()]);
        target
    }

    pub fn mount(&self) {
        self.relict(&["--quiet", "mount", self.path("mnt").to_str().unwrap()]);
    }

    /// Mounts from a process that is ours; what it says goes to `mount.log`.
    pub fn mount_in_foreground(&self) -> Child {
        let log = std::fs::File::create(self.path("mount.log")).unwrap();
        let mut command = self.command("relict", &["mount", "--foreground", self.path("mnt").to_str().unwrap()]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let begun = std::time::Instant::now();
        while !self.is_mounted() {
            assert!(begun.elapsed().as_secs() < 20, "no mount: {}", self.mount_log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child
    }

    /// What [`Rig::mount_in_foreground`] has said.
    pub fn mount_log(&self) -> String {
        std::fs::read_to_string(self.path("mount.log")).unwrap_or_default()
    }

    pub fn umount(&self) {
        self.relict(&["--quiet", "umount", self.path("mnt").to_str().unwrap()]);
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.path("mnt").to_str())
    }
}

/// Runs a command that must succeed, and gives what it printed.
pub fn succeeded(mut command: impl BorrowMut<Command>) -> String {
    let command = command.borrow_mut();
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Numbers from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    /// From the environment's `RELICT_SEED` or from the clock; prints how to have the same again.
    pub fn from_env() -> Self {
        let given = std::env::var("RELICT_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        println!("RELICT_SEED={seed}");
        Self(seed)
    }

    /// From a number.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes of which about half compress away.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            let word = self.next().to_le_bytes();
            out.extend(word);
            out.extend(&word[..4]);
            out.extend(b"word");
        }
        out.truncate(len);
        out
    }
}
