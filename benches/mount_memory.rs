//! What mounting itself costs, with a repository in memory: `cargo bench --bench mount_memory`.
//!
//! A tree of `--files` small files (78,000) in `--dirs` directories and one file of `--big` bytes (2 GB) are mounted,
//! and `find`, `ls -lR`, `cp -a`, `tar` and reading in order are timed, with the number of FUSE requests each took.
//! `--threads` answer (2), `--read-ahead` is in KiB, `--xattrs 0` mounts without extended attributes, `--quick 1`
//! leaves out what copies. `--hold` keeps it mounted for `--hold` seconds instead, to look at it by hand.

use relict::mount::{MountOptions, Request, RequestCounts, run};
use relict::view::memory::{MemoryBacking, TreeBuilder, point};
use relict::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KINDS: [Request; 15] = [
    Request::Lookup,
    Request::Getattr,
    Request::Readlink,
    Request::Open,
    Request::Read,
    Request::Getxattr,
    Request::Listxattr,
    Request::Flush,
    Request::Release,
    Request::Opendir,
    Request::Readdir,
    Request::Readdirplus,
    Request::Statfs,
    Request::Lseek,
    Request::Other,
];

fn main() -> Result<()> {
    let files = flag("--files", 78_000)?;
    let backing = Arc::new(MemoryBacking::default());
    let start = Instant::now();
    build(&backing, files, flag("--dirs", 5_200)?, flag("--big", 2 << 30)?)?;
    println!("built in {:.1} s, {} threads", start.elapsed().as_secs_f64(), flag("--threads", 2)?);
    let hold = flag("--hold", 0)?;
    let point = tempdir("relict-bench-mount")?;
    if hold > 0 {
        mounted(&backing, &point, |_| {
            println!("mounted at {} for {hold} s", point.display());
            std::thread::sleep(Duration::from_secs(hold));
        })?;
    } else {
        measure(&backing, &point)?;
    }
    let _ = std::fs::remove_dir(&point);
    Ok(())
}

fn measure(backing: &Arc<MemoryBacking>, point: &Path) -> Result<()> {
    let shm = tempdir_in(Path::new("/dev/shm"), "relict-bench-copy")?;
    let disk = tempdir("relict-bench-copy")?;
    let copy = |to: &Path| format!("cp -a snapshots/latest/src {0} && rm -rf {0}/src", to.display());
    let find = "find snapshots/latest/src > /dev/null".to_string();
    let ls = "ls -lR snapshots/latest/src > /dev/null".to_string();
    let dd = "dd if=snapshots/latest/big of=/dev/null bs=1M status=none".to_string();
    let tar = "tar -cf - snapshots/latest/src/ | cat > /dev/null".to_string();
    on_one_mount(backing, point, &[("find, cold", &find), ("find, again", &find)])?;
    on_one_mount(backing, point, &[("ls -lR, cold", &ls), ("ls -lR, again", &ls)])?;
    if flag("--quick", 0)? > 0 {
        return on_one_mount(backing, point, &[("read in order", &dd), ("read again", &dd)]);
    }
    on_one_mount(backing, point, &[("cp -a to tmpfs and rm", &copy(&shm))])?;
    on_one_mount(backing, point, &[("cp -a to disk and rm", &copy(&disk))])?;
    on_one_mount(backing, point, &[("tar", &tar)])?;
    on_one_mount(backing, point, &[("read in order", &dd), ("read again", &dd)])?;
    let _ = std::fs::remove_dir_all(&shm);
    let _ = std::fs::remove_dir_all(&disk);
    Ok(())
}

/// Runs commands one after the other on one fresh mount.
fn on_one_mount(backing: &Arc<MemoryBacking>, point: &Path, rows: &[(&str, &String)]) -> Result<()> {
    mounted(backing, point, |counts| {
        for (name, script) in rows {
            let before = KINDS.map(|kind| counts.of(kind));
            let start = Instant::now();
            let status = Command::new("bash").args(["-c", script]).current_dir(point).stdin(Stdio::null()).status();
            let seconds = start.elapsed().as_secs_f64();
            let requests = KINDS.iter().zip(before).map(|(kind, before)| (kind, counts.of(*kind) - before));
            let requests: Vec<_> = requests.filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{n} {kind:?}")).collect();
            println!(
                "{name:<24} {seconds:6.2} s  {}  {}",
                requests.join(", "),
                if status.is_ok_and(|s| s.success()) { "" } else { "FAILED" }
            );
        }
    })
}

fn mounted(backing: &Arc<MemoryBacking>, point: &Path, work: impl FnOnce(&RequestCounts) + Send) -> Result<()> {
    let mut options = MountOptions { threads: flag("--threads", 2)? as usize, ..MountOptions::default() };
    options.xattrs = flag("--xattrs", 1)? > 0;
    options.read_ahead_kib = flag("--read-ahead", options.read_ahead_kib.into())? as u32;
    let (counts, stop) = (Arc::clone(&options.counts), AtomicBool::new(false));
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (counts, stop) = (&*counts, &stop);
        scope.spawn(move || {
            if receive.recv().is_ok() {
                work(counts);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let ready = || send.send(()).map_err(|_| Error::new(ErrorKind::Interrupted, "nobody listens"));
        run(Arc::clone(backing), point, &options, &ready, stop)
    })
}

fn build(backing: &MemoryBacking, files: u64, dirs: u64, big: u64) -> Result<()> {
    let mut tree = TreeBuilder::new();
    tree.dir("src");
    let text: Vec<u8> = (0..65_536_u32).map(|n| b' ' + (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    for dir in 0..dirs {
        let top = format!("src/{:02}", dir % 40);
        if dir < 40 {
            tree.dir(&top);
        }
        let path = format!("{top}/directory-{dir:05}");
        tree.dir(&path);
        for file in 0..files / dirs {
            let len = 200 + (dir * 7_919 + file * 104_729) % 32_000;
            let content = text.get(file as usize..(file + len) as usize).unwrap_or_default();
            tree.file(backing, &format!("{path}/some-file-{file:03}.c"), content);
        }
    }
    let ids: Vec<_> = (0..256_u32).map(|n| backing.put_chunk(&n.to_le_bytes().repeat(16_384))).collect();
    let extents: Vec<_> = (0..big / 65_536).map(|n| (n * 65_536, ids[n as usize % 256], 0, 65_536)).collect();
    tree.extents("big", big / 65_536 * 65_536, &extents);
    tree.publish(backing, &point(1, 0, "host", "source", &[]))
}

fn flag(name: &str, default: u64) -> Result<u64> {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    let Some(value) = args.next() else { return Ok(default) };
    value.parse().map_err(|_| Error::new(ErrorKind::Usage, format!("{name} takes a number")))
}

fn tempdir(name: &str) -> Result<PathBuf> {
    tempdir_in(&std::env::temp_dir(), name)
}

fn tempdir_in(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).map_err(|e| Error::io(format!("making {}", path.display()), e))?;
    Ok(path)
}
