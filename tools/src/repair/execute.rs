//! Carrying out a plan. Each step is durable before the next begins, and a repair that was killed is begun again from the
//! check: what is done then is not found any more (SPEC.md section 17).

use super::plan::Plan;
use super::salvage::{Restorer, kind_of, save};
use super::sources::fetch;
use super::truth::{self, Truth};
use crate::check::{all_records, now_sec};
use relict::Result;
use relict::catalog::points::Points;
use relict::catalog::tree::apply;
use relict::store::{Repository, Writer, drop_point, quarantine};
use repo_format::{ChunkId, PackageKind, PointRecord, Time};
use std::path::PathBuf;

/// Files named in a restore point's note; the others are only counted. Every one of them is marked in the tree.
const NOTED: usize = 20;

/// What was done.
#[derive(Default)]
pub struct Done {
    /// A new index was made.
    pub rebuilt: bool,
    /// Chunks stored again.
    pub stored: u64,
    /// Where damaged packages are now.
    pub quarantined: Vec<PathBuf>,
    /// Restore points that have a new truth.
    pub mended_points: u64,
    /// Files marked as damaged in them.
    pub marked_files: u64,
}

/// Stores again what can be had, puts damaged packages aside, and writes the new truth of points that lost something.
pub fn execute(writer: &Writer, plan: &Plan, other: Option<&Repository>) -> Result<Done> {
    let repository = writer.repository();
    let mut done = Done::default();
    let mut restorer = Restorer::new(writer);
    save(repository, &plan.inventory.readable, &mut restorer)?;
    for (id, origin) in &plan.origins {
        let bytes = fetch(repository, other, origin)?;
        let package = plan.inventory.lost.get(id).copied().filter(|kind| *kind == PackageKind::Data);
        restorer.store(kind_of(package, &bytes), id, &bytes)?;
    }
    done.stored = restorer.finish()?;
    for point in &plan.dropped {
        drop_point(writer, point)?;
    }
    for info in &plan.packages {
        done.quarantined.extend(quarantine(writer, info)?);
    }
    done.stored += keep_states(writer)?;
    Ok(done)
}

/// Decisions about points of which the index alone still knows are written again: a rebuild must not lose protection.
fn keep_states(writer: &Writer) -> Result<u64> {
    let repository = writer.repository();
    let mut lost = Vec::new();
    for state in repository.index().states()?.into_values() {
        // Asked in the index: what this process remembers of places may be of the package that was put aside.
        if repository.index().locate(&writer.chunk_id(&state.encode()))?.is_none() {
            lost.push(state);
        }
    }
    writer.record_states(&lost)?;
    Ok(lost.len() as u64)
}

/// Writes the new truth of every point that lost something for good.
pub fn mend_points(writer: &Writer, plan: &Plan, done: &mut Done) -> Result<()> {
    let repository = writer.repository();
    for point in Points::new(all_records(repository)?).all() {
        let ranges = plan.lost_ranges(&point.id);
        let hurt = truth::hurt(repository, point, &|id| plan.lost.contains(id))?;
        if hurt.inodes.is_empty() && ranges.is_empty() {
            continue;
        }
        let why = format!(
            "a repair on {} could not save all of it",
            relict::catalog::points::time_name(Time { sec: now_sec(), nsec: 0 })
        );
        let truth = if ranges.is_empty() {
            truth::mark(repository, point, &hurt.inodes, &why)?
        } else {
            truth::rescue(repository, point, &ranges, &hurt.inodes, &why)?
        };
        let paths: Vec<String> = hurt.inodes.iter().map(|ino| hurt.names.path(*ino)).collect();
        done.marked_files += truth.marked;
        done.mended_points += 1;
        write_truth(writer, point, truth, &why, &paths)?;
    }
    Ok(())
}

/// The tree first, then the record that takes the old one's place (SPEC.md section 17).
fn write_truth(writer: &Writer, point: &PointRecord, truth: Truth, why: &str, paths: &[String]) -> Result<()> {
    let repository = &**writer.repository();
    let old: Option<&ChunkId> = if truth.whole { None } else { Some(&point.root) };
    let root = writer.write_nodes(|packer| apply(repository, old, truth.edits.finish()?, packer))?;
    let mut record = PointRecord { root, next_ino: truth.next_ino, sealed: sealed_after(point), ..point.clone() };
    record.notes.push(note(why, truth.marked, paths).into_bytes());
    writer.seal(&record)
}

/// Later than the record it replaces, even where the clock went back: the later one of two counts.
fn sealed_after(point: &PointRecord) -> Time {
    let now = Time { sec: now_sec(), nsec: 0 };
    if now > point.sealed { now } else { Time { sec: point.sealed.sec.saturating_add(1), nsec: 0 } }
}

fn note(why: &str, marked: u64, paths: &[String]) -> String {
    let mut out = format!("{why}: {marked} files and directories are marked damaged");
    if !paths.is_empty() {
        out.push_str(&format!(": {}", paths.iter().take(NOTED).cloned().collect::<Vec<_>>().join(", ")));
        if paths.len() > NOTED {
            out.push_str(&format!(" and {} more", paths.len() - NOTED));
        }
    }
    out
}
