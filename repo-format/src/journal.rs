//! A journal record: what the writer is in the middle of, so that the next one can finish or undo it (SPEC.md section 9).

use crate::error::Result;
use crate::id::PackageId;
use crate::package::PackageKind;
use crate::wire::{Reader, Writer};
use alloc::vec::Vec;

/// Longest journal record, in bytes.
pub const JOURNAL_MAX_BYTES: usize = 64;

/// One journal record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalRecord {
    /// A package was created and is not sealed: after a crash its whole segments are indexed and it is sealed.
    PackageOpen {
        /// The package.
        package: PackageId,
        /// What it holds.
        kind: PackageKind,
    },
    /// What the index does not name of a sealed package is being removed; all of it when the index does not list it.
    PackageFree {
        /// The package.
        package: PackageId,
    },
}

impl JournalRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(JOURNAL_MAX_BYTES);
        match self {
            Self::PackageOpen { package, kind } => w.u8(1).u8(*kind as u8).bytes(&package.0),
            Self::PackageFree { package } => w.u8(2).bytes(&package.0),
        };
        w.finish_checked()
    }

    /// Decodes a journal record.
    ///
    /// # Errors
    /// On bytes that [`JournalRecord::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::checked("journal record", bytes)?;
        let record = match r.u8()? {
            1 => {
                let kind = match r.u8()? {
                    1 => PackageKind::Data,
                    2 => PackageKind::Meta,
                    _ => return Err(r.field("package kind")),
                };
                Self::PackageOpen { package: PackageId(r.array()?), kind }
            }
            2 => Self::PackageFree { package: PackageId(r.array()?) },
            _ => return Err(r.field("kind")),
        };
        r.end()?;
        Ok(record)
    }
}
