//! What the vectors hold, as values: shared by the generator (`examples/make-vectors.rs`) and the tests.
//!
//! A record is a folder below `vectors/`. Names of invalid samples begin with the problem that decoding
//! them must report.

use repo_format::*;

/// One kind of record with all its samples.
pub struct Record {
    /// Folder below `vectors/`.
    pub folder: &'static str,
    /// File extension.
    pub extension: &'static str,
    /// Whether the record ends damage by a checksum of its own; the others lie in chunks, whose id does it.
    pub checked: bool,
    /// Decodes, and encodes again what came out.
    pub again: fn(&[u8]) -> Result<Vec<u8>>,
    /// Name and bytes.
    pub valid: Vec<(&'static str, Vec<u8>)>,
    /// Problem, name and bytes.
    pub invalid: Vec<(&'static str, &'static str, Vec<u8>)>,
}

impl Record {
    fn new(folder: &'static str, checked: bool, again: fn(&[u8]) -> Result<Vec<u8>>) -> Self {
        let extension = if folder == "relict-toml" { "toml" } else { "bin" };
        Self { folder, extension, checked, again, valid: Vec::new(), invalid: Vec::new() }
    }

    fn valid(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.valid.push((name, bytes));
        self
    }

    fn invalid(mut self, problem: &'static str, name: &'static str, bytes: Vec<u8>) -> Self {
        self.invalid.push((problem, name, bytes));
        self
    }

    /// File name and bytes of every sample.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let valid = self.valid.iter().map(|(name, bytes)| (format!("valid-{name}.{}", self.extension), bytes.clone()));
        let invalid = self.invalid.iter();
        let invalid = invalid.map(|(p, name, bytes)| (format!("invalid-{p}-{name}.{}", self.extension), bytes.clone()));
        valid.chain(invalid).collect()
    }
}

/// Byte offset at which the footer vectors are taken to begin in their package.
pub const FOOTER_AT: u64 = 1 << 20;

pub const REPO: RepoId = RepoId(*b"repository-id-16");
pub const PACKAGE: PackageId = PackageId(*b"package-id-of-16");
pub const POINT: PointId = PointId(*b"restore-point-id");
pub const CHUNK: ChunkId = ChunkId(*b"chunk-id-that-is-32-bytes-long-1");
pub const CHUNK_2: ChunkId = ChunkId(*b"chunk-id-that-is-32-bytes-long-2");

/// `bytes` with `patch` written at `at`.
pub fn patched(bytes: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[at..at + patch.len()].copy_from_slice(patch);
    out
}

/// `bytes` with the checksum at its end made right again.
pub fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - CHECK_BYTES;
    let check = check_of(&bytes[..body]);
    bytes[body..].copy_from_slice(&check);
    bytes
}

/// As [`resealed`], for segment headers, whose check stands in the middle.
pub fn resealed_segment(mut bytes: Vec<u8>) -> Vec<u8> {
    let covered = [&bytes[..48], &bytes[64..]].concat();
    bytes[48..64].copy_from_slice(&check_of(&covered));
    bytes
}

fn resealed_header(text: &str) -> Vec<u8> {
    let body = &text[..text.find("check = ").unwrap()];
    let check: String = check_of(body.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!("{body}check = \"{check}\"\n").into_bytes()
}

/// Every record with its samples.
pub fn records() -> Vec<Record> {
    vec![
        header(),
        key_slot(),
        package_header(),
        segment_header(),
        package_footer(),
        tree_node(),
        tree_key(),
        inode(),
        xattr(),
        directory_entry(),
        extent(),
        symlink_target(),
        source_ino(),
        restore_point(),
        point_state(),
        journal(),
    ]
}

pub fn sample_header() -> RepoHeader {
    RepoHeader {
        repo: REPO,
        created: 1_763_700_000,
        store: StoreKind::Files,
        encryption: Encryption::Aes256Gcm,
        chunk_bytes: [16 << 10, 64 << 10, 256 << 10],
        features: Features::default(),
    }
}

fn header() -> Record {
    let sample = sample_header();
    let plain = RepoHeader { store: StoreKind::RocksDb, encryption: Encryption::None, created: -1, ..sample.clone() };
    let bits = Features { compat: u64::MAX, ro_compat: 1, incompat: 0 };
    let featured = RepoHeader { features: bits, chunk_bytes: [64, 256, 8 << 20], ..sample.clone() };
    let refused = Features { compat: 0, ro_compat: 0, incompat: 1 << 63 };
    let refused = RepoHeader { features: refused, ..sample.clone() }.encode();
    let text = sample.encode();
    let with = |from: &str, to: &str| resealed_header(&text.replace(from, to));
    let again = |bytes: &[u8]| RepoHeader::decode(bytes).map(|h| h.encode().into_bytes());
    Record::new("relict-toml", true, again)
        .valid("encrypted-files", text.clone().into_bytes())
        .valid("plain-rocksdb", plain.encode().into_bytes())
        .valid("known-to-nobody-but-readable", featured.encode().into_bytes())
        .invalid("version", "newer-format", with("format = 1", "format = 2"))
        .invalid("version", "incompatible-feature", refused.into_bytes())
        .invalid("check", "edited", text.replace("65536", "65538").into_bytes())
        .invalid("check", "other-spelling", with("format = 1", "format = 01"))
        .invalid("check", "line-added", [text.as_bytes(), b"extra = 1\n"].concat())
        .invalid("field", "odd-chunk-length", with("16384", "16385"))
        .invalid("field", "average-above-maximum", with("65536", "262146"))
        .invalid("field", "unknown-store", with("files", "tapes"))
        .invalid("field", "unknown-encryption", with("aes-256-gcm", "rot-13"))
        .invalid("field", "line-missing", with("created = 1763700000\n", ""))
        .invalid("magic", "no-comment", text.as_bytes()[1..].to_vec())
}

pub fn sample_key_slot() -> KeySlot {
    KeySlot {
        repo: REPO,
        kdf: KdfParams { memory_kib: 47_104, passes: 1, lanes: 1 },
        salt: *b"sixteen-of-salt!",
        nonce: *b"twelve-bytes",
        wrapped: *b"a master key of 32 bytes wrapped, and the tag 16",
        label: b"first".to_vec(),
    }
}

fn key_slot() -> Record {
    let sample = sample_key_slot();
    let bare = KeySlot { label: Vec::new(), ..sample.clone() };
    let longest = KeySlot { label: vec![0xff; MAX_LABEL_BYTES], ..sample.clone() };
    let costly = KdfParams { memory_kib: KdfParams::MAX_MEMORY_KIB, passes: 64, lanes: 64 };
    let costly = KeySlot { kdf: costly, ..sample.clone() };
    let bytes = sample.encode();
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    Record::new("key-slot", true, |b| KeySlot::decode(b).map(|s| s.encode()))
        .valid("label", bytes.clone())
        .valid("no-label", bare.encode())
        .valid("longest-label", longest.encode())
        .valid("highest-cost", costly.encode())
        .invalid("magic", "other", with(0, b"X"))
        .invalid("version", "two", with(8, &[2]))
        .invalid("reserved", "byte-11", with(11, &[1]))
        .invalid("field", "memory-too-large", with(12, &(KdfParams::MAX_MEMORY_KIB + 1).to_le_bytes()))
        .invalid("field", "memory-below-8-a-lane", with(12, &7_u32.to_le_bytes()))
        .invalid("field", "no-passes", with(16, &[0]))
        .invalid("field", "65-lanes", with(20, &[65]))
        .invalid("truncated", "label-past-end", with(10, &[200]))
        .invalid("trailing", "label-shorter-than-it-is", with(10, &[4]))
        .invalid("check", "wrapped-key-flipped", patched(&bytes, 80, &[0]))
}

pub fn sample_package_header() -> PackageHeader {
    PackageHeader { kind: PackageKind::Data, encrypted: true, repo: REPO, package: PACKAGE }
}

fn package_header() -> Record {
    let sample = sample_package_header();
    let plain = PackageHeader { kind: PackageKind::Meta, encrypted: false, ..sample };
    let bytes = sample.encode();
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    Record::new("package-header", true, |b| PackageHeader::decode(b).map(|h| h.encode()))
        .valid("data-encrypted", bytes.clone())
        .valid("meta-plain", plain.encode())
        .invalid("magic", "other", with(7, b"X"))
        .invalid("version", "two", with(8, &[2]))
        .invalid("field", "kind-zero", with(10, &[0]))
        .invalid("field", "kind-three", with(10, &[3]))
        .invalid("reserved", "flag", with(11, &[2]))
        .invalid("reserved", "bytes", with(15, &[1]))
        .invalid("check", "id-flipped", patched(&bytes, 40, &[0]))
}

pub fn sample_segment() -> SegmentHeader {
    SegmentHeader {
        kind: SegmentKind::Data,
        codec: Codec::Zstd,
        number: 7,
        stored_bytes: 40_000,
        payload_check: *b"tag of 16 bytes.",
        table: vec![TableEntry { id: CHUNK, raw_bytes: 65_536 }, TableEntry { id: CHUNK_2, raw_bytes: 1 }],
    }
}

fn segment_header() -> Record {
    let sample = sample_segment();
    let one = |raw_bytes| vec![TableEntry { id: CHUNK, raw_bytes }];
    let node = SegmentHeader { kind: SegmentKind::Node, number: 0, table: one(70_000), ..sample.clone() };
    let point = SegmentHeader {
        kind: SegmentKind::Point,
        codec: Codec::Raw,
        stored_bytes: 300,
        table: one(300),
        ..sample.clone()
    };
    let state = SegmentHeader {
        kind: SegmentKind::State,
        codec: Codec::Raw,
        stored_bytes: 88,
        table: one(88),
        ..sample.clone()
    };
    let longest = SegmentHeader {
        number: u32::MAX,
        stored_bytes: 1,
        table: [one(8 << 20), one(8 << 20)].concat(),
        ..sample.clone()
    };
    let bytes = sample.encode();
    let with = |at, patch: &[u8]| resealed_segment(patched(&bytes, at, patch));
    let of = |change: &dyn Fn(&mut SegmentHeader)| {
        let mut header = sample.clone();
        change(&mut header);
        header.encode()
    };
    Record::new("segment-header", true, |b| SegmentHeader::decode(b).map(|h| h.encode()))
        .valid("data-zstd", bytes.clone())
        .valid("node-zstd", node.encode())
        .valid("point-raw", point.encode())
        .valid("state-raw", state.encode())
        .valid("most-raw-bytes", longest.encode())
        .invalid("magic", "other", with(0, b"X"))
        .invalid("field", "kind-zero", with(4, &[0]))
        .invalid("field", "codec-three", with(5, &[3]))
        .invalid("reserved", "bytes-6", with(6, &[1]))
        .invalid("reserved", "bytes-24", with(31, &[1]))
        .invalid("field", "no-chunks", of(&|h| h.table.clear()))
        .invalid("truncated", "table-past-end", with(12, &3_u32.to_le_bytes()))
        .invalid("field", "too-many-chunks", with(12, &u32::MAX.to_le_bytes()))
        .invalid("field", "raw-bytes-not-the-sum", with(16, &1_u32.to_le_bytes()))
        .invalid(
            "field",
            "raw-bytes-above-limit",
            of(&|h| h.table = vec![TableEntry { id: CHUNK, raw_bytes: 8 << 20 }; 3]),
        )
        .invalid(
            "field",
            "chunk-above-limit",
            of(&|h| h.table = vec![TableEntry { id: CHUNK, raw_bytes: (8 << 20) + 1 }]),
        )
        .invalid("field", "empty-chunk", of(&|h| h.table[1].raw_bytes = 0))
        .invalid("field", "zstd-not-smaller", of(&|h| h.stored_bytes = 65_537))
        .invalid("field", "zstd-of-no-bytes", of(&|h| h.stored_bytes = 0))
        .invalid("field", "raw-of-other-length", of(&|h| h.codec = Codec::Raw))
        .invalid("field", "two-points", of(&|h| h.kind = SegmentKind::Point))
        .invalid("field", "two-states", of(&|h| h.kind = SegmentKind::State))
        .invalid("field", "kind-five", with(4, &[5]))
        .invalid("check", "id-flipped", patched(&bytes, 70, &[0]))
}

pub fn sample_footer() -> PackageFooter {
    let first = FooterEntry { offset: 64, bytes: 40_136, number: 0, chunks: 2 };
    // Between segments nothing lies in a package of an orderly end, but a footer may leave bytes out.
    let second = FooterEntry { offset: 40_300, bytes: 1000, number: 1, chunks: 1 };
    PackageFooter { entries: vec![first, second] }
}

fn package_footer() -> Record {
    let sample = sample_footer();
    let bytes = sample.encode();
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    let end = bytes.len() - FOOTER_TRAILER_BYTES;
    // As a reader does it: length from the trailer, then the whole.
    let again = |b: &[u8]| {
        let trailer = b.len().saturating_sub(FOOTER_TRAILER_BYTES);
        let known = PackageFooter::encoded_bytes(&b[trailer..])?;
        let wrong = FormatError { record: "package footer", at: 0, problem: Problem::Truncated };
        if known == b.len() { PackageFooter::decode(b, FOOTER_AT).map(|f| f.encode()) } else { Err(wrong) }
    };
    Record::new("package-footer", true, again)
        .valid("two-segments", bytes.clone())
        .valid("no-segments", PackageFooter::default().encode())
        .invalid("magic", "other", with(0, b"X"))
        .invalid("magic", "other-end", with(end, b"X"))
        .invalid("field", "count-of-all", with(4, &u32::MAX.to_le_bytes()))
        .invalid("field", "overlap", with(28, &40_199_u64.to_le_bytes()))
        .invalid("field", "in-the-package-header", with(8, &63_u64.to_le_bytes()))
        .invalid("field", "into-the-footer", with(36, &(FOOTER_AT as u32).to_le_bytes()))
        .invalid("field", "offset-wraps", with(28, &u64::MAX.to_le_bytes()))
        .invalid("field", "number-repeats", with(40, &0_u32.to_le_bytes()))
        .invalid("field", "no-chunks", with(44, &0_u32.to_le_bytes()))
        .invalid("field", "shorter-than-its-table", with(36, &100_u32.to_le_bytes()))
        .invalid("field", "length-of-no-rows", with(end + 4, &33_u32.to_le_bytes()))
        .invalid("truncated", "length-of-more", with(end + 4, &92_u32.to_le_bytes()))
        .invalid("check", "row-flipped", patched(&bytes, 8, &[65]))
}

pub fn sample_leaf() -> Vec<u8> {
    let mut w = NodeWriter::new(0);
    w.push(&Key::Inode(1).encode(), &Value::Inode(sample_dir()).encode());
    w.push(&Key::Dirent(1, b"etc").encode(), &Dirent { ino: 2, kind: FileKind::Dir }.encode());
    w.finish()
}

pub fn sample_inner() -> Vec<u8> {
    let mut w = NodeWriter::new(1);
    w.push(&Key::Inode(1).encode(), &Child { id: CHUNK, entries: 300 }.encode());
    w.push(&Key::Extent(9, 65_536).encode(), &Child { id: CHUNK_2, entries: 1 }.encode());
    w.finish()
}

fn tree_node() -> Record {
    let (leaf, inner) = (sample_leaf(), sample_inner());
    let swapped = {
        let mut w = NodeWriter::new(0);
        w.push(b"b", b"");
        w.push(b"a", b"");
        w.finish()
    };
    let twice = {
        let mut w = NodeWriter::new(0);
        w.push(b"a", b"1");
        w.push(b"a", b"2");
        w.finish()
    };
    let long_key = {
        let mut w = NodeWriter::new(0);
        w.push(&[1; MAX_KEY_BYTES + 1], b"");
        w.finish()
    };
    let again = |b: &[u8]| {
        let node = Node::decode(b)?;
        let mut w = NodeWriter::new(node.level());
        (0..node.len()).filter_map(|i| node.entry(i)).for_each(|(key, value)| w.push(key, value));
        Ok(w.finish())
    };
    Record::new("tree-node", false, again)
        .valid("leaf", leaf.clone())
        .valid("inner", inner.clone())
        .valid("empty-tree", NodeWriter::new(0).finish())
        .invalid("magic", "other", patched(&leaf, 0, b"X"))
        .invalid("field", "level-32", patched(&inner, 4, &[32]))
        .invalid("reserved", "byte-5", patched(&leaf, 5, &[1]))
        .invalid("truncated", "count-of-all", patched(&leaf, 8, &u32::MAX.to_le_bytes()))
        .invalid("field", "empty-inner", NodeWriter::new(1).finish())
        .invalid("field", "offset-goes-back", patched(&leaf, 16, &13_u32.to_le_bytes()))
        .invalid("field", "offset-past-end", patched(&leaf, 16, &u32::MAX.to_le_bytes()))
        .invalid("field", "key-past-entry", patched(&leaf, 20, &100_u16.to_le_bytes()))
        .invalid("field", "key-too-long", long_key)
        .invalid("field", "child-too-short", patched(&inner, 16, &120_u32.to_le_bytes()))
        .invalid("order", "keys-swapped", swapped)
        .invalid("order", "key-twice", twice)
        .invalid("trailing", "byte-more", [leaf.as_slice(), b"x"].concat())
}

fn tree_key() -> Record {
    let raw = |ino: u64, kind: u8, rest: &[u8]| [&ino.to_be_bytes()[..], &[kind], rest].concat();
    Record::new("tree-key", false, |b| Key::decode(b).map(|k| k.encode()))
        .valid("inode", Key::Inode(ROOT_INO).encode())
        .valid("xattr", Key::Xattr(258, b"user.a/b").encode())
        .valid("dirent", Key::Dirent(MAX_INO, b"\xff...").encode())
        .valid("dirent-longest", Key::Dirent(1, &[b'n'; MAX_NAME_BYTES]).encode())
        .valid("extent", Key::Extent(3, 0x0102_0304_0506_0708).encode())
        .valid("target", Key::Target(5).encode())
        .valid("source-ino", Key::SourceIno(1, u64::MAX).encode())
        .invalid("field", "kind-zero", raw(1, 0, b""))
        .invalid("field", "kind-seven", raw(1, 7, b""))
        .invalid("field", "inode-zero", raw(0, 1, b""))
        .invalid("field", "inode-of-41-bits", raw(MAX_INO + 1, 1, b""))
        .invalid("field", "source-of-an-inode", raw(1, 6, &[0; 12]))
        .invalid("field", "name-empty", raw(1, 3, b""))
        .invalid("field", "name-dot", raw(1, 3, b"."))
        .invalid("field", "name-dot-dot", raw(1, 3, b".."))
        .invalid("field", "name-with-slash", raw(1, 3, b"a/b"))
        .invalid("field", "name-with-nul", raw(1, 3, b"a\0"))
        .invalid("field", "name-of-256", raw(1, 3, &[b'n'; 256]))
        .invalid("field", "xattr-with-nul", raw(1, 2, b"a\0"))
        .invalid("field", "extent-past-2-to-63", raw(1, 4, &MAX_FILE_BYTES.to_be_bytes()))
        .invalid("truncated", "extent-of-7", raw(1, 4, &[0; 7]))
        .invalid("trailing", "extent-of-9", raw(1, 4, &[0; 9]))
        .invalid("trailing", "inode-with-name", raw(1, 1, b"x"))
        .invalid("truncated", "inode-number-only", vec![0; 8])
}

pub fn sample_dir() -> Inode {
    let time = Time { sec: 1_763_700_000, nsec: 5 };
    Inode {
        mode: 0o040_755,
        uid: 1000,
        gid: 100,
        nlink: 3,
        size: 4096,
        mtime: time,
        ctime: Time { sec: -1, nsec: 999_999_999 },
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: 0,
        source: None,
    }
}

/// Every optional part but the device number is there.
pub fn sample_file() -> Inode {
    Inode {
        mode: 0o104_755,
        nlink: 2,
        size: 1 << 30,
        btime: Some(Time { sec: 1, nsec: 2 }),
        flags: 0x10,
        data_bytes: 65_537,
        source: Some(SourceIdentity { fs: 1, ino: 987_654_321, generation: 3 }),
        ..sample_dir()
    }
}

pub fn sample_device() -> Inode {
    Inode { mode: 0o060_660, nlink: 1, size: 0, rdev: Some(Device { major: 8, minor: 17 }), ..sample_dir() }
}

fn inode() -> Record {
    let (dir, file, device) = (sample_dir().encode(), sample_file().encode(), sample_device().encode());
    let dense = Inode { mode: 0o100_644, size: 10, data_bytes: 10, ..sample_dir() };
    Record::new("inode", false, |b| Inode::decode(b).map(|i| i.encode()))
        .valid("directory", dir.clone())
        .valid("file-with-everything", file.clone())
        .valid("file-without-holes", dense.encode())
        .valid("device", device.clone())
        .invalid("field", "present-bit-32", patched(&dir, 0, &[32]))
        .invalid("field", "mode-without-type", patched(&dir, 2, &0o755_u32.to_le_bytes()))
        .invalid("field", "mode-of-17-bits", patched(&dir, 2, &0o1_040_755_u32.to_le_bytes()))
        .invalid("field", "device-without-number", patched(&dir, 2, &0o060_660_u32.to_le_bytes()))
        .invalid("field", "directory-with-number", patched(&device, 2, &0o040_755_u32.to_le_bytes()))
        .invalid("field", "size-past-2-to-63", patched(&dir, 18, &(1_u64 << 63).to_le_bytes()))
        .invalid("field", "nanoseconds", patched(&dir, 34, &1_000_000_000_u32.to_le_bytes()))
        .invalid("field", "flags-there-but-zero", patched(&file, 62, &[0]))
        .invalid("field", "holes-there-but-none", patched(&file, 66, &(1_u64 << 30).to_le_bytes()))
        .invalid("field", "more-data-than-size", patched(&file, 66, &(1_u64 << 31).to_le_bytes()))
        .invalid("trailing", "byte-more", [dir.as_slice(), &[0]].concat())
        .invalid("truncated", "source-missing", file[..74].to_vec())
}

fn xattr() -> Record {
    Record::new("extended-attribute", false, |b| Value::decode(KeyKind::Xattr, b).map(|v| v.encode()))
        .valid("empty", Vec::new())
        .valid("bytes", b"\x00\xffvalue".to_vec())
        .invalid("field", "too-long", vec![b'x'; MAX_XATTR_BYTES + 1])
}

fn directory_entry() -> Record {
    let bytes = Dirent { ino: 0x01_0203_0405, kind: FileKind::Symlink }.encode();
    Record::new("directory-entry", false, |b| Dirent::decode(b).map(|d| d.encode()))
        .valid("symlink", bytes.clone())
        .valid("block-device", Dirent { ino: MAX_INO, kind: FileKind::Block }.encode())
        .invalid("field", "kind-zero", patched(&bytes, 8, &[0]))
        .invalid("field", "kind-eight", patched(&bytes, 8, &[8]))
        .invalid("field", "inode-zero", patched(&bytes, 0, &[0; 8]))
        .invalid("field", "inode-of-41-bits", patched(&bytes, 0, &(MAX_INO + 1).to_le_bytes()))
        .invalid("trailing", "byte-more", [bytes.as_slice(), &[0]].concat())
}

pub fn sample_extent() -> Extent {
    Extent { chunk: CHUNK, skip: 4096, len: 61_440 }
}

fn extent() -> Record {
    let bytes = sample_extent().encode();
    Record::new("extent", false, |b| Extent::decode(b).map(|e| e.encode()))
        .valid("slice", bytes.clone())
        .valid("longest", Extent { chunk: CHUNK, skip: 0, len: 8 << 20 }.encode())
        .invalid("field", "no-bytes", patched(&bytes, 4, &[0; 4]))
        .invalid("field", "past-largest-chunk", patched(&bytes, 4, &(8_u32 << 20).to_le_bytes()))
        .invalid("field", "sum-wraps", patched(&bytes, 0, &[0xff; 8]))
        .invalid("trailing", "byte-more", [bytes.as_slice(), &[0]].concat())
        .invalid("truncated", "byte-less", bytes[..39].to_vec())
}

fn symlink_target() -> Record {
    Record::new("symlink-target", false, |b| Value::decode(KeyKind::Target, b).map(|v| v.encode()))
        .valid("relative", b"../share/\xff".to_vec())
        .valid("longest", vec![b'/'; MAX_TARGET_BYTES])
        .invalid("field", "empty", Vec::new())
        .invalid("field", "with-nul", b"a\0b".to_vec())
        .invalid("field", "too-long", vec![b'/'; MAX_TARGET_BYTES + 1])
}

fn source_ino() -> Record {
    Record::new("source-inode", false, |b| Value::decode(KeyKind::SourceIno, b).map(|v| v.encode()))
        .valid("number", Value::SourceIno(0x01_0203_0405).encode())
        .invalid("field", "zero", vec![0; 8])
        .invalid("field", "of-41-bits", (MAX_INO + 1).to_le_bytes().to_vec())
        .invalid("truncated", "of-7-bytes", vec![1; 7])
        .invalid("trailing", "of-9-bytes", vec![1, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub fn sample_point() -> PointRecord {
    PointRecord {
        repo: REPO,
        id: POINT,
        time: Time { sec: 1_763_700_000, nsec: 1 },
        sealed: Time { sec: 1_763_700_009, nsec: 999_999_999 },
        root: CHUNK,
        next_ino: 1000,
        kind: SourceKind::Dir,
        host: b"alpha".to_vec(),
        source: b"/srv".to_vec(),
        parent: Some(PointId(*b"point-before-it.")),
        counts: Counts {
            files: 1,
            dirs: 2,
            bytes: 3,
            read_bytes: 4,
            new_chunks: 5,
            new_bytes: 6,
            stored_bytes: 7,
            errors: 8,
        },
        paths: vec![b"/srv/a".to_vec(), b"/srv/b\xff".to_vec()],
        tags: vec![b"daily".to_vec()],
        file_systems: vec![b"uuid-of-a-file-system".to_vec()],
        notes: vec![b"compared everything: no parent".to_vec()],
        program: b"relict 0.1.0".to_vec(),
        extra: vec![(0x8000, b"from".to_vec()), (0xffff, b"the future".to_vec())],
    }
}

fn least_point() -> PointRecord {
    PointRecord {
        next_ino: 2,
        kind: SourceKind::Rbd,
        host: Vec::new(),
        source: Vec::new(),
        parent: None,
        counts: Counts::default(),
        paths: Vec::new(),
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: Vec::new(),
        extra: Vec::new(),
        ..sample_point()
    }
}

fn restore_point() -> Record {
    let (bytes, least) = (sample_point().encode(), least_point().encode());
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    let tagged = |fields: &[u8]| resealed([&least[..POINT_FIXED_BYTES], fields, &[0; CHECK_BYTES]].concat());
    let field = |tag: u16| [&tag.to_le_bytes()[..], &[0; 4]].concat();
    let fields = |tags: &[u16]| tagged(&tags.iter().flat_map(|tag| field(*tag)).collect::<Vec<_>>());
    Record::new("restore-point", true, |b| PointRecord::decode(b).map(|p| p.encode()))
        .valid("everything", bytes.clone())
        .valid("nothing-optional", least.clone())
        .invalid("magic", "other", with(0, b"X"))
        .invalid("version", "two", with(4, &[2]))
        .invalid("field", "kind-zero", with(6, &[0]))
        .invalid("reserved", "byte-7", with(7, &[1]))
        .invalid("field", "nanoseconds", with(48, &1_000_000_000_u32.to_le_bytes()))
        .invalid("field", "next-inode-taken", with(96, &1_u64.to_le_bytes()))
        .invalid("field", "host-missing", fields(&[2, 8]))
        .invalid("field", "program-missing", fields(&[1, 2]))
        .invalid("order", "tag-zero", fields(&[0, 1, 2, 8]))
        .invalid("field", "tag-that-must-be-known", fields(&[1, 2, 8, 0x7fff]))
        .invalid("field", "parent-of-no-bytes", fields(&[1, 2, 3, 8]))
        .invalid("order", "tags-swapped", fields(&[2, 1, 8]))
        .invalid("order", "host-twice", fields(&[1, 1, 2, 8]))
        .invalid("order", "extra-twice", fields(&[1, 2, 8, 0x8000, 0x8000]))
        .invalid("truncated", "field-of-4-gib", tagged(&[1, 0, 255, 255, 255, 255]))
        .invalid("check", "root-flipped", patched(&bytes, 64, &[0]))
}

pub fn sample_state() -> PointState {
    PointState {
        repo: REPO,
        point: POINT,
        sequence: 3,
        made: 1_763_700_010,
        hidden: Some(1_763_700_010),
        protected: true,
        locked_until: Some(1_800_000_000),
    }
}

fn point_state() -> Record {
    let bytes = sample_state().encode();
    let least =
        PointState { sequence: 1, hidden: None, protected: false, locked_until: None, ..sample_state() }.encode();
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    Record::new("point-state", true, |b| PointState::decode(b).map(|s| s.encode()))
        .valid("everything", bytes.clone())
        .valid("visible-and-free", least)
        .invalid("magic", "other", with(0, b"X"))
        .invalid("version", "two", with(4, &[2]))
        .invalid("reserved", "flag-8", with(6, &[15]))
        .invalid("reserved", "byte-7", with(7, &[1]))
        .invalid("field", "sequence-zero", with(40, &[0]))
        .invalid("reserved", "hidden-without-flag", with(6, &[6]))
        .invalid("reserved", "until-without-flag", with(6, &[3]))
        .invalid("trailing", "byte-more", resealed([bytes.as_slice(), &[0]].concat()))
        .invalid("check", "until-flipped", patched(&bytes, 64, &[1]))
}

pub fn sample_journal() -> JournalRecord {
    JournalRecord::PackageOpen { package: PACKAGE, kind: PackageKind::Meta }
}

fn journal() -> Record {
    let bytes = sample_journal().encode();
    let with = |at, patch: &[u8]| resealed(patched(&bytes, at, patch));
    Record::new("journal-record", true, |b| JournalRecord::decode(b).map(|j| j.encode()))
        .valid("package-open", bytes.clone())
        .valid("package-free", JournalRecord::PackageFree { package: PACKAGE }.encode())
        .invalid("field", "kind-zero", with(0, &[0]))
        .invalid("field", "package-kind-three", with(1, &[3]))
        .invalid("trailing", "byte-more", resealed([bytes.as_slice(), &[0]].concat()))
        .invalid("check", "id-flipped", patched(&bytes, 5, &[0]))
}
