//! The mount's directories by time and by history, the commands that answer the same questions, and the services
//! around a mount, all with the real programs: mount(8), systemd's socket, Samba.

#[path = "support/rig.rs"]
mod rig;

use rig::{Rig, succeeded};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SET: &str = "0123abcd-4567-89ef-0123-456789abcdef";

/// Three points of host `h`, source `s`: `f` has two contents, `old` goes and `new` comes.
fn three_points() -> Rig {
    let rig = Rig::new();
    let at = |name: &str| rig.source().join(name);
    fs::create_dir_all(at("d/deep")).unwrap();
    fs::write(at("f"), "one").unwrap();
    fs::write(at("d/old"), "old content").unwrap();
    fs::write(at("d/same"), "same").unwrap();
    fs::create_dir(at("private")).unwrap();
    fs::write(at("private/lost"), "lost").unwrap();
    fs::set_permissions(at("private"), fs::Permissions::from_mode(0o700)).unwrap();
    backup(&rig, &[]);
    fs::write(at("f"), "second").unwrap();
    fs::remove_file(at("d/old")).unwrap();
    fs::remove_file(at("private/lost")).unwrap();
    fs::write(at("d/deep/new"), "new content").unwrap();
    backup(&rig, &["--set", SET]);
    backup(&rig, &[]);
    rig
}

/// Names have seconds: the next point gets another one.
fn backup(rig: &Rig, more: &[&str]) {
    let mut args = vec!["--quiet", "backup", "--host", "h", "--source", "s"];
    args.extend_from_slice(more);
    let source = rig.source();
    args.push(source.to_str().unwrap());
    let second = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let begun = second();
    rig.relict(&args);
    while second() == begun {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Names of the restore points, oldest first, as the mount shows them.
fn times(rig: &Rig) -> Vec<String> {
    let lines = rig.relict(&["--json", "snapshots"]);
    lines.lines().map(|line| json(line)["name"].as_str().unwrap().to_owned()).collect()
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn below(rig: &Rig, path: &str) -> PathBuf {
    rig.path("mnt").join(path).join(rig.source().strip_prefix("/").unwrap())
}

/// Windows' name for a restore point.
fn gmt(name: &str) -> String {
    let (date, time) = name.trim_end_matches('Z').split_once('T').unwrap();
    format!("@GMT-{}-{}", date.replace('-', "."), time.replace('-', "."))
}

fn shell(dir: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir);
    succeeded(command)
}

fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

fn find(dir: &Path) -> Vec<String> {
    shell(dir, "find . -mindepth 1 -printf '%P %y\\n' | LC_ALL=C sort").lines().map(str::to_owned).collect()
}

#[test]
fn time_is_a_path() {
    let rig = three_points();
    rig.mount();
    let (mnt, times) = (rig.path("mnt"), times(&rig));
    assert_eq!(fs::read_to_string(below(&rig, "at/now/h/s").join("f")).unwrap(), "second");
    assert_eq!(fs::read_to_string(below(&rig, &format!("at/{}/h/s", times[0])).join("f")).unwrap(), "one");
    assert_eq!(names(&mnt.join("at/today")), ["h"]);
    assert!(!mnt.join("at/-1d").exists() && !mnt.join("at/nonsense").exists() && names(&mnt.join("at")).is_empty());
    // A real directory: cp, find and getcwd see it as what it is.
    let copy = rig.path("copy");
    shell(&mnt, &format!("cp -a at/now/h/s {}", copy.display()));
    assert_eq!(find(&copy), find(&mnt.join("hosts/h/s/latest/")));
    assert_eq!(shell(&mnt.join("at/now/h/s"), "pwd -P").trim(), mnt.join("at/now/h/s").to_str().unwrap());
    let gmt = gmt(&times[0]);
    for dir in [mnt.join("hosts/h/s"), mnt.join("hosts/h/s/latest"), mnt.join("snapshots").join(&times[2])] {
        let old = dir.join(&gmt).join(rig.source().strip_prefix("/").unwrap());
        assert_eq!(fs::read_to_string(old.join("f")).unwrap(), "one", "{}", dir.display());
    }
    assert_eq!(names(&below(&rig, "hosts/h/s/latest").join("d").join(&gmt)), ["deep", "old", "same"]);
    assert_eq!(names(&mnt.join("sets")), [SET]);
    assert_eq!(fs::read_to_string(below(&rig, &format!("sets/{SET}/h/s")).join("f")).unwrap(), "second");
    rig.umount();
}

#[test]
fn history_is_a_path() {
    let rig = three_points();
    rig.mount();
    let (mnt, times) = (rig.path("mnt"), times(&rig));
    let versions = below(&rig, "versions/h/s");
    assert_eq!(names(&versions), ["d", "f", "private"]);
    assert_eq!(names(&versions.join("f")), times[..2]);
    assert_eq!(fs::read_to_string(versions.join("f").join(&times[0])).unwrap(), "one");
    assert_eq!(names(&versions.join("d/old")), times[..1]);
    let deleted = below(&rig, "deleted/h/s");
    assert_eq!(find(&deleted), ["d d", "d/old f", "private d", "private/lost f"]);
    assert_eq!(fs::read_to_string(deleted.join("d/old")).unwrap(), "old content");
    assert_eq!(fs::metadata(deleted.join("private")).unwrap().mode() & 0o7777, 0o700);
    let pair = format!("diff/{}..{}", times[0], times[1]);
    assert_eq!(find(&below(&rig, &format!("{pair}/added"))), ["d d", "d/deep d", "d/deep/new f"]);
    assert_eq!(find(&below(&rig, &format!("{pair}/removed"))), ["d d", "d/old f", "private d", "private/lost f"]);
    assert_eq!(find(&below(&rig, &format!("{pair}/changed"))), ["f f"]);
    assert_eq!(fs::read_to_string(below(&rig, &format!("{pair}/changed")).join("f")).unwrap(), "second");
    assert_eq!(names(&mnt.join("diff/latest~1..latest/changed")), Vec::<String>::new());
    // What everybody's tools make of it.
    let out = rig.path("copies");
    fs::create_dir(&out).unwrap();
    shell(
        &mnt,
        &format!(
            "cp -a versions deleted diff/latest~2..latest {0} && tar -cf {0}/t.tar deleted && du -s versions",
            out.display()
        ),
    );
    assert_eq!(find(&out.join("deleted")), find(&mnt.join("deleted")));
    assert_eq!(find(&out.join("versions")), find(&mnt.join("versions")));

    // New points show within five seconds, in lists that were read before too.
    fs::write(rig.source().join("f"), "third, and longer").unwrap();
    fs::remove_file(rig.source().join("d/same")).unwrap();
    backup(&rig, &[]);
    let begun = Instant::now();
    while names(&versions.join("f")).len() < 3 || !names(&deleted.join("d")).contains(&"same".to_owned()) {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?} {:?}",
            names(&versions.join("f")),
            names(&deleted.join("d"))
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(fs::read_to_string(below(&rig, "at/now/h/s").join("f")).unwrap(), "third, and longer");
    assert_eq!(
        fs::read_to_string(below(&rig, "diff/latest~1..latest/changed").join("f")).unwrap(),
        "third, and longer"
    );
    let health = json(&fs::read_to_string(mnt.join(".relict/health.json")).unwrap());
    assert_eq!((health["status"].as_str(), health["points"].as_u64()), (Some("ok"), Some(4)));
    let metrics = || fs::read_to_string(mnt.join(".relict/metrics")).unwrap();
    let lookups = |text: &str| -> u64 {
        let line =
            text.lines().find(|line| line.starts_with("relict_fuse_requests_total{request=\"lookup\"}")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let before = lookups(&metrics());
    std::thread::sleep(Duration::from_millis(2100));
    assert!(!mnt.join("at/nothing").exists());
    assert!(lookups(&metrics()) > before);
    assert!(metrics().lines().any(|line| line.strip_prefix("relict_cache_bytes ").is_some_and(|bytes| bytes != "0")));
    rig.umount();
}

#[test]
fn one_source_or_point_can_be_the_root() {
    let rig = three_points();
    let times = times(&rig);
    let mnt = rig.path("mnt");
    let inside = rig.source();
    let inside = inside.strip_prefix("/").unwrap();
    rig.relict(&["--quiet", "mount", "--only", "h/s", mnt.to_str().unwrap()]);
    let mut expected = times.clone();
    expected.push("latest".to_owned());
    assert_eq!(names(&mnt), expected);
    assert_eq!(fs::read_to_string(mnt.join("latest").join(inside).join("f")).unwrap(), "second");
    assert_eq!(fs::metadata(&mnt).unwrap().ino(), 1);
    backup(&rig, &[]);
    let begun = Instant::now();
    while names(&mnt).len() < 5 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(100));
    }
    rig.umount();
    rig.relict(&["--quiet", "mount", "--only", &format!("h/s@{}", times[0]), mnt.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(mnt.join(inside).join("f")).unwrap(), "one");
    assert_eq!(names(&mnt.join(inside).join("d")), ["deep", "old", "same"]);
    rig.umount();
    let refused = rig.command("relict", &["mount", "--only", "h/none", mnt.to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no restore point is of source 'none' on host 'h'"));
}

#[test]
fn commands_answer_without_a_mount() {
    let rig = three_points();
    let times = times(&rig);
    let path = |name: &str| rig.source().join(name).to_str().unwrap().to_owned();
    let lines = |args: &[&str]| rig.relict(args).lines().map(json).collect::<Vec<_>>();
    let versions = lines(&["--json", "versions", &path("f")]);
    let rows: Vec<_> =
        versions.iter().map(|v| (v["size"].as_u64(), v["points"].as_u64(), v["current"].as_bool())).collect();
    assert_eq!(rows, [(Some(3), Some(1), Some(false)), (Some(6), Some(2), Some(true))]);
    let text = rig.relict(&["versions", &path("d/old")]);
    assert!(text.contains(&times[0]) && text.contains("the newest restore point does not have it"), "{text}");

    let changes = |args: &[&str]| -> Vec<String> {
        let all = lines(args);
        all.iter()
            .filter(|line| line["message_type"] == "change")
            .map(|line| format!("{} {}", line["change"].as_str().unwrap(), line["path"].as_str().unwrap()))
            .collect()
    };
    let mut expected = ["removed d/old", "added d/deep/new", "content f", "removed private/lost"].map(|line| {
        let (word, name) = line.split_once(' ').unwrap();
        format!("{word} {}", path(name))
    });
    let mut found = changes(&["--json", "diff", &times[0], &times[1]]);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(changes(&["--json", "diff", "latest~1", "latest"]).is_empty());
    let stat = rig.relict(&["diff", "--stat", &times[0], "latest"]);
    assert!(
        stat.contains("added: 1 file, 11 B")
            && stat.contains("removed: 2 files, 15 B")
            && stat.contains("changed: 1 file, 6 B"),
        "{stat}"
    );

    let paths =
        |args: &[&str]| lines(args).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(paths(&["--json", "find", "old"]), Vec::<String>::new());
    assert_eq!(paths(&["--json", "find", "old", "--all"]), [path("d/old")]);
    assert_eq!(paths(&["--json", "find", "old", "--point", &times[0]]), [path("d/old")]);
    assert_eq!(paths(&["--json", "find", "*", "--type", "f", "--size", "-4"]), [path("d/same")]);
    assert_eq!(
        paths(&["--json", "find", &format!("{}/**/NE*", path("d")), "-i", "--newer", "-1d"]),
        [path("d/deep/new")]
    );
    assert_eq!(paths(&["--json", "find", "*", "--newer", "2200-01-01"]), Vec::<String>::new());
    let all = lines(&["--json", "find", "same", "--all"]);
    assert_eq!((all.len(), all[0]["points"].as_u64()), (1, Some(3)));

    let code = |args: &[&str]| rig.command("relict", args).output().unwrap().status.code();
    assert_eq!((code(&["versions", "/nothing"]), code(&["versions", &path("d")])), (Some(1), Some(2)));
    assert_eq!(
        (code(&["find", "["]), code(&["find", "x", "--type", "q"]), code(&["find", "x", "--newer", "soon"])),
        (Some(2), Some(2), Some(2))
    );
    assert_eq!((code(&["diff", "nonsense", "latest"]), code(&["diff", "-99999d", "latest"])), (Some(2), Some(1)));
    assert_eq!(code(&["backup", "--set", "no-guid", &path("f")]), Some(2));
}

#[test]
fn names_give_no_commands_to_a_terminal() {
    let rig = Rig::new();
    fs::write(rig.source().join("red\x1b[31m"), "a").unwrap();
    backup(&rig, &[]);
    fs::write(rig.source().join("red\x1b[31m"), "bb").unwrap();
    backup(&rig, &[]);
    let path = rig.source().join("red\x1b[31m");
    for args in [vec!["find", "red*"], vec!["diff", "latest~1", "latest"], vec!["versions", path.to_str().unwrap()]] {
        let text = rig.relict(&args);
        assert!(text.contains("red\\x1b[31m") && !text.contains('\x1b'), "{args:?}: {text}");
    }
}

/// `mount.relict` where mount(8) looks for it, in a mount namespace of its own, so that nobody else sees it.
#[test]
fn a_line_in_fstab_is_enough() {
    let rig = three_points();
    let dir = rig.path("sbin");
    fs::create_dir(&dir).unwrap();
    symlink(env!("CARGO_BIN_EXE_relict"), dir.join("mount.relict")).unwrap();
    fs::write(rig.path("key"), rig::PASSWORD).unwrap();
    fs::write(rig.path("key.wrong"), "another").unwrap();
    let (repo, mnt, key) = (rig.path("repo"), rig.path("mnt"), rig.path("key"));
    let (repo, mnt, key) = (repo.display(), mnt.display(), key.display());
    fs::write(rig.path("fstab"), format!("{repo} {mnt} relict password-file={key},allow-other,only=h/s,nofail 0 0\n"))
        .unwrap();
    let (fstab, sbin) = (rig.path("fstab"), dir.display());
    let fstab = fstab.display();
    // mount(8) looks in /sbin and nowhere else: it gets one with the helper in it.
    let script = format!(
        "mount --make-rprivate /; cp -a /sbin/. {sbin}/; mount --bind {sbin} \"$(readlink -f /sbin)\"; \
         mount -T {fstab} -a; ls {mnt}; findmnt -no FSTYPE,OPTIONS {mnt}; mount -T {fstab} -a; \
         [ \"$(findmnt -n {mnt} | wc -l)\" = 1 ]; umount {mnt}; ! findmnt {mnt}; \
         mount -t relict -o password-file={key} {repo} {mnt}; ls {mnt}; umount {mnt}; \
         if mount -t relict -o strange {repo} {mnt}; then exit 9; else echo code $?; fi; \
         if mount -t relict -o password-file={key}.wrong {repo} {mnt}; then exit 9; else echo code $?; fi"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euo", "pipefail", "-c", &script]);
    let out = succeeded(command);
    assert!(out.contains("latest\n") && out.contains("fuse.relict") && out.contains("allow_other"), "{out}");
    assert!(out.contains("snapshots\n") && out.contains("code 1\n") && out.contains("code 32\n"), "{out}");
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_is_told() {
    let rig = three_points();
    let path = rig.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = rig.command("relict", &["--quiet", "mount", "--foreground", rig.path("mnt").to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let mut child = Running(command.spawn().unwrap());
    let receive = || {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert!(receive().starts_with("READY=1\n"));
    assert!(rig.path("mnt/latest").exists(), "ready before it was mounted");
    let begun = Instant::now();
    (0..4).for_each(|_| assert_eq!(receive().trim(), "WATCHDOG=1"));
    assert!(begun.elapsed() < Duration::from_secs(3));
    let mut kill = Command::new("kill");
    kill.args(["-TERM", &child.0.id().to_string()]);
    succeeded(kill);
    while !receive().contains("STOPPING=1") {}
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(!rig.path("mnt/latest").exists());
}

#[test]
fn what_is_installed_is_where_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let release = Path::new(env!("CARGO_BIN_EXE_relict")).parent().unwrap().parent().unwrap();
    let mut command = Command::new("make");
    command
        .args(["--silent", "install"])
        .arg(format!("DESTDIR={}", dir.path().display()))
        .arg(format!("TARGET={}", release.display()));
    succeeded(command.current_dir(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(fs::read_link(dir.path().join("sbin/mount.relict")).unwrap(), Path::new("/usr/bin/relict"));
    for file in [
        "usr/bin/relict",
        "usr/bin/relict-maint",
        "lib/systemd/system/relict-mount@.service",
        "usr/share/doc/relict/smb.conf",
    ] {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
}

/// smbd with the shares of `contrib/smb.conf`, their paths turned to this rig's.
struct Samba {
    smbd: Running,
    dir: PathBuf,
    port: u16,
}

impl Samba {
    /// None when it is not installed.
    fn start(rig: &Rig) -> Option<Self> {
        if Command::new("smbd").arg("--version").output().is_err()
            || Command::new("smbclient").arg("--version").output().is_err()
        {
            eprintln!("SKIPPED: samba and smbclient are not installed, so Previous Versions were not tested");
            return None;
        }
        let dir = rig.path("samba");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut conf = format!(
            "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\nsmb ports = {port}\nload printers = no\ndisable spoolss = yes\n"
        );
        for (option, name) in [
            ("lock directory", "lock"),
            ("state directory", "state"),
            ("cache directory", "cache"),
            ("private dir", "private"),
            ("pid directory", "pid"),
            ("ncalrpc dir", "ncalrpc"),
        ] {
            fs::create_dir_all(dir.join(name)).unwrap();
            conf += &format!("{option} = {}\n", dir.join(name).display());
        }
        conf += &format!("passdb backend = tdbsam:{}\n", dir.join("private/passdb.tdb").display());
        let shares = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/smb.conf")).unwrap();
        let source = rig.source();
        let shares = shares
            .replace("/mnt/backup", rig.path("mnt").to_str().unwrap())
            .replace("= srv/data", &format!("= {}", source.strip_prefix("/").unwrap().display()));
        conf += &shares.replace("/srv/data", source.to_str().unwrap());
        fs::write(dir.join("smb.conf"), conf).unwrap();
        let file = dir.join("smb.conf");
        succeeded(
            Command::new("bash")
                .args(["-c", &format!("printf 'pw\\npw\\n' | smbpasswd -c {} -s -a root", file.display())]),
        );
        let mut command = Command::new("smbd");
        command.args(["--foreground", "-s"]).arg(&file).arg("-l").arg(&dir);
        let smbd = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "smbd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self { smbd, dir, port })
    }

    /// Commands of smbclient, in a share.
    fn client(&self, share: &str, commands: &str) -> String {
        let mut command = Command::new("smbclient");
        command.arg("-s").arg(self.dir.join("smb.conf")).args(["-U", "root%pw", "-p", &self.port.to_string()]);
        command.arg(format!("//127.0.0.1/{share}")).args(["-c", commands]);
        succeeded(command)
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        // It made itself the head of a process group, and ends its connections when it is asked kindly.
        let _ = Command::new("kill").args(["-TERM", &self.smbd.0.id().to_string()]).status();
        let _ = self.smbd.0.wait();
    }
}

#[test]
fn windows_sees_previous_versions() {
    let rig = Rig::new();
    fs::create_dir(rig.source().join("d")).unwrap();
    fs::write(rig.source().join("f"), "one").unwrap();
    fs::write(rig.source().join("d/old"), "old content").unwrap();
    let backup = || {
        rig.relict(&["--quiet", "backup", "--host", "web1", "--source", "srv-data", rig.source().to_str().unwrap()]);
        std::thread::sleep(Duration::from_millis(1100));
    };
    backup();
    fs::write(rig.source().join("f"), "second").unwrap();
    fs::remove_file(rig.source().join("d/old")).unwrap();
    backup();
    rig.relict(&["--quiet", "mount", "--allow-other", rig.path("mnt").to_str().unwrap()]);
    let Some(samba) = Samba::start(&rig) else { return };
    let tokens: Vec<String> = times(&rig).iter().map(|time| gmt(time)).collect();
    let (old, copy) = (&tokens[0], rig.path("copy"));
    let fetched = |share: &str, dir: &str, file: &str| {
        samba.client(share, &format!("cd {dir}; get {old}\\{} {}", file.replace('/', "\\"), copy.display()));
        fs::read_to_string(&copy).unwrap()
    };
    let inside = rig.source();
    let inside = format!("web1/srv-data/latest/{}", inside.strip_prefix("/").unwrap().display());
    for (share, dir, listed) in [("data", ".", true), ("backup", ".", true), ("anywhere", inside.as_str(), false)] {
        let info = samba.client(share, &format!("cd {dir}; allinfo f"));
        assert!(info.contains("6 bytes"), "{share}: {info}");
        assert!(tokens.iter().all(|token| info.contains(token.as_str()) == listed), "{share}: {info}");
        let list = samba.client(share, &format!("cd {dir}; ls {old}\\d\\*; ls d\\*"));
        assert_eq!(list.matches(" old ").count(), 1, "{share}: {list}");
        assert_eq!(
            (fetched(share, dir, "f"), fetched(share, dir, "d/old")),
            ("one".to_owned(), "old content".to_owned()),
            "{share}"
        );
    }
    // A new point is a new previous version, without a word to Samba.
    fs::write(rig.source().join("f"), "third").unwrap();
    backup();
    let newest = gmt(times(&rig).last().unwrap());
    let begun = Instant::now();
    while !samba.client("backup", "allinfo f").contains(&newest) {
        assert!(begun.elapsed() < Duration::from_secs(6), "{newest} does not appear");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(samba);
    rig.umount();
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed, so contrib/relict-mount@.service was not verified");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/relict-mount@.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/relict "));
    fs::write(dir.path().join("relict-mount@x.service"), unit.replace("/usr/bin/relict", env!("CARGO_BIN_EXE_relict")))
        .unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(dir.path().join("relict-mount@x.service"));
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<_> = words.lines().filter(|line| line.contains("relict")).collect();
    assert!(output.status.success() && ours.is_empty(), "{words}");
}
