//! What has a name but no content: symbolic links, pipes, sockets, devices; and further names of a file.

use super::dir::DirNode;
use super::file::{failed, may_replace, with_temporary};
use super::lookup::Name;
use super::meta::{self, Place};
use super::report::{Finding, Progress};
use super::shared::Shared;
use super::window::NodeJob;
use super::{Mode, Overwrite};
use crate::os::{Dir, FileKind as OsKind, Stat, write};
use repo_format::FileKind;
use std::io;
use std::sync::Arc;

/// Restores or compares a link, pipe, socket or device.
pub(super) fn node(shared: &Shared<'_>, job: &NodeJob<'_>) {
    let is_device = matches!(job.inode().kind(), FileKind::Char | FileKind::Block);
    if is_device && !shared.us.is_root() {
        let what = "a device: only root can make it".to_owned();
        if shared.mode == Mode::Restore {
            shared.found(job.path(), what);
        }
        return;
    }
    let done = if shared.mode == Mode::Verify { compare(shared, job) } else { restore(shared, job) };
    match done {
        Ok(()) => Progress::add(&shared.progress.files, u64::from(shared.mode == Mode::Restore)),
        Err(error) => failed(shared, job, &error),
    }
}

fn compare(shared: &Shared<'_>, job: &NodeJob<'_>) -> io::Result<()> {
    let dir = job.dir.open()?;
    Progress::add(&shared.progress.verified, 1);
    if !is_same(&dir, &dir.stat(&job.name)?, job)? {
        shared.found(job.path(), "it differs from the restore point".to_owned());
    }
    Ok(())
}

fn restore(shared: &Shared<'_>, job: &NodeJob<'_>) -> io::Result<()> {
    let dir = job.dir.open()?;
    match make(&dir, job, &job.name) {
        Ok(()) => {
            Progress::add(&shared.progress.created, 1);
            finish(shared, &dir, job, &job.name, true);
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => replace(shared, &dir, job)?,
        Err(e) => return Err(e),
    }
    Ok(())
}

fn replace(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>) -> io::Result<()> {
    if !may_replace(shared, dir, job)? {
        return Ok(());
    }
    let stat = dir.stat(&job.name)?;
    // What has other names as well may be somebody else's: see `file::open_right`.
    if shared.overwrite == Overwrite::IfChanged && stat.nlink == 1 && is_same(dir, &stat, job)? {
        Progress::add(&shared.progress.unchanged, 1);
        finish(shared, dir, job, &job.name, false);
        return Ok(());
    }
    let (temporary, ()) = with_temporary(shared, &mut |name| make(dir, job, name))?;
    finish(shared, dir, job, &temporary, true);
    Progress::add(&shared.progress.replaced, 1);
    write::rename(dir, &temporary, dir, &job.name).inspect_err(|_| {
        let _ = dir.unlink(&temporary);
    })
}

fn make(dir: &Dir, job: &NodeJob<'_>, name: &[u8]) -> io::Result<()> {
    match &job.target {
        Some(target) => dir.symlink(target, name),
        None => {
            let kind = OsKind::from_mode(job.inode().mode).ok_or(io::ErrorKind::InvalidInput)?;
            let rdev = job.inode().rdev.map_or((0, 0), |d| (d.major, d.minor));
            dir.mknod(name, kind, job.inode().mode & 0o700, rdev)
        }
    }
}

/// Whether what stands under the name is of the kind, and has the target or the device number, that it should have.
pub(super) fn is_same(dir: &Dir, stat: &Stat, job: &NodeJob<'_>) -> io::Result<bool> {
    let inode = job.inode();
    if FileKind::from_mode(stat.mode) != Some(inode.kind()) {
        return Ok(false);
    }
    match &job.target {
        Some(target) => Ok(dir.read_link(&job.name)? == **target),
        None => Ok(inode.rdev.is_none_or(|d| stat.rdev == (d.major, d.minor))),
    }
}

fn finish(shared: &Shared<'_>, dir: &Dir, job: &NodeJob<'_>, name: &[u8], fresh: bool) {
    let plain = fresh && job.dir.state().is_some_and(|d| d.plain);
    meta::finish_node(shared, dir, name, &job.head, &Place { path: &|| job.path(), fresh }, plain);
}

/// A name in the target.
pub(super) type Named<'s> = (Arc<DirNode<'s>>, Arc<[u8]>);

/// A further name of a file whose first name was handled already.
pub(super) struct LinkJob<'s> {
    pub first: Named<'s>,
    pub dir: Arc<DirNode<'s>>,
    pub name: Name,
}

/// Restores or compares a further name.
pub(super) fn link(shared: &Shared<'_>, job: &LinkJob<'_>) {
    let path = || job.dir.path_of(&job.name.name);
    match link_now(shared, job) {
        Ok(()) if shared.mode == Mode::Verify => Progress::add(&shared.progress.verified, 1),
        Ok(()) => {
            Progress::add(&shared.progress.files, 1);
            Progress::add(&shared.progress.links, 1);
        }
        Err(error) => {
            let first = crate::catalog::points::printable(&job.first.0.path_of(&job.first.1));
            let what = format!("it is not linked to {first}: {error}");
            shared.find(Finding { path: path(), what, ranges: Vec::new() }, &error);
        }
    }
}

fn link_now(shared: &Shared<'_>, job: &LinkJob<'_>) -> io::Result<()> {
    let (from, to) = (job.first.0.open()?, job.dir.open()?);
    let first = &job.first.1;
    if shared.mode == Mode::Restore {
        match write::hard_link(&from, first, &to, &job.name.name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    let (wanted, there) = (from.stat(first)?, to.stat(&job.name.name)?);
    if (wanted.dev, wanted.ino) == (there.dev, there.ino) {
        return Ok(());
    }
    if shared.mode == Mode::Verify {
        return Err(io::Error::other("it is another file"));
    }
    if shared.overwrite == Overwrite::Never {
        Progress::add(&shared.progress.kept, 1);
        return Ok(());
    }
    if there.is_dir() {
        return Err(io::Error::other("a directory stands in its place"));
    }
    let (temporary, ()) = with_temporary(shared, &mut |name| write::hard_link(&from, first, &to, name))?;
    write::rename(&to, &temporary, &to, &job.name.name).inspect_err(|_| {
        let _ = to.unlink(&temporary);
    })
}
