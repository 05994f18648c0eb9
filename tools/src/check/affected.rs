//! Which files of which restore points feel a lost chunk or a lost node.

use super::tree::LostRange;
use relict::Result;
use relict::catalog::points::printable;
use relict::catalog::tree::{Lost, NodeVisitor, ReadNodes, walk_nodes};
use relict::store::{NodeRef, Repository};
use repo_format::{ChunkId, Dirent, Extent, Key, PointRecord, ROOT_INO};
use std::collections::{HashMap, HashSet};

/// Names in a tree: of each inode its first one, and where that stands.
#[derive(Default)]
pub struct Names(HashMap<u64, (u64, Vec<u8>)>);

impl Names {
    /// Notes a directory entry.
    pub fn add(&mut self, parent: u64, name: &[u8], ino: u64) {
        self.0.entry(ino).or_insert_with(|| (parent, name.to_vec()));
    }

    /// The names from the root to an inode, and where they begin if that is not the root.
    pub fn parts(&self, ino: u64) -> (Option<u64>, Vec<&[u8]>) {
        let (mut parts, mut at) = (Vec::new(), ino);
        // The bound stops at damaged trees whose directories form a circle.
        for _ in 0..=self.0.len() {
            if at == ROOT_INO {
                parts.reverse();
                return (None, parts);
            }
            let Some((parent, name)) = self.0.get(&at) else { break };
            parts.push(name.as_slice());
            at = *parent;
        }
        parts.reverse();
        (Some(at), parts)
    }

    /// The path of an inode, for people.
    pub fn path(&self, ino: u64) -> String {
        let (from, parts) = self.parts(ino);
        let from = from.map(|ino| format!("/(inode {ino})"));
        let parts = parts.into_iter().map(|name| format!("/{}", printable(name)));
        let path: String = from.into_iter().chain(parts).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    }

    /// All inodes that have a name.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }
}

/// Tells of entries.
struct Entries<F>(F);

impl<F: FnMut(&[u8], &[u8])> NodeVisitor for Entries<F> {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() == 0 {
            (0..node.len()).filter_map(|index| node.entry(index)).for_each(|(key, value)| (self.0)(key, value));
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Result<()> {
        Ok(())
    }
}

/// Tells `entry` of every key and value of a tree that can be read, in their order. What cannot is a finding of its own, and
/// keeps nobody from the rest.
pub fn readable_entries(nodes: &dyn ReadNodes, root: &ChunkId, entry: impl FnMut(&[u8], &[u8])) -> Result<()> {
    walk_nodes(nodes, root, &mut Entries(entry))
}

/// Finds files by the chunks they need; runs only when something is lost.
struct Search<'a> {
    lost: &'a HashSet<ChunkId>,
    names: Names,
    found: HashMap<ChunkId, HashSet<u64>>,
}

impl NodeVisitor for Search<'_> {
    fn node(&mut self, _: &ChunkId, node: &NodeRef) -> Result<()> {
        if node.level() > 0 {
            return Ok(());
        }
        for (key, value) in (0..node.len()).filter_map(|index| node.entry(index)) {
            match Key::decode(key) {
                Ok(Key::Dirent(parent, name)) => {
                    if let Ok(dirent) = Dirent::decode(value) {
                        self.names.add(parent, name, dirent.ino);
                    }
                }
                Ok(Key::Extent(ino, _)) => {
                    if let Ok(extent) = Extent::decode(value)
                        && self.lost.contains(&extent.chunk)
                    {
                        self.found.entry(extent.chunk).or_default().insert(ino);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lost(&mut self, _: Lost) -> Result<()> {
        Ok(())
    }
}

/// Paths in `point` of the files that need each of the lost chunks, and of those whose entries stood in a lost node.
pub fn files(
    repository: &Repository,
    point: &PointRecord,
    lost: &HashSet<ChunkId>,
    ranges: &[LostRange],
) -> Result<HashMap<ChunkId, Vec<String>>> {
    let mut search = Search { lost, names: Names::default(), found: HashMap::new() };
    walk_nodes(repository, &point.root, &mut search)?;
    let Search { names, mut found, .. } = search;
    for range in ranges {
        found.entry(range.node).or_default().extend(names.inodes().filter(|ino| range.touches(*ino)));
    }
    let paths = |inos: HashSet<u64>| {
        let mut out: Vec<String> = inos.into_iter().map(|ino| names.path(ino)).collect();
        out.sort();
        out
    };
    Ok(found.into_iter().map(|(id, inos)| (id, paths(inos))).collect())
}
