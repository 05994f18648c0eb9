//! FUSE requests to questions of the view, and its answers back. Nothing is decided here but what the kernel may keep.

use super::ahead::Ahead;
use super::errno::errno;
use super::fetch::{Fetch, send};
use crate::Result;
use crate::view::{Attr, DirEntry, Ino, Seek, View};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use repo_format::{FileKind, Time};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the kernel believes what it was told of directories that can change.
const LIST_LIFE: Duration = Duration::from_secs(1);
const BLOCK_BYTES: u32 = 4096;
const NAME_BYTES: u32 = 255;
/// `FS_IOC_GETFLAGS` where `long` has 64 bits, and where it has 32.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
const SELINUX_LABEL: &str = "security.selinux";
/// Read requests the kernel may have in flight by itself.
const MAX_BACKGROUND: u16 = 64;

/// Kinds of requests that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "these are the names of FUSE requests")]
pub enum Request {
    Lookup,
    Getattr,
    Readlink,
    Open,
    Read,
    Getxattr,
    Listxattr,
    Flush,
    Release,
    Opendir,
    Readdir,
    Readdirplus,
    Statfs,
    Lseek,
    Other,
}

/// Requests answered since mounting.
#[derive(Debug, Default)]
pub struct RequestCounts {
    requests: [AtomicU64; Request::Other as usize + 1],
    stored: AtomicU64,
}

impl RequestCounts {
    /// How many of a kind.
    #[must_use]
    pub fn of(&self, request: Request) -> u64 {
        self.requests.get(request as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Files put into the page cache without a request.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub(super) fn add_stored(&self) {
        self.stored.fetch_add(1, Ordering::Relaxed);
    }

    fn add(&self, request: Request) {
        if let Some(count) = self.requests.get(request as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) struct Adapter {
    pub(super) view: Arc<View>,
    pub(super) ahead: Ahead,
    pub(super) fetch: Fetch,
    pub(super) counts: Arc<RequestCounts>,
    /// Other users come here: the kernel checks modes and ACLs for us.
    pub(super) allow_other: bool,
    pub(super) max_read: u32,
    /// Whether extended attributes are shown. The first "no" ends the kernel's asking until the mount ends.
    pub(super) xattrs: bool,
}

impl Adapter {
    fn count(&self, request: Request) {
        self.counts.add(request);
    }

    fn life(&self, ino: Ino) -> Duration {
        self.view.life(ino).map_or(LIST_LIFE, |life| Duration::from_secs(life.0))
    }

    fn name_life(&self, parent: Ino, name: &[u8], child: Option<Ino>) -> Option<Duration> {
        self.view.name_life(parent, name, child).map(|life| Duration::from_secs(life.0))
    }

    fn read(&self, ino: Ino, offset: u64, len: u64, reply: ReplyData) {
        if ino.is_virtual() {
            return match self.view.read(ino, offset, len) {
                Ok(read) => send(&read, reply),
                Err(error) => reply.error(errno(&error)),
            };
        }
        let plan = match self.view.plan(ino, offset, len) {
            Ok(plan) => plan,
            Err(error) => return reply.error(errno(&error)),
        };
        // Asked for first, so that it is under way while this answer is copied and used.
        self.ahead.load(plan.ahead());
        self.fetch.run(ino, plan, reply);
    }

    fn flags(&self, ino: Ino) -> Result<u32> {
        self.view.getattr(ino).map(|attr| attr.flags)
    }
}

fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

fn ino_of(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(time.nsec.into());
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::Char => FileType::CharDevice,
        FileKind::Block => FileType::BlockDevice,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let mtime = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: mtime,
        mtime,
        ctime: system_time(attr.ctime),
        crtime: attr.btime.map_or(UNIX_EPOCH, system_time),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes where only number and type are known.
fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// An extended attribute answer: its size when none was asked for, else all of it or ERANGE.
fn reply_sized(bytes: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Lists of restore points are dropped from the cache when their time changes.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        if self.allow_other {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wanted {
            // A kernel that lacks one is slower, and no less right.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_readahead(self.max_read).or_else(|most| config.set_max_readahead(most));
        let _ = config.set_max_write(self.max_read);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count(Request::Lookup);
        let parent = ino_of(parent);
        // The kernel lets FUSE have longer ones.
        if name.len() > NAME_BYTES as usize {
            return reply.error(Errno::ENAMETOOLONG);
        }
        match self.view.lookup(parent, name.as_bytes()) {
            Ok(Some(attr)) => {
                let life = self.name_life(parent, name.as_bytes(), Some(attr.ino));
                reply.entry(&life.unwrap_or(LIST_LIFE), &file_attr(&attr), Generation(0));
            }
            Ok(None) => match self.name_life(parent, name.as_bytes(), None) {
                // Number 0 says "no such name, and you may remember that".
                Some(life) => reply.entry(&life, &bare_attr(Ino(0), FileKind::File), Generation(0)),
                None => reply.error(Errno::ENOENT),
            },
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _: &fuser::Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &fuser::Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.count(Request::Getattr);
        match self.view.getattr(ino_of(ino)) {
            Ok(attr) => reply.attr(&self.life(attr.ino), &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.count(Request::Readlink);
        match self.view.readlink(ino_of(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.count(Request::Open);
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Request::Read);
        Self::read(self, ino_of(ino), offset, size.into(), reply);
    }

    fn flush(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.count(Request::Flush);
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Request::Release);
        reply.ok();
    }

    fn opendir(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.count(Request::Opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.count(Request::Readdir);
        let mut sink = |entry: &DirEntry<'_>, _: Option<&Attr>| {
            reply.add(INodeNo(entry.ino.0), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name))
        };
        match self.view.readdir(ino_of(ino), offset, &mut sink) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.count(Request::Readdirplus);
        let mut sink = |entry: &DirEntry<'_>, attr: Option<&Attr>| {
            // Without attributes the name is listed, and whoever wants them asks again and gets the error.
            let (life, attr) = match attr {
                Some(attr) => {
                    let life = self.name_life(ino_of(ino), entry.name, Some(entry.ino));
                    (life.unwrap_or(LIST_LIFE), file_attr(attr))
                }
                None => (Duration::ZERO, bare_attr(entry.ino, entry.kind)),
            };
            reply.add(INodeNo(entry.ino.0), entry.next, OsStr::from_bytes(entry.name), &life, &attr, Generation(0))
        };
        match self.view.readdir_plus(ino_of(ino), offset, &mut sink) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        self.count(Request::Statfs);
        let blocks = self.view.stats().stored_bytes.div_ceil(BLOCK_BYTES.into());
        reply.statfs(blocks, 0, 0, 0, 0, BLOCK_BYTES, NAME_BYTES, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.count(Request::Getxattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        match self.view.xattr(ino_of(ino), name.as_bytes()) {
            Ok(Some(value)) => reply_sized(&value, size, reply),
            // A system with SELinux labels every file, so a file without a label means "no labels here". Told
            // so, ls(1) stops asking for each file.
            Ok(None) if name == SELINUX_LABEL => reply.error(Errno::EOPNOTSUPP),
            // The same for ACLs, where there are none at all. Not where the kernel asks for its own permission check: it
            // would let nobody in.
            Ok(None) if is_acl(name) && !self.allow_other && self.view.has_no_acls() => {
                reply.error(Errno::EOPNOTSUPP);
            }
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.count(Request::Listxattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        match self.view.xattr_names(ino_of(ino)) {
            Ok(names) => reply_sized(&names, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn lseek(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.count(Request::Lseek);
        let (Ok(from), Some(what)) = (u64::try_from(offset), seek_of(whence)) else {
            return reply.error(Errno::EINVAL);
        };
        match self.view.seek(ino_of(ino), from, what) {
            Ok(Some(found)) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.count(Request::Other);
        if !GET_FLAGS.contains(&command) {
            return reply.error(Errno::ENOTTY);
        }
        match self.flags(ino_of(ino)) {
            Ok(flags) => reply.ioctl(0, &flags.to_ne_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn access(&self, _: &fuser::Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        self.count(Request::Other);
        // Whoever mounts may read all of it; with other users the kernel checks and does not ask.
        reply.error(Errno::ENOSYS);
    }

    // The kernel refuses changes of a read-only mount by itself. What gets here nevertheless is refused too.

    fn setattr(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &fuser::Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

const fn seek_of(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}
