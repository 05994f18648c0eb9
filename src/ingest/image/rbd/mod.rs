//! What the program `rbd` of Ceph writes: `export-diff` (versions 1 and 2), `export --export-format 2`, and
//! plain `export`.
//!
//! A diff says from which snapshot to which, but not of which image, and carries no checksum. So states are
//! named by the snapshots, and looked for among those of the same source (SPEC.md section 15), and a cut is all that can be seen of damage.

mod diff;
mod raw;
mod record;
#[cfg(test)]
mod tests;

pub use diff::DiffDecoder;
pub use raw::RawDecoder;

use super::bad;
use crate::Result;
use crate::catalog::points::printable;

/// Longest name of a snapshot, as Ceph has it, in bytes.
pub const MAX_SNAPSHOT_NAME_BYTES: usize = 256;
/// Content is passed on in pieces of this many bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// The state of an image that is no snapshot. No snapshot can have this name.
const HEAD: &[u8] = b"@head";

/// The name of a state of an RBD image: that of its snapshot.
///
/// # Errors
/// `BadInput` for names that Ceph does not have.
pub fn snapshot_id(snapshot: Option<&[u8]>) -> Result<Vec<u8>> {
    let Some(name) = snapshot else { return Ok(HEAD.to_vec()) };
    if name.is_empty() || name.len() > MAX_SNAPSHOT_NAME_BYTES {
        return Err(bad(format!(
            "a snapshot's name of {} bytes; they have 1 to {MAX_SNAPSHOT_NAME_BYTES}",
            name.len()
        )));
    }
    if name.iter().any(|byte| matches!(byte, 0 | b'@' | b'/')) {
        return Err(bad(format!("'{}' cannot be a snapshot's name", printable(name))));
    }
    Ok(name.to_vec())
}
