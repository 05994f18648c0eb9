//! Restores of small hand-made restore points, honest and hostile, into real directories.

use super::lookup::{TreeReader, Xattrs};
use super::*;
use crate::catalog::points::Points;
use crate::catalog::tree::{self, Edit};
use crate::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::{Counts, Device, Extent, Inode, Key, PointId, SegmentKind, SourceKind, Time};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MTIME: Time = Time { sec: 1_600_000_000, nsec: 123_456_789 };
/// Bytes of the chunks that the fixture cuts.
const CHUNK: usize = 1000;

/// A repository without a password and one restore point in the making.
struct Fixture {
    place: tempfile::TempDir,
    writer: Writer,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    next: u64,
}

fn inode(mode: u32) -> Inode {
    let us = fs::metadata("/proc/self").unwrap();
    Inode {
        mode,
        uid: us.uid(),
        gid: us.gid(),
        nlink: 1,
        size: 0,
        mtime: MTIME,
        ctime: MTIME,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: 0,
        source: None,
    }
}

impl Fixture {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("repo");
        let options = CreateOptions { encrypt: false, ..CreateOptions::default() };
        create(&path, &mut || unreachable!(), &options).unwrap();
        let writer = Writer::open(&path, &mut || unreachable!(), &OpenOptions { cache_bytes: 1 << 20 }).unwrap();
        let mut fixture = Self { place, writer, entries: BTreeMap::new(), next: 2 };
        fixture.put(Key::Inode(ROOT_INO), inode(0o40_755).encode());
        fixture
    }

    fn put(&mut self, key: Key<'_>, value: Vec<u8>) {
        self.entries.insert(key.encode(), value);
    }

    fn add(&mut self, dir: u64, name: &str, inode: Inode) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.name(dir, name, ino, inode.kind());
        self.put(Key::Inode(ino), inode.encode());
        ino
    }

    fn name(&mut self, dir: u64, name: &str, ino: u64, kind: FileKind) {
        self.put(Key::Dirent(dir, name.as_bytes()), Dirent { ino, kind }.encode());
    }

    fn dir(&mut self, dir: u64, name: &str) -> u64 {
        self.add(dir, name, inode(0o40_755))
    }

    fn symlink(&mut self, dir: u64, name: &str, target: &str) {
        let ino = self.add(dir, name, Inode { size: target.len() as u64, ..inode(0o120_777) });
        self.put(Key::Target(ino), target.into());
    }

    /// A file whose content is `bytes`; whole chunks of zeros become holes.
    fn file(&mut self, dir: u64, name: &str, bytes: &[u8]) -> u64 {
        self.file_as(dir, name, bytes, inode(0o100_644))
    }

    fn file_as(&mut self, dir: u64, name: &str, bytes: &[u8], mut inode: Inode) -> u64 {
        let chunks: Vec<(usize, &[u8])> =
            bytes.chunks(CHUNK).enumerate().filter(|(_, c)| c.iter().any(|b| *b != 0)).collect();
        inode.size = bytes.len() as u64;
        inode.data_bytes = chunks.iter().map(|(_, c)| c.len() as u64).sum();
        let ino = self.add(dir, name, inode);
        let (mut table, mut raw) = (Vec::new(), Vec::new());
        for (number, chunk) in chunks {
            let id = self.writer.chunk_id(chunk);
            if self.writer.claim(&[id]).unwrap() == [true] {
                table.push((id, chunk.len() as u32));
                raw.extend_from_slice(chunk);
            }
            let extent = Extent { chunk: id, skip: 0, len: chunk.len() as u32 };
            self.put(Key::Extent(ino, (number * CHUNK) as u64), extent.encode());
        }
        self.writer.store_segment(SegmentKind::Data, &table, &raw).unwrap();
        ino
    }

    fn seal(self) -> Sealed {
        let repo = Arc::clone(self.writer.repository());
        let mut packer = self.writer.node_writer();
        let edits = self.entries.into_iter().map(|(k, v)| Ok((k, Edit::Put(v))));
        let root = tree::apply(&*repo, None, edits, &mut packer).unwrap();
        packer.flush().unwrap();
        let point = PointRecord {
            repo: repo.header().repo,
            id: PointId([7; 16]),
            time: MTIME,
            sealed: MTIME,
            root,
            next_ino: self.next,
            kind: SourceKind::Dir,
            host: b"h".to_vec(),
            source: b"s".to_vec(),
            parent: None,
            counts: Counts::default(),
            paths: vec![],
            tags: vec![],
            file_systems: vec![],
            notes: vec![],
            program: vec![],
            extra: vec![],
        };
        drop(packer);
        self.writer.seal(&point).unwrap();
        drop(self.writer);
        drop(repo);
        let path = self.place.path().join("repo");
        let repo = Repository::open(&path, &mut || unreachable!(), &OpenOptions { cache_bytes: 1 << 20 }).unwrap();
        Sealed { place: self.place, repo }
    }
}

struct Sealed {
    place: tempfile::TempDir,
    repo: Arc<Repository>,
}

impl Sealed {
    fn target(&self) -> PathBuf {
        self.place.path().join("target")
    }

    fn restore(&self, path: &str) -> Report {
        self.restore_with(path, Options { target: self.target(), ..Options::default() })
    }

    fn restore_with(&self, path: &str, options: Options) -> Report {
        let points = Points::new(self.repo.point_records().unwrap());
        let point = points.resolve("latest", &Default::default()).unwrap();
        let plan = plan(&self.repo, point, path.as_bytes(), options).unwrap();
        plan.execute(&self.repo, &Progress::default(), &AtomicBool::new(false)).unwrap()
    }

    fn options(&self) -> Options {
        Options { target: self.target(), ..Options::default() }
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8 | 1
    })
    .take(len)
    .collect()
}

#[test]
fn everything_comes_back_as_it_was() {
    let mut f = Fixture::new();
    let etc = f.add(ROOT_INO, "etc", Inode { mode: 0o40_550, ..inode(0) });
    f.file(etc, "small", b"hello");
    f.file_as(etc, "suid", b"x", inode(0o104_711));
    f.file(etc, "empty", b"");
    f.file(etc, "large", &noise(200 * CHUNK + 17));
    f.symlink(etc, "link", "../outside/\u{e4}");
    f.add(etc, "pipe", inode(0o10_620));
    f.add(etc, "socket", inode(0o140_600));
    let deep = (0..50).fold(etc, |dir, n| f.dir(dir, &format!("d{n}")));
    f.file(deep, "deepest", b"!");
    let s = f.seal();
    let report = s.restore("/etc");
    assert_eq!(report.findings, []);
    let at = |name: &str| s.target().join(name);
    assert_eq!(fs::read(at("small")).unwrap(), b"hello");
    assert_eq!(fs::read(at("large")).unwrap(), noise(200 * CHUNK + 17));
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    assert_eq!(fs::read_link(at("link")).unwrap().to_str().unwrap(), "../outside/\u{e4}");
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::metadata(at("socket")).unwrap().file_type().is_socket());
    assert_eq!(fs::metadata(at("suid")).unwrap().mode(), 0o104_711);
    assert_eq!(fs::metadata(at("pipe")).unwrap().mode(), 0o10_620);
    assert_eq!(fs::metadata(s.target()).unwrap().mode(), 0o40_550);
    for name in ["small", "large", "empty", "suid", "link", "pipe", "d0", "d0/d1", "."] {
        let m = fs::symlink_metadata(at(name)).unwrap();
        assert_eq!((m.mtime(), m.mtime_nsec()), (MTIME.sec, i64::from(MTIME.nsec)), "{name}");
    }
    assert_eq!((report.totals.files, report.totals.dirs), (8, 50));
    // A second time, nothing is written.
    let again = s.restore_with("/etc", Options { verify: true, ..s.options() });
    assert_eq!(again.findings, []);
    assert_eq!((again.totals.unchanged, again.totals.written_bytes, again.totals.verified), (8, 0, 8));
}

#[test]
fn holes_stay_holes() {
    let mut f = Fixture::new();
    let mut bytes = vec![0; 100 * CHUNK];
    bytes[50 * CHUNK..52 * CHUNK].copy_from_slice(&noise(2 * CHUNK));
    f.file(ROOT_INO, "sparse", &bytes);
    let mut long = vec![0; 300 * CHUNK];
    long[..150 * CHUNK].copy_from_slice(&noise(150 * CHUNK));
    f.file(ROOT_INO, "long", &long);
    let s = f.seal();
    let report = s.restore_with("/", Options { verify: true, ..s.options() });
    assert_eq!(report.findings, []);
    let sparse = s.target().join("sparse");
    assert_eq!(fs::read(&sparse).unwrap(), bytes);
    assert!(fs::metadata(&sparse).unwrap().blocks() * 512 < 20 * CHUNK as u64);
    assert_eq!(fs::read(s.target().join("long")).unwrap(), long);
}

#[test]
fn hard_links_even_when_only_some_names_are_inside() {
    let mut f = Fixture::new();
    let (a, b) = (f.dir(ROOT_INO, "a"), f.dir(ROOT_INO, "b"));
    let ino = f.file_as(a, "one", b"linked", Inode { nlink: 3, ..inode(0o100_600) });
    f.name(a, "two", ino, FileKind::File);
    f.name(b, "three", ino, FileKind::File);
    let s = f.seal();
    let of = |path: &str| fs::metadata(s.target().join(path)).unwrap();
    let report = s.restore("/");
    assert_eq!((report.findings.len(), report.totals.links, report.totals.created), (0, 2, 1));
    assert_eq!(of("a/one").ino(), of("b/three").ino());
    assert_eq!(of("a/one").nlink(), 3);
    assert_eq!(of("b").mtime(), MTIME.sec);
    // Again over it: the same links.
    let before = of("a/one").ino();
    assert_eq!(s.restore("/").totals.unchanged, 1);
    assert_eq!((of("a/one").ino(), of("a/two").ino()), (before, before));
    let part = s.place.path().join("part");
    s.restore_with("/b", Options { target: part.clone(), ..Options::default() });
    assert_eq!(fs::read(part.join("three")).unwrap(), b"linked");
}

#[test]
fn nothing_is_written_through_what_stands_in_the_target() {
    let mut f = Fixture::new();
    let dir = f.dir(ROOT_INO, "dir");
    f.file(dir, "file", b"from the backup");
    f.file(ROOT_INO, "linked", b"from the backup");
    f.file(ROOT_INO, "plain", b"from the backup");
    let s = f.seal();
    let outside = s.place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious").unwrap();
    fs::create_dir(s.target()).unwrap();
    symlink(&outside, s.target().join("dir")).unwrap();
    symlink(outside.join("file"), s.target().join("plain")).unwrap();
    fs::hard_link(outside.join("file"), s.target().join("linked")).unwrap();
    let report = s.restore("/");
    assert_eq!(report.findings, []);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    for name in ["dir/file", "linked", "plain"] {
        assert_eq!(fs::read(s.target().join(name)).unwrap(), b"from the backup");
    }
    assert!(fs::symlink_metadata(s.target().join("dir")).unwrap().is_dir());
    assert_eq!(fs::read_dir(s.target()).unwrap().count(), 3, "no temporary file stays");
}

#[test]
fn a_file_given_to_us_as_a_link_keeps_its_attributes() {
    let mut f = Fixture::new();
    f.file_as(ROOT_INO, "bait", b"12345678", inode(0o100_666));
    let s = f.seal();
    let outside = s.place.path().join("secret");
    fs::write(&outside, "87654321").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(MTIME.sec as u64, MTIME.nsec);
    fs::File::options().write(true).open(&outside).unwrap().set_modified(time).unwrap();
    fs::create_dir(s.target()).unwrap();
    fs::hard_link(&outside, s.target().join("bait")).unwrap();
    s.restore("/");
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read(s.target().join("bait")).unwrap(), b"12345678");
}

#[test]
fn policies_for_what_exists() {
    let mut f = Fixture::new();
    f.file(ROOT_INO, "same", b"12345");
    f.file(ROOT_INO, "other", b"12345");
    f.dir(ROOT_INO, "dir");
    f.file(ROOT_INO, "blocked", b"x");
    let s = f.seal();
    s.restore("/");
    let at = |name: &str| s.target().join(name);
    // The same size and time, other content: only a comparison of content sees it.
    let time = fs::metadata(at("same")).unwrap().modified().unwrap();
    fs::write(at("same"), "54321").unwrap();
    fs::File::options().write(true).open(at("same")).unwrap().set_modified(time).unwrap();
    fs::write(at("other"), "changed since").unwrap();
    fs::remove_file(at("blocked")).unwrap();
    fs::create_dir(at("blocked")).unwrap();
    let never = s.restore_with("/", Options { overwrite: Overwrite::Never, ..s.options() });
    assert_eq!((never.totals.kept, fs::read(at("other")).unwrap()), (3, b"changed since".to_vec()));
    let dry = s.restore_with("/", Options { dry_run: true, ..s.options() });
    assert_eq!((dry.totals.unchanged, dry.totals.replaced, dry.totals.findings), (1, 1, 1));
    let normal = s.restore("/");
    assert_eq!((normal.totals.unchanged, normal.totals.replaced), (1, 1));
    assert!(normal.findings[0].what.contains("a directory stands in its place"));
    assert_eq!(fs::read(at("same")).unwrap(), b"54321");
    let verified = s.restore_with("/", Options { verify: true, ..s.options() });
    assert_eq!((verified.totals.unchanged, verified.totals.replaced), (1, 1));
    assert_eq!(fs::read(at("same")).unwrap(), b"12345");
}

/// Three names of one inode in a restore point; `a` comes first.
fn three_names() -> Sealed {
    const NODUMP: u32 = 0x40;
    let mut f = Fixture::new();
    let ino = f.file_as(ROOT_INO, "a", b"linked", Inode { nlink: 3, flags: NODUMP, ..inode(0o100_600) });
    f.name(ROOT_INO, "b", ino, FileKind::File);
    f.name(ROOT_INO, "c", ino, FileKind::File);
    let s = f.seal();
    fs::create_dir(s.target()).unwrap();
    s
}

#[test]
fn a_name_that_was_left_alone_is_no_file_to_link_to() {
    let s = three_names();
    let of = |name: &str| fs::metadata(s.target().join(name)).unwrap();
    let flags = |name: &str| crate::os::inode_flags(&fs::File::open(s.target().join(name)).unwrap()).unwrap();
    fs::write(s.target().join("a"), "somebody else's").unwrap();
    let before = flags("a");
    for again in [false, true] {
        let report = s.restore_with("/", Options { overwrite: Overwrite::Never, ..s.options() });
        assert_eq!((report.findings.len(), report.totals.kept), (0, 1 + u64::from(again)));
        assert_eq!(fs::read(s.target().join("a")).unwrap(), b"somebody else's");
        assert_eq!((of("a").nlink(), flags("a")), (1, before));
        assert_eq!((of("b").ino(), of("b").nlink()), (of("c").ino(), 2));
        assert_eq!(fs::read(s.target().join("c")).unwrap(), b"linked");
        assert_ne!(flags("c"), before);
    }
    // What was restored before and is right has its missing name back as a link, whatever is to be left alone.
    fs::remove_file(s.target().join("c")).unwrap();
    fs::rename(s.target().join("b"), s.target().join("a")).unwrap();
    let report = s.restore_with("/", Options { overwrite: Overwrite::Never, ..s.options() });
    assert_eq!((report.findings.len(), report.totals.kept, report.totals.links), (0, 1, 2));
    assert_eq!((of("a").ino(), of("a").nlink()), (of("c").ino(), 3));
}

#[test]
fn names_of_a_file_whose_first_cannot_be_restored() {
    let s = three_names();
    fs::create_dir(s.target().join("a")).unwrap();
    let report = s.restore("/");
    assert_eq!((report.findings.len(), report.totals.created, report.totals.links), (1, 1, 1));
    let of = |name: &str| fs::metadata(s.target().join(name)).unwrap();
    assert_eq!((of("b").ino(), of("b").nlink(), of("b").len()), (of("c").ino(), 2, 6));
}

#[test]
fn comparing_a_large_file_can_be_stopped() {
    let mut f = Fixture::new();
    f.file(ROOT_INO, "large", &noise(300 * CHUNK));
    let s = f.seal();
    s.restore("/");
    let point = s.repo.point_records().unwrap().remove(0);
    let (progress, log, stop) = (Progress::default(), report::Log::default(), AtomicBool::new(true));
    let shared = shared::Shared::new(&s.repo, point.root, &progress, &log, &stop);
    let ino = shared.tree().find(b"large").unwrap().ino;
    let file = fs::File::open(s.target().join("large")).unwrap();
    let compared = walk::compare_whole(&shared, &shared.tree(), ino, 300 * CHUNK as u64, &file);
    assert_eq!(compared.unwrap_err().kind(), std::io::ErrorKind::Interrupted);
    stop.store(false, Ordering::Relaxed);
    assert!(walk::compare_whole(&shared, &shared.tree(), ino, 300 * CHUNK as u64, &file).unwrap());
}

#[test]
fn a_dry_run_makes_nothing() {
    let mut f = Fixture::new();
    let dir = f.dir(ROOT_INO, "dir");
    f.file(dir, "file", b"12345");
    f.symlink(dir, "link", "x");
    let s = f.seal();
    let report = s.restore_with("/", Options { dry_run: true, ..s.options() });
    assert_eq!((report.totals.created, report.totals.written_bytes), (2, 5));
    assert!(!s.target().exists());
}

#[test]
fn patterns_choose() {
    let mut f = Fixture::new();
    let (a, b) = (f.dir(ROOT_INO, "a"), f.dir(ROOT_INO, "b"));
    let inner = f.dir(a, "inner");
    for (dir, name) in [(a, "x.conf"), (a, "y.txt"), (inner, "z.conf"), (b, "w.txt")] {
        f.file(dir, name, b"1");
    }
    let s = f.seal();
    let options = Options { include: vec!["*.conf".into()], exclude: vec!["/a/inner/".into()], ..s.options() };
    let report = s.restore_with("/", options);
    assert_eq!(report.totals.created, 1);
    assert!(s.target().join("a/x.conf").exists());
    assert!(!s.target().join("b").exists() && !s.target().join("a/inner").exists());
}

#[test]
fn one_file_goes_where_it_is_told() {
    let mut f = Fixture::new();
    let etc = f.dir(ROOT_INO, "etc");
    f.file(etc, "fstab", b"none");
    let s = f.seal();
    let base = s.place.path();
    for (target, expected) in [("new/", "new/fstab"), ("new", "new/fstab"), ("copy", "copy"), ("a/b/c", "a/b/c")] {
        let target = PathBuf::from(format!("{}/{target}", base.display()));
        s.restore_with("etc/fstab", Options { target, ..Options::default() });
        assert_eq!(fs::read(base.join(expected)).unwrap(), b"none", "{expected}");
    }
    let points = s.repo.point_records().unwrap();
    let refused = |path: &str, target: &Path| {
        plan(&s.repo, &points[0], path.as_bytes(), Options { target: target.into(), ..Options::default() }).unwrap_err()
    };
    assert_eq!(refused("/etc", &s.repo.path().join("packages/x")).kind(), ErrorKind::Usage);
    assert_eq!(refused("/none", base).kind(), ErrorKind::NotFound);
    assert_eq!(refused("/etc/../etc", base).kind(), ErrorKind::Usage);
}

#[test]
fn a_lost_chunk_costs_its_range_of_one_file() {
    let mut f = Fixture::new();
    let bytes = noise(3 * CHUNK);
    let ino = f.file(ROOT_INO, "broken", &bytes);
    let lost = Extent { chunk: ChunkId([9; 32]), skip: 0, len: CHUNK as u32 };
    f.put(Key::Extent(ino, CHUNK as u64), lost.encode());
    f.file(ROOT_INO, "whole", b"fine");
    let s = f.seal();
    let report = s.restore("/");
    assert_eq!(report.totals.findings, 1);
    assert_eq!(report.findings[0].path, b"/broken");
    assert_eq!(report.findings[0].ranges, [(CHUNK as u64, CHUNK as u64)]);
    let mut expected = bytes;
    expected[CHUNK..2 * CHUNK].fill(0);
    assert_eq!(fs::read(s.target().join("broken")).unwrap(), expected);
    assert_eq!(fs::read(s.target().join("whole")).unwrap(), b"fine");
    // It does not pass for right the next time.
    assert_eq!(s.restore("/").totals.replaced, 1);
}

#[test]
fn damaged_trees_cost_what_is_damaged() {
    let mut f = Fixture::new();
    let dir = f.dir(ROOT_INO, "dir");
    f.name(dir, "loop", ROOT_INO, FileKind::Dir);
    f.name(dir, "self", dir, FileKind::Dir);
    f.name(dir, "gone", 999, FileKind::File);
    let file = f.file(dir, "file", b"fine");
    f.name(dir, "not-a-dir", file, FileKind::Dir);
    f.name(dir, "not-a-link", file, FileKind::Symlink);
    let overlap = f.file(dir, "overlap", &noise(2 * CHUNK));
    let extent = Extent { chunk: ChunkId([9; 32]), skip: 0, len: 10 };
    f.put(Key::Extent(overlap, 5), extent.encode());
    let s = f.seal();
    let report = s.restore("/");
    let mut paths: Vec<_> = report.findings.iter().map(|f| String::from_utf8_lossy(&f.path).into_owned()).collect();
    paths.sort();
    assert_eq!(paths, ["/dir/gone", "/dir/loop", "/dir/not-a-dir", "/dir/not-a-link", "/dir/overlap", "/dir/self"]);
    assert_eq!(fs::read(s.target().join("dir/file")).unwrap(), b"fine");
}

#[test]
fn extended_attributes_and_owners() {
    let mut f = Fixture::new();
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let (uid, gid) = if root { (12_345, 54_321) } else { (inode(0).uid, inode(0).gid) };
    let ino = f.file_as(ROOT_INO, "file", b"x", Inode { uid, gid, ..inode(0o106_755) });
    f.put(Key::Xattr(ino, b"user.note"), b"kept".to_vec());
    let dir = f.add(ROOT_INO, "dir", Inode { uid, gid, ..inode(0o42_770) });
    f.put(Key::Xattr(dir, b"user.dir"), b"too".to_vec());
    if root {
        let null = Inode { rdev: Some(Device { major: 1, minor: 3 }), ..inode(0o20_640) };
        f.add(dir, "null", null);
    }
    let s = f.seal();
    let report = s.restore("/");
    assert_eq!(report.findings, []);
    let file = fs::File::open(s.target().join("file")).unwrap();
    let m = file.metadata().unwrap();
    assert_eq!((m.uid(), m.gid(), m.mode()), (uid, gid, 0o106_755));
    assert_eq!(crate::os::xattr::read_all(&file).unwrap(), [(b"user.note".to_vec(), b"kept".to_vec())]);
    let m = fs::metadata(s.target().join("dir")).unwrap();
    assert_eq!((m.uid(), m.gid(), m.mode()), (uid, gid, 0o42_770));
    // What was added since goes, what was changed comes back, the content stays as it is.
    crate::os::xattr::set_xattr_fd(&file, b"user.new", b"1").unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(MTIME.sec as u64, MTIME.nsec);
    fs::File::options().write(true).open(s.target().join("file")).unwrap().set_modified(time).unwrap();
    let again = s.restore("/");
    assert_eq!(again.totals.replaced, 0, "{:?}", again.totals);
    assert_eq!(file.metadata().unwrap().mode(), 0o106_755);
    assert_eq!(crate::os::xattr::list_fd(&file).unwrap(), [b"user.note".to_vec()]);
}

#[test]
fn an_interruption_leaves_no_half_file() {
    let mut f = Fixture::new();
    f.file(ROOT_INO, "large", &noise(300 * CHUNK));
    let s = f.seal();
    let points = s.repo.point_records().unwrap();
    let plan = plan(&s.repo, &points[0], b"", s.options()).unwrap();
    let stop = AtomicBool::new(true);
    let error = plan.execute(&s.repo, &Progress::default(), &stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(stop.load(Ordering::Relaxed) && !s.target().join("large").exists());
}

#[test]
fn lookups() {
    let mut f = Fixture::new();
    let etc = f.dir(ROOT_INO, "etc");
    f.symlink(ROOT_INO, "run", "var/run");
    f.file(etc, "fstab", b"1");
    let s = f.seal();
    let point = s.repo.point_records().unwrap().remove(0);
    let tree = TreeReader::new(&*s.repo, point.root);
    assert_eq!(tree.find(b"//etc/./").unwrap().ino, etc);
    let through = tree.find(b"/run/lock").unwrap_err();
    assert!(through.advice().unwrap().contains("var/run"), "{through}");
    assert!(tree.find(b"etc/fstab/x").unwrap_err().advice().is_none());
    assert_eq!(tree.head(&mut tree.cursor(), etc).unwrap().xattrs, Xattrs::new());
}
