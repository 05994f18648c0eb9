//! What the tests of this room share.

use std::path::PathBuf;

/// The corpus of real streams, which has a folder `needed`; None, said loudly, where it is not there.
pub(super) fn corpus(needed: &str) -> Option<PathBuf> {
    let given = std::env::var_os("RELICT_CORPUS").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"));
    if dir.join(needed).is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: there is no {needed} in {}; RELICT_CORPUS says where the corpus is", dir.display());
    None
}
