//! Disk images as sources: what their bytes and servers say, in the language of [`super::change`].
//!
//! A disk is one regular file in the root of its restore points (SPEC.md section 15).
//!
//! | module | holds |
//! |---|---|
//! | `disk` | the file: its name and attributes, and how a state of it begins |
//! | [`extents`] | lists of changed extents: our JSON, qemu-img's map, thin_delta |
//! | [`nbd`] | a client of NBD servers: content, holes, dirty bitmaps |
//! | [`rbd`] | decoders of Ceph's `rbd export-diff` and `rbd export` |

pub mod disk;
pub mod extents;
pub mod nbd;
pub mod rbd;
#[cfg(test)]
mod tests;

use crate::{Error, ErrorKind};

/// Input that is not what its format allows.
fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadInput, what)
}
