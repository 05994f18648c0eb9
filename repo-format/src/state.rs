//! The state of a restore point: what changes about it although it never changes itself (SPEC.md section 8).

use crate::error::{Problem, Result};
use crate::id::{PointId, RepoId};
use crate::wire::{Reader, Writer};
use alloc::vec::Vec;

/// Bytes of a point state record.
pub const POINT_STATE_BYTES: usize = 88;
const MAGIC: &[u8; 4] = b"RPST";
const HIDDEN: u8 = 1;
const PROTECTED: u8 = 2;
const LOCKED: u8 = 4;

/// What holds of a restore point from one moment on. Of several for one point, the one with the highest sequence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointState {
    /// The repository.
    pub repo: RepoId,
    /// The point.
    pub point: PointId,
    /// 1 for the first state of a point, one more for each that follows.
    pub sequence: u64,
    /// When this was decided, in seconds since 1970.
    pub made: i64,
    /// Since when the point is forgotten, in seconds since 1970; None: it is visible.
    pub hidden: Option<i64>,
    /// Whether it must not be removed until that is taken back.
    pub protected: bool,
    /// Seconds since 1970 before which it must not be removed; that is never taken back.
    pub locked_until: Option<i64>,
}

impl PointState {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let flags = bit(self.hidden.is_some(), HIDDEN)
            | bit(self.protected, PROTECTED)
            | bit(self.locked_until.is_some(), LOCKED);
        let mut w = Writer::with_capacity(POINT_STATE_BYTES);
        w.bytes(MAGIC).u16(1).u8(flags).u8(0).bytes(&self.repo.0).bytes(&self.point.0);
        w.u64(self.sequence).i64(self.made);
        w.i64(self.hidden.unwrap_or(0)).i64(self.locked_until.unwrap_or(0));
        w.finish_checked()
    }

    /// Decodes a point state record.
    ///
    /// # Errors
    /// On bytes that [`PointState::encode`] would not make.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Reader::new("point state", bytes).magic(MAGIC)?;
        let mut r = Reader::checked("point state", bytes)?;
        r.magic(MAGIC)?;
        if r.u16()? != 1 {
            return Err(r.error(Problem::Version));
        }
        let flags = r.u8()?;
        if flags & !(HIDDEN | PROTECTED | LOCKED) != 0 {
            return Err(r.error(Problem::Reserved));
        }
        r.zeros(1)?;
        let (repo, point) = (RepoId(r.array()?), PointId(r.array()?));
        let sequence = r.u64()?;
        if sequence == 0 {
            return Err(r.field("sequence"));
        }
        let made = r.i64()?;
        let hidden = optional(&mut r, flags & HIDDEN != 0)?;
        let locked_until = optional(&mut r, flags & LOCKED != 0)?;
        r.end()?;
        Ok(Self { repo, point, sequence, made, hidden, protected: flags & PROTECTED != 0, locked_until })
    }
}

/// A time that is there when its flag is set, and zeros otherwise.
fn optional(r: &mut Reader<'_>, there: bool) -> Result<Option<i64>> {
    if there { Ok(Some(r.i64()?)) } else { r.zeros(8).map(|()| None) }
}
