//! One bad place must not keep a check or a repair from the rest.

use super::made::{Made, change, copy_dir, version};
use super::text;
use relict::catalog::tree::{Lost, NodeVisitor, walk_nodes};
use relict::store::{NodeRef, OpenOptions, Repository, Writer};
use repo_format::{ChunkId, Key, PackageKind, ROOT_INO};
use serde_json::Value;
use std::collections::HashSet;

/// Flips a byte of a leaf whose keys are all `wanted`, and which stands in all of the last `points` restore points.
fn lose_leaf(made: &Made, points: usize, wanted: fn(Key<'_>) -> bool) -> ChunkId {
    let repository = made.open();
    let leaves = |root: &ChunkId| {
        let mut out = HashSet::new();
        walk_nodes(&*repository, root, &mut |id: &ChunkId, node: &NodeRef| {
            let is_wanted = |index| node.entry(index).and_then(|(key, _)| Key::decode(key).ok()).is_some_and(wanted);
            if node.level() == 0 && (0..node.len()).all(is_wanted) {
                out.insert(*id);
            }
            Ok(())
        })
        .unwrap();
        out
    };
    let mut records = repository.point_records().unwrap();
    records.sort_by_key(|point| std::cmp::Reverse(point.time));
    let all: Vec<_> = records.iter().take(points).map(|point| leaves(&point.root)).collect();
    let leaf = *all[0].iter().find(|id| all.iter().all(|leaves| leaves.contains(*id))).expect("a leaf that all have");
    let at = repository.locate(&leaf).unwrap().unwrap();
    let id = repository.package_id(at.package).unwrap().to_string();
    drop(repository);
    change(&made.repo().join("packages").join(&id[..2]).join(format!("{id}.pkg")), |bytes| {
        bytes[(at.offset + at.segment_bytes) as usize - 1] ^= 1;
    });
    leaf
}

/// Flips a byte of a leaf that all restore points share, and in which the root directory's names do not stand.
fn lose_a_shared_leaf(made: &Made) {
    lose_leaf(made, made.points.len(), |key| key.ino() > ROOT_INO);
}

/// A file that rotted at its source, for ever a finding, beside a leaf that cannot be read.
#[test]
fn a_lost_leaf_hides_no_other_finding_and_can_be_repaired() {
    let mut made = Made::new();
    let mut files = made.points[2].clone();
    let before = version(&files["medium"]);
    files.get_mut("medium").unwrap()[20_000] ^= 4;
    made.add(files, |path, bytes| if path == "medium" { before } else { version(bytes) });
    lose_a_shared_leaf(&made);
    let out = made.maint(&["check", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    let lines: Vec<Value> =
        String::from_utf8_lossy(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).cloned().collect::<Vec<_>>();
    assert_eq!(of("node").len(), 4, "a leaf of each point: {}", text(&out));
    let rot = of("source_rot");
    assert_eq!((rot.len(), rot[0]["affected"][0]["path"].as_str()), (1, Some("/medium")), "{}", text(&out));
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    assert!(!text(&repair).contains("new index"), "the index is sound: {}", text(&repair));
    let again = made.maint(&["check", "--read-data"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
}

#[test]
fn what_stands_behind_a_lost_leaf_is_looked_for_at_the_source() {
    let made = Made::new();
    let source = made.dir.path().join("source");
    for (path, bytes) in &made.points[2] {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let data: Vec<_> = made.packages().into_iter().filter(|(kind, _)| *kind == PackageKind::Data).collect();
    lose_a_shared_leaf(&made);
    change(&data[1].1, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let repair = made.maint(&["repair", "--yes", "--from-source", source.to_str().unwrap()]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    let readings = made.read_every_file();
    let medium: Vec<_> = readings.iter().filter(|r| r.path == "medium").map(|r| (r.point, r.verdict)).collect();
    assert!(medium.iter().all(|(_, verdict)| *verdict == super::made::Verdict::Right), "{medium:?}: {}", text(&repair));
}

fn findings(out: &std::process::Output) -> Vec<Value> {
    let lines = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["message_type"] == "finding").collect()
}

/// Chunks of `large` that the next backup would store again.
fn stored_again(made: &Made) -> usize {
    let writer = Writer::open(&made.repo(), &mut super::made::unlock, &OpenOptions::default()).unwrap();
    let ids: Vec<ChunkId> = made.points[0]["large"].chunks(16 * 1024).map(|part| writer.chunk_id(part)).collect();
    writer.claim(&ids).unwrap().into_iter().filter(|new| *new).count()
}

/// The first segment of `large`, which is of four chunks: its package, and where it stands.
fn first_segment(made: &Made) -> (std::path::PathBuf, std::ops::Range<usize>) {
    let repository = made.open();
    let at = repository.locate(&repository.keys().chunk_id(&made.points[0]["large"][..16 * 1024])).unwrap().unwrap();
    let id = repository.package_id(at.package).unwrap().to_string();
    let path = made.repo().join("packages").join(&id[..2]).join(format!("{id}.pkg"));
    (path, at.offset as usize..(at.offset + at.segment_bytes) as usize)
}

/// A trimmed or lost extent of the file system: a segment reads as zeros, as one does that was freed, but nobody freed it.
#[test]
fn a_segment_of_zeros_that_nobody_freed_is_a_loss() {
    let made = Made::new();
    let (path, segment) = first_segment(&made);
    change(&path, |bytes| bytes[segment].fill(0));
    let out = made.maint(&["check", "--read-data", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    let found = findings(&out);
    let said = |key: &str| found.iter().map(|f| f[key].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!((said("kind"), said("mend")), (vec!["segment".to_owned()], vec!["elsewhere".to_owned()]), "{found:?}");
    let hurt = found[0]["affected"].as_array().unwrap();
    let of_large = hurt.iter().filter(|file| file["path"] == "/large").count();
    assert_eq!((of_large, hurt.len()), (3, 5), "docs/readme is in the same segment, and in two points: {hurt:?}");
    let health = made.maint(&["health", "--json"]);
    assert!(text(&health).contains("\"packages_never_verified\":1"), "{}", text(&health));
    assert_eq!(stored_again(&made), 4, "what the next backup stores again");
    let plan = made.maint(&["repair", "--dry-run", "--json"]);
    assert!(
        text(&plan).contains("\"lost_files\":{\"restore point") && text(&plan).contains("/large"),
        "{}",
        text(&plan)
    );
    let repair = made.maint(&["repair", "--yes"]);
    assert!(!text(&repair).contains("new index"), "the index is sound: {}", text(&repair));
    assert_eq!(made.maint(&["check", "--read-data"]).status.code(), Some(3));
}

/// The same, and all of it stands in a second place: then nothing is lost, and nobody says so.
#[test]
fn a_segment_of_zeros_that_stands_twice_is_no_loss() {
    let made = Made::new();
    let (path, _) = first_segment(&made);
    let writer = Writer::open(&made.repo(), &mut super::made::unlock, &OpenOptions::default()).unwrap();
    let raw = &made.points[0]["large"][..64 * 1024];
    let table: Vec<_> = raw.chunks(16 * 1024).map(|part| (writer.chunk_id(part), part.len() as u32)).collect();
    writer.store_segment(repo_format::SegmentKind::Data, &table, raw).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let (second, at) = first_segment(&made);
    assert!(second != path, "the index names the new place");
    change(&second, |bytes| bytes[at].fill(0));
    let out = made.maint(&["check", "--json"]);
    assert!(findings(&out).iter().all(|f| f["mend"] == "itself"), "{}", text(&out));
    assert_eq!((out.status.code(), findings(&out).len()), (Some(1), 1), "{}", text(&out));
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    assert!(made.read_every_file().iter().all(|r| r.verdict == super::made::Verdict::Right), "{}", text(&repair));
}

/// A whole package of zeros: what cannot be read in it is noted, and so stored again by the next backup that meets it.
#[test]
fn a_package_of_zeros_is_stored_again() {
    let made = Made::new();
    change(&first_segment(&made).0, |bytes| bytes.fill(0));
    assert_eq!(made.maint(&["check"]).status.code(), Some(1));
    assert_eq!(stored_again(&made), made.points[0]["large"].len().div_ceil(16 * 1024));
}

/// What a check meets only on its way through the trees is noted, too.
#[test]
fn a_tree_node_that_a_check_could_not_read_is_noted() {
    let made = Made::new();
    lose_a_shared_leaf(&made);
    assert_eq!(made.maint(&["check"]).status.code(), Some(1));
    assert_eq!(made.open().index().damaged().unwrap().len(), 1);
}

/// An index from before a compaction: its entries lead to freed places, and rebuilding finds all of them again.
#[test]
fn an_index_from_before_a_compaction_has_lost_nothing() {
    let made = Made::new();
    let kept = made.dir.path().join("kept-db");
    copy_dir(&made.repo().join("db"), &kept);
    for args in [&["forget", "--yes", &"01".repeat(16)][..], &["undelete"], &["compact", "--yes", "--min-live", "1.0"]]
    {
        let out = made.maint(args);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    }
    std::fs::remove_dir_all(made.repo().join("db")).unwrap();
    std::fs::rename(&kept, made.repo().join("db")).unwrap();
    let out = made.maint(&["check", "--json"]);
    assert!(findings(&out).iter().all(|f| f["mend"] == "itself" || f["kind"] == "point"), "{}", text(&out));
    let plan = made.maint(&["repair", "--dry-run", "--json"]);
    assert!(text(&plan).contains("\"lost_files\":{}"), "{}", text(&plan));
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    assert!(made.read_every_file().iter().all(|r| r.verdict == super::made::Verdict::Right), "{}", text(&repair));
}

/// What a mount shows of a point that was repaired meanwhile stays, as far as it can be read.
#[test]
fn a_mount_keeps_the_tree_that_a_repair_replaced() {
    let mut made = Made::new();
    let mut files = made.points[2].clone();
    files.extend((0..3000).map(|n| (format!("wide/file-{n:04}"), Vec::new())));
    made.add(files, |_, bytes| version(bytes));
    let leaf = lose_leaf(&made, 1, |key| matches!(key, Key::Dirent(..)));
    let no_cache = OpenOptions { cache_bytes: 0 };
    let mount = Repository::open(&made.repo(), &mut super::made::unlock, &no_cache).unwrap();
    mount.pin().unwrap();
    let shown = mount.shown_points().unwrap();
    let root = shown.iter().max_by_key(|point| point.time).unwrap().root;
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    let prune = made.maint(&["prune", "--yes"]);
    assert_eq!(prune.status.code(), Some(0), "{}", text(&prune));
    // What shares a segment with what is needed goes by being left behind.
    let compact = made.maint(&["compact", "--yes", "--min-live", "1.0"]);
    assert_eq!(compact.status.code(), Some(0), "{}", text(&compact));
    mount.refresh().unwrap();
    let mut lost = LostNodes(Vec::new());
    walk_nodes(&*mount, &root, &mut lost).unwrap();
    assert_eq!(lost.0, [leaf]);
    drop(mount);
    let prune = made.maint(&["prune", "--yes", "--json"]);
    assert!(text(&prune).contains("dead_chunks") && !text(&prune).contains("\"dead_chunks\":0"), "{}", text(&prune));
    assert_eq!(made.maint(&["check", "--read-data"]).status.code(), Some(3));
}

struct LostNodes(Vec<ChunkId>);

impl NodeVisitor for LostNodes {
    fn node(&mut self, _: &ChunkId, _: &NodeRef) -> relict::Result<()> {
        Ok(())
    }

    fn lost(&mut self, lost: Lost) -> relict::Result<()> {
        self.0.push(lost.id);
        Ok(())
    }
}
