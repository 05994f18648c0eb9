//! `versions/` and `deleted/`: paths of a source as they ever were. Files in them are those of the points below
//! `hosts/`, with the same inode numbers; directories are computed.

use super::{Entry, Ghost, Listing, Node, Past, Source, View, join};
use crate::Result;
use crate::catalog::history::{Gone, GoneIndex, Span, child_spans, ever_names, root_span, versions};
use crate::store::get_or_load;
use crate::view::inode::Ino;
use repo_format::{Dirent, FileKind};
use std::sync::Arc;

impl View {
    fn past(&self, source: &Arc<Source>, ghost: Ghost, path: &[u8]) -> Result<Arc<Past>> {
        let key = (ghost_node(source, ghost, path).ino().0, source.generation);
        if let Some(known) = self.computed.pasts.get(&key) {
            return Ok(known);
        }
        let past = match path.iter().rposition(|byte| *byte == b'/') {
            _ if path.is_empty() => Past { spans: root_span(&source.points), all: false },
            slash => {
                let (above, name) = path.split_at(slash.unwrap_or(0));
                let name = if slash.is_some() { name.get(1..).unwrap_or_default() } else { path };
                let above = self.past(source, ghost, above)?;
                self.past_below(source, ghost, &above, name)?
            }
        };
        let past = Arc::new(past);
        self.computed.pasts.insert(key, Arc::clone(&past));
        Ok(past)
    }

    fn past_below(&self, source: &Arc<Source>, ghost: Ghost, above: &Past, name: &[u8]) -> Result<Past> {
        let spans = child_spans(self.nodes(), &source.points, &above.spans, name)?;
        let all = match ghost {
            Ghost::Versions => false,
            Ghost::Deleted => {
                let no_dir = spans.last().is_some_and(|span| span.entry.kind != FileKind::Dir);
                self.gone_index(source)?.all_below(&source.points, &spans, above.all || no_dir)
            }
        };
        Ok(Past { spans, all })
    }

    fn gone_index(&self, source: &Arc<Source>) -> Result<Arc<GoneIndex>> {
        let key = (ghost_node(source, Ghost::Deleted, b"").ino(), source.generation);
        get_or_load(&self.computed.gone, &key, || GoneIndex::new(self.nodes(), &source.points).map(Arc::new))
    }

    pub(super) fn ghost_entry(
        &self,
        source: &Arc<Source>,
        ghost: Ghost,
        path: &[u8],
        name: &[u8],
    ) -> Result<Option<Entry>> {
        let past = self.past(source, ghost, path)?;
        match ghost {
            Ghost::Versions => {
                if let Some(version) =
                    self.version_entries(source, &past)?.into_iter().find(|entry| *entry.name == *name)
                {
                    return Ok(Some(version));
                }
                let below = child_spans(self.nodes(), &source.points, &past.spans, name)?;
                Ok((!below.is_empty()).then(|| ghost_entry(source, ghost, path, name)))
            }
            Ghost::Deleted => {
                let below = child_spans(self.nodes(), &source.points, &past.spans, name)?;
                let gone = self.gone_index(source)?.row(self.nodes(), &source.points, &below, past.all)?;
                Ok(gone.map(|gone| gone_entry(source, path, name, gone)))
            }
        }
    }

    pub(super) fn ghost_listing(&self, source: &Arc<Source>, ghost: Ghost, path: &[u8]) -> Result<Listing> {
        let past = self.past(source, ghost, path)?;
        if ghost == Ghost::Deleted {
            let rows = self.gone_index(source)?.rows(self.nodes(), &source.points, &past.spans, past.all)?;
            return Ok(rows.iter().map(|row| gone_entry(source, path, &row.name, row.gone)).collect());
        }
        let mut out = self.version_entries(source, &past)?;
        let taken: Vec<Box<[u8]>> = out.iter().map(|entry| entry.name.clone()).collect();
        let names = ever_names(self.nodes(), &source.points, &past.spans)?.into_keys();
        out.extend(names.filter(|name| !taken.contains(name)).map(|name| ghost_entry(source, ghost, path, &name)));
        Ok(out)
    }

    /// The contents of a file, each by the name of the first point that has it.
    fn version_entries(&self, source: &Source, past: &Past) -> Result<Listing> {
        let found = versions(self.nodes(), &source.points, &past.spans)?;
        let entry = |version: &crate::catalog::history::Version| {
            let name = source.names.get(version.first).map(|name| name.as_bytes()).unwrap_or_default();
            Entry::inode(name, version.entry.kind, in_point(source, version.first, version.entry))
        };
        Ok(found.iter().map(entry).collect())
    }

    /// The newest directory that was at a path.
    pub(super) fn ghost_model(&self, source: &Arc<Source>, ghost: Ghost, path: &[u8]) -> Result<Option<Ino>> {
        let past = self.past(source, ghost, path)?;
        let dir = past.spans.iter().rfind(|span: &&Span| span.entry.kind == FileKind::Dir);
        Ok(dir.map(|span| in_point(source, span.last, span.entry)))
    }
}

fn ghost_node(source: &Source, ghost: Ghost, path: &[u8]) -> Node {
    Node::Ghost { ghost, host: source.host.clone(), source: source.source.clone(), path: path.to_vec() }
}

fn ghost_entry(source: &Source, ghost: Ghost, path: &[u8], name: &[u8]) -> Entry {
    Entry::node(name, ghost_node(source, ghost, &join(path, name)))
}

fn gone_entry(source: &Source, path: &[u8], name: &[u8], gone: Gone) -> Entry {
    match gone {
        Gone::Last(last, entry) if entry.kind != FileKind::Dir => {
            Entry::inode(name, entry.kind, in_point(source, last, entry))
        }
        Gone::Last(..) | Gone::Below => ghost_entry(source, Ghost::Deleted, path, name),
    }
}

/// An inode of the point with this index, in its place below `hosts/`.
fn in_point(source: &Source, index: usize, entry: Dirent) -> Ino {
    let slot = source.slots.get(index).copied().unwrap_or_default();
    Ino::in_slot(slot, entry.ino).unwrap_or(Ino(0))
}
