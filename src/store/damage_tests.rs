//! Packages whose footer is damaged after prune has freed parts of them, media that fail, and what recovery and rebuild make
//! of them: nothing that could be needed is removed or hidden.

use super::tests::{cheap, content, new_repo, package_file, point, reader, store, unlock, writer};
use super::*;
use crate::error::{Error, ErrorKind, Result};
use repo_format::{ChunkId, PackageId, PointRecord, SegmentKind, Time};
use std::path::Path;
use tempfile::TempDir;

/// A sealed package of eight segments of one chunk each.
struct Holey {
    dir: TempDir,
    number: u32,
    id: PackageId,
    chunks: Vec<(ChunkId, Vec<u8>)>,
}

/// Frees those segments as prune does.
fn holey(freed: &[usize]) -> Holey {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let chunks: Vec<(ChunkId, Vec<u8>)> = (0..8).map(|n| content(n, 30_000)).map(|c| (store(&w, &c), c)).collect();
    w.finish().unwrap();
    let info = w.repository().index().packages().unwrap()[0];
    for number in freed {
        let at = w.repository().locate(&chunks[*number].0).unwrap().unwrap();
        let from = u64::from(at.offset);
        let dead = Dead { ranges: vec![(from, from + u64::from(at.segment_bytes))], ..Dead::default() };
        w.free_segments(info.number, &info.id, &dead, &[chunks[*number].0]).unwrap();
    }
    drop(w);
    let chunks = chunks.into_iter().enumerate().filter(|(n, _)| !freed.contains(n)).map(|(_, chunk)| chunk).collect();
    Holey { dir, number: info.number, id: info.id, chunks }
}

impl Holey {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Flips a bit so many bytes before the end.
    fn flip(&self, before_end: usize) {
        let file = package_file(self.path(), &self.id);
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() - before_end;
        bytes[at] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }

    fn all_is_read(&self) {
        let r = reader(self.path());
        for (id, bytes) in &self.chunks {
            assert_eq!(&*r.chunk(id).unwrap(), &bytes[..]);
        }
    }
}

/// First, in the middle, two side by side, last; and all of them but one.
const HOLES: [&[usize]; 6] = [&[0], &[3], &[0, 1, 4, 5], &[7], &[0, 7], &[0, 1, 2, 3, 4, 5, 6]];
/// In the check, in the length, in the end's magic number, in a row.
const FLIPS: [usize; 4] = [1, 20, 24, 40];

#[test]
fn a_package_with_a_damaged_footer_is_not_freed() {
    for (holes, flip) in HOLES.iter().flat_map(|holes| FLIPS.map(|flip| (holes, flip))) {
        let holey = holey(holes);
        holey.flip(flip);
        let before = std::fs::read(package_file(holey.path(), &holey.id)).unwrap();
        let w = writer(holey.path());
        let listed = w.repository().index().packages().unwrap();
        let info = listed.into_iter().find(|info| info.number == holey.number).unwrap();
        assert_eq!(w.free_unnamed(&[(info, &[])]).unwrap(), [Freed::Damaged]);
        drop(w);
        assert_eq!(std::fs::read(package_file(holey.path(), &holey.id)).unwrap(), before, "{holes:?} {flip}");
        holey.all_is_read();
        assert!(reader(holey.path()).index().journal().unwrap().is_empty(), "nothing is left to do");
    }
}

#[test]
fn a_rebuild_finds_what_stands_behind_holes_without_the_footer() {
    for (holes, flip) in HOLES.iter().flat_map(|holes| FLIPS.map(|flip| (holes, flip))) {
        let holey = holey(holes);
        holey.flip(flip);
        let before = std::fs::read(package_file(holey.path(), &holey.id)).unwrap();
        let rebuilt = rebuild(holey.path(), &mut unlock).unwrap();
        assert_eq!(std::fs::read(package_file(holey.path(), &holey.id)).unwrap(), before, "{holes:?} {flip}");
        assert_eq!((rebuilt.packages, rebuilt.chunks), (1, holey.chunks.len() as u64), "{holes:?} {flip}");
        assert!(rebuilt.damage.iter().any(|what| what.contains("footer")), "{:?}", rebuilt.damage);
        holey.all_is_read();
        // The next writer leaves it alone, too.
        drop(writer(holey.path()));
        holey.all_is_read();
        assert_eq!(std::fs::read(package_file(holey.path(), &holey.id)).unwrap(), before);
    }
}

/// A store whose medium cannot read a range of bytes.
struct Failing<'a> {
    inner: &'a dyn PackageStore,
    bad: std::ops::Range<u64>,
}

impl PackageStore for Failing<'_> {
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
        if offset < self.bad.end && offset + buffer.len() as u64 > self.bad.start {
            return Err(Error::io("reading", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        self.inner.read(id, offset, buffer)
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
}

/// A package that a killed writer left, three segments long; whether it had made a checkpoint.
fn left_open(checkpoint: bool) -> (TempDir, PackageId, Vec<(ChunkId, Vec<u8>)>) {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let chunks: Vec<_> = (0..3).map(|n| content(n, 3000)).map(|c| (store(&w, &c), c)).collect();
    if checkpoint {
        w.checkpoint().unwrap();
    }
    let id = w.repository().index().packages().unwrap()[0].id;
    w.abandon();
    (dir, id, chunks)
}

#[test]
fn a_medium_that_fails_is_not_taken_for_what_a_crash_left() {
    let (dir, id, chunks) = left_open(false);
    let file = package_file(dir.path(), &id);
    let before = std::fs::read(&file).unwrap();
    let keys = reader(dir.path()).keys().clone();
    let files = FileStore::new(dir.path().join("packages"));
    // Header, first segment's header, its payload, the last payload.
    for bad in [0, 70, 64 + 64 + 36 + 50, before.len() as u64 - 5] {
        let index = Index::open_writer(&dir.path().join("db"), false, false).unwrap();
        let failing = Failing { inner: &files, bad: bad..bad + 1 };
        let error = super::recover::finish_open_packages(&index, &failing, &keys, &|_| Ok(true)).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(libc::EIO)), "byte {bad}");
        assert!(error.advice().is_some_and(|advice| advice.contains("nothing was changed")), "{error}");
        assert!(std::fs::read(&file).unwrap() == before, "byte {bad}");
        assert!(index.packages().unwrap().iter().all(|info| !info.sealed));
    }
    drop(writer(dir.path()));
    let r = reader(dir.path());
    chunks.iter().for_each(|(id, bytes)| assert_eq!(&*r.chunk(id).unwrap(), &bytes[..]));
}

#[test]
fn what_was_durable_and_rots_before_recovery_is_neither_removed_nor_hidden() {
    let (dir, id, chunks) = left_open(true);
    let file = package_file(dir.path(), &id);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let w = writer(dir.path());
    assert!(w.repository().index().packages().unwrap()[0].sealed, "it is never appended to");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    for (id, bytes) in &chunks[1..] {
        assert_eq!(&*w.repository().chunk(id).unwrap(), &bytes[..]);
    }
    assert_eq!(w.repository().chunk(&chunks[0].0).err().unwrap().kind(), ErrorKind::Damaged);
    drop(w);
    std::fs::remove_file(&file).unwrap();
    let w = writer(dir.path());
    assert!(w.knows_damage(), "a package that is missing is still listed");
}

/// Power is lost while a package is synced: its footer arrived, segments before it did not, or not whole.
#[test]
fn what_has_its_footer_is_kept_but_for_what_is_torn_in_it() {
    for torn in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
        let (dir, id, chunks) = left_open(false);
        let file = package_file(dir.path(), &id);
        let files = FileStore::new(dir.path().join("packages"));
        let scanned = scan_package(&files, &id).unwrap();
        let row = |found: &FoundSegment| repo_format::FooterEntry {
            offset: found.offset,
            bytes: found.header.segment_bytes() as u32,
            number: found.header.number,
            chunks: found.header.table.len() as u32,
        };
        let footer = repo_format::PackageFooter { entries: scanned.segments.iter().map(row).collect() };
        let mut bytes = [std::fs::read(&file).unwrap(), footer.encode()].concat();
        let mut left = bytes.clone();
        for number in torn {
            let row = footer.entries[*number];
            // In the header of one, in the payload of the others.
            bytes[row.offset as usize + 6 + number * 200] ^= 1;
            left[row.offset as usize..][..row.bytes as usize].fill(0);
        }
        std::fs::write(&file, &bytes).unwrap();
        let w = writer(dir.path());
        assert!(std::fs::read(&file).unwrap() == left, "{torn:?}");
        assert!(scan_package(&files, &id).unwrap().is_whole(), "{torn:?}");
        let info = w.repository().index().packages().unwrap()[0];
        assert_eq!((info.sealed, info.bytes), (true, bytes.len() as u64));
        for (number, (id, bytes)) in chunks.iter().enumerate() {
            let found = w.repository().chunk(id).map(|chunk| *chunk == bytes[..]).ok();
            assert_eq!(found, (!torn.contains(&number)).then_some(true), "{torn:?}, {number}");
        }
        drop(w);
        rebuild(dir.path(), &mut unlock).unwrap();
        assert_eq!(reader(dir.path()).index().chunks().unwrap().count(), 3 - torn.len());
    }
}

#[test]
fn a_rebuild_removes_nothing_that_has_bytes() {
    let (dir, id, _) = left_open(false);
    let file = package_file(dir.path(), &id);
    let whole = std::fs::read(&file).unwrap();
    // A first segment that is not whole, and no footer: what a crash leaves, or two damages.
    std::fs::write(&file, &whole[..500]).unwrap();
    let rebuilt = rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!((rebuilt.packages, rebuilt.damage.len()), (0, 1));
    assert!(rebuilt.damage[0].contains(&id.to_string()), "{:?}", rebuilt.damage);
    assert_eq!(std::fs::read(&file).unwrap(), &whole[..500]);
    // A header and nothing behind it is nothing.
    std::fs::write(&file, &whole[..64]).unwrap();
    let rebuilt = rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!((rebuilt.packages, rebuilt.damage), (0, Vec::new()));
    assert!(!file.exists());
    drop(writer(dir.path()));
}

fn later(record: &PointRecord, root: ChunkId) -> PointRecord {
    PointRecord { root, sealed: Time { sec: record.sealed.sec + 9, nsec: 0 }, ..record.clone() }
}

/// What compact and repair do with an older record that is kept: they store it again, beside the newer one.
fn store_record(w: &Writer, record: &PointRecord) {
    let bytes = record.encode();
    w.store_segment(SegmentKind::Point, &[(w.chunk_id(&bytes), bytes.len() as u32)], &bytes).unwrap();
}

#[test]
fn an_older_record_in_a_package_that_a_crash_left_does_not_come_back() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let roots = [store(&w, b"whole"), store(&w, b"thinned")];
    let whole = point(&w, 1, roots[0]);
    let thinned = later(&whole, roots[1]);
    let other = point(&w, 2, roots[0]);
    w.seal(&whole).unwrap();
    w.seal(&thinned).unwrap();
    store_record(&w, &whole);
    // One that the catalogue does not have, the newer one first.
    store_record(&w, &later(&other, roots[1]));
    store_record(&w, &other);
    w.abandon();
    drop(writer(dir.path()));
    let mut found = reader(dir.path()).point_records().unwrap();
    found.sort_by_key(|point| point.id);
    assert_eq!(found, [thinned.clone(), later(&other, roots[1])]);
    // And one that is newer takes its place.
    let w = writer(dir.path());
    let again = later(&thinned, roots[0]);
    store_record(&w, &again);
    w.abandon();
    drop(writer(dir.path()));
    assert!(reader(dir.path()).point_records().unwrap().contains(&again));
}

#[test]
fn a_rebuild_goes_by_the_later_record_in_open_packages_too() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let roots = [store(&w, b"whole"), store(&w, b"thinned")];
    let whole = point(&w, 1, roots[0]);
    let thinned = later(&whole, roots[1]);
    w.seal(&whole).unwrap();
    w.seal(&thinned).unwrap();
    store_record(&w, &whole);
    w.abandon();
    rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!(reader(dir.path()).point_records().unwrap(), [thinned]);
}

/// As a crash leaves it: with a record behind a segment that did not arrive.
#[test]
fn a_rebuild_takes_no_record_behind_a_torn_segment() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let root = w.chunk_id(b"a node");
    w.store_segment(SegmentKind::Node, &[(root, 6)], b"a node").unwrap();
    w.seal_unfinished(&point(&w, 1, root)).unwrap();
    let id = w.repository().index().packages().unwrap()[0].id;
    w.abandon();
    let file = package_file(dir.path(), &id);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[64 + 64 + 36] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!(reader(dir.path()).index().points().unwrap(), []);
}

#[test]
fn checks_that_write_down_what_they_read_leave_few_logs() {
    let dir = new_repo(&cheap());
    drop(writer(dir.path()));
    let r = reader(dir.path());
    for n in 0..40 {
        let last = LastCheck { time_sec: n, findings: 0, warnings: 0, read_data: true };
        record_health(&r, &[], Some(last), &[]).unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("db")).unwrap();
    let logs = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "log")).count();
    assert!(logs <= 9, "{logs} logs");
    assert_eq!(reader(dir.path()).index().health().unwrap().last.unwrap().time_sec, 39);
}

#[test]
fn a_package_is_sealed_at_so_many_chunks_whatever_was_made_durable_before() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    for segment in 0..=(PACKAGE_CHUNKS as u32 / 4096) {
        let contents: Vec<[u8; 4]> = (0..4096).map(|n| (segment * 4096 + n).to_le_bytes()).collect();
        let chunks: Vec<_> = contents.iter().map(|bytes| (w.chunk_id(bytes), 4)).collect();
        w.store_segment(SegmentKind::Data, &chunks, &contents.concat()).unwrap();
        if segment % 10 == 0 {
            w.checkpoint().unwrap();
        }
    }
    w.checkpoint().unwrap();
    assert_eq!(w.stats().data_packages, 2);
}

/// As an index that is older than a prune has it: rows lead to what was freed.
#[test]
fn a_chunk_in_a_freed_segment_is_not_taken_for_present() {
    let holey = holey(&[]);
    let w = writer(holey.path());
    let places: Vec<Location> =
        holey.chunks.iter().map(|(id, _)| w.repository().locate(id).unwrap().unwrap()).collect();
    let range = |n: usize| (u64::from(places[n].offset), u64::from(places[n].offset + places[n].segment_bytes));
    w.repository().packages().free(&holey.id, &[range(0), range(3), range(4), range(7)], true).unwrap();
    drop(w);
    let w = writer(holey.path());
    let ids: Vec<ChunkId> = holey.chunks.iter().map(|(id, _)| *id).collect();
    let new = w.claim(&ids).unwrap();
    assert_eq!(new, [true, false, false, true, true, false, false, true]);
    for ((id, bytes), _) in holey.chunks.iter().zip(new).filter(|(_, new)| *new) {
        w.store_segment(SegmentKind::Data, &[(*id, bytes.len() as u32)], bytes).unwrap();
    }
    drop(w);
    holey.all_is_read();
}

/// Power is lost while a batch is written: a part of it is there.
#[test]
fn a_log_that_a_crash_has_torn_stops_no_reader() {
    let dir = new_repo(&cheap());
    let db = dir.path().join("db");
    let first = {
        let w = writer(dir.path());
        let first = point(&w, 1, store(&w, b"one"));
        w.seal(&first).unwrap();
        first
    };
    let w = writer(dir.path());
    let second = point(&w, 2, store(&w, b"two"));
    w.seal(&second).unwrap();
    w.abandon();
    let newest = newest_log(&db);
    let mut bytes = std::fs::read(&newest).unwrap();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    assert!(logs::is_broken(&db).unwrap());
    // Where nobody can write, the database is read as it lies there.
    let at_rest = Index::open_at_rest(&db, false).unwrap();
    assert_eq!(at_rest.points().unwrap().len(), 1);
    at_rest.refresh().unwrap();
    drop(at_rest);
    assert!(std::fs::read(&newest).unwrap() == bytes);
    // Where somebody can, the torn log is out of the way for all that follow.
    let r = reader(dir.path());
    assert!(!logs::is_broken(&db).unwrap());
    assert_eq!(r.point_records().unwrap(), std::slice::from_ref(&first));
    // The next writer finds what the log had lost: its record is whole in its package.
    drop(writer(dir.path()));
    r.refresh().unwrap();
    let mut all = r.point_records().unwrap();
    all.sort_by_key(|point| point.id);
    assert_eq!(all, [first, second]);
}

/// A bit of the log rots, and all that stands behind it is lost to the index: that is no crash.
#[test]
fn a_log_that_rots_is_refused_by_all_and_changed_by_nobody() {
    let dir = new_repo(&cheap());
    let db = dir.path().join("db");
    let w = writer(dir.path());
    let first = point(&w, 1, store(&w, b"one"));
    w.seal(&first).unwrap();
    drop(w);
    let log = newest_log(&db);
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let options = OpenOptions::default();
    let refusals = [
        Repository::open(dir.path(), &mut unlock, &options).map(drop).unwrap_err(),
        Writer::open(dir.path(), &mut unlock, &options).map(drop).unwrap_err(),
        Index::open_at_rest(&db, false).map(drop).unwrap_err(),
    ];
    for error in refusals {
        assert!(
            error.kind() == ErrorKind::Damaged && error.to_string().contains("the entries of 2 of the 2 packages"),
            "{error}"
        );
        assert!(error.advice().is_some_and(|advice| advice.contains("relict-maint rebuild")));
        assert!(std::fs::read(&log).unwrap() == bytes);
    }
    rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!(reader(dir.path()).point_records().unwrap(), [first]);
}

/// The log that was written last.
fn newest_log(db: &Path) -> std::path::PathBuf {
    let all = std::fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let logs = all.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.filter(|path| path.metadata().unwrap().len() > 0).max().unwrap()
}
