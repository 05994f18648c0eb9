//! What the program `rbd` of Ceph writes: `export-diff` (versions 1 and 2), `export --export-format 2`, and
//! plain `export`.
//!
//! A diff says from which snapshot to which, but not of which image, and carries no checksum. So states are
//! named by the source's name and the snapshot's (SPEC.md section 15), and a cut is all that can be seen of damage.

mod diff;
mod raw;
mod record;
#[cfg(test)]
mod tests;

pub use diff::DiffDecoder;
pub use raw::RawDecoder;

/// Longest name of a snapshot, as Ceph has it, in bytes.
pub const MAX_SNAPSHOT_NAME_BYTES: usize = 256;
/// Content is passed on in pieces of this many bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// The name of a state of an RBD image: `SOURCE@SNAPSHOT`; the image as it is, without a snapshot, is `SOURCE@`.
#[must_use]
pub fn state_id(source: &[u8], snapshot: &[u8]) -> Vec<u8> {
    [source, b"@", snapshot].concat()
}
