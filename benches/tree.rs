//! How fast trees are built, read and edited: `cargo bench --bench tree -- --keys 10000000`.
//!
//! The build goes into a sink that hashes nodes and forgets them; look-ups and edits work on a second,
//! smaller tree in memory (`--held`, 0 for none).

use relict::catalog::tree::{self, Edit, MemoryNodes, WriteNodes};
use relict::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Key};
use std::hint::black_box;
use std::time::Instant;

fn main() -> Result<()> {
    let keys = flag("--keys", 10_000_000)?;
    let held = flag("--held", 3_000_000)?;
    build(keys)?;
    if held > 0 {
        read_and_edit(held)?;
    }
    Ok(())
}

fn build(keys: u64) -> Result<()> {
    let mut sink = HashOnly::default();
    let none = MemoryNodes::new();
    let start = Instant::now();
    let root = tree::apply(&none, None, entries(keys), &mut sink)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("build: {keys} keys in {seconds:.2} s, {:.2} M keys/s", keys as f64 / seconds / 1e6);
    println!("       {} nodes, {} bytes on average, root {root}", sink.nodes, sink.bytes / sink.nodes.max(1));
    println!("       peak memory {}", peak_memory());
    let start = Instant::now();
    let made = entries(keys).map(black_box).filter(Result::is_ok).count();
    println!("       (making the {made} entries alone: {:.2} s)", start.elapsed().as_secs_f64());
    Ok(())
}

fn read_and_edit(keys: u64) -> Result<()> {
    let store = MemoryNodes::new();
    let root = tree::apply(&store, None, entries(keys), &mut &store)?;
    println!("tree of {keys} keys in memory: {} nodes", store.len());
    look_up(&store, &root, keys)?;
    let start = Instant::now();
    let seen = tree::range(&store, &root, &[]).filter(Result::is_ok).count();
    println!("range: {:.1} M entries/s", seen as f64 / start.elapsed().as_secs_f64() / 1e6);

    let mut edited: Vec<u64> = (0..1_000).map(|n| scatter(n) % keys).collect();
    edited.sort_unstable();
    edited.dedup();
    let edits = edited.iter().map(|n| Ok((key(*n), Edit::Put(vec![7; 70]))));
    store.reset_counts();
    let start = Instant::now();
    let new = tree::apply(&store, Some(&root), edits, &mut &store)?;
    let millis = start.elapsed().as_secs_f64() * 1e3;
    println!(
        "apply: {} edits in {millis:.1} ms, {} nodes read, {} written",
        edited.len(),
        store.reads(),
        store.writes()
    );
    store.reset_counts();
    let start = Instant::now();
    let changes = tree::diff(&store, &root, &store, &new).filter(Result::is_ok).count();
    println!("diff:  {changes} changes in {:.1} ms, {} nodes read", start.elapsed().as_secs_f64() * 1e3, store.reads());
    println!("       peak memory {}", peak_memory());
    Ok(())
}

fn look_up(store: &MemoryNodes, root: &ChunkId, keys: u64) -> Result<()> {
    for (order, step) in [("random", None), ("ascending", Some(1))] {
        let probes: Vec<Vec<u8>> =
            (0..1_000_000).map(|n| key(step.map_or_else(|| scatter(n), |step| n * step) % keys)).collect();
        let start = Instant::now();
        for probe in &probes {
            if black_box(tree::get(store, root, probe)?).is_none() {
                return Err(Error::damaged("a key is missing"));
            }
        }
        println!("get:   {:.2} us each, {order} keys", start.elapsed().as_secs_f64() * 1e6 / probes.len() as f64);
    }
    Ok(())
}

/// Entries as of small files: four keys an inode (attributes, a name, two extents).
fn entries(keys: u64) -> impl Iterator<Item = Result<(Vec<u8>, Edit)>> {
    (0..keys).map(|n| {
        let bytes = [70, 9, 40, 40].get((n % 4) as usize).copied().unwrap_or(40);
        let mut value = vec![n as u8; bytes];
        value.iter_mut().zip(scatter(n).to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok((key(n), Edit::Put(value)))
    })
}

fn key(n: u64) -> Vec<u8> {
    let ino = 2 + n / 4;
    match n % 4 {
        0 => Key::Inode(ino).encode(),
        1 => Key::Dirent(ino, b"document.txt").encode(),
        part => Key::Extent(ino, (part - 2) << 16).encode(),
    }
}

fn scatter(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
}

#[derive(Default)]
struct HashOnly {
    nodes: u64,
    bytes: u64,
}

impl WriteNodes for HashOnly {
    fn write_node(&mut self, bytes: Vec<u8>) -> Result<ChunkId> {
        self.nodes += 1;
        self.bytes += bytes.len() as u64;
        Ok(ChunkId::of(None, &bytes))
    }
}

fn flag(name: &str, default: u64) -> Result<u64> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    let Some(value) = args.nth(1) else { return Ok(default) };
    value.parse().map_err(|_| Error::new(ErrorKind::Usage, format!("{name} takes a number")))
}

/// VmHWM of this process.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".into(), |line| line.trim().to_owned())
}
