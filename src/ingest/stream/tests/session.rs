//! Whole streams into a repository on disk: parents, several states, errors with their place, what an interrupt leaves.

use super::noise;
use crate::catalog::tree;
use crate::ingest::Progress;
use crate::ingest::change::{Change, Decode, Step};
use crate::ingest::stream::{Scope, StateInfo, StreamOptions, run};
use crate::store::{CreateOptions, OpenOptions, Writer, create};
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, FileKind, Key, KeyKind, PointRecord, SourceKind, Time};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A stream of lines, for tests: `begin ID [PARENT]`, `file PATH INO`, `noise PATH SEED BYTES`, `xattr PATH NAME`, `unlink PATH`, `end`.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    is_open: bool,
}

impl Decode for Lines {
    fn next<'a>(&'a mut self, input: &'a [u8], _last: bool) -> Result<Step<'a>> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            return Ok(Step::More(input.len() + 1));
        };
        let words: Vec<&[u8]> = input[..end].split(|byte| *byte == b' ').collect();
        let number = |at: usize| std::str::from_utf8(words[at]).unwrap().parse::<u64>().unwrap();
        let change = match words[0] {
            b"begin" => {
                self.is_open = true;
                Change::Begin { id: words[1], parent: words.get(2).copied(), name: b"name", generation: 7 }
            }
            b"file" => Change::Create { path: words[1], kind: FileKind::File, ino: Some(number(2)), device: None },
            b"noise" => {
                self.bytes = noise(number(2), number(3) as usize);
                Change::Write { path: words[1], offset: 0, data: &self.bytes }
            }
            b"xattr" => Change::SetXattr { path: words[1], name: words[2], value: b"v" },
            b"unlink" => Change::Unlink { path: words[1] },
            b"note" => Change::Note { text: words[1] },
            b"end" => {
                self.is_open = false;
                Change::End
            }
            _ => return Err(Error::new(ErrorKind::BadInput, "an unknown line")),
        };
        Ok(Step::Change(end + 1, Some(change)))
    }

    fn may_end(&self) -> bool {
        !self.is_open
    }

    fn max_input_bytes(&self) -> usize {
        1000
    }

    fn doing(&self) -> &'static str {
        "a line"
    }
}

/// Gives a stream in reads of a few bytes.
struct Slowly<'a>(&'a [u8], usize);

impl Read for Slowly<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = self.0.len().min(self.1).min(out.len());
        out[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

fn options(source: &str, scope: Scope) -> StreamOptions {
    StreamOptions {
        host: b"host".to_vec(),
        source: source.as_bytes().to_vec(),
        tags: vec![b"tag".to_vec()],
        notes: vec![b"from the caller".to_vec()],
        extra: Vec::new(),
        kind: SourceKind::Btrfs,
        scope,
        time: Time { sec: 1_000, nsec: 0 },
        threads: 2,
        memory_bytes: 0,
    }
}

fn make(dir: &Path) {
    let plain = CreateOptions { encrypt: false, ..CreateOptions::default() };
    create(dir, &mut || unreachable!(), &plain).unwrap();
}

fn open(dir: &Path) -> Writer {
    Writer::open(dir, &mut || unreachable!(), &OpenOptions { cache_bytes: 1 << 20 }).unwrap()
}

fn ingest(writer: &Writer, stream: &str, options: &StreamOptions) -> Result<Vec<PointRecord>> {
    let mut input = Slowly(stream.as_bytes(), 7);
    let stop = AtomicBool::new(false);
    let done = run(writer, &mut Lines::default(), &mut input, None, options, &Progress::default(), &stop)?;
    Ok(done.into_iter().map(|outcome| outcome.point).collect())
}

/// The content of inode `ino`, through the repository.
fn content(writer: &Writer, root: &ChunkId, ino: u64) -> Vec<u8> {
    let mut data = Vec::new();
    for row in tree::range_prefix(&**writer.repository(), root, &Key::prefix(ino, KeyKind::Extent)) {
        let extent = repo_format::Extent::decode(row.unwrap().value()).unwrap();
        data.extend_from_slice(&writer.repository().chunk(&extent.chunk).unwrap());
    }
    data
}

#[test]
fn states_are_sealed_one_by_one_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    make(&path);
    let writer = open(&path);
    let o = options("data", Scope::Repository);
    let stream = "begin A\nfile a 257\nnoise a 1 3000000\nnote careful\nbegin B A\nfile b 258\nnoise b 2 1000\nend\n";
    let points = ingest(&writer, stream, &o).unwrap();
    assert_eq!(points.len(), 2);
    assert_eq!(points[0].parent, None);
    assert_eq!(points[1].parent, Some(points[0].id));
    assert_eq!(points[0].notes, [b"from the caller".to_vec(), b"careful".to_vec()]);
    assert_eq!(points[1].notes, [b"from the caller".to_vec()]);
    assert_eq!((points[1].counts.files, points[1].counts.dirs, points[1].counts.bytes), (2, 1, 3_001_000));
    assert_eq!((points[0].counts.read_bytes, points[1].counts.read_bytes), (3_000_000, 1000));
    let state = StateInfo::of(&points[1]).unwrap();
    assert_eq!(
        (&state.id[..], state.parent.as_deref(), state.generation, &state.name[..]),
        (&b"B"[..], Some(&b"A"[..]), 7, &b"name"[..])
    );
    drop(writer);
    // What is there is what a reader finds, also in another run.
    let writer = open(&path);
    assert_eq!(writer.repository().point_records().unwrap().len(), 2);
    assert_eq!(content(&writer, &points[1].root, 257), noise(1, 3_000_000));
    let third = ingest(&writer, "begin C B\nunlink a\nend\n", &o).unwrap();
    assert_eq!(third[0].counts.bytes, 1000);
    let full = ingest(&writer, "begin C2\nfile b 258\nnoise b 2 1000\nend\n", &o).unwrap();
    assert_eq!(third[0].root, full[0].root);
}

#[test]
fn a_parent_that_is_missing_is_named_with_those_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    make(&path);
    let writer = open(&path);
    ingest(&writer, "begin A\nend\n", &options("one", Scope::Repository)).unwrap();
    let error = ingest(&writer, "begin C B\nend\n", &options("two", Scope::Repository)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "byte 0 of the stream, a line: the parent state B is not in the repository");
    assert!(error.advice().unwrap().contains("  A  1970-01-01T00-16-40Z  name of host:one"), "{:?}", error.advice());
    // Names are good in their own chain only.
    assert!(ingest(&writer, "begin C A\nend\n", &options("two", Scope::Repository)).is_ok());
    let error = ingest(&writer, "begin D A\nend\n", &options("three", Scope::Chain)).unwrap_err();
    assert!(error.advice().unwrap().contains("ingest a full stream first"));
}

#[test]
fn an_error_says_where_it_is_and_keeps_only_what_was_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    make(&path);
    let writer = open(&path);
    let o = options("data", Scope::Repository);
    let points = || writer.repository().point_records().unwrap().len();
    for (stream, message) in [
        ("begin A\nfile a 257\nfile a 258\nend\n", "byte 19 of the stream, a line: 'a' exists already"),
        ("begin A\nfile a 257\nwhat\n", "byte 19 of the stream, a line: an unknown line"),
        ("begin A\nfile a 257\nen", "the stream ends at byte 21, in the middle of a line at byte 19"),
        ("begin A\nfile a 257\n", "the stream ends at byte 19, in the middle of a line at byte 19"),
        ("file a 257\n", "byte 0 of the stream, a line: there is no state that this belongs to: none has begun"),
        ("end\n", "byte 0 of the stream, a line: there is no state that this belongs to: none has begun"),
    ] {
        let error = ingest(&writer, stream, &o).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::BadInput, message));
        assert_eq!(points(), 0, "{stream}");
    }
    let error =
        ingest(&writer, "begin A\nfile a 257\nnoise a 1 2000000\nbegin B A\nunlink nix\nend\n", &o).unwrap_err();
    assert_eq!(
        error.to_string(),
        "one restore point was made; then: byte 47 of the stream, a line: 'nix' does not exist"
    );
    assert_eq!(points(), 1);
    // What was stored for nothing is found by the next run, all but what was not cut and gathered yet.
    let lost = "begin X\nfile a 257\nnoise a 9 8000000\nunlink nix\n";
    ingest(&writer, lost, &o).unwrap_err();
    let again = ingest(&writer, "begin X\nfile a 257\nnoise a 9 8000000\nend\n", &o).unwrap();
    assert!(again[0].counts.new_bytes < 1_500_000, "{} bytes stored again", again[0].counts.new_bytes);
}

#[test]
fn a_stop_ends_it_and_seals_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    make(&path);
    let writer = open(&path);
    let mut input: &[u8] = b"begin A\nfile a 257\nend\n";
    let stop = AtomicBool::new(true);
    let o = options("data", Scope::Repository);
    let error = run(&writer, &mut Lines::default(), &mut input, None, &o, &Progress::default(), &stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(writer.repository().point_records().unwrap().len(), 0);
}

#[test]
fn a_state_without_acls_says_so_until_one_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    make(&path);
    let writer = open(&path);
    let stream = "begin A\nfile a 257\nxattr a user.colour\nbegin B A\nxattr a system.posix_acl_access\n\
                  begin C B\nfile c 259\nbegin D A\nfile d 260\nend\n";
    let points = ingest(&writer, stream, &options("data", Scope::Repository)).unwrap();
    let known: Vec<bool> = points.iter().map(PointRecord::has_no_acls).collect();
    assert_eq!(known, [true, false, false, true]);
}
