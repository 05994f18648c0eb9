//! Where lost chunks may be found again: spare copies, a second repository, the source itself.
//!
//! Ids are keyed, so the same content has another id in another repository. A copy of this repository is asked by id; from
//! any other, and from the source, content is read and hashed under this repository's own key.

use super::salvage::slice;
use crate::check::{Names, readable_entries};
use relict::Result;
use relict::ingest::chunker::{Chunker, Piece, Splitter};
use relict::os::Dir;
use relict::store::{Keys, Location, Repository};
use repo_format::{ChunkId, Dirent, Extent, Key, PackageKind, PointRecord};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of a file that are in memory at once while it is cut again.
const WINDOW_BYTES: usize = 4 << 20;

/// Where a lost chunk was found. Read again, and verified again, when the plan is carried out.
pub enum Origin {
    /// Another place of this repository.
    Spare(Location),
    /// A place of the second repository.
    Other(Location),
    /// Bytes of a file: path, offset, length.
    File(Arc<PathBuf>, u64, u32),
}

/// Chunks that were found.
pub type Origins = HashMap<ChunkId, Origin>;

/// Looks for `wanted` in a second repository.
pub fn in_repository(own: &Keys, other: &Repository, wanted: &HashSet<ChunkId>, stop: &AtomicBool) -> Result<Origins> {
    let mut out = Origins::new();
    if own.chunk_id(b"") == other.keys().chunk_id(b"") {
        for id in wanted {
            if let Some(at) = other.locate(id)?
                && other.chunk(id).is_ok_and(|bytes| own.chunk_id(&bytes) == *id)
            {
                out.insert(*id, Origin::Other(at));
            }
        }
        return Ok(out);
    }
    // Tree nodes name chunks by the other key, so only content can be the same.
    let data: HashSet<u32> =
        other.index().packages()?.into_iter().filter(|p| p.kind == PackageKind::Data).map(|p| p.number).collect();
    let mut segments: Vec<Location> = other.index().chunks_in(&data)?.into_iter().map(|(at, _)| at).collect();
    segments.dedup_by_key(|at| (at.package, at.offset));
    for at in segments {
        if out.len() == wanted.len() || stop.load(Ordering::Relaxed) {
            break;
        }
        // What is damaged there cannot help here.
        let Ok(segment) = other.read_segment(&at) else { continue };
        for (skip, row) in segment.rows() {
            let place = Location { skip, len: row.raw_bytes, ..at };
            if let Some(id) = slice(&segment, &place).map(|bytes| own.chunk_id(bytes)).filter(|id| wanted.contains(id))
            {
                out.entry(id).or_insert(Origin::Other(place));
            }
        }
    }
    Ok(out)
}

/// Looks for `wanted` in the files of a directory that have the paths of the files that lost them.
pub fn in_source(
    repository: &Repository,
    points: &[PointRecord],
    root: &Path,
    wanted: &HashSet<ChunkId>,
    stop: &AtomicBool,
) -> Result<Origins> {
    let mut out = Origins::new();
    let mut tried: HashSet<PathBuf> = HashSet::new();
    for point in points.iter().rev() {
        for (path, extents) in hurt_files(repository, point, wanted)? {
            for names in places(point, &path) {
                let missing = extents.iter().any(|(_, e)| !out.contains_key(&e.chunk));
                if !missing || stop.load(Ordering::Relaxed) {
                    break;
                }
                let Some(file) = open_beneath(root, &names) else { continue };
                let full = (*full_path(root, &names)).clone();
                search_file(repository.keys(), &file, root, &names, &extents, wanted, &mut out);
                if extents.iter().any(|(_, e)| !out.contains_key(&e.chunk)) && tried.insert(full) {
                    cut_again(repository, &file, root, &names, wanted, &mut out);
                }
            }
        }
    }
    Ok(out)
}

type HurtFile = (Vec<Vec<u8>>, Vec<(u64, Extent)>);

/// The files of a point that need wanted chunks: names from the root, and the extents.
fn hurt_files(repository: &Repository, point: &PointRecord, wanted: &HashSet<ChunkId>) -> Result<Vec<HurtFile>> {
    let (mut names, mut extents) = (Names::default(), HashMap::<u64, Vec<(u64, Extent)>>::new());
    // A tree with gaps still says where some of the lost content belongs.
    readable_entries(repository, &point.root, |key, value| match Key::decode(key) {
        Ok(Key::Dirent(parent, name)) => {
            if let Ok(dirent) = Dirent::decode(value) {
                names.add(parent, name, dirent.ino);
            }
        }
        Ok(Key::Extent(ino, offset)) => {
            if let Some(extent) = Extent::decode(value).ok().filter(|e| wanted.contains(&e.chunk)) {
                extents.entry(ino).or_default().push((offset, extent));
            }
        }
        _ => {}
    })?;
    let named = |(ino, extents): (u64, Vec<(u64, Extent)>)| match names.parts(ino) {
        (None, parts) => Some((parts.into_iter().map(<[u8]>::to_vec).collect(), extents)),
        (Some(_), _) => None,
    };
    Ok(extents.into_iter().filter_map(named).collect())
}

/// Where below the directory a file may stand: under its whole path, or under what is left of it behind a backed-up path.
fn places(point: &PointRecord, path: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut out = vec![path.to_vec()];
    for backed_up in &point.paths {
        let parts: Vec<&[u8]> = backed_up.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        let within = path.len() > parts.len() && parts.iter().zip(path).all(|(a, b)| *a == b.as_slice());
        if within && !parts.is_empty() {
            out.push(path.get(parts.len()..).unwrap_or_default().to_vec());
        }
    }
    out
}

/// A regular file below `root`; symbolic links are not followed.
fn open_beneath(root: &Path, names: &[Vec<u8>]) -> Option<File> {
    let (last, above) = names.split_last()?;
    let dir = Dir::open_root(root).and_then(|dir| dir.open_beneath(above)).ok()?;
    let file = dir.open_file(last).ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|_| file)
}

fn full_path(root: &Path, names: &[Vec<u8>]) -> Arc<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Arc::new(names.iter().fold(root.to_path_buf(), |path, name| path.join(std::ffi::OsStr::from_bytes(name))))
}

/// Takes chunks from the very offsets where they stood.
fn search_file(
    keys: &Keys,
    file: &File,
    root: &Path,
    names: &[Vec<u8>],
    extents: &[(u64, Extent)],
    wanted: &HashSet<ChunkId>,
    out: &mut Origins,
) {
    let path = full_path(root, names);
    for (offset, extent) in extents {
        let Some(start) = offset.checked_sub(u64::from(extent.skip)) else { continue };
        let len = extent.skip.saturating_add(extent.len);
        let mut bytes = vec![0; len as usize];
        let read = relict::os::pread_exact_or_short(file, &mut bytes, start);
        if read.is_ok_and(|n| n == bytes.len())
            && keys.chunk_id(&bytes) == extent.chunk
            && wanted.contains(&extent.chunk)
        {
            out.entry(extent.chunk).or_insert(Origin::File(Arc::clone(&path), start, len));
        }
    }
}

/// Cuts the whole file as a backup does, for content that moved in it.
fn cut_again(
    repository: &Repository,
    file: &File,
    root: &Path,
    names: &[Vec<u8>],
    wanted: &HashSet<ChunkId>,
    out: &mut Origins,
) {
    let path = full_path(root, names);
    let mut splitter = Splitter::new(Chunker::new(repository.header().chunk_bytes));
    let (mut window, mut start, mut last) = (Vec::new(), 0_usize, false);
    loop {
        let at = splitter.at();
        match splitter.next(window.get(start..).unwrap_or_default(), last) {
            Piece::Hole(len) => start += len,
            Piece::Chunk(len) => {
                let bytes = window.get(start..start + len).unwrap_or_default();
                let id = repository.keys().chunk_id(bytes);
                if wanted.contains(&id) {
                    out.entry(id).or_insert(Origin::File(Arc::clone(&path), at, len as u32));
                }
                start += len;
            }
            Piece::More if last => return,
            Piece::More => {
                window.drain(..start);
                start = 0;
                let (known, more) = (window.len(), WINDOW_BYTES);
                window.resize(known + more, 0);
                let read = relict::os::pread_exact_or_short(
                    file,
                    window.get_mut(known..).unwrap_or_default(),
                    at + known as u64,
                );
                let Ok(read) = read else { return };
                window.truncate(known + read);
                last = read < more;
            }
        }
    }
}

/// The bytes of a chunk that was found, as they are now.
pub fn fetch(repository: &Repository, other: Option<&Repository>, origin: &Origin) -> Result<Vec<u8>> {
    let from = |repository: &Repository, at: &Location| -> Result<Vec<u8>> {
        let segment = repository.read_segment(at)?;
        Ok(slice(&segment, at).unwrap_or_default().to_vec())
    };
    match origin {
        Origin::Spare(at) => from(repository, at),
        Origin::Other(at) => other.map_or(Ok(Vec::new()), |other| from(other, at)),
        Origin::File(path, offset, len) => {
            let context = |e| relict::Error::io(format!("reading {}", path.display()), e);
            let file = File::open(&**path).map_err(context)?;
            let mut bytes = vec![0; *len as usize];
            let read = relict::os::pread_exact_or_short(&file, &mut bytes, *offset).map_err(context)?;
            bytes.truncate(read);
            Ok(bytes)
        }
    }
}
