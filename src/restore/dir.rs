//! Directories of the target while something is still to come into them.
//!
//! A directory is made open to us alone and gets its own attributes when the last thing below it is
//! finished: every job holds its directory, every directory its parent, and the last one to let go
//! applies the attributes. So children come before parents without a list of all directories.

use super::Mode;
use super::lookup::{Head, components};
use super::meta::{self, Place};
use super::report::{Finding, normal_path};
use super::shared::Shared;
use crate::os::Dir;
use std::io;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// Directories kept open at a time; the others are opened again by name when they are needed.
const MOST_OPEN: usize = 256;
/// Beyond that, so many of a deep path are kept at even distances: opening one goes through 32 names at most.
const MOST_STRIDES: u32 = MOST_DEPTH / 32;

/// How many directories are kept open, and how many more of deep paths, by a process that may have `limit` files open.
pub(super) fn most_open(limit: u64) -> (usize, u32) {
    let part = u32::try_from(limit / 8).unwrap_or(u32::MAX);
    ((part as usize).min(MOST_OPEN), part.clamp(1, MOST_STRIDES))
}

/// Deepest directory that is restored. Paths that programs can use end at half of it.
pub(super) const MOST_DEPTH: u32 = 4096;
/// Stack of every thread that may let go of a directory and all those above it.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// A directory of the target.
pub(super) struct DirNode<'s> {
    shared: &'s Shared<'s>,
    parent: Option<Arc<DirNode<'s>>>,
    name: Box<[u8]>,
    /// Inode number in the restore point.
    pub(super) ino: u64,
    /// Directories above it below the target.
    pub(super) depth: u32,
    /// What it gets in the end; None: it stays as it is.
    head: Option<Head>,
    made: OnceLock<Option<Made>>,
}

/// A directory that exists in the target.
pub(super) struct Made {
    held: Option<Dir>,
    /// Made by us just now, so nothing is in it that we did not put there.
    pub(super) fresh: bool,
    /// New files in it get our own group and no access list: nothing is inherited.
    pub(super) plain: bool,
}

/// A directory's handle, held by its node or opened for the moment.
pub(super) enum Handle<'a> {
    Held(&'a Dir),
    Own(Dir),
}

impl Deref for Handle<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            Handle::Held(dir) => dir,
            Handle::Own(dir) => dir,
        }
    }
}

impl<'s> DirNode<'s> {
    /// The target itself, which is open already.
    ///
    /// In a dry run it may not exist: None.
    pub(super) fn target(
        shared: &'s Shared<'s>,
        dir: Option<Dir>,
        ino: u64,
        head: Option<Head>,
        fresh: bool,
    ) -> Arc<Self> {
        let plain = dir.as_ref().is_none_or(|dir| {
            if fresh && !meta::inherits_nothing(shared, dir) {
                meta::drop_inherited(shared, dir);
            }
            meta::inherits_nothing(shared, dir)
        });
        shared.open_dirs.fetch_add(usize::from(dir.is_some()), Ordering::Relaxed);
        let made = OnceLock::from(Some(Made { held: dir, fresh, plain }));
        Arc::new(Self { shared, parent: None, name: Box::default(), ino, depth: 0, head, made })
    }

    /// A directory below `parent` that [`DirNode::make`] will make.
    pub(super) fn below(parent: &Arc<Self>, name: Box<[u8]>, head: Head) -> Arc<Self> {
        Arc::new(Self {
            shared: parent.shared,
            parent: Some(Arc::clone(parent)),
            name,
            ino: head.ino,
            depth: parent.depth + 1,
            head: Some(head),
            made: OnceLock::new(),
        })
    }

    /// Whether `ino` is this directory or one above it.
    pub(super) fn is_within(&self, ino: u64) -> bool {
        std::iter::successors(Some(self), |d| d.parent.as_deref()).any(|d| d.ino == ino)
    }

    /// Path in the restore point.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut names: Vec<&[u8]> =
            std::iter::successors(Some(self), |d| d.parent.as_deref()).map(|d| &*d.name).collect();
        names.push(&self.shared.base);
        names.reverse();
        normal_path(&names.join(&b'/'))
    }

    /// Path in the restore point of an entry of this directory.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if components(&path).next().is_some() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// How the directory was made; None when it could not be (which was reported then).
    pub(super) fn state(&self) -> Option<&Made> {
        self.made.get().and_then(Option::as_ref)
    }

    /// Makes the directory and those above it unless they are there. Only the planner calls this.
    /// False when it cannot be made: reported once.
    pub(super) fn make(&self) -> bool {
        self.made.get_or_init(|| self.make_now()).is_some()
    }

    fn make_now(&self) -> Option<Made> {
        let parent = self.parent.as_ref().filter(|p| p.make())?;
        let opened = parent.open().and_then(|above| match self.shared.mode {
            Mode::Restore => meta::make_dir(self.shared, &above, &self.name),
            Mode::Verify | Mode::Dry => Ok((above.open_dir(&self.name)?, false)),
        });
        match opened {
            Ok((dir, fresh)) => Some(self.keep(dir, fresh)),
            Err(_) if self.shared.mode == Mode::Dry => Some(Made { held: None, fresh: true, plain: true }),
            Err(error) => {
                let what = format!("the directory cannot be used, so nothing below it was restored: {error}");
                self.shared.find(Finding { path: self.path(), what, ranges: Vec::new() }, &error);
                None
            }
        }
    }

    fn keep(&self, dir: Dir, fresh: bool) -> Made {
        if fresh && !self.parent.as_ref().and_then(|p| p.state()).is_some_and(|p| p.plain) {
            meta::drop_inherited(self.shared, &dir);
        }
        let plain = meta::inherits_nothing(self.shared, &dir);
        let open = self.shared.open_dirs.fetch_add(1, Ordering::Relaxed);
        let (most, strides) = self.shared.most_open;
        let on_stride = self.depth.is_multiple_of(MOST_DEPTH / strides);
        if open < most || (on_stride && open < most + strides as usize) {
            return Made { held: Some(dir), fresh, plain };
        }
        self.shared.open_dirs.fetch_sub(1, Ordering::Relaxed);
        Made { held: None, fresh, plain }
    }

    /// The directory's handle, opened name by name from the nearest one that is held, through no symbolic link.
    pub(super) fn open(&self) -> io::Result<Handle<'_>> {
        if let Some(dir) = self.state().and_then(|m| m.held.as_ref()) {
            return Ok(Handle::Held(dir));
        }
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = self;
        let held = loop {
            if let Some(dir) = at.state().and_then(|m| m.held.as_ref()) {
                break dir;
            }
            names.push(&at.name);
            at = at.parent.as_deref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        };
        let mut handle = Handle::Held(held);
        for name in names.iter().rev() {
            handle = Handle::Own(handle.open_dir(name)?);
        }
        Ok(handle)
    }

    /// Gives the directory its own attributes.
    fn finish(&self) {
        let (Some(head), Some(made), Mode::Restore) = (&self.head, self.state(), self.shared.mode) else { return };
        let applied = self.open().map(|dir| {
            let place = Place { path: &|| self.path(), fresh: made.fresh };
            meta::finish_dir(self.shared, &dir, head, &place);
        });
        if let Err(error) = applied {
            let what = format!("the directory's attributes were not restored: {error}");
            self.shared.find(Finding { path: self.path(), what, ranges: Vec::new() }, &error);
        }
    }
}

impl Drop for DirNode<'_> {
    fn drop(&mut self) {
        self.finish();
        if self.state().is_some_and(|m| m.held.is_some()) {
            self.shared.open_dirs.fetch_sub(1, Ordering::Relaxed);
        }
        // The parent is let go next, inside this drop: MOST_DEPTH bounds how far that goes.
    }
}
