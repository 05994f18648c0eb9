#!/usr/bin/env python3
"""Tests of the second reader: the Rust side's vectors, and an encrypted repository that this script writes from
SPEC.md alone. Run as `python3 tests/compat/selftest.py`; needs what reader.py needs. Prints the seed of its damage."""

import contextlib
import hashlib
import io
import json
import os
import random
import stat
import struct
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import reader
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = b"correct horse \xff"
REPO, MTIME = b"repo-id-16-bytes", 1_700_000_000
PARSERS = {
    "relict-toml": reader.parse_header,
    "key-slot": reader.parse_key_slot,
    "package-header": reader.parse_package_header,
    "segment-header": reader.parse_segment_header,
    "package-footer": lambda data: reader.parse_footer(data, 1 << 20),
    "tree-node": reader.parse_node,
    "tree-key": reader.parse_key,
    "inode": reader.parse_inode,
    "extended-attribute": reader.parse_xattr,
    "directory-entry": reader.parse_dirent,
    "extent": reader.parse_extent,
    "symlink-target": reader.parse_target,
    "source-inode": reader.parse_source_inode,
    "restore-point": reader.parse_point,
    "point-state": reader.parse_state,
    "journal-record": None,  # of the database, which this reader does without
}


def check(data):
    return data + blake3(data).digest()[:16]


class Writer:
    """As little of a writer as makes a repository; nothing here comes from the Rust code."""

    def __init__(self, path, encrypted=True):
        self.path, self.encrypted = Path(path), encrypted
        self.master = os.urandom(32) if encrypted else None
        (self.path / "packages").mkdir(parents=True)
        (self.path / "keys").mkdir()
        body = "# A relict repository. Do not edit: the checksum would no longer match.\n"
        body += f'format = 1\nrepository = "{REPO.hex()}"\ncreated = 1\nstore = "files"\nencryption = "'
        body += ("aes-256-gcm" if encrypted else "none") + '"\nchunk_bytes = [16384, 65536, 262144]\n'
        body += "features_compat = 0\nfeatures_ro_compat = 0\nfeatures_incompat = 0\n"
        digest = blake3(body.encode()).digest()[:16].hex()
        (self.path / "relict.toml").write_text(f'{body}check = "{digest}"\n')
        if encrypted:
            self.add_slot(b"somebody else")
            self.add_slot(PASSWORD)

    def add_slot(self, password):
        salt, nonce = os.urandom(16), os.urandom(12)
        front = struct.pack("<8sHBBIII", b"RELICTKY", 1, 5, 0, 64, 2, 3) + REPO + salt + b"label"
        kek = Argon2id(salt=salt, length=32, iterations=2, lanes=3, memory_cost=64).derive(password)
        slot = check(front + nonce + AESGCM(kek).encrypt(nonce, self.master, front))
        (self.path / "keys" / f"{salt[:8].hex()}.key").write_bytes(slot)

    def chunk_id(self, data):
        if not self.encrypted:
            return blake3(data).digest()
        return blake3(data, key=blake3(self.master, derive_key_context="relict 1 chunk id").digest()).digest()

    def package(self, kind, segments, sealed=True, tail=b"", freed=()):
        """`segments` are (kind, [chunk bytes]); returns the file."""
        package = os.urandom(16)
        out = check(struct.pack("<8sHBBI", b"RELICTPK", 1, kind, int(self.encrypted), 0) + REPO + package)
        rows = []
        for number, (segment_kind, chunks) in enumerate(segments):
            segment = self.segment(package, segment_kind, number, chunks)
            rows.append(struct.pack("<QIII", len(out), len(segment), number, len(chunks)))
            out += bytes(len(segment)) if number in freed else segment
        out += tail
        if sealed:
            footer = b"RFTR" + struct.pack("<I", len(rows)) + b"".join(rows)
            out += check(footer + b"RPKE" + struct.pack("<I", len(footer) + 24))
        file = self.path / "packages" / package.hex()[:2] / f"{package.hex()}.pkg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(out)
        return file

    def segment(self, package, kind, number, chunks):
        raw = b"".join(chunks)
        payload = zstandard.ZstdCompressor(level=1).compress(raw)
        codec, payload = (2, payload) if len(payload) < len(raw) else (1, raw)
        table = b"".join(self.chunk_id(c) + struct.pack("<I", len(c)) for c in chunks)
        front = struct.pack("<4sBBHIIIIQ", b"RSEG", kind, codec, 0, number, len(chunks), len(raw), len(payload), 0)
        if self.encrypted:
            key = blake3(self.master + package, derive_key_context="relict 1 package").digest()
            sealed = AESGCM(key).encrypt(struct.pack("<I8x", number), payload, front + table)
            payload, payload_check = sealed[:-16], sealed[-16:]
        else:
            payload_check = blake3(payload).digest()[:16]
        front += payload_check
        return front + blake3(front + table).digest()[:16] + table + payload

    def point(self, root, name, seconds):
        out = struct.pack("<4sHBB", b"RPNT", 1, 1, 0) + REPO + name + struct.pack("<qIqI", seconds, 7, seconds + 1, 0)
        out += root + struct.pack("<Q8Q", 1000, *range(8))
        for tag, value in ((1, b"host"), (2, b"/data"), (4, b"/data/a"), (4, b"/data/b"), (8, b"selftest"), (0x9000, b"new")):
            out += struct.pack("<HI", tag, len(value)) + value
        return check(out)


def inode(mode, size=0, nlink=1, data_bytes=None, rdev=None, uid=None):
    present = (2 if rdev else 0) | (8 if data_bytes is not None else 0)
    uid = os.getuid() if uid is None else uid
    out = struct.pack("<HIIIIQqIqI", present, mode, uid, os.getgid(), nlink, size, MTIME, 123_456_789, -5, 1)
    out += struct.pack("<II", *rdev) if rdev else b""
    return out + (struct.pack("<Q", data_bytes) if data_bytes is not None else b"")


def sample_tree(writer, content):
    """Leaf entries of a tree with one of everything, and many small files so that it has inner nodes."""
    entries = {}

    def put(ino, kind, rest, value):
        entries[struct.pack(">QB", ino, kind) + rest] = value

    def name(parent, text, ino, kind):
        put(parent, 3, text, struct.pack("<QB", ino, kind))

    def extent(ino, offset, chunk, skip=0, length=None):
        put(ino, 4, struct.pack(">Q", offset), struct.pack("<II", skip, length or len(chunk)) + writer.chunk_id(chunk))

    put(1, 1, b"", inode(0o040_755, nlink=4))
    put(2, 1, b"", inode(0o040_500, nlink=2))
    put(3, 1, b"", inode(0o100_640, size=1_000_000, nlink=2, data_bytes=len(content) + 1000))
    put(3, 2, b"user.note\xff", b"\x00value")
    extent(3, 4096, content)
    extent(3, 900_000, content, skip=5, length=1000)
    put(4, 1, b"", inode(0o120_777, size=4))
    put(4, 5, b"", b"a/\xff.")
    put(5, 1, b"", inode(0o010_600))
    put(6, 1, b"", inode(0o100_444, size=12288, data_bytes=0))
    put(7, 1, b"", inode(0o040_755, nlink=2))
    put(0, 6, struct.pack(">IQ", 0, 4711), struct.pack("<Q", 3))
    for parent, text, ino, kind in ((1, b"dir", 2, 2), (1, b"many", 7, 2), (1, b"file \xff", 3, 1), (2, b"again", 3, 1)):
        name(parent, text, ino, kind)
    for text, ino, kind in ((b"link", 4, 3), (b"pipe", 5, 4), (b"zeros", 6, 1)):
        name(1, text, ino, kind)
    for n in range(2000):
        put(100 + n, 1, b"", inode(0o100_600))
        name(7, b"small-%d" % n, 100 + n, 1)
    return sorted(entries.items())


def make_repository(path, encrypted=True):
    """Returns the content chunk and the packages by what they are."""
    writer = Writer(path, encrypted)
    content = random.Random(1).randbytes(50_000)
    nodes = {}

    def store(node):
        nodes[writer.chunk_id(node)] = node
        return writer.chunk_id(node)

    root = reader.build_tree(sample_tree(writer, content), store)
    empty = store(struct.pack("<4sB3xI", b"RNOD", 0, 0))
    nodes, old = list(nodes.values()), writer.point(empty, b"older-point-id-1", 1000)
    new = writer.point(root, b"newer-point-id-1", 2000)
    half = len(nodes) // 2
    files = {
        # Segment 0 was freed by prune; the tail is what a crash left before the footer.
        "data": writer.package(1, [(1, [b"gone"]), (1, [b"x" * 100, content])], tail=b"RSEG garbage", freed={0}),
        "meta": writer.package(2, [(2, nodes[:half]), (3, [old])]),
        # A crash left this one open, in the middle of a segment.
        "open": writer.package(2, [(2, nodes[half:]), (3, [new])], sealed=False, tail=b"RSEG\x01\x01" + bytes(90)),
    }
    return content, files


def run(*argv):
    """Exit code and output of the reader."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = reader.main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


def test_vectors():
    counts = [0, 0]
    folders = sorted((ROOT / "repo-format" / "vectors").iterdir())
    assert {f.name for f in folders} == set(PARSERS), "folders of vectors and parsers"
    for folder in folders:
        for file in sorted(folder.iterdir()) if PARSERS[folder.name] else []:
            valid = file.name.startswith("valid-")
            try:
                PARSERS[folder.name](file.read_bytes())
                assert valid, f"{folder.name}/{file.name} was taken"
            except reader.Refused as e:
                assert not valid, f"{folder.name}/{file.name}: {e}"
            counts[valid] += 1
    print(f"vectors: {counts[1]} taken, {counts[0]} refused")


def test_reading(tmp, encrypted):
    path = tmp / f"repo-{encrypted}"
    content, _ = make_repository(path, encrypted)
    base = [path, "--json"] + (["--password-env", "SELFTEST_PASSWORD"] if encrypted else [])
    code, out, err = run(*base, "list")
    assert code == 0 and not err, err
    points = [json.loads(line) for line in out.splitlines()]
    assert [bytes.fromhex(p["id"]) for p in points] == [b"older-point-id-1", b"newer-point-id-1"]
    assert bytes.fromhex(points[1]["paths"][1]) == b"/data/b" and points[1]["time"] == 2000 * 10**9 + 7
    assert run(*base, "verify", "latest")[0] == 0
    code, out, err = run(*base, "ls", "latest", "--sha256")
    assert code == 0, err
    rows = {bytes.fromhex(r["path"]): r for r in map(json.loads, out.splitlines())}
    whole = bytearray(1_000_000)
    whole[4096:54_096], whole[900_000:901_000] = content, content[5:1005]
    assert len(rows) == 2008 and rows[b"dir/again"]["sha256"] == hashlib.sha256(whole).hexdigest()
    check_extracted(tmp / f"out-{encrypted}", base, bytes(whole))
    if encrypted:
        os.environ["SELFTEST_OTHER"] = "wrong"
        assert run(path, "--password-env", "SELFTEST_OTHER", "list")[0] == 12
        assert run(path, "list")[0] == 12
    assert run(tmp / "nothing", "list")[0] == 10
    assert run(*base, "ls", "6e6f")[0] == 1


def test_walking(tmp):
    """What stands behind freed segments is found without a footer, if there was one."""
    path = tmp / "repo-walk"
    writer = Writer(path, True)
    segments = [(1, [bytes([n]) * 300]) for n in range(6)]
    for freed, sealed, found in [({0, 1}, 1, [2, 3, 4, 5]), ({3}, 1, [0, 1, 2, 4, 5]), ({1, 5}, 1, [0, 2, 3, 4]), ({2}, 0, [0, 1])]:
        file = writer.package(1, segments, sealed=sealed, freed=freed)
        whole = file.read_bytes()
        for before_end in (1, 20, 24, 40) if sealed else (1,):
            bad = bytearray(whole)
            bad[-before_end] ^= sealed
            file.write_bytes(bad)
            repo = reader.Repository(path, PASSWORD)
            package = reader.Package(file, repo.header, repo.keys)
            assert [segment.number for _, segment in package.segments()] == found, (freed, sealed, before_end)


def check_extracted(dest, base, whole):
    code, _, err = run(*base, "extract", "newer".encode().hex(), dest)
    assert code == 0, err
    file, again = os.path.join(os.fsencode(dest), b"file \xff"), dest / "dir" / "again"
    assert Path(os.fsdecode(file)).read_bytes() == whole and os.path.samefile(file, again)
    seen = os.stat(file)
    assert (stat.S_IMODE(seen.st_mode), seen.st_mtime_ns, seen.st_nlink) == (0o640, MTIME * 10**9 + 123_456_789, 2)
    assert seen.st_blocks * 512 < 200_000, "holes are holes"
    assert os.getxattr(file, b"user.note\xff") == b"\x00value"
    assert os.readlink(os.fsencode(dest / "link")) == b"a/\xff."
    assert stat.S_ISFIFO(os.lstat(dest / "pipe").st_mode)
    assert (dest / "zeros").read_bytes() == bytes(12288) and (dest / "zeros").stat().st_blocks == 0
    assert stat.S_IMODE((dest / "dir").stat().st_mode) == 0o500 and (dest / "dir").stat().st_mtime_ns == seen.st_mtime_ns
    assert len(list((dest / "many").iterdir())) == 2000
    # Nothing is ever written over.
    assert run(*base, "extract", "latest", dest)[0] == 2


def test_downgrade(tmp):
    """A repository whose relict.toml was turned to plain text is refused in every way we can notice."""
    path = tmp / "repo-downgrade"
    make_repository(path)
    body = (path / "relict.toml").read_text().split("check = ")[0].replace("aes-256-gcm", "none")
    (path / "relict.toml").write_text(f'{body}check = "{blake3(body.encode()).digest()[:16].hex()}"\n')
    assert run(path, "list")[0] == 1
    for slot in (path / "keys").iterdir():
        slot.unlink()
    assert run(path, "--password-env", "SELFTEST_PASSWORD", "list")[0] == 1
    code, out, _ = run(path, "list")
    assert code == 3 and not out


def test_damage(tmp, encrypted, seed):
    """Flipped bits anywhere: the answer is the right one or none, never another."""
    path = tmp / f"repo-damage-{encrypted}"
    _, files = make_repository(path, encrypted)
    argv = [path, "--json"] + (["--password-env", "SELFTEST_PASSWORD"] if encrypted else [])
    argv += ["ls", b"newer".hex(), "--sha256"]
    right, rng = run(*argv), random.Random(seed)
    assert right[0] == 0
    outcomes = {"refused": 0, "right": 0}
    targets = [*files.values(), path / "relict.toml", *(path / "keys").iterdir()]
    for _ in range(60):
        file = rng.choice(targets)
        whole = bytearray(file.read_bytes())
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        whole[at] ^= bit
        file.write_bytes(whole)
        code, out, _ = run(*argv)
        assert code not in (0, 3) or out == right[1], f"seed {seed}: bit {bit} at {at} of {file} gave other data"
        outcomes["right" if out == right[1] else "refused"] += 1
        whole[at] ^= bit
        file.write_bytes(whole)
    assert run(*argv) == right and outcomes["refused"] > 10
    print(f"damage, encrypted={encrypted}, seed {seed}: {outcomes}")


def main():
    os.environb[b"SELFTEST_PASSWORD"] = PASSWORD
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    test_vectors()
    with tempfile.TemporaryDirectory() as tmp:
        for encrypted in (True, False):
            test_reading(Path(tmp), encrypted)
            test_damage(Path(tmp), encrypted, seed)
        test_walking(Path(tmp))
        test_downgrade(Path(tmp))
    print("selftest passed")


if __name__ == "__main__":
    sys.exit(main())
