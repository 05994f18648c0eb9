//! Which contents of a path go, and from which points.
//!
//! Events come sorted by path, then by pair of points, then old before new. Between two events of a path it is the same in
//! every point.

use super::changes::Side;
use super::names::PathHash;
use super::{Thinning, VersionRule, nothing};
use crate::catalog::edits::EditSet;
use crate::catalog::tree::Edit;
use crate::{Error, Result};
use std::ops::RangeInclusive;

/// What a path is in a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Equal for equal contents.
    pub(super) content: [u8; 16],
    pub(super) bytes: u64,
    pub(super) parent: u64,
    pub(super) ino: u64,
    pub(super) name: Box<[u8]>,
}

/// A name that goes out of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drop {
    pub(super) point: u32,
    pub(super) ino: u64,
    pub(super) parent: u64,
    pub(super) name: Box<[u8]>,
}

fn cut() -> Error {
    Error::damaged("a temporary file is not what was written to it")
        .advise("nothing was changed; the medium of the temporary directory may be at fault")
}

/// Takes the first bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    *bytes = rest;
    Ok(*head)
}

pub(super) fn event_key(path: &PathHash, pair: u32, side: Side) -> [u8; 21] {
    let mut out = [0; 21];
    out[..16].copy_from_slice(path);
    out[16..20].copy_from_slice(&pair.to_be_bytes());
    out[20] = u8::from(side == Side::New);
    out
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let words = [self.bytes, self.parent, self.ino].map(u64::to_be_bytes);
        [&self.content[..], words.as_flattened(), &self.name].concat()
    }

    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let bytes = &mut bytes;
        let content = take(bytes)?;
        let [size, parent, ino] = [take(bytes)?, take(bytes)?, take(bytes)?].map(u64::from_be_bytes);
        Ok(Self { content, bytes: size, parent, ino, name: (*bytes).into() })
    }
}

impl Drop {
    /// Sorts by point and inode.
    fn encode(&self) -> Vec<u8> {
        [&self.point.to_be_bytes()[..], &self.ino.to_be_bytes(), &self.parent.to_be_bytes(), &self.name].concat()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self> {
        let bytes = &mut bytes;
        let point = u32::from_be_bytes(take(bytes)?);
        let [ino, parent] = [take(bytes)?, take(bytes)?].map(u64::from_be_bytes);
        Ok(Self { point, ino, parent, name: (*bytes).into() })
    }
}

/// What a path was before and after one pair of points.
struct Event {
    pair: u32,
    old: Option<State>,
    new: Option<State>,
}

/// Points in which a path was one thing.
type Run = (RangeInclusive<usize>, Option<State>);

/// Goes through the events of all paths.
pub(super) fn choose(events: EditSet, rule: VersionRule, plan: &mut Thinning) -> Result<()> {
    let (mut path, mut of_path) = (PathHash::default(), Vec::<Event>::new());
    for event in events.finish()? {
        let (key, Edit::Put(value)) = event? else { return Err(cut()) };
        let mut key = key.as_slice();
        let (this, pair, [side]) = (take::<16>(&mut key)?, u32::from_be_bytes(take(&mut key)?), take::<1>(&mut key)?);
        if this != path && !of_path.is_empty() {
            choose_path(&std::mem::take(&mut of_path), rule, plan)?;
        }
        path = this;
        if of_path.last().is_none_or(|event| event.pair != pair) {
            of_path.push(Event { pair, old: None, new: None });
        }
        let state = Some(State::decode(&value)?);
        if let Some(event) = of_path.last_mut() {
            if side == 0 { event.old = state } else { event.new = state }
        }
    }
    if of_path.is_empty() { Ok(()) } else { choose_path(&of_path, rule, plan) }
}

/// Oldest first; together they are all points.
fn runs(events: &[Event], points: usize) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(events.len() + 1);
    let mut from = 0;
    for event in events {
        out.push((from..=event.pair as usize, event.old.clone()));
        from = event.pair as usize + 1;
    }
    if let Some(last) = events.last() {
        out.push((from..=points.saturating_sub(1), last.new.clone()));
    }
    out
}

fn choose_path(events: &[Event], rule: VersionRule, plan: &mut Thinning) -> Result<()> {
    let runs = runs(events, plan.members.len());
    let expired = expired(&runs, rule, plan);
    let most = if expired { 0 } else { rule.most.map_or(usize::MAX, |most| most as usize) };
    // Newest first, each content once.
    let mut contents: Vec<([u8; 16], u64)> = Vec::new();
    for state in runs.iter().rev().filter_map(|(_, state)| state.as_ref()) {
        if !contents.iter().any(|(known, _)| *known == state.content) {
            contents.push((state.content, state.bytes));
        }
    }
    let going = contents.get(most.min(contents.len())..).unwrap_or_default();
    let mut hurt = false;
    for (content, bytes) in going {
        let mut shown = (0, 0);
        for (points, state) in &runs {
            let Some(state) = state.as_ref().filter(|state| state.content == *content) else { continue };
            drop_run(points.clone(), state, plan, &mut shown)?;
        }
        let (gone, stays) = shown;
        hurt |= gone > 0;
        if gone > 0 && stays == 0 {
            plan.versions += 1;
            plan.versions_raw_bytes = plan.versions_raw_bytes.saturating_add(*bytes);
        }
    }
    plan.files += u64::from(hurt);
    Ok(())
}

/// Takes a path out of points that are not whole; counts in how many it goes and in how many it stays.
fn drop_run(points: RangeInclusive<usize>, state: &State, plan: &mut Thinning, shown: &mut (u64, u64)) -> Result<()> {
    for point in points {
        if plan.members.get(point).is_none_or(|member| member.whole) {
            shown.1 += 1;
            continue;
        }
        shown.0 += 1;
        let drop = Drop { point: point as u32, ino: state.ino, parent: state.parent, name: state.name.clone() };
        plan.drops.push(drop.encode(), nothing())?;
        if let (Some(names), Some(bytes)) = (plan.names.get_mut(point), plan.raw_bytes.get_mut(point)) {
            *names += 1;
            *bytes = bytes.saturating_add(state.bytes);
        }
    }
    Ok(())
}

/// Whether the path is gone for longer than the rule keeps it. Times are those of points, so a clock that is wrong today
/// removes nothing.
fn expired(runs: &[Run], rule: VersionRule, plan: &Thinning) -> bool {
    let (Some(age), Some((lacking, None)), Some(newest)) = (rule.deleted_for, runs.last(), plan.members.last()) else {
        return false;
    };
    let since = plan.members.get(*lacking.start()).map_or(i64::MAX, |member| member.point.time.sec);
    since <= age.before(newest.point.time)
}
