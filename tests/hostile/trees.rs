//! Trees that lie: each is a restore point whose nodes, keys or values no honest writer would make, or only the strangest
//! source would.

use super::forge::{Forge, Pair, attributes, dir, extent, file, inode, name, node, target, xattr};
use super::trial::survives;
use repo_format::{Child, ChunkId, Device, Extent, FileKind, Inode, Key, ROOT_INO, SegmentKind, Time, Value};

/// Runs a lie that `check --read-data` must find, by these words; gives all that was said.
fn found(words: &str, lie: impl FnOnce(&mut Forge)) -> String {
    let mut forge = Forge::new();
    lie(&mut forge);
    let (checked, said) = survives(&mut forge);
    assert_eq!(checked.code, Some(1), "check finds nothing: {said}");
    assert!(checked.text.contains(words), "'{words}' is not in what check said: {}", checked.text);
    said
}

/// Runs what is strange but valid: `check` is content.
fn fine(strange: impl FnOnce(&mut Forge)) -> String {
    let mut forge = Forge::new();
    strange(&mut forge);
    let (checked, said) = survives(&mut forge);
    assert_eq!(checked.code, Some(0), "{said}");
    said
}

fn child(key: &[u8], id: ChunkId, entries: u64) -> Pair {
    (key.to_vec(), Child { id, entries }.encode())
}

fn first_key() -> Vec<u8> {
    Key::Inode(ROOT_INO).encode()
}

#[test]
fn a_node_that_names_itself() {
    found("level", |forge| {
        let id = ChunkId([7; 32]);
        let bytes = node(3, &[child(&first_key(), id, 5)]);
        forge.chunk_as(SegmentKind::Node, id, &bytes);
        forge.seal(id, |_| {});
    });
}

#[test]
fn nodes_that_name_each_other() {
    found("level", |forge| {
        let (a, b) = (ChunkId([7; 32]), ChunkId([8; 32]));
        forge.chunk_as(SegmentKind::Node, a, &node(2, &[child(&first_key(), b, 5)]));
        forge.chunk_as(SegmentKind::Node, b, &node(1, &[child(&first_key(), a, 5)]));
        forge.seal(a, |_| {});
    });
}

#[test]
fn levels_that_do_not_fall_by_one() {
    found("level", |forge| {
        let leaf = forge.tree(vec![dir(ROOT_INO, 2)]);
        let root = forge.chunk(SegmentKind::Node, &node(5, &[child(&first_key(), leaf, 1)]));
        forge.seal(root, |_| {});
    });
}

#[test]
fn a_root_that_is_no_node() {
    found("not a tree node", |forge| {
        let root = forge.chunk(SegmentKind::Data, b"these are no entries");
        forge.seal(root, |_| {});
    });
}

#[test]
fn a_root_that_is_not_there() {
    found("not in the index", |forge| forge.seal(ChunkId([9; 32]), |_| {}));
}

#[test]
fn an_empty_tree() {
    found("root directory", |forge| {
        let root = forge.tree(Vec::new());
        forge.seal(root, |_| {});
    });
}

#[test]
fn counts_that_are_giant() {
    // In the children of the root, so that sums run over; and in the node's own header.
    found("entries", |forge| {
        let leaf = forge.tree(vec![dir(ROOT_INO, 2), name(ROOT_INO, b"file", 2, FileKind::File)]);
        let other = forge.tree(vec![file(2, 0)]);
        let inner = [child(&first_key(), leaf, u64::MAX), child(&Key::Inode(2).encode(), other, u64::MAX)];
        let root = forge.chunk(SegmentKind::Node, &node(1, &inner));
        forge.seal(root, |_| {});
        let root = forge.chunk(SegmentKind::Node, &node(2, &[child(&first_key(), root, 3)]));
        forge.seal(root, |_| {});
        let mut bytes = node(0, &[dir(ROOT_INO, 2)]);
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let root = forge.chunk(SegmentKind::Node, &bytes);
        forge.seal(root, |_| {});
    });
}

#[test]
fn lengths_that_lead_out_of_the_node() {
    found("tree node", |forge| {
        for (at, lie) in [(12, u32::MAX), (12, 0), (16, 0xffff_ffff), (16, 17)] {
            let mut bytes = node(0, &[dir(ROOT_INO, 2), file(2, 0)]);
            bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            let root = forge.chunk(SegmentKind::Node, &bytes);
            forge.seal(root, |_| {});
        }
    });
}

#[test]
fn keys_out_of_order_or_twice() {
    found("tree node", |forge| {
        let entries =
            [dir(ROOT_INO, 2), name(ROOT_INO, b"b", 2, FileKind::File), name(ROOT_INO, b"a", 3, FileKind::File)];
        let root = forge.chunk(SegmentKind::Node, &node(0, &entries));
        forge.seal(root, |_| {});
        let entries =
            [dir(ROOT_INO, 2), name(ROOT_INO, b"a", 2, FileKind::File), name(ROOT_INO, b"a", 3, FileKind::File)];
        let root = forge.chunk(SegmentKind::Node, &node(0, &entries));
        forge.seal(root, |_| {});
    });
}

#[test]
fn leaves_that_overlap() {
    found("overlap", |forge| {
        let names = |from: u64| (from..from + 4).map(|n| name(ROOT_INO, format!("n{n}").as_bytes(), 9, FileKind::File));
        let left: Vec<Pair> = std::iter::once(dir(ROOT_INO, 2)).chain(names(0)).collect();
        let right: Vec<Pair> = names(2).collect();
        let inner = [child(&left[0].0, forge.tree(left.clone()), 5), child(&right[0].0, forge.tree(right.clone()), 4)];
        let root = forge.chunk(SegmentKind::Node, &node(1, &inner));
        forge.seal(root, |_| {});
    });
}

#[test]
fn keys_and_values_that_mean_nothing() {
    found("a key is not valid", |forge| {
        let junk = [
            (vec![0xff; 9], b"junk".to_vec()),
            (Vec::new(), b"junk".to_vec()),
            (Key::Inode(5).encode(), b"short".to_vec()),
            (Key::Extent(6, 0).encode(), vec![0xff; 40]),
            (Key::Dirent(ROOT_INO, b"x").encode(), vec![0xff; 9]),
            (Key::Target(7).encode(), Vec::new()),
        ];
        for pair in junk {
            forge.point(vec![
                pair,
                name(ROOT_INO, b"file", 5, FileKind::File),
                name(ROOT_INO, b"g", 6, FileKind::File),
                file(6, 9),
            ]);
        }
    });
}

#[test]
fn names_that_lead_out() {
    let said = found("name", |forge| {
        for lie in [&b".."[..], b".", b"", b"a/b", b"/etc/canary", b"../canary", b"a\0b", b"../../../around/canary"] {
            forge.point(vec![
                name(ROOT_INO, lie, 2, FileKind::File),
                file(2, 3),
                forge.content(2, 0, b"out"),
                name(ROOT_INO, b"file", 3, FileKind::File),
                file(3, 3),
                forge.content(3, 0, b"in!"),
            ]);
        }
        // A directory of such a name, with a file that would go there; a name too long.
        forge.point(vec![
            name(ROOT_INO, b"..", 2, FileKind::Dir),
            dir(2, 2),
            name(2, b"canary", 3, FileKind::File),
            file(3, 0),
        ]);
        forge.point(vec![name(ROOT_INO, &[b'n'; 256], 2, FileKind::File), file(2, 0)]);
    });
    assert!(said.contains("tree key"), "{said}");
}

#[test]
fn links_that_lead_out() {
    // A link as a directory's name, and files below it: what stands there must not be followed.
    found("as what it is not", |forge| {
        let [link, to] = target(2, b"../../..");
        forge.point(vec![
            name(ROOT_INO, b"dir", 2, FileKind::Symlink),
            link.clone(),
            to.clone(),
            name(2, b"canary", 3, FileKind::File),
            file(3, 0),
        ]);
        // The name says directory, the inode says link; and the other way round.
        forge.point(vec![
            name(ROOT_INO, b"dir", 2, FileKind::Dir),
            link,
            to,
            name(2, b"canary", 3, FileKind::File),
            file(3, 0),
        ]);
        forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::Symlink), file(2, 0)]);
        forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::File), dir(2, 2)]);
    });
}

#[test]
fn a_link_and_then_files_behind_its_name() {
    // Restored one after the other into the same target: the first makes a link that leads out, the second a directory.
    fine(|forge| {
        let [link, to] = target(2, b"../../");
        forge.point(vec![name(ROOT_INO, b"dir", 2, FileKind::Symlink), link, to]);
        forge.point(vec![
            dir(ROOT_INO, 3),
            name(ROOT_INO, b"dir", 2, FileKind::Dir),
            dir(2, 2),
            name(2, b"canary", 3, FileKind::File),
            file(3, 7),
            forge.content(3, 0, b"silence"),
        ]);
    });
}

#[test]
fn directories_in_a_circle() {
    found("has two names", |forge| {
        forge.point(vec![name(ROOT_INO, b"self", ROOT_INO, FileKind::Dir)]);
        forge.point(vec![
            dir(ROOT_INO, 3),
            name(ROOT_INO, b"a", 2, FileKind::Dir),
            dir(2, 3),
            name(2, b"b", 3, FileKind::Dir),
            dir(3, 3),
            name(3, b"up", 2, FileKind::Dir),
        ]);
        forge.point(vec![
            dir(ROOT_INO, 4),
            name(ROOT_INO, b"dir", 2, FileKind::Dir),
            name(ROOT_INO, b"two", 2, FileKind::Dir),
            dir(2, 2),
            name(2, b"file", 3, FileKind::File),
            file(3, 0),
        ]);
    });
}

#[test]
fn a_lattice_of_directories_with_a_million_paths() {
    found("has two names", |forge| {
        // Each of 40 directories has the next one twice: 2^40 paths.
        let mut entries = vec![dir(ROOT_INO, 4)];
        for ino in 1..=40 {
            entries.push(name(ino, b"a", ino + 1, FileKind::Dir));
            entries.push(name(ino, b"b", ino + 1, FileKind::Dir));
            entries.push(dir(ino + 1, 4));
        }
        forge.point(entries);
    });
}

#[test]
fn names_of_nothing_and_inodes_without_names() {
    found("it is named but has no attributes", |forge| {
        forge.point(vec![
            name(ROOT_INO, b"file", 77, FileKind::File),
            name(ROOT_INO, b"dir", 78, FileKind::Dir),
            file(90, 0),
            name(91, b"lost", 92, FileKind::File),
        ]);
        // A root directory that is a file, and none at all.
        forge.point(vec![file(ROOT_INO, 0)]);
        let root = forge.tree(vec![name(ROOT_INO, b"file", 2, FileKind::File), file(2, 0)]);
        forge.seal(root, |_| {});
    });
}

#[test]
fn extents_that_overlap_or_reach_out() {
    found("extent", |forge| {
        let chunk = forge.chunk(SegmentKind::Data, &[7; 5000]);
        let piece = |skip, len| Extent { skip, len, chunk };
        let lies: [(u64, Vec<Pair>); 6] = [
            (9000, vec![extent(2, 0, piece(0, 5000)), extent(2, 4000, piece(0, 5000))]),
            (100, vec![extent(2, 0, piece(0, 5000))]),
            (5000, vec![extent(2, 0, piece(4999, 5000))]),
            (u64::MAX >> 1, vec![extent(2, (u64::MAX >> 1) - 1, piece(0, 5000))]),
            (5000, vec![extent(2, 0, piece(0, 4000))]),
            (8_388_608, vec![extent(2, 0, piece(0, 8_388_608))]),
        ];
        for (size, extents) in lies {
            let mut entries = vec![name(ROOT_INO, b"file", 2, FileKind::File), file(2, size)];
            entries.extend(extents);
            forge.point(entries);
        }
    });
}

#[test]
fn sizes_beyond_all_disks() {
    fine(|forge| {
        *forge = Forge::in_memory();
        // Not under the name that is written out.
        let most = u64::MAX >> 1;
        let sparse = |size, data_bytes| attributes(2, Inode { size, data_bytes, ..inode(0o100_644) });
        forge.point(vec![name(ROOT_INO, b"hole", 2, FileKind::File), sparse(most, 0)]);
        let many = (2..9).flat_map(|ino| {
            let inode = Inode { size: most, ..inode(0o100_644) };
            [name(ROOT_INO, format!("f{ino}").as_bytes(), ino, FileKind::File), attributes(ino, inode)]
        });
        forge.point(many.collect());
        forge.point(vec![
            name(ROOT_INO, b"hole", 2, FileKind::File),
            sparse(most, 3),
            extent(2, most - 3, Extent { skip: 0, len: 3, chunk: forge.chunk(SegmentKind::Data, b"end") }),
        ]);
    });
}

#[test]
fn sizes_that_the_content_does_not_have() {
    found("extents", |forge| {
        let lie = |size, data_bytes| attributes(2, Inode { size, data_bytes, ..inode(0o100_644) });
        for inode in [lie(u64::MAX >> 1, u64::MAX >> 1), lie(u64::MAX, u64::MAX), lie(10, u64::MAX), lie(u64::MAX, 1)] {
            forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::File), inode, forge.content(2, 0, b"content")]);
        }
    });
}

#[test]
fn numbers_of_links_that_are_wrong() {
    found("it counts 4294967295 links", |forge| {
        for nlink in [0, 2, u32::MAX] {
            forge.point(vec![
                name(ROOT_INO, b"file", 2, FileKind::File),
                attributes(2, Inode { nlink, size: 3, data_bytes: 3, ..inode(0o100_644) }),
                forge.content(2, 0, b"one"),
                name(ROOT_INO, b"dir", 3, FileKind::Dir),
                dir(3, nlink),
                name(3, b"file", 2, FileKind::File),
                name(3, b"again", 2, FileKind::File),
            ]);
        }
    });
}

#[test]
fn times_owners_and_devices_at_their_ends() {
    fine(|forge| {
        let mut entries = vec![dir(ROOT_INO, 2)];
        for (ino, sec) in [(2, i64::MIN), (3, i64::MAX), (4, -1), (5, 0), (6, 253_402_300_800), (7, -62_167_219_201)] {
            let time = Time { sec, nsec: 999_999_999 };
            entries.push(name(ROOT_INO, format!("t{ino}").as_bytes(), ino, FileKind::File));
            entries.push(attributes(ino, Inode { mtime: time, ctime: time, btime: Some(time), ..inode(0o100_644) }));
        }
        let big = Some(Device { major: u32::MAX, minor: u32::MAX });
        entries.push(name(ROOT_INO, b"device", 8, FileKind::Char));
        entries.push(attributes(8, Inode { rdev: big, uid: u32::MAX, gid: u32::MAX, ..inode(0o020_666) }));
        entries.push(name(ROOT_INO, b"owned", 9, FileKind::File));
        entries.push(attributes(9, Inode { uid: u32::MAX, gid: u32::MAX, flags: u32::MAX, ..inode(0o107_777) }));
        forge.point(entries);
        let record = |forge: &mut Forge, sec| {
            let root = forge.tree(vec![dir(ROOT_INO, 2)]);
            forge.seal(root, |point| point.time = Time { sec, nsec: 0 });
        };
        record(forge, i64::MIN);
        record(forge, i64::MAX);
        record(forge, 0);
    });
}

#[test]
fn attributes_of_huge_size() {
    found("an attribute is too long", |forge| {
        let value = vec![b'x'; 65_536];
        let mut entries = vec![name(ROOT_INO, b"file", 2, FileKind::File), file(2, 0)];
        // 6.5 MB of attributes for one file, in one node; then one that is too long, and names that are none.
        entries.extend((0..100).map(|n| xattr(2, format!("user.{n:03}").as_bytes(), &value)));
        entries.extend((0..200).map(|n| xattr(ROOT_INO, format!("user.{n:0250}").as_bytes(), b"v")));
        forge.point(entries);
        forge.point(vec![
            name(ROOT_INO, b"file", 2, FileKind::File),
            file(2, 0),
            xattr(2, b"user.long", &vec![b'x'; 70_000]),
        ]);
        for lie in [&b""[..], b"user.\0", b"nonsense", b"system.posix_acl_access", b"security.capability"] {
            forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::File), file(2, 0), xattr(2, lie, b"value")]);
        }
    });
}

#[test]
fn targets_that_are_impossible() {
    found("symbolic link 2: symlink target is not valid", |forge| {
        for to in [&b""[..], &[b'x'; 5000], b"a\0b"] {
            let mut entries = vec![name(ROOT_INO, b"file", 2, FileKind::Symlink)];
            entries.extend(target(2, to));
            forge.point(entries);
        }
        let [link, _] = target(2, b"x");
        forge.point(vec![name(ROOT_INO, b"file", 2, FileKind::Symlink), link]);
        // A target of what is no link, content of what is no file, names in what is no directory.
        forge.point(vec![
            name(ROOT_INO, b"file", 2, FileKind::File),
            file(2, 0),
            (Key::Target(2).encode(), Value::Target(b"elsewhere").encode()),
            forge.content(ROOT_INO, 0, b"content of a directory"),
            name(2, b"below a file", 3, FileKind::File),
            file(3, 0),
        ]);
    });
}

#[test]
fn a_chunk_that_holds_other_bytes() {
    found("file", |forge| {
        let chunk = ChunkId([5; 32]);
        forge.chunk_as(SegmentKind::Data, chunk, b"other bytes");
        forge.point(vec![
            name(ROOT_INO, b"file", 2, FileKind::File),
            file(2, 11),
            extent(2, 0, Extent { skip: 0, len: 11, chunk }),
        ]);
    });
}

#[test]
fn a_directory_two_thousand_deep() {
    found("borders", |forge| {
        let mut entries = vec![dir(ROOT_INO, 3)];
        for ino in 1..2_200 {
            entries.push(name(ino, b"d", ino + 1, FileKind::Dir));
            entries.push(dir(ino + 1, if ino == 2_199 { 2 } else { 3 }));
        }
        forge.point(entries);
    });
}
