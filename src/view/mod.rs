//! The file system without FUSE: every restore point as a tree of inodes, and directories that lead to them.
//!
//! A [`View`] answers the questions of a file system by inode number: look up, attributes, directory
//! entries, content, extended attributes. It keeps no table of inodes; what it remembers is bounded (the
//! layout of restore points, and how far some files were read). Restore points never change, so everything
//! in one has an infinite life; only virtual directories change, and [`View::refresh`] says which.
//!
//! | module | holds |
//! |---|---|
//! | [`backing`] | what a view reads from |
//! | [`inode`], [`attr`] | numbers and attributes |
//! | [`layout`], [`names`] | the virtual directories |
//! | [`computed`] | directories found by time, and the history of paths |
//! | [`only`] | a part of the layout as the root |
//! | [`status`] | `.relict/` |
//! | [`uses`] | how long what was forgotten stays |
//! | [`dir`], [`ranked`] | look-up and listing |
//! | [`read`] | content, holes, xattrs, links |
//! | [`damage`] | what could not be read, said once |
//! | [`memory`] | a repository in memory, for tests and benches |

mod attr;
mod backing;
mod computed;
mod damage;
mod dir;
mod inode;
mod layout;
pub mod memory;
pub mod names;
mod only;
mod ranked;
mod read;
mod status;
#[cfg(test)]
mod tests;
mod uses;

pub use attr::Attr;
pub use backing::{Backing, ChunkRef, StoreFigures};
pub use damage::Damage;
pub use dir::DirEntry;
pub use inode::Ino;
pub use layout::ChangedDir;
pub use only::Only;
pub use read::{Piece, Read, ReadPlan, Seek};
pub use status::Figure;

use crate::store::may_wait;
use crate::{Error, ErrorKind, Result};
use computed::{Computed, is_gmt};
use damage::DamageLog;
use layout::{AT, DIFF, Layout, Slot};
use quick_cache::sync::Cache;
use read::Reading;
use repo_format::{ChunkId, FileKind, Key, Time};
use status::Status;
use std::sync::{Arc, PoisonError, RwLock};
use uses::{KEEP_FORGOTTEN, Uses};

/// Directories whose parent is remembered, for `..`.
const REMEMBERED_PARENTS: usize = 64 * 1024;
/// Files whose reading is remembered.
const REMEMBERED_READINGS: usize = 512;
/// Lives as long as the mount: a year.
const FOR_EVER: Life = Life(365 * 24 * 3600);

/// How long an answer stays right, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life(pub u64);

/// Who owns the virtual directories.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A repository as a file system. Share it: every method takes `&self`.
pub struct View {
    backing: Arc<dyn Backing>,
    layout: RwLock<Arc<Layout>>,
    owner: Owner,
    /// Where directories stand: the one above, and a hash of the name there.
    parents: Cache<Ino, (Ino, u32)>,
    readings: Cache<Ino, Arc<Reading>>,
    damage: DamageLog,
    computed: Computed,
    status: Status,
    uses: Uses,
    /// What the mount's root is: the layout's, or a part of it.
    root: Ino,
}

/// Where an inode of a restore point is found.
struct Place {
    root: ChunkId,
    ino: Ino,
}

impl View {
    /// A view of all restore points of `backing`. Damage is told to `report`, once a file.
    ///
    /// # Errors
    /// When the list of restore points cannot be read.
    pub fn new(
        backing: Arc<dyn Backing>,
        owner: Owner,
        report: impl Fn(&Damage) + Send + Sync + 'static,
    ) -> Result<Self> {
        let points = backing.points()?;
        let (layout, _) = Layout::default().update(&points, Time::default()).unwrap_or_default();
        let uses = Uses::new(KEEP_FORGOTTEN);
        uses.follow(&points);
        Ok(Self {
            backing,
            layout: RwLock::new(Arc::new(layout)),
            owner,
            parents: Cache::new(REMEMBERED_PARENTS),
            readings: Cache::new(REMEMBERED_READINGS),
            damage: DamageLog::new(report),
            computed: Computed::default(),
            status: Status::default(),
            uses,
            root: Ino::ROOT,
        })
    }

    /// Looks for new restore points, and says which directories changed.
    ///
    /// # Errors
    /// When the repository cannot be read; the view then stays as it was.
    pub fn refresh(&self, now: Time) -> Result<Vec<ChangedDir>> {
        let points = self.backing.refresh().and_then(|()| self.backing.points());
        self.status.followed(now, points.as_ref().err());
        let points = points?;
        self.backing.release(&self.uses.follow(&points));
        let Some((next, mut changed)) = self.layout().update(&points, now) else { return Ok(Vec::new()) };
        changed.iter_mut().for_each(|dir| dir.ino = self.shown(dir.ino));
        *self.layout.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(changed)
    }

    /// Number of restore points shown.
    #[must_use]
    pub fn points(&self) -> usize {
        self.layout().points()
    }

    /// Whether every restore point shown is known to have no POSIX ACLs.
    #[must_use]
    pub fn has_no_acls(&self) -> bool {
        self.layout.read().unwrap_or_else(PoisonError::into_inner).has_no_acls()
    }

    /// Files and directories with damage met so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damage.count()
    }

    /// Figures of the store.
    #[must_use]
    pub fn stats(&self) -> StoreFigures {
        self.backing.stats()
    }

    /// Loads chunks that will be read soon. Blocks: call it on a thread that has nothing better to do.
    pub fn prefetch(&self, ids: &[ChunkId]) {
        self.backing.prefetch(ids);
    }

    /// How long attributes and names of an inode stay right; None for what [`View::refresh`] can change.
    #[must_use]
    pub fn life(&self, ino: Ino) -> Option<Life> {
        (!self.inner(ino).is_virtual()).then_some(FOR_EVER)
    }

    /// How long it stays right that `name` in `parent` is `child`, or with None that it is nothing; None where
    /// [`View::refresh`] or time itself can change that.
    #[must_use]
    pub fn name_life(&self, parent: Ino, name: &[u8], child: Option<Ino>) -> Option<Life> {
        let parent = self.inner(parent);
        let sought = parent.is_computed() || parent == AT || parent == DIFF || is_gmt(name);
        let life = self.life(child.unwrap_or(parent));
        life.filter(|_| !sought)
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE` for an unknown number; `Damaged` or `Io` when its metadata cannot be read.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let ino = self.inner(ino);
        let attr = if ino.is_computed() {
            self.computed_attr(&self.layout(), ino)?
        } else if ino.is_virtual() {
            self.virtual_attr(&self.layout(), ino)?
        } else {
            let place = self.place(ino)?;
            self.noted(ino, None, self.inode_attr(&place))?
        };
        Ok(Attr { ino: self.shown(ino), ..attr })
    }

    fn virtual_attr(&self, layout: &Layout, ino: Ino) -> Result<Attr> {
        match (layout.dir(ino), layout.link(ino)) {
            (Some(dir), _) => Ok(self.dir_attr(ino, dir.subdirs, dir.mtime)),
            (_, Some(link)) => {
                let attr = self.dir_attr(ino, 0, link.mtime);
                Ok(Attr { kind: FileKind::Symlink, perm: 0o777, nlink: 1, size: link.target.len() as u64, ..attr })
            }
            _ => self.status_attr(ino).ok_or_else(|| errno(libc::ESTALE)),
        }
    }

    /// Attributes of a virtual directory.
    fn dir_attr(&self, ino: Ino, subdirs: u32, mtime: Time) -> Attr {
        let (Owner { uid, gid }, ctime, kind) = (self.owner, mtime, FileKind::Dir);
        let (perm, nlink) = (0o555, 2 + subdirs);
        Attr {
            ino,
            kind,
            perm,
            nlink,
            uid,
            gid,
            size: 0,
            blocks: 0,
            data_bytes: 0,
            mtime,
            ctime,
            btime: None,
            rdev: 0,
            flags: 0,
        }
    }

    fn inode_attr(&self, place: &Place) -> Result<Attr> {
        let key = Key::Inode(place.ino.tree()).encode();
        let found = crate::catalog::tree::get(self.nodes(), &place.root, &key)?;
        let entry = found.ok_or_else(|| missing_inode(place.ino))?;
        Attr::decode(place.ino, entry.value())
    }

    fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn nodes(&self) -> &dyn crate::catalog::tree::ReadNodes {
        &*self.backing
    }

    fn place(&self, ino: Ino) -> Result<Place> {
        let layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
        let slot = self.slot(&layout, ino.slot())?;
        if !self.uses.touch(&slot.point.id) {
            return Err(errno(libc::ESTALE));
        }
        Ok(Place { root: slot.point.root, ino })
    }

    fn slot(&self, layout: &Layout, slot: u32) -> Result<Slot> {
        let found = || self.computed.slot(slot).map(|slot| (*slot).clone());
        layout.slot(slot).cloned().or_else(found).ok_or_else(|| errno(libc::ESTALE))
    }

    /// Notes the error of a read of `ino`, if it is one of the repository's.
    fn noted<T>(&self, ino: Ino, offset: Option<u64>, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io)
            && error.errno().is_none_or(|n| n == libc::EIO)
            // It is told with its path, which has to be looked for.
            && may_wait().is_ok()
        {
            self.damage.note(self, ino, offset, error);
        }
        result
    }
}

fn missing_inode(ino: Ino) -> Error {
    Error::damaged(format!("inode {} has a name but no attributes", ino.tree()))
}

/// An answer that is an error number and no more, such as `ENOTDIR`.
fn errno(number: i32) -> Error {
    Error::io("the file system says", std::io::Error::from_raw_os_error(number))
}
