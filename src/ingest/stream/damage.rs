//! Content of earlier states that cannot be read where it is cut anew, beside a change (SPEC.md section 14).
//!
//! It never stops a stream: a damaged extent is taken over as it is, so that `check` still names it and it heals when
//! its chunk comes back; or it is read again, where the state itself is at hand. Which files that concerned is
//! said when the state is complete, as it is then: later changes may have put new content over it.

use super::apply::Apply;
use super::content::{Layout, LayoutRows};
use super::rows::Rows;
use crate::Result;
use crate::catalog::points::printable;
use crate::ingest::report::{Finding, Severity};
use repo_format::{ChunkId, Extent};
use std::collections::BTreeMap;
use std::ops::Range;

/// Places that are remembered, of all files; later ones are only counted.
const MAX_PLACES: usize = 10_000;
/// Files that notes of the restore point name; the findings name all.
const MAX_NAMED: usize = 20;
const MORE_LOST: &str = "more places were damaged in the repository already; 'relict-maint check' names the files";
const MORE_MENDED: &str = "more places were damaged in the repository and were read again from the source";

/// An extent that could not be read: where in the file, and what of its chunk was needed or taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) at: u64,
    pub(super) row: Extent,
    /// The source gave the content.
    pub(super) is_reread: bool,
}

impl Damage {
    /// Where it is in the file.
    fn range(&self) -> Range<u64> {
        self.at..self.at.saturating_add(u64::from(self.row.len))
    }
}

/// What of a state's content could not be read, by inode and offset.
#[derive(Debug, Default)]
pub(super) struct DamageLog {
    files: BTreeMap<u64, BTreeMap<u64, Damage>>,
    places: usize,
    /// Whether there were places beyond [`MAX_PLACES`]: that the source gave again, and that it did not.
    more_mended: bool,
    more_lost: bool,
}

impl DamageLog {
    pub(super) fn add(&mut self, ino: u64, damage: Damage) {
        let is_known = self.files.get(&ino).is_some_and(|places| places.contains_key(&damage.at));
        if self.places >= MAX_PLACES && !is_known {
            let more = if damage.is_reread { &mut self.more_mended } else { &mut self.more_lost };
            *more = true;
            return;
        }
        self.places += usize::from(!is_known);
        self.files.entry(ino).or_default().insert(damage.at, damage);
    }

    /// The files.
    pub(super) fn inos(&self) -> impl Iterator<Item = &u64> {
        self.files.keys()
    }
}

/// What came of the damaged places of one file.
#[derive(Default)]
struct Sum {
    bytes: u64,
    places: u64,
    first: Option<Damage>,
    /// Up to here everything is counted: places may overlap.
    end: u64,
}

impl Sum {
    /// Adds ranges of a place. They ascend, and begin no earlier than the places before.
    fn add(&mut self, damage: Damage, ranges: &[Range<u64>]) {
        let before = self.bytes;
        for range in ranges {
            self.bytes += range.end.saturating_sub(range.start.max(self.end));
            self.end = self.end.max(range.end);
        }
        if self.bytes > before {
            self.places += 1;
            self.first = self.first.or(Some(damage));
        }
    }

    fn say(&self, what: impl FnOnce(&str, ChunkId) -> String) -> Option<String> {
        let first = self.first?;
        let place = match self.places {
            1 => format!("{} bytes at {}", self.bytes, first.at),
            places => format!("{} bytes in {places} places, the first at {},", self.bytes, first.at),
        };
        Some(what(&place, first.row.chunk))
    }
}

impl Apply<'_, '_> {
    /// What there is to say of damage that was met, once the state is complete: an error for each file that has it still,
    /// a warning for each that was mended.
    pub(super) fn damage(&mut self) -> Result<Vec<Finding>> {
        let log = std::mem::take(&mut self.state.damage);
        if log.files.is_empty() {
            return Ok(Vec::new());
        }
        // What was stored again can be read from here on.
        self.pipeline.settle()?;
        let mut findings = Vec::new();
        for (ino, places) in &log.files {
            let Some(path) = self.path_of_damaged(*ino)? else { continue };
            let (mut lost, mut mended) = (Sum::default(), Sum::default());
            for damage in places.values() {
                let left = self.left(*ino, damage)?;
                if !left.is_empty() && !self.is_back(&damage.row) {
                    lost.add(*damage, &left);
                } else if damage.is_reread {
                    mended.add(*damage, std::slice::from_ref(&damage.range()));
                }
            }
            let mut add = |severity, what: Option<String>| {
                findings.extend(what.map(|what| Finding { path: path.clone(), severity, what }));
            };
            add(Severity::Error, lost.say(lost_text));
            add(Severity::Warning, mended.say(mended_text));
        }
        let more = [(log.more_lost, Severity::Error, MORE_LOST), (log.more_mended, Severity::Warning, MORE_MENDED)];
        for (_, severity, what) in more.into_iter().filter(|(is_there, ..)| *is_there) {
            findings.push(Finding { path: b"/".to_vec(), severity, what: what.into() });
        }
        Ok(findings)
    }

    /// The path of a file in which damage was met; None if the file is gone.
    fn path_of_damaged(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        let Some(staged) = self.state.tree.inodes.get(&ino) else { return Ok(None) };
        Ok(Some(self.state.tree.path_of(ino)?.unwrap_or_else(|| staged.name.to_vec())))
    }

    /// Whether a chunk can be read by now, as far as the extent needs it.
    fn is_back(&self, row: &Extent) -> bool {
        let (mut bytes, need) = (0, u64::from(row.skip) + u64::from(row.len));
        self.around.store.chunk(&row.chunk, &mut |chunk| bytes = chunk.len() as u64).is_ok() && bytes >= need
    }

    /// Ranges of the file, within the place, that lead to the damaged chunk in the complete state.
    fn left(&self, ino: u64, damage: &Damage) -> Result<Vec<Range<u64>>> {
        let Some(root) = self.state.tree.base else { return Ok(Vec::new()) };
        let layout = Layout { rows: LayoutRows::Tree { root, ino }, size: u64::MAX };
        let mut rows = Rows::of_layout(self.around.store.nodes(), &layout, damage.at)?;
        let end = damage.range().end;
        let mut left = Vec::new();
        while let Some((at, row)) = rows.next()?.filter(|(at, _)| *at < end) {
            if row.chunk == damage.row.chunk {
                left.push(at.max(damage.at)..(at + u64::from(row.len)).min(end));
            }
        }
        Ok(left)
    }
}

fn lost_text(place: &str, chunk: ChunkId) -> String {
    format!(
        "{place} were damaged in the repository already and are so in this restore point, too (chunk {chunk}); the rest of \
         the file is right. 'relict-maint repair --from' a copy of the repository, or ingest of the whole state, can bring \
         them back"
    )
}

fn mended_text(place: &str, chunk: ChunkId) -> String {
    format!("{place} were damaged in the repository (chunk {chunk}) and were read again from the source")
}

/// What the record of the restore point says of it.
pub(super) fn notes_of(findings: &[Finding]) -> Vec<Vec<u8>> {
    let note = |finding: &Finding| format!("'{}': {}", printable(&finding.path), finding.what).into_bytes();
    let mut notes: Vec<Vec<u8>> = findings.iter().take(MAX_NAMED).map(note).collect();
    let more = findings.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        notes.push(format!("{more} more files met damage in the repository").into_bytes());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_met_twice_are_counted_once() {
        let place = |at: u64, len: u32| {
            let row = Extent { chunk: ChunkId::default(), skip: 0, len };
            Damage { at, row, is_reread: true }
        };
        let mut sum = Sum::default();
        for damage in [place(100, 50), place(100, 20), place(120, 100), place(300, 1)] {
            sum.add(damage, &[damage.range(), damage.range()]);
        }
        assert_eq!((sum.bytes, sum.places, sum.first.map(|first| first.at)), (121, 3, Some(100)));
    }

    #[test]
    fn beyond_the_limit_what_is_known_is_nothing_new() {
        let damage =
            |at, is_reread| Damage { at, row: Extent { chunk: ChunkId::default(), skip: 0, len: 1 }, is_reread };
        let mut log = DamageLog::default();
        (0..MAX_PLACES as u64).for_each(|at| log.add(7, damage(at, false)));
        log.add(7, damage(5, true));
        assert!(
            (log.places, log.more_lost, log.more_mended) == (MAX_PLACES, false, false) && log.files[&7][&5].is_reread
        );
        log.add(8, damage(5, true));
        assert_eq!((log.more_lost, log.more_mended), (false, true));
        log.add(8, damage(5, false));
        assert_eq!((log.places, log.more_lost, log.more_mended), (MAX_PLACES, true, true));
    }
}
