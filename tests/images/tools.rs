//! Programs that disks come from, disks to give them, and a repository to put them into.

use crate::rig::{PASSWORD, Random, Rig, succeeded};
use relict::store::{OpenOptions, Repository};
use repo_format::PointRecord;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Whether all these programs are installed; says SKIPPED otherwise.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| !installed(program)).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: not installed: {missing:?} (tests/setup.sh installs them)");
    }
    missing.is_empty()
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).exists())
}

/// The corpus' folder; None, said loudly, where it is not there.
pub fn corpus(folder: &str) -> Option<PathBuf> {
    let given = std::env::var_os("RELICT_CORPUS").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus")).join(folder);
    if !dir.is_dir() {
        eprintln!("SKIPPED: there is no {}; RELICT_CORPUS says where the corpus is", dir.display());
        return None;
    }
    Some(dir)
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    succeeded(Command::new(program).args(args))
}

/// A server that ends with the test.
pub struct Server {
    child: Child,
    pub uri: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked to end, it leaves its image in order.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-CONT", &id]).stderr(Stdio::null()).status();
        let _ = Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(5) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Server {
    fn start(command: &mut Command, socket: &Path, export: &str) -> Self {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, uri: format!("nbd+unix:///{export}?socket={}", socket.display()) };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "{command:?} ended");
            assert!(begun.elapsed() < Duration::from_secs(20), "{command:?} does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// qemu-nbd with an image of a format; several clients may come.
    pub fn qemu_nbd(image: &Path, format: &str, bitmap: Option<&str>) -> Self {
        let socket = image.with_extension(format!("{format}.sock"));
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-e", "4", "-f", format, "-x", "disk", "-k"]).arg(&socket);
        command.args(bitmap.iter().flat_map(|bitmap| ["-B", bitmap])).arg(image);
        Self::start(&mut command, &socket, "disk")
    }

    /// qemu-storage-daemon with a qcow2 and some of its bitmaps.
    pub fn storage_daemon(image: &Path, bitmaps: &[&str]) -> Self {
        let socket = image.with_extension("qsd.sock");
        let bitmaps: String = bitmaps.iter().enumerate().map(|(n, bitmap)| format!(",bitmaps.{n}={bitmap}")).collect();
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &format!("driver=file,filename={},node-name=f", image.display())]);
        command.args(["--blockdev", "driver=qcow2,file=f,node-name=d"]);
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())]);
        command.args(["--export", &format!("type=nbd,id=e,node-name=d,name=vm/sda,writable=off{bitmaps}")]);
        Self::start(&mut command, &socket, "vm/sda")
    }

    /// Any other server that makes a socket.
    pub fn other(command: &mut Command, socket: &Path, export: &str) -> Self {
        Self::start(command, socket, export)
    }

    /// Ends it as a power failure does.
    pub fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn stop_answering(&self) {
        run("kill", &["-STOP", &self.child.id().to_string()]);
    }
}

/// Changes a disk as a guest does: most writes are data, some zeros.
pub fn scribble(random: &mut Random, disk: &mut [u8], writes: u64, max_bytes: u64) -> Vec<(u64, u64, bool)> {
    let mut done = Vec::new();
    for _ in 0..writes {
        let len = 512 * (1 + random.below(max_bytes / 512));
        let at = 512 * random.below((disk.len() as u64 - len) / 512);
        let range = at as usize..(at + len) as usize;
        let zero = random.below(4) == 0;
        if zero {
            disk[range].fill(0);
        } else {
            let bytes = random.bytes(len as usize);
            disk[range].copy_from_slice(&bytes);
        }
        done.push((at, len, zero));
    }
    done
}

/// The ranges as a list: ascending, joined where they overlap.
pub fn listed(mut ranges: Vec<(u64, u64, bool)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (at, len, _) in ranges {
        match out.last_mut() {
            Some(last) if at <= last.0 + last.1 => last.1 = last.1.max(at + len - last.0),
            _ => out.push((at, len)),
        }
    }
    out
}

/// Our own form of a list.
pub fn our_list(base: &str, size: usize, ranges: &[(u64, u64)]) -> String {
    let one = |(offset, length): &(u64, u64)| format!(r#"{{"offset": {offset}, "length": {length}}}"#);
    let changed: Vec<String> = ranges.iter().map(one).collect();
    format!(
        r#"{{"format": "relict-extents-1", "base": "{base}", "size": {size}, "changed": [{}]}}"#,
        changed.join(", ")
    )
}

/// Writes a disk as a file that has holes where whole blocks are zeros.
pub fn write_sparse(path: &Path, disk: &[u8]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(disk.len() as u64).unwrap();
    for (number, block) in disk.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        file.write_all_at(block, number as u64 * 4096).unwrap();
    }
}

pub fn sha256(path: &Path) -> String {
    run("sha256sum", &[path.to_str().unwrap()])[..64].to_owned()
}

/// The repository's points in the order in which they were sealed.
pub fn points(rig: &Rig) -> Vec<PointRecord> {
    let mut unlock = || Ok(PASSWORD.as_bytes().to_vec());
    let repository = Repository::open(&rig.path("repo"), &mut unlock, &OpenOptions { cache_bytes: 1 << 20 }).unwrap();
    let mut points = repository.point_records().unwrap();
    points.sort_by_key(|point| (point.sealed, point.time));
    points
}

/// The point sealed last.
pub fn last_point(rig: &Rig) -> PointRecord {
    points(rig).pop().unwrap()
}

pub fn notes(point: &PointRecord) -> String {
    let notes: Vec<_> = point.notes.iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect();
    notes.join("\n")
}

/// All states of these tests were taken at the same time, so that equal disks are equal trees.
pub const TIME: &str = "2026-11-21T10:00:00Z";

/// `relict ingest` with arguments, which must succeed; gives the point.
pub fn ingest(rig: &Rig, args: &[&str]) -> PointRecord {
    rig.relict(&[&["--quiet", "ingest"], args, &["--time", TIME]].concat());
    last_point(rig)
}

/// `relict ingest` that must fail: its exit code and what it says.
pub fn refused(rig: &Rig, args: &[&str]) -> (i32, String) {
    let before = points(rig).len();
    let Output { status, stderr, .. } = rig.command("relict", &[&["ingest"], args].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{args:?} succeeded: {said}");
    assert_eq!(points(rig).len(), before, "{args:?} sealed something: {said}");
    (status.code().unwrap(), said)
}

/// What a file of a point holds, as `relict cat` gives it.
pub fn cat(rig: &Rig, point: &PointRecord, name: &str) -> Vec<u8> {
    let out = rig.command("relict", &["cat", &format!("{}:/{name}", point.id)]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}
