//! Retention by file versions: of every file the last contents stay, and older restore points no longer show what is
//! older (SPEC.md section 10, "Thinning").
//!
//! A file is a path of one chain (host, source, paths). What happened to it is learnt from the differences between
//! neighbouring points, newest first; no point but the newest is read in full. What is learnt goes through sorters that
//! spill to temporary files, so memory holds the directories of one point (about 100 bytes each) and a constant.
//!
//! | module | holds |
//! |---|---|
//! | [`names`] | directories and names of one point, stepped along the chain |
//! | [`changes`] | from differences of trees to what a path was before and after |
//! | [`choose`] | which contents of a path go, and from which points |
//! | [`point`] | the edits that take files out of one point |
//! | [`record`] | the record of a thinned point, and the way back |

mod changes;
mod choose;
mod names;
mod point;
mod record;
#[cfg(test)]
mod tests;

pub use record::{THINNED_TAG, Thinned, replaced, unthinned};

use super::edits::{DEFAULT_LIMIT_BYTES, EditSet};
use super::retention::Age;
use super::sorter::{SORT_BYTES, Sorter};
use super::tree::{Edit, ReadNodes, WriteNodes, apply};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Writer, announce};
use changes::Changes;
use names::Names;
use repo_format::{ChunkId, Counts, PointRecord, Time};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that changed in place whose names are held in memory at once; more take another walk along the chain.
const NAMED_AT_ONCE: usize = 1 << 20;

/// Which contents of a file stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRule {
    /// The last so many distinct contents; None: all.
    pub most: Option<u32>,
    /// A file that the newest point lacks keeps none any more this long after the first point that lacks it; None: it
    /// keeps its last contents.
    pub deleted_for: Option<Age>,
}

/// A restore point of the chain that is thinned.
#[derive(Debug, Clone)]
pub struct Member {
    /// The point.
    pub point: PointRecord,
    /// Its contents count, and nothing is taken out of it.
    pub whole: bool,
}

/// What thinning a chain will do.
pub struct Thinning {
    members: Vec<Member>,
    /// Names that go out of each point, in the order of [`Thinning::members`].
    pub names: Vec<u64>,
    /// Sums of the sizes of what these names show, for each point.
    pub raw_bytes: Vec<u64>,
    /// Points that have no file left: these are not thinned, but are to be forgotten as a whole.
    pub emptied: Vec<bool>,
    /// Files that lose a content.
    pub files: u64,
    /// Contents that no point of the chain shows any more under their file's path.
    pub versions: u64,
    /// Sum of the sizes of these. What prune gives back is another number: contents are stored compressed, share chunks
    /// with others, and may have another path.
    pub versions_raw_bytes: u64,
    drops: EditSet,
    /// Directories of the oldest point.
    oldest: Names,
}

/// A point with a new tree.
pub struct Thinner {
    /// Which member.
    pub member: usize,
    /// Its new root.
    pub root: ChunkId,
    /// What is in it now.
    pub counts: Counts,
    /// Names taken out.
    pub names: u64,
}

fn stopped(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::new(ErrorKind::Interrupted, "stopped; nothing was changed")),
        false => Ok(()),
    }
}

/// Plans: which names go out of which of `members`, the points of one chain, oldest first. Nothing is changed.
///
/// # Errors
/// `Damaged` when a tree cannot be read: then nothing may be taken out. `Interrupted` once `stop` is set.
pub fn plan(nodes: &dyn ReadNodes, members: Vec<Member>, rule: VersionRule, stop: &AtomicBool) -> Result<Thinning> {
    let mut events = EditSet::new(DEFAULT_LIMIT_BYTES);
    let (mut oldest, mut file_names) = (Names::default(), Vec::new());
    if members.len() > 1 {
        let mut inos = Sorter::<8>::new(SORT_BYTES);
        for pair in members.windows(2) {
            let [old, new] = pair else { continue };
            changes::changed_in_place(nodes, &old.point.root, &new.point.root, stop, |ino| {
                inos.push(ino.to_be_bytes())
            })?;
        }
        let inos = inos.finish()?;
        let mut inos = inos.iter()?.map(|ino| ino.map(u64::from_be_bytes)).peekable();
        let mut first = true;
        while first || inos.peek().is_some() {
            let part: Result<HashSet<u64>> = inos.by_ref().take(NAMED_AT_ONCE).collect();
            (oldest, file_names) = Changes::new(nodes, &members, &mut events, stop).walk_back(part?, first)?;
            first = false;
        }
    }
    let mut out = Thinning {
        names: vec![0; members.len()],
        raw_bytes: vec![0; members.len()],
        emptied: Vec::new(),
        members,
        files: 0,
        versions: 0,
        versions_raw_bytes: 0,
        drops: EditSet::new(DEFAULT_LIMIT_BYTES),
        oldest,
    };
    choose::choose(events, rule, &mut out)?;
    let all_go = |(going, there): (&u64, &u64)| *going > 0 && going == there;
    out.emptied = out.names.iter().zip(file_names.iter().rev()).map(all_go).collect();
    Ok(out)
}

impl Thinning {
    /// The points, oldest first.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drops.is_empty()
    }

    /// The points that have no file left.
    pub fn emptied(&self) -> impl Iterator<Item = &PointRecord> {
        let members = self.members.iter().zip(&self.emptied);
        members.filter(|(_, emptied)| **emptied).map(|(member, _)| &member.point)
    }

    /// Makes the new trees, oldest first, but of points that have no file left; `done` is told of each.
    ///
    /// # Errors
    /// When a tree cannot be read or written. Nodes written before that are garbage.
    pub(super) fn trees(
        self,
        nodes: &dyn ReadNodes,
        sink: &mut dyn WriteNodes,
        stop: &AtomicBool,
        mut done: impl FnMut(Thinner) -> Result<()>,
    ) -> Result<()> {
        let Self { members, drops, mut oldest, names, emptied, .. } = self;
        let mut drops = drops.finish()?.peekable();
        for (index, member) in members.iter().enumerate() {
            if drops.peek().is_none() {
                break;
            }
            if let Some(before) = index.checked_sub(1).and_then(|before| members.get(before)) {
                oldest.step(nodes, &before.point.root, &member.point.root, stop)?;
            }
            let mut edits = point::PointEdits::new(nodes, &member.point, &oldest)?;
            let mine = (index as u32).to_be_bytes();
            while let Some(drop) = drops.next_if(|drop| drop.as_ref().map_or(true, |(key, _)| key.starts_with(&mine))) {
                stopped(stop)?;
                let (drop, _) = drop?;
                if emptied.get(index) != Some(&true) {
                    edits.take_out(&choose::Drop::decode(&drop)?)?;
                }
            }
            let Some((edits, counts)) = edits.finish()? else { continue };
            let root = apply(nodes, Some(&member.point.root), edits, sink)?;
            done(Thinner { member: index, root, counts, names: names.get(index).copied().unwrap_or(0) })?;
        }
        Ok(())
    }

    /// Writes the thinned points. All of them are durable when this returns; killed before, some or none are. Points
    /// that have no file left are not touched: who forgets them is the caller.
    ///
    /// # Errors
    /// When the medium fails.
    pub fn execute(self, writer: &Writer, now: Time, stop: &AtomicBool) -> Result<Vec<PointRecord>> {
        let repository = writer.repository();
        let records: std::collections::HashMap<_, _> = repository.index().points()?.into_iter().collect();
        let members = self.members.clone();
        let mut out = Vec::new();
        writer.write_nodes(|packer| {
            self.trees(&**repository, packer, stop, |thinner| {
                if let Some(point) = members.get(thinner.member).map(|member| &member.point)
                    && let Some(chunk) = records.get(&point.id)
                {
                    out.push(record::thinned(point, *chunk, &thinner, now));
                    announce("thinned-tree");
                }
                Ok(())
            })
        })?;
        announce("thinned-trees");
        writer.seal_all(&out)?;
        announce("thinned");
        Ok(out)
    }
}

/// An edit whose value does not matter.
fn nothing() -> Edit {
    Edit::Put(Vec::new())
}
