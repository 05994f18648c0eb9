//! `relict-maint check`: everything SPEC.md promises of a repository, verified; what is not so becomes findings.

mod affected;
mod command;
mod finding;
mod packages;
mod tree;

pub use command::{Options, run};
pub use finding::{Finding, Kind};
use packages::{PackageCheck, Totals};
use relict::catalog::points::{Points, printable, short_id, time_name};
use relict::store::{Repository, key_slots, scan_package};
use relict::{Error, ErrorKind, Result};
use repo_format::{ChunkId, PointRecord, SegmentKind};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a check saw.
pub struct Report {
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// Packages looked at.
    pub packages: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Stored bytes read and verified, with `--read-data`.
    pub bytes_read: u64,
    /// Restore points walked.
    pub points: u64,
    /// Tree entries seen in them.
    pub entries: u64,
}

/// Checks a repository; goes on after damage.
///
/// # Errors
/// When the index cannot be read at all, or the check was stopped. Damage is a finding, not an error.
pub fn check(repository: &Repository, read_data: bool, stop: &AtomicBool) -> Result<Report> {
    let totals = Totals::default();
    let mut findings = slots(repository)?;
    findings.extend(PackageCheck::new(repository, read_data, stop, &totals).run()?);
    let mut records = Vec::new();
    for (id, record) in repository.points()? {
        match record {
            Ok(record) => records.push(PointRecord::clone(&record)),
            Err(e) => findings.push(Finding::new(Kind::Point, format!("the record of restore point {id} cannot be read: {e}"))),
        }
    }
    let points = Points::new(records);
    let mut entries = 0;
    let mut present = HashSet::new();
    for point in points.all() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "the check was stopped before it was done"));
        }
        let (found, count) = tree::TreeCheck::new(repository, point, label(point), &mut present).run()?;
        findings.extend(found);
        entries += count;
    }
    findings.extend(forgotten_records(repository)?);
    name_files(repository, points.all(), &mut findings)?;
    Ok(Report {
        findings,
        packages: totals.packages.into_inner(),
        segments: totals.segments.into_inner(),
        chunks: totals.chunks.into_inner(),
        bytes_read: totals.bytes_read.into_inner(),
        points: points.all().len() as u64,
        entries,
    })
}

/// How people know a restore point.
fn label(point: &PointRecord) -> String {
    format!("restore point {} {} {}:{}", short_id(point), time_name(point.time), printable(&point.host), printable(&point.source))
}

fn slots(repository: &Repository) -> Result<Vec<Finding>> {
    if !repository.keys().encrypted() {
        return Ok(Vec::new());
    }
    let repo = repository.header().repo;
    let judge = |(path, slot): (std::path::PathBuf, Result<repo_format::KeySlot>)| {
        let what = match slot {
            Ok(slot) if slot.repo == repo => return None,
            Ok(_) => "it belongs to another repository".to_owned(),
            Err(e) => e.to_string(),
        };
        Some(Finding::new(Kind::KeySlot, format!("key slot {}: {what}", path.display())))
    };
    Ok(key_slots(repository.path())?.into_iter().filter_map(judge).collect())
}

/// Restore points that packages hold and the catalogue does not.
fn forgotten_records(repository: &Repository) -> Result<Vec<Finding>> {
    let known: HashSet<ChunkId> = repository.index().points()?.into_iter().map(|(_, chunk)| chunk).collect();
    let mut out = Vec::new();
    let metadata = repository.index().packages()?.into_iter().filter(|p| p.sealed && p.kind == repo_format::PackageKind::Meta);
    for info in metadata {
        let Ok(scanned) = scan_package(&**repository.packages(), &info.id) else { continue };
        let points = scanned.segments.iter().filter(|s| s.header.kind == SegmentKind::Point);
        for row in points.flat_map(|s| &s.header.table).filter(|row| !known.contains(&row.id)) {
            out.push(Finding::new(Kind::Index, format!("a restore point record in package {} is not in the catalogue (chunk {})", info.id, row.id)));
        }
    }
    Ok(out)
}

/// Says which files of which points feel each finding.
fn name_files(repository: &Repository, points: &[PointRecord], findings: &mut [Finding]) -> Result<()> {
    let lost: HashSet<ChunkId> = findings.iter().flat_map(|f| f.chunks.iter().copied()).collect();
    if lost.is_empty() {
        return Ok(());
    }
    for point in points {
        let files = affected::files(repository, point, &lost)?;
        for finding in &mut *findings {
            let mut paths: Vec<&String> = finding.chunks.iter().filter_map(|id| files.get(id)).flatten().collect();
            paths.sort();
            paths.dedup();
            finding.affected.extend(paths.into_iter().map(|path| (label(point), path.clone())));
        }
    }
    Ok(())
}
