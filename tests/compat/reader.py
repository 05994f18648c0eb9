#!/usr/bin/env python3
"""A second reader of relict repositories, written from SPEC.md: no Rust, no RocksDB, nothing from db/.

    reader.py REPO [--password-env VAR] [--json] list
    reader.py REPO [--password-env VAR] [--json] ls POINT [--sha256]
    reader.py REPO [--password-env VAR] [--json] verify POINT
    reader.py REPO [--password-env VAR] [--json] extract POINT DEST

POINT is the start of a restore point's id, or `latest`. Everything that is read is verified: checks, tags, chunk
ids. Exit codes are those of SPEC.md section 11. Needs: pip install blake3 zstandard cryptography
"""

import argparse
import hashlib
import json
import os
import stat
import struct
import sys
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MAX_CHUNK, MAX_SEGMENT_RAW, MAX_SEGMENT_CHUNKS = 8 << 20, 16 << 20, 65536
MAX_INO, MAX_FILE, MAX_PACKAGE = (1 << 40) - 1, (1 << 63) - 1, (1 << 32) - 1
INODE, XATTR, DIRENT, EXTENT, TARGET, SOURCE_INO = range(1, 7)
KIND_OF_MODE = {0o10: 1, 0o04: 2, 0o12: 3, 0o01: 4, 0o14: 5, 0o02: 6, 0o06: 7}
KIND_NAMES = [None, "file", "dir", "symlink", "fifo", "socket", "char", "block"]
SOURCE_NAMES = [None, "dir", "btrfs", "image", "rbd"]


class Refused(Exception):
    """An error with the exit code that goes with it."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def need(condition, what):
    """Every rule of the page that is broken ends here."""
    if not condition:
        raise Refused(f"damaged: {what}")


# --- section 1: conventions ---------------------------------------------------------------------------------


def check_of(data):
    return blake3(data).digest()[:16]


def unpack(layout, data, what, at=0):
    need(len(data) >= at + struct.calcsize("<" + layout), f"{what} ends too early")
    return struct.unpack_from("<" + layout, data, at)


def checked(data, what):
    """The bytes before the check at the end."""
    need(len(data) >= 16 and check_of(data[:-16]) == data[-16:], f"check of {what}")
    return data[:-16]


# --- section 2: relict.toml ---------------------------------------------------------------------------------

COMMENT = "# A relict repository. Do not edit: the checksum would no longer match.\n"
Header = namedtuple("Header", "repository created store encryption chunk_bytes features")


def parse_header(data):
    need(data.startswith(COMMENT.encode() + b"format = "), "relict.toml has another beginning")
    version = data[len(COMMENT) :].split(b"\n")[0][9:]
    need(version.isdigit(), "relict.toml: format")
    if int(version) > 1:
        raise Refused("the repository was made by a newer program")
    try:
        lines = data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        raise Refused("damaged: relict.toml is not text") from None
    names = ["format", "repository", "created", "store", "encryption", "chunk_bytes"]
    names += ["features_compat", "features_ro_compat", "features_incompat", "check"]
    need(len(lines) == 1 + len(names), "relict.toml: number of lines")
    need(all(line.startswith(f"{n} = ") and line.endswith("\n") for n, line in zip(names, lines[1:])), "relict.toml: lines")
    v = dict(zip(names, (line.split(" = ", 1)[1][:-1] for line in lines[1:])))
    need(v["check"] == f'"{check_of("".join(lines[:-1]).encode()).hex()}"', "check of relict.toml")
    try:
        repository = bytes.fromhex(v["repository"].strip('"'))
        chunk_bytes = [int(n) for n in v["chunk_bytes"].strip("[]").split(", ")]
        features = [int(v[f"features_{k}"]) for k in ("compat", "ro_compat", "incompat")]
        created = int(v["created"])
    except ValueError:
        raise Refused("damaged: a value in relict.toml") from None
    if features[2]:
        raise Refused("the repository uses a feature this program does not know")
    need(v["format"] == "1" and len(repository) == 16 and len(chunk_bytes) == 3, "a value in relict.toml")
    need(v["store"] in ('"files"', '"rocksdb"') and v["encryption"] in ('"none"', '"aes-256-gcm"'), "a word in relict.toml")
    low, average, high = chunk_bytes
    need(64 <= low <= average <= high <= MAX_CHUNK and average >= 256 and high >= 1024, "chunk_bytes")
    need(all(n % 2 == 0 for n in chunk_bytes), "chunk_bytes are even")
    return Header(repository, created, v["store"].strip('"'), v["encryption"].strip('"'), chunk_bytes, features)


# --- section 3: keys ----------------------------------------------------------------------------------------

KeySlot = namedtuple("KeySlot", "repository memory_kib passes lanes salt label nonce wrapped associated")


def parse_key_slot(data):
    body = checked(data, "key slot")
    magic, version, label_bytes, zero, memory, passes, lanes, repository, salt = unpack("8sHBBIII16s16s", body, "key slot")
    need(magic == b"RELICTKY" and version == 1 and zero == 0, "key slot")
    need(1 <= passes <= 64 and 1 <= lanes <= 64 and 8 * lanes <= memory <= 4 << 20, "costs of a key slot")
    at = 56 + label_bytes
    need(len(body) == at + 60, "length of a key slot")
    return KeySlot(repository, memory, passes, lanes, salt, body[56:at], body[at : at + 12], body[at + 12 :], body[:at])


def open_key_slot(slot, password):
    """The master key, or None when the password does not open this slot."""
    kdf = Argon2id(salt=slot.salt, length=32, iterations=slot.passes, lanes=slot.lanes, memory_cost=slot.memory_kib)
    try:
        return AESGCM(kdf.derive(password)).decrypt(slot.nonce, slot.wrapped, slot.associated)
    except InvalidTag:
        return None


class Keys:
    """None of them in a repository without encryption."""

    def __init__(self, master=None):
        self.master = master
        self.chunk = blake3(master, derive_key_context="relict 1 chunk id").digest() if master else None

    def chunk_id(self, data):
        return (blake3(data, key=self.chunk) if self.chunk else blake3(data)).digest()

    def package(self, package):
        if self.master is None:
            return None
        return AESGCM(blake3(self.master + package, derive_key_context="relict 1 package").digest())


# --- section 4: packages and segments -----------------------------------------------------------------------

PackageHeader = namedtuple("PackageHeader", "kind encrypted repository package")
Segment = namedtuple("Segment", "kind codec number raw_bytes stored_bytes payload_check table front_bytes associated")
Row = namedtuple("Row", "offset bytes number chunks")


def parse_package_header(data):
    need(len(data) >= 64, "package header ends too early")
    body = checked(data[:64], "package header")
    magic, version, kind, flags, zero, repository, package = unpack("8sHBBI16s16s", body, "package header")
    need(magic == b"RELICTPK" and version == 1 and kind in (1, 2) and flags < 2 and zero == 0, "package header")
    return PackageHeader(kind, flags == 1, repository, package)


def parse_segment_header(data, at=0):
    """Header and table of the segment at `at`."""
    fixed = unpack("4sBBHIIIIQ16s16s", data, "segment header", at)
    magic, kind, codec, zero, number, chunks, raw_bytes, stored_bytes, zeros, payload_check, check = fixed
    need(magic == b"RSEG" and 1 <= chunks <= MAX_SEGMENT_CHUNKS, "segment header")
    front_bytes = 64 + 36 * chunks
    need(len(data) >= at + front_bytes, "segment table ends too early")
    table = bytes(data[at + 64 : at + front_bytes])
    need(check_of(bytes(data[at : at + 48]) + table) == check, "check of a segment header")
    need(kind in (1, 2, 3, 4) and codec in (1, 2) and zero == 0 and zeros == 0, "segment header")
    need(kind < 3 or chunks == 1, "a restore point's segment has one chunk")
    rows = [struct.unpack_from("<32sI", table, i) for i in range(0, len(table), 36)]
    need(all(1 <= n <= MAX_CHUNK for _, n in rows), "length of a chunk")
    need(sum(n for _, n in rows) == raw_bytes <= MAX_SEGMENT_RAW, "raw bytes of a segment")
    need(stored_bytes == raw_bytes if codec == 1 else 0 < stored_bytes < raw_bytes, "stored bytes of a segment")
    associated = bytes(data[at : at + 32]) + table
    return Segment(kind, codec, number, raw_bytes, stored_bytes, payload_check, rows, front_bytes, associated)


def parse_footer(data, footer_at):
    body = checked(data, "package footer")
    magic, count = unpack("4sI", body, "package footer")
    need(magic == b"RFTR" and len(data) == 32 + 20 * count, "package footer")
    need(body[-8:] == b"RPKE" + struct.pack("<I", len(data)), "end of the package footer")
    rows = [Row(*struct.unpack_from("<QIII", body, 8 + 20 * i)) for i in range(count)]
    floor = 64
    for index, row in enumerate(rows):
        need(floor <= row.offset and row.offset + row.bytes <= min(footer_at, MAX_PACKAGE), "a footer row's place")
        need(row.number == index and 1 <= row.chunks <= MAX_SEGMENT_CHUNKS, "a footer row")
        need(row.bytes > 64 + 36 * row.chunks, "a footer row's length")
        floor = row.offset + row.bytes
    return rows


def find_footer(read, length):
    """The rows of the footer, None when there is no valid one."""
    if length < 64 + 32:
        return None
    magic, footer_bytes = struct.unpack("<4sI", read(length - 24, 8))
    if magic != b"RPKE" or not 32 <= footer_bytes <= length - 64:
        return None
    try:
        return parse_footer(read(length - footer_bytes, footer_bytes), length - footer_bytes)
    except Refused:
        return None


class Package:
    """One file below packages/."""

    def __init__(self, path, header, keys):
        self.path, self.file, self.length = path, open(path, "rb"), path.stat().st_size
        self.header = parse_package_header(self.read(0, min(64, self.length)))
        need(self.header.package.hex() == path.stem, "package id and file name differ")
        need(self.header.repository == header.repository, "package of another repository")
        need(self.header.encrypted == (header.encryption != "none"), "encryption of the package is not the repository's")
        self.key = keys.package(self.header.package)

    def read(self, at, count):
        data = os.pread(self.file.fileno(), count, at)
        need(len(data) == count, "the package ends too early")
        return data

    def header_at(self, at):
        fixed = self.read(at, 64)
        (chunks,) = unpack("I", fixed, "segment header", 12)
        need(fixed[:4] == b"RSEG" and chunks <= MAX_SEGMENT_CHUNKS, "segment header")
        segment = parse_segment_header(self.read(at, 64 + 36 * chunks))
        need(at + segment.front_bytes + segment.stored_bytes <= self.length, "segment ends behind its package")
        return segment

    def segments(self):
        """(offset, header) of every segment; damage to one of a sealed package leaves the others readable."""
        rows = find_footer(self.read, self.length)
        if rows is None:
            yield from self.scan()
            return
        for row in rows:
            try:
                if self.read(row.offset, 64) == bytes(64):
                    continue  # freed by prune
                segment = self.header_at(row.offset)
                size = segment.front_bytes + segment.stored_bytes
                need((segment.number, len(segment.table), size) == (row.number, row.chunks, row.bytes), "segment and footer differ")
                yield row.offset, segment
            except Refused as e:
                warn(f"{self.path.name}, segment at {row.offset}: {e}")

    def scan(self):
        """Without a footer: up to the first that is not whole. Over freed segments only where something is left of a footer."""
        at, numbers, found, before_zeros = 64, range(1), [], None
        while at < self.length:
            try:
                segment = self.header_at(at)
                need(segment.number in numbers, "segment number")
                self.content(at, segment)
            except Refused:
                end = self.end_of_zeros(at)
                if end - at < 101 or end == self.length:
                    break
                before_zeros = len(found) if before_zeros is None else before_zeros
                at, numbers = end, range(numbers.start + 1, numbers.start + (end - at) // 101 + 1)
                continue
            found.append((at, segment))
            at += segment.front_bytes + segment.stored_bytes
            numbers = range(segment.number + 1, segment.number + 2)
        here, end = os.pread(self.file.fileno(), 4, at), os.pread(self.file.fileno(), 4, max(self.length - 24, 0))
        return found if here == b"RFTR" or end == b"RPKE" else found[:before_zeros]

    def end_of_zeros(self, at):
        while at < self.length:
            data = os.pread(self.file.fileno(), 1 << 18, at)
            rest = data.lstrip(b"\0")
            if rest or not data:
                return at + len(data) - len(rest)
            at += len(data)
        return self.length

    def content(self, at, segment):
        """The chunks' bytes, verified against tag or check."""
        payload = self.read(at + segment.front_bytes, segment.stored_bytes)
        if self.key:
            nonce = struct.pack("<IQ", segment.number, 0)
            try:
                payload = self.key.decrypt(nonce, payload + segment.payload_check, segment.associated)
            except InvalidTag:
                raise Refused(f"damaged: tag of the segment at {at} of {self.path.name}") from None
        else:
            need(check_of(payload) == segment.payload_check, f"check of the segment at {at} of {self.path.name}")
        if segment.codec == 1:
            return payload
        try:
            # The frame's own word on its length is not taken for granted: it decides an allocation.
            said = zstandard.get_frame_parameters(payload).content_size
            need(said in (segment.raw_bytes, zstandard.CONTENTSIZE_UNKNOWN), "length of a zstd frame")
            raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=segment.raw_bytes, allow_extra_data=False)
        except zstandard.ZstdError as e:
            raise Refused(f"damaged: zstd frame: {e}") from None
        need(len(raw) == segment.raw_bytes, "length of a decompressed segment")
        return raw


# --- section 6: tree nodes and borders ----------------------------------------------------------------------


def parse_node(data):
    """Level and [(key, value)]."""
    magic, level, zero_1, zero_2, count = unpack("4sBBHI", data, "tree node")
    need(magic == b"RNOD" and level <= 31 and zero_1 == zero_2 == 0 and (count or level == 0), "tree node")
    start = 12 + 4 * count
    need(len(data) >= start, "tree node ends too early")
    entries = []
    for end in struct.unpack_from(f"<{count}I", data, 12):
        need(start + 2 <= end <= len(data), "place of a node entry")
        key_bytes = data[start] | data[start + 1] << 8
        need(key_bytes <= 264 and start + 2 + key_bytes <= end, "key of a node entry")
        key, value = data[start + 2 : start + 2 + key_bytes], data[start + 2 + key_bytes : end]
        need(not entries or entries[-1][0] < key, "order of a node's keys")
        need(level == 0 or len(value) == 40, "child of a node")
        entries.append((key, value))
        start = end
    need(start == len(data), "bytes behind a tree node")
    return level, entries


def make_node(level, entries):
    bodies = [struct.pack("<H", len(k)) + k + v for k, v in entries]
    ends, at = [], 12 + 4 * len(bodies)
    for body in bodies:
        at += len(body)
        ends.append(at)
    return struct.pack("<4sBBHI", b"RNOD", level, 0, 0, len(bodies)) + struct.pack(f"<{len(ends)}I", *ends) + b"".join(bodies)


def is_border(level, key, entry, node):
    if node < 4096 or node >= 65536:
        return node >= 65536
    mask = (1 << 64) - 1
    h = 0xCBF29CE484222325
    for b in bytes([level]) + key:
        h = (h ^ b) * 0x100000001B3 & mask
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & mask
    h = (h ^ h >> 27) * 0x94D049BB133111EB & mask
    return (h ^ h >> 31) < min(mask, mask // 12288 * entry)


def build_tree(entries, store):
    """Root id of the tree of these sorted leaf entries; `store` takes a node and gives its id."""
    level, counts = 0, [1] * len(entries)
    while True:
        nodes, current, size, below = [], [], 0, 0
        for index, ((key, value), count) in enumerate(zip(entries, counts)):
            current.append((key, value))
            entry = 6 + len(key) + len(value)
            size, below = size + entry, below + count
            if is_border(level, key, entry, size) or index + 1 == len(entries):
                nodes.append((current[0][0], store(make_node(level, current)), below))
                current, size, below = [], 0, 0
        if not nodes:
            return store(make_node(0, []))
        if len(nodes) == 1:
            return nodes[0][1]
        entries = [(key, chunk + struct.pack("<Q", count)) for key, chunk, count in nodes]
        level, counts = level + 1, [count for _, _, count in nodes]


# --- section 7: keys and values -----------------------------------------------------------------------------

Inode = namedtuple("Inode", "mode uid gid nlink size mtime ctime btime rdev flags data_bytes source kind")


def key_prefix(ino, kind):
    return struct.pack(">QB", ino, kind)


def parse_key(data):
    """(inode, kind, rest); the rest is a name, an offset, or (file system, source inode)."""
    need(len(data) >= 9, "tree key ends too early")
    (ino, kind), rest = struct.unpack_from(">QB", data), data[9:]
    need(1 <= kind <= 6 and (kind == SOURCE_INO) == (ino == 0) and ino <= MAX_INO, "tree key")
    if kind in (XATTR, DIRENT):
        need(1 <= len(rest) <= 255 and b"\0" not in rest, "name in a tree key")
        need(kind == XATTR or (b"/" not in rest and rest not in (b".", b"..")), "name of a directory entry")
        return ino, kind, rest
    need(len(rest) == {INODE: 0, TARGET: 0, EXTENT: 8, SOURCE_INO: 12}[kind], "length of a tree key")
    if kind == EXTENT:
        (offset,) = struct.unpack(">Q", rest)
        need(offset < MAX_FILE, "offset of an extent")
        return ino, kind, offset
    return ino, kind, struct.unpack(">IQ", rest) if kind == SOURCE_INO else None


def parse_inode(data):
    present, mode, uid, gid, nlink, size, *times = unpack("HIIIIQqIqI", data, "inode")
    need(present < 32 and mode <= 0o177777 and size <= MAX_FILE, "inode")
    kind = KIND_OF_MODE.get(mode >> 12)
    need(kind is not None, "type of an inode")
    at = 50

    def part(bit, layout):
        nonlocal at
        if not present & bit:
            return None
        values = unpack(layout, data, "inode", at)
        at += struct.calcsize("<" + layout)
        return values

    btime, rdev, flags, data_bytes, source = part(1, "qI"), part(2, "II"), part(4, "I"), part(8, "Q"), part(16, "IQI")
    need(at == len(data), "length of an inode")
    need(all(n < 10**9 for n in (times[1], times[3], btime[1] if btime else 0)), "nanoseconds")
    need((rdev is not None) == (kind in (6, 7)) and flags != (0,), "optional parts of an inode")
    need(data_bytes is None or (kind == 1 and data_bytes[0] < size), "holes of an inode")
    mtime, ctime = times[0] * 10**9 + times[1], times[2] * 10**9 + times[3]
    data_bytes = data_bytes[0] if data_bytes else size if kind == 1 else 0
    btime = btime[0] * 10**9 + btime[1] if btime else None
    return Inode(mode, uid, gid, nlink, size, mtime, ctime, btime, rdev, flags[0] if flags else 0, data_bytes, source, kind)


def parse_dirent(data):
    need(len(data) == 9, "length of a directory entry")
    ino, kind = unpack("QB", data, "directory entry")
    need(1 <= ino <= MAX_INO and 1 <= kind <= 7, "directory entry")
    return ino, kind


def parse_extent(data):
    need(len(data) == 40, "length of an extent")
    skip, length, chunk = unpack("II32s", data, "extent")
    need(length > 0 and skip + length <= MAX_CHUNK, "extent")
    return skip, length, chunk


def parse_xattr(data):
    need(len(data) <= 65536, "length of an extended attribute")
    return data


def parse_target(data):
    need(1 <= len(data) <= 4095 and b"\0" not in data, "target of a symbolic link")
    return data


def parse_source_inode(data):
    need(len(data) == 8, "length of a source inode entry")
    (ino,) = unpack("Q", data, "source inode entry")
    need(1 <= ino <= MAX_INO, "source inode entry")
    return ino


PARSE_VALUE = [None, parse_inode, parse_xattr, parse_dirent, parse_extent, parse_target, parse_source_inode]

# --- section 8: restore point record ------------------------------------------------------------------------

COUNTS = ["files", "dirs", "bytes", "read_bytes", "new_chunks", "new_bytes", "stored_bytes", "errors"]
TAGS = [None, "host", "source", "parent", "paths", "tags", "file_systems", "notes", "program"]


def parse_point(data):
    body = checked(data, "restore point")
    layout = "4sHBB16s16sqIqI32sQ8Q"
    magic, version, kind, zero, repository, point, *rest = unpack(layout, body, "restore point")
    time, nsec, sealed, sealed_nsec, root, next_ino, *counts = rest
    need(magic == b"RPNT" and version == 1 and 1 <= kind <= 4 and zero == 0, "restore point")
    need(nsec < 10**9 and sealed_nsec < 10**9 and 2 <= next_ino <= MAX_INO + 1, "restore point")
    out = {"id": point, "repository": repository, "root": root, "kind": SOURCE_NAMES[kind], "next_ino": next_ino}
    out |= {"time": time * 10**9 + nsec, "sealed": sealed * 10**9 + sealed_nsec, "parent": None}
    out |= dict(zip(COUNTS, counts)) | {name: [] for name in TAGS[4:8]}
    at, last, seen = struct.calcsize("<" + layout), 0, set()
    while at < len(body):
        tag, length = unpack("HI", body, "restore point field", at)
        need(tag > last or (tag == last and 4 <= tag <= 7), "order of a restore point's fields")
        at, last = at + 6 + length, tag
        need(at <= len(body) and (tag <= 8 or tag >= 0x8000), "restore point field")
        seen.add(tag)
        if 4 <= tag <= 7:
            out[TAGS[tag]].append(body[at - length : at])
        elif tag <= 8:
            need(tag != 3 or length == 16, "parent of a restore point")
            out[TAGS[tag]] = body[at - length : at]
    need({1, 2, 8} <= seen, "fields of a restore point")
    return out


def parse_state(data):
    body = checked(data, "point state")
    magic, version, flags, zero, repository, point, sequence, made, hidden, locked = unpack("4sHBB16s16sQqqq", body, "point state")
    need(magic == b"RPST" and version == 1 and zero == 0 and flags < 8 and sequence > 0 and len(data) == 88, "point state")
    need((flags & 1 or hidden == 0) and (flags & 4 or locked == 0), "times of a point state")
    state = {"repository": repository, "point": point, "sequence": sequence, "made": made}
    return state | {"hidden": hidden if flags & 1 else None, "protected": bool(flags & 2), "locked": locked if flags & 4 else None}


# --- a repository -------------------------------------------------------------------------------------------


class Repository:
    """Packages and where each chunk is, by their own words."""

    SEGMENTS_KEPT = 24

    def __init__(self, path, password=None):
        self.path = Path(path)
        try:
            self.header = parse_header((self.path / "relict.toml").read_bytes())
        except FileNotFoundError:
            raise Refused(f"there is no repository at {path}", 10) from None
        if self.header.store != "files":
            raise Refused("the packages of this repository are inside its database; this reader reads files only")
        self.keys = Keys(self.unlock(password))
        self.places, self.points, self.states, self.cache = {}, [], {}, OrderedDict()
        for file in sorted(self.path.glob("packages/??/*.pkg")):
            self.learn(file)
        # The same record may have been stored twice, around a crash.
        points = {p["id"]: p | {"state": self.states.get(p["id"])} for p in self.points}.values()
        shown = (p for p in points if p["state"] is None or p["state"]["hidden"] is None)
        self.points = sorted(shown, key=lambda p: (p["time"], p["id"]))

    def unlock(self, password):
        slots = sorted(self.path.glob("keys/*.key"))
        if self.header.encryption == "none":
            # Somebody may have edited relict.toml to make us write or trust plain text.
            if slots or password is not None:
                raise Refused("the repository says it is not encrypted, but there is a password or a key slot")
            return None
        if password is None:
            raise Refused("the repository is encrypted: name a variable with --password-env", 12)
        for file in slots:
            try:
                slot = parse_key_slot(file.read_bytes())
                need(slot.repository == self.header.repository, "key slot of another repository")
                need(file.stem == slot.salt[:8].hex(), "key slot's name and salt differ")
            except Refused as e:
                warn(f"{file.name}: {e}")
                continue
            if master := open_key_slot(slot, password):
                return master
        raise Refused("no key slot opens with this password", 12)

    def learn(self, file):
        try:
            package = Package(file, self.header, self.keys)
        except Refused as e:
            warn(f"{file.name}: {e}")
            return
        for at, segment in package.segments():
            need((segment.kind == 1) == (package.header.kind == 1), "kind of a segment and of its package")
            skip = 0
            for chunk, length in segment.table:
                self.places.setdefault(chunk, []).append((package, at, segment, skip, length))
                skip += length
            if segment.kind == 3:
                try:
                    point = parse_point(self.chunk(segment.table[0][0]))
                    need(point["repository"] == self.header.repository, "restore point of another repository")
                    self.points.append(point)
                except Refused as e:
                    warn(f"{file.name}, restore point at {at}: {e}")
            elif segment.kind == 4:
                self.learn_state(file, at, segment.table[0][0])

    def learn_state(self, file, at, chunk):
        """Of several states of a point the one with the highest sequence counts."""
        try:
            state = parse_state(self.chunk(chunk))
            need(state["repository"] == self.header.repository, "point state of another repository")
            if state["sequence"] > self.states.get(state["point"], {"sequence": 0})["sequence"]:
                self.states[state["point"]] = state
        except Refused as e:
            warn(f"{file.name}, point state at {at}: {e}")

    def chunk(self, chunk):
        """The bytes of a chunk, whose id they have, from the first place that is whole."""
        why = Refused(f"damaged: chunk {chunk.hex()} is missing")
        for package, at, segment, skip, length in self.places.get(chunk, []):
            try:
                data = self.content(package, at, segment)[skip : skip + length]
                need(self.keys.chunk_id(data) == chunk, f"id of chunk {chunk.hex()}")
                return data
            except Refused as e:
                why = e
        raise why

    def content(self, package, at, segment):
        place = package.path, at
        if place not in self.cache:
            self.cache[place] = package.content(at, segment)
            if len(self.cache) > self.SEGMENTS_KEPT:
                self.cache.popitem(last=False)
        self.cache.move_to_end(place)
        return self.cache[place]

    def point(self, name):
        if name == "latest" and self.points:
            return self.points[-1]
        found = [p for p in self.points if p["id"].hex().startswith(name.lower())]
        if len(found) != 1:
            raise Refused(f"{len(found)} restore points have an id that begins with '{name}'")
        return found[0]

    def entries(self, node, start=b"", level=None, upper=None):
        """Leaf entries from key `start` on, in order."""
        found, entries = parse_node(self.chunk(node))
        need(level is None or found == level, "level of a tree node")
        need(upper is None or not entries or entries[-1][0] < upper, "tree nodes overlap")
        for index, (key, value) in enumerate(entries):
            after = entries[index + 1][0] if index + 1 < len(entries) else upper
            if found == 0:
                if key >= start:
                    yield key, value
            elif after is None or after > start:
                yield from self.entries(value[:32], start, found - 1, after)

    def tree(self, root):
        """{inode number: {kind: [(rest of the key, value)]}}: everything but content is held in memory."""
        out = {}
        for key, value in self.entries(root):
            ino, kind, rest = parse_key(key)
            out.setdefault(ino, {}).setdefault(kind, []).append((rest, PARSE_VALUE[kind](value)))
        need(INODE in out.get(1, {}) and out[1][INODE][0][1].kind == 2, "the root directory is missing")
        return out


def extents_of(inode, parts):
    """[(offset, skip, length, chunk)], held to the invariants of section 7."""
    end, total, out = 0, 0, []
    for offset, (skip, length, chunk) in parts.get(EXTENT, []):
        need(end <= offset and offset + length <= inode.size, "extents overlap or pass the end")
        end, total = offset + length, total + length
        out.append((offset, skip, length, chunk))
    need(total == inode.data_bytes, "data_bytes is not the sum of the extents")
    need(inode.kind == 1 or not out, "extents of something that is no file")
    return out


def walk(tree):
    """(path, inode number, inode, parts), directories before what is in them, and every invariant checked."""
    names, stack = Counter(), [(b"", 1, 2)]
    while stack:
        path, ino, kind = stack.pop()
        parts = tree.get(ino, {})
        need(INODE in parts, f"inode {ino} is named and missing")
        inode = parts[INODE][0][1]
        names[ino] += 1
        need(inode.kind == kind, "kind of a directory entry")
        need((kind == 3) == (TARGET in parts) and (kind == 2 or DIRENT not in parts), "entries of an inode")
        need(kind != 2 or names[ino] == 1, "a directory has two names")
        yield path, ino, inode, parts
        children = parts.get(DIRENT, [])
        if kind == 2:
            need(inode.nlink == 2 + sum(k == 2 for _, (_, k) in children), "nlink of a directory")
        stack += [(path + b"/" + name if path else name, child, k) for name, (child, k) in reversed(children)]
    for ino, parts in tree.items():
        need(ino == 0 or names[ino] > 0, f"inode {ino} has no name")
        need(ino == 0 or parts[INODE][0][1].kind == 2 or parts[INODE][0][1].nlink == names[ino], f"nlink of inode {ino}")


# --- commands -----------------------------------------------------------------------------------------------


def warn(message):
    warn.count += 1
    print(f"reader: {message}", file=sys.stderr)


warn.count = 0


def printable(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: printable(v) for key, v in value.items()}
    return [printable(v) for v in value] if isinstance(value, (list, tuple)) else value


def text(name):
    return name.decode("utf-8", "backslashreplace")


def list_points(repo, args):
    for p in repo.points:
        if args.json:
            print(json.dumps({key: printable(value) for key, value in p.items()}))
        else:
            print(p["id"].hex()[:12], p["time"] // 10**9, text(p["host"]), text(p["source"]), p["files"], p["bytes"])


def content_hash(repo, inode, parts):
    digest, at = hashlib.sha256(), 0
    for offset, skip, length, chunk in [*extents_of(inode, parts), (inode.size, 0, 0, None)]:
        while at < offset:
            zeros = min(offset - at, 1 << 20)
            digest.update(bytes(zeros))
            at += zeros
        if chunk:
            digest.update(repo.chunk(chunk)[skip : skip + length])
            at += length
    return digest.hexdigest()


def ls(repo, args):
    tree = repo.tree(repo.point(args.point)["root"])
    hashes = {}
    for path, ino, inode, parts in walk(tree):
        row = {"path": path.hex(), "ino": ino, "kind": KIND_NAMES[inode.kind], "mode": inode.mode, "uid": inode.uid}
        row |= {"gid": inode.gid, "size": inode.size, "mtime": inode.mtime, "nlink": inode.nlink, "rdev": inode.rdev}
        row |= {"data_bytes": inode.data_bytes, "flags": inode.flags, "target": None, "sha256": None}
        row["xattrs"] = {name.hex(): value.hex() for name, value in parts.get(XATTR, [])}
        extents_of(inode, parts)
        if TARGET in parts:
            row["target"] = parts[TARGET][0][1].hex()
        if inode.kind == 1 and args.sha256:
            row["sha256"] = hashes[ino] = hashes.get(ino) or content_hash(repo, inode, parts)
        if args.json:
            print(json.dumps(row))
        else:
            print(stat.filemode(inode.mode), inode.nlink, inode.uid, inode.gid, inode.size, inode.mtime, row["sha256"] or "-", text(path) or ".")


def verify(repo, args):
    """Every chunk of the point, and that the tree has exactly the nodes its entries ask for."""
    root = repo.point(args.point)["root"]
    tree = repo.tree(root)
    for _, _, inode, parts in walk(tree):
        for _, skip, length, chunk in extents_of(inode, parts):
            need(skip + length <= len(repo.chunk(chunk)), "an extent passes the end of its chunk")
    need(build_tree(list(repo.entries(root)), repo.keys.chunk_id) == root, "the tree has other nodes than its entries ask for")
    print(json.dumps({"inodes": len(tree), "verified": True}) if args.json else "verified")


def extract(repo, args):
    tree = repo.tree(repo.point(args.point)["root"])
    dest = os.fsencode(args.dest)
    os.makedirs(dest, exist_ok=True)
    if os.listdir(dest):
        raise Refused(f"{args.dest} is not empty", 2)
    made, late = {}, []
    for path, ino, inode, parts in walk(tree):
        target = os.path.join(dest, path) if path else dest
        if ino in made:
            os.link(made[ino], target, follow_symlinks=False)
            continue
        if not create(repo, target, inode, parts):
            continue
        made[ino] = target
        if inode.kind == 2:
            late.append((target, inode, parts))
        else:
            dress(target, inode, parts)
    # Directories last: their times change with every name, and some may not be written to any more.
    for target, inode, parts in reversed(late):
        dress(target, inode, parts)


def create(repo, target, inode, parts):
    """False when this user may not make such a thing."""
    if inode.kind == 2:
        if target != b"" and not os.path.isdir(target):
            os.mkdir(target, 0o700)
    elif inode.kind == 3:
        os.symlink(parts[TARGET][0][1], target)
    elif inode.kind == 1:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(handle, inode.size)
            for offset, skip, length, chunk in extents_of(inode, parts):
                data = repo.chunk(chunk)[skip : skip + length]
                need(len(data) == length and os.pwrite(handle, data, offset) == length, "an extent passes the end of its chunk")
        finally:
            os.close(handle)
    else:
        try:
            os.mknod(target, stat.S_IFMT(inode.mode) | 0o600, os.makedev(*inode.rdev) if inode.rdev else 0)
        except PermissionError:
            warn(f"{text(target)}: making a {KIND_NAMES[inode.kind]} device needs root")
            return False
    return True


def dress(target, inode, parts):
    """Owner first: changing it drops capabilities and set-id bits."""
    link = inode.kind == 3
    if os.geteuid() == 0:
        os.chown(target, inode.uid, inode.gid, follow_symlinks=False)
    for name, value in parts.get(XATTR, []):
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as e:
            warn(f"{text(target)}: attribute {text(name)}: {e.strerror}")
    if not link:
        os.chmod(target, stat.S_IMODE(inode.mode))
    os.utime(target, ns=(inode.mtime, inode.mtime), follow_symlinks=False)


def main(argv=None):
    parser = argparse.ArgumentParser(description="A second reader of relict repositories, written from SPEC.md.")
    parser.add_argument("repo")
    parser.add_argument("--password-env", metavar="VAR", help="environment variable that holds the password")
    parser.add_argument("--json", action="store_true", help="one JSON object a line; bytes in hexadecimal")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="restore points").set_defaults(run=list_points)
    for run, arguments in ((ls, ["point"]), (verify, ["point"]), (extract, ["point", "dest"])):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        for argument in arguments:
            command.add_argument(argument)
        if run is ls:
            command.add_argument("--sha256", action="store_true", help="read and hash the content of files")
    args = parser.parse_args(argv)
    warn.count = 0
    try:
        password = None
        if args.password_env:
            if args.password_env not in os.environ:
                raise Refused(f"the variable {args.password_env} is not set", 2)
            password = os.environb[args.password_env.encode()]
        args.run(Repository(args.repo, password), args)
        return 3 if warn.count else 0
    except Refused as e:
        print(f"reader: {e}", file=sys.stderr)
        return e.code
    except OSError as e:
        print(f"reader: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
