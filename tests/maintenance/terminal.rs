//! Questions and passwords on a real terminal: `script` gives the program one of its own.

use crate::rig::{PASSWORD, Rig};
use crate::{listed, three_points};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program at a terminal.
struct Terminal {
    child: Child,
    seen: std::sync::mpsc::Receiver<u8>,
    text: String,
}

impl Terminal {
    /// Starts a program. Without `password` it has to ask for one.
    fn start(rig: &Rig, program: &str, args: &[&str], password: bool) -> Self {
        let made = rig.command(program, args);
        let words = std::iter::once(made.get_program()).chain(made.get_args());
        let line: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-f", "-c", &line.join(" "), "/dev/null"]);
        made.get_envs().for_each(|(name, value)| _ = script.env(name, value.unwrap()));
        if !password {
            script.env_remove("RELICT_PASSWORD");
        }
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (send, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(out.read(&mut byte), Ok(1)) && send.send(byte[0]).is_ok() {}
        });
        Self { child, seen, text: String::new() }
    }

    /// Waits until the screen shows this, after what was waited for before.
    fn wait_for(&mut self, what: &str) -> &mut Self {
        let (begun, from) = (Instant::now(), self.text.len());
        while !self.text[from..].contains(what) {
            match self.seen.recv_timeout(Duration::from_secs(30).saturating_sub(begun.elapsed())) {
                Ok(byte) => self.text.push(char::from(byte)),
                Err(error) => panic!("{error}: '{what}' is not shown: {}", self.text),
            }
        }
        self
    }

    /// Waits for a question for a password, and until what is typed is not shown: the question comes first.
    fn wait_hidden(&mut self, what: &str) -> &mut Self {
        self.wait_for(what);
        let script = self.child.id();
        let children = fs::read_to_string(format!("/proc/{script}/task/{script}/children")).unwrap();
        let child = children.split_whitespace().next().unwrap();
        let terminal = fs::read_link(format!("/proc/{child}/fd/0")).unwrap();
        let begun = Instant::now();
        let echo = || {
            let shown = Command::new("stty").arg("-a").arg("-F").arg(&terminal).output().unwrap();
            String::from_utf8(shown.stdout).unwrap().split([' ', ';', '\n']).any(|flag| flag == "echo")
        };
        while echo() {
            assert!(begun.elapsed().as_secs() < 30, "what is typed is shown");
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn keys(&mut self, keys: &str) -> &mut Self {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
        self
    }

    /// Waits for the end; exit code and all that was shown.
    fn end(&mut self) -> (Option<i32>, String) {
        while let Ok(byte) = self.seen.recv_timeout(Duration::from_secs(30)) {
            self.text.push(char::from(byte));
        }
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.text))
    }
}

#[test]
fn yes_is_a_word_and_everything_else_is_no() {
    let rig = Rig::new();
    let points = three_points(&rig, 1000);
    for no in ["n\n", "\n", "no\n", "x\n", "\u{4}"] {
        let mut terminal = Terminal::start(&rig, "relict-maint", &["forget", &points[0]], true);
        let (code, text) = terminal.wait_for("forget 1 restore point? [y/N]").keys(no).end();
        assert_eq!(code, Some(0), "{no:?}: {text}");
        assert!(text.contains("nothing was changed"), "{text}");
        assert_eq!(listed(&rig), points, "{no:?}");
    }
    // Ctrl-C ends it at once, without another key.
    let mut terminal = Terminal::start(&rig, "relict-maint", &["forget", &points[0]], true);
    let (code, text) = terminal.wait_for("[y/N]").keys("\u{3}").end();
    assert_eq!(code, Some(130), "{text}");
    assert_eq!(listed(&rig), points);
    let mut terminal = Terminal::start(&rig, "relict-maint", &["forget", &points[0]], true);
    let (code, text) = terminal.wait_for("[y/N]").keys("y\n").end();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(listed(&rig), &points[1..]);
    let mut terminal = Terminal::start(&rig, "relict-maint", &["prune"], true);
    let (code, text) = terminal.wait_for("free ").wait_for("[y/N]").keys("yes\n").end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("freed "), "{text}");
}

#[test]
fn a_repair_asks_and_no_leaves_everything() {
    let rig = Rig::new();
    three_points(&rig, 1 << 20);
    let dirs = fs::read_dir(rig.path("repo/packages")).unwrap().map(|dir| dir.unwrap().path());
    let mut packages: Vec<_> = dirs.flat_map(|d| fs::read_dir(d).unwrap().map(|f| f.unwrap().path())).collect();
    packages.sort_by_key(|path| fs::metadata(path).unwrap().len());
    let largest = packages.last().unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(largest).unwrap();
    fs::write(largest, &bytes).unwrap();
    let mut terminal = Terminal::start(&rig, "relict-maint", &["repair"], true);
    let (code, text) = terminal.wait_for("the repair will:").wait_for("repair this? [y/N]").keys("n\n").end();
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(fs::read(largest).unwrap(), bytes);
    assert!(!rig.path("repo/quarantine").exists());
    let mut terminal = Terminal::start(&rig, "relict-maint", &["repair"], true);
    let (code, text) = terminal.wait_for("[y/N]").keys("y\n").end();
    assert_eq!(code, Some(3), "{text}");
    assert!(rig.path("repo/quarantine").exists());
}

#[test]
fn a_password_is_typed_and_not_shown() {
    let rig = Rig::new();
    three_points(&rig, 1000);
    for (program, args) in [("relict-maint", &["check"][..]), ("relict", &["snapshots"])] {
        let mut terminal = Terminal::start(&rig, program, args, false);
        let (code, text) = terminal.wait_hidden("assword").keys(&format!("{PASSWORD}\n")).end();
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains(PASSWORD), "the password stands on the screen: {text}");
        // A slip is forgiven, twice.
        let mut terminal = Terminal::start(&rig, program, args, false);
        terminal.wait_hidden("assword of").keys("wrong\n").wait_for("does not open").wait_hidden("assword of");
        let (code, text) = terminal.keys(&format!("{PASSWORD}\n")).end();
        assert_eq!(code, Some(0), "{text}");
        let mut terminal = Terminal::start(&rig, program, args, false);
        for _ in 0..3 {
            terminal.wait_hidden("assword of").keys("wrong\n");
        }
        let (code, text) = terminal.end();
        assert_eq!(code, Some(12), "{text}");
    }
    let mut terminal = Terminal::start(&rig, "relict-maint", &["check"], false);
    let (code, text) = terminal.wait_hidden("assword").keys("\u{3}").end();
    assert_eq!(code, Some(130), "{text}");
}

#[test]
fn a_new_password_is_typed_twice() {
    let rig = Rig::new();
    three_points(&rig, 1000);
    let add = |first: &str, second: &str| {
        let mut terminal = Terminal::start(&rig, "relict-maint", &["keys", "add"], true);
        terminal.wait_hidden("assword").keys(first).wait_hidden("again").keys(second).end()
    };
    let (code, text) = add("one\n", "another\n");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("differ"), "{text}");
    let (code, text) = add("second\n", "second\n");
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("second\r"), "{text}");
    let mut terminal = Terminal::start(&rig, "relict", &["snapshots"], false);
    let (code, text) = terminal.wait_hidden("assword").keys("second\n").end();
    assert_eq!(code, Some(0), "{text}");
    fs::remove_dir_all(rig.path("repo")).unwrap();
    let mut terminal = Terminal::start(&rig, "relict", &["init"], false);
    let (code, text) = terminal.wait_hidden("assword").keys("mine\n").wait_hidden("again").keys("mine\n").end();
    assert_eq!(code, Some(0), "{text}");
    assert!(rig.path("repo/relict.toml").exists());
}
