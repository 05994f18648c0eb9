#!/usr/bin/env python3
"""File handles, as an NFS server uses them, and directory positions.

    handles.py take DIR FILE      writes handles, inode numbers and content of all that is in DIR to FILE
    handles.py open MOUNT FILE    opens them, perhaps on another mount of the same: same inode, same content
    handles.py seek DIR           tells positions, seeks back to each at random, and finds the same entry
"""
import ctypes, os, pickle, random, stat, sys

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("len", ctypes.c_uint16), ("type", ctypes.c_uint8), ("name", ctypes.c_char * 256)]


def take(top, out):
    found = []
    for dir, _, files in os.walk(top):
        for path in [dir] + [os.path.join(dir, name) for name in files]:
            meta = os.lstat(path)
            handle, mount = Handle(bytes=128), ctypes.c_int()
            if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
                sys.exit(f"no handle of {path}: {os.strerror(ctypes.get_errno())}")
            content = open(path, "rb").read() if stat.S_ISREG(meta.st_mode) else None
            found.append((path, bytes(handle)[: 8 + handle.bytes], meta.st_ino, meta.st_mtime_ns, content))
    pickle.dump(found, open(out, "wb"))
    print(len(found))


def reopen(mount, out):
    found = pickle.load(open(out, "rb"))
    random.Random(1).shuffle(found)
    top = os.open(mount, os.O_RDONLY)
    for path, data, ino, mtime, content in found:
        handle = Handle.from_buffer_copy(data + bytes(ctypes.sizeof(Handle) - len(data)))
        fd = libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY | os.O_NONBLOCK | (0 if content is not None else os.O_PATH))
        if fd < 0:
            sys.exit(f"{path} by its handle: {os.strerror(ctypes.get_errno())}")
        meta = os.fstat(fd)
        assert (meta.st_ino, meta.st_mtime_ns) == (ino, mtime), path
        if content is not None:
            assert b"".join(iter(lambda: os.read(fd, 1 << 20), b"")) == content, path
        elif stat.S_ISDIR(meta.st_mode):
            inside = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            os.listdir(inside)
            # What an NFS server does to find its way up from a handle.
            assert stat.S_ISDIR(os.stat("..", dir_fd=inside).st_mode)
            os.close(inside)
        os.close(fd)
    print(len(found))


def seek(top):
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    dir = libc.opendir(top.encode())

    def entry():
        at = libc.readdir(dir)
        return ctypes.cast(at, ctypes.POINTER(Dirent)).contents if at else None

    places = []
    while True:
        place = libc.telldir(dir)
        found = entry()
        if not found:
            break
        places.append((place, found.name, found.ino))
    names = [name for _, name, _ in places]
    assert len(set(names)) == len(names) and sorted(n.decode("utf8", "surrogateescape") for n in names) == sorted(os.listdir(top) + [".", ".."])
    for place, name, ino in random.Random(2).sample(places, min(len(places), 2000)):
        libc.seekdir(dir, place)
        found = entry()
        assert (found.name, found.ino) == (name, ino), (place, name, found.name)
    print(len(places))


{"take": take, "open": reopen, "seek": lambda top: seek(top)}[sys.argv[1]](*sys.argv[2:])
