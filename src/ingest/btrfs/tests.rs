//! The decoder against streams made here, real ones, and damage of every kind.

use super::*;
use crate::ingest::change::{Change, SetAttr};
use proptest::prelude::*;
use repo_format::{Device, FileKind, Time};
use std::path::PathBuf;

/// A stream being put together.
struct Maker(Vec<u8>, u32);

impl Maker {
    fn new(version: u32) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        Self(bytes, version)
    }

    /// A stream with a state begun.
    fn begun(version: u32) -> Self {
        Self::new(version).command(1, &[(15, b"sub"), (1, &[7; 16]), (2, &9_u64.to_le_bytes())])
    }

    fn command(self, number: u16, attributes: &[(u16, &[u8])]) -> Self {
        let mut payload = Vec::new();
        for (kind, value) in attributes {
            payload.extend(kind.to_le_bytes());
            if !(*kind == 19 && self.1 >= 2) {
                payload.extend((value.len() as u16).to_le_bytes());
            }
            payload.extend(*value);
        }
        self.raw(number, &payload)
    }

    fn raw(mut self, number: u16, payload: &[u8]) -> Self {
        let [l0, l1, l2, l3] = (payload.len() as u32).to_le_bytes();
        let [c0, c1] = number.to_le_bytes();
        let mut header = [l0, l1, l2, l3, c0, c1, 0, 0, 0, 0];
        let sum = checksum(&header, payload).to_le_bytes();
        header[6..].copy_from_slice(&sum);
        self.0.extend(header);
        self.0.extend(payload);
        self
    }

    fn end(self) -> Vec<u8> {
        self.raw(21, &[]).0
    }
}

/// Decodes bytes given `step` at a time. What was decoded, and the error that ended it.
fn decode_by(bytes: &[u8], step: usize) -> (Vec<String>, Option<String>) {
    let mut decoder = BtrfsDecoder::new();
    let (mut at, mut have, mut changes) = (0, 0, Vec::new());
    loop {
        let is_last = have == bytes.len();
        if at == bytes.len() && is_last && decoder.may_end() {
            return (changes, None);
        }
        match decoder.next(&bytes[at..have], is_last) {
            Ok(Step::Change(used, change)) => {
                assert!(used <= have - at);
                changes.extend(change.map(|change| format!("{change:?}")));
                at += used;
            }
            Ok(Step::More(more)) => {
                assert!(more > have - at && more <= decoder.max_input_bytes(), "{more}");
                if is_last {
                    return (changes, Some(format!("cut in {}", decoder.doing())));
                }
                have = bytes.len().min(have + step);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::BadInput);
                return (changes, Some(format!("{}: {error}", decoder.doing())));
            }
        }
    }
}

fn decode(bytes: &[u8]) -> (Vec<String>, Option<String>) {
    decode_by(bytes, usize::MAX / 2)
}

/// The changes of a stream that is valid.
fn changes(bytes: &[u8]) -> Vec<String> {
    let (changes, error) = decode(bytes);
    assert_eq!(error, None);
    changes
}

fn error(bytes: &[u8]) -> String {
    let (changes, error) = decode(bytes);
    assert!(!changes.contains(&"End".to_owned()), "{changes:?}");
    error.unwrap()
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/btrfs").join(name)).unwrap()
}

const P: (u16, &[u8]) = (15, b"a/f");

fn number(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

#[test]
fn every_command_is_the_change_it_should_be() {
    let time = |sec: i64, nsec: u32| [&sec.to_le_bytes()[..], &nsec.to_le_bytes()].concat();
    let stream = Maker::new(3)
        .command(2, &[(15, b"tue"), (1, &[7; 16]), (2, &number(9)), (20, &[6; 16]), (21, &number(8))])
        .command(3, &[(15, b"o257-1-0"), (3, &number(257))])
        .command(4, &[(15, b"d"), (3, &number(258))])
        .command(5, &[(15, b"null"), (3, &number(259)), (5, &number(0o20_666)), (8, &number(0x103))])
        .command(6, &[(15, b"pipe"), (3, &number(260)), (5, &number(0o10_644)), (8, &number(0))])
        .command(7, &[(15, b"sock"), (3, &number(261)), (5, &number(0o140_755)), (8, &number(0))])
        .command(8, &[(15, b"l"), (3, &number(262)), (17, b"../t")])
        .command(9, &[(15, b"o257-1-0"), (16, b"a/f")])
        .command(10, &[(15, b"a/g"), (17, b"a/f")])
        .command(11, &[P])
        .command(12, &[(15, b"d")])
        .command(13, &[P, (13, b"user.x"), (14, b"\0\x01")])
        .command(14, &[P, (13, b"user.x")])
        .command(15, &[P, (18, &number(4096)), (19, b"hello")])
        .command(
            16,
            &[
                P,
                (18, &number(0)),
                (24, &number(4096)),
                (20, &[5; 16]),
                (21, &number(1)),
                (22, b"s"),
                (23, &number(8192)),
            ],
        )
        .command(17, &[P, (4, &number(5))])
        .command(18, &[P, (5, &number(0o4755))])
        .command(19, &[P, (6, &number(1000)), (7, &number(100))])
        .command(20, &[P, (11, &time(1, 1)), (10, &time(-5, 999_999_999)), (9, &time(6, 7)), (12, &time(8, 9))])
        .command(22, &[P, (18, &number(1)), (4, &number(2))])
        .command(23, &[P, (25, &3_u32.to_le_bytes()), (18, &number(1)), (4, &number(2))])
        .command(23, &[P, (25, &0_u32.to_le_bytes()), (18, &number(1)), (4, &number(2))])
        .command(23, &[P, (25, &1_u32.to_le_bytes()), (18, &number(1)), (4, &number(2))])
        .command(24, &[P, (26, &number(1 << 6))])
        .command(25, &[P, (18, &number(0)), (27, &number(3)), (28, &number(8)), (29, &number(2)), (19, b"abcd")])
        .command(26, &[P, (32, &[1]), (33, &4096_u32.to_le_bytes()), (34, b""), (35, b"")])
        .command(26, &[(15, b"second"), (32, &[1]), (33, &4096_u32.to_le_bytes()), (34, b""), (35, b"")])
        .end();
    let (f, g): (&[u8], &[u8]) = (b"a/f", b"a/g");
    let set = |set: SetAttr| Change::SetAttr { path: f, set };
    let create = |path, kind, ino, device| Change::Create { path, kind, ino: Some(ino), device };
    let at = |sec, nsec| Some(Time { sec, nsec });
    let none = SetAttr::default();
    let expected = [
        Change::Begin { id: &[7; 16], parent: Some(&[6; 16]), name: b"tue", generation: 9 },
        create(b"o257-1-0", FileKind::File, 257, None),
        create(b"d", FileKind::Dir, 258, None),
        create(b"null", FileKind::Char, 259, Some(Device { major: 1, minor: 3 })),
        create(b"pipe", FileKind::Fifo, 260, None),
        create(b"sock", FileKind::Socket, 261, None),
        create(b"l", FileKind::Symlink, 262, None),
        Change::SetTarget { path: b"l", target: b"../t" },
        Change::Rename { from: b"o257-1-0", to: f },
        Change::Link { path: g, existing: f },
        Change::Unlink { path: f },
        Change::RemoveDir { path: b"d" },
        Change::SetXattr { path: f, name: b"user.x", value: b"\0\x01" },
        Change::RemoveXattr { path: f, name: b"user.x" },
        Change::Write { path: f, offset: 4096, data: b"hello" },
        Change::Clone { path: f, offset: 0, state: Some(&[5; 16]), from: b"s", from_offset: 8192, len: 4096 },
        Change::Truncate { path: f, size: 5 },
        set(SetAttr { mode: Some(0o4755), ..none }),
        set(SetAttr { uid: Some(1000), gid: Some(100), ..none }),
        set(SetAttr { mtime: at(-5, 999_999_999), ctime: at(6, 7), btime: at(8, 9), ..none }),
        Change::Changed { path: f, offset: 1, len: 2 },
        Change::Zero { path: f, offset: 1, len: 2, extend: false },
        Change::Zero { path: f, offset: 3, len: 0, extend: true },
        set(SetAttr { flags: Some(0x10), ..none }),
        Change::Write { path: f, offset: 0, data: b"cd\0" },
        Change::Zero { path: f, offset: 3, len: 4093, extend: false },
        Change::Note {
            text: b"fs-verity of some files was left out: their content is here, their verity digests are not",
        },
        Change::End,
    ];
    assert_eq!(changes(&stream), expected.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_is_named() {
    let begun = || Maker::begun(2);
    let zeros = number(0);
    let encoded = |more: &[(u16, &[u8])], data: &[u8]| {
        let mut all = vec![P, (18, &zeros[..])];
        all.extend(more);
        all.push((19, data));
        begun().command(25, &all).end()
    };
    let (n8, n9, n128k) = (number(8), number(9), number(128 << 10));
    let sizes: [(u16, &[u8]); 3] = [(27, &n8), (28, &n8), (29, &zeros)];
    let with = |kind: u16, value: &'static [u8]| [&sizes[..], &[(kind, value)]].concat();
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 3).unwrap();
    let bomb_sizes: [(u16, &[u8]); 4] = [(27, &n128k), (28, &n128k), (29, &zeros), (30, &[2, 0, 0, 0])];
    let claim = number(1 << 40);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("the header: this is no btrfs send stream", b"btrfs-strEam\0\x01\0\0\0".to_vec()),
        ("of version 4; versions 1 to 3", Maker::new(4).end()),
        ("command 99: command 99 is not known", begun().command(99, &[P]).end()),
        ("command 0: command 0 is not known", begun().command(0, &[P]).end()),
        ("command 23: FALLOCATE came with version 2", Maker::begun(1).command(23, &[P]).end()),
        ("MKFILE: its attribute of type 36", begun().command(3, &[P, (36, b"")]).end()),
        ("MKFILE: its attribute VERITY_ALGORITHM came with version 3", begun().command(3, &[P, (32, b"x")]).end()),
        ("MKFILE: its attribute PATH is missing", begun().command(3, &[(3, &n8)]).end()),
        ("MKFILE: its attribute PATH is there twice", begun().command(3, &[P, P]).end()),
        ("TRUNCATE: its attribute SIZE has 3 bytes instead of 8", begun().command(17, &[P, (4, b"abc")]).end()),
        ("MKFILE: its attribute PATH is longer than the command", begun().raw(3, &[15, 0, 5, 0, b'a']).end()),
        ("MKFILE: an attribute begins at its last byte", begun().raw(3, &[15]).end()),
        ("WRITE: it stands before any SUBVOL or SNAPSHOT", Maker::new(1).command(15, &[P]).end()),
        ("END: the stream ends, but has neither", Maker::new(1).end()),
        ("CHOWN: its attribute UID is 4294967296", begun().command(19, &[P, (6, &number(1 << 32)), (7, &n8)]).end()),
        ("CHMOD: its mode 1000000 has bits", begun().command(18, &[P, (5, &number(0o1_000_000))]).end()),
        ("MKFIFO: its mode 100644 is of another type", begun().command(6, &[P, (5, &number(0o100_644))]).end()),
        (
            "UTIMES: its attribute MTIME has 1000000000 nanoseconds",
            begun().command(20, &[P, (10, b"\0\0\0\0\0\0\0\0\x00\xca\x9a\x3b")]).end(),
        ),
        ("FALLOCATE: its mode 0x10", begun().command(23, &[P, (25, &16_u32.to_le_bytes()), (18, &n8), (4, &n8)]).end()),
        (
            "FALLOCATE: 8 bytes from byte 18446744073709551615 on end",
            begun().command(23, &[P, (25, &[3, 0, 0, 0]), (18, &[0xff; 8]), (4, &n8)]).end(),
        ),
        ("ENCODED_WRITE: its data is encrypted", encoded(&with(31, &[1, 0, 0, 0]), b"x")),
        ("ENCODED_WRITE: its compression 8 is not known", encoded(&with(30, &[8, 0, 0, 0]), b"x")),
        ("ENCODED_WRITE: its data is no valid zstd", encoded(&with(30, &[2, 0, 0, 0]), b"no frame")),
        ("ENCODED_WRITE: its data is no valid zlib", encoded(&with(30, &[1, 0, 0, 0]), b"no zlib")),
        ("ENCODED_WRITE: its data is no valid LZO", encoded(&with(30, &[3, 0, 0, 0]), b"\xff\0\0\0")),
        ("ENCODED_WRITE: its data expands to more than the 8 bytes", encoded(&sizes, b"123456789")),
        ("ENCODED_WRITE: its data is no valid zstd, or more than it claims", encoded(&bomb_sizes, &bomb)),
        ("ENCODED_WRITE: it takes 9 bytes from byte 0 of its 8", encoded(&[(27, &n9), (28, &n8), (29, &zeros)], b"x")),
        (
            "ENCODED_WRITE: it claims 1099511627776 bytes of content",
            encoded(&[(27, &n8), (28, &claim), (29, &zeros)], b"x"),
        ),
        ("ENCODED_WRITE: its attribute UNENCODED_LEN is missing", encoded(&[(27, &n8), (29, &zeros)], b"x")),
        ("END: 5 or more bytes follow the end", [begun().end(), b"extra".to_vec()].concat()),
    ];
    for (expected, stream) in cases {
        let error = error(&stream);
        assert!(error.contains(expected), "{error}\nshould have: {expected}");
    }
    let mut long = begun().0;
    long.extend([0xff, 0xff, 0xff, 0xff, 15, 0, 0, 0, 0, 0, 1]);
    assert!(error(&long).contains("WRITE: it claims 4294967295 bytes"));
}

#[test]
fn compressed_data_expands_whatever_the_method() {
    let plain: Vec<u8> = (0..20_000_u32).flat_map(|i| (i / 7).to_le_bytes()).take(70_000).collect();
    let zlib = {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, &plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::bulk::compress(&plain, 3).unwrap();
    for (id, mut data) in [(1_u32, zlib), (2, zstd)] {
        data.extend([0; 777]); // the rest of a block
        for unencoded in [70_000_u64, 73_728] {
            let stream = Maker::begun(2).command(
                25,
                &[
                    P,
                    (18, &number(5)),
                    (27, &number(100)),
                    (28, &number(unencoded)),
                    (29, &number(69_950)),
                    (30, &id.to_le_bytes()),
                    (19, &data),
                ],
            );
            let expected: Vec<u8> = [&plain[69_950..], &[0; 50]].concat();
            let result = decode(&stream.end());
            if unencoded == 70_000 {
                assert!(result.1.unwrap().contains("it takes 100 bytes from byte 69950"));
            } else {
                let change = Change::Write { path: b"a/f", offset: 5, data: &expected };
                assert_eq!(result.0[1], format!("{change:?}"), "{:?}", result.1);
            }
        }
    }
}

/// The kernel does not say that the rest of an inline extent's block is zeros.
#[test]
fn an_encoded_inline_extent_clears_the_rest_of_its_block() {
    let write = |offset: u64, bytes: usize| {
        let (content, len) = (vec![7; bytes], number(bytes as u64));
        let sizes: [(u16, &[u8]); 4] = [P, (18, &number(offset)), (27, &len), (28, &len)];
        let stream = Maker::begun(2).command(25, &[&sizes[..], &[(29, &number(0)), (19, &content)]].concat()).end();
        let write = Change::Write { path: b"a/f", offset, data: &content };
        let (mut found, ended) = decode(&stream);
        assert_eq!((ended, decode_by(&stream, 1).0), (None, found.clone()));
        assert_eq!((found.remove(1), found.pop().as_deref()), (format!("{write:?}"), Some("End")));
        found.split_off(1)
    };
    let zero = |offset: u64| {
        let change = Change::Zero { path: b"a/f", offset, len: 4096 - offset, extend: false };
        vec![format!("{change:?}")]
    };
    assert_eq!((write(0, 1), write(0, 100), write(0, 4095)), (zero(1), zero(100), zero(4095)));
    let none = Vec::<String>::new();
    assert_eq!((write(0, 0), write(0, 4096), write(0, 4097)), (none.clone(), none.clone(), none.clone()));
    assert_eq!(
        (write(4096, 100), write(1, 100)),
        (none.clone(), none),
        "an inline extent is at the beginning of a file"
    );
}

#[test]
fn states_and_streams_follow_each_other() {
    let one = |id: u8| Maker::new(1).command(1, &[(15, b"s"), (1, &[id; 16]), (2, &number(1))]);
    let both = one(1).command(1, &[(15, b"t"), (1, &[2; 16]), (2, &number(1))]).end();
    assert_eq!(changes(&both).len(), 3);
    let again = [one(1).end(), one(2).end()].concat();
    let decoded = changes(&again);
    assert_eq!((decoded.len(), decoded[1].as_str(), decoded[3].as_str()), (4, "End", "End"));
    // A second stream that is cut: the first one is whole.
    let (decoded, error) = decode(&again[..again.len() - 3]);
    assert_eq!((decoded.len(), error.as_deref()), (3, Some("cut in a command's header")));
    let (decoded, error) = decode(&[one(1).end(), MAGIC[..9].to_vec()].concat());
    assert!(decoded.len() == 1 && error.unwrap().contains("no other stream"));
}

/// Whatever the pieces in which a stream comes, it is the same stream.
#[test]
fn pieces_do_not_matter() {
    let stream = data("s1/step1.v2-compressed.btrfs");
    let whole = decode(&stream);
    assert_eq!(whole.1, None);
    for step in [1, 7, 4096] {
        assert_eq!(decode_by(&stream, step), whole);
    }
}

#[test]
fn real_streams_decode_to_their_end() {
    for name in [
        "s1/step0.v2-compressed.btrfs",
        "s1/step1.v1.btrfs",
        "s1/nodata-step1.v1.btrfs",
        "s2-lzo/step0.v2-compressed.btrfs",
    ] {
        let decoded = changes(&data(name));
        assert!(decoded.len() > 30 && decoded.last().unwrap() == "End", "{name}: {}", decoded.len());
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_has_no_end() {
    let stream = data("s1/step1.v2-compressed.btrfs");
    for cut in 0..stream.len() {
        let (decoded, error) = decode(&stream[..cut]);
        assert!(error.is_some() && !decoded.contains(&"End".to_owned()), "cut at {cut}");
    }
}

#[test]
fn a_bit_that_flips_anywhere_is_noticed() {
    let stream = data("s1/step1.v2-compressed.btrfs");
    // Every byte of the first commands, then some of all.
    for at in (0..2000).chain((2000..stream.len()).step_by(41)) {
        let mut damaged = stream.clone();
        damaged[at] ^= 1 << (at % 8);
        // Version 1, 2 and 3 differ in what they allow, not in what they are: version 3 reads this stream as well.
        if at == 13 && damaged[at] == 3 {
            continue;
        }
        let (decoded, error) = decode(&damaged);
        assert!(error.is_some() && !decoded.contains(&"End".to_owned()), "bit of byte {at}");
    }
}

/// What `make fuzz` begins with and has found. The first byte is the target's own: whether it puts checksums right.
#[test]
fn the_corpus_of_the_fuzzer_ends_well() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/btrfs");
    let mut streams = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Some((_, stream)) = bytes.split_first() else { continue };
        assert_eq!(decode_by(stream, 13), decode(stream));
        streams += 1;
    }
    assert!(streams > 30, "{streams}");
}

proptest! {
    #[test]
    fn any_bytes_end_well(bytes in prop::collection::vec(any::<u8>(), 0..2000), version in 0_u32..5) {
        decode(&bytes);
        decode(&[&Maker::new(version).0[..], &bytes].concat());
    }

    /// Checksums right, everything else by chance.
    #[test]
    fn any_commands_end_well(
        commands in prop::collection::vec((0_u16..30, prop::collection::vec((0_u16..38, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 0..8)), 1..12),
        version in 1_u32..4,
    ) {
        const WIDTHS: [usize; 36] = [0, 16, 8, 8, 8, 8, 8, 8, 8, 12, 12, 12, 12, 5, 5, 5, 5, 5, 8, 9, 16, 8, 5, 8, 8, 4, 8, 8, 8, 8, 4, 4, 1, 4, 5, 5];
        let mut maker = Maker::begun(version);
        for (number, attributes) in commands {
            let fit = |(kind, mut value, fits): (u16, Vec<u8>, bool)| {
                if let Some(width) = WIDTHS.get(usize::from(kind)).filter(|_| fits) {
                    value.resize(*width, 0);
                }
                (kind, value)
            };
            let attributes: Vec<(u16, Vec<u8>)> = attributes.into_iter().map(fit).collect();
            let borrowed: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
            maker = maker.command(number, &borrowed);
        }
        decode(&maker.end());
    }

    /// Compressed data that was damaged below its checksum.
    #[test]
    fn damaged_compressed_data_ends_well(id in 0_u32..9, at in 0_usize..500, with in any::<u8>(), claim in 0_u64..300_000) {
        let plain: Vec<u8> = (0..9000_u32).map(|i| (i / 5) as u8).collect();
        let mut data = match id {
            1 => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                std::io::Write::write_all(&mut encoder, &plain).unwrap();
                encoder.finish().unwrap()
            }
            2 => zstd::bulk::compress(&plain, 3).unwrap(),
            _ => {
                let piece = lzokay_native::compress(&plain[..4096]).unwrap();
                let head = [(piece.len() as u32 + 8).to_le_bytes(), (piece.len() as u32).to_le_bytes()];
                [head.concat(), piece].concat()
            }
        };
        let len = data.len();
        data[at % len] ^= with;
        let stream = Maker::begun(2)
            .command(25, &[P, (18, &number(0)), (27, &number(claim)), (28, &number(claim)), (29, &number(0)), (30, &id.to_le_bytes()), (19, &data)]);
        decode(&stream.end());
    }
}
