//! Repositories of the future: what this program may not touch it refuses with words that say what to do, and what it may
//! touch keeps what it does not understand (SPEC.md section 12).

use super::Copy;
use repo_format::{ChunkId, Features, PointRecord, RepoHeader, SegmentKind};
use std::fs;

const READING: [&str; 8] = [
    "relict snapshots",
    "relict ls -R latest",
    "relict find *",
    "relict-maint stats",
    "relict-maint health",
    "relict-maint dump header",
    "relict-maint dump point latest",
    "relict-maint keys list",
];
const WRITING: [&str; 9] = [
    "relict backup /etc/hostname",
    "relict-maint forget latest --yes --unsafe-allow-remove-all",
    "relict-maint protect latest --yes",
    "relict-maint prune --yes",
    "relict-maint compact --yes",
    "relict-maint rebuild",
    "relict-maint repair --yes",
    "relict-maint keys add --label second",
    "relict-maint undelete latest",
];

fn with_features(features: Features) -> Copy {
    let copy = Copy::new();
    copy.says("relict --quiet backup /etc/hostname", 0);
    let path = copy.path("repo/relict.toml");
    let header = RepoHeader::decode(&fs::read(&path).unwrap()).unwrap();
    fs::write(&path, RepoHeader { features, ..header }.encode()).unwrap();
    copy
}

/// All bytes of a repository but the database's words to people.
fn bytes_of(copy: &Copy) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    fn below(dir: &std::path::Path, out: &mut Vec<(std::path::PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                below(&path, out);
            } else if !name.starts_with("LOG") {
                out.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    below(&copy.path("repo"), &mut out);
    out.sort();
    out
}

#[test]
fn a_newer_format_is_refused_politely() {
    let copy = with_features(Features::default());
    let path = copy.path("repo/relict.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("format = 1\n", "format = 2\nanything = \"else\"\n")).unwrap();
    let before = bytes_of(&copy);
    for line in READING.iter().chain(&WRITING) {
        let said = copy.says(line, 1);
        assert!(said.contains("made by a newer relict: nothing was changed; use that version"), "{line}: {said}");
    }
    assert!(bytes_of(&copy) == before, "something was changed");
}

#[test]
fn an_unknown_incompatible_feature_is_refused_politely() {
    let copy = with_features(Features { incompat: 1 << 40, ..Features::default() });
    let before = bytes_of(&copy);
    for line in READING.iter().chain(&WRITING) {
        let said = copy.says(line, 1);
        assert!(said.contains("made by a newer relict: nothing was changed; use that version"), "{line}: {said}");
    }
    assert!(bytes_of(&copy) == before, "something was changed");
}

#[test]
fn an_unknown_feature_that_may_be_read_is_read_and_not_written() {
    let copy = with_features(Features { ro_compat: 1 << 3, compat: 1 << 62, incompat: 0 });
    let before = bytes_of(&copy);
    for line in READING {
        copy.says(line, 0);
    }
    let mnt = copy.path("mnt");
    fs::create_dir(&mnt).unwrap();
    copy.says(&format!("relict --quiet mount {}", mnt.display()), 0);
    let shown = fs::read(mnt.join("latest/etc/hostname"));
    copy.says(&format!("relict --quiet umount {}", mnt.display()), 0);
    assert_eq!(shown.unwrap(), fs::read("/etc/hostname").unwrap());
    copy.says(&format!("relict --quiet restore latest -t {}", copy.path("out").display()), 0);
    // A check finds nothing wrong; that it cannot remember it, it may say.
    let checked = copy.run("relict-maint check --read-data");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    for line in WRITING {
        let said = copy.says(line, 1);
        assert!(
            said.contains("uses features this program can only read") && said.contains("nothing was changed"),
            "{line}: {said}"
        );
    }
    let changed: Vec<_> =
        bytes_of(&copy).into_iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
    let harmless =
        |path: &std::path::PathBuf| path.parent().is_some_and(|dir| dir.ends_with("pins")) || path.ends_with("lock");
    assert!(changed.iter().all(harmless), "{changed:?}");
}

#[test]
fn unknown_compatible_features_and_fields_are_carried() {
    let copy = with_features(Features { compat: 1 << 63 | 5, ..Features::default() });
    let header = fs::read(copy.path("repo/relict.toml")).unwrap();
    copy.says("relict-maint compact --yes --min-live 0.9", 0);
    // A record with a field that this program does not know.
    let id = {
        let options = relict::store::OpenOptions { cache_bytes: 1 << 20 };
        let password = || Ok(super::PASSWORD.as_bytes().to_vec());
        let writer = relict::store::Writer::open(&copy.path("repo"), &mut { password }, &options).unwrap();
        let mut point = writer.repository().point_records().unwrap().remove(0);
        point.id.0[0] ^= 0xff;
        point.time.sec += 60;
        point.extra = vec![(0x9abc, b"of the future".to_vec())];
        // And a file whose content is lost, so that repair writes the record anew.
        let lost = ChunkId([1; 32]);
        point.root = with_lost_file(&writer, lost);
        writer.seal(&point).unwrap();
        point.id
    };
    for line in ["relict --quiet backup /etc/hostname", "relict-maint rebuild", "relict-maint keys list"] {
        copy.says(line, 0);
    }
    let repaired = copy.run("relict-maint repair --yes");
    assert!(matches!(repaired.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&repaired.stderr));
    assert_eq!(fs::read(copy.path("repo/relict.toml")).unwrap(), header, "the header is kept");
    let options = relict::store::OpenOptions { cache_bytes: 1 << 20 };
    let password = || Ok(super::PASSWORD.as_bytes().to_vec());
    let repository = relict::store::Repository::open(&copy.path("repo"), &mut { password }, &options).unwrap();
    let points: Vec<PointRecord> = repository.point_records().unwrap();
    let point = points.iter().find(|point| point.id == id).expect("the point is there");
    assert_eq!(point.extra, [(0x9abc, b"of the future".to_vec())], "the field is kept");
    assert!(!point.notes.is_empty(), "repair did not write the record anew, so this shows nothing");
}

fn with_lost_file(writer: &relict::store::Writer, chunk: ChunkId) -> ChunkId {
    use repo_format::{Dirent, Extent, FileKind, Inode, Key, NodeWriter, ROOT_INO, Time};
    let inode = |mode, nlink, size| Inode {
        mode,
        uid: 0,
        gid: 0,
        nlink,
        size,
        mtime: Time::default(),
        ctime: Time::default(),
        btime: None,
        rdev: None,
        flags: 0,
        data_bytes: size,
        source: None,
    };
    let mut node = NodeWriter::new(0);
    node.push(&Key::Inode(ROOT_INO).encode(), &Inode { data_bytes: 0, ..inode(0o040_755, 2, 0) }.encode());
    node.push(&Key::Dirent(ROOT_INO, b"lost").encode(), &Dirent { ino: 2, kind: FileKind::File }.encode());
    node.push(&Key::Inode(2).encode(), &inode(0o100_644, 1, 9).encode());
    node.push(&Key::Extent(2, 0).encode(), &Extent { skip: 0, len: 9, chunk }.encode());
    let bytes = node.finish();
    let id = writer.chunk_id(&bytes);
    writer.store_segment(SegmentKind::Node, &[(id, bytes.len() as u32)], &bytes).unwrap();
    id
}
