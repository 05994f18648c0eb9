//! Keys: what a password opens, and what every other key is made from (SPEC.md section 3).

use crate::error::{Error, ErrorKind, Result};
use repo_format::{ChunkId, KdfParams, KeySlot, PackageId, RepoId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

const CHUNK_CONTEXT: &str = "relict 1 chunk id";
const PACKAGE_CONTEXT: &str = "relict 1 package";

/// One of OWASP's settings for Argon2id, all of which it calls equally strong: the one that needs little new memory, which
/// costs more than the hashing where a host has to find it first. A mount is ready in a tenth of a second.
pub const DEFAULT_KDF: KdfParams = KdfParams { memory_kib: 19_456, passes: 2, lanes: 1 };

/// The keys of an open repository; without a password there are none.
#[derive(Clone)]
pub struct Keys {
    master: Option<[u8; 32]>,
    chunk: Option<[u8; 32]>,
}

impl Keys {
    /// The keys of a repository without a password.
    #[must_use]
    pub const fn none() -> Self {
        Self { master: None, chunk: None }
    }

    /// The keys that follow from a master key.
    #[must_use]
    pub fn from_master(master: [u8; 32]) -> Self {
        let chunk = blake3::derive_key(CHUNK_CONTEXT, &master);
        Self { master: Some(master), chunk: Some(chunk) }
    }

    /// The id of a chunk.
    #[must_use]
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId::of(self.chunk.as_ref(), bytes)
    }

    /// Whether segments are encrypted.
    #[must_use]
    pub const fn encrypted(&self) -> bool {
        self.master.is_some()
    }

    /// The key of one package's segments, None without encryption.
    #[must_use]
    pub fn package(&self, id: &PackageId) -> Option<PackageKey> {
        let master = self.master?;
        let mut hasher = blake3::Hasher::new_derive_key(PACKAGE_CONTEXT);
        hasher.update(&master).update(&id.0);
        PackageKey::new(hasher.finalize().as_bytes())
    }
}

/// Seals and opens segment payloads of one package.
pub struct PackageKey(LessSafeKey);

impl PackageKey {
    fn new(key: &[u8; 32]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|k| Self(LessSafeKey::new(k)))
    }

    /// Encrypts `payload` in place and returns the tag. A segment number is used once in a package.
    ///
    /// # Errors
    /// Only for payloads beyond the cipher's own limit of 64 GiB.
    pub fn seal(&self, number: u32, associated: &[u8], payload: &mut [u8]) -> Result<[u8; 16]> {
        let tag = self.0.seal_in_place_separate_tag(nonce(number), Aad::from(associated), payload);
        let tag = tag.map_err(|_| Error::new(ErrorKind::Usage, "a segment is too long to encrypt"))?;
        tag.as_ref().try_into().map_err(|_| Error::damaged("the cipher's tag has another length"))
    }

    /// Decrypts `payload` in place; false when it is not what was sealed.
    #[must_use]
    pub fn open(&self, number: u32, associated: &[u8], payload: &mut [u8], tag: [u8; 16]) -> bool {
        self.0.open_in_place_separate_tag(nonce(number), Aad::from(associated), Tag::from(tag), payload, 0..).is_ok()
    }
}

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Random bytes of the system.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out)
        .map_err(|e| Error::new(ErrorKind::Io, format!("the system gives no random bytes: {e}")))?;
    Ok(out)
}

/// Wraps `master` into a new key slot.
///
/// # Errors
/// When the password cannot be hashed with these parameters, or there are no random bytes.
pub fn make_slot(repo: RepoId, master: &[u8; 32], password: &[u8], kdf: KdfParams, label: &str) -> Result<KeySlot> {
    let mut slot =
        KeySlot { repo, kdf, salt: random()?, nonce: random()?, wrapped: [0; 48], label: label.as_bytes().to_vec() };
    let key = wrapping_key(&slot, password)?;
    let mut body = *master;
    let aad = slot.associated_data();
    let tag = key
        .0
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(slot.nonce), Aad::from(&aad), &mut body)
        .map_err(|_| Error::new(ErrorKind::Usage, "the master key cannot be wrapped"))?;
    slot.wrapped[..32].copy_from_slice(&body);
    slot.wrapped[32..].copy_from_slice(tag.as_ref());
    Ok(slot)
}

/// The file name of a slot in `keys/`, without its suffix: the first 8 bytes of the salt.
#[must_use]
pub fn slot_name(slot: &KeySlot) -> String {
    slot.salt.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The master key, if this password opens the slot.
///
/// # Errors
/// When the password cannot be hashed with the slot's parameters (memory).
pub fn open_slot(slot: &KeySlot, password: &[u8]) -> Result<Option<[u8; 32]>> {
    let key = wrapping_key(slot, password)?;
    let mut body = slot.wrapped;
    let nonce = Nonce::assume_unique_for_key(slot.nonce);
    let opened = key.0.open_in_place(nonce, Aad::from(slot.associated_data()), &mut body);
    Ok(opened.ok().and_then(|plain| <[u8; 32]>::try_from(&*plain).ok()))
}

/// Memory times passes that a password is hashed over at most, in KiB: some ten seconds. relict itself takes some MiB.
const MOST_HASHED_KIB: u64 = 8 << 20;

/// The first of these slots that the password opens, with the master key; those that cost least are tried first. One that
/// cannot be tried does not lock out the others.
///
/// # Errors
/// When none opens and one could not be tried.
pub(super) fn open_any(mut slots: Vec<KeySlot>, password: &[u8]) -> Result<Option<(KeySlot, [u8; 32])>> {
    let mut first_error = None;
    slots.sort_by_key(|slot| hashed_kib(slot.kdf));
    for slot in slots {
        match open_slot(&slot, password) {
            Ok(Some(master)) => return Ok(Some((slot, master))),
            Ok(None) => {}
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

const fn hashed_kib(kdf: KdfParams) -> u64 {
    kdf.memory_kib as u64 * kdf.passes as u64
}

/// Refuses what would take the machine down: the slot may be somebody else's.
fn affordable(slot: &KeySlot) -> Result<()> {
    let kdf = slot.kdf;
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next());
    let too_much = available.and_then(|kib| kib.parse().ok()).is_some_and(|kib: u64| u64::from(kdf.memory_kib) > kib);
    if hashed_kib(kdf) <= MOST_HASHED_KIB && !too_much {
        return Ok(());
    }
    let what = format!(
        "key slot {} wants {} MiB of memory hashed {} times for each try of a password",
        slot_name(slot),
        kdf.memory_kib >> 10,
        kdf.passes
    );
    let advice = "it was not tried; relict makes slots of some MiB: if nobody made this one on purpose, restore keys/ from a \
                  copy; else use a machine with more memory free";
    Err(Error::damaged(what).advise(advice))
}

fn wrapping_key(slot: &KeySlot, password: &[u8]) -> Result<PackageKey> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("the password cannot be hashed: {e}"));
    affordable(slot)?;
    let params = argon2::Params::new(slot.kdf.memory_kib, slot.kdf.passes, slot.kdf.lanes, Some(32));
    let params = params.map_err(|e| failed(&e))?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut out = [0; 32];
    let memory = kdf_memory(argon.params().block_count()).map_err(|e| failed(&e))?;
    argon.hash_password_into_with_memory(password, &slot.salt, &mut out, memory).map_err(|e| failed(&e))?;
    PackageKey::new(&out).ok_or_else(|| failed(&"no key"))
}

/// The function's memory, in large pages where the system has them: small ones cost as much as the hashing.
fn kdf_memory(blocks: usize) -> std::result::Result<Vec<argon2::Block>, std::collections::TryReserveError> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks)?;
    crate::os::prefer_large_pages(memory.spare_capacity_mut());
    memory.resize(blocks, argon2::Block::new());
    Ok(memory)
}
