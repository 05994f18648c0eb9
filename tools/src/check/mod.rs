//! `relict-maint check`: everything SPEC.md promises of a repository, verified; what is not so becomes findings.

mod affected;
mod command;
mod finding;
mod keeper;
mod packages;
mod read;
mod rot;
mod select;
mod shared;
mod table;
mod tree;

pub use affected::{Names, readable_entries};
pub use command::{Options, run, show_findings};
pub use finding::{AFFECTED_SHOWN, Affected, Finding, Kind, Mend, Severity};
pub use packages::Totals;
pub use select::{Selection, oldest};
pub use tree::{DAMAGED, LostRange, describe_range};

use keeper::Keeper;
use packages::{PackageCheck, interrupted};
use relict::Result;
use relict::catalog::points::{Points, printable, short_id, time_name};
use relict::store::{Location, Repository, key_slots};
use repo_format::{ChunkId, PackageId, PointId, PointRecord, Time};
use shared::SharedCheck;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
pub use table::ChunkTable;
use tree::{TreeCheck, TreeReport};

/// What to check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// What of the content is read.
    pub content: Selection,
    /// After this time no further package is read.
    pub max_duration: Option<Duration>,
    /// How often it is written down what was verified, so that a check that is killed did not work in vain.
    pub keep_every: Option<Duration>,
}

/// What a check saw.
pub struct Report {
    /// Everything that is wrong or worth knowing.
    pub findings: Vec<Finding>,
    /// Counters.
    pub totals: Arc<Totals>,
    /// Restore points walked.
    pub points: u64,
    /// Tree entries seen in them.
    pub entries: u64,
    /// Packages read whole and found sound, that are not written down yet.
    pub verified: Vec<(PackageId, i64)>,
    /// Key ranges of trees that cannot be read, by restore point.
    pub lost: HashMap<PointId, Vec<LostRange>>,
    /// Damaged packages, each once.
    pub damaged: Vec<PackageId>,
    /// Chunks that stand in a second place, which no index entry names.
    pub spares: HashMap<ChunkId, Location>,
    /// Chunks that stand in packages which the index does not know.
    pub strayed: HashSet<ChunkId>,
}

impl Report {
    /// The segments that are damaged: package number and offset. Those of findings, and what could not be read on the way
    /// through trees and packages.
    pub fn damaged_segments(&self, repository: &Repository) -> Result<Vec<(u32, u32)>> {
        let numbers: HashMap<PackageId, u32> =
            repository.index().packages()?.into_iter().map(|p| (p.id, p.number)).collect();
        let of_content = self.findings.iter().filter(|f| matches!(f.kind, Kind::Segment | Kind::Chunk));
        let place = |f: &Finding| {
            let place = f.place?;
            Some((*numbers.get(&place.package)?, u32::try_from(place.offset?).ok()?))
        };
        let listed: HashSet<u32> = numbers.values().copied().collect();
        let met = repository.damaged().into_iter().filter(|(package, _)| listed.contains(package));
        let all: BTreeSet<(u32, u32)> = of_content.filter_map(place).chain(met).collect();
        Ok(all.into_iter().collect())
    }

    /// How many findings have this severity.
    pub fn count(&self, severity: Severity) -> u64 {
        self.findings.iter().filter(|f| f.kind.severity() == severity).count() as u64
    }
}

/// Seconds since 1970.
pub fn now_sec() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

/// Checks a repository; goes on after damage.
///
/// # Errors
/// When the index cannot be read at all. Damage is a finding, not an error. A check that `stop` ends early gives what it saw
/// so far; the caller asks `stop`.
pub fn check(repository: &Repository, request: Request, totals: &Arc<Totals>, stop: &AtomicBool) -> Result<Report> {
    let mut findings = slots(repository)?;
    // The list first, then the index: a package that a running backup makes is in the index before it exists.
    let present: HashSet<PackageId> = repository.packages().list()?.into_iter().collect();
    repository.refresh()?;
    let packages = repository.index().packages()?;
    // Forgotten ones too: they can be brought back.
    let records = repository.all_points()?;
    let table = ChunkTable::load(repository.index())?;
    let read = request.content.choose(&packages, &repository.index().health()?, now_sec());
    let deadline = crate::maint::deadline(request.max_duration);
    let keeper = Keeper::new(repository, request.keep_every);
    let indexed = table.in_packages();
    let found = Mutex::default();
    let run = PackageCheck { repository, table: &table, totals, stop, deadline, keeper, indexed, found };
    run.run(&packages, &present, &read)?;
    let verified = run.keeper.left();
    let mut found = run.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut damaged: Vec<PackageId> = found.damaged_places().map(|place| place.package).collect();
    damaged.sort_unstable();
    damaged.dedup();
    findings.append(&mut found.findings);
    let points = readable(records, &mut findings);
    let trees = if interrupted(stop).is_ok() { trees(repository, &table, points.all(), stop)? } else { Vec::new() };
    let mut report = Report {
        findings,
        totals: Arc::clone(totals),
        points: trees.len() as u64,
        entries: trees.iter().map(|t| t.entries).fold(0, u64::saturating_add),
        verified,
        lost: HashMap::new(),
        damaged,
        spares: found.spares,
        strayed: found.strayed,
    };
    for (point, tree) in points.all().iter().zip(trees) {
        report.findings.extend(tree.findings);
        if !tree.lost.is_empty() {
            report.lost.insert(point.id, tree.lost);
        }
    }
    report.findings.extend(forgotten_records(repository, &found.records)?);
    if interrupted(stop).is_ok() {
        report.findings.extend(rotten_files(repository, points.all())?);
        name_files(repository, points.all(), &mut report)?;
    }
    // Threads find things in any order; people read them in one.
    report
        .findings
        .sort_by_key(|f| (f.kind.severity() == Severity::Warning, f.kind, f.place.map(|p| (p.package, p.offset))));
    Ok(report)
}

type Records = Vec<(PointId, Result<Arc<PointRecord>>)>;

fn readable(records: Records, findings: &mut Vec<Finding>) -> Points {
    let mut out = Vec::new();
    for (id, record) in records {
        match record {
            Ok(record) => out.push(PointRecord::clone(&record)),
            Err(e) => findings
                .push(Finding::new(Kind::Point, format!("the record of restore point {id} cannot be read: {e}"))),
        }
    }
    Points::new(out)
}

/// The records of all restore points that can be read, forgotten ones too: until a prune they are whole.
pub fn all_records(repository: &Repository) -> Result<Vec<PointRecord>> {
    let all = repository.all_points()?.into_iter();
    Ok(all.filter_map(|(_, record)| record.ok()).map(|record| PointRecord::clone(&record)).collect())
}

/// How people know a restore point.
pub fn label(point: &PointRecord) -> String {
    format!(
        "restore point {} {} {}:{}",
        short_id(point),
        time_name(point.time),
        printable(&point.host),
        printable(&point.source)
    )
}

fn slots(repository: &Repository) -> Result<Vec<Finding>> {
    if !repository.keys().encrypted() {
        return Ok(Vec::new());
    }
    let repo = repository.header().repo;
    let judge = |(path, slot): (std::path::PathBuf, Result<repo_format::KeySlot>)| {
        let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let what = match slot {
            Ok(slot) if slot.repo != repo => "it belongs to another repository".to_owned(),
            Ok(slot) if relict::store::slot_name(&slot) != name => "its name is not that of its salt".to_owned(),
            Ok(_) => return None,
            Err(e) => e.to_string(),
        };
        Some(Finding::new(Kind::KeySlot, format!("key slot {name}: {what}")))
    };
    Ok(key_slots(repository.path())?.into_iter().filter_map(judge).collect())
}

/// All trees, on all cores, in the order of `points`. Those that are sound are known to be by their nodes, each looked at once;
/// the others are walked one by one. None after an interruption.
fn trees(
    repository: &Repository,
    table: &ChunkTable,
    points: &[PointRecord],
    stop: &AtomicBool,
) -> Result<Vec<TreeReport>> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let sound = SharedCheck::new(repository, table, stop).run(points, threads);
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, TreeReport)>> {
        let mut out = Vec::new();
        while let Some((number, (point, sound))) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, points.iter().zip(&sound).nth(n)?)))
        {
            if interrupted(stop).is_err() {
                break;
            }
            let report = match sound {
                Some(entries) => TreeReport { entries: *entries, ..TreeReport::default() },
                None => TreeCheck::new(repository, table, point, label(point)).run()?,
            };
            out.push((number, report));
        }
        Ok(out)
    };
    let mut all = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let died = || Err(relict::Error::damaged("a checking thread died"));
        let parts: Result<Vec<_>> = workers.into_iter().map(|w| w.join().unwrap_or_else(|_| died())).collect();
        parts.map(|parts| parts.into_iter().flatten().collect::<Vec<_>>())
    })?;
    if interrupted(stop).is_err() {
        return Ok(Vec::new());
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, report)| report).collect())
}

/// Restore points that packages hold and the catalogue does not.
fn forgotten_records(repository: &Repository, seen: &[(ChunkId, PackageId)]) -> Result<Vec<Finding>> {
    let known: HashSet<ChunkId> = repository.index().points()?.into_iter().map(|(_, chunk)| chunk).collect();
    let unknown: Vec<_> = seen.iter().filter(|(chunk, _)| !known.contains(chunk)).collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let sealed: HashMap<PointId, Time> = all_records(repository)?.into_iter().map(|p| (p.id, p.sealed)).collect();
    let unknown = unknown.into_iter().filter(|(chunk, _)| !superseded(repository, chunk, &sealed));
    let named = unknown.map(|(chunk, package)| {
        let what = format!("a restore point record in package {package} is not in the catalogue (chunk {chunk})");
        Finding::new(Kind::Index, what).at(*package, None)
    });
    Ok(named.collect())
}

/// Whether a record was replaced by a later one of the same point, as repair and thinning do (SPEC.md section 8).
fn superseded(repository: &Repository, chunk: &ChunkId, sealed: &HashMap<PointId, Time>) -> bool {
    let record = repository.chunk(chunk).ok().and_then(|bytes| PointRecord::decode(&bytes).ok());
    record.is_some_and(|old| sealed.get(&old.id).is_some_and(|new| *new >= old.sealed))
}

/// Says which files changed at the source without a trace in their attributes.
fn rotten_files(repository: &Repository, points: &[PointRecord]) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    for (number, new) in points.iter().enumerate() {
        let before = points.iter().take(number).rev();
        let Some(old) = before.into_iter().find(|p| new.parent == Some(p.id)) else { continue };
        // A tree that cannot be compared is damaged, and reported as that.
        let Ok(inodes) = rot::rotten(repository, old, new) else { continue };
        if inodes.is_empty() {
            continue;
        }
        let what = format!(
            "{}: the content of {} differs from {} although size, mtime and ctime do not",
            label(new),
            relict::cli::text::counted(inodes.len() as u64, "file"),
            short_id(old)
        );
        let mut finding = Finding::new(Kind::SourceRot, what);
        let paths = rot::paths(repository, new, &inodes)?;
        finding.affected = paths.into_iter().map(|path| Affected { point: label(new), path }).collect();
        out.push(finding);
    }
    Ok(out)
}

/// Says which files of which points feel each finding.
fn name_files(repository: &Repository, points: &[PointRecord], report: &mut Report) -> Result<()> {
    let lost: HashSet<ChunkId> = report.findings.iter().flat_map(|f| f.chunks.iter().copied()).collect();
    if lost.is_empty() {
        return Ok(());
    }
    for point in points {
        let ranges = report.lost.get(&point.id).map_or(&[][..], Vec::as_slice);
        let files = affected::files(repository, point, &lost, ranges)?;
        for finding in &mut report.findings {
            let mut paths: Vec<&String> = finding.chunks.iter().filter_map(|id| files.get(id)).flatten().collect();
            paths.sort();
            paths.dedup();
            // A finding of one tree's node names the files of that tree alone.
            let other_tree = finding.affected.first().is_some_and(|a| a.point != label(point));
            if finding.kind != Kind::KnownLoss && !(finding.kind == Kind::Node && other_tree) {
                finding
                    .affected
                    .extend(paths.into_iter().map(|path| Affected { point: label(point), path: path.clone() }));
            }
        }
    }
    Ok(())
}
