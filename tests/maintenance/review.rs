//! What a review of `relict-maint` and its neighbours found, by the real programs.

use crate::rig::{PASSWORD, Random, Rig};
use crate::walker::manifest;
use crate::{listed, maint, restored_is, three_points, words};
use relict::store::{Location, OpenOptions, Repository};
use repo_format::PackageKind;
use std::fs;
use std::process::{Output, Stdio};

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

/// Runs `relict-maint` with nobody at the other end of standard output, nor of standard error if `both`.
fn unheard(rig: &Rig, args: &[&str], both: bool) -> Output {
    let closed = || std::io::pipe().unwrap().1;
    let mut command = rig.command("relict-maint", args);
    command.stdout(closed()).stderr(Stdio::piped());
    if both {
        command.stderr(closed());
    }
    command.spawn().unwrap().wait_with_output().unwrap()
}

/// `relict-maint ... | head`: what changes the repository finishes its work, and the exit code is that of SPEC.md section 11.
#[test]
fn a_reader_that_goes_away_cuts_no_maintenance_short() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    let gone = |args: &[&str]| {
        for both in [false, true] {
            let out = unheard(&rig, args, both);
            assert_eq!((out.status.code(), out.stderr.len()), (Some(141), 0), "{args:?}: {}", words(&out));
        }
    };
    for args in [&["stats"][..], &["health"], &["health", "--prometheus"], &["dump", "header"], &["keys", "list"]] {
        gone(args);
    }
    assert!(rig.maint(&["health"]).contains("no check has been written down"));
    gone(&["check"]);
    assert!(rig.maint(&["health"]).contains("the last check"), "written down although nobody listens");
    let one = unheard(&rig, &["forget", "--yes", &points[0]], true);
    assert_eq!((one.status.code(), listed(&rig)), (Some(141), points[1..].to_vec()), "{}", words(&one));
    let one = unheard(&rig, &["prune", "--yes"], true);
    assert_eq!(one.status.code(), Some(141), "{}", words(&one));
    assert!(rig.maint(&["prune", "--yes"]).contains("nothing to remove"));
    gone(&["--json", "compact", "--yes"]);
    gone(&["rebuild"]);
    gone(&["repair", "--yes"]);
    assert_eq!(listed(&rig), points[1..]);
    // Without --yes there is nobody to ask, and what is wrong is said where somebody listens.
    let refused = unheard(&rig, &["forget", &points[1]], false);
    assert_eq!((refused.status.code(), listed(&rig)), (Some(141), points[1..].to_vec()), "{}", words(&refused));
}
