//! One file of the target: begin it, fill it, finish it.
//!
//! A name that is free is created under its own name. A file that is there and differs is written beside
//! it under a temporary name, which then takes its place, so that a reader sees the old or the new file
//! whole. Nothing that exists is opened for writing: it may be a link to a file elsewhere.

use super::behind::{self, Written};
use super::content::{Damage, Segments};
use super::meta::{self, Place};
use super::report::{Finding, Progress};
use super::shared::{Shared, Unwritten};
use super::window::{NodeJob, PartJob};
use super::{Mode, Overwrite, special};
use crate::os::{Dir, Stat, stat_file, write};
use repo_format::{FileKind, Inode};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Temporary names tried before giving up.
const ATTEMPTS: u32 = 16;

/// Why a file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It did not exist; its content is to be written.
    Created,
    /// It takes the place of a different one; its content is to be written.
    Replaced,
    /// Its content is right; its attributes may not be.
    Right,
    /// It is only compared.
    Compared,
}

/// A file of the target, open.
pub(super) struct Opened {
    file: Arc<File>,
    temporary: Option<Vec<u8>>,
    why: Why,
}

/// A file that several workers fill. The last one to let go finishes it.
pub(super) struct LargeFile<'s> {
    job: NodeJob<'s>,
    opened: Opened,
    state: Mutex<(Damage, Option<io::Error>)>,
}

/// Restores or compares a file all of whose pieces are in the job.
pub(super) fn whole(shared: &Shared<'_>, segments: &mut Segments<'_>, job: &NodeJob<'_>) {
    let begun = begin(shared, job, &mut |file| is_right(segments, file, job));
    let opened = match begun {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => return failed(shared, job, &error),
    };
    let mut damage = Damage::default();
    let size = job.inode().size;
    let filled = match opened.why {
        Why::Right => Ok(()),
        Why::Compared => segments.compare(&opened.file, 0, size, &job.pieces, &mut damage),
        Why::Created | Why::Replaced => {
            segments.write(&opened.file, &job.pieces, &mut damage).and_then(|()| set_size(&opened.file, job, &damage))
        }
    };
    finish(shared, job, opened, damage, filled.err());
}

/// The file ends where its last piece does, but for a hole at its end.
fn set_size(file: &File, job: &NodeJob<'_>, damage: &Damage) -> io::Result<()> {
    let end = job.pieces.last().map_or(0, |p| p.offset + u64::from(p.extent.len));
    if end == job.inode().size && damage.ranges.is_empty() { Ok(()) } else { file.set_len(job.inode().size) }
}

/// Begins a file that is restored in parts. None when there is nothing to fill.
pub(super) fn begin_large<'s>(
    shared: &'s Shared<'s>,
    job: NodeJob<'s>,
    right: &mut dyn FnMut(&File) -> io::Result<bool>,
) -> Option<Arc<LargeFile<'s>>> {
    let begun = begin(shared, &job, right).and_then(|opened| {
        if let Some(opened) = opened.as_ref().filter(|o| matches!(o.why, Why::Created | Why::Replaced)) {
            opened.file.set_len(job.inode().size).inspect_err(|_| undo(&job, opened))?;
        }
        Ok(opened)
    });
    match begun {
        Ok(Some(opened)) if opened.why == Why::Right => {
            finish(shared, &job, opened, Damage::default(), None);
            None
        }
        Ok(Some(opened)) => {
            shared.open_files.fetch_add(1, Ordering::Relaxed);
            Some(Arc::new(LargeFile { job, opened, state: Mutex::default() }))
        }
        Ok(None) => None,
        Err(error) => {
            failed(shared, &job, &error);
            None
        }
    }
}

/// Restores or compares one range of a large file.
pub(super) fn part(shared: &Shared<'_>, segments: &mut Segments<'_>, part: PartJob<'_>) {
    let mut damage = Damage::default();
    let file = &part.file.opened.file;
    let done = if shared.stopping() {
        Err(io::ErrorKind::Interrupted.into())
    } else if part.file.opened.why == Why::Compared {
        segments.compare(file, part.start, part.end, &part.pieces, &mut damage)
    } else {
        segments.write(file, &part.pieces, &mut damage)
    };
    part.file.add(damage, done.err());
    release(shared, part.file);
}

/// Lets go of a large file; whoever is last finishes it.
pub(super) fn release(shared: &Shared<'_>, file: Arc<LargeFile<'_>>) {
    if let Some(LargeFile { job, opened, state }) = Arc::into_inner(file) {
        let (damage, error) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        finish(shared, &job, opened, damage, error);
        shared.open_files.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LargeFile<'_> {
    /// What is written of a huge file once these bytes are restored.
    pub(super) fn written(&self, start: u64, end: u64) -> Option<Written> {
        let writes = matches!(self.opened.why, Why::Created | Why::Replaced);
        let huge = behind::is_huge(self.job.inode().data_bytes);
        (writes && huge).then(|| Written { file: Arc::clone(&self.opened.file), start, end })
    }

    /// Adds what one part found.
    pub(super) fn add(&self, damage: Damage, error: Option<io::Error>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.merge(damage);
        if state.1.is_none() {
            state.1 = error;
        }
    }
}

/// Opens what is to be filled, compared or mended; None when there is nothing to do.
fn begin(
    shared: &Shared<'_>,
    job: &NodeJob<'_>,
    right: &mut dyn FnMut(&File) -> io::Result<bool>,
) -> io::Result<Option<Opened>> {
    let dir = job.dir.open()?;
    if shared.mode == Mode::Verify {
        return begin_compare(shared, &dir, job);
    }
    let mode = meta::first_mode(shared, &job.head);
    match dir.create_file(&job.name, mode) {
        Ok(file) => Ok(Some(Opened { file: Arc::new(file), temporary: None, why: Why::Created })),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => begin_existing(shared, &dir, job, mode, right),
        Err(e) => Err(e),
    }
}

fn begin_compare(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>) -> io::Result<Option<Opened>> {
    let file = dir.open_file(&job.name)?;
    let stat = stat_file(&file)?;
    if stat.is_file() && stat.size == job.inode().size {
        // What is compared is to be what the medium holds, not what memory still does.
        file.sync_all()?;
        crate::os::fadvise_dontneed(&file, 0, 0);
        return Ok(Some(Opened { file: Arc::new(file), temporary: None, why: Why::Compared }));
    }
    let what = format!("it is not a file of {} bytes any more", job.inode().size);
    shared.found(job.path(), what);
    Ok(None)
}

fn begin_existing(
    shared: &Shared<'_>,
    dir: &Dir,
    job: &NodeJob<'_>,
    mode: u32,
    right: &mut dyn FnMut(&File) -> io::Result<bool>,
) -> io::Result<Option<Opened>> {
    if !may_replace(shared, dir, job)? {
        return Ok(None);
    }
    if shared.overwrite == Overwrite::IfChanged
        && let Some(file) = open_right(shared, dir, job)?
        && (!shared.compare || right(&file)?)
    {
        return Ok(Some(Opened { file: Arc::new(file), temporary: None, why: Why::Right }));
    }
    let (temporary, file) = with_temporary(shared, &mut |name| dir.create_file(name, mode))?;
    Ok(Some(Opened { file: Arc::new(file), temporary: Some(temporary), why: Why::Replaced }))
}

/// Whether something else than a directory stands under the name, and the policy lets us replace it.
pub(super) fn may_replace(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>) -> io::Result<bool> {
    if shared.overwrite == Overwrite::Never {
        Progress::add(&shared.progress.kept, 1);
        let right = job.inode().nlink > 1 && is_there(shared, dir, job)?;
        shared.not_written(&job.head, if right { Unwritten::Kept } else { Unwritten::Other });
        return Ok(false);
    }
    if dir.stat(&job.name)?.is_dir() {
        shared.not_written(&job.head, Unwritten::Other);
        let what = "a directory stands in its place; move it away and restore again".to_owned();
        shared.found(job.path(), what);
        return Ok(false);
    }
    Ok(true)
}

/// Whether what stands under the name is what should.
fn is_there(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>) -> io::Result<bool> {
    match job.inode().kind() {
        FileKind::File => Ok(open_right(shared, dir, job)?.is_some()),
        _ => special::is_same(dir, &dir.stat(&job.name)?, job),
    }
}

/// Calls `make` with temporary names until one is free.
pub(super) fn with_temporary<T>(
    shared: &Shared<'_>,
    make: &mut dyn FnMut(&[u8]) -> io::Result<T>,
) -> io::Result<(Vec<u8>, T)> {
    let mut attempt = 0;
    loop {
        let name = shared.temporary_name();
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

/// The file under the name, if it has the size and time that it should have.
///
/// One with more names than it should have may be somebody else's file, linked to here so that we give
/// it away: it counts as different unless its attributes are right already, too.
fn open_right(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>) -> io::Result<Option<File>> {
    if !looks_right(&dir.stat(&job.name)?, job.inode()) {
        return Ok(None);
    }
    let Ok(file) = dir.open_file(&job.name) else { return Ok(None) };
    let stat = stat_file(&file)?;
    let safe = stat.nlink == 1 || meta::is_right(shared, &file, &stat, &job.head)?;
    Ok(Some(file).filter(|_| safe && looks_right(&stat, job.inode())))
}

fn looks_right(stat: &Stat, inode: &Inode) -> bool {
    stat.is_file() && stat.size == inode.size && meta::time_of(stat) == inode.mtime
}

fn is_right(segments: &mut Segments<'_>, file: &File, job: &NodeJob<'_>) -> io::Result<bool> {
    let mut damage = Damage::default();
    segments.compare(file, 0, job.inode().size, &job.pieces, &mut damage)?;
    Ok(damage.ranges.is_empty())
}

fn finish(shared: &Shared<'_>, job: &NodeJob<'_>, opened: Opened, damage: Damage, error: Option<io::Error>) {
    let error = error.or_else(|| complete(shared, job, &opened, &damage).err());
    if let Some(error) = error {
        undo(job, &opened);
        return failed(shared, job, &error);
    }
    let progress = shared.progress;
    Progress::add(&progress.files, u64::from(opened.why != Why::Compared));
    Progress::add(
        match opened.why {
            Why::Created => &progress.created,
            Why::Replaced => &progress.replaced,
            Why::Right => &progress.unchanged,
            Why::Compared => &progress.verified,
        },
        1,
    );
    match opened.why {
        Why::Right => Progress::add(&progress.bytes, job.inode().size),
        Why::Created | Why::Replaced => {
            Progress::add(&progress.bytes, job.inode().size.saturating_sub(job.inode().data_bytes))
        }
        Why::Compared => {}
    }
    if let Some(why) = damage.why.clone() {
        let lost =
            if opened.why == Why::Compared { "" } else { "part of its content is lost and was left as a hole: " };
        let finding = Finding { path: job.path(), what: format!("{lost}{why}"), ranges: damage.into_ranges() };
        shared.log.find(progress, finding);
    }
}

/// Attributes, then the real name, then the flags that forbid changes.
fn complete(shared: &Shared<'_>, job: &NodeJob<'_>, opened: &Opened, damage: &Damage) -> io::Result<()> {
    let place = Place { path: &|| job.path(), fresh: opened.why != Why::Right };
    if opened.why == Why::Compared {
        return Ok(());
    }
    // A file that lacks content keeps its new time, so that the next restore does not take it for right.
    let whole = damage.ranges.is_empty();
    let plain = job.dir.state().is_some_and(|d| d.plain);
    meta::finish_file(shared, &opened.file, &job.head, &place, plain, whole)?;
    if let Some(temporary) = &opened.temporary {
        let dir = job.dir.open()?;
        write::rename(&dir, temporary, &dir, &job.name)?;
    }
    if job.inode().nlink <= 1 {
        meta::set_flags(shared, &opened.file, &job.head, &place);
    }
    Ok(())
}

/// No half file stays behind.
fn undo(job: &NodeJob<'_>, opened: &Opened) {
    let name = match (&opened.temporary, opened.why) {
        (Some(temporary), _) => &temporary[..],
        (None, Why::Created) => &job.name[..],
        _ => return,
    };
    if let Ok(dir) = job.dir.open() {
        let _ = dir.unlink(name);
    }
}

/// Reports that a file could not be restored; an interruption is not the file's fault.
pub(super) fn failed(shared: &Shared<'_>, job: &NodeJob<'_>, error: &io::Error) {
    if error.kind() == io::ErrorKind::Interrupted && shared.stopping() {
        return;
    }
    shared.not_written(&job.head, Unwritten::Other);
    let done = if shared.mode == Mode::Verify { "it could not be compared" } else { "it was not restored" };
    shared.find(Finding { path: job.path(), what: format!("{done}: {error}"), ranges: Vec::new() }, error);
}
