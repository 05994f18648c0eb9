//! The package stores side by side, in one run: `cargo bench --bench store [-- MEBIBYTES]`.
//!
//! Writes the same segments through a repository on files and one on RocksDB, seals, reads all back cold
//! and warm, and prints seconds, MB/s and the ratio of the two.

use relict::store::{CreateOptions, OpenOptions, Repository, Writer, create};
use repo_format::{ChunkId, SegmentKind, StoreKind};
use std::path::Path;
use std::time::Instant;

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_IN_SEGMENT: usize = 4;

/// Bytes of which about half compress away, different for every number.
fn chunk(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(CHUNK_BYTES);
    while out.len() < CHUNK_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    out
}

struct Figures {
    write_secs: f64,
    cold_secs: f64,
    warm_secs: f64,
    disk_bytes: u64,
}

fn disk_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => disk_bytes(&e.path()),
            Ok(m) => std::os::unix::fs::MetadataExt::blocks(&m) * 512,
            Err(_) => 0,
        })
        .sum()
}

fn read_all(repository: &Repository, ids: &[ChunkId]) -> relict::Result<f64> {
    let begun = Instant::now();
    let mut places = repository.locate_many(ids)?.into_iter().flatten().collect::<Vec<_>>();
    places.sort();
    places.dedup_by_key(|at| (at.package, at.offset));
    for at in &places {
        repository.read_segment(at)?;
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn run(store: StoreKind, segments: u64) -> relict::Result<Figures> {
    let dir = tempfile::tempdir().map_err(|e| relict::Error::io("making a temporary directory", e))?;
    let mut unlock = || Ok(b"bench".to_vec());
    create(dir.path(), &mut unlock, &CreateOptions { store, ..CreateOptions::default() })?;
    let writer = Writer::open(dir.path(), &mut unlock, &OpenOptions::default())?;
    let mut ids = Vec::new();
    let mut write_secs = 0.0;
    for number in 0..segments {
        let first = number * CHUNKS_IN_SEGMENT as u64;
        let parts: Vec<Vec<u8>> = (first..first + CHUNKS_IN_SEGMENT as u64).map(chunk).collect();
        let table: Vec<(ChunkId, u32)> = parts.iter().map(|p| (writer.chunk_id(p), p.len() as u32)).collect();
        let raw = parts.concat();
        let begun = Instant::now();
        writer.store_segment(SegmentKind::Data, &table, &raw)?;
        write_secs += begun.elapsed().as_secs_f64();
        ids.extend(table.into_iter().map(|(id, _)| id));
    }
    let begun = Instant::now();
    writer.finish()?;
    write_secs += begun.elapsed().as_secs_f64();
    drop(writer);
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let repository = Repository::open(dir.path(), &mut unlock, &OpenOptions::default())?;
    let cold_secs = read_all(&repository, &ids)?;
    let warm_secs = read_all(&repository, &ids)?;
    Ok(Figures { write_secs, cold_secs, warm_secs, disk_bytes: disk_bytes(dir.path()) })
}

fn main() -> relict::Result<()> {
    let mebibytes = std::env::args().find_map(|a| a.parse::<u64>().ok()).unwrap_or(1024);
    let segments = (mebibytes << 20) / (CHUNK_BYTES * CHUNKS_IN_SEGMENT) as u64;
    let files = run(StoreKind::Files, segments)?;
    let rocks = run(StoreKind::RocksDb, segments)?;
    println!("{mebibytes} MiB of content, encrypted, one thread\n");
    println!("| work | files, s | RocksDB, s | RocksDB / files |\n|---|---|---|---|");
    let row = |name: &str, a: f64, b: f64| println!("| {name} | {a:.2} | {b:.2} | {:.2} |", b / a);
    row("write and seal", files.write_secs, rocks.write_secs);
    row("read back, caches dropped", files.cold_secs, rocks.cold_secs);
    row("read back, warm", files.warm_secs, rocks.warm_secs);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    row("on disk, MB", mb(files.disk_bytes), mb(rocks.disk_bytes));
    Ok(())
}
