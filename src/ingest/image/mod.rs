//! Disk images as sources: what their bytes and servers say, in the language of [`super::change`].
//!
//! A disk is one regular file in the root of its restore points (SPEC.md section 15).
//!
//! | module | holds |
//! |---|---|
//! | `run` | one ingest of a disk, from options to a sealed point |
//! | `plan`, `base` | what is to be read, and whether a list of changes is to be believed |
//! | [`disk`] | the file: its name and attributes, and how a state of it begins |
//! | [`extents`] | lists of changed extents: our JSON, qemu-img's map, thin_delta |
//! | [`nbd`] | a client of NBD servers: content, holes, dirty bitmaps |
//! | [`rbd`] | decoders of Ceph's `rbd export-diff` and `rbd export` |
//! | [`source`] | content: image files, block devices, NBD exports |
//! | [`swap`] | swap partitions by the partition table |
//! | [`states`] | what restore points record of a disk's states |

mod base;
pub mod disk;
pub mod extents;
pub mod nbd;
mod plan;
pub mod rbd;
mod run;
pub mod source;
pub mod states;
pub mod swap;
#[cfg(test)]
mod tests;

pub use plan::Changes;
pub use run::{ImageOptions, Place, ingest_image};

use crate::{Error, ErrorKind};

/// Input that is not what its format allows.
fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadInput, what)
}
