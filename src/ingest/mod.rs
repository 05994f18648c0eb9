//! Making restore points from a directory tree.

pub mod chunker;
mod zero;
