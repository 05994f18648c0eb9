//! What repair does to the store: take damaged packages out of use without destroying them (SPEC.md section 10).
//!
//! Whoever calls this has stored again, durably, all that could still be read from the package. The file is moved before
//! its rows go: killed in between, the package is missing and every chunk of it that could be read stands elsewhere.

use super::files::sync_dir;
use super::index::{Index, IndexBatch, Location, PackageInfo};
use super::repository::Repository;
use super::writer::Writer;
use crate::error::{Error, Result};
use repo_format::{ChunkId, PackageId, PointId, StoreKind};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes copied at once where a package cannot be renamed.
const COPY_BYTES: usize = 4 << 20;

impl Index {
    /// All chunks that the index places in these packages, in physical order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn chunks_in(&self, packages: &HashSet<u32>) -> Result<Vec<(Location, ChunkId)>> {
        let mut out = Vec::new();
        for entry in self.chunks()? {
            let (id, at) = entry?;
            if packages.contains(&at.package) {
                out.push((at, id));
            }
        }
        out.sort_unstable();
        Ok(out)
    }
}

/// Moves a damaged package to `quarantine/` and takes it, and every index row that still leads into it, out of the index.
/// Gives the place of the file, None when there was none.
///
/// # Errors
/// When the medium fails. What was done stays done, and calling again goes on.
pub fn quarantine(writer: &Writer, info: &PackageInfo) -> Result<Option<PathBuf>> {
    let repository = writer.repository();
    let aside =
        if repository.packages().list()?.contains(&info.id) { Some(put_aside(repository, &info.id)?) } else { None };
    let index = repository.index();
    let mut batch = IndexBatch::default();
    for (_, id) in index.chunks_in(&HashSet::from([info.number]))? {
        index.remove_chunk(&mut batch, &id)?;
    }
    index.remove_package(&mut batch, info.number)?;
    index.commit(batch)?;
    Ok(aside)
}

fn put_aside(repository: &Repository, id: &PackageId) -> Result<PathBuf> {
    let dir = repository.path().join("quarantine");
    fs::create_dir_all(&dir).map_err(|e| Error::io(format!("creating {}", dir.display()), e))?;
    sync_dir(repository.path())?;
    let named = |n: u32| dir.join(if n == 0 { format!("{id}.pkg") } else { format!("{id}.{n}.pkg") });
    let target = named((0..).find(|n| !named(*n).exists()).unwrap_or(u32::MAX));
    match repository.header().store {
        StoreKind::Files => {
            let name = id.to_string();
            let from_dir = repository.path().join("packages").join(name.get(..2).unwrap_or_default());
            let from = from_dir.join(format!("{name}.pkg"));
            fs::rename(&from, &target)
                .map_err(|e| Error::io(format!("moving {} to {}", from.display(), target.display()), e))?;
            sync_dir(&dir)?;
            sync_dir(&from_dir)?;
        }
        StoreKind::RocksDb => {
            copy_out(repository, id, &target)?;
            sync_dir(&dir)?;
            repository.packages().delete(id)?;
        }
    }
    Ok(target)
}

/// The bytes of a package as a file; what cannot be read becomes zeros.
fn copy_out(repository: &Repository, id: &PackageId, target: &Path) -> Result<()> {
    let context = |e| Error::io(format!("writing {}", target.display()), e);
    let length = repository.packages().len(id)?;
    let mut file = File::create_new(target).map_err(context)?;
    let mut at = 0;
    while at < length {
        let part = usize::try_from(length - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let mut buffer = vec![0; part];
        if repository.packages().read(id, at, &mut buffer).is_err() {
            buffer.fill(0);
        }
        file.write_all(&buffer).map_err(context)?;
        at += part as u64;
    }
    file.sync_all().map_err(context)
}

/// Takes a restore point whose record is lost out of the catalogue. Its packages are not touched.
///
/// # Errors
/// When the database cannot be written.
pub fn drop_point(writer: &Writer, id: &PointId) -> Result<()> {
    let index = writer.repository().index();
    let mut batch = IndexBatch::default();
    index.drop_point(&mut batch, id)?;
    index.commit(batch)
}
