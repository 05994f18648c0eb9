//! A btrfs on a loop device, and work on it that collides: names of any bytes, renames in circles, links, attributes,
//! holes, reflinks.
#![expect(unsafe_code, reason = "fallocate, renameat2, FICLONERANGE, utimensat, setxattr on any names")]

use crate::rig::{Random, succeeded};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Unmounted when it is dropped.
pub struct Lab {
    dir: TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
    }
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&OsStr]) -> String {
    succeeded(Command::new(program).args(args))
}

impl Lab {
    /// A new btrfs with a subvolume `src`; None, said loudly, where that cannot be had.
    pub fn new(compress: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let lab = Self { dir };
        fs::create_dir(lab.mount()).unwrap();
        let image = lab.dir.path().join("image");
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let made = Command::new("mkfs.btrfs").arg("-q").arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("SKIPPED: there is no mkfs.btrfs (tests/setup.sh installs btrfs-progs)");
            return None;
        }
        let mounted = Command::new("mount")
            .args(["-o", &format!("loop,compress-force={compress}")])
            .arg(&image)
            .arg(lab.mount())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this kernel mounts no btrfs from a loop device");
            return None;
        }
        lab.btrfs(&["subvolume", "create"], &[&lab.source()]);
        Some(lab)
    }

    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("btrfs")
    }

    pub fn source(&self) -> PathBuf {
        self.mount().join("src")
    }

    pub fn btrfs(&self, words: &[&str], paths: &[&Path]) -> String {
        let args: Vec<&OsStr> = words.iter().map(OsStr::new).chain(paths.iter().map(|path| path.as_os_str())).collect();
        run("btrfs", &args)
    }

    /// A read-only snapshot of `of`.
    pub fn snapshot(&self, of: &Path, name: &str) -> PathBuf {
        let path = self.mount().join(name);
        self.btrfs(&["subvolume", "snapshot", "-r"], &[of, &path]);
        path
    }

    /// Does `count` things at random; how many worked.
    pub fn work(&self, random: &mut Random, count: usize) -> usize {
        let root = self.source();
        (0..count).filter(|_| Work::look(&root).one(random).is_ok()).count()
    }
}

/// What is there now.
struct Work<'a> {
    root: &'a Path,
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let (a, b) = (c(a), c(b));
    // SAFETY: both are strings that end with a zero and live long enough.
    done(unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) })
}

fn punch(path: &Path, mode: i32, at: u64, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    // SAFETY: a plain system call on an open descriptor.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) })
}

fn reflink(from: &Path, at: u64, len: u64, to: &Path, to_at: u64) -> io::Result<()> {
    #[repr(C)]
    struct Range {
        fd: i64,
        at: u64,
        len: u64,
        to_at: u64,
    }
    const FICLONERANGE: libc::c_ulong = 0x4020_940d;
    let (from, to) = (File::open(from)?, OpenOptions::new().write(true).create(true).truncate(false).open(to)?);
    let range = Range { fd: i64::from(from.as_raw_fd()), at, len, to_at };
    // SAFETY: the structure that this ioctl reads, alive during the call.
    done(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE as _, &raw const range) })
}

fn set_time(path: &Path, sec: i64, nsec: i64) -> io::Result<()> {
    let (path, time) = (c(path), libc::timespec { tv_sec: sec, tv_nsec: nsec });
    let times = [time, time];
    // SAFETY: a string that ends with a zero, and two times.
    done(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: strings that end with a zero, and a value with its length.
    done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: strings that end with a zero.
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

fn node(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: a string that ends with a zero.
    done(unsafe { libc::mknod(c(path).as_ptr(), mode, device) })
}

impl<'a> Work<'a> {
    fn look(root: &'a Path) -> Self {
        let (mut files, mut dirs, mut todo) = (Vec::new(), Vec::new(), vec![root.to_owned()]);
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if entry.file_name() == ".relict-snapshots" {
                    continue;
                }
                if kind.is_dir() {
                    todo.push(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
            }
            dirs.push(dir);
        }
        files.sort();
        dirs.sort();
        Self { root, files, dirs }
    }

    fn file(&self, random: &mut Random) -> io::Result<&Path> {
        if self.files.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(&self.files[random.below(self.files.len() as u64) as usize])
    }

    /// Any directory, also the root.
    fn dir(&self, random: &mut Random) -> &Path {
        &self.dirs[random.below(self.dirs.len() as u64) as usize]
    }

    fn any(&self, random: &mut Random) -> &Path {
        match self.file(random) {
            Ok(file) if random.below(3) > 0 => file,
            _ => self.dir(random),
        }
    }

    fn fresh(&self, random: &mut Random) -> PathBuf {
        let number = random.below(1 << 20);
        let name: Vec<u8> = match random.below(8) {
            0 => [&b"bad\xff\xfe\x80"[..], number.to_string().as_bytes()].concat(),
            1 => format!("new\nline {number}\t").into_bytes(),
            2 => format!("{number:x<255}").into_bytes(),
            // As btrfs calls inodes that have no place yet.
            3 => format!("o{}-{}-0", 256 + number % 90, 5 + number % 20).into_bytes(),
            _ => format!("f{number}").into_bytes(),
        };
        self.dir(random).join(OsStr::from_bytes(&name))
    }

    /// Compressible, random, or zeros.
    fn content(random: &mut Random) -> Vec<u8> {
        const SIZES: [u64; 9] = [0, 1, 17, 2048, 4096, 4097, 20_000, 131_073, 600_000];
        let len = SIZES[random.below(9) as usize] as usize;
        match random.below(4) {
            0 => vec![0; len],
            1 => b"restore point ".iter().copied().cycle().take(len).collect(),
            _ => random.bytes(len),
        }
    }

    fn one(&self, random: &mut Random) -> io::Result<()> {
        match random.below(27) {
            0..=2 => fs::write(self.fresh(random), Self::content(random)),
            3 | 4 => {
                let path = self.file(random)?;
                let at = random.below(path.metadata()?.len() + 1);
                OpenOptions::new().write(true).open(path)?.write_all_at(&Self::content(random), at)
            }
            5 => {
                let path = self.file(random)?;
                OpenOptions::new().write(true).open(path)?.set_len(random.below(path.metadata()?.len() + 1))
            }
            6 => {
                let path = self.file(random)?;
                OpenOptions::new()
                    .write(true)
                    .open(path)?
                    .set_len(path.metadata()?.len() + [1, 4096, 3 << 20][random.below(3) as usize])
            }
            7 => fs::remove_file(self.file(random)?),
            8 | 9 => fs::rename(self.file(random)?, self.fresh(random)),
            10 => fs::rename(self.file(random)?, self.file(random)?),
            11 => fs::hard_link(self.file(random)?, self.fresh(random)),
            12 => fs::create_dir(self.fresh(random)),
            13 => {
                let dir = self.dir(random);
                let below = self.files.iter().chain(&self.dirs).filter(|path| path.starts_with(dir)).count();
                if dir == self.root || below > 12 {
                    Err(io::ErrorKind::InvalidInput.into())
                } else {
                    fs::remove_dir_all(dir)
                }
            }
            14 => fs::rename(self.dir(random), self.fresh(random)),
            15 => exchange(self.any(random), self.any(random)),
            16 => {
                // a/b becomes b/a.
                let inner = self.dir(random);
                let outer = inner
                    .parent()
                    .filter(|outer| inner != self.root && *outer != self.root)
                    .ok_or(io::ErrorKind::InvalidInput)?;
                let aside = self.root.join(format!("aside{}", random.next()));
                fs::rename(inner, &aside)?;
                fs::rename(outer, aside.join(outer.file_name().unwrap()))?;
                fs::rename(&aside, outer)
            }
            17 => fs::set_permissions(self.any(random), fs::Permissions::from_mode(random.below(0o10000) as u32)),
            18 => std::os::unix::fs::lchown(
                self.any(random),
                Some(random.below(70_000) as u32),
                Some(random.below(70_000) as u32),
            ),
            19 => {
                let len = random.below(3000) as usize;
                set_xattr(
                    self.any(random),
                    ["user.a", "user.b", "trusted.c"][random.below(3) as usize],
                    &random.bytes(len),
                )
            }
            20 => remove_xattr(self.any(random), ["user.a", "user.b"][random.below(2) as usize]),
            21 => {
                let path = self.file(random)?;
                let at = random.below(path.metadata()?.len() + 1);
                punch(path, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, 1 + random.below(100_000))
            }
            22 => punch(self.file(random)?, 0, random.below(100_000), 1 + random.below(50_000)),
            23 => {
                let from = self.file(random)?;
                let blocks = from.metadata()?.size() / 4096;
                let at = random.below(blocks.max(1));
                let to = if random.below(2) == 0 { self.fresh(random) } else { self.file(random)?.to_owned() };
                reflink(from, at * 4096, (blocks - at.min(blocks)).min(40) * 4096, &to, random.below(30) * 4096)
            }
            24 => {
                let len = 1 + random.below(60) as usize;
                let target: Vec<u8> = random.bytes(len).into_iter().map(|byte| byte.max(1)).collect();
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), self.fresh(random))
            }
            25 => {
                set_time(self.any(random), random.below(1 << 33) as i64 - (1 << 31), random.below(1_000_000_000) as i64)
            }
            _ => match random.below(4) {
                0 => node(&self.fresh(random), libc::S_IFIFO | 0o640, 0),
                1 => node(&self.fresh(random), libc::S_IFCHR | 0o600, libc::makedev(1, 7)),
                2 => node(&self.fresh(random), libc::S_IFBLK | 0o660, libc::makedev(300, 70_000)),
                _ => {
                    let status =
                        Command::new("setfacl").args(["-m", "u:1234:rwx,g:55:r-x"]).arg(self.any(random)).status()?;
                    if status.success() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
                }
            },
        }
    }
}
