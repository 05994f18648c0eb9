//! Whether what the index names is still there: packages that went missing or were cut, and segments that a reader or
//! `check` found damaged. A writer takes no such chunk for present, so the next backup that meets its content stores it
//! again, and every restore point that names it has it back (SPEC.md section 10).

use super::index::{Index, Location};
use super::package_store::PackageStore;
use super::repository::Repository;
use crate::error::{ErrorKind, Result};
use repo_format::PackageId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What is known of the packages that a writer found when it opened.
pub(super) struct Present {
    ids: HashMap<u32, PackageId>,
    /// Numbers from here on are this writer's own.
    next: u32,
    /// Bytes of the packages that were asked for; 0 for one that is missing. They only shrink by damage.
    lengths: Mutex<HashMap<u32, u64>>,
    /// Packages of the index that do not exist.
    missing: usize,
}

impl Present {
    /// Looks which packages there are: one listing of the store.
    pub(super) fn new(index: &Index, store: &dyn PackageStore) -> Result<Self> {
        let ids: HashMap<u32, PackageId> = index.packages()?.into_iter().map(|info| (info.number, info.id)).collect();
        let listed: std::collections::HashSet<PackageId> = store.list()?.into_iter().collect();
        let lost = ids.iter().filter(|(_, id)| !listed.contains(id)).map(|(number, _)| (*number, 0));
        let lengths: HashMap<u32, u64> = lost.collect();
        Ok(Self { missing: lengths.len(), lengths: Mutex::new(lengths), ids, next: index.next_package()? })
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
        Ok(!repository.is_damaged(at)
            && u64::from(at.offset) + u64::from(at.segment_bytes) <= self.length(store, at.package, id)?)
    }

    fn length(&self, store: &dyn PackageStore, number: u32, id: &PackageId) -> Result<u64> {
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(length) = lengths.get(&number) {
            return Ok(*length);
        }
        let length = match store.len(id) {
            Err(error) if error.kind() == ErrorKind::Damaged => 0,
            other => other?,
        };
        lengths.insert(number, length);
        Ok(length)
    }
}
