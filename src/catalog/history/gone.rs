//! What was there once and is not in the newest point: each with the last point that has it.
//!
//! A path is gone when some older point has it and the newest has nothing there. Directories of the newest point
//! are shown only if something below them is gone. To know which, [`GoneIndex`] walks the tree diffs of the chain
//! once: it notes directories that lost a name, and directories that stand where another one stood before
//! (all below those is looked at, as the earlier one's names may be missing there).

use super::closure::with_parents;
use super::paths::{child, dirent, entry_keys, name_of, names};
use super::{Chain, MOST_LEVELS, Memo, Span, child_spans};
use crate::catalog::tree::{Change, ReadNodes, diff, diff_range};
use crate::{Error, Result};
use repo_format::{Dirent, FileKind, Key, KeyKind};
use std::collections::{BTreeMap, HashSet};

/// Which directories of the newest point may have something gone below them.
#[derive(Debug, Default)]
pub struct GoneIndex {
    way: HashSet<u64>,
    again: HashSet<u64>,
}

/// An entry of a directory of gone things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneRow {
    /// The name.
    pub name: Box<[u8]>,
    /// What it is.
    pub gone: Gone,
}

/// What a name in a directory of gone things is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It is gone: the index of the last point that has it, and what it is there.
    Last(usize, Dirent),
    /// It is there, and something below it is gone.
    Below,
}

/// Directories that were looked at, as hashes of their spans: a damaged tree can lead to one of them on many ways.
type Seen = HashSet<u64>;

/// How a directory is looked through.
#[derive(Clone, Copy)]
struct Search {
    /// All directories below, whatever the index says.
    all: bool,
    /// Rows that are enough.
    most: usize,
    /// Levels of directories still looked at.
    levels: usize,
}

impl GoneIndex {
    /// Walks the changes of a chain.
    ///
    /// # Errors
    /// When a tree cannot be read.
    pub fn new(nodes: &dyn ReadNodes, chain: &Chain) -> Result<Self> {
        let Some(newest) = chain.last() else { return Ok(Self::default()) };
        let (mut lost, mut index, mut removed) = (HashSet::new(), Self::default(), HashSet::new());
        for pair in chain.windows(2) {
            let [old, new] = pair else { continue };
            for change in diff(nodes, &old.root, nodes, &new.root) {
                index.note(&change?, &mut lost, &mut removed)?;
            }
        }
        lost.extend(&index.again);
        if !lost.is_empty() {
            index.way = with_parents(nodes, &newest.root, &lost)?;
        }
        Ok(index)
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        (self.way.len() + self.again.len()) as u64 * 16 + 64
    }

    /// `removed` holds hashes of directory names that went away: one that comes again is another directory.
    fn note(&mut self, change: &Change, lost: &mut HashSet<u64>, removed: &mut HashSet<u64>) -> Result<()> {
        if change.key().get(8) != Some(&(KeyKind::Dirent as u8)) {
            return Ok(());
        }
        let Key::Dirent(parent, _) = Key::decode(change.key()).map_err(Error::from)? else { return Ok(()) };
        let old = change.old.as_ref().map(dirent).transpose()?;
        let new = change.new.as_ref().map(dirent).transpose()?;
        let of = |entry: Option<Dirent>| entry.filter(|entry| entry.kind == FileKind::Dir).map(|entry| entry.ino);
        let key = short_hash(change.key());
        match (old, new) {
            (Some(old), Some(new)) if old.ino == new.ino && old.kind == new.kind => {}
            (Some(old), new) => {
                lost.insert(parent);
                if old.kind == FileKind::Dir {
                    removed.insert(key);
                    self.again.extend(of(new));
                } else if removed.contains(&key) {
                    self.again.extend(of(new));
                }
            }
            (None, new) => self.again.extend(of(new).filter(|_| removed.contains(&key))),
        }
        Ok(())
    }

    /// What is gone in a directory that was `spans`, in order of names. `all`: everything below is looked at, as
    /// [`GoneIndex::all_below`] says of the directories on the way.
    ///
    /// # Errors
    /// When a tree cannot be read there.
    pub fn rows(&self, nodes: &dyn ReadNodes, chain: &Chain, spans: &[Span], all: bool) -> Result<Vec<GoneRow>> {
        self.collect(nodes, chain, spans, Search { all, most: usize::MAX, levels: MOST_LEVELS }, &mut Seen::new())
    }

    /// Whether everything below the newest of `spans` has to be looked at, if `all` says so of its parent.
    #[must_use]
    pub fn all_below(&self, chain: &Chain, spans: &[Span], all: bool) -> bool {
        all || newest_dir(chain, spans).is_some_and(|ino| self.again.contains(&ino))
    }

    fn collect(
        &self,
        nodes: &dyn ReadNodes,
        chain: &Chain,
        spans: &[Span],
        search: Search,
        seen: &mut Seen,
    ) -> Result<Vec<GoneRow>> {
        let Some(newest) = chain.last() else { return Ok(Vec::new()) };
        if !seen.insert(hash_of(spans, search.all)) {
            return Ok(Vec::new());
        }
        let here = newest_dir(chain, spans);
        let mut rows: BTreeMap<Box<[u8]>, Gone> = BTreeMap::new();
        for (name, (last, entry, was_dir)) in lost_names(nodes, chain, spans)? {
            let now = here.map(|dir| child(nodes, &newest.root, dir, &name)).transpose()?.flatten();
            let gone = match now {
                None => Gone::Last(last, entry),
                Some(now) if now.kind != FileKind::Dir && was_dir => Gone::Below,
                Some(_) => continue,
            };
            if gone == Gone::Below
                && !self.any_below(nodes, chain, spans, &name, Search { all: true, ..search }, seen)?
            {
                continue;
            }
            rows.insert(name, gone);
            if rows.len() >= search.most {
                break;
            }
        }
        for named in here.into_iter().flat_map(|dir| names(nodes, &newest.root, dir)) {
            if rows.len() >= search.most {
                break;
            }
            let (name, entry) = named?;
            let likely = entry.kind == FileKind::Dir && (search.all || self.way.contains(&entry.ino));
            if likely && self.any_below(nodes, chain, spans, &name, search, seen)? {
                rows.insert(name, Gone::Below);
            }
        }
        Ok(rows.into_iter().map(|(name, gone)| GoneRow { name, gone }).collect())
    }

    fn any_below(
        &self,
        nodes: &dyn ReadNodes,
        chain: &Chain,
        spans: &[Span],
        name: &[u8],
        search: Search,
        seen: &mut Seen,
    ) -> Result<bool> {
        let Some(levels) = search.levels.checked_sub(1) else { return Ok(true) };
        let below = child_spans(nodes, chain, spans, name)?;
        let all = self.all_below(chain, &below, search.all);
        Ok(!self.collect(nodes, chain, &below, Search { all, most: 1, levels }, seen)?.is_empty())
    }

    /// What `name` is among the gone things of a directory that was `spans`, where `below` is what the name
    /// was; None when nothing of it is gone.
    ///
    /// # Errors
    /// When a tree cannot be read there.
    pub fn row(&self, nodes: &dyn ReadNodes, chain: &Chain, below: &[Span], all: bool) -> Result<Option<Gone>> {
        let (Some(last), Some(end)) = (below.last(), chain.len().checked_sub(1)) else { return Ok(None) };
        if last.last < end {
            return Ok(Some(Gone::Last(last.last, last.entry)));
        }
        let was_dir = below.iter().any(|span| span.entry.kind == FileKind::Dir);
        let all = self.all_below(chain, below, all || last.entry.kind != FileKind::Dir);
        let likely = was_dir && (all || self.way.contains(&last.entry.ino));
        let search = Search { all, most: 1, levels: MOST_LEVELS };
        Ok((likely && !self.collect(nodes, chain, below, search, &mut Seen::new())?.is_empty()).then_some(Gone::Below))
    }
}

/// The directory in the newest point.
fn newest_dir(chain: &Chain, spans: &[Span]) -> Option<u64> {
    let last = spans.last().filter(|span| span.last + 1 == chain.len())?;
    (last.entry.kind == FileKind::Dir).then_some(last.entry.ino)
}

/// Names that a directory lost: the last point with each, what it was there, and whether it ever was a directory.
type LostNames = BTreeMap<Box<[u8]>, (usize, Dirent, bool)>;

fn lost_names(nodes: &dyn ReadNodes, chain: &Chain, spans: &[Span]) -> Result<LostNames> {
    let mut out = LostNames::new();
    let mut lose = |name: &[u8], last: usize, entry: Dirent| {
        let was_dir = entry.kind == FileKind::Dir;
        match out.get_mut(name) {
            Some(known) => *known = (last, entry, known.2 || was_dir),
            None => drop(out.insert(name.into(), (last, entry, was_dir))),
        }
    };
    for span in spans.iter().filter(|span| span.entry.kind == FileKind::Dir) {
        let memo = Memo::new(nodes);
        let (from, to) = entry_keys(span.entry.ino);
        let points = chain.get(span.first..=span.last).unwrap_or_default();
        for (index, pair) in points.windows(2).enumerate() {
            let [old, new] = pair else { continue };
            memo.next_point();
            for change in diff_range(&memo, &old.root, &new.root, from.clone(), to.clone()) {
                let change = change?;
                if let Some(old) = &change.old {
                    lose(name_of(change.key())?, span.first + index, dirent(old)?);
                }
            }
        }
        // The whole directory went away, or became another one.
        if let Some(end) = points.last().filter(|_| span.last + 1 < chain.len()) {
            for named in names(&memo, &end.root, span.entry.ino) {
                let (name, entry) = named?;
                lose(&name, span.last, entry);
            }
        }
    }
    Ok(out)
}

fn hash_of(spans: &[Span], all: bool) -> u64 {
    let numbers = spans.iter().flat_map(|span| [span.first as u64, span.last as u64, span.entry.ino]);
    let bytes: Vec<u8> = numbers.chain([u64::from(all)]).flat_map(u64::to_le_bytes).collect();
    short_hash(&bytes)
}

fn short_hash(key: &[u8]) -> u64 {
    blake3::hash(key).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
