//! Repositories made by the real writer from what no honest program would give it: every record is encoded and stored as
//! always, with lies in it. Beside the lies stands an honest restore point, which must come out whole whatever happens.

use relict::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, Key, KeyKind, NodeWriter, PointId, PointRecord, ROOT_INO,
    SegmentKind, SourceKind, Time, Value,
};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// 2026-11-21, when all of this is said to have been backed up.
pub const THEN: Time = Time { sec: 1_795_262_000, nsec: 7 };
/// What the honest restore point's file holds.
pub const HONEST: &[u8] = b"this was backed up, and nothing may change it\n";
/// Host of the lies.
pub const HOST: &str = "liar";

/// Key and value of a tree entry, as they are to be stored.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A repository in the making.
pub struct Forge {
    dir: TempDir,
    writer: Option<Writer>,
    points: u8,
}

impl Forge {
    /// An unencrypted repository with the honest point in it.
    pub fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    /// As [`Forge::new`], in a file system in memory where there is one: files may be longer there than on any disk.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        Self::over(if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap())
    }

    fn over(dir: TempDir) -> Self {
        let options = CreateOptions { encrypt: false, ..CreateOptions::default() };
        create(&dir.path().join("repo"), &mut || Ok(Vec::new()), &options).unwrap();
        let mut forge = Self { dir, writer: None, points: 0 };
        forge.open();
        forge.honest();
        forge
    }

    fn open(&mut self) {
        let options = OpenOptions { cache_bytes: 1 << 20 };
        self.writer = Some(Writer::open(&self.repo(), &mut || Ok(Vec::new()), &options).unwrap());
    }

    fn honest(&mut self) {
        let root = self.tree(vec![
            dir(ROOT_INO, 2),
            name(ROOT_INO, b"honest", 2, FileKind::File),
            file(2, HONEST.len() as u64),
            self.content(2, 0, HONEST),
        ]);
        self.seal(root, |point| point.host = b"honest".to_vec());
    }

    /// The repository's directory.
    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    /// A path beside the repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().unwrap()
    }

    /// Lets go of the repository, so that programs can write to it.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Stores bytes as a chunk under their own id.
    pub fn chunk(&self, kind: SegmentKind, bytes: &[u8]) -> ChunkId {
        let id = self.writer().chunk_id(bytes);
        self.chunk_as(kind, id, bytes);
        id
    }

    /// Stores bytes as a chunk under any id.
    pub fn chunk_as(&self, kind: SegmentKind, id: ChunkId, bytes: &[u8]) {
        self.writer().store_segment(kind, &[(id, bytes.len() as u32)], bytes).unwrap();
    }

    /// A run of content: stores the bytes, and gives the entry for them.
    pub fn content(&self, ino: u64, offset: u64, bytes: &[u8]) -> Pair {
        let chunk = self.chunk(SegmentKind::Data, bytes);
        extent(ino, offset, Extent { skip: 0, len: bytes.len() as u32, chunk })
    }

    /// A tree of one leaf, its entries in order.
    pub fn tree(&self, mut entries: Vec<Pair>) -> ChunkId {
        entries.sort();
        self.chunk(SegmentKind::Node, &node(0, &entries))
    }

    /// Makes a restore point visible, after `lie` has had its way with the record.
    pub fn seal(&mut self, root: ChunkId, lie: impl FnOnce(&mut PointRecord)) {
        self.points += 1;
        let mut point = PointRecord {
            repo: self.writer().repository().header().repo,
            id: PointId([self.points; 16]),
            time: Time { sec: THEN.sec + i64::from(self.points) * 3600, ..THEN },
            sealed: THEN,
            root,
            next_ino: 1 << 20,
            kind: SourceKind::Dir,
            host: HOST.into(),
            source: b"/".to_vec(),
            parent: None,
            counts: Counts { files: 1, dirs: 1, ..Counts::default() },
            paths: vec![b"/".to_vec()],
            tags: Vec::new(),
            file_systems: Vec::new(),
            notes: Vec::new(),
            program: b"tests/hostile".to_vec(),
            extra: Vec::new(),
        };
        lie(&mut point);
        self.writer().seal(&point).unwrap();
    }

    /// A restore point over a tree of these entries, root directory included unless they have one.
    pub fn point(&mut self, mut entries: Vec<Pair>) {
        let own_root = entries.iter().any(|(key, _)| *key == Key::Inode(ROOT_INO).encode());
        if !own_root {
            entries.push(dir(ROOT_INO, 2));
        }
        let root = self.tree(entries);
        self.seal(root, |_| {});
    }
}

/// A node of any level over any entries in any order.
pub fn node(level: u8, entries: &[Pair]) -> Vec<u8> {
    let mut writer = NodeWriter::new(level);
    entries.iter().for_each(|(key, value)| writer.push(key, value));
    writer.finish()
}

/// An inode of a mode, without content.
pub fn inode(mode: u32) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        mtime: THEN,
        ctime: THEN,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: 0,
        source: None,
    }
}

/// The entry of an inode.
pub fn attributes(ino: u64, inode: Inode) -> Pair {
    (Key::Inode(ino).encode(), inode.encode())
}

pub fn dir(ino: u64, nlink: u32) -> Pair {
    attributes(ino, Inode { nlink, ..inode(0o040_755) })
}

/// A file without holes.
pub fn file(ino: u64, size: u64) -> Pair {
    attributes(ino, Inode { size, data_bytes: size, ..inode(0o100_644) })
}

/// A name, which need not be valid.
pub fn name(parent: u64, name: &[u8], ino: u64, kind: FileKind) -> Pair {
    ([&Key::prefix(parent, KeyKind::Dirent), name].concat(), Dirent { ino, kind }.encode())
}

pub fn extent(ino: u64, offset: u64, extent: Extent) -> Pair {
    (Key::Extent(ino, offset).encode(), extent.encode())
}

pub fn xattr(ino: u64, name: &[u8], value: &[u8]) -> Pair {
    ([&Key::prefix(ino, KeyKind::Xattr), name].concat(), value.to_vec())
}

pub fn target(ino: u64, to: &[u8]) -> [Pair; 2] {
    let link = Inode { size: to.len() as u64, ..inode(0o120_777) };
    [attributes(ino, link), (Key::Target(ino).encode(), Value::Target(to).encode())]
}

/// All files of a directory with their bytes, and where links lead: what must be as it was. Nothing of `but`.
pub fn everything(dir: &Path, but: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path == but {
            continue;
        }
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            out.extend(everything(&path, but));
        }
        let bytes = if kind.is_symlink() {
            std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if kind.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        out.push((path, bytes));
    }
    out.sort();
    out
}
