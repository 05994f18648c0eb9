//! One bad place must not keep a check or a repair from the rest.

use super::made::{Made, change, version};
use super::text;
use relict::catalog::tree::walk_nodes;
use relict::store::NodeRef;
use repo_format::{ChunkId, Key, PackageKind, ROOT_INO};
use serde_json::Value;
use std::collections::HashSet;

/// Flips a byte of a leaf that all restore points share, and in which the root directory's names do not stand.
fn lose_a_shared_leaf(made: &Made) {
    let repository = made.open();
    let leaves = |root: &ChunkId| {
        let mut out = HashSet::new();
        walk_nodes(&*repository, root, &mut |id: &ChunkId, node: &NodeRef| {
            let ino = |index| node.entry(index).and_then(|(key, _)| Key::decode(key).ok()).map(|key| key.ino());
            if node.level() == 0 && (0..node.len()).filter_map(ino).all(|ino| ino > ROOT_INO) {
                out.insert(*id);
            }
            Ok(())
        })
        .unwrap();
        out
    };
    let all: Vec<_> = repository.point_records().unwrap().iter().map(|point| leaves(&point.root)).collect();
    let leaf = all[0].iter().find(|id| all.iter().all(|leaves| leaves.contains(*id))).expect("a leaf that all have");
    let at = repository.locate(leaf).unwrap().unwrap();
    let id = repository.package_id(at.package).unwrap().to_string();
    drop(repository);
    change(&made.repo().join("packages").join(&id[..2]).join(format!("{id}.pkg")), |bytes| {
        bytes[(at.offset + at.segment_bytes) as usize - 1] ^= 1;
    });
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
