//! Pins: what a running mount shows stays until the mount lets it go or ends (SPEC.md section 10).
//!
//! A pin is a file in `pins/` that its holder keeps locked; the kernel lets go when the holder dies, so a pin never has to
//! be removed by hand. It names the points that it holds. A holder writes a point down first and looks a second time
//! whether it is still there; prune reads pins after it has the lease. So a point that somebody shows is always seen.

use super::lease::signature;
use super::repository::Repository;
use crate::error::{Error, Result};
use repo_format::{ChunkId, PointId, PointRecord};
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const DIR: &str = "pins";
const SUFFIX: &str = "pin";
/// Before the id of a point that is held no longer. (Who does not know it sees no id there, and keeps the point.)
const LET_GO: &str = "-";

/// Held as long as this value lives.
pub struct Pin {
    held: Mutex<Held>,
}

struct Held {
    path: PathBuf,
    /// Locked.
    file: File,
    points: HashSet<PointId>,
    /// The last line has no end.
    torn: bool,
}

impl Pin {
    /// Makes a pin that holds nothing yet.
    ///
    /// # Errors
    /// `ReadOnly` or `Io` when the repository's directory cannot be written: then nothing can be pinned.
    pub(super) fn take(repository: &Path) -> Result<Self> {
        Ok(Self { held: Mutex::new(Held::make(repository)?) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds more points. True when one of them was not held before.
    fn hold(&self, points: impl Iterator<Item = PointId>) -> Result<bool> {
        let mut held = self.held();
        let new: Vec<PointId> = points.filter(|id| !held.points.contains(id)).collect();
        for id in &new {
            held.write("", id)?;
            held.points.insert(*id);
        }
        Ok(!new.is_empty())
    }

    /// Lets points go. The pin stays the same file: whoever lists the pins meanwhile cannot miss it.
    fn let_go(&self, points: &[PointId]) -> Result<()> {
        let mut held = self.held();
        let gone: Vec<PointId> = points.iter().filter(|id| held.points.contains(*id)).copied().collect();
        for id in &gone {
            held.write(LET_GO, id)?;
            held.points.remove(id);
        }
        Ok(())
    }

    fn holds(&self, point: &PointId) -> bool {
        self.held().points.contains(point)
    }
}

impl Held {
    fn make(repository: &Path) -> Result<Self> {
        let dir = repository.join(DIR);
        let context = |e| Error::io(format!("pinning restore points in {}", dir.display()), e);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != Io::AlreadyExists => return Err(context(e)),
            _ => {}
        }
        let name: [u8; 8] = super::keys::random()?;
        let name = format!("{:016x}", u64::from_le_bytes(name));
        // Locked and whole before it has its name: who finds one unlocked may remove it.
        let (new, path) = (dir.join(format!("{name}.new")), dir.join(format!("{name}.{SUFFIX}")));
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new).map_err(context)?;
        file.lock().map_err(context)?;
        file.write_all(signature().as_bytes()).map_err(context)?;
        fs::rename(&new, &path).map_err(context)?;
        Ok(Self { path, file, points: HashSet::new(), torn: false })
    }

    /// Appends one line. What could be written of a line that did not fit is taken back, so that the next one is read; where
    /// that cannot be done either, the next one begins anew.
    fn write(&mut self, mark: &str, point: &PointId) -> Result<()> {
        let failed = |e, path: &Path| Error::io(format!("writing {}", path.display()), e);
        let end = self.file.metadata().map_err(|e| failed(e, &self.path))?.len();
        let begin = if self.torn { "\n" } else { "" };
        let written = self.file.write_all(format!("{begin}{mark}{point}\n").as_bytes());
        if written.is_ok() {
            self.torn = false;
        } else if self.file.set_len(end).is_err() {
            self.torn = true;
        }
        written.map_err(|e| failed(e, &self.path))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.held().path);
    }
}

impl Repository {
    /// From here on, what [`Repository::shown_points`] gives is kept from prune until this value is dropped.
    ///
    /// # Errors
    /// `ReadOnly` or `Io` when the repository's directory cannot be written: then nothing is pinned.
    pub fn pin(&self) -> Result<()> {
        if self.pin.get().is_none() {
            let _ = self.pin.set(Pin::take(self.path())?);
        }
        Ok(())
    }

    /// These points need not be kept for this reader any more. Where that cannot be written down, they stay.
    pub fn release(&self, points: &[PointId]) {
        if let (Some(pin), false) = (self.pin.get(), points.is_empty()) {
            let _ = pin.let_go(points);
            // Shown again, a point is what it is then: it may have been thinned.
            points.iter().for_each(|id| self.forget_record(id));
        }
    }

    /// From here on, this point is kept from prune until this value is dropped. False: it was forgotten, removed or replaced
    /// before, and nothing keeps it.
    ///
    /// # Errors
    /// As [`Repository::pin`]; when the index cannot be read.
    pub fn pin_point(&self, point: &PointRecord) -> Result<bool> {
        self.pin()?;
        if let Some(pin) = self.pin.get() {
            pin.hold(std::iter::once(point.id))?;
        }
        // A prune that did not see the pin has taken its points out of the list before it took anything else.
        self.refresh()?;
        // A record of the same id that is another one is of a point that was thinned, or repaired, meanwhile.
        let record = self.keys().chunk_id(&point.encode());
        // One that is hidden by now may be going: a prune that has read the pins already does not know of this one.
        if self.index().states()?.get(&point.id).is_some_and(|state| state.hidden.is_some()) {
            return Ok(false);
        }
        Ok(self.index().points()?.iter().any(|(id, chunk)| *id == point.id && *chunk == record))
    }

    /// The visible points, pinned if there is a pin.
    ///
    /// # Errors
    /// When the index cannot be read or the pin cannot be written.
    pub fn shown_points(&self) -> Result<Vec<PointRecord>> {
        let records = self.index().points()?;
        let points = self.point_records()?;
        let Some(pin) = self.pin.get() else { return Ok(points) };
        if !pin.hold(points.iter().map(|point| point.id))? {
            return Ok(points);
        }
        // A prune that did not see the pin has taken its points out of the list before it took anything else.
        self.refresh()?;
        // One that was thinned meanwhile, and pruned before it was pinned, is only there as it is now.
        let known: HashMap<PointId, ChunkId> = records.into_iter().collect();
        for (id, record) in self.index().points()? {
            if known.get(&id).is_some_and(|before| *before != record) {
                self.forget_record(&id);
            }
        }
        let again = self.point_records()?.into_iter();
        Ok(again.filter(|point| pin.holds(&point.id)).collect())
    }
}

/// Who holds which points.
#[derive(Debug, Clone)]
pub struct PinHolder {
    /// Host, process and command, for people.
    pub who: String,
    /// What is held.
    pub points: HashSet<PointId>,
}

/// All pins whose holders live; the others are removed.
///
/// # Errors
/// When the pins cannot be read: then nothing may be removed.
pub fn pin_holders(repository: &Path) -> Result<Vec<PinHolder>> {
    let dir = repository.join(DIR);
    let context = |e| Error::io(format!("reading pins in {}", dir.display()), e);
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
        other => other.map_err(context)?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(context)?.path();
        if path.extension().is_none_or(|end| end != SUFFIX) {
            continue;
        }
        let file = match File::open(&path) {
            Err(e) if e.kind() == Io::NotFound => continue,
            other => other.map_err(context)?,
        };
        match file.try_lock_shared() {
            Ok(()) => {
                let _ = fs::remove_file(&path);
            }
            Err(TryLockError::WouldBlock) => out.push(holder(&fs::read(&path).map_err(context)?)),
            Err(TryLockError::Error(e)) => return Err(context(e)),
        }
    }
    Ok(out)
}

fn holder(bytes: &[u8]) -> PinHolder {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split_whitespace();
    let (host, pid, _) = (words.next().unwrap_or("?"), words.next().unwrap_or("?"), words.next());
    let who = format!("host {host}, pid {pid} ({})", words.collect::<Vec<_>>().join(" "));
    let mut points = HashSet::new();
    // The last line may be half written: its point is not shown yet, or not let go yet.
    for line in lines {
        if let Some(gone) = line.strip_prefix(LET_GO).and_then(PointId::from_hex) {
            points.remove(&gone);
        } else if let Some(point) = PointId::from_hex(line) {
            points.insert(point);
        }
    }
    PinHolder { who, points }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_is_not_held_and_the_rest_always_is() {
        let dir = tempfile::tempdir().unwrap();
        let pin = Pin::take(dir.path()).unwrap();
        let ids: Vec<PointId> = (1..=3).map(|n| PointId([n; 16])).collect();
        let hold = |ids: &[PointId]| {
            pin.hold(ids.iter().copied()).unwrap();
        };
        hold(&ids);
        let held = || -> Vec<HashSet<PointId>> {
            pin_holders(dir.path()).unwrap().into_iter().map(|holder| holder.points).collect()
        };
        assert_eq!(held(), [ids.iter().copied().collect()]);
        pin.let_go(&ids[..2]).unwrap();
        assert_eq!(held(), [HashSet::from([ids[2]])]);
        pin.let_go(&ids[..2]).unwrap();
        assert!(pin.holds(&ids[2]) && !pin.holds(&ids[0]));
        // Whoever looks while points come and go sees what is held all the time.
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for _ in 0..2000 {
                    hold(&ids[..1]);
                    pin.let_go(&ids[..1]).unwrap();
                }
            });
            while !changes.is_finished() {
                assert!(held().iter().any(|points| points.contains(&ids[2])));
            }
        });
        assert_eq!(held(), [HashSet::from([ids[2]])]);
        // Half a line lets nothing go.
        write!(pin.held().file, "{LET_GO}{}", &ids[2].to_string()[..30]).unwrap();
        assert!(held()[0].contains(&ids[2]));
        drop(pin);
        assert_eq!(held(), Vec::<HashSet<PointId>>::new());
        assert_eq!(fs::read_dir(dir.path().join(DIR)).unwrap().count(), 0);
    }

    /// A small tmpfs, gone when this is dropped.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let mut mount = std::process::Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=64k", "relict-test"]).arg(dir.path());
            if mount.status().is_ok_and(|status| status.success()) {
                return Some(Self(dir));
            }
            eprintln!("skipped, needs root: what_does_not_fit_takes_nothing_with_it");
            None
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    /// A full disk cuts a line short. What is written after that is read, and what could not be written is as it was.
    #[test]
    fn what_does_not_fit_takes_nothing_with_it() {
        let Some(disk) = Small::mount() else { return };
        let (dir, filler) = (disk.0.path(), disk.0.path().join("filler"));
        let id = |n: u16| PointId([n.to_be_bytes(); 8].concat().try_into().unwrap());
        for letting_go in [false, true] {
            let pin = Pin::take(dir).unwrap();
            let kept: Vec<PointId> = (1..50).map(id).collect();
            pin.hold(kept.iter().copied()).unwrap();
            let mut file = File::create(&filler).unwrap();
            while file.write_all(&[1; 512]).is_ok() {}
            drop(file);
            let failed = match letting_go {
                false => (50..1000).map(id).find(|id| pin.hold([*id].into_iter()).is_err()),
                // Others come and go until the disk is full.
                true => (50..1000).map(id).find(|id| {
                    pin.hold([*id].into_iter()).is_err() || pin.let_go(&[kept.as_slice(), &[*id]].concat()).is_err()
                }),
            };
            assert!(failed.is_some(), "the disk has to be full");
            fs::remove_file(&filler).unwrap();
            pin.hold([id(2000)].into_iter()).unwrap();
            let (said, meant) = (pin_holders(dir).unwrap().remove(0).points, pin.held().points.clone());
            assert_eq!(meant.difference(&said).count(), 0, "letting go: {letting_go}: shown, and prune may take it");
            assert!(said.contains(&id(2000)));
        }
    }
}
