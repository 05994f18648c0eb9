#!/usr/bin/env python3
"""The read-only part of the POSIX file-system cases, under the names that pjdfstest gives them.

    posix.py make DIR     makes what the cases need
    posix.py run DIR      runs them there, as root and as uid 65534, and prints a line for each: name, who, result

The caller runs them on the original, mounted read-only, and on the mount, and compares the lines: the kernel's
own answer is what is expected. Cases whose name begins with "rofs/" must give EROFS wherever they run.

Not run, because they need a file system that can be written to (all of them check what a change did, or why one was
refused by something else than the file system being read-only): chflags 00-11 13, chmod 00 07 08 10-12, chown 00 07
08 10, ftruncate 00-09 11-14, granular (also FreeBSD only), link 00 06-15 17, mkdir 00 05 06 08 10-12, mkfifo 00 05
06 09-12, mknod 00-11, open 00 07-11 16-25, posix_fallocate, rename 00 04-10 13-15 17-24, rmdir 00 06-13 15,
symlink 00 05 06 08 09 11 12, truncate 00 05 06 08 09 11-14, unlink 00 05 06 08-11 13 14, utimensat 00-09 (times are
compared by the tool comparison of the same test).
"""
import ctypes, errno, fcntl, mmap, os, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
NOBODY = 65534
LONG = "n" * 256
CASES = []


def case(name, *users):
    def add(function):
        CASES.append((name, users or ("root",), function))
        return function
    return add


def call(name, *args):
    ctypes.set_errno(0)
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)


def make(top):
    def write(name, mode, text=b"content\n"):
        with open(top + name, "wb") as out:
            out.write(text)
        os.chmod(top + name, mode)

    for name, mode in [("d", 0o755), ("locked", 0o700), ("searchable", 0o711), ("sticky", 0o1777), ("empty", 0o777)]:
        os.mkdir(top + name)
        os.chmod(top + name, mode)
    for name, mode in [("f", 0o644), ("open", 0o666), ("private", 0o600), ("d/x", 0o755), ("locked/x", 0o644),
                       ("searchable/x", 0o644), ("sticky/x", 0o666), ("acl-yes", 0o600), ("acl-no", 0o644), ("group", 0o640)]:
        write(name, mode)
    os.chown(top + "group", 0, NOBODY)
    os.link(top + "f", top + "hard")
    os.mkfifo(top + "fifo")
    os.mknod(top + "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.symlink("f", top + "link")
    os.symlink("nowhere", top + "dangling")
    os.symlink("loop2", top + "loop1")
    os.symlink("loop1", top + "loop2")
    os.symlink("d", top + "dirlink")
    os.mkdir(top + "n" * 255)
    os.setxattr(top + "f", "user.colour", b"red")
    os.system(f"setfacl -m u:{NOBODY}:r '{top}acl-yes'; setfacl -m u:{NOBODY}:- '{top}acl-no'")
    os.system(f"setfacl -m u:{NOBODY}:rx '{top}locked'")


# What changes something: EROFS, by name of the case there.
def rofs(name):
    return case("rofs/" + name)


rofs("chmod/09")(lambda t: os.chmod(t + "f", 0o600))
rofs("chmod/09 of a directory")(lambda t: os.chmod(t + "d", 0o700))
rofs("chown/09")(lambda t: os.chown(t + "f", 1, 1))
rofs("chown/09 of a link")(lambda t: os.lchown(t + "link", 1, 1))
rofs("truncate/10")(lambda t: os.truncate(t + "f", 3))
rofs("link/16")(lambda t: os.link(t + "f", t + "new"))
rofs("mkdir/09")(lambda t: os.mkdir(t + "new"))
rofs("mkfifo/08")(lambda t: os.mkfifo(t + "new"))
rofs("mknod, as mkfifo/08")(lambda t: os.mknod(t + "new", stat.S_IFREG | 0o600))
rofs("mknod of a device")(lambda t: os.mknod(t + "new", stat.S_IFCHR | 0o600, os.makedev(1, 5)))
rofs("open/14 for writing")(lambda t: os.open(t + "f", os.O_WRONLY))
rofs("open/14 for both")(lambda t: os.open(t + "f", os.O_RDWR))
rofs("open/14 truncating")(lambda t: os.open(t + "f", os.O_RDONLY | os.O_TRUNC))
rofs("open/14 appending")(lambda t: os.open(t + "f", os.O_WRONLY | os.O_APPEND))
rofs("open/15")(lambda t: os.open(t + "new", os.O_RDONLY | os.O_CREAT, 0o600))
rofs("open/15 in a directory")(lambda t: os.open(t + "d/new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
rofs("rename/16")(lambda t: os.rename(t + "f", t + "new"))
rofs("rename/16 onto another")(lambda t: os.rename(t + "f", t + "open"))
rofs("renameat2 exchanging")(lambda t: call("renameat2", -100, (t + "f").encode(), -100, (t + "open").encode(), 2))
rofs("rmdir/14")(lambda t: os.rmdir(t + "empty"))
rofs("symlink/10")(lambda t: os.symlink("f", t + "new"))
rofs("unlink/12")(lambda t: os.unlink(t + "f"))
rofs("utimensat")(lambda t: os.utime(t + "f", ns=(1, 1)))
rofs("utimensat of a link")(lambda t: os.utime(t + "link", ns=(1, 1), follow_symlinks=False))
rofs("setxattr")(lambda t: os.setxattr(t + "f", "user.new", b"v"))
rofs("setxattr of an ACL")(lambda t: os.setxattr(t + "f", "system.posix_acl_access", b"\2\0\0\0"))
rofs("removexattr")(lambda t: os.removexattr(t + "f", "user.colour"))
rofs("access W_OK")(lambda t: call("access", (t + "f").encode(), os.W_OK))


@rofs("fchmod of an open file, as ftruncate/10")
def _(t):
    with open(t + "f", "rb") as file:
        os.fchmod(file.fileno(), 0o600)


@rofs("chflags/12, as FS_IOC_SETFLAGS")
def _(t):
    with open(t + "f", "rb") as file:
        fcntl.ioctl(file.fileno(), 0x40086602, b"\x10" + bytes(7))


@rofs("bind of a socket")
def _(t):
    os.chdir(t)
    socket.socket(socket.AF_UNIX).bind("new")


# What a file that is open for reading refuses, and the file system is not asked.
@case("mmap shared for writing")
def _(t):
    with open(t + "f", "rb") as file:
        mmap.mmap(file.fileno(), 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


case("write of a file open for reading")(lambda t: os.write(os.open(t + "f", os.O_RDONLY), b"x"))
case("pwrite of it")(lambda t: os.pwrite(os.open(t + "f", os.O_RDONLY), b"x", 0))
case("ftruncate of it")(lambda t: os.ftruncate(os.open(t + "f", os.O_RDONLY), 1))
case("fallocate of it")(lambda t: os.posix_fallocate(os.open(t + "f", os.O_RDONLY), 0, 9))
case("copy_file_range into it")(
    lambda t: os.copy_file_range(os.open(t + "open", os.O_RDONLY), os.open(t + "f", os.O_RDONLY), 4))

# Paths: the kernel's walk, with our look-ups. `01` ENOTDIR, `02` ENAMETOOLONG of a name, `03` of a path, `04` ENOENT,
# `05` EACCES on the way, `06`, `07`, `12` ELOOP in the groups named.
WALKS = {
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.chown(p, 1, 1),
    "truncate": lambda p: os.truncate(p, 1),
    "open": lambda p: os.close(os.open(p, os.O_RDONLY)),
    "stat": lambda p: stat.filemode(os.stat(p).st_mode),
    "link": lambda p: os.link(p, p + "-new"),
    "mkdir": lambda p: os.mkdir(p + "/new"),
    "mkfifo": lambda p: os.mkfifo(p + "/new"),
    "rename": lambda p: os.rename(p, p + "-new"),
    "rmdir": lambda p: os.rmdir(p),
    "symlink": lambda p: os.symlink("x", p + "/new"),
    "unlink": lambda p: os.unlink(p),
    "listdir": lambda p: sorted(os.listdir(p)),
    "readlink": lambda p: os.readlink(p),
    "getxattr": lambda p: os.getxattr(p, "user.colour"),
    "listxattr": lambda p: os.listxattr(p),
    "exec": lambda p: call("access", p.encode(), os.X_OK),
    "read": lambda p: call("access", p.encode(), os.R_OK),
}
PATHS = {
    "01 a file on the way": "f/x",
    "02 a name of 256 bytes": LONG,
    "02 a name of 255 bytes": "n" * 255,
    "03 a path of 5000 bytes": "d/../" * 1000 + "f",
    "04 no such file": "none",
    "04 no such directory": "none/x",
    "05 a locked directory on the way": "locked/x",
    "05 a directory that may be searched": "searchable/x",
    "06 07 12 a loop of links": "loop1",
    "06 07 12 a loop on the way": "loop1/x",
    "a file": "f",
    "a private file": "private",
    "a file of the group": "group",
    "a file that an ACL gives": "acl-yes",
    "a file that an ACL takes": "acl-no",
    "a directory": "d",
    "a directory by a link": "dirlink/x",
    "a sticky directory": "sticky/x",
    "a dangling link": "dangling",
    "a link": "link",
    "a trailing slash on a file": "f/",
    "a device": "null",
}
for call_name, walk in WALKS.items():
    for path_name, path in PATHS.items():
        case(f"{call_name}/{path_name}", "root", "nobody")(lambda t, walk=walk, path=path: walk(t + path))
case("open/13")(lambda t: os.open(t + "d", os.O_WRONLY))
case("rofs/open/06, which asks the file system first", "root", "nobody")(lambda t: os.open(t + "private", os.O_RDWR))
case("open O_DIRECTORY of a file")(lambda t: os.open(t + "f", os.O_RDONLY | os.O_DIRECTORY))
case("open O_NOFOLLOW of a link")(lambda t: os.open(t + "link", os.O_RDONLY | os.O_NOFOLLOW))
case("open O_PATH")(lambda t: os.close(os.open(t + "private", os.O_PATH)))
case("read of a directory")(lambda t: os.read(os.open(t + "d", os.O_RDONLY), 1))
case("lseek before the start")(lambda t: os.lseek(os.open(t + "f", os.O_RDONLY), -1, os.SEEK_SET))
case("SEEK_DATA after the end")(lambda t: os.lseek(os.open(t + "f", os.O_RDONLY), 8, os.SEEK_DATA))
case("read after the end")(lambda t: os.pread(os.open(t + "f", os.O_RDONLY), 9, 1 << 40))
case("getxattr with too little room")(lambda t: call("getxattr", (t + "f").encode(), b"user.colour", bytes(2), 2))
case("flock")(lambda t: fcntl.flock(os.open(t + "f", os.O_RDONLY), fcntl.LOCK_EX))
case("a lease for reading")(lambda t: fcntl.lockf(os.open(t + "f", os.O_RDONLY), fcntl.LOCK_SH))
case("fsync")(lambda t: os.fsync(os.open(t + "f", os.O_RDONLY)))
case("hard links are one inode")(lambda t: (os.stat(t + "f").st_ino == os.stat(t + "hard").st_ino, os.stat(t + "f").st_nlink))


def run_one(function, top):
    try:
        value = function(top)
        return "ok" if value is None or isinstance(value, int) and not isinstance(value, bool) else f"ok {value!r}"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def run(top):
    for user in ("root", "nobody"):
        child = os.fork()
        if child == 0:
            if user == "nobody":
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            for name, users, function in CASES:
                if user in users:
                    print(f"{name} | {user} | {run_one(function, top)}")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(1)


{"make": make, "run": run}[sys.argv[1]](sys.argv[2].rstrip("/") + "/")
