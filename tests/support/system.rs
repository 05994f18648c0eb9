//! The program on real systems: read-only and full disks, other users, other file systems, the kernel's own files, few
//! file handles, lost packages. As root, since most of it mounts something.

use super::*;
use std::time::Duration;

/// A mount that goes when the test ends.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new(at: PathBuf, args: &[&str]) -> Self {
        fs::create_dir_all(&at).unwrap();
        let status = Command::new("mount").args(args).arg(&at).status().unwrap();
        assert!(status.success(), "mount {args:?} {}", at.display());
        Self(at)
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success(), "remount,{options}");
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn sh(command: &str) {
    assert!(Command::new("sh").args(["-ec", command]).status().unwrap().success(), "{command}");
}

/// Tests of the system say so when they are run without the rights they need.
fn needs_root() {
    assert!(is_root(), "this test mounts file systems and becomes another user: run it as root");
}

fn restored(b: &Bench, target: &str) {
    let ran = b.run(&["restore", &format!("latest:{}", b.source("")), "-t", target]);
    // Records of older restore points may be lost, which is told to whoever asks for the latest.
    let other = ran
        .err
        .lines()
        .find(|line| !line.contains("record cannot be read") && !line.contains("there and cannot be read"));
    assert_eq!((ran.code, other), (0, None), "{}", ran.out);
    let same =
        Command::new("diff").args(["-r", "--no-dereference", "source", target]).current_dir(b.place.path()).status();
    assert!(same.unwrap().success());
}

#[test]
fn a_read_only_repository_is_read_and_not_written() {
    needs_root();
    let b = Bench::backed_up();
    let repo = b.path("repo").display().to_string();
    let bind = MountPoint::new(b.path("repo"), &["--bind", &repo]);
    bind.remount("bind,ro");
    assert_eq!(json_lines(&b.run(&["snapshots", "--json"]).out).len(), 1);
    assert_eq!(b.run(&["ls", &format!("latest:{}", b.source("etc"))]).code, 0);
    restored(&b, "out");
    fs::create_dir(b.path("mnt")).unwrap();
    assert_eq!(b.run(&["mount", "mnt"]).code, 0);
    let guard = Mounted(&b, "mnt");
    assert_eq!(fs::read(b.path(&format!("mnt/latest{}", b.source("etc/passwd")))).unwrap(), b"root:x:0:0\n");
    drop(guard);
    assert_error(&b.backup(&[]), 1, &["Read-only file system", "mount, ls and restore work on a read-only repository"]);
    drop(bind);
    assert_eq!(b.backup(&[]).code, 0);
}

#[test]
fn a_full_disk_is_said_by_init_and_leaves_no_repository() {
    needs_root();
    let b = Bench::new();
    let disk = MountPoint::new(b.path("disk"), &["-t", "tmpfs", "-o", "size=16K", "relict-test"]);
    let mut init = b.command(&["init"]);
    init.env("RELICT_REPOSITORY", b.path("disk/repo"));
    assert_error(&finish(init), 1, &["No space left", "free some space"]);
    assert!(!b.path("disk/repo/relict.toml").exists());
    disk.remount("size=16M");
    // What init left there is in the way of another one: it says so, and does not take it for a repository.
    let mut other = b.command(&["init"]);
    other.env("RELICT_REPOSITORY", b.path("disk/other"));
    assert_eq!(finish(other).code, 0);
}

#[test]
fn a_full_disk_on_ext4_keeps_the_points_and_room_lets_it_go_on() {
    needs_root();
    let b = Bench::new();
    // The database alone asks for 18 MB while it is open.
    let image = b.path("image");
    sh(&format!("truncate -s 80M {0} && mkfs.ext4 -q -m 0 {0}", image.display()));
    let disk = MountPoint::new(b.path("repo"), &["-o", "loop", image.to_str().unwrap()]);
    let made = b.run(&["init"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let first = b.backup(&[]);
    assert_eq!(first.code, 0, "{}", first.err);
    fs::write(b.path("source/more"), noise(48 << 20)).unwrap();
    fs::write(b.path("repo/ballast"), vec![1; 16 << 20]).unwrap();
    assert_error(&b.backup(&[]), 1, &["No space left", "free some space", "finished restore points are not affected"]);
    assert_eq!(json_lines(&b.run(&["snapshots", "--json"]).out).len(), 1);
    assert_eq!(b.run(&["restore", "latest", "-t", "first"]).code, 0);
    fs::remove_file(b.path("repo/ballast")).unwrap();
    fs::write(b.path("source/more"), noise(2 << 20)).unwrap();
    let again = b.backup(&[]);
    assert_eq!(again.code, 0, "{}", again.err);
    restored(&b, "second");
    drop(disk);
}

#[test]
fn somebody_who_may_not_read_everything_gets_the_rest_and_3() {
    needs_root();
    let b = Bench::new();
    // The program and the source are where everybody can get at them.
    fs::set_permissions(b.place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = b.path("relict");
    fs::copy(env!("CARGO_BIN_EXE_relict"), &program).unwrap();
    fs::set_permissions(b.path("source/etc/passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(b.path("source/etc/ssh"), fs::Permissions::from_mode(0o700)).unwrap();
    sh(&format!(
        "chmod 6755 {0}/noise && setfattr -n user.colour -v blue {0}/noise && setfattr -n trusted.k -v v {0}/noise",
        b.source("")
    ));
    sh(&format!("install -d -o nobody {}", b.path("home").display()));
    let nobody = |args: &[&str], repo: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        command.env("RELICT_REPOSITORY", b.path(repo)).env("RELICT_PASSWORD", PASSWORD).env("HOME", b.path("home"));
        finish(command)
    };
    assert_eq!(nobody(&["init"], "home/repo").code, 0);
    let ran = nobody(&["backup", &b.source("")], "home/repo");
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    for words in [
        "2 files are not in it",
        "etc/passwd: it cannot be read and is left out: Permission denied",
        "etc/ssh: it cannot be listed",
    ] {
        assert!(ran.err.contains(words), "'{words}' is not in: {}", ran.err);
    }
    let target = b.path("home/out").display().to_string();
    let ran = nobody(&["restore", &format!("latest:{}", b.source("")), "-t", &target], "home/repo");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("owner not restored, because only root can")
            || ran.out.contains("owner not restored, because only root can")
    );
    let noise = fs::metadata(b.path("home/out/noise")).unwrap();
    assert_eq!(
        (noise.uid(), noise.len(), noise.mode() & 0o7777),
        (65534, 600_000, 0o755),
        "no set-uid bit for another owner"
    );
    sh(&format!("getfattr -n user.colour {}/noise | grep -q blue", target));
    assert!(!Path::new(&target).join("etc/passwd").exists());
}

#[test]
fn one_file_system_means_one() {
    needs_root();
    let b = Bench::new();
    assert_eq!(b.run(&["init"]).code, 0);
    let other = MountPoint::new(b.path("source/other"), &["-t", "tmpfs", "-o", "size=1M", "relict-test"]);
    fs::write(b.path("source/other/inside"), "inside").unwrap();
    let file = b.path("bound");
    fs::write(&file, "elsewhere").unwrap();
    fs::write(b.path("source/etc/bound"), "").unwrap();
    sh(&format!("mount --bind {} {}", b.path("source/other/inside").display(), b.path("source/etc/bound").display()));
    let bound = MountPoint(b.path("source/etc/bound"));
    let names = |args: &[&str]| {
        assert_eq!(b.backup(args).code, 0);
        b.run(&["ls", "-R", &format!("latest:{}", b.source(""))]).out
    };
    let all = names(&[]);
    assert!(all.contains("other/inside") && all.contains("etc/bound"), "{all}");
    let one = names(&["-x"]);
    assert!(one.contains("other") && !one.contains("inside") && !one.contains("bound"), "{one}");
    // A file system that is named itself is a root of its own.
    let ran = b.run(&["backup", "-x", "source", "source/other"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let both = b.run(&["ls", "-R", &format!("latest:{}", b.source(""))]).out;
    assert!(both.contains("other"), "{both}");
    drop((bound, other));
}

#[test]
fn a_repository_in_rocksdb_does_everything() {
    needs_root();
    let b = Bench::new();
    assert_eq!(b.run(&["init", "--store", "rocksdb"]).code, 0);
    assert_eq!(b.backup(&[]).code, 0);
    fs::write(b.path("source/later"), noise(300_000)).unwrap();
    assert_eq!(b.backup(&[]).code, 0);
    assert_eq!(b.packages().len(), 0, "packages are in the database");
    restored(&b, "out");
    fs::create_dir(b.path("mnt")).unwrap();
    assert_eq!(b.run(&["mount", "mnt"]).code, 0);
    let guard = Mounted(&b, "mnt");
    let mut same = Command::new("diff");
    same.args(["-r", "--no-dereference", "source"])
        .arg(format!("mnt/latest{}", b.source("")))
        .current_dir(b.place.path());
    assert!(same.status().unwrap().success());
    drop(guard);
    let maint = |args: &[&str]| {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name("relict-maint"));
        command.args(args).env("RELICT_REPOSITORY", b.path("repo")).env("RELICT_PASSWORD", PASSWORD);
        finish(command)
    };
    let checked = maint(&["check", "--read-data"]);
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let rebuilt = maint(&["rebuild"]);
    assert!(rebuilt.code == 2 && rebuilt.err.contains("inside its database"), "{}", rebuilt.err);
    restored(&b, "still");
}

#[test]
fn what_the_kernel_shows_ends_and_is_3() {
    let b = Bench::new();
    assert_eq!(b.run(&["init"]).code, 0);
    for root in ["/proc", "/sys"] {
        let mut child = b.command(&["-q", "backup", root]).stderr(Stdio::piped()).spawn().unwrap();
        let mut err = child.stderr.take().unwrap();
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut err, &mut text).unwrap();
            text
        });
        // Not a measure of speed: it did not end at all.
        let ended = (0..1200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            child.try_wait().unwrap()
        });
        if ended.is_none() {
            child.kill().unwrap();
        }
        let text = text.join().unwrap();
        assert_eq!(ended.expect("it does not end").code(), Some(3), "{text}");
        if root == "/proc" {
            assert!(text.contains("/proc: it shows the kernel's state") && text.contains("left out"), "{text}");
        }
    }
    assert_eq!(b.run(&["cat", "latest~1:/proc/version"]).out, "", "kept by its name, without content");
}

#[test]
fn few_file_handles_are_enough_for_deep_and_wide_trees() {
    let b = Bench::new();
    assert_eq!(b.run(&["init"]).code, 0);
    let mut at = b.path("source/deep");
    for level in 0..120 {
        for name in ["x", "y", "z"] {
            fs::create_dir_all(at.join(name)).unwrap();
            fs::write(at.join(name).join("file"), format!("{level} {name}")).unwrap();
        }
        at.push("a-way-down");
    }
    let few = |args: &[&str]| {
        let mut command = b.command(args);
        command.env("RELICT_REPOSITORY", b.path("repo"));
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=128:128").arg(command.get_program()).args(command.get_args()).current_dir(b.place.path());
        limited.env("RELICT_REPOSITORY", b.path("repo")).env("RELICT_PASSWORD", PASSWORD);
        finish(limited)
    };
    for _ in 0..2 {
        let ran = few(&["backup", "source", "--force"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    }
    let ran = few(&["restore", &format!("latest:{}", b.source("")), "-t", "few"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    let same =
        Command::new("diff").args(["-r", "--no-dereference", "source", "few"]).current_dir(b.place.path()).status();
    assert!(same.unwrap().success());
}

#[test]
fn a_file_that_is_too_large_for_the_target_leaves_nothing_there() {
    let b = Bench::new();
    // Of so many extents that it is restored in parts, whose first step is to give it its size.
    fs::write(b.path("source/large"), noise(20 << 20)).unwrap();
    fs::create_dir(b.path("back")).unwrap();
    assert_eq!(b.run(&["init"]).code, 0);
    assert_eq!(b.backup(&[]).code, 0);
    let limited = |script: &str| {
        let command = b.command(&["restore", &format!("latest:{}", b.source("large")), "-t", "back"]);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{script}; exec \"$@\""), "-"]).arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(b.place.path());
        finish(shell)
    };
    let names = || fs::read_dir(b.path("back")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    for existing in [&[][..], &["large"]] {
        existing.iter().for_each(|name| fs::write(b.path("back").join(name), "other").unwrap());
        let ran = limited("ulimit -f 1024; trap '' XFSZ");
        assert!(ran.code == 3 && ran.err.contains("it was not restored: File too large"), "{} {}", ran.code, ran.err);
        assert_eq!(names(), existing);
    }
    assert_eq!(limited(":").code, 0);
    assert!(fs::read(b.path("back/large")).unwrap() == noise(20 << 20));
}

#[test]
fn the_next_backup_stores_again_what_a_lost_package_held() {
    let b = Bench::backed_up();
    let largest = b.packages().into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    fs::remove_file(&largest).unwrap();
    assert_eq!(b.run(&["restore", &format!("latest:{}", b.source("")), "-t", "torn"]).code, 3);
    // Nothing of the source has changed, and yet it is read.
    let ran = b.backup(&["--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let summary = json_lines(&ran.out).pop().unwrap();
    assert!(summary["new_chunks"].as_u64().unwrap() > 0 && summary["files_changed"].as_u64().unwrap() > 0, "{summary}");
    restored(&b, "whole");
    // The older point has its content back as well.
    let old = b.run(&["restore", &format!("latest~1:{}", b.source("")), "-t", "old"]);
    assert_eq!((old.code, old.err.as_str()), (0, ""), "{}", old.out);
    // All metadata gone, too: the tree is made anew.
    b.packages().iter().for_each(|p| fs::remove_file(p).unwrap());
    assert_eq!(b.backup(&["--parent", "none"]).code, 0);
    restored(&b, "anew");
}

#[test]
fn a_mount_in_the_background_tells_damage_in_its_log() {
    let b = Bench::backed_up();
    let largest = b.packages().into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    fs::remove_file(&largest).unwrap();
    fs::create_dir(b.path("mnt")).unwrap();
    for (args, log) in [(["--log", "told.log"].as_slice(), "told.log"), (&[], "state/relict/mount.log")] {
        let mounted = b.run(&[&["mount", "mnt"], args].concat());
        assert_eq!((mounted.code, mounted.err.as_str()), (0, ""), "{}", mounted.out);
        let guard = Mounted(&b, "mnt");
        let file = b.path(&format!("mnt/latest{}", b.source("noise")));
        assert_eq!(fs::read(file).unwrap_err().raw_os_error(), Some(libc::EIO));
        drop(guard);
        // It is told by the time the file's reader has the error, or a little later.
        let mut texts = (0..50).map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            fs::read_to_string(b.path(log)).unwrap()
        });
        let text = texts.find(|text| !text.is_empty()).unwrap_or_default();
        assert!(text.contains("/mnt: ") && text.contains("/noise: content at byte 0 cannot be read"), "{text}");
        assert_eq!(fs::metadata(b.path(log)).unwrap().mode() & 0o777, 0o600);
    }
    assert_error(&b.run(&["mount", "mnt", "--log", "no/such/dir/log"]), 1, &["opening the log"]);
}
