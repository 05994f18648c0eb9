#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
//! The bytes of a relict repository, and nothing else: types, encode, decode, validate.
//!
//! No I/O, no clock, no randomness, no compression, no encryption, and no `std`: what the crate cannot
//! do it cannot do wrong. Every decoder accepts exactly the bytes its encoder writes (one encoding for
//! one value), allocates only what the input's own length has already paid for, and never panics.
//! SPEC.md describes the same bytes in prose; `tests/spec.rs` holds the two together.

extern crate alloc;

mod border;
mod error;
mod header;
mod id;
mod journal;
mod key;
mod key_slot;
mod node;
mod package;
mod point;
mod segment;
mod state;
mod value;
mod wire;

pub use border::{NODE_MAX_BYTES, NODE_MEAN_EXTRA_BYTES, NODE_MIN_BYTES, entry_bytes, is_border};
pub use error::{FormatError, Problem, Result};
pub use header::{Encryption, Features, MIN_CHUNK_BYTES, RepoHeader, StoreKind};
pub use id::{CHECK_BYTES, CheckSum, ChunkId, PackageId, PointId, RepoId, check_of};
pub use journal::{JOURNAL_MAX_BYTES, JournalRecord};
pub use key::{Key, KeyKind, MAX_FILE_BYTES, MAX_INO, MAX_NAME_BYTES, ROOT_INO, TREE_INO};
pub use key_slot::{KdfParams, KeySlot, MAX_LABEL_BYTES, WRAPPED_KEY_BYTES};
pub use node::{Child, MAX_KEY_BYTES, MAX_LEVEL, NODE_HEADER_BYTES, Node, NodeWriter};
pub use package::{
    FOOTER_ENTRY_BYTES, FOOTER_TRAILER_BYTES, FooterEntry, MAX_PACKAGE_BYTES, PACKAGE_HEADER_BYTES, PackageFooter,
    PackageHeader, PackageKind,
};
pub use point::{Counts, NO_ACLS_TAG, POINT_FIXED_BYTES, PointRecord, SET_TAG, SetId, SourceKind};
pub use segment::{
    Codec, MAX_CHUNK_BYTES, MAX_SEGMENT_CHUNKS, MAX_SEGMENT_RAW_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentKind, TABLE_ENTRY_BYTES, TableEntry,
};
pub use state::{POINT_STATE_BYTES, PointState};
pub use value::{
    Device, Dirent, Extent, FileKind, Inode, MAX_TARGET_BYTES, MAX_XATTR_BYTES, SourceIdentity, Time, Value,
};

/// The format version this crate reads and writes (SPEC.md section 2).
pub const FORMAT_VERSION: u32 = 1;
