//! Restore points beside each other: what a path was along a chain, what is gone, what differs between two.
//!
//! Everything here goes by path, as people do, and makes no assumption about inode numbers of different
//! points: a chain that was begun anew, or points of different sources, give right answers too, only slower.
//! Work follows what changed: points share most nodes of their trees, [`Memo`] reads a shared node once, and
//! tree diffs go around shared parts.
//!
//! | module | holds |
//! |---|---|
//! | [`memo`] | nodes of the last point, not read again |
//! | [`paths`] | names and inodes of one tree |
//! | [`spans`] | from which point to which a path was what |
//! | [`content`] | a file's content as a number that follows changes |
//! | [`versions`] | the different contents of a path |
//! | [`closure`] | the directories above what changed |
//! | [`gone`] | what was there and is not there any more |
//! | [`compare`] | what differs between two points |

mod closure;
mod compare;
mod content;
mod gone;
mod memo;
pub mod paths;
mod spans;
#[cfg(test)]
mod tests;
mod versions;

pub(super) use content::Content;

pub use compare::{Comparison, Difference, Row, Side};
pub use gone::{Gone, GoneIndex, GoneRow};
pub use memo::Memo;
pub use spans::{Span, child_spans, ever_names, path_spans, root_span};
pub use versions::{Version, versions};

use repo_format::{Key, PointRecord};
use std::sync::Arc;

/// Restore points of one source, oldest first.
pub type Chain = [Arc<PointRecord>];

/// Levels of directories that are looked through for something below. Deeper, it is taken to be there: a directory
/// may then be shown that has nothing in it, and a damaged tree that contains itself ends somewhere.
const MOST_LEVELS: usize = 256;

/// The keys of one inode: from the first to the first of the next inode.
fn keys_of(ino: u64) -> (Vec<u8>, Vec<u8>) {
    (Key::Inode(ino).encode(), Key::Inode(ino.saturating_add(1)).encode())
}
