//! Packages in memory: for tests, and the reference for the other implementations.

use super::package_store::PackageStore;
use crate::error::{Error, Result};
use repo_format::PackageId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Packages in a map. `sync` is a promise that memory keeps trivially.
#[derive(Default)]
pub struct MemoryStore {
    packages: Mutex<HashMap<PackageId, Stored>>,
}

#[derive(Default)]
struct Stored {
    bytes: Vec<u8>,
    sealed: bool,
}

impl MemoryStore {
    fn packages(&self) -> MutexGuard<'_, HashMap<PackageId, Stored>> {
        self.packages.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn missing(id: &PackageId) -> Error {
    Error::damaged(format!("package {id} is missing"))
}

impl PackageStore for MemoryStore {
    fn create(&self, id: &PackageId) -> Result<()> {
        match self.packages().insert(*id, Stored::default()) {
            None => Ok(()),
            Some(_) => Err(Error::damaged(format!("package {id} exists already"))),
        }
    }

    fn append(&self, id: &PackageId, offset: u64, parts: &[&[u8]]) -> Result<()> {
        let mut packages = self.packages();
        let package = packages.get_mut(id).ok_or_else(|| missing(id))?;
        if package.sealed || package.bytes.len() as u64 != offset {
            return Err(Error::damaged(format!("package {id} cannot be appended to at {offset}")));
        }
        parts.iter().for_each(|part| package.bytes.extend_from_slice(part));
        Ok(())
    }

    fn sync(&self, id: &PackageId) -> Result<()> {
        self.len(id).map(|_| ())
    }

    fn seal(&self, id: &PackageId) -> Result<()> {
        self.packages().get_mut(id).ok_or_else(|| missing(id))?.sealed = true;
        Ok(())
    }

    fn read(&self, id: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let packages = self.packages();
        let bytes = &packages.get(id).ok_or_else(|| missing(id))?.bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(range.ok_or_else(|| Error::damaged(format!("package {id} ends too early")))?);
        Ok(())
    }

    fn len(&self, id: &PackageId) -> Result<u64> {
        Ok(self.packages().get(id).ok_or_else(|| missing(id))?.bytes.len() as u64)
    }

    fn list(&self) -> Result<Vec<PackageId>> {
        Ok(self.packages().keys().copied().collect())
    }

    fn delete(&self, id: &PackageId) -> Result<()> {
        self.packages().remove(id);
        Ok(())
    }

    fn free(&self, id: &PackageId, ranges: &[(u64, u64)], must: bool) -> Result<u64> {
        let mut packages = self.packages();
        let bytes = &mut packages.get_mut(id).ok_or_else(|| missing(id))?.bytes;
        for (start, end) in ranges.iter().filter(|_| must) {
            let range = *start as usize..(*end as usize).min(bytes.len());
            bytes.get_mut(range).unwrap_or_default().fill(0);
        }
        Ok(0)
    }

    fn frees_parts(&self, _: &PackageId) -> Result<bool> {
        Ok(false)
    }

    fn room(&self, _: &PackageId, _: &[(u64, u64)]) -> Result<u64> {
        Ok(0)
    }

    fn occupied(&self, id: &PackageId) -> Result<u64> {
        self.len(id)
    }
}
