//! Silent changes at the source: files whose content differs from the restore point before although neither size,
//! nor mtime, nor ctime does. Nothing that writes through a file system does that; failing disks and memory do.

use super::affected::{Names, readable_entries};
use relict::Result;
use relict::catalog::tree::{Change, ReadNodes, diff, get, range_prefix};
use relict::store::Repository;
use repo_format::{Dirent, Extent, FileKind, Inode, Key, KeyKind, PointRecord, SourceKind};

/// Inodes of `new` that changed so since `old`. Reads only what differs, and content only of suspects.
pub fn rotten(repository: &Repository, old: &PointRecord, new: &PointRecord) -> Result<Vec<u64>> {
    // Streams and images have no ctime of their own to compare.
    if old.kind != SourceKind::Dir || new.kind != SourceKind::Dir || old.root == new.root {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for ino in suspects(repository, old, new)? {
        // What cannot be read is damage and is reported as that.
        if same_attributes(repository, old, new, ino)? && contents_differ(repository, old, new, ino).unwrap_or(false) {
            out.push(ino);
        }
    }
    Ok(out)
}

/// Inodes whose extents differ.
fn suspects(repository: &Repository, old: &PointRecord, new: &PointRecord) -> Result<Vec<u64>> {
    let mut out: Vec<u64> = Vec::new();
    for change in diff(repository, &old.root, repository, &new.root) {
        let change: Change = change?;
        if let Ok(Key::Extent(ino, _)) = Key::decode(change.key())
            && out.last() != Some(&ino)
        {
            out.push(ino);
        }
    }
    Ok(out)
}

fn same_attributes(nodes: &dyn ReadNodes, old: &PointRecord, new: &PointRecord, ino: u64) -> Result<bool> {
    let inode = |root| -> Result<Option<Inode>> {
        let entry = get(nodes, root, &Key::Inode(ino).encode())?;
        Ok(entry.and_then(|entry| Inode::decode(entry.value()).ok()))
    };
    let (Some(old), Some(new)) = (inode(&old.root)?, inode(&new.root)?) else { return Ok(false) };
    let file = old.kind() == FileKind::File && new.kind() == FileKind::File;
    Ok(file && old.size == new.size && old.mtime == new.mtime && old.ctime == new.ctime)
}

fn extents(nodes: &dyn ReadNodes, root: &repo_format::ChunkId, ino: u64) -> Result<Vec<(u64, Extent)>> {
    let mut out = Vec::new();
    for entry in range_prefix(nodes, root, &Key::prefix(ino, KeyKind::Extent)) {
        let entry = entry?;
        if let (Ok(Key::Extent(_, offset)), Ok(extent)) = (Key::decode(entry.key()), Extent::decode(entry.value())) {
            out.push((offset, extent));
        }
    }
    Ok(out)
}

/// Whether two states of a file have different bytes; cutting the same bytes in another way is no difference.
fn contents_differ(repository: &Repository, old: &PointRecord, new: &PointRecord, ino: u64) -> Result<bool> {
    let (old, new) = (extents(repository, &old.root, ino)?, extents(repository, &new.root, ino)?);
    let ends = |all: &[(u64, Extent)]| {
        all.iter().flat_map(|(at, e)| [*at, at.saturating_add(u64::from(e.len))]).collect::<Vec<u64>>()
    };
    let mut cuts = [ends(&old), ends(&new)].concat();
    cuts.sort_unstable();
    cuts.dedup();
    for (from, to) in cuts.iter().zip(cuts.iter().skip(1)) {
        let (a, b) = (piece(&old, *from), piece(&new, *from));
        // The same slice of the same chunk needs no reading.
        if a.map(|(e, skip)| (e.chunk, skip)) == b.map(|(e, skip)| (e.chunk, skip)) {
            continue;
        }
        let len = (to - from) as usize;
        if bytes(repository, a, len)? != bytes(repository, b, len)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The extent that covers `offset`, and the byte of its chunk that stands there.
fn piece(extents: &[(u64, Extent)], offset: u64) -> Option<(&Extent, usize)> {
    let at = extents.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
    let (start, extent) = extents.get(at)?;
    let inside = offset - start;
    (inside < u64::from(extent.len)).then_some((extent, extent.skip as usize + inside as usize))
}

/// The bytes of a piece; a hole is zeros.
fn bytes(repository: &Repository, piece: Option<(&Extent, usize)>, len: usize) -> Result<Vec<u8>> {
    match piece {
        // Between two holes there is nothing to compare; between a hole and an extent at most a chunk.
        None => Ok(vec![0; len]),
        Some((extent, skip)) => Ok(repository.chunk(&extent.chunk)?.get(skip..skip + len).unwrap_or_default().to_vec()),
    }
}

/// The paths of these inodes, as far as their names can be read.
pub fn paths(nodes: &dyn ReadNodes, point: &PointRecord, inodes: &[u64]) -> Result<Vec<String>> {
    let mut names = Names::default();
    readable_entries(nodes, &point.root, |key, value| {
        if let (Ok(Key::Dirent(parent, name)), Ok(dirent)) = (Key::decode(key), Dirent::decode(value)) {
            names.add(parent, name, dirent.ino);
        }
    })?;
    let mut out: Vec<String> = inodes.iter().map(|ino| names.path(*ino)).collect();
    out.sort();
    Ok(out)
}
