//! RBD streams through the command: real chains, chains that do not fit, and the hostile ones of the corpus.

use crate::rig::Rig;
use crate::tools::{TIME, cat, corpus, ingest, points, refused, sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Digest and size of the image at each snapshot.
fn expected(corpus: &Path) -> BTreeMap<String, String> {
    let list = std::fs::read_to_string(corpus.join("expected.sha256")).unwrap();
    let name = |line: &str| line.rsplit('/').next().unwrap().trim_end_matches(".raw").to_owned();
    list.lines().map(|line| (name(line), line[..64].to_owned())).collect()
}

fn is(rig: &Rig, point: &repo_format::PointRecord, digest: &str) {
    let out = rig.path("out.raw");
    std::fs::write(&out, cat(rig, point, "vm.raw")).unwrap();
    assert_eq!(sha256(&out), digest);
}

#[test]
fn chains_of_diffs_and_containers_end_in_the_same_trees() {
    let Some(corpus) = corpus("rbd-s41") else { return };
    let rig = Rig::new();
    let expected = expected(&corpus);
    let stream = |name: &str| corpus.join(name);
    let mut roots = BTreeMap::new();
    for (file, snapshot) in
        [("full-s1.v1.rbd", "s1"), ("s1-s2.v1.rbd", "s2"), ("s2-s3.v1.rbd", "s3"), ("s3-s4.v1.rbd", "s4")]
    {
        let point = ingest(&rig, &["rbd", text(&stream(file)), "--source", "ceph:pool/vm"]);
        is(&rig, &point, &expected[snapshot]);
        roots.insert(snapshot, point.root);
    }
    // A snapshot left out, from a repository that has it and others.
    let skipping = ingest(&rig, &["rbd", text(&stream("s1-s3.v1.rbd")), "--source", "ceph:pool/vm"]);
    assert_eq!(skipping.root, roots["s3"]);
    // The container: all snapshots, and the image as it is.
    ingest(&rig, &["rbd", text(&stream("vol.export2.rbd")), "--source", "container:pool/vm"]);
    let container: Vec<_> = points(&rig).into_iter().filter(|point| point.host == b"container").collect();
    let found: Vec<_> = container.iter().map(|point| point.root).collect();
    assert_eq!(found, [roots["s1"], roots["s2"], roots["s3"], roots["s4"], roots["s4"]]);
    // Each state as the bytes of the image.
    for (n, snapshot) in ["s1", "s2", "s3", "s4"].into_iter().enumerate() {
        let raw = rig.path("image.raw");
        std::fs::write(&raw, cat(&rig, &container[n], "vm.raw")).unwrap();
        let size = std::fs::metadata(&raw).unwrap().len().to_string();
        let args = ["rbd", text(&raw), "--raw", "--snapshot", snapshot, "--size", &size, "--source", "raw:pool/vm"];
        assert_eq!(ingest(&rig, &args).root, roots[snapshot], "{snapshot}");
    }
    // A diff goes on where a plain export was.
    assert_eq!(ingest(&rig, &["rbd", text(&stream("s3-s4.v1.rbd")), "--source", "raw:pool/vm"]).root, roots["s4"]);
}

#[test]
fn a_stream_from_standard_input() {
    let Some(corpus) = corpus("rbd-s41") else { return };
    let rig = Rig::new();
    let all = ["full-s1.v1.rbd", "s1-s2.v1.rbd"].map(|file| std::fs::read(corpus.join(file)).unwrap()).concat();
    let mut command = rig.command("relict", &["--quiet", "ingest", "rbd", "--source", "pool/vm", "--time", TIME]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &all).unwrap();
    assert!(child.wait().unwrap().success());
    let points = points(&rig);
    assert_eq!(points.len(), 2);
    is(&rig, &points[1], &expected(&corpus)["s2"]);
}

#[test]
fn a_diff_without_its_base_is_refused_and_what_is_there_is_named() {
    let Some(corpus) = corpus("rbd-s41") else { return };
    let rig = Rig::new();
    let diff = corpus.join("s2-s3.v1.rbd");
    let (code, said) = refused(&rig, &["rbd", text(&diff), "--source", "ceph:pool/vm"]);
    assert!(code == 1 && said.contains("s2"), "{said}");
    ingest(&rig, &["rbd", text(&corpus.join("full-s1.v1.rbd")), "--source", "ceph:pool/vm"]);
    let (code, said) = refused(&rig, &["rbd", text(&diff), "--source", "ceph:pool/vm"]);
    assert!(code == 1 && said.contains("s2") && said.contains("s1"), "{said}");
    // Another image's snapshot of that name is another one.
    let (code, said) = refused(&rig, &["rbd", text(&corpus.join("s1-s2.v1.rbd")), "--source", "ceph:pool/other"]);
    assert!(code == 1 && said.contains("s1"), "{said}");
}

#[test]
fn hostile_streams_leave_nothing() {
    let Some(corpus) = corpus("malformed") else { return };
    let rig = Rig::new();
    let list = std::fs::read_to_string(corpus.join("cases.jsonl")).unwrap();
    let mut seen = 0;
    for line in list.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = case["file"].as_str().unwrap();
        if !name.starts_with("r-") {
            continue;
        }
        seen += 1;
        let file = corpus.join(name);
        if case["expect"] == "accept" {
            let point = ingest(&rig, &["rbd", text(&file), "--source", "ceph:pool/vm"]);
            let content = cat(&rig, &point, "vm.raw");
            assert!(
                content.len() == 4096 && content.starts_with(b"abcd\0") && content[4..].iter().all(|byte| *byte == 0)
            );
        } else {
            let (code, said) = refused(&rig, &["rbd", text(&file), "--source", "ceph:pool/vm"]);
            assert!(code == 1 && said.contains("byte ") && said.contains("stream"), "{name}: {said}");
        }
    }
    assert_eq!(seen, 9);
}

#[test]
fn a_plain_export_that_was_cut_is_refused() {
    let rig = Rig::new();
    let raw = rig.path("image.raw");
    std::fs::write(&raw, [7; 5000]).unwrap();
    let (code, said) = refused(&rig, &["rbd", text(&raw), "--raw", "--size", "8192", "--source", "pool/vm"]);
    assert!(code == 1 && said.contains("fewer bytes than the 8192 that were announced"), "{said}");
    let (code, said) = refused(&rig, &["rbd", text(&raw), "--source", "pool/vm"]);
    assert!(code == 1 && said.contains("needs --raw"), "{said}");
}
