//! A tree of more than 20,000 files, part of it what every Debian has, judged by a tool that people trust:
//! `rsync -aHAXSn --checksum --itemize-changes` must print nothing for the mount and for what restore wrote.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.path("mnt")).status();
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn relict(&self, args: &[&str]) -> String {
        let out = Command::new(env!("CARGO_BIN_EXE_relict"))
            .args(args)
            .env("RELICT_REPOSITORY", self.path("repo"))
            .env("RELICT_PASSWORD", "secret")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "relict {args:?}: {text}");
        text
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Real files first, then generated ones, so that the number does not depend on the machine.
fn make_source(source: &Path) {
    for real in ["/usr/include", "/usr/share/zoneinfo", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu/perl", "/etc"] {
        if Path::new(real).exists() {
            let target = source.join(real.trim_start_matches('/'));
            fs::create_dir_all(&target).unwrap();
            run("cp", &["-a", &format!("{real}/."), target.to_str().unwrap()]);
        }
    }
    for dir in 0..200 {
        let at = source.join(format!("made/{dir}"));
        fs::create_dir_all(&at).unwrap();
        for file in 0..100_usize {
            fs::write(at.join(format!("f{file}")), format!("{dir} {file}\n").repeat(file * 3)).unwrap();
        }
        fs::hard_link(at.join("f1"), at.join("hard")).unwrap();
        fs::hard_link(at.join("f2"), source.join(format!("made/hard-{dir}"))).unwrap();
        let sparse = fs::File::create(at.join("sparse")).unwrap();
        sparse.write_all_at(b"data", 1 << 20).unwrap();
        sparse.set_len((3 << 20) + dir).unwrap();
        run("setfattr", &["-n", "user.number", "-v", &dir.to_string(), at.join("f3").to_str().unwrap()]);
        run("setfacl", &["-m", "u:1:r,g:2:rw", at.join("f4").to_str().unwrap()]);
    }
    run("setfacl", &["-d", "-m", "u:3:rwx", source.join("made/7").to_str().unwrap()]);
    run("setfattr", &["-n", "trusted.secret", "-v", "x", source.join("made/8").to_str().unwrap()]);
}

/// Silence from rsync in both directions.
fn same(a: &Path, b: &Path) {
    for (from, to) in [(a, b), (b, a)] {
        let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
        let out = run("rsync", &["-aHAXSn", "--checksum", "--delete", "--itemize-changes", &from, &to]);
        assert!(out.is_empty(), "rsync {from} {to}:\n{out}");
    }
}

#[test]
fn twenty_thousand_files_through_the_mount_and_through_restore() {
    let bench = Bench { dir: tempfile::tempdir().unwrap() };
    let source = bench.path("source");
    fs::create_dir(&source).unwrap();
    fs::create_dir(bench.path("mnt")).unwrap();
    make_source(&source);
    let files = run("find", &[source.to_str().unwrap(), "-type", "f"]).lines().count();
    assert!(files >= 20_000, "{files}");
    println!("{files} files");

    bench.relict(&["init"]);
    bench.relict(&["backup", "--quiet", source.to_str().unwrap()]);
    bench.relict(&["mount", bench.path("mnt").to_str().unwrap()]);
    same(&source, &bench.path("mnt/latest").join(source.strip_prefix("/").unwrap()));
    bench.relict(&["umount", bench.path("mnt").to_str().unwrap()]);
    let target = bench.path("restored");
    bench.relict(&["restore", "--quiet", &format!("latest:{}", source.display()), "-t", target.to_str().unwrap()]);
    same(&source, &target);

    // The same tree again: nothing is read, nothing is stored, the same root.
    let again = bench.relict(&["backup", "--json", source.to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(again.trim().lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["read_bytes"], &summary["files_new"], &summary["files_changed"]),
        (&0.into(), &0.into(), &0.into()),
        "{summary}"
    );
}
