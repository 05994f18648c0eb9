//! Making a repository: everything is on disk before `relict.toml` makes it one. Until then that file has another name,
//! which is there first and locked: by it the next init knows what is left of one that was killed, and begins anew.

use super::files::sync_dir;
use super::index::Index;
use super::keys::{DEFAULT_KDF, make_slot, random, slot_name};
use super::repository::Unlock;
use crate::error::{Error, ErrorKind, Result};
use repo_format::{Encryption, Features, KdfParams, RepoHeader, RepoId, StoreKind};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `relict.toml` is called until the repository is whole.
const UNFINISHED: &str = "relict.toml.init";

/// How to make a repository.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Where package bytes are kept.
    pub store: StoreKind,
    /// False for a repository without a password.
    pub encrypt: bool,
    /// FastCDC minimum, average and maximum, in bytes.
    pub chunk_bytes: [u32; 3],
    /// Cost of the first key slot's password hash.
    pub kdf: KdfParams,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { store: StoreKind::Files, encrypt: true, chunk_bytes: [16 << 10, 64 << 10, 256 << 10], kdf: DEFAULT_KDF }
    }
}

/// Makes a repository in `path`, which must be empty, or not exist, or be what a killed init left.
///
/// # Errors
/// `Usage` when something is there already, `unlock`'s error, or the medium's.
pub fn create(path: &Path, unlock: &mut Unlock<'_>, options: &CreateOptions) -> Result<RepoHeader> {
    refuse_occupied(path)?;
    let header = RepoHeader {
        repo: RepoId(random()?),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed()),
        store: options.store,
        encryption: if options.encrypt { Encryption::Aes256Gcm } else { Encryption::None },
        chunk_bytes: options.chunk_bytes,
        features: Features::default(),
    };
    RepoHeader::decode(header.encode().as_bytes())
        .map_err(|e| Error::new(ErrorKind::Usage, format!("these options make no valid repository: {e}")))?;
    let slot = if options.encrypt {
        Some(make_slot(header.repo, &random()?, &unlock()?, options.kdf, "first")?)
    } else {
        None
    };
    make_dir(path)?;
    let mut unfinished = begin(path)?;
    for dir in ["packages", "keys"] {
        make_dir(&path.join(dir))?;
    }
    if let Some(slot) = slot {
        write_new(&path.join("keys").join(format!("{}.key", slot_name(&slot))), &slot.encode(), 0o600)?;
    }
    Index::open_writer(&path.join("db"), options.store == StoreKind::RocksDb, true)?.flush()?;
    for dir in ["keys", "db", "packages", ""] {
        sync_dir(&path.join(dir))?;
    }
    let target = path.join("relict.toml");
    let written = unfinished.write_all(header.encode().as_bytes()).and_then(|()| unfinished.sync_all());
    let named = written.and_then(|()| fs::rename(path.join(UNFINISHED), &target));
    named.map_err(|e| Error::io(format!("making {}", target.display()), e))?;
    sync_dir(path)?;
    super::reserve::refill(path);
    Ok(header)
}

/// Marks the directory as one in which a repository is being made, and clears away what a killed init left in it.
pub(super) fn begin(path: &Path) -> Result<File> {
    let marker = path.join(UNFINISHED);
    let failed = |e| Error::io(format!("making a repository in {}", path.display()), e);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&marker).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let what = format!("another program is making a repository in {}", path.display());
            return Err(Error::new(ErrorKind::Locked, what).advise("wait until it is done, then use what it made"));
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
        Ok(()) => {}
    }
    // Another that began at the same time may be done by now: what was opened is its relict.toml, or came after it.
    if path.join("relict.toml").exists() {
        let _ = fs::remove_file(&marker);
        return Err(is_one_already(path));
    }
    let gone = |removed: std::io::Result<()>| match removed {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    };
    // No package was ever written under this name, so what is removed holds nobody's data; this first makes sure of it.
    gone(fs::remove_dir(path.join("packages")))?;
    gone(fs::remove_dir_all(path.join("keys")))?;
    gone(fs::remove_dir_all(path.join("db")))?;
    file.set_len(0).map_err(failed)?;
    sync_dir(path)?;
    Ok(file)
}

/// Whether a directory holds what a killed init left, and nothing else.
fn is_unfinished(path: &Path) -> bool {
    let ours = |name: &std::ffi::OsStr| ["packages", "keys", "db", "lost+found", UNFINISHED].iter().any(|n| name == *n);
    let names = |mut entries: fs::ReadDir| entries.all(|entry| entry.is_ok_and(|entry| ours(&entry.file_name())));
    path.join(UNFINISHED).is_file() && fs::read_dir(path).is_ok_and(names)
}

fn occupied(path: &Path, what: &str, advice: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{} {what}", path.display())).advise(advice)
}

fn is_one_already(path: &Path) -> Error {
    occupied(path, "is a repository already", "use it as it is; init never changes an existing one")
}

fn refuse_occupied(path: &Path) -> Result<()> {
    match fs::read_dir(path) {
        Ok(_) if path.join("relict.toml").exists() => Err(is_one_already(path)),
        Ok(_) if is_unfinished(path) => Ok(()),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            // A new ext4 file system has this one, and is still empty.
            Some(Ok(e)) if e.file_name() == "lost+found" && entries.next().is_none() => Ok(()),
            Some(_) => Err(occupied(path, "is not empty", "name an empty directory, or one that does not exist yet")),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("a repository cannot be made at {}", path.display()), e)),
    }
}

/// Makes a directory, and those above it that are missing; their names are durable.
fn make_dir(path: &Path) -> Result<()> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io(format!("creating {}", path.display()), e))?;
    // Its own name also when it is there: a killed init may have made it.
    let names: Vec<&Path> =
        absolute.ancestors().enumerate().take_while(|(n, dir)| *n == 0 || !dir.exists()).map(|(_, dir)| dir).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::io(format!("creating {}", path.display()), e))?;
    names.into_iter().filter_map(Path::parent).try_for_each(|above| match sync_dir(above) {
        // Whoever may not read a directory cannot sync it either.
        Err(e) if e.errno() == Some(libc::EACCES) => Ok(()),
        synced => synced,
    })
}

/// Writes a new file durably.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    let written = open.and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
    written.map_err(|e| Error::io(format!("writing {}", path.display()), e))
}
