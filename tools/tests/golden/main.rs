//! Golden repositories by disease. Of each: what check says (a reviewed snapshot), what repair does, and how every file of
//! every restore point reads afterwards. Whatever the disease: no file ever reads as something it was not.

mod blobs;
mod keys;
mod made;
mod spread;
mod upkeep;

use made::{Made, Verdict, change, copy_dir};
use relict::cli::text::size;
use repo_format::PackageKind;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Package ids as P1, P2, ... in order of writing, the directory as REPO: what a seed cannot fix.
fn redacted(made: &Made, packages: &[(PackageKind, PathBuf)], text: &str) -> String {
    let mut out = text.replace(&made.repo().display().to_string(), "REPO");
    for (number, (_, path)) in packages.iter().enumerate() {
        let id = path.file_stem().unwrap().to_string_lossy().into_owned();
        out = out.replace(&format!("packages/{}/", &id[..2]), "packages/XX/").replace(&id, &format!("P{}", number + 1));
    }
    out
}

/// The findings in order of their text: their own order follows ids that are drawn.
fn ordered(text: &str) -> String {
    let (mut findings, mut rest): (Vec<String>, String) = (Vec::new(), String::new());
    for line in text.lines() {
        if line.starts_with("problem: ") || line.starts_with("warning: ") {
            findings.push(format!("{line}\n"));
        } else if let Some(last) = findings.last_mut().filter(|_| line.starts_with("    ") && rest.is_empty()) {
            last.push_str(&format!("{line}\n"));
        } else {
            rest.push_str(&format!("{line}\n"));
        }
    }
    findings.sort();
    findings.concat() + &rest
}

/// How the files read, by verdict; the paths of all that are not right.
fn readings(made: &Made) -> String {
    let mut out: BTreeMap<(usize, Verdict), Vec<String>> = BTreeMap::new();
    for reading in made.read_every_file() {
        assert_ne!(
            reading.verdict,
            Verdict::Wrong,
            "{} in point {} reads as something it was not",
            reading.path,
            reading.point
        );
        out.entry((reading.point, reading.verdict)).or_default().push(reading.path);
    }
    let line = |((point, verdict), paths): (&(usize, Verdict), &Vec<String>)| match verdict {
        Verdict::Right => format!("point {point}: {} files right\n", paths.len()),
        _ => format!("point {point}: {verdict:?}: {}\n", paths.join(" ")),
    };
    out.iter().map(line).collect()
}

/// Makes the repository ill, and writes down what check, repair, and check again say, and how the files read.
fn case(name: &str, damage: impl FnOnce(&Made, &[(PackageKind, PathBuf)])) {
    let made = Made::new();
    let packages = made.packages();
    damage(&made, &packages);
    // What the damage needed to be done, as forgetting, may have made packages. Their records hold the time of day, and compress as it does.
    let meanwhile: Vec<PathBuf> =
        listed(&made).into_iter().filter(|path| packages.iter().all(|(_, known)| known != path)).collect();
    let sizes: Vec<String> = meanwhile.iter().map(|path| size(path.metadata().unwrap().len())).collect();
    let without_time = |text: String| match sizes.is_empty() {
        true => text,
        false => without_bytes_read(&without_sizes_of(packages.len(), &sizes, text)),
    };
    let packages: Vec<_> =
        packages.iter().cloned().chain(meanwhile.iter().map(|path| (PackageKind::Meta, path.clone()))).collect();
    let check = made.maint(&["check", "--read-data"]);
    let plan = made.maint(&["repair", "--dry-run", "--quiet"]);
    let repair = made.maint(&["repair", "--yes"]);
    let again = made.maint(&["check", "--read-data"]);
    assert!(matches!(again.status.code(), Some(0 | 3)), "{name}: after the repair: {}", text(&again));
    let second = made.maint(&["repair", "--yes", "--quiet"]);
    assert!(matches!(second.status.code(), Some(0 | 3)), "{name}: a second repair: {}", text(&second));
    let known = |output: &Output| {
        ordered(&redacted(&made, &[packages.clone(), new_packages(&made, &packages)].concat(), &text(output)))
    };
    let report = format!(
        "check: exit {:?}\n{}\nplan: exit {:?}\n\nrepair: exit {:?}\n{}\ncheck again: exit {:?}\n{}\nfiles:\n{}",
        check.status.code().unwrap(),
        without_time(known(&check)),
        plan.status.code().unwrap(),
        repair.status.code().unwrap(),
        without_time(done(&known(&repair))),
        again.status.code().unwrap(),
        without_sizes(&known(&again)),
        readings(&made)
    );
    insta::assert_snapshot!(name, report);
}

/// Packages that a repair made.
fn new_packages(made: &Made, old: &[(PackageKind, PathBuf)]) -> Vec<(PackageKind, PathBuf)> {
    made.packages().into_iter().filter(|p| !old.contains(p)).collect()
}

/// Without the bytes read of all packages.
fn without_bytes_read(text: &str) -> String {
    let line = |line: &str| match (line.split_once("; read "), line.split_once(" of ")) {
        (Some((front, _)), Some((_, packages))) if line.starts_with("checked ") => format!("{front}; read {packages}"),
        _ => line.to_owned(),
    };
    text.lines().map(line).map(|line| line + "\n").collect()
}

/// Where a package behind the first `known` ones is put aside and its size is said as it is: "its size".
fn without_sizes_of(known: usize, sizes: &[String], text: String) -> String {
    let aside = |number: usize, size: &str| format!("put package P{number} aside in quarantine/ ({size})");
    let numbered = sizes.iter().zip(known + 1..);
    numbered.fold(text, |text, (size, number)| text.replace(&aside(number, size), &aside(number, "its size")))
}

/// Without the counts that hang on where new tree nodes end: a repair writes its date into the tree.
fn without_sizes(text: &str) -> String {
    let line = |line: &str| match line.split_once(" tree entries, ") {
        Some((front, _)) if line.starts_with("checked ") => format!("{front} tree entries"),
        _ => line.to_owned(),
    };
    text.lines().map(line).map(|line| line + "\n").collect()
}

/// What repair says behind the findings, which are the check's.
fn done(text: &str) -> String {
    text.find("the repair will:").map_or(text, |at| &text[at..]).to_owned()
}

fn nth(packages: &[(PackageKind, PathBuf)], kind: PackageKind, n: usize) -> &PathBuf {
    &packages.iter().filter(|(k, _)| *k == kind).nth(n).unwrap().1
}

fn flip(path: &std::path::Path, at: impl FnOnce(&[u8]) -> usize) {
    change(path, |bytes| {
        let at = at(bytes);
        bytes[at] ^= 0x20;
    });
}

#[test]
fn healthy() {
    case("healthy", |_, _| {});
}

#[test]
fn missing_data_package() {
    case("missing_data_package", |_, packages| std::fs::remove_file(nth(packages, PackageKind::Data, 1)).unwrap());
}

#[test]
fn missing_metadata_package() {
    case("missing_metadata_package", |_, packages| std::fs::remove_file(nth(packages, PackageKind::Meta, 1)).unwrap());
}

#[test]
fn truncated_package() {
    case("truncated_package", |_, packages| {
        change(nth(packages, PackageKind::Data, 0), |bytes| bytes.truncate(bytes.len() / 2))
    });
}

#[test]
fn empty_package() {
    case("empty_package", |_, packages| change(nth(packages, PackageKind::Data, 2), Vec::clear));
}

#[test]
fn flipped_package_header() {
    case("flipped_package_header", |_, packages| flip(nth(packages, PackageKind::Data, 0), |_| 9));
}

#[test]
fn flipped_segment_header() {
    case("flipped_segment_header", |_, packages| flip(nth(packages, PackageKind::Data, 0), |_| 64 + 5));
}

#[test]
fn flipped_chunk_table() {
    case("flipped_chunk_table", |_, packages| flip(nth(packages, PackageKind::Data, 0), |_| 64 + 64 + 3));
}

#[test]
fn flipped_content() {
    case("flipped_content", |_, packages| flip(nth(packages, PackageKind::Data, 0), |bytes| bytes.len() / 2));
}

#[test]
fn flipped_footer() {
    case("flipped_footer", |_, packages| flip(nth(packages, PackageKind::Data, 0), |bytes| bytes.len() - 30));
}

#[test]
fn flipped_end_of_package() {
    case("flipped_end_of_package", |_, packages| flip(nth(packages, PackageKind::Meta, 0), |bytes| bytes.len() - 22));
}

#[test]
fn flipped_tree_node() {
    case("flipped_tree_node", |_, packages| flip(nth(packages, PackageKind::Meta, 2), |bytes| 64 + bytes.len() / 4));
}

#[test]
fn flipped_point_record() {
    // The record is the last segment; its payload ends where the footer of two or more rows begins.
    case("flipped_point_record", |_, packages| {
        flip(nth(packages, PackageKind::Meta, 1), |bytes| {
            let footer = u32::from_le_bytes(bytes[bytes.len() - 20..][..4].try_into().unwrap()) as usize;
            bytes.len() - footer - 10
        });
    });
}

#[test]
fn flipped_point_state() {
    // A decision about a point is a package of its own; the index still knows what it said.
    case("flipped_point_state", |made, packages| {
        assert!(made.maint(&["protect", &"01".repeat(16)]).status.success());
        let state = new_packages(made, packages).remove(0).1;
        flip(&state, |_| 64 + 64 + 36 + 10);
    });
}

/// Protection that a damaged package held outlives a lost database after the repair, too.
#[test]
fn protection_is_written_again() {
    let made = Made::new();
    let point = "01".repeat(16);
    let before = made.packages();
    assert!(made.maint(&["protect", &point]).status.success());
    flip(&new_packages(&made, &before)[0].1, |_| 64 + 64 + 36 + 10);
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    std::fs::remove_dir_all(made.repo().join("db")).unwrap();
    let repair = made.maint(&["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    let refused = made.maint(&["forget", "--yes", &point]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("is protected"), "{}", text(&refused));
}

#[test]
fn half_executed_prune() {
    // Killed when the first dead segments were freed and the index did not say yet that this is done.
    case("half_executed_prune", |made, _| {
        assert!(made.maint(&["forget", "--yes", &"02".repeat(16)]).status.success());
        let steps = made.dir.path().join("steps");
        let mut prune = made.command(&["prune", "--yes", "--quiet"]);
        let died = prune.env("RELICT_STEPS", &steps).env("RELICT_DIE_AT", "4").output().unwrap();
        assert_eq!(died.status.code(), None, "{}", text(&died));
        let steps = std::fs::read_to_string(&steps).unwrap();
        assert_eq!(steps.lines().count(), 4, "{steps}");
        let of_package = |step: &str| step.starts_with("segments-") || step.starts_with("package-");
        assert!(steps.lines().last().is_some_and(of_package), "{steps}");
    });
}

#[test]
fn half_executed_prune_of_a_thinned_point() {
    case("half_executed_prune_of_a_thinned_point", |made, _| {
        assert!(made.maint(&["forget", "--yes", "--keep-versions", "1"]).status.success());
        let steps = made.dir.path().join("steps");
        let mut prune = made.command(&["prune", "--yes", "--quiet"]);
        let died = prune.env("RELICT_STEPS", &steps).env("RELICT_DIE_AT", "2").output().unwrap();
        assert_eq!(died.status.code(), None, "{}", text(&died));
    });
}

#[test]
fn forgotten_but_pinned_point() {
    case("forgotten_but_pinned_point", |made, _| {
        let mount = made.open();
        mount.pin().unwrap();
        assert_eq!(mount.shown_points().unwrap().len(), 3);
        assert!(made.maint(&["forget", "--yes", &"01".repeat(16)]).status.success());
        let prune = made.maint(&["prune", "--yes"]);
        assert_eq!(prune.status.code(), Some(0), "{}", text(&prune));
        assert!(text(&prune).contains("01010101 stays: in use by a mount"), "{}", text(&prune));
    });
}

/// Forgotten between being looked for and being pinned: a prune that has read the pins already may take it.
#[test]
fn a_point_that_was_just_forgotten_is_not_held() {
    let made = Made::new();
    let restore = made.open();
    let point = restore.point_records().unwrap().into_iter().find(|point| point.id.0 == [1; 16]).unwrap();
    assert!(restore.pin_point(&point).unwrap());
    let late = made.open();
    assert!(made.maint(&["forget", "--yes", &"01".repeat(16)]).status.success());
    assert!(!late.pin_point(&point).unwrap());
}

/// What a pin kept is whole when it is shown again.
#[test]
fn a_pinned_point_comes_back_whole() {
    let made = Made::new();
    let mount = made.open();
    mount.pin().unwrap();
    mount.shown_points().unwrap();
    for args in [&["forget", "--yes", &"01".repeat(16)][..], &["prune", "--yes"], &["undelete"]] {
        let out = made.maint(args);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    }
    all_right(&made, &made.maint(&["repair", "--yes"]));
}

/// Any byte of relict.toml: nothing is read by a header that is not what was written, and repair makes it what it was.
#[test]
fn flipped_header() {
    let made = Made::new();
    let header = made.repo().join("relict.toml");
    let sound = std::fs::read(&header).unwrap();
    let id = String::from_utf8(sound.clone()).unwrap().find("repository = \"").unwrap() + 14;
    let drawn = id..id + 32;
    let mut reports = std::collections::BTreeSet::new();
    for at in (0..sound.len()).step_by(5) {
        flip(&header, |_| at);
        let before = state(&made);
        for args in [&["check"][..], &["prune", "--yes"], &["rebuild"]] {
            let out = made.maint(args);
            assert_eq!(out.status.code(), Some(1), "byte {at}: {args:?}: {}", text(&out));
            // What a digit of the id becomes hangs on the id, which is drawn.
            if args[0] == "check" && !drawn.contains(&at) {
                reports.insert(redacted(&made, &[], &text(&out)));
            }
        }
        assert!(state(&made) == before, "byte {at}");
        let repair = made.maint(&["repair", "--yes"]);
        assert_eq!(repair.status.code(), Some(0), "byte {at}: {}", text(&repair));
        assert!(std::fs::read(&header).unwrap() == sound, "byte {at}: {}", text(&repair));
    }
    insta::assert_snapshot!("flipped_header", reports.into_iter().collect::<Vec<_>>().join("---\n"));
    all_right(&made, &made.maint(&["repair", "--yes"]));
}

#[test]
fn lost_header() {
    for encrypt in [false, true] {
        let made = Made::with(encrypt, [16 << 10, 64 << 10, 256 << 10]);
        let header = made.repo().join("relict.toml");
        let sound = std::fs::read_to_string(&header).unwrap();
        std::fs::remove_file(&header).unwrap();
        assert_eq!(made.maint(&["check"]).status.code(), Some(10));
        let dry = made.maint(&["repair", "--dry-run"]);
        assert_eq!(dry.status.code(), Some(3), "{}", text(&dry));
        assert!(!header.exists() && text(&dry).contains("make relict.toml again"), "{}", text(&dry));
        let repair = made.maint(&["repair", "--yes"]);
        assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
        let lines = |text: &str| {
            text.lines()
                .filter(|l| !l.starts_with("created") && !l.starts_with("check"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(&std::fs::read_to_string(&header).unwrap()), lines(&sound));
        all_right(&made, &repair);
        // Half of it: what can be read of it counts, and the rest comes from packages.
        std::fs::write(&header, &sound[..sound.len() * 2 / 3]).unwrap();
        let repair = made.maint(&["repair", "--yes"]);
        assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
        assert_eq!(std::fs::read_to_string(&header).unwrap(), sound, "{}", text(&repair));
        assert!(made.repo().join("relict.toml.damaged-0").exists());
        all_right(&made, &repair);
    }
    // A directory that never was a repository is not made one.
    let made = Made::new();
    for entry in ["relict.toml", "packages"] {
        let path = made.repo().join(entry);
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
    }
    assert_eq!(made.maint(&["repair", "--yes"]).status.code(), Some(10));
}

#[test]
fn lost_index() {
    case("lost_index", |made, _| std::fs::remove_dir_all(made.repo().join("db")).unwrap());
}

#[test]
fn stale_index() {
    // An index from before the last restore point, as a copy of the repository made in the wrong order has it.
    case("stale_index", |made, _| {
        std::fs::remove_dir_all(made.repo().join("db")).unwrap();
        std::fs::rename(made.dir.path().join("older-db"), made.repo().join("db")).unwrap();
    });
}

#[test]
fn a_package_and_the_index_at_once() {
    case("package_and_index", |made, packages| {
        std::fs::remove_dir_all(made.repo().join("db")).unwrap();
        flip(nth(packages, PackageKind::Data, 0), |bytes| bytes.len() / 2);
    });
}

/// One tree node after the other is lost. Files whose entries stood elsewhere read as before, under their own names or, where
/// those are lost, in /lost+found; and what the repair writes is a tree that check has nothing to say against.
#[test]
fn any_tree_node_may_be_lost() {
    let segments = {
        let made = Made::new();
        let path = nth(&made.packages(), PackageKind::Meta, 0).clone();
        offsets(&made, &path)
    };
    assert!(segments.len() > 6, "{segments:?}");
    // The last segment is the record; before it comes the root.
    for (number, offset) in segments.iter().enumerate().take(segments.len() - 1) {
        let made = Made::new();
        flip(nth(&made.packages(), PackageKind::Meta, 0), |_| offset + 64 + 36 + 5);
        let repair = made.maint(&["repair", "--yes"]);
        assert_eq!(repair.status.code(), Some(3), "node {number}: {}", text(&repair));
        let check = made.maint(&["check", "--read-data"]);
        assert!(matches!(check.status.code(), Some(0 | 3)), "node {number}: {}", text(&check));
        let readings = made.read_every_file();
        let count =
            |verdict: fn(&Verdict) -> bool| readings.iter().filter(|r| r.point == 1 && verdict(&r.verdict)).count();
        assert_eq!(count(|v| *v == Verdict::Wrong), 0, "node {number}");
        let (right, found) = (count(|v| *v == Verdict::Right), count(|v| *v == Verdict::Found));
        let (errors, nameless) = (count(|v| matches!(v, Verdict::Error { .. })), count(|v| *v == Verdict::Nameless));
        assert_eq!(
            count(|v| matches!(v, Verdict::Error { marked: false })),
            0,
            "node {number}: an error without a mark"
        );
        if number + 2 < segments.len() {
            // A leaf: most of the point is as it was. What lost its name is found, or is an error under its number.
            assert!(
                right + found > 100,
                "node {number}: {right} right, {found} found, {errors} errors, {nameless} nameless"
            );
            assert!(
                nameless <= found + errors,
                "node {number}: {right} right, {found} found, {errors} errors, {nameless} nameless"
            );
        }
        let again = made.maint(&["repair", "--yes", "--quiet"]);
        assert!(matches!(again.status.code(), Some(0 | 3)), "node {number}: {}", text(&again));
        assert!(
            made.read_every_file().iter().map(|r| r.verdict).eq(readings.iter().map(|r| r.verdict)),
            "a second repair changes nothing"
        );
    }
}

/// Offsets of the segments of a package.
fn offsets(made: &Made, path: &std::path::Path) -> Vec<usize> {
    let id = path.file_stem().unwrap().to_str().unwrap();
    let dump = made.maint(&["dump", "package", id, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&dump.stdout).unwrap();
    json["segments"].as_array().unwrap().iter().map(|s| s["offset"].as_u64().unwrap() as usize).collect()
}

/// The damage of the tests that heal: content, a tree node, and a whole package.
fn hurt(made: &Made) {
    let packages = made.packages();
    flip(nth(&packages, PackageKind::Data, 0), |bytes| bytes.len() / 2);
    std::fs::remove_file(nth(&packages, PackageKind::Data, 1)).unwrap();
}

fn all_right(made: &Made, repair: &Output) {
    let readings = made.read_every_file();
    assert!(readings.iter().all(|r| r.verdict == Verdict::Right), "{}", text(repair));
    assert_eq!(readings.len(), made.points.iter().map(BTreeMap::len).sum::<usize>());
    let check = made.maint(&["check", "--read-data"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));
}

#[test]
fn a_copy_of_the_repository_heals_everything() {
    for encrypt in [false, true] {
        let made = Made::with(encrypt, [16 << 10, 64 << 10, 256 << 10]);
        let copy = made.dir.path().join("copy");
        copy_dir(&made.repo(), &copy);
        hurt(&made);
        // Also a node and a record, which only a copy has.
        let packages = made.packages();
        flip(nth(&packages, PackageKind::Meta, 0), |bytes| 64 + bytes.len() / 4);
        std::fs::remove_file(nth(&packages, PackageKind::Meta, 2)).unwrap();
        let repair = made.maint(&["repair", "--yes", "--from", copy.to_str().unwrap()]);
        assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
        all_right(&made, &repair);
    }
}

#[test]
fn a_stranger_with_the_same_content_heals_content() {
    // Ids are keyed: the same bytes have other ids there.
    let made = Made::new();
    let other = Made::with(true, [16 << 10, 64 << 10, 256 << 10]);
    hurt(&made);
    let repair = made.maint(&["repair", "--yes", "--from", other.repo().to_str().unwrap()]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    all_right(&made, &repair);
}

#[test]
fn the_source_heals_the_content_that_it_still_has() {
    let made = Made::new();
    let source = made.dir.path().join("source");
    for (path, bytes) in &made.points[2] {
        let file = source.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    let packages = made.packages();
    std::fs::remove_file(nth(&packages, PackageKind::Data, 1)).unwrap();
    std::fs::remove_file(nth(&packages, PackageKind::Data, 2)).unwrap();
    // A link out of the source is not followed.
    std::fs::remove_file(source.join("docs/new")).unwrap();
    std::os::unix::fs::symlink(made.dir.path().join("elsewhere"), source.join("docs/new")).unwrap();
    std::fs::write(made.dir.path().join("elsewhere"), &made.points[1]["docs/new"]).unwrap();
    let repair = made.maint(&["repair", "--yes", "--from-source", source.to_str().unwrap()]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    let not_right: Vec<String> = made
        .read_every_file()
        .iter()
        .filter(|r| r.verdict != Verdict::Right)
        .map(|r| format!("{} {}", r.point, r.path))
        .collect();
    assert_eq!(not_right, ["2 docs/new", "3 docs/new"], "{}", text(&repair));
    // Healed later from a place that has it, the file reads again.
    std::fs::remove_file(source.join("docs/new")).unwrap();
    std::fs::write(source.join("docs/new"), &made.points[1]["docs/new"]).unwrap();
    let repair = made.maint(&["repair", "--yes", "--from-source", source.to_str().unwrap()]);
    all_right(&made, &repair);
}

#[test]
fn a_repair_that_is_killed_anywhere_is_finished_by_the_next() {
    let mut kills = 0;
    for round in 0..12_u64 {
        let made = Made::new();
        let copy = made.dir.path().join("copy");
        copy_dir(&made.repo(), &copy);
        hurt(&made);
        let args = ["repair", "--yes", "--quiet", "--from", copy.to_str().unwrap()];
        let mut child = made.command(&args).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5 + round * round * 2));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
            child.kill().unwrap();
        }
        child.wait().unwrap();
        let between = made.maint(&["check", "--read-data"]);
        assert!(matches!(between.status.code(), Some(0 | 1 | 3)), "round {round}: {}", text(&between));
        let readings = made.read_every_file();
        assert!(readings.iter().all(|r| matches!(r.verdict, Verdict::Right | Verdict::Error { .. })), "round {round}");
        let repair = made.maint(&args);
        assert_eq!(repair.status.code(), Some(0), "round {round}: {}", text(&repair));
        all_right(&made, &repair);
    }
    assert!(kills > 0, "no repair was killed");
}

/// The packages' files.
fn listed(made: &Made) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(made.repo().join("packages")).unwrap().map(|dir| dir.unwrap().path());
    let mut all: Vec<_> = dirs.flat_map(|d| std::fs::read_dir(d).unwrap().map(|f| f.unwrap().path())).collect();
    all.sort();
    all
}

/// All packages and their bytes.
fn state(made: &Made) -> Vec<(PathBuf, Vec<u8>)> {
    listed(made).into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn a_dry_run_and_a_missing_answer_change_nothing() {
    let made = Made::new();
    hurt(&made);
    let before = state(&made);
    let dry = made.maint(&["repair", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(3), "{}", text(&dry));
    assert!(text(&dry).contains("in quarantine/"), "{}", text(&dry));
    let asked = made.command(&["repair"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(asked.status.code(), Some(2), "{}", text(&asked));
    assert!(text(&asked).contains("nothing was changed"));
    assert!(state(&made) == before);
    assert!(!made.repo().join("quarantine").exists());
}
