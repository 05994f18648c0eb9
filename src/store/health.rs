//! What is remembered of checks: when each package was last read and found whole, and how the last check ended
//! (column family `health`, SPEC.md section 9). Losing it costs a check that begins from the start, nothing else.

use super::index::{Index, IndexBatch, failed};
use super::lease::Lease;
use super::repository::Repository;
use crate::error::{Error, Result};
use repo_format::{PackageId, StoreKind};
use rocksdb::{ColumnFamily, IteratorMode, WriteBatch, WriteOptions};
use std::collections::HashMap;

const HEALTH: &str = "health";
/// Key of the last check; a package's key is its id, 16 bytes.
const LAST_CHECK: &[u8] = b"last_check";
const LAST_CHECK_BYTES: usize = 25;

/// How the last check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended, seconds since 1970.
    pub time_sec: i64,
    /// What it found wrong.
    pub findings: u64,
    /// What it found worth knowing, with nothing lost by it.
    pub warnings: u64,
    /// Whether it read content.
    pub read_data: bool,
}

impl LastCheck {
    fn encode(self) -> Vec<u8> {
        let numbers = [self.time_sec.to_le_bytes(), self.findings.to_le_bytes(), self.warnings.to_le_bytes()];
        let mut out = numbers.concat();
        out.push(u8::from(self.read_data));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LAST_CHECK_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let read_data = match bytes.last()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self { time_sec: number(0)?.cast_signed(), findings: number(8)?, warnings: number(16)?, read_data })
    }
}

/// What is remembered.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// When each package was last read whole and found sound, seconds since 1970.
    pub verified: HashMap<PackageId, i64>,
    /// The last check that could write down how it ended.
    pub last: Option<LastCheck>,
}

impl Index {
    fn health_cf(&self) -> Result<&ColumnFamily> {
        self.raw().cf_handle(HEALTH).ok_or_else(|| Error::damaged("the index has no column family 'health'"))
    }

    /// What is remembered of checks. Entries that are not valid count as never verified.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn health(&self) -> Result<Health> {
        let mut out = Health::default();
        for row in self.raw().iterator_cf(self.health_cf()?, IteratorMode::Start) {
            let (key, value) = row.map_err(|e| failed("reading the index", &e))?;
            if &*key == LAST_CHECK {
                out.last = LastCheck::decode(&value);
            } else if let (Ok(id), Ok(time)) = (<[u8; 16]>::try_from(&*key), <[u8; 8]>::try_from(&*value)) {
                out.verified.insert(PackageId(id), i64::from_le_bytes(time));
            }
        }
        Ok(out)
    }

    /// Remembers a check; durable when this returns. Packages that are gone are forgotten.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn record_health(&self, verified: &[(PackageId, i64)], last: Option<LastCheck>) -> Result<()> {
        let cf = self.health_cf()?;
        let mut batch = WriteBatch::default();
        let known: std::collections::HashSet<PackageId> = self.packages()?.into_iter().map(|p| p.id).collect();
        for id in self.health()?.verified.into_keys().filter(|id| !known.contains(id)) {
            batch.delete_cf(cf, id.0);
        }
        for (id, time) in verified.iter().filter(|(id, _)| known.contains(id)) {
            batch.put_cf(cf, id.0, time.to_le_bytes());
        }
        if let Some(last) = last {
            batch.put_cf(cf, LAST_CHECK, last.encode());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.written("writing the index", self.raw().write_opt(batch, &options))
    }
}

/// As [`Index::record_health`], from a process that only reads: takes the lease for the moment. `damaged` are segments that
/// the next backup must not take for present: package number and offset.
///
/// # Errors
/// `Locked` beside a writer, `ReadOnly` or `Io` where the repository cannot be written.
pub fn record_health(
    repository: &Repository,
    verified: &[(PackageId, i64)],
    last: Option<LastCheck>,
    damaged: &[(u32, u32)],
) -> Result<()> {
    super::repository::writable_header(repository.path())?;
    let _lease = Lease::take(&repository.path().join("lock"))?;
    let with_blobs = repository.header().store == StoreKind::RocksDb;
    let index = Index::open_writer(&repository.path().join("db"), with_blobs, false)?;
    let mut batch = IndexBatch::default();
    for place in damaged {
        index.add_damaged(&mut batch, *place)?;
    }
    index.commit(batch)?;
    index.record_health(verified, last)?;
    // Each opening begins a log, and a long check opens it twice a minute.
    index.tidy_log()
}
