//! From the staged state to a tree: at the end of a state, and before that when the memory is used up.

use super::apply::Apply;
use super::content::{Content, ContentId};
use super::path::refused;
use super::source::ReadSource;
use super::staged::Staged;
use crate::catalog::edits::EditSet;
use crate::catalog::tree::{self, Edit};
use crate::{Error, Result};
use repo_format::{ChunkId, Extent, FileKind, Inode, Key, KeyKind, Value};
use std::collections::HashSet;

impl Apply<'_, '_> {
    /// Writes everything staged to the tree that is the new base. With `last`, the state is complete then;
    /// without, what must still wait for its end stays staged.
    pub(super) fn fold(&mut self, last: bool) -> Result<()> {
        while self.fold_once(last)? {}
        Ok(())
    }

    /// The tree of the complete state, and the chain's next inode number.
    pub(super) fn finish(&mut self) -> Result<(ChunkId, u64)> {
        self.close()?;
        if let Some(ino) = self.state.tree.without_target.iter().next() {
            let path = self.state.tree.path_of(*ino)?.unwrap_or_default();
            return Err(refused(&path, "is a symbolic link that leads nowhere: the stream does not say its target"));
        }
        self.fold(true)?;
        let root = self.state.tree.base.ok_or_else(|| Error::damaged("a state has no tree"))?;
        Ok((root, self.state.tree.next_ino))
    }

    /// One round; true if there is more to do, because some content has too many extents for once.
    fn fold_once(&mut self, last: bool) -> Result<bool> {
        self.check_stop()?;
        let (mut kept, more) = self.cut_all(last)?;
        self.pipeline.flush()?;
        let ready = self.pipeline.ready();
        self.absorb(ready);
        if last && !more {
            self.state.tree.end_exile()?;
        }
        let mut edits = EditSet::new(self.around.limit_bytes / 4);
        self.purge(&mut edits)?;
        let mut inos: Vec<u64> = self.state.tree.inodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            self.emit(ino, &mut edits)?;
        }
        let base = self.state.tree.base;
        let is_last = last && !more;
        let root = match base.filter(|_| edits.is_empty()) {
            Some(root) => root,
            None => self.around.store.apply(base.as_ref(), edits.finish()?, !is_last)?,
        };
        if !is_last {
            self.pipeline.settled();
        }
        kept.extend(&self.state.tree.exiles);
        // Their names are asked for at the end.
        kept.extend(self.state.damage.inos());
        self.rebase(root, &kept);
        Ok(more)
    }

    /// Cuts all contents that can be; returns the inodes of those that cannot be yet, and whether some only wait for the
    /// next round.
    fn cut_all(&mut self, last: bool) -> Result<(HashSet<u64>, bool)> {
        let contents = self.state.tree.inodes.iter().filter_map(|(ino, staged)| Some((*ino, staged.content?)));
        let mut contents: Vec<(u64, ContentId)> = contents.collect();
        contents.sort_unstable();
        let (mut kept, mut more, mut extents) = (HashSet::new(), false, 0);
        for (ino, id) in contents {
            let content = self.content_mut(id)?;
            let (is_unread, is_cut) = (content.has_unread, content.is_cut());
            if !last && (self.is_open(id).is_some() || (is_unread && !self.is_there(ino, id)?)) {
                kept.insert(ino);
                continue;
            }
            if is_cut {
                continue;
            }
            let full = extents >= self.around.max_extents;
            if full || !self.recut_of(ino, id, is_unread, last)? {
                kept.insert(ino);
                more = true;
            }
            extents += self.content_mut(id)?.rows.len();
        }
        Ok((kept, more))
    }

    /// Whether content that the source has can be read before the state is complete: under the name that the file has now. What
    /// is read so needs not wait in memory.
    fn is_there(&mut self, ino: u64, id: ContentId) -> Result<bool> {
        let bytes = self.content_mut(id)?.size;
        let Some(path) = self.state.tree.path_of(ino)? else { return Ok(false) };
        Ok(self.source.as_deref_mut().is_some_and(|source| source.has(&path, ino, bytes)))
    }

    fn recut_of(&mut self, ino: u64, id: ContentId, is_unread: bool, last: bool) -> Result<bool> {
        let is_state = |source: &(dyn ReadSource + '_)| source.is_state(&self.state.id) == Some(true);
        let may_mend = self.source.as_deref().is_some_and(is_state);
        if !is_unread {
            // What is damaged below may be read there, once the file has the name that it has there.
            let path = if may_mend && last { self.state.tree.path_of(ino)? } else { None };
            return self.recut(id, path.as_deref(), may_mend).map_err(|error| self.cannot_join(ino, error));
        }
        let path = self.state.tree.path_of(ino)?.ok_or_else(|| {
            let name = self.state.tree.inodes.get(&ino).map(|staged| staged.name.to_vec()).unwrap_or_default();
            refused(&name, "must be read from the source, but the name by which it changed is gone")
        })?;
        self.recut(id, Some(&path), may_mend)
            .map_err(|e| e.context(format_args!("reading '{}'", crate::catalog::points::printable(&path))))
    }

    /// What to say where the tree of an earlier state is damaged, so that its content is not known.
    fn cannot_join(&self, ino: u64, error: Error) -> Error {
        if !error.is_loss() {
            return error;
        }
        let own_name = || self.state.tree.inodes.get(&ino).map(|staged| staged.name.to_vec()).unwrap_or_default();
        let path = self.state.tree.path_of(ino).ok().flatten().unwrap_or_else(own_name);
        let shown = crate::catalog::points::printable(&path);
        error.context(format!("what the stream changes of '{shown}' cannot be joined to what is stored of it")).advise(
            "nothing was sealed: mend the repository ('relict-maint repair --from' a copy, or '--from-source') and run this \
             again, or ingest the whole state instead of what changed",
        )
    }

    /// Takes the rows of numbers away that nobody has any more.
    fn purge(&self, edits: &mut EditSet) -> Result<()> {
        let tree = &self.state.tree;
        let Some(root) = &tree.base else { return Ok(()) };
        let mut dead: Vec<u64> = tree.dead.iter().copied().collect();
        dead.sort_unstable();
        for ino in dead {
            for row in tree::range_prefix(tree.nodes, root, &ino.to_be_bytes()) {
                edits.push(row?.key(), Edit::Delete)?;
            }
        }
        Ok(())
    }

    /// The edits of one staged inode.
    fn emit(&mut self, ino: u64, edits: &mut EditSet) -> Result<()> {
        let tree = &self.state.tree;
        let Some(staged) = tree.inodes.get(&ino) else { return Ok(()) };
        let moved = staged.origin.filter(|origin| *origin != ino);
        if let (Some(origin), Some(root)) = (moved, &tree.base) {
            for row in tree::range_prefix(tree.nodes, root, &origin.to_be_bytes()) {
                let row = row?;
                edits.push(
                    [&ino.to_be_bytes(), row.key().get(8..).unwrap_or_default()].concat(),
                    Edit::Put(row.value().to_vec()),
                )?;
            }
        }
        for (name, entry) in &staged.entries {
            let edit = entry.map_or(Edit::Delete, |entry| Edit::Put(entry.encode()));
            edits.push(Key::Dirent(ino, name).encode(), edit)?;
        }
        for (name, value) in &staged.xattrs {
            let edit = value.as_ref().map_or(Edit::Delete, |value| Edit::Put(Value::Xattr(value).encode()));
            edits.push(Key::Xattr(ino, name).encode(), edit)?;
        }
        if let Some(target) = &staged.target {
            edits.push(Key::Target(ino).encode(), Edit::Put(target.clone()))?;
        }
        let mut inode = staged.inode;
        if let Some(content) = staged.content.and_then(|id| self.state.contents.get(&id)) {
            (inode.size, inode.data_bytes) = self.emit_content(ino, staged, content, edits)?;
        }
        let was = staged.was;
        if moved.is_some() || was != Some(inode) {
            edits.push(Key::Inode(ino).encode(), Edit::Put(inode.encode()))?;
        }
        self.count(was.as_ref(), &inode);
        if let Some(staged) = self.state.tree.inodes.get_mut(&ino) {
            staged.inode = inode;
        }
        Ok(())
    }

    /// The edits of a content; returns its size and how much of that is data.
    fn emit_content(&self, ino: u64, staged: &Staged, content: &Content, edits: &mut EditSet) -> Result<(u64, u64)> {
        let mut data_bytes = staged.was.map_or(0, |was| was.data_bytes);
        let tree = &self.state.tree;
        if let (Some(root), Some(base)) = (&tree.base, content.base) {
            for range in content.cleared.iter() {
                let mut rows = tree::range_prefix(tree.nodes, root, &Key::prefix(base, KeyKind::Extent));
                rows.seek(&Key::Extent(base, range.start).encode());
                let end = Key::Extent(base, range.end).encode();
                for row in rows {
                    let row = row?;
                    if row.key() >= end.as_slice() {
                        break;
                    }
                    data_bytes -= u64::from(Extent::decode(row.value())?.len).min(data_bytes);
                    edits.push(row.key(), Edit::Delete)?;
                }
            }
        }
        for (offset, extent) in &content.rows {
            // What a damaged base says of itself can be anything.
            data_bytes = data_bytes.saturating_add(u64::from(extent.len));
            edits.push(Key::Extent(ino, *offset).encode(), Edit::Put(extent.encode()))?;
        }
        // Of a content that is still being changed, a size that fits what there is.
        let size = if content.is_cut() { content.size } else { content.size.max(content.layout_size) };
        Ok((size, data_bytes))
    }

    fn count(&mut self, was: Option<&Inode>, now: &Inode) {
        let counts = &mut self.state.counts;
        let is_dir = now.kind() == FileKind::Dir;
        if was.is_none() {
            let count = if is_dir { &mut counts.dirs } else { &mut counts.files };
            *count += 1;
        }
        let size = |inode: &Inode| if inode.kind() == FileKind::File { inode.size } else { 0 };
        counts.bytes = counts.bytes.saturating_add(size(now)).saturating_sub(was.map_or(0, size));
    }

    fn rebase(&mut self, root: ChunkId, kept: &HashSet<u64>) {
        let state = &mut *self.state;
        let (files, dirs, bytes) = std::mem::take(&mut state.tree.lost);
        state.counts.files = state.counts.files.saturating_sub(files);
        state.counts.dirs = state.counts.dirs.saturating_sub(dirs);
        state.counts.bytes = state.counts.bytes.saturating_sub(bytes);
        state.tree.rebase(root, kept);
        let mut contents = std::mem::take(&mut state.contents);
        for (ino, staged) in &mut state.tree.inodes {
            let keep = kept.contains(ino);
            staged.content = staged.content.filter(|_| keep);
            if let Some((id, mut content)) = staged.content.and_then(|id| contents.remove_entry(&id)) {
                content.base = Some(*ino);
                content.rows.clear();
                content.cleared = super::content::Ranges::default();
                content.shared = None;
                state.contents.insert(id, content);
            }
        }
        if state.contents.values().all(|content| content.staged.is_empty()) {
            state.spool.clear();
        }
        // What cannot be cut yet keeps its bytes.
        state.spool_limit = state.spool.bytes() + super::apply::SPOOL_BYTES;
    }
}
