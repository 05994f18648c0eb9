//! Check of packages against themselves and against the index, and with `--read-data` of every stored byte.

use super::finding::{Finding, Kind};
use relict::store::{FoundSegment, Location, PackageInfo, Repository, ScannedPackage, read_segment, scan_package};
use relict::{Error, ErrorKind, Result};
use repo_format::{ChunkId, PackageId};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Counters of a running check.
#[derive(Default)]
pub struct Totals {
    pub packages: AtomicU64,
    pub segments: AtomicU64,
    pub chunks: AtomicU64,
    pub bytes_read: AtomicU64,
}

/// What the index says is there, and the check's view of it.
pub struct PackageCheck<'a> {
    pub repository: &'a Repository,
    pub read_data: bool,
    pub stop: &'a AtomicBool,
    pub totals: &'a Totals,
    findings: Mutex<Vec<Finding>>,
    /// Index entries that point at a chunk that is really there.
    confirmed: AtomicU64,
}

impl<'a> PackageCheck<'a> {
    pub fn new(repository: &'a Repository, read_data: bool, stop: &'a AtomicBool, totals: &'a Totals) -> Self {
        Self { repository, read_data, stop, totals, findings: Mutex::default(), confirmed: AtomicU64::new(0) }
    }

    /// Checks all packages on all cores, each in physical order.
    pub fn run(self) -> Result<Vec<Finding>> {
        // The list first, then the index: a package that a running backup makes is in the index before it exists.
        let present: HashSet<PackageId> = self.repository.packages().list()?.into_iter().collect();
        self.repository.refresh()?;
        let packages = self.repository.index().packages()?;
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(&packages, &present, &next))).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(Error::damaged("a checking thread died"))))
        })?;
        self.strays(&packages, &present);
        self.stale_entries()?;
        Ok(self.findings.into_inner().unwrap_or_else(|e| e.into_inner()))
    }

    fn add(&self, finding: Finding) {
        self.findings.lock().unwrap_or_else(|e| e.into_inner()).push(finding);
    }

    fn work(&self, packages: &[PackageInfo], present: &HashSet<PackageId>, next: &AtomicUsize) -> Result<()> {
        while let Some(info) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the check was stopped before it was done"));
            }
            self.totals.packages.fetch_add(1, Ordering::Relaxed);
            if !present.contains(&info.id) {
                // A package begins in the journal; without bytes there is nothing to lose yet.
                if info.sealed || info.bytes > repo_format::PACKAGE_HEADER_BYTES as u64 {
                    let chunks = self.chunks_in(info.number)?;
                    self.add(Finding::new(Kind::PackageMissing, format!("package {} is missing", info.id)).losing(chunks));
                }
                continue;
            }
            self.package(info)?;
        }
        Ok(())
    }

    fn package(&self, info: &PackageInfo) -> Result<()> {
        let scanned = match scan_package(&**self.repository.packages(), &info.id) {
            Ok(scanned) => scanned,
            // Just begun by a running backup, or by one that was killed: nothing in it counts yet.
            Err(_) if !info.sealed && info.bytes <= repo_format::PACKAGE_HEADER_BYTES as u64 => return Ok(()),
            Err(e) => {
                let chunks = self.chunks_in(info.number)?;
                self.add(Finding::new(Kind::Package, format!("package {} cannot be read: {e}", info.id)).losing(chunks));
                return Ok(());
            }
        };
        self.frame(info, &scanned)?;
        for (at, error) in &scanned.damage {
            // Past what is known durable, an unsealed package may end anywhere.
            if info.sealed || *at < info.bytes {
                let chunks = self.chunks_of(info.number, *at)?;
                self.add(Finding::new(Kind::Segment, format!("package {}, segment at byte {at}: {error}", info.id)).losing(chunks));
            }
        }
        scanned.segments.iter().try_for_each(|found| self.segment(info, found))
    }

    /// Header, footer and length.
    fn frame(&self, info: &PackageInfo, scanned: &ScannedPackage) -> Result<()> {
        let wrong = |what: String| self.add(Finding::new(Kind::Package, format!("package {}: {what}", info.id)));
        let header = &scanned.header;
        if header.repo != self.repository.header().repo || header.kind != info.kind {
            wrong("its header belongs to another repository or kind".into());
        }
        if header.encrypted != self.repository.keys().encrypted() {
            wrong("its header contradicts the repository about encryption".into());
        }
        if info.sealed && scanned.footer.is_none() {
            wrong("its footer is damaged; the segments were found without it".into());
        }
        if info.sealed && scanned.bytes != info.bytes {
            wrong(format!("it has {} bytes, and was sealed with {}", scanned.bytes, info.bytes));
        }
        // What was cut off, or never found behind a damaged header.
        let end = scanned.segments.last().map_or(0, |s| s.offset + s.header.segment_bytes());
        let found: HashSet<u64> = scanned.segments.iter().map(|s| s.offset).collect();
        if scanned.footer.is_none() && (info.sealed || end < info.bytes) {
            let damaged: HashSet<u64> = scanned.damage.iter().map(|(at, _)| *at).collect();
            let lost = self.chunks_where(|at| {
                at.package == info.number && !found.contains(&u64::from(at.offset)) && !damaged.contains(&u64::from(at.offset))
            })?;
            if !lost.is_empty() {
                self.add(Finding::new(Kind::Package, format!("package {}: {} chunks behind the damage were not found", info.id, lost.len())).losing(lost));
            }
        }
        Ok(())
    }

    fn segment(&self, info: &PackageInfo, found: &FoundSegment) -> Result<()> {
        let ids: Vec<ChunkId> = found.header.table.iter().map(|row| row.id).collect();
        let bytes = found.header.segment_bytes() as u32;
        if !info.sealed && found.offset + u64::from(bytes) > info.bytes {
            return Ok(());
        }
        self.totals.segments.fetch_add(1, Ordering::Relaxed);
        self.totals.chunks.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let (mut skip, mut unknown) = (0, 0);
        for (row, at) in found.header.table.iter().zip(self.repository.index().locate_many(&ids)?) {
            let here = Location { package: info.number, offset: found.offset as u32, segment_bytes: bytes, skip, len: row.raw_bytes };
            match at {
                Some(at) if at == here => {
                    self.confirmed.fetch_add(1, Ordering::Relaxed);
                }
                Some(_) => {}
                None => unknown += 1,
            }
            skip += row.raw_bytes;
        }
        if unknown > 0 {
            let what = format!("package {}, segment at byte {}: {unknown} chunks are not in the index", info.id, found.offset);
            self.add(Finding::new(Kind::Index, what));
        }
        if self.read_data { self.content(info, found, bytes) } else { Ok(()) }
    }

    /// Reads a segment, verifies it, and verifies every chunk's id. A failure is read once more, to tell memory from medium.
    fn content(&self, info: &PackageInfo, found: &FoundSegment, bytes: u32) -> Result<()> {
        self.totals.bytes_read.fetch_add(u64::from(bytes), Ordering::Relaxed);
        let (repository, id) = (self.repository, &info.id);
        let read = || read_segment(&**repository.packages(), repository.keys(), id, found.offset, bytes);
        let segment = match read().or_else(|_| read()) {
            Ok(segment) => segment,
            Err(e) => {
                let chunks = found.header.table.iter().map(|row| row.id).collect();
                self.add(Finding::new(Kind::Segment, e.to_string()).losing(chunks));
                return Ok(());
            }
        };
        let mut wrong = Vec::new();
        for (start, row) in segment.rows() {
            let bytes = segment.raw().get(start as usize..(start + row.raw_bytes) as usize).unwrap_or_default();
            if repository.keys().chunk_id(bytes) != row.id {
                wrong.push(row.id);
            }
        }
        if !wrong.is_empty() {
            let what = format!("package {id}, segment at byte {}: {} chunks do not have the content their ids name", found.offset, wrong.len());
            self.add(Finding::new(Kind::Chunk, what).losing(wrong));
        }
        Ok(())
    }

    fn strays(&self, packages: &[PackageInfo], present: &HashSet<PackageId>) {
        let known: HashSet<PackageId> = packages.iter().map(|p| p.id).collect();
        for id in present.difference(&known) {
            let what = format!("package {id} is not in the index");
            match scan_package(&**self.repository.packages(), id) {
                Ok(found) if !found.segments.is_empty() => self.add(Finding::new(Kind::Index, what)),
                _ => self.add(Finding::new(Kind::Stray, what)),
            }
        }
    }

    /// Entries of the index that no segment confirmed. Only looked for one by one when there are any.
    fn stale_entries(&self) -> Result<()> {
        let total = self.repository.index().chunks()?.count() as u64;
        if total == self.confirmed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let lost: HashSet<ChunkId> = {
            let findings = self.findings.lock().unwrap_or_else(|e| e.into_inner());
            findings.iter().flat_map(|f| f.chunks.iter().copied()).collect()
        };
        let mut stale = Vec::new();
        for entry in self.repository.index().chunks()? {
            let (id, at) = entry?;
            if !lost.contains(&id) && !self.really_there(&id, &at) {
                stale.push(id);
            }
        }
        if !stale.is_empty() {
            let what = format!("{} index entries point at places that do not hold their chunk", stale.len());
            self.add(Finding::new(Kind::Index, what).losing(stale));
        }
        Ok(())
    }

    fn really_there(&self, id: &ChunkId, at: &Location) -> bool {
        let segment = self.repository.read_segment(at);
        segment.is_ok_and(|s| s.row_at(at.skip).is_some_and(|row| row.id == *id && row.raw_bytes == at.len))
    }

    fn chunks_in(&self, package: u32) -> Result<Vec<ChunkId>> {
        self.chunks_where(|at| at.package == package)
    }

    fn chunks_of(&self, package: u32, offset: u64) -> Result<Vec<ChunkId>> {
        self.chunks_where(|at| at.package == package && u64::from(at.offset) == offset)
    }

    fn chunks_where(&self, wanted: impl Fn(&Location) -> bool) -> Result<Vec<ChunkId>> {
        let mut out = Vec::new();
        for entry in self.repository.index().chunks()? {
            let (id, at) = entry?;
            if wanted(&at) {
                out.push(id);
            }
        }
        Ok(out)
    }
}
