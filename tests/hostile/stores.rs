//! Lies below the tree: in segments, packages, records, key slots and the header.

use super::forge::{Forge, Pair, THEN, dir, file, name};
use super::trial::{run, survives};
use repo_format::{
    ChunkId, Codec, FileKind, KdfParams, KeySlot, PackageFooter, PackageHeader, PackageId, PackageKind, ROOT_INO,
    RepoHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind, TableEntry, Time, check_of,
};
use std::fs;

/// Puts a package file beside those of the repository: header, then `segments` as they are, then a footer over them.
fn plant(forge: &Forge, kind: PackageKind, segments: &[Vec<u8>], footer: bool) {
    let repo = forge.writer().repository().header().repo;
    let package = PackageId([0xab; 16]);
    let mut bytes = PackageHeader { kind, encrypted: false, repo, package }.encode();
    let mut rows = PackageFooter::default();
    for (number, segment) in (0..).zip(segments) {
        let chunks = u32::from_le_bytes(segment[12..16].try_into().unwrap());
        rows.entries.push(repo_format::FooterEntry {
            offset: bytes.len() as u64,
            bytes: segment.len() as u32,
            number,
            chunks,
        });
        bytes.extend(segment);
    }
    if footer {
        bytes.extend(rows.encode());
    }
    let dir = forge.repo().join("packages/ab");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{package}.pkg")), bytes).unwrap();
}

fn segment(kind: SegmentKind, codec: Codec, table: Vec<TableEntry>, payload: &[u8]) -> Vec<u8> {
    let stored_bytes = payload.len() as u32;
    let header = SegmentHeader { kind, codec, number: 0, stored_bytes, payload_check: check_of(payload), table };
    [header.encode(), payload.to_vec()].concat()
}

fn row(raw_bytes: u32) -> TableEntry {
    TableEntry { id: ChunkId([3; 32]), raw_bytes }
}

/// A frame that says nothing of its size and expands to `bytes` zeros.
fn bomb(bytes: usize) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 19).unwrap();
    out.include_contentsize(false).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| std::io::Write::write_all(&mut out, &zeros).unwrap());
    out.finish().unwrap()
}

#[test]
fn frames_that_expand_to_more_than_they_may() {
    // Two gigabytes in some kilobytes, announced as 8 MiB or as one byte; and 16 MiB that are what they say.
    for (table, bytes) in [
        (vec![row(8 << 20), row(8 << 20)], 2 << 30),
        (vec![row(1_000_000)], 2 << 30),
        (vec![row(8 << 20); 2], 16 << 20),
    ] {
        let mut forge = Forge::new();
        let frame = bomb(bytes);
        plant(&forge, PackageKind::Data, &[segment(SegmentKind::Data, Codec::Zstd, table, &frame)], true);
        forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::File), file(2, 0)]);
        // Nothing in the index leads there, but rebuild reads it.
        let (checked, said) = survives(&mut forge);
        assert!(matches!(checked.code, Some(1 | 3)), "{said}");
    }
}

#[test]
fn segments_whose_numbers_lie() {
    let honest = segment(SegmentKind::Data, Codec::Raw, vec![row(5)], b"bytes");
    let lie = |at: usize, value: u32| {
        let mut bytes = honest.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        // With a check that matches what it says now.
        let table = bytes[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 36].to_vec();
        let check = check_of(&[&bytes[..48], &table].concat());
        bytes[48..64].copy_from_slice(&check);
        bytes
    };
    for (at, value) in
        [(12, u32::MAX), (12, 65_536), (16, u32::MAX), (20, u32::MAX), (20, 0), (8, u32::MAX), (96, u32::MAX)]
    {
        for footer in [true, false] {
            let mut forge = Forge::new();
            plant(&forge, PackageKind::Data, &[lie(at, value)], footer);
            forge.close();
            for command in [
                "relict-maint check --read-data",
                "relict-maint rebuild",
                "relict-maint check",
                "relict-maint prune --yes",
            ] {
                run(&forge, command);
            }
            assert_eq!(run(&forge, "relict cat --host honest latest:/honest").code, Some(0));
        }
    }
}

#[test]
fn packages_that_are_anything() {
    let mut forge = Forge::new();
    plant(&forge, PackageKind::Meta, &[], true);
    forge.close();
    let package = forge.repo().join("packages/ab").join(format!("{}.pkg", PackageId([0xab; 16])));
    let sparse = |bytes: u64| {
        let file = fs::File::create(&package).unwrap();
        file.set_len(bytes).unwrap();
    };
    let tail = |footer_bytes: u32| {
        let mut bytes = vec![0; 100_000];
        let mut end = b"RPKE".to_vec();
        end.extend(footer_bytes.to_le_bytes());
        let check = check_of(&end);
        end.extend(check);
        bytes.extend(end);
        fs::write(&package, bytes).unwrap();
    };
    let shapes: [&dyn Fn(); 8] = [
        &|| fs::write(&package, b"").unwrap(),
        &|| fs::write(&package, [0xff; 100]).unwrap(),
        &|| sparse(1 << 42),
        &|| tail(u32::MAX),
        &|| tail(32),
        &|| tail(0),
        &|| drop(fs::remove_file(&package).and_then(|()| fs::create_dir(&package))),
        &|| drop(fs::remove_dir(&package).and_then(|()| std::os::unix::fs::symlink("/etc/passwd", &package))),
    ];
    for shape in shapes {
        shape();
        for command in
            ["relict-maint check --read-data", "relict-maint rebuild", "relict-maint check", "relict-maint stats"]
        {
            run(&forge, command);
        }
        assert_eq!(run(&forge, "relict cat --host honest latest:/honest").code, Some(0));
    }
    // A pipe instead of a package: whoever opens it waits for ever.
    fs::remove_file(&package).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&package).status().unwrap().success());
    for command in ["relict-maint check --read-data", "relict-maint rebuild", "relict-maint check"] {
        run(&forge, command);
    }
    assert_eq!(run(&forge, "relict cat --host honest latest:/honest").code, Some(0));
}

#[test]
fn records_with_huge_texts_and_numbers() {
    let mut forge = Forge::new();
    let root = forge.tree(vec![dir(ROOT_INO, 2)]);
    let long = vec![b'x'; 1 << 20];
    forge.seal(root, |point| {
        point.host = long.clone();
        point.notes = vec![long.clone(); 3];
        point.tags = vec![b"tag".to_vec(); 100_000];
    });
    forge.seal(root, |point| point.source = long.clone());
    forge.seal(root, |point| {
        let most = u64::MAX;
        point.counts.files = most;
        point.counts.dirs = most;
        point.counts.bytes = most;
        point.counts.read_bytes = most;
        point.counts.new_chunks = most;
        point.counts.new_bytes = most;
        point.counts.stored_bytes = most;
        point.counts.errors = most;
        point.sealed = Time { sec: i64::MAX, nsec: 999_999_999 };
    });
    forge.seal(root, |point| point.sealed = Time { sec: i64::MIN, nsec: 0 });
    forge.seal(root, |point| {
        point.paths = vec![b"../..".to_vec(), b"/".to_vec(), Vec::new(), b"\0".to_vec()];
        point.file_systems = vec![long.clone(); 2];
        point.parent = Some(point.id);
        point.next_ino = 2;
    });
    for host in [&b""[..], b".", b"..", b"a/../../b", b"/", b"\0", b"@GMT-2026.11.21-10.00.00", b"%2e%2e", b"latest"] {
        forge.seal(root, |point| {
            point.host = host.to_vec();
            point.source = host.to_vec();
            point.tags = vec![host.to_vec()];
        });
    }
    let (checked, said) = survives(&mut forge);
    // All of them are restore points, with strange names.
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    assert!(checked.text.contains("checked 15 restore points"), "{said}");
}

#[test]
fn two_records_of_one_point() {
    let mut forge = Forge::new();
    let root = forge.tree(vec![dir(ROOT_INO, 2), name(ROOT_INO, b"file", 2, FileKind::File), file(2, 0)]);
    let id = repo_format::PointId([9; 16]);
    forge.seal(root, |point| point.id = id);
    forge.seal(root, |point| (point.id, point.sealed) = (id, Time { sec: THEN.sec + 1, nsec: 0 }));
    let (_, said) = survives(&mut forge);
    assert!(said.contains("09090909"), "{said}");
}

#[test]
fn a_record_that_is_a_chunk_of_something_else() {
    let mut forge = Forge::new();
    let lie: Vec<Pair> = vec![dir(ROOT_INO, 2)];
    let root = forge.tree(lie);
    // The record of another repository, of an impossible version, and none at all, as segments of records.
    for bytes in [b"RPNT\xff\xff".to_vec(), vec![0; 200], vec![0xff; 4096]] {
        forge.chunk(SegmentKind::Point, &bytes);
        forge.chunk(SegmentKind::State, &bytes);
    }
    forge.seal(root, |point| point.repo = repo_format::RepoId([1; 16]));
    let (checked, said) = survives(&mut forge);
    assert_eq!(checked.code, Some(1), "{said}");
}

#[test]
fn key_slots_that_want_the_whole_machine() {
    // The costs are within the format's bounds: 4 GiB and 64 passes. Nothing says that a program must pay them.
    let forge = Forge::new();
    let header = forge.writer().repository().header().clone();
    let mut forge = forge;
    forge.close();
    let encrypted = RepoHeader { encryption: repo_format::Encryption::Aes256Gcm, ..header.clone() };
    fs::write(forge.repo().join("relict.toml"), encrypted.encode()).unwrap();
    let slot = |memory_kib, passes, lanes| KeySlot {
        repo: header.repo,
        kdf: KdfParams { memory_kib, passes, lanes },
        salt: [1; 16],
        nonce: [2; 12],
        wrapped: [3; 48],
        label: b"\x1b[2Jlabel".to_vec(),
    };
    let file = forge.repo().join("keys/0101010101010101.key");
    for (memory_kib, passes, lanes) in [(4 << 20, 1, 1), (4 << 20, 64, 64), (64 << 10, 64, 1)] {
        fs::write(&file, slot(memory_kib, passes, lanes).encode()).unwrap();
        for command in ["relict snapshots", "relict-maint keys list", "relict-maint check", "relict-maint dump key"] {
            let ran = run(&forge, command);
            assert!(
                command.ends_with("list") || command.ends_with("key") || ran.code != Some(0),
                "{command}: {}",
                ran.text
            );
        }
    }
    for bytes in [&b""[..], b"RELICTKY", &[0xff; 5000]] {
        fs::write(&file, bytes).unwrap();
        let ran = run(&forge, "relict snapshots");
        assert!(ran.code == Some(1) && ran.text.contains("no key slot"), "{}", ran.text);
    }
    // A pipe in the place of a slot, and a directory.
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    assert_eq!(run(&forge, "relict snapshots").code, Some(1));
}

#[test]
fn headers_that_are_anything() {
    let mut forge = Forge::new();
    let header = forge.writer().repository().header().clone();
    forge.close();
    let path = forge.repo().join("relict.toml");
    let whole = header.encode();
    let mut lies: Vec<Vec<u8>> =
        vec![Vec::new(), vec![0xff; 100], whole.as_bytes()[..50].to_vec(), b"format = 99\n".to_vec()];
    for (from, to) in [
        ("format = 1", "format = 99999999999999999999"),
        ("chunk_bytes = [16384, 65536, 262144]", "chunk_bytes = [0, 0, 0]"),
        ("chunk_bytes = [16384, 65536, 262144]", "chunk_bytes = [4294967295, 4294967295, 4294967295]"),
        ("store = \"files\"", "store = \"rocksdb\""),
        ("encryption = \"none\"", "encryption = \"aes-256-gcm\""),
        ("repository = \"", "repository = \"\x1b[2J"),
    ] {
        let body = whole.replace(from, to);
        let end = body.find("check = ").unwrap();
        let check: String = check_of(&body.as_bytes()[..end]).iter().map(|byte| format!("{byte:02x}")).collect();
        lies.push(format!("{}check = \"{check}\"\n", &body[..end]).into_bytes());
    }
    for lie in lies {
        fs::write(&path, &lie).unwrap();
        for command in
            ["relict snapshots", "relict-maint check --read-data", "relict-maint rebuild", "relict-maint stats"]
        {
            let ran = run(&forge, command);
            // rebuild with another kind of store is a usage error.
            assert!(
                matches!(ran.code, Some(1..=3)),
                "{command}: {:?} {} for {}",
                ran.code,
                ran.text,
                String::from_utf8_lossy(&lie)
            );
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(run(&forge, "relict snapshots").code, Some(1));
    fs::remove_file(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    assert_eq!(run(&forge, "relict cat --host honest latest:/honest").code, Some(0));
}
