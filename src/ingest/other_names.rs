//! Files with several names whose first name went away before it was read: read by one of the others.
//!
//! The walk sends a file to the workers under the first name it meets. What could not be opened there is tried again
//! here, when all threads have ended, so that no name is left out because of another.

use super::file::FileJob;
use super::large::{Buffers, LargeFiles};
use super::links::OtherName;
use super::listing::open_again;
use super::old::Edits;
use super::report::Severity;
use super::run::{LeftOut, Run};
use super::small::{SMALL_FILE_BYTES, SmallFiles};
use super::source::{SourceDir, Stat};
use super::walker::WalkEnd;
use crate::Result;
use crate::catalog::tree::Edit;
use crossbeam_channel::bounded;
use repo_format::{FileKind, Key};
use std::io;
use std::sync::Arc;

/// Tries every file that was left out under its other names, and reports those that stay unread.
pub(super) fn read(run: &Run<'_>, walked: &mut WalkEnd) -> Result<()> {
    let (mut edits, mut left_out) = (Edits::new(), Vec::new());
    for file in run.take_left_out() {
        let Some(error) = &file.unread else {
            left_out.push(file);
            continue;
        };
        run.check()?;
        let names = walked.links.other_names(file.source);
        let (done, gone) = by_one_of(run, &file, &names)?;
        if done {
            // The names in the tree are counted, and this one is not among them any more.
            walked.links.lose_name(file.source);
            edits.push((Key::Dirent(file.dir_ino, &file.name).encode(), Edit::Delete));
            run.find(
                file.path,
                Severity::Note,
                "it went away before it was read; the file was read by another of its names",
            );
        } else {
            let (severity, what) = match (file.unread.as_ref().and_then(io::Error::raw_os_error), gone == names.len()) {
                (Some(libc::ENOENT), true) => {
                    (Severity::Note, "it went away before it was read, under all its names".into())
                }
                _ => (Severity::Error, format!("it cannot be read and is left out under all its names: {error}")),
            };
            run.find(file.path.clone(), severity, what);
            left_out.push(file);
        }
    }
    left_out.into_iter().for_each(|file| run.leave_out(file));
    run.push(&mut edits)
}

/// Whether one of the names was of use, and how many of them stand for this file no more.
fn by_one_of(run: &Run<'_>, file: &LeftOut, names: &[OtherName]) -> Result<(bool, usize)> {
    let mut gone = 0;
    for name in names {
        let Ok(job) = job_of(file, name) else {
            gone += 1;
            continue;
        };
        read_now(run, job)?;
        if run.take_left_out().is_empty() {
            return Ok((true, gone));
        }
    }
    Ok((false, gone))
}

/// The file under another name, if it is still the same file.
fn job_of(file: &LeftOut, name: &OtherName) -> io::Result<FileJob> {
    // A name in a snapshot does not go away, so nothing stands in here; another file is not taken for this one.
    let dir = open_again(&name.dir, None, None)?;
    let stat = Stat::of_entry(&dir, &name.name)?;
    if (stat.kind, stat.dev, stat.ino) != (FileKind::File, file.stat.dev, file.stat.ino) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let dir = Arc::new(SourceDir { dir, path: Arc::clone(&name.dir) });
    Ok(FileJob {
        dir,
        name: name.name.to_vec(),
        ino: file.ino,
        dir_ino: file.dir_ino,
        stat,
        source: file.source,
        old: file.old.clone(),
        many_names: true,
        kernel: false,
    })
}

fn read_now(run: &Run<'_>, job: FileJob) -> Result<()> {
    if job.stat.size <= SMALL_FILE_BYTES {
        let mut small = SmallFiles::new();
        return small.run_batch(run, vec![job]).and_then(|()| small.flush(run));
    }
    // Nobody takes blocks any more, so the reader does them all.
    let (others, _) = bounded(0);
    let mut large = LargeFiles::new();
    large.run_file(run, &Buffers::default(), job, others).and_then(|()| large.flush(run))
}
