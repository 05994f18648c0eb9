//! Restoring: a restore point, or a part of it, back into a directory.
//!
//! Plan, show, execute: [`plan`] finds out what is to be done and where, [`Plan::execute`] does it. The
//! planner (`walk`) reads the tree and makes directories, a `window` of files is put into the order in
//! which their chunks lie in packages, and workers fill files from whole segments (`content`, `file`).
//! Nothing is written outside of the target: every step is one name in an open directory, through no
//! symbolic link. One lost chunk costs its range of one file; the rest goes on, and the report says it.

mod behind;
mod content;
mod dir;
mod dry;
mod file;
pub mod lookup;
mod meta;
mod report;
mod select;
mod shared;
mod special;
mod walk;
mod window;

#[cfg(test)]
mod tests;

pub use report::{Finding, MOST_FINDINGS, Progress, Report, Totals};

use crate::catalog::points::printable;
use crate::error::{Error, ErrorKind, Result};
use crate::os::Dir;
use crate::store::Repository;
use behind::Behind;
use dir::{DirNode, STACK_BYTES};
use lookup::{Head, TreeReader, components};
use repo_format::{ChunkId, Dirent, FileKind, PointRecord, ROOT_INO};
use report::{Log, normal_path};
use select::Selection;
use shared::Shared;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use walk::Planner;
use window::{Batch, Job, Outstanding, Window};

/// Batches that wait for workers.
const QUEUE: usize = 64;

/// What happens to files that exist and differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Replaced when size, modification time or type differ.
    #[default]
    IfChanged,
    /// Always replaced.
    Always,
    /// Left alone.
    Never,
}

/// What a walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Restore,
    Verify,
    Dry,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to: a directory, or for one file a directory or a name.
    pub target: PathBuf,
    /// Only what matches, as in `.gitignore`; empty: everything.
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// What happens to files that exist and differ.
    pub overwrite: Overwrite,
    /// Compare the content of files that look right, and read everything back afterwards.
    pub verify: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
}

/// What a restore will do.
#[derive(Debug)]
pub struct Plan {
    root: ChunkId,
    /// Path in the restore point.
    pub from: Vec<u8>,
    entry: Dirent,
    /// The directory that is written to.
    pub directory: PathBuf,
    /// The name in it, when one file is restored.
    pub name: Option<Vec<u8>>,
    /// Files and bytes of the whole restore point; None for a part of one, which nobody has counted.
    pub totals: Option<(u64, u64)>,
    options: Options,
}

/// Finds out what restoring `path` of a restore point means.
///
/// A directory's content goes into the target, which becomes that directory; a file goes to the target's
/// name, or into it when it is a directory or ends in `/`.
///
/// # Errors
/// `NotFound` for a path that is not in the restore point, `Usage` for wrong patterns and for a target
/// inside of the repository.
pub fn plan(repo: &Repository, point: &PointRecord, path: &[u8], options: Options) -> Result<Plan> {
    Selection::new(&options.include, &options.exclude)?;
    let entry = TreeReader::new(repo, point.root).find(path)?;
    let (directory, name) = if entry.kind == FileKind::Dir {
        (options.target.clone(), None)
    } else {
        let (directory, name) = place_of_file(&options.target, path)?;
        (directory, Some(name))
    };
    refuse_repository(repo.path(), &directory)?;
    let all = entry.ino == ROOT_INO && options.include.is_empty() && options.exclude.is_empty();
    let totals = all.then_some((point.counts.files, point.counts.bytes));
    Ok(Plan { root: point.root, from: normal_path(path), entry, directory, name, totals, options })
}

fn place_of_file(target: &Path, path: &[u8]) -> Result<(PathBuf, Vec<u8>)> {
    let own = || components(path).last().map(<[u8]>::to_vec);
    let bytes = target.as_os_str().as_bytes();
    let into = bytes.ends_with(b"/") || target.is_dir();
    let name = if into { own() } else { target.file_name().map(|n| n.as_bytes().to_vec()) };
    let name = name.ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{} is no name for a file", target.display()))
            .advise("name a directory, or the file to write")
    })?;
    let directory = if into { Some(target) } else { target.parent().filter(|p| !p.as_os_str().is_empty()) };
    Ok((directory.unwrap_or(Path::new(".")).to_path_buf(), name))
}

/// Writing into the repository's own directory would damage the one thing that must survive.
fn refuse_repository(repo: &Path, directory: &Path) -> Result<()> {
    let Ok(repo) = repo.canonicalize() else { return Ok(()) };
    let nearest = directory
        .ancestors()
        .find_map(|a| if a.as_os_str().is_empty() { Path::new(".") } else { a }.canonicalize().ok());
    if nearest.is_some_and(|n| n.starts_with(&repo)) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the target {} lies inside of the repository", directory.display()),
        )
        .advise("choose a target outside of the repository; nothing was written"));
    }
    Ok(())
}

impl Plan {
    /// Does it. `progress` can be read from elsewhere meanwhile; `stop` ends it early.
    ///
    /// # Errors
    /// `Interrupted` after `stop`; `NoSpace`, `ReadOnly` or `Io` when the target cannot be written at all.
    /// Whatever concerns single files is in the report instead.
    pub fn execute(&self, repo: &Repository, progress: &Progress, stop: &AtomicBool) -> Result<Report> {
        let log = Log::default();
        let mode = if self.options.dry_run { Mode::Dry } else { Mode::Restore };
        let mut passes = vec![mode];
        if self.options.verify && mode == Mode::Restore {
            passes.push(Mode::Verify);
        }
        // The modes that files are made with are exact; see `meta::first_mode`.
        let _umask = Umask::set(0);
        let mut all = Report::default();
        for mode in passes {
            self.pass(repo, mode, progress, &log, stop)?;
            let (findings, notes, fatal) = log.take();
            if let Some(error) = fatal {
                return Err(error);
            }
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the restore was interrupted")
                    .advise("run the same command again to go on: what is restored already is not written again"));
            }
            all.findings.extend(findings);
            all.notes.extend(notes);
        }
        all.findings.truncate(MOST_FINDINGS);
        all.totals = progress.totals();
        Ok(all)
    }

    fn pass(&self, repo: &Repository, mode: Mode, progress: &Progress, log: &Log, stop: &AtomicBool) -> Result<()> {
        let mut shared = Shared::new(repo, self.root, progress, log, stop);
        shared.mode = mode;
        shared.overwrite = self.options.overwrite;
        shared.compare = self.options.verify;
        let (dir, made) = self.open_target(mode)?;
        shared.base = match self.name {
            Some(_) => parent_of(&self.from),
            None => self.from.clone(),
        };
        let head = self.target_head(&shared, made)?;
        let selection = Selection::new(&self.options.include, &self.options.exclude)?;
        let outstanding = Outstanding::default();
        let shared = &shared;
        std::thread::scope(|scope| {
            let (send, receive) = crossbeam_channel::bounded::<Batch<'_>>(QUEUE);
            let (behind, write_out) = behind::channel();
            for number in 0..self.threads() {
                let (receive, behind, outstanding) = (receive.clone(), behind.clone(), &outstanding);
                let work = move || receive.iter().for_each(|batch| do_batch(shared, batch, &behind, outstanding));
                spawn(scope, &format!("restore-{number}"), work)?;
            }
            drop(behind);
            spawn(scope, "restore-behind", move || behind::write_out(&write_out))?;
            // The workers' ends are theirs alone: were they gone, sending would say so.
            drop(receive);
            let (selection, outstanding) = (&selection, &outstanding);
            spawn(scope, "restore-plan", move || {
                let window = Window::new(shared, send, outstanding);
                let planner = Planner::new(shared, selection, window);
                let root = DirNode::target(shared, dir, self.entry.ino, head, made);
                match &self.name {
                    Some(name) => planner.run_one(&root, name.as_slice().into(), self.entry),
                    None => planner.run(root),
                }
            })
        })
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from).min(16),
            chosen => chosen,
        }
    }

    /// The target directory and whether it was made just now; None if it does not exist and may not be made.
    fn open_target(&self, mode: Mode) -> Result<(Option<Dir>, bool)> {
        let path = &self.directory;
        let failed = |e| {
            Error::io(format!("the target {} cannot be used", printable(path.as_os_str().as_bytes())), e)
                .advise("name a directory in which you may write, or one that can be made; nothing was written")
        };
        let missing = !path.exists();
        if missing && mode == Mode::Dry {
            return Ok((None, true));
        }
        if missing {
            make_all(path).map_err(failed)?;
        }
        Ok((Some(Dir::open_root(path).map_err(failed)?), missing))
    }

    /// What attributes the target gets: those of the directory restored into it. A target that was there
    /// before does not take over those of a whole restore point's root: that is `/`, wherever it was.
    fn target_head(&self, shared: &Shared<'_>, made: bool) -> Result<Option<Head>> {
        if self.name.is_some() || (self.entry.ino == ROOT_INO && !made) {
            return Ok(None);
        }
        let tree = shared.tree();
        tree.head(&mut tree.cursor(), self.entry.ino).map(Some)
    }
}

/// Another umask for a while.
struct Umask(u32);

impl Umask {
    fn set(mask: u32) -> Self {
        Self(crate::os::set_umask(mask))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        crate::os::set_umask(self.0);
    }
}

fn make_all(path: &Path) -> std::io::Result<()> {
    if let Some(above) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o755).create(above)?;
    }
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path)
}

fn parent_of(path: &[u8]) -> Vec<u8> {
    let path = Path::new(OsStr::from_bytes(path));
    path.parent().map_or_else(Vec::new, |p| p.as_os_str().as_bytes().to_vec())
}

fn spawn<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn_scoped(scope, work).map(drop).map_err(|e| Error::io("starting a thread", e))
}

fn do_batch<'s>(shared: &'s Shared<'s>, batch: Batch<'s>, behind: &Behind, outstanding: &Outstanding) {
    let _ending = outstanding.ending();
    let mut segments = content::Segments::new(shared);
    for job in batch {
        match job {
            Job::Part(part) => {
                let range = part.file.written(part.start, part.end);
                file::part(shared, &mut segments, part);
                range.into_iter().for_each(|range| behind.push(range));
            }
            Job::Node(_) if shared.stopping() => {}
            Job::Node(job) if job.inode().kind() == FileKind::File => file::whole(shared, &mut segments, &job),
            Job::Node(job) => special::node(shared, &job),
        }
    }
}
