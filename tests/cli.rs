//! The real program, as a shell sees it: exit codes, what it prints where, and what stays on disk.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/system.rs"]
mod system;

const PASSWORD: &str = "correct horse";

/// A temporary directory with a source and the place of a repository.
struct Bench {
    place: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { place: tempfile::tempdir().unwrap() };
        let source = bench.path("source");
        fs::create_dir_all(source.join("etc/ssh")).unwrap();
        fs::write(source.join("etc/passwd"), "root:x:0:0\n").unwrap();
        fs::write(source.join("etc/ssh/config"), "Host *\n").unwrap();
        fs::write(source.join("noise"), noise(600_000)).unwrap();
        fs::write(source.join(OsStr::from_bytes(b"red\x1b[31m\xff")), "colour").unwrap();
        symlink("passwd", source.join("etc/link")).unwrap();
        bench
    }

    /// With a repository and one restore point in it.
    fn backed_up() -> Self {
        let bench = Self::new();
        assert_eq!(bench.run(&["init"]).code, 0);
        let ran = bench.backup(&[]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn source(&self, below: &str) -> String {
        let source = self.path("source").canonicalize().unwrap();
        format!("{}/{below}", source.display()).trim_end_matches('/').to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relict"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.as_bytes().starts_with(b"RELICT_")) {
            command.env_remove(name);
        }
        command.args(args).env("RELICT_REPOSITORY", self.path("repo")).env("RELICT_PASSWORD", PASSWORD);
        command.env("XDG_STATE_HOME", self.path("state"));
        command.stdin(Stdio::null()).current_dir(self.place.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    fn backup(&self, more: &[&str]) -> Ran {
        let source = self.source("");
        self.run(&[&["backup", &source], more].concat())
    }

    fn packages(&self) -> Vec<PathBuf> {
        let dirs = fs::read_dir(self.path("repo/packages")).unwrap();
        let files = dirs.flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap());
        files.map(|f| f.unwrap().path()).collect()
    }
}

fn finish(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A small file system of its own; None where we may not mount one.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "relict-test"]).arg(&at).status();
        (is_root() && mounted.is_ok_and(|s| s.success())).then_some(Self(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Every error says what happened, and below it what to do.
fn assert_error(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("relict: "), "{}", ran.err);
    assert!(
        ran.err.lines().count() > 1 && ran.err.lines().skip(1).all(|l| l.starts_with("  ") || l.is_empty()),
        "{}",
        ran.err
    );
    for word in words {
        assert!(ran.err.contains(word), "'{word}' is not in: {}", ran.err);
    }
}

#[test]
fn a_backup_comes_back() {
    let b = Bench::backed_up();
    let restored = b.run(&["restore", &format!("latest:{}", b.source("")), "-t", "out", "--verify"]);
    assert_eq!((restored.code, restored.err.as_str()), (0, ""), "{}", restored.out);
    let same =
        Command::new("diff").args(["-r", "--no-dereference", "source", "out"]).current_dir(b.place.path()).status();
    assert!(same.unwrap().success());
    assert!(restored.out.contains("5 files new") && restored.out.contains("verified  5 files"), "{}", restored.out);
    let again = b.backup(&["--tag", "second"]);
    assert!(again.out.contains("0 new, 0 changed, 5 unchanged"), "{}", again.out);
    let list = b.run(&["snapshots"]);
    assert!(list.out.contains("2 restore points") && list.out.contains("tags: second"), "{}", list.out);
    assert_eq!(b.run(&["snapshots", "--tag", "none"]).out, "no restore points\n");
    let cat = b.run(&["cat", &format!("latest~1:{}", b.source("etc/passwd"))]);
    assert_eq!((cat.code, cat.out.as_str()), (0, "root:x:0:0\n"));
}

#[test]
fn lists_cannot_command_a_terminal() {
    let b = Bench::backed_up();
    let dir = b.source("");
    let list = b.run(&["ls", &format!("latest:{dir}")]);
    assert_eq!(list.out, "etc\nnoise\nred\\x1b[31m\\xff\n");
    let long = b.run(&["ls", "-l", "-R", &format!("latest:{dir}/etc")]);
    assert!(long.out.contains(&format!("{dir}/etc/link -> passwd")), "{}", long.out);
    assert!(!long.out.contains('\x1b'));
    let one = b.run(&["--json", "ls", &format!("latest:{dir}/etc/passwd")]);
    let entry = &json_lines(&one.out)[0];
    assert_eq!((entry["type"].as_str(), entry["size"].as_u64()), (Some("file"), Some(11)));
}

#[test]
fn programs_get_one_json_object_a_line() {
    let b = Bench::new();
    let made = b.run(&["init", "--json"]);
    assert_eq!(json_lines(&made.out)[0]["message_type"], "summary");
    let ran = b.backup(&["--json"]);
    let lines = json_lines(&ran.out);
    let summary = lines.last().unwrap();
    assert_eq!((summary["message_type"].as_str(), summary["files_new"].as_u64()), (Some("summary"), Some(5)));
    let id = summary["id"].as_str().unwrap();
    let points = json_lines(&b.run(&["snapshots", "--json"]).out);
    assert_eq!(points[0]["id"], id);
    let restored = b.run(&["--json", "restore", &id[..6], "-t", "out"]);
    assert_eq!(json_lines(&restored.out).last().unwrap()["files_new"], 5);
    let error = b.run(&["--json", "ls", "feed:/x"]);
    let line = &json_lines(&error.out)[0];
    assert_eq!((error.code, line["kind"].as_str(), line["code"].as_u64()), (1, Some("not_found"), Some(1)));
    assert_eq!(error.err, "");
    let usage = b.run(&["--json", "ls"]);
    assert_eq!((usage.code, json_lines(&usage.out)[0]["kind"].as_str()), (2, Some("usage")));
}

#[test]
fn compression_is_chosen_run_by_run() {
    let bench = Bench::new();
    let words = include_str!("../SPEC.md");
    fs::remove_file(bench.path("source/noise")).unwrap();
    fs::write(bench.path("source/words"), words).unwrap();
    let stored = |level: &str| -> u64 {
        let _ = fs::remove_dir_all(bench.path("repo"));
        assert_eq!(bench.run(&["init"]).code, 0);
        let ran = bench.backup(&["--compression", level]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(bench.run(&["cat", &format!("latest:{}", bench.source("words"))]).out, words);
        bench.packages().iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum()
    };
    let (off, fast, small) = (stored("off"), stored("1"), stored("19"));
    assert!(small < fast * 9 / 10 && fast < off * 9 / 10, "{small} {fast} {off}");
    // Stored at any level, it is the same content: nothing is stored again.
    let packages = bench.packages();
    let again = bench.backup(&["--force", "--compression", "5"]);
    assert_eq!((again.code, bench.packages().len()), (0, packages.len() + 1), "one for the restore point's record");
    assert_error(&bench.backup(&["--compression", "fast"]), 2, &["--compression", "'off', or a level from 1"]);
    assert_error(&bench.backup(&["--compression", "20"]), 2, &["from 1 (fast) to 19 (small)"]);
}

#[test]
fn no_repository_is_10() {
    let b = Bench::new();
    let ran = b.run(&["snapshots"]);
    assert_error(&ran, 10, &["there is no repository at", "relict.toml", "relict init"]);
    assert_error(&b.backup(&[]), 10, &["relict init"]);
    assert_error(&b.run(&["mount", "source"]), 10, &["relict init"]);
    let mut unnamed = b.command(&["snapshots"]);
    unnamed.env_remove("RELICT_REPOSITORY");
    assert_error(&finish(unnamed), 2, &["no repository was named", "-r"]);
}

#[test]
fn a_running_writer_is_11_for_writers_only() {
    let b = Bench::backed_up();
    let lock = fs::File::options().write(true).open(b.path("repo/lock")).unwrap();
    lock.lock().unwrap();
    assert_error(&b.backup(&[]), 11, &["another program is writing"]);
    assert_eq!(b.run(&["snapshots"]).code, 0);
    assert_eq!(b.run(&["restore", "latest", "-t", "out"]).code, 0);
    drop(lock);
    assert_eq!(b.backup(&[]).code, 0);
}

#[test]
fn a_wrong_password_is_12() {
    let b = Bench::backed_up();
    for command in [["snapshots"].as_slice(), &["backup", "source"], &["mount", "source"]] {
        let mut wrong = b.command(command);
        wrong.env("RELICT_PASSWORD", "wrong");
        assert_error(&finish(wrong), 12, &["wrong password"]);
    }
}

#[test]
fn passwords_come_from_many_places() {
    let b = Bench::backed_up();
    let file = b.path("password");
    fs::write(&file, format!("{PASSWORD}\nsecond line\n")).unwrap();
    let shown = file.display().to_string();
    let with = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = b.command(&[&["snapshots"], args].concat());
        command.env_remove("RELICT_PASSWORD").envs(env.iter().copied());
        finish(command)
    };
    let print = format!("cat {shown}");
    assert_eq!(with(&["--password-file", &shown], &[]).code, 0);
    assert_eq!(with(&["--password-command", &print], &[]).code, 0);
    assert_eq!(with(&[], &[("RELICT_PASSWORD_FILE", &shown)]).code, 0);
    assert_eq!(with(&[], &[("RELICT_PASSWORD_COMMAND", &print)]).code, 0);
    let mut descriptor = b.command(&["snapshots"]);
    descriptor.env_remove("RELICT_PASSWORD").env("RELICT_PASSWORD_FD", "0").stdin(fs::File::open(&file).unwrap());
    assert_eq!(finish(descriptor).code, 0);
    // `setsid` takes the terminal away, if there is one.
    let mut nobody = Command::new("setsid");
    nobody.arg("-w").arg(env!("CARGO_BIN_EXE_relict")).args(["snapshots", "-r"]).arg(b.path("repo"));
    nobody.env_remove("RELICT_PASSWORD").stdin(Stdio::null());
    assert_error(&finish(nobody), 2, &["no terminal", "--password-file"]);
    assert_error(&with(&["--password-file", "/none"], &[]), 1, &["/none"]);
    assert_error(&with(&["--password-command", "exit 7"], &[]), 1, &["exit status: 7"]);
}

#[test]
fn a_repository_without_a_password() {
    let b = Bench::new();
    let without = |args: &[&str]| {
        let mut command = b.command(args);
        command.env_remove("RELICT_PASSWORD");
        finish(command)
    };
    let made = without(&["init", "--insecure-no-password", "--chunk-size", "128K"]);
    assert!(made.code == 0 && made.out.contains("not encrypted"), "{}", made.out);
    assert_eq!(without(&["backup", "source"]).code, 0);
    assert_eq!(without(&["restore", "latest", "-t", "out"]).code, 0);
    assert_error(&without(&["init", "--insecure-no-password"]), 2, &["is a repository already"]);
}

#[test]
fn a_wrong_command_line_is_2() {
    let b = Bench::backed_up();
    assert_error(&b.run(&["restore", "latest"]), 2, &["--target"]);
    assert_error(&b.run(&["forget", "latest"]), 2, &["forget"]);
    assert_error(&b.run(&["ls", "newest"]), 2, &["'newest'", "latest~1"]);
    assert_error(&b.run(&["backup", "source", "--memory", "lots"]), 2, &["--memory", "256M"]);
    assert_error(&b.run(&["cat", "latest"]), 2, &["POINT:PATH"]);
    assert_error(&b.run(&["restore", "latest", "-t", "repo/x"]), 2, &["inside of the repository"]);
    assert_error(&b.run(&["mount", "none"]), 2, &["none", "existing, empty directory"]);
    assert_error(&b.run(&["umount", "source"]), 2, &["nothing is mounted at"]);
    assert_eq!(b.run(&["--help"]).code, 0);
    assert!(b.run(&["version"]).out.starts_with("relict "));
}

#[test]
fn what_is_not_there_is_1() {
    let b = Bench::backed_up();
    assert_error(&b.run(&["ls", "latest~9"]), 1, &["only 0"]);
    assert_error(&b.run(&["ls", "latest:/none"]), 1, &["/none is not in the restore point", "relict ls POINT:/"]);
    assert_error(&b.run(&["ls", "2001-01"]), 1, &["2001-01", "the oldest is"]);
    assert_error(&b.run(&["backup", "none"]), 1, &["none"]);
    let through = format!("latest:{}/x", b.source("etc/link"));
    assert_error(&b.run(&["cat", &through]), 1, &["symbolic link to passwd"]);
}

#[test]
fn a_newer_repository_is_left_alone() {
    let b = Bench::backed_up();
    let header = b.path("repo/relict.toml");
    let text = fs::read_to_string(&header).unwrap();
    fs::write(&header, text.replace("format = 1", "format = 2")).unwrap();
    let ran = b.backup(&["--json"]);
    assert_eq!((ran.code, json_lines(&ran.out)[0]["kind"].as_str()), (1, Some("newer_format")));
    assert_error(&b.run(&["snapshots"]), 1, &["newer"]);
}

#[test]
fn damage_costs_one_file_and_is_3() {
    let b = Bench::backed_up();
    let package = b.packages().into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let size = fs::metadata(&package).unwrap().len();
    fs::set_permissions(&package, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options().write(true).open(&package).unwrap();
    file.write_all_at(b"damage", size / 2).unwrap();
    let ran = b.run(&["restore", &format!("latest:{}", b.source("")), "-t", "out"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("noise: part of its content is lost"), "{}", ran.err);
    assert!(ran.err.contains("from byte"), "{}", ran.err);
    assert_eq!(fs::read(b.path("out/etc/passwd")).unwrap(), b"root:x:0:0\n");
    assert_eq!(fs::metadata(b.path("out/noise")).unwrap().len(), 600_000);
}

#[test]
fn targets_that_cannot_be_written_are_said() {
    let b = Bench::backed_up();
    assert_error(&b.run(&["restore", "latest", "-t", "source/noise/x"]), 1, &["source/noise/x", "may write"]);
    let Some(target) = Tmpfs::mount(b.path("readonly"), "ro,size=1M") else { return };
    let ran = b.run(&["restore", "latest", "-t", "readonly"]);
    assert_error(&ran, 1, &["Read-only file system", "remount"]);
    drop(target);
}

#[test]
fn a_full_disk_is_said_and_leaves_no_half_file() {
    let b = Bench::backed_up();
    let Some(target) = Tmpfs::mount(b.path("small"), "size=300K") else { return };
    let ran = b.run(&["restore", &format!("latest:{}", b.source("")), "-t", "small"]);
    assert_error(&ran, 1, &["No space left", "free some space"]);
    assert!(!b.path("small/noise").exists());
    let inside = b.path("small/repo");
    let mut init = b.command(&["backup", "source"]);
    init.env("RELICT_REPOSITORY", &inside);
    assert_error(&finish(init), 10, &["relict init"]);
    drop(target);
}

#[test]
fn a_full_repository_keeps_its_points() {
    let b = Bench::new();
    let Some(disk) = Tmpfs::mount(b.path("repo"), "size=4M") else { return };
    assert_eq!(b.run(&["init"]).code, 0);
    let first = b.run(&["backup", "source/etc"]);
    assert_eq!(first.code, 0, "{}", first.err);
    fs::write(b.path("source/more"), noise(8 << 20)).unwrap();
    assert_error(&b.backup(&[]), 1, &["No space left"]);
    assert_eq!(json_lines(&b.run(&["snapshots", "--json"]).out).len(), 1);
    assert_eq!(b.run(&["restore", "latest", "-t", "out"]).code, 0);
    drop(disk);
}

#[test]
fn an_interrupted_backup_is_130() {
    let b = Bench::backed_up();
    // The signal comes while the program waits for the password, so that it cannot be too late.
    let slow = format!("sleep 1; echo '{PASSWORD}'");
    let child = b.command(&["backup", "source", "--password-command", &slow]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the backup was stopped"));
    assert_eq!(json_lines(&b.run(&["snapshots", "--json"]).out).len(), 1);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let b = Bench::backed_up();
    let mut child = b
        .command(&["cat", &format!("latest:{}", b.source("noise"))])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(141), 0));
}

#[test]
fn who_does_not_listen_misses_what_is_said_and_nothing_else() {
    let b = Bench::backed_up();
    let (listener, speaker) = std::io::pipe().unwrap();
    drop(listener);
    // A file of the kernel's is left out, which is said.
    let source = b.source("");
    let mut backup = b.command(&["backup", "-q", "/proc/version", &source]);
    let ended = backup.stdout(Stdio::null()).stderr(speaker).status().unwrap();
    assert_eq!(ended.code(), Some(3));
    assert_eq!(json_lines(&b.run(&["snapshots", "--json"]).out).len(), 2);
}

#[test]
fn quiet_is_quiet() {
    let b = Bench::new();
    for args in [["-q", "init"].as_slice(), &["backup", "source", "-q"], &["restore", "latest", "-t", "out", "--quiet"]]
    {
        let ran = b.run(args);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "{args:?}");
    }
    assert!(Path::new(&b.path("out")).exists());
}

/// Unmounts when a test ends, however it ends.
struct Mounted<'a>(&'a Bench, &'static str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(&["umount", "-l", self.1]).output();
    }
}

#[test]
fn a_mount_is_there_when_the_command_returns() {
    let b = Bench::backed_up();
    if fs::File::open("/dev/fuse").is_err() {
        return;
    }
    fs::create_dir(b.path("mnt")).unwrap();
    let mounted = b.run(&["mount", "mnt", "--cache-size", "32M"]);
    assert_eq!((mounted.code, mounted.err.as_str()), (0, ""), "{}", mounted.out);
    let guard = Mounted(&b, "mnt");
    assert!(mounted.out.contains("relict umount"), "{}", mounted.out);
    let file = format!("mnt/latest{}", b.source("etc/passwd"));
    assert_eq!(fs::read(b.path(&file)).unwrap(), b"root:x:0:0\n");
    // A backup beside a mount is normal use.
    assert_eq!(b.backup(&[]).code, 0);
    let ended = b.run(&["umount", "mnt"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(fs::read_dir(b.path("mnt")).unwrap().count(), 0);
    assert_error(&b.run(&["umount", "mnt"]), 2, &["nothing is mounted"]);
    drop(guard);
}

#[test]
fn a_mount_in_the_foreground_ends_with_a_signal() {
    let b = Bench::backed_up();
    if fs::File::open("/dev/fuse").is_err() {
        return;
    }
    fs::create_dir(b.path("mnt")).unwrap();
    let guard = Mounted(&b, "mnt");
    let mut child = b.command(&["mount", "-f", "mnt"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut first).unwrap();
    assert!(first.contains("mounted at"), "{first}");
    assert!(b.path("mnt/latest").exists());
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!b.path("mnt/latest").exists());
    drop(guard);
}
