//! Check of packages against themselves and against the index, both ways, and of every stored byte that is asked for.

use super::finding::{Finding, Kind, Place};
use super::keeper::Keeper;
use super::read::{Seen, look};
use super::table::ChunkTable;
use relict::store::{FoundSegment, Location, PackageInfo, Repository, ScannedPackage, scan_package};
use relict::{Error, ErrorKind, Result};
use repo_format::{ChunkId, PackageFooter, PackageId, PackageKind, SegmentKind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Counters of a running check.
#[derive(Default)]
pub struct Totals {
    pub packages: AtomicU64,
    pub segments: AtomicU64,
    pub chunks: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Packages whose content was read whole.
    pub packages_read: AtomicU64,
    /// Packages whose content was to be read, and was not because time was up.
    pub packages_left: AtomicU64,
}

/// The packages as the index names them, and what is known of them.
pub struct PackageCheck<'a> {
    pub repository: &'a Repository,
    pub table: &'a ChunkTable,
    pub totals: &'a Totals,
    pub stop: &'a AtomicBool,
    /// No new package is read from here on.
    pub deadline: Option<Instant>,
    /// Takes packages whose every byte was read and is right.
    pub keeper: Keeper<'a>,
    /// How many chunks the index has in each package.
    pub indexed: HashMap<u32, u64>,
    pub found: Mutex<Found>,
}

/// What a check of packages brings together.
#[derive(Default)]
pub struct Found {
    pub findings: Vec<Finding>,
    /// Chunks that stand whole in a second place.
    pub spares: HashMap<ChunkId, Location>,
    /// Chunks of the index that stand in packages which it does not know: a new index finds them there.
    pub strayed: HashSet<ChunkId>,
    /// Restore point records that were seen: chunk and package.
    pub records: Vec<(ChunkId, PackageId)>,
    /// Which finding names what is lost at a place.
    blame: HashMap<(u32, Option<u32>), usize>,
    /// Segments that read as zeros, as those do that prune has freed.
    freed: HashSet<(u32, u32)>,
}

/// Index entries that no package confirmed and no finding explains.
#[derive(Default)]
struct Unexplained {
    /// By the segment of zeros that they lead to.
    zeros: BTreeMap<(u32, u32), Vec<ChunkId>>,
    /// They lead into a package that holds something else there.
    stale: Vec<ChunkId>,
    /// They lead into a package that the index does not list.
    homeless: Vec<ChunkId>,
}

impl<'a> PackageCheck<'a> {
    /// Checks all packages on all cores: those of `read` with their content, in that order, then the others.
    pub fn run(&self, packages: &[PackageInfo], present: &HashSet<PackageId>, read: &[PackageInfo]) -> Result<()> {
        let reading: HashSet<u32> = read.iter().map(|p| p.number).collect();
        let rest = packages.iter().filter(|p| !reading.contains(&p.number));
        let work: Vec<(&PackageInfo, bool)> = read.iter().map(|p| (p, true)).chain(rest.map(|p| (p, false))).collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(&work, present, &next))).collect();
            workers
                .into_iter()
                .try_for_each(|w| w.join().unwrap_or_else(|_| Err(Error::damaged("a checking thread died"))))
        })?;
        self.strays(packages, present);
        self.unconfirmed(packages)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, finding: Finding) {
        self.found().findings.push(finding);
    }

    /// Adds a finding that is to name the index entries at a place.
    fn blame(&self, info: &PackageInfo, offset: Option<u64>, finding: Finding) {
        let mut found = self.found();
        let number = found.findings.len();
        found.blame.entry((info.number, offset.map(|at| at as u32))).or_insert(number);
        found.findings.push(finding.at(info.id, offset));
    }

    fn work(&self, work: &[(&PackageInfo, bool)], present: &HashSet<PackageId>, next: &AtomicUsize) -> Result<()> {
        while let Some((info, read)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.totals.packages.fetch_add(1, Ordering::Relaxed);
            let late = *read && self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late {
                self.totals.packages_left.fetch_add(1, Ordering::Relaxed);
            }
            if present.contains(&info.id) {
                self.package(info, *read && !late)?;
            } else if info.sealed || info.bytes > repo_format::PACKAGE_HEADER_BYTES as u64 {
                self.missing(info)?;
            } // else: a package begins in the journal; without bytes there is nothing to lose yet
        }
        Ok(())
    }

    fn missing(&self, info: &PackageInfo) -> Result<()> {
        // Maintenance may have removed it meanwhile, and what was alive in it stands elsewhere.
        self.repository.refresh()?;
        if self.repository.index().packages()?.iter().any(|p| p.id == info.id) {
            self.blame(info, None, Finding::new(Kind::PackageMissing, format!("package {} is missing", info.id)));
        }
        Ok(())
    }

    fn package(&self, info: &PackageInfo, read: bool) -> Result<()> {
        let store = &**self.repository.packages();
        if read {
            store.announce(&info.id);
        }
        let scanned = match scan_package(store, &info.id) {
            Ok(scanned) => scanned,
            // Just begun by a running backup, or by one that was killed: nothing in it counts yet.
            Err(_) if !info.sealed && info.bytes <= repo_format::PACKAGE_HEADER_BYTES as u64 => return Ok(()),
            Err(e) => {
                let finding = Finding::new(Kind::Package, format!("package {} cannot be read: {e}", info.id));
                self.blame(info, None, finding);
                return Ok(());
            }
        };
        let mut sound = self.frame(info, &scanned);
        for (at, error) in &scanned.damage {
            // Past what is known durable, an unsealed package may end anywhere.
            if info.sealed || *at < info.bytes {
                let finding =
                    Finding::new(Kind::Segment, format!("package {}, segment at byte {at}: {error}", info.id));
                self.blame(info, Some(*at), finding);
                sound = false;
            }
        }
        self.found().freed.extend(scanned.freed.iter().map(|(at, _)| (info.number, *at as u32)));
        let mut confirmed = 0;
        for found in &scanned.segments {
            if read && self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let bytes = found.header.segment_bytes();
            if info.sealed || found.offset + bytes <= info.bytes {
                sound &= self.segment(info, found, read, &mut confirmed)?;
            }
        }
        // What the index has here besides is lost; which finding says so is known at the end.
        sound &= confirmed == self.indexed.get(&info.number).copied().unwrap_or(0);
        if read {
            self.totals.packages_read.fetch_add(1, Ordering::Relaxed);
        }
        if read && sound && info.sealed {
            self.keeper.verified(info.id);
        }
        Ok(())
    }

    /// Header, footer and length; true when all of it is right.
    fn frame(&self, info: &PackageInfo, scanned: &ScannedPackage) -> bool {
        let mut wrong = Vec::new();
        let header = &scanned.header;
        if header.repo != self.repository.header().repo || header.kind != info.kind {
            wrong.push("its header belongs to another repository or kind".to_owned());
        }
        if header.encrypted != self.repository.keys().encrypted() {
            wrong.push("its header contradicts the repository about encryption".into());
        }
        match &scanned.footer {
            None if info.sealed => wrong.push("its footer is damaged; the segments were found without it".into()),
            Some(footer) => wrong.extend(footer_problem(footer, scanned)),
            None => {}
        }
        if info.sealed && scanned.bytes != info.bytes {
            wrong.push(format!("it has {} bytes, and was sealed with {}", scanned.bytes, info.bytes));
        }
        if wrong.is_empty() {
            return true;
        }
        let finding = Finding::new(Kind::Package, format!("package {}: {}", info.id, wrong.join("; ")));
        self.blame(info, None, finding);
        false
    }

    /// A segment whose header is whole; true when all that was looked at is right.
    fn segment(&self, info: &PackageInfo, found: &FoundSegment, read: bool, confirmed: &mut u64) -> Result<bool> {
        self.totals.segments.fetch_add(1, Ordering::Relaxed);
        self.totals.chunks.fetch_add(found.header.table.len() as u64, Ordering::Relaxed);
        let in_place = (found.header.kind == SegmentKind::Data) == (info.kind == PackageKind::Data);
        if !in_place {
            let what = format!(
                "package {}, segment at byte {}: it is of a kind that does not belong here",
                info.id, found.offset
            );
            self.add(Finding::new(Kind::Segment, what).at(info.id, Some(found.offset)));
        }
        let lost: HashSet<ChunkId> = if read {
            match self.content(info, found) {
                Some(lost) => lost.into_iter().collect(),
                None => return Ok(false),
            }
        } else {
            HashSet::new()
        };
        *confirmed += self.compare(info, found, &lost);
        Ok(lost.is_empty() && in_place)
    }

    /// Confirms the index entries of a segment's chunks and counts them; `lost` are those that are not what they should be.
    fn compare(&self, info: &PackageInfo, found: &FoundSegment, lost: &HashSet<ChunkId>) -> u64 {
        let bytes = found.header.segment_bytes() as u32;
        let (mut skip, mut unknown, mut confirmed) = (0, 0, 0);
        for row in &found.header.table {
            let here = Location {
                package: info.number,
                offset: found.offset as u32,
                segment_bytes: bytes,
                skip,
                len: row.raw_bytes,
            };
            skip += row.raw_bytes;
            if lost.contains(&row.id) {
                continue;
            }
            match self.table.confirm(&row.id, &here) {
                Some(true) => confirmed += 1,
                Some(false) => {
                    self.found().spares.insert(row.id, here);
                }
                None => unknown += 1,
            }
            if found.header.kind == SegmentKind::Point && !self.is_being_freed(&info.id) {
                self.found().records.push((row.id, info.id));
            }
        }
        // What prune is removing has left the index before its package; the next writer finishes that.
        if unknown > 0 && !self.is_being_freed(&info.id) {
            let what =
                format!("package {}, segment at byte {}: {unknown} chunks are not in the index", info.id, found.offset);
            self.add(Finding::new(Kind::Index, what).at(info.id, Some(found.offset)));
        }
        confirmed
    }

    /// Reads a segment. Gives the chunks that are not what their ids name, or None when it cannot be read at all.
    fn content(&self, info: &PackageInfo, found: &FoundSegment) -> Option<Vec<ChunkId>> {
        let (offset, bytes) = (found.offset, found.header.segment_bytes() as u32);
        let seen = look(&**self.repository.packages(), self.repository.keys(), &info.id, offset, bytes);
        self.totals.bytes_read.fetch_add(u64::from(bytes), Ordering::Relaxed);
        match seen {
            Seen::Whole => Some(Vec::new()),
            Seen::Unstable(error) => {
                let what = format!(
                    "package {}, segment at byte {offset} was wrong when it was read first ({error}) and right the second time",
                    info.id
                );
                self.add(Finding::new(Kind::Unstable, what).at(info.id, Some(offset)));
                Some(Vec::new())
            }
            Seen::Forged(wrong) => {
                let what = format!(
                    "package {}, segment at byte {offset}: {} chunks do not have the content their ids name",
                    info.id,
                    wrong.len()
                );
                self.blame(info, Some(offset), Finding::new(Kind::Chunk, what));
                Some(wrong)
            }
            Seen::Damaged { error, medium } => {
                let twice = if medium {
                    "; read twice from the medium, wrong both times"
                } else {
                    "; wrong both times it was read"
                };
                self.blame(info, Some(offset), Finding::new(Kind::Segment, format!("{error}{twice}")));
                None
            }
        }
    }

    fn is_being_freed(&self, id: &PackageId) -> bool {
        self.repository.index().freeing().is_ok_and(|all| all.iter().any(|(_, package)| package == id))
    }

    fn strays(&self, packages: &[PackageInfo], present: &HashSet<PackageId>) {
        let known: HashSet<PackageId> = packages.iter().map(|p| p.id).collect();
        let mut strays: Vec<&PackageId> = present.difference(&known).collect();
        strays.sort_unstable();
        for id in strays.into_iter().filter(|id| !self.is_being_freed(id)) {
            let what = format!("package {id} is not in the index");
            match scan_package(&**self.repository.packages(), id) {
                Ok(found) if !found.segments.is_empty() => {
                    let rows = found.segments.iter().flat_map(|segment| &segment.header.table).map(|row| row.id);
                    self.found().strayed.extend(rows.filter(|id| self.table.locate(id).is_some()));
                    self.add(Finding::new(Kind::Index, what).at(*id, None));
                }
                _ => self.add(Finding::new(Kind::Stray, what).at(*id, None)),
            }
        }
    }

    /// Index entries that no package confirmed, each named by the finding that explains it. One pass, and only when there are any.
    fn unconfirmed(&self, packages: &[PackageInfo]) -> Result<()> {
        if self.table.confirmed() == self.table.len() || self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let known: HashMap<u32, PackageId> = packages.iter().map(|p| (p.number, p.id)).collect();
        let (mut rest, mut tried) = (Unexplained::default(), HashSet::new());
        let mut found = self.found();
        for entry in self.repository.index().chunks()? {
            let (id, at) = entry?;
            // What was written since the check began is not the check's business.
            if self.table.is_confirmed(&id, &at) || self.table.locate(&id) != Some(at) {
                continue;
            }
            let place = (at.package, at.offset);
            if let Some(number) = found.blame.get(&(place.0, Some(place.1))).copied() {
                found.lose(number, id);
            } else if found.freed.contains(&place) {
                rest.zeros.entry(place).or_default().push(id);
            } else if let Some(number) = found.blame.get(&(place.0, None)).copied() {
                found.lose(number, id);
                // Of a package that is wrong as a whole, reading tells what is lost of it, and notes that for the next backup.
                if tried.insert(place) {
                    let _ = self.repository.read_segment(&at);
                }
            } else if known.contains_key(&at.package) {
                rest.stale.push(id);
            } else {
                rest.homeless.push(id);
            }
        }
        found.explain(rest, &known);
        Ok(())
    }
}

impl Found {
    fn lose(&mut self, number: usize, id: ChunkId) {
        let spare = usize::from(self.stands_elsewhere(&id));
        if let Some(finding) = self.findings.get_mut(number) {
            finding.chunks.push(id);
            finding.spare += spare;
        }
    }

    fn stands_elsewhere(&self, id: &ChunkId) -> bool {
        self.spares.contains_key(id) || self.strayed.contains(id)
    }

    /// Findings for entries that no other finding explains. A segment of zeros of which all stands elsewhere was moved and then
    /// freed, and the index is older than that; of another one the content is lost.
    fn explain(&mut self, mut rest: Unexplained, packages: &HashMap<u32, PackageId>) {
        for ((package, offset), ids) in std::mem::take(&mut rest.zeros) {
            let lost = ids.iter().any(|id| !self.stands_elsewhere(id));
            let Some(package) = packages.get(&package).filter(|_| lost) else {
                rest.stale.extend(ids);
                continue;
            };
            let what =
                format!("package {package}, segment at byte {offset}: it reads as zeros, and nobody has freed it");
            let spare = ids.iter().filter(|id| self.stands_elsewhere(id)).count();
            let finding = Finding::new(Kind::Segment, what).at(*package, Some(u64::from(offset))).losing(ids);
            self.findings.push(Finding { spare, ..finding });
        }
        for (ids, what) in [
            (rest.stale, "point at places that do not hold their chunk"),
            (rest.homeless, "name a package that the index does not list"),
        ] {
            let (there, lost): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.stands_elsewhere(id));
            if !there.is_empty() {
                let finding = Finding::new(Kind::Index, format!("{} index entries {what}", there.len()));
                self.findings.push(Finding { spare: there.len(), ..finding.losing(there) });
            }
            if !lost.is_empty() {
                let what = format!("{} index entries {what}, and nothing else holds it", lost.len());
                self.findings.push(Finding::new(Kind::Index, what).losing(lost));
            }
        }
    }

    /// The places that are damaged, in order of their findings.
    pub fn damaged_places(&self) -> impl Iterator<Item = Place> {
        let broken =
            |f: &&Finding| matches!(f.kind, Kind::Package | Kind::Segment | Kind::Chunk | Kind::PackageMissing);
        self.findings.iter().filter(broken).filter_map(|f| f.place)
    }
}

/// The footer says how many chunks a segment has; the segment's own table decides.
fn footer_problem(footer: &PackageFooter, scanned: &ScannedPackage) -> Option<String> {
    let rows: HashMap<u64, u32> = footer.entries.iter().map(|e| (e.offset, e.chunks)).collect();
    let differs = |s: &&FoundSegment| rows.get(&s.offset).is_some_and(|n| *n as usize != s.header.table.len());
    let wrong = scanned.segments.iter().filter(differs).count();
    (wrong > 0).then(|| format!("its footer counts the chunks of {wrong} segments wrongly"))
}

/// An error when the check was told to stop.
pub fn interrupted(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Interrupted, "the check was stopped before it was done"));
    }
    Ok(())
}
