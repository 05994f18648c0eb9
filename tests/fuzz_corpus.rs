//! What `make fuzz` begins with, and what it has found: every file of `fuzz/corpus` through the check of its target.

extern crate relict as decoders;

#[path = "../fuzz/src/checks.rs"]
mod checks;

use std::fs;
use std::path::PathBuf;

/// Files that each target has at least, so that a corpus that went away is noticed.
const LEAST: usize = 7;

#[test]
fn every_file_of_the_corpus_ends_well() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut dirs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    dirs.sort();
    let mut names: Vec<_> = checks::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(dirs, names, "each target has a corpus, and each corpus a target");
    for (name, check) in checks::TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            // Printed only if the check panics.
            println!("{}", path.display());
            check(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= LEAST, "{name}: {files}");
    }
}
