//! Runs every command on a hostile repository: none may crash, hang, take much memory, write outside of its target, send
//! control sequences to a terminal, or harm the honest restore point.

use super::forge::{Forge, HONEST, everything};
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// No command needs more memory for a repository of some kilobytes, whatever that says of itself: beyond it an allocation
/// fails and ends the process, which no test takes for an end. Stacks and the database's buffers are in it.
const MOST_MEMORY: &str = "--data=600000000";
/// Nor has it more to say: whoever goes on is cut off.
const MOST_OUTPUT: u64 = 16 << 20;
/// Seconds after which a command hangs.
const PATIENCE: &str = "30";

/// What a command did.
pub struct Ran {
    pub code: Option<i32>,
    pub text: String,
}

/// The commands, each with its arguments; the target of restores is put in for `OUT`.
const COMMANDS: [&str; 27] = [
    "relict snapshots",
    "relict snapshots --json",
    "relict ls -lR latest",
    "relict ls -R --json latest",
    "relict find *",
    "relict find --all --json /**",
    "relict find --newer 2020 --size +1 *",
    "relict diff latest~1 latest",
    "relict diff --json latest~1 latest",
    "relict versions /file",
    "relict cat latest:/file",
    "relict cat latest:/dir/file",
    "relict restore latest -t OUT --dry-run",
    "relict restore latest -t OUT",
    "relict --json restore latest -t OUT --verify",
    "relict-maint stats",
    "relict-maint health",
    "relict-maint check",
    "relict-maint check --read-data",
    "relict-maint check --read-data --json",
    "relict-maint dump header",
    "relict-maint dump package",
    "relict-maint dump point latest",
    "relict-maint dump entry latest 1",
    "relict-maint repair --dry-run",
    "relict-maint forget --keep-last 1 --yes --dry-run",
    "relict-maint prune --dry-run",
];

/// What changes the repository, after all else.
const CHANGING: [&str; 7] = [
    "relict-maint rebuild",
    "relict snapshots",
    "relict ls -R latest",
    "relict --quiet backup SOURCE",
    "relict-maint forget --keep-last 1 --yes",
    "relict-maint prune --yes",
    "relict-maint repair --yes",
];

/// Runs all commands on the repository, and gives what `check --read-data` said and all that was printed.
pub fn survives(forge: &mut Forge) -> (Ran, String) {
    forge.close();
    let around = forge.path("around");
    let target = around.join("a/b/out");
    fs::create_dir_all(&target).unwrap();
    fs::create_dir(forge.path("source")).unwrap();
    fs::write(forge.path("source/file"), "new").unwrap();
    for canary in ["around/canary", "around/a/canary", "around/a/b/canary", "canary"] {
        fs::write(forge.path(canary), "sings").unwrap();
    }
    let outside = |forge: &Forge| everything(&forge.path("around"), &target);
    let before = outside(forge);
    let (mut checked, mut said) = (None, String::new());
    for command in COMMANDS {
        let ran = run(forge, &command.replace("OUT", target.to_str().unwrap()));
        said.push_str(&format!("--- {command}: {:?}\n{}", ran.code, ran.text));
        if command.contains("restore") && !command.contains("--json") {
            assert_eq!(outside(forge), before, "{command} wrote outside:\n{said}");
        }
        if command == "relict-maint check --read-data" {
            checked = Some(ran);
        }
    }
    said.push_str(&mount_and_read(forge));
    honest_is_whole(forge, "reading");
    for command in CHANGING {
        let ran = run(forge, &command.replace("SOURCE", forge.path("source").to_str().unwrap()));
        said.push_str(&format!("--- {command}: {:?}\n{}", ran.code, ran.text));
        honest_is_whole(forge, &format!("{command}:\n{}", ran.text));
    }
    assert_eq!(fs::read(forge.path("canary")).unwrap(), b"sings");
    assert_eq!(outside(forge), before);
    (checked.unwrap(), said)
}

fn honest_is_whole(forge: &Forge, after: &str) {
    let ran = run(forge, "relict cat --host honest latest:/honest");
    // Before the content stands what is said of restore points whose records cannot be read.
    let content = ran.text.as_bytes();
    assert!(ran.code == Some(0) && content.ends_with(HONEST), "the honest restore point, after {after}: {}", ran.text);
}

/// A command of the programs, bounded and on the repository.
pub fn command(forge: &Forge, line: &str) -> Command {
    let mut words = line.split(' ');
    let program = Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(words.next().unwrap());
    assert!(program.exists(), "{} is missing: cargo build --release --workspace makes it", program.display());
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", PATIENCE, "prlimit", MOST_MEMORY]).arg(program).args(words);
    command.env("RELICT_REPOSITORY", forge.repo()).env("RELICT_PASSWORD", "a password");
    command.env("XDG_STATE_HOME", forge.path("state")).stdin(Stdio::null());
    command
}

/// Runs a command line, which may fail but not misbehave.
pub fn run(forge: &Forge, line: &str) -> Ran {
    let (mut output, input) = std::io::pipe().unwrap();
    let mut command = command(forge, line);
    command.stdout(input.try_clone().unwrap()).stderr(input);
    let mut child = command.spawn().unwrap();
    // It holds the other end of the pipe.
    drop(command);
    let mut bytes = Vec::new();
    output.by_ref().take(MOST_OUTPUT).read_to_end(&mut bytes).unwrap();
    drop(output);
    let status = child.wait().unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!((bytes.len() as u64) < MOST_OUTPUT, "{line} has no end of words: {}", &text[..2000.min(text.len())]);
    behaved(line, status, &text);
    Ran { code: status.code(), text }
}

fn behaved(line: &str, status: ExitStatus, text: &str) {
    assert_eq!(status.signal(), None, "{line}: {status}\n{text}");
    assert_ne!(status.code(), Some(137), "{line} hangs\n{text}");
    assert!(matches!(status.code(), Some(0..=3 | 10..=12)), "{line}: {status}\n{text}");
    assert!(!text.contains("panicked"), "{line}: {text}");
    let control = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "{line} sends {control:?} to a terminal: {text:?}");
    if status.code() == Some(1) {
        assert!(!text.trim().is_empty(), "{line} fails and does not say why");
    }
}

/// Mounts, walks through everything, reads all there is to read, and unmounts. What the mount said.
fn mount_and_read(forge: &Forge) -> String {
    let mnt = forge.path("mnt");
    fs::create_dir_all(&mnt).unwrap();
    let log = fs::File::create(forge.path("mount.log")).unwrap();
    let mut mount = command(forge, &format!("relict mount --foreground {}", mnt.display()));
    let mut child = mount.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let is_mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(mnt.to_str().unwrap());
    let ended = (0..400).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        let ended = child.try_wait().unwrap();
        if ended.is_some() || is_mounted() { Some(ended) } else { None }
    });
    let text = || fs::read_to_string(forge.path("mount.log")).unwrap_or_default();
    if let Some(Some(status)) = ended {
        behaved("relict mount", status, &text());
        return text();
    }
    assert_eq!(ended, Some(None), "no mount: {}", text());
    let _unmounted = Unmounted(&mnt);
    // Every name and its attributes; every extended attribute and link; all content of files up to 64 MiB, the ends of
    // larger ones; and what the computed directories make of it. Errors are right here, hanging is not.
    let reads = "cd \"$1\" || exit 9
        find . -printf '%p %y %s %l\\n' 2>&1
        getfattr -h -R -d -m - . 2>&1
        find . -type f -size -64M -exec cat {} + 2>&1
        find . -type f -size +64M -exec sh -c 'head -c 4096 \"$1\"; tail -c 4096 \"$1\"' sh {} \\; 2>&1
        find versions deleted diff at/now at/2026 -printf '%p\\n' 2>&1
        ls -lR \"diff/latest~1..latest/\" versions/*/*/ 2>&1
        cat .relict/health.json .relict/metrics
        true";
    let mut walk = Command::new("timeout");
    walk.args(["-s", "KILL", PATIENCE, "sh", "-c", reads, "sh"]).arg(&mnt);
    let output = walk.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "walking through the mount: {}\n{}", output.status, text());
    assert_eq!(child.try_wait().unwrap(), None, "the mount ended: {}", text());
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(seen.contains("this was backed up, and nothing may change it"), "{seen}\n{}", text());
    assert!(Command::new("umount").arg(&mnt).status().unwrap().success());
    let status = child.wait().unwrap();
    behaved("relict mount", status, &text());
    text()
}

struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", "-q"]).arg(self.0).stderr(Stdio::null()).status();
    }
}
