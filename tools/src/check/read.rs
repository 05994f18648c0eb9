//! Reading a segment for a check, twice if need be: what differs between two reads is not the medium's fault.

use relict::Error;
use relict::store::{Keys, PackageStore, Segment, read_segment};
use repo_format::{ChunkId, PackageId};

/// A segment as the check saw it.
pub enum Seen {
    /// Whole, and every chunk has the content its id names.
    Whole,
    /// Wrong at first, whole when it was read again from the medium.
    Unstable(Error),
    /// Readable, but these chunks do not have the content their ids name.
    Forged(Vec<ChunkId>),
    /// Wrong both times. `medium` is false when the second read may have come from the same memory.
    Damaged {
        /// Why.
        error: Error,
        /// The cache was emptied in between.
        medium: bool,
    },
}

/// Reads and verifies a segment and the ids of its chunks.
pub fn look(store: &dyn PackageStore, keys: &Keys, id: &PackageId, offset: u64, bytes: u32) -> Seen {
    let read = || read_segment(store, keys, id, offset, bytes).map(|segment| strangers(keys, &segment));
    match read() {
        Ok(strangers) if strangers.is_empty() => Seen::Whole,
        first => {
            let medium = store.drop_cached(id, offset, u64::from(bytes));
            match (first, read()) {
                (first, Ok(strangers)) if strangers.is_empty() => {
                    let error =
                        first.err().unwrap_or_else(|| Error::damaged("chunks did not have the content their ids name"));
                    Seen::Unstable(error)
                }
                (_, Ok(strangers)) => Seen::Forged(strangers),
                (_, Err(error)) => Seen::Damaged { error, medium },
            }
        }
    }
}

fn strangers(keys: &Keys, segment: &Segment) -> Vec<ChunkId> {
    let named = |(start, row): (u32, &repo_format::TableEntry)| {
        let bytes = segment.raw().get(start as usize..(start + row.raw_bytes) as usize).unwrap_or_default();
        (keys.chunk_id(bytes) != row.id).then_some(row.id)
    };
    segment.rows().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use relict::Result;
    use relict::store::{CreateOptions, OpenOptions, Repository, Writer, create};
    use repo_format::SegmentKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A store whose first `wrong` reads of a segment deliver a flipped bit, as bad memory does.
    struct Flaky {
        inner: Arc<dyn PackageStore>,
        wrong: AtomicU32,
        dropped: AtomicU32,
    }

    impl PackageStore for Flaky {
        fn create(&self, id: &PackageId) -> Result<()> {
            self.inner.create(id)
        }
        fn append(&self, id: &PackageId, offset: u64, parts: &[&[u8]]) -> Result<()> {
            self.inner.append(id, offset, parts)
        }
        fn sync(&self, id: &PackageId) -> Result<()> {
            self.inner.sync(id)
        }
        fn seal(&self, id: &PackageId) -> Result<()> {
            self.inner.seal(id)
        }
        fn read(&self, id: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.inner.read(id, offset, buffer)?;
            if self.wrong.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
                && let Some(last) = buffer.last_mut()
            {
                *last ^= 1;
            }
            Ok(())
        }
        fn len(&self, id: &PackageId) -> Result<u64> {
            self.inner.len(id)
        }
        fn list(&self) -> Result<Vec<PackageId>> {
            self.inner.list()
        }
        fn delete(&self, id: &PackageId) -> Result<()> {
            self.inner.delete(id)
        }
        fn free(&self, id: &PackageId, ranges: &[(u64, u64)], must: bool) -> Result<u64> {
            self.inner.free(id, ranges, must)
        }
        fn frees_parts(&self, id: &PackageId) -> Result<bool> {
            self.inner.frees_parts(id)
        }
        fn room(&self, id: &PackageId, ranges: &[(u64, u64)]) -> Result<u64> {
            self.inner.room(id, ranges)
        }
        fn occupied(&self, id: &PackageId) -> Result<u64> {
            self.inner.occupied(id)
        }
        fn drop_cached(&self, _: &PackageId, _: u64, _: u64) -> bool {
            self.dropped.fetch_add(1, Ordering::SeqCst);
            true
        }
    }

    #[test]
    fn a_wrong_read_is_told_from_a_wrong_medium() {
        let dir = tempfile::tempdir().unwrap();
        let mut no_password = || Ok(Vec::new());
        create(dir.path(), &mut no_password, &CreateOptions { encrypt: false, ..CreateOptions::default() }).unwrap();
        let writer = Writer::open(dir.path(), &mut no_password, &OpenOptions::default()).unwrap();
        let raw = b"the only chunk of its kind";
        let (mine, wrong) = (writer.chunk_id(raw), writer.chunk_id(b"something else"));
        writer.store_segment(SegmentKind::Data, &[(mine, raw.len() as u32)], raw).unwrap();
        writer.store_segment(SegmentKind::Data, &[(wrong, raw.len() as u32)], raw).unwrap();
        drop(writer);
        let repository = Repository::open(dir.path(), &mut no_password, &OpenOptions::default()).unwrap();
        let seen = |id: &ChunkId, wrong: u32| {
            let at = repository.locate(id).unwrap().unwrap();
            let inner = repository.packages().clone();
            let store = Flaky { inner, wrong: AtomicU32::new(wrong), dropped: AtomicU32::new(0) };
            let package = repository.package_id(at.package).unwrap();
            let seen = look(&store, repository.keys(), &package, u64::from(at.offset), at.segment_bytes);
            (seen, store.dropped.into_inner())
        };
        assert!(matches!(seen(&mine, 0), (Seen::Whole, 0)), "a sound segment is read once");
        assert!(matches!(seen(&mine, 1), (Seen::Unstable(..), 1)));
        assert!(matches!(seen(&mine, 2), (Seen::Damaged { medium: true, .. }, 1)));
        assert!(matches!(seen(&wrong, 0), (Seen::Forged(ids), 1) if ids == [wrong]));
    }
}
