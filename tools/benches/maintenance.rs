//! `relict-maint` on a repository with many chunks: `cargo bench -p relict-tools --bench maintenance -- CHUNKS [DIR [COMMAND...]]`.
//!
//! The chunks are one byte long, four in a segment and a thousand in a package as 64 KiB chunks are, and their ids are drawn, so that ten million of them
//! fit on any disk: what is measured is the work that grows with their number (index both ways, trees, packages), its time
//! and its peak memory. Three restore points of one source; in each, one file in a hundred differs from the one before.
//! With DIR the repository is made there unless it is there already, and stays; COMMAND chooses what is run (`make` runs
//! nothing). The default is a million chunks, and everything.

use relict::Result;
use relict::catalog::tree::{Edit, apply};
use relict::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, Key, PointId, PointRecord, ROOT_INO, RepoId, SegmentKind,
    SourceKind, Time,
};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHUNKS: u64 = 1_000_000;
const CHUNKS_IN_SEGMENT: u64 = 4;
const CHUNKS_IN_PACKAGE: u64 = 1024;
const EXTENTS_IN_FILE: u64 = 16;
const FILES_IN_DIR: u64 = 1000;
/// One file in so many differs between neighbouring points.
const CHANGED: u64 = 100;
const DAY: i64 = 86_400;

/// What is run, in this order: the later ones change the repository.
const COMMANDS: [(&str, &[&str]); 9] = [
    ("check", &["check"]),
    ("stats", &["stats"]),
    ("thin-plan", &["forget", "--keep-versions", "1", "--dry-run"]),
    ("forget", &["forget", "02020202", "--yes"]),
    ("prune-plan", &["prune", "--dry-run"]),
    ("compact-plan", &["compact", "--dry-run"]),
    ("prune", &["prune", "--yes"]),
    ("check-again", &["check"]),
    ("rebuild", &["rebuild"]),
];

fn id(number: u64) -> ChunkId {
    let mut out = [0; 32];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd6e8_feb8_6659_fd93;
    for part in out.chunks_exact_mut(8) {
        state = (state ^ state >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        state ^= state >> 29;
        part.copy_from_slice(&state.to_be_bytes());
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    ChunkId(out)
}

fn inode(dir: bool, nlink: u32, size: u64) -> Inode {
    let mode = if dir { 0o040_755 } else { 0o100_644 };
    let (mtime, ctime) = (Time::default(), Time::default());
    let data_bytes = if dir { 0 } else { size };
    Inode {
        mode,
        uid: 0,
        gid: 0,
        nlink,
        size,
        mtime,
        ctime,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes,
        source: None,
    }
}

/// All entries in key order: directories have the numbers from 2, files those after them.
fn entries(files: u64) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let dirs = files.div_ceil(FILES_IN_DIR);
    let first_file = 2 + dirs;
    let root = (0..=dirs).map(move |n| match n {
        0 => (Key::Inode(ROOT_INO).encode(), inode(true, 2 + dirs as u32, 0).encode()),
        n => (
            Key::Dirent(ROOT_INO, format!("{n:08}").as_bytes()).encode(),
            Dirent { ino: 1 + n, kind: FileKind::Dir }.encode(),
        ),
    });
    let in_dir = move |dir: u64| {
        let last = ((dir + 1) * FILES_IN_DIR).min(files);
        let own = (Key::Inode(2 + dir).encode(), inode(true, 2, 0).encode());
        let names = (dir * FILES_IN_DIR..last).map(move |file| {
            (
                Key::Dirent(2 + dir, format!("{file:08}").as_bytes()).encode(),
                Dirent { ino: first_file + file, kind: FileKind::File }.encode(),
            )
        });
        std::iter::once(own).chain(names)
    };
    let of_file = move |file: u64| {
        let own = (Key::Inode(first_file + file).encode(), inode(false, 1, EXTENTS_IN_FILE).encode());
        std::iter::once(own).chain(extents(first_file + file, file * EXTENTS_IN_FILE))
    };
    root.chain((0..dirs).flat_map(in_dir)).chain((0..files).flat_map(of_file))
}

fn extents(ino: u64, first_chunk: u64) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (0..EXTENTS_IN_FILE)
        .map(move |n| (Key::Extent(ino, n).encode(), Extent { skip: 0, len: 1, chunk: id(first_chunk + n) }.encode()))
}

/// Numbers of the chunks of a file that differs in a later point.
fn changed_chunk(chunks: u64, files: u64, round: u64, file: u64) -> u64 {
    chunks + ((round - 1) * files.div_ceil(CHANGED) + file / CHANGED) * EXTENTS_IN_FILE
}

fn store(writer: &Writer, ids: impl Iterator<Item = u64>) -> Result<()> {
    let mut ids = ids.map(|n| (id(n), 1)).peekable();
    while ids.peek().is_some() {
        for _ in 0..CHUNKS_IN_PACKAGE / CHUNKS_IN_SEGMENT {
            let part: Vec<(ChunkId, u32)> = ids.by_ref().take(CHUNKS_IN_SEGMENT as usize).collect();
            writer.store_segment(SegmentKind::Data, &part, &vec![7; part.len()])?;
        }
        writer.finish()?;
    }
    Ok(())
}

fn make(path: &Path, chunks: u64) -> Result<()> {
    let mut no_password = || Ok(Vec::new());
    create(path, &mut no_password, &CreateOptions { encrypt: false, ..CreateOptions::default() })?;
    let writer = Writer::open(path, &mut no_password, &OpenOptions::default())?;
    let (files, mut root) = (chunks / EXTENTS_IN_FILE, None);
    let first_file = 2 + files.div_ceil(FILES_IN_DIR);
    for round in 0..3 {
        let mut nodes = writer.node_writer();
        let repository = &**writer.repository();
        let new = if round == 0 {
            store(&writer, 0..chunks)?;
            apply(repository, None, entries(files).map(|(k, v)| Ok((k, Edit::Put(v)))), &mut nodes)?
        } else {
            let changed = move || (0..files).step_by(CHANGED as usize);
            let first = move |file| changed_chunk(chunks, files, round, file);
            store(&writer, changed().flat_map(move |file| (0..EXTENTS_IN_FILE).map(move |n| first(file) + n)))?;
            let edits = changed().flat_map(move |file| extents(first_file + file, first(file)));
            apply(repository, root.as_ref(), edits.map(|(k, v)| Ok((k, Edit::Put(v)))), &mut nodes)?
        };
        nodes.flush()?;
        root = Some(new);
        writer.seal(&record(repository.header().repo, round, new, files, first_file + files))?;
    }
    Ok(())
}

fn record(repo: RepoId, round: u64, root: ChunkId, files: u64, next_ino: u64) -> PointRecord {
    let time = Time { sec: 1_795_000_000 + round as i64 * DAY, nsec: 0 };
    PointRecord {
        repo,
        id: PointId([round as u8 + 1; 16]),
        time,
        sealed: time,
        root,
        next_ino,
        kind: SourceKind::Dir,
        host: b"bench".to_vec(),
        source: b"synthetic".to_vec(),
        parent: None,
        counts: Counts { files, ..Counts::default() },
        paths: vec![b"/".to_vec()],
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: b"bench".to_vec(),
        extra: Vec::new(),
    }
}

/// Peak resident bytes of a child, as the kernel counts them; asked until it ends.
fn watch(child: &mut Child) -> (u64, bool) {
    let mut peak_kib = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        peak_kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0).max(peak_kib);
        if let Ok(Some(status)) = child.try_wait() {
            return (peak_kib * 1024, status.success());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let chunks = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(CHUNKS);
    let chunks = chunks / EXTENTS_IN_FILE * EXTENTS_IN_FILE;
    let temporary = tempfile::tempdir().map_err(|e| relict::Error::io("making a temporary directory", e))?;
    let path = arguments.next().map_or_else(|| temporary.path().join("repo"), Into::into);
    let chosen: Vec<String> = arguments.collect();
    if !path.exists() {
        let started = Instant::now();
        make(&path, chunks)?;
        println!("made {chunks} chunks in {:.1} s", started.elapsed().as_secs_f64());
    }
    // Drawn ids do not survive --read-data; that is measured on real data (benches/peers/maintain.sh).
    for (name, args) in COMMANDS.iter().filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|c| c == name)) {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_relict-maint"));
        command.arg("-r").arg(&path).args(*args).arg("--json").stdout(Stdio::null());
        let mut child = command.spawn().map_err(|e| relict::Error::io("starting relict-maint", e))?;
        let (peak_bytes, sound) = watch(&mut child);
        let sound = if sound { "" } else { " FAILED" };
        println!(
            "{name:<14} {:>7.2} s {:>7.1} MB peak{sound}",
            started.elapsed().as_secs_f64(),
            peak_bytes as f64 / 1e6
        );
    }
    Ok(())
}
