//! SPEC.md and the code say the same: every table of the page is read here and held against values,
//! vectors and constants. A table that nobody expects fails, and so does an expectation without a table.

#[path = "support/samples.rs"]
#[allow(dead_code, missing_docs, reason = "shared by several test binaries")]
mod samples;

use repo_format::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> String {
    fs::read_to_string(crate_dir().join("../SPEC.md")).unwrap()
}

/// A table behind a marker `<!-- kind: name -->`: the marker's two words and the cells of the rows.
struct Table {
    kind: String,
    name: String,
    rows: Vec<Vec<String>>,
}

fn tables(text: &str) -> Vec<Table> {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(marker) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else { continue };
        let (kind, name) = marker.split_once(": ").unwrap_or((marker, ""));
        let rows = lines.by_ref().take_while(|l| l.starts_with('|')).skip(2);
        let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_string()).collect();
        out.push(Table { kind: kind.into(), name: name.into(), rows: rows.map(cells).collect() });
    }
    out
}

fn of_kind(kind: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let found: Vec<_> = tables(&spec()).into_iter().filter(|t| t.kind == kind).collect();
    let names: BTreeSet<_> = found.iter().map(|t| &t.name).collect();
    assert_eq!(names.len(), found.len(), "a name of a '{kind}' table is there twice");
    found.into_iter().map(|t| (t.name, t.rows)).collect()
}

/// `4`, `N`, `36 * N`, `12 + 4 * N` with the letters known so far; None while one is unknown.
fn evaluate(text: &str, letters: &BTreeMap<String, usize>) -> Option<usize> {
    let factor = |f: &str| f.parse().ok().or_else(|| letters.get(f).copied());
    text.split(" + ").map(|sum| sum.split(" * ").map(factor).product::<Option<usize>>()).sum()
}

/// Binds the one unknown letter of `N` or `36 * N`, so that the cell comes out at `bytes`.
fn bind(cell: &str, bytes: usize, letters: &mut BTreeMap<String, usize>) {
    let (times, letter) = cell.split_once(" * ").map_or((1, cell), |(n, l)| (n.parse().unwrap(), l));
    assert_eq!(bytes % times, 0, "{cell} cannot be {bytes}");
    letters.insert(letter.to_string(), bytes / times);
}

type Fields = Vec<(&'static str, Vec<u8>)>;

fn le<const N: usize>(bytes: [u8; N]) -> Vec<u8> {
    bytes.to_vec()
}

/// What every record is made of, written down from the samples' values and not by the encoder.
fn expected() -> BTreeMap<&'static str, Fields> {
    let check = |bytes: &[u8]| check_of(bytes).to_vec();
    let checked = |mut fields: Fields| {
        let body: Vec<u8> = fields.iter().flat_map(|(_, b)| b.clone()).collect();
        fields.push(("check", check(&body)));
        fields
    };
    let mut out = BTreeMap::new();
    let slot = samples::sample_key_slot();
    out.insert(
        "key slot",
        checked(vec![
            ("magic", b"RELICTKY".to_vec()),
            ("version", le(1_u16.to_le_bytes())),
            ("label_bytes", vec![5]),
            ("zero", vec![0]),
            ("memory_kib", le(47_104_u32.to_le_bytes())),
            ("passes", le(1_u32.to_le_bytes())),
            ("lanes", le(1_u32.to_le_bytes())),
            ("repository", samples::REPO.0.to_vec()),
            ("salt", slot.salt.to_vec()),
            ("label", slot.label.clone()),
            ("nonce", slot.nonce.to_vec()),
            ("wrapped", slot.wrapped.to_vec()),
        ]),
    );
    out.insert(
        "package header",
        checked(vec![
            ("magic", b"RELICTPK".to_vec()),
            ("version", le(1_u16.to_le_bytes())),
            ("kind", vec![1]),
            ("flags", vec![1]),
            ("zero", vec![0; 4]),
            ("repository", samples::REPO.0.to_vec()),
            ("package", samples::PACKAGE.0.to_vec()),
        ]),
    );
    segment_fields(&mut out);
    footer_fields(&mut out);
    node_fields(&mut out);
    tree_fields(&mut out);
    point_fields(&mut out);
    out.insert(
        "journal record",
        checked(vec![("kind", vec![1]), ("package_kind", vec![2]), ("package", samples::PACKAGE.0.to_vec())]),
    );
    out.insert("journal record of freeing", checked(vec![("kind", vec![2]), ("package", samples::PACKAGE.0.to_vec())]));
    out.insert(
        "point state",
        checked(vec![
            ("magic", b"RPST".to_vec()),
            ("version", le(1_u16.to_le_bytes())),
            ("flags", vec![7]),
            ("zero", vec![0]),
            ("repository", samples::REPO.0.to_vec()),
            ("point", samples::POINT.0.to_vec()),
            ("sequence", le(3_u64.to_le_bytes())),
            ("made_sec", le(1_763_700_010_i64.to_le_bytes())),
            ("hidden_sec", le(1_763_700_010_i64.to_le_bytes())),
            ("locked_sec", le(1_800_000_000_i64.to_le_bytes())),
        ]),
    );
    out
}

fn segment_fields(out: &mut BTreeMap<&'static str, Fields>) {
    let row = |id: ChunkId, len: u32| [&id.0[..], &len.to_le_bytes()].concat();
    let table = [row(samples::CHUNK, 65_536), row(samples::CHUNK_2, 1)].concat();
    let mut fields: Fields = vec![
        ("magic", b"RSEG".to_vec()),
        ("kind", vec![1]),
        ("codec", vec![2]),
        ("zero", vec![0; 2]),
        ("number", le(7_u32.to_le_bytes())),
        ("chunks", le(2_u32.to_le_bytes())),
        ("raw_bytes", le(65_537_u32.to_le_bytes())),
        ("stored_bytes", le(40_000_u32.to_le_bytes())),
        ("zero", vec![0; 8]),
        ("payload_check", b"tag of 16 bytes.".to_vec()),
    ];
    let front: Vec<u8> = fields.iter().flat_map(|(_, b)| b.clone()).collect();
    fields.push(("check", check_of(&[&front[..], &table].concat()).to_vec()));
    // The rule about associated data, too: bytes 0 to 31, then the table.
    assert_eq!(samples::sample_segment().associated_data(), [&front[..32], &table].concat());
    fields.push(("table", table));
    out.insert("segment header", fields);
    out.insert(
        "segment table row",
        vec![("chunk", samples::CHUNK.0.to_vec()), ("raw_bytes", le(65_536_u32.to_le_bytes()))],
    );
}

fn footer_fields(out: &mut BTreeMap<&'static str, Fields>) {
    let row = |e: &FooterEntry| -> Fields {
        vec![
            ("offset", le(e.offset.to_le_bytes())),
            ("bytes", le(e.bytes.to_le_bytes())),
            ("number", le(e.number.to_le_bytes())),
            ("chunks", le(e.chunks.to_le_bytes())),
        ]
    };
    let entries = samples::sample_footer().entries;
    let rows: Vec<u8> = entries.iter().flat_map(row).flat_map(|(_, b)| b).collect();
    let mut fields: Fields = vec![
        ("magic", b"RFTR".to_vec()),
        ("count", le(2_u32.to_le_bytes())),
        ("rows", rows),
        ("end_magic", b"RPKE".to_vec()),
        ("footer_bytes", le(72_u32.to_le_bytes())),
    ];
    let body: Vec<u8> = fields.iter().flat_map(|(_, b)| b.clone()).collect();
    fields.push(("check", check_of(&body).to_vec()));
    out.insert("package footer", fields);
    out.insert("footer row", row(&entries[0]));
}

fn node_fields(out: &mut BTreeMap<&'static str, Fields>) {
    let (key_1, key_2) = ([0, 0, 0, 0, 0, 0, 0, 1, 1].to_vec(), [&[0, 0, 0, 0, 0, 0, 0, 1, 3][..], b"etc"].concat());
    let (value_1, value_2) = (samples::sample_dir().encode(), vec![2, 0, 0, 0, 0, 0, 0, 0, 2]);
    let first: Fields = vec![("key_bytes", vec![9, 0]), ("key", key_1), ("value", value_1)];
    let entry_1: Vec<u8> = first.iter().flat_map(|(_, b)| b.clone()).collect();
    let entry_2 = [&[12, 0], &key_2[..], &value_2].concat();
    let ends = [20 + entry_1.len() as u32, (20 + entry_1.len() + entry_2.len()) as u32];
    out.insert("node entry", first);
    out.insert(
        "tree node",
        vec![
            ("magic", b"RNOD".to_vec()),
            ("level", vec![0]),
            ("zero", vec![0; 3]),
            ("count", le(2_u32.to_le_bytes())),
            ("ends", ends.iter().flat_map(|e| e.to_le_bytes()).collect()),
            ("entries", [entry_1, entry_2].concat()),
        ],
    );
    out.insert("child", vec![("chunk", samples::CHUNK.0.to_vec()), ("entries", le(300_u64.to_le_bytes()))]);
}

fn tree_fields(out: &mut BTreeMap<&'static str, Fields>) {
    let ino = |n: u64| ("ino", n.to_be_bytes().to_vec());
    out.insert("key Dirent", vec![ino(MAX_INO), ("kind", vec![3]), ("name", b"\xff...".to_vec())]);
    out.insert("key Xattr", vec![ino(258), ("kind", vec![2]), ("name", b"user.a/b".to_vec())]);
    out.insert("key Extent", vec![ino(3), ("kind", vec![4]), ("offset", vec![1, 2, 3, 4, 5, 6, 7, 8])]);
    let source = vec![("zero", vec![0; 8]), ("kind", vec![6]), ("fs", vec![0, 0, 0, 1]), ("ino", vec![0xff; 8])];
    out.insert("key SourceIno", source);
    out.insert(
        "inode",
        vec![
            ("present", vec![0, 0]),
            ("mode", le(0o040_755_u32.to_le_bytes())),
            ("uid", le(1000_u32.to_le_bytes())),
            ("gid", le(100_u32.to_le_bytes())),
            ("nlink", le(3_u32.to_le_bytes())),
            ("size", le(4096_u64.to_le_bytes())),
            ("mtime_sec", le(1_763_700_000_i64.to_le_bytes())),
            ("mtime_nsec", le(5_u32.to_le_bytes())),
            ("ctime_sec", le((-1_i64).to_le_bytes())),
            ("ctime_nsec", le(999_999_999_u32.to_le_bytes())),
        ],
    );
    let number = ("ino", le(0x01_0203_0405_u64.to_le_bytes()));
    out.insert("directory entry", vec![number.clone(), ("kind", vec![3])]);
    out.insert("source inode", vec![number]);
    out.insert(
        "extent",
        vec![
            ("skip", le(4096_u32.to_le_bytes())),
            ("len", le(61_440_u32.to_le_bytes())),
            ("chunk", samples::CHUNK.0.to_vec()),
        ],
    );
}

fn point_fields(out: &mut BTreeMap<&'static str, Fields>) {
    let mut fields: Fields = vec![
        ("magic", b"RPNT".to_vec()),
        ("version", le(1_u16.to_le_bytes())),
        ("kind", vec![1]),
        ("zero", vec![0]),
        ("repository", samples::REPO.0.to_vec()),
        ("point", samples::POINT.0.to_vec()),
        ("time_sec", le(1_763_700_000_i64.to_le_bytes())),
        ("time_nsec", le(1_u32.to_le_bytes())),
        ("sealed_sec", le(1_763_700_009_i64.to_le_bytes())),
        ("sealed_nsec", le(999_999_999_u32.to_le_bytes())),
        ("root", samples::CHUNK.0.to_vec()),
        ("next_ino", le(1000_u64.to_le_bytes())),
    ];
    let counts = ["files", "dirs", "bytes", "read_bytes", "new_chunks", "new_bytes", "stored_bytes", "errors"];
    fields.extend((1_u64..).zip(counts).map(|(n, name)| (name, le(n.to_le_bytes()))));
    out.insert("restore point", fields);
    out.insert(
        "tagged field",
        vec![("tag", vec![1, 0]), ("value_bytes", vec![5, 0, 0, 0]), ("value", b"alpha".to_vec())],
    );
}

/// The bytes a marker speaks of: `folder/file`, then `at N` and `to N`.
fn vector(place: &str) -> Vec<u8> {
    let mut words = place.split(' ');
    let bytes = fs::read(crate_dir().join("vectors").join(words.next().unwrap())).unwrap();
    let (mut from, mut to) = (0, bytes.len());
    while let (Some(word), Some(number)) = (words.next(), words.next()) {
        let number: usize = number.parse().unwrap();
        if word == "at" { from = number } else { to = number }
    }
    bytes[from..to].to_vec()
}

#[test]
fn byte_tables_match_the_vectors() {
    let mut expected = expected();
    for (marker, rows) in of_kind("bytes") {
        let (name, place) = marker.split_once(" = ").unwrap();
        if let Some(total) = place.strip_suffix(" bytes") {
            // A record of the database: its encoder is not in this crate, but the sums are checked.
            let none = BTreeMap::new();
            let ends = rows.iter().fold(0, |at, row| {
                assert_eq!(evaluate(&row[0], &none), Some(at), "{name}: offset of {}", row[2]);
                at + evaluate(&row[1], &none).unwrap()
            });
            assert_eq!(ends.to_string(), total, "{name}");
            continue;
        }
        let fields = expected.remove(name).unwrap_or_else(|| panic!("no test expects the table '{name}'"));
        let named: Vec<_> = rows.iter().map(|row| row[2].as_str()).collect();
        assert_eq!(named, fields.iter().map(|(n, _)| *n).collect::<Vec<_>>(), "{name}: fields");
        let (mut at, mut letters) = (0, BTreeMap::new());
        for (row, (field, bytes)) in rows.iter().zip(&fields) {
            assert_eq!(evaluate(&row[0], &letters), Some(at), "{name}: offset of {field}");
            if evaluate(&row[1], &letters).is_none() {
                bind(&row[1], bytes.len(), &mut letters);
            }
            assert_eq!(evaluate(&row[1], &letters), Some(bytes.len()), "{name}: bytes of {field}");
            at += bytes.len();
        }
        let whole: Vec<u8> = fields.into_iter().flat_map(|(_, b)| b).collect();
        let vector = vector(place);
        // A table of repeated rows shows the first.
        let shown = if name.ends_with(" row") { &vector[..whole.len()] } else { &vector[..] };
        assert_eq!(whole, shown, "{name}: the vector");
    }
    assert!(expected.is_empty(), "SPEC.md has no table for {:?}", expected.keys());
}

#[test]
fn the_header_in_the_text_is_the_vector() {
    let spec = spec();
    let (_, after) = spec.split_once("<!-- text: ").unwrap();
    let (file, after) = after.split_once(" -->\n```toml\n").unwrap();
    let (text, _) = after.split_once("```").unwrap();
    assert_eq!(text.as_bytes(), vector(file));
    assert_eq!(RepoHeader::decode(text.as_bytes()), Ok(samples::sample_header()));
}

#[test]
fn limits_are_the_constants() {
    let constants: BTreeMap<&str, u64> = BTreeMap::from([
        ("FORMAT_VERSION", u64::from(FORMAT_VERSION)),
        ("CHECK_BYTES", CHECK_BYTES as u64),
        ("MAX_CHUNK_BYTES", MAX_CHUNK_BYTES as u64),
        ("MAX_SEGMENT_RAW_BYTES", MAX_SEGMENT_RAW_BYTES as u64),
        ("MAX_SEGMENT_CHUNKS", MAX_SEGMENT_CHUNKS as u64),
        ("MAX_PACKAGE_BYTES", MAX_PACKAGE_BYTES),
        ("PACKAGE_HEADER_BYTES", PACKAGE_HEADER_BYTES as u64),
        ("SEGMENT_HEADER_BYTES", SEGMENT_HEADER_BYTES as u64),
        ("TABLE_ENTRY_BYTES", TABLE_ENTRY_BYTES as u64),
        ("FOOTER_ENTRY_BYTES", FOOTER_ENTRY_BYTES as u64),
        ("FOOTER_TRAILER_BYTES", FOOTER_TRAILER_BYTES as u64),
        ("WRAPPED_KEY_BYTES", WRAPPED_KEY_BYTES as u64),
        ("MAX_LABEL_BYTES", MAX_LABEL_BYTES as u64),
        ("MAX_MEMORY_KIB", u64::from(KdfParams::MAX_MEMORY_KIB)),
        ("MAX_STEPS", u64::from(KdfParams::MAX_STEPS)),
        ("NODE_HEADER_BYTES", NODE_HEADER_BYTES as u64),
        ("NODE_MIN_BYTES", NODE_MIN_BYTES as u64),
        ("NODE_MAX_BYTES", NODE_MAX_BYTES as u64),
        ("NODE_MEAN_EXTRA_BYTES", NODE_MEAN_EXTRA_BYTES),
        ("MAX_LEVEL", u64::from(MAX_LEVEL)),
        ("MAX_KEY_BYTES", MAX_KEY_BYTES as u64),
        ("MAX_NAME_BYTES", MAX_NAME_BYTES as u64),
        ("MAX_XATTR_BYTES", MAX_XATTR_BYTES as u64),
        ("MAX_TARGET_BYTES", MAX_TARGET_BYTES as u64),
        ("MAX_INO", MAX_INO),
        ("MAX_FILE_BYTES", MAX_FILE_BYTES),
        ("TREE_INO", TREE_INO),
        ("ROOT_INO", ROOT_INO),
        ("POINT_FIXED_BYTES", POINT_FIXED_BYTES as u64),
        ("POINT_STATE_BYTES", POINT_STATE_BYTES as u64),
        ("JOURNAL_MAX_BYTES", JOURNAL_MAX_BYTES as u64),
    ]);
    let limits = of_kind("limits");
    let rows = &limits[""];
    let named: BTreeMap<&str, u64> = rows.iter().map(|row| (row[0].as_str(), row[1].parse().unwrap())).collect();
    assert_eq!(named, constants);
}

#[test]
fn numbers_of_enumerations_are_the_code_s() {
    let enums: [(&str, Vec<(String, u8)>); 7] = [
        ("PackageKind", [PackageKind::Data, PackageKind::Meta].map(|k| (format!("{k:?}"), k as u8)).to_vec()),
        (
            "SegmentKind",
            [SegmentKind::Data, SegmentKind::Node, SegmentKind::Point, SegmentKind::State]
                .map(|k| (format!("{k:?}"), k as u8))
                .to_vec(),
        ),
        ("Codec", [Codec::Raw, Codec::Zstd].map(|k| (format!("{k:?}"), k as u8)).to_vec()),
        ("KeyKind", {
            use KeyKind::{Dirent, Extent, Inode, SourceIno, Target, Xattr};
            [Inode, Xattr, Dirent, Extent, Target, SourceIno].map(|k| (format!("{k:?}"), k as u8)).to_vec()
        }),
        ("FileKind", {
            use FileKind::{Block, Char, Dir, Fifo, File, Socket, Symlink};
            [File, Dir, Symlink, Fifo, Socket, Char, Block].map(|k| (format!("{k:?}"), k as u8)).to_vec()
        }),
        ("SourceKind", {
            use SourceKind::{Btrfs, Dir, Image, Rbd};
            [Dir, Btrfs, Image, Rbd].map(|k| (format!("{k:?}"), k as u8)).to_vec()
        }),
        (
            "JournalKind",
            vec![
                ("PackageOpen".into(), samples::sample_journal().encode()[0]),
                ("PackageFree".into(), JournalRecord::PackageFree { package: samples::PACKAGE }.encode()[0]),
            ],
        ),
    ];
    let mut found = of_kind("enum");
    for (name, numbers) in enums {
        let rows = found.remove(name).unwrap_or_else(|| panic!("SPEC.md has no table of {name}"));
        let rows: Vec<(String, u8)> = rows.iter().map(|row| (row[1].clone(), row[0].parse().unwrap())).collect();
        assert_eq!(rows, numbers, "{name}");
    }
    assert!(found.is_empty(), "no test expects {:?}", found.keys());
}

#[test]
fn optional_parts_of_an_inode_are_as_listed() {
    let optional = of_kind("optional");
    let rows = &optional["inode"];
    let everything = samples::sample_file().encode();
    let present = u16::from_le_bytes([everything[0], everything[1]]);
    let bits = rows.iter().filter(|row| row[2] != "rdev").map(|row| row[0].parse::<u16>().unwrap());
    assert_eq!(bits.fold(0, |all, bit| all | bit), present, "the bits of everything but rdev");
    let at = |name: &str| {
        let before = rows.iter().take_while(|row| row[2] != name);
        let there = before.filter(|row| present & row[0].parse::<u16>().unwrap() != 0);
        50 + there.map(|row| row[1].parse::<usize>().unwrap()).sum::<usize>()
    };
    assert_eq!(everything[at("btime")..][..12], [&1_i64.to_le_bytes()[..], &2_u32.to_le_bytes()].concat());
    assert_eq!(everything[at("flags")..][..4], 0x10_u32.to_le_bytes());
    assert_eq!(everything[at("data_bytes")..][..8], 65_537_u64.to_le_bytes());
    let source = [&1_u32.to_le_bytes()[..], &987_654_321_u64.to_le_bytes(), &3_u32.to_le_bytes()].concat();
    assert_eq!(everything[at("source")..], source);
    let device = samples::sample_device().encode();
    let rdev = rows.iter().find(|row| row[2] == "rdev").unwrap();
    assert_eq!(device[..2], rdev[0].parse::<u16>().unwrap().to_le_bytes());
    assert_eq!(device[50..], [8_u32.to_le_bytes(), 17_u32.to_le_bytes()].concat());
}

#[test]
fn tags_of_a_restore_point_are_as_listed() {
    let point = samples::sample_point();
    let bytes = point.encode();
    let mut rest = &bytes[POINT_FIXED_BYTES..bytes.len() - CHECK_BYTES];
    let mut found: Vec<(u16, &[u8])> = Vec::new();
    while let Some((tag, after)) = rest.split_first_chunk::<2>() {
        let (len, after) = after.split_first_chunk::<4>().unwrap();
        let (value, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        found.push((u16::from_le_bytes(*tag), value));
        rest = after;
    }
    let named = |name: &str| -> Vec<Vec<u8>> {
        match name {
            "host" => vec![point.host.clone()],
            "source" => vec![point.source.clone()],
            "parent" => point.parent.iter().map(|p| p.0.to_vec()).collect(),
            "path" => point.paths.clone(),
            "tag" => point.tags.clone(),
            "file_system" => point.file_systems.clone(),
            "note" => point.notes.clone(),
            "program" => vec![point.program.clone()],
            "set" => point.set().iter().map(|set| set.0.to_vec()).collect(),
            "no_acls" => point.has_no_acls().then(Vec::new).into_iter().collect(),
            other => panic!("no test expects the tag '{other}'"),
        }
    };
    let tags = of_kind("tags");
    for row in &tags[""] {
        let tag: u16 = row[0].parse().unwrap();
        let values: Vec<_> = found.iter().filter(|(t, _)| *t == tag).map(|(_, v)| v.to_vec()).collect();
        assert_eq!(values, named(&row[1]), "tag {tag}");
        assert_eq!(row[1] == "set", tag == SET_TAG);
        assert_eq!(row[1] == "no_acls", tag == NO_ACLS_TAG);
    }
    let listed: BTreeSet<u16> = tags[""].iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(found.iter().all(|(tag, _)| listed.contains(tag) || *tag >= 0x8000));
}

#[test]
fn sections_that_the_code_names_are_there() {
    let spec = spec();
    let headings: Vec<&str> = spec.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    for (number, heading) in (1..).zip(&headings) {
        assert!(heading.starts_with(&format!("{number}. ")), "section {number} is '{heading}'");
    }
    for entry in fs::read_dir(crate_dir().join("src")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for named in text.split("SPEC.md section ").skip(1) {
            let number: usize = named.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
            assert!((1..=headings.len()).contains(&number), "section {number}");
        }
    }
}

/// The canary: the parser must notice a table that is off by one.
#[test]
fn a_wrong_offset_is_noticed() {
    let letters = BTreeMap::from([("N".to_string(), 3)]);
    assert_eq!(evaluate("12 + 4 * N", &letters), Some(24));
    assert_eq!(evaluate("12 + 4 * M", &letters), None);
    let table = "<!-- bytes: x = y -->\n| offset | bytes |\n|---|---|\n| 0 | 8 |\n| 9 | 1 |\n";
    let parsed = tables(table);
    assert_eq!(parsed[0].rows, [["0", "8"], ["9", "1"]]);
    assert_ne!(evaluate(&parsed[0].rows[1][0], &letters), Some(8));
}
