//! All commands on a repository of many chunks, in a cgroup with 512 MiB of memory: ten million chunks in `make survive`
//! (`RELICT_SURVIVE_CHUNKS`), 200,000 in `make test`.
#![expect(unsafe_code, reason = "wait4 tells how much memory a process had")]

use crate::golden::{Shape, name};
use crate::run::Verdict;
use crate::scene::{PASSWORD, bare};
use crate::table;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const LIMIT_BYTES: u64 = 512 << 20;
const SOME: usize = 200_000;
const MANY: usize = 10_000_000;

/// A cgroup with a limit of memory, of version 1 or 2. Removed when it is dropped.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Group {
    fn new() -> Option<Self> {
        let name = format!("relict-survive-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (dir, limit) = if first.is_dir() {
            (first.join(name), "memory.limit_in_bytes")
        } else {
            let second = Path::new("/sys/fs/cgroup");
            let _ = std::fs::write(second.join("cgroup.subtree_control"), "+memory");
            (second.join(name), "memory.max")
        };
        let group = std::fs::create_dir(&dir).ok().map(|()| Self(dir.clone()))?;
        std::fs::write(dir.join(limit), LIMIT_BYTES.to_string()).ok()?;
        Some(group)
    }

    /// Runs a program in the group: how it ended, and the most memory it had of its own, in bytes.
    #[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
    fn run(&self, command: &Command) -> (Option<i32>, u64) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap());
        }
        let child = shell.spawn().unwrap();
        let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
        // SAFETY: a child of ours that nobody else waits for, and two places to write to.
        let pid = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()) };
        assert_eq!(pid, child.id() as i32);
        // SAFETY: wait4 has filled it.
        let usage = unsafe { usage.assume_init() };
        let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        (code, usage.ru_maxrss as u64 * 1024)
    }
}

/// In this order: what changes the repository comes last.
const COMMANDS: [(&str, &[&str]); 16] = [
    ("relict", &["snapshots"]),
    ("relict", &["ls", "latest:/"]),
    ("relict", &["find", "file-000000*", "--all"]),
    ("relict", &["diff", "latest~1", "latest"]),
    ("relict", &["restore", "latest:/", "-t", "OUT"]),
    ("relict", &["backup", "OUT"]),
    ("relict-maint", &["check"]),
    ("relict-maint", &["check", "--read-data"]),
    ("relict-maint", &["stats"]),
    ("relict-maint", &["forget", "--yes", "01010101", "--unsafe-allow-remove-all"]),
    ("relict-maint", &["prune", "--yes"]),
    ("relict-maint", &["compact", "--yes", "--min-live", "1"]),
    ("relict-maint", &["rebuild"]),
    ("relict-maint", &["repair", "--yes"]),
    ("relict-maint", &["health"]),
    ("relict-maint", &["check", "--read-data"]),
];

/// Mounts, lists every name of the newest point, reads some files, and unmounts.
fn listed_in_a_mount(repo: &Path, at: &Path) -> Command {
    const SCRIPT: &str = r#"mkdir "$1" && "$0" mount --quiet "$1" || exit 1
        find "$1/latest/" -type f | wc -l > "$1.count"
        find "$1/latest/" -name 'file-00000[1-3]*' -exec cat {} + > "$1.read" || echo broken > "$1.count"
        "$0" umount "$1" && test -s "$1.read" && test "$(cat "$1.count")" -gt 1000"#;
    let mount = bare("relict", repo, PASSWORD);
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT]).arg(mount.get_program()).arg(at);
    shell.envs(mount.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

#[test]
fn all_commands_have_enough_of_512_mib() {
    // On a disk: what lies in memory would count.
    let dir = tempfile::tempdir().unwrap();
    let chunks = if table::all() { table::setting("RELICT_SURVIVE_CHUNKS", MANY) } else { SOME } as u64;
    let (chunks_in_file, chunk_bytes) = (16, 64);
    let shape =
        Shape { files: chunks / chunks_in_file, chunks_in_file, chunk_bytes, chunks_in_segment: 1024, encrypt: true };
    let repo = dir.path().join("repo");
    let Some(group) = Group::new() else {
        eprintln!("SKIPPED: a cgroup with a memory limit cannot be made here");
        return;
    };
    shape.make(&repo);
    let jobs = [()];
    table::row_of(
        &format!("512 MiB of memory, {chunks} chunks"),
        &jobs,
        |()| COMMANDS.len() + 1,
        |(), say| {
            let mut verdict = Verdict::default();
            for (program, args) in COMMANDS {
                let out = dir.path().join("out");
                let args = args.iter().map(|arg| if *arg == "OUT" { out.to_str().unwrap() } else { arg });
                let mut command = bare(program, &repo, PASSWORD);
                let begun = std::time::Instant::now();
                let (code, peak) = group.run(command.args(args));
                println!("{:?} s, {} MiB at most: {command:?}", begun.elapsed().as_secs_f32(), peak >> 20);
                if code != Some(0) {
                    say(format!("{command:?} ended with {code:?}, {} MiB", peak >> 20));
                    verdict.manual += 1;
                }
            }
            let (code, _) = group.run(&listed_in_a_mount(&repo, &dir.path().join("mnt")));
            if code != Some(0) {
                say(format!("a mount whose names were all listed ended with {code:?}"));
                verdict.manual += 1;
            }
            let restored = std::fs::read(dir.path().join("out").join(name(100))).unwrap();
            let want: Vec<u8> = (0..chunks_in_file).flat_map(|chunk| shape.chunk(100, chunk, 2)).collect();
            verdict.wrong += u64::from(restored != want);
            verdict
        },
    );
}
