//! The life of a mount: mounting, following the repository, unmounting.

use super::adapter::{Adapter, RequestCounts};
use super::ahead::Ahead;
use super::fetch::{Fetch, WAIT_LIMIT};
use super::neighbours::Neighbours;
use super::tuning::set_read_ahead;
use super::umount::umount;
use crate::catalog::points::printable;
use crate::os;
use crate::view::{Backing, ChangedDir, Damage, Only, Owner, View};
use crate::{Error, ErrorKind, Result};
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use repo_format::Time;
use std::ffi::OsStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How often the repository is looked at for new restore points.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// How often the end of the mount and the stop flag are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MAX_READ_BYTES: u32 = 1 << 20;

/// How to mount.
#[derive(Clone)]
pub struct MountOptions {
    /// Other users may read it too, as modes and ACLs of the files allow.
    pub allow_other: bool,
    /// Extended attributes and ACLs are shown. Without them `cp -a` needs one request a file instead of four.
    pub xattrs: bool,
    /// Threads that answer requests.
    pub threads: usize,
    /// Threads that load ahead.
    pub ahead_threads: usize,
    /// Bytes the kernel reads ahead of a file that is read in order, in KiB.
    pub read_ahead_kib: u32,
    /// Small files that are read one after the other are put into the page cache before they are asked for.
    pub push_neighbours: bool,
    /// How long the medium may take for one read; then it gives EIO.
    pub wait_limit: Duration,
    /// Where requests are counted.
    pub counts: Arc<RequestCounts>,
    /// One source or one restore point as the root; None shows everything.
    pub only: Option<Only>,
    /// Who is told of damage; standard error by default.
    pub report: Arc<dyn Fn(&Damage) + Send + Sync>,
}

impl Default for MountOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            allow_other: false,
            xattrs: true,
            threads: threads.clamp(2, 16),
            ahead_threads: threads.clamp(1, 8),
            read_ahead_kib: MAX_READ_BYTES >> 10,
            push_neighbours: true,
            wait_limit: WAIT_LIMIT,
            counts: Arc::default(),
            only: None,
            report: Arc::new(|damage| crate::tell!("relict: {}", printable(damage.to_string().as_bytes()))),
        }
    }
}

/// Mounts, says so by `ready`, and serves until it is unmounted or `stop` is set. If files are in use when
/// `stop` is set, the mount leaves the directory tree at once and is served until they are closed.
///
/// # Errors
/// When the mount point cannot be used, FUSE is missing, the repository cannot be read, or `ready` gives one;
/// then nothing stays mounted.
pub fn run<B: Backing + 'static>(
    repository: Arc<B>,
    mountpoint: &Path,
    options: &MountOptions,
    ready: &dyn Fn() -> Result<()>,
    stop: &AtomicBool,
) -> Result<()> {
    os::memory::keep_heaps_small();
    let mountpoint =
        mountpoint.canonicalize().map_err(|e| Error::io(format!("mount point {}", mountpoint.display()), e))?;
    refuse_nesting(repository.directory(), &mountpoint)?;
    let name = repository.name();
    let owner = Owner { uid: os::geteuid(), gid: os::getegid() };
    let report = Arc::clone(&options.report);
    let mut view = View::new(repository, owner, move |damage| report(damage))?;
    if let Some(only) = &options.only {
        view = view.with_root(only)?;
    }
    let counts = Arc::clone(&options.counts);
    view.add_figures(move || counts.figures());
    let view = Arc::new(view);
    let mounted = Mounted::start(&view, mountpoint, name, options)?;
    if let Err(error) = ready() {
        mounted.end();
        return mounted.join().and(Err(error));
    }
    mounted.follow(&view, stop);
    mounted.join()
}

/// A mount over or in its own repository would wait for itself.
fn refuse_nesting(repository: Option<&Path>, mountpoint: &Path) -> Result<()> {
    let Some(repository) = repository else { return Ok(()) };
    let repository =
        repository.canonicalize().map_err(|e| Error::io(format!("repository {}", repository.display()), e))?;
    let refuse = |why: &str| {
        let what = format!("nothing can be mounted at {}: {why} {}", mountpoint.display(), repository.display());
        Err(Error::new(ErrorKind::Usage, what).advise("choose a directory outside of the repository"))
    };
    if mountpoint.starts_with(&repository) {
        return refuse("it is inside of the repository");
    }
    if repository.starts_with(mountpoint) {
        return refuse("the mount would hide the repository");
    }
    Ok(())
}

struct Mounted {
    session: BackgroundSession,
    mountpoint: PathBuf,
}

impl Mounted {
    fn start(view: &Arc<View>, mountpoint: PathBuf, name: String, options: &MountOptions) -> Result<Self> {
        let failed = |e| explain(&mountpoint, e);
        let neighbours = Arc::new(OnceLock::new());
        let adapter = Adapter {
            view: Arc::clone(view),
            ahead: Ahead::start(view, options.ahead_threads).map_err(failed)?,
            fetch: Fetch::start(view, Arc::clone(&neighbours), options.wait_limit).map_err(failed)?,
            metadata: Fetch::start(view, Arc::default(), options.wait_limit).map_err(failed)?,
            counts: Arc::clone(&options.counts),
            allow_other: options.allow_other,
            max_read: MAX_READ_BYTES,
            xattrs: options.xattrs,
        };
        let session = Session::new(adapter, &mountpoint, &config(name, options)).map_err(failed)?;
        if options.push_neighbours {
            let started = Neighbours::start(view, session.as_fd(), Arc::clone(&options.counts)).map_err(failed)?;
            let _ = neighbours.set(started);
        }
        set_read_ahead(&mountpoint, options.read_ahead_kib);
        let session = session.spawn().map_err(failed)?;
        Ok(Self { session, mountpoint })
    }

    /// Shows new restore points as they come, until the mount ends.
    fn follow(&self, view: &View, stop: &AtomicBool) {
        let notifier = self.session.notifier();
        let mut last = Instant::now();
        let mut ending = false;
        while !self.session.guard.is_finished() {
            if !ending && stop.load(Ordering::Relaxed) {
                ending = true;
                self.end();
            }
            if last.elapsed() >= FOLLOW_EVERY {
                // An error passes, or every request meets it as well and tells it.
                let changed = view.refresh(now()).unwrap_or_default();
                changed.iter().for_each(|dir| forget(&notifier, dir));
                last = Instant::now();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn end(&self) {
        if umount(&self.mountpoint, false).is_err() {
            // In use. There may be nothing left to unmount as well.
            let _ = umount(&self.mountpoint, true);
        }
    }

    /// Waits for the end of the mount.
    ///
    /// A session of `fuser` that is dropped unmounts whatever is mounted at its path, and that may be another mount by
    /// then (it takes a connection that was aborted for one that lives). So it is only dropped when it ended by an
    /// error and is still mounted.
    fn join(self) -> Result<()> {
        let failed = |e| Error::io(format!("serving the mount at {}", self.mountpoint.display()), e);
        let mut session = ManuallyDrop::new(self.session);
        let nothing = std::thread::Builder::new().spawn(|| Ok(())).map_err(failed)?;
        let served = std::mem::replace(&mut session.guard, nothing).join();
        let result = served.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        if result.is_err() {
            drop(ManuallyDrop::into_inner(session));
        }
        result.map_err(failed)
    }
}

/// Makes the kernel ask again for a directory that changed.
fn forget(notifier: &Notifier, dir: &ChangedDir) {
    let ino = INodeNo(dir.ino.0);
    // Neither can fail but when the mount is ending.
    for name in &dir.stale_names {
        let _ = notifier.inval_entry(ino, OsStr::new(name));
    }
    let _ = notifier.inval_inode(ino, 0, 0);
}

fn config(name: String, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(if os::geteuid() == 0 { name } else { escape_option(&name) }),
        // As an option of the kernel's own: fuser gives its `Subtype` to fusermount3 only.
        MountOption::CUSTOM("subtype=relict".to_string()),
        MountOption::RO,
        // A backup of a hostile machine must not give anyone a device or a root shell here.
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    config
}

/// fusermount3 takes all options in one string.
fn escape_option(name: &str) -> String {
    name.replace('\\', "\\\\").replace(',', "\\,")
}

fn explain(mountpoint: &Path, error: io::Error) -> Error {
    let what = format!("mounting at {}", mountpoint.display());
    let words = error.to_string();
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "FUSE is missing: try 'modprobe fuse', and install the package fuse3 to mount without root"
        }
        io::ErrorKind::PermissionDenied if words.contains("user_allow_other") => {
            "--allow-other without root needs the line 'user_allow_other' in /etc/fuse.conf"
        }
        io::ErrorKind::NotConnected => "an old mount hangs there: 'relict umount -l' ends it",
        _ => "check that the directory is yours and that /dev/fuse can be opened",
    };
    let error = match error.raw_os_error() {
        Some(_) => Error::io(what, error),
        None => Error::new(ErrorKind::Io, what).because(error),
    };
    error.advise(advice)
}

fn now() -> Time {
    let since = UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nsec: since.subsec_nanos() }
}
