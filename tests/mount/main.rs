//! The mount beside what was backed up: the same answers to the tools people use, to every system call that reads,
//! and to other users. Needs root.
//!
//! `RELICT_SEED` repeats a run, `RELICT_ROUNDS` (default 400) sets how many reads of each file, `RELICT_NAMES` (default
//! 20000) how many names the large directory has.

#[path = "../support/rig.rs"]
mod rig;

mod damage;
mod stress;

use rig::{Random, Rig, succeeded};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn script(name: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mount").join(name);
    succeeded(Command::new("python3").arg(path).args(args))
}

fn shell(dir: &Path, script: &str) -> String {
    succeeded(Command::new("bash").args(["-euo", "pipefail", "-c", script]).env("LC_ALL", "C").current_dir(dir))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mount that others may read, in directories that others may cross.
fn mount_for_all(rig: &Rig) {
    fs::set_permissions(rig.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    rig.relict(&["--quiet", "mount", "--allow-other", text(&rig.path("mnt"))]);
}

/// Files of many sizes, with holes, attributes and links, and names of any bytes.
fn fill(source: &Path, random: &mut Random) {
    shell(
        source,
        "mkdir -p a/b c 'with space' && touch -d 2001-02-03T04:05:06.789 a/b/old && ln -s ../a c/link && mkfifo c/fifo
         printf 'needle\\n' > a/needle; ln a/needle c/second; printf x > $'c/\\xff\\xfe\\nname'; mknod c/null c 1 3
         truncate -s 300M c/sparse; printf data | dd of=c/sparse bs=1 seek=200000000 conv=notrunc status=none
         setfattr -n user.colour -v red a/needle; setfattr -n trusted.t -v 1 a; setfattr -n user.binary -v 0x00ff00 c
         setfacl -m u:1234:rw,g:5678:r a/needle; setfacl -d -m u:1234:rwx a/b; chmod 4751 a/b/old; chown 12:34 c/second
         touch -d 2010-01-01 reference; touch -d 1965-05-05T05:05:05.5 'with space/before 1970'; touch -d 2300-01-01 c/late",
    );
    for n in 0..40 {
        let len = random.below(if n < 36 { 60_000 } else { 6_000_000 }) as usize;
        fs::write(source.join(format!("a/b/file{n}")), random.bytes(len)).unwrap();
    }
}

#[test]
fn tools_give_the_same_answers() {
    let rig = Rig::new();
    let source = rig.source();
    fill(&source, &mut Random::from_env());
    rig.backup();
    rig.mount();
    let mounted = rig.mounted("latest");
    let all = "find . -print0 | sort -z |";
    for what in [
        "find . -printf '%P %y %m %U %G %s %n %T@ %l\\n' | sort",
        "find . -newer reference | sort",
        "find . -size +100k -perm -4000 -o -links +1 -type f | sort",
        &format!("{all} xargs -0 getfattr -h -d -m- -e hex"),
        &format!("{all} xargs -0 getfacl -n 2>&1"),
        "getfacl -Rn . | sort",
        "du -abl . | sort",
        "find . -type f -print0 | sort -z | xargs -0 sha256sum",
        "grep -rac needle . | sort",
        "ls -lRZ --time-style=full-iso . | grep -v ^total",
        "stat -c '%n %F %a %u %g %s %h %Y %t %T' $(find . -type f -name 'file*' | sort) c/null c/fifo",
    ] {
        assert_eq!(shell(&source, what), shell(&mounted, what), "{what}");
    }
    // rsync names what differs: nothing.
    let compare = |from: &Path, to: &Path| {
        let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
        let args = ["-aHAXSn", "--checksum", "--delete", "--itemize-changes", &from, &to];
        succeeded(Command::new("rsync").args(args))
    };
    assert_eq!(compare(&source, &mounted), "");
    // tar's attributes come in the order of the file system, so its archive is compared by what comes out of it.
    let tar = "tar -S --xattrs --xattrs-include='*' --acls --numeric-owner --format=pax";
    let through_tar = format!("mkdir $TO; {tar} -c . | {tar} -xp -C $TO");
    for copy in ["cp -a --sparse=always . $TO", "cp -a --sparse=never . $TO", &through_tar] {
        let target = rig.path("copy");
        shell(&mounted, &format!("TO={}; {copy}", target.display()));
        assert_eq!(compare(&source, &target), "", "{copy}");
        fs::remove_dir_all(target).unwrap();
    }
    let blocks = |path: &Path| fs::metadata(path.join("c/sparse")).unwrap().blocks();
    assert!(blocks(&mounted) <= blocks(&source) && blocks(&mounted) >= 8);
    rig.umount();
}

#[test]
fn nobody_asks_every_file_for_an_acl_where_there_are_none() {
    let rig = Rig::new();
    let source = rig.source();
    shell(&source, "mkdir d; touch d/{000..499}");
    rig.backup();
    rig.mount();
    let asked = || {
        shell(&rig.path("mnt"), "sed -n 's/.*request=\"getxattr\"} //p' .relict/metrics").trim().parse::<u64>().unwrap()
    };
    let d = rig.mounted("latest").join("d");
    shell(&d, "ls -l");
    assert!(asked() < 10, "{}", asked());
    let acls_of = |name: &str| {
        shell(&rig.mounted("latest").join("d"), &format!("getfattr -n system.posix_acl_access {name} 2>&1 || true"))
    };
    assert!(acls_of("001").contains("Operation not supported"), "{}", acls_of("001"));
    assert_eq!(shell(&d, "getfacl -c 001").trim(), shell(&source.join("d"), "getfacl -c 001").trim());
    // One ACL in one point, and every file may have one; also when it is gone again.
    for change in ["setfacl -m u:1234:rw d/000", "setfacl -b d/000"] {
        shell(&source, change);
        let points = rig.relict(&["snapshots", "--json"]).lines().count();
        rig.backup();
        shell(
            &rig.path("mnt"),
            &format!("until [ $(ls snapshots | grep -vc latest) -gt {points} ]; do sleep 0.1; done"),
        );
        assert!(acls_of("001").contains("No such attribute"), "{}", acls_of("001"));
    }
    let second = shell(&rig.path("mnt/snapshots"), "ls | sed -n 2p");
    assert!(shell(&rig.mounted(&format!("snapshots/{}", second.trim())).join("d"), "ls -l 000").contains('+'));
    rig.umount();
}

#[test]
fn calls_give_the_same_errors_to_everyone() {
    let rig = Rig::new();
    let source = rig.source();
    // The kernel asks a read-only file system other things than a read-only bind mount, so the original is one.
    let image =
        format!("truncate -s 64M image && mkfs.ext4 -q image && mount -o loop,nodev,nosuid image {}", source.display());
    shell(&rig.path(""), &image);
    script("posix.py", &["make", text(&source)]);
    rig.backup();
    mount_for_all(&rig);
    shell(&rig.path(""), "mount -o remount,ro source");
    let expected = script("posix.py", &["run", text(&source)]);
    shell(&rig.path(""), "umount -l source");
    let found = script("posix.py", &["run", text(&rig.mounted("latest"))]);
    let differ: Vec<_> = expected.lines().zip(found.lines()).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty(), "expected, found: {differ:#?}");
    assert_eq!(expected.lines().count(), found.lines().count());
    let refused: Vec<_> = found.lines().filter(|line| line.starts_with("rofs/")).collect();
    assert!(refused.len() >= 30, "{}", refused.len());
    assert!(refused.iter().all(|line| line.ends_with("| EROFS")), "{refused:#?}");
    // That the comparison can see a difference between users at all.
    let of = |case: &str, user: &str| {
        found.lines().find(|line| line.starts_with(&format!("{case} | {user} |"))).unwrap().rsplit(' ').next().unwrap()
    };
    for (file, root, nobody) in [
        ("a private file", "ok", "EACCES"),
        ("a file that an ACL gives", "ok", "ok"),
        ("a file that an ACL takes", "ok", "EACCES"),
    ] {
        assert_eq!(
            (of(&format!("open/{file}"), "root"), of(&format!("open/{file}"), "nobody")),
            (root, nobody),
            "{file}"
        );
    }
    rig.umount();
}

#[test]
fn fio_verifies_what_it_wrote() {
    let rig = Rig::new();
    let fio = "fio --name=v --filename=file --size=32M --bs=4k --ioengine=psync --verify=crc32c --verify_fatal=1";
    shell(&rig.source(), &format!("{fio} --rw=write --do_verify=0"));
    rig.backup();
    rig.mount();
    let read = format!("{fio} --readonly --rw=randread --randrepeat=0");
    shell(&rig.mounted("latest"), &read);
    // That it can fail.
    shell(&rig.source(), &format!("printf x | dd of=file bs=1 seek=5000000 conv=notrunc status=none; ! {read}"));
    rig.umount();
}

#[test]
fn every_way_to_read_gives_the_file_at_every_point() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let mut kept: Vec<PathBuf> = Vec::new();
    let file = rig.source().join("file");
    fs::write(&file, random.bytes(9_000_001)).unwrap();
    for version in 0..3 {
        if version > 0 {
            let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
            for _ in 0..5 {
                let (at, len) = (random.below(9_000_000), 1 + random.below(400_000) as usize);
                let bytes = if random.below(3) == 0 { vec![0; len] } else { random.bytes(len) };
                open.write_all_at(&bytes, at).unwrap();
            }
            open.set_len(7_000_000 + random.below(5_000_000)).unwrap();
        }
        kept.push(rig.path(&format!("version{version}")));
        fs::copy(&file, &kept[version]).unwrap();
        rig.backup();
        // Points are named by the second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    rig.relict(&["--quiet", "mount", "--cache-size", "8M", text(&rig.path("mnt"))]);
    let mut points: Vec<_> = fs::read_dir(rig.path("mnt/snapshots"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    points.retain(|name| name != "latest");
    points.sort();
    assert_eq!(points.len(), 3);
    for (point, original) in points.iter().zip(&kept) {
        let mounted = rig.mounted(&format!("snapshots/{point}")).join("file");
        let (seed, rounds) = (random.next().to_string(), setting("RELICT_ROUNDS", 400).to_string());
        script("reads.py", &[&seed, &rounds, text(original), text(&mounted)]);
    }
    rig.umount();
}

#[test]
fn handles_and_positions_last() {
    let rig = Rig::new();
    let source = rig.source();
    fill(&source, &mut Random::from_env());
    fs::create_dir(source.join("many")).unwrap();
    let names = setting("RELICT_NAMES", 20_000);
    (0..names).for_each(|n| drop(fs::File::create(source.join(format!("many/{n:x}-name"))).unwrap()));
    rig.backup();
    let (mnt, taken) = (rig.path("mnt"), rig.path("handles"));
    rig.mount();
    let below = rig.mounted("latest").join("a");
    let count = script("handles.py", &["take", text(&below), text(&taken)]);
    assert!(count.trim().parse::<u32>().unwrap() > 40);
    assert_eq!(script("handles.py", &["open", text(&mnt), text(&taken)]), count);
    let shown = script("handles.py", &["seek", text(&rig.mounted("latest").join("many"))]);
    assert_eq!(shown.trim(), (names + 2).to_string());
    rig.umount();
    // A new process knows nothing of them, nor has the kernel an inode left.
    rig.mount();
    assert_eq!(script("handles.py", &["open", text(&mnt), text(&taken)]), count);
    rig.umount();
}

#[test]
fn the_size_of_the_file_system_is_that_of_the_packages() {
    let rig = Rig::new();
    fs::write(rig.source().join("file"), Random::from_env().bytes(5_000_000)).unwrap();
    rig.backup();
    rig.mount();
    let figures = shell(&rig.path("mnt"), "stat -fc '%b %S %f %a' .");
    let [blocks, size, free, available]: [u64; 4] =
        figures.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    let sum = "find . -type f -printf '%s\\n' | awk '{ n += $1 } END { print n }'";
    let stored: u64 = shell(&rig.path("repo/packages"), sum).trim().parse().unwrap();
    assert!(
        blocks * size >= stored * 9 / 10 && blocks * size <= stored * 11 / 10 + 65_536,
        "{blocks} * {size} for {stored}"
    );
    assert_eq!((free, available), (0, 0));
    rig.umount();
}
