//! Many readers, a cache that holds almost nothing, backup, forget and prune beside them: no wrong byte, no hang. And what the mount's
//! process holds in memory does not grow with what was visited.
//!
//! `RELICT_STRESS` sets the seconds (default 30), `RELICT_ENTRIES` (default 50000) and `RELICT_READ_GIB` (default 1) the
//! walk and the reading of the memory test; a million and 20 are what is promised.

use crate::rig::{Random, Rig};
use crate::{setting, shell, text};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const READERS: u64 = 8;
/// A read that takes longer counts as hung.
const HUNG: Duration = Duration::from_secs(60);
/// What the process may hold beside its cache: code, database, threads and their buffers.
const CONSTANT_KB: u64 = 96 << 10;

/// Reads a random part of a random file in a random way, and compares.
fn read_once(random: &mut Random, top: &Path, files: &[(String, Vec<u8>)]) -> u64 {
    let (name, content) = &files[random.below(files.len() as u64) as usize];
    let direct = if random.below(2) == 0 { libc::O_DIRECT } else { 0 };
    let file = fs::OpenOptions::new().read(true).custom_flags(direct).open(top.join(name)).unwrap();
    let begun = Instant::now();
    let (at, len) = match random.below(3) {
        0 => (0, content.len()),
        _ => {
            let at = random.below(content.len() as u64) as usize;
            (at, 1 + random.below(300_000).min((content.len() - at) as u64 - 1) as usize)
        }
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at as u64).unwrap();
    assert!(bytes == content[at..at + len], "{name}: {len} bytes at {at} are wrong");
    assert!(begun.elapsed() < HUNG, "{name}: {len} bytes at {at} took {:?}", begun.elapsed());
    len as u64
}

#[test]
fn readers_beside_backup_and_prune_never_see_a_wrong_byte() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let mut files = Vec::new();
    for n in 0..300 {
        let len = 1 + random.below(if n % 30 == 0 { 8 << 20 } else { 40_000 }) as usize;
        files.push((format!("file{n:03}"), random.bytes(len)));
    }
    files.iter().for_each(|(name, content)| fs::write(rig.source().join(name), content).unwrap());
    rig.backup();
    rig.relict(&["--quiet", "mount", "--cache-size", "8M", text(&rig.path("mnt"))]);
    let point = fs::read_link(rig.path("mnt/latest")).unwrap();
    let top = rig.mounted(text(&point));
    let listed: serde_json::Value = serde_json::from_str(rig.relict(&["snapshots", "--json"]).trim()).unwrap();
    let id = listed["id"].as_str().unwrap().to_owned();
    let (stop, read, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let seeds: Vec<u64> = (0..READERS).map(|_| random.next()).collect();
    let seconds = Duration::from_secs(setting("RELICT_STRESS", 30));
    let begun = Instant::now();
    let backups = std::thread::scope(|scope| {
        for seed in seeds {
            let (files, top, stop, read, reads) = (&files, &top, &stop, &read, &reads);
            scope.spawn(move || {
                let mut random = Random::of(seed);
                while !stop.load(Ordering::Relaxed) {
                    read.fetch_add(read_once(&mut random, top, files), Ordering::Relaxed);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut backups = 0;
        while begun.elapsed() < seconds {
            let name = rig.source().join("new");
            fs::write(name, random.bytes(2_000_000)).unwrap();
            rig.backup();
            backups += 1;
            // All but the point that is read and the newest go, and so does what only they had.
            rig.maint(&["--quiet", "forget", "--yes", "--keep-last", "1", "--keep-id", &id]);
            rig.maint(&["--quiet", "prune", "--yes"]);
            std::thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, Ordering::Relaxed);
        backups
    });
    println!("{} reads, {} MB, {backups} backups", reads.into_inner(), read.into_inner() / 1_000_000);
    assert!(backups > 0);
    assert_eq!(rig.relict(&["snapshots", "--json"]).lines().count(), 2);
    let content: usize = files.iter().map(|(_, content)| content.len()).sum();
    // The mount lets go of what was forgotten, as nobody read it, when it looks again, which is every two seconds.
    let begun = Instant::now();
    loop {
        rig.maint(&["--quiet", "prune", "--yes"]);
        let kilobytes: usize = shell(&rig.path("repo"), "du -sk . | cut -f1").trim().parse().unwrap();
        if kilobytes << 10 < content + 10_000_000 {
            break;
        }
        let late = begun.elapsed() > Duration::from_secs(60);
        assert!(!late, "{kilobytes} kB after {backups} backups: prune gave nothing back");
        std::thread::sleep(Duration::from_secs(1));
    }
    rig.umount();
}

/// The highest resident memory of a process, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_is_the_cache_and_a_constant() {
    const CACHE_MB: u64 = 32;
    let rig = Rig::new();
    let entries = setting("RELICT_ENTRIES", 50_000);
    for dir in 0..entries.div_ceil(1000) {
        let path = rig.source().join(format!("d{dir}"));
        fs::create_dir(&path).unwrap();
        (0..1000)
            .for_each(|n| fs::write(path.join(format!("f{n}")), if n % 50 == 0 { "content" } else { "" }).unwrap());
    }
    let large = 256 << 20;
    fs::write(rig.source().join("large"), Random::from_env().bytes(large)).unwrap();
    rig.backup();
    let mnt = rig.path("mnt");
    let mut child = rig
        .command("relict", &["mount", "--foreground", "--cache-size", &format!("{CACHE_MB}M"), text(&mnt)])
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !mnt.join("latest").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let found: u64 = shell(&rig.mounted("latest"), "find . -printf '%s\\n' | wc -l").trim().parse().unwrap();
    assert!(found > entries);
    shell(&rig.mounted("latest"), "ls -lR . | tail -1; cat d*/f*0 | cksum");
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..(setting("RELICT_READ_GIB", 1) << 30).div_ceil(large as u64) {
        let path = rig.mounted("latest").join("large");
        let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        while file.read(&mut bytes).unwrap() > 0 {}
    }
    let peak = peak_kb(child.id());
    println!("{found} entries, peak {peak} kB with a cache of {CACHE_MB} MiB");
    assert!(peak < (CACHE_MB << 10) + CONSTANT_KB, "{peak} kB");
    rig.umount();
    child.wait().unwrap();
}
