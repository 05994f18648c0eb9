//! A new `relict.toml` for a repository that lost it or has it damaged: from what is left of the text, and from what
//! every package and key slot says of its repository (SPEC.md section 17).

use super::create::{CreateOptions, write_new};
use super::files::{FileStore, read_small, sync_dir};
use super::lease::Lease;
use super::package_store::PackageStore;
use super::repository::{MAX_SMALL_FILE_BYTES, key_slots};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{Encryption, Features, PACKAGE_HEADER_BYTES, PackageHeader, RepoHeader, RepoId, StoreKind};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A header made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredHeader {
    /// The header.
    pub header: RepoHeader,
    /// Whether it is the one that was lost, byte for byte; otherwise only what packages do not say may differ: when the
    /// repository was made, and how content is cut.
    pub exact: bool,
}

/// The header that belongs to the repository at `path`. Nothing is changed.
///
/// # Errors
/// `Damaged` when packages and key slots do not say it, or contradict each other; `NewerFormat` when the header says that a
/// newer program made it.
pub fn recover_header(path: &Path) -> Result<RecoveredHeader> {
    let text = read_small(&path.join("relict.toml"), MAX_SMALL_FILE_BYTES).unwrap_or_default();
    if let Some(header) = one_byte_away(&text) {
        return Ok(RecoveredHeader { header, exact: true });
    }
    if let Err(e) = RepoHeader::decode(&text).map_err(Error::from)
        && e.kind() == ErrorKind::NewerFormat
    {
        return Err(e.context("relict.toml"));
    }
    let packages = FileStore::new(path.join("packages"));
    let (mut repos, mut encrypted, mut seen) = (BTreeSet::<RepoId>::new(), false, 0_u64);
    for id in packages.list()? {
        let mut front = [0; PACKAGE_HEADER_BYTES];
        let Ok(header) = packages.read(&id, 0, &mut front).and_then(|()| Ok(PackageHeader::decode(&front)?)) else {
            continue;
        };
        repos.insert(header.repo);
        encrypted |= header.encrypted;
        seen += 1;
    }
    for slot in key_slots(path).unwrap_or_default().into_iter().filter_map(|(_, slot)| slot.ok()) {
        repos.insert(slot.repo);
        encrypted = true;
    }
    let advice = "nothing was changed; restore relict.toml from a copy of the repository";
    let repo = match (repos.pop_first(), repos.is_empty()) {
        (Some(repo), true) if seen > 0 => repo,
        (Some(_), false) => {
            return Err(Error::damaged("packages and key slots of several repositories are here").advise(advice));
        }
        _ => return Err(Error::damaged("no package says which repository this is").advise(advice)),
    };
    let (store, encryption) = (StoreKind::Files, if encrypted { Encryption::Aes256Gcm } else { Encryption::None });
    let (chunk_bytes, created) = (chunk_bytes(&text), created(&text));
    let header = RepoHeader { repo, created, store, encryption, chunk_bytes, features: Features::default() };
    Ok(RecoveredHeader { header, exact: false })
}

/// Puts `header` in the place of what is there, which is kept beside it: its path, if there was any.
///
/// # Errors
/// `Locked` beside a writer, or the medium's.
pub fn replace_header(path: &Path, header: &RepoHeader) -> Result<Option<PathBuf>> {
    let _lease = Lease::take(&path.join("lock"))?;
    let (temporary, target) = (path.join("relict.toml.new"), path.join("relict.toml"));
    write_new(&temporary, header.encode().as_bytes(), 0o644)?;
    let kept = (0..).map(|n| path.join(format!("relict.toml.damaged-{n}"))).find(|kept| !kept.exists());
    let kept = kept.filter(|_| target.exists());
    if let Some(kept) = &kept {
        fs::hard_link(&target, kept)
            .or_else(|_| fs::copy(&target, kept).map(drop))
            .map_err(|e| Error::io(format!("keeping {} as {}", target.display(), kept.display()), e))?;
    }
    fs::rename(&temporary, &target).map_err(|e| Error::io(format!("making {}", target.display()), e))?;
    sync_dir(path)?;
    Ok(kept)
}

/// The valid header that differs from `text` in one byte. Its checksum makes a chance hit one in 2^128.
fn one_byte_away(text: &[u8]) -> Option<RepoHeader> {
    let mut bytes = text.get(..text.len().min(4096))?.to_vec();
    for at in 0..bytes.len() {
        let was = bytes.get(at).copied()?;
        for value in (0..=127).filter(|value| *value != was) {
            *bytes.get_mut(at)? = value;
            if let Ok(header) = RepoHeader::decode(&bytes) {
                return Some(header);
            }
        }
        *bytes.get_mut(at)? = was;
    }
    None
}

fn line<'t>(text: &'t [u8], name: &str) -> Option<&'t str> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).next()
}

/// What is left of the line, if it makes sense: another cut makes a repository larger, not wrong.
fn chunk_bytes(text: &[u8]) -> [u32; 3] {
    let default = CreateOptions::default().chunk_bytes;
    let numbers = line(text, "chunk_bytes").and_then(|l| l.strip_prefix('[')?.strip_suffix(']'));
    let numbers: Option<Vec<u32>> = numbers.and_then(|n| n.split(", ").map(|part| part.parse().ok()).collect());
    let Some(found) = numbers.and_then(|numbers| <[u32; 3]>::try_from(numbers).ok()) else { return default };
    let (repo, store, encryption) = (RepoId::default(), StoreKind::Files, Encryption::None);
    let trial = RepoHeader { repo, created: 0, store, encryption, chunk_bytes: found, features: Features::default() };
    if RepoHeader::decode(trial.encode().as_bytes()).is_ok() { found } else { default }
}

fn created(text: &[u8]) -> i64 {
    line(text, "created").and_then(|line| line.parse().ok()).unwrap_or(0)
}
