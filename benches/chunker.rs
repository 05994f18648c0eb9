//! What every byte of a source goes through before it is hashed: `cargo bench --bench chunker`.

use relict::ingest::chunker::Chunker;
use relict::ingest::zero::is_zero;
use std::hint::black_box;
use std::time::Instant;

const BYTES: usize = 256 << 20;

fn rate(what: &str, work: impl FnOnce() -> usize) {
    let begun = Instant::now();
    let count = work();
    println!("{what}: {:.2} GB/s ({count} pieces)", BYTES as f64 / 1e9 / begun.elapsed().as_secs_f64());
}

fn main() {
    let mut state = 3_u64;
    let mut noise = Vec::with_capacity(BYTES);
    while noise.len() < BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    let chunker = Chunker::new([16 << 10, 64 << 10, 256 << 10]);
    rate("cutting noise into chunks", || {
        let (mut at, mut count) = (0, 0);
        while at < noise.len() {
            at += chunker.cut(&noise[at..]);
            count += 1;
        }
        count
    });
    let zeros = vec![0_u8; BYTES];
    rate("finding zero blocks", || black_box(&zeros).chunks(4096).filter(|block| is_zero(block)).count());
}
