//! Restore by somebody without rights: what only root may do is left out and said, the rest is there, and nobody gets a
//! program that acts for somebody else.

use super::forge::{Forge, THEN, attributes, dir, inode, name, xattr};
use super::trial::run;
use repo_format::{Device, FileKind, Inode, ROOT_INO, Time};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

const NOBODY: u32 = 65534;

fn forge() -> Forge {
    let mut forge = Forge::new();
    let owned = |ino, mode, uid, gid| attributes(ino, Inode { uid, gid, size: 4, data_bytes: 4, ..inode(mode) });
    let node = |ino, mode| attributes(ino, Inode { rdev: Some(Device { major: 1, minor: 3 }), ..inode(mode) });
    let mut entries = vec![
        dir(ROOT_INO, 3),
        name(ROOT_INO, b"root-suid", 2, FileKind::File),
        owned(2, 0o104_755, 0, 0),
        name(ROOT_INO, b"root-sgid", 3, FileKind::File),
        owned(3, 0o102_755, NOBODY, 0),
        name(ROOT_INO, b"own-suid", 4, FileKind::File),
        owned(4, 0o106_755, NOBODY, NOBODY),
        name(ROOT_INO, b"capable", 5, FileKind::File),
        owned(5, 0o100_755, 0, 0),
        xattr(5, b"security.capability", b"\x01\0\0\x02\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\0\0\0\0"),
        xattr(5, b"trusted.overlay.opaque", b"y"),
        name(ROOT_INO, b"null", 6, FileKind::Char),
        node(6, 0o020_666),
        name(ROOT_INO, b"disk", 7, FileKind::Block),
        node(7, 0o060_666),
        name(ROOT_INO, b"dir-sgid", 8, FileKind::Dir),
        attributes(8, Inode { nlink: 2, ..inode(0o042_777) }),
        name(ROOT_INO, b"flagged", 9, FileKind::File),
        attributes(9, Inode { flags: 0x10, ..inode(0o100_644) }),
        name(ROOT_INO, b"plain", 10, FileKind::File),
        owned(10, 0o100_600, 1234, 1234),
        name(8, b"inside", 11, FileKind::File),
        attributes(11, Inode { mtime: Time { sec: 1, nsec: 1 }, ..inode(0o100_444) }),
        name(ROOT_INO, b"pipe", 12, FileKind::Fifo),
        attributes(12, inode(0o010_600)),
    ];
    for ino in [2, 3, 4, 5, 10] {
        entries.push(forge.content(ino, 0, b"data"));
    }
    forge.point(entries);
    forge.close();
    forge
}

#[test]
fn nobody_restores_what_nobody_may_have() {
    let forge = forge();
    // Nobody must be able to reach the program, the repository and the target.
    let program = forge.path("relict");
    fs::copy(env!("CARGO_BIN_EXE_relict"), &program).unwrap();
    let home = forge.path("home");
    fs::create_dir(&home).unwrap();
    let sh = format!(
        "chmod 755 {0} && chown -R {NOBODY}:{NOBODY} {0}/repo {0}/home && cp -a {0}/repo {0}/mine",
        forge.path("").display()
    );
    assert!(Command::new("sh").args(["-ec", &sh]).status().unwrap().success());
    let mut restore = Command::new("timeout");
    restore.args(["60", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    restore.args(["restore", "latest", "-t"]).arg(home.join("out")).env("RELICT_REPOSITORY", forge.path("mine"));
    let output = restore.env("HOME", &home).env("TMPDIR", &home).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    for words in ["/null: a device: only root can make it", "/disk: a device: only root", "only root can (set-uid bits"]
    {
        assert!(text.contains(words), "'{words}' is not in: {text}");
    }
    let at = |name: &str| fs::symlink_metadata(home.join("out").join(name)).unwrap();
    for (name, mode) in [
        ("root-suid", 0o755),
        ("root-sgid", 0o755),
        ("own-suid", 0o6755),
        ("capable", 0o755),
        ("dir-sgid", 0o777),
        ("plain", 0o600),
        ("dir-sgid/inside", 0o444),
        ("pipe", 0o600),
    ] {
        let found = at(name);
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (NOBODY, NOBODY, mode), "{name}: {text}");
    }
    assert!(!home.join("out/null").exists() && !home.join("out/disk").exists());
    for name in ["root-suid", "own-suid", "capable", "plain"] {
        assert_eq!(fs::read(home.join("out").join(name)).unwrap(), b"data", "{name}");
    }
    assert_eq!(capability(&home.join("out/capable")), "");
}

#[test]
fn root_gives_set_uid_bits_with_their_owners_only() {
    let forge = forge();
    let target = forge.path("out");
    let ran = run(&forge, &format!("relict restore latest -t {}", target.display()));
    let at = |name: &str| fs::symlink_metadata(target.join(name)).unwrap();
    // Everything, with the owners that it had: the owner is what makes a set-uid bit right.
    assert!(matches!(ran.code, Some(0 | 3)), "{}", ran.text);
    for (name, uid, gid, mode) in [
        ("root-suid", 0, 0, 0o4755),
        ("root-sgid", NOBODY, 0, 0o2755),
        ("own-suid", NOBODY, NOBODY, 0o6755),
        ("plain", 1234, 1234, 0o600),
    ] {
        let found = at(name);
        assert_eq!((found.uid(), found.gid(), found.permissions().mode() & 0o7777), (uid, gid, mode), "{name}");
        assert_eq!(found.mtime(), THEN.sec, "{name}");
    }
    assert!(capability(&target.join("capable")).contains("security.capability"), "{}", ran.text);
    let _ = Command::new("chattr").arg("-i").arg(target.join("flagged")).status();
}

fn capability(path: &Path) -> String {
    let output = Command::new("getfattr").args(["-n", "security.capability", "--absolute-names"]).arg(path).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}
