//! Scans of real directories into memory, held against what the file system itself says.

use super::exclude::Excludes;
use super::report::{Monitor, News, Progress, Severity};
use super::scan::{Scan, Scanned};
use super::sink::ChunkSink;
use super::walker::Rules;
use crate::catalog::tree::{self, Edit, MemoryNodes, ReadNodes};
use crate::store::Search;
use crate::{ErrorKind, Result};
use repo_format::{ChunkId, Counts, Dirent, Extent, FileKind, Inode, Key, KeyKind, ROOT_INO};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ThreadId;
use std::time::Duration;

mod moving;
mod parts;

/// Chunks in memory, with what was asked of them.
#[derive(Default)]
struct MemorySink {
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
    claimed: Mutex<HashSet<ChunkId>>,
    /// How each was searched, and its bytes.
    segments: Mutex<Vec<(Search, usize)>>,
    /// Set: the next segment fails.
    broken: AtomicBool,
    /// Runs once, in the middle of a scan.
    at_first_claim: Mutex<Option<Hook>>,
    /// Set: whoever hashes sleeps now and then, so that others have time.
    slow: AtomicBool,
    /// How many chunks each thread hashed since this was cleared.
    hashed: Mutex<HashMap<ThreadId, usize>>,
    /// Runs once, when a second one has hashed so many.
    at_second_hasher: Mutex<Option<(usize, Hook)>>,
}

impl ChunkSink for MemorySink {
    fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        let mut hashed = self.hashed.lock().unwrap();
        let mine = hashed.entry(std::thread::current().id()).or_default();
        *mine += 1;
        let sleeps = self.slow.load(Relaxed) && mine.is_multiple_of(64);
        let second = |of: usize| hashed.values().filter(|chunks| **chunks >= of).count() > 1;
        if let Some((_, now)) = self.at_second_hasher.lock().unwrap().take_if(|(of, _)| second(*of)) {
            now();
        }
        drop(hashed);
        if sleeps {
            std::thread::sleep(Duration::from_millis(1));
        }
        ChunkId::of(None, bytes)
    }

    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        if let Some(now) = self.at_first_claim.lock().unwrap().take() {
            now();
        }
        let mut claimed = self.claimed.lock().unwrap();
        Ok(ids.iter().map(|id| claimed.insert(*id)).collect())
    }

    fn store_content(&self, search: Search, chunks: &[(ChunkId, u32)], raw: &[u8]) -> Result<()> {
        if self.broken.load(Relaxed) {
            return Err(crate::Error::new(ErrorKind::NoSpace, "full"));
        }
        let mut at = 0;
        for (id, len) in chunks {
            let bytes = &raw[at..at + *len as usize];
            assert_eq!(*id, ChunkId::of(None, bytes));
            assert!(self.chunks.lock().unwrap().insert(*id, bytes.to_vec()).is_none(), "stored twice");
            at += *len as usize;
        }
        assert_eq!(at, raw.len());
        self.segments.lock().unwrap().push((search, at));
        Ok(())
    }
}

/// The chain's end: what the next scan starts from.
#[derive(Clone, Default)]
struct Point {
    root: Option<ChunkId>,
    next_ino: u64,
    file_systems: Vec<Vec<u8>>,
}

/// What a test does in the middle of a scan.
type Hook = Box<dyn FnOnce() + Send>;

/// Counts, and sees the walk.
#[derive(Default)]
struct Watch {
    progress: Progress,
    /// Runs once, when a file of so many bytes has been listed and nobody has been told to read it.
    at_file_of: Mutex<Option<(u64, Hook)>>,
}

impl Monitor for Watch {
    fn on_read(&self, bytes: u64) {
        self.progress.on_read(bytes);
    }

    fn on_file(&self, bytes: u64, news: News) {
        self.progress.on_file(bytes, news);
        let taken = self.at_file_of.lock().unwrap().take_if(|(of, _)| *of == bytes);
        if let Some((_, now)) = taken {
            now();
        }
    }
}

/// A source directory and a repository in memory.
struct World {
    _temp: tempfile::TempDir,
    source: PathBuf,
    nodes: MemoryNodes,
    sink: MemorySink,
    watch: Watch,
    stop: AtomicBool,
    excludes: Excludes,
    last: Point,
}

/// What a scan made.
struct Made {
    point: Point,
    /// Edits that are not of a directory above the source.
    edits: Vec<(Vec<u8>, Edit)>,
    counts: Counts,
    findings: Vec<(Severity, String)>,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().canonicalize().unwrap().join("source");
        fs::create_dir(&source).unwrap();
        Self {
            _temp: temp,
            source,
            nodes: MemoryNodes::new(),
            sink: MemorySink::default(),
            watch: Watch::default(),
            stop: AtomicBool::new(false),
            excludes: Excludes::default(),
            last: Point::default(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.source.join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn scan_raw(&self, from: &Point, force: bool) -> Result<Scanned> {
        let paths = [self.source.clone()];
        let scan = Scan {
            paths: &paths,
            excludes: &self.excludes,
            stand_in: None,
            rules: Rules { one_file_system: false, force, not_into: None },
            old: from.root.map(|root| (&self.nodes as &dyn ReadNodes, root)),
            next_ino: from.next_ino,
            file_systems: from.file_systems.clone(),
            chunk_bytes: [1024, 4096, 16384],
            threads: 3,
            memory_bytes: 8 << 20,
        };
        scan.run(&self.sink, &self.watch, &self.stop)
    }

    fn scan_from(&self, from: &Point, force: bool) -> Made {
        let scanned = self.scan_raw(from, force).unwrap();
        let (next_ino, file_systems, counts) = (scanned.next_ino, scanned.file_systems.clone(), scanned.counts);
        let findings = scanned.report.findings.iter().map(|f| (f.severity, f.what.clone())).collect();
        let edits: Vec<_> = scanned.into_edits().unwrap().map(|edit| edit.unwrap()).collect();
        let stream = edits.iter().cloned().map(Ok);
        let root = tree::apply(&self.nodes, from.root.as_ref(), stream, &mut &self.nodes).unwrap();
        let above = self.source.components().count() as u64 - 1;
        let edits = edits.into_iter().filter(|(key, _)| !is_attribute_above(key, above)).collect();
        Made { point: Point { root: Some(root), next_ino, file_systems }, edits, counts, findings }
    }

    /// Scans, checks the tree against the directory, and goes on from there.
    fn scan(&mut self) -> Made {
        let made = self.scan_from(&self.last, false);
        self.last = made.point.clone();
        self.check();
        made
    }

    /// All entries but the attributes of directories above the source, which others change.
    fn dump(&self, point: &Point) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let above = self.source.components().count() as u64 - 1;
        let all = tree::range(&self.nodes, point.root.as_ref().unwrap(), &[]).map(|entry| entry.unwrap());
        let all = all.map(|entry| (entry.key().to_vec(), entry.value().to_vec()));
        all.filter(|(key, _)| !is_attribute_above(key, above)).collect()
    }

    fn ino_of(&self, name: &str) -> u64 {
        let path = self.at(name);
        let mut ino = ROOT_INO;
        for component in path.components().skip(1) {
            let key = Key::Dirent(ino, component.as_os_str().as_bytes()).encode();
            let entry = tree::get(&self.nodes, self.last.root.as_ref().unwrap(), &key).unwrap();
            ino = Dirent::decode(entry.unwrap_or_else(|| panic!("{name} is not in the tree")).value()).unwrap().ino;
        }
        ino
    }

    fn inode(&self, name: &str) -> Inode {
        let key = Key::Inode(self.ino_of(name)).encode();
        Inode::decode(tree::get(&self.nodes, self.last.root.as_ref().unwrap(), &key).unwrap().unwrap().value()).unwrap()
    }

    /// The tree is the directory, and holds together.
    fn check(&self) {
        let tree = Tree::read(self, &self.last);
        tree.check_whole(&self.last);
        let mut found = BTreeMap::new();
        tree.paths(tree.root_of(&self.source), Path::new(""), &mut found);
        let mut expected = BTreeMap::new();
        let mut numbers = HashMap::new();
        expect(&self.source, Path::new(""), &mut expected, &mut numbers);
        let names: Vec<_> = found.keys().collect();
        assert_eq!(names, expected.keys().collect::<Vec<_>>());
        for (path, item) in &expected {
            assert_eq!(&found[path].1, item, "{}", path.display());
        }
        // The same inode behind two names there is the same inode here.
        let groups = |inos: Vec<(PathBuf, u64)>| {
            let mut groups: HashMap<u64, BTreeSet<PathBuf>> = HashMap::new();
            inos.into_iter().for_each(|(path, ino)| _ = groups.entry(ino).or_default().insert(path));
            groups.into_values().collect::<BTreeSet<_>>()
        };
        assert_eq!(
            groups(found.into_iter().map(|(path, (ino, _))| (path, ino)).collect()),
            groups(expected.keys().map(|path| (path.clone(), numbers[path])).collect())
        );
    }
}

fn is_attribute_above(key: &[u8], above: u64) -> bool {
    matches!(Key::decode(key).unwrap(), Key::Inode(ino) | Key::Xattr(ino, _) if ino <= above)
}

/// What a name stands for, as both sides tell it.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    mode: u32,
    owner: (u32, u32),
    nlink: u32,
    times: [(i64, i64); 2],
    size: u64,
    /// Content or link target.
    bytes: Vec<u8>,
}

fn expect(at: &Path, name: &Path, out: &mut BTreeMap<PathBuf, Item>, inos: &mut HashMap<PathBuf, u64>) {
    let meta = at.symlink_metadata().unwrap();
    let mut nlink = meta.nlink() as u32;
    let mut bytes = Vec::new();
    if meta.is_dir() {
        nlink = 2;
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            nlink += u32::from(entry.file_type().unwrap().is_dir());
            expect(&entry.path(), &name.join(entry.file_name()), out, inos);
        }
    } else if meta.is_symlink() {
        bytes = fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec();
    } else if meta.is_file() {
        bytes = fs::read(at).unwrap();
    }
    let times = [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())];
    let item = Item { mode: meta.mode(), owner: (meta.uid(), meta.gid()), nlink, times, size: meta.size(), bytes };
    inos.insert(name.to_path_buf(), meta.ino());
    out.insert(name.to_path_buf(), item);
}

/// A tree read back whole, in the most naive way.
#[derive(Default)]
struct Tree {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<u64, BTreeMap<Vec<u8>, Dirent>>,
    content: BTreeMap<u64, Vec<u8>>,
    sources: BTreeMap<(u32, u64), u64>,
    owners: BTreeSet<u64>,
}

impl Tree {
    fn read(world: &World, point: &Point) -> Self {
        let chunks = world.sink.chunks.lock().unwrap();
        let mut tree = Self::default();
        for entry in tree::range(&world.nodes, point.root.as_ref().unwrap(), &[]) {
            let entry = entry.unwrap();
            let (key, value) = (Key::decode(entry.key()).unwrap(), entry.value());
            tree.owners.insert(key.ino());
            match key {
                Key::Inode(ino) => {
                    let inode = Inode::decode(value).unwrap();
                    let len = if inode.kind() == FileKind::File { inode.size as usize } else { 0 };
                    tree.inodes.insert(ino, inode);
                    tree.content.insert(ino, vec![0; len]);
                }
                Key::Dirent(ino, name) => {
                    tree.names.entry(ino).or_default().insert(name.to_vec(), Dirent::decode(value).unwrap());
                }
                Key::Extent(ino, offset) => {
                    let extent = Extent::decode(value).unwrap();
                    assert_eq!((extent.skip, chunks[&extent.chunk].len()), (0, extent.len as usize));
                    let offset = offset as usize;
                    let content = tree.content.get_mut(&ino).unwrap();
                    content[offset..offset + extent.len as usize].copy_from_slice(&chunks[&extent.chunk]);
                    let inode = tree.inodes.get_mut(&ino).unwrap();
                    inode.data_bytes =
                        inode.data_bytes.checked_sub(u64::from(extent.len)).expect("more extents than data");
                }
                Key::Target(ino) => _ = tree.content.insert(ino, value.to_vec()),
                Key::SourceIno(fs, ino) => {
                    tree.sources.insert((fs, ino), u64::from_le_bytes(value.try_into().unwrap()));
                }
                Key::Xattr(..) => {}
            }
        }
        tree
    }

    /// Every entry belongs to an inode that has as many names as it says, and every inode is known by its source.
    fn check_whole(&self, point: &Point) {
        let mut names: BTreeMap<u64, u32> = BTreeMap::from([(ROOT_INO, 0)]);
        for dirent in self.names.values().flat_map(BTreeMap::values) {
            assert_eq!(self.inodes[&dirent.ino].kind(), dirent.kind);
            *names.entry(dirent.ino).or_default() += 1;
        }
        assert_eq!(
            names.keys().collect::<Vec<_>>(),
            self.inodes.keys().collect::<Vec<_>>(),
            "inodes without names, or the reverse"
        );
        assert!(self.owners.iter().all(|ino| *ino == 0 || self.inodes.contains_key(ino)), "entries of no inode");
        for (ino, inode) in &self.inodes {
            assert!(*ino < point.next_ino);
            assert_eq!(inode.data_bytes, 0, "fewer extents than data");
            if inode.kind() == FileKind::Dir {
                assert!(names[ino] <= 1, "a directory with two names");
                let subdirs =
                    self.names.get(ino).map_or(0, |names| names.values().filter(|d| d.kind == FileKind::Dir).count());
                assert_eq!(inode.nlink as usize, 2 + subdirs);
            } else {
                assert_eq!(inode.nlink, names[ino]);
            }
            let source = inode.source.unwrap();
            if *ino != ROOT_INO {
                assert_eq!(self.sources.get(&(source.fs, source.ino)), Some(ino));
            }
        }
        assert_eq!(self.sources.len(), self.inodes.len() - 1, "source entries of no inode");
    }

    fn root_of(&self, path: &Path) -> u64 {
        path.components().skip(1).fold(ROOT_INO, |ino, name| self.names[&ino][name.as_os_str().as_bytes()].ino)
    }

    fn paths(&self, ino: u64, path: &Path, out: &mut BTreeMap<PathBuf, (u64, Item)>) {
        let inode = &self.inodes[&ino];
        let times = [inode.mtime, inode.ctime].map(|t| (t.sec, i64::from(t.nsec)));
        let (owner, bytes) = ((inode.uid, inode.gid), self.content[&ino].clone());
        let item = Item { mode: inode.mode, owner, nlink: inode.nlink, times, size: inode.size, bytes };
        out.insert(path.to_path_buf(), (ino, item));
        for (name, dirent) in self.names.get(&ino).into_iter().flatten() {
            self.paths(dirent.ino, &path.join(std::ffi::OsStr::from_bytes(name)), out);
        }
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.push((x >> 24) as u8);
    }
    out
}

fn some_files() -> World {
    let world = World::new();
    for n in 0..300 {
        world.write(&format!("d{}/e{}/f{n}", n % 7, n % 3), &noise(n, (n * n % 9000) as usize));
    }
    world.write("empty", b"");
    world.write("zeros", &[0; 50_000]);
    world.write("large", &noise(5, 3_000_000));
    symlink("large", world.at("link")).unwrap();
    fs::create_dir(world.at("no files")).unwrap();
    world
}

#[test]
fn a_first_scan_is_the_directory() {
    let mut world = some_files();
    let made = world.scan();
    assert_eq!(made.findings, []);
    assert_eq!(made.counts.files, 300 + 4);
    assert_eq!(made.counts.dirs as usize, 7 * 4 + 2 + world.source.components().count() - 1);
    assert_eq!(made.counts.bytes, made.counts.read_bytes);
    assert_eq!(world.inode("zeros").data_bytes, 0);
    assert_eq!(world.watch.progress.files.load(Relaxed), 304);
    let segments = world.sink.segments.lock().unwrap();
    assert!(segments.iter().all(|(_, bytes)| *bytes <= 512 * 1024), "{segments:?}");
}

#[test]
fn segments_of_huge_files_are_longer_and_searched_twice() {
    for (size, search, bytes) in [(0, Search::Once, 256 << 10), (1 << 30, Search::Twice, 384 << 10)] {
        let mut world = World::new();
        world.write("file", &noise(size, 6_000_000));
        File::options().write(true).open(world.at("file")).unwrap().set_len(size.max(6_000_000)).unwrap();
        world.scan();
        let segments = world.sink.segments.lock().unwrap();
        assert!(segments.iter().all(|(how, _)| *how == search), "{segments:?}");
        // As near to that as chunks of at most 16 KiB allow; the others are the ends of the workers.
        let full = segments.iter().filter(|(_, len)| len.abs_diff(bytes) <= 8 << 10).count();
        assert!(full * bytes > 3_000_000 && full + 3 >= segments.len(), "{segments:?}");
    }
}

#[test]
fn numbers_are_dense_and_in_order_of_the_walk() {
    let mut world = World::new();
    for name in ["b/x", "b/y", "a/z", "c"] {
        world.write(name, name.as_bytes());
    }
    let made = world.scan();
    let first = world.ino_of("");
    let inos = ["a", "b", "c", "a/z", "b/x", "b/y"].map(|name| world.ino_of(name));
    assert_eq!(inos, [1, 2, 3, 4, 5, 6].map(|n| first + n));
    assert_eq!(made.point.next_ino, first + 7);
}

#[test]
fn a_second_scan_of_an_unchanged_tree_does_nothing() {
    let mut world = some_files();
    fs::hard_link(world.at("large"), world.at("large too")).unwrap();
    let first = world.scan();
    let (segments, read) = (world.sink.segments.lock().unwrap().len(), world.watch.progress.read_bytes.load(Relaxed));
    let second = world.scan();
    assert_eq!(second.edits, []);
    assert_eq!(second.counts.read_bytes, 0);
    assert_eq!(
        (segments, read),
        (world.sink.segments.lock().unwrap().len(), world.watch.progress.read_bytes.load(Relaxed))
    );
    assert_eq!(world.watch.progress.unchanged_files.load(Relaxed), 304);
    assert_eq!((second.counts.files, second.counts.bytes), (first.counts.files, first.counts.bytes));
    assert_eq!(world.dump(&first.point), world.dump(&second.point));
    assert_eq!(first.point.next_ino, second.point.next_ino);
    // And one that reads everything finds nothing different.
    let forced = world.scan_from(&world.last, true);
    assert_eq!(forced.counts.read_bytes, first.counts.read_bytes);
    assert_eq!(world.dump(&first.point), world.dump(&forced.point));
}

#[test]
fn what_moves_keeps_its_number_and_is_not_read_again() {
    let mut world = some_files();
    world.scan();
    let (dir, file, inner) = (world.ino_of("d1"), world.ino_of("empty"), world.ino_of("d1/e1/f1"));
    fs::rename(world.at("d1"), world.at("no files/moved")).unwrap();
    fs::rename(world.at("empty"), world.at("d2/a new name")).unwrap();
    let made = world.scan();
    assert_eq!(world.ino_of("no files/moved"), dir);
    assert_eq!(world.ino_of("no files/moved/e1/f1"), inner);
    assert_eq!(world.ino_of("d2/a new name"), file);
    assert_eq!(made.counts.read_bytes, 0, "rename changes ctime, but an empty file has nothing to read");
    assert!(made.edits.len() < 20, "{} edits for two renames", made.edits.len());
}

#[test]
fn names_swapped_keep_their_inodes() {
    let mut world = World::new();
    world.write("a", b"first");
    world.write("b", b"second");
    world.scan();
    let (a, b) = (world.ino_of("a"), world.ino_of("b"));
    fs::rename(world.at("a"), world.at("c")).unwrap();
    fs::rename(world.at("b"), world.at("a")).unwrap();
    fs::rename(world.at("c"), world.at("b")).unwrap();
    world.scan();
    assert_eq!((world.ino_of("a"), world.ino_of("b")), (b, a));
}

#[test]
fn removed_things_leave_nothing_behind() {
    let mut world = some_files();
    world.scan();
    fs::rename(world.at("d3/e0"), world.at("saved")).unwrap();
    fs::remove_dir_all(world.at("d3")).unwrap();
    fs::remove_file(world.at("large")).unwrap();
    fs::remove_file(world.at("link")).unwrap();
    world.scan();
    fs::remove_dir_all(&world.source).unwrap();
    fs::create_dir(&world.source).unwrap();
    let made = world.scan();
    assert_eq!((made.counts.files, made.counts.bytes), (0, 0));
}

#[test]
fn hard_links_are_names_of_one_inode() {
    let mut world = World::new();
    world.write("a", &noise(1, 10_000));
    world.write("big", &noise(2, 2_000_000));
    fs::hard_link(world.at("a"), world.at("b")).unwrap();
    fs::hard_link(world.at("big"), world.at("big2")).unwrap();
    symlink("x", world.at("s")).unwrap();
    fs::hard_link(world.at("s"), world.at("s2")).unwrap();
    let made = world.scan();
    assert_eq!(made.counts.files, 3);
    assert_eq!(made.counts.bytes, 2_010_000);
    assert_eq!(world.inode("a").nlink, 2);
    let ino = world.ino_of("a");
    fs::create_dir(world.at("d")).unwrap();
    fs::hard_link(world.at("a"), world.at("d/c")).unwrap();
    fs::remove_file(world.at("a")).unwrap();
    fs::remove_file(world.at("s")).unwrap();
    world.scan();
    assert_eq!((world.ino_of("b"), world.ino_of("d/c")), (ino, ino));
    fs::remove_file(world.at("b")).unwrap();
    fs::remove_file(world.at("big")).unwrap();
    world.scan();
    assert_eq!((world.ino_of("d/c"), world.inode("d/c").nlink), (ino, 1));
}

#[test]
fn links_out_of_the_source_do_not_count() {
    let mut world = World::new();
    world.write("in", b"content");
    fs::hard_link(world.at("in"), world.source.with_file_name("out")).unwrap();
    let made = world.scan_from(&Point::default(), false);
    world.last = made.point;
    assert_eq!(world.inode("in").nlink, 1);
}

#[test]
fn a_name_of_another_type_is_another_inode() {
    let mut world = World::new();
    for name in ["file", "dir/in", "link"] {
        world.write(name, b"x");
    }
    fs::remove_file(world.at("link")).unwrap();
    symlink("file", world.at("link")).unwrap();
    world.scan();
    let before = ["file", "dir", "link"].map(|name| world.ino_of(name));
    fs::remove_file(world.at("file")).unwrap();
    fs::remove_dir_all(world.at("dir")).unwrap();
    fs::remove_file(world.at("link")).unwrap();
    world.write("file/in", b"y");
    symlink("x", world.at("dir")).unwrap();
    world.write("link", b"z");
    world.scan();
    let after = ["file", "dir", "link"].map(|name| world.ino_of(name));
    assert!(after.iter().all(|ino| !before.contains(ino)), "{before:?} {after:?}");
}

#[test]
fn attributes_alone_change() {
    let mut world = some_files();
    world.scan();
    fs::set_permissions(world.at("d1"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(world.at("large"), fs::Permissions::from_mode(0o640)).unwrap();
    let stored = world.sink.chunks.lock().unwrap().len();
    let made = world.scan();
    assert_eq!(made.edits.len(), 2, "{:?}", made.edits);
    assert_eq!(stored, world.sink.chunks.lock().unwrap().len());
}

#[test]
fn content_changes_in_place() {
    let mut world = some_files();
    world.scan();
    let file = File::options().write(true).open(world.at("large")).unwrap();
    file.write_all_at(&noise(99, 5000), 1_000_000).unwrap();
    file.set_len(2_500_000).unwrap();
    File::options().append(true).open(world.at("zeros")).unwrap().write_all(b"end").unwrap();
    let before = world.sink.chunks.lock().unwrap().len();
    world.scan();
    let new = world.sink.chunks.lock().unwrap().len() - before;
    assert!((2..12).contains(&new), "{new} new chunks for one small change");
    file.set_len(10).unwrap();
    world.scan();
    file.set_len(0).unwrap();
    world.scan();
}

#[test]
fn source_holes_and_written_zeros_are_the_same() {
    let mut world = World::new();
    let sparse = File::create(world.at("sparse")).unwrap();
    sparse.set_len(40_000_000).unwrap();
    let mut content = vec![0; 40_000_000];
    for (n, at) in [5_000, 1_000_000, 1_100_000, 20_000_000, 39_999_000].into_iter().enumerate() {
        let data = noise(n as u64 + 1, if n == 1 { 700_000 } else { 1000 });
        let data = &data[..data.len().min(40_000_000 - at)];
        sparse.write_all_at(data, at as u64).unwrap();
        content[at..at + data.len()].copy_from_slice(data);
    }
    world.write("dense", &content);
    let made = world.scan();
    assert!(made.counts.read_bytes < 45_000_000, "holes were read");
    let tree = world.dump(&world.last);
    let extents = |ino| {
        let prefix = Key::prefix(ino, KeyKind::Extent);
        let rows = tree.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix));
        rows.map(|(key, value)| (key[9..].to_vec(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(extents(world.ino_of("sparse")), extents(world.ino_of("dense")));
}

#[test]
fn a_large_file_of_scattered_blocks() {
    let mut world = World::new();
    let mut content = vec![0; 6_000_000];
    for block in (0..content.len()).step_by(65536) {
        content[block] = 1;
    }
    for block in (2_000_000 / 4096 * 4096..3_000_000).step_by(8192) {
        content[block + 4095] = 2;
    }
    world.write("scattered", &content);
    world.scan();
}

#[test]
fn extended_attributes_come_and_go() {
    let mut world = World::new();
    world.write("file", b"x");
    fs::create_dir(world.at("dir")).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let file = File::open(world.at(name)).unwrap();
        crate::os::xattr::set_xattr_fd(&file, attribute.as_bytes(), value)
    };
    if set("file", "user.a", b"1").is_err() {
        return; // A temporary directory without extended attributes.
    }
    set("file", "user.b", b"2").unwrap();
    set("dir", "user.c", b"3").unwrap();
    world.scan();
    let xattrs = |world: &World| {
        let all = world.dump(&world.last).into_iter();
        let all = all.filter_map(|(key, value)| match Key::decode(&key).unwrap() {
            Key::Xattr(ino, name) if name.starts_with(b"user.") => {
                Some((ino, String::from_utf8(name.to_vec()).unwrap(), value))
            }
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    let (file, dir) = (world.ino_of("file"), world.ino_of("dir"));
    let expected = [
        (dir, "user.c".into(), b"3".to_vec()),
        (file, "user.a".into(), b"1".to_vec()),
        (file, "user.b".into(), b"2".to_vec()),
    ];
    assert_eq!(xattrs(&world), expected);
    let handle = File::open(world.at("file")).unwrap();
    crate::os::xattr::remove_xattr_fd(&handle, b"user.a").unwrap();
    crate::os::xattr::set_xattr_fd(&handle, b"user.b", b"new").unwrap();
    world.scan();
    assert_eq!(xattrs(&world)[1..], [(file, "user.b".into(), b"new".to_vec())]);
}

#[test]
fn excluded_things_are_as_if_they_were_not_there() {
    let mut world = some_files();
    world.scan();
    let options = super::ExcludeOptions {
        exclude: vec!["d2".into(), "*1".into()],
        exclude_larger_than: Some(1_000_000),
        ..Default::default()
    };
    world.excludes = Excludes::new(&options).unwrap();
    let made = world.scan_from(&world.last, false);
    let tree = Tree::read(&world, &made.point);
    tree.check_whole(&made.point);
    let mut paths = BTreeMap::new();
    tree.paths(tree.root_of(&world.source), Path::new(""), &mut paths);
    let gone =
        |path: &PathBuf| path.starts_with("d2") || path.to_string_lossy().ends_with('1') || path == Path::new("large");
    assert!(!paths.keys().any(gone));
    assert!(paths.contains_key(Path::new("d3/e0/f3")));
}

#[test]
fn a_scan_keeps_few_directories_open() {
    use super::listing::OpenDirs;
    assert_eq!(OpenDirs::new(1 << 20, 7), OpenDirs { waiting: 128, batch: 16, parents: 4096 });
    for (limit, batches) in [(1024, 7), (256, 7), (128, 7), (1024, 100)] {
        let OpenDirs { waiting, batch, parents } = OpenDirs::new(limit, batches);
        assert!(
            (waiting + batch * batches + parents) as u64 <= limit / 2 + 100.min(batches as u64),
            "{limit} {batches}"
        );
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_stored_and_named() {
    let mut world = World::new();
    world.write("growing", &noise(1, 30_000_000));
    let path = world.at("growing");
    let change = move || {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(b"more").unwrap();
    };
    *world.sink.at_first_claim.lock().unwrap() = Some(Box::new(change));
    let made = world.scan_from(&Point::default(), false);
    assert_eq!(made.findings.iter().map(|f| f.0).collect::<Vec<_>>(), [Severity::Warning]);
    assert_eq!(made.counts.errors, 0);
    world.last = made.point;
    assert_eq!(world.inode("growing").size, 30_000_000);
    // The times are from before the change, so the next scan reads the file again.
    let again = world.scan();
    assert_eq!((again.counts.read_bytes, again.findings), (30_000_004, Vec::new()));
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_early() {
    let mut world = World::new();
    world.write("shrinking", &noise(1, 30_000_000));
    let path = world.at("shrinking");
    let change = move || File::options().write(true).open(path).unwrap().set_len(20_000_001).unwrap();
    *world.sink.at_first_claim.lock().unwrap() = Some(Box::new(change));
    let made = world.scan_from(&Point::default(), false);
    assert_eq!(made.findings.iter().map(|f| f.0).collect::<Vec<_>>(), [Severity::Warning]);
    Tree::read(&world, &made.point).check_whole(&made.point);
    world.last = made.point;
    assert_eq!(world.inode("shrinking").size, 20_000_001);
    world.scan();
}

#[test]
fn roots_that_are_files_or_inside_each_other() {
    let mut world = some_files();
    let paths = [world.at("d1/e1"), world.at("large"), world.at("d1/e1/f1"), world.at("link")];
    let scan = |from: &Point, paths: &[PathBuf]| {
        let scan = Scan {
            paths,
            excludes: &world.excludes,
            stand_in: None,
            rules: Rules { one_file_system: true, force: false, not_into: None },
            old: from.root.map(|root| (&world.nodes as &dyn ReadNodes, root)),
            next_ino: from.next_ino,
            file_systems: from.file_systems.clone(),
            chunk_bytes: [1024, 4096, 16384],
            threads: 0,
            memory_bytes: 0,
        };
        let scanned = scan.run(&world.sink, &world.watch, &world.stop).unwrap();
        let (next_ino, file_systems) = (scanned.next_ino, scanned.file_systems.clone());
        let root = tree::apply(&world.nodes, from.root.as_ref(), scanned.into_edits().unwrap(), &mut &world.nodes);
        Point { root: Some(root.unwrap()), next_ino, file_systems }
    };
    let part = scan(&Point::default(), &paths);
    let tree = Tree::read(&world, &part);
    tree.check_whole(&part);
    let mut names = BTreeMap::new();
    tree.paths(tree.root_of(&world.source), Path::new(""), &mut names);
    let expected = names.keys().filter(|path| !path.starts_with("d1")).map(|path| path.to_str().unwrap());
    assert_eq!(expected.collect::<Vec<_>>(), ["", "large", "link"]);
    assert!(names.contains_key(Path::new("d1/e1/f1")) && !names.contains_key(Path::new("d1/e2")));
    // From a part to the whole: what is known keeps its number.
    let whole = scan(&part, std::slice::from_ref(&world.source));
    let more = Tree::read(&world, &whole);
    more.check_whole(&whole);
    assert!(tree.inodes.keys().all(|ino| more.inodes.contains_key(ino)));
    world.last = whole;
    world.check();
}

#[test]
fn a_stop_ends_the_scan_with_everything_stored() {
    let world = some_files();
    world.stop.store(true, Relaxed);
    let error = world.scan_raw(&Point::default(), false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let claimed = world.sink.claimed.lock().unwrap().len();
    assert_eq!(claimed, world.sink.chunks.lock().unwrap().len(), "claimed, but not stored");
}

#[test]
fn an_error_of_the_store_ends_the_scan() {
    let world = some_files();
    world.sink.broken.store(true, Relaxed);
    let error = world.scan_raw(&Point::default(), false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}

#[test]
fn a_damaged_parent_is_an_error_and_not_a_wrong_tree() {
    let mut world = some_files();
    world.scan();
    world.nodes.replace(world.last.root.as_ref().unwrap(), None).unwrap();
    assert_eq!(world.scan_raw(&world.last, false).err().unwrap().kind(), ErrorKind::Damaged);
}

/// Many small steps at random, each followed by an incremental and a complete scan: both end in the
/// same tree, which is the directory.
#[test]
fn an_incremental_scan_is_a_complete_one() {
    for seed in 1..=6_u64 {
        let mut world = World::new();
        let mut dice = Dice(seed);
        for _ in 0..12 {
            for _ in 0..dice.upto(12) {
                random_step(&world, &mut dice);
            }
            let before = world.last.clone();
            world.scan();
            let forced = world.scan_from(&before, true);
            assert_eq!(world.dump(&world.last), world.dump(&forced.point), "seed {seed}");
            assert_eq!(world.last.root.is_some(), before.next_ino <= world.last.next_ino);
        }
    }
}

struct Dice(u64);

impl Dice {
    fn upto(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// Steps on few names, so that they meet; those that cannot be done are not.
fn random_step(world: &World, dice: &mut Dice) {
    let name = |dice: &mut Dice| {
        let dirs = ["", "a/", "b/", "a/b/", "a/c/"];
        let names = ["a", "b", "c", "f", "g"];
        world.at(&format!("{}{}", dirs[dice.upto(5) as usize], names[dice.upto(5) as usize]))
    };
    let (one, other) = (name(dice), name(dice));
    let content = noise(dice.upto(4), [0, 10, 5000, 40_000][dice.upto(4) as usize]);
    _ = match dice.upto(12) {
        0..=2 => fs::write(one, content),
        3 | 4 => fs::create_dir(one),
        5 | 6 => fs::rename(one, other),
        7 => fs::hard_link(one, other),
        8 => symlink("target", one),
        9 => fs::remove_file(one),
        10 => fs::remove_dir_all(one),
        _ => File::options().append(true).open(one).and_then(|mut file| file.write_all(&content)),
    };
}
