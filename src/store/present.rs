//! Whether what the index names is still there: packages that went missing or were cut, segments that were freed after an
//! older index knew them, and segments that a reader or `check` found damaged. A writer takes no such chunk for present, so
//! the next backup that meets its content stores it again, and every restore point that names it has it back (SPEC.md section 10).

use super::index::{Index, Location};
use super::package_store::PackageStore;
use super::repository::Repository;
use super::scan::scan_package;
use crate::error::{ErrorKind, Result};
use repo_format::PackageId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Of a package up to this length the segment headers are always read: freeing small segments gives no blocks back.
const SMALL_BYTES: u64 = 2 << 20;

/// A package as it is on the medium.
#[derive(Default)]
struct Extent {
    /// Its length; 0 for one that is missing.
    bytes: u64,
    /// What was freed of it, in order: first byte and the one after the last.
    freed: Vec<(u64, u64)>,
}

impl Extent {
    fn holds(&self, at: &Location) -> bool {
        let (from, end) = (u64::from(at.offset), u64::from(at.offset) + u64::from(at.segment_bytes));
        let behind = self.freed.partition_point(|(_, freed)| *freed <= from);
        end <= self.bytes && self.freed.get(behind).is_none_or(|(freed, _)| *freed > from)
    }
}

/// What is known of the packages that a writer found when it opened.
pub(super) struct Present {
    ids: HashMap<u32, PackageId>,
    /// Numbers from here on are this writer's own.
    next: u32,
    /// The packages that were asked for. They only shrink by damage, and what is freed no index row names.
    extents: Mutex<HashMap<u32, Extent>>,
    /// Packages of the index that do not exist.
    missing: usize,
}

impl Present {
    /// Looks which packages there are: one listing of the store.
    pub(super) fn new(index: &Index, store: &dyn PackageStore) -> Result<Self> {
        let ids: HashMap<u32, PackageId> = index.packages()?.into_iter().map(|info| (info.number, info.id)).collect();
        let listed: std::collections::HashSet<PackageId> = store.list()?.into_iter().collect();
        let lost = ids.iter().filter(|(_, id)| !listed.contains(id)).map(|(number, _)| (*number, Extent::default()));
        let extents: HashMap<u32, Extent> = lost.collect();
        Ok(Self { missing: extents.len(), extents: Mutex::new(extents), ids, next: index.next_package()? })
    }

    /// Whether anything is known to be lost.
    pub(super) fn knows_damage(&self, repository: &Repository) -> bool {
        self.missing > 0 || repository.knows_damage()
    }

    /// Whether the segment at `at` is there, as far as can be told without reading it. What this writer itself appends is.
    pub(super) fn holds(&self, repository: &Repository, store: &dyn PackageStore, at: &Location) -> Result<bool> {
        if at.package >= self.next {
            return Ok(true);
        }
        let Some(id) = self.ids.get(&at.package) else { return Ok(false) };
        if repository.is_damaged(at) {
            return Ok(false);
        }
        let mut extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(extent) = extents.get(&at.package) {
            return Ok(extent.holds(at));
        }
        Ok(extents.entry(at.package).or_insert(extent_of(store, id)?).holds(at))
    }
}

fn extent_of(store: &dyn PackageStore, id: &PackageId) -> Result<Extent> {
    let bytes = match store.len(id) {
        Err(error) if error.kind() == ErrorKind::Damaged => 0,
        other => other?,
    };
    // Only where something may have been freed are the headers read.
    let may_be_freed = bytes > 0 && (bytes < SMALL_BYTES || store.occupied(id).is_ok_and(|occupied| occupied < bytes));
    let scanned = if may_be_freed { scan_package(store, id).ok() } else { None };
    let freed = scanned.map(|scanned| scanned.freed).unwrap_or_default();
    Ok(Extent { bytes, freed: freed.into_iter().map(|(at, bytes)| (at, at + u64::from(bytes))).collect() })
}
