//! `mount.relict`: what mount(8) calls for the type `relict`, so that a line in fstab is enough.
//!
//! ```text
//! /repo  /mnt  relict  password-file=/etc/relict.key,allow-other,only=web/etc  0 0
//! ```
//! The program under another name: it starts itself as `relict mount` with these options, and turns the exit code into
//! one of mount(8).

use super::exit;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, ExitCode};

/// The name by which mount(8) finds this.
const NAME: &str = "mount.relict";
/// mount(8): wrong invocation, and failure.
const USAGE: u8 = 1;
const FAILED: u8 = 32;
/// Options of ours that have a value.
const VALUES: [&str; 4] = ["password-file", "password-command", "only", "cache-size"];
/// What mount(8) and fstab say to everyone, and what is so anyhow.
const KNOWN: [&str; 30] = [
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "lazytime",
    "nolazytime",
];

/// Mounts, if the program was called by this name; None: it was not.
pub fn main(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let called = args.next()?;
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        return None;
    }
    let done = translate(args).and_then(|line| match line {
        Some(line) => mount(&line),
        // Asked not to do anything.
        None => Ok(0),
    });
    Some(ExitCode::from(done.unwrap_or_else(|error| {
        crate::error::tell(&exit::error_text(&error));
        if error.kind() == ErrorKind::Usage { USAGE } else { FAILED }
    })))
}

/// Runs `relict` with these words, and gives the exit code that mount(8) expects. What is to be said, it has said.
fn mount(line: &[OsString]) -> Result<u8> {
    let failed = |e| Error::io("starting relict mount", e);
    let program = std::env::current_exe().map_err(failed)?;
    let status = Command::new(program).args(line.get(1..).unwrap_or_default()).status().map_err(failed)?;
    let usage = i32::from(ErrorKind::Usage.exit_code());
    Ok(match status.code() {
        Some(0) => 0,
        Some(code) if code == usage => USAGE,
        _ => FAILED,
    })
}

/// `SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]` as a command line of ours; None to do nothing (`-f`).
fn translate(args: impl Iterator<Item = OsString>) -> Result<Option<Vec<OsString>>> {
    let (mut plain, mut options, mut fake, mut sloppy) = (Vec::new(), Vec::new(), false, false);
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"-o" => {
                options.extend(args.next().unwrap_or_default().as_bytes().split(|b| *b == b',').map(<[u8]>::to_vec))
            }
            b"-t" | b"-N" => drop(args.next()),
            [b'-', letters @ ..] if !letters.is_empty() && letters.iter().all(|b| b"sfnv".contains(b)) => {
                fake |= letters.contains(&b'f');
                sloppy |= letters.contains(&b's');
            }
            [b'-', _, ..] => return Err(wrong(format!("{NAME} does not know '{}'", arg.to_string_lossy()))),
            _ => plain.push(arg),
        }
    }
    let [spec, dir] = plain.as_slice() else {
        return Err(wrong(format!("{NAME} takes a repository and a mount point")));
    };
    let mut line: Vec<OsString> = ["relict", "--quiet", "--repo"].map(OsString::from).into();
    line.extend([spec.clone(), "mount".into()]);
    for option in options.iter().filter(|option| !option.is_empty()) {
        match ours(option) {
            Some(words) => line.extend(words),
            None if sloppy => {}
            None => {
                let shown = crate::catalog::points::printable(option);
                return Err(wrong(format!("'{shown}' is not an option of a relict mount")));
            }
        }
    }
    line.extend(["--".into(), dir.clone()]);
    Ok((!fake).then_some(line))
}

/// One option as words of our command line; None if it has no meaning here.
fn ours(option: &[u8]) -> Option<Vec<OsString>> {
    let (name, value) = match option.iter().position(|b| *b == b'=') {
        Some(at) => (option.get(..at)?, option.get(at + 1..)),
        None => (option, None),
    };
    let name = std::str::from_utf8(name).ok()?.replace('_', "-");
    match value {
        Some(value) if VALUES.contains(&name.as_str()) => {
            Some(vec![[format!("--{name}=").as_bytes(), value].concat()].into_iter().map(OsString::from_vec).collect())
        }
        None if name == "allow-other" => Some(vec!["--allow-other".into()]),
        _ if name.starts_with("x-") || name == "comment" => Some(Vec::new()),
        None if KNOWN.contains(&name.as_str()) || name == "-netdev" => Some(Vec::new()),
        _ => None,
    }
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Usage, what).advise(
        "options are password-file=FILE, password-command=COMMAND, allow-other, only=HOST/SOURCE[@POINT] and cache-size=SIZE; \
         'relict mount --help' says what they mean",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &str) -> Result<Option<String>> {
        let words = translate(args.split(' ').map(OsString::from))?;
        Ok(words.map(|words| words.join(OsStr::new(" ")).into_string().unwrap()))
    }

    #[test]
    fn lines_of_fstab_are_understood() {
        for (args, expected) in [
            ("/repo /mnt", "relict --quiet --repo /repo mount -- /mnt"),
            ("/repo /mnt -o rw", "relict --quiet --repo /repo mount -- /mnt"),
            (
                "/repo /mnt -n -v -o ro,password-file=/k,allow-other,only=web/etc@latest,_netdev,nofail,x-systemd.automount,cache-size=1G",
                "relict --quiet --repo /repo mount --password-file=/k --allow-other --only=web/etc@latest --cache-size=1G -- /mnt",
            ),
            (
                "/repo /mnt -o allow_other,password_file=/k -t fuse.relict",
                "relict --quiet --repo /repo mount --allow-other --password-file=/k -- /mnt",
            ),
            ("/repo /mnt -s -o strange,rw", "relict --quiet --repo /repo mount -- /mnt"),
        ] {
            assert_eq!(line(args).unwrap().as_deref(), Some(expected), "{args}");
            assert!(super::super::parse(expected.split(' ').map(OsString::from)).is_ok(), "{expected}");
        }
        assert_eq!(line("/repo /mnt -f").unwrap(), None);
        for args in [
            "/repo",
            "/repo /mnt /x",
            "/repo /mnt -o strange",
            "/repo /mnt -o only",
            "/repo /mnt -o ro=1",
            "/repo /mnt -q",
        ] {
            assert_eq!(line(args).unwrap_err().kind(), ErrorKind::Usage, "{args}");
        }
    }

    #[test]
    fn only_this_name_is_meant() {
        assert!(main(["/usr/bin/relict", "mount"].map(OsString::from).into_iter()).is_none());
        assert!(main(std::iter::empty()).is_none());
    }
}
