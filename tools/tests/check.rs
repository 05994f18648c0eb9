//! `relict-maint` as a user runs it: a sound repository passes, every flipped byte is found and named, a lost index comes back.

use relict::ingest::{BackupOptions, ExcludeOptions, Excludes, Progress, backup};
use relict::store::{CreateOptions, OpenOptions, Repository, Writer, create};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
}

fn unlock() -> relict::Result<Vec<u8>> {
    Ok(b"secret".to_vec())
}

impl Fixture {
    fn new(encrypt: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for (name, len) in [("small", 300), ("medium", 20_000), ("large", 400_000)] {
            let bytes: Vec<u8> =
                (0..len as u32).flat_map(|i| (i ^ len as u32).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            std::fs::write(source.join(name), bytes).unwrap();
        }
        let kdf = repo_format::KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        create(&dir.path().join("repo"), &mut unlock, &CreateOptions { encrypt, kdf, ..CreateOptions::default() })
            .unwrap();
        let fixture = Self { dir };
        fixture.backup();
        fixture
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn backup(&self) {
        let writer = Writer::open(&self.repo(), &mut unlock, &OpenOptions::default()).unwrap();
        let options = BackupOptions {
            paths: vec![self.dir.path().join("source")],
            host: b"host".to_vec(),
            source: b"source".to_vec(),
            tags: Vec::new(),
            set: None,
            excludes: Excludes::new(&ExcludeOptions::default()).unwrap(),
            stand_in: None,
            one_file_system: false,
            force: false,
            parent: None,
            threads: 0,
            memory_bytes: 0,
            time: repo_format::Time { sec: 1_700_000_000, nsec: 0 },
        };
        backup(&writer, &options, &Progress::default(), &AtomicBool::new(false)).unwrap();
    }

    fn maint(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_relict-maint"))
            .arg("-r")
            .arg(self.repo())
            .args(args)
            .env("RELICT_PASSWORD", "secret")
            .output()
            .unwrap()
    }

    fn packages(&self) -> Vec<PathBuf> {
        let mut out = Vec::new();
        for dir in std::fs::read_dir(self.repo().join("packages")).unwrap() {
            out.extend(std::fs::read_dir(dir.unwrap().path()).unwrap().map(|f| f.unwrap().path()));
        }
        out.sort();
        out
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_sound_repository_passes() {
    for encrypt in [true, false] {
        let f = Fixture::new(encrypt);
        for args in [&["check"][..], &["check", "--read-data"]] {
            let out = f.maint(args);
            assert_eq!(out.status.code(), Some(0), "{}", text(&out));
            assert!(text(&out).contains("no problems found"), "{}", text(&out));
        }
    }
}

#[test]
fn one_flipped_byte_of_any_package_is_found() {
    for encrypt in [true, false] {
        let f = Fixture::new(encrypt);
        assert_eq!(f.packages().len(), 2);
        for package in f.packages() {
            let good = std::fs::read(&package).unwrap();
            // Every byte of the first and last kilobyte (headers, tables, footer), and places in between.
            let edge = good.len().min(300);
            let inner = (edge..good.len() - edge).step_by(good.len() / 12 + 1);
            let places = (0..edge).step_by(13).chain(inner).chain((good.len() - edge..good.len()).step_by(13));
            for at in places {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                replace(&package, &bad);
                let out = f.maint(&["check", "--read-data"]);
                assert_eq!(out.status.code(), Some(1), "a flip at {at} of {}: {}", package.display(), text(&out));
                assert!(text(&out).contains("the check found"), "{}", text(&out));
            }
            replace(&package, &good);
        }
        assert_eq!(f.maint(&["check", "--read-data"]).status.code(), Some(0));
    }
}

#[test]
fn damage_is_named_by_file_and_point() {
    let f = Fixture::new(true);
    let repository = Repository::open(&f.repo(), &mut unlock, &OpenOptions::default()).unwrap();
    let data = f.packages().into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    drop(repository);
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&data, &bytes);
    let out = f.maint(&["check", "--read-data", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let finding = lines.iter().find(|l| l["message_type"] == "finding").unwrap();
    assert_eq!(finding["kind"], "segment");
    let affected = finding["affected"].as_array().unwrap();
    assert!(affected.iter().any(|a| a["path"].as_str().unwrap().ends_with("/source/large")), "{finding}");
    assert!(affected.iter().all(|a| a["point"].as_str().unwrap().contains("2023-11-14T22-13-20Z")), "{finding}");
    assert_eq!(lines.last().unwrap()["message_type"], "error", "{}", text(&out));
    // Without reading the content the check cannot know, and says that it did not look.
    let quick = f.maint(&["check"]);
    assert_eq!(quick.status.code(), Some(0));
    assert!(text(&quick).contains("content was not read"));
}

#[test]
fn a_missing_package_is_found_without_reading_data() {
    let f = Fixture::new(true);
    let data = f.packages().into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    std::fs::remove_file(data).unwrap();
    let out = f.maint(&["check"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("is missing") && text(&out).contains("/source/small"), "{}", text(&out));
}

#[test]
fn a_lost_index_is_rebuilt() {
    let f = Fixture::new(true);
    std::fs::remove_dir_all(f.repo().join("db")).unwrap();
    let out = f.maint(&["check"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("relict-maint rebuild"), "{}", text(&out));
    let out = f.maint(&["rebuild"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    let out = f.maint(&["check", "--read-data"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    assert!(text(&out).contains("checked 1 restore point"), "{}", text(&out));
    // A second rebuild keeps the index that was there.
    assert_eq!(f.maint(&["rebuild"]).status.code(), Some(0));
    assert!(f.repo().join("db.old-1").is_dir());
}

#[test]
fn exit_codes() {
    let f = Fixture::new(true);
    let run = |repo: &Path, password: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relict-maint"));
        command.arg("-r").arg(repo).arg("check").env("RELICT_PASSWORD", password).output().unwrap().status.code()
    };
    assert_eq!(run(&f.repo(), "wrong"), Some(12));
    assert_eq!(run(f.dir.path(), "secret"), Some(10));
    let _writer = Writer::open(&f.repo(), &mut unlock, &OpenOptions::default()).unwrap();
    assert_eq!(run(&f.repo(), "secret"), Some(0), "a check beside a writer");
    let out = f.maint(&["rebuild"]);
    assert_eq!(out.status.code(), Some(11), "{}", text(&out));
}
