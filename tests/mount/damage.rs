//! What the mount does when something under it is lost: only what is lost fails, it is said once, and nothing hangs.

use crate::rig::{Random, Rig};
use crate::{shell, text};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const EIO: i32 = 5;
const ENOTCONN: i32 = 107;

/// The package files, largest first.
fn packages(rig: &Rig) -> Vec<PathBuf> {
    let dirs = fs::read_dir(rig.path("repo/packages")).unwrap();
    let mut files: Vec<_> =
        dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap()).map(|f| f.unwrap().path()).collect();
    files.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).unwrap().len()));
    files
}

fn ended(child: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(15) {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// One large file of noise and small ones, backed up.
fn backed_up() -> (Rig, Vec<u8>) {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let large = random.bytes(12 << 20);
    fs::write(rig.source().join("large"), &large).unwrap();
    (0..50).for_each(|n| fs::write(rig.source().join(format!("small{n}")), random.bytes(3000)).unwrap());
    rig.backup();
    (rig, large)
}

#[test]
fn a_flipped_byte_costs_its_range_and_is_said_once() {
    let (rig, large) = backed_up();
    let package = &packages(&rig)[0];
    let file = fs::OpenOptions::new().read(true).write(true).open(package).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], middle).unwrap();
    let mut child = rig.mount_in_foreground();
    let mounted = fs::File::open(rig.mounted("latest").join("large")).unwrap();
    let mut lost = Vec::new();
    for at in (0..large.len()).step_by(4096) {
        let mut page = [0; 4096];
        match mounted.read_exact_at(&mut page, at as u64) {
            Ok(()) => assert_eq!(page, large[at..at + 4096], "at {at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "at {at}");
                lost.push(at);
            }
        }
    }
    // A segment holds neighbours, but not always only neighbours: two threads share a file.
    let bytes = lost.len() * 4096;
    assert!((1..=1 << 20).contains(&bytes), "{bytes} bytes for one segment");
    (0..50).for_each(|n| {
        let name = format!("small{n}");
        assert_eq!(fs::read(rig.mounted("latest").join(&name)).unwrap(), fs::read(rig.source().join(&name)).unwrap());
    });
    drop(mounted);
    rig.umount();
    assert!(ended(&mut child));
    let log = rig.mount_log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("cannot be read")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("snapshots/2") && said[0].contains("/source/large: content at byte "), "{log}");
}

#[test]
fn a_lost_disk_gives_errors_and_no_hang() {
    let (rig, _) = backed_up();
    // Reads behind the end of a loop device's file are what a pulled disk gives.
    shell(
        &rig.path(""),
        "truncate -s 256M image && mkfs.ext4 -q image && mkdir disk && mount -o loop image disk
         mv repo disk/repo && ln -s disk/repo repo && umount disk && mount -o loop image disk",
    );
    let mut child = rig.mount_in_foreground();
    let latest = rig.mounted("latest");
    assert_eq!(fs::read(latest.join("small0")).unwrap(), fs::read(rig.source().join("small0")).unwrap());
    let open = fs::File::open(latest.join("large")).unwrap();
    shell(&rig.path(""), "umount -l disk && truncate -s 0 image && echo 1 > /proc/sys/vm/drop_caches");
    let start = Instant::now();
    let mut page = [0; 4096];
    let failed = (0..12_u64)
        .filter(|n| open.read_exact_at(&mut page, n << 20).is_err_and(|e| e.raw_os_error() == Some(EIO)))
        .count();
    assert!(failed >= 8, "{failed} of 12 reads failed");
    assert_eq!(fs::metadata(latest.join("small0")).unwrap().len(), 3000, "what is known stays known");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(child.try_wait().unwrap().is_none(), "the mount lives: {}", rig.mount_log());
    drop(open);
    rig.umount();
    assert!(ended(&mut child));
    assert!(rig.mount_log().contains("/source/large: content at byte "), "{}", rig.mount_log());
}

#[test]
fn a_lazy_unmount_serves_what_is_open_and_ends() {
    let (rig, large) = backed_up();
    let mut child = rig.mount_in_foreground();
    let open = fs::File::open(rig.mounted("latest").join("large")).unwrap();
    rig.relict(&["--quiet", "umount", "-l", text(&rig.path("mnt"))]);
    assert!(!rig.path("mnt/latest").exists());
    let mut bytes = vec![0; 70_000];
    open.read_exact_at(&mut bytes, 5_000_000).unwrap();
    assert_eq!(bytes, large[5_000_000..5_070_000]);
    assert!(child.try_wait().unwrap().is_none());
    drop(open);
    assert!(ended(&mut child), "nobody needs it any more");
}

#[test]
fn after_kill_9_the_place_can_be_mounted_again() {
    let (rig, large) = backed_up();
    let mut child = rig.mount_in_foreground();
    let open = fs::File::open(rig.mounted("latest").join("large")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let not_connected = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(ENOTCONN));
    not_connected(open.read_exact_at(&mut [0; 4096], 0));
    not_connected(fs::metadata(rig.path("mnt/latest")).map(|_| ()));
    drop(open);
    let again = rig.command("relict", &["mount", text(&rig.path("mnt"))]).output().unwrap();
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && words.contains("umount"), "{words}");
    rig.relict(&["--quiet", "umount", "-l", text(&rig.path("mnt"))]);
    rig.mount();
    assert_eq!(fs::read(rig.mounted("latest").join("large")).unwrap(), large);
    rig.umount();
}

#[test]
fn a_mount_in_or_over_its_repository_is_refused() {
    let (rig, _) = backed_up();
    let refused = |place: &Path, words: &str| {
        let ran = rig.command("relict", &["mount", text(place)]).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    };
    let inside = rig.path("repo/inside");
    fs::create_dir(&inside).unwrap();
    refused(&inside, "inside of the repository");
    refused(&rig.path("repo"), "inside of the repository");
    refused(&rig.path(""), "hide the repository");
    // The same by a link.
    std::os::unix::fs::symlink(&inside, rig.path("link")).unwrap();
    refused(&rig.path("link"), "inside of the repository");
    let mounts = Command::new("cat").arg("/proc/self/mounts").output().unwrap();
    assert!(!String::from_utf8_lossy(&mounts.stdout).contains(text(&rig.path(""))));
}

/// The process of the old mount ends after its mount did; what it does last must not meet the new one.
#[test]
fn a_mount_right_after_an_unmount_stays() {
    let (rig, content) = backed_up();
    for _ in 0..10 {
        rig.mount();
        rig.umount();
        rig.mount();
        std::thread::sleep(Duration::from_millis(120));
        assert_eq!(std::fs::read(rig.mounted("latest").join("large")).unwrap(), content);
        rig.umount();
    }
}
