//! What a tree looks like, for tests: an independent second opinion about source and restored trees.
//!
//! It shares no code with `src/os`, so that one mistake cannot hide in both. Every item is held by an
//! `O_PATH` descriptor and asked through it, so names may be any bytes, paths any depth, and mounts (FUSE
//! too) are walked like directories.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![expect(unsafe_code, reason = "O_PATH, statx and xattrs by descriptor")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Granularity of the zero and hole maps, bytes.
const BLOCK_BYTES: usize = 4096;

/// A walked tree: relative path (empty for the root itself) to what is there.
pub type Manifest = BTreeMap<Vec<u8>, Entry>;

/// Ranges of 4 KiB blocks: first, how many.
pub type BlockRuns = Vec<(u64, u64)>;

/// Everything about one item that a backup must keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `f` file, `d` directory, `l` symbolic link, `p` pipe, `s` socket, `c` and `b` devices.
    pub kind: char,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names; `None` for directories, where file systems differ.
    pub nlink: Option<u32>,
    /// Bytes; `None` for what is neither a file nor a symbolic link.
    pub size: Option<u64>,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i128,
    /// Birth, nanoseconds since 1970, where the file system keeps it.
    pub btime: Option<i128>,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
    /// BLAKE3 of a file's content.
    pub content: Option<[u8; 32]>,
    /// Blocks of a file whose bytes are all zero (a last, partial block too).
    pub zeros: BlockRuns,
    /// Whole blocks of a file that the file system says are holes.
    pub holes: BlockRuns,
    /// Allocated space of a file, units of 512 bytes.
    pub blocks: Option<u64>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Smallest path of the same inode: equal for all names of a hard link. `None` for directories.
    pub link_of: Option<Vec<u8>>,
}

/// Names of the fields that [`diff`] can ignore.
pub const FIELDS: [&str; 16] = [
    "kind", "mode", "uid", "gid", "nlink", "size", "mtime", "btime", "rdev", "content", "zeros", "holes", "blocks",
    "xattrs", "target", "link_of",
];

/// What [`diff`] looks at.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    ignored: Vec<&'static str>,
    ignored_xattrs: Vec<Vec<u8>>,
    ignore_root: bool,
}

impl CompareOptions {
    /// Everything counts.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// What a restore must bring back; not birth times, and not how blocks were allotted (content is
    /// compared, so a hole that became zeroes is no difference).
    #[must_use]
    pub fn restored() -> Self {
        Self::all().ignoring(&["btime", "holes", "blocks"])
    }

    /// Ignores fields, by names from [`FIELDS`]; an unknown name panics, so that no typo hides a check.
    #[must_use]
    pub fn ignoring(mut self, fields: &[&'static str]) -> Self {
        for field in fields {
            assert!(FIELDS.contains(field), "no field {field}");
            self.ignored.push(field);
        }
        self
    }

    /// Ignores attributes whose names begin so, such as `security.selinux`.
    #[must_use]
    pub fn ignoring_xattrs(mut self, prefix: &[u8]) -> Self {
        self.ignored_xattrs.push(prefix.to_vec());
        self
    }

    /// Ignores the root directory's own attributes.
    #[must_use]
    pub const fn ignoring_root(mut self) -> Self {
        self.ignore_root = true;
        self
    }
}

/// Walks everything at and below `root`, panicking with the path if anything cannot be read.
///
/// `root` may be a symbolic link to a directory; nothing below is followed.
#[must_use]
pub fn manifest(root: &Path) -> Manifest {
    try_manifest(root).unwrap_or_else(|e| panic!("walking {}: {e}", root.display()))
}

/// As [`manifest`].
///
/// # Errors
/// The first error, with the path that gave it.
pub fn try_manifest(root: &Path) -> io::Result<Manifest> {
    // One descriptor a level: deep trees need more than the usual 1024.
    raise_descriptor_limit();
    let path = CString::new(root.as_os_str().as_bytes())?;
    let fd = openat(libc::AT_FDCWD, &path, libc::O_PATH)?;
    let mut walk = Walk { found: BTreeMap::new(), inodes: BTreeMap::new() };
    walk.tree(fd)?;
    for paths in walk.inodes.values() {
        let smallest = paths.iter().min().cloned();
        for path in paths {
            if let Some(entry) = walk.found.get_mut(path) {
                entry.link_of.clone_from(&smallest);
            }
        }
    }
    Ok(walk.found)
}

struct Walk {
    found: Manifest,
    /// Paths of each (device, inode) but directories.
    inodes: BTreeMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Walk {
    /// Without recursion: a tree may be deeper than a test thread's stack.
    fn tree(&mut self, root: OwnedFd) -> io::Result<()> {
        let mut path = Vec::new();
        let mut open = Vec::new();
        open.extend(self.item(root, &path)?);
        while let Some(level) = open.last_mut() {
            path.truncate(level.path_bytes);
            let Some(name) = level.names.next() else {
                open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let child = openat(level.fd.as_raw_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW);
            let below = self.item(child.map_err(|e| at_path(&path, &e))?, &path)?;
            open.extend(below);
        }
        Ok(())
    }

    /// Notes one item; a directory is given back to be walked.
    fn item(&mut self, fd: OwnedFd, path: &[u8]) -> io::Result<Option<Level>> {
        let (entry, inode) = look(&fd).map_err(|e| at_path(path, &e))?;
        let is_dir = entry.kind == 'd';
        self.found.insert(path.to_vec(), entry);
        if !is_dir {
            self.inodes.entry(inode).or_default().push(path.to_vec());
            return Ok(None);
        }
        let names = list(&fd).map_err(|e| at_path(path, &e))?.into_iter();
        Ok(Some(Level { fd, names, path_bytes: path.len() }))
    }
}

/// A directory on the way down.
struct Level {
    fd: OwnedFd,
    names: std::vec::IntoIter<CString>,
    path_bytes: usize,
}

fn at_path(path: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{:?}: {error}", path.escape_ascii().to_string()))
}

/// Everything about one item, and (device, inode).
fn look(fd: &OwnedFd) -> io::Result<(Entry, (u64, u64))> {
    let raw = statx(fd)?;
    let kind = kind_letter(raw.stx_mode);
    let nanos = |t: libc::statx_timestamp| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
    let mut entry = Entry {
        kind,
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        nlink: (kind != 'd').then_some(raw.stx_nlink),
        size: matches!(kind, 'f' | 'l').then_some(raw.stx_size),
        mtime: nanos(raw.stx_mtime),
        btime: (raw.stx_mask & libc::STATX_BTIME != 0).then(|| nanos(raw.stx_btime)),
        rdev: if matches!(kind, 'b' | 'c') { (raw.stx_rdev_major, raw.stx_rdev_minor) } else { (0, 0) },
        content: None,
        zeros: Vec::new(),
        holes: Vec::new(),
        blocks: (kind == 'f').then_some(raw.stx_blocks),
        xattrs: xattrs(fd)?,
        target: if kind == 'l' { Some(target(fd)?) } else { None },
        link_of: None,
    };
    if kind == 'f' {
        read_content(fd, &mut entry)?;
    }
    let device = (u64::from(raw.stx_dev_major) << 32) | u64::from(raw.stx_dev_minor);
    Ok((entry, (device, raw.stx_ino)))
}

fn kind_letter(mode: u16) -> char {
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFREG => 'f',
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        _ => '?',
    }
}

fn read_content(fd: &OwnedFd, entry: &mut Entry) -> io::Result<()> {
    let mut file = File::open(proc_path(fd))?;
    let mut hash = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    for index in 0.. {
        let mut len = 0;
        while len < BLOCK_BYTES {
            match file.read(&mut block[len..])? {
                0 => break,
                got => len += got,
            }
        }
        hash.update(&block[..len]);
        if len > 0 && block[..len].iter().all(|b| *b == 0) {
            add_block(&mut entry.zeros, index);
        }
        if len < BLOCK_BYTES {
            break;
        }
    }
    entry.content = Some(*hash.finalize().as_bytes());
    entry.holes = holes(&mut file, entry.size.unwrap_or(0));
    Ok(())
}

fn add_block(runs: &mut BlockRuns, index: u64) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == index => *count += 1,
        _ => runs.push((index, 1)),
    }
}

/// Whole blocks in holes; none where the file system cannot tell.
fn holes(file: &mut File, size: u64) -> BlockRuns {
    let block = BLOCK_BYTES as u64;
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let data = lseek(file, at, libc::SEEK_DATA).unwrap_or(size).min(size);
        let first = at.div_ceil(block);
        // The file's end may stand in the middle of a hole's last block.
        let end = if data == size { size.div_ceil(block) } else { data / block };
        if end > first {
            runs.push((first, end - first));
        }
        let Some(next) = lseek(file, data, libc::SEEK_HOLE) else { break };
        at = next.max(at + 1);
    }
    let _ = file.seek(SeekFrom::Start(0));
    runs
}

/// `None` behind the last data, and for "unsupported" at 0, where the kernel's answer would be data.
fn lseek(file: &File, at: u64, whence: i32) -> Option<u64> {
    // SAFETY: a plain system call on an open descriptor.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, whence) };
    let unsupported = found < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENXIO);
    if unsupported && whence == libc::SEEK_DATA { Some(at) } else { u64::try_from(found).ok() }
}

fn openat(dir: i32, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated.
    let fd = unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn statx(fd: &OwnedFd) -> io::Result<libc::statx> {
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: an empty, terminated path and room for one structure.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, raw.as_mut_ptr()) };
    // SAFETY: zeroed integers are a valid value, filled by the kernel or not.
    if done == 0 { Ok(unsafe { raw.assume_init() }) } else { Err(io::Error::last_os_error()) }
}

/// Names in a directory, ascending, by the C library's readdir.
fn list(fd: &OwnedFd) -> io::Result<Vec<CString>> {
    let open = openat(fd.as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY)?;
    // SAFETY: the stream takes the descriptor over.
    let stream = unsafe { libc::fdopendir(std::os::fd::IntoRawFd::into_raw_fd(open)) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let error = loop {
        // SAFETY: errno is the thread's own; readdir says by it whether null means end or error.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open.
        let entry = unsafe { libc::readdir64(stream) };
        if entry.is_null() {
            break io::Error::last_os_error();
        }
        // SAFETY: the record is valid until the next readdir, its name is NUL-terminated.
        let name = unsafe { CStr::from_ptr((&raw const (*entry).d_name).cast()) };
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    };
    // SAFETY: the stream is open and not used afterwards.
    unsafe { libc::closedir(stream) };
    names.sort();
    if error.raw_os_error() == Some(0) { Ok(names) } else { Err(error) }
}

/// Leads to the very item that a descriptor holds; for an `O_PATH` descriptor of a symbolic link, the
/// link itself.
fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn target(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 1 << 16];
    // SAFETY: an empty, terminated path and a buffer of the given size.
    let got = unsafe { libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(got).map_err(|_| io::Error::last_os_error())?);
    Ok(buffer)
}

fn xattrs(fd: &OwnedFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = CString::new(proc_path(fd))?;
    let mut buffer = vec![0u8; 1 << 16];
    // SAFETY: a terminated path and a buffer of the given size, which is the kernel's limit.
    let got = unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let Ok(got) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        let none = error.raw_os_error() == Some(libc::EOPNOTSUPP);
        return if none { Ok(BTreeMap::new()) } else { Err(error) };
    };
    let mut found = BTreeMap::new();
    for name in buffer[..got].split_inclusive(|b| *b == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let mut value = vec![0u8; 1 << 16];
        // SAFETY: terminated strings and a buffer of the given size, which is the kernel's limit.
        let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(len).map_err(|_| io::Error::last_os_error())?);
        found.insert(name.to_bytes().to_vec(), value);
    }
    Ok(found)
}

fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one structure to fill, then the same one to read.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The differences of two trees, one line each, in the order of paths; empty if there are none.
#[must_use]
pub fn diff(a: &Manifest, b: &Manifest, options: &CompareOptions) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for path in paths {
        if options.ignore_root && path.is_empty() {
            continue;
        }
        let shown = if path.is_empty() { "(root)".into() } else { path.escape_ascii().to_string() };
        match (a.get(path), b.get(path)) {
            (Some(a), Some(b)) => lines.extend(diff_entry(&shown, a, b, options)),
            (Some(a), None) => lines.push(format!("{shown}: only in the first ({})", a.kind)),
            (None, Some(b)) => lines.push(format!("{shown}: only in the second ({})", b.kind)),
            (None, None) => {}
        }
    }
    lines
}

/// Panics with the first differences if there are any.
pub fn assert_same(a: &Manifest, b: &Manifest, options: &CompareOptions) {
    let lines = diff(a, b, options);
    let shown = lines.iter().take(40).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    });
    assert!(lines.is_empty(), "{} differences:\n{shown}", lines.len());
}

fn diff_entry(path: &str, a: &Entry, b: &Entry, options: &CompareOptions) -> Vec<String> {
    let (left, right) = (fields(a, options), fields(b, options));
    FIELDS
        .iter()
        .zip(left.iter().zip(&right))
        .filter(|(field, (a, b))| a != b && !options.ignored.contains(field))
        .map(|(field, (a, b))| format!("{path}: {field} {a} != {b}"))
        .collect()
}

/// The fields as text, in the order of [`FIELDS`].
fn fields(entry: &Entry, options: &CompareOptions) -> [String; 16] {
    let bytes = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
    let kept = |name: &[u8]| !options.ignored_xattrs.iter().any(|prefix| name.starts_with(prefix));
    let xattrs: Vec<_> = entry.xattrs.iter().filter(|(name, _)| kept(name)).collect();
    let xattrs: Vec<_> = xattrs.iter().map(|(name, value)| format!("{}={}", bytes(name), bytes(value))).collect();
    [
        entry.kind.to_string(),
        format!("{:04o}", entry.mode),
        entry.uid.to_string(),
        entry.gid.to_string(),
        format!("{:?}", entry.nlink),
        format!("{:?}", entry.size),
        entry.mtime.to_string(),
        format!("{:?}", entry.btime),
        format!("{:?}", entry.rdev),
        entry.content.map_or_else(String::new, |hash| blake3::Hash::from_bytes(hash).to_hex().to_string()),
        format!("{:?}", entry.zeros),
        format!("{:?}", entry.holes),
        format!("{:?}", entry.blocks),
        format!("{{{}}}", xattrs.join(", ")),
        entry.target.as_deref().map_or_else(String::new, bytes),
        entry.link_of.as_deref().map_or_else(String::new, bytes),
    ]
}
