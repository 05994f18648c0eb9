//! Directory listings as replies.

use super::adapter::{LIST_LIFE, bare_attr, file_attr, file_type, name_life};
use super::fetch::Refuse;
use crate::Result;
use crate::store::{without_waiting, would_have_waited};
use crate::view::{Attr, DirEntry, Ino, View};
use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use repo_format::FileKind;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Entries that are collected for one reply; the kernel's buffers take fewer.
const MOST_ENTRIES: usize = 512;

/// An entry of a listing, told later.
pub(super) struct Entry {
    ino: Ino,
    kind: FileKind,
    name: Vec<u8>,
    next: u64,
    attr: Option<Attr>,
    /// How long the name stays right.
    life: Duration,
}

/// A reply that takes entries.
pub(super) trait Listing: Refuse + Sized {
    /// Whether entries come with their attributes.
    const PLUS: bool;

    /// True: the reply is full, and this one is not in it.
    fn add(&mut self, entry: &DirEntry<'_>, attr: Option<&Attr>, life: Duration) -> bool;

    fn done(self);

    /// Entries from `offset` on, as many as a reply may take.
    fn collect(view: &View, ino: Ino, offset: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        list::<Self>(view, ino, offset, &mut |entry, attr, life| {
            let (name, attr) = (entry.name.to_vec(), attr.cloned());
            entries.push(Entry { ino: entry.ino, kind: entry.kind, name, next: entry.next, attr, life });
            entries.len() >= MOST_ENTRIES
        })?;
        Ok(entries)
    }
}

impl Entry {
    pub(super) fn add_to<R: Listing>(&self, reply: &mut R) -> bool {
        let entry = DirEntry { ino: self.ino, kind: self.kind, name: &self.name, next: self.next };
        reply.add(&entry, self.attr.as_ref(), self.life)
    }
}

/// Takes an entry, its attributes and the life of its name. True: no more.
type Sink<'a> = dyn FnMut(&DirEntry<'_>, Option<&Attr>, Duration) -> bool + 'a;

fn list<R: Listing>(view: &View, ino: Ino, offset: u64, sink: &mut Sink<'_>) -> Result<()> {
    if !R::PLUS {
        return view.readdir(ino, offset, &mut |entry, _| sink(entry, None, Duration::ZERO));
    }
    view.readdir_plus(ino, offset, &mut |entry, attr| {
        // Without attributes the name is listed, and whoever wants them asks again and gets the error.
        let life = attr.map(|_| name_life(view, ino, entry.name, Some(entry.ino)).unwrap_or(LIST_LIFE));
        sink(entry, attr, life.unwrap_or_default())
    })
}

/// Lists what is in memory. None: that is nothing, and the reply is as it was.
pub(super) fn list_at_hand<R: Listing>(view: &View, ino: Ino, offset: u64, reply: &mut R) -> Option<Result<()>> {
    // `.` and `..` alone are not worth an answer.
    let mut dots: Vec<Entry> = Vec::new();
    let mut told = false;
    let listed = without_waiting(|| {
        list::<R>(view, ino, offset, &mut |entry, attr, life| {
            // This entry's attributes may be what would have to be waited for.
            if would_have_waited() {
                return true;
            }
            if matches!(entry.name, b"." | b"..") {
                let name = entry.name.to_vec();
                dots.push(Entry { ino: entry.ino, kind: entry.kind, name, next: entry.next, attr: None, life });
                return false;
            }
            told = true;
            dots.drain(..).any(|dot| dot.add_to(reply)) || reply.add(entry, attr, life)
        })
    });
    if listed.is_none() && !told {
        return None;
    }
    let _ = dots.drain(..).any(|dot| dot.add_to(reply));
    Some(listed.unwrap_or(Ok(())))
}

impl Listing for ReplyDirectory {
    const PLUS: bool = false;

    fn add(&mut self, entry: &DirEntry<'_>, _: Option<&Attr>, _: Duration) -> bool {
        Self::add(self, INodeNo(entry.ino.0), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name))
    }

    fn done(self) {
        self.ok();
    }
}

impl Listing for ReplyDirectoryPlus {
    const PLUS: bool = true;

    fn add(&mut self, entry: &DirEntry<'_>, attr: Option<&Attr>, life: Duration) -> bool {
        let bare = || bare_attr(entry.ino, entry.kind);
        let attr = attr.map_or_else(bare, file_attr);
        Self::add(self, INodeNo(entry.ino.0), entry.next, OsStr::from_bytes(entry.name), &life, &attr, Generation(0))
    }

    fn done(self) {
        self.ok();
    }
}
