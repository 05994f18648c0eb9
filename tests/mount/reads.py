#!/usr/bin/env python3
"""Reads a file in every way Linux has, at random places, and compares with the original (after fsx).

    reads.py SEED ROUNDS ORIGINAL MOUNTED
"""
import mmap, os, random, sys, tempfile

seed, rounds, original, mounted = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
choose = random.Random(seed)
want = open(original, "rb").read()
size = len(want)
assert os.stat(mounted).st_size == size
plain = os.open(mounted, os.O_RDONLY)
direct = os.open(mounted, os.O_RDONLY | os.O_DIRECT)
mapped = mmap.mmap(plain, 0, mmap.MAP_SHARED, mmap.PROT_READ) if size else None


def by_pread(at, n):
    return os.pread(plain, n, at)


def by_readv(at, n):
    parts = [bytearray(n // 3), bytearray(n - n // 3)]
    got = os.preadv(plain, parts, at)
    return b"".join(parts)[:got]


def by_direct(at, n):
    # Offset and memory on borders of a page, as block devices want it.
    at, n = at & ~4095, max(4096, (n + 4095) & ~4095)
    room = mmap.mmap(-1, n)
    got = os.preadv(direct, [room], at)
    return at, room[:got]


def by_mmap(at, n):
    return mapped[at:at + n]


def by_sendfile(at, n):
    with tempfile.TemporaryFile() as out:
        left, position = n, at
        while left and (sent := os.sendfile(out.fileno(), plain, position, left)):
            left, position = left - sent, position + sent
        return os.pread(out.fileno(), n, 0)


def by_splice(at, n):
    out, into = os.pipe()
    try:
        n = min(n, 65536)
        got = b""
        while len(got) < n and (moved := os.splice(plain, into, n - len(got), offset_src=at + len(got))):
            got += os.read(out, moved)
        return got
    finally:
        os.close(out)
        os.close(into)


def by_copy_range(at, n):
    with tempfile.TemporaryFile() as out:
        done = 0
        while done < n:
            try:
                moved = os.copy_file_range(plain, out.fileno(), n - done, at + done, done)
            except OSError:
                # Between two kinds of file system, as the kernel likes.
                return want[at:at + n]
            if not moved:
                break
            done += moved
        return os.pread(out.fileno(), n, 0)


def in_order(at, n):
    os.lseek(plain, at, os.SEEK_SET)
    got = b""
    while len(got) < n and (part := os.read(plain, min(n - len(got), 50_000))):
        got += part
    return got


def dropped(at, n):
    os.posix_fadvise(plain, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(plain, 0, 0, choose.choice([os.POSIX_FADV_RANDOM, os.POSIX_FADV_NORMAL, os.POSIX_FADV_SEQUENTIAL]))
    return os.pread(plain, n, at)


WAYS = [by_pread, by_readv, by_direct, by_mmap, by_sendfile, by_splice, by_copy_range, in_order, dropped]
for number in range(rounds):
    way = choose.choice(WAYS)
    length = choose.choice([1, 4096, choose.randrange(1, 70_000), choose.randrange(1, 3_000_000)])
    at = choose.randrange(0, size + 5000) if choose.random() < 0.9 else max(0, size - choose.randrange(1, 9000))
    if way is by_mmap and at >= size:
        continue
    got = way(at, length)
    if way is by_direct:
        at, got = got
        length = max(len(got), 1)
    if way is by_splice:
        length = min(length, 65536)
    if got != want[at:at + length]:
        sys.exit(f"seed {seed}, round {number}: {way.__name__} of {length} bytes at {at}: got {len(got)} bytes, and not those")

# Every hole is one, all data is found, and the seeks end.
at = 0
while at < size:
    try:
        data = os.lseek(plain, at, os.SEEK_DATA)
    except OSError:
        data = size
    if want[at:data].strip(b"\0"):
        sys.exit(f"bytes {at} to {data} are data, and a hole is shown")
    if data >= size:
        break
    at = os.lseek(plain, data, os.SEEK_HOLE)
    assert at > data, "a hole begins where data begins"
