//! Parts and ages of a check, what it writes down, silent rot, and figures that a naive count agrees with.

use super::made::{Made, change};
use super::text;
use relict::catalog::tree::{range, walk_nodes};
use relict::store::{NodeRef, OpenOptions, Writer};
use repo_format::{ChunkId, Extent, Key, PackageKind, PointId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::process::Output;

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn summary(made: &Made, args: &[&str]) -> Value {
    let out = made.maint(&[args, &["--json"]].concat());
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    lines(&out).into_iter().find(|l| l["message_type"] == "summary").unwrap()
}

fn health(made: &Made) -> Value {
    lines(&made.maint(&["health", "--json"])).remove(0)
}

#[test]
fn what_was_verified_is_written_down_and_not_read_again() {
    let made = Made::new();
    let all = made.packages().len() as u64;
    assert_eq!(health(&made)["packages_never_verified"], all);
    assert!(health(&made)["last_check"].is_null());
    // Parts are a partition: together they read everything once.
    let read = |args: &[&str]| summary(&made, args)["packages_read"].as_u64().unwrap();
    assert_eq!(read(&["check"]), 0);
    assert_eq!(health(&made)["last_check"]["read_data"], false);
    let parts: u64 = ["1/3", "2/3", "3/3"].iter().map(|part| read(&["check", "--read-data-subset", part])).sum();
    assert_eq!(parts, all);
    assert_eq!(health(&made)["packages_never_verified"], 0);
    assert!(health(&made)["oldest_verified_age_seconds"].as_i64().unwrap() < 600);
    assert_eq!(read(&["check", "--max-age", "1d"]), 0, "all of it is fresh");
    assert_eq!(read(&["check", "--max-age", "0s"]), all);
    assert_eq!(read(&["check", "--read-data-subset", "1"]), 1, "a byte's worth is a package");
    let late = summary(&made, &["check", "--read-data", "--max-duration", "0s"]);
    assert_eq!((late["packages_read"].as_u64(), late["packages_left"].as_u64()), (Some(0), Some(all)));
    let metrics = text(&made.maint(&["health", "--prometheus"]));
    assert!(metrics.contains("relict_points 3\n") && metrics.contains("relict_last_check_findings 0\n"), "{metrics}");
}

/// What a check has verified when it is killed need not be read again.
#[test]
fn a_killed_check_has_written_down_what_it_verified() {
    let mut made = Made::new();
    for version in 0..30 {
        let mut files = made.points[2].clone();
        files.insert("docs/more".into(), vec![version; 50_000 + usize::from(version)]);
        made.add(files, |_, bytes| super::made::version(bytes));
    }
    let all = made.packages().len() as u64;
    assert!(all > 60, "{all}");
    let never = || health(&made)["packages_never_verified"].as_u64().unwrap();
    let mut check = made.command(&["check", "--read-data", "--quiet"]);
    let mut check = check.env("RELICT_KEEP_EVERY_MS", "0").spawn().unwrap();
    while never() == all {
        assert!(check.try_wait().unwrap().is_none(), "it ended, and nothing was written down");
    }
    check.kill().unwrap();
    assert!(!check.wait().unwrap().success());
    let left = never();
    assert!(left > 0 && left < all, "{left} of {all}");
    assert!(health(&made)["last_check"].is_null(), "it did not end");
    let rest = summary(&made, &["check", "--max-age", "1d"]);
    assert_eq!(rest["packages_read"].as_u64(), Some(left));
    assert_eq!(never(), 0);
}

#[test]
fn beside_a_writer_a_check_says_that_it_wrote_nothing_down() {
    let made = Made::new();
    let _writer = Writer::open(&made.repo(), &mut super::made::unlock, &OpenOptions::default()).unwrap();
    let out = made.maint(&["check", "--read-data"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    assert!(text(&out).contains("is not written down"), "{}", text(&out));
    assert_eq!(health(&made)["packages_never_verified"], made.packages().len());
}

#[test]
fn damaged_packages_are_never_written_down_as_verified() {
    let made = Made::new();
    let packages = made.packages();
    change(&packages[0].1, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    assert_eq!(made.maint(&["check", "--read-data"]).status.code(), Some(1));
    // The next backup does not take what is damaged for present, and stores it again when it meets it.
    let writer = Writer::open(&made.repo(), &mut super::made::unlock, &OpenOptions::default()).unwrap();
    let large = &made.points[0]["large"];
    let ids: Vec<ChunkId> = large.chunks(16 * 1024).map(|part| writer.chunk_id(part)).collect();
    let new = writer.claim(&ids).unwrap().into_iter().filter(|new| *new).count();
    assert_eq!(new, 4, "the four chunks of the damaged segment");
    drop(writer);
    let health = health(&made);
    assert_eq!(health["packages_never_verified"], 1);
    assert_eq!(health["last_check"]["findings"], 1);
}

#[test]
fn wrong_options_are_refused() {
    let made = Made::new();
    let code = |args: &[&str]| made.maint(args).status.code();
    assert_eq!(code(&["check", "--read-data-subset", "4/3"]), Some(2));
    assert_eq!(code(&["check", "--max-age", "3"]), Some(2));
    assert_eq!(code(&["check", "--max-duration", "1h"]), Some(2), "there is nothing to limit");
    assert_eq!(code(&["check", "--read-data", "--max-age", "1d"]), Some(2));
}

#[test]
fn silent_rot_is_named() {
    let mut made = Made::new();
    let mut files = made.points[2].clone();
    files.get_mut("medium").unwrap()[20_000] ^= 4;
    files.insert("docs/new".into(), b"written again, with another time\n".to_vec());
    made.add(
        files,
        |path, bytes| if path == "medium" { super::made::version(&made_medium()) } else { super::made::version(bytes) },
    );
    let out = made.maint(&["check", "--json"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let findings: Vec<Value> = lines(&out).into_iter().filter(|l| l["message_type"] == "finding").collect();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0]["kind"].as_str(), findings[0]["severity"].as_str()), (Some("source_rot"), Some("warning")));
    let paths: Vec<&str> =
        findings[0]["affected"].as_array().unwrap().iter().map(|a| a["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/medium"]);
}

/// `medium` as the third point has it.
fn made_medium() -> Vec<u8> {
    super::made::states()[2]["medium"].clone()
}

#[test]
fn the_same_bytes_cut_in_another_way_are_no_rot() {
    let mut made = Made::new();
    let files = made.points[2].clone();
    made.add_cut(files, |_, bytes| super::made::version(bytes), 10_000);
    let out = made.maint(&["check"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
}

/// Everything that each point needs, by walking it alone.
fn needs(made: &Made) -> BTreeMap<PointId, HashSet<ChunkId>> {
    let repository = made.open();
    let records: BTreeMap<PointId, ChunkId> = repository.index().points().unwrap().into_iter().collect();
    let of = |point: repo_format::PointRecord| {
        let mut out = HashSet::from([records[&point.id]]);
        walk_nodes(&*repository, &point.root, &mut |id: &ChunkId, _: &NodeRef| {
            out.insert(*id);
            Ok(())
        })
        .unwrap();
        for entry in range(&*repository, &point.root, &[]).map(Result::unwrap) {
            if let Ok(Key::Extent(..)) = Key::decode(entry.key()) {
                out.insert(Extent::decode(entry.value()).unwrap().chunk);
            }
        }
        (point.id, out)
    };
    repository.point_records().unwrap().into_iter().map(of).collect()
}

#[test]
fn the_unique_size_of_a_point_is_what_a_naive_count_says() {
    let made = Made::new();
    let (repository, needs) = (made.open(), needs(&made));
    let out = lines(&made.maint(&["stats", "--json"]));
    let mut all: BTreeSet<ChunkId> = BTreeSet::new();
    for (id, chunks) in &needs {
        let others: HashSet<ChunkId> =
            needs.iter().filter(|(other, _)| *other != id).flat_map(|(_, c)| c.iter().copied()).collect();
        let own: Vec<ChunkId> = chunks.difference(&others).copied().collect();
        let raw: u64 = own.iter().map(|c| u64::from(repository.locate(c).unwrap().unwrap().len)).sum();
        let line = out.iter().find(|l| l["id"] == id.to_string()).unwrap();
        assert_eq!(
            (line["unique"]["chunks"].as_u64(), line["unique"]["raw_bytes"].as_u64()),
            (Some(own.len() as u64), Some(raw))
        );
        // Whole segments: those whose every chunk that anybody needs is this point's own.
        let whole: u64 = segments(&repository)
            .values()
            .filter(|(_, ids)| ids.iter().any(|c| own.contains(c)) && ids.iter().all(|c| !others.contains(c)))
            .map(|(bytes, _)| bytes)
            .sum();
        assert_eq!(line["unique"]["whole_segments_bytes"].as_u64(), Some(whole));
        all.extend(chunks);
    }
    let summary = out.iter().find(|l| l["message_type"] == "summary").unwrap();
    let stored = repository.index().chunks().unwrap().count();
    assert_eq!(summary["unused"]["chunks"].as_u64().unwrap(), (stored - all.len()) as u64);
    let kinds = summary["content"]["chunks"].as_u64().unwrap() + summary["metadata"]["chunks"].as_u64().unwrap();
    assert_eq!(kinds, stored as u64);
}

type Segments = BTreeMap<(u32, u32), (u64, Vec<ChunkId>)>;

fn segments(repository: &relict::store::Repository) -> Segments {
    let mut out = Segments::new();
    for entry in repository.index().chunks().unwrap() {
        let (id, at) = entry.unwrap();
        let segment = out.entry((at.package, at.offset)).or_insert((u64::from(at.segment_bytes), Vec::new()));
        segment.1.push(id);
    }
    out
}

#[test]
fn every_record_is_dumped_as_json() {
    let made = Made::with(true, [16 << 10, 64 << 10, 256 << 10]);
    let dump = |args: &[&str]| -> Value {
        let out = made.maint(&[&["dump"], args].concat());
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", text(&out));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    assert_eq!(dump(&["header"])["encryption"], "aes-256-gcm");
    let slot = &dump(&["key"])[0];
    assert!(
        slot["salt"].as_str().unwrap().starts_with(slot["name"].as_str().unwrap()) && slot.get("wrapped").is_none()
    );
    let packages = dump(&["package"]);
    let id = packages[1]["id"].as_str().unwrap();
    let package = dump(&["package", id]);
    assert_eq!(package["kind"], "Meta");
    let offset = package["segments"][0]["offset"].to_string();
    assert_eq!(dump(&["segment", id, &offset])["kind"], "Node");
    let point = dump(&["point", "latest"]);
    assert_eq!(point["host"], "host");
    let node = dump(&["node", point["root"].as_str().unwrap()]);
    assert_eq!(node["level"], 1);
    let child = node["entries"][0]["child"].as_str().unwrap();
    assert_eq!(dump(&["chunk", child])["id"], child);
    assert_eq!(dump(&["entry", "latest", "1"])[0]["value"]["kind"], "Dir");
    assert_eq!(dump(&["journal"]), Value::Array(Vec::new()));
    assert_eq!(made.maint(&["dump", "node", "xyz"]).status.code(), Some(2));
    assert_eq!(made.maint(&["dump", "entry", "latest", "999999"]).status.code(), Some(1));
    assert!(made.packages().iter().any(|(kind, _)| *kind == PackageKind::Data));
}
