//! A repository made from a fixed seed: the same chunks, trees and records every time; only package ids are drawn anew.

use relict::catalog::tree::{Edit, WriteNodes, apply, range};
use relict::store::{CreateOptions, NodePacker, OpenOptions, Repository, Writer, create};
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, KdfParams, Key, PackageKind, PointId, PointRecord, ROOT_INO,
    SegmentKind, SourceKind, StoreKind, Time,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const CHUNK_BYTES: usize = 16 * 1024;
const SEGMENT_BYTES: usize = 4 * CHUNK_BYTES;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Content by path, two levels at most.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A repository and what is in it.
pub struct Made {
    pub dir: TempDir,
    /// Files of each restore point, oldest first.
    pub points: Vec<Files>,
    /// Inode numbers by path.
    inodes: BTreeMap<String, u64>,
}

pub fn unlock() -> relict::Result<Vec<u8>> {
    Ok(b"secret".to_vec())
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(SEED) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out: Vec<u8> = std::iter::repeat_with(&mut next).take(len / 8 + 1).flatten().collect();
    out.truncate(len);
    out
}

/// Three states of a directory: enough small files for several tree nodes, and large ones over several segments.
pub fn states() -> Vec<Files> {
    let mut first = Files::new();
    for n in 0..240 {
        first.insert(format!("many/file-{n:03}"), format!("small file number {n}\n").into_bytes());
    }
    first.insert("large".into(), noise(1, 300_000));
    first.insert("medium".into(), noise(2, 40_000));
    first.insert("docs/readme".into(), b"read me\n".to_vec());
    let mut second = first.clone();
    second.insert("medium".into(), noise(3, 50_000));
    second.insert("docs/new".into(), noise(4, 5_000));
    let mut third = second.clone();
    if let Some(large) = third.get_mut("large") {
        large.splice(100_000..120_000, noise(5, 20_000));
    }
    third.remove("docs/readme");
    vec![first, second, third]
}

impl Made {
    pub fn new() -> Self {
        Self::with(false, [16 << 10, 64 << 10, 256 << 10])
    }

    pub fn with(encrypt: bool, chunk_bytes: [u32; 3]) -> Self {
        Self::in_store(StoreKind::Files, encrypt, chunk_bytes)
    }

    pub fn in_store(store: StoreKind, encrypt: bool, chunk_bytes: [u32; 3]) -> Self {
        let mut made = Self { dir: tempfile::tempdir().unwrap(), points: Vec::new(), inodes: BTreeMap::new() };
        let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        create(&made.repo(), &mut unlock, &CreateOptions { store, encrypt, kdf, chunk_bytes }).unwrap();
        for (number, files) in states().into_iter().enumerate() {
            made.add(files, |_, bytes| version(bytes));
            if number == 1 {
                copy_dir(&made.repo().join("db"), &made.dir.path().join("older-db"));
            }
        }
        made
    }

    /// One more restore point; `version_of` gives what the times of a file are made from.
    pub fn add(&mut self, files: Files, version_of: impl Fn(&str, &[u8]) -> u8) {
        self.add_cut(files, version_of, CHUNK_BYTES);
    }

    /// As [`Made::add`], with chunks of another length.
    pub fn add_cut(&mut self, files: Files, version_of: impl Fn(&str, &[u8]) -> u8, chunk_bytes: usize) {
        let writer = Writer::open(&self.repo(), &mut unlock, &OpenOptions::default()).unwrap();
        add_point(&writer, self.points.len() as u8 + 1, &files, &mut self.inodes, &version_of, chunk_bytes);
        self.points.push(files);
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    /// Packages in the order in which they were written: data and metadata of each point.
    pub fn packages(&self) -> Vec<(PackageKind, PathBuf)> {
        let repository = self.open();
        let mut infos = repository.index().packages().unwrap();
        infos.sort_by_key(|p| p.number);
        let path = |id: String| self.repo().join("packages").join(&id[..2]).join(format!("{id}.pkg"));
        infos.iter().map(|info| (info.kind, path(info.id.to_string()))).collect()
    }

    pub fn open(&self) -> std::sync::Arc<Repository> {
        Repository::open(&self.repo(), &mut unlock, &OpenOptions::default()).unwrap()
    }

    pub fn maint(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relict-maint"));
        command.arg("-r").arg(self.repo()).args(args).env("RELICT_PASSWORD", "secret");
        command
    }

    /// Every file of every restore point as it reads now, beside what it should be.
    pub fn read_every_file(&self) -> Vec<Reading> {
        let repository = self.open();
        let mut records = repository.point_records().unwrap();
        records.sort_by_key(|r| r.time);
        let mut out = Vec::new();
        for record in records {
            let number = record.time.sec as usize / 1000 - 1;
            let found = read_point(&repository, &record);
            let names: BTreeSet<&String> = self.points[number].keys().chain(found.keys()).collect();
            for path in names {
                let verdict = match (self.points[number].get(path), found.get(path)) {
                    (Some(want), Some((Some(got), _))) if want == got => Verdict::Right,
                    (_, Some((None, marked))) => Verdict::Error { marked: *marked },
                    (Some(_), None) => Verdict::Nameless,
                    (None, Some((Some(got), _))) if self.points[number].values().any(|want| want == got) => {
                        Verdict::Found
                    }
                    _ => Verdict::Wrong,
                };
                out.push(Reading { point: number + 1, path: path.clone(), verdict });
            }
        }
        out
    }
}

/// How a file reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it was backed up.
    Right,
    /// It gives an error.
    Error { marked: bool },
    /// Its name is gone.
    Nameless,
    /// As one of the files was backed up, under another name than it had.
    Found,
    /// Other bytes than were backed up, without an error: what must never be.
    Wrong,
}

pub struct Reading {
    pub point: usize,
    pub path: String,
    pub verdict: Verdict,
}

type Content = (Option<Vec<u8>>, bool);
/// An inode, whether it is marked as damaged, and its extents.
type Parts = (Inode, bool, Vec<(u64, Extent)>);

fn read_point(repository: &Repository, record: &PointRecord) -> BTreeMap<String, Content> {
    let mut names: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let mut files: BTreeMap<u64, Parts> = BTreeMap::new();
    for entry in range(repository, &record.root, &[]) {
        let Ok(entry) = entry else { break };
        match Key::decode(entry.key()).unwrap() {
            Key::Inode(ino) => {
                let inode = Inode::decode(entry.value()).unwrap();
                if inode.kind() == FileKind::File {
                    files.insert(ino, (inode, false, Vec::new()));
                }
            }
            Key::Xattr(ino, b"user.relict.damaged") => {
                if let Some(file) = files.get_mut(&ino) {
                    file.1 = true;
                }
            }
            Key::Dirent(parent, name) => {
                names.insert(
                    Dirent::decode(entry.value()).unwrap().ino,
                    (parent, String::from_utf8(name.to_vec()).unwrap()),
                );
            }
            Key::Extent(ino, offset) => {
                files.get_mut(&ino).unwrap().2.push((offset, Extent::decode(entry.value()).unwrap()))
            }
            _ => {}
        }
    }
    let path = |ino: u64| {
        let (mut at, mut out) = (ino, String::new());
        while at != ROOT_INO {
            let (parent, name) = names.get(&at)?;
            out = if out.is_empty() { name.clone() } else { format!("{name}/{out}") };
            at = *parent;
        }
        Some(out)
    };
    let read = |(inode, _, extents): &(Inode, bool, Vec<(u64, Extent)>)| -> Option<Vec<u8>> {
        let mut bytes = vec![0; inode.size as usize];
        for (offset, extent) in extents {
            let chunk = repository.chunk(&extent.chunk).ok()?;
            let slice = &chunk[extent.skip as usize..][..extent.len as usize];
            bytes[*offset as usize..][..slice.len()].copy_from_slice(slice);
        }
        Some(bytes)
    };
    files.iter().filter_map(|(ino, file)| Some((path(*ino)?, (read(file), file.1)))).collect()
}

pub fn version(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, b| sum.wrapping_mul(31).wrapping_add(*b))
}

fn inode(dir: bool, nlink: u32, size: u64, version: u8) -> Inode {
    let time = Time { sec: 1_600_000_000 + i64::from(version), nsec: 0 };
    Inode {
        mode: if dir { 0o040_755 } else { 0o100_644 },
        uid: 1000,
        gid: 1000,
        nlink,
        size,
        mtime: time,
        ctime: time,
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: if dir { 0 } else { size },
        source: None,
    }
}

/// Stores a state as a restore point; inode numbers stay with their paths.
fn add_point(
    writer: &Writer,
    number: u8,
    files: &Files,
    inodes: &mut BTreeMap<String, u64>,
    version_of: &dyn Fn(&str, &[u8]) -> u8,
    chunk_bytes: usize,
) {
    let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let dirs: BTreeSet<&str> = files.keys().filter_map(|path| path.split_once('/')).map(|(dir, _)| dir).collect();
    let mut ino_of = |path: &str| {
        let next = inodes.len() as u64 + 2;
        *inodes.entry(path.to_owned()).or_insert(next)
    };
    entries.insert(Key::Inode(ROOT_INO).encode(), inode(true, 2 + dirs.len() as u32, 0, 0).encode());
    for dir in &dirs {
        let ino = ino_of(dir);
        entries.insert(Key::Inode(ino).encode(), inode(true, 2, 0, 0).encode());
        entries.insert(Key::Dirent(ROOT_INO, dir.as_bytes()).encode(), Dirent { ino, kind: FileKind::Dir }.encode());
    }
    let mut batch = Batch { writer, chunks: Vec::new(), raw: Vec::new() };
    for (path, bytes) in files {
        let ino = ino_of(path);
        let (parent, name) = match path.split_once('/') {
            Some((dir, name)) => (ino_of(dir), name),
            None => (ROOT_INO, path.as_str()),
        };
        // The version in the times follows the content, as with a file system.
        entries.insert(Key::Inode(ino).encode(), inode(false, 1, bytes.len() as u64, version_of(path, bytes)).encode());
        entries.insert(Key::Dirent(parent, name.as_bytes()).encode(), Dirent { ino, kind: FileKind::File }.encode());
        for (n, part) in bytes.chunks(chunk_bytes).enumerate() {
            let extent = Extent { skip: 0, len: part.len() as u32, chunk: batch.store(part) };
            entries.insert(Key::Extent(ino, (n * chunk_bytes) as u64).encode(), extent.encode());
        }
    }
    batch.flush();
    let mut nodes = Alone(writer.node_writer());
    let root = apply(&**writer.repository(), None, entries.into_iter().map(|(k, v)| Ok((k, Edit::Put(v)))), &mut nodes)
        .unwrap();
    let parent = (number > 1).then(|| PointId([number - 1; 16]));
    writer.seal(&record(writer, number, root, parent, inodes.len() as u64 + 2)).unwrap();
}

fn record(writer: &Writer, number: u8, root: ChunkId, parent: Option<PointId>, next_ino: u64) -> PointRecord {
    let time = Time { sec: i64::from(number) * 1000, nsec: 0 };
    PointRecord {
        repo: writer.repository().header().repo,
        id: PointId([number; 16]),
        time,
        sealed: time,
        root,
        next_ino,
        kind: SourceKind::Dir,
        host: b"host".to_vec(),
        source: b"source".to_vec(),
        parent,
        counts: Counts::default(),
        paths: vec![b"/".to_vec()],
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: b"golden".to_vec(),
        extra: Vec::new(),
    }
}

/// Puts every node into a segment of its own, so that one can be lost alone.
struct Alone<'a>(NodePacker<'a>);

impl WriteNodes for Alone<'_> {
    fn write_node(&mut self, bytes: Vec<u8>) -> relict::Result<ChunkId> {
        let id = self.0.write_node(&bytes)?;
        self.0.flush()?;
        Ok(id)
    }
}

struct Batch<'a> {
    writer: &'a Writer,
    chunks: Vec<(ChunkId, u32)>,
    raw: Vec<u8>,
}

impl Batch<'_> {
    fn store(&mut self, part: &[u8]) -> ChunkId {
        let id = self.writer.chunk_id(part);
        if self.writer.claim(&[id]).unwrap()[0] {
            self.chunks.push((id, part.len() as u32));
            self.raw.extend_from_slice(part);
            if self.raw.len() >= SEGMENT_BYTES {
                self.flush();
            }
        }
        id
    }

    fn flush(&mut self) {
        self.writer.store_segment(SegmentKind::Data, &self.chunks, &self.raw).unwrap();
        self.chunks.clear();
        self.raw.clear();
    }
}

/// Changes a file that may be read-only.
pub fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
