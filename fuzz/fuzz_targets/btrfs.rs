//! The btrfs decoder: any bytes end well, and the same bytes in pieces mean the same.
#![no_main]

use decoders::ingest::btrfs::BtrfsDecoder;
use decoders::ingest::change::{Decode, Step};
use libfuzzer_sys::fuzz_target;

/// The changes as text, and whether it ended well, for input that comes `step` bytes at a time.
fn decode(bytes: &[u8], step: usize) -> (Vec<String>, bool) {
    let mut decoder = BtrfsDecoder::new();
    let (mut at, mut have, mut changes) = (0, 0, Vec::new());
    loop {
        let last = have == bytes.len();
        if at == have && last && decoder.may_end() {
            return (changes, true);
        }
        match decoder.next(&bytes[at..have], last) {
            Ok(Step::Change(used, change)) => {
                assert!(used <= have - at);
                changes.extend(change.map(|change| format!("{change:?}")));
                at += used;
            }
            Ok(Step::More(more)) => {
                assert!(more > have - at && more <= decoder.max_input_bytes());
                if last {
                    return (changes, false);
                }
                have = bytes.len().min(have.saturating_add(step));
            }
            Err(_) => return (changes, false),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    // The first byte says whether checksums are made right, so that what is behind them is reached.
    let Some((mode, rest)) = data.split_first() else { return };
    let stream = if mode % 2 == 0 { rest.to_vec() } else { with_checksums(rest) };
    assert_eq!(decode(&stream, usize::MAX), decode(&stream, 13));
});

/// Puts the right checksum into every command.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 17;
    while let Some(header) = out.get(at..at + 10) {
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(end) = (at + 10).checked_add(len).filter(|end| *end <= out.len()) else { break };
        out[at + 6..at + 10].fill(0);
        let sum = crc32c::crc32c_append(u32::MAX, &out[at..end]) ^ u32::MAX;
        out[at + 6..at + 10].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    out
}
