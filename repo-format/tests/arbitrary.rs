//! Values of every shape come back from their bytes; bytes of every shape never panic and never cost much.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/samples.rs"]
#[allow(dead_code, missing_docs, reason = "shared by several test binaries")]
mod samples;

use counting::allocated_by;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use repo_format::*;

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(sec, nsec)| Time { sec, nsec })
}

fn chunk() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn ino() -> impl Strategy<Value = u64> {
    prop_oneof![1..4_u64, 1..=MAX_INO]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..most)
}

/// Names over a tiny alphabet, so that forbidden ones come up and are filtered.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let letters = prop_oneof![Just(b'.'), Just(b'a'), Just(0xff_u8), Just(b' ')];
    vec(letters, 1..8).prop_filter("reserved", |n| n != b"." && n != b"..")
}

fn inode() -> impl Strategy<Value = Inode> {
    let kind =
        prop::sample::select(vec![0o100_000_u32, 0o040_000, 0o120_000, 0o010_000, 0o140_000, 0o020_000, 0o060_000]);
    let source = (any::<u32>(), any::<u64>(), any::<u32>());
    let source = source.prop_map(|(fs, ino, generation)| SourceIdentity { fs, ino, generation });
    let ids = (kind, 0..0o10_000_u32, any::<[u32; 3]>(), any::<u32>());
    let rest =
        (0..=MAX_FILE_BYTES, any::<u64>(), time(), time(), option::of(time()), any::<[u32; 2]>(), option::of(source));
    (ids, rest).prop_map(
        |((kind, bits, [uid, gid, nlink], flags), (size, data, mtime, ctime, btime, [major, minor], source))| {
            let mode = kind | bits;
            let device = matches!(FileKind::from_mode(mode), Some(FileKind::Char | FileKind::Block));
            let file = FileKind::from_mode(mode) == Some(FileKind::File);
            let rdev = device.then_some(Device { major, minor });
            let data_bytes = if file { data.min(size) } else { 0 };
            Inode { mode, uid, gid, nlink, size, mtime, ctime, btime, rdev, flags: flags & 0x10, data_bytes, source }
        },
    )
}

fn point() -> impl Strategy<Value = PointRecord> {
    let list = || vec(bytes(12), 0..3);
    let kind = prop::sample::select(vec![SourceKind::Dir, SourceKind::Btrfs, SourceKind::Image, SourceKind::Rbd]);
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>(), option::of(any::<[u8; 16]>()), chunk(), 2..=MAX_INO + 1, kind);
    let extra = prop::collection::btree_map(0x8000..=u16::MAX, bytes(12), 0..3);
    let texts = (bytes(12), bytes(12), bytes(12), list(), list(), list(), list(), extra);
    (ids, texts, time(), time(), any::<[u64; 8]>()).prop_map(|(ids, texts, time, sealed, c)| {
        let (repo, id, parent, root, next_ino, kind) = ids;
        let (host, source, program, paths, tags, file_systems, notes, extra) = texts;
        let [files, dirs, bytes, read_bytes, new_chunks, new_bytes, stored_bytes, errors] = c;
        let counts = Counts { files, dirs, bytes, read_bytes, new_chunks, new_bytes, stored_bytes, errors };
        let (repo, id, parent) = (RepoId(repo), PointId(id), parent.map(PointId));
        let extra = extra.into_iter().collect();
        PointRecord {
            repo,
            id,
            time,
            sealed,
            root,
            next_ino,
            kind,
            host,
            source,
            parent,
            counts,
            paths,
            tags,
            file_systems,
            notes,
            program,
            extra,
        }
    })
}

fn segment() -> impl Strategy<Value = SegmentHeader> {
    let row = (chunk(), 1..100_000_u32).prop_map(|(id, raw_bytes)| TableEntry { id, raw_bytes });
    (vec(row, 1..20), any::<u32>(), any::<[u8; 16]>(), 0..4_u8, 1..=100_u64).prop_map(
        |(mut table, number, payload_check, kind, part)| {
            let kind =
                [SegmentKind::Data, SegmentKind::Node, SegmentKind::Point, SegmentKind::State][usize::from(kind) % 4];
            if matches!(kind, SegmentKind::Point | SegmentKind::State) {
                table.truncate(1);
            }
            let raw: u64 = table.iter().map(|row| u64::from(row.raw_bytes)).sum();
            let stored_bytes = u32::try_from(raw * part / 100).unwrap();
            let whole = part == 100 || stored_bytes == 0;
            let (codec, stored_bytes) =
                if whole { (Codec::Raw, u32::try_from(raw).unwrap()) } else { (Codec::Zstd, stored_bytes) };
            SegmentHeader { kind, codec, number, stored_bytes, payload_check, table }
        },
    )
}

proptest! {
    #[test]
    fn inodes_come_back(inode in inode()) {
        let bytes = inode.encode();
        prop_assert_eq!(Inode::decode(&bytes), Ok(inode));
        prop_assert_eq!(Value::decode(KeyKind::Inode, &bytes), Ok(Value::Inode(inode)));
    }

    #[test]
    fn points_come_back(point in point()) {
        prop_assert_eq!(PointRecord::decode(&point.encode()), Ok(point));
    }

    #[test]
    fn point_states_come_back(ids in any::<[[u8; 16]; 2]>(), sequence in 1..=u64::MAX, made: i64, hidden in option::of(any::<i64>()), protected: bool, locked_until in option::of(any::<i64>())) {
        let state = PointState { repo: RepoId(ids[0]), point: PointId(ids[1]), sequence, made, hidden, protected, locked_until };
        prop_assert_eq!(PointState::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn segment_headers_come_back(header in segment(), payload in bytes(30)) {
        let mut bytes = header.encode();
        prop_assert_eq!(bytes.len(), header.encoded_bytes());
        prop_assert!(bytes.starts_with(&header.associated_data()[..32]));
        bytes.extend_from_slice(&payload);
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn footers_come_back(gaps in vec((0..50_u64, 1..1_000_000_u32, 1..100_u32), 0..30)) {
        let mut at = PACKAGE_HEADER_BYTES as u64;
        let mut entries = Vec::new();
        for (number, (gap, payload, chunks)) in (0..).zip(gaps) {
            let bytes = (SEGMENT_HEADER_BYTES + TABLE_ENTRY_BYTES * chunks as usize) as u32 + payload;
            entries.push(FooterEntry { offset: at + gap, bytes, number, chunks });
            at += gap + u64::from(bytes);
        }
        let footer = PackageFooter { entries };
        let bytes = footer.encode();
        let trailer = &bytes[bytes.len() - FOOTER_TRAILER_BYTES..];
        prop_assert_eq!(PackageFooter::encoded_bytes(trailer), Ok(bytes.len()));
        prop_assert_eq!(PackageFooter::decode(&bytes, at), Ok(footer.clone()));
        prop_assert!(footer.entries.is_empty() || PackageFooter::decode(&bytes, at - 1).is_err());
    }

    #[test]
    fn keys_come_back_and_keep_their_order(
        inos in any::<[u8; 2]>(), fields in any::<[u64; 2]>(), kinds in [1..7_u8, 1..7_u8], names in [name(), name()],
    ) {
        let key = |i: usize| {
            let ino = u64::from(inos[i] & 3) + 1;
            match kinds[i] {
                1 => Key::Inode(ino),
                2 => Key::Xattr(ino, &names[i]),
                3 => Key::Dirent(ino, &names[i]),
                4 => Key::Extent(ino, fields[i] % MAX_FILE_BYTES),
                5 => Key::Target(ino),
                _ => Key::SourceIno(u32::from(inos[i] & 1), fields[i]),
            }
        };
        // The order that SPEC.md section 7 promises, spelled out.
        let rank = |k: Key<'_>| match k {
            Key::Xattr(_, n) | Key::Dirent(_, n) => (k.ino(), k.kind(), n.to_vec(), 0, 0),
            Key::Extent(_, offset) => (k.ino(), k.kind(), Vec::new(), offset, 0),
            Key::SourceIno(fs, ino) => (k.ino(), k.kind(), Vec::new(), u64::from(fs), ino),
            _ => (k.ino(), k.kind(), Vec::new(), 0, 0),
        };
        let (a, b) = (key(0), key(1));
        let bytes = a.encode();
        prop_assert_eq!(Key::decode(&bytes), Ok(a));
        prop_assert!(bytes.starts_with(&Key::prefix(a.ino(), a.kind())));
        prop_assert_eq!(bytes.cmp(&b.encode()), rank(a).cmp(&rank(b)));
    }

    #[test]
    fn small_values_come_back(chunk in chunk(), skip in 0..1_000_000_u32, len in 1..1_000_000_u32, ino in ino(), kind in 1..8_u8) {
        let extent = Extent { chunk, skip, len };
        prop_assert_eq!(Extent::decode(&extent.encode()), Ok(extent));
        let mode = [0, 0o100_000, 0o040_000, 0o120_000, 0o010_000, 0o140_000, 0o020_000, 0o060_000][usize::from(kind)];
        let kind = FileKind::from_mode(mode).unwrap();
        let dirent = Dirent { ino, kind };
        prop_assert_eq!(Dirent::decode(&dirent.encode()), Ok(dirent));
        let number = Value::SourceIno(ino);
        let bytes = number.encode();
        prop_assert_eq!(Value::decode(KeyKind::SourceIno, &bytes), Ok(number));
        let child = Child { id: chunk, entries: ino };
        prop_assert_eq!(Child::decode(&child.encode()), Some(child));
    }

    #[test]
    fn nodes_come_back_and_find_their_keys(map in prop::collection::btree_map(bytes(6), bytes(20), 0..40), probe in bytes(6)) {
        let mut w = NodeWriter::new(0);
        let mut sum = 0;
        for (key, value) in &map {
            w.push(key, value);
            sum += entry_bytes(key.len(), value.len());
            prop_assert_eq!(w.entry_bytes(), sum);
        }
        let bytes = w.finish();
        prop_assert_eq!(bytes.len(), NODE_HEADER_BYTES + sum);
        let node = Node::decode(&bytes[..]).unwrap();
        let entries: Vec<_> = (0..node.len()).map(|i| node.entry(i).unwrap()).collect();
        prop_assert!(entries.iter().copied().eq(map.iter().map(|(k, v)| (&k[..], &v[..]))));
        let keys: Vec<&[u8]> = map.keys().map(Vec::as_slice).collect();
        prop_assert_eq!(node.search(&probe), keys.binary_search(&&probe[..]));
        for hint in 0..keys.len() + 2 {
            prop_assert_eq!(node.search_near(&probe, hint), keys.binary_search(&&probe[..]), "hint {}", hint);
        }
    }

    #[test]
    fn slots_and_headers_come_back(label in bytes(256), id in any::<[u8; 16]>(), features in any::<[u64; 2]>(), created in any::<i64>(), kdf in any::<[u32; 3]>()) {
        let [memory, passes, lanes] = kdf;
        let (passes, lanes) = (passes % 64 + 1, lanes % 64 + 1);
        let kdf = KdfParams { memory_kib: 8 * lanes + memory % 4_000_000, passes, lanes };
        let slot = KeySlot { repo: RepoId(id), label, kdf, salt: id, ..samples::sample_key_slot() };
        prop_assert!(slot.encode().starts_with(&slot.associated_data()));
        prop_assert_eq!(KeySlot::decode(&slot.encode()), Ok(slot));
        let features = Features { compat: features[0], ro_compat: features[1], incompat: 0 };
        let header = RepoHeader { repo: RepoId(id), features, created, ..samples::sample_header() };
        prop_assert_eq!(header.writable(), features.ro_compat == 0);
        prop_assert_eq!(RepoHeader::decode(header.encode().as_bytes()), Ok(header));
    }

    #[test]
    fn bytes_of_any_shape_are_taken_as_they_are_or_refused(tail in bytes(400), keep in 0..200_usize, record in 0..64_usize, reseal: bool) {
        let records = samples::records();
        let record = &records[record % records.len()];
        // Half believable: the start of a valid vector, then anything, with a right checksum or not.
        let valid = &record.valid[tail.len() % record.valid.len()].1;
        let mut input = [&valid[..keep.min(valid.len())], &tail].concat();
        if reseal && input.len() >= CHECK_BYTES && record.extension == "bin" {
            let segment = record.folder == "segment-header" && input.len() >= SEGMENT_HEADER_BYTES;
            input = if segment { samples::resealed_segment(input) } else { samples::resealed(input) };
        }
        let (out, allocated) = allocated_by(|| (record.again)(&input));
        prop_assert!(allocated <= 64 * input.len() + (64 << 10), "{}: {allocated}", record.folder);
        if let Ok(out) = out {
            // Packages and segments go on behind the header that was decoded.
            prop_assert!(input.starts_with(&out), "{}", record.folder);
        }
    }

    #[test]
    fn borders_depend_on_nothing_but_their_arguments(key in bytes(40), level in 0..4_u8, value in 0..2000_usize, below in 0..100_000_usize) {
        let entry = entry_bytes(key.len(), value);
        let border = is_border(level, &key, entry, below);
        prop_assert_eq!(border, is_border(level, &key, entry, below));
        prop_assert!(below >= NODE_MIN_BYTES || !border);
        prop_assert!(below < NODE_MAX_BYTES || border);
    }
}

/// Borders are law: another hash would give other trees. Computed by a program written from SPEC.md section 6.
#[test]
fn borders_stay_where_they_are() {
    let border = |level, n: u64| {
        let key = Key::Dirent(n, b"name").encode();
        is_border(level, &key, 30, NODE_MIN_BYTES)
    };
    let found = |level| (1..3000).filter(|n| border(level, *n)).collect::<Vec<_>>();
    assert_eq!(found(0), BORDERS_0);
    assert_eq!(found(1), BORDERS_1);
}

const BORDERS_0: [u64; 6] = [324, 502, 856, 1367, 1752, 2790];
const BORDERS_1: [u64; 4] = [20, 763, 1169, 1760];
