//! Streams that were made before, with the tree that must come of each; and streams that must be refused.

use crate::expected::differences;
use crate::rig::Rig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn small(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/btrfs").join(folder)
}

/// The corpus' folder; None, said loudly, where it is not there.
fn shared(folder: &str) -> Option<PathBuf> {
    let given = std::env::var_os("RELICT_CORPUS").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus")).join(folder);
    if !dir.is_dir() {
        eprintln!("SKIPPED: there is no {}; RELICT_CORPUS says where the corpus is", dir.display());
        return None;
    }
    Some(dir)
}

/// Ingests a stream of a file; what was said, and whether it went well.
fn ingest(rig: &Rig, stream: &Path, source: &str) -> (bool, String) {
    let args = ["ingest", "btrfs", stream.to_str().unwrap(), "--source", source, "--json"];
    let out = rig.command("relict", &args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(matches!(out.status.code(), Some(0 | 1)), "{}: {}\n{text}", stream.display(), out.status);
    (out.status.success(), text)
}

/// The restore points that a stream made: id and root.
fn points(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = lines.filter(|line| line["message_type"] == "summary");
    made.map(|line| (line["id"].as_str().unwrap().to_owned(), line["root"].as_str().unwrap().to_owned())).collect()
}

/// Ingests every chain of a folder and compares each point with its manifest, through one mount. Gives the roots of each
/// chain's points.
fn chains(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let chains: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("chains.json")).unwrap()).unwrap();
    let mut roots = BTreeMap::new();
    for chain in chains["chains"].as_array().unwrap() {
        let name = chain["name"].as_str().unwrap().to_owned();
        if name.starts_with("nodata") {
            refuses_without_content(folder, chain);
            continue;
        }
        let rig = Rig::new();
        rig.mount();
        let mut made = Vec::new();
        for step in chain["steps"].as_array().unwrap() {
            let stream = folder.join(step["stream"].as_str().unwrap());
            let (done, text) = ingest(&rig, &stream, "nas1:data");
            assert!(done, "{name}, {}: {text}", stream.display());
            let manifests = step["manifest"].as_array().cloned().unwrap_or_else(|| vec![step["manifest"].clone()]);
            let points = points(&text);
            assert_eq!(points.len(), manifests.len(), "{name}: {text}");
            for ((id, root), manifest) in points.iter().zip(&manifests) {
                let wrong = differences(&mounted(&rig, id), &folder.join(manifest.as_str().unwrap()));
                assert!(wrong.is_empty(), "{name}, {}:\n{}", stream.display(), wrong.join("\n"));
                made.push(root.clone());
            }
        }
        rig.maint(&["check", "--read-data"]);
        rig.umount();
        println!("{}: {name}: {} points as they should be", folder.display(), made.len());
        roots.insert(name, made);
    }
    roots
}

/// A new point may take a moment to be seen in a running mount.
fn mounted(rig: &Rig, id: &str) -> PathBuf {
    let path = rig.path("mnt/ids").join(id);
    let begun = std::time::Instant::now();
    while !path.exists() {
        assert!(begun.elapsed().as_secs() < 30, "point {id} does not appear in the mount");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    path
}

/// A stream of `--no-data` says where content changed, not what it is.
fn refuses_without_content(folder: &Path, chain: &Value) {
    let rig = Rig::new();
    let steps = chain["steps"].as_array().unwrap();
    let step = |at: usize| folder.join(steps[at]["stream"].as_str().unwrap());
    assert!(ingest(&rig, &step(0), "nas1:data").0);
    let (done, text) = ingest(&rig, &step(1), "nas1:data");
    assert!(!done && text.contains("UPDATE_EXTENT") && text.contains("byte "), "{text}");
    assert_eq!(rig.relict(&["snapshots", "--json"]).lines().count(), 1);
}

#[test]
fn the_small_corpus_gives_the_trees_of_its_manifests() {
    for (folder, points) in [("s1", 3), ("s2-lzo", 2)] {
        assert_eq!(chains(&small(folder))["v2-compressed"].len(), points);
    }
}

#[test]
fn the_shared_corpus_gives_the_trees_of_its_manifests() {
    for folder in ["btrfs-s1", "btrfs-s2-lzo"] {
        let Some(folder) = shared(folder) else { return };
        let roots = chains(&folder);
        assert!(roots.len() >= 3, "{roots:?}");
        // The way back ends where it began.
        let back = &roots["back1to0"];
        assert_eq!(back[0], back[2], "{}: there and back", folder.display());
    }
}

/// The law: whichever way led to a state, it is the same tree. (Version 2 brings birth times, so versions are compared
/// with themselves.)
#[test]
fn all_ways_to_a_state_end_in_one_tree() {
    let Some(folder) = shared("btrfs-s1") else { return };
    if !folder.join("step0.v2.btrfs").exists() {
        eprintln!("SKIPPED: this corpus was not sent in version 2 without compression");
        return;
    }
    let rig = Rig::new();
    let roots = |source: &str, streams: &[&str]| {
        let mut roots = Vec::new();
        for stream in streams {
            let (done, text) = ingest(&rig, &folder.join(stream), source);
            assert!(done, "{stream}: {text}");
            roots.extend(points(&text).into_iter().map(|(_, root)| root));
        }
        roots
    };
    let v1 = roots("n:v1", &["step0.v1.btrfs", "step1.v1.btrfs", "step2.v1.btrfs"]);
    let skipped = roots("n:skipped", &["step0.v1.btrfs", "skip0to2.v1.btrfs"]);
    assert_eq!(skipped[1], v1[2], "over one state, or through it");
    let v2 = roots("n:v2", &["step0.v2.btrfs", "step1.v2.btrfs", "step2.v2.btrfs"]);
    let compressed =
        roots("n:c", &["step0.v2-compressed.btrfs", "step1.v2-compressed.btrfs", "step2.v2-compressed.btrfs"]);
    assert_eq!(v2, compressed, "compressed on the way, or not");
    let both = roots("n:e", &["step0.v2.btrfs", "multi.v2.btrfs"]);
    assert_eq!(both, v2, "in one stream, or in two");
}

/// The damaged increments again, where their parent is in the repository.
#[test]
fn damaged_increments_leave_their_parent_alone() {
    let rig = Rig::new();
    assert!(ingest(&rig, &small("s1").join("step0.v2-compressed.btrfs"), "nas1:data").0);
    let names = ["cut0", "cut1", "cut2", "noend", "flip0", "flip1", "flip2", "flip3"];
    for name in names {
        let (done, text) = ingest(&rig, &small("malformed").join(format!("b-{name}.btrfs")), "nas1:data");
        assert!(!done && text.contains("bad_input") && text.contains("byte "), "{name}: {text}");
        assert_eq!(rig.relict(&["snapshots", "--json"]).lines().count(), 1, "{name}");
    }
    rig.maint(&["check", "--read-data"]);
    assert!(ingest(&rig, &small("s1").join("step1.v2-compressed.btrfs"), "nas1:data").0);
}

/// The cases of a list: refused with a place and a reason and nothing sealed, or taken.
fn cases(folder: &Path) -> usize {
    let list = std::fs::read_to_string(folder.join("cases.jsonl")).unwrap();
    let cases = list.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut done = 0;
    for case in cases.filter(|case| case["file"].as_str().unwrap().starts_with("b-")) {
        let rig = Rig::new();
        let name = case["file"].as_str().unwrap();
        let (taken, text) = ingest(&rig, &folder.join(name), "nas1:data");
        let points = rig.relict(&["snapshots", "--json"]).lines().count();
        println!("{name} ({}): {}", case["why"], text.trim());
        if case["expect"] == "reject" {
            assert!(!taken && points == 0, "{name} must be refused ({}): {points} points", case["why"]);
            let error: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("byte "), "{name}: no place: {message}");
            assert!(matches!(error["kind"].as_str(), Some("bad_input" | "not_found")), "{name}: {text}");
        } else {
            assert!(taken && points == 1, "{name} must be taken: {text}");
            rig.maint(&["check", "--read-data"]);
            taken_as_it_should_be(&rig, name);
        }
        done += 1;
    }
    done
}

/// The content of those that are taken.
fn taken_as_it_should_be(rig: &Rig, name: &str) {
    rig.mount();
    let file = rig.path("mnt/latest/a");
    let size = file.metadata().unwrap().len();
    match name {
        "b-huge-sparse.btrfs" => {
            assert_eq!(size, 1 << 60);
            assert_eq!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()), 0);
        }
        "b-clone-self.btrfs" => {
            let content = std::fs::read(&file).unwrap();
            assert!(
                content.len() == 8192 && content[..4096] == content[4096..] && content.iter().any(|byte| *byte != 0)
            );
        }
        "b-falloc-modes.btrfs" => {
            let mut expected = vec![b'z'; 9000];
            expected.resize(12_000, 0);
            expected[100..5100].fill(0);
            assert!(std::fs::read(&file).unwrap() == expected, "{name}");
        }
        "b-fileattr.btrfs" => assert_eq!(size, 0),
        other => panic!("what must come of {other}?"),
    }
    rig.umount();
}

#[test]
fn hostile_streams_are_refused_and_leave_nothing() {
    assert_eq!(cases(&small("malformed")), 53);
    if let Some(folder) = shared("malformed") {
        assert!(cases(&folder) >= 53);
    }
}

/// Beyond the list: a missing parent is named, and so are the states that there are.
#[test]
fn a_missing_parent_is_named_beside_what_is_there() {
    let rig = Rig::new();
    assert!(ingest(&rig, &small("s2-lzo").join("step0.v2-compressed.btrfs"), "nas1:data").0);
    let (done, text) = ingest(&rig, &small("s1").join("step1.v1.btrfs"), "nas1:data");
    let error: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(!done && error["kind"] == "not_found", "{text}");
    let (message, advice) = (error["message"].as_str().unwrap(), error["advice"].as_str().unwrap());
    assert!(message.contains("SNAPSHOT") && message.contains("parent state"), "{message}");
    assert!(advice.contains("nas1:data"), "{advice}");
}
