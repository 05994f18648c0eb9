//! One conformance suite for every package store, and the store's promises under crash and damage.

use super::*;
use crate::error::ErrorKind;
use repo_format::{ChunkId, Counts, PackageId, PointId, PointRecord, SegmentKind, SourceKind, StoreKind, Time};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

pub(super) fn unlock() -> crate::Result<Vec<u8>> {
    Ok(b"correct horse".to_vec())
}

pub(super) fn cheap() -> CreateOptions {
    let kdf = repo_format::KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    CreateOptions { kdf, ..CreateOptions::default() }
}

pub(super) fn new_repo(options: &CreateOptions) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), &mut unlock, options).unwrap();
    dir
}

/// Tries for a while: a process that another test starts holds our lease from its fork to its exec.
pub(super) fn writer(path: &Path) -> Writer {
    for _ in 0..100 {
        match Writer::open(path, &mut unlock, &OpenOptions::default()) {
            Err(e) if e.kind() == ErrorKind::Locked => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other.unwrap(),
        }
    }
    panic!("the lease is not given back");
}

pub(super) fn reader(path: &Path) -> Arc<Repository> {
    Repository::open(path, &mut unlock, &OpenOptions::default()).unwrap()
}

/// Deterministic bytes that compress a little.
pub(super) fn content(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 1 | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 60) as u8 * 7
    };
    (0..len).map(next).collect()
}

pub(super) fn store(w: &Writer, bytes: &[u8]) -> ChunkId {
    let id = w.chunk_id(bytes);
    if w.claim(&[id]).unwrap()[0] {
        w.store_segment(SegmentKind::Data, &[(id, bytes.len() as u32)], bytes).unwrap();
    }
    id
}

pub(super) fn point(w: &Writer, id: u8, root: ChunkId) -> PointRecord {
    let time = Time { sec: 1_700_000_000 + i64::from(id), nsec: 5 };
    PointRecord {
        repo: w.repository().header().repo,
        id: PointId([id; 16]),
        time,
        sealed: time,
        root,
        next_ino: 2,
        kind: SourceKind::Dir,
        host: b"host".to_vec(),
        source: b"/data".to_vec(),
        parent: None,
        counts: Counts::default(),
        paths: vec![b"/data".to_vec()],
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: b"test".to_vec(),
        extra: Vec::new(),
    }
}

mod conformance {
    use super::*;
    use crate::os::tests::{cache_is_left_or_skip, cached_bytes};

    fn suite(store: &dyn PackageStore) {
        let (a, b) = (PackageId([1; 16]), PackageId([2; 16]));
        assert!(store.len(&a).is_err() && store.read(&a, 0, &mut [0; 1]).is_err());
        store.create(&a).unwrap();
        store.create(&b).unwrap();
        store.append(&a, 0, &[b"abc", b"", b"defg"]).unwrap();
        store.append(&b, 0, &[b"other"]).unwrap();
        store.append(&a, 7, &[b"hi"]).unwrap();
        store.sync(&a).unwrap();
        for (at, want) in [(0, &b"abcdefghi"[..]), (2, b"cde"), (6, b"gh"), (7, b"hi"), (8, b"i")] {
            let mut buffer = vec![0; want.len()];
            store.read(&a, at, &mut buffer).unwrap();
            assert_eq!(buffer, want);
        }
        for (at, len) in [(8, 2), (9, 1), (100, 1), (0, 10)] {
            assert!(store.read(&a, at, &mut vec![0; len]).is_err(), "read past the end at {at}+{len}");
        }
        assert!(store.append(&a, 3, &[b"x"]).is_err(), "an append in the middle");
        assert!(store.append(&a, 12, &[b"x"]).is_err(), "an append past the end");
        assert_eq!(store.len(&a).unwrap(), 9);
        assert!(store.create(&a).is_err(), "made twice");
        store.seal(&a).unwrap();
        store.seal(&b).unwrap();
        let mut all = store.list().unwrap();
        all.sort_unstable();
        assert_eq!(all, [a, b]);
        store.delete(&a).unwrap();
        store.delete(&a).unwrap();
        assert_eq!(store.list().unwrap(), [b]);
        let mut buffer = [0; 5];
        store.read(&b, 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"other");
        let big = content(1, 300_000);
        let c = PackageId([3; 16]);
        store.create(&c).unwrap();
        for (i, part) in big.chunks(70_000).enumerate() {
            store.append(&c, i as u64 * 70_000, &[part]).unwrap();
        }
        let mut buffer = vec![0; 200_000];
        store.read(&c, 50_001, &mut buffer).unwrap();
        assert_eq!(buffer, big[50_001..250_001]);
        store.seal(&c).unwrap();
        assert!(store.occupied(&c).unwrap() >= 300_000);
        let ranges = [(70_000, 140_000), (210_000, 280_000)];
        let room = store.room(&c, &ranges).unwrap();
        assert_eq!(room > 0, store.frees_parts(&c).unwrap());
        assert_eq!(store.free(&c, &ranges, true).unwrap(), room);
        assert_eq!(store.room(&c, &ranges).unwrap(), 0, "freed once");
        assert_eq!(store.len(&c).unwrap(), 300_000);
        let mut left = big.clone();
        left[70_000..140_000].fill(0);
        left[210_000..280_000].fill(0);
        for (from, to) in [(0, 300_000), (69_990, 70_010), (80_000, 90_000), (139_000, 141_000), (100_000, 300_000)] {
            let mut buffer = vec![1; to - from];
            store.read(&c, from as u64, &mut buffer).unwrap();
            assert_eq!(buffer, left[from..to], "{from} to {to}");
        }
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        suite(&FileStore::new(dir.path().to_path_buf()));
    }

    #[test]
    fn memory() {
        suite(&MemoryStore::default());
    }

    #[test]
    fn rocksdb() {
        let dir = tempfile::tempdir().unwrap();
        suite(&RocksStore::new(Arc::new(Index::open_writer(&dir.path().join("db"), true, true).unwrap())));
    }

    #[test]
    fn a_large_package_leaves_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        if !cache_is_left_or_skip(dir.path(), "a large package leaves the page cache") {
            return;
        }
        let store = FileStore::new(dir.path().to_path_buf());
        let cached = |id: PackageId, mib: u64| {
            store.create(&id).unwrap();
            let piece = content(5, 1 << 20);
            (0..mib).for_each(|n| store.append(&id, n << 20, &[&piece]).unwrap());
            store.seal(&id).unwrap();
            let name = id.to_string();
            cached_bytes(&dir.path().join(&name[..2]).join(name + ".pkg"))
        };
        assert_eq!(cached(PackageId([1; 16]), 40), 0);
        assert!(cached(PackageId([2; 16]), 4) > 2 << 20, "what a small backup wrote is read next");
    }

    #[test]
    fn file_store_frees_punched_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::new(dir.path().to_path_buf());
        let id = PackageId([7; 16]);
        store.create(&id).unwrap();
        store.append(&id, 0, &[&content(3, 1 << 20)]).unwrap();
        store.seal(&id).unwrap();
        assert_eq!(store.free(&id, &[(4096, (512 << 10) + 4096)], false).unwrap(), 512 << 10);
    }
}

#[test]
fn what_is_stored_is_read_back_by_a_reader_beside_the_writer() {
    for options in
        [cheap(), CreateOptions { encrypt: false, ..cheap() }, CreateOptions { store: StoreKind::RocksDb, ..cheap() }]
    {
        let dir = new_repo(&options);
        let (w, r) = (writer(dir.path()), reader(dir.path()));
        let contents: Vec<Vec<u8>> = (0..40).map(|i| content(i, 1000 * (i as usize + 1))).collect();
        let ids: Vec<ChunkId> = contents.iter().map(|c| store(&w, c)).collect();
        assert!(r.locate(&ids[0]).unwrap().is_none(), "visible before the checkpoint");
        w.checkpoint().unwrap();
        r.refresh().unwrap();
        for (id, bytes) in ids.iter().zip(&contents) {
            assert_eq!(&*r.chunk(id).unwrap(), &bytes[..]);
            assert_eq!(&*w.repository().chunk(id).unwrap(), &bytes[..]);
        }
        let before = w.stats();
        contents.iter().for_each(|c| {
            store(&w, c);
        });
        assert_eq!(w.stats(), before, "known chunks are stored again");
        w.seal(&point(&w, 9, ids[0])).unwrap();
        r.refresh().unwrap();
        assert_eq!(r.point_records().unwrap().len(), 1);
        assert!(r.index().packages().unwrap().iter().all(|p| p.sealed));
        assert!(r.index().journal().unwrap().is_empty());
    }
}

#[test]
fn a_second_writer_is_refused_and_told_who_writes() {
    let dir = new_repo(&cheap());
    let _w = writer(dir.path());
    let error = Writer::open(dir.path(), &mut unlock, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains("host"), "{text}");
}

#[test]
fn wrong_password_missing_repository_newer_format() {
    let dir = new_repo(&cheap());
    let options = OpenOptions::default();
    let wrong = Repository::open(dir.path(), &mut || Ok(b"wrong".to_vec()), &options).err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::WrongPassword);
    let none = Repository::open(&dir.path().join("x"), &mut unlock, &options).err().unwrap();
    assert_eq!(none.kind(), ErrorKind::NoRepository);
    let file = dir.path().join("relict.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("format = 1", "format = 2")).unwrap();
    let newer = Repository::open(dir.path(), &mut unlock, &options).err().unwrap();
    assert_eq!(newer.kind(), ErrorKind::NewerFormat);
    std::fs::write(&file, text.replace("chunk_bytes = [16384", "chunk_bytes = [16385")).unwrap();
    let damaged = Repository::open(dir.path(), &mut unlock, &options).err().unwrap();
    assert_eq!(damaged.kind(), ErrorKind::Damaged);
}

#[test]
fn a_header_that_was_talked_out_of_encryption_is_refused() {
    let dir = new_repo(&cheap());
    let mut header = read_header(dir.path()).unwrap();
    header.encryption = repo_format::Encryption::None;
    std::fs::write(dir.path().join("relict.toml"), header.encode()).unwrap();
    let error = Writer::open(dir.path(), &mut unlock, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("key slots"), "{error}");
}

#[test]
fn the_index_tells_nothing_of_a_restore_point() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let root = store(&w, b"content");
    w.seal(&PointRecord { host: b"secret-host-name".to_vec(), ..point(&w, 1, root) }).unwrap();
    w.repository().index().flush().unwrap();
    drop(w);
    let grep = std::process::Command::new("grep").args(["-rqa", "secret-host-name"]).arg(dir.path()).status().unwrap();
    assert_eq!(grep.code(), Some(1), "the host's name stands in the clear");
    assert_eq!(reader(dir.path()).point_records().unwrap()[0].host, b"secret-host-name");
}

#[test]
fn init_refuses_what_is_occupied() {
    let dir = new_repo(&cheap());
    let again = create(dir.path(), &mut unlock, &cheap()).err().unwrap();
    assert!(again.to_string().contains("is a repository already"));
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("file"), "x").unwrap();
    assert!(create(other.path(), &mut unlock, &cheap()).err().unwrap().to_string().contains("is not empty"));
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "something was written");
}

#[test]
fn init_goes_on_where_one_was_killed_and_nowhere_else() {
    let killed = |extra: &str| {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), &mut unlock, &cheap()).unwrap();
        std::fs::rename(dir.path().join("relict.toml"), dir.path().join("relict.toml.init")).unwrap();
        let _ = std::fs::remove_file(dir.path().join("reserve"));
        if !extra.is_empty() {
            std::fs::write(dir.path().join(extra), "x").unwrap();
        }
        dir
    };
    let dir = killed("");
    create(dir.path(), &mut unlock, &cheap()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("keys")).unwrap().count(), 1);
    assert_eq!(reader(dir.path()).point_records().unwrap(), []);
    assert!(!dir.path().join("relict.toml.init").exists());
    for foreign in ["file", "packages/file"] {
        let dir = killed(foreign);
        create(dir.path(), &mut unlock, &cheap()).expect_err(foreign);
        assert!(dir.path().join(foreign).exists() && dir.path().join("keys").exists(), "{foreign}");
    }
    let dir = killed("");
    let other = std::fs::File::open(dir.path().join("relict.toml.init")).unwrap();
    other.lock().unwrap();
    assert_eq!(create(dir.path(), &mut unlock, &cheap()).err().unwrap().kind(), ErrorKind::Locked);
}

#[test]
fn a_package_is_sealed_at_so_many_chunks() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    for segment in 0..=(PACKAGE_CHUNKS as u32 / 4096) {
        let contents: Vec<[u8; 4]> = (0..4096).map(|n| (segment * 4096 + n).to_le_bytes()).collect();
        let chunks: Vec<_> = contents.iter().map(|bytes| (w.chunk_id(bytes), 4)).collect();
        let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
        assert!(w.claim(&ids).unwrap().into_iter().all(|new| new));
        w.store_segment(SegmentKind::Data, &chunks, &contents.concat()).unwrap();
    }
    w.checkpoint().unwrap();
    assert_eq!(w.stats().data_packages, 2);
}

/// Two at once: both saw an empty directory, and the slower one comes when the other is done.
#[test]
fn an_init_that_comes_late_leaves_the_repository_alone() {
    let dir = new_repo(&cheap());
    let late = super::create::begin(dir.path()).expect_err("refused");
    assert!(late.to_string().contains("is a repository already"), "{late}");
    assert!(!dir.path().join("relict.toml.init").exists());
    assert_eq!(reader(dir.path()).point_records().unwrap(), []);
}

#[test]
fn chunks_of_a_killed_run_are_found_again() {
    for options in [cheap(), CreateOptions { store: StoreKind::RocksDb, ..cheap() }] {
        let dir = new_repo(&options);
        let contents: Vec<Vec<u8>> = (0..20).map(|i| content(i, 50_000)).collect();
        let w = writer(dir.path());
        contents.iter().for_each(|c| {
            store(&w, c);
        });
        w.abandon();
        let w = writer(dir.path());
        let before = w.stats();
        for c in &contents {
            let id = store(&w, c);
            assert_eq!(&*w.repository().chunk(&id).unwrap(), &c[..]);
        }
        assert_eq!(w.stats(), before);
        assert!(w.repository().index().packages().unwrap().iter().all(|p| p.sealed));
    }
}

#[test]
fn a_reader_is_not_misled_by_a_package_that_recovery_removed() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let first = store(&w, &content(1, 3000));
    w.finish().unwrap();
    let r = reader(dir.path());
    store(&w, &content(2, 3000));
    let open = w.repository().index().packages().unwrap().into_iter().find(|p| !p.sealed).unwrap();
    // The reader learns the open package's number beside that of the one it reads.
    r.refresh().unwrap();
    r.chunk(&first).unwrap();
    w.abandon();
    let name = open.id.to_string();
    std::fs::write(dir.path().join(format!("packages/{}/{name}.pkg", &name[..2])), "torn").unwrap();
    // Its removal and the next package may be far apart.
    drop(writer(dir.path()));
    let w = writer(dir.path());
    let bytes = content(3, 3000);
    let third = store(&w, &bytes);
    w.finish().unwrap();
    r.refresh().unwrap();
    assert_eq!(&*r.chunk(&third).unwrap(), &bytes[..]);
    assert!(
        w.repository().index().packages().unwrap().iter().all(|p| p.number != open.number),
        "a number was given out again"
    );
}

#[test]
fn a_point_whose_record_is_whole_is_visible_after_a_crash() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let root = store(&w, b"content");
    w.checkpoint().unwrap();
    let sealed = point(&w, 1, root);
    w.seal_unfinished(&sealed).unwrap();
    w.abandon();
    assert!(reader(dir.path()).point_records().unwrap().is_empty());
    drop(writer(dir.path()));
    assert_eq!(reader(dir.path()).point_records().unwrap(), [sealed]);
}

#[test]
fn a_torn_tail_is_left_out_at_every_length() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let contents: Vec<Vec<u8>> = (0..3).map(|i| content(i, 3000)).collect();
    let ids: Vec<ChunkId> = contents.iter().map(|c| store(&w, c)).collect();
    let id = w.repository().index().packages().unwrap()[0].id;
    w.abandon();
    let name = id.to_string();
    let file = format!("packages/{}/{name}.pkg", &name[..2]);
    let full = std::fs::read(dir.path().join(&file)).unwrap();
    for cut in (0..full.len()).step_by(211) {
        let copy = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("cp").arg("-a").arg(dir.path().join(".")).arg(copy.path()).status();
        assert!(status.unwrap().success());
        std::fs::write(copy.path().join(&file), &full[..cut]).unwrap();
        let w = writer(copy.path());
        for (id, bytes) in ids.iter().zip(&contents) {
            match w.repository().chunk(id) {
                Ok(chunk) => assert_eq!(&*chunk, &bytes[..]),
                Err(_) => assert!(w.repository().locate(id).unwrap().is_none(), "indexed but not readable, cut {cut}"),
            }
            let again = store(&w, bytes);
            w.checkpoint().unwrap();
            assert_eq!(&*w.repository().chunk(&again).unwrap(), &bytes[..]);
        }
        w.finish().unwrap();
        for package in w.repository().packages().list().unwrap() {
            let scanned = scan_package(&**w.repository().packages(), &package).unwrap();
            assert!(scanned.footer.is_some() && scanned.damage.is_empty());
        }
    }
}

#[test]
fn the_index_is_rebuilt_from_packages() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let contents: Vec<Vec<u8>> = (0..50).map(|i| content(i, 9000)).collect();
    let ids: Vec<ChunkId> = contents.iter().map(|c| store(&w, c)).collect();
    let sealed = point(&w, 1, ids[0]);
    w.seal(&sealed).unwrap();
    let late = content(99, 5000);
    let late_id = store(&w, &late);
    w.abandon();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = Repository::open(dir.path(), &mut unlock, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.advice().unwrap().contains("relict-maint rebuild"));
    let rebuilt = rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!((rebuilt.points, rebuilt.damage.len()), (1, 0));
    assert_eq!(rebuilt.chunks, 52, "50 chunks, the point record and the unfinished run's chunk");
    let r = reader(dir.path());
    assert_eq!(r.point_records().unwrap(), [sealed]);
    for (id, bytes) in ids.iter().zip(&contents) {
        assert_eq!(&*r.chunk(id).unwrap(), &bytes[..]);
    }
    assert_eq!(&*r.chunk(&late_id).unwrap(), &late[..]);
}

pub(super) fn package_file(dir: &Path, id: &PackageId) -> std::path::PathBuf {
    let name = id.to_string();
    dir.join(format!("packages/{}/{name}.pkg", &name[..2]))
}

/// A repository with two packages of one chunk each, and the chunks' contents.
fn two_packages() -> (TempDir, [Vec<u8>; 2]) {
    let dir = new_repo(&cheap());
    let contents = [content(1, 40_000), content(2, 40_000)];
    let w = writer(dir.path());
    for bytes in &contents {
        store(&w, bytes);
        w.finish().unwrap();
    }
    (dir, contents)
}

#[test]
fn chunks_of_a_package_that_is_missing_or_cut_are_stored_again() {
    for cut in [None, Some(200)] {
        let (dir, contents) = two_packages();
        let w = writer(dir.path());
        assert!(!w.knows_damage());
        let [lost, kept] = [0, 1].map(|i| w.chunk_id(&contents[i]));
        let at = w.repository().locate(&lost).unwrap().unwrap();
        let file = package_file(dir.path(), &w.repository().package_id(at.package).unwrap());
        drop(w);
        match cut {
            None => std::fs::remove_file(&file).unwrap(),
            Some(bytes) => {
                let whole = std::fs::read(&file).unwrap();
                std::fs::remove_file(&file).unwrap();
                std::fs::write(&file, &whole[..bytes]).unwrap();
            }
        }
        let w = writer(dir.path());
        assert_eq!(w.knows_damage(), cut.is_none(), "a missing package is seen at once");
        assert!(w.lacks(&[kept, lost]).unwrap() && !w.lacks(&[kept]).unwrap());
        assert_eq!(w.claim(&[kept]).unwrap(), [false]);
        store(&w, &contents[0]);
        assert!(!w.lacks(&[lost]).unwrap(), "claimed and stored in this run");
        w.finish().unwrap();
        assert_eq!(w.stats().new_chunks, 1);
        assert_eq!(&*reader(dir.path()).chunk(&lost).unwrap(), &contents[0][..]);
        assert_eq!(w.claim(&[lost]).unwrap(), [false]);
    }
}

#[test]
fn chunks_of_a_segment_that_was_found_damaged_are_stored_again() {
    let (dir, contents) = two_packages();
    let w = writer(dir.path());
    let id = w.chunk_id(&contents[0]);
    let at = w.repository().locate(&id).unwrap().unwrap();
    let file = package_file(dir.path(), &w.repository().package_id(at.package).unwrap());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at.offset as usize + 5000] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    drop(w);
    let w = writer(dir.path());
    assert_eq!(w.claim(&[id]).unwrap(), [false], "nobody has looked yet");
    assert_eq!(w.repository().chunk(&id).err().unwrap().kind(), ErrorKind::Damaged);
    assert!(w.knows_damage());
    drop(w);
    // What one writer met, or was told, the next one knows.
    let w = writer(dir.path());
    assert!(w.knows_damage() && w.lacks(&[id]).unwrap());
    w.mark_damaged(&[(at.package, at.offset)]).unwrap();
    assert_eq!(w.repository().index().damaged().unwrap(), [(at.package, at.offset)]);
    store(&w, &contents[0]);
    drop(w);
    assert_eq!(&*reader(dir.path()).chunk(&id).unwrap(), &contents[0][..]);
    assert_eq!(writer(dir.path()).claim(&[id]).unwrap(), [false]);
}

#[test]
fn a_chunk_stored_again_is_found_after_a_crash() {
    let (dir, contents) = two_packages();
    let w = writer(dir.path());
    let id = w.chunk_id(&contents[0]);
    let at = w.repository().locate(&id).unwrap().unwrap();
    std::fs::remove_file(package_file(dir.path(), &w.repository().package_id(at.package).unwrap())).unwrap();
    drop(w);
    let w = writer(dir.path());
    store(&w, &contents[0]);
    w.abandon();
    assert_eq!(&*writer(dir.path()).repository().chunk(&id).unwrap(), &contents[0][..]);
}

#[test]
fn freed_segments_are_no_damage_and_half_freed_ones_are() {
    let (dir, contents) = two_packages();
    let w = writer(dir.path());
    let at = w.repository().locate(&w.chunk_id(&contents[0])).unwrap().unwrap();
    let id = w.repository().package_id(at.package).unwrap();
    let file = package_file(dir.path(), &id);
    let whole = std::fs::read(&file).unwrap();
    let place = at.offset as usize..(at.offset + at.segment_bytes) as usize;
    let scanned = |bytes: Vec<u8>| {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let found = scan_package(&FileStore::new(dir.path().join("packages")), &id).unwrap();
        (found.segments.len(), found.freed, found.damage.len())
    };
    let mut freed = whole.clone();
    freed[place.clone()].fill(0);
    assert_eq!(scanned(freed), (0, vec![(u64::from(at.offset), at.segment_bytes)], 0));
    let mut half = whole.clone();
    half[place.start..place.end - 1].fill(0);
    assert_eq!(scanned(half), (0, vec![], 1), "payload is left behind zeros");
    assert_eq!(scanned(whole), (1, vec![], 0));
}

#[test]
fn a_rebuild_leaves_out_packages_that_contradict_the_repository() {
    let dir = new_repo(&CreateOptions { encrypt: false, ..cheap() });
    let w = writer(dir.path());
    store(&w, &content(1, 4000));
    w.finish().unwrap();
    let id = w.repository().index().packages().unwrap()[0].id;
    drop(w);
    let file = package_file(dir.path(), &id);
    let mut bytes = std::fs::read(&file).unwrap();
    let mut header =
        repo_format::PackageHeader::decode(bytes[..repo_format::PACKAGE_HEADER_BYTES].try_into().unwrap()).unwrap();
    header.encrypted = true;
    bytes[..repo_format::PACKAGE_HEADER_BYTES].copy_from_slice(&header.encode());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let rebuilt = rebuild(dir.path(), &mut unlock).unwrap();
    assert_eq!((rebuilt.packages, rebuilt.damage.len()), (0, 1));
    assert!(rebuilt.damage[0].contains("it says that it is encrypted"), "{:?}", rebuilt.damage);
}

#[test]
fn no_flipped_byte_of_a_package_is_ever_served() {
    for encrypt in [true, false] {
        let dir = new_repo(&CreateOptions { encrypt, ..cheap() });
        let w = writer(dir.path());
        let bytes = content(5, 2000);
        let id = store(&w, &bytes);
        w.finish().unwrap();
        let package = w.repository().index().packages().unwrap()[0].id;
        drop(w);
        let name = package.to_string();
        let file = dir.path().join(format!("packages/{}/{name}.pkg", &name[..2]));
        let good = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let r = reader(dir.path());
        let at = r.locate(&id).unwrap().unwrap();
        let (mut refused, mut flips) = (0, 0);
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            std::fs::write(&file, &bad).unwrap();
            // A new store each time: no open file and no cache between the damage and the reader.
            let files = FileStore::new(dir.path().join("packages"));
            let opened = read_segment(&files, r.keys(), &package, u64::from(at.offset), at.segment_bytes);
            match opened {
                Ok(segment) => assert_eq!(segment.raw(), &bytes[..]),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Damaged);
                    refused += 1;
                }
            }
            flips += u32::from((at.offset as usize..(at.offset + at.segment_bytes) as usize).contains(&byte));
        }
        assert_eq!(refused, flips, "every flip inside the segment is noticed, and only those");
    }
}

#[test]
fn packages_are_sealed_at_their_size_while_others_write() {
    let dir = new_repo(&CreateOptions { encrypt: false, ..cheap() });
    let w = writer(dir.path());
    let random: Vec<u8> =
        (0..1_u32 << 20).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    std::thread::scope(|scope| {
        for t in 0..3_u8 {
            let (w, random) = (&w, &random);
            scope.spawn(move || {
                for i in 0..50_u8 {
                    let mut part = random.clone();
                    part[0] = t;
                    part[1] = i;
                    store(w, &part);
                }
            });
        }
    });
    w.checkpoint().unwrap();
    let packages = w.repository().index().packages().unwrap();
    // Two full ones, one that is written to, and the next.
    assert_eq!(packages.len(), 4);
    assert_eq!(packages.iter().filter(|p| p.sealed).count(), 2);
    assert_eq!((w.stats().data_packages, w.stats().new_data_chunks), (3, 150));
}

#[test]
fn nodes_are_stored_beside_and_an_error_there_is_told() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let nodes = |count: u32| {
        move |packer: &mut NodePacker<'_>| (0..count).map(|n| packer.write_node(&content(n, 16 << 10))).collect()
    };
    let ids: Vec<ChunkId> = w.write_nodes(nodes(200)).unwrap();
    w.checkpoint().unwrap();
    assert_eq!((ids.len(), w.stats().new_chunks, w.stats().segments), (200, 200, 13));
    let r = reader(dir.path());
    (0..).zip(&ids).for_each(|(n, id)| assert_eq!(&*r.chunk(id).unwrap(), &content(n, 16 << 10)[..]));

    // One full segment: only the thread beside meets the error.
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    std::fs::rename(dir.path().join("packages"), dir.path().join("away")).unwrap();
    std::fs::write(dir.path().join("packages"), "").unwrap();
    let error = w.write_nodes(nodes(16)).map(|ids: Vec<ChunkId>| ids).unwrap_err();
    assert!(error.to_string().contains("package"), "{error}");
}

/// Numbers of the packages that are not sealed, and whether there is a file.
fn open_packages(w: &Writer) -> Vec<(u32, bool)> {
    let packages = w.repository().index().packages().unwrap().into_iter().filter(|p| !p.sealed);
    packages.map(|p| (p.number, w.repository().packages().len(&p.id).is_ok())).collect()
}

#[test]
fn the_next_package_is_entered_before_it_is_needed_and_given_up_when_it_is_not() {
    for end in ["finish", "seal", "kill", "end with a full package"] {
        let dir = new_repo(&cheap());
        let w = writer(dir.path());
        w.compress_by(super::Compression::Off);
        store(&w, &content(1, 300_000));
        w.checkpoint().unwrap();
        assert_eq!(open_packages(&w), [(0, true)], "a small backup does not need two");
        let ids: Vec<ChunkId> = (2..6).map(|seed| store(&w, &content(seed, 300_000))).collect();
        w.checkpoint().unwrap();
        assert_eq!(open_packages(&w), [(0, true), (1, false)]);
        assert_eq!(reader(dir.path()).index().packages().unwrap().len(), 2);
        let w = match end {
            "finish" => {
                w.finish().unwrap();
                w
            }
            "seal" => {
                w.seal(&point(&w, 9, ids[0])).unwrap();
                w
            }
            "kill" => {
                w.abandon();
                writer(dir.path())
            }
            _ => {
                // Where the last segment fills the package, there is none to be sealed.
                let mut seed = 6;
                while w.stats().stored_bytes < super::PACKAGE_BYTES {
                    store(&w, &content(seed, 4 << 20));
                    seed += 1;
                }
                w.checkpoint().unwrap();
                assert_eq!((open_packages(&w), w.stats().data_packages), (vec![(1, false)], 1));
                w.finish().unwrap();
                w
            }
        };
        assert_eq!((open_packages(&w), w.repository().index().journal().unwrap()), (vec![], vec![]), "{end}");
        let numbers: Vec<u32> = w.repository().index().packages().unwrap().iter().map(|p| p.number).collect();
        assert_eq!(numbers, if end == "seal" { vec![0, 2] } else { vec![0] }, "{end}");
        store(&w, &content(1000, 3000));
        w.finish().unwrap();
        let last = w.repository().index().packages().unwrap().iter().map(|p| p.number).max().unwrap();
        assert!(last > 1, "{end}: a number was given out again");
        for id in &ids {
            assert!(w.repository().chunk(id).is_ok(), "{end}");
        }
        assert_eq!(w.repository().packages().list().unwrap().len(), numbers.len() + 1, "{end}");
    }
}

#[test]
fn a_full_package_is_followed_by_the_one_that_was_entered() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    w.compress_by(super::Compression::Off);
    let ids: Vec<ChunkId> = (0..18).map(|seed| store(&w, &content(seed, 4 << 20))).collect();
    w.checkpoint().unwrap();
    assert_eq!((w.stats().data_packages, open_packages(&w)), (2, vec![(1, true), (2, false)]));
    w.finish().unwrap();
    assert_eq!(open_packages(&w), []);
    for (seed, id) in ids.iter().enumerate() {
        assert_eq!(&*w.repository().chunk(id).unwrap(), &content(seed as u32, 4 << 20)[..]);
    }
}

#[test]
fn a_database_that_does_not_close_is_given_up() {
    let patience = std::time::Duration::from_millis(20);
    let (hold, held) = crossbeam_channel::bounded::<()>(0);
    assert!(!super::index::close_within(patience, move || _ = held.recv()));
    drop(hold);
    assert!(super::index::close_within(patience * 500, || {}));
}

#[test]
fn a_walk_finds_what_lookups_find() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    let stored: Vec<ChunkId> = (0..200).map(|seed| store(&w, &content(seed, 100))).collect();
    w.finish().unwrap();
    // In no order; some twice, some that nobody stored, one before and one behind all others.
    let absent = [ChunkId([0; 32]), ChunkId([255; 32]), ChunkId([7; 32])];
    let asked: Vec<ChunkId> = stored.iter().chain(&absent).chain(stored.iter().rev().step_by(3)).copied().collect();
    let index = w.repository().index();
    let walked = index.locate_by_walk(&asked).unwrap();
    assert_eq!(walked, index.locate_many(&asked).unwrap());
    assert_eq!(walked.iter().flatten().count(), asked.len() - absent.len());
    assert_eq!(index.locate_by_walk(&[]).unwrap(), []);
}

#[test]
fn a_log_whose_record_has_a_foreign_type_is_refused() {
    let dir = new_repo(&cheap());
    let w = writer(dir.path());
    store(&w, &content(1, 1000));
    w.finish().unwrap();
    drop(w);
    let logs = || std::fs::read_dir(dir.path().join("db")).unwrap().map(|entry| entry.unwrap().path());
    let is_log = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "log");
    let log = logs().filter(is_log).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let sound = std::fs::read(&log).unwrap();
    for kind in [5, 6, 7, 8, 11, 131, 255] {
        let mut flipped = sound.clone();
        flipped[6] = kind;
        std::fs::write(&log, flipped).unwrap();
        let opened = Writer::open(dir.path(), &mut unlock, &OpenOptions::default()).map(drop);
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Damaged, "{kind}");
        let opened = Repository::open(dir.path(), &mut unlock, &OpenOptions::default()).map(drop);
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{kind}");
        assert!(error.to_string().contains(&format!("type {kind}")), "{error}");
    }
    std::fs::write(&log, sound).unwrap();
    writer(dir.path());
}
