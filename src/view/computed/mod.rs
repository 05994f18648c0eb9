//! Directories that are computed when somebody looks: no list of them is kept, as there are as many as there are
//! expressions and paths.
//!
//! ```text
//! at/<expression>/<host>/<source>/          found: a point by time
//! @GMT-YYYY.MM.DD-HH.MM.SS                  found: the same directory in an older point
//! versions/<host>/<source>/<path>/<time>    history: the contents a file had
//! deleted/<host>/<source>/<path>            history: what is gone
//! diff/<A>..<B>/{added,removed,changed}/    diffs
//! ```
//! A directory's number is a hash of what it stands for, so it is the same in every mount. What it stands for is
//! remembered in a table of bounded size; when that has let go of one, the number gives `ESTALE`, and the kernel
//! finds the directory again by its path. Everything else here is a cache of bounded size.
//!
//! Directories of restore points that appear here keep their owner, mode and ACL: what nobody may enter in a
//! restore point, nobody enters here.

mod diffs;
mod found;
mod history;
#[cfg(test)]
mod tests;

pub(super) use found::is_gmt;

use super::attr::Attr;
use super::inode::Ino;
use super::layout::{AT, DIFF, Layout, Slot, Source};
use super::{View, errno};
use crate::catalog::history::{Comparison, GoneIndex, Side, Span};
use crate::catalog::points::time_limit;
use crate::{Error, Result};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use repo_format::{ChunkId, FileKind, PointRecord, Time};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Directories that are remembered by what they stand for.
const NODES: usize = 64 * 1024;
/// Bytes for what they stand for.
const NODE_BYTES: u64 = 16 << 20;
/// Points found by an expression, each in the directory where it was found.
const FOUND_SLOTS: usize = 16 * 1024;
/// Bytes for lists of names. One list that is larger is computed again for each piece that is read of it.
const LISTING_BYTES: u64 = 64 << 20;
/// Bytes for what is known of the changes of a chain, and of two points.
const CHANGE_BYTES: u64 = 64 << 20;
/// So few entries are expected that a cache has one shard: what is larger than a shard is not kept at all.
const ONE_SHARD: usize = 32;
/// Directories whose past is remembered.
const PASTS: usize = 8 * 1024;
/// Directories whose path is remembered.
const PATHS: usize = 4 * 1024;
/// Directories of restore points of which it is remembered which path they were met at.
const STANDS: usize = 64 * 1024;
/// An offset in such a directory: the number of the next name, and above it what the list was computed from.
const INDEX_BITS: u32 = 40;

/// Which history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ghost {
    /// `versions/`.
    Versions,
    /// `deleted/`.
    Deleted,
}

/// What a computed directory stands for.
#[derive(Debug)]
pub(super) enum Node {
    /// `at/<expression>`, or with a host a directory in it.
    At { host: Option<String>, found: Arc<Found> },
    /// A path of a source as it ever was.
    Ghost { ghost: Ghost, host: String, source: String, path: Vec<u8> },
    /// `diff/<A>..<B>`.
    Pair(Arc<Pair>),
    /// A directory that is in both points of a pair: its path for the number, and its inodes.
    Differing { pair: Arc<Pair>, side: Side, path: Vec<u8>, old: u64, new: u64 },
}

/// The points that an expression means: of each source one. Names are as in paths of the mount.
#[derive(Debug)]
pub(super) struct Found {
    expression: String,
    points: Vec<(String, String, Arc<PointRecord>)>,
}

/// Two restore points.
#[derive(Debug)]
pub(super) struct Pair {
    name: String,
    old: Arc<PointRecord>,
    new: Arc<PointRecord>,
}

/// A name in a computed directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name: Box<[u8]>,
    kind: FileKind,
    at: Target,
}

/// Where a name leads.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// To an inode of a restore point.
    Inode(Ino),
    /// To another computed directory.
    Node(Arc<Node>),
}

pub(super) type Listing = Vec<Entry>;

/// What a path was, and whether all that is below it has to be looked through for gone things.
#[derive(Debug)]
struct Past {
    spans: Vec<Span>,
    all: bool,
}

#[derive(Clone)]
struct Weights;

/// What is remembered, all of it bounded.
pub(super) struct Computed {
    nodes: Cache<u64, Arc<Node>, Weights>,
    slots: Cache<u32, Arc<Slot>>,
    /// Slots given out, less the first of them, each with a hash of what it was given to.
    given: Mutex<HashMap<u32, u64>>,
    listings: Cache<(u64, u64), Arc<Listing>, Weights>,
    pasts: Cache<(u64, u64), Arc<Past>>,
    gone: Cache<(Ino, u64), Arc<GoneIndex>, Weights>,
    comparisons: Cache<(ChunkId, ChunkId), Arc<Comparison>, Weights>,
    paths: Cache<Ino, Arc<Vec<u8>>>,
    /// The computed directory that stands for one of a restore point, in one history or one side of a difference.
    stands: Cache<(Ino, u64), Ino>,
}

impl Default for Computed {
    fn default() -> Self {
        Self {
            nodes: Cache::with_weighter(NODES, NODE_BYTES, Weights),
            slots: Cache::new(FOUND_SLOTS),
            given: Mutex::default(),
            listings: Cache::with_weighter(ONE_SHARD, LISTING_BYTES, Weights),
            pasts: Cache::new(PASTS),
            gone: Cache::with_weighter(ONE_SHARD, CHANGE_BYTES, Weights),
            comparisons: Cache::with_weighter(ONE_SHARD, CHANGE_BYTES, Weights),
            paths: Cache::new(PATHS),
            stands: Cache::new(STANDS),
        }
    }
}

impl Weighter<u64, Arc<Node>> for Weights {
    fn weight(&self, _: &u64, node: &Arc<Node>) -> u64 {
        node.bytes()
    }
}

impl Weighter<(u64, u64), Arc<Listing>> for Weights {
    fn weight(&self, _: &(u64, u64), listing: &Arc<Listing>) -> u64 {
        listing.iter().map(Entry::bytes).sum::<u64>() + 64
    }
}

impl Weighter<(Ino, u64), Arc<GoneIndex>> for Weights {
    fn weight(&self, _: &(Ino, u64), index: &Arc<GoneIndex>) -> u64 {
        index.weight()
    }
}

impl Weighter<(ChunkId, ChunkId), Arc<Comparison>> for Weights {
    fn weight(&self, _: &(ChunkId, ChunkId), comparison: &Arc<Comparison>) -> u64 {
        comparison.weight()
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        let node = match &self.at {
            Target::Inode(_) => 0,
            Target::Node(node) => node.bytes(),
        };
        self.name.len() as u64 + size_of::<Self>() as u64 + node
    }

    fn ino(&self) -> Ino {
        match &self.at {
            Target::Inode(ino) => *ino,
            Target::Node(node) => node.ino(),
        }
    }

    fn node(name: &[u8], node: Node) -> Self {
        Self { name: name.into(), kind: FileKind::Dir, at: Target::Node(Arc::new(node)) }
    }

    fn inode(name: &[u8], kind: FileKind, ino: Ino) -> Self {
        Self { name: name.into(), kind, at: Target::Inode(ino) }
    }
}

impl Node {
    /// The directory of all that is known of a source's past.
    pub(super) fn ghosts(ghost: Ghost, host: String, source: String) -> Self {
        Self::Ghost { ghost, host, source, path: Vec::new() }
    }

    /// A number that is the same for the same thing in every mount.
    pub(super) fn ino(&self) -> Ino {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        match self {
            Self::At { host, found } => {
                part(b"at");
                part(found.expression.as_bytes());
                part(host.as_deref().unwrap_or_default().as_bytes());
                // Other points: another directory, so that nobody takes its names for those of before.
                found.points.iter().for_each(|(_, _, point)| part(&point.id.0));
            }
            Self::Ghost { ghost, host, source, path } => {
                part(if *ghost == Ghost::Versions { b"versions" } else { b"deleted" });
                [host.as_bytes(), source.as_bytes(), path].into_iter().for_each(part);
            }
            Self::Pair(pair) => pair.parts(&mut part),
            Self::Differing { pair, side, path, .. } => {
                pair.parts(&mut part);
                part(&[*side as u8]);
                part(path);
            }
        }
        let hash = hasher.finalize();
        Ino::computed(hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    fn bytes(&self) -> u64 {
        let path = match self {
            Self::Ghost { host, source, path, .. } => host.len() + source.len() + path.len(),
            Self::Differing { path, .. } => path.len(),
            Self::At { found, .. } => found.points.len() * 64,
            Self::Pair(_) => 64,
        };
        (path + 128) as u64
    }
}

impl Pair {
    fn parts(&self, part: &mut dyn FnMut(&[u8])) {
        part(b"diff");
        part(self.name.as_bytes());
        part(&self.old.id.0);
        part(&self.new.id.0);
    }
}

impl View {
    /// The computed directory of this number, if it is known.
    fn node(&self, layout: &Layout, ino: Ino) -> Result<Arc<Node>> {
        let known = layout.ghost(ino).cloned().or_else(|| self.computed.nodes.get(&ino.0));
        known.ok_or_else(|| errno(libc::ESTALE))
    }

    /// What `name` means in a directory whose names are computed; None where it means nothing.
    pub(super) fn lookup_computed(&self, layout: &Layout, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        let text = std::str::from_utf8(name).ok();
        let entry = if parent == AT {
            text.and_then(|expression| found_by(layout, expression)).map(|node| Entry::node(name, node))
        } else if parent == DIFF {
            self.pair(layout, text)?.map(|node| Entry::node(name, node))
        } else if parent.is_computed() {
            let node = self.node(layout, parent)?;
            self.entry(layout, &node, name)?
        } else {
            None
        };
        entry.map(|entry| self.attr_of(&entry)).transpose()
    }

    fn entry(&self, layout: &Layout, node: &Arc<Node>, name: &[u8]) -> Result<Option<Entry>> {
        match &**node {
            Node::At { .. } | Node::Pair(_) => {
                let listing = self.listing(layout, node)?;
                Ok(listing.iter().find(|entry| *entry.name == *name).cloned())
            }
            Node::Ghost { ghost, host, source, path } => match layout.source(host, source) {
                Some(source) => self.ghost_entry(source, *ghost, path, name),
                None => Err(errno(libc::ESTALE)),
            },
            Node::Differing { pair, side, path, old, new } => {
                self.differing_entry(pair, *side, path, (*old, *new), name)
            }
        }
    }

    /// All names of a computed directory, in order.
    fn listing(&self, layout: &Layout, node: &Arc<Node>) -> Result<Arc<Listing>> {
        let key = (node.ino().0, layout.generation());
        if let Some(known) = self.computed.listings.get(&key) {
            return Ok(known);
        }
        let listing = Arc::new(match &**node {
            Node::At { host, found } => self.found_listing(layout, host.as_deref(), found, node.ino())?,
            Node::Ghost { ghost, host, source, path } => match layout.source(host, source) {
                Some(source) => self.ghost_listing(source, *ghost, path)?,
                None => return Err(errno(libc::ESTALE)),
            },
            Node::Pair(pair) => pair_listing(pair),
            Node::Differing { pair, side, path, old, new } => {
                self.differing_listing(pair, *side, path, (*old, *new))?
            }
        });
        self.computed.listings.insert(key, Arc::clone(&listing));
        Ok(listing)
    }

    /// Attributes of what a name leads to; a computed directory is remembered from here on.
    fn attr_of(&self, entry: &Entry) -> Result<Attr> {
        match &entry.at {
            Target::Inode(ino) => self.getattr(*ino),
            Target::Node(node) => {
                let ino = node.ino();
                self.computed.nodes.insert(ino.0, Arc::clone(node));
                self.node_attr(&self.layout(), ino, node)
            }
        }
    }

    /// Attributes of a computed directory.
    pub(super) fn computed_attr(&self, layout: &Layout, ino: Ino) -> Result<Attr> {
        let node = self.node(layout, ino)?;
        self.node_attr(layout, ino, &node)
    }

    fn node_attr(&self, layout: &Layout, ino: Ino, node: &Node) -> Result<Attr> {
        let mtime = match node {
            // These never change: other points are another directory.
            Node::At { found, .. } => found.points.iter().map(|(_, _, point)| point.sealed).max().unwrap_or_default(),
            Node::Pair(pair) | Node::Differing { pair, .. } => pair.new.sealed,
            Node::Ghost { .. } => layout.changed(),
        };
        let mut attr = self.dir_attr(ino, 0, mtime);
        if let Some(model) = self.model(layout, node)? {
            self.noted(model, None, self.stands_once(ino, node, model))?;
            let model = self.getattr(model)?;
            (attr.perm, attr.uid, attr.gid) = (model.perm, model.uid, model.gid);
        }
        Ok(attr)
    }

    /// A directory has one path in a restore point. In a damaged tree it can have more than anybody could walk: the first
    /// that was met counts, as in the restore point itself.
    fn stands_once(&self, ino: Ino, node: &Node, model: Ino) -> Result<()> {
        let scope = match node {
            Node::At { .. } | Node::Pair(_) => return Ok(()),
            Node::Ghost { ghost, .. } => *ghost as u64,
            Node::Differing { pair, side, .. } => {
                let (pair, path) = (Arc::clone(pair), Vec::new());
                Node::Differing { pair, side: *side, path, old: 0, new: 0 }.ino().0
            }
        };
        match self.computed.stands.get(&(model, scope)) {
            None => self.computed.stands.insert((model, scope), ino),
            Some(known) if known != ino => {
                return Err(Error::damaged(format!("directory {} stands in more than one place", model.tree())));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The directory of a restore point that a computed one stands for: owner, mode and extended attributes are its.
    fn model(&self, layout: &Layout, node: &Node) -> Result<Option<Ino>> {
        match node {
            Node::At { .. } | Node::Pair(_) => Ok(None),
            Node::Ghost { ghost, host, source, path } => match layout.source(host, source) {
                Some(source) => self.ghost_model(source, *ghost, path),
                None => Err(errno(libc::ESTALE)),
            },
            Node::Differing { pair, side, old, new, .. } => Ok(self.differing_model(pair, *side, (*old, *new))),
        }
    }

    /// The directory whose extended attributes a computed one has.
    pub(super) fn computed_model(&self, ino: Ino) -> Result<Option<Ino>> {
        let layout = self.layout();
        let node = self.node(&layout, ino)?;
        self.model(&layout, &node)
    }

    /// Lists a computed directory from `offset`, which counts from 0 behind the dots.
    pub(super) fn list_computed(&self, ino: Ino, offset: u64, plus: bool, sink: &mut Take<'_>) -> Result<()> {
        let layout = self.layout();
        let node = self.node(&layout, ino)?;
        let (index, from) = (offset & ((1 << INDEX_BITS) - 1), offset >> INDEX_BITS);
        // A list that was begun is finished as it was, if it is still known.
        let begun = if index == 0 { None } else { self.computed.listings.get(&(ino.0, from)) };
        let (generation, listing) = match begun {
            Some(listing) => (from, listing),
            None => (layout.generation(), self.listing(&layout, &node)?),
        };
        let first = usize::try_from(index).unwrap_or(usize::MAX);
        for (entry, at) in listing.iter().skip(first).zip(index + 1..) {
            let attr = if plus { self.attr_of(entry).ok() } else { None };
            if sink(&entry.name, entry.ino(), entry.kind, generation << INDEX_BITS | at, attr.as_ref()) {
                break;
            }
        }
        Ok(())
    }
}

impl Computed {
    /// A slot of a point that was found.
    pub(super) fn slot(&self, slot: u32) -> Option<Arc<Slot>> {
        self.slots.get(&slot)
    }
}

/// Takes a name: its inode, type, the offset behind it, and attributes; true: it had no room.
type Take<'s> = dyn FnMut(&[u8], Ino, FileKind, u64, Option<&Attr>) -> bool + 's;

/// `at/<expression>`: None when it is no expression, or no point is so old.
fn found_by(layout: &Layout, expression: &str) -> Option<Node> {
    let limit = if expression == "latest" { i64::MAX } else { time_limit(expression, clock())? };
    let newest = |source: &Arc<Source>| {
        let (_, point) = newest_before(source, limit)?;
        Some((source.host.clone(), source.source.clone(), Arc::clone(point)))
    };
    let points: Vec<_> = layout.sources().filter_map(newest).collect();
    let found = Arc::new(Found { expression: expression.to_string(), points });
    (!found.points.is_empty()).then_some(Node::At { host: None, found })
}

/// The newest point of a source before the second `limit`, and its index.
fn newest_before(source: &Source, limit: i64) -> Option<(usize, &Arc<PointRecord>)> {
    let index = source.points.partition_point(|point| point.time.sec < limit).checked_sub(1)?;
    source.points.get(index).map(|point| (index, point))
}

fn pair_listing(pair: &Arc<Pair>) -> Listing {
    let sides = [("added", Side::Added), ("changed", Side::Changed), ("removed", Side::Removed)];
    let root = |(name, side): (&str, Side)| {
        let (old, new) = (repo_format::ROOT_INO, repo_format::ROOT_INO);
        Entry::node(name.as_bytes(), Node::Differing { pair: Arc::clone(pair), side, path: Vec::new(), old, new })
    };
    sides.map(root).into()
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn clock() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
}
