//! What a repository knows: the trees of its restore points, over the chunks that `store` keeps.

pub mod compact;
pub mod edits;
pub mod history;
pub mod mark;
pub mod points;
pub mod protection;
pub mod prune;
pub mod retention;
pub mod sorter;
pub mod thin;
pub mod tree;

use crate::error::Result;
use crate::store::{NodePacker, NodeRef, Repository};
use repo_format::ChunkId;

impl tree::ReadNodes for Repository {
    fn node(&self, id: &ChunkId) -> Result<NodeRef> {
        Self::node(self, id)
    }
}

impl tree::WriteNodes for NodePacker<'_> {
    fn write_node(&mut self, bytes: Vec<u8>) -> Result<ChunkId> {
        Self::write_node(self, &bytes)
    }
}
