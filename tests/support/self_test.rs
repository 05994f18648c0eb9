//! Tests of the test tools: a generator or walker that misses something would make every other test
//! weaker without a word. One test binary includes this file: `#[path = "support/self_test.rs"] mod self_test;`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::tree_gen::{TreePlan, arb_changes, arb_tree, build, build_deep, mutate};
use crate::support::walker::{CompareOptions, FIELDS, Manifest, assert_same, diff, manifest};

const PLANS: usize = 200;

/// Plans from a fixed seed, so that a failure comes back.
fn plans(strategy: &impl Strategy<Value = TreePlan>) -> Vec<TreePlan> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..PLANS).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn built(plan: &TreePlan) -> (tempfile::TempDir, Manifest) {
    let temp = tempfile::tempdir().unwrap();
    build(plan, temp.path()).unwrap_or_else(|e| panic!("{e}\n{plan:?}"));
    let walked = manifest(temp.path());
    (temp, walked)
}

/// Times that nobody sets, and where a file system puts its blocks, are its own affair.
fn same_plan() -> CompareOptions {
    CompareOptions::all().ignoring(&["btime", "blocks"])
}

#[test]
fn two_builds_of_a_plan_are_equal_and_so_are_two_mutations() {
    let mutations = plans(&arb_changes());
    let (mut changed, mut seen) = (0, BTreeMap::<String, usize>::new());
    for (plan, changes) in plans(&arb_tree()).iter().zip(&mutations) {
        let ((one, before), (two, again)) = (built(plan), built(plan));
        assert_same(&before, &again, &same_plan());
        mutate(changes, one.path()).unwrap_or_else(|e| panic!("{e}\n{changes:?}"));
        mutate(changes, two.path()).unwrap();
        let after = manifest(one.path());
        assert_same(&after, &manifest(two.path()), &same_plan().ignoring(&["mtime"]));
        changed += usize::from(!diff(&before, &after, &CompareOptions::all()).is_empty());
        count(&before, &mut seen);
        count(&after, &mut seen);
    }
    assert!(changed > PLANS * 8 / 10, "{changed} of {PLANS} mutations changed anything");
    let mut expected: Vec<_> = "fdlps".chars().map(|kind| kind.to_string()).collect();
    let others = ["hole", "zero", "linked", "suid", "before 1970", "user.", "not UTF-8", "3 deep", "empty"];
    expected.extend(others.map(String::from));
    for what in expected {
        assert!(seen.get(&what).is_some_and(|n| *n > 20), "{what} is too rare: {seen:?}");
    }
}

/// Counts what the generator promises to make.
fn count(walked: &Manifest, seen: &mut BTreeMap<String, usize>) {
    for (path, entry) in walked {
        let mut add = |what: &str, is: bool| *seen.entry(what.into()).or_default() += usize::from(is);
        add(&entry.kind.to_string(), true);
        add("hole", !entry.holes.is_empty());
        add("zero", entry.zeros.len() > 1);
        add("empty", entry.size == Some(0));
        add("linked", entry.nlink.is_some_and(|n| n > 1));
        add("suid", entry.mode & 0o4000 != 0);
        add("before 1970", entry.mtime < 0);
        add("not UTF-8", str::from_utf8(path).is_err());
        add("3 deep", path.iter().filter(|b| **b == b'/').count() >= 2);
        for name in entry.xattrs.keys() {
            add(if name.starts_with(b"user.") { "user." } else { "other attribute" }, true);
        }
    }
}

#[test]
fn the_walker_sees_each_kind_of_change() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("f"), vec![1; 20_000]).unwrap();
    fs::write(at("g"), b"g").unwrap();
    fs::hard_link(at("f"), at("h")).unwrap();
    symlink("f", at("l")).unwrap();
    fs::create_dir(at("d")).unwrap();
    let start = manifest(temp.path());
    assert!(diff(&start, &start, &CompareOptions::all()).is_empty());
    assert_eq!(start[b"h".as_slice()].link_of.as_deref(), Some(b"f".as_slice()));
    assert_eq!(start[b"l".as_slice()].target.as_deref(), Some(b"f".as_slice()));

    let mut bytes = vec![1; 20_000];
    bytes[4096..12_288].fill(0);
    fs::write(at("f"), bytes).unwrap();
    fs::set_permissions(at("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(at("g")).unwrap();
    fs::write(at("i"), b"").unwrap();
    let lines =
        diff(&start, &manifest(temp.path()), &CompareOptions::all().ignoring(&["mtime", "btime"]).ignoring_root());
    let seen: BTreeSet<_> = lines.iter().map(|line| line.split([' ']).take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = ["d: mode", "f: content", "f: zeros", "g: only", "h: content", "h: zeros", "i: only"];
    assert_eq!(seen, expected.map(String::from).into(), "{lines:#?}");
    assert_eq!(manifest(temp.path())[b"f".as_slice()].zeros, [(1, 2)]);
}

#[test]
fn each_field_makes_a_difference_and_can_be_ignored() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("f"), b"x").unwrap();
    let one = manifest(temp.path());
    for field in FIELDS {
        let mut two = one.clone();
        let entry = two.get_mut(b"f".as_slice()).unwrap();
        match field {
            "kind" => entry.kind = 'd',
            "mode" => entry.mode ^= 0o4000,
            "uid" => entry.uid += 1,
            "gid" => entry.gid += 1,
            "nlink" => entry.nlink = Some(9),
            "size" => entry.size = Some(9),
            "mtime" => entry.mtime += 1,
            "btime" => entry.btime = Some(1),
            "rdev" => entry.rdev.1 += 1,
            "content" => entry.content = Some([7; 32]),
            "zeros" => entry.zeros = vec![(0, 1)],
            "holes" => entry.holes = vec![(0, 1)],
            "blocks" => entry.blocks = Some(99),
            "xattrs" => drop(entry.xattrs.insert(b"user.x".to_vec(), Vec::new())),
            "target" => entry.target = Some(b"t".to_vec()),
            "link_of" => entry.link_of = Some(b"a".to_vec()),
            other => panic!("no change for {other}"),
        }
        assert_eq!(diff(&one, &two, &CompareOptions::all()).len(), 1, "{field}");
        assert!(diff(&one, &two, &CompareOptions::all().ignoring(&[field])).is_empty(), "{field}");
    }
}

#[test]
fn paths_longer_than_the_system_allows() {
    let temp = tempfile::tempdir().unwrap();
    build_deep(temp.path(), 1200, 50).unwrap();
    let walked = manifest(temp.path());
    assert_eq!(walked.len(), 1202);
    let (path, bottom) = walked.last_key_value().unwrap();
    assert!(path.len() > 60_000 && path.ends_with(b"/bottom"));
    assert_eq!(bottom.size, Some(4));
}

#[test]
fn odd_places_can_be_walked() {
    // A file system without attributes, sizes or holes that make sense; only must not fail.
    let walked = manifest(Path::new("/proc/self/ns"));
    assert!(walked.values().any(|entry| entry.kind == 'l'));
}
