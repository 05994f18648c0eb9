//! One ingest of a disk, from options to a sealed point.

use super::disk::{Disk, Opening, file_name};
use super::nbd::session::DIRTY_BITMAP;
use super::nbd::uri::NbdUri;
use super::plan::{Changes, Distrusted, Plan, Planner, bitmap_of, list_of};
use super::source::{BlockSource, Masked, NbdDisk, RawDisk, plain_disk};
use super::{states, swap};
use crate::catalog::points::Points;
use crate::ingest::backup::Outcome;
use crate::ingest::change::Change;
use crate::ingest::report::{Finding, Monitor, Severity};
use crate::ingest::stream::{self, ReadSource, Session, StreamOptions};
use crate::store::Writer;
use crate::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An image file or a block device.
    Path(PathBuf),
    /// An export of an NBD server.
    Nbd(NbdUri),
}

/// What to ingest, and how.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The point's names, and bounds. Its notes become the first ones.
    pub stream: StreamOptions,
    /// The disk.
    pub place: Place,
    /// Who says what changed, if anybody does.
    pub changes: Option<Changes>,
    /// The state, or the restore point, that `changes` is against; None to take what `changes` says of itself.
    pub base: Option<Vec<u8>>,
    /// The name of the state that is ingested now; None for one that nobody will ask for.
    pub state: Option<Vec<u8>>,
    /// To leave the content of swap partitions out.
    pub skip_swap: bool,
}

/// Reads a disk, whole or by what changed, and seals a restore point.
///
/// # Errors
/// When the disk or the repository cannot be read or written; `Usage` for options that make no sense together;
/// `Interrupted` once `stop` is set. Nothing is sealed then. A list of changes that cannot be used is no error:
/// everything is read, and a note in the point says why.
pub fn ingest_image(
    writer: &Writer,
    options: &ImageOptions,
    monitor: &dyn Monitor,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let name = file_name(&options.stream.source)?;
    let check =
        || if stop.load(Relaxed) { Err(Error::new(ErrorKind::Interrupted, "the ingest was stopped")) } else { Ok(()) };
    let listed = match &options.changes {
        Some(Changes::List(path)) => Some(list_of(path)),
        _ => None,
    };
    let job = Job { writer, options, monitor, stop };
    match (&options.place, &options.changes) {
        (Place::Path(_), Some(Changes::Bitmap(_))) => {
            Err(Error::new(ErrorKind::Usage, "a dirty bitmap is asked for by NBD: name the server by --nbd"))
        }
        (Place::Path(path), _) => {
            let mut raw = RawDisk::open(path)?;
            let disk = raw.as_file(name, options.stream.time);
            let mut outcome = job.run(&mut raw, &disk, listed)?;
            if let Some(what) = raw.changed() {
                let finding = Finding { path: path_bytes(path), severity: Severity::Warning, what };
                monitor.on_finding(&finding);
                outcome.report.add(finding);
            }
            Ok(outcome)
        }
        (Place::Nbd(uri), changes) => {
            let bitmap = match changes {
                Some(Changes::Bitmap(name)) => Some(name),
                _ => None,
            };
            let context = bitmap.map(|name| format!("{DIRTY_BITMAP}{name}"));
            let mut nbd = NbdDisk::open(uri, context.as_deref(), stop)?;
            let list = match bitmap {
                Some(name) => Some(bitmap_of(&mut nbd, name, &check)?),
                None => listed,
            };
            let outcome = job.run(&mut nbd, &plain_disk(name, options.stream.time), list)?;
            nbd.close();
            Ok(outcome)
        }
    }
}

struct Job<'a> {
    writer: &'a Writer,
    options: &'a ImageOptions,
    monitor: &'a dyn Monitor,
    stop: &'a AtomicBool,
}

impl Job<'_> {
    fn run(&self, source: &mut dyn BlockSource, disk: &Disk, list: Option<(String, Distrusted)>) -> Result<Outcome> {
        let size = source.size();
        let swaps = if self.options.skip_swap { swap::find(source)? } else { Vec::new() };
        let zeros: Vec<Range<u64>> = swaps.iter().map(|swap| swap.pages.clone()).collect();
        let mut options = self.options.stream.clone();
        options.notes.extend(swaps.iter().map(|swap| swap_note(swap).into_bytes()));
        options.extra.extend(states::left_out_field(&zeros));
        let plan = {
            let repository = &**self.writer.repository();
            let points = Points::new(repository.point_records()?);
            let (host, name) = (&options.host, &disk.name);
            let base = self.options.base.as_deref();
            let planner =
                Planner { repository, points: &points, host, source: &options.source, name, base, zeros: &zeros };
            planner.plan(source, list)?
        };
        let id = match &self.options.state {
            Some(state) => state.clone(),
            None => unnamed_state()?,
        };
        let mut masked = Masked::new(source, zeros.clone());
        let mut make = |plan: &Plan| {
            let mut options = options.clone();
            options.notes.push(plan.note.clone().into_bytes());
            let reader: &mut dyn ReadSource = &mut masked;
            stream::ingest(self.writer, Some(reader), &options, self.monitor, self.stop, &mut |session| {
                feed(session, disk, &id, plan, &zeros, size)
            })
        };
        let outcomes = match make(&plan) {
            // Content would have been read from the disk again: it is the tree.
            Err(error) if error.is_loss() && plan.parent.is_some() => {
                let note = format!("read completely: the restore point to begin from is damaged: {error}");
                make(&Plan { note, ..Plan::from_nothing(size) })?
            }
            outcomes => outcomes?,
        };
        outcomes.into_iter().next().ok_or_else(|| Error::new(ErrorKind::BadInput, "nothing was sealed"))
    }
}

/// Gives the plan to the session.
fn feed(session: &mut Session<'_>, disk: &Disk, id: &[u8], plan: &Plan, zeros: &[Range<u64>], size: u64) -> Result<()> {
    let path: &[u8] = &disk.name;
    let mut opening = Opening::default();
    while let Some(change) = opening.next(disk, id, plan.parent.as_deref(), size) {
        session.apply(&change)?;
    }
    for range in &plan.ranges {
        let (offset, len) = (range.offset, range.len);
        session.apply(&if range.zero {
            Change::Zero { path, offset, len, extend: false }
        } else {
            Change::Changed { path, offset, len }
        })?;
    }
    for range in zeros {
        session.apply(&Change::Zero { path, offset: range.start, len: range.end - range.start, extend: false })?;
    }
    session.apply(&Change::End)
}

fn swap_note(swap: &swap::Swap) -> String {
    let (start, len) = (swap.pages.start, swap.pages.end - swap.pages.start);
    format!("left out: the pages of swap partition {}, {len} bytes at {start}; its header is kept", swap.number)
}

/// A name that no other state has.
fn unnamed_state() -> Result<Vec<u8>> {
    let mut random = [0; 16];
    let failed =
        |error: getrandom::Error| Error::new(ErrorKind::Io, format!("the system gives no random numbers: {error}"));
    getrandom::fill(&mut random).map_err(failed)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("unnamed-{digits}").into_bytes())
}

fn path_bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}
