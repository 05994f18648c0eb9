//! The view on a repository in memory: every question, on every kind of inode, and with damage.

use super::memory::{MemoryBacking, TreeBuilder, point};
use super::*;
use repo_format::ROOT_INO;
use std::sync::Mutex;

const CHUNK: usize = 1000;

struct Bench {
    backing: Arc<MemoryBacking>,
    view: View,
    reports: Arc<Mutex<Vec<String>>>,
}

fn chunk(n: u8) -> Vec<u8> {
    (0..CHUNK).map(|at| (at as u8).wrapping_mul(n)).collect()
}

fn view_of(build: impl FnOnce(&mut TreeBuilder, &MemoryBacking)) -> Bench {
    let backing = Arc::new(MemoryBacking::default());
    let mut tree = TreeBuilder::new();
    build(&mut tree, &backing);
    tree.publish(&backing, &point(1, 0, "h", "s", &[])).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&reports);
    let owner = Owner { uid: 7, gid: 8 };
    let view = View::new(backing.clone(), owner, move |damage| said.lock().unwrap().push(damage.to_string())).unwrap();
    Bench { backing, view, reports }
}

fn find(view: &View, path: &str) -> Ino {
    let step = |at: Ino, name: &str| view.lookup(at, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{path}")).ino;
    path.split('/').filter(|name| !name.is_empty()).fold(Ino::ROOT, step)
}

fn in_point(view: &View, path: &str) -> Ino {
    find(view, &format!("snapshots/1970-01-01T00-00-00Z/{path}"))
}

/// Lists in calls of `at_once` entries.
fn list(view: &View, ino: Ino, at_once: usize) -> Vec<(String, Ino, u64)> {
    let mut out: Vec<(String, Ino, u64)> = Vec::new();
    loop {
        let before = out.len();
        let offset = out.last().map_or(0, |last| last.2);
        let mut sink = |entry: &DirEntry<'_>, _: Option<&Attr>| {
            let full = out.len() == before + at_once;
            if !full {
                out.push((String::from_utf8_lossy(entry.name).into_owned(), entry.ino, entry.next));
            }
            full
        };
        view.readdir(ino, offset, &mut sink).unwrap();
        if out.len() == before {
            return out;
        }
    }
}

fn bytes(view: &View, ino: Ino, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in view.read(ino, offset, len).unwrap().pieces {
        match piece.data() {
            Some(data) => out.extend_from_slice(data),
            None => out.resize(out.len() + piece.len() as usize, 0),
        }
    }
    out
}

#[test]
fn directories_are_listed_alike_however_they_are_asked_for() {
    let names: Vec<String> = (0..3000).map(|n| format!("file-{n:05}")).collect();
    let bench = view_of(|tree, backing| {
        tree.dir("d");
        tree.dir("d/sub");
        names.iter().for_each(|name| tree.file(backing, &format!("d/{name}"), b"x"));
        tree.dir("e");
    });
    let view = &bench.view;
    let dir = in_point(view, "d");
    let all = list(view, dir, 10_000);
    let mut expected = vec![".", ".."];
    expected.extend(names.iter().map(String::as_str));
    expected.push("sub");
    assert_eq!(all.iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!((all[0].1, all[1].1), (dir, in_point(view, "")));
    for at_once in [1, 2, 7, 195, 3001] {
        assert_eq!(list(view, dir, at_once), all, "{at_once} at once");
    }
    for entry in all.iter().skip(2).step_by(500) {
        assert_eq!(in_point(view, &format!("d/{}", entry.0)), entry.1);
    }
    let root = list(view, in_point(view, ""), 1);
    assert_eq!(root[1].1, find(view, "snapshots"));
    let mut with_attr = 0;
    let mut sink = |entry: &DirEntry<'_>, attr: Option<&Attr>| {
        with_attr += usize::from(attr.is_some_and(|attr| attr.ino == entry.ino && attr.kind == entry.kind));
        false
    };
    view.readdir_plus(dir, 0, &mut sink).unwrap();
    assert_eq!(with_attr, 3001);
}

#[test]
fn a_list_of_points_can_change_while_it_is_listed() {
    let bench = view_of(|_, _| ());
    for id in 2..6 {
        bench.backing.add_point(point(id, i64::from(id) * 60, "h", "s", &[]));
    }
    let view = &bench.view;
    assert!(!view.refresh(Time { sec: 77, nsec: 0 }).unwrap().is_empty());
    assert!(view.refresh(Time { sec: 78, nsec: 0 }).unwrap().is_empty());
    assert_eq!(view.points(), 5);
    let snapshots = find(view, "snapshots");
    let before = list(view, snapshots, 100);
    let half = before[4].2;
    bench.backing.remove_point(&point(3, 0, "", "", &[]).id);
    bench.backing.add_point(point(9, 30, "h", "s", &[]));
    view.refresh(Time { sec: 79, nsec: 0 }).unwrap();
    let mut rest = Vec::new();
    let mut sink = |entry: &DirEntry<'_>, _: Option<&Attr>| {
        rest.push(String::from_utf8_lossy(entry.name).into_owned());
        false
    };
    view.readdir(snapshots, half, &mut sink).unwrap();
    let expected = ["1970-01-01T00-04-00Z", "1970-01-01T00-05-00Z", "1970-01-01T00-00-30Z"];
    assert_eq!(rest, expected, "from {before:?}");
    let attr = view.getattr(snapshots).unwrap();
    assert_eq!((attr.mtime.sec, attr.nlink, attr.perm, attr.uid, attr.gid), (79, 2 + 5, 0o555, 7, 8));
    assert_eq!(view.readlink(find(view, "latest")).unwrap(), b"snapshots/1970-01-01T00-05-00Z");
    assert!(view.life(snapshots).is_none() && view.life(in_point(view, "")).is_some());
}

#[test]
fn attributes_of_every_kind() {
    let bench = view_of(|tree, backing| {
        tree.dir("d");
        tree.file(backing, "f", b"12345");
        tree.hard_link("d/g", "f");
        tree.symlink("l", "some/where");
        tree.special("c", 0o020_600, Some((1, 3)));
        tree.special("b", 0o060_660, Some((259, 300)));
        tree.special("p", 0o010_644, None);
        tree.edit("f", |inode| (inode.mode, inode.uid, inode.gid) = (0o104_755, 1, 2));
    });
    let attr = |path: &str| bench.view.getattr(in_point(&bench.view, path)).unwrap();
    let f = attr("f");
    assert_eq!((f.kind, f.perm, f.uid, f.gid, f.nlink, f.size, f.blocks), (FileKind::File, 0o4755, 1, 2, 2, 5, 8));
    assert_eq!((attr("d/g"), attr("d").nlink, attr("").nlink), (f, 2, 3));
    assert_eq!((f.mtime.nsec, f.ctime.sec - f.mtime.sec), (123_456_789, 1));
    assert_eq!((attr("l").kind, attr("l").size), (FileKind::Symlink, 10));
    assert_eq!(bench.view.readlink(in_point(&bench.view, "l")).unwrap(), b"some/where");
    assert_eq!((attr("c").rdev, attr("b").rdev, attr("p").kind), (0x103, 0x11_032c, FileKind::Fifo));
    assert_ne!(in_point(&bench.view, "f"), find(&bench.view, "hosts/h/s/1970-01-01T00-00-00Z/f"));
}

#[test]
fn wrong_questions_have_the_right_error() {
    let bench = view_of(|tree, backing| tree.file(backing, "f", b"x"));
    let view = &bench.view;
    let file = in_point(view, "f");
    let number = |error: crate::Error| error.errno();
    assert!(view.lookup(in_point(view, ""), b"nothing").unwrap().is_none());
    assert!(view.lookup(Ino::ROOT, b"nothing").unwrap().is_none());
    assert!(view.lookup(Ino::ROOT, b"\xff").unwrap().is_none());
    assert_eq!(view.getattr(Ino(99)).map_err(number), Err(Some(libc::ESTALE)));
    assert_eq!(view.getattr(Ino::in_slot(5, ROOT_INO).unwrap()).map_err(number), Err(Some(libc::ESTALE)));
    assert_eq!(view.readlink(file).map_err(number), Err(Some(libc::EINVAL)));
    assert_eq!(view.read(Ino::ROOT, 0, 1).map(|_| ()).map_err(number), Err(Some(libc::EISDIR)));
    assert_eq!(view.read(in_point(view, ""), 0, 1).map(|_| ()).map_err(number), Err(Some(libc::EISDIR)));
    assert_eq!(view.lookup(find(view, "latest"), b"x").map(|_| ()).map_err(number), Err(Some(libc::ENOTDIR)));
    assert_eq!(view.damaged(), 0);
}

/// Hole of 500, chunk 1, hole of 1, chunk 2 but its first 100, chunk 3, hole of 6000.
fn sparse(tree: &mut TreeBuilder, backing: &MemoryBacking) -> Vec<u8> {
    let ids = [1, 2, 3].map(|n| backing.put_chunk(&chunk(n)));
    let extents = [(500, ids[0], 0, 1000), (1501, ids[1], 100, 900), (2401, ids[2], 0, 1000)];
    tree.extents("sparse", 9401, &extents);
    let mut content = vec![0; 9401];
    content[500..1500].copy_from_slice(&chunk(1));
    content[1501..2401].copy_from_slice(&chunk(2)[100..]);
    content[2401..3401].copy_from_slice(&chunk(3));
    content
}

#[test]
fn every_range_of_a_sparse_file_reads_right() {
    let mut content = Vec::new();
    let bench = view_of(|tree, backing| {
        tree.file(backing, "before", b"b");
        content = sparse(tree, backing);
        tree.file(backing, "after", b"a");
    });
    let file = in_point(&bench.view, "sparse");
    for offset in (0..9500).step_by(97).chain([499, 500, 501, 1499, 1500, 1501, 2400, 2401, 3400, 3401]) {
        for len in [0, 1, 2, 300, 1000, 1001, 4096, 20_000] {
            let expected = content.get(offset..(offset + len).min(content.len())).unwrap_or_default();
            assert_eq!(bytes(&bench.view, file, offset as u64, len as u64), expected, "{offset} {len}");
        }
    }
    let blocks = bench.view.getattr(file).unwrap().blocks;
    assert_eq!((blocks, blocks * 512 < 9401), (8, true));
}

#[test]
fn seeking_finds_data_and_holes() {
    let bench = view_of(|tree, backing| {
        sparse(tree, backing);
        tree.file(backing, "dense", &[7; 300]);
        tree.extents("hole", 1000, &[]);
        tree.file(backing, "empty", b"");
    });
    let rows: [(&str, u64, Option<u64>, Option<u64>); 14] = [
        ("sparse", 0, Some(500), Some(0)),
        ("sparse", 499, Some(500), Some(499)),
        ("sparse", 500, Some(500), Some(1500)),
        ("sparse", 1499, Some(1499), Some(1500)),
        ("sparse", 1500, Some(1501), Some(1500)),
        ("sparse", 1501, Some(1501), Some(3401)),
        ("sparse", 2500, Some(2500), Some(3401)),
        ("sparse", 3401, None, Some(3401)),
        ("sparse", 9400, None, Some(9400)),
        ("sparse", 9401, None, None),
        ("dense", 5, Some(5), Some(300)),
        ("dense", 300, None, None),
        ("hole", 0, None, Some(0)),
        ("empty", 0, None, None),
    ];
    for (path, offset, data, hole) in rows {
        let ino = in_point(&bench.view, path);
        assert_eq!(bench.view.seek(ino, offset, Seek::Data).unwrap(), data, "data from {offset} of {path}");
        assert_eq!(bench.view.seek(ino, offset, Seek::Hole).unwrap(), hole, "hole from {offset} of {path}");
    }
}

#[test]
fn extended_attributes_are_listed_and_found() {
    let bench = view_of(|tree, backing| {
        tree.file(backing, "f", b"x");
        tree.file(backing, "g", b"x");
        tree.xattr("f", "user.b", b"2");
        tree.xattr("f", "security.capability", &[1, 0, 0]);
        tree.xattr("f", "user.empty", b"");
    });
    let (f, g) = (in_point(&bench.view, "f"), in_point(&bench.view, "g"));
    assert_eq!(bench.view.xattr_names(f).unwrap(), b"security.capability\0user.b\0user.empty\0");
    assert_eq!(bench.view.xattr(f, b"user.b").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(bench.view.xattr(f, b"user.empty").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(bench.view.xattr(f, b"user.c").unwrap(), None);
    assert!(bench.view.xattr_names(g).unwrap().is_empty() && bench.view.xattr_names(Ino::ROOT).unwrap().is_empty());
}

#[test]
fn a_lost_chunk_costs_its_range_and_is_said_once() {
    let bench = view_of(|tree, backing| {
        tree.dir("a");
        tree.dir("a/b");
        let ids = [1, 2, 3].map(|n| backing.put_chunk(&chunk(n)));
        tree.extents("a/b/f", 3000, &[(0, ids[0], 0, 1000), (1000, ids[1], 0, 1000), (2000, ids[2], 0, 1000)]);
        backing.lose_chunk(&ids[1]);
    });
    let file = in_point(&bench.view, "a/b/f");
    for _ in 0..3 {
        let pieces = bench.view.read(file, 500, 2000).unwrap().pieces;
        assert_eq!(pieces.iter().map(Piece::len).collect::<Vec<_>>(), [500, 1000, 500]);
        assert!(matches!(pieces[1], Piece::Lost(1000)) && pieces[2].data() == Some(&chunk(3)[..500]));
    }
    assert_eq!(bytes(&bench.view, file, 0, 1000), chunk(1));
    let reports = bench.reports.lock().unwrap();
    assert_eq!((reports.len(), bench.view.damaged()), (1, 1));
    assert!(
        reports[0].starts_with("snapshots/1970-01-01T00-00-00Z/a/b/f: content at byte 1000 cannot be read"),
        "{reports:?}"
    );
}

#[test]
fn a_file_that_is_read_in_order_is_announced_once() {
    let (count, len) = (2000_u64, 16_384_u32);
    let bench = view_of(|tree, backing| {
        let ids: Vec<_> = (0..count).map(|n| backing.put_chunk(&n.to_le_bytes().repeat(len as usize / 8))).collect();
        let extents: Vec<_> = (0..count).map(|n| (n * u64::from(len), ids[n as usize], 0, len)).collect();
        tree.extents("big", count * u64::from(len), &extents);
    });
    let file = in_point(&bench.view, "big");
    let (mut announced, mut read) = (Vec::new(), 0);
    bench.backing.nodes.reset_counts();
    for at in (0..count * u64::from(len)).step_by(1 << 17) {
        let got = bench.view.read(file, at, 1 << 17).unwrap();
        read += got.pieces.iter().map(Piece::len).sum::<u64>();
        announced.extend(got.ahead);
    }
    assert_eq!(read, count * u64::from(len));
    let different: std::collections::HashSet<_> = announced.iter().collect();
    assert_eq!(different.len(), announced.len());
    assert!(announced.len() as u64 > count * 9 / 10, "{} of {count}", announced.len());
    assert!(bench.backing.nodes.reads() < 120, "{} nodes for 250 reads", bench.backing.nodes.reads());
    // Random reads announce nothing.
    let apart = (0..60_u64).map(|n| n * 3_001 * 4096 % (count * u64::from(len)));
    let random: usize = apart.map(|at| bench.view.read(file, at, 4096).unwrap().ahead.len()).sum();
    assert_eq!(random, 0);
}
