//! The plan of a repair: what is broken, what can be brought back from where, what stays lost. It is shown before anything
//! is done, and carrying it out does what it says.

use super::salvage::{Inventory, inventory};
use super::sources::{Origin, Origins, in_repository, in_source};
use crate::check::{
    Finding, Kind, Mend, Report, Request, Selection, Severity, Totals, all_records, check, describe_range, label,
};
use relict::Result;
use relict::catalog::points::Points;
use relict::cli::text;
use relict::store::{PackageInfo, Repository};
use repo_format::{ChunkId, PointId, PointRecord};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where a repair may look for what is lost.
#[derive(Default)]
pub struct Sources<'a> {
    /// A second repository.
    pub other: Option<&'a Repository>,
    /// A directory with the files.
    pub source: Option<&'a Path>,
}

/// What is to be done.
pub struct Plan {
    /// What the check found.
    pub report: Report,
    /// Packages to be put aside, missing ones too.
    pub packages: Vec<PackageInfo>,
    /// What of them can be stored again.
    pub inventory: Inventory,
    /// Lost chunks that were found elsewhere.
    pub origins: Origins,
    /// Lost chunks that were not.
    pub lost: HashSet<ChunkId>,
    /// Restore points whose record is lost for good.
    pub dropped: Vec<PointId>,
    /// The index disagrees with the packages and is made anew.
    pub rebuild: bool,
    /// Files that lose content or attributes for good, by restore point.
    pub files: BTreeMap<String, Vec<String>>,
}

impl Plan {
    /// Checks all of it and looks for what is lost. Writes nothing.
    pub fn make(
        repository: &Repository,
        sources: &Sources<'_>,
        totals: &Arc<Totals>,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let report =
            check(repository, Request { content: Selection::All, max_duration: None, keep_every: None }, totals, stop)?;
        let damaged: HashSet<_> = report.damaged.iter().collect();
        let packages = repository
            .index()
            .packages()?
            .into_iter()
            .filter(|p| p.sealed && damaged.contains(&p.id))
            .collect::<Vec<_>>();
        let inventory = inventory(repository, &packages)?;
        let mut wanted: HashSet<ChunkId> = inventory.lost.keys().copied().collect();
        wanted.extend(report.findings.iter().filter(|f| loses(f)).flat_map(|f| f.chunks.iter().copied()));
        // The id that names no chunk is nowhere.
        wanted.remove(&super::truth::NO_CHUNK);
        // What the inventory could read is not lost, whatever names it; nor is what a new index will find.
        for id in inventory.readable.iter().map(|(_, id)| id).chain(&report.strayed) {
            wanted.remove(id);
        }
        let records = lost_records(repository, &wanted)?;
        wanted.extend(records.iter().map(|(_, chunk)| *chunk));
        let points = Points::new(all_records(repository)?);
        let origins = search(repository, sources, &report, points.all(), &wanted, stop)?;
        let lost: HashSet<ChunkId> = wanted.into_iter().filter(|id| !origins.contains_key(id)).collect();
        let rebuild = report.findings.iter().any(|f| f.kind == Kind::Index);
        let dropped = records.into_iter().filter(|(_, chunk)| lost.contains(chunk)).map(|(id, _)| id).collect();
        let mut plan = Self { report, packages, inventory, origins, lost, dropped, rebuild, files: BTreeMap::new() };
        plan.name_files(repository, points.all())?;
        Ok(plan)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && self.origins.is_empty()
            && self.dropped.is_empty()
            && !self.rebuild
            && self.files.is_empty()
    }

    fn name_files(&mut self, repository: &Repository, points: &[PointRecord]) -> Result<()> {
        let gone = |id: &ChunkId| self.lost.contains(id);
        let mut files = BTreeMap::new();
        for point in points {
            let hurt = super::truth::hurt(repository, point, &gone)?;
            let ranges = self.lost_ranges(&point.id);
            let touched = hurt.names.inodes().filter(|ino| ranges.iter().any(|r| r.touches(*ino)));
            let mut paths: Vec<String> =
                hurt.inodes.iter().copied().chain(touched).map(|ino| hurt.names.path(ino)).collect();
            paths.sort();
            paths.dedup();
            paths.extend(
                ranges.iter().map(|r| format!("names and attributes of {}", describe_range(&r.from, r.to.as_deref()))),
            );
            if !paths.is_empty() || !ranges.is_empty() {
                files.insert(label(point), paths);
            }
        }
        self.files = files;
        Ok(())
    }

    /// Parts of a point's tree that stay lost.
    pub fn lost_ranges(&self, point: &PointId) -> Vec<crate::check::LostRange> {
        let all = self.report.lost.get(point).map_or(&[][..], Vec::as_slice);
        all.iter().filter(|range| !self.origins.contains_key(&range.node)).cloned().collect()
    }

    /// The plan for people.
    pub fn text(&self) -> Vec<String> {
        let mut out = Vec::new();
        for info in &self.packages {
            let is_missing =
                |f: &Finding| f.kind == Kind::PackageMissing && f.place.is_some_and(|p| p.package == info.id);
            out.push(match self.report.findings.iter().any(is_missing) {
                true => format!("take package {}, which is missing, out of the index", info.id),
                false => format!("put package {} aside in quarantine/ ({})", info.id, text::size(info.bytes)),
            });
        }
        if !self.inventory.readable.is_empty() {
            out.push(format!(
                "store {} of them again: they can still be read",
                text::counted(self.inventory.readable.len() as u64, "chunk")
            ));
        }
        let from = |wanted: fn(&Origin) -> bool| self.origins.values().filter(|o| wanted(o)).count() as u64;
        let places = [
            (from(|o| matches!(o, Origin::Spare(_))), "from a second place in this repository"),
            (from(|o| matches!(o, Origin::Other(_))), "from the second repository"),
            (from(|o| matches!(o, Origin::File(..))), "from the source"),
        ];
        for (count, place) in places.into_iter().filter(|(count, _)| *count > 0) {
            out.push(format!("bring {} back {place}", text::counted(count, "chunk")));
        }
        if self.rebuild {
            out.push("make a new index from the packages; the old one is kept beside it".into());
        }
        for id in &self.dropped {
            out.push(format!("take restore point {id} out of the catalogue: its record is lost"));
        }
        for (point, paths) in &self.files {
            out.push(format!(
                "lost in {point}: {}; the others stay as they are",
                text::counted(paths.len() as u64, "item")
            ));
            out.extend(paths.iter().take(crate::check::AFFECTED_SHOWN).map(|path| format!("    {path}")));
            if paths.len() > crate::check::AFFECTED_SHOWN {
                out.push(format!("    and {} more (--json names all)", paths.len() - crate::check::AFFECTED_SHOWN));
            }
        }
        out
    }

    /// The plan for programs.
    pub fn json(&self) -> Value {
        json!({
            "message_type": "plan",
            "quarantine": self.packages.iter().map(|p| p.id.to_string()).collect::<Vec<_>>(),
            "stored_again": self.inventory.readable.len(),
            "brought_back": self.origins.len(),
            "lost_chunks": self.lost.len(),
            "rebuild": self.rebuild,
            "dropped_points": self.dropped.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "lost_files": self.files,
        })
    }

    /// Problems that no repair of this kind mends.
    pub fn beyond(&self) -> impl Iterator<Item = &Finding> {
        self.report
            .findings
            .iter()
            .filter(|f| f.kind.severity() == Severity::Problem && matches!(f.kind, Kind::KeySlot | Kind::Tree))
    }
}

/// Whether the chunks of such a finding are lost rather than misplaced.
fn loses(finding: &Finding) -> bool {
    matches!(
        finding.kind,
        Kind::Package
            | Kind::PackageMissing
            | Kind::Segment
            | Kind::Chunk
            | Kind::ChunkMissing
            | Kind::KnownLoss
            | Kind::Node
    ) || (finding.kind == Kind::Index && finding.mend() == Mend::Elsewhere)
}

fn search(
    repository: &Repository,
    sources: &Sources<'_>,
    report: &Report,
    points: &[PointRecord],
    wanted: &HashSet<ChunkId>,
    stop: &AtomicBool,
) -> Result<Origins> {
    let mut out: Origins = HashMap::new();
    for id in wanted {
        if let Some(at) = report.spares.get(id) {
            out.insert(*id, Origin::Spare(*at));
        }
    }
    let left = |out: &Origins| wanted.iter().copied().filter(|id| !out.contains_key(id)).collect::<HashSet<ChunkId>>();
    if let Some(other) = sources.other {
        let found = in_repository(repository.keys(), other, &left(&out), stop)?;
        out.extend(found);
    }
    if let Some(source) = sources.source {
        let found = in_source(repository, points, source, &left(&out), stop)?;
        out.extend(found);
    }
    Ok(out)
}

/// Restore points of the catalogue whose record is lost here, and the chunk that was it.
fn lost_records(repository: &Repository, wanted: &HashSet<ChunkId>) -> Result<Vec<(PointId, ChunkId)>> {
    let mut out = Vec::new();
    for (id, chunk) in repository.index().points()? {
        if wanted.contains(&chunk) || repository.locate(&chunk)?.is_none() {
            out.push((id, chunk));
        }
    }
    Ok(out)
}
