//! The library that stands between a program and the kernel (faults.c), compiled once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the compiled library.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, building) = (dir.join("faults.so"), dir.join(format!("faults-{}.so", std::process::id())));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/survive/faults.c");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&building, &source])
            .arg("-lpthread");
        let output = cc.output().expect("a C compiler is needed, as for RocksDB");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Tests run in processes of their own, at the same time: each finds a whole library.
        std::fs::rename(&building, &library).unwrap();
        library
    })
}

/// Lets a program meet bad sectors under these bytes of a file: what reads them gets EIO, the first `times` times or always.
#[allow(dead_code, reason = "not all test binaries need it")]
pub fn with_bad_sectors<'c>(
    command: &'c mut Command,
    path: &Path,
    bytes: std::ops::Range<u64>,
    times: Option<u32>,
) -> &'c mut Command {
    command.env("LD_PRELOAD", library()).env("FAULTS_BAD", path.canonicalize().unwrap());
    command.env("FAULTS_BAD_FROM", bytes.start.to_string()).env("FAULTS_BAD_TO", bytes.end.to_string());
    command.envs(times.map(|times| ("FAULTS_BAD_TIMES", times.to_string())))
}
