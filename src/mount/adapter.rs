//! FUSE requests to questions of the view, and its answers back. Nothing is decided here but what the kernel may keep.

use super::ahead::Ahead;
use super::errno::errno;
use super::fetch::{Fetch, Refuse, send};
use super::listing::{Listing, list_at_hand};
use crate::Result;
use crate::store::without_waiting;
use crate::view::{Attr, Ino, Seek, View};
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
pub(super) const LIST_LIFE: Duration = Duration::from_secs(1);
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
    /// Content, and everything else: neither waits for the other's threads.
    pub(super) fetch: Fetch,
    pub(super) metadata: Fetch,
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

    /// Asks here what is in memory, else where it may take its time, and tells the answer.
    fn answer<R: Refuse, T: 'static>(
        &self,
        ino: Ino,
        reply: R,
        ask: impl Fn(&View) -> Result<T> + Send + 'static,
        tell: impl FnOnce(T, R) + Send + 'static,
    ) {
        let tell = |answer: Result<T>, reply: R| match answer {
            Ok(answer) => tell(answer, reply),
            Err(error) => reply.refuse(errno(&error)),
        };
        match without_waiting(|| ask(&self.view)) {
            Some(answer) => tell(answer, reply),
            None => self.metadata.ask(ino, reply, ask, tell),
        }
    }

    /// As [`Adapter::answer`], for listings: what is in memory of one is told without the rest.
    fn list<R: Listing>(&self, ino: Ino, offset: u64, mut reply: R) {
        match list_at_hand(&self.view, ino, offset, &mut reply) {
            Some(Ok(())) => reply.done(),
            Some(Err(error)) => reply.refuse(errno(&error)),
            None => self.metadata.ask(
                ino,
                reply,
                // The reply is not here yet, as it can be taken away meanwhile: the entries wait for it.
                move |view| R::collect(view, ino, offset),
                |entries, mut reply| match entries {
                    Ok(entries) => {
                        let _ = entries.iter().any(|entry| entry.add_to(&mut reply));
                        reply.done();
                    }
                    Err(error) => reply.refuse(errno(&error)),
                },
            ),
        }
    }

    fn read(&self, ino: Ino, offset: u64, len: u64, reply: ReplyData) {
        if ino.is_virtual() {
            return self.metadata.ask(
                ino,
                reply,
                move |view| view.read(ino, offset, len),
                |read, reply| match read {
                    Ok(read) => send(&read, reply),
                    Err(error) => reply.error(errno(&error)),
                },
            );
        }
        let plan = match without_waiting(|| self.view.plan(ino, offset, len)) {
            Some(Ok(plan)) => plan,
            Some(Err(error)) => return reply.error(errno(&error)),
            None => return self.fetch.plan(ino, offset, len, reply),
        };
        // Asked for first, so that it is under way while this answer is copied and used.
        self.ahead.load(plan.ahead());
        self.fetch.run(ino, plan, reply);
    }
}

fn life(view: &View, ino: Ino) -> Duration {
    view.life(ino).map_or(LIST_LIFE, |life| Duration::from_secs(life.0))
}

pub(super) fn name_life(view: &View, parent: Ino, name: &[u8], child: Option<Ino>) -> Option<Duration> {
    view.name_life(parent, name, child).map(|life| Duration::from_secs(life.0))
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

pub(super) const fn file_type(kind: FileKind) -> FileType {
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

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
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
pub(super) fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
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
        let name = name.as_bytes().to_vec();
        let ask = move |view: &View| {
            let found = view.lookup(parent, &name)?;
            let life = name_life(view, parent, &name, found.as_ref().map(|attr| attr.ino));
            Ok((found, life))
        };
        self.answer(parent, reply, ask, |answer, reply: ReplyEntry| match answer {
            (Some(attr), life) => reply.entry(&life.unwrap_or(LIST_LIFE), &file_attr(&attr), Generation(0)),
            // Number 0 says "no such name, and you may remember that".
            (None, Some(life)) => reply.entry(&life, &bare_attr(Ino(0), FileKind::File), Generation(0)),
            (None, None) => reply.error(Errno::ENOENT),
        });
    }

    fn forget(&self, _: &fuser::Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &fuser::Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.count(Request::Getattr);
        let ino = ino_of(ino);
        let ask = move |view: &View| view.getattr(ino).map(|attr| (life(view, attr.ino), attr));
        self.answer(ino, reply, ask, |(life, attr), reply: ReplyAttr| reply.attr(&life, &file_attr(&attr)));
    }

    fn readlink(&self, _: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.count(Request::Readlink);
        let ino = ino_of(ino);
        self.answer(ino, reply, move |view| view.readlink(ino), |target, reply: ReplyData| reply.data(&target));
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

    fn readdir(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.count(Request::Readdir);
        self.list(ino_of(ino), offset, reply);
    }

    fn readdirplus(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.count(Request::Readdirplus);
        self.list(ino_of(ino), offset, reply);
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
        let (ino, asked, allow_other) = (ino_of(ino), name.to_os_string(), self.allow_other);
        let ask = move |view: &View| {
            let value = view.xattr(ino, asked.as_bytes())?;
            // A system with SELinux labels every file, so a file without a label means "no labels here". Told
            // so, ls(1) stops asking for each file. The same for ACLs, where there are none at all. Not where the kernel
            // asks for its own permission check: it would let nobody in.
            let none_anywhere = asked == SELINUX_LABEL || (is_acl(&asked) && !allow_other && view.has_no_acls());
            Ok((value, none_anywhere))
        };
        self.answer(ino, reply, ask, move |answer, reply: ReplyXattr| match answer {
            (Some(value), _) => reply_sized(&value, size, reply),
            (None, true) => reply.error(Errno::EOPNOTSUPP),
            (None, false) => reply.error(Errno::ENODATA),
        });
    }

    fn listxattr(&self, _: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.count(Request::Listxattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        let ino = ino_of(ino);
        self.answer(
            ino,
            reply,
            move |view| view.xattr_names(ino),
            move |names, reply| reply_sized(&names, size, reply),
        );
    }

    fn lseek(&self, _: &fuser::Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.count(Request::Lseek);
        let (Ok(from), Some(what)) = (u64::try_from(offset), seek_of(whence)) else {
            return reply.error(Errno::EINVAL);
        };
        let ino = ino_of(ino);
        self.answer(
            ino,
            reply,
            move |view| view.seek(ino, from, what),
            |found, reply: ReplyLseek| match found {
                Some(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                None => reply.error(Errno::ENXIO),
            },
        );
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
        let ino = ino_of(ino);
        let tell = |attr: Attr, reply: ReplyIoctl| reply.ioctl(0, &attr.flags.to_ne_bytes());
        self.answer(ino, reply, move |view| view.getattr(ino), tell);
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
