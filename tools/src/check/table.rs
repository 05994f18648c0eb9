//! The index in memory while a check runs: 28 bytes and a bit a chunk, whatever the number of restore points.

use relict::Result;
use relict::store::{Index, Location};
use repo_format::ChunkId;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// All chunks of the index, in order of their ids.
///
/// Of an id only the first 8 bytes are kept. Ids are hashes, so a chunk that is *missing* is taken for a stored one
/// with a chance of one in 2^64 for each chunk stored: one in a trillion with 10 million chunks.
pub struct ChunkTable {
    heads: Vec<u64>,
    places: Vec<Location>,
    /// One bit a chunk: a package really holds it where the index says.
    confirmed: Vec<AtomicU64>,
}

fn head(id: &ChunkId) -> u64 {
    id.0.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl ChunkTable {
    /// Reads the whole index.
    pub fn load(index: &Index) -> Result<Self> {
        let (mut heads, mut places) = (Vec::new(), Vec::new());
        for entry in index.chunks()? {
            let (id, at) = entry?;
            heads.push(head(&id));
            places.push(at);
        }
        let words = heads.len().div_ceil(64);
        Ok(Self { heads, places, confirmed: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// The places of all chunks, in order of their ids.
    pub fn places(&self) -> &[Location] {
        &self.places
    }

    /// The entries that may be this chunk's: one, or none; more only when 8 bytes of hash collide.
    pub fn find(&self, id: &ChunkId) -> Range<usize> {
        let head = head(id);
        let around = self.around(head);
        let start = around.start + self.heads.get(around).map_or(0, |part| part.partition_point(|h| *h < head));
        let same = self.heads.get(start..).map_or(0, |rest| rest.iter().take_while(|h| **h == head).count());
        start..start + same
    }

    /// Hashes are spread evenly, so an id's place is known to within a few square roots of the number of chunks.
    fn around(&self, head: u64) -> Range<usize> {
        let n = self.heads.len();
        let guess = ((u128::from(head) * n as u128) >> 64) as usize;
        let slack = 4 * n.isqrt() + 16;
        let (from, to) = (guess.saturating_sub(slack), (guess + slack).min(n));
        let below = from == 0 || self.heads.get(from - 1).is_some_and(|h| *h < head);
        let above = to == n || self.heads.get(to).is_some_and(|h| *h >= head);
        if below && above { from..to } else { 0..n }
    }

    /// The chunk's place, None when it is not in the index.
    pub fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.places.get(self.find(id)).and_then(|found| found.first()).copied()
    }

    /// Notes that a package holds a chunk at `here`. False when the index names another place, None when it has no entry.
    pub fn confirm(&self, id: &ChunkId, here: &Location) -> Option<bool> {
        let found = self.find(id);
        if found.is_empty() {
            return None;
        }
        let same = found.clone().find(|i| self.places.get(*i) == Some(here));
        if let Some(word) = same.and_then(|i| self.confirmed.get(i / 64)) {
            word.fetch_or(1 << (same.unwrap_or(0) % 64), Ordering::Relaxed);
        }
        Some(same.is_some())
    }

    /// Whether this entry of the index was confirmed.
    pub fn is_confirmed(&self, id: &ChunkId, at: &Location) -> bool {
        let bit = |i: usize| self.confirmed.get(i / 64).is_some_and(|w| w.load(Ordering::Relaxed) >> (i % 64) & 1 == 1);
        self.find(id).any(|i| self.places.get(i) == Some(at) && bit(i))
    }

    /// How many entries were confirmed.
    pub fn confirmed(&self) -> usize {
        self.confirmed.iter().map(|w| w.load(Ordering::Relaxed).count_ones() as usize).sum()
    }
}
