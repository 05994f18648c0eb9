//! Every wrapper against a real directory. What needs root prints the name of the check it skips.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::write::{hard_link, rename, set_times_file};
use super::*;

/// A temporary directory on a real file system (not every test machine's `/tmp` is one).
struct Place {
    _temp: tempfile::TempDir,
    path: PathBuf,
    dir: Dir,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().to_path_buf();
    let dir = Dir::open_root(&path).unwrap();
    Place { _temp: temp, path, dir }
}

/// Bytes of a file in the page cache.
pub fn cached_bytes(path: &Path) -> u64 {
    let fincore = ["--bytes", "--noheadings", "--output", "RES"];
    let out = std::process::Command::new("fincore").args(fincore).arg(path).output();
    let out = out.expect("fincore is a part of util-linux");
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("{:?}", out.stderr))
}

/// Whether the files of a directory leave the page cache when they are asked to: not in a tmpfs.
pub fn cache_is_left_or_skip(dir: &Path, check: &str) -> bool {
    let path = dir.join("probe");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    fadvise_dontneed(&file, 0, 0);
    let is_left = cached_bytes(&path) == 0;
    if !is_left {
        eprintln!("skipped, needs a file system on a disk: {check}");
    }
    is_left
}

fn root_or_skip(check: &str) -> bool {
    let root = geteuid() == 0;
    if !root {
        eprintln!("skipped, needs root: {check}");
    }
    root
}

fn errno_of<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn time(sec: i64, nsec: u32) -> Time {
    Time { sec, nsec }
}

#[test]
fn stat_agrees_with_std() {
    let p = place();
    fs::write(p.path.join("f"), b"content").unwrap();
    fs::hard_link(p.path.join("f"), p.path.join("g")).unwrap();
    let (ours, theirs) = (p.dir.stat(b"f").unwrap(), fs::metadata(p.path.join("f")).unwrap());
    assert_eq!((ours.mode, ours.uid, ours.gid), (theirs.mode(), theirs.uid(), theirs.gid()));
    assert_eq!((ours.ino, ours.size, ours.nlink), (theirs.ino(), 7, 2));
    assert_eq!(ours.blocks512, theirs.blocks());
    assert_eq!(libc::makedev(ours.dev.0, ours.dev.1), theirs.dev());
    assert_eq!(ours.mtime, time(theirs.mtime(), theirs.mtime_nsec() as u32));
    assert_eq!(ours.ctime, time(theirs.ctime(), theirs.ctime_nsec() as u32));
    assert_eq!(ours.btime.is_some(), theirs.created().is_ok());
    assert!(ours.is_file() && !ours.is_dir() && ours.kind() == Some(FileKind::File));
    assert_eq!(stat_file(&p.dir.open_file(b"f").unwrap()).unwrap().ino, ours.ino);
    assert!(p.dir.stat_self().unwrap().is_dir());
    assert!(Dir::open_root(Path::new("/")).unwrap().stat_self().unwrap().is_mount_root());
    assert_eq!(errno_of(p.dir.stat(b"none")), libc::ENOENT);
}

#[test]
fn listing_gives_every_name_and_kind() {
    let p = place();
    let odd: [&[u8]; 5] = [b"\n", b"\xff\xfe", b"back\\slash", b"...", &[b'n'; 255]];
    for name in odd {
        p.dir.create_file(name, 0o600).unwrap();
    }
    for i in 0..3000 {
        p.dir.create_file(format!("name-that-fills-the-buffer-{i:05}").as_bytes(), 0o600).unwrap();
    }
    p.dir.mkdir(b"d", 0o700).unwrap();
    p.dir.symlink(b"to", b"l").unwrap();
    p.dir.mknod(b"p", FileKind::Fifo, 0o600, (0, 0)).unwrap();
    p.dir.mknod(b"s", FileKind::Socket, 0o600, (0, 0)).unwrap();
    for _ in 0..2 {
        let entries = p.dir.entries().unwrap();
        assert_eq!(entries.len(), 3009, "the same at the second time");
        for entry in entries {
            let stat = p.dir.stat(&entry.name).unwrap();
            assert_eq!(entry.ino, stat.ino);
            assert!(entry.kind.is_none() || entry.kind == stat.kind());
        }
    }
    assert!(p.dir.open_dir(b"d").unwrap().entries().unwrap().is_empty());
}

#[test]
fn names_cannot_leave_their_directory() {
    let p = place();
    fs::write(p.path.join("f"), b"").unwrap();
    let bad: [&[u8]; 7] = [b"", b".", b"..", b"a/b", b"/etc", b"a\0b", b"../f"];
    for name in bad {
        assert_eq!(errno_of(p.dir.stat(name)), libc::EINVAL, "{name:?}");
        assert_eq!(errno_of(p.dir.open_dir(name)), libc::EINVAL);
        assert_eq!(errno_of(p.dir.mkdir(name, 0o700)), libc::EINVAL);
        assert_eq!(errno_of(p.dir.unlink(name)), libc::EINVAL);
        assert_eq!(errno_of(rename(&p.dir, b"f", &p.dir, name)), libc::EINVAL);
        assert_eq!(errno_of(xattr::read_all_at(&p.dir, name)), libc::EINVAL);
    }
    let long = vec![b'x'; 300];
    assert_eq!(errno_of(p.dir.stat(&long)), libc::ENAMETOOLONG);
}

#[test]
fn symbolic_links_are_never_followed() {
    let p = place();
    fs::create_dir(p.path.join("d")).unwrap();
    fs::write(p.path.join("f"), b"x").unwrap();
    symlink("d", p.path.join("to-d")).unwrap();
    symlink("f", p.path.join("to-f")).unwrap();
    assert!(matches!(errno_of(p.dir.open_dir(b"to-d")), libc::ENOTDIR | libc::ELOOP));
    assert_eq!(errno_of(p.dir.open_file(b"to-f")), libc::ELOOP);
    assert_eq!(errno_of(p.dir.open_existing_file(b"to-f")), libc::ELOOP);
    assert_eq!(errno_of(p.dir.create_file(b"to-f", 0o600)), libc::EEXIST);
    assert!(p.dir.open_beneath(&[b"to-d".as_slice()]).is_err());
    assert_eq!(p.dir.stat(b"to-f").unwrap().kind(), Some(FileKind::Symlink));
    p.dir.set_times(b"to-f", time(7, 0), None).unwrap();
    assert_eq!(p.dir.stat(b"to-f").unwrap().mtime, time(7, 0));
    assert_ne!(p.dir.stat(b"f").unwrap().mtime, time(7, 0));
    assert_eq!(errno_of(p.dir.set_mode(b"to-f", 0o777)), libc::EOPNOTSUPP);
    hard_link(&p.dir, b"to-f", &p.dir, b"second").unwrap();
    assert_eq!(p.dir.read_link(b"second").unwrap(), b"f");
}

#[test]
fn links_of_any_length_are_read_whole() {
    let p = place();
    for (i, len) in [1, 255, 256, 257, 511, 512, 4000, 4095].into_iter().enumerate() {
        let (name, target) = (format!("l{i}"), vec![0x80 | (len % 64) as u8; len]);
        p.dir.symlink(&target, name.as_bytes()).unwrap();
        assert_eq!(p.dir.read_link(name.as_bytes()).unwrap(), target);
    }
    fs::write(p.path.join("f"), b"").unwrap();
    assert_eq!(errno_of(p.dir.read_link(b"f")), libc::EINVAL);
}

#[test]
fn paths_may_be_deeper_than_path_max() {
    const NAME: &[u8] = &[b'd'; 200];
    let p = place();
    let mut at = p.dir.open_beneath::<&[u8]>(&[]).unwrap();
    for _ in 0..40 {
        at.mkdir(NAME, 0o700).unwrap();
        at = at.open_dir(NAME).unwrap();
    }
    at.create_file(b"bottom", 0o600).unwrap();
    let again = p.dir.open_beneath(&[NAME; 40]).unwrap();
    assert_eq!(again.entries().unwrap().len(), 1);
    let path = [OsStr::from_bytes(NAME); 40].iter().fold(p.path.clone(), |path, name| path.join(name));
    let by_path = Dir::open_root(&path).unwrap();
    assert_eq!(by_path.stat_self().unwrap().ino, again.stat_self().unwrap().ino);
    again.unlink(b"bottom").unwrap();
    for depth in (0..40).rev() {
        p.dir.open_beneath(&vec![NAME; depth]).unwrap().rmdir(NAME).unwrap();
    }
}

#[test]
fn opening_a_pipe_does_not_wait() {
    let p = place();
    p.dir.mknod(b"p", FileKind::Fifo, 0o600, (0, 0)).unwrap();
    p.dir.mknod(b"s", FileKind::Socket, 0o600, (0, 0)).unwrap();
    let opened = p.dir.open_file(b"p").unwrap();
    assert_eq!(stat_file(&opened).unwrap().kind(), Some(FileKind::Fifo));
    assert_eq!(errno_of(p.dir.open_existing_file(b"p")), libc::EINVAL);
    assert_eq!(errno_of(p.dir.open_file(b"s")), libc::ENXIO);
}

#[test]
fn xattrs_of_files_and_directories() {
    let p = place();
    let file = p.dir.create_file(b"f", 0o600).unwrap();
    assert!(xattr::read_all_at(&p.dir, b"f").unwrap().iter().all(|(name, _)| name.starts_with(b"security.")));
    let big = vec![7u8; 3000];
    xattr::set_xattr_fd(&file, b"user.z", b"").unwrap();
    xattr::set_xattr_fd(&file, b"user.big", &big).unwrap();
    xattr::set_xattr_at(&p.dir, b"f", b"user.a", b"1\0\xff").unwrap();
    let all: Vec<_> = xattr::read_all(&file).unwrap();
    let ours: Vec<_> = all.iter().filter(|(name, _)| name.starts_with(b"user.")).cloned().collect();
    let expected: [(&[u8], &[u8]); 3] = [(b"user.a", b"1\0\xff"), (b"user.big", &big), (b"user.z", b"")];
    assert_eq!(ours, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
    assert_eq!(xattr::read_all_at(&p.dir, b"f").unwrap(), all);
    assert_eq!(xattr::get_fd(&file, b"user.big").unwrap(), Some(big));
    assert_eq!(xattr::get_at(&p.dir, b"f", b"user.none").unwrap(), None);
    xattr::remove_xattr_fd(&file, b"user.a").unwrap();
    xattr::remove_xattr_at(&p.dir, b"f", b"user.big").unwrap();
    assert_eq!(errno_of(xattr::remove_xattr_fd(&file, b"user.a")), libc::ENODATA);
    let left = xattr::list_fd(&file).unwrap();
    assert!(left.contains(&b"user.z".to_vec()) && !left.contains(&b"user.a".to_vec()));
    xattr::set_xattr_fd(&p.dir, b"user.of-dir", b"v").unwrap();
    assert!(xattr::list_fd(&p.dir).unwrap().contains(&b"user.of-dir".to_vec()));
}

#[test]
fn many_xattr_names_need_more_than_the_first_buffer() {
    let p = place();
    let file = p.dir.create_file(b"f", 0o600).unwrap();
    let names: Vec<_> = (0..12).map(|i| format!("user.{i:0>180}").into_bytes()).collect();
    for name in &names {
        xattr::set_xattr_fd(&file, name, b"").unwrap();
    }
    let mut listed = xattr::list_at(&p.dir, b"f").unwrap();
    listed.retain(|name| name.starts_with(b"user."));
    assert_eq!(listed, names);
}

#[test]
fn xattrs_of_what_cannot_be_opened() {
    if !root_or_skip("trusted.* on links, pipes, sockets and devices") {
        return;
    }
    let p = place();
    p.dir.create_file(b"target", 0o600).unwrap();
    p.dir.symlink(b"target", b"l").unwrap();
    p.dir.symlink(b"dangling", b"m").unwrap();
    p.dir.mknod(b"p", FileKind::Fifo, 0o600, (0, 0)).unwrap();
    p.dir.mknod(b"s", FileKind::Socket, 0o600, (0, 0)).unwrap();
    for name in [b"l", b"m", b"p", b"s"] {
        xattr::set_xattr_at(&p.dir, name, b"trusted.x", name).unwrap();
        let expected = (b"trusted.x".to_vec(), name.to_vec());
        assert!(xattr::read_all_at(&p.dir, name).unwrap().contains(&expected));
    }
    assert_eq!(xattr::get_at(&p.dir, b"target", b"trusted.x").unwrap(), None);
}

#[test]
fn acls_and_capabilities_are_xattrs() {
    if !root_or_skip("security.capability and ACLs of other users") {
        return;
    }
    let p = place();
    let file = p.dir.create_file(b"f", 0o640).unwrap();
    let capability: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    xattr::set_xattr_fd(&file, b"system.posix_acl_access", &acl).unwrap();
    xattr::set_xattr_fd(&file, b"security.capability", &capability).unwrap();
    let all = xattr::read_all(&file).unwrap();
    assert!(all.contains(&(b"system.posix_acl_access".to_vec(), acl)));
    assert!(all.contains(&(b"security.capability".to_vec(), capability)));
    p.dir.set_owner(b"f", 1, 1).unwrap();
    assert_eq!(xattr::get_fd(&file, b"security.capability").unwrap(), None, "owner first, then this");
}

#[test]
fn file_systems_without_xattrs_have_none() {
    let proc_dir = Dir::open_root(Path::new("/proc/self")).unwrap();
    assert!(xattr::read_all_at(&proc_dir, b"exe").unwrap().is_empty());
    let file = proc_dir.open_file(b"status").unwrap();
    assert_eq!((inode_flags(&file).unwrap(), generation(&file).unwrap()), (0, 0));
}

/// Data ranges rounded out to what the file system's blocks can tell.
fn ranges(file: &fs::File, size: u64) -> Vec<(u64, u64)> {
    data_ranges(file, size).map(Result::unwrap).collect()
}

#[test]
fn data_and_holes() {
    const BLOCK: u64 = 1 << 16;
    let p = place();
    let file = p.dir.create_file(b"f", 0o600).unwrap();
    assert!(ranges(&file, 0).is_empty());
    ftruncate(&file, 10 * BLOCK).unwrap();
    let read = p.dir.open_file(b"f").unwrap();
    assert!(ranges(&read, 10 * BLOCK).is_empty(), "all hole");
    for block in [2, 3, 9] {
        pwrite_all(&file, &[1; BLOCK as usize], block * BLOCK).unwrap();
    }
    assert_eq!(ranges(&read, 10 * BLOCK), [(2 * BLOCK, 2 * BLOCK), (9 * BLOCK, BLOCK)]);
    assert_eq!(ranges(&read, 3 * BLOCK), [(2 * BLOCK, BLOCK)], "clamped");
    assert_eq!(ranges(&read, BLOCK), []);
    assert!(p.dir.stat(b"f").unwrap().may_have_holes());
    pwrite_all(&file, &[1; 10], 0).unwrap();
    punch_hole(&file, 2 * BLOCK, BLOCK).unwrap();
    assert_eq!(ranges(&read, 10 * BLOCK), [(0, 4096), (3 * BLOCK, BLOCK), (9 * BLOCK, BLOCK)]);
    ftruncate(&file, BLOCK).unwrap();
    assert_eq!(ranges(&read, 10 * BLOCK), [(0, 4096)], "cut meanwhile");
    ftruncate(&file, 0).unwrap();
    assert_eq!(ranges(&read, 10 * BLOCK), []);
    let dense = p.dir.create_file(b"dense", 0o600).unwrap();
    dense.write_all_at(&[1; 5000], 0).unwrap();
    assert_eq!(ranges(&dense, 5000), [(0, 5000)]);
    let pipe = fs::File::open("/proc/self/status").unwrap();
    assert_eq!(ranges(&pipe, 100), [(0, 100)], "cannot tell: all is data");
}

#[test]
fn reads_are_whole_or_end_the_file() {
    let p = place();
    fs::write(p.path.join("f"), b"0123456789").unwrap();
    let file = p.dir.open_file(b"f").unwrap();
    fadvise_sequential(&file);
    let mut buffer = [0; 6];
    assert_eq!(pread_exact_or_short(&file, &mut buffer, 2).unwrap(), 6);
    assert_eq!(&buffer, b"234567");
    assert_eq!(pread_exact_or_short(&file, &mut buffer, 8).unwrap(), 2);
    assert_eq!(pread_exact_or_short(&file, &mut buffer, 99).unwrap(), 0);
    fadvise_dontneed(&file, 0, 0);
    fsync_dir(&p.path).unwrap();
}

#[test]
fn times_far_away_and_before_1970() {
    let p = place();
    p.dir.create_file(b"f", 0o600).unwrap();
    for when in [time(-1, 999_999_999), time(-1_000_000_000, 1), time(7_258_118_400, 123_456_789), time(0, 0)] {
        p.dir.set_times(b"f", when, Some(time(5, 6))).unwrap();
        let stat = p.dir.stat(b"f").unwrap();
        assert_eq!((stat.mtime, stat.atime), (when, time(5, 6)));
    }
    p.dir.set_times(b"f", time(9, 9), None).unwrap();
    assert_eq!(p.dir.stat(b"f").unwrap().atime, time(5, 6));
    let now = time(1, u32::try_from(libc::UTIME_NOW).unwrap());
    assert_eq!(errno_of(p.dir.set_times(b"f", now, None)), libc::EINVAL);
    p.dir.set_times_self(time(3, 4), None).unwrap();
    assert_eq!(p.dir.stat_self().unwrap().mtime, time(3, 4));
    set_times_file(&p.dir.open_file(b"f").unwrap(), time(8, 0), None).unwrap();
    assert_eq!(p.dir.stat(b"f").unwrap().mtime.nanos(), 8_000_000_000);
    assert_eq!(time(-1, 500_000_000).nanos(), -500_000_000);
}

#[test]
fn owners_modes_and_devices() {
    let p = place();
    p.dir.mkdir(b"d", 0o700).unwrap();
    p.dir.mknod(b"p", FileKind::Fifo, 0o600, (0, 0)).unwrap();
    p.dir.mknod(b"s", FileKind::Socket, 0o600, (0, 0)).unwrap();
    p.dir.create_file(b"f", 0o600).unwrap();
    for (name, mode) in [(b"d", 0o1751), (b"p", 0o622), (b"s", 0o611), (b"f", 0o4755)] {
        p.dir.set_mode(name, mode).unwrap();
        assert_eq!(p.dir.stat(name).unwrap().mode & 0o7777, mode);
    }
    p.dir.set_mode_self(0o750).unwrap();
    assert_eq!(p.dir.stat_self().unwrap().mode & 0o7777, 0o750);
    assert_eq!(errno_of(p.dir.mknod(b"x", FileKind::Dir, 0o600, (0, 0))), libc::EINVAL);
    if !root_or_skip("other owners, device nodes") {
        return;
    }
    p.dir.symlink(b"f", b"l").unwrap();
    p.dir.set_owner(b"l", 12, 34).unwrap();
    p.dir.set_owner_self(56, 78).unwrap();
    let (link, file, own) = (p.dir.stat(b"l").unwrap(), p.dir.stat(b"f").unwrap(), p.dir.stat_self().unwrap());
    assert_eq!(((link.uid, link.gid), file.uid, (own.uid, own.gid)), ((12, 34), 0, (56, 78)));
    for (name, kind) in [(b"c", FileKind::CharDevice), (b"b", FileKind::BlockDevice)] {
        match p.dir.mknod(name, kind, 0o600, (259, 70_000)) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                eprintln!("skipped, not allowed here: {kind:?}")
            }
            made => {
                made.unwrap();
                let stat = p.dir.stat(name).unwrap();
                assert_eq!((stat.kind(), stat.rdev), (Some(kind), (259, 70_000)));
            }
        }
    }
}

#[test]
fn names_are_made_moved_and_removed() {
    let p = place();
    p.dir.mkdir(b"d", 0o700).unwrap();
    let d = p.dir.open_dir(b"d").unwrap();
    pwrite_all(&p.dir.create_file(b"f", 0o600).unwrap(), b"one", 0).unwrap();
    hard_link(&p.dir, b"f", &d, b"g").unwrap();
    assert_eq!(d.stat(b"g").unwrap().nlink, 2);
    pwrite_all(&d.open_existing_file(b"g").unwrap(), b"two!", 0).unwrap();
    assert_eq!(fs::read(p.path.join("f")).unwrap(), b"two!");
    rename(&p.dir, b"f", &d, b"h").unwrap();
    assert_eq!(errno_of(p.dir.stat(b"f")), libc::ENOENT);
    assert_eq!(errno_of(p.dir.rmdir(b"d")), libc::ENOTEMPTY);
    assert!(matches!(errno_of(p.dir.unlink(b"d")), libc::EISDIR | libc::EPERM));
    d.unlink(b"g").unwrap();
    d.unlink(b"h").unwrap();
    p.dir.rmdir(b"d").unwrap();
    assert!(p.dir.entries().unwrap().is_empty());
}

#[test]
fn inode_flags_are_set_where_they_differ() {
    const NODUMP: u32 = 0x40;
    const NOATIME: u32 = 0x80;
    const COMPRESS: u32 = 0x04;
    let p = place();
    let file = p.dir.create_file(b"f", 0o600).unwrap();
    let before = inode_flags(&file).unwrap();
    if set_inode_flags(&file, NODUMP).unwrap() != 0 {
        eprintln!("skipped, no inode flags here: inode_flags_are_set_where_they_differ");
        return;
    }
    assert_eq!(inode_flags(&file).unwrap(), before | NODUMP, "the file system's own bits stay");
    let refused = set_inode_flags(&file, NODUMP | NOATIME | COMPRESS).unwrap();
    assert_eq!(inode_flags(&file).unwrap() & USER_FLAGS, (NODUMP | NOATIME | COMPRESS) & !refused);
    assert_eq!(refused & !COMPRESS, 0);
    assert_eq!(set_inode_flags(&file, 0).unwrap(), 0);
    assert_eq!(inode_flags(&file).unwrap() & USER_FLAGS, 0);
    set_inode_flags(p.dir.as_file(), NODUMP).unwrap();
    assert_eq!(inode_flags(&p.dir).unwrap() & USER_FLAGS, NODUMP);
    let first = generation(&file).unwrap();
    drop(file);
    assert_eq!(generation(&p.dir.open_file(b"f").unwrap()).unwrap(), first);
}
