//! The key slots of a repository as a set that changes: add, change, remove, import (SPEC.md section 3).
//!
//! A new slot is durable and proven to open before an old one goes, so a kill at any moment leaves at least one
//! password that works. Nothing here touches packages: the master key never changes.

use super::create::write_new;
use super::files::sync_dir;
use super::keys::{make_slot, open_any, open_slot, random, slot_name};
use super::lease::Lease;
use super::repository::{key_slots, read_header, writable_header};
use crate::error::{Error, ErrorKind, Result};
use repo_format::{Encryption, KdfParams, KeySlot, RepoHeader};
use std::fs;
use std::path::{Path, PathBuf};

/// Suffix of a slot that is being written; readers do not look at it.
const UNFINISHED: &str = ".new";

/// The key slots of an encrypted repository, under the lease.
pub struct Keyring {
    dir: PathBuf,
    header: RepoHeader,
    _lease: Lease,
}

/// A slot that a password opened.
pub struct Unlocked {
    slot: KeySlot,
    master: [u8; 32],
}

impl Unlocked {
    /// The slot's name.
    #[must_use]
    pub fn name(&self) -> String {
        slot_name(&self.slot)
    }
}

/// One file in `keys/`.
pub struct SlotFile {
    /// Its name: the file's, without suffix.
    pub name: String,
    /// What it holds, or why that cannot be read.
    pub slot: Result<KeySlot>,
}

/// The slots of a repository, readable or not, in order of their names. Needs neither password nor lease.
///
/// # Errors
/// `Usage` for a repository without encryption, which has none; when `keys/` cannot be read.
pub fn list_slots(path: &Path) -> Result<Vec<SlotFile>> {
    encrypted(path)?;
    let named = |(file, slot): (PathBuf, Result<KeySlot>)| {
        let name = file.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        SlotFile { name, slot }
    };
    Ok(key_slots(path)?.into_iter().map(named).collect())
}

fn encrypted(path: &Path) -> Result<RepoHeader> {
    let header = read_header(path)?;
    if header.encryption == Encryption::None {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the repository {} is not encrypted: it has no keys", path.display()),
        )
        .advise("a repository is encrypted from its beginning or not at all; 'relict init' makes a new one"));
    }
    Ok(header)
}

impl Keyring {
    /// Takes the lease.
    ///
    /// # Errors
    /// `Locked`; `Usage` for a repository without encryption; the medium's.
    pub fn open(path: &Path) -> Result<Self> {
        let header = encrypted(path)?;
        writable_header(path)?;
        let lease = Lease::take(&path.join("lock"))?;
        let out = Self { dir: path.join("keys"), header, _lease: lease };
        out.clean()?;
        Ok(out)
    }

    /// Removes what a killed writer of slots left unfinished.
    fn clean(&self) -> Result<()> {
        let context = |e| Error::io(format!("reading {}", self.dir.display()), e);
        fs::create_dir_all(&self.dir).map_err(context)?;
        for entry in fs::read_dir(&self.dir).map_err(context)? {
            let file = entry.map_err(context)?.path();
            if file.to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(&file).map_err(|e| Error::io(format!("removing {}", file.display()), e))?;
            }
        }
        Ok(())
    }

    fn slots(&self) -> Result<Vec<KeySlot>> {
        let root = self.dir.parent().unwrap_or(&self.dir);
        let sound = key_slots(root)?.into_iter().filter_map(|(_, slot)| slot.ok());
        Ok(sound.filter(|slot| slot.repo == self.header.repo).collect())
    }

    /// The first slot but `except` that this password opens.
    ///
    /// # Errors
    /// `WrongPassword` when it opens none.
    pub fn unlock(&self, password: &[u8], except: Option<&str>) -> Result<Unlocked> {
        let others = self.slots()?.into_iter().filter(|slot| Some(slot_name(slot).as_str()) != except).collect();
        if let Some((slot, master)) = open_any(others, password)? {
            return Ok(Unlocked { slot, master });
        }
        Err(Error::new(
            ErrorKind::WrongPassword,
            match except {
                None => "this password opens no key slot".to_owned(),
                Some(name) => format!("this password opens no key slot but {name}"),
            },
        ))
    }

    /// Adds a slot for another password; gives its name.
    ///
    /// # Errors
    /// `Usage` for a label that is too long; the medium's. The other slots stay as they are.
    pub fn add(&self, by: &Unlocked, password: &[u8], kdf: KdfParams, label: &str) -> Result<String> {
        if label.len() > repo_format::MAX_LABEL_BYTES {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("a label has at most {} bytes", repo_format::MAX_LABEL_BYTES),
            ));
        }
        let slot = make_slot(self.header.repo, &by.master, password, kdf, label)?;
        self.write(&slot)?;
        let name = slot_name(&slot);
        self.prove(&name, password, &by.master)?;
        Ok(name)
    }

    /// Another password for a slot: a new slot with the old one's label, then the old one goes.
    ///
    /// # Errors
    /// As [`Keyring::add`]. After a kill in between both passwords open the repository.
    pub fn change(&self, slot: &Unlocked, password: &[u8]) -> Result<String> {
        let label = String::from_utf8_lossy(&slot.slot.label).into_owned();
        let name = self.add(slot, password, slot.slot.kdf, &label)?;
        self.unlink(&slot.name())?;
        Ok(name)
    }

    /// Removes a slot. `keeper` is one that stays and was opened: so a repository never loses its last key.
    ///
    /// # Errors
    /// `NotFound`; `Usage` when the keeper itself is meant; the medium's.
    pub fn remove(&self, name: &str, keeper: &Unlocked) -> Result<()> {
        if keeper.name() == name {
            return Err(Error::new(
                ErrorKind::Usage,
                "the slot that opened the repository is not removed by its own password",
            ));
        }
        if !self.file(name).exists() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no key slot {name}"))
                .advise("'relict-maint keys list' names them"));
        }
        self.unlink(name)
    }

    /// Puts a slot from a recovery sheet in its place. A damaged file of that name is kept beside it.
    ///
    /// # Errors
    /// `Usage` when it belongs to another repository, `WrongPassword` when the password does not open it: nothing is written then.
    pub fn import(&self, slot: &KeySlot, password: &[u8]) -> Result<Imported> {
        if slot.repo != self.header.repo {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("this key slot belongs to repository {}, not to {}", slot.repo, self.header.repo),
            )
            .advise("nothing was written; take the sheet of this repository"));
        }
        if open_slot(slot, password)?.is_none() {
            return Err(Error::new(ErrorKind::WrongPassword, "the password does not open the slot on the sheet")
                .advise("nothing was written; the sheet needs the password that the slot had when it was printed"));
        }
        let name = slot_name(slot);
        let file = self.file(&name);
        let mut aside = None;
        match fs::read(&file) {
            Ok(bytes) if bytes == slot.encode() => return Ok(Imported { name, aside: None, new: false }),
            Ok(_) => {
                let free = |n: &u32| !self.dir.join(format!("{name}.damaged-{n}")).exists();
                let path = self.dir.join(format!("{name}.damaged-{}", (1..).find(free).unwrap_or(u32::MAX)));
                fs::rename(&file, &path).map_err(|e| Error::io(format!("putting {} aside", file.display()), e))?;
                aside = Some(path);
            }
            Err(_) => {}
        }
        self.write(slot)?;
        Ok(Imported { name, aside, new: true })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// Durable under a name that nobody reads, then renamed.
    fn write(&self, slot: &KeySlot) -> Result<()> {
        let stamp: [u8; 4] = random()?;
        let temporary = self.dir.join(format!("{:08x}{UNFINISHED}", u32::from_le_bytes(stamp)));
        write_new(&temporary, &slot.encode(), 0o600)?;
        let target = self.file(&slot_name(slot));
        fs::rename(&temporary, &target).map_err(|e| Error::io(format!("making {}", target.display()), e))?;
        sync_dir(&self.dir)
    }

    /// Reads a slot back from the medium and opens it: what was written must work before something else goes.
    fn prove(&self, name: &str, password: &[u8], master: &[u8; 32]) -> Result<()> {
        let file = self.file(name);
        let bytes = fs::read(&file).map_err(|e| Error::io(format!("reading {} back", file.display()), e))?;
        let opened = open_slot(&KeySlot::decode(&bytes)?, password)?;
        if opened.as_ref() == Some(master) {
            return Ok(());
        }
        Err(Error::damaged(format!("the new key slot {} does not open", file.display()))
            .advise("the old ones were not touched"))
    }

    fn unlink(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).map_err(|e| Error::io(format!("removing {}", file.display()), e))?;
        sync_dir(&self.dir)
    }
}

/// What an import did.
pub struct Imported {
    /// The slot's name.
    pub name: String,
    /// Where a damaged file of that name is kept now.
    pub aside: Option<PathBuf>,
    /// False when the very slot was there already.
    pub new: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CreateOptions, OpenOptions, Repository, create};

    const KDF: KdfParams = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };

    fn opens(path: &Path, password: &[u8]) -> bool {
        match Repository::open(path, &mut || Ok(password.to_vec()), &OpenOptions::default()) {
            Ok(_) => true,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WrongPassword, "{e}");
                false
            }
        }
    }

    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), &mut || Ok(b"one".to_vec()), &CreateOptions { kdf: KDF, ..CreateOptions::default() })
            .unwrap();
        dir
    }

    #[test]
    fn passwords_come_and_go() {
        let dir = made();
        let path = dir.path();
        {
            let ring = Keyring::open(path).unwrap();
            let one = ring.unlock(b"one", None).unwrap();
            ring.add(&one, b"two", KDF, "second").unwrap();
            assert_eq!(
                ring.remove(&one.name(), &one).unwrap_err().kind(),
                ErrorKind::Usage,
                "its own password removes no slot"
            );
            ring.change(&one, b"three").unwrap();
        }
        assert!(!opens(path, b"one") && opens(path, b"two") && opens(path, b"three"));
        let ring = Keyring::open(path).unwrap();
        let two = ring.unlock(b"two", None).unwrap();
        let keeper = ring.unlock(b"three", Some(&two.name())).unwrap();
        ring.remove(&two.name(), &keeper).unwrap();
        assert!(ring.unlock(b"three", Some(&keeper.name())).is_err(), "the last slot has no keeper but itself");
        drop(ring);
        assert!(!opens(path, b"two") && opens(path, b"three"));
    }

    #[test]
    fn one_damaged_slot_locks_nobody_out() {
        let dir = made();
        let path = dir.path();
        let ring = Keyring::open(path).unwrap();
        let one = ring.unlock(b"one", None).unwrap();
        let name = ring.add(&one, b"two", KDF, "second").unwrap();
        drop(ring);
        for at in [0, 8, 20, 60, 100] {
            let file = path.join("keys").join(format!("{}.key", one.name()));
            let good = fs::read(&file).unwrap();
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            assert!(opens(path, b"two"), "byte {at}");
            assert_eq!(Keyring::open(path).unwrap().unlock(b"two", None).unwrap().name(), name);
            fs::write(&file, &good).unwrap();
        }
        fs::write(path.join("keys/zz.key"), b"").unwrap();
        assert!(opens(path, b"one") && opens(path, b"two"));
    }

    #[test]
    fn what_a_killed_change_leaves_opens_with_both() {
        let dir = made();
        let path = dir.path();
        {
            let ring = Keyring::open(path).unwrap();
            let one = ring.unlock(b"one", None).unwrap();
            // All that a change does before the old slot goes.
            ring.add(&one, b"two", KDF, "").unwrap();
        }
        fs::write(path.join("keys/00112233.new"), b"half a slot").unwrap();
        assert!(opens(path, b"one") && opens(path, b"two"));
        drop(Keyring::open(path).unwrap());
        assert!(!path.join("keys/00112233.new").exists());
    }

    #[test]
    fn an_import_brings_a_lost_slot_back_and_refuses_strangers() {
        let dir = made();
        let path = dir.path();
        let slots = list_slots(path).unwrap();
        let slot = slots[0].slot.as_ref().unwrap().clone();
        let file = path.join("keys").join(format!("{}.key", slots[0].name));
        fs::write(&file, b"damaged").unwrap();
        let ring = Keyring::open(path).unwrap();
        assert_eq!(ring.import(&slot, b"wrong").err().unwrap().kind(), ErrorKind::WrongPassword);
        assert_eq!(fs::read(&file).unwrap(), b"damaged", "nothing was written");
        let imported = ring.import(&slot, b"one").unwrap();
        assert_eq!(fs::read(imported.aside.unwrap()).unwrap(), b"damaged", "kept, not destroyed");
        assert!(!ring.import(&slot, b"one").unwrap().new, "a second time there is nothing to do");
        let other = made();
        let theirs = list_slots(other.path()).unwrap()[0].slot.as_ref().unwrap().clone();
        assert_eq!(ring.import(&theirs, b"one").err().unwrap().kind(), ErrorKind::Usage);
        drop(ring);
        assert!(opens(path, b"one"));
    }
}
