//! Repositories of a given shape, made through the store itself: many small chunks, so that numbers are large and bytes few.

use crate::scene::PASSWORD;
use relict::catalog::tree::{Edit, apply};
use relict::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, KdfParams, Key, PointId, PointRecord, ROOT_INO, SegmentKind,
    SourceKind, Time,
};
use std::path::Path;

/// What is made: two restore points of files of which one in a hundred differs between them.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub files: u64,
    pub chunks_in_file: u64,
    pub chunk_bytes: usize,
    pub chunks_in_segment: usize,
    pub encrypt: bool,
}

const POINTS: u8 = 2;
const FIRST_FILE: u64 = 2;

impl Shape {
    /// What file `file` holds from its chunk `chunk` on, in a restore point.
    pub fn chunk(&self, file: u64, chunk: u64, point: u8) -> Vec<u8> {
        let version = if file.is_multiple_of(100) { u64::from(point) } else { 0 };
        let seed = (file * self.chunks_in_file + chunk) * u64::from(POINTS + 1) + version;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd6e8_feb8_6659_fd93;
        let mut out = Vec::with_capacity(self.chunk_bytes + 8);
        while out.len() < self.chunk_bytes {
            state = (state ^ (state >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(0x9e37_79b9_7f4a_7c15);
            out.extend((state ^ (state >> 29)).to_le_bytes());
        }
        out.truncate(self.chunk_bytes);
        out
    }

    /// Makes the repository.
    pub fn make(&self, repo: &Path) {
        let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        let mut unlock = || Ok(PASSWORD.as_bytes().to_vec());
        create(repo, &mut unlock, &CreateOptions { encrypt: self.encrypt, kdf, ..CreateOptions::default() }).unwrap();
        for point in 1..=POINTS {
            let writer = Writer::open(repo, &mut unlock, &OpenOptions::default()).unwrap();
            let mut nodes = writer.node_writer();
            let mut segment = Pending { writer: &writer, shape: self, chunks: Vec::new(), raw: Vec::new() };
            let entries = self.entries(point, &mut segment);
            let root = apply(&**writer.repository(), None, entries.map(Ok), &mut nodes).unwrap();
            segment.flush();
            nodes.flush().unwrap();
            writer.seal(&self.record(&writer, point, root)).unwrap();
        }
    }

    /// All entries in key order; chunks are stored on the way.
    fn entries<'a>(&'a self, point: u8, segment: &'a mut Pending<'_>) -> impl Iterator<Item = (Vec<u8>, Edit)> + 'a {
        let root = std::iter::once((Key::Inode(ROOT_INO).encode(), inode(true, 2, 0).encode()));
        let names = (0..self.files).map(|file| {
            let entry = Dirent { ino: FIRST_FILE + file, kind: FileKind::File };
            (Key::Dirent(ROOT_INO, name(file).as_bytes()).encode(), entry.encode())
        });
        let size = self.chunks_in_file * self.chunk_bytes as u64;
        let files = (0..self.files).flat_map(move |file| {
            let ino = FIRST_FILE + file;
            let chunks: Vec<Vec<u8>> = (0..self.chunks_in_file).map(|chunk| self.chunk(file, chunk, point)).collect();
            let ids = segment.store(&chunks);
            let extent = move |(number, chunk): (usize, ChunkId)| {
                let at = (number * self.chunk_bytes) as u64;
                (Key::Extent(ino, at).encode(), Extent { skip: 0, len: self.chunk_bytes as u32, chunk }.encode())
            };
            let own = std::iter::once((Key::Inode(ino).encode(), inode(false, 1, size).encode()));
            own.chain(ids.into_iter().enumerate().map(extent))
        });
        root.chain(names).chain(files).map(|(key, value)| (key, Edit::Put(value)))
    }

    fn record(&self, writer: &Writer, point: u8, root: ChunkId) -> PointRecord {
        let time = Time { sec: 1_700_000_000 + i64::from(point), nsec: 0 };
        PointRecord {
            repo: writer.repository().header().repo,
            id: PointId([point; 16]),
            time,
            sealed: time,
            root,
            next_ino: FIRST_FILE + self.files,
            kind: SourceKind::Dir,
            host: b"golden".to_vec(),
            source: b"made".to_vec(),
            parent: None,
            counts: Counts { files: self.files, dirs: 1, ..Counts::default() },
            paths: vec![b"/".to_vec()],
            tags: Vec::new(),
            file_systems: Vec::new(),
            notes: Vec::new(),
            program: b"golden".to_vec(),
            extra: Vec::new(),
        }
    }
}

/// The name of a file.
pub fn name(file: u64) -> String {
    format!("file-{file:08}")
}

fn inode(dir: bool, nlink: u32, size: u64) -> Inode {
    let time = Time { sec: 1_600_000_000, nsec: 0 };
    Inode {
        mode: if dir { 0o040_755 } else { 0o100_644 },
        uid: 0,
        gid: 0,
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

struct Pending<'a> {
    writer: &'a Writer,
    shape: &'a Shape,
    chunks: Vec<(ChunkId, u32)>,
    raw: Vec<u8>,
}

impl Pending<'_> {
    fn store(&mut self, chunks: &[Vec<u8>]) -> Vec<ChunkId> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| self.writer.chunk_id(chunk)).collect();
        for ((id, chunk), new) in ids.iter().zip(chunks).zip(self.writer.claim(&ids).unwrap()) {
            if new {
                self.chunks.push((*id, chunk.len() as u32));
                self.raw.extend_from_slice(chunk);
            }
            if self.chunks.len() >= self.shape.chunks_in_segment {
                self.flush();
            }
        }
        ids
    }

    fn flush(&mut self) {
        if !self.chunks.is_empty() {
            self.writer.store_segment(SegmentKind::Data, &self.chunks, &self.raw).unwrap();
            self.chunks.clear();
            self.raw.clear();
        }
    }
}
