//! Where the password comes from: an option, the environment, or the person at the terminal.

use super::text::{escape, escape_path};
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest password read from a file, command or descriptor, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

const NO_PASSWORD: &str = "give it by --password-file, --password-command, or one of the variables RELICT_PASSWORD, \
                           RELICT_PASSWORD_FILE, RELICT_PASSWORD_COMMAND, RELICT_PASSWORD_FD";

/// Where to take the password from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// First line of this file.
    File(PathBuf),
    /// First line of what this shell command prints.
    Command(OsString),
    /// First line of this open file descriptor of ours.
    Descriptor(String),
    /// The password itself.
    Value(Vec<u8>),
    /// Ask at the terminal.
    Ask,
}

impl PasswordSource {
    /// Chooses a source: options first, then the environment (descriptor, value, file, command), then the terminal.
    #[must_use]
    pub fn choose(file: Option<&Path>, command: Option<&str>, env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let env = |name| env(name).filter(|value| !value.is_empty());
        if let Some(file) = file {
            return Self::File(file.to_path_buf());
        }
        if let Some(command) = command {
            return Self::Command(command.into());
        }
        None.or_else(|| env("RELICT_PASSWORD_FD").map(|v| Self::Descriptor(v.to_string_lossy().into_owned())))
            .or_else(|| env("RELICT_PASSWORD").map(|v| Self::Value(v.into_vec())))
            .or_else(|| env("RELICT_PASSWORD_FILE").map(|v| Self::File(v.into())))
            .or_else(|| env("RELICT_PASSWORD_COMMAND").map(Self::Command))
            .unwrap_or(Self::Ask)
    }

    /// Whether a wrong password may be asked for again.
    #[must_use]
    pub const fn can_ask_again(&self) -> bool {
        matches!(self, Self::Ask)
    }

    /// The password of an existing repository.
    ///
    /// # Errors
    /// `Usage` when it is empty or there is nobody to ask; `Io` when the source cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let password = match self {
            Self::File(path) => first_line(&mut open(path)?, &format!("the password file {}", escape_path(path)))?,
            Self::Command(command) => run(command)?,
            Self::Descriptor(number) => read_descriptor(number)?,
            Self::Value(value) => value.clone(),
            Self::Ask => ask("password of the repository: ")?,
        };
        if password.is_empty() { Err(empty(self)) } else { Ok(password) }
    }

    /// The password for a new repository; a person types it twice.
    ///
    /// # Errors
    /// As [`PasswordSource::read`], and `Usage` when the two differ.
    pub fn read_new(&self) -> Result<Vec<u8>> {
        self.read_new_for("password for the new repository: ")
    }

    /// As [`PasswordSource::read_new`], asking a person with this prompt.
    ///
    /// # Errors
    /// As [`PasswordSource::read_new`].
    pub fn read_new_for(&self, prompt: &str) -> Result<Vec<u8>> {
        if *self != Self::Ask {
            return self.read();
        }
        let first = ask(prompt)?;
        if first.is_empty() {
            return Err(empty(self));
        }
        if ask("the same password again: ")? != first {
            return Err(
                Error::new(ErrorKind::Usage, "the two passwords differ; nothing was made").advise("run it again")
            );
        }
        Ok(first)
    }
}

fn empty(source: &PasswordSource) -> Error {
    let what = match source {
        PasswordSource::File(path) => format!("the first line of the password file {} is empty", escape_path(path)),
        PasswordSource::Command(_) => "the password command printed an empty line".to_owned(),
        PasswordSource::Descriptor(n) => {
            format!("descriptor {} (RELICT_PASSWORD_FD) gave no password", escape(n.as_bytes()))
        }
        PasswordSource::Value(_) | PasswordSource::Ask => "the password is empty".to_owned(),
    };
    let advice = "a repository without a password is made with 'relict init --insecure-no-password', and needs none";
    Error::new(ErrorKind::Usage, what).advise(advice)
}

fn open(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).map_err(|e| {
        Error::io(format!("the password file {} cannot be read", escape_path(path)), e)
            .advise("check --password-file or RELICT_PASSWORD_FILE")
    })
}

/// The first line without its end.
fn first_line(from: &mut dyn Read, name: &str) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut all).map_err(|e| Error::io(format!("reading {name}"), e))?;
    let end = all.iter().position(|b| *b == b'\n').unwrap_or(all.len());
    all.truncate(end);
    if all.last() == Some(&b'\r') {
        all.pop();
    }
    if all.len() as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::Usage, format!("{name} is longer than any password")).advise(NO_PASSWORD));
    }
    Ok(all)
}

fn run(command: &OsString) -> Result<Vec<u8>> {
    let failed = |how: String| {
        Error::new(ErrorKind::Io, format!("the password command {how}"))
            .advise("run it by hand to see why; check --password-command or RELICT_PASSWORD_COMMAND")
    };
    let output =
        Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::inherit()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| failed(format!("cannot be started: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("failed ({})", output.status)));
    }
    first_line(&mut output.stdout.as_slice(), "the password command's output")
}

/// `/proc/self/fd` opens a descriptor by number without trusting that the number is open and ours.
fn read_descriptor(number: &str) -> Result<Vec<u8>> {
    let wrong = || {
        Error::new(ErrorKind::Usage, format!("RELICT_PASSWORD_FD is '{}', which is not an open descriptor", escape(number.as_bytes())))
            .advise("set it to the number of a descriptor that is open for reading, as in 'RELICT_PASSWORD_FD=3 relict ... 3<FILE'")
    };
    let parsed: u32 = number.parse().map_err(|_| wrong())?;
    let mut file = std::fs::File::open(format!("/proc/self/fd/{parsed}")).map_err(|e| wrong().because(e))?;
    first_line(&mut file, "the password's descriptor")
}

fn ask(prompt: &str) -> Result<Vec<u8>> {
    rpassword::prompt_password(prompt).map(String::into_bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::Interrupted => {
            Error::new(ErrorKind::Interrupted, "no password was typed").advise(NO_PASSWORD)
        }
        _ => Error::new(ErrorKind::Usage, "the repository needs a password, and there is no terminal to ask for it")
            .advise(NO_PASSWORD),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(file: Option<&str>, command: Option<&str>, set: &[(&str, &str)]) -> PasswordSource {
        let env = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        PasswordSource::choose(file.map(Path::new), command, &env)
    }

    #[test]
    fn options_win_over_the_environment() {
        let all = [("RELICT_PASSWORD", "p"), ("RELICT_PASSWORD_FILE", "/f"), ("RELICT_PASSWORD_COMMAND", "c")];
        assert_eq!(choose(Some("/x"), None, &all), PasswordSource::File("/x".into()));
        assert_eq!(choose(None, Some("x"), &all), PasswordSource::Command("x".into()));
        assert_eq!(choose(None, None, &all), PasswordSource::Value(b"p".to_vec()));
        assert_eq!(choose(None, None, &all[1..]), PasswordSource::File("/f".into()));
        assert_eq!(choose(None, None, &all[2..]), PasswordSource::Command("c".into()));
        assert_eq!(choose(None, None, &[("RELICT_PASSWORD", "")]), PasswordSource::Ask);
        assert_eq!(choose(None, None, &[("RELICT_PASSWORD_FD", "3")]), PasswordSource::Descriptor("3".into()));
    }

    #[test]
    fn only_the_first_line_counts() {
        let line = |bytes: &[u8]| first_line(&mut &*bytes, "x").unwrap();
        assert_eq!(line(b"secret\nmore"), b"secret");
        assert_eq!(line(b"secret\r\n"), b"secret");
        assert_eq!(line(b" a b "), b" a b ");
        assert!(first_line(&mut vec![b'a'; 70_000].as_slice(), "x").is_err());
    }

    #[test]
    fn commands_and_their_failures() {
        assert_eq!(PasswordSource::Command("printf 'a b\\nc'".into()).read().unwrap(), b"a b");
        let failed = PasswordSource::Command("exit 3 2>/dev/null".into()).read().unwrap_err();
        assert!(failed.to_string().contains("exit status: 3"), "{failed}");
        assert_eq!(PasswordSource::Command("true".into()).read().unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(PasswordSource::Descriptor("999".into()).read().unwrap_err().kind(), ErrorKind::Usage);
        assert!(PasswordSource::File("/nonexistent".into()).read().is_err());
    }
}
