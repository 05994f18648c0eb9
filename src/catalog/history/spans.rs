//! From which point of a chain to which a path was what.

use super::paths::{ROOT, child, dirent, entry_keys, find, name_of, names};
use super::{Chain, Memo};
use crate::Result;
use crate::catalog::tree::{ReadNodes, diff_range};
use repo_format::{Dirent, FileKind};
use std::collections::BTreeMap;

/// Points `first` to `last` of a chain, in all of which a path is this entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index of the first point.
    pub first: usize,
    /// Index of the last point.
    pub last: usize,
    /// What the path is there.
    pub entry: Dirent,
}

/// The root directory: there in every point.
#[must_use]
pub fn root_span(chain: &Chain) -> Vec<Span> {
    chain.len().checked_sub(1).map(|last| Span { first: 0, last, entry: ROOT }).into_iter().collect()
}

/// What `path` was, oldest first; empty when it never was.
///
/// # Errors
/// When a tree cannot be read there.
pub fn path_spans(nodes: &dyn ReadNodes, chain: &Chain, path: &[u8]) -> Result<Vec<Span>> {
    let (memo, mut out) = (Memo::new(nodes), Vec::new());
    for (index, point) in chain.iter().enumerate() {
        memo.next_point();
        push(&mut out, index, find(&memo, &point.root, path)?);
    }
    Ok(out)
}

/// What `name` was in a directory that was `parent`.
///
/// # Errors
/// When a tree cannot be read there.
pub fn child_spans(nodes: &dyn ReadNodes, chain: &Chain, parent: &[Span], name: &[u8]) -> Result<Vec<Span>> {
    let (memo, mut out) = (Memo::new(nodes), Vec::new());
    for span in parent.iter().filter(|span| span.entry.kind == FileKind::Dir) {
        for (index, point) in chain.iter().enumerate().take(span.last + 1).skip(span.first) {
            memo.next_point();
            push(&mut out, index, child(&memo, &point.root, span.entry.ino, name)?);
        }
    }
    Ok(out)
}

fn push(spans: &mut Vec<Span>, index: usize, entry: Option<Dirent>) {
    let Some(entry) = entry else { return };
    match spans.last_mut() {
        Some(last) if last.entry == entry && last.last + 1 == index => last.last = index,
        _ => spans.push(Span { first: index, last: index, entry }),
    }
}

/// Every name that was ever in a directory that was `spans`, with what it was last.
///
/// # Errors
/// When a tree cannot be read there.
pub fn ever_names(nodes: &dyn ReadNodes, chain: &Chain, spans: &[Span]) -> Result<BTreeMap<Box<[u8]>, Dirent>> {
    let mut out = BTreeMap::new();
    for span in spans.iter().filter(|span| span.entry.kind == FileKind::Dir) {
        let memo = Memo::new(nodes);
        let (from, to) = entry_keys(span.entry.ino);
        let points = chain.get(span.first..=span.last).unwrap_or_default();
        if let Some(first) = points.first() {
            for named in names(&memo, &first.root, span.entry.ino) {
                let (name, entry) = named?;
                out.insert(name, entry);
            }
        }
        for pair in points.windows(2) {
            let [old, new] = pair else { continue };
            memo.next_point();
            for change in diff_range(&memo, &old.root, &new.root, from.clone(), to.clone()) {
                let change = change?;
                if let Some(new) = &change.new {
                    out.insert(name_of(change.key())?.into(), dirent(new)?);
                }
            }
        }
    }
    Ok(out)
}
