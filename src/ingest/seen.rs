//! Which inodes of the old tree the scan has met: one bit each, pages only where there are some.

use std::collections::HashMap;

const PAGE_BITS: u64 = 4096;
const PAGE_WORDS: usize = (PAGE_BITS / 64) as usize;

/// A set of inode numbers. Numbers of one directory are neighbours, so most calls stay in one page.
#[derive(Default)]
pub(super) struct Seen {
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
}

impl Seen {
    /// Adds a number; false if it was there.
    pub(super) fn insert(&mut self, ino: u64) -> bool {
        let page = self.pages.entry(ino / PAGE_BITS).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let (word, bit) = place(ino);
        let Some(word) = page.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether a number is there.
    pub(super) fn contains(&self, ino: u64) -> bool {
        let (word, bit) = place(ino);
        let page = self.pages.get(&(ino / PAGE_BITS));
        page.and_then(|page| page.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, ino: u64) {
        let (word, bit) = place(ino);
        if let Some(word) = self.pages.get_mut(&(ino / PAGE_BITS)).and_then(|page| page.get_mut(word)) {
            *word &= !bit;
        }
    }
}

const fn place(ino: u64) -> (usize, u64) {
    ((ino % PAGE_BITS / 64) as usize, 1 << (ino % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_and_go() {
        let mut seen = Seen::default();
        let numbers = [1, 63, 64, 4095, 4096, 1 << 39];
        for ino in numbers {
            assert!(!seen.contains(ino));
            assert!(seen.insert(ino));
            assert!(!seen.insert(ino));
            assert!(seen.contains(ino));
        }
        numbers.into_iter().for_each(|ino| seen.remove(ino));
        assert!(numbers.iter().all(|ino| !seen.contains(*ino)));
    }
}
