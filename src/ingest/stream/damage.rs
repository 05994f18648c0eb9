//! Content of earlier states that cannot be read where it is cut anew, beside a change (SPEC.md section 14).
//!
//! It never stops a stream: a damaged extent is taken over as it is, so that `check` still names it and it heals when
//! its chunk comes back; or it is read again, where the state itself is at hand. Which files that concerned is
//! said when the state is complete, as it is then: later changes may have put new content over it.

use super::apply::Apply;
use super::content::{Layout, LayoutRows};
use super::rows::Rows;
use crate::catalog::points::printable;
use crate::ingest::report::{Finding, Severity};
use crate::Result;
use repo_format::{ChunkId, Extent};
use std::collections::BTreeMap;

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
}

impl Sum {
    fn add(&mut self, damage: Damage, bytes: u64) {
        self.bytes += bytes;
        self.places += u64::from(bytes > 0);
        self.first = self.first.or(Some(damage).filter(|_| bytes > 0));
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
                let left = self.bytes_left(*ino, damage)?;
                let is_back = || self.around.store.chunk(&damage.row.chunk, &mut |_| {}).is_ok();
                if left > 0 && !is_back() {
                    lost.add(*damage, left);
                } else if damage.is_reread {
                    mended.add(*damage, u64::from(damage.row.len));
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

    /// Bytes of the file that lead to the damaged chunk in the complete state.
    fn bytes_left(&self, ino: u64, damage: &Damage) -> Result<u64> {
        let Some(root) = self.state.tree.base else { return Ok(0) };
        let layout = Layout { rows: LayoutRows::Tree { root, ino }, size: u64::MAX };
        let mut rows = Rows::of_layout(self.around.store.nodes(), &layout, damage.at)?;
        let end = damage.at.saturating_add(u64::from(damage.row.len));
        let mut left = 0;
        while let Some((at, row)) = rows.next()?.filter(|(at, _)| *at < end) {
            if row.chunk == damage.row.chunk {
                left += (at + u64::from(row.len)).min(end) - at.max(damage.at);
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
