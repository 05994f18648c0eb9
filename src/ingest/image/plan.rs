//! What of a disk is to be read: the ranges that a bitmap or list names, or everything.
//!
//! Change tracking is believed only where it says against which state it is, and the repository has that state;
//! a few places that should be unchanged are compared with it. In every other case the whole disk is read and
//! compared, and the restore point says why (SPEC.md section 15).

use super::base::{BaseDisk, overlap};
use super::extents::{ChangedRange, ExtentList, MAX_LIST_BYTES, parse};
use super::nbd::session::{DIRTY_BITMAP, Session};
use super::source::{BlockSource, NbdDisk};
use super::states;
use crate::catalog::points::{Filter, Points, printable, short_id};
use crate::store::Repository;
use crate::{Error, ErrorKind, Result};
use repo_format::PointRecord;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Set in the answers of a dirty bitmap where a range was written to.
const NBD_DIRTY: u32 = 1;
/// Places that are compared with the base before a list is believed.
const SAMPLES: u64 = 16;
/// States that a note names.
const LISTED: usize = 8;

/// Where it is said what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// In a dirty bitmap of this name, on the NBD server.
    Bitmap(String),
    /// In a file.
    List(PathBuf),
}

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// The state to begin from; None to begin from nothing.
    pub(super) parent: Option<Vec<u8>>,
    /// What is not as in that state.
    pub(super) ranges: Vec<ChangedRange>,
    /// How this came about.
    pub(super) note: String,
}

impl Plan {
    /// All of a disk is read, and compared with nothing.
    pub(super) fn from_nothing(size: u64) -> Self {
        let all = ChangedRange { offset: 0, len: size, zero: false };
        Self { parent: None, ranges: if size > 0 { vec![all] } else { Vec::new() }, note: String::new() }
    }
}

/// What a plan is made from.
pub(super) struct Planner<'a> {
    pub(super) repository: &'a Repository,
    pub(super) points: &'a Points,
    pub(super) host: &'a [u8],
    pub(super) source: &'a [u8],
    /// Name of the disk's file.
    pub(super) name: &'a [u8],
    /// What the user says the base is.
    pub(super) base: Option<&'a [u8]>,
    /// Ranges that read as zeros in this run.
    pub(super) zeros: &'a [Range<u64>],
}

/// Why a list is not used. An error is something else: then the disk itself cannot be read.
type Distrust<T> = Result<std::result::Result<T, String>>;

impl Planner<'_> {
    /// A plan for a disk; `changes` is what was asked for, and what came of it.
    pub(super) fn plan(&self, disk: &mut dyn BlockSource, changes: Option<(String, Distrusted)>) -> Result<Plan> {
        let Some((what, list)) = changes else {
            let plan = self.everything(disk.size())?;
            let why = if plan.parent.is_some() {
                "no list of what changed was given"
            } else {
                "there was no restore point to compare with"
            };
            return Ok(Plan { note: format!("read completely: {why}"), ..plan });
        };
        let planned = match list {
            Ok(list) => self.difference(disk, &what, list)?,
            Err(why) => Err(why),
        };
        match planned {
            Ok(plan) => Ok(plan),
            Err(why) => Ok(Plan {
                note: format!("read and compared completely: {what} was not used: {why}"),
                ..self.everything(disk.size())?
            }),
        }
    }

    /// Everything is read, and compared with the newest state of the disk.
    fn everything(&self, size: u64) -> Result<Plan> {
        let mut parent = None;
        for point in self.chain() {
            let Some(state) = states::id(point) else { continue };
            match BaseDisk::open(self.repository, point, self.name) {
                Ok(None) => continue,
                Ok(Some(_)) => {}
                // One whose tree is damaged is nothing to go by.
                Err(error) if error.is_loss() => continue,
                Err(error) => return Err(error),
            }
            parent = Some(state.to_vec());
            break;
        }
        Ok(Plan { parent, ..Plan::from_nothing(size) })
    }

    /// The points of the source, newest first.
    fn chain(&self) -> impl Iterator<Item = &PointRecord> {
        let ours = |point: &&PointRecord| point.host == self.host && point.source == self.source;
        self.points.all().iter().rev().filter(ours)
    }

    fn difference(&self, disk: &mut dyn BlockSource, what: &str, list: ExtentList) -> Distrust<Plan> {
        let size = disk.size();
        if let Some(listed) = list.size.filter(|listed| *listed != size) {
            return Ok(Err(format!("it is of a disk of {listed} bytes, and this one has {size}")));
        }
        let point = match self.base_of(&list)? {
            Ok(point) => point,
            Err(why) => return Ok(Err(why)),
        };
        let base = match BaseDisk::open(self.repository, point, self.name) {
            Ok(Some(base)) => base,
            Ok(None) => {
                return Ok(Err(format!("the restore point {} has no file {}", short_id(point), printable(self.name))));
            }
            Err(error) => return distrust_of(point, error),
        };
        let mut ranges = list.ranges;
        if let Some(beyond) = ranges.iter().find(|range| range.offset >= size && !range.zero) {
            return Ok(Err(format!("it names a range at {}, and the disk has {size} bytes", beyond.offset)));
        }
        let left_out = states::left_out(point);
        let damaged = match self.compare(disk, &base, &ranges, &left_out) {
            Ok(Ok(damaged)) => damaged,
            Ok(Err(why)) => return Ok(Err(why)),
            Err(error) => return distrust_of(point, error),
        };
        let bytes_of = |ranges: &[ChangedRange]| ranges.iter().map(|range| range.len).sum::<u64>();
        let mut note = format!(
            "by differences: {what}, {} bytes in {} ranges, against the state '{}' (restore point {})",
            bytes_of(&ranges),
            ranges.len(),
            printable(states::id(point).unwrap_or_default()),
            short_id(point)
        );
        if !damaged.is_empty() {
            note += &format!(
                "; {} bytes, met when its base was compared with the disk, were damaged in the repository and were read again \
                 from the source",
                bytes_of(&damaged)
            );
        }
        if base.size() < size {
            // Producers do not agree on whether what was added is marked.
            ranges.push(ChangedRange { offset: base.size(), len: size - base.size(), zero: false });
        }
        ranges.retain_mut(|range| {
            range.len = range.len.min(size.saturating_sub(range.offset));
            range.len > 0
        });
        ranges.extend(damaged);
        let kept = left_out.into_iter().filter(|range| !self.zeros.contains(range));
        ranges.extend(kept.filter(|range| range.start < size).map(|range| ChangedRange {
            offset: range.start,
            len: range.end.min(size) - range.start,
            zero: false,
        }));
        Ok(Ok(Plan { parent: states::id(point).map(<[u8]>::to_vec), ranges, note }))
    }

    /// The point that a list is against: by what the user says, else by what the list says.
    fn base_of(&self, list: &ExtentList) -> Distrust<&PointRecord> {
        let Some(name) = self.base.or(list.base.as_deref()) else {
            return Ok(Err("it does not say against which state it is; --base says it".into()));
        };
        let named = |point: &&PointRecord| states::id(point) == Some(name);
        if let Some(point) = self.chain().find(named) {
            return Ok(Ok(point));
        }
        if let (Some(expression), Ok(text)) = (self.base, std::str::from_utf8(name)) {
            let filter =
                Filter { host: Some(self.host.to_vec()), source: Some(self.source.to_vec()), tags: Vec::new() };
            if let Ok(point) = self.points.resolve(text, &filter) {
                let newest = self.chain().find(|other| states::id(other) == states::id(point)).map(|other| other.id);
                if states::id(point).is_some() && newest == Some(point.id) {
                    return Ok(Ok(point));
                }
                let what = format!("a newer restore point has the same state as '{}'", printable(expression));
                return Err(
                    Error::new(ErrorKind::Usage, what).advise("name the state of another restore point by --base")
                );
            }
        }
        let mut there: Vec<String> =
            self.chain().filter_map(states::id).map(|state| format!("'{}'", printable(state))).collect();
        let more = there.len().saturating_sub(LISTED);
        there.truncate(LISTED);
        let more = if more > 0 { format!(" and {more} older ones") } else { String::new() };
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Ok(Err(format!(
            "no restore point of this source is its base, the state '{}' (there: {there}{more})",
            printable(name)
        )))
    }

    /// Compares places that should be as in the base. Nothing is asked of what was or is left out. What of the base cannot be
    /// read says nothing, and is what comes back: it is to be read from the disk again.
    fn compare(
        &self,
        disk: &mut dyn BlockSource,
        base: &BaseDisk<'_>,
        ranges: &[ChangedRange],
        left_out: &[Range<u64>],
    ) -> Distrust<Vec<ChangedRange>> {
        let end = base.size().min(disk.size());
        let step = (end / SAMPLES).max(1);
        let changed = |range: &Range<u64>| {
            let first = ranges.partition_point(|changed| changed.offset + changed.len <= range.start);
            ranges.get(first).is_some_and(|changed| changed.offset < range.end)
                || self.zeros.iter().chain(left_out).any(|zeros| overlap(zeros, range))
        };
        let (mut damaged, mut agrees) = (Vec::new(), false);
        for sample in 0..SAMPLES {
            // Spread over the disk, and at other places from base to base.
            let from = step * sample + base.seed().rotate_left(sample as u32 * 5) % step;
            let Some((offset, extent)) = base.extent_from(from)? else { break };
            let range = offset..offset + u64::from(extent.len);
            if range.end > end || changed(&range) {
                continue;
            }
            match base.agrees(disk, offset, &extent)? {
                Some(true) => agrees = true,
                Some(false) => {
                    return Ok(Err(format!(
                        "the disk differs from its base at {offset}, where nothing should have changed: it is another base's"
                    )));
                }
                None => damaged.push(ChangedRange { offset, len: u64::from(extent.len), zero: false }),
            }
        }
        // Behind a hole, several samples come upon one extent.
        damaged.dedup_by_key(|range| range.offset);
        if agrees || damaged.is_empty() {
            return Ok(Ok(damaged));
        }
        Ok(Err("every place of its base that was to be compared with the disk is damaged in the repository".into()))
    }
}

/// What an error in reading the base means: a base that is damaged is none.
fn distrust_of<T>(base: &PointRecord, error: Error) -> Distrust<T> {
    if !error.is_loss() {
        return Err(error);
    }
    Ok(Err(format!("its base, the restore point {}, is damaged: {error}", short_id(base))))
}

/// A list, or why there is none.
pub(super) type Distrusted = std::result::Result<ExtentList, String>;

/// Reads a list from a file.
pub(super) fn list_of(path: &Path) -> (String, Distrusted) {
    let what = format!("the list {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes));
    let list = match read {
        Err(error) => Err(format!("it cannot be read: {error}")),
        Ok(_) if bytes.len() as u64 > MAX_LIST_BYTES => Err(format!("it is longer than {MAX_LIST_BYTES} bytes")),
        Ok(_) => parse(&bytes).map_err(|error| error.to_string()),
    };
    (what, list)
}

/// Asks an NBD server for a bitmap.
///
/// # Errors
/// When the conversation ended: then nothing can be read either.
pub(super) fn bitmap_of(
    disk: &mut NbdDisk<'_>,
    name: &str,
    check: &dyn Fn() -> Result<()>,
) -> Result<(String, Distrusted)> {
    let what = format!("the bitmap '{}'", printable(name.as_bytes()));
    let context = format!("{DIRTY_BITMAP}{name}");
    let session = disk.session();
    if !session.has_context(&context) {
        return Ok((what, Err(not_offered(session))));
    }
    match session.map(&[&context], check) {
        Err(error) if session.is_broken() || error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok((what, Err(error.to_string()))),
        Ok(maps) => {
            let dirty = maps.into_iter().flatten().filter(|run| run.flags & NBD_DIRTY != 0);
            let ranges = dirty.map(|run| ChangedRange { offset: run.offset, len: run.len, zero: false }).collect();
            Ok((what, Ok(ExtentList::new(name.as_bytes(), disk.size(), ranges))))
        }
    }
}

fn not_offered<S: Read + Write>(session: &Session<S>) -> String {
    let there = session.offered_bitmaps();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    format!(
        "the server does not have it; QEMU offers no bitmap that is missing, inconsistent or in use (there: {there})"
    )
}
