//! House rules that a compiler does not know: who may import whom, what each file opens with, how long it may be.
//!
//! Every rule is a function from a path and a text to complaints, and has a canary: a made-up source that it must
//! refuse. So a rule that no longer sees anything fails too.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, each with its height: a room imports only rooms below its own height.
const ROOMS: [(&str, u32); 9] = [
    ("error", 0),
    ("os", 1),
    ("store", 2),
    ("catalog", 3),
    ("ingest", 4),
    ("view", 4),
    ("mount", 5),
    ("restore", 5),
    ("cli", 6),
];

/// Crates that are one room's business, so that it alone knows them.
const OWNED_CRATES: [(&str, &str); 7] = [
    ("fuser", "mount"),
    ("rocksdb", "store"),
    ("ring", "store"),
    ("argon2", "store"),
    ("clap", "cli"),
    ("indicatif", "cli"),
    ("rpassword", "cli"),
];

/// Lines a source file may have.
const MAX_LINES: usize = 900;
/// Longer files, each with its reason.
const LONGER: [(&str, &str); 0] = [];

/// What must not be called where bytes come from outside: in decoders, and in everything that runs in production.
const PANICS: [&str; 6] = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "dbg!("];

/// Macros that panic when nobody reads the output any more.
const PRINTS: [&str; 4] = ["print", "println", "eprint", "eprintln"];

/// Files of the library that are there for tests and benchmarks alone.
const FIXTURES: [&str; 1] = ["src/view/memory.rs"];

struct Source {
    /// Relative to the workspace, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// `store` for `src/store/index.rs`, `error` for `src/error.rs`; None for the roots and for what is not in `src/`.
    fn room(&self) -> Option<&'static str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
        ROOMS.iter().map(|(name, _)| *name).find(|name| *name == first)
    }

    /// Modules from the crate's root to this file: 2 for `src/store/index.rs`, 1 for `src/store/mod.rs`.
    fn depth(&self) -> usize {
        let parts: Vec<&str> = self.path.split('/').skip(1).collect();
        parts.len() - usize::from(parts.last() == Some(&"mod.rs"))
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs"
            || name.ends_with("_tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/")
    }

    /// The code alone: no comments, no text in quotes; lines keep their numbers.
    fn code(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            let skipped = skipped_bytes(rest);
            if skipped == 0 {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            } else {
                out.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = &rest[skipped..];
            }
        }
        out
    }

    /// The code that runs in production: without the test module, which stands last by custom.
    fn production(&self) -> String {
        let code = self.code();
        if self.is_test() {
            return String::new();
        }
        let end = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
        code[..end].to_owned()
    }

    fn complaint(&self, code: &str, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, code[..at].matches('\n').count() + 1)
    }
}

/// Length of the comment or quoted text at the beginning of `rest`, 0 when there is none.
fn skipped_bytes(rest: &str) -> usize {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until("*/", 2);
    }
    if let Some(hashes) = rest.strip_prefix('r').map(|r| r.len() - r.trim_start_matches('#').len())
        && rest[1 + hashes..].starts_with('"')
    {
        return until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes);
    }
    if rest.starts_with('"') {
        return quoted_bytes(rest, b'"');
    }
    // A character, not a lifetime.
    let character = rest.starts_with("'\\") || rest.strip_prefix('\'').is_some_and(|r| r.chars().nth(1) == Some('\''));
    if character { quoted_bytes(rest, b'\'') } else { 0 }
}

fn quoted_bytes(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += 1 + usize::from(bytes[at] == b'\\');
    }
    (at + 1).min(bytes.len())
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `code` as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at == 0 || !is_word(bytes[at - 1]);
        let after = bytes.get(at + word.len()).is_none_or(|b| !is_word(*b));
        before && after
    })
}

/// The first names of a path or group of paths: `store` for `store::Writer`, both for `{store, os::{dir}}`.
fn first_names(path: &str) -> Vec<&str> {
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        return path.split(|c: char| !c.is_ascii() || !is_word(c as u8)).take(1).collect();
    };
    let (mut names, mut level, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            ',' | '}' if level == 0 => {
                names.extend(first_names(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => level -= 1,
            _ => {}
        }
    }
    names
}

/// Names of the crate's top modules that `code` uses, by `crate::`, `relict::`, or enough `super::`.
fn used_rooms(source: &Source, code: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for root in ["crate", "relict"] {
        for at in words(code, root) {
            if let Some(path) = code[at + root.len()..].strip_prefix("::") {
                out.extend(first_names(path).into_iter().map(|name| (at, name.to_owned())));
            }
        }
    }
    let climb = "super::".repeat(source.depth());
    for (at, _) in code.match_indices(&climb) {
        out.extend(first_names(&code[at + climb.len()..]).into_iter().map(|name| (at, name.to_owned())));
    }
    out
}

fn imports(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let height = |name: &str| ROOMS.iter().find(|(n, _)| *n == name).map(|(_, h)| *h);
    let code = source.code();
    let upward = |used: &str| used != room && height(used).is_some_and(|h| Some(h) >= height(room));
    let wrong = used_rooms(source, &code).into_iter().filter(|(_, used)| upward(used));
    wrong.map(|(at, used)| source.complaint(&code, at, &format!("{room} must not know {used}"))).collect()
}

fn owned_crates(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let code = source.production();
    let foreign = OWNED_CRATES.iter().filter(|(_, owner)| *owner != room);
    let uses = foreign.flat_map(|(name, owner)| {
        let paths = words(&code, name).filter(|at| code[at + name.len()..].starts_with("::"));
        paths.map(|at| source.complaint(&code, at, &format!("{name} is the business of {owner}"))).collect::<Vec<_>>()
    });
    uses.collect()
}

fn unsafe_code(source: &Source) -> Vec<String> {
    let code = source.code();
    let excused = source.text.contains("expect(unsafe_code, reason = \"");
    let at_home = source.path.starts_with("src/os/") || source.path.starts_with("src/mount/") || source.is_test();
    let uses = words(&code, "unsafe").filter(|_| !(at_home && excused));
    uses.map(|at| source.complaint(&code, at, "unsafe belongs to os, with a reason")).collect()
}

fn panics(source: &Source) -> Vec<String> {
    let code = source.production();
    let calls = PANICS.iter().flat_map(|call| code.match_indices(call));
    calls.map(|(at, call)| source.complaint(&code, at, &format!("{call} outside tests"))).collect()
}

fn printing(source: &Source) -> Vec<String> {
    let code = source.production();
    let calls = PRINTS.iter().flat_map(|name| words(&code, name).filter(|at| code[at + name.len()..].starts_with('!')));
    calls
        .map(|at| source.complaint(&code, at, "a closed pipe is a panic here; print by cli::out, say! or tell!"))
        .collect()
}

fn opening(source: &Source) -> Vec<String> {
    let first = source.text.lines().find(|line| !line.starts_with("#!["));
    let opens = first.is_some_and(|line| line.starts_with("//! ") && line.len() > 8);
    if opens { Vec::new() } else { vec![format!("{}:1: says nothing about itself (//!)", source.path)] }
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let listed = LONGER.iter().any(|(path, _)| *path == source.path);
    if lines <= MAX_LINES || listed { Vec::new() } else { vec![format!("{}: {lines} lines", source.path)] }
}

/// Paths of one machine, and crates from elsewhere than crates.io.
fn machine_paths(source: &Source) -> Vec<String> {
    // In pieces, so that this file passes.
    let banned = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("file:", "///")];
    let mut found: Vec<String> = banned
        .iter()
        .flat_map(|b| source.text.match_indices(b))
        .map(|(at, b)| source.complaint(&source.text, at, b))
        .collect();
    if source.path == "Cargo.lock" {
        let elsewhere =
            |line: &&str| line.starts_with("source = ") && !line.contains("github.com/rust-lang/crates.io-index\"");
        found.extend(source.text.lines().filter(elsewhere).map(|line| format!("Cargo.lock: {line}")));
    }
    found
}

/// Every text file of the workspace below `dir`.
fn collect(dir: &Path, root: &Path, out: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with(".git") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" {
                collect(&path, root, out);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            out.push(Source { path, text });
        }
    }
}

fn workspace() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut out = Vec::new();
    collect(&root, &root, &mut out);
    assert!(out.iter().any(|s| s.path == "src/lib.rs") && out.len() > 100, "this is not the workspace: {}", out.len());
    out
}

fn keeps(what: &str, rule: fn(&Source) -> Vec<String>, applies: fn(&Source) -> bool) {
    let complaints: Vec<String> = workspace().iter().filter(|s| applies(s)).flat_map(rule).collect();
    assert!(complaints.is_empty(), "{what}:\n{}", complaints.join("\n"));
}

fn is_rust(source: &Source) -> bool {
    source.path.ends_with(".rs")
}

fn is_production(source: &Source) -> bool {
    let rooms = ["src/", "tools/src/", "repo-format/src/"];
    is_rust(source)
        && rooms.iter().any(|room| source.path.starts_with(room))
        && !FIXTURES.contains(&source.path.as_str())
}

#[test]
fn rooms_import_only_what_is_below_them() {
    keeps("imports go upward", imports, is_rust);
}

#[test]
fn every_room_of_the_library_has_a_height() {
    let modules = workspace().into_iter().find(|s| s.path == "src/lib.rs").unwrap().code();
    for at in words(&modules, "mod") {
        let name = first_names(&modules[at + 4..])[0].to_owned();
        assert!(ROOMS.iter().any(|(room, _)| *room == name), "src/{name} has no height in tests/tidy.rs");
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests: Vec<Source> = workspace().into_iter().filter(|s| s.path.ends_with("Cargo.toml")).collect();
    assert_eq!(manifests.len(), 4);
    let without = manifests.iter().filter(|s| !s.text.contains("\n[lints]\nworkspace = true\n"));
    assert_eq!(without.map(|s| &s.path).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn crates_stay_in_their_rooms() {
    keeps("a crate is used outside its room", owned_crates, is_rust);
}

#[test]
fn unsafe_stays_in_os() {
    keeps("unsafe code", unsafe_code, |s| {
        is_rust(s) && s.path != "tests/tidy.rs" && s.path != "repo-format/tests/support/counting.rs"
    });
}

#[test]
fn nothing_panics_on_purpose() {
    keeps("production code that panics", panics, is_production);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    keeps("production code that panics at a closed pipe", printing, is_production);
}

#[test]
fn files_open_with_what_they_are() {
    keeps("files that do not say what they are", opening, is_rust);
}

#[test]
fn files_are_short() {
    keeps("long files", length, is_rust);
}

#[test]
fn no_paths_of_one_machine() {
    keeps("paths of one machine", machine_paths, |_| true);
}

// The canaries: each rule refuses a made-up source, and takes its honest twin.

fn refuses(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(rule(&Source::new(path, text)).len(), 1, "{path} should be refused once: {text}");
}

fn takes(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new(), "{text}");
}

#[test]
fn a_wrong_import_is_caught() {
    refuses(imports, "src/store/index.rs", "use crate::catalog::tree;\n");
    refuses(imports, "src/view/read.rs", "fn f() { crate::ingest::x() }\n");
    refuses(imports, "src/store/index.rs", "use crate::{\n    error::Error,\n    cli::{context, out},\n};\n");
    refuses(imports, "src/store/index.rs", "use super::super::mount;\n");
    refuses(imports, "src/catalog/mod.rs", "use super::restore;\n");
    refuses(imports, "src/error.rs", "use crate::os::Dir;\n");
    refuses(imports, "src/catalog/tree/walk.rs", "use super::super::super::view;\n");
    refuses(imports, "src/os/dir.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Writer;\n}\n");
    takes(
        imports,
        "src/view/read.rs",
        "use crate::{catalog::tree, store::{Chunk, Repository}, os};\nuse crate::view::attr;\n",
    );
    takes(
        imports,
        "src/store/index.rs",
        "// crate::cli\nconst S: &str = \"crate::cli\"; const R: &str = r#\"crate::\"cli\"#;\n",
    );
    takes(imports, "src/cli/mount.rs", "use crate::mount;\nuse super::restore;\n");
    takes(imports, "src/main.rs", "fn main() { relict::cli::main() }\n");
}

#[test]
fn a_crate_outside_its_room_is_caught() {
    refuses(owned_crates, "src/view/read.rs", "use fuser::Request;\n");
    refuses(owned_crates, "src/catalog/mod.rs", "fn f() -> rocksdb::DB { }\n");
    takes(owned_crates, "src/mount/adapter.rs", "use fuser::Request; // not clap::Parser\n");
}

#[test]
fn unsafe_outside_os_is_caught() {
    let excuse = "#![expect(unsafe_code, reason = \"system calls\")]\n";
    refuses(unsafe_code, "src/store/files.rs", &format!("{excuse}fn f() {{ unsafe {{ g() }} }}\n"));
    refuses(unsafe_code, "src/os/dir.rs", "fn f() { unsafe { g() } }\n");
    takes(unsafe_code, "src/os/dir.rs", &format!("{excuse}fn f() {{ unsafe {{ g() }} }}\n"));
    takes(
        unsafe_code,
        "src/store/files.rs",
        "// unsafe\nconst S: &str = \"unsafe \\\" unsafe\"; const Q: char = '\"'; // '\n",
    );
}

#[test]
fn a_panic_is_caught() {
    refuses(panics, "repo-format/src/wire.rs", "fn f(x: Option<u8>) -> u8 { x.unwrap() }\n");
    refuses(panics, "src/store/files.rs", "fn f<'a>(c: &'a str) { todo!() }\n");
    takes(panics, "src/store/files.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() { f().unwrap(); }\n}\n");
    takes(panics, "src/store/tests.rs", "fn g() { f().unwrap(); }\n");
}

#[test]
fn a_print_is_caught() {
    refuses(printing, "tools/src/stats/mod.rs", "fn f() { println!(\"{}\", 1) }\n");
    takes(printing, "tools/src/stats/mod.rs", "fn f() { say!(\"{}\", 1); relict::tell!(\"\"); print_sheet() }\n");
    refuses(printing, "src/cli/backup.rs", "fn f() { eprintln!(\"{}\", 1) }\n");
}

#[test]
fn a_silent_or_long_file_is_caught() {
    refuses(opening, "src/store/files.rs", "use std::fs;\n");
    takes(opening, "src/os/sys.rs", "//! System calls without arguments.\n");
    refuses(length, "src/store/files.rs", &"x\n".repeat(MAX_LINES + 1));
    takes(length, "src/store/files.rs", &"x\n".repeat(MAX_LINES));
}

#[test]
fn a_path_of_one_machine_is_caught() {
    refuses(machine_paths, "Makefile", concat!("build:\n\tcp x /wo", "rk/y\n"));
    refuses(machine_paths, "Cargo.lock", "source = \"registry+https://crates.example.org/index\"\n");
    takes(machine_paths, "Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n");
}
