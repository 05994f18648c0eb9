//! Every byte of a repository of 64 MiB is flipped once (a sample of `make test`: of 1 MiB).
//!
//! A run of the programs for each of 67 million bytes would take a year. So the bytes are flipped under the functions by
//! which the programs read: all content that a mount, a restore or `check --read-data` ever sees has come through
//! `read_segment`, which must refuse; what is not segments of a package, its header and footer, is read by `scan_package`,
//! which must say that something is wrong. The segments are small, so that one flip costs the cipher 4 KiB and not 256. That
//! the programs say what these functions say, `rot.rs` shows by samples of whole runs.

use crate::golden::Shape;
use crate::rig::Random;
use crate::run::Verdict;
use crate::scene::{PASSWORD, place};
use crate::table;
use relict::store::{OpenOptions, PackageStore, Repository, read_segment, scan_package};
use relict::{Error, Result};
use repo_format::PackageId;
use std::ops::Range;
use std::path::Path;

/// Bytes of a job, in segments and around them.
const PIECE_BYTES: usize = 64 << 10;
const FRAME_BYTES: usize = 256;

/// One package in memory, with one bit that is wrong.
struct Flipped<'a> {
    bytes: &'a [u8],
    at: u64,
    mask: u8,
}

impl PackageStore for Flipped<'_> {
    fn read(&self, _: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = offset as usize;
        let part = self.bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or_else(|| Error::damaged("the package ends too early"))?);
        if let Some(byte) = self.at.checked_sub(offset).and_then(|at| buffer.get_mut(at as usize)) {
            *byte ^= self.mask;
        }
        Ok(())
    }

    fn len(&self, _: &PackageId) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn create(&self, _: &PackageId) -> Result<()> {
        unreachable!()
    }

    fn append(&self, _: &PackageId, _: u64, _: &[&[u8]]) -> Result<()> {
        unreachable!()
    }

    fn sync(&self, _: &PackageId) -> Result<()> {
        unreachable!()
    }

    fn seal(&self, _: &PackageId) -> Result<()> {
        unreachable!()
    }

    fn list(&self) -> Result<Vec<PackageId>> {
        unreachable!()
    }

    fn delete(&self, _: &PackageId) -> Result<()> {
        unreachable!()
    }

    fn free(&self, _: &PackageId, _: &[(u64, u64)], _: bool) -> Result<u64> {
        unreachable!()
    }

    fn frees_parts(&self, _: &PackageId) -> Result<bool> {
        unreachable!()
    }

    fn room(&self, _: &PackageId, _: &[(u64, u64)]) -> Result<u64> {
        unreachable!()
    }

    fn occupied(&self, _: &PackageId) -> Result<u64> {
        unreachable!()
    }
}

struct Package {
    id: PackageId,
    bytes: Vec<u8>,
    /// First byte and length of every segment, in order.
    segments: Vec<(u64, u32)>,
}

impl Package {
    fn all(repository: &Repository, repo: &Path) -> Vec<Self> {
        let one = |id: PackageId| {
            let name = id.to_string();
            let bytes = std::fs::read(repo.join("packages").join(&name[..2]).join(format!("{name}.pkg"))).unwrap();
            let whole = Flipped { bytes: &bytes, at: u64::MAX, mask: 0 };
            let scanned = scan_package(&whole, &id).unwrap();
            assert!(scanned.footer.is_some() && scanned.damage.is_empty());
            let place = |found: &relict::store::FoundSegment| (found.offset, found.header.segment_bytes() as u32);
            let segments: Vec<(u64, u32)> = scanned.segments.iter().map(place).collect();
            for (at, len) in &segments {
                assert!(read_segment(&whole, repository.keys(), &id, *at, *len).is_ok());
            }
            Self { id, bytes, segments }
        };
        repository.packages().list().unwrap().into_iter().map(one).collect()
    }

    /// Whether somebody who reads notices that one bit is wrong.
    fn is_noticed(&self, repository: &Repository, at: u64, mask: u8) -> bool {
        let store = Flipped { bytes: &self.bytes, at, mask };
        let number = self.segments.partition_point(|(start, _)| *start <= at);
        match number
            .checked_sub(1)
            .map(|number| self.segments[number])
            .filter(|(start, len)| at - start < u64::from(*len))
        {
            Some((start, len)) => read_segment(&store, repository.keys(), &self.id, start, len).is_err(),
            None => scan_package(&store, &self.id).map_or(true, |scanned| {
                scanned.footer.is_none()
                    || !scanned.damage.is_empty()
                    || scanned.belongs_to(repository.header().repo, true).is_err()
            }),
        }
    }
}

fn every_byte(bytes: u64, encrypt: bool) {
    let mut random = Random::from_env();
    let (dir, chunk_bytes, chunks_in_file) = (place(), 4096, 16);
    let files = bytes / (chunk_bytes as u64 * chunks_in_file);
    let repo = dir.path().join("repo");
    Shape { files, chunks_in_file, chunk_bytes, chunks_in_segment: 1, encrypt }.make(&repo);
    let mut unlock = || Ok(PASSWORD.as_bytes().to_vec());
    let repository = Repository::open(&repo, &mut unlock, &OpenOptions::default()).unwrap();
    let packages = Package::all(&repository, &repo);
    let total: usize = packages.iter().map(|package| package.bytes.len()).sum();
    assert!(total as u64 >= bytes, "{total} bytes");
    let pieces = |(number, package): (usize, &Package)| {
        let (from, to) =
            (package.segments[0].0 as usize, package.segments.last().map_or(0, |(at, len)| at + u64::from(*len)));
        let (to, end) = (to as usize, package.bytes.len());
        let cut = |range: Range<usize>, step| {
            range.clone().step_by(step).map(move |at| (number, at..(at + step).min(range.end))).collect::<Vec<_>>()
        };
        // What is not in a segment costs a scan of the whole package each time.
        [cut(0..from, FRAME_BYTES), cut(from..to, PIECE_BYTES), cut(to..end, FRAME_BYTES)].concat()
    };
    let jobs: Vec<(usize, Range<usize>)> = packages.iter().enumerate().flat_map(pieces).collect();
    assert_eq!(jobs.iter().map(|(_, range)| range.len()).sum::<usize>(), total);
    let jobs = table::sample(jobs, usize::MAX, &mut random);
    let seed = random.next();
    let name = format!("rot: every byte of {total}{}", if encrypt { "" } else { ", not encrypted" });
    table::row_of(
        &name,
        &jobs,
        |(_, range)| range.len(),
        |(number, range), say| {
            let mut verdict = Verdict::default();
            let mut random = Random::of(seed ^ range.start as u64);
            for at in range.clone() {
                let mask = 1 << random.below(8);
                if !packages[*number].is_noticed(&repository, at as u64, mask) {
                    say(format!("byte {at} of package {}, bits {mask:#x}: nobody notices", packages[*number].id));
                    verdict.undetected += 1;
                }
            }
            verdict
        },
    );
}

#[test]
fn every_byte_that_rots_is_noticed() {
    every_byte(if table::all() { 64 << 20 } else { 1 << 20 }, true);
}

#[test]
fn every_byte_that_rots_is_noticed_without_encryption() {
    every_byte(if table::all() { 8 << 20 } else { 512 << 10 }, false);
}
