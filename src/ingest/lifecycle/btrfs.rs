//! Snapshots of btrfs subvolumes that backups are made of: taken, sent, kept until the next one is sealed, removed.
//!
//! They are in `.relict-snapshots` of the subvolume itself, and their names begin with the repository's id: whoever holds
//! the repository's writer lease is alone with them. At any moment there is at most
//! * the newest one that the repository knows: what the next difference starts from;
//! * older ones that it knows, left when a run was killed between its seal and its end;
//! * ones that it does not know, left when a run was killed before its seal.
//!
//! So every run can tell from the repository alone what is left over, and removes it first.

use crate::catalog::points::time_name;
use crate::ingest::backup::Outcome;
use crate::ingest::btrfs::{BtrfsDecoder, SnapshotDir, SnapshotId};
use crate::ingest::report::Monitor;
use crate::ingest::stream::{StateInfo, StreamOptions, run};
use crate::store::Writer;
use crate::{Error, ErrorKind, Result};
use repo_format::{PointRecord, Time};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// The inode number of every subvolume's root, and of nothing else on btrfs.
const SUBVOLUME_INO: u64 = 256;
/// Where snapshots are, in the subvolume.
pub const SNAPSHOT_DIR: &str = ".relict-snapshots";
/// Messages of a program that are kept, in bytes.
const MAX_MESSAGE_BYTES: u64 = 4096;
/// How often a snapshot that is in use is tried to be removed, and how long is waited between.
const REMOVE_TRIES: u32 = 10;
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// The newest stream version that the running kernel can send.
const STREAM_VERSION: &str = "/sys/fs/btrfs/features/send_stream_version";

/// A subvolume, and which of the snapshots in it are ours.
#[derive(Debug)]
pub struct Subvolume {
    path: PathBuf,
    prefix: String,
}

/// A snapshot, or another subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub path: PathBuf,
    /// What btrfs says of it.
    pub id: SnapshotId,
}

impl Subvolume {
    /// The subvolume at `path`; `repository` is the repository's id.
    ///
    /// # Errors
    /// `Usage` when `path` is none; `NotFound` when there is no btrfs program.
    pub fn open(path: &Path, repository: &str) -> Result<Self> {
        let path = path.canonicalize().map_err(|e| Error::io(format!("finding {}", path.display()), e))?;
        show(&path).map_err(|e| match e.kind() {
            ErrorKind::Io => {
                Error::new(ErrorKind::Usage, format!("{} is no btrfs subvolume that can be read: {e}", path.display()))
                    .advise("name the subvolume itself, not a directory in it, and run this as root")
            }
            _ => e,
        })?;
        Ok(Self { path, prefix: format!("{repository}-") })
    }

    fn dir(&self) -> PathBuf {
        self.path.join(SNAPSHOT_DIR)
    }

    /// Our snapshots, oldest first. What has a name of ours and is no subvolume is none: in the snapshot that took the
    /// subvolume's place in a rollback, btrfs leaves empty directories of those that were here.
    ///
    /// # Errors
    /// When the directory or a snapshot in it cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let dir = self.dir();
        let failed = |e| Error::io(format!("listing {}", dir.display()), e);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().filter(|name| name.starts_with(&self.prefix)).map(str::to_owned));
        }
        names.sort();
        let paths = names.iter().map(|name| dir.join(name));
        paths.filter(|path| is_subvolume(path)).map(|path| show(&path)).collect()
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// When btrfs refuses.
    pub fn take(&self, time: Time) -> Result<Snapshot> {
        let dir = self.dir();
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("making {}", dir.display()), e));
            }
            _ => {}
        }
        let path = dir.join(format!("{}{}.{:09}", self.prefix, time_name(time), time.nsec));
        btrfs(&["subvolume".as_ref(), "snapshot".as_ref(), "-r".as_ref(), self.path.as_os_str(), path.as_os_str()])?;
        show(&path)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// When btrfs refuses.
    pub fn remove(&self, snapshot: &Snapshot) -> Result<()> {
        let mut tries = 1;
        loop {
            // A sender whose reader was killed holds the snapshot until it writes again.
            match btrfs(&["subvolume".as_ref(), "delete".as_ref(), snapshot.path.as_os_str()]) {
                Err(error) if tries < REMOVE_TRIES && error.kind() == ErrorKind::Io => {
                    std::thread::sleep(REMOVE_PAUSE);
                    tries += 1;
                }
                other => return other.map(drop),
            }
        }
    }
}

/// What a run has to say beside its restore points.
#[derive(Debug)]
pub struct Taken {
    /// The restore points: one.
    pub outcomes: Vec<Outcome>,
    /// Snapshots that could not be removed, and why. The next run tries again.
    pub warnings: Vec<String>,
}

/// Takes a snapshot of a subvolume, sends what differs from the last one that the repository knows (everything, if there
/// is none), and seals a restore point.
///
/// # Errors
/// As those of [`run`], and those of btrfs. The new snapshot is removed then, and the one before is still there.
pub fn backup(
    writer: &Writer,
    volume: &Subvolume,
    options: &StreamOptions,
    monitor: &dyn Monitor,
    stop: &AtomicBool,
) -> Result<Taken> {
    let points = writer.repository().point_records()?;
    let known: Vec<Vec<u8>> = points.iter().filter_map(StateInfo::of).map(|state| state.id).collect();
    let (mut old, left_over): (Vec<_>, Vec<_>) =
        volume.snapshots()?.into_iter().partition(|one| known.iter().any(|id| *id == one.id.uuid));
    let mut warnings = Vec::new();
    remove_all(volume, &left_over, &mut warnings);
    let parent = old.pop();
    // Newer ones than these are sealed: they were to go long ago.
    remove_all(volume, &old, &mut warnings);
    let snapshot = volume.take(options.time)?;
    let sent = send_or_start_over(writer, &snapshot, parent.as_ref(), &points, options, monitor, stop);
    match sent {
        Ok(outcomes) => {
            remove_all(volume, parent.as_slice(), &mut warnings);
            Ok(Taken { outcomes, warnings })
        }
        Err(error) => Err(match volume.remove(&snapshot) {
            Ok(()) => error,
            Err(also) => {
                error.context(format!("{} is left ({also}), and the next run removes it", snapshot.path.display()))
            }
        }),
    }
}

fn remove_all(volume: &Subvolume, snapshots: &[Snapshot], warnings: &mut Vec<String>) {
    let failed = snapshots.iter().filter_map(|one| volume.remove(one).err().map(|e| (one, e)));
    warnings.extend(failed.map(|(one, e)| format!("the snapshot {} could not be removed: {e}", one.path.display())));
}

/// Sends the difference; everything, where there is nothing to start from, or where the tree to start from is damaged.
fn send_or_start_over(
    writer: &Writer,
    snapshot: &Snapshot,
    parent: Option<&Snapshot>,
    points: &[PointRecord],
    options: &StreamOptions,
    monitor: &dyn Monitor,
    stop: &AtomicBool,
) -> Result<Vec<Outcome>> {
    let full = |why: Option<String>| {
        let mut options = options.clone();
        options.notes.extend(why.map(String::into_bytes));
        send(writer, snapshot, None, &options, monitor, stop)
    };
    let is_own = |point: &&PointRecord| point.host == options.host && point.source == options.source;
    let Some(parent) = parent else {
        let why = match points.iter().any(|point| is_own(&point)) {
            true => format!("sent completely: no snapshot that the repository knows is in {SNAPSHOT_DIR} any more"),
            false => "sent completely: there was no restore point of this source".to_owned(),
        };
        return full(Some(why));
    };
    match send(writer, snapshot, Some(parent), options, monitor, stop) {
        Err(error) if error.is_loss() => {
            full(Some(format!("sent completely: the restore point of the last snapshot is damaged: {error}")))
        }
        Err(error) if !stop.load(Relaxed) && !parent.path.exists() => {
            full(Some(format!("sent completely: the last snapshot vanished while it was used: {error}")))
        }
        done => done,
    }
}

fn send(
    writer: &Writer,
    snapshot: &Snapshot,
    parent: Option<&Snapshot>,
    options: &StreamOptions,
    monitor: &dyn Monitor,
    stop: &AtomicBool,
) -> Result<Vec<Outcome>> {
    // Content that is damaged in the repository is read there.
    let mut source = SnapshotDir::open(&snapshot.path)?.with_id(Some(snapshot.id));
    let mut sending = Sending::start(snapshot, parent)?;
    let done = run(writer, &mut BtrfsDecoder::new(), &mut sending, Some(&mut source), options, monitor, stop);
    // Ctrl-C reaches the child as well; what it then says is not the cause.
    if stop.load(Relaxed) && done.is_err() {
        Err(Error::new(ErrorKind::Interrupted, "the backup was stopped"))
    } else {
        done
    }
}

/// `btrfs send` at work. Its stream ends well only if it does: nothing is sealed of a stream whose sender failed.
struct Sending {
    child: Child,
    stream: ChildStdout,
    messages: Option<JoinHandle<String>>,
    ended: bool,
}

impl Sending {
    fn start(snapshot: &Snapshot, parent: Option<&Snapshot>) -> Result<Self> {
        let mut command = Command::new("btrfs");
        command.args(["send", "-q"]).env("LC_ALL", "C");
        // Holes travel as holes. Not --compressed-data: kernels leave things unsaid there (SPEC.md section 19).
        if kernel_sends_version() >= 2 {
            command.args(["--proto", "2"]);
        }
        if let Some(parent) = parent {
            command.arg("-p").arg(&parent.path);
        }
        command.arg(&snapshot.path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(not_started)?;
        let (Some(stream), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Io, "btrfs send has no output"));
        };
        let messages = std::thread::spawn(move || {
            let (mut text, mut errors) = (Vec::new(), errors);
            let _ = errors.by_ref().take(MAX_MESSAGE_BYTES).read_to_end(&mut text);
            // What is beyond is read too, so that the child never waits for us.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Self { child, stream, messages: Some(messages), ended: false })
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.ended = true;
        let status = self.child.wait()?;
        let messages = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            Ok(())
        } else {
            Err(std::io::Error::other(format!("btrfs send failed ({status}): {messages}")))
        }
    }
}

impl Read for Sending {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.stream.read(out) {
            Ok(0) if !out.is_empty() && !self.ended => self.end().map(|()| 0),
            other => other,
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn kernel_sends_version() -> u32 {
    std::fs::read_to_string(STREAM_VERSION).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1)
}

/// Which snapshot is at a path; None where that is none, or cannot be told.
#[must_use]
pub fn snapshot_id(path: &Path) -> Option<SnapshotId> {
    show(path).ok().map(|snapshot| snapshot.id)
}

/// What btrfs says of the subvolume at `path`.
fn show(path: &Path) -> Result<Snapshot> {
    let text = btrfs(&["subvolume".as_ref(), "show".as_ref(), path.as_os_str()])?;
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let id = field("Received UUID:").and_then(uuid).or_else(|| field("UUID:").and_then(uuid));
    let uuid =
        id.ok_or_else(|| Error::new(ErrorKind::Io, format!("btrfs does not say the uuid of {}", path.display())))?;
    let read_only = field("Flags:").is_some_and(|flags| flags.split([',', ' ']).any(|flag| flag == "readonly"));
    Ok(Snapshot { path: path.to_owned(), id: SnapshotId { uuid, read_only } })
}

fn is_subvolume(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.ino() == SUBVOLUME_INO)
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut id = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

fn not_started(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::new(ErrorKind::NotFound, "there is no program 'btrfs'").advise("install btrfs-progs");
    }
    Error::io("starting btrfs", error)
}

/// Runs btrfs and gives what it printed.
fn btrfs(args: &[&OsStr]) -> Result<String> {
    let output =
        Command::new("btrfs").args(args).env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(not_started)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Io, format!("btrfs {} failed ({}): {said}", words.join(" "), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_or_refused() {
        assert_eq!(uuid("00010203-0405-0607-0809-0a0b0c0d0eff").unwrap()[14..], [14, 255]);
        for bad in ["-", "", "00010203-0405-0607-0809-0a0b0c0d0e", "0001020g-0405-0607-0809-0a0b0c0d0eff"] {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_subvolume_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Subvolume::open(dir.path(), "id").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::NotFound), "{error:?}");
    }
}
