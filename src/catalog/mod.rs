//! What a repository knows: the trees of its restore points, over the chunks that `store` keeps.

pub mod edits;
pub mod tree;
