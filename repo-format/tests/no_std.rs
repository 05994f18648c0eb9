//! The crate stays without std: a test that reads the sources, so that it costs nothing. `no-std.sh` is the
//! real proof: it compiles against a sysroot that has no std.

use std::fs;
use std::path::Path;

#[test]
fn no_source_names_std() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for entry in fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let named = code.contains("std::") || code.contains("extern crate std");
            assert!(!named, "{}:{}: {line}", path.display(), number + 1);
        }
        files += 1;
        if path.ends_with("lib.rs") {
            assert!(text.starts_with("#![no_std]\n"), "lib.rs opens with no_std");
        }
    }
    assert!(files > 10);
}
