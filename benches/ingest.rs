//! Applying changes beside scanning: `cargo bench --bench ingest -- --source DIR`.
//!
//! The same directory goes into two new repositories: by `backup`, and as the changes that a full stream of it would be,
//! written in pieces of 48 KiB as btrfs sends them. Then a second state in which every `--every`-th file (100) has one
//! byte changed is applied to the first. No decoder is in it: what is timed is everything behind one.

use relict::Result;
use relict::ingest::change::{Change, SetAttr};
use relict::ingest::stream::{Scope, Session, StreamOptions, ingest};
use relict::ingest::{BackupOptions, ExcludeOptions, Excludes, Progress, backup};
use relict::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::{FileKind, SourceKind, Time};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

const PIECE_BYTES: usize = 48 << 10;

fn argument(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned()
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Times `work`, which returns the bytes it handled.
fn timed(what: &str, work: impl FnOnce() -> u64) {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let bytes = work();
    let (secs, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let gb = bytes as f64 / 1e9;
    println!("{what}: {secs:.2} s, {:.0} MB/s, {:.2} CPU-s/GB", gb * 1e3 / secs, cpu / gb.max(1e-9));
}

fn repository(dir: &Path) -> Writer {
    create(dir, &mut || unreachable!(), &CreateOptions { encrypt: false, ..CreateOptions::default() }).unwrap();
    Writer::open(dir, &mut || unreachable!(), &OpenOptions { cache_bytes: 32 << 20 }).unwrap()
}

fn options() -> StreamOptions {
    StreamOptions {
        host: b"bench".to_vec(),
        source: b"bench".to_vec(),
        tags: Vec::new(),
        notes: Vec::new(),
        extra: Vec::new(),
        kind: SourceKind::Btrfs,
        scope: Scope::Chain,
        time: Time::default(),
        threads: 0,
        memory_bytes: 0,
    }
}

/// All entries below `dir`, parents first.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

fn feed(session: &mut Session<'_>, root: &Path, entries: &[PathBuf]) -> Result<u64> {
    let mut bytes = 0;
    session.apply(&Change::Begin { id: b"first", parent: None, name: b"", generation: 1 })?;
    for (n, entry) in entries.iter().enumerate() {
        let meta = entry.symlink_metadata().unwrap();
        let path = entry.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let kind = FileKind::from_mode(meta.mode()).unwrap();
        session.apply(&Change::Create { path, kind, ino: Some(257 + n as u64), device: None })?;
        if kind == FileKind::Symlink {
            session.apply(&Change::SetTarget { path, target: fs::read_link(entry).unwrap().as_os_str().as_bytes() })?;
        }
        if kind == FileKind::File {
            let data = fs::read(entry).unwrap();
            for (piece, data) in data.chunks(PIECE_BYTES).enumerate() {
                session.apply(&Change::Write { path, offset: (piece * PIECE_BYTES) as u64, data })?;
            }
            bytes += data.len() as u64;
        }
        let mtime = Some(Time { sec: meta.mtime(), nsec: meta.mtime_nsec() as u32 });
        let mode = Some(meta.permissions().mode() & 0o7777);
        let set = SetAttr { mode, uid: Some(meta.uid()), gid: Some(meta.gid()), mtime, ..SetAttr::default() };
        session.apply(&Change::SetAttr { path, set })?;
    }
    session.apply(&Change::End)?;
    Ok(bytes)
}

fn change(session: &mut Session<'_>, root: &Path, entries: &[PathBuf], every: usize) -> Result<u64> {
    session.apply(&Change::Begin { id: b"second", parent: Some(b"first"), name: b"", generation: 2 })?;
    let mut changed = 0;
    for entry in entries.iter().filter(|entry| entry.symlink_metadata().unwrap().is_file()).step_by(every) {
        let path = entry.strip_prefix(root).unwrap().as_os_str().as_bytes();
        session.apply(&Change::Write { path, offset: 0, data: b"\x01" })?;
        changed += 1;
    }
    session.apply(&Change::End)?;
    Ok(changed)
}

fn main() {
    let Some(source) = argument("--source").map(PathBuf::from) else {
        println!("name a directory: cargo bench --bench ingest -- --source DIR");
        return;
    };
    let every = argument("--every").map_or(100, |every| every.parse().unwrap());
    let temp = tempfile::tempdir_in(argument("--into").unwrap_or_else(|| ".".into())).unwrap();
    let (progress, stop) = (Progress::default(), AtomicBool::new(false));
    let all = entries(&source);
    // Everything is read once, so that both find it in memory.
    let total: u64 = all.iter().filter_map(|path| fs::read(path).ok()).map(|data| data.len() as u64).sum();
    println!("{} entries, {:.2} GB", all.len(), total as f64 / 1e9);
    timed("backup", || {
        let writer = repository(&temp.path().join("backup"));
        let backup_options = BackupOptions {
            paths: vec![source.clone()],
            host: b"bench".to_vec(),
            source: b"bench".to_vec(),
            tags: Vec::new(),
            set: None,
            excludes: Excludes::new(&ExcludeOptions::default()).unwrap(),
            stand_in: None,
            one_file_system: false,
            force: false,
            parent: None,
            threads: 0,
            memory_bytes: 0,
            time: Time::default(),
        };
        backup(&writer, &backup_options, &progress, &stop).unwrap();
        total
    });
    let dir = temp.path().join("stream");
    let writer = repository(&dir);
    let options = options();
    timed("full stream", || {
        ingest(&writer, None, &options, &progress, &stop, &mut |session| feed(session, &source, &all).map(drop))
            .unwrap();
        total
    });
    let begun = Instant::now();
    let mut changed = 0;
    let mut second = |session: &mut Session<'_>| {
        changed = change(session, &source, &all, every)?;
        Ok(())
    };
    ingest(&writer, None, &options, &progress, &stop, &mut second).unwrap();
    println!("one byte in each of {changed} files: {:.2} s", begun.elapsed().as_secs_f64());
    let peak = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", peak.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
