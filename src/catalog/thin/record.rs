//! The record of a thinned point: the same point, sealed later, with what it replaces; and the way back until prune.

use super::Thinner;
use crate::error::Result;
use crate::store::Repository;
use repo_format::{ChunkId, PointRecord, Time};

/// Tag of what thinning did to a point (SPEC.md section 8).
pub const THINNED_TAG: u16 = 0x8020;
/// Tags that say which state of its source a point holds. A thinned point holds none: nothing may be applied to it.
const STATE_TAGS: std::ops::RangeInclusive<u16> = 0x8001..=0x8004;
/// Most times that a point can have been thinned without a prune in between and be brought back.
const MOST_STEPS: usize = 10_000;

/// What a thinned point says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinned {
    /// The record that this one took the place of; there until prune.
    pub replaces: ChunkId,
    /// Names that were taken out, since the point was whole.
    pub names: u64,
}

impl Thinned {
    /// What `point` says, if it was thinned.
    #[must_use]
    pub fn of(point: &PointRecord) -> Option<Self> {
        let (_, bytes) = point.extra.iter().find(|(tag, _)| *tag == THINNED_TAG)?;
        let (replaces, names) = bytes.split_first_chunk()?;
        Some(Self { replaces: ChunkId(*replaces), names: u64::from_le_bytes(names.try_into().ok()?) })
    }

    fn encode(&self) -> Vec<u8> {
        [&self.replaces.0[..], &self.names.to_le_bytes()].concat()
    }
}

/// Later than the record it replaces, even where the clock went back: the later one of two counts.
fn sealed_after(before: Time, now: Time) -> Time {
    if now > before { now } else { Time { sec: before.sec.saturating_add(1), nsec: 0 } }
}

pub(super) fn thinned(point: &PointRecord, chunk: ChunkId, thinner: &Thinner, now: Time) -> PointRecord {
    let before = Thinned::of(point).map_or(0, |thinned| thinned.names);
    let says = Thinned { replaces: chunk, names: before + thinner.names };
    let mut extra = point.extra.clone();
    extra.retain(|(tag, _)| *tag != THINNED_TAG && !STATE_TAGS.contains(tag));
    extra.push((THINNED_TAG, says.encode()));
    extra.sort_unstable_by_key(|(tag, _)| *tag);
    let (root, counts, sealed) = (thinner.root, thinner.counts, sealed_after(point.sealed, now));
    PointRecord { root, counts, sealed, extra, ..point.clone() }
}

/// The records that `point` took the place of by thinning, newest first, with their chunks; those that prune has removed
/// are not there.
///
/// # Errors
/// When a record that is there cannot be read.
pub fn replaced(repository: &Repository, point: &PointRecord) -> Result<Vec<(ChunkId, PointRecord)>> {
    let mut out: Vec<(ChunkId, PointRecord)> = Vec::new();
    let mut next = Thinned::of(point);
    while let Some(thinned) = next.filter(|_| out.len() < MOST_STEPS) {
        if repository.locate(&thinned.replaces)?.is_none() {
            break;
        }
        let record = PointRecord::decode(&repository.chunk(&thinned.replaces)?)?;
        next = Thinned::of(&record);
        out.push((thinned.replaces, record));
    }
    Ok(out)
}

/// The record that shows a thinned point again as it was before; None when that cannot be brought back.
///
/// # Errors
/// As [`replaced`].
pub fn unthinned(repository: &Repository, point: &PointRecord, now: Time) -> Result<Option<PointRecord>> {
    let whole = replaced(repository, point)?.pop();
    Ok(whole.map(|(_, whole)| PointRecord { sealed: sealed_after(point.sealed, now), ..whole }))
}
