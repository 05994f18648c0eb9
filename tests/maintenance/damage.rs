//! Maintenance beside damage: a package of which prune has freed a part loses its footer. All that is left in it is intact and
//! needed, and stays.

use crate::rig::{PASSWORD, Random, Rig};
use crate::walker::manifest;
use crate::{listed, maint, message, restored_is, words};
use relict::store::{CreateOptions, FileStore, OpenOptions, Repository, create, scan_package};
use repo_format::{Extent, Key, PackageId, PackageKind};
use std::fs;
use std::path::PathBuf;

struct Holey {
    rig: Rig,
    /// The package with a hole at its front, or further back.
    package: PackageId,
}

impl Holey {
    /// Three files are stored in one package, the one that comes first or second in it is forgotten and pruned, and the footer rots.
    fn new(front: bool) -> Self {
        let rig = Rig::new();
        let mut random = Random::from_env();
        // Chunks of one length, each a segment: so what goes shares none with what stays, and leaves nothing to do for prune.
        fs::remove_dir_all(rig.path("repo")).unwrap();
        let options = CreateOptions { chunk_bytes: [256 << 10; 3], ..CreateOptions::default() };
        create(&rig.path("repo"), &mut || Ok(PASSWORD.as_bytes().to_vec()), &options).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(rig.source().join(name), random.bytes(4 << 20)).unwrap();
        }
        rig.backup();
        let (package, name) = file_at(&rig, front);
        fs::remove_file(rig.source().join(name)).unwrap();
        rig.backup();
        rig.maint(&["forget", "--yes", "--keep-last", "1"]);
        rig.maint(&["prune", "--yes"]);
        let out = Self { rig, package };
        let scanned = scan_package(&FileStore::new(out.rig.path("repo/packages")), &package).unwrap();
        assert_eq!((scanned.freed.len(), scanned.segments.len()), (16, 32));
        assert_eq!(scanned.freed[0].0 == 64, front, "{:?}", scanned.freed);
        assert!(scanned.freed[0].0 < scanned.segments[31].offset);
        let mut bytes = fs::read(out.file()).unwrap();
        let middle_of_the_footer = bytes.len() - 30;
        bytes[middle_of_the_footer] ^= 1;
        // A hole stays a hole.
        let file = fs::OpenOptions::new().write(true).open(out.file()).unwrap();
        let byte = &bytes[middle_of_the_footer..=middle_of_the_footer];
        std::os::unix::fs::FileExt::write_all_at(&file, byte, middle_of_the_footer as u64).unwrap();
        out
    }

    fn file(&self) -> PathBuf {
        let name = self.package.to_string();
        self.rig.path(&format!("repo/packages/{}/{name}.pkg", &name[..2]))
    }

    /// Everything is still there; repair then mends what there is to mend, and the command works as ever.
    fn stays_and_heals(&self, command: &[&str]) {
        let want = manifest(&self.rig.source());
        assert!(self.file().exists(), "the package is gone");
        assert_eq!(listed(&self.rig).len(), 1);
        restored_is(&self.rig, "latest", &want, "out");
        assert_eq!(maint(&self.rig, &["check"]).status.code(), Some(1));
        let repair = maint(&self.rig, &["repair", "--yes"]);
        assert_eq!(repair.status.code(), Some(0), "{}", words(&repair));
        self.rig.maint(&["check", "--read-data"]);
        self.rig.maint(command);
        self.rig.maint(&["check", "--read-data"]);
        restored_is(&self.rig, "latest", &want, "healed");
    }
}

/// The data package, and the name of the file whose content comes first in it, or second.
fn file_at(rig: &Rig, front: bool) -> (PackageId, String) {
    let mut unlock = || Ok(PASSWORD.as_bytes().to_vec());
    let repository = Repository::open(&rig.path("repo"), &mut unlock, &OpenOptions::default()).unwrap();
    let packages = repository.index().packages().unwrap();
    let package = packages.iter().find(|info| info.kind == PackageKind::Data).unwrap();
    let point = repository.point_records().unwrap().remove(0);
    let (mut places, mut names) = (Vec::new(), Vec::new());
    for entry in relict::catalog::tree::range(&*repository, &point.root, &[]) {
        let entry = entry.unwrap();
        match Key::decode(entry.key()).unwrap() {
            Key::Extent(ino, _) => {
                let at = repository.locate(&Extent::decode(entry.value()).unwrap().chunk).unwrap().unwrap();
                places.push((at, ino));
            }
            Key::Dirent(_, name) => {
                let ino = repo_format::Dirent::decode(entry.value()).unwrap().ino;
                names.push((ino, String::from_utf8_lossy(name).into_owned()));
            }
            _ => {}
        }
    }
    places.sort_unstable();
    // Threads may have stored the files side by side: the one that comes first, or second.
    let first = places[0].1;
    let chosen = places.iter().map(|(_, ino)| *ino).find(|ino| front || *ino != first).unwrap();
    (package.id, names.into_iter().find(|(ino, _)| *ino == chosen).unwrap().1)
}

#[test]
fn compact_leaves_a_package_without_its_footer_alone_and_says_so() {
    for (front, command) in [
        (true, &["compact", "--yes"][..]),
        (false, &["compact", "--yes"]),
        (true, &["compact", "--yes", "--point", "latest"]),
        (false, &["compact", "--yes", "--point", "latest"]),
    ] {
        let holey = Holey::new(front);
        let done = maint(&holey.rig, command);
        let said = words(&done);
        assert_eq!(done.status.code(), Some(3), "{command:?}: {said}");
        assert!(said.contains(&holey.package.to_string()) && said.contains("relict-maint repair"), "{said}");
        let json = maint(&holey.rig, &[&["--json"], command].concat());
        let summary = message(&String::from_utf8_lossy(&json.stdout), "summary");
        assert_eq!(summary["damaged_packages"][0], holey.package.to_string(), "{summary}");
        holey.stays_and_heals(command);
    }
}

#[test]
fn a_rebuild_keeps_a_package_without_its_footer_and_says_so() {
    for (front, command) in [(true, "rebuild"), (false, "rebuild"), (true, "repair"), (false, "repair")] {
        let holey = Holey::new(front);
        fs::remove_dir_all(holey.rig.path("repo/db")).unwrap();
        let before = fs::read(holey.file()).unwrap();
        if command == "rebuild" {
            let done = maint(&holey.rig, &["rebuild"]);
            assert_eq!(done.status.code(), Some(3), "{}", words(&done));
            assert!(words(&done).contains(&holey.package.to_string()), "{}", words(&done));
            assert!(fs::read(holey.file()).unwrap() == before, "it is not written to");
            holey.stays_and_heals(&["compact", "--yes"]);
            continue;
        }
        let want = manifest(&holey.rig.source());
        let done = maint(&holey.rig, &["repair", "--yes"]);
        assert_eq!(done.status.code(), Some(0), "{}", words(&done));
        holey.rig.maint(&["check", "--read-data"]);
        restored_is(&holey.rig, "latest", &want, "out");
        let aside = fs::read(holey.rig.path(&format!("repo/quarantine/{}.pkg", holey.package))).unwrap();
        assert!(aside == before, "it is put aside as it was");
    }
}

#[test]
fn prune_does_not_go_by_a_package_that_lost_its_footer() {
    let holey = Holey::new(true);
    // Now a part of what is left is dead, too, so that prune looks into the package.
    let file = fs::read_dir(holey.rig.source()).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..2 << 20]).unwrap();
    holey.rig.backup();
    holey.rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    let before = fs::read(holey.file()).unwrap();
    let done = maint(&holey.rig, &["prune", "--yes"]);
    assert_eq!(done.status.code(), Some(1), "{}", words(&done));
    assert!(words(&done).contains("nothing was removed"), "{}", words(&done));
    assert!(fs::read(holey.file()).unwrap() == before);
    holey.stays_and_heals(&["prune", "--yes"]);
}

/// An older copy of the index comes back, which places content where prune has freed it since.
#[test]
fn a_backup_does_not_take_for_present_what_was_freed_after_its_index_was_copied() {
    let rig = Rig::new();
    let mut random = Random::from_env();
    let (db, older) = (rig.path("repo/db"), rig.path("older"));
    let gone = random.bytes(4 << 20);
    fs::write(rig.source().join("a"), &gone).unwrap();
    fs::write(rig.source().join("b"), random.bytes(4 << 20)).unwrap();
    rig.backup();
    fs::remove_file(rig.source().join("a")).unwrap();
    rig.backup();
    assert!(std::process::Command::new("cp").arg("-a").args([&db, &older]).status().unwrap().success());
    rig.maint(&["forget", "--yes", "--keep-last", "1"]);
    rig.maint(&["prune", "--yes"]);
    fs::remove_dir_all(&db).unwrap();
    fs::rename(&older, &db).unwrap();
    fs::write(rig.source().join("a"), &gone).unwrap();
    rig.backup();
    restored_is(&rig, "latest", &manifest(&rig.source()), "out");
    // The older index also knows the point that was pruned.
    assert_eq!(maint(&rig, &["check"]).status.code(), Some(1));
    rig.maint(&["rebuild"]);
    rig.maint(&["check", "--read-data"]);
    assert_eq!(listed(&rig).len(), 2);
    restored_is(&rig, "latest", &manifest(&rig.source()), "again");
}
