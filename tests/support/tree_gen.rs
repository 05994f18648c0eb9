//! Random trees, and random changes to them, as plans that proptest can shrink.
//!
//! Alphabets are tiny and operations point into what exists, so that they collide: names come back after
//! a delete, files become directories, content repeats, hard links lose names. An operation that cannot be
//! done in the state it meets is left out, so every plan is valid and every shrunk plan too.
//!
//! ```text
//! arb_tree()    -> TreePlan -> build(&plan, root)     an empty directory becomes a tree
//! arb_changes() -> TreePlan -> mutate(&plan, root)    a tree becomes another
//! ```
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

use proptest::prelude::*;

pub use super::tree_apply::{build, build_deep, mutate};

/// All names there are: ordinary ones first, since shrinking goes to them.
pub const NAMES: [&[u8]; 14] = [
    b"a",
    b"b",
    b"c",
    b"dir",
    b"file.txt",
    b"with space",
    b"new\nline",
    b"back\\slash",
    b"\xff\xfe\x80",
    "\u{e4}\u{1f4be}".as_bytes(),
    b"-rf",
    b"...",
    b"a:b*?\"<>|",
    &[b'n'; 255],
];

/// Times that go wrong somewhere: seconds and nanoseconds.
pub const TIMES: [(i64, u32); 9] = [
    (1_700_000_000, 123_456_789),
    (1_700_000_000, 123_456_788),
    (0, 0),
    (1, 0),
    (-1, 999_999_999),
    (-2_000_000_000, 1),
    (2_147_483_648, 0),
    (4_294_967_296, 7),
    // The year 2200.
    (7_258_118_400, 5),
];

/// Modes, of which some take away everything.
pub const MODES: [u32; 9] = [0o644, 0o755, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777];

/// Owners and groups, the largest ones too.
pub const IDS: [u32; 5] = [0, 1, 1000, 65_534, u32::MAX - 1];

/// Extended attributes: name, and the kinds of items that can have it.
pub const XATTRS: [(&[u8], &str); 8] = [
    (b"user.a", "fd"),
    (b"user.b", "fd"),
    (b"user.\xff\xfe", "fd"),
    (b"user.long-name-long-name-long-name-long-name-long-name-long-name-long-name", "fd"),
    (b"trusted.t", "fdlpscb"),
    (b"security.capability", "f"),
    (b"system.posix_acl_access", "fdps"),
    (b"system.posix_acl_default", "d"),
];

/// A list of operations, and what else decides about the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePlan {
    /// Done in this order.
    pub ops: Vec<Op>,
    /// Chooses the times that [`build`] gives everything at its end.
    pub salt: u8,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A few bytes.
    Tiny(u8),
    /// Exactly 4096 bytes.
    Block(u8),
    /// Zeroes, written.
    Zeros(u32),
    /// Compressible lines.
    Text(u16),
    /// Incompressible KiB; the same seed and length give the same bytes.
    Random {
        /// Length, KiB.
        kib: u16,
        /// One of few.
        seed: u8,
    },
    /// Eight parts of 16 KiB, of which those with a bit are data and the others holes, and a tail.
    Sparse {
        /// Which parts are data; the lowest bit is the first part.
        data: u8,
        /// Length of a last part, a hole.
        tail: u16,
    },
}

/// Special files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    Char,
    /// A block device with large numbers.
    Block,
}

/// One operation. `dir` and `of` count through what exists, `name` through [`NAMES`]; all wrap around.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants' docs name the fields")]
pub enum Op {
    /// A new file.
    File { dir: u8, name: u8, content: Content },
    /// A new file with the content of an existing one.
    Copy { dir: u8, name: u8, of: u8 },
    /// A new directory.
    Dir { dir: u8, name: u8 },
    /// A new symbolic link to one of several odd targets.
    Symlink { dir: u8, name: u8, target: u8 },
    /// A second name for anything but a directory.
    HardLink { dir: u8, name: u8, of: u8 },
    /// A pipe, socket or device.
    Special { dir: u8, name: u8, kind: Special },
    /// Sets one of [`XATTRS`] to one of several values.
    SetXattr { of: u8, name: u8, value: u8 },
    /// Removes one of [`XATTRS`].
    RemoveXattr { of: u8, name: u8 },
    /// One of [`MODES`].
    Mode { of: u8, mode: u8 },
    /// Two of [`IDS`].
    Owner { of: u8, uid: u8, gid: u8 },
    /// One of [`TIMES`]; without effect while building, where all times are set at the end.
    Touch { of: u8, time: u8 },
    /// Overwrites a range, `at` in 256ths of the file. With `hide`, the modification time is put back.
    Write { of: u8, at: u8, bytes: u32, seed: u8, hide: bool },
    /// Adds to a file's end.
    Append { of: u8, content: Content },
    /// Cuts to 256ths of the file, or doubles it with a hole.
    Truncate { of: u8, to: u8, grow: bool },
    /// Makes a hole of 4 KiB blocks, `at` in 256ths of the file.
    Punch { of: u8, at: u8, blocks: u8 },
    /// Moves anything, over an existing file too.
    Rename { of: u8, dir: u8, name: u8 },
    /// Removes anything, with what is below.
    Delete { of: u8 },
    /// Removes one name of several.
    UnlinkOne { of: u8 },
    /// A directory takes the place of something else.
    ReplaceByDir { of: u8 },
    /// A file takes the place of anything, a full directory too.
    ReplaceByFile { of: u8, content: Content },
}

fn arb_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        1 => Just(Content::Empty),
        3 => (0u8..8).prop_map(Content::Tiny),
        2 => (0u8..3).prop_map(Content::Block),
        1 => prop_oneof![Just(1u32), Just(4096), Just(4097), Just(200_000)].prop_map(Content::Zeros),
        1 => (1u16..200).prop_map(Content::Text),
        2 => (16u16..300, 0u8..3).prop_map(|(kib, seed)| Content::Random { kib, seed }),
        2 => (any::<u8>(), prop_oneof![Just(0u16), Just(1), Just(4096), Just(5000)])
            .prop_map(|(data, tail)| Content::Sparse { data, tail }),
    ]
}

fn arb_special() -> impl Strategy<Value = Special> {
    prop_oneof![Just(Special::Fifo), Just(Special::Socket), Just(Special::Char), Just(Special::Block)]
}

fn name() -> impl Strategy<Value = u8> {
    // Most often one of the first five, so that names meet.
    prop_oneof![3 => 0u8..5, 2 => 0u8..NAMES.len() as u8]
}

fn arb_create() -> impl Strategy<Value = Op> {
    let place = || (any::<u8>(), name());
    let of = any::<u8>;
    prop_oneof![
        6 => (place(), arb_content()).prop_map(|((dir, name), content)| Op::File { dir, name, content }),
        1 => (place(), of()).prop_map(|((dir, name), of)| Op::Copy { dir, name, of }),
        4 => place().prop_map(|(dir, name)| Op::Dir { dir, name }),
        2 => (place(), 0u8..12).prop_map(|((dir, name), target)| Op::Symlink { dir, name, target }),
        2 => (place(), of()).prop_map(|((dir, name), of)| Op::HardLink { dir, name, of }),
        1 => (place(), arb_special()).prop_map(|((dir, name), kind)| Op::Special { dir, name, kind }),
    ]
}

fn arb_attribute() -> impl Strategy<Value = Op> {
    let of = any::<u8>;
    prop_oneof![
        4 => (of(), 0u8..XATTRS.len() as u8, 0u8..6)
            .prop_map(|(of, name, value)| Op::SetXattr { of, name, value }),
        1 => (of(), 0u8..XATTRS.len() as u8).prop_map(|(of, name)| Op::RemoveXattr { of, name }),
        2 => (of(), 0u8..MODES.len() as u8).prop_map(|(of, mode)| Op::Mode { of, mode }),
        2 => (of(), 0u8..IDS.len() as u8, 0u8..IDS.len() as u8)
            .prop_map(|(of, uid, gid)| Op::Owner { of, uid, gid }),
        2 => (of(), 0u8..TIMES.len() as u8).prop_map(|(of, time)| Op::Touch { of, time }),
    ]
}

fn arb_content_change() -> impl Strategy<Value = Op> {
    let of = any::<u8>;
    let bytes = prop_oneof![Just(1u32), Just(100), Just(4096), Just(5000), Just(70_000)];
    prop_oneof![
        4 => (of(), any::<u8>(), bytes, 0u8..3, prop::bool::weighted(0.2))
            .prop_map(|(of, at, bytes, seed, hide)| Op::Write { of, at, bytes, seed, hide }),
        2 => (of(), arb_content()).prop_map(|(of, content)| Op::Append { of, content }),
        2 => (of(), any::<u8>(), prop::bool::weighted(0.3))
            .prop_map(|(of, to, grow)| Op::Truncate { of, to, grow }),
        1 => (of(), any::<u8>(), 1u8..20).prop_map(|(of, at, blocks)| Op::Punch { of, at, blocks }),
    ]
}

fn arb_name_change() -> impl Strategy<Value = Op> {
    let of = any::<u8>;
    prop_oneof![
        4 => (of(), any::<u8>(), name()).prop_map(|(of, dir, name)| Op::Rename { of, dir, name }),
        2 => of().prop_map(|of| Op::Delete { of }),
        2 => of().prop_map(|of| Op::UnlinkOne { of }),
        1 => of().prop_map(|of| Op::ReplaceByDir { of }),
        1 => (of(), arb_content()).prop_map(|(of, content)| Op::ReplaceByFile { of, content }),
    ]
}

/// A tree of up to about 60 items: mostly creation, with some detours.
pub fn arb_tree() -> impl Strategy<Value = TreePlan> {
    let op = prop_oneof![
        10 => arb_create(),
        5 => arb_attribute(),
        1 => arb_content_change(),
        1 => arb_name_change(),
    ];
    plan(op, 60)
}

/// Up to 25 changes for a tree that exists.
pub fn arb_changes() -> impl Strategy<Value = TreePlan> {
    let op = prop_oneof![
        3 => arb_create(),
        3 => arb_attribute(),
        4 => arb_content_change(),
        4 => arb_name_change(),
    ];
    plan(op, 25)
}

fn plan(op: impl Strategy<Value = Op>, most: usize) -> impl Strategy<Value = TreePlan> {
    (prop::collection::vec(op, 0..most), any::<u8>()).prop_map(|(ops, salt)| TreePlan { ops, salt })
}
