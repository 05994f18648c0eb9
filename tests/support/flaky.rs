//! A source that cannot be read whole for a while: what a backup then keeps of it, and what the next one makes good.

use super::*;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, ReplyXattr,
    Request, Session,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Number, name and kind of what is in the root directory, 1.
const ENTRIES: [(u64, &str, FileType, usize); 4] = [
    (2, "dir", FileType::Directory, 0),
    (3, "large", FileType::RegularFile, 3_000_000),
    (4, "link", FileType::Symlink, 5),
    (5, "small", FileType::RegularFile, 300_000),
];
/// Up to here files can always be read, in bytes.
const GOOD_BYTES: u64 = 128 * 1024;
const ATTRIBUTE: &str = "security.tag";

/// The file system. While it fails, content behind [`GOOD_BYTES`] and all extended attributes give EIO.
struct Flaky {
    fails: Arc<AtomicBool>,
    content: Vec<u8>,
}

impl Flaky {
    fn mounted(at: &Path) -> (Arc<AtomicBool>, BackgroundSession) {
        fs::create_dir(at).unwrap();
        let fails = Arc::new(AtomicBool::new(true));
        let flaky = Self { fails: Arc::clone(&fails), content: noise(3_000_000) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("flaky".into())];
        (fails, Session::new(flaky, at, &config).unwrap().spawn().unwrap())
    }

    fn fails(&self) -> bool {
        self.fails.load(Ordering::SeqCst)
    }
}

fn attr(ino: u64, kind: FileType, size: usize) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    FileAttr {
        ino: INodeNo(ino),
        size: size as u64,
        blocks: size.div_ceil(512) as u64,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0o755,
        nlink: 1 + u32::from(kind == FileType::Directory),
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn attr_of(ino: INodeNo) -> Option<FileAttr> {
    let root = (1, "", FileType::Directory, 0);
    let found = std::iter::once(root).chain(ENTRIES).find(|(number, ..)| *number == ino.0);
    found.map(|(ino, _, kind, size)| attr(ino, kind, size))
}

impl Filesystem for Flaky {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match ENTRIES.iter().find(|(_, known, ..)| name == *known) {
            Some((ino, _, kind, size)) => reply.entry(&Duration::ZERO, &attr(*ino, *kind, *size), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attr_of(ino) {
            Some(attr) => reply.attr(&Duration::ZERO, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.data(b"small");
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = attr_of(ino).map_or(0, |attr| attr.size).min(offset + u64::from(size));
        if self.fails() && end > GOOD_BYTES && offset < end {
            return reply.error(Errno::EIO);
        }
        reply.data(self.content.get(offset as usize..end as usize).unwrap_or_default());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = ENTRIES.iter().filter(|_| ino.0 == 1).enumerate().skip(offset as usize);
        for (n, (ino, name, kind, _)) in entries {
            if reply.add(INodeNo(*ino), n as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match (self.fails(), name == ATTRIBUTE, size) {
            (true, ..) => reply.error(Errno::EIO),
            (_, false, _) => reply.error(Errno::ENODATA),
            (_, _, 0) => reply.size(1),
            _ => reply.data(b"x"),
        }
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        let list = [ATTRIBUTE.as_bytes(), b"\0"].concat();
        match (self.fails(), size) {
            (true, _) => reply.error(Errno::EIO),
            (_, 0) => reply.size(list.len() as u32),
            _ => reply.data(&list),
        }
    }
}

#[test]
fn what_could_not_be_read_is_read_again_until_it_can() {
    let b = Bench::new();
    assert_eq!(b.run(&["init"]).code, 0);
    let at = b.path("flaky");
    let (fails, session) = Flaky::mounted(&at);
    let backup = || b.run(&["backup", "flaky"]);
    let named = format!("latest:{}", at.canonicalize().unwrap().display());
    let numbers = || {
        let listed = json_lines(&b.run(&["ls", "-R", &named, "--json"]).out);
        listed.iter().map(|entry| (entry["path"].to_string(), entry["inode"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    let first = backup();
    assert_eq!(first.code, 3, "{}", first.err);
    assert_eq!(first.err.matches("cannot be read and are zeros").count(), 2, "{}", first.err);
    assert_eq!(first.err.matches("attributes cannot be read").count(), 5, "{}", first.err);
    // Nothing of it has changed, and all of it is still said.
    let second = backup();
    let said = |ran: &Ran| ran.err.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((second.code, said(&second)), (3, said(&first)));
    let before = numbers();
    assert_eq!(before.len(), ENTRIES.len());
    fails.store(false, Ordering::SeqCst);
    let third = backup();
    assert_eq!((third.code, third.err.as_str()), (0, ""));
    assert_eq!(numbers(), before, "what is the same keeps its number");
    // And now nothing is read any more.
    fails.store(true, Ordering::SeqCst);
    let fourth = backup();
    assert_eq!((fourth.code, fourth.err.as_str()), (0, ""));
    let restored = b.path("back");
    assert_eq!(b.run(&["restore", &named, "-t", "back"]).code, 0);
    for (_, name, kind, size) in ENTRIES {
        let file = restored.join(name);
        let listed = Command::new("getfattr").args(["-h", "-n", ATTRIBUTE, "--only-values"]).arg(&file).output();
        assert_eq!(listed.unwrap().stdout, b"x", "{name}");
        if kind == FileType::RegularFile {
            assert!(fs::read(file).unwrap() == noise(3_000_000)[..size], "{name}");
        }
    }
    drop(session);
}
