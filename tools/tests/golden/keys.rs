//! Passwords come and go, as a user types it; the data stays.

use super::made::Made;
use super::text;
use std::process::Output;

fn encrypted() -> Made {
    Made::with(true, [16 << 10, 64 << 10, 256 << 10])
}

fn with(made: &Made, password: &str, new: Option<&str>, args: &[&str]) -> Output {
    let mut command = made.command(args);
    command.env("RELICT_PASSWORD", password);
    if let Some(new) = new {
        command.env("RELICT_NEW_PASSWORD", new);
    }
    command.output().unwrap()
}

fn opens(made: &Made, password: &str) -> bool {
    let out = with(made, password, None, &["check", "--quiet"]);
    assert!(matches!(out.status.code(), Some(0 | 12)), "{}", text(&out));
    out.status.code() == Some(0)
}

fn slots(made: &Made) -> Vec<String> {
    let out = with(made, "none is needed", None, &["keys", "list", "--json"]);
    let name =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["slot"].as_str().unwrap().to_owned();
    String::from_utf8_lossy(&out.stdout).lines().map(name).collect()
}

fn done(out: &Output) {
    assert_eq!(out.status.code(), Some(0), "{}", text(out));
}

#[test]
fn a_password_is_added_changed_and_removed() {
    let made = encrypted();
    let first = slots(&made).remove(0);
    assert_eq!(with(&made, "wrong", Some("x"), &["keys", "add"]).status.code(), Some(12));
    done(&with(&made, "secret", Some("second"), &["keys", "add", "--label", "Büro"]));
    assert!(opens(&made, "secret") && opens(&made, "second"));
    assert!(text(&with(&made, "", None, &["keys", "list"])).contains("Büro"));
    done(&with(&made, "secret", Some("changed"), &["keys", "change"]));
    assert!(!opens(&made, "secret"), "the old password stops working");
    assert!(opens(&made, "changed") && opens(&made, "second"));
    assert!(!slots(&made).contains(&first));
    let list = text(&with(&made, "", None, &["keys", "list"]));
    let second = list.lines().find(|l| l.contains("Büro")).unwrap().split_whitespace().next().unwrap().to_owned();
    let own = with(&made, "second", None, &["keys", "remove", &second]);
    assert_eq!(own.status.code(), Some(12), "{}", text(&own));
    assert!(opens(&made, "second"));
    // Only the password of a slot that stays removes one.
    done(&with(&made, "changed", None, &["keys", "remove", &second[..6]]));
    assert!(!opens(&made, "second") && opens(&made, "changed"));
    let last = slots(&made).remove(0);
    let refused = with(&made, "changed", None, &["keys", "remove", &last]);
    assert_eq!(refused.status.code(), Some(12), "the last slot stays: {}", text(&refused));
    assert!(opens(&made, "changed"));
    assert_eq!(with(&made, "changed", None, &["keys", "remove", "ffffffffffffffff"]).status.code(), Some(1));
}

#[test]
fn a_key_file_opens_and_is_never_overwritten() {
    let made = encrypted();
    let file = made.dir.path().join("key");
    let path = file.to_str().unwrap();
    done(&with(&made, "secret", None, &["keys", "add", "--new-key-file", path]));
    let out =
        made.command(&["check", "--quiet", "--password-file", path]).env_remove("RELICT_PASSWORD").output().unwrap();
    done(&out);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read(&file).unwrap();
    let again = with(&made, "secret", None, &["keys", "add", "--new-key-file", path]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert_eq!(std::fs::read(&file).unwrap(), key);
}

#[test]
fn access_comes_back_from_the_sheet_alone() {
    let made = encrypted();
    let sheet = with(&made, "secret", None, &["keys", "export", "--format", "ascii"]);
    done(&sheet);
    let file = made.dir.path().join("typed");
    // As somebody types it: the numbered lines, without the rest.
    let typed: Vec<String> = String::from_utf8_lossy(&sheet.stdout)
        .lines()
        .filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_uppercase)
        .collect();
    assert!(typed.len() > 5);
    std::fs::write(&file, typed.join("\n")).unwrap();
    for entry in std::fs::read_dir(made.repo().join("keys")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(with(&made, "secret", None, &["check"]).status.code(), Some(1), "nothing opens it now");
    let wrong = with(&made, "wrong", None, &["keys", "import", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(12), "{}", text(&wrong));
    done(&with(&made, "secret", None, &["keys", "import", file.to_str().unwrap()]));
    assert!(opens(&made, "secret"));
    assert!(made.read_every_file().iter().all(|r| r.verdict == super::made::Verdict::Right));
    for format in ["text", "svg"] {
        let out = with(&made, "secret", None, &["keys", "export", "--format", format]);
        done(&out);
        assert!(out.stdout.len() > 500);
    }
}

#[test]
fn one_damaged_slot_locks_nobody_out_and_is_named() {
    let made = encrypted();
    let first = slots(&made).remove(0);
    done(&with(&made, "secret", Some("second"), &["keys", "add"]));
    let file = made.repo().join("keys").join(format!("{first}.key"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let check = with(&made, "second", None, &["check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(text(&check).contains(&format!("key slot {first}")), "{}", text(&check));
    assert_eq!(with(&made, "secret", None, &["check"]).status.code(), Some(12));
    // Repair says that it cannot mend a slot, and does nothing else.
    let repair = with(&made, "second", None, &["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(3), "{}", text(&repair));
    done(&with(&made, "second", None, &["keys", "remove", &first]));
    assert!(opens(&made, "second"));
}

#[test]
fn a_repository_without_encryption_has_no_keys() {
    let made = Made::new();
    let out = made.maint(&["keys", "list"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("not encrypted"));
}

#[test]
fn a_change_that_is_killed_leaves_a_password_that_works() {
    for round in 0..10_u64 {
        let made = encrypted();
        let mut child = made
            .command(&["keys", "change"])
            .env("RELICT_NEW_PASSWORD", "new")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        let _ = child.kill();
        child.wait().unwrap();
        assert!(opens(&made, "secret") || opens(&made, "new"), "round {round}");
        let password = if opens(&made, "new") { "new" } else { "secret" };
        done(&with(&made, password, Some("third"), &["keys", "change"]));
        assert!(opens(&made, "third"));
    }
}
