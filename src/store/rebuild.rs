//! A new index from nothing but packages and keys: the old one is put aside, never destroyed.

use super::files::sync_dir;
use super::index::{Index, IndexBatch, Location, PackageInfo};
use super::keys::Keys;
use super::lease::Lease;
use super::recover::{finish_open_packages, index_segment, read_record, read_state};
use super::repository::{Unlock, open_keys, package_store, writable_header};
use super::scan::scan_package;
use super::{FileStore, PackageStore};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{PackageId, PointId, RepoHeader, SegmentKind, StoreKind, Time};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a rebuild found.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Packages indexed.
    pub packages: u64,
    /// Chunks indexed, each once.
    pub chunks: u64,
    /// Restore points found.
    pub points: u64,
    /// What could not be used, for people: package and reason.
    pub damage: Vec<String>,
    /// Where the old index is kept, when there was one.
    pub old_index: Option<PathBuf>,
    /// When the record of each point was sealed.
    sealed: HashMap<PointId, Time>,
}

/// Makes a new index. The old one stays as `db.old-N`.
///
/// # Errors
/// `Locked` beside a writer; `Usage` for a repository whose packages are in the database itself.
pub fn rebuild(path: &Path, unlock: &mut Unlock<'_>) -> Result<Rebuilt> {
    let header = writable_header(path)?;
    if header.store == StoreKind::RocksDb {
        return Err(Error::new(ErrorKind::Usage, "the packages of this repository are inside its database, so there is nothing apart from it to rebuild from")
            .advise("restore db/ from a copy; 'init --store files' (the default) keeps packages apart"));
    }
    let _lease = Lease::take(&path.join("lock"))?;
    let keys = open_keys(path, &header, unlock)?;
    let new = path.join("db.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(|e| Error::io(format!("removing an unfinished {}", new.display()), e))?;
    }
    let mut out = Rebuilt::default();
    let index = Arc::new(Index::open_writer(&new, false, true)?);
    let store = FileStore::new(path.join("packages"));
    fill(&index, &store, &keys, &header, &mut out)?;
    finish_open_packages(&index, &*package_store(path, &header, &index), &keys, &EVERYTHING)?;
    out.chunks = index.chunks()?.count() as u64;
    index.flush()?;
    drop(index);
    swap(path, &new, &mut out)?;
    Ok(out)
}

/// A new index names nothing but what was just found.
const EVERYTHING: fn(&Location) -> Result<bool> = |_| Ok(true);

fn fill(index: &Index, store: &dyn PackageStore, keys: &Keys, header: &RepoHeader, out: &mut Rebuilt) -> Result<()> {
    let mut ids = store.list()?;
    ids.sort_unstable();
    // From the last to the first, each replacing what later ones said: so of two places of a chunk the first counts, and no
    // chunk has to be looked up in an index that grows.
    for (number, id) in ids.iter().enumerate().rev() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let damage = std::mem::take(&mut out.damage);
        match add_package(index, store, keys, header, id, number, out) {
            Ok(()) => out.packages += 1,
            Err(e) if e.kind() == ErrorKind::Damaged => out.damage.push(format!("package {id} is left out: {e}")),
            Err(e) => return Err(e),
        }
        out.damage.extend(damage);
    }
    Ok(())
}

fn add_package(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    header: &RepoHeader,
    id: &PackageId,
    number: u32,
    out: &mut Rebuilt,
) -> Result<()> {
    let scanned = scan_package(store, id)?;
    scanned.belongs_to(header.repo, keys.encrypted())?;
    let sealed = scanned.footer.is_some();
    let info = PackageInfo { number, id: *id, kind: scanned.header.kind, sealed, bytes: scanned.bytes };
    let mut batch = IndexBatch::default();
    index.add_package(&mut batch, &info)?;
    if sealed {
        for found in &scanned.segments {
            index_segment(index, &mut batch, number, found, None)?;
        }
        out.damage.extend(scanned.damage.iter().map(|(at, e)| format!("package {id}, byte {at}: {e}")));
    } else {
        // Verified and sealed afterwards by the same recovery that a crash needs.
        index.add_journal(&mut batch, &info)?;
    }
    for found in scanned.segments.iter().filter(|s| s.header.kind == SegmentKind::Point) {
        match read_record(store, keys, id, found) {
            // A repair gives a point another record: of two, the one that was sealed later counts.
            Ok((record, _)) if out.sealed.get(&record.id).is_some_and(|other| *other >= record.sealed) => {}
            Ok((record, chunk)) => {
                index.add_point(&mut batch, &record.id, &chunk)?;
                out.points += u64::from(out.sealed.insert(record.id, record.sealed).is_none());
            }
            Err(e) => out.damage.push(format!("a restore point record in package {id} cannot be read: {e}")),
        }
    }
    let mut states = Vec::new();
    for found in scanned.segments.iter().filter(|s| s.header.kind == SegmentKind::State) {
        match read_state(store, keys, id, found) {
            Ok(state) => states.push(state),
            Err(e) => out.damage.push(format!("the state of a restore point in package {id} cannot be read: {e}")),
        }
    }
    index.add_states(&mut batch, &states)?;
    index.commit_until_flush(batch)
}

/// Puts the new index in the place of the old one. There is an index at every moment, where the file system can exchange names.
fn swap(path: &Path, new: &Path, out: &mut Rebuilt) -> Result<()> {
    let db = path.join("db");
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|e| Error::io(format!("renaming {} to {}", from.display(), to.display()), e))
    };
    if !db.exists() {
        rename(new, &db)?;
        return sync_dir(path);
    }
    let free = |n: &u32| !path.join(format!("db.old-{n}")).exists();
    let old = path.join(format!("db.old-{}", (1..).find(free).unwrap_or(u32::MAX)));
    match crate::os::exchange(new, &db) {
        Ok(()) => rename(new, &old)?,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            rename(&db, &old)?;
            rename(new, &db)?;
        }
        Err(e) => return Err(Error::io(format!("exchanging {} and {}", db.display(), new.display()), e)),
    }
    out.old_index = Some(old);
    sync_dir(path)
}
