//! The same diseases where the packages are inside the database (`init --store rocksdb`). There is no rebuild of that, so
//! what can be mended is what packages and trees lose.

use super::made::{Made, Verdict, copy_dir, unlock};
use super::text;
use relict::store::{OpenOptions, PackageInfo, Writer};
use repo_format::{PackageId, PackageKind, StoreKind};

fn made() -> Made {
    Made::in_store(StoreKind::RocksDb, true, [16 << 10, 64 << 10, 256 << 10])
}

fn packages(made: &Made, kind: PackageKind) -> Vec<PackageInfo> {
    let mut all = made.open().index().packages().unwrap();
    all.retain(|info| info.kind == kind);
    all.sort_by_key(|info| info.number);
    all
}

/// Puts other bytes in the place of a package; None: nothing.
fn change(made: &Made, id: &PackageId, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let writer = Writer::open(&made.repo(), &mut unlock, &OpenOptions::default()).unwrap();
    let store = writer.repository().packages();
    let mut bytes = vec![0; store.len(id).unwrap() as usize];
    store.read(id, 0, &mut bytes).unwrap();
    store.delete(id).unwrap();
    if let Some(new) = change(bytes) {
        store.create(id).unwrap();
        store.append(id, 0, &[&new]).unwrap();
        store.seal(id).unwrap();
    }
}

fn flip(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let mut bytes = bytes;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    Some(bytes)
}

/// After a repair every file reads as it was, or gives an error and is marked; and check has nothing against it.
fn mended(made: &Made, damaged: usize) {
    let check = made.maint(&["check", "--read-data"]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check));
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    assert_eq!(std::fs::read_dir(made.repo().join("quarantine")).unwrap().count(), 1, "{}", text(&repair));
    let again = made.maint(&["check", "--read-data"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    let readings = made.read_every_file();
    let right = readings.iter().filter(|r| r.verdict == Verdict::Right).count();
    let marked = readings.iter().filter(|r| r.verdict == Verdict::Error { marked: true }).count();
    assert_eq!(right + marked, readings.len());
    assert!(marked >= 1 && marked <= damaged, "{marked} files are damaged: {}", text(&repair));
    let second = made.maint(&["repair", "--yes", "--quiet"]);
    assert_eq!(second.status.code(), Some(3), "{}", text(&second));
    assert_eq!(made.read_every_file().iter().filter(|r| r.verdict == Verdict::Right).count(), right);
}

#[test]
fn flipped_content_in_the_database() {
    let made = made();
    change(&made, &packages(&made, PackageKind::Data)[0].id, flip);
    mended(&made, 6);
}

#[test]
fn a_missing_package_heals_from_a_copy() {
    let made = made();
    let copy = made.dir.path().join("copy");
    copy_dir(&made.repo(), &copy);
    change(&made, &packages(&made, PackageKind::Data)[0].id, |_| None);
    change(&made, &packages(&made, PackageKind::Meta)[1].id, flip);
    let check = made.maint(&["check", "--read-data"]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check));
    let repair = made.maint(&["repair", "--yes", "--from", copy.to_str().unwrap()]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    super::all_right(&made, &repair);
}

#[test]
fn there_is_no_rebuild_and_it_says_so() {
    let made = made();
    let rebuild = made.maint(&["rebuild"]);
    assert_eq!(rebuild.status.code(), Some(2), "{}", text(&rebuild));
    assert!(text(&rebuild).contains("inside its database"), "{}", text(&rebuild));
    super::all_right(&made, &made.maint(&["repair", "--yes"]));
}
