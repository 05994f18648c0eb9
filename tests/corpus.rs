//! A real tree, 20,000 files and more of what every Debian has, with hard links, attributes, access lists and holes
//! added: `rsync -aHAXSn --checksum --itemize-changes` between it and the mount, and between it and a restored
//! tree, prints nothing in either direction, and the independent walker agrees.
//!
//! `RELICT_CORPUS` names other directories to take, separated by spaces.

#[path = "support/rig.rs"]
mod rig;
#[path = "support/walker.rs"]
mod walker;

use rig::{Random, Rig, succeeded};
use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use walker::{CompareOptions, Manifest, diff, manifest};

/// Files that the tree must have at least.
const LEAST_FILES: usize = 20_000;
/// Bytes of real data to take at most, so that the test ends in a minute.
const MOST_BYTES: u64 = 900 << 20;
/// Where Debian keeps many files, in the order in which they are taken.
const PLACES: [&str; 9] =
    ["/etc", "/usr/share/doc", "/usr/share/man", "/usr/include", "/usr/lib/python3", "/usr/share/perl", "/usr/share/zoneinfo", "/usr/share", "/usr/lib"];

fn run(program: &str, args: &[&OsStr]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    succeeded(command)
}

/// Regular files and their bytes.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut out = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return out };
    for entry in entries.map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            out.extend(files(&entry.path()));
        } else if kind.is_file() {
            out.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    out.sort();
    out
}

/// Copies real directories, each into one of its own, until there are enough files; makes up the rest.
fn take_real_files(source: &Path, random: &mut Random) {
    let named = std::env::var("RELICT_CORPUS").ok();
    let places: Vec<&str> = named.as_ref().map_or_else(|| PLACES.to_vec(), |n| n.split(' ').collect());
    let (mut count, mut bytes) = (0, 0);
    for (number, place) in places.iter().enumerate() {
        let found = files(Path::new(place));
        let size: u64 = found.iter().map(|(_, len)| len).sum();
        let fits = named.is_some() || (count < LEAST_FILES && bytes + size < MOST_BYTES);
        if !found.is_empty() && fits {
            run("cp", &["-a".as_ref(), "--reflink=auto".as_ref(), place.as_ref(), source.join(format!("real-{number}")).as_ref()]);
            (count, bytes) = (count + found.len(), bytes + size);
        }
    }
    println!("{count} real files, {} MB", bytes >> 20);
    let dir = source.join("made");
    std::fs::create_dir(&dir).unwrap();
    for number in 0..LEAST_FILES.saturating_sub(count).max(500) {
        let len = random.below(6000) as usize;
        std::fs::write(dir.join(format!("{number}.txt")), random.bytes(len)).unwrap();
    }
}

/// What few real trees have: many hard links, attributes, access lists, capabilities, holes, odd names, special files.
fn add_oddities(source: &Path, random: &mut Random) {
    let dir = source.join("odd");
    std::fs::create_dir(&dir).unwrap();
    let real = files(source);
    for number in 0..300 {
        let (file, _) = &real[random.below(real.len() as u64) as usize];
        std::fs::hard_link(file, dir.join(format!("link-{number}"))).unwrap();
        let (marked, _) = &real[random.below(real.len() as u64) as usize];
        run("setfattr", &["-n".as_ref(), "user.number".as_ref(), "-v".as_ref(), number.to_string().as_ref(), marked.as_ref()]);
    }
    for number in 0..40_u64 {
        let file = std::fs::File::create(dir.join(format!("sparse-{number}"))).unwrap();
        let size = 1 + random.below(64 << 20);
        for _ in 0..random.below(5) {
            let len = random.below(300_000) as usize;
            file.write_all_at(&random.bytes(len), random.below(size)).unwrap();
        }
        file.set_len(size.max(file.metadata().unwrap().len())).unwrap();
    }
    let script = r#"
        set -e
        setfacl -m u:1234:rwx,g:5678:r,m::rwx link-0; mkdir inherits; setfacl -d -m u:1234:rx inherits
        setfattr -n trusted.kept -v yes link-1; setfattr -n user.empty link-2
        if command -v setcap >/dev/null; then cp /bin/true capable; setcap cap_net_raw+ep capable; fi
        install -m 4755 /bin/true setuid; mkdir -m 2775 setgid; mkdir -m 1777 sticky
        mkfifo pipe; mknod char c 1 3; mknod block b 7 99; ln -s nowhere broken; ln -s . loop
        : > "$(printf 'new\nline')"; : > "$(printf '\377\376')"; : > ' '; : > '-n'
        touch -d '1901-12-14 00:00:00 UTC' old; touch -d '2199-01-01 00:00:00.123456789 UTC' future
        chown 4294967294:65534 old; chmod 0 future; chown -h 12:34 broken
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(&dir);
    succeeded(command);
}

/// rsync has nothing to do in either direction.
fn rsync_is_silent(what: &str, a: &Path, b: &Path) {
    for (from, to) in [(a, b), (b, a)] {
        let mut command = Command::new("rsync");
        command.args(["-aHAXSn", "--checksum", "--delete", "--modify-window=-1", "--itemize-changes"]);
        command.arg(from.join("")).arg(to.join(""));
        let said = succeeded(command);
        assert!(said.is_empty(), "{what}: {} to {}:\n{said}", from.display(), to.display());
    }
}

fn agrees(what: &str, want: &Manifest, got: &Manifest) {
    let differences = diff(want, got, &CompareOptions::restored());
    assert!(differences.is_empty(), "{what}:\n{}", differences[..differences.len().min(50)].join("\n"));
}

#[test]
fn a_real_tree_comes_out_as_it_went_in() {
    let mut random = Random::from_env();
    let rig = Rig::new();
    take_real_files(&rig.source(), &mut random);
    add_oddities(&rig.source(), &mut random);
    assert!(files(&rig.source()).len() >= LEAST_FILES);
    rig.backup();
    let source = manifest(&rig.source());

    rig.mount();
    rsync_is_silent("the mount", &rig.source(), &rig.mounted("latest"));
    agrees("the mount", &source, &manifest(&rig.mounted("latest")));
    rig.umount();

    let restored = rig.restore("latest", "out");
    rsync_is_silent("the restored tree", &rig.source(), &restored);
    agrees("the restored tree", &source, &manifest(&restored));
    rig.maint(&["check", "--read-data"]);

    // The same tree again: nothing is read, nothing is stored.
    let again = rig.relict(&["backup", "--json", rig.source().to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(again.trim().lines().last().unwrap()).unwrap();
    let zero = ["read_bytes", "files_changed", "new_chunks", "stored_bytes"].map(|name| (name, summary[name].as_u64()));
    assert_eq!(zero.map(|(_, value)| value), [Some(0); 4], "{summary}");
}
