//! Content: bytes, holes, link targets and extended attributes.
//!
//! The extents around the last read of a file are remembered, so that a file read in order costs a look
//! into the tree every few megabytes. Nothing hangs on what is remembered: any thread may read anything.

use super::attr::Attr;
use super::backing::ChunkRef;
use super::inode::Ino;
use super::{Place, View, errno, missing_inode};
use crate::catalog::tree;
use crate::store::may_wait;
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Extent, FileKind, Inode, Key, KeyKind};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// How far ahead of a file that is read in order chunks are announced.
const AHEAD_BYTES: u64 = 4 << 20;
/// Extents are looked up this far at once when a file is read in order.
const WINDOW_BYTES: u64 = 16 << 20;
/// Requests of one reader overtake each other by no more than this.
const JITTER_BYTES: u64 = 2 << 20;
/// Files up to this are shown by [`View::small_files_after`].
const SMALL_FILE_BYTES: u64 = 128 << 10;
/// The largest offset that Linux knows.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;
/// Reads in a row that make a file one that is read in order.
const STREAK: u32 = 2;

/// A part of a file's content.
#[derive(Clone)]
pub enum Piece {
    /// Bytes `start..end` of a chunk.
    Data {
        /// The chunk.
        chunk: ChunkRef,
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// So many zero bytes.
    Zero(u64),
    /// So many bytes that cannot be read.
    Lost(u64),
}

impl Piece {
    /// Bytes of the file that this is.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data { start, end, .. } => (end - start) as u64,
            Self::Zero(len) | Self::Lost(len) => *len,
        }
    }

    /// Whether it is empty; a read gives no empty pieces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, of data.
    #[must_use]
    pub fn data(&self) -> Option<&[u8]> {
        match self {
            Self::Data { chunk, start, end } => chunk.get(*start..*end),
            Self::Zero(_) | Self::Lost(_) => None,
        }
    }
}

/// What a read gave.
#[derive(Default)]
pub struct Read {
    /// The content, shorter than asked for only at the end of the file.
    pub pieces: Vec<Piece>,
    /// Chunks that will be wanted soon, in order.
    pub ahead: Vec<ChunkId>,
}

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// What a read needs: known from metadata, before any content is touched.
pub struct ReadPlan {
    extents: Vec<(u64, Extent)>,
    offset: u64,
    end: u64,
    whole: bool,
    ahead: Vec<ChunkId>,
}

impl ReadPlan {
    /// Where the read begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Chunks that will be wanted after it, in order.
    #[must_use]
    pub fn ahead(&self) -> &[ChunkId] {
        &self.ahead
    }

    /// Whether it is all of a file, and that is small enough to be one of many.
    #[must_use]
    pub fn is_small_file(&self) -> bool {
        self.whole && (1..=SMALL_FILE_BYTES).contains(&self.end)
    }
}

/// What is remembered of a file that is read.
#[derive(Default)]
pub(super) struct Reading(Mutex<Window>);

/// Extents of a file from one offset to another, and how it was read.
#[derive(Default)]
struct Window {
    size: u64,
    extents: Vec<(u64, Extent)>,
    from: u64,
    until: u64,
    next: u64,
    streak: u32,
    announced: u64,
}

impl View {
    /// Reads up to `len` bytes from `offset`. Lost pieces are reported and counted here.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`, `ESTALE`, or when the metadata cannot be read.
    pub fn read(&self, ino: Ino, offset: u64, len: u64) -> Result<Read> {
        if ino.is_virtual() {
            return self.read_status(ino, offset, len).unwrap_or_else(|| Err(errno(libc::EISDIR)));
        }
        self.plan(ino, offset, len).map(|plan| self.carry_out(ino, plan))
    }

    /// Whether a read needs nothing from the medium.
    #[must_use]
    pub fn at_hand(&self, plan: &ReadPlan) -> bool {
        plan.extents.iter().all(|(_, extent)| self.backing.at_hand(&extent.chunk))
    }

    /// The second half of [`View::read`], which touches the content.
    #[must_use]
    pub fn carry_out(&self, ino: Ino, plan: ReadPlan) -> Read {
        let ReadPlan { extents, offset, end, ahead, .. } = plan;
        let mut pieces = Vec::with_capacity(extents.len());
        let mut at = offset;
        for (start, extent) in extents {
            let (from, to) = (start.max(at), (start + u64::from(extent.len)).min(end));
            push_zeros(&mut pieces, from.saturating_sub(at));
            if from < to {
                pieces.push(self.piece(ino, start, &extent, from, to));
                at = to;
            }
        }
        push_zeros(&mut pieces, end.saturating_sub(at));
        Read { pieces, ahead }
    }

    /// The first half of [`View::read`] of a file in a restore point: what it needs, from metadata only.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn plan(&self, ino: Ino, offset: u64, len: u64) -> Result<ReadPlan> {
        if ino.is_virtual() {
            return Err(errno(libc::EISDIR));
        }
        let known = self.readings.get(&ino);
        let reading = known.unwrap_or_default();
        let mut window = reading.lock()?;
        let end = offset.saturating_add(len);
        if !window.covers(offset, end) {
            let place = self.place(ino)?;
            let wanted = if window.streak >= STREAK { end.saturating_add(WINDOW_BYTES) } else { end };
            let loaded = self.load(&place, &mut window, offset, wanted);
            if loaded.is_err() {
                // Half a window would show holes where there is data.
                *window = Window::default();
            }
            self.noted(ino, None, loaded)?;
        }
        let whole = offset == 0 && end >= window.size;
        let end = end.min(window.size).max(offset);
        window.follow(offset, end);
        let extents = window.between(offset, end).to_vec();
        let planned = ReadPlan { extents, offset, end, whole, ahead: window.announce(end) };
        drop(window);
        // A file that was read in one request is not read again: the kernel keeps it.
        if !whole {
            self.readings.insert(ino, reading);
        }
        Ok(planned)
    }

    /// Reports that the medium did not answer a read in time.
    pub fn gave_up(&self, ino: Ino, offset: Option<u64>, after: Duration) {
        let error =
            Error::new(ErrorKind::Io, format!("the repository's medium gave no answer for {} s", after.as_secs_f32()));
        let _ = self.noted::<()>(ino, offset, Err(error));
    }

    /// Shows the content of small files among the next `inodes` numbers, in order, until `sink` gives false or
    /// something cannot be read. Unless `load`, content that is not in memory ends it, too.
    pub fn small_files_after(&self, ino: Ino, inodes: u64, load: bool, sink: &mut dyn FnMut(Ino, &[u8]) -> bool) {
        let Ok(place) = self.place(ino) else { return };
        let mut entries = tree::range(self.nodes(), &place.root, &[]);
        for number in ino.tree() + 1..=ino.tree().saturating_add(inodes) {
            let Some(next) = Ino::in_slot(ino.slot(), number) else { return };
            // Errors are told to who reads the file.
            let Ok(extent) = small_file(&mut entries, number) else { return };
            let Some(extent) = extent else { continue };
            if !load && !self.backing.at_hand(&extent.chunk) {
                return;
            }
            let Ok(chunk) = self.backing.chunk(&extent.chunk) else { return };
            let Some(content) = chunk.get(extent.skip as usize..extent.skip as usize + extent.len as usize) else {
                return;
            };
            if !sink(next, content) {
                return;
            }
        }
    }

    /// Fills a window with the extents from `offset` to `end`.
    fn load(&self, place: &Place, window: &mut Window, offset: u64, end: u64) -> Result<()> {
        let ino = place.ino.tree();
        let mut entries = tree::range(self.nodes(), &place.root, &Key::Inode(ino).encode());
        if window.until == 0 {
            let entry = entries.next().transpose()?.filter(|entry| entry.key() == Key::Inode(ino).encode());
            let entry = entry.ok_or_else(|| missing_inode(place.ino))?;
            let inode = Inode::decode(entry.value()).map_err(Error::from)?;
            window.size = file_size(&inode)?;
        }
        entries.seek(&self.first_extent(place, offset)?);
        let prefix = Key::prefix(ino, KeyKind::Extent);
        (window.from, window.until) = (offset, window.size.max(1));
        window.extents.clear();
        let mut free = 0;
        for entry in entries {
            let entry = entry?;
            if !entry.key().starts_with(&prefix) {
                if entry.key() < prefix.as_slice() {
                    continue;
                }
                break;
            }
            let (start, extent) = decode_extent(entry.key(), entry.value())?;
            if start < free {
                return Err(Error::damaged(format!("extents of inode {ino} overlap at byte {start}")));
            }
            if start >= end {
                window.until = start;
                break;
            }
            free = start.saturating_add(u64::from(extent.len));
            window.extents.push((start, extent));
        }
        Ok(())
    }

    /// The key of the extent that covers `offset`, or one before the first after it.
    fn first_extent(&self, place: &Place, offset: u64) -> Result<Vec<u8>> {
        let ino = place.ino.tree();
        let key = Key::Extent(ino, offset).encode();
        if offset == 0 {
            return Ok(key);
        }
        let floor = tree::floor(self.nodes(), &place.root, &key)?;
        let same = floor.filter(|entry| entry.key().starts_with(&Key::prefix(ino, KeyKind::Extent)));
        Ok(same.map_or(key, |entry| entry.key().to_vec()))
    }

    fn piece(&self, ino: Ino, start: u64, extent: &Extent, from: u64, to: u64) -> Piece {
        let chunk = self.backing.chunk(&extent.chunk).and_then(|chunk| {
            let enough = chunk.len() as u64 >= u64::from(extent.skip) + u64::from(extent.len);
            let short = || Error::damaged(format!("chunk {} is shorter than its extent", extent.chunk));
            if enough { Ok(chunk) } else { Err(short()) }
        });
        let skip = u64::from(extent.skip);
        match self.noted(ino, Some(from), chunk) {
            Ok(chunk) => {
                Piece::Data { chunk, start: (skip + from - start) as usize, end: (skip + to - start) as usize }
            }
            Err(_) => Piece::Lost(to - from),
        }
    }

    /// The next data or hole at or after `offset`; None when there is none before the end of the file.
    ///
    /// # Errors
    /// `EINVAL` for what is not a file, or when the metadata cannot be read.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        let attr = self.getattr(ino)?;
        if attr.kind != FileKind::File {
            return Err(errno(libc::EINVAL));
        }
        if offset >= attr.size {
            return Ok(None);
        }
        if attr.data_bytes == attr.size {
            return Ok(Some(if what == Seek::Data { offset } else { attr.size }));
        }
        let place = self.place(ino)?;
        let found = self.seek_extents(&place, &attr, offset, what);
        self.noted(ino, None, found)
    }

    fn seek_extents(&self, place: &Place, attr: &Attr, offset: u64, what: Seek) -> Result<Option<u64>> {
        let prefix = Key::prefix(place.ino.tree(), KeyKind::Extent);
        let first = self.first_extent(place, offset)?;
        let mut data_until = offset;
        for entry in tree::range(self.nodes(), &place.root, &first) {
            let entry = entry?;
            if !entry.key().starts_with(&prefix) {
                break;
            }
            let (start, extent) = decode_extent(entry.key(), entry.value())?;
            let end = start.saturating_add(u64::from(extent.len));
            match what {
                Seek::Data if end > offset => return Ok(Some(start.max(offset)).filter(|at| *at < attr.size)),
                Seek::Hole if start > data_until => break,
                _ => data_until = data_until.max(end),
            }
        }
        // The end of a file counts as a hole.
        Ok(Some(data_until.min(attr.size)).filter(|_| what == Seek::Hole))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for what is not a link, or when the metadata cannot be read.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        if ino.is_virtual() {
            let layout = self.layout();
            let link = layout.link(ino).ok_or_else(|| errno(libc::EINVAL))?;
            return Ok(link.target.clone().into_bytes());
        }
        let place = self.place(ino)?;
        let found = tree::get(self.nodes(), &place.root, &Key::Target(ino.tree()).encode());
        let entry = self.noted(ino, None, found)?.ok_or_else(|| errno(libc::EINVAL))?;
        Ok(entry.value().to_vec())
    }

    /// The inode of a restore point whose attributes `ino` has; None if there is none.
    fn with_xattrs(&self, ino: Ino) -> Result<Option<Ino>> {
        let ino = self.inner(ino);
        match ino.is_virtual() {
            false => Ok(Some(ino)),
            true if ino.is_computed() => self.computed_model(ino),
            true => Ok(None),
        }
    }

    /// The value of an extended attribute; None if there is none.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(ino) = self.with_xattrs(ino)? else { return Ok(None) };
        let place = self.place(ino)?;
        let found = tree::get(self.nodes(), &place.root, &Key::Xattr(ino.tree(), name).encode());
        Ok(self.noted(ino, None, found)?.map(|entry| entry.value().to_vec()))
    }

    /// The names of all extended attributes, each with a zero byte after it.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let Some(ino) = self.with_xattrs(ino)? else { return Ok(names) };
        let place = self.place(ino)?;
        let prefix = Key::prefix(ino.tree(), KeyKind::Xattr);
        for entry in tree::range_prefix(self.nodes(), &place.root, &prefix) {
            let entry = self.noted(ino, None, entry)?;
            names.extend_from_slice(entry.key().get(prefix.len()..).unwrap_or_default());
            names.push(0);
        }
        Ok(names)
    }
}

impl Reading {
    /// # Errors
    /// `Interrupted`, when this thread must not wait: who has it may be waiting for the medium.
    fn lock(&self) -> Result<MutexGuard<'_, Window>> {
        match self.0.try_lock() {
            Ok(window) => Ok(window),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                may_wait()?;
                Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }
}

impl Window {
    /// Whether the extents of a range are known, and of what follows it if that will be announced.
    fn covers(&self, offset: u64, end: u64) -> bool {
        let ahead = if self.streak >= STREAK { AHEAD_BYTES } else { 0 };
        let end = end.saturating_add(ahead).min(self.size);
        self.until > 0 && self.from <= offset && (end <= self.until || offset >= self.size)
    }

    /// Notes a read.
    fn follow(&mut self, offset: u64, end: u64) {
        let in_order = offset.abs_diff(self.next) <= JITTER_BYTES;
        self.streak = if in_order { self.streak.saturating_add(1) } else { 0 };
        self.next = if in_order { self.next.max(end) } else { end };
        if !in_order {
            self.announced = 0;
        }
    }

    /// The extents that touch a range.
    fn between(&self, offset: u64, end: u64) -> &[(u64, Extent)] {
        let first = self.extents.partition_point(|(start, extent)| start + u64::from(extent.len) <= offset);
        let last = self.extents.partition_point(|(start, _)| *start < end);
        self.extents.get(first..last).unwrap_or_default()
    }

    /// Chunks after `end` that were not announced yet, if the file is read in order.
    fn announce(&mut self, end: u64) -> Vec<ChunkId> {
        if self.streak < STREAK || end >= self.size {
            return Vec::new();
        }
        let (from, to) = (self.announced.max(end), end.saturating_add(AHEAD_BYTES).min(self.until));
        // A few at a time would be as many messages as reads.
        if to < from.saturating_add(AHEAD_BYTES / 4) && to < self.size {
            return Vec::new();
        }
        self.announced = to.max(from);
        let starts = |(start, _): &&(u64, Extent)| *start >= from;
        self.between(from, to).iter().filter(starts).map(|(_, extent)| extent.chunk).collect()
    }
}

/// The one extent of a small file; None for anything else.
fn small_file(entries: &mut tree::Range<'_>, number: u64) -> Result<Option<Extent>> {
    let key = Key::Inode(number).encode();
    entries.seek(&key);
    let Some(entry) = entries.next().transpose()?.filter(|entry| entry.key() == key) else { return Ok(None) };
    let inode = Inode::decode(entry.value()).map_err(Error::from)?;
    if inode.kind() != FileKind::File || !(1..=SMALL_FILE_BYTES).contains(&inode.size) {
        return Ok(None);
    }
    let key = Key::Extent(number, 0).encode();
    entries.seek(&key);
    let Some(entry) = entries.next().transpose()?.filter(|entry| entry.key() == key) else { return Ok(None) };
    let extent = Extent::decode(entry.value()).map_err(Error::from)?;
    Ok(Some(extent).filter(|extent| u64::from(extent.len) == inode.size))
}

fn push_zeros(pieces: &mut Vec<Piece>, len: u64) {
    if len > 0 {
        pieces.push(Piece::Zero(len));
    }
}

fn file_size(inode: &Inode) -> Result<u64> {
    match inode.kind() {
        FileKind::File => Ok(inode.size.min(MAX_FILE_BYTES)),
        FileKind::Dir => Err(errno(libc::EISDIR)),
        _ => Err(errno(libc::EINVAL)),
    }
}

fn decode_extent(key: &[u8], value: &[u8]) -> Result<(u64, Extent)> {
    let Ok(Key::Extent(_, start)) = Key::decode(key) else {
        return Err(Error::damaged("an extent has a key that is not valid"));
    };
    let extent = Extent::decode(value).map_err(Error::from)?;
    let end = start.checked_add(u64::from(extent.len)).filter(|end| *end <= MAX_FILE_BYTES);
    end.ok_or_else(|| Error::damaged("an extent ends beyond the largest file"))?;
    Ok((start, extent))
}
