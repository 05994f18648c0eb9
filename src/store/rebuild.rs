//! A new index from nothing but packages and keys: the old one is put aside, never destroyed.

use super::files::sync_dir;
use super::index::{Index, IndexBatch, PackageInfo};
use super::keys::Keys;
use super::lease::Lease;
use super::recover::{close, index_segment, read_record, read_state, whole_segments};
use super::repository::{Unlock, open_keys, writable_header};
use super::scan::{FoundSegment, ScannedPackage, scan_package};
use super::{FileStore, PackageStore};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{PACKAGE_HEADER_BYTES, PackageId, PointId, RepoHeader, SegmentKind, StoreKind, Time};
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
    out.chunks = index.chunks()?.count() as u64;
    index.flush()?;
    drop(index);
    swap(path, &new, &mut out)?;
    Ok(out)
}

fn fill(index: &Index, store: &dyn PackageStore, keys: &Keys, header: &RepoHeader, out: &mut Rebuilt) -> Result<()> {
    let mut ids = store.list()?;
    ids.sort_unstable();
    // From the last to the first, each replacing what later ones said: so of two places of a chunk the first counts, and no
    // chunk has to be looked up in an index that grows.
    for (number, id) in ids.iter().enumerate().rev() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let damage = std::mem::take(&mut out.damage);
        match add_package(index, store, keys, header, id, number, out) {
            Ok(added) => out.packages += u64::from(added),
            Err(e) if e.kind() == ErrorKind::Damaged => out.damage.push(format!("package {id} is left out: {e}")),
            Err(e) => return Err(e),
        }
        out.damage.extend(damage);
    }
    Ok(())
}

/// What is to be indexed of a package: everything that can be found in it, or None if nothing is. It is written to, or removed,
/// only when it is what a crash leaves: segments up to its end, and no trace of a footer.
fn usable(
    store: &dyn PackageStore,
    keys: &Keys,
    id: &PackageId,
    scanned: &mut ScannedPackage,
    damage: &mut Vec<String>,
) -> Result<Option<Vec<FoundSegment>>> {
    if scanned.was_sealed || !scanned.freed.is_empty() {
        damage.extend(scanned.damage.iter().map(|(at, e)| format!("package {id}, byte {at}: {e}")));
        if scanned.footer.is_none() {
            damage.push(footer_is_lost(id, scanned));
        }
        return Ok(Some(std::mem::take(&mut scanned.segments)));
    }
    let whole = whole_segments(store, keys, id)?;
    if !whole.segments.is_empty() {
        scanned.bytes = close(store, id, &whole)?;
        return Ok(Some(whole.segments));
    }
    if scanned.bytes == PACKAGE_HEADER_BYTES as u64 {
        store.delete(id)?;
        return Ok(None);
    }
    damage.push(format!(
        "package {id} is left out: it has {} bytes, not one whole segment and no footer. An interrupted backup leaves that; \
         whatever it is, it stays where it is",
        scanned.bytes
    ));
    Ok(None)
}

fn footer_is_lost(id: &PackageId, scanned: &ScannedPackage) -> String {
    let reached = scanned.damage.first().map_or(scanned.bytes, |(at, _)| *at);
    format!(
        "package {id}: its footer is damaged; {} segments were found without it, and nothing is known of what stands from byte \
         {reached} to {}; 'relict-maint repair' stores what was found again",
        scanned.segments.len(),
        scanned.bytes
    )
}

fn add_package(
    index: &Index,
    store: &dyn PackageStore,
    keys: &Keys,
    header: &RepoHeader,
    id: &PackageId,
    number: u32,
    out: &mut Rebuilt,
) -> Result<bool> {
    let mut scanned = scan_package(store, id)?;
    scanned.belongs_to(header.repo, keys.encrypted())?;
    let Some(segments) = usable(store, keys, id, &mut scanned, &mut out.damage)? else { return Ok(false) };
    let info = PackageInfo { number, id: *id, kind: scanned.header.kind, sealed: true, bytes: scanned.bytes };
    let mut batch = IndexBatch::default();
    index.add_package(&mut batch, &info)?;
    for found in &segments {
        index_segment(index, &mut batch, number, found, None)?;
    }
    for found in segments.iter().filter(|s| s.header.kind == SegmentKind::Point) {
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
    for found in segments.iter().filter(|s| s.header.kind == SegmentKind::State) {
        match read_state(store, keys, id, found) {
            Ok(state) => states.push(state),
            Err(e) => out.damage.push(format!("the state of a restore point in package {id} cannot be read: {e}")),
        }
    }
    index.add_states(&mut batch, &states)?;
    index.commit_until_flush(batch)?;
    Ok(true)
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
