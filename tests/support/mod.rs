//! What the integration tests share: trees to back up, and what a tree looks like.

pub mod tree_apply;
pub mod tree_gen;
pub mod tree_items;
pub mod walker;
