//! What maintenance changes in the database: point states, rows that go away, packages that are being freed
//! (SPEC.md sections 8 and 9). Backups never come here.

use super::index::{Index, IndexBatch, REBUILD, failed};
use crate::error::{Error, Result};
use repo_format::{JournalRecord, PackageId, PointId, PointState};
use std::collections::HashMap;

/// The column family of point states.
const STATES: &str = "pins";

/// Key in `meta`: packages up to this number are not an interrupted backup's.
const SETTLED: &[u8] = b"settled";

/// The newest state of every restore point that has one.
pub type States = HashMap<PointId, PointState>;

impl Index {
    /// The newest state of every restore point that has one.
    ///
    /// # Errors
    /// When the database cannot be read or a state is not valid.
    pub fn states(&self) -> Result<States> {
        let bad = || Error::damaged("the state of a restore point in the index is not valid").advise(REBUILD);
        let mut out = States::new();
        for row in self.scan(STATES)? {
            let (key, value) = row?;
            let state = PointState::decode(&value)?;
            if key[..] != state.point.0 {
                return Err(bad());
            }
            out.insert(state.point, state);
        }
        Ok(out)
    }

    /// Packages of which something is being removed: number and id.
    ///
    /// # Errors
    /// When the database cannot be read or a record is not valid.
    pub fn freeing(&self) -> Result<Vec<(u32, PackageId)>> {
        let mut out = Vec::new();
        for row in self.scan("journal")? {
            let (key, value) = row?;
            if let JournalRecord::PackageFree { package } = JournalRecord::decode(&value)? {
                let bad = || Error::damaged("a journal key of the index is not valid").advise(REBUILD);
                let number = u64::from_be_bytes(key[..].try_into().map_err(|_| bad())?);
                out.push((u32::try_from(number).map_err(|_| bad())?, package));
            }
        }
        Ok(out)
    }

    /// The number up to which packages are not those of an interrupted backup, whatever restore points say.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn settled(&self) -> Result<u32> {
        let kept = self.raw().get_cf(self.cf("meta")?, SETTLED).map_err(|e| failed("reading the index", &e))?;
        Ok(kept.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes))
    }

    pub(super) fn set_settled(&self, batch: &mut IndexBatch, number: u32) -> Result<()> {
        batch.0.put_cf(self.cf("meta")?, SETTLED, number.to_be_bytes());
        Ok(())
    }

    /// Adds the newest of `states` of each point, unless the database has a newer one.
    pub(super) fn add_states(&self, batch: &mut IndexBatch, states: &[PointState]) -> Result<()> {
        let mut newest = States::new();
        for state in states {
            let known = newest.entry(state.point).or_insert(*state);
            if state.sequence > known.sequence {
                *known = *state;
            }
        }
        for state in newest.into_values() {
            let kept =
                self.raw().get_cf(self.cf(STATES)?, state.point.0).map_err(|e| failed("reading the index", &e))?;
            let kept = kept.and_then(|bytes| PointState::decode(&bytes).ok());
            if kept.is_none_or(|kept| kept.sequence < state.sequence) {
                batch.0.put_cf(self.cf(STATES)?, state.point.0, state.encode());
            }
        }
        Ok(())
    }

    pub(super) fn remove_point(&self, batch: &mut IndexBatch, id: &PointId) -> Result<()> {
        batch.0.delete_cf(self.cf("points")?, id.0);
        batch.0.delete_cf(self.cf(STATES)?, id.0);
        Ok(())
    }

    pub(super) fn remove_state(&self, batch: &mut IndexBatch, id: &PointId) -> Result<()> {
        batch.0.delete_cf(self.cf(STATES)?, id.0);
        Ok(())
    }

    /// From here on, whatever the index does not name of this package may be removed, and the next writer does it.
    pub(super) fn add_freeing(&self, batch: &mut IndexBatch, number: u32, package: PackageId) -> Result<()> {
        let record = JournalRecord::PackageFree { package };
        batch.0.put_cf(self.cf("journal")?, u64::from(number).to_be_bytes(), record.encode());
        Ok(())
    }
}
