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
    fn hold(&self, points: &[PointRecord]) -> Result<bool> {
        let mut held = self.held();
        let new: Vec<PointId> = points.iter().map(|point| point.id).filter(|id| !held.points.contains(id)).collect();
        if new.is_empty() {
            return Ok(false);
        }
        held.write("", &new)?;
        held.points.extend(new);
        Ok(true)
    }

    /// Lets points go. The pin stays the same file: whoever lists the pins meanwhile cannot miss it.
    fn let_go(&self, points: &[PointId]) -> Result<()> {
        let mut held = self.held();
        let gone: Vec<PointId> = points.iter().filter(|id| held.points.contains(*id)).copied().collect();
        if !gone.is_empty() {
            held.write(LET_GO, &gone)?;
            held.points.retain(|id| !gone.contains(id));
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
        Ok(Self { path, file, points: HashSet::new() })
    }

    /// Appends one line for each of these points.
    fn write(&mut self, mark: &str, points: &[PointId]) -> Result<()> {
        let lines: String = points.iter().map(|id| format!("{mark}{id}\n")).collect();
        let written = self.file.write_all(lines.as_bytes());
        written.map_err(|e| Error::io(format!("writing {}", self.path.display()), e))
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

    /// From here on, this point is kept from prune until this value is dropped. False: it was removed before.
    ///
    /// # Errors
    /// As [`Repository::pin`]; when the index cannot be read.
    pub fn pin_point(&self, point: &PointRecord) -> Result<bool> {
        self.pin()?;
        if let Some(pin) = self.pin.get() {
            pin.hold(std::slice::from_ref(point))?;
        }
        // A prune that did not see the pin has taken its points out of the list before it took anything else.
        self.refresh()?;
        // A record of the same id that is another one is of a point that was thinned, or repaired, meanwhile.
        let record = self.keys().chunk_id(&point.encode());
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
        if !pin.hold(&points)? {
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
            let mut held = pin.held();
            held.write("", ids).unwrap();
            held.points.extend(ids);
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
}
