//! Packages as files: `packages/<first two hex digits>/<id>.pkg`. The default.

use super::package_store::PackageStore;
use crate::error::{Error, ErrorKind, Result};
use quick_cache::sync::Cache;
use repo_format::PackageId;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Io, IoSlice, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Open files kept for reading.
const OPEN_FILES: usize = 128;
/// The disk begins to write a package whenever so much of it is there: what waits for its fsync waits less.
const WRITE_BYTES: u64 = 8 << 20;
/// What was begun so many times before is mostly on the disk by now, and leaves the page cache. A backup does not push out what the
/// machine works with, and writes into memory that it has used before: a virtual machine gets fresh memory from its host, which
/// takes up to ten times as long as to write there again.
const WRITES_BEHIND: u64 = 2;
const SUFFIX: &str = ".pkg";

/// Packages below one directory.
pub struct FileStore {
    root: PathBuf,
    open: Cache<PackageId, Arc<File>>,
    writing: std::sync::Mutex<Vec<(PackageId, Arc<File>)>>,
}

impl FileStore {
    /// A store over `root`, the repository's `packages/` directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        let open_files = usize::try_from(crate::os::open_files() / 8).unwrap_or(OPEN_FILES).min(OPEN_FILES);
        Self { root, open: Cache::new(open_files), writing: std::sync::Mutex::default() }
    }

    fn path(&self, id: &PackageId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(format!("{name}{SUFFIX}"))
    }

    fn reader(&self, id: &PackageId) -> Result<Arc<File>> {
        self.open.get_or_insert_with(id, || {
            let path = self.path(id);
            open_regular(&path).map(Arc::new).map_err(|e| missing(&path, e))
        })
    }

    fn writer(&self, id: &PackageId) -> Result<Arc<File>> {
        let mut writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, file)) = writing.iter().find(|(known, _)| known == id) {
            return Ok(file.clone());
        }
        let path = self.path(id);
        let file = Arc::new(open_unsealed(&path).map_err(|e| missing(&path, e))?);
        writing.push((*id, file.clone()));
        Ok(file)
    }
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    let what = format!("package {} cannot be opened", path.display());
    if error.kind() == Io::NotFound {
        // In words only: as an errno it would reach the reader of a mounted file, which does exist.
        Error::new(ErrorKind::Damaged, what)
            .because(error.to_string())
            .advise("run 'relict-maint check' to see which restore points need this package")
    } else {
        Error::io(what, error)
    }
}

/// Opens a file of the repository. Whatever else somebody put in its place is not waited for, as one waits for a pipe.
fn open_regular(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let regular = file.metadata()?.is_file();
    if regular { Ok(file) } else { Err(std::io::Error::new(Io::InvalidInput, "it is not a regular file")) }
}

/// Reads a small file of the repository that may be anything.
pub(super) fn read_small(path: &Path, most_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    open_regular(path)?.take(most_bytes + 1).read_to_end(&mut out)?;
    let short = out.len() as u64 <= most_bytes;
    if short { Ok(out) } else { Err(std::io::Error::new(Io::InvalidData, "it is far too long")) }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(format!("syncing {}", path.display()), e))
}

impl PackageStore for FileStore {
    fn create(&self, id: &PackageId) -> Result<()> {
        let path = self.path(id);
        let dir = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(dir).map_err(|e| Error::io(format!("creating {}", dir.display()), e))?;
        let file = OpenOptions::new().append(true).read(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::io(format!("creating package {}", path.display()), e))?;
        self.writing.lock().unwrap_or_else(|e| e.into_inner()).push((*id, Arc::new(file)));
        Ok(())
    }

    fn append(&self, id: &PackageId, offset: u64, parts: &[&[u8]]) -> Result<()> {
        let file = self.writer(id)?;
        let context = |e| Error::io(format!("writing package {}", self.path(id).display()), e);
        let length = file.metadata().map_err(context)?.len();
        if length != offset {
            return Err(Error::damaged(format!(
                "package {} is {length} bytes long where {offset} were expected; something else wrote to it",
                self.path(id).display()
            )));
        }
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let mut written = (&*file).write_vectored(&slices).map_err(context)?;
        // A short write is rare (signals, a device filling up): finish it part by part.
        for part in parts {
            let skip = written.min(part.len());
            (&*file).write_all(&part[skip..]).map_err(context)?;
            written -= skip;
        }
        debug_assert!(total >= written);
        let (begun, whole) = (offset / WRITE_BYTES, (offset + total as u64) / WRITE_BYTES);
        if begun < whole {
            crate::os::begin_writing(&file, begun * WRITE_BYTES, (whole - begun) * WRITE_BYTES);
            let written = begun.saturating_sub(WRITES_BEHIND) * WRITE_BYTES;
            if written > 0 {
                crate::os::fadvise_dontneed(&file, 0, written);
            }
        }
        Ok(())
    }

    fn sync(&self, id: &PackageId) -> Result<()> {
        let path = self.path(id);
        let context = |e| Error::io(format!("making package {} durable", path.display()), e);
        self.writer(id)?.sync_data().map_err(context)?;
        sync_dir(path.parent().unwrap_or(&self.root))?;
        // Always: whoever made that directory may have been killed before. It costs nothing otherwise.
        sync_dir(&self.root)
    }

    fn seal(&self, id: &PackageId) -> Result<()> {
        self.sync(id)?;
        let path = self.path(id);
        let file = self.writer(id)?;
        if file.metadata().is_ok_and(|meta| meta.len() > WRITES_BEHIND * WRITE_BYTES) {
            crate::os::fadvise_dontneed(&file, 0, 0);
        }
        self.writing.lock().unwrap_or_else(|e| e.into_inner()).retain(|(known, _)| known != id);
        let read_only = fs::Permissions::from_mode(0o400);
        file.set_permissions(read_only).map_err(|e| Error::io(format!("sealing {}", path.display()), e))
    }

    fn read(&self, id: &PackageId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reader(id)?.read_exact_at(buffer, offset).map_err(|e| {
            let what = format!("package {}, {} bytes at {offset}", self.path(id).display(), buffer.len());
            match e.kind() {
                Io::UnexpectedEof => Error::damaged(format!("{what}: the file ends before")),
                _ => Error::io(what, e),
            }
        })
    }

    fn len(&self, id: &PackageId) -> Result<u64> {
        let path = self.path(id);
        fs::metadata(&path).map(|m| m.len()).map_err(|e| missing(&path, e))
    }

    fn list(&self) -> Result<Vec<PackageId>> {
        let context = |e| Error::io(format!("listing {}", self.root.display()), e);
        let mut out = Vec::new();
        for dir in fs::read_dir(&self.root).map_err(context)? {
            let dir = dir.map_err(context)?.path();
            if !dir.is_dir() {
                continue;
            }
            for file in fs::read_dir(dir).map_err(context)? {
                let name = file.map_err(context)?.file_name();
                let stem = name.to_str().and_then(|n| n.strip_suffix(SUFFIX));
                out.extend(stem.and_then(PackageId::from_hex));
            }
        }
        Ok(out)
    }

    fn delete(&self, id: &PackageId) -> Result<()> {
        self.open.remove(id);
        let path = self.path(id);
        match fs::remove_file(&path) {
            // Durable before the index forgets the package, or a lost power supply could bring back a file nobody names.
            Ok(()) => path.parent().map_or(Ok(()), sync_dir),
            Err(e) if e.kind() == Io::NotFound => Ok(()),
            Err(e) => Err(Error::io(format!("deleting package {}", path.display()), e)),
        }
    }

    fn announce(&self, id: &PackageId) {
        if let Ok(file) = self.reader(id) {
            crate::os::fadvise_sequential(&file);
            crate::os::fadvise_willneed(&file);
        }
    }

    fn drop_cached(&self, id: &PackageId, offset: u64, bytes: u64) -> bool {
        // Only clean pages can be dropped, and only whole ones.
        const PAGE_BYTES: u64 = 4096;
        let from = offset / PAGE_BYTES * PAGE_BYTES;
        self.reader(id).is_ok_and(|file| {
            let clean = file.sync_data().is_ok();
            crate::os::fadvise_dontneed(&file, from, (offset - from + bytes).next_multiple_of(PAGE_BYTES));
            clean
        })
    }

    fn free(&self, id: &PackageId, ranges: &[(u64, u64)], must: bool) -> Result<u64> {
        let path = self.path(id);
        let context = |e| Error::io(format!("freeing a part of package {}", path.display()), e);
        let file = open_sealed(&path).map_err(context)?;
        let blocks = || file.metadata().map(|m| std::os::unix::fs::MetadataExt::blocks(&m));
        let before = blocks().map_err(context)?;
        for (start, end) in ranges {
            match crate::os::punch_hole(&file, *start, end - start) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    if must {
                        write_zeros(&file, *start, *end).map_err(context)?;
                    }
                }
                other => other.map_err(context)?,
            }
        }
        file.sync_data().map_err(context)?;
        Ok(before.saturating_sub(blocks().map_err(context)?) * 512)
    }

    fn frees_parts(&self, id: &PackageId) -> Result<bool> {
        let path = self.path(id);
        let context = |e| Error::io(format!("opening package {}", path.display()), e);
        let file = open_sealed(&path).map_err(context)?;
        // Behind the end there is nothing to lose.
        let behind = file.metadata().map_err(context)?.len().next_multiple_of(BLOCK_BYTES);
        match crate::os::punch_hole(&file, behind + BLOCK_BYTES, BLOCK_BYTES) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(e) => Err(context(e)),
        }
    }

    fn room(&self, id: &PackageId, ranges: &[(u64, u64)]) -> Result<u64> {
        let file = self.reader(id)?;
        let context = |e| Error::io(format!("looking for holes in package {}", self.path(id).display()), e);
        let length = file.metadata().map_err(context)?.len();
        let data = crate::os::data_ranges(&file, length).collect::<std::io::Result<Vec<_>>>().map_err(context)?;
        let mut room = 0;
        for (start, end) in ranges {
            let (start, end) = (start.next_multiple_of(BLOCK_BYTES), end / BLOCK_BYTES * BLOCK_BYTES);
            if start >= end {
                continue;
            }
            let first = data.partition_point(|(at, bytes)| at + bytes <= start);
            for (at, bytes) in data.iter().skip(first).take_while(|(at, _)| *at < end) {
                room += (at + bytes).min(end) - (*at).max(start);
            }
        }
        Ok(room)
    }

    fn occupied(&self, id: &PackageId) -> Result<u64> {
        let path = self.path(id);
        let blocks = fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        blocks.map_err(|e| missing(&path, e))
    }
}

/// What file systems give back at once; a smaller block only makes the estimate too low.
const BLOCK_BYTES: u64 = 4096;

/// For appending. A process that was killed may have made the file read-only before the index called it sealed: then it is
/// finished again.
fn open_unsealed(path: &Path) -> std::io::Result<File> {
    let open = || OpenOptions::new().append(true).read(true).open(path);
    match open() {
        Err(e) if e.kind() == Io::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            open()
        }
        other => other,
    }
}

/// A sealed package is read-only, for its owner too.
fn open_sealed(path: &Path) -> std::io::Result<File> {
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    match open() {
        Err(e) if e.kind() == Io::PermissionDenied => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            let file = open();
            fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
            file
        }
        other => other,
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> std::io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut at = start;
    while at < end {
        let bytes = (end - at).min(zeros.len() as u64) as usize;
        file.write_all_at(zeros.get(..bytes).unwrap_or_default(), at)?;
        at += bytes as u64;
    }
    Ok(())
}
