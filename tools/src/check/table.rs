//! The index in memory while a check runs: 29 bytes a chunk, whatever the number of restore points.

use relict::Result;
use relict::store::{Index, Location};
use repo_format::ChunkId;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// All chunks of the index, in order of their ids.
///
/// Of an id only the first 8 bytes are kept. Ids are hashes, so a chunk that is *missing* is taken for a stored one
/// with a chance of one in 2^64 for each chunk stored: one in a trillion with 10 million chunks.
pub struct ChunkTable {
    heads: Vec<u64>,
    /// Where the heads begin that have these first bits. Hashes are spread evenly: a bucket is a cache line or two.
    starts: Vec<u32>,
    shift: u32,
    places: Vec<Location>,
    /// One bit a chunk: a package really holds it where the index says.
    confirmed: Vec<AtomicU64>,
}

/// Entries of a bucket, about.
const IN_BUCKET: usize = 8;

/// The first entry of each bucket.
fn starts(heads: &[u64], shift: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(1 << (64 - shift));
    for (at, head) in heads.iter().enumerate() {
        while out.len() <= (*head >> shift) as usize {
            out.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
    }
    out
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
        let shift = 64 - (heads.len() / IN_BUCKET + 2).ilog2();
        let starts = starts(&heads, shift);
        Ok(Self { heads, starts, shift, places, confirmed: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// A table of these, ascending.
    #[cfg(test)]
    pub(super) fn made_of(chunks: impl Iterator<Item = (ChunkId, Location)>) -> Self {
        let (heads, places): (Vec<u64>, Vec<Location>) = chunks.map(|(id, at)| (head(&id), at)).unzip();
        let shift = 64 - (heads.len() / IN_BUCKET + 2).ilog2();
        let confirmed = (0..heads.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { starts: starts(&heads, shift), shift, heads, places, confirmed }
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// The places of all chunks, in order of their ids.
    pub fn places(&self) -> &[Location] {
        &self.places
    }

    /// How many chunks each package has.
    pub fn in_packages(&self) -> HashMap<u32, u64> {
        let mut out = HashMap::new();
        self.places.iter().for_each(|at| *out.entry(at.package).or_default() += 1);
        out
    }

    /// The numbers of all chunks in physical order: those of a segment stand together. Four bytes a chunk.
    pub fn by_place(&self) -> Vec<u32> {
        let mut out: Vec<u32> = (0..u32::try_from(self.places.len()).unwrap_or(u32::MAX)).collect();
        let place = |n: &u32| self.places.get(*n as usize).map(|at| (at.package, at.offset));
        out.sort_unstable_by_key(place);
        out
    }

    /// The entries that may be this chunk's: one, or none; more only when 8 bytes of hash collide.
    pub fn find(&self, id: &ChunkId) -> Range<usize> {
        let head = head(id);
        let bucket = (head >> self.shift) as usize;
        let start = |bucket: usize| self.starts.get(bucket).map_or(self.heads.len(), |at| *at as usize);
        let (from, to) = (start(bucket), start(bucket + 1));
        let start = from + self.heads.get(from..to).map_or(0, |part| part.partition_point(|h| *h < head));
        let same = self.heads.get(start..).map_or(0, |rest| rest.iter().take_while(|h| **h == head).count());
        start..start + same
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(heads: Vec<u64>) -> ChunkTable {
        let at = |n: usize| Location { package: n as u32, offset: 0, segment_bytes: 0, skip: 0, len: 0 };
        ChunkTable::made_of(heads.into_iter().enumerate().map(|(n, head)| (id(head), at(n))))
    }

    fn id(head: u64) -> ChunkId {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&head.to_be_bytes());
        ChunkId(out)
    }

    #[test]
    fn every_head_is_found_and_no_other() {
        for count in [0_u64, 1, 2, 15, 16, 17, 1000, 5000] {
            let even: Vec<u64> = (0..count).map(|n| n.wrapping_mul(u64::MAX / count.max(1))).collect();
            let crowded: Vec<u64> = (0..count).map(|n| u64::MAX / 2 + n / 3).collect();
            for heads in [even, crowded] {
                let table = table(heads.clone());
                for head in
                    heads.iter().flat_map(|h| [*h, h.wrapping_add(1), h.wrapping_sub(1), !*h]).chain([0, u64::MAX])
                {
                    let want: Vec<usize> = (0..heads.len()).filter(|i| heads[*i] == head).collect();
                    assert_eq!(table.find(&id(head)).collect::<Vec<_>>(), want, "{head} of {count}");
                }
            }
        }
    }
}
