//! The seam under packages: six things that a file system, a database or an object store can all do.
//!
//! Callers append in order and never rewrite; a package is immutable once sealed. No implementation is
//! asked to rename, to overwrite, or to write at two places of a package.

use crate::error::Result;
use repo_format::PackageId;

/// Where package bytes are kept. One conformance suite runs on every implementation.
pub trait PackageStore: Send + Sync {
    /// Makes an empty package.
    ///
    /// # Errors
    /// When it exists, or the medium fails.
    fn create(&self, id: &PackageId) -> Result<()>;

    /// Appends `parts` one after the other at byte `offset`, which is the package's length.
    ///
    /// # Errors
    /// When `offset` is not the length, or the medium fails. After an error the bytes from `offset` on
    /// are undefined and the package must not be appended to again.
    fn append(&self, id: &PackageId, offset: u64, parts: &[&[u8]]) -> Result<()>;

    /// Makes everything appended so far, and the package's name, durable.
    ///
    /// # Errors
    /// When that cannot be promised. A failed sync is never retried as success: the caller gives the package up.
    fn sync(&self, id: &PackageId) -> Result<()>;

    /// Declares the package complete and durable; it is never appended to again.
    ///
    /// # Errors
    /// As [`PackageStore::sync`].
    fn seal(&self, id: &PackageId) -> Result<()>;

    /// Fills `buffer` from byte `offset`.
    ///
    /// # Errors
    /// When the package is missing, too short, or cannot be read.
    fn read(&self, id: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// When the package is missing.
    fn len(&self, id: &PackageId) -> Result<u64>;

    /// All packages, sealed or not, in no order.
    ///
    /// # Errors
    /// When the medium cannot be listed.
    fn list(&self) -> Result<Vec<PackageId>>;

    /// Removes a package, durably.
    ///
    /// # Errors
    /// When the medium fails; a missing package is no error.
    fn delete(&self, id: &PackageId) -> Result<()>;

    /// Makes byte ranges (first byte, the one after the last) of a sealed package read as zeros, durably, and gives
    /// back their room; the length stays. Needs no room itself. Where the medium cannot give back parts, nothing
    /// happens, unless `must` is set: then the zeros are written. Returns the bytes given back.
    ///
    /// # Errors
    /// When the medium fails.
    fn free(&self, id: &PackageId, ranges: &[(u64, u64)], must: bool) -> Result<u64>;

    /// Whether [`PackageStore::free`] gives room back.
    ///
    /// # Errors
    /// When the package cannot be opened.
    fn frees_parts(&self, id: &PackageId) -> Result<bool>;

    /// The bytes that [`PackageStore::free`] of these ranges would give back.
    ///
    /// # Errors
    /// When the package cannot be read.
    fn room(&self, id: &PackageId, ranges: &[(u64, u64)]) -> Result<u64>;

    /// The bytes that [`PackageStore::delete`] would give back.
    ///
    /// # Errors
    /// When the package is missing.
    fn occupied(&self, id: &PackageId) -> Result<u64>;

    /// Says that a package will be read from front to back. A hint.
    fn announce(&self, _id: &PackageId) {}

    /// Drops what is cached of a range, so that the next read asks the medium. True where that is known to be done.
    fn drop_cached(&self, _id: &PackageId, _offset: u64, _bytes: u64) -> bool {
        false
    }
}
