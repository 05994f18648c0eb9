//! One state being made: changes go in, a tree comes out.

use super::super::backup::is_acl_name;
use super::append::Appender;
use super::content::{Content, ContentId, Layout, LayoutRows, What};
use super::damage::{Damage, DamageLog};
use super::path::refused;
use super::pipeline::Pipeline;
use super::recut::Recut;
use super::rows::{Base, Rows};
use super::source::ReadSource;
use super::spool::Spool;
use super::staged::{Staged, StagedTree, new_inode};
use super::states::id_text;
use super::store::Store;
use crate::catalog::points::printable;
use crate::catalog::tree;
use crate::ingest::change::{Change, SetAttr};
use crate::ingest::report::Monitor;
use crate::{Error, ErrorKind, Result};
use repo_format::{
    ChunkId, Counts, Device, Dirent, FileKind, Inode, Key, MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_TARGET_BYTES,
    MAX_XATTR_BYTES, ROOT_INO, Time,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Permissions of files and directories of which the stream says none.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// As Linux shows all of them.
const LINK_MODE: u32 = 0o777;
/// Bytes in the temporary file from which on everything staged is cut.
pub(super) const SPOOL_BYTES: u64 = 1 << 30;
/// Changed files up to this size have their extents copied to make a layout for clones; larger ones go to a tree first.
const SHARED_BYTES: u64 = 256 << 20;

/// Finds the trees of states that are sealed.
pub(super) trait FindState {
    /// The root of the state with this id.
    fn root_of(&self, id: &[u8]) -> Result<ChunkId>;
}

/// What applying one state works with.
pub(super) struct Around<'s> {
    pub(super) store: &'s dyn Store,
    pub(super) monitor: &'s dyn Monitor,
    pub(super) stop: &'s AtomicBool,
    /// Bound of the staged state's memory, in bytes.
    pub(super) limit_bytes: usize,
    /// New extents of one file that are kept in memory.
    pub(super) max_extents: usize,
}

/// A state between its `Begin` and its `End`.
pub(super) struct Apply<'r, 's> {
    pub(super) around: &'r Around<'s>,
    pub(super) pipeline: &'r mut Pipeline<'s>,
    pub(super) source: Option<&'r mut (dyn ReadSource + 's)>,
    pub(super) states: &'r dyn FindState,
    pub(super) state: &'r mut State<'s>,
}

/// What is kept from one change to the next.
pub(super) struct State<'s> {
    /// The state's own id.
    pub(super) id: Vec<u8>,
    pub(super) tree: StagedTree<'s>,
    pub(super) contents: HashMap<ContentId, Content>,
    next_content: u64,
    appender: Option<Appender>,
    /// The buffer of the appender before.
    window: Vec<u8>,
    pub(super) spool: Spool,
    /// From so many bytes in the spool on, everything staged is cut.
    pub(super) spool_limit: u64,
    /// Files, directories, bytes: as in the base tree, until the end.
    pub(super) counts: Counts,
    /// Whether the base tree or a change may have a POSIX ACL.
    pub(super) acls: bool,
    /// Stored content that could not be read.
    pub(super) damage: DamageLog,
    /// Trees of other states, by id.
    roots: HashMap<Vec<u8>, ChunkId>,
}

impl<'s> State<'s> {
    /// A state that begins as `base`.
    pub(super) fn new(
        around: &Around<'s>,
        id: &[u8],
        base: Option<ChunkId>,
        next_ino: u64,
        next_content: u64,
        counts: Counts,
    ) -> Self {
        Self {
            id: id.to_vec(),
            tree: StagedTree::new(around.store.nodes(), base, next_ino),
            contents: HashMap::new(),
            next_content,
            appender: None,
            window: Vec::new(),
            spool: Spool::new(around.limit_bytes / 8),
            spool_limit: SPOOL_BYTES,
            counts,
            acls: false,
            damage: DamageLog::default(),
            roots: HashMap::new(),
        }
    }

    /// The first content id that was not given out.
    pub(super) const fn next_content(&self) -> u64 {
        self.next_content
    }
}

impl<'s> Apply<'_, 's> {
    /// Applies one change between `Begin` and `End`.
    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<()> {
        self.check_stop()?;
        let tree = &mut self.state.tree;
        match *change {
            Change::Create { path, kind, ino, device } => self.create(path, kind, ino, device)?,
            Change::Link { path, existing } => tree.link(path, existing)?,
            Change::Unlink { path } => tree.unlink(path)?,
            Change::RemoveDir { path } => tree.remove_dir(path)?,
            Change::Rename { from, to } => tree.rename(from, to)?,
            Change::SetAttr { path, set } => set_attr(tree.find_mut(path)?.1, path, &set)?,
            Change::SetXattr { path, name, value } => self.set_xattr(path, name, Some(value))?,
            Change::RemoveXattr { path, name } => self.set_xattr(path, name, None)?,
            Change::SetTarget { path, target } => self.set_target(path, target)?,
            Change::Write { path, offset, data } => self.write(path, offset, data)?,
            Change::Zero { path, offset, len, extend } => self.zero(path, offset, len, extend)?,
            Change::Clone { path, offset, state, from, from_offset, len } => {
                self.clone_range(path, offset, state, from, from_offset, len)?;
            }
            Change::Truncate { path, size } => self.truncate(path, size)?,
            Change::Changed { path, offset, len } => self.changed(path, offset, len)?,
            Change::Begin { .. } | Change::Note { .. } | Change::End => {}
        }
        self.make_room()
    }

    /// An error once the user has said stop.
    pub(super) fn check_stop(&self) -> Result<()> {
        match self.around.stop.load(Relaxed) {
            true => Err(Error::new(ErrorKind::Interrupted, "the ingest was stopped")),
            false => Ok(()),
        }
    }

    /// Moves what is staged to a tree when it takes too much memory.
    fn make_room(&mut self) -> Result<()> {
        let state = &mut *self.state;
        for content in state.tree.orphans.drain(..) {
            state.contents.remove(&content);
            state.appender.take_if(|open| open.content == content);
        }
        let ready = self.pipeline.ready();
        self.absorb(ready);
        let staged_bytes = self.state.tree.charge_bytes - self.state.tree.kept_bytes;
        if staged_bytes > self.around.limit_bytes || self.state.spool.bytes() > self.state.spool_limit {
            self.fold(false)?;
        }
        Ok(())
    }

    /// Takes extents that came back from the workers.
    pub(super) fn absorb(&mut self, stored: Vec<super::pipeline::Stored>) {
        for one in stored {
            // A file that is gone by now needs no extents.
            let Some(content) = self.state.contents.get_mut(&one.content) else { continue };
            self.state.tree.charge_bytes += one.extents.len() * 64;
            content.rows.extend(one.extents);
            content.shared = None;
        }
    }

    fn create(&mut self, path: &[u8], kind: FileKind, ino: Option<u64>, device: Option<Device>) -> Result<()> {
        let is_device = matches!(kind, FileKind::Char | FileKind::Block);
        if is_device != device.is_some() {
            return Err(refused(path, "is a device without a number, or has one and is none"));
        }
        let permissions = match kind {
            FileKind::Dir => DIR_MODE,
            FileKind::Symlink => LINK_MODE,
            _ => FILE_MODE,
        };
        let inode = Inode { rdev: device, ..new_inode(kind, permissions) };
        let ino = self.state.tree.create(path, inode, ino)?;
        if kind == FileKind::Dir {
            self.state.tree.created_dir(ino)?;
            self.around.monitor.on_dir(path);
        } else {
            self.around.monitor.on_file(0, crate::ingest::report::News::New);
        }
        Ok(())
    }

    fn set_xattr(&mut self, path: &[u8], name: &[u8], value: Option<&[u8]>) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(&0) {
            return Err(refused(path, "gets an extended attribute whose name is empty, too long or has a NUL in it"));
        }
        if value.is_some_and(|value| value.len() > MAX_XATTR_BYTES) {
            return Err(refused(path, "gets an extended attribute of more than 65536 bytes"));
        }
        let tree = &mut self.state.tree;
        tree.charge(name.len() + value.map_or(0, <[u8]>::len) + 96);
        let staged = tree.find_mut(path)?.1;
        staged.xattrs.insert(name.into(), value.map(<[u8]>::to_vec));
        self.state.acls |= is_acl_name(name);
        Ok(())
    }

    fn set_target(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) {
            return Err(refused(path, "gets a target that is empty, too long or has a NUL in it"));
        }
        let tree = &mut self.state.tree;
        tree.charge(target.len() + 32);
        let (ino, staged) = tree.find_mut(path)?;
        if staged.inode.kind() != FileKind::Symlink {
            return Err(refused(path, "is not a symbolic link, and has no target"));
        }
        staged.inode.size = target.len() as u64;
        staged.target = Some(target.to_vec());
        tree.without_target.remove(&ino);
        Ok(())
    }

    /// The content of the file at `path`, staged; and nothing is open at its end but what `keep` says.
    fn content(&mut self, path: &[u8]) -> Result<ContentId> {
        let (ino, staged) = self.state.tree.find_file(path)?;
        if let Some(id) = staged.content {
            return Ok(id);
        }
        let id = ContentId(self.state.next_content);
        self.state.next_content += 1;
        staged.content = Some(id);
        let content = match staged.origin {
            Some(origin) => Content::of_base(origin, staged.inode.size),
            None => Content::default(),
        };
        debug_assert!(staged.origin.is_none_or(|origin| origin == ino), "only directories are renumbered");
        self.state.contents.insert(id, content);
        self.state.tree.charge(size_of::<Content>() + 64);
        Ok(id)
    }

    pub(super) fn content_mut(&mut self, id: ContentId) -> Result<&mut Content> {
        self.state.contents.get_mut(&id).ok_or_else(|| Error::new(ErrorKind::Io, "a content is not staged"))
    }

    /// Ends the file that is being written in order.
    pub(super) fn close(&mut self) -> Result<()> {
        let Some(appender) = self.state.appender.take() else { return Ok(()) };
        let Some(content) = self.state.contents.get_mut(&appender.content) else { return Ok(()) };
        content.layout_size = content.size;
        content.staged.clear();
        self.state.window = appender.finish(self.pipeline, content.size)?;
        Ok(())
    }

    /// Whether the file that is being written in order is this one.
    pub(super) fn is_open(&self, id: ContentId) -> Option<&Appender> {
        self.state.appender.as_ref().filter(|open| open.content == id)
    }

    fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> Result<()> {
        let range = range_of(path, offset, data.len() as u64)?;
        let id = self.content(path)?;
        self.around.monitor.on_read(data.len() as u64);
        self.state.counts.read_bytes += data.len() as u64;
        if data.is_empty() {
            return Ok(());
        }
        let may_append = match self.is_open(id) {
            Some(open) => open.end() <= offset,
            None => self.content_mut(id)?.is_blank() && !self.pipeline.awaits(id),
        };
        if may_append {
            return self.append(id, range, data);
        }
        self.close_if(id)?;
        let at = self.state.spool.push(data)?;
        self.stage(id, range, What::Spool(at))
    }

    fn append(&mut self, id: ContentId, range: Range<u64>, data: &[u8]) -> Result<()> {
        if self.is_open(id).is_none() {
            self.close()?;
            let window = std::mem::take(&mut self.state.window);
            self.state.appender = Some(Appender::new(id, self.pipeline, window));
        }
        let content = self.content_mut(id)?;
        content.size = content.size.max(range.end);
        match &mut self.state.appender {
            Some(open) => open.write(self.pipeline, range.start, data),
            None => Ok(()),
        }
    }

    fn close_if(&mut self, id: ContentId) -> Result<()> {
        if self.is_open(id).is_some() { self.close() } else { Ok(()) }
    }

    fn stage(&mut self, id: ContentId, range: Range<u64>, what: What) -> Result<()> {
        let bytes = self.content_mut(id)?.stage(range, what);
        self.state.tree.charge(bytes);
        Ok(())
    }

    fn zero(&mut self, path: &[u8], offset: u64, len: u64, extend: bool) -> Result<()> {
        let range = range_of(path, offset, len)?;
        let id = self.content(path)?;
        if let Some(open) = self.is_open(id) {
            if open.end() <= range.start {
                let content = self.content_mut(id)?;
                content.size = if extend { content.size.max(range.end) } else { content.size };
                return Ok(());
            }
            self.close()?;
        }
        let content = self.content_mut(id)?;
        if range.is_empty() {
            // Nothing becomes zero, but the file may become longer.
            return if extend && content.size < range.end { self.truncate(path, range.end) } else { Ok(()) };
        }
        let bytes = if extend { content.stage(range, What::Hole) } else { content.stage_inside(range, What::Hole) };
        self.state.tree.charge(bytes);
        Ok(())
    }

    fn truncate(&mut self, path: &[u8], size: u64) -> Result<()> {
        range_of(path, size, 0)?;
        let id = self.content(path)?;
        if self.is_open(id).is_some() {
            if self.state.appender.as_mut().is_some_and(|open| open.truncate(size)) {
                self.content_mut(id)?.size = size;
                return Ok(());
            }
            self.close()?;
        }
        self.content_mut(id)?.resize(size);
        self.state.tree.charge(128);
        Ok(())
    }

    fn changed(&mut self, path: &[u8], offset: u64, len: u64) -> Result<()> {
        let range = range_of(path, offset, len)?;
        if self.source.is_none() {
            return Err(Error::new(
                ErrorKind::BadInput,
                format!("the stream says that '{}' changed, but not what it is by now", printable(path)),
            )
            .advise("name the snapshot or device where the content can be read"));
        }
        if self.source.as_deref().is_some_and(|source| source.is_state(&self.state.id) == Some(false)) {
            let what = format!(
                "the content of '{}' must be read from the snapshot {}, and the one given is another",
                printable(path),
                id_text(&self.state.id)
            );
            return Err(Error::new(ErrorKind::BadInput, what).advise("name the snapshot that the stream was made of"));
        }
        let id = self.content(path)?;
        self.close_if(id)?;
        self.state.tree.remember_name(path)?;
        if range.is_empty() { Ok(()) } else { self.stage(id, range, What::Unread) }
    }

    fn clone_range(
        &mut self,
        path: &[u8],
        offset: u64,
        state: Option<&[u8]>,
        from: &[u8],
        from_offset: u64,
        len: u64,
    ) -> Result<()> {
        let (to, source) = (range_of(path, offset, len)?, range_of(from, from_offset, len)?);
        let is_own = state.is_none_or(|state| state == self.state.id);
        if is_own && self.is_unread(from, source.end)? {
            // Nobody has the content yet; what the source has at the target is what was cloned.
            return self.changed(path, offset, len);
        }
        let layout = match state.filter(|_| !is_own) {
            Some(state) => self.sealed_layout(state, from)?,
            None => self.own_layout(from)?,
        };
        if source.end > layout.size {
            let why = format!("ends at byte {}, before the end of the range that is cloned from it", layout.size);
            return Err(refused(from, &why));
        }
        let target = self.content(path)?;
        self.close_if(target)?;
        if to.is_empty() { Ok(()) } else { self.stage(target, to, What::Layout(layout, source.start)) }
    }

    /// Whether `from` must be read from the source and has a byte before `end`.
    fn is_unread(&mut self, from: &[u8], end: u64) -> Result<bool> {
        let id = self.content(from)?;
        let content = self.content_mut(id)?;
        Ok(content.has_unread && content.size >= end)
    }

    /// The layout of a file of this state as it is now.
    fn own_layout(&mut self, from: &[u8]) -> Result<Arc<Layout>> {
        let id = self.content(from)?;
        self.close_if(id)?;
        if self.content_mut(id)?.has_unread {
            return Err(refused(from, "is to be cloned, but its content must be read from the source first"));
        }
        let is_cut = self.recut(id, None, false)?;
        self.wait_for(id)?;
        let base = self.base();
        let content = self.content_mut(id)?;
        let is_changed = !content.rows.is_empty() || content.cleared.len() > 0;
        if !is_cut || (is_changed && content.size > SHARED_BYTES) {
            self.fold(false)?;
            return self.own_layout(from);
        }
        if let Some(shared) = &content.shared {
            return Ok(Arc::clone(shared));
        }
        let rows = match (base.root, content.base) {
            (Some(root), Some(ino)) if !is_changed => LayoutRows::Tree { root, ino },
            _ => LayoutRows::List(all_rows(base, content)?),
        };
        let bytes =
            if let LayoutRows::List(rows) = &rows { rows.len() * size_of::<(u64, repo_format::Extent)>() } else { 0 };
        let layout = Arc::new(Layout { rows, size: content.size });
        content.shared = Some(Arc::clone(&layout));
        self.state.tree.charge(bytes + 64);
        Ok(layout)
    }

    fn base(&self) -> Base<'s> {
        Base { nodes: self.around.store.nodes(), root: self.state.tree.base }
    }

    /// The layout of a file of a state that is sealed.
    fn sealed_layout(&mut self, state: &[u8], from: &[u8]) -> Result<Arc<Layout>> {
        let root = match self.state.roots.get(state) {
            Some(root) => *root,
            None => {
                let root = self.states.root_of(state)?;
                self.state.roots.insert(state.to_vec(), root);
                root
            }
        };
        let nodes = self.around.store.nodes();
        let mut dirent = Dirent { ino: ROOT_INO, kind: FileKind::Dir };
        for name in super::path::names(from)? {
            let row = tree::get(nodes, &root, &Key::Dirent(dirent.ino, name).encode())?;
            let row = row.ok_or_else(|| refused(from, "does not exist in the state that is cloned from"))?;
            dirent = Dirent::decode(row.value())?;
        }
        if dirent.kind != FileKind::File {
            return Err(refused(from, "is not a regular file in the state that is cloned from"));
        }
        let row = tree::get(nodes, &root, &Key::Inode(dirent.ino).encode())?;
        let row = row.ok_or_else(|| Error::damaged(format!("inode {} has a name, but is not there", dirent.ino)))?;
        let size = Inode::decode(row.value())?.size;
        Ok(Arc::new(Layout { rows: LayoutRows::Tree { root, ino: dirent.ino }, size }))
    }

    /// Waits until the extents of a content are all there.
    pub(super) fn wait_for(&mut self, id: ContentId) -> Result<()> {
        self.pipeline.wait_for(id)?;
        let ready = self.pipeline.ready();
        self.absorb(ready);
        Ok(())
    }

    /// Cuts what is staged of a content. Its new extents come later. False if there was too much of it for once.
    pub(super) fn recut(&mut self, id: ContentId, path: Option<&[u8]>, may_mend: bool) -> Result<bool> {
        if self.content_mut(id)?.is_cut() {
            return Ok(true);
        }
        self.wait_for(id)?;
        let Some(mut content) = self.state.contents.remove(&id) else { return Ok(true) };
        let (monitor, stop, read_bytes) = (self.around.monitor, self.around.stop, &mut self.state.counts.read_bytes);
        let mut on_read = |bytes: u64| {
            monitor.on_read(bytes);
            *read_bytes += bytes;
            if stop.load(Relaxed) { Err(Error::new(ErrorKind::Interrupted, "the ingest was stopped")) } else { Ok(()) }
        };
        let (before, mut damage) = (content.rows.len(), Vec::new());
        let mut recut = Recut {
            store: self.around.store,
            root: self.state.tree.base,
            pipeline: self.pipeline,
            spool: &self.state.spool,
            source: self.source.as_deref_mut(),
            path,
            may_mend,
            on_read: &mut on_read,
            damage: &mut damage,
            extents: 0,
            max_extents: self.around.max_extents,
        };
        let is_cut = recut.run(id, &mut content)?;
        self.state.tree.charge(content.rows.len().saturating_sub(before) * 64);
        self.state.contents.insert(id, content);
        self.met(id, &damage);
        Ok(is_cut)
    }

    /// Remembers damage that was met in a content.
    fn met(&mut self, id: ContentId, damage: &[Damage]) {
        if damage.is_empty() {
            return;
        }
        let has = |(ino, staged): (&u64, &Staged)| (staged.content == Some(id)).then_some(*ino);
        if let Some(ino) = self.state.tree.inodes.iter().find_map(has) {
            damage.iter().for_each(|damage| self.state.damage.add(ino, *damage));
        }
    }
}

/// All extents of a content that is cut.
fn all_rows(base: Base<'_>, content: &Content) -> Result<Vec<(u64, repo_format::Extent)>> {
    let mut rows = Rows::of_content(base, content, 0)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(row);
    }
    Ok(all)
}

/// A range of a file.
///
/// # Errors
/// `BadInput` when it ends behind the largest offset there is.
fn range_of(path: &[u8], offset: u64, len: u64) -> Result<Range<u64>> {
    match offset.checked_add(len).filter(|end| *end <= MAX_FILE_BYTES) {
        Some(end) => Ok(offset..end),
        None => Err(refused(path, "gets content behind byte 2^63 - 1, where no file can have any")),
    }
}

fn set_attr(staged: &mut Staged, path: &[u8], set: &SetAttr) -> Result<()> {
    let inode = &mut staged.inode;
    if let Some(mode) = set.mode {
        if mode & !0o7777 != 0 {
            return Err(refused(path, "gets a mode with more than permissions in it"));
        }
        inode.mode = inode.mode & libc::S_IFMT | mode;
    }
    let bad = |time: &Option<Time>| time.is_some_and(|time| time.nsec >= 1_000_000_000);
    if [&set.mtime, &set.ctime, &set.btime].into_iter().any(bad) {
        return Err(refused(path, "gets a time of more than 999999999 nanoseconds"));
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    inode.mtime = set.mtime.unwrap_or(inode.mtime);
    inode.ctime = set.ctime.unwrap_or(inode.ctime);
    inode.btime = set.btime.or(inode.btime);
    inode.flags = set.flags.unwrap_or(inode.flags);
    Ok(())
}
