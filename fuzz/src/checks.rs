//! What each fuzz target checks: any bytes end well. `make fuzz` feeds it what libFuzzer thinks of, and
//! `tests/fuzz_corpus.rs` what is in `fuzz/corpus`; `decoders` is relict in both.

use decoders::catalog::points::{Filter, Points, printable, split_path, time_limit};
use decoders::ingest::btrfs::BtrfsDecoder;
use decoders::ingest::change::{Change, Decode, Step};
use decoders::ingest::image::disk::Disk;
use decoders::ingest::image::extents;
use decoders::ingest::image::nbd::session::{ALLOCATION, Session};
use decoders::ingest::image::rbd::{DiffDecoder, RawDecoder};
use repo_format::{
    Child, JournalRecord, Key, KeyKind, KeySlot, Node, PackageFooter, PackageHeader, PointRecord, PointState,
    RepoHeader, SegmentHeader, Time, Value,
};
use std::io::{self, Cursor, Read, Write};

/// Each target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, fn(&[u8])); 6] =
    [("btrfs", btrfs), ("rbd", rbd), ("nbd", nbd), ("extents", extents), ("records", records), ("times", times)];

/// Steps that use up nothing, one after the other, before a decoder counts as stuck.
const MAX_IDLE: usize = 16;
const BITMAP: &str = "qemu:dirty-bitmap:b";
const DISK_BYTES: u64 = 3000;
const POINT: &[u8] = include_bytes!("../../repo-format/vectors/restore-point/valid-everything.bin");

/// What came out. Writes that follow each other are one: how a decoder cuts them is its own affair.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Written(u64, Vec<u8>),
    Other(String),
}

fn see(seen: &mut Vec<Seen>, change: &Change<'_>) {
    let Change::Write { offset, data, .. } = *change else {
        seen.push(Seen::Other(format!("{change:?}")));
        return;
    };
    match seen.last_mut() {
        Some(Seen::Written(at, before)) if at.checked_add(before.len() as u64) == Some(offset) => before.extend(data),
        _ => seen.push(Seen::Written(offset, data.to_vec())),
    }
}

/// The changes of bytes that come `step` at a time; None where they are refused.
fn decode(decoder: &mut dyn Decode, bytes: &[u8], step: usize) -> Option<Vec<Seen>> {
    let (mut at, mut have, mut idle, mut seen) = (0, 0, 0, Vec::new());
    loop {
        let last = have == bytes.len();
        if at == have && last && decoder.may_end() {
            return Some(seen);
        }
        match decoder.next(&bytes[at..have], last) {
            Ok(Step::Change(used, change)) => {
                idle = if used == 0 { idle + 1 } else { 0 };
                assert!(used <= have - at && idle < MAX_IDLE, "no progress in {}", decoder.doing());
                change.iter().for_each(|change| see(&mut seen, change));
                at += used;
            }
            Ok(Step::More(more)) => {
                assert!(more > have - at && more <= decoder.max_input_bytes(), "{more} in {}", decoder.doing());
                if last {
                    return None;
                }
                have = bytes.len().min(have.saturating_add(step));
            }
            Err(_) => return None,
        }
    }
}

/// The first byte says whether checksums are put right, so that what is behind them is reached.
pub fn btrfs(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let stream = if mode % 2 == 0 { rest.to_vec() } else { with_checksums(rest) };
    assert_eq!(decode(&mut BtrfsDecoder::new(), &stream, usize::MAX), decode(&mut BtrfsDecoder::new(), &stream, 13));
}

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

/// The first byte: a diff, a plain export, or a plain export of a size that is known.
pub fn rbd(data: &[u8]) {
    let Some((mode, stream)) = data.split_first() else { return };
    let disk = || Disk { name: b"vm.raw".to_vec(), mode: 0o600, uid: 0, gid: 0, mtime: Time { sec: 7, nsec: 0 } };
    let run = |step| match mode % 3 {
        0 => decode(&mut DiffDecoder::new(disk()), stream, step),
        1 => decode(&mut RawDecoder::new(b"id".to_vec(), disk(), None), stream, step),
        _ => decode(&mut RawDecoder::new(b"id".to_vec(), disk(), Some(100)), stream, step),
    };
    assert_eq!(run(usize::MAX), run(13));
}

/// Answers of a server that does not listen.
struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let head = [option, kind, data.len() as u32].map(u32::to_be_bytes).concat();
    [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &head, data].concat()
}

/// A handshake that ends well: structured replies, two contexts, an export of 3000 bytes.
fn handshake() -> Vec<u8> {
    let context = |id: u32, name: &str| option_reply(10, 4, &[&id.to_be_bytes()[..], name.as_bytes()].concat());
    let export = [&0_u16.to_be_bytes()[..], &DISK_BYTES.to_be_bytes(), &1_u16.to_be_bytes()].concat();
    let parts = [
        b"NBDMAGICIHAVEOPT\0\x03".to_vec(),
        option_reply(8, 1, b""),
        context(0, ALLOCATION),
        context(7, BITMAP),
        option_reply(10, 1, b""),
        option_reply(7, 3, &export),
        option_reply(7, 1, b""),
    ];
    parts.concat()
}

/// The first byte: whether the handshake is the input's, or is over, and what is asked then.
pub fn nbd(data: &[u8]) {
    let Some((mode, answers)) = data.split_first() else { return };
    let front = if mode % 4 == 0 { Vec::new() } else { handshake() };
    let script = Script(Cursor::new([&front[..], answers].concat()));
    let opened = Session::open(script, b"sda", &[ALLOCATION, BITMAP]);
    assert!(
        mode % 4 == 0 || opened.as_ref().is_ok_and(|session| session.size() == DISK_BYTES),
        "the handshake is good"
    );
    let Ok(mut session) = opened else { return };
    if mode % 4 != 2 {
        let _ = session.read(0, &mut [0; DISK_BYTES as usize]);
    }
    let _ = session.map(&[BITMAP], &|| Ok(()));
}

/// A list that is taken has ranges that ascend, do not overlap, and lie in the disk.
pub fn extents(data: &[u8]) {
    let Ok(list) = extents::parse(data) else { return };
    let mut at = 0;
    for range in &list.ranges {
        assert!(range.len > 0 && range.offset >= at, "{range:?} behind {at}");
        at = range.offset.checked_add(range.len).unwrap();
    }
    assert!(list.size.is_none_or(|size| at <= size), "{at} of {:?}", list.size);
}

/// The first byte says which record of the repository it is. A node that is taken can be read.
pub fn records(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    match mode % 13 {
        0 => drop(SegmentHeader::needed_bytes(bytes).and_then(|_| SegmentHeader::decode(bytes))),
        1 => drop(PackageHeader::decode(bytes)),
        2 => drop(PackageFooter::encoded_bytes(bytes).and_then(|_| PackageFooter::decode(bytes, 64))),
        3 => drop(PackageFooter::decode(bytes, bytes.len() as u64)),
        4 => drop(KeySlot::decode(bytes)),
        5 => again(PointRecord::decode(bytes), PointRecord::encode, PointRecord::decode),
        6 => drop(PointState::decode(bytes)),
        7 => again(JournalRecord::decode(bytes), JournalRecord::encode, JournalRecord::decode),
        8 => drop(RepoHeader::decode(bytes)),
        9 => drop(Key::decode(bytes)),
        10 => drop(Child::decode(bytes)),
        11 => node(bytes),
        _ => {
            for kind in
                [KeyKind::Inode, KeyKind::Xattr, KeyKind::Dirent, KeyKind::Extent, KeyKind::Target, KeyKind::SourceIno]
            {
                let _ = Value::decode(kind, bytes);
            }
        }
    }
}

/// What was taken is the same after it was written and read.
fn again<T: PartialEq + std::fmt::Debug>(
    first: repo_format::Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> repo_format::Result<T>,
) {
    if let Ok(first) = first {
        assert_eq!(decode(&encode(&first)), Ok(first));
    }
}

fn node(bytes: &[u8]) {
    let Ok(node) = Node::decode(bytes) else { return };
    assert_eq!(node.bytes(), bytes);
    assert!((0..bytes.len()).map_while(|index| node.entry(index)).count() < bytes.len(), "an entry has bytes");
}

/// What people type for times and points; nothing of it reaches a terminal as a control sequence.
pub fn times(data: &[u8]) {
    assert!(!printable(data).chars().any(char::is_control));
    let (text, _) = split_path(data);
    let now = Time { sec: 1_795_262_000, nsec: 0 };
    let points = Points::new(vec![PointRecord::decode(POINT).unwrap()]);
    for text in [&text, &*String::from_utf8_lossy(data)] {
        let _ = time_limit(text, now);
        if let Err(error) = points.resolve_at(text, &Filter::default(), now) {
            assert!(!error.to_string().chars().any(|c| c.is_control() && c != '\n'), "{error:?}");
        }
    }
}
