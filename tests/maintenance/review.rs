//! What a review of `relict-maint` and its neighbours found, by the real programs.

use crate::rig::{PASSWORD, Random, Rig};
use crate::walker::manifest;
use crate::{listed, maint, restored_is, words};
use relict::store::{Location, OpenOptions, Repository};
use repo_format::PackageKind;
use std::fs;

/// The first segment of content, in the order of packages, and the path of its package.
fn some_content(rig: &Rig) -> (std::path::PathBuf, Location) {
    let mut password = || Ok(PASSWORD.as_bytes().to_vec());
    let repository = Repository::open(&rig.path("repo"), &mut password, &OpenOptions::default()).unwrap();
    let packages = repository.index().packages().unwrap();
    let data = packages.iter().find(|package| package.kind == PackageKind::Data).unwrap();
    let (at, _) = repository.index().chunks_in(&[data.number].into()).unwrap()[0];
    let id = data.id.to_string();
    (rig.path("repo/packages").join(&id[..2]).join(format!("{id}.pkg")), at)
}

/// An extent that the file system lost reads as zeros, as a freed segment does. After a check the next backup reads the
/// unchanged file again, and the older restore point has its content back.
#[test]
fn what_became_zeros_is_brought_back_by_the_backup_after_a_check() {
    let rig = Rig::new();
    fs::write(rig.source().join("file"), Random::from_env().bytes(3 << 20)).unwrap();
    let want = manifest(&rig.source());
    rig.backup();
    let (package, at) = some_content(&rig);
    let mut bytes = fs::read(&package).unwrap();
    bytes[at.offset as usize..(at.offset + at.segment_bytes) as usize].fill(0);
    fs::remove_file(&package).unwrap();
    fs::write(&package, bytes).unwrap();
    let check = maint(&rig, &["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", words(&check));
    assert!(words(&check).contains("reads as zeros") && words(&check).contains("/file"), "{}", words(&check));
    rig.backup();
    rig.maint(&["check", "--read-data"]);
    restored_is(&rig, &listed(&rig)[0], &want, "out");
}
