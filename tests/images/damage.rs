//! A repository that has rotted below a disk: increments go on, lose nothing more, and say what is lost already; what the
//! disk still has is read from it again.

use crate::rig::{Random, Rig, succeeded};
use crate::shim::with_bad_sectors;
use crate::tools::{TIME, cat, last_point, notes, our_list, write_sparse};
use repo_format::PointRecord;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_BYTES: usize = 12 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An `rbd export-diff`, version 1.
fn diff(from: Option<&str>, to: &str, size: usize, writes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut out = b"rbd diff v1\n".to_vec();
    for (tag, name) in [(b'f', from), (b't', Some(to))] {
        if let Some(name) = name {
            out.push(tag);
            out.extend((name.len() as u32).to_le_bytes());
            out.extend(name.as_bytes());
        }
    }
    out.push(b's');
    out.extend((size as u64).to_le_bytes());
    for (at, data) in writes {
        out.push(b'w');
        out.extend((*at as u64).to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        out.extend(*data);
    }
    out.push(b'e');
    out
}

fn command(rig: &Rig, args: &[&str]) -> Command {
    rig.command("relict", &[&["ingest"], args, &["--time", TIME]].concat())
}

/// `relict ingest`: exit code, what it said, and the last point.
fn ingest(rig: &Rig, args: &[&str]) -> (i32, String, PointRecord) {
    ended(rig, &mut command(rig, args))
}

fn ended(rig: &Rig, command: &mut Command) -> (i32, String, PointRecord) {
    let out = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap(), said, last_point(rig))
}

fn rbd(rig: &Rig, stream: &[u8]) -> (i32, String, PointRecord) {
    let path = rig.path("stream");
    std::fs::write(&path, stream).unwrap();
    ingest(rig, &["rbd", text(&path), "--source", "n:sda"])
}

fn largest_package(rig: &Rig) -> PathBuf {
    let mut found = Vec::new();
    let mut dirs = vec![rig.path("repo/packages")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path => found.push(path),
            }
        }
    }
    found.into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

/// Flips a bit in the middle of what is stored.
fn rot(rig: &Rig) {
    let path = largest_package(rig);
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 16], middle).unwrap();
}

/// The disk of a point as restore gives it: lost parts are zeros.
fn restored(rig: &Rig, point: &PointRecord) -> Vec<u8> {
    restored_by(rig, point, |_| ())
}

fn restored_by(rig: &Rig, point: &PointRecord, disturb: impl FnOnce(&mut Command)) -> Vec<u8> {
    let target = rig.path("restored");
    let _ = std::fs::remove_dir_all(&target);
    let mut command = rig.command("relict", &["-q", "restore", &point.id.to_string(), "-t", text(&target)]);
    disturb(&mut command);
    let out = command.output().unwrap();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(target.join("sda.raw")).unwrap()
}

/// First byte that differs, and the one behind the last.
fn difference(a: &[u8], b: &[u8]) -> (usize, usize) {
    assert_eq!(a.len(), b.len());
    let differ = |at: &usize| a[*at] != b[*at];
    ((0..a.len()).find(differ).unwrap(), (0..a.len()).rfind(differ).unwrap() + 1)
}

/// A disk of noise in a repository of its own, which then rots; the range that is lost.
fn rotten(seed: u64) -> (Rig, Vec<u8>, (usize, usize)) {
    let (rig, disk) = (Rig::new(), Random::of(seed).bytes(DISK_BYTES));
    let (code, said, point) = rbd(&rig, &diff(None, "a", DISK_BYTES, &[(0, &disk)]));
    assert_eq!(code, 0, "{said}");
    rot(&rig);
    let lost = difference(&restored(&rig, &point), &disk);
    assert!(lost.1 - lost.0 < DISK_BYTES / 2, "{lost:?}");
    (rig, disk, lost)
}

/// `check` names the last point's disk.
fn is_named_by_check(rig: &Rig) {
    let out = rig.command("relict-maint", &["check", "--read-data", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let newest = last_point(rig).id.to_string();
    let affected = said.contains("sda.raw") && said.contains(newest.get(..8).unwrap());
    assert!(out.status.code() == Some(1) && affected, "{newest}: {said}");
}

#[test]
fn a_change_beside_damage_is_taken_and_the_damage_stays_and_is_named() {
    for behind in [false, true] {
        let (rig, mut disk, lost) = rotten(1);
        let new = Random::of(2).bytes(3000);
        let at = if behind { lost.1 + 1 } else { lost.0 - 3001 };
        disk[at..at + 3000].copy_from_slice(&new);
        let (code, said, point) = rbd(&rig, &diff(Some("a"), "b", DISK_BYTES, &[(at, &new)]));
        assert_eq!(code, 3, "{said}");
        for what in [&said, &notes(&point)] {
            let short = what.contains("sda.raw") && what.contains("were damaged in the repository already");
            assert!(short && what.contains("chunk "), "{what}");
        }
        assert!(said.contains("relict-maint repair --from"), "{said}");
        let now = restored(&rig, &point);
        assert_eq!(difference(&now, &disk), lost, "no more is lost, and nothing else");
        is_named_by_check(&rig);
        // And again, on top of that.
        let at = if behind { lost.1 + 9000 } else { lost.0 - 9000 };
        disk[at..at + 3000].copy_from_slice(&new);
        let (code, said, point) = rbd(&rig, &diff(Some("b"), "c", DISK_BYTES, &[(at, &new)]));
        assert!(matches!(code, 0 | 3), "{said}");
        assert_eq!(difference(&restored(&rig, &point), &disk), lost);
    }
}

#[test]
fn what_covers_damage_heals_it() {
    let (rig, mut disk, lost) = rotten(3);
    let (start, end) = (lost.0 - 5000, lost.1 + 5000);
    let new = Random::of(4).bytes(end - start);
    disk[start..end].copy_from_slice(&new);
    let (code, said, point) = rbd(&rig, &diff(Some("a"), "b", DISK_BYTES, &[(start, &new)]));
    assert_eq!((code, notes(&point).as_str()), (0, ""), "{said}");
    assert!(cat(&rig, &point, "sda.raw") == disk);
}

#[test]
fn what_covers_a_part_of_damage_heals_that_part() {
    let (rig, mut disk, lost) = rotten(5);
    let (start, end) = (lost.0 + 1000, lost.1 - 700);
    let new = Random::of(6).bytes(end - start);
    disk[start..end].copy_from_slice(&new);
    let (code, said, point) = rbd(&rig, &diff(Some("a"), "b", DISK_BYTES, &[(start, &new)]));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("1700 bytes in 2 places"), "{said}");
    let now = restored(&rig, &point);
    let wrong: Vec<usize> = (0..disk.len()).filter(|at| now[*at] != disk[*at]).collect();
    assert!(wrong.len() <= 1700 && wrong.iter().all(|at| (lost.0..start).contains(at) || (end..lost.1).contains(at)));
    is_named_by_check(&rig);
    // The whole state heals the rest, here and in the points before.
    let (code, said, _) = rbd(&rig, &diff(None, "whole", DISK_BYTES, &[(0, &Random::of(5).bytes(DISK_BYTES))]));
    assert_eq!(code, 0, "{said}");
    assert!(cat(&rig, &point, "sda.raw") == disk);
}

#[test]
fn a_lost_package_costs_what_was_in_it() {
    let (rig, disk, _) = rotten(7);
    std::fs::remove_file(largest_package(&rig)).unwrap();
    let new = Random::of(8).bytes(300_000);
    let (code, said, point) = rbd(&rig, &diff(Some("a"), "b", DISK_BYTES, &[(5_000_000, &new)]));
    assert_eq!(code, 3, "{said}");
    let now = restored(&rig, &point);
    assert!(now[5_000_000..5_300_000] == new);
    // What is not new is what it was, or lost.
    assert!((0..disk.len()).all(|at| (5_000_000..5_300_000).contains(&at) || now[at] == disk[at] || now[at] == 0));
}

#[test]
fn what_the_disk_still_has_is_read_again() {
    let (rig, mut disk, lost) = rotten(9);
    let at = lost.0 - 3001;
    disk[at..at + 3000].copy_from_slice(&Random::of(10).bytes(3000));
    let (image, list) = (rig.path("now.raw"), rig.path("list"));
    write_sparse(&image, &disk);
    std::fs::write(&list, our_list("a", DISK_BYTES, &[(at as u64, 3000)])).unwrap();
    let (code, said, point) = ingest(&rig, &["image", text(&image), "--source", "n:sda", "--extents", text(&list)]);
    assert_eq!(code, 0, "{said}");
    let noted = notes(&point);
    assert!(noted.contains("by differences") && noted.contains("were read again from the source"), "{noted}");
    let now = restored(&rig, &point);
    let left = if now == disk { (lost.1, lost.1) } else { difference(&now, &disk) };
    assert!(left.0 > lost.0, "nothing healed: {left:?} of {lost:?}");
    // Reading all of it heals what is left, and is the same tree: the law.
    let (code, said, whole) = ingest(&rig, &["image", text(&image), "--source", "n:sda"]);
    assert_eq!(code, 0, "{said}");
    assert!(cat(&rig, &point, "sda.raw") == disk && whole.root == point.root);
}

/// A disk of noise in a repository that lies on bad sectors from here on: all of these bytes of its largest package.
struct Bad {
    rig: Rig,
    disk: Vec<u8>,
    image: PathBuf,
    package: PathBuf,
    bytes: Range<u64>,
}

impl Bad {
    /// The bad bytes, from `part` of the package's length.
    fn new(seed: u64, part: impl FnOnce(u64) -> Range<u64>) -> Self {
        let (rig, disk) = (Rig::new(), Random::of(seed).bytes(DISK_BYTES));
        let image = rig.path("now.raw");
        write_sparse(&image, &disk);
        ingest(&rig, &["image", text(&image), "--source", "n:sda", "--state", "a"]);
        let package = largest_package(&rig);
        let bytes = part(package.metadata().unwrap().len());
        Self { rig, disk, image, package, bytes }
    }

    fn disturb(&self, command: &mut Command) {
        with_bad_sectors(command, &self.package, self.bytes.clone(), None);
    }

    /// Changes the disk, and ingests it by a list that says so.
    fn change(&mut self, at: usize, len: usize) -> (i32, String, PointRecord) {
        self.disk[at..at + len].copy_from_slice(&Random::of(at as u64).bytes(len));
        write_sparse(&self.image, &self.disk);
        let list = self.rig.path("list");
        std::fs::write(&list, our_list("a", DISK_BYTES, &[(at as u64, len as u64)])).unwrap();
        self.ingest(&["--extents", text(&list)])
    }

    fn ingest(&self, more: &[&str]) -> (i32, String, PointRecord) {
        let mut command = command(&self.rig, &[&["image", text(&self.image), "--source", "n:sda"], more].concat());
        self.disturb(&mut command);
        ended(&self.rig, &mut command)
    }

    fn restored(&self, point: &PointRecord) -> Vec<u8> {
        restored_by(&self.rig, point, |command| self.disturb(command))
    }
}

#[test]
fn what_bad_sectors_took_is_read_again_and_heals() {
    let mut bad = Bad::new(21, |bytes| bytes / 2..bytes / 2 + 1);
    let lost = difference(&bad.restored(&last_point(&bad.rig)), &bad.disk);
    let (code, said, point) = bad.change(lost.0 - 3001, 3000);
    assert_eq!(code, 0, "{said}");
    let noted = notes(&point);
    assert!(noted.contains("by differences") && noted.contains("were read again from the source"), "{noted}");
    let now = bad.restored(&point);
    let left = if now == bad.disk { (lost.1, lost.1) } else { difference(&now, &bad.disk) };
    assert!(left.0 > lost.0, "nothing healed: {left:?} of {lost:?}");
    // Reading all of it heals what is left, although each run finds the sectors as bad as before.
    let (code, said, whole) = bad.ingest(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(bad.restored(&point) == bad.disk && whole.root == point.root);
}

#[test]
fn bad_sectors_below_what_is_compared_stop_no_ingest() {
    let mut bad = Bad::new(22, |bytes| bytes / 2..bytes);
    let (code, said, point) = bad.change(3_000_000, 5000);
    assert_eq!(code, 0, "{said}");
    let noted = notes(&point);
    assert!(noted.contains("by differences") && noted.contains("compared with the disk, were damaged"), "{noted}");
    let now = bad.restored(&point);
    assert!((0..now.len()).all(|at| now[at] == bad.disk[at] || now[at] == 0));
}

/// Places that are all damaged say nothing of whose list it is.
#[test]
fn a_list_is_not_believed_where_nothing_can_be_compared() {
    let mut bad = Bad::new(24, |bytes| 0..bytes);
    // It is a list of something else.
    for at in (0..DISK_BYTES).step_by(1 << 20).skip(1) {
        bad.disk[at] ^= 1;
    }
    let (code, said, point) = bad.change(1000, 5000);
    assert_eq!(code, 0, "{said}");
    let noted = notes(&point);
    assert!(
        noted.contains("read and compared completely") && noted.contains("is damaged in the repository"),
        "{noted}"
    );
    assert!(cat(&bad.rig, &point, "sda.raw") == bad.disk);
}

#[test]
fn a_bad_sector_of_the_disk_itself_is_no_damage_of_the_repository() {
    let bad = Bad::new(23, |_| 0..0);
    let list = bad.rig.path("list");
    std::fs::write(&list, our_list("a", DISK_BYTES, &[(1 << 20, 4096)])).unwrap();
    let args = ["image", text(&bad.image), "--source", "n:sda", "--extents", text(&list)];
    let mut command = command(&bad.rig, &args);
    // Once: who takes it for damage of the repository reads all of the disk then, and well.
    with_bad_sectors(&mut command, &bad.image, 1 << 20..(1 << 20) + 4096, Some(1));
    let (code, said, _) = ended(&bad.rig, &mut command);
    assert!(code == 1 && said.contains("now.raw") && said.contains("os error 5"), "{code}: {said}");
    assert_eq!(crate::tools::points(&bad.rig).len(), 1);
}

/// Two states of a disk with so many chunks that its tree has many leaves: what the second did not change is in the first's
/// packages, so that the root can be read where other nodes cannot.
fn many_leaves(seed: u64) -> (Rig, Vec<u8>, PathBuf) {
    let (rig, mut disk) = (Rig::new(), Random::of(seed).bytes(DISK_BYTES));
    std::fs::remove_dir_all(rig.path("repo")).unwrap();
    rig.relict(&["--quiet", "init", "--chunk-size", "4K"]);
    let (image, list) = (rig.path("now.raw"), rig.path("list"));
    write_sparse(&image, &disk);
    ingest(&rig, &["image", text(&image), "--source", "n:sda", "--state", "a"]);
    disk[..4096].copy_from_slice(&Random::of(seed + 1).bytes(4096));
    write_sparse(&image, &disk);
    std::fs::write(&list, our_list("a", DISK_BYTES, &[(0, 4096)])).unwrap();
    let args = ["image", text(&image), "--source", "n:sda", "--state", "b", "--extents", text(&list)];
    let (code, said, point) = ingest(&rig, &args);
    assert!(code == 0 && notes(&point).contains("by differences"), "{said}");
    std::fs::write(&list, our_list("b", DISK_BYTES, &[(8192, 4096)])).unwrap();
    (rig, disk, list)
}

#[test]
fn a_disk_whose_tree_is_damaged_is_read_completely() {
    let (rig, disk, list) = many_leaves(11);
    let (image, repository, saved) = (rig.path("now.raw"), rig.path("repo"), rig.path("saved"));
    succeeded(Command::new("cp").arg("-a").args([&repository, &saved]));
    // All packages but that of the content: of the tree nothing is left but what the index says.
    let content = largest_package(&rig);
    let (mut roots, mut leaves) = (0, 0);
    for package in walk(&repository.join("packages")).into_iter().filter(|path| *path != content) {
        let good = std::fs::read(&package).unwrap();
        let bytes = good.len() as u64;
        for (at, rots) in (bytes / 4..bytes).step_by(good.len() / 6).flat_map(|at| [(at, true), (at, false)]) {
            let mut command = command(&rig, &["image", text(&image), "--source", "n:sda", "--extents", text(&list)]);
            if rots {
                let mut bad = good.clone();
                bad[at as usize] ^= 1;
                std::fs::write(&package, &bad).unwrap();
            } else {
                with_bad_sectors(&mut command, &package, at..at + 1, None);
            }
            let (code, said, point) = ended(&rig, &mut command);
            assert_eq!(code, 0, "{} at {at} of {bytes}, rots: {rots}: {said}", package.display());
            assert!(cat(&rig, &point, "sda.raw") == disk, "{said}");
            roots += usize::from(notes(&point).contains("its base, the restore point"));
            leaves += usize::from(notes(&point).contains("the restore point to begin from is damaged"));
            std::fs::remove_dir_all(&repository).unwrap();
            succeeded(Command::new("cp").arg("-a").args([&saved, &repository]));
        }
    }
    assert!(roots > 0 && leaves > 0, "no place met the tree: {roots}, {leaves}");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { out.extend(walk(&entry)) } else { out.push(entry) }
    }
    out
}
