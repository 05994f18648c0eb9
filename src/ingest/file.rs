//! One regular file: opening it, reading it as far as it can be read, and its entries but the extents.

use super::old::{Edits, OldCuts, RowMerge};
use super::report::Severity;
use super::run::{LeftOut, Run};
use super::source::{Attributes, SourceDir, Stat};
use crate::Result;
use crate::catalog::tree::{Edit, Range};
use repo_format::{Extent, Inode, Key, KeyKind, SourceIdentity, Time};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A clock tick of any kernel: two changes of a file this far apart have different times.
const TICK: Duration = Duration::from_millis(20);
/// Unreadable parts of a file are looked at in steps of this.
const RETRY_BYTES: usize = 4096;
/// After so many unreadable bytes the rest of a file is not tried any more.
const MAX_LOST_BYTES: u64 = 1024 * 1024;

/// A regular file to be read.
pub(super) struct FileJob {
    pub(super) dir: Arc<SourceDir>,
    pub(super) name: Vec<u8>,
    /// Its number in the tree, and its directory's.
    pub(super) ino: u64,
    pub(super) dir_ino: u64,
    /// As the scan saw it.
    pub(super) stat: Stat,
    pub(super) source: SourceIdentity,
    /// Its attributes in the parent point, if it is there.
    pub(super) old: Option<Box<Inode>>,
    /// Whether the source has more than one name for it; then the names in the tree are counted at the end.
    pub(super) many_names: bool,
    /// Whether it is on a file system of the kernel's state: read once, and as it is.
    pub(super) kernel: bool,
}

impl FileJob {
    pub(super) fn path(&self) -> Vec<u8> {
        self.dir.path_of(&self.name)
    }

    /// Its extents from `offset` on in the old tree, if it is there.
    fn old_rows<'a>(&self, run: &Run<'a>, offset: u64) -> Option<Range<'a>> {
        run.old.filter(|_| self.old.is_some()).map(|old| old.extents(self.ino, offset))
    }

    /// Its old extents from `offset` on, to be compared with the new ones.
    pub(super) fn old_extents<'a>(&self, run: &Run<'a>, offset: u64) -> Result<RowMerge<'a>> {
        RowMerge::new(self.old_rows(run, offset))
    }

    /// Where its content was cut in the old tree, from `offset` on.
    pub(super) fn old_cuts<'a>(&self, run: &Run<'a>, offset: u64) -> OldCuts<'a> {
        OldCuts::new(self.old_rows(run, offset))
    }

    /// The extent at `offset` as an entry.
    pub(super) fn extent_row(&self, offset: u64, extent: &Extent) -> (Vec<u8>, Vec<u8>) {
        (self.extent_key(offset), extent.encode())
    }

    pub(super) fn extent_key(&self, offset: u64) -> Vec<u8> {
        Key::Extent(self.ino, offset).encode()
    }

    /// Opens the file and reads its attributes; None if it cannot be opened, which is reported.
    pub(super) fn open(&self, run: &Run<'_>) -> Option<(File, Attributes)> {
        if !self.kernel {
            wait_for_tick(self.stat.ctime);
        }
        match self.dir.dir.open_file(&self.name) {
            Ok(file) => {
                let (attributes, error) = Attributes::of_file(&file);
                if let Some(error) = error {
                    run.find(self.path(), Severity::Error, format!("its extended attributes cannot be read: {error}"));
                }
                Some((file, attributes))
            }
            Err(error) => {
                self.leave_out(run, &error);
                None
            }
        }
    }

    /// Reports why the file is not in the restore point and takes it out.
    pub(super) fn leave_out(&self, run: &Run<'_>, error: &io::Error) {
        let (severity, what) = match error.raw_os_error() {
            Some(libc::ENOENT) => (Severity::Note, "it went away before it was read".into()),
            Some(libc::ELOOP | libc::ENXIO) => (Severity::Note, "it was replaced before it was read".into()),
            _ => (Severity::Error, format!("it cannot be read and is left out: {error}")),
        };
        if !self.many_names {
            run.find(self.path(), severity, what);
        }
        run.leave_out(LeftOut {
            ino: self.ino,
            dir_ino: self.dir_ino,
            name: self.name.clone(),
            source: self.source,
            stat: self.stat,
            old: self.old.clone(),
            path: self.path(),
            // Another name may be of use: `other_names` says what became of it.
            unread: self.many_names.then(|| copy_of(error)),
        });
    }

    /// Reports what was wrong with the content: how many bytes of it could not be read and why, and whether it changed.
    pub(super) fn report_content(&self, run: &Run<'_>, lost: Option<(u64, &io::Error)>, changed: bool) {
        if let Some((lost, error)) = lost {
            let what = format!("{lost} bytes cannot be read and are zeros in the restore point: {error}");
            run.find(self.path(), Severity::Error, what);
        }
        if changed {
            run.find(self.path(), Severity::Warning, "it changed while it was read; the next backup reads it again");
        }
    }

    /// The inode and its extended attributes as edits; `stat` is from before the content was read.
    pub(super) fn finish(&self, run: &Run<'_>, read: FileRead, edits: &mut Edits) -> Result<()> {
        merge_xattrs(run, self.ino, self.old.is_some(), &read.attributes, edits)?;
        // A file that was put in the place of the one that was listed keeps the place, but not the identity.
        let same = (read.stat.dev, read.stat.ino) == (self.stat.dev, self.stat.ino);
        if !same {
            run.replace(self.ino, self.old.as_deref().copied());
        }
        let source = as_read(self.source, read.in_part || read.attributes.in_part);
        let mut inode = inode_of(&read.stat, 1, read.attributes.flags, Some(source).filter(|_| same));
        (inode.size, inode.data_bytes) = (read.size, read.data_bytes);
        if self.many_names {
            run.keep_shared(self.ino, inode);
        } else if self.old.as_deref() != Some(&inode) {
            edits.push((Key::Inode(self.ino).encode(), Edit::Put(inode.encode())));
        }
        Ok(())
    }
}

/// An error from the system, once more.
fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// What reading a file gave beside its extents.
pub(super) struct FileRead {
    pub(super) stat: Stat,
    pub(super) attributes: Attributes,
    /// Bytes read.
    pub(super) size: u64,
    /// Of these, bytes in extents.
    pub(super) data_bytes: u64,
    /// Whether some bytes could not be read.
    pub(super) in_part: bool,
}

/// What to remember of where an inode was found, so that the next scan reads it again when this one could not read it all.
pub(super) fn as_read(source: SourceIdentity, in_part: bool) -> SourceIdentity {
    let generation = if in_part { SourceIdentity::READ_IN_PART } else { 0 };
    SourceIdentity { generation, ..source }
}

/// The record of an inode. Only regular files have data bytes; the caller knows them.
pub(super) fn inode_of(stat: &Stat, nlink: u32, flags: u32, source: Option<SourceIdentity>) -> Inode {
    Inode {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        nlink,
        size: stat.size,
        mtime: stat.mtime,
        ctime: stat.ctime,
        btime: stat.btime,
        rdev: stat.rdev,
        flags,
        data_bytes: 0,
        source,
    }
}

/// Edits that make the extended attributes of `ino` those of `attributes`.
pub(super) fn merge_xattrs(
    run: &Run<'_>,
    ino: u64,
    was_known: bool,
    attributes: &Attributes,
    edits: &mut Edits,
) -> Result<()> {
    if !was_known && attributes.xattrs.is_empty() {
        return Ok(());
    }
    let mut rows = RowMerge::new(run.old.filter(|_| was_known).map(|old| old.rows(ino, KeyKind::Xattr)))?;
    for (name, value) in &attributes.xattrs {
        rows.put(Key::Xattr(ino, name).encode(), value.clone(), edits)?;
    }
    rows.finish(edits)
}

/// Waits until a file changed just now can no longer change again within the same clock tick, which
/// would leave its times as they are and hide the change from the next scan.
pub(super) fn wait_for_tick(ctime: Time) {
    let Ok(secs) = u64::try_from(ctime.sec) else { return };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(secs, ctime.nsec);
    if let Ok(age) = SystemTime::now().duration_since(changed)
        && age < TICK
    {
        std::thread::sleep(TICK - age);
    }
}

/// A file's bytes, with zeros where the disk does not give them.
pub(super) struct Content<'f> {
    file: &'f File,
    /// Bytes that could not be read.
    pub(super) lost_bytes: u64,
    /// Why.
    pub(super) error: Option<io::Error>,
}

impl<'f> Content<'f> {
    pub(super) const fn new(file: &'f File) -> Self {
        Self { file, lost_bytes: 0, error: None }
    }

    /// How many bytes could not be read, and why.
    pub(super) fn lost(&self) -> Option<(u64, &io::Error)> {
        self.error.as_ref().map(|error| (self.lost_bytes, error))
    }

    /// Fills `out` with the bytes from `at`; fewer come at the file's end only.
    ///
    /// # Errors
    /// When not even the file's first block can be read.
    pub(super) fn read(&mut self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = at + done as u64;
            match self.read_some(rest, offset) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(error) if offset == 0 => return Err(error),
                Err(error) => done += self.lose(rest, error),
            }
        }
        Ok(done)
    }

    /// One read; of a part that cannot be read as a whole, its first block alone.
    fn read_some(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let mut want = out.len();
        loop {
            match self.file.read_at(out.get_mut(..want).unwrap_or_default(), at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if want > RETRY_BYTES && self.lost_bytes <= MAX_LOST_BYTES => want = RETRY_BYTES,
                result => return result,
            }
        }
    }

    /// Zeros in place of a block, or of everything after too many such blocks.
    fn lose(&mut self, out: &mut [u8], error: io::Error) -> usize {
        let step = if self.lost_bytes > MAX_LOST_BYTES { out.len() } else { RETRY_BYTES.min(out.len()) };
        out.iter_mut().take(step).for_each(|byte| *byte = 0);
        self.lost_bytes += step as u64;
        self.error.get_or_insert(error);
        step
    }
}
