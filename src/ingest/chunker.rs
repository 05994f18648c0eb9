//! Where a file's content is cut: a pure function of the content, whatever the reads that deliver it.
//!
//! The file is a row of blocks of [`BLOCK_BYTES`]. Runs of blocks that are all zero are holes; what
//! lies between them is a run of data, which `FastCDC` (v2020) cuts from the run's start. So a cut
//! depends on nothing outside its run, and a source hole and written zeros give the same result. A
//! [`Splitter`] sees the content through a sliding window and asks for more while the window ends less
//! than a largest chunk past its start: from there on `FastCDC` could not look further anyway.

use super::zero::is_zero;
use fastcdc::v2020::{Normalization, cut, select_masks};

/// Holes begin and end at multiples of this, in bytes of the file; only the file's end may cut one short.
pub const BLOCK_BYTES: usize = 4096;

/// The parameters of the repository, prepared.
#[derive(Debug, Clone, Copy)]
pub struct Chunker {
    min_bytes: usize,
    avg_bytes: usize,
    max_bytes: usize,
    masks: (u64, u64),
}

impl Chunker {
    /// From `RepoHeader::chunk_bytes`: minimum, average, maximum. `FastCDC` works on pairs of bytes, so odd
    /// numbers count as the even number below.
    #[must_use]
    pub fn new(chunk_bytes: [u32; 3]) -> Self {
        let [min_bytes, avg_bytes, max_bytes] = chunk_bytes.map(|bytes| (bytes as usize & !1).max(64));
        Self { min_bytes, avg_bytes, max_bytes, masks: select_masks(avg_bytes, Normalization::Level1) }
    }

    /// Longest chunk in bytes.
    #[must_use]
    pub const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Length of the chunk at the front of `run`, which must hold [`Chunker::max_bytes`] or reach the run's end.
    #[must_use]
    pub fn cut(&self, run: &[u8]) -> usize {
        let (small, large) = self.masks;
        let (_, len) = cut(run, self.min_bytes, self.avg_bytes, self.max_bytes, small, large, small << 1, large << 1);
        len
    }

    /// Whether [`Chunker::cut`] cuts behind the first `len` bytes of `run`, given that they are a chunk elsewhere: so no cut
    /// comes before, but for one byte before, which is not tried at the end of a run of odd length. What decides is the
    /// 64 bytes up to the one behind the cut. False also where that is not seen: too close to the shortest length, or to
    /// the end of `run`.
    #[must_use]
    pub fn cuts_after_chunk(&self, run: &[u8], len: usize) -> bool {
        if len == run.len() || len >= self.max_bytes {
            return len == run.len().min(self.max_bytes);
        }
        if len < self.min_bytes + 65 || run.len() < len + 2 {
            return false;
        }
        let (small, large) = self.masks;
        let mask = if len < self.avg_bytes { small } else { large };
        let decisive = run.get(len - 65..=len).unwrap_or_default();
        // A mask of ones lets no byte before the last two be a cut.
        cut(decisive, 0, 64, 66, u64::MAX, mask, u64::MAX, mask << 1).1 == 65
    }
}

/// What stands at the front of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many zero bytes, a hole.
    Hole(usize),
    /// A chunk of so many bytes.
    Chunk(usize),
    /// The window must grow before this can be said.
    More,
}

/// Asked for the length of a chunk, with its offset in the file and with bytes that reach the largest chunk's length or the
/// run's end: what [`Chunker::cut`] would say of them, if that is known without.
pub type KnownLen<'f> = &'f mut dyn FnMut(u64, &[u8]) -> Option<usize>;

/// Cuts one file, window by window.
#[derive(Debug, Clone)]
pub struct Splitter {
    chunker: Chunker,
    /// Offset of the window's start in the file. Outside a run it is a multiple of the block size.
    at: u64,
    /// Inside a run of data: up to here no block is zero. None outside.
    data_until: Option<u64>,
    /// The run's end, once seen.
    run_end: Option<u64>,
}

impl Splitter {
    /// A splitter at the start of a file.
    #[must_use]
    pub const fn new(chunker: Chunker) -> Self {
        Self { chunker, at: 0, data_until: None, run_end: None }
    }

    /// A splitter at `at`, a cut of a file of `size` bytes or the border of a block. A cut inside a block
    /// stands in a run, so that block is not zero.
    #[must_use]
    pub fn resume(chunker: Chunker, at: u64, size: u64) -> Self {
        let block = BLOCK_BYTES as u64;
        let data_until = (!at.is_multiple_of(block)).then(|| at.next_multiple_of(block).min(size));
        Self { chunker, at, data_until, run_end: None }
    }

    /// Offset of the next piece in the file.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Goes on at `offset`, past zeros that the caller knows of without reading them. `offset` is a
    /// multiple of [`BLOCK_BYTES`] or the file's end, and the window before was used up as a last one.
    pub const fn skip_to(&mut self, offset: u64) {
        *self = Self { chunker: self.chunker, at: offset, data_until: None, run_end: None };
    }

    /// Nothing behind `end` belongs to the run that is being cut: it cannot be read. The windows before `end` must be given
    /// with `last` from here on where they reach it.
    pub fn end_at(&mut self, end: u64) {
        self.data_until = self.data_until.map(|until| until.min(end));
        self.run_end = self.run_end.map(|run| run.min(end));
    }

    /// The piece at the front of `window`, which begins at [`Splitter::at`]. `last` says that zeros or
    /// the file's end follow the window, so that it ends at a block's border or with the file.
    /// A piece counts as taken: the next window begins behind it.
    pub fn next(&mut self, window: &[u8], last: bool) -> Piece {
        self.next_known(window, last, &mut |_, _| None)
    }

    /// The same for a caller who may know the length of a chunk.
    pub fn next_known(&mut self, window: &[u8], last: bool, known_len: KnownLen<'_>) -> Piece {
        if self.data_until.is_none() {
            let zeros = leading_zeros(window, last);
            if zeros > 0 {
                self.at += zeros as u64;
                return Piece::Hole(zeros);
            }
            if window.is_empty() || (window.len() < BLOCK_BYTES && !last) {
                return Piece::More;
            }
            self.data_until = Some(self.at);
        }
        self.next_of_run(window, last, known_len)
    }

    fn next_of_run(&mut self, window: &[u8], last: bool, known_len: KnownLen<'_>) -> Piece {
        self.look_ahead(window, last);
        if self.run_end == Some(self.at) {
            // A largest chunk ended with its run, which could not be seen then.
            (self.data_until, self.run_end) = (None, None);
            return if last && window.is_empty() { Piece::More } else { self.next_known(window, last, known_len) };
        }
        let until = self.run_end.or(self.data_until).unwrap_or(self.at);
        let known = usize::try_from(until.saturating_sub(self.at)).unwrap_or(usize::MAX).min(window.len());
        if self.run_end.is_none() && known < self.chunker.max_bytes {
            return Piece::More;
        }
        let front = window.get(..known).unwrap_or(window);
        let len = known_len(self.at, front).unwrap_or_else(|| self.chunker.cut(front));
        self.at += len as u64;
        if self.run_end == Some(self.at) {
            (self.data_until, self.run_end) = (None, None);
        }
        Piece::Chunk(len)
    }

    /// Moves `data_until` on, over whole blocks that are not zero, until the next cut is decided.
    fn look_ahead(&mut self, window: &[u8], last: bool) {
        let Some(mut until) = self.data_until else { return };
        let enough = self.at + self.chunker.max_bytes as u64;
        while self.run_end.is_none() && until < enough {
            let start = usize::try_from(until - self.at).unwrap_or(usize::MAX);
            let rest = window.get(start..).unwrap_or_default();
            let block = rest.get(..BLOCK_BYTES).unwrap_or(rest);
            if block.is_empty() && last {
                self.run_end = Some(until);
            } else if block.len() < BLOCK_BYTES && !last {
                break;
            } else if is_zero(block) {
                self.run_end = Some(until);
            } else {
                until += block.len() as u64;
            }
        }
        self.data_until = Some(until);
    }
}

/// Bytes of zero blocks at the front; a partial block counts only if it is the last.
fn leading_zeros(window: &[u8], last: bool) -> usize {
    let whole = |block: &&[u8]| (block.len() == BLOCK_BYTES || last) && is_zero(block);
    window.chunks(BLOCK_BYTES).take_while(whole).map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: [u32; 3] = [1024, 4096, 16384];

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// The definition: runs by blocks of the whole file, each cut in one slice.
    fn naive(chunker: &Chunker, file: &[u8]) -> Vec<(u64, usize)> {
        let blocks: Vec<bool> = file.chunks(BLOCK_BYTES).map(|b| b.iter().all(|b| *b == 0)).collect();
        let mut out = Vec::new();
        let mut block = 0;
        while block < blocks.len() {
            let end = (block..blocks.len()).find(|b| blocks[*b]).unwrap_or(blocks.len());
            let mut at = block * BLOCK_BYTES;
            let stop = (end * BLOCK_BYTES).min(file.len());
            while at < stop {
                let len = chunker.cut(&file[at..stop]);
                out.push((at as u64, len));
                at += len;
            }
            block = end + 1;
        }
        out
    }

    /// Through a window that grows by the given reads; now and then known zeros are skipped.
    fn windowed(chunker: Chunker, file: &[u8], reads: &[usize], skip: bool) -> Vec<(u64, usize)> {
        let mut splitter = Splitter::new(chunker);
        let (mut have, mut reads) = (0, reads.iter().cycle());
        let mut out = Vec::new();
        loop {
            let at = splitter.at() as usize;
            let mut end = file.len();
            if skip {
                let zeros = file.chunks(BLOCK_BYTES).map(is_zero).collect::<Vec<_>>();
                let first = at.div_ceil(BLOCK_BYTES);
                end = (first..zeros.len()).find(|b| zeros[*b]).map_or(end, |b| b * BLOCK_BYTES);
                if at == end && at < file.len() {
                    let next = (first..zeros.len()).find(|b| !zeros[*b]).map_or(file.len(), |b| b * BLOCK_BYTES);
                    splitter.skip_to(next as u64);
                    have = next;
                    continue;
                }
            }
            have = have.max(at).min(end);
            match splitter.next(&file[at..have], have == end) {
                Piece::Hole(_) => {}
                Piece::Chunk(len) => out.push((at as u64, len)),
                Piece::More if have == file.len() => break,
                Piece::More => {
                    assert!(have < end, "more asked for past the end");
                    have = (have + reads.next().unwrap()).min(end);
                }
            }
        }
        out
    }

    fn files() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            (any::<u64>(), 1..60_000_usize).prop_map(|(seed, len)| noise(seed, len)),
            (1..30_000_usize).prop_map(|len| vec![0; len]),
            (0..4_usize).prop_map(|blocks| vec![0; blocks * BLOCK_BYTES]),
            (any::<u8>(), 1..40_000_usize).prop_map(|(byte, len)| vec![byte; len]),
        ];
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_reads(file in files(), reads in prop::collection::vec(1..50_000_usize, 1..8), skip: bool) {
            let chunker = Chunker::new(SMALL);
            let cuts = windowed(chunker, &file, &reads, skip);
            prop_assert_eq!(&cuts, &naive(&chunker, &file));
            // Chunks and holes make up the file: outside the chunks there are zeros only.
            let mut at = 0;
            for (offset, len) in cuts.iter().copied().chain([(file.len() as u64, 0)]) {
                prop_assert!(is_zero(&file[at..offset as usize]));
                prop_assert!(len <= chunker.max_bytes());
                at = offset as usize + len;
            }
        }
    }

    #[test]
    fn a_run_of_noise_is_cut_as_the_crate_cuts_it() {
        let file = noise(7, 900_000);
        let chunker = Chunker::new([16 << 10, 64 << 10, 256 << 10]);
        let crate_cuts = fastcdc::v2020::FastCDC::new(&file, 16 << 10, 64 << 10, 256 << 10);
        let expected: Vec<_> = crate_cuts.map(|c| (c.offset as u64, c.length)).collect();
        assert_eq!(windowed(chunker, &file, &[1000], false), expected);
    }

    #[test]
    fn a_run_of_exactly_a_largest_chunk_ends_there() {
        let chunker = Chunker::new(SMALL);
        let mut file = vec![1; 16384];
        assert_eq!(windowed(chunker, &file, &[1], false), [(0, 16384)]);
        file.resize(30_000, 0);
        file.push(1);
        assert_eq!(windowed(chunker, &file, &[1], false), [(0, 16384), (28672, 1329)]);
    }

    #[test]
    fn a_file_of_zeros_has_no_chunks() {
        let chunker = Chunker::new(SMALL);
        for len in [0, 1, 4095, 4096, 4097, 100_000] {
            assert_eq!(windowed(chunker, &vec![0; len], &[3000], false), []);
        }
    }

    /// A chunk that stands again before other bytes than before.
    #[test]
    fn a_cut_is_known_again_by_the_bytes_around_it() {
        let chunker = Chunker::new(SMALL);
        let near = SMALL[0] as usize + 65;
        let (mut others, mut odd) = (0, 0);
        for seed in 1..400 {
            let mut run = noise(seed, 40_000);
            let len = chunker.cut(&run);
            assert!(chunker.cuts_after_chunk(&run, len) || len < near);
            // Of one byte more or none, and of the run's end there.
            assert!(chunker.cuts_after_chunk(&run[..len], len) && chunker.cut(&run[..len]) == len);
            for end in [len + 1, len + 2, len + 3] {
                let is = chunker.cut(&run[..end]) == len;
                assert!(is || !chunker.cuts_after_chunk(&run[..end], len), "seed {seed}");
            }
            run[len] ^= seed as u8;
            let is = chunker.cut(&run) == len;
            others += usize::from(!is);
            assert_eq!(chunker.cuts_after_chunk(&run, len), is, "seed {seed}");
            // A run of odd length that ends where a cut could be one byte before is a chunk; with more behind it, it is none.
            run[len] ^= seed as u8;
            if len.is_multiple_of(2) && len > near && chunker.cut(&run[..=len]) == len + 1 {
                for byte in 0..=255 {
                    run[len + 1] = byte;
                    assert!(chunker.cut(&run) == len && !chunker.cuts_after_chunk(&run, len + 1), "seed {seed}");
                }
                odd += 1;
            }
        }
        assert!(others > 300 && odd > 100, "{others} {odd}");
    }
}
