//! Which files of which restore points feel a lost chunk.

use relict::Result;
use relict::catalog::points::printable;
use relict::catalog::tree::{Lost, NodeVisitor, walk_nodes};
use relict::store::{NodeRef, Repository};
use repo_format::{ChunkId, Dirent, Extent, Key, PointRecord, ROOT_INO};
use std::collections::{HashMap, HashSet};

/// Finds files by the chunks they need; runs only when something is lost.
struct Search<'a> {
    lost: &'a HashSet<ChunkId>,
    names: HashMap<u64, (u64, Vec<u8>)>,
    found: HashMap<ChunkId, HashSet<u64>>,
}

impl NodeVisitor for Search<'_> {
    fn node(&mut self, id: &ChunkId, node: &NodeRef) -> Result<()> {
        let _ = id;
        if node.level() > 0 {
            return Ok(());
        }
        for (key, value) in (0..node.len()).filter_map(|index| node.entry(index)) {
            match Key::decode(key) {
                Ok(Key::Dirent(parent, name)) => {
                    if let Ok(dirent) = Dirent::decode(value) {
                        self.names.entry(dirent.ino).or_insert_with(|| (parent, name.to_vec()));
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

/// Paths in `point` of the files that need each of the lost chunks.
pub fn files(repository: &Repository, point: &PointRecord, lost: &HashSet<ChunkId>) -> Result<HashMap<ChunkId, Vec<String>>> {
    let mut search = Search { lost, names: HashMap::new(), found: HashMap::new() };
    walk_nodes(repository, &point.root, &mut search)?;
    let Search { names, found, .. } = search;
    let paths = |inos: HashSet<u64>| {
        let mut out: Vec<String> = inos.into_iter().map(|ino| path_of(&names, ino)).collect();
        out.sort();
        out
    };
    Ok(found.into_iter().map(|(id, inos)| (id, paths(inos))).collect())
}

fn path_of(names: &HashMap<u64, (u64, Vec<u8>)>, ino: u64) -> String {
    let mut parts = Vec::new();
    let mut at = ino;
    // The bound stops at damaged trees whose directories form a circle.
    for _ in 0..=names.len() {
        if at == ROOT_INO {
            break;
        }
        match names.get(&at) {
            Some((parent, name)) => {
                parts.push(printable(name));
                at = *parent;
            }
            None => {
                parts.push(format!("(inode {at})"));
                break;
            }
        }
    }
    parts.reverse();
    format!("/{}", parts.join("/"))
}
