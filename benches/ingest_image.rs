//! Disk images through relict and the tools it answers to, in one run: `cargo bench --bench ingest_image [-- IMAGE]`.
//!
//! Every tool reads the same image into a new, encrypted repository: seconds, MB/s of the image, CPU seconds
//! (user and system) for each GB of it. Then 100 MB that changed in a disk of a tebibyte, by a list. Without IMAGE a disk
//! of 2 GiB is made, half of it data of which half compresses away. restic, borg and qemu-nbd take part where
//! they are installed. `TMPDIR` says where the repositories are.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RELICT: &str = env!("CARGO_BIN_EXE_relict");
const MIB: u64 = 1 << 20;

/// Bytes of which about half compress away, different for every number.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn made_image(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = std::fs::File::create(&path).expect("a disk");
    file.set_len(2048 * MIB).expect("its size");
    for piece in 0..128 {
        file.write_all_at(&bytes(piece, 8 << 20), piece * 16 * MIB).expect("its content");
    }
    path
}

/// CPU seconds of all children that have ended, from /proc/self/stat in ticks of 10 ms.
fn children_cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn quiet(command: &mut Command) -> &mut Command {
    let passwords = ["RELICT_PASSWORD", "RESTIC_PASSWORD", "BORG_PASSPHRASE"];
    command.envs(passwords.map(|name| (name, "bench"))).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn must(command: &mut Command) {
    let status = quiet(command).status().expect("a program that is installed");
    assert!(status.success(), "{command:?}: {status}");
}

/// Wall and CPU seconds of a command.
fn timed(command: &mut Command) -> (f64, f64) {
    let (cpu, begun) = (children_cpu_secs(), Instant::now());
    must(command);
    (begun.elapsed().as_secs_f64(), children_cpu_secs() - cpu)
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn init(repository: &Path) {
    must(Command::new(RELICT).args(["-q", "init", "-r"]).arg(repository));
}

fn relict(repository: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(RELICT);
    command.args(["-q", "-r"]).arg(repository).args(args);
    command
}

fn serve(image: &Path, socket: &Path) -> Child {
    let mut command = Command::new("qemu-nbd");
    let child =
        command.args(["-r", "-t", "-f", "raw", "-x", "disk", "-k"]).arg(socket).arg(image).spawn().expect("qemu-nbd");
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn row(name: &str, image_bytes: f64, (wall, cpu): (f64, f64)) {
    println!("| {name} | {wall:.2} | {:.0} | {:.2} |", image_bytes / 1e6 / wall, cpu / (image_bytes / 1e9));
}

fn whole(dir: &Path, image: &Path) {
    let size = std::fs::metadata(image).expect("the image").len() as f64;
    let path = image.to_str().expect("a path that is text");
    println!("{:.2} GB image, each tool into a new repository\n", size / 1e9);
    println!("| tool | s | MB/s | CPU s a GB |\n|---|---|---|---|");
    let repository = |name: &str| {
        let path = dir.join(name);
        let _ = std::fs::remove_dir_all(&path);
        path
    };
    // Everybody finds the same in the page cache.
    must(Command::new("cat").arg(image));
    let cases: [(&str, Vec<&str>); 2] = [
        ("relict backup", vec!["backup", path]),
        ("relict ingest image", vec!["ingest", "image", path, "--source", "vm/sda"]),
    ];
    for (name, args) in cases {
        let at = repository("relict");
        init(&at);
        row(name, size, timed(&mut relict(&at, &args)));
        row(
            &format!("{name}, again"),
            size,
            timed(relict(&at, &args).args(if args[0] == "backup" { &["--force"][..] } else { &[] })),
        );
    }
    if installed("qemu-nbd") {
        let (at, socket) = (repository("relict"), dir.join("socket"));
        init(&at);
        let mut server = serve(image, &socket);
        let uri = format!("nbd+unix:///disk?socket={}", socket.display());
        row(
            "relict ingest image --nbd",
            size,
            timed(&mut relict(&at, &["ingest", "image", "--nbd", &uri, "--source", "vm/sda"])),
        );
        let _ = server.kill();
        let _ = server.wait();
    }
    let _ = repository("relict");
    if installed("restic") {
        let at = repository("restic");
        must(Command::new("restic").args(["-q", "init", "-r"]).arg(&at));
        row("restic", size, timed(Command::new("restic").args(["-q", "-r"]).arg(&at).arg("backup").arg(image)));
        let _ = repository("restic");
    }
    if installed("borg") {
        let at = repository("borg");
        must(Command::new("borg").args(["init", "-e", "repokey-blake2"]).arg(&at));
        row(
            "borg",
            size,
            timed(Command::new("borg").args(["create", "-C", "zstd,3"]).arg(format!("{}::a", at.display())).arg(image)),
        );
        let _ = repository("borg");
    }
}

fn changed(dir: &Path) {
    let (repository, image, list) = (dir.join("large"), dir.join("large.raw"), dir.join("list.json"));
    init(&repository);
    let file = std::fs::File::create(&image).expect("a disk");
    file.set_len(1 << 40).expect("its size");
    for piece in 0..100_u64 {
        file.write_all_at(&bytes(piece, 1 << 20), piece * 10_000 * MIB).expect("its content");
    }
    let path = image.to_str().expect("a path that is text");
    must(&mut relict(&repository, &["ingest", "image", path, "--source", "vm/sda", "--state", "s0"]));
    let ranges: Vec<(u64, u64)> = (0..100_u64).map(|n| (n * 10_000 * MIB + 500_000 / 4096 * 4096, 1_000_000)).collect();
    for (n, (offset, len)) in ranges.iter().enumerate() {
        file.write_all_at(&bytes(1000 + n as u64, *len as usize), *offset).expect("what changed");
    }
    let one = |(offset, length): &(u64, u64)| format!(r#"{{"offset": {offset}, "length": {length}}}"#);
    let text: Vec<String> = ranges.iter().map(one).collect();
    let text = format!(
        r#"{{"format": "relict-extents-1", "base": "s0", "size": {}, "changed": [{}]}}"#,
        1_u64 << 40,
        text.join(",")
    );
    std::fs::write(&list, text).expect("the list");
    let args =
        ["ingest", "image", path, "--source", "vm/sda", "--extents", list.to_str().expect("a path that is text")];
    let (wall, cpu) = timed(&mut relict(&repository, &args));
    println!("\n100 MB changed in a disk of 1 TiB, by a list: {wall:.2} s, {cpu:.2} CPU s");
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let image = given.unwrap_or_else(|| made_image(dir.path()));
    whole(dir.path(), &image);
    changed(dir.path());
}
