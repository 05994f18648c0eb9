//! RBD streams: what real ones mean, what broken ones are refused for, and that no bytes whatever harm.

use super::*;
use crate::Result;
use crate::ingest::change::{Change, Decode, Step};
use crate::ingest::image::disk::Disk;
use crate::ingest::image::tests::corpus;
use proptest::prelude::*;
use repo_format::Time;
use std::collections::BTreeMap;
use std::process::Command;

fn disk() -> Disk {
    Disk { name: b"vm.raw".to_vec(), mode: 0o600, uid: 0, gid: 0, mtime: Time { sec: 7, nsec: 0 } }
}

fn diffs() -> DiffDecoder {
    DiffDecoder::new(disk())
}

/// Larger disks than this are not built, so that damaged sizes cost nothing.
const MODEL_BYTES: u64 = 1 << 24;

/// What a stream did: the content of each state, by name.
#[derive(Debug, Default)]
struct Model {
    states: BTreeMap<Vec<u8>, Vec<u8>>,
    now: Option<(Vec<u8>, Vec<u8>)>,
    begun: Vec<Vec<u8>>,
}

impl Model {
    fn take(&mut self, change: &Change<'_>) {
        if let Change::Write { offset: end, .. } | Change::Zero { offset: end, .. } | Change::Truncate { size: end, .. } =
            change
            && *end > MODEL_BYTES
        {
            return;
        }
        let now = self.now.as_mut();
        match *change {
            Change::Begin { id, parent, .. } => {
                let content = parent.map(|parent| self.states[parent].clone()).unwrap_or_default();
                self.begun.push(id.to_vec());
                self.now = Some((id.to_vec(), content));
            }
            Change::Truncate { size, .. } => now.unwrap().1.resize(size as usize, 0),
            Change::Write { offset, data, .. } => {
                let (at, content) = (offset as usize, &mut now.unwrap().1);
                if content.len() < at + data.len() {
                    content.resize(at + data.len(), 0);
                }
                content[at..at + data.len()].copy_from_slice(data);
            }
            Change::Zero { offset, len, extend: false, .. } => {
                let content = now.unwrap().1.iter_mut();
                content.skip(offset as usize).take(len as usize).for_each(|byte| *byte = 0);
            }
            Change::Create { path, .. } => assert_eq!(path, b"vm.raw"),
            Change::SetAttr { .. } => {}
            Change::End => {
                let (id, content) = self.now.take().unwrap();
                self.states.insert(id, content);
            }
            ref other => panic!("{other:?}"),
        }
    }
}

/// Runs a decoder over `bytes`, which arrive `step` at a time, as the driver does.
fn run(decoder: &mut dyn Decode, bytes: &[u8], step: usize, model: &mut Model) -> Result<()> {
    let (mut at, mut have, mut idle) = (0, 0, 0);
    while at < bytes.len() {
        let last = have == bytes.len();
        match decoder.next(&bytes[at..have], last)? {
            Step::More(needed) => {
                if last {
                    return Err(crate::ingest::image::bad(format!("cut in {}", decoder.doing())));
                }
                assert!(needed > have - at && needed <= decoder.max_input_bytes(), "{needed} of {}", have - at);
                have = bytes.len().min((at + needed).max(have + step));
            }
            Step::Change(used, change) => {
                idle = if used == 0 { idle + 1 } else { 0 };
                assert!(used <= have - at && idle < 8, "no progress in {}", decoder.doing());
                change.iter().for_each(|change| model.take(change));
                at += used;
            }
        }
    }
    if decoder.may_end() { Ok(()) } else { Err(crate::ingest::image::bad("cut")) }
}

fn decode(bytes: &[u8], step: usize) -> Result<Model> {
    let mut model = Model::default();
    run(&mut diffs(), bytes, step, &mut model).map(|()| model)
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let out = Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

#[test]
fn real_chains_give_the_images_that_they_are_of() {
    let Some(corpus) = corpus("rbd-s41") else { return };
    let read = |name: &str| std::fs::read(corpus.join("rbd-s41").join(name)).unwrap();
    let expected = String::from_utf8(read("expected.sha256")).unwrap();
    let chains: [&[&str]; 4] = [
        &["full-s1.v1.rbd", "s1-s2.v1.rbd", "s2-s3.v1.rbd", "s3-s4.v1.rbd"],
        &["full-s1.v1.rbd", "s1-s3.v1.rbd"],
        &["vol.export2.rbd"],
        &["vol.export2.rbd", "s3-s4.v1.rbd"],
    ];
    for chain in chains {
        for step in [1, 7, 100_000] {
            let mut model = Model::default();
            for file in chain {
                run(&mut diffs(), &read(file), step, &mut model).unwrap();
            }
            let mut checked = 0;
            for line in expected.lines() {
                let snapshot = line.rsplit('/').next().unwrap().trim_end_matches(".raw");
                if let Some(content) = model.states.get(snapshot.as_bytes()) {
                    assert_eq!(sha256(content), line[..64], "{snapshot} of {chain:?}");
                    checked += 1;
                }
            }
            assert_eq!(checked, if chain.len() == 2 && chain[1] == "s1-s3.v1.rbd" { 2 } else { 4 });
            if chain[0] == "vol.export2.rbd" {
                assert_eq!(model.states[&b"@head"[..]], model.states[&b"s4"[..]]);
            }
        }
    }
    // Diffs one after the other in one stream.
    let all = ["full-s1.v1.rbd", "s1-s2.v1.rbd", "s2-s3.v1.rbd"].map(read).concat();
    assert_eq!(decode(&all, 1 << 20).unwrap().begun.len(), 3);
    let gap = ["full-s1.v1.rbd", "s2-s3.v1.rbd"].map(read).concat();
    let error = decode(&gap, 1 << 20).unwrap_err().to_string();
    assert_eq!(error, "a diff from snapshot 's2' follows one that led to snapshot 's1'");
}

#[test]
fn hostile_streams_are_judged_as_the_list_says() {
    let Some(corpus) = corpus("rbd-s41") else { return };
    let list = std::fs::read_to_string(corpus.join("malformed/cases.jsonl")).unwrap();
    let mut seen = 0;
    for line in list.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = case["file"].as_str().unwrap();
        if !name.starts_with("r-") {
            continue;
        }
        seen += 1;
        let bytes = std::fs::read(corpus.join("malformed").join(name)).unwrap();
        let result = decode(&bytes, 5);
        assert_eq!(result.is_ok(), case["expect"] == "accept", "{name}: {result:?}");
        if name == "r-v2-skip.rbd" {
            let content = &result.unwrap().states[&b"@head"[..]];
            assert!(content.len() == 4096 && content.starts_with(b"abcd\0") && content[4..].iter().all(|b| *b == 0));
        }
    }
    assert_eq!(seen, 9);
}

fn name(tag: u8, name: &[u8]) -> Vec<u8> {
    [&[tag][..], &(name.len() as u32).to_le_bytes(), name].concat()
}

fn numbers(tag: u8, values: &[u64]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    std::iter::once(tag).chain(bytes).collect()
}

fn v1(records: &[Vec<u8>]) -> Vec<u8> {
    [b"rbd diff v1\n".to_vec(), records.concat()].concat()
}

#[test]
fn what_is_refused_and_in_which_words() {
    let size = || numbers(b's', &[8192]);
    let end = || b"e".to_vec();
    let cases: [(Vec<u8>, &str); 14] = [
        (b"rbd diff v3\n".to_vec(), "this is no stream of 'rbd export-diff' or 'rbd export --export-format 2'"),
        (v1(&[end()]), "the diff does not say how large the disk is (no record 's' before content)"),
        (v1(&[size(), size(), end()]), "a name or the size is given twice"),
        (v1(&[size(), numbers(b'z', &[0, 1]), name(b't', b"x"), end()]), "names and sizes must stand before content"),
        (
            v1(&[numbers(b's', &[1 << 63]), end()]),
            "the disk has 9223372036854775808 bytes; a file cannot be larger than 9223372036854775807",
        ),
        (v1(&[size(), numbers(b'w', &[8192, 1]), vec![0], end()]), "1 bytes at 8192 in a disk of 8192 bytes"),
        (
            v1(&[size(), numbers(b'w', &[u64::MAX, 2]), vec![0, 0], end()]),
            "2 bytes at 18446744073709551615 in a disk of 8192 bytes",
        ),
        (v1(&[name(b't', b""), size(), end()]), "a snapshot's name of 0 bytes; they have 1 to 256"),
        (v1(&[name(b'f', b"a@b"), size(), end()]), "'a@b' cannot be a snapshot's name"),
        (
            v1(&[size(), numbers(b'Q', &[1]), end()]),
            "a record of unknown kind 'Q'; version 1 does not say how long it is",
        ),
        (v1(&[size(), end(), b"x".to_vec()]), "what follows a diff is not another diff"),
        (
            b"rbd image v2\nErbd image diffs v2\n\0\0\0\0\0\0\0\0".to_vec(),
            "the container has no diff, so there is no image in it",
        ),
        (
            b"rbd image v2\nErbd image diffs v1\n\0\0\0\0\0\0\0\0".to_vec(),
            "the container's description is not followed by its diffs",
        ),
        (b"rbd image v2\n\x01".to_vec(), "0x01 is no entry of a container's description"),
    ];
    for (bytes, message) in cases {
        assert_eq!(decode(&bytes, 3).unwrap_err().to_string(), message);
    }
    let trailing = [
        &b"rbd image v2\nErbd image diffs v2\n\x01\0\0\0\0\0\0\0rbd diff v2\ns\x08\0\0\0\0\0\0\0"[..],
        &[0; 8],
        b"erbd diff v2\n",
    ];
    assert_eq!(decode(&trailing.concat(), 3).unwrap_err().to_string(), "bytes follow the last diff of the container");
    assert!(decode(b"", 1).is_err() && decode(b"rbd image v2\nE", 1).is_err());
}

#[test]
fn holes_past_the_end_are_cut_off() {
    let records = [
        numbers(b's', &[8192]),
        numbers(b'w', &[0, 3]),
        b"abc".to_vec(),
        numbers(b'z', &[1, 1 << 40]),
        numbers(b'z', &[9000, 5]),
        b"e".to_vec(),
    ];
    let model = decode(&v1(&records), 1).unwrap();
    let content = &model.states[&b"@head"[..]];
    assert!(content.len() == 8192 && content[0] == b'a' && content[1..].iter().all(|b| *b == 0));
}

#[test]
fn a_raw_disk_is_its_bytes() {
    let content: Vec<u8> = (0..700_001_u32).map(|i| (i % 251) as u8).collect();
    for (size, step) in [(None, 1000), (Some(content.len() as u64), 1 << 20), (None, 256 * 1024)] {
        let mut model = Model::default();
        run(&mut RawDecoder::new(b"x@".to_vec(), disk(), size), &content, step, &mut model).unwrap();
        assert!(model.states[&b"x@"[..]] == content, "{size:?} {step}");
    }
    for size in [700_000, 700_002] {
        let error =
            run(&mut RawDecoder::new(b"x@".to_vec(), disk(), Some(size)), &content, 1 << 20, &mut Model::default());
        assert!(error.unwrap_err().to_string().ends_with(&format!("than the {size} that were announced")));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic_or_stand_still(bytes in proptest::collection::vec(any::<u8>(), 0..300), front in 0..3_usize, step in 1..50_usize) {
        let fronts: [&[u8]; 3] = [b"rbd diff v1\n", b"rbd diff v2\n", b"rbd image v2\n"];
        let _ = decode(&[fronts[front], &bytes].concat(), step);
        let _ = decode(&bytes, step);
    }

    #[test]
    fn a_damaged_stream_is_refused_or_means_something_else(flip in 0..300_usize, bit in 0..8_u32, cut in 0..300_usize) {
        let good = v1(&[name(b't', b"s1"), numbers(b's', &[4096]), numbers(b'w', &[10, 100]), vec![7; 100], numbers(b'z', &[50, 9]), b"e".to_vec()]);
        let mut bytes = good.clone();
        let at = flip % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = decode(&bytes, 9);
        prop_assert!(decode(&good[..cut % good.len()], 9).is_err());
    }
}
