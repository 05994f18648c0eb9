//! Directories that are computed, as somebody walks them: over a repository in memory, with its numbers, its
//! attributes, and what becomes of them when points come and go.

use crate::view::memory::{MemoryBacking, TreeBuilder, point};
use crate::view::{Attr, DirEntry, Ino, Life, Only, Owner, View};
use crate::{ErrorKind, Result};
use repo_format::{FileKind, PointId, PointRecord, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Bench {
    backing: Arc<MemoryBacking>,
    view: View,
}

/// 1970-01-01, one point a day: `f` changes twice, `d/old` goes, `d/new` comes, `secret/` is nobody's.
fn source(backing: &MemoryBacking, day: u8) -> TreeBuilder {
    let mut tree = TreeBuilder::new();
    tree.file(backing, "f", format!("content {}", day.min(2)).as_bytes());
    tree.dir("d");
    tree.dir("secret");
    tree.edit("secret", |inode| (inode.mode, inode.uid) = (0o040_700, 33));
    tree.xattr("secret", "system.posix_acl_access", b"acl");
    tree.file(backing, "secret/key", b"key");
    tree.file(backing, "d/same", b"same");
    if day < 2 {
        tree.file(backing, "d/old", format!("old {day}").as_bytes());
        tree.dir("gone");
        tree.file(backing, "gone/x", b"x");
        tree.file(backing, "secret/lost", b"lost");
    } else {
        tree.file(backing, "d/new", b"new");
    }
    tree
}

impl Bench {
    fn new() -> Self {
        let backing = Arc::new(MemoryBacking::default());
        for day in 0..4_u8 {
            source(&backing, day).publish(&backing, &record(day)).unwrap();
        }
        TreeBuilder::new().publish(&backing, &point(9, 30, "other", "/x", &[])).unwrap();
        let view = View::new(backing.clone(), Owner { uid: 7, gid: 8 }, |damage| panic!("{damage}")).unwrap();
        Self { backing, view }
    }

    fn lookup(&self, path: &str) -> Option<Attr> {
        let mut at = self.view.getattr(Ino::ROOT).unwrap();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.view.lookup(at.ino, name.as_bytes()).unwrap()?;
        }
        Some(at)
    }

    fn attr(&self, path: &str) -> Attr {
        self.lookup(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn names(&self, path: &str) -> Vec<String> {
        list(&self.view, self.attr(path).ino).into_keys().collect()
    }

    fn text(&self, path: &str) -> String {
        let read = self.view.read(self.attr(path).ino, 0, 1 << 20).unwrap();
        String::from_utf8(read.pieces.iter().flat_map(|piece| piece.data().unwrap().to_vec()).collect()).unwrap()
    }

    /// Everything below a directory; each name is listed with the number and type that looking it up gives.
    fn walk(&self, path: &str) -> Vec<String> {
        let mut out = Vec::new();
        for (name, (ino, kind)) in list(&self.view, self.attr(path).ino) {
            let below = format!("{path}/{name}");
            let attr = self.attr(&below);
            assert_eq!((attr.ino, attr.kind), (ino, kind), "{below}");
            out.push(if kind == FileKind::Dir { format!("{name}/") } else { name.clone() });
            if kind == FileKind::Dir {
                out.extend(self.walk(&below).into_iter().map(|rest| format!("{name}/{rest}")));
            }
        }
        out
    }
}

fn record(day: u8) -> PointRecord {
    (*point(day, i64::from(day) * 86_400, "h", "s", &[])).clone()
}

fn list(view: &View, dir: Ino) -> BTreeMap<String, (Ino, FileKind)> {
    let mut out = BTreeMap::new();
    for plus in [false, true] {
        let mut sink = |entry: &DirEntry<'_>, attr: Option<&Attr>| {
            let known = out.insert(String::from_utf8_lossy(entry.name).into_owned(), (entry.ino, entry.kind));
            assert!(!plus || known == Some((entry.ino, entry.kind)));
            if plus && !entry.name.starts_with(b".") {
                assert_eq!(attr.map(|attr| (attr.ino, attr.kind)), Some((entry.ino, entry.kind)));
            }
            false
        };
        if plus { view.readdir_plus(dir, 0, &mut sink) } else { view.readdir(dir, 0, &mut sink) }.unwrap();
    }
    out.retain(|name, _| name != "." && name != "..");
    out
}

#[test]
fn points_are_found_by_time() {
    let bench = Bench::new();
    assert_eq!(bench.names("at"), Vec::<String>::new());
    assert_eq!(bench.names("at/1970-01-01"), ["h", "other"]);
    assert_eq!(
        (bench.names("at/1970-01-01/h"), bench.names("at/1970-01-01/other")),
        (vec!["s".into()], vec!["+x".into()])
    );
    assert_eq!(bench.text("at/1970-01-01/h/s/f"), "content 0");
    assert_eq!(bench.text("at/1970-01-02T23-59/h/s/f"), "content 1");
    for newest in ["now", "today", "yesterday", "-7d", "-36h", "1970", "1971-01", "latest"] {
        assert_eq!(bench.lookup(&format!("at/{newest}/h/s/d/new")).is_some(), newest != "1970", "{newest}");
    }
    for nothing in ["1969-12", "tomorrow", "-99999d", "", "2026-13-01"] {
        assert!(bench.view.lookup(bench.attr("at").ino, nothing.as_bytes()).unwrap().is_none(), "{nothing}");
    }
    assert!(bench.lookup("at/1970-01-01/h/none").is_none() && bench.lookup("at/1970-01-01/none").is_none());
    // The same point under three names are three directories, each with itself below.
    let inos: Vec<Ino> = ["at/1970-01-01", "at/1970-01-01T12", "hosts"]
        .map(|at| bench.attr(&format!("{at}/h/s{}", if at == "hosts" { "/1970-01-01T00-00-00Z" } else { "" })).ino)
        .into();
    assert!(inos[0] != inos[1] && inos[1] != inos[2] && inos.iter().all(|ino| ino.is_point_root()));
    assert_eq!(bench.walk("at/1970-01-01/h/s"), bench.walk("hosts/h/s/1970-01-01T00-00-00Z"));
}

#[test]
fn found_points_follow_the_repository() {
    let bench = Bench::new();
    let before = bench.attr("at/now/h").ino;
    assert_eq!(bench.view.name_life(bench.attr("at/now/h").ino, b"s", Some(bench.attr("at/now/h/s").ino)), None);
    assert_eq!(bench.view.name_life(bench.attr("at").ino, b"now", None), None);
    let tree = bench.attr("at/now/h/s").ino;
    assert_eq!(bench.view.name_life(tree, b"f", Some(bench.attr("at/now/h/s/f").ino)), Some(Life(365 * 24 * 3600)));
    bench.backing.remove_point(&PointId([3; 16]));
    bench.backing.remove_point(&PointId([2; 16]));
    bench.view.refresh(Time { sec: 50, nsec: 0 }).unwrap();
    assert_eq!(bench.text("at/now/h/s/f"), "content 1");
    assert_ne!(bench.attr("at/now/h").ino, before);
    // Whoever stands in the old directory stays where he is.
    assert_eq!(bench.view.lookup(before, b"s").unwrap().unwrap().ino, tree);
    assert_eq!(list(&bench.view, bench.attr("at/now/h/s/d").ino).len(), 2);
}

#[test]
fn previous_versions_are_found_in_every_directory() {
    let bench = Bench::new();
    let (third, first) = ("hosts/h/s/1970-01-04T00-00-00Z", "@GMT-1970.01.01-00.00.00");
    for (path, expected) in [
        (format!("hosts/h/s/{first}"), "content 0"),
        (format!("{third}/{first}"), "content 0"),
        ("hosts/h/s/@GMT-1970.01.02-10.20.30".to_owned(), "content 1"),
        (format!("ids/{}/{first}", PointId([3; 16])), "content 0"),
        (format!("snapshots/1970-01-04T00-00-00Z/{first}"), "content 0"),
    ] {
        assert_eq!(bench.text(&format!("{path}/f")), expected, "{path}");
    }
    assert_eq!(bench.walk(&format!("{third}/d/{first}")), ["old", "same"]);
    assert_eq!(bench.walk(&format!("{third}/d/{first}/@GMT-1970.01.03-00.00.00")), ["new", "same"]);
    let (dir, version) = (bench.attr(&format!("{third}/d")).ino, bench.attr(&format!("{third}/d/{first}")).ino);
    assert_eq!(bench.view.name_life(dir, first.as_bytes(), Some(version)), None);
    assert_eq!(bench.view.name_life(dir, first.as_bytes(), None), None);
    assert!(bench.view.name_life(dir, b"none", None).is_some());
    for nothing in ["@GMT-1969.12.31-00.00.00", "@GMT-", "@GMT-1970.01.01", "@GMT-1970-01-01T00-00-00"] {
        for dir in ["hosts/h/s", third, "hosts", "snapshots", ""] {
            assert!(bench.lookup(&format!("{dir}/{nothing}")).is_none(), "{dir}/{nothing}");
        }
    }
    // What was no directory then.
    assert!(bench.lookup("hosts/h/s/1970-01-01T00-00-00Z/gone/@GMT-1970.01.04-00.00.00").is_none());
    assert!(!bench.names("hosts/h/s").iter().any(|name| name.starts_with('@')));
}

#[test]
fn a_directory_is_found_in_older_points_by_its_path_alone() {
    let bench = Bench::new();
    // As the kernel asks after it forgot everything: by number, with nothing looked up before.
    let fresh = View::new(bench.backing.clone(), Owner::default(), |damage| panic!("{damage}")).unwrap();
    let dir = bench.attr("hosts/h/s/1970-01-04T00-00-00Z/d").ino;
    let version = fresh.lookup(dir, b"@GMT-1970.01.01-00.00.00").unwrap().unwrap();
    assert_eq!(list(&fresh, version.ino).into_keys().collect::<Vec<_>>(), ["old", "same"]);
}

#[test]
fn versions_are_the_different_contents() {
    let bench = Bench::new();
    let root = "versions/h/s";
    assert_eq!(bench.names("versions"), ["h", "other"]);
    assert_eq!(bench.names(root), ["d", "f", "gone", "secret"]);
    assert_eq!(bench.names("versions/h/s/d"), ["new", "old", "same"]);
    let expected = ["1970-01-01T00-00-00Z", "1970-01-02T00-00-00Z", "1970-01-03T00-00-00Z"];
    assert_eq!(bench.names("versions/h/s/f"), expected);
    for (name, content) in expected.iter().zip(["content 0", "content 1", "content 2"]) {
        assert_eq!(bench.text(&format!("{root}/f/{name}")), content);
        assert_eq!(bench.attr(&format!("{root}/f/{name}")).ino, bench.attr(&format!("hosts/h/s/{name}/f")).ino);
    }
    assert_eq!(bench.names("versions/h/s/d/same"), expected[..1]);
    assert_eq!(bench.names("versions/h/s/gone/x"), expected[..1]);
    assert!(
        bench.lookup("versions/h/s/f/1970-01-04T00-00-00Z").is_none() && bench.lookup("versions/h/s/none").is_none()
    );
    assert!(
        bench.lookup("versions/h/none").is_none() && bench.lookup("versions/h/s/f/1970-01-01T00-00-00Z/x").is_none()
    );
    bench.walk(root);
}

#[test]
fn gone_things_are_shown_as_they_were_last() {
    let bench = Bench::new();
    assert_eq!(bench.walk("deleted/h/s"), ["d/", "d/old", "gone/", "gone/x", "secret/", "secret/lost"]);
    assert_eq!(bench.text("deleted/h/s/d/old"), "old 1");
    assert_eq!(bench.attr("deleted/h/s/gone/x").ino, bench.attr("hosts/h/s/1970-01-02T00-00-00Z/gone/x").ino);
    for there in ["f", "d/same", "d/new", "d/none"] {
        assert!(bench.lookup(&format!("deleted/h/s/{there}")).is_none(), "{there}");
    }
    assert_eq!(bench.walk("deleted/other/+x"), Vec::<String>::new());
    // Nothing is gone any more when it is back, or when the points that had it are forgotten.
    let before = bench.attr("deleted/h/s").mtime;
    (0..2).for_each(|day| bench.backing.remove_point(&PointId([day; 16])));
    bench.view.refresh(Time { sec: 50, nsec: 0 }).unwrap();
    assert_eq!(bench.walk("deleted/h/s"), Vec::<String>::new());
    assert_ne!(bench.attr("deleted/h/s").mtime, before);
}

#[test]
fn differences_are_three_trees() {
    let bench = Bench::new();
    for pair in ["1970-01-02..1970-01-03", "latest~2..latest", "02020202..0303", "-7d~2..now"] {
        let pair = if pair.starts_with("0202") {
            format!("{}..{}", PointId([1; 16]), PointId([3; 16]))
        } else {
            pair.to_owned()
        };
        let side = |side: &str| bench.walk(&format!("diff/{pair}/{side}"));
        assert_eq!(side("added"), ["d/", "d/new"], "{pair}");
        assert_eq!(side("removed"), ["d/", "d/old", "gone/", "gone/x", "secret/", "secret/lost"], "{pair}");
        // The files behind a removed one have other numbers and times in this builder: they changed.
        assert_eq!(bench.text(&format!("diff/{pair}/changed/f")), "content 2");
        assert_eq!(bench.text(&format!("diff/{pair}/removed/d/old")), "old 1");
    }
    assert_eq!(bench.names("diff"), Vec::<String>::new());
    assert_eq!(bench.names("diff/1970-01-03..1970-01-04"), ["added", "changed", "removed"]);
    for same in ["added", "removed", "changed"] {
        assert_eq!(bench.walk(&format!("diff/1970-01-03..1970-01-04/{same}")), Vec::<String>::new(), "{same}");
    }
    for nothing in ["1970-01-01", "latest..", "1960-01..latest", "x..y", "latest~9..latest"] {
        assert!(bench.view.lookup(bench.attr("diff").ino, nothing.as_bytes()).unwrap().is_none(), "{nothing}");
    }
}

#[test]
fn who_may_enter_stays_who_might_enter() {
    let bench = Bench::new();
    for path in
        ["versions/h/s/secret", "deleted/h/s/secret", "diff/1970-01-02..latest/removed/secret", "at/now/h/s/secret"]
    {
        let attr = bench.attr(path);
        assert_eq!((attr.kind, attr.perm, attr.uid), (FileKind::Dir, 0o700, 33), "{path}");
        assert_eq!(
            bench.view.xattr(attr.ino, b"system.posix_acl_access").unwrap().as_deref(),
            Some(&b"acl"[..]),
            "{path}"
        );
        assert_eq!(bench.view.xattr_names(attr.ino).unwrap(), b"system.posix_acl_access\0", "{path}");
    }
    let attr = bench.attr("versions/h/s/f");
    assert_eq!((attr.perm, attr.uid, attr.nlink), (0o555, 7, 2));
}

#[test]
fn lists_are_read_in_pieces_and_finished_as_they_were_begun() {
    let bench = Bench::new();
    let dir = bench.attr("deleted/h/s").ino;
    let read = |offset: u64, most: usize| {
        let mut out = Vec::new();
        let mut sink = |entry: &DirEntry<'_>, _: Option<&Attr>| {
            let full = out.len() == most;
            if !full {
                out.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
            }
            full
        };
        bench.view.readdir(dir, offset, &mut sink).unwrap();
        out
    };
    let all = read(0, 100);
    for at_once in 1..6 {
        let mut pieces: Vec<(String, u64)> = Vec::new();
        while let piece @ [_, ..] = read(pieces.last().map_or(0, |last| last.1), at_once).as_slice() {
            pieces.extend_from_slice(piece);
        }
        assert_eq!(pieces, all, "{at_once} at once");
    }
    let half = all[2].1;
    bench.backing.remove_point(&PointId([0; 16]));
    bench.backing.remove_point(&PointId([1; 16]));
    bench.view.refresh(Time { sec: 50, nsec: 0 }).unwrap();
    assert_eq!(read(half, 100), all[3..]);
    assert_eq!(read(0, 100).len(), 2);
}

#[test]
fn numbers_are_the_same_in_every_mount() {
    let (a, b) = (Bench::new(), Bench::new());
    for path in [
        "versions/h/s/d",
        "deleted/h/s/gone",
        "diff/1970-01-02..latest/removed/d",
        "at/1970-01-02/h/s/d/same",
        "hosts/h/s/@GMT-1970.01.02-00.00.00/d",
    ] {
        assert_eq!(a.attr(path), b.attr(path), "{path}");
    }
    // A number whose directory is not known is found again by its path.
    let ino = a.attr("versions/h/s/d").ino;
    let fresh = Bench::new();
    assert_eq!(fresh.view.getattr(ino).unwrap_err().errno(), Some(libc::ESTALE));
    assert_eq!(fresh.attr("versions/h/s/d").ino, ino);
    assert!(fresh.view.getattr(ino).is_ok());
}

fn only(text: &str) -> Result<Bench> {
    let Bench { backing, view } = Bench::new();
    let view = view.with_root(&Only::parse(text.as_bytes())?)?;
    Ok(Bench { backing, view })
}

#[test]
fn one_source_can_be_the_root() {
    for name in ["h/s", "other//x", "other/+x"] {
        let bench = only(name).unwrap();
        assert!(bench.names("").contains(&"latest".to_owned()), "{name}");
    }
    let bench = only("h/s").unwrap();
    let root = bench.view.getattr(Ino::ROOT).unwrap();
    assert_eq!((root.ino, root.nlink, bench.names("").len()), (Ino::ROOT, 6, 5));
    assert_eq!(bench.text("1970-01-01T00-00-00Z/f"), "content 0");
    assert_eq!(bench.text("@GMT-1970.01.01-00.00.00/f"), "content 0");
    assert_eq!(bench.view.parent(Ino::ROOT), Ino::ROOT);
    assert_eq!(bench.view.lookup(bench.attr("1970-01-01T00-00-00Z").ino, b"..").unwrap().unwrap().ino, Ino::ROOT);
    (0..4).for_each(|day| bench.backing.remove_point(&PointId([day; 16])));
    let changed = bench.view.refresh(Time { sec: 50, nsec: 0 }).unwrap();
    assert!(changed.iter().any(|dir| dir.ino == Ino::ROOT && dir.stale_names.len() == 5), "{changed:?}");
    assert_eq!(bench.names(""), Vec::<String>::new());
    TreeBuilder::new().publish(&bench.backing, &point(7, 10, "h", "s", &[])).unwrap();
    bench.view.refresh(Time { sec: 51, nsec: 0 }).unwrap();
    assert_eq!(bench.names("").len(), 2);
}

#[test]
fn one_point_can_be_the_root() {
    let bench = only("h/s@1970-01-02").unwrap();
    assert_eq!(bench.names(""), ["d", "f", "gone", "secret"]);
    assert_eq!(
        (bench.text("f"), bench.attr("").ino, bench.attr("").kind),
        ("content 1".to_owned(), Ino::ROOT, FileKind::Dir)
    );
    assert_eq!(bench.view.lookup(bench.attr("d").ino, b"..").unwrap().unwrap().ino, Ino::ROOT);
    assert_eq!(bench.view.life(Ino::ROOT), Some(Life(365 * 24 * 3600)));
    assert_eq!(bench.text("@GMT-1970.01.01-00.00.00/f"), "content 0");
    assert_eq!(bench.walk("d"), ["old", "same"]);
    let kind = |text: &str| only(text).err().map(|error| error.kind());
    assert_eq!(
        (kind("h/none"), kind("h/s@1960-01"), kind("h/s@?")),
        (Some(ErrorKind::NotFound), Some(ErrorKind::NotFound), Some(ErrorKind::Usage))
    );
}

#[test]
fn the_mount_says_how_it_is() {
    let bench = Bench::new();
    bench.view.add_figures(|| {
        vec![super::super::Figure {
            name: "fuse_requests_total",
            help: "Requests.",
            label: Some(("request", "a\"b".into())),
            value: 5,
        }]
    });
    bench.view.refresh(Time { sec: 50, nsec: 0 }).unwrap();
    assert_eq!(bench.names(".relict"), ["health.json", "metrics"]);
    let health: serde_json::Value = serde_json::from_str(&bench.text(".relict/health.json")).unwrap();
    assert_eq!((health["status"].as_str(), health["points"].as_u64()), (Some("ok"), Some(5)));
    assert_eq!(health["sources"][1]["source"].as_str(), Some("/x"));
    assert_eq!(health["last_followed"].as_str(), Some("1970-01-01T00-00-50Z"));
    let metrics = bench.text(".relict/metrics");
    for line in [
        "# TYPE relict_points gauge",
        "relict_points 5",
        "relict_source_points{host=\"h\",source=\"s\"} 4",
        "# TYPE relict_fuse_requests_total counter",
        "relict_fuse_requests_total{request=\"a\\\"b\"} 5",
        "relict_damaged_files 0",
        "relict_following 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} in {metrics}");
    }
    let attr = bench.attr(".relict/metrics");
    assert_eq!((attr.size, attr.perm, attr.kind), (metrics.len() as u64, 0o444, FileKind::File));
    assert!(bench.view.read(attr.ino, attr.size, 10).unwrap().pieces.is_empty());
    assert_eq!(bench.view.lookup(attr.ino, b"x").map(|_| ()).unwrap_err().errno(), Some(libc::ENOTDIR));
}

#[test]
fn damage_shows_in_the_health() {
    let backing = Arc::new(MemoryBacking::default());
    let mut tree = TreeBuilder::new();
    tree.file(&backing, "f", b"lost");
    tree.publish(&backing, &record(0)).unwrap();
    backing.lose_chunk(&repo_format::ChunkId::of(None, b"lost"));
    let view = View::new(backing.clone(), Owner::default(), |_| ()).unwrap();
    let bench = Bench { backing, view };
    bench.view.read(bench.attr("versions/h/s/f/1970-01-01T00-00-00Z").ino, 0, 10).unwrap();
    let health: serde_json::Value = serde_json::from_str(&bench.text(".relict/health.json")).unwrap();
    assert_eq!((health["status"].as_str(), health["damaged_files"].as_u64()), (Some("damaged"), Some(1)));
    assert_eq!(health["damage"][0]["path"].as_str(), Some("hosts/h/s/1970-01-01T00-00-00Z/f"));
    assert_eq!(health["damage"][0]["offset"].as_u64(), Some(0));
}
