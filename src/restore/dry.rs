//! What a restore would do to one file, without doing it.

use super::report::Progress;
use super::shared::Shared;
use super::window::NodeJob;
use super::{Overwrite, meta};
use repo_format::FileKind;

/// Counts a job as what a restore would make of it.
pub(super) fn count(shared: &Shared<'_>, job: &NodeJob<'_>) {
    let progress = shared.progress;
    let is_device = matches!(job.inode().kind(), FileKind::Char | FileKind::Block);
    if is_device && !shared.us.is_root() {
        return shared.found(job.path(), "a device: only root can make it".to_owned());
    }
    let there = job.dir.open().and_then(|dir| dir.stat(&job.name)).ok();
    let there = there.filter(|_| job.dir.state().is_some_and(|d| !d.fresh));
    let inode = job.inode();
    let is_file = inode.kind() == FileKind::File;
    let writes = match there {
        None => &progress.created,
        Some(_) if shared.overwrite == Overwrite::Never => &progress.kept,
        Some(stat) if stat.is_dir() => {
            return shared.found(job.path(), "a directory stands in its place".to_owned());
        }
        Some(stat) => {
            let same = FileKind::from_mode(stat.mode) == Some(inode.kind())
                && stat.size == inode.size
                && meta::time_of(&stat) == inode.mtime;
            if same && shared.overwrite == Overwrite::IfChanged { &progress.unchanged } else { &progress.replaced }
        }
    };
    Progress::add(writes, 1);
    Progress::add(&progress.files, 1);
    if is_file {
        Progress::add(&progress.bytes, inode.size);
        let content = std::ptr::eq(writes, &progress.created) || std::ptr::eq(writes, &progress.replaced);
        Progress::add(&progress.written_bytes, if content { inode.data_bytes } else { 0 });
    }
}
