//! A second implementation reads what we write: repositories made by the library and by `relict backup`, read by
//! `reader.py`, which was written from SPEC.md and shares no code with us.
//!
//! Needs a Python with blake3, zstandard and cryptography: `$RELICT_PYTHON`, or `python3` if it has them. Without
//! one the tests say so and end, unless `$RELICT_PYTHON` is set: then its absence is an error.

#[path = "../support/rig.rs"]
mod rig;
#[path = "../support/mod.rs"]
mod support;

use proptest::strategy::{Strategy, ValueTree};
use relict::catalog::tree::{self, Edit};
use relict::store::{CreateOptions, OpenOptions, Writer, create};
use repo_format::*;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

const PASSWORD: &str = "correct horse";

fn unlock() -> relict::Result<Vec<u8>> {
    Ok(PASSWORD.into())
}

fn python() -> Option<String> {
    let named = std::env::var("RELICT_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let probe = Command::new(&python).args(["-c", "import blake3, zstandard, cryptography"]).output();
    let usable = probe.is_ok_and(|out| out.status.success());
    assert!(usable || named.is_none(), "RELICT_PYTHON={python} cannot import blake3, zstandard and cryptography");
    if !usable {
        eprintln!("skipped: no Python with blake3, zstandard and cryptography; name one with RELICT_PYTHON");
    }
    usable.then_some(python)
}

fn script(python: &str, name: &str, args: &[&str]) -> Output {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat").join(name);
    let out = Command::new(python).arg("-B").arg(file).args(args).env("COMPAT_PASSWORD", PASSWORD).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{name} {args:?}:\n{}", String::from_utf8_lossy(&out.stderr));
    out
}

fn lines(out: &Output) -> Vec<Json> {
    String::from_utf8_lossy(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Deterministic bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed << 1 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn inode(mode: u32, nlink: u32, size: u64, data_bytes: u64) -> Inode {
    let time = Time { sec: 1_700_000_000, nsec: 123_456_789 };
    let (btime, rdev, source) = (Some(time), None, None);
    Inode { mode, uid: 1, gid: 2, nlink, size, mtime: time, ctime: time, btime, rdev, flags: 0, data_bytes, source }
}

/// `files` files in one directory, each of its own chunk behind a hole, the first with two names.
fn make_entries(w: &Writer, files: u64, from: u64) -> Entries {
    let mut out = Entries::new();
    let mut put = |key: Key<'_>, value: Value<'_>| out.insert(key.encode(), value.encode());
    put(Key::Inode(ROOT_INO), Value::Inode(inode(0o040_755, 2, 0, 0)));
    put(Key::Xattr(ROOT_INO, b"user.a"), Value::Xattr(b"\x00\xff"));
    for n in from..from + files {
        let ino = 2 + n;
        let bytes = if n % 2 == 0 { noise(n, 900) } else { vec![n as u8; 900] };
        let chunk = w.chunk_id(&bytes);
        if w.claim(&[chunk]).unwrap()[0] {
            w.store_segment(SegmentKind::Data, &[(chunk, 900)], &bytes).unwrap();
        }
        let nlink = if n == from { 2 } else { 1 };
        put(Key::Inode(ino), Value::Inode(inode(0o100_640, nlink, 5000, 900)));
        put(Key::Extent(ino, 4096), Value::Extent(Extent { chunk, skip: 0, len: 900 }));
        let dirent = Value::Dirent(Dirent { ino, kind: FileKind::File });
        put(Key::Dirent(ROOT_INO, format!("file-{n}").as_bytes()), dirent);
        if n == from {
            put(Key::Dirent(ROOT_INO, b"second \xff"), dirent);
        }
    }
    out
}

fn seal(w: &Writer, id: u8, parent: Option<(PointId, ChunkId)>, edits: Vec<(Vec<u8>, Edit)>) -> (PointId, ChunkId) {
    let mut sink = w.node_writer();
    let root = parent.map(|(_, root)| root);
    let root = tree::apply(&**w.repository(), root.as_ref(), edits.into_iter().map(Ok), &mut sink).unwrap();
    sink.flush().unwrap();
    drop(sink);
    let time = Time { sec: 1_700_000_000 + i64::from(id), nsec: 5 };
    let point = PointRecord {
        repo: w.repository().header().repo,
        id: PointId([id; 16]),
        time,
        sealed: time,
        root,
        next_ino: 1 << 20,
        kind: SourceKind::Dir,
        host: b"host".to_vec(),
        source: b"/data".to_vec(),
        parent: parent.map(|(id, _)| id),
        counts: Counts::default(),
        paths: vec![b"/data".to_vec()],
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: b"compat".to_vec(),
        extra: Vec::new(),
    };
    w.seal(&point).unwrap();
    (point.id, root)
}

fn second_reader_agrees(encrypt: bool) {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    create(&path, &mut unlock, &CreateOptions { encrypt, kdf, ..CreateOptions::default() }).unwrap();
    let w = Writer::open(&path, &mut unlock, &OpenOptions::default()).unwrap();
    let put = |entries: Entries| entries.into_iter().map(|(k, v)| (k, Edit::Put(v))).collect::<Vec<_>>();
    let first = seal(&w, 1, None, put(make_entries(&w, 500, 0)));
    // Other files instead of the first ones, by edits of the tree: its nodes must be those of a full build.
    let mut edits: BTreeMap<_, _> = make_entries(&w, 100, 0).into_keys().map(|k| (k, Edit::Delete)).collect();
    edits.extend(put(make_entries(&w, 700, 600)));
    edits.retain(|key, _| *key != Key::Inode(ROOT_INO).encode() && *key != Key::Xattr(ROOT_INO, b"user.a").encode());
    let second = seal(&w, 2, Some(first), edits.into_iter().collect());
    // As a crash leaves it: whole segments in packages that are not sealed, the writer gone without a word.
    make_entries(&w, 3, 5000);
    std::mem::forget(w);

    let repo = path.to_str().unwrap();
    let base: &[&str] =
        if encrypt { &[repo, "--json", "--password-env", "COMPAT_PASSWORD"] } else { &[repo, "--json"] };
    let read = |args: &[&str]| lines(&script(&python, "reader.py", &[base, args].concat()));
    let points = read(&["list"]);
    let roots: Vec<_> = points.iter().map(|p| p["root"].as_str().unwrap().to_string()).collect();
    assert_eq!(roots, [first.1.to_string(), second.1.to_string()]);
    for (point, files) in [("0101", 500), ("0202", 1100)] {
        assert_eq!(read(&["verify", point])[0]["inodes"], files + 1);
        let rows = read(&["ls", point, "--sha256"]);
        assert_eq!(rows.len(), files + 2, "the root, the files, and a second name");
        assert!(rows.iter().skip(1).all(|r| r["size"] == 5000 && r["data_bytes"] == 900 && r["sha256"].is_string()));
        assert_eq!(rows[0]["xattrs"]["757365722e61"], "00ff");
    }
    let out = dir.path().join("out");
    read(&["extract", "latest", out.to_str().unwrap()]);
    let mut expected = vec![0; 5000];
    expected[4096..4996].copy_from_slice(&noise(600, 900));
    assert_eq!(std::fs::read(out.join("file-600")).unwrap(), expected);
}

#[test]
fn an_encrypted_repository_is_read_by_the_second_reader() {
    second_reader_agrees(true);
}

#[test]
fn a_plain_repository_is_read_by_the_second_reader() {
    second_reader_agrees(false);
}

#[test]
fn what_relict_backs_up_the_second_reader_extracts() {
    let Some(python) = python() else { return };
    let mut random = rig::Random::from_env();
    for number in 0..4 {
        let bench = rig::Rig::new();
        let seed: Vec<u8> = (0..4).flat_map(|_| random.next().to_le_bytes()).collect();
        let rng = proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(Default::default(), rng);
        let plan = support::tree_gen::arb_tree().new_tree(&mut runner).unwrap().current();
        support::tree_gen::build(&plan, &bench.source()).unwrap();
        std::fs::write(bench.source().join("large"), random.bytes(3 << 20)).unwrap();
        let source = support::walker::manifest(&bench.source());
        bench.backup();
        let (repo, out) = (bench.path("repo"), bench.path("out"));
        let mut reader = Command::new(&python);
        reader.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/reader.py")).arg(repo);
        reader.args(["--password-env", "COMPAT_PASSWORD", "extract", "latest"]).arg(&out);
        rig::succeeded(reader.env("COMPAT_PASSWORD", rig::PASSWORD));
        let extracted = support::walker::manifest(&out.join(bench.source().strip_prefix("/").unwrap()));
        let options = support::walker::CompareOptions::restored();
        let differences = support::walker::diff(&source, &extracted, &options);
        assert!(differences.is_empty(), "case {number}: {}\nplan: {plan:#?}", differences.join("\n"));
    }
}

#[test]
fn the_second_reader_passes_its_own_tests() {
    if let Some(python) = python() {
        script(&python, "selftest.py", &[]);
    }
}
