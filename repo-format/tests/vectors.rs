//! The committed vectors: valid ones decode and encode to themselves, invalid ones are refused for the
//! reason in their name, and no damage to a valid one panics, allocates much, or passes unseen.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/samples.rs"]
#[allow(dead_code, missing_docs, reason = "shared by several test binaries")]
mod samples;

use counting::allocated_by;
use repo_format::{FormatError, Problem};
use samples::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn committed(record: &Record) -> BTreeMap<String, Vec<u8>> {
    let dir = root().join(record.folder);
    names(&dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

/// Decodes and encodes under a limit on allocation: cumulative, so more than the peak can be.
fn again(record: &Record, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let (out, allocated) = allocated_by(|| (record.again)(bytes));
    let limit = 64 * bytes.len() + (64 << 10);
    assert!(allocated <= limit, "{}: {allocated} bytes allocated for {} bytes of input", record.folder, bytes.len());
    out
}

fn word(problem: Problem) -> &'static str {
    match problem {
        Problem::Truncated => "truncated",
        Problem::Trailing => "trailing",
        Problem::Magic => "magic",
        Problem::Version => "version",
        Problem::Check => "check",
        Problem::Reserved => "reserved",
        Problem::Field(_) => "field",
        Problem::Order => "order",
    }
}

#[test]
fn every_folder_is_a_record_and_every_file_a_sample() {
    let records = samples::records();
    let folders: BTreeSet<String> = records.iter().map(|r| r.folder.to_string()).collect();
    assert_eq!(names(&root()), folders, "folders below vectors/ and records");
    for record in &records {
        let samples: BTreeMap<_, _> = record.files().into_iter().collect();
        let committed = committed(record);
        assert!(samples.keys().eq(committed.keys()), "{}: {:?}", record.folder, committed.keys());
        for (name, bytes) in &samples {
            assert_eq!(bytes, &committed[name], "{}/{name} is no longer what the encoder writes", record.folder);
        }
        assert!(!record.valid.is_empty() && !record.invalid.is_empty(), "{} has vectors of both kinds", record.folder);
    }
}

#[test]
fn valid_vectors_come_back_byte_for_byte() {
    for record in samples::records() {
        for (name, bytes) in committed(&record).iter().filter(|(name, _)| name.starts_with("valid-")) {
            assert_eq!(again(&record, bytes).as_ref(), Ok(bytes), "{}/{name}", record.folder);
        }
    }
}

#[test]
fn invalid_vectors_are_refused_for_the_reason_in_their_name() {
    for record in samples::records() {
        for (name, bytes) in committed(&record).iter().filter(|(name, _)| !name.starts_with("valid-")) {
            let problem = name.strip_prefix("invalid-").and_then(|n| n.split(['-', '.']).next());
            let refused = again(&record, bytes).expect_err(&format!("{}/{name} must be refused", record.folder));
            assert_eq!(Some(word(refused.problem)), problem, "{}/{name}: {refused}", record.folder);
        }
    }
}

/// `damaged` is refused, or, in a record without a checksum of its own, is taken for what it says: data
/// that differs, so that the id of the chunk around it differs too.
fn must_be_seen(record: &Record, name: &str, what: &str, damaged: &[u8]) {
    match again(record, damaged) {
        Err(_) => {}
        Ok(_) if record.checked => panic!("{}/{name}: {what} was not seen", record.folder),
        Ok(bytes) => assert_eq!(bytes, damaged, "{}/{name}: {what} was read as other data", record.folder),
    }
}

#[test]
fn no_truncation_passes() {
    for record in samples::records() {
        for (name, bytes) in &record.valid {
            for len in 0..bytes.len() {
                must_be_seen(&record, name, &format!("truncation to {len}"), &bytes[..len]);
            }
        }
    }
}

#[test]
fn no_flipped_bit_passes() {
    for record in samples::records() {
        for (name, bytes) in &record.valid {
            let mut damaged = bytes.clone();
            for bit in 0..bytes.len() * 8 {
                damaged[bit / 8] ^= 1 << (bit % 8);
                must_be_seen(&record, name, &format!("flip of bit {bit}"), &damaged);
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

/// Damage that a checksum does not see because somebody made it right again: still no panic, no large allocation,
/// and nothing that encodes differently.
#[test]
fn no_flipped_bit_under_a_right_checksum_is_read_as_other_data() {
    for record in samples::records().into_iter().filter(|r| r.checked && r.extension == "bin") {
        let reseal = if record.folder == "segment-header" { samples::resealed_segment } else { samples::resealed };
        for (name, bytes) in &record.valid {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let damaged = reseal(damaged);
                if let Ok(bytes) = again(&record, &damaged) {
                    assert_eq!(bytes, damaged, "{}/{name}: flip of bit {bit}", record.folder);
                }
            }
        }
    }
}

/// The canary: the harness itself must notice a decoder that is too generous.
#[test]
#[should_panic(expected = "was not seen")]
fn a_decoder_that_takes_anything_is_noticed() {
    let mut record = samples::records().remove(1);
    record.again = |bytes| Ok(bytes.to_vec());
    let bytes = record.valid[0].1.clone();
    must_be_seen(&record, "canary", "truncation", &bytes[1..]);
}

#[test]
#[should_panic(expected = "bytes allocated for")]
fn a_decoder_that_allocates_what_a_length_says_is_noticed() {
    let mut record = samples::records().remove(1);
    record.again = |_| Ok(Vec::with_capacity(1 << 20));
    let _ = again(&record, &[0; 8]);
}
