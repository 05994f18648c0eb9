//! Packages inside RocksDB: each append is one value of a BlobDB column family, keyed by package and offset.
//! For people who want everything in one RocksDB directory; slower than files, see benches/store.

use super::index::{Index, failed};
use super::package_store::PackageStore;
use crate::error::{Error, Result};
use repo_format::PackageId;
use rocksdb::{Direction, IteratorMode, WriteBatch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Packages in the `blobs` column family of the index.
pub struct RocksStore {
    index: Arc<Index>,
    /// Lengths of packages this process appends to.
    lengths: Mutex<BTreeMap<PackageId, u64>>,
}

const KEY_BYTES: usize = 24;

impl RocksStore {
    /// A store in an open index that has the column family.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self { index, lengths: Mutex::default() }
    }

    fn lengths(&self) -> MutexGuard<'_, BTreeMap<PackageId, u64>> {
        self.lengths.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The parts of a package from the one that holds byte `offset`, as (offset, bytes).
    fn parts(&self, id: &PackageId, offset: u64) -> Result<impl Iterator<Item = Result<(u64, Box<[u8]>)>> + '_> {
        let cf = self.index.blobs()?;
        let context = |e: rocksdb::Error| failed("reading package bytes", &e);
        let mut start = self.index.raw().iterator_cf(cf, IteratorMode::From(&key(id, offset), Direction::Reverse));
        let first = match start.next() {
            Some(row) => parse(id, &row.map_err(context)?.0).unwrap_or(offset),
            None => offset,
        };
        let rows = self.index.raw().iterator_cf(cf, IteratorMode::From(&key(id, first), Direction::Forward));
        let id = *id;
        Ok(rows.map_while(move |row| match row {
            Ok((k, v)) => parse(&id, &k).map(|at| Ok((at, v))),
            Err(e) => Some(Err(context(e))),
        }))
    }
}

fn key(id: &PackageId, offset: u64) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    out[..16].copy_from_slice(&id.0);
    out[16..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// The offset in a key of this package.
fn parse(id: &PackageId, key: &[u8]) -> Option<u64> {
    let (package, offset) = key.split_first_chunk::<16>()?;
    (package == &id.0).then(|| offset.try_into().map(u64::from_be_bytes).ok()).flatten()
}

fn too_short(id: &PackageId) -> Error {
    Error::damaged(format!("package {id} is missing or ends too early"))
        .advise("run 'relict-maint check' to see which restore points need this package")
}

impl PackageStore for RocksStore {
    fn create(&self, id: &PackageId) -> Result<()> {
        if self.len(id).is_ok() {
            return Err(Error::damaged(format!("package {id} exists already")));
        }
        self.lengths().insert(*id, 0);
        Ok(())
    }

    fn append(&self, id: &PackageId, offset: u64, parts: &[&[u8]]) -> Result<()> {
        let known = self.lengths().get(id).copied();
        let length = known.map_or_else(|| self.len(id), Ok)?;
        if length != offset {
            return Err(Error::damaged(format!("package {id} cannot be appended to at {offset}")));
        }
        let value = parts.concat();
        let put = self.index.raw().put_cf(self.index.blobs()?, key(id, offset), &value);
        self.index.written("writing package bytes", put)?;
        self.lengths().insert(*id, offset + value.len() as u64);
        Ok(())
    }

    fn sync(&self, id: &PackageId) -> Result<()> {
        self.len(id)?;
        self.index.written("making package bytes durable", self.index.raw().flush_wal(true))
    }

    fn seal(&self, id: &PackageId) -> Result<()> {
        self.sync(id)?;
        self.lengths().remove(id);
        Ok(())
    }

    fn read(&self, id: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        for part in self.parts(id, offset)? {
            let (at, bytes) = part?;
            if offset + (filled as u64) < at {
                // Freed: parts are appended without gaps.
                let gap = usize::try_from(at - offset - filled as u64).unwrap_or(usize::MAX).min(buffer.len() - filled);
                buffer[filled..filled + gap].fill(0);
                filled += gap;
                if filled == buffer.len() {
                    return Ok(());
                }
            }
            let want = offset + filled as u64;
            let skip = usize::try_from(want.saturating_sub(at)).unwrap_or(usize::MAX);
            // The read may begin in a gap, behind the part before it.
            let Some(source) = bytes.get(skip..) else { continue };
            let len = source.len().min(buffer.len() - filled);
            buffer[filled..filled + len].copy_from_slice(&source[..len]);
            filled += len;
            if filled == buffer.len() {
                return Ok(());
            }
        }
        if buffer.is_empty() { Ok(()) } else { Err(too_short(id)) }
    }

    fn len(&self, id: &PackageId) -> Result<u64> {
        if let Some(length) = self.lengths().get(id) {
            return Ok(*length);
        }
        let cf = self.index.blobs()?;
        let end = key(id, u64::MAX);
        let mut rows = self.index.raw().iterator_cf(cf, IteratorMode::From(&end, Direction::Reverse));
        let (k, v) = rows.next().ok_or_else(|| too_short(id))?.map_err(|e| failed("reading package bytes", &e))?;
        Ok(parse(id, &k).ok_or_else(|| too_short(id))? + v.len() as u64)
    }

    fn list(&self) -> Result<Vec<PackageId>> {
        let mut out: Vec<PackageId> = self.lengths().keys().copied().collect();
        let mut iterator = self.index.raw().raw_iterator_cf(self.index.blobs()?);
        iterator.seek_to_first();
        while let Some(id) = iterator.key().and_then(|k| k.first_chunk::<16>()).copied() {
            out.push(PackageId(id));
            iterator.seek(key(&PackageId(id), u64::MAX));
            if iterator.key().is_some_and(|k| k.starts_with(&id)) {
                iterator.next();
            }
        }
        iterator.status().map_err(|e| failed("listing packages", &e))?;
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    fn delete(&self, id: &PackageId) -> Result<()> {
        self.lengths().remove(id);
        let mut batch = WriteBatch::default();
        for part in self.parts(id, 0)? {
            batch.delete_cf(self.index.blobs()?, key(id, part?.0));
        }
        self.index.written("deleting a package", self.index.raw().write(batch))
    }

    fn free(&self, id: &PackageId, ranges: &[(u64, u64)], _: bool) -> Result<u64> {
        let mut freed = 0;
        let mut batch = WriteBatch::default();
        for part in self.parts(id, 0)? {
            let (at, bytes) = part?;
            let end = at + bytes.len() as u64;
            // A segment is one part; what is missing between parts reads as zeros.
            if ranges.iter().any(|(from, to)| *from <= at && end <= *to) {
                batch.delete_cf(self.index.blobs()?, key(id, at));
                freed += bytes.len() as u64;
            }
        }
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        self.index.written("freeing a part of a package", self.index.raw().write_opt(batch, &options))?;
        Ok(freed)
    }

    fn frees_parts(&self, _: &PackageId) -> Result<bool> {
        Ok(true)
    }

    fn room(&self, id: &PackageId, ranges: &[(u64, u64)]) -> Result<u64> {
        let mut room = 0;
        for part in self.parts(id, 0)? {
            let (at, bytes) = part?;
            let end = at + bytes.len() as u64;
            room += if ranges.iter().any(|(from, to)| *from <= at && end <= *to) { bytes.len() as u64 } else { 0 };
        }
        Ok(room)
    }

    fn occupied(&self, id: &PackageId) -> Result<u64> {
        self.parts(id, 0)?.try_fold(0, |sum, part| Ok(sum + part?.1.len() as u64))
    }
}
