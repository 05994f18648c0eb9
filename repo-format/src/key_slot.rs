//! A key slot: the repository's master key, wrapped by a key made from one password (SPEC.md section 3).

use crate::error::{Problem, Result};
use crate::id::RepoId;
use crate::wire::{Reader, Writer};
use alloc::vec::Vec;

/// Bytes of a wrapped master key: 32 and the AES-256-GCM tag.
pub const WRAPPED_KEY_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"RELICTKY";
/// Longest label of a key slot, in bytes.
pub const MAX_LABEL_BYTES: usize = 255;

/// Cost of Argon2id. Bounded when read, so that a hostile slot cannot exhaust memory or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB, from 8 a lane to 4 GiB.
    pub memory_kib: u32,
    /// Passes, 1..=64.
    pub passes: u32,
    /// Lanes, 1..=64.
    pub lanes: u32,
}

impl KdfParams {
    /// Largest memory cost, in KiB: 4 GiB.
    pub const MAX_MEMORY_KIB: u32 = 4 << 20;
    /// Most passes, and most lanes.
    pub const MAX_STEPS: u32 = 64;

    const fn valid(self) -> bool {
        let steps = self.passes >= 1 && self.passes <= Self::MAX_STEPS;
        let lanes = self.lanes >= 1 && self.lanes <= Self::MAX_STEPS;
        // Argon2 itself wants 8 KiB a lane.
        steps && lanes && self.memory_kib >= 8 * self.lanes && self.memory_kib <= Self::MAX_MEMORY_KIB
    }
}

/// One key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// The repository the key opens.
    pub repo: RepoId,
    /// Cost of the password hash.
    pub kdf: KdfParams,
    /// Its salt.
    pub salt: [u8; 16],
    /// Nonce of the wrapping.
    pub nonce: [u8; 12],
    /// The master key, encrypted.
    pub wrapped: [u8; WRAPPED_KEY_BYTES],
    /// What the owner calls this slot; UTF-8 is not promised; at most 255 bytes.
    pub label: Vec<u8>,
}

impl KeySlot {
    /// The slot's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(192);
        w.bytes(&self.associated_data()).bytes(&self.nonce).bytes(&self.wrapped);
        w.finish_checked()
    }

    /// What the wrapping authenticates beside the key: everything before the nonce.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(96);
        let label = self.label.get(..MAX_LABEL_BYTES).unwrap_or(&self.label);
        w.bytes(MAGIC).u16(1).u8(u8::try_from(label.len()).unwrap_or(u8::MAX)).u8(0);
        w.u32(self.kdf.memory_kib).u32(self.kdf.passes).u32(self.kdf.lanes);
        w.bytes(&self.repo.0).bytes(&self.salt).bytes(label);
        w.0
    }

    /// Decodes a key slot.
    ///
    /// # Errors
    /// On bytes that [`KeySlot::encode`] would not make, or costs outside the bounds of [`KdfParams`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Reader::new("key slot", bytes).magic(MAGIC)?;
        let mut r = Reader::checked("key slot", bytes)?;
        r.magic(MAGIC)?;
        if r.u16()? != 1 {
            return Err(r.error(Problem::Version));
        }
        let label_bytes = r.u8()?;
        r.zeros(1)?;
        let kdf = KdfParams { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
        if !kdf.valid() {
            return Err(r.field("kdf"));
        }
        let (repo, salt) = (RepoId(r.array()?), r.array()?);
        let label = r.take(usize::from(label_bytes))?.to_vec();
        let (nonce, wrapped) = (r.array()?, r.array()?);
        r.end()?;
        Ok(Self { repo, kdf, salt, nonce, wrapped, label })
    }
}
