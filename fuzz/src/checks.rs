//! What each fuzz target checks: any bytes end well. `make fuzz` feeds it what libFuzzer thinks of, and
//! `tests/fuzz_corpus.rs` what is in `fuzz/corpus`; `decoders` is relict in both.

use decoders::catalog::points::{Filter, Points, printable, split_path, time_limit};
use decoders::catalog::retention::Age;
use decoders::ingest::btrfs::BtrfsDecoder;
use decoders::ingest::change::{Change, Decode, Step};
use decoders::ingest::exclude::{ExcludeOptions, Excludes, parse_size};
use decoders::ingest::image::disk::Disk;
use decoders::ingest::image::extents;
use decoders::ingest::image::nbd::session::{ALLOCATION, Session};
use decoders::ingest::image::nbd::uri::NbdUri;
use decoders::ingest::image::rbd::{DiffDecoder, RawDecoder};
use decoders::ingest::image::source::BlockSource;
use decoders::ingest::image::swap;
use decoders::store::{Keys, MemoryStore, PackageStore, Segment, read_segment, scan_package};
use decoders::view::names;
use repo_format::{
    CHECK_BYTES, Child, ChunkId, Codec, JournalRecord, Key, KeyKind, KeySlot, Node, PACKAGE_HEADER_BYTES,
    PackageFooter, PackageHeader, PackageId, PackageKind, PointRecord, PointState, RepoHeader, RepoId, SegmentHeader,
    SegmentKind, TableEntry, Time, Value, check_of,
};
use std::io::{self, Cursor, Read, Write};

/// What is asked of a decoder: to take any bytes and not to panic.
pub type Check = fn(&[u8]);

/// Each target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Check); 11] = [
    ("btrfs", btrfs),
    ("rbd", rbd),
    ("nbd", nbd),
    ("extents", extents),
    ("partitions", partitions),
    ("records", records),
    ("segment", segment),
    ("package", package),
    ("times", times),
    ("words", words),
    ("excludes", excludes),
];

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

/// The first byte says which record of the repository it is, and its highest bit whether the checksum is put right, so that
/// what is behind it is reached. A node that is taken can be read.
pub fn records(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let kind = mode % 128 % 13;
    let mended = if *mode < 128 { bytes.to_vec() } else { mended(kind, bytes) };
    let bytes = &mended[..];
    match kind {
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

/// The same bytes with the checksum that they should have.
fn mended(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    match kind {
        0 => mend_segment(&mut out),
        // Everything that ends in its check.
        1..=7 => {
            if let Some(end) = out.len().checked_sub(CHECK_BYTES) {
                let check = check_of(&out[..end]);
                out[end..].copy_from_slice(&check);
            }
        }
        8 => {
            let line = b"check = \"";
            let end = out.windows(line.len()).position(|at| at == line).unwrap_or(out.len());
            let check: String = check_of(&out[..end]).iter().map(|byte| format!("{byte:02x}")).collect();
            out.truncate(end);
            out.extend(format!("check = \"{check}\"\n").bytes());
        }
        _ => {}
    }
    out
}

/// Puts the two checks of the segment at the beginning of some bytes right, as far as it is there.
fn mend_segment(bytes: &mut [u8]) {
    let Ok(front) = SegmentHeader::needed_bytes(bytes) else { return };
    let stored = bytes.get(20..24).map_or(0, |field| u32::from_le_bytes(field.try_into().unwrap()) as usize);
    if let Some(payload) = front.checked_add(stored).and_then(|end| bytes.get(front..end)) {
        let check = check_of(payload);
        bytes[32..48].copy_from_slice(&check);
    }
    if bytes.len() >= front {
        let check = check_of(&[&bytes[..48], &bytes[64..front]].concat());
        bytes[48..64].copy_from_slice(&check);
    }
}

/// A segment as it is read from a package, decompressed: what is given out is as long as the table says. The first byte: as
/// it is, with its checks put right, or made of a table of lengths and a payload.
pub fn segment(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let mut bytes = match mode % 3 {
        0 | 1 => bytes.to_vec(),
        _ => made_segment(bytes),
    };
    if mode % 3 == 1 {
        mend_segment(&mut bytes);
    }
    let Ok(segment) = Segment::open(&mut bytes, None) else { return };
    assert_eq!(segment.raw().len() as u64, segment.header().raw_bytes());
    let mut at = 0;
    for (start, row) in segment.rows() {
        assert_eq!(start, at);
        at += row.raw_bytes;
        assert_eq!(segment.row_at(start), Some(row));
    }
    assert_eq!(at as usize, segment.raw().len());
}

/// The first byte: how many chunks; then three bytes for each one's length; then a zstd frame.
fn made_segment(bytes: &[u8]) -> Vec<u8> {
    let Some((rows, rest)) = bytes.split_first() else { return Vec::new() };
    let (lengths, payload) = rest.split_at((usize::from(*rows % 8) * 3).min(rest.len() / 3 * 3));
    let row = |len: &[u8]| TableEntry {
        id: ChunkId([len[0]; 32]),
        raw_bytes: u32::from_le_bytes([len[0], len[1], len[2], 0]),
    };
    let table: Vec<TableEntry> = lengths.chunks_exact(3).map(row).collect();
    let (kind, codec) = (SegmentKind::Data, Codec::Zstd);
    let (number, stored_bytes, payload_check) = (0, payload.len() as u32, check_of(payload));
    let header = SegmentHeader { kind, codec, number, stored_bytes, payload_check, table };
    [header.encode(), payload.to_vec()].concat()
}

/// A whole package, as recovery, rebuild and check go through it. The first byte: as it is, or with the checks of its
/// header, its segments and its footer put right.
pub fn package(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let id = PackageId([0xab; 16]);
    let mut bytes = bytes.to_vec();
    if mode % 2 == 1 {
        mend_package(&mut bytes, id);
    }
    let store = MemoryStore::default();
    store.create(&id).unwrap();
    store.append(&id, 0, &[&bytes]).unwrap();
    let Ok(scanned) = scan_package(&store, &id) else { return };
    let mut last = PACKAGE_HEADER_BYTES as u64;
    for found in &scanned.segments {
        assert!(found.offset >= last, "segments in order, and apart");
        last = found.offset + found.header.segment_bytes();
        assert!(last <= bytes.len() as u64, "no segment reaches out");
        let _ = read_segment(&store, &Keys::none(), &id, found.offset, found.header.segment_bytes() as u32);
    }
}

fn mend_package(bytes: &mut [u8], id: PackageId) {
    if bytes.len() < PACKAGE_HEADER_BYTES {
        return;
    }
    let header = PackageHeader { kind: PackageKind::Data, encrypted: false, repo: RepoId([1; 16]), package: id };
    bytes[..PACKAGE_HEADER_BYTES].copy_from_slice(&header.encode());
    let mut at = PACKAGE_HEADER_BYTES;
    while at < bytes.len() {
        let rest = &mut bytes[at..];
        mend_segment(rest);
        match SegmentHeader::needed_bytes(rest)
            .and_then(|front| SegmentHeader::decode(rest.get(..front).unwrap_or(&[])))
        {
            Ok(header) => at = at.saturating_add(header.segment_bytes() as usize),
            Err(_) => break,
        }
    }
    // What is left is perhaps a footer.
    let end = bytes.len() - CHECK_BYTES.min(bytes.len());
    if let Some(start) = bytes.get(at..end).map(|_| at) {
        let check = check_of(&bytes[start..end]);
        bytes[end..].copy_from_slice(&check);
    }
}

/// A disk in memory.
struct Ram<'a>(&'a [u8]);

impl BlockSource for Ram<'_> {
    fn size(&self) -> u64 {
        // Larger than what is there, so that tables may lead far.
        self.0.len() as u64 + (1 << 30)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> decoders::Result<()> {
        assert!(offset + out.len() as u64 <= self.size(), "a read outside of the disk: {offset}, {}", out.len());
        out.fill(0);
        let from = self.0.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        Ok(())
    }

    fn next_data(&mut self, within: std::ops::Range<u64>) -> decoders::Result<Option<std::ops::Range<u64>>> {
        Ok(Some(within))
    }
}

/// Partition tables of any disk: what is left out of it lies in it, and in order.
pub fn partitions(data: &[u8]) {
    let mut disk = Ram(data);
    let Ok(swaps) = swap::find(&mut disk) else { return };
    let mut last = 0;
    for swap in swaps {
        assert!(
            swap.pages.start >= last && swap.pages.start < swap.pages.end && swap.pages.end <= disk.size(),
            "{swap:?}"
        );
        last = swap.pages.end;
    }
}

/// Addresses and names that people type or repositories hold. Names in the mount are one safe path component and come back.
pub fn words(data: &[u8]) {
    let name = names::escape(data);
    assert!(!name.is_empty() && name.len() <= 255 && !name.contains('/') && !name.contains('\0'), "{name:?}");
    assert!(name != "." && name != ".." && !name.chars().any(|c| c.is_ascii_control()), "{name:?}");
    if let Some(back) = names::unescape(&name) {
        assert_eq!(back, data);
    }
    let text = String::from_utf8_lossy(data);
    let _ = names::unescape(&text);
    let errors = [NbdUri::parse(&text).err(), text.parse::<Age>().err(), parse_size(&text).err()];
    for error in errors.into_iter().flatten() {
        let words = format!("{error}{}", error.advice().unwrap_or_default());
        assert!(!words.chars().any(|c| c.is_control() && c != '\n'), "{words:?}");
    }
}

/// The first line is a path, each other a pattern. Nothing that is excluded is so at random: the answer is the same again.
pub fn excludes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n').map(str::to_owned);
    let path = std::path::PathBuf::from(format!("/{}", lines.next().unwrap_or_default()));
    let (exclude, iexclude): (Vec<_>, Vec<_>) = lines.take(32).enumerate().partition(|(at, _)| at % 2 == 0);
    let plain = |numbered: Vec<(usize, String)>| numbered.into_iter().map(|(_, line)| line).collect();
    let options = ExcludeOptions { exclude: plain(exclude), iexclude: plain(iexclude), ..ExcludeOptions::default() };
    let Ok(excludes) = Excludes::new(&options) else { return };
    for is_dir in [false, true] {
        assert_eq!(excludes.excluded(&path, is_dir), excludes.excluded(&path, is_dir));
    }
    assert!(!excludes.excluded(std::path::Path::new("/"), true), "the root is never excluded by a pattern");
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
        let (old, new) = text.split_once("..").unwrap_or((text, "latest"));
        let pair = points.resolve_pair(old, new, &Filter::default(), now).map(drop);
        for error in
            [points.resolve_at(text, &Filter::default(), now).map(drop), pair].into_iter().filter_map(Result::err)
        {
            assert!(!error.to_string().chars().any(|c| c.is_control() && c != '\n'), "{error:?}");
        }
    }
}
