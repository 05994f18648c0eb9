//! The different contents that a path had.

use super::content::Content;
use super::{Chain, Memo, Span};
use crate::Result;
use crate::catalog::tree::ReadNodes;
use repo_format::{Dirent, FileKind};
use std::collections::HashMap;

/// One content of a path. A content that came back is one version, not two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Index of the first point that has it.
    pub first: usize,
    /// Index of the last point that has it.
    pub last: usize,
    /// Number of points that have it.
    pub points: usize,
    /// What the path is in the first point.
    pub entry: Dirent,
    /// Bytes, of a regular file.
    pub size: u64,
}

/// The different contents of a path that was `spans`, oldest first. Directories have none.
///
/// Reads the file's part of the first tree, and of the others what changed of it.
///
/// # Errors
/// When a tree cannot be read there.
pub fn versions(nodes: &dyn ReadNodes, chain: &Chain, spans: &[Span]) -> Result<Vec<Version>> {
    let memo = Memo::new(nodes);
    let mut out: Vec<Version> = Vec::new();
    let mut known: HashMap<Content, usize> = HashMap::new();
    for span in spans.iter().filter(|span| span.entry.kind != FileKind::Dir) {
        let mut before: Option<(&repo_format::ChunkId, Content)> = None;
        for (index, point) in chain.iter().enumerate().take(span.last + 1).skip(span.first) {
            memo.next_point();
            let content = match &before {
                None => Content::read(&memo, &point.root, span.entry.ino)?,
                Some((root, content)) => content.follow(&memo, root, &point.root, span.entry.ino)?,
            };
            before = Some((&point.root, content));
            match known.get(&content).and_then(|at| out.get_mut(*at)) {
                Some(version) => (version.last, version.points) = (index, version.points + 1),
                None => {
                    known.insert(content, out.len());
                    out.push(Version { first: index, last: index, points: 1, entry: span.entry, size: content.size });
                }
            }
        }
    }
    Ok(out)
}
