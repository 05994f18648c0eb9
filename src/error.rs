//! The one error type of the library: what kind it is (which decides the exit code), what happened to
//! which file or chunk, what it means for the data, and what to do next.

use std::fmt;
use std::io::{self, Write};

/// Result of everything fallible here.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as scripts need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// An option or argument is wrong.
    Usage,
    /// No repository where one was expected.
    NoRepository,
    /// Another process holds the writer lease.
    Locked,
    /// No key slot opens with this password.
    WrongPassword,
    /// The repository was made by a newer program.
    NewerFormat,
    /// Stored bytes are not what was written.
    Damaged,
    /// What was given to read in (a stream, a list of extents) is not valid.
    BadInput,
    /// Something named does not exist.
    NotFound,
    /// No room left on a device.
    NoSpace,
    /// The target cannot be written.
    ReadOnly,
    /// A source or target file gave an error.
    Io,
    /// The user or the system asked to stop.
    Interrupted,
}

impl ErrorKind {
    /// The exit code of a command that ends with this error (SPEC.md section 11).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2, // as clap gives it for a wrong command line
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::WrongPassword => 12,
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

/// An error for people.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    advice: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    of_stored: bool,
}

impl Error {
    /// An error of a kind, with what happened.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), advice: None, source: None, of_stored: false }))
    }

    /// Stored bytes are wrong.
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// An operating system error while doing `what`; its kind follows from errno.
    pub fn io(what: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Self::new(kind, what).because(error)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `what` in front of the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Says that this came of reading what the repository has stored, not of a source or target.
    #[must_use]
    pub fn of_stored(mut self) -> Self {
        self.0.of_stored = true;
        self
    }

    /// Whether stored bytes cannot be read: they are not what was written, or they are on bad sectors of the repository's
    /// own medium. A bad sector of a source is something else, and so is a medium that gives no answer.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.0.kind == ErrorKind::Damaged || (self.0.of_stored && self.errno() == Some(libc::EIO))
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do next, if there is advice.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// The operating system's error number, where one is the cause.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let source = self.0.source.as_deref()?;
        source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

impl From<repo_format::FormatError> for Error {
    fn from(error: repo_format::FormatError) -> Self {
        let kind = match error.problem {
            repo_format::Problem::Version => ErrorKind::NewerFormat,
            _ => ErrorKind::Damaged,
        };
        Self::new(kind, error.to_string())
    }
}

/// Tells people on standard error. Whoever does not listen there misses it, and no work ends for that.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// As `eprintln!`, which panics where nobody listens.
#[macro_export]
macro_rules! tell {
    ($($arg:tt)*) => { $crate::error::tell(&(format!($($arg)*) + "\n")) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sectors_of_the_repository_are_a_loss_and_those_of_a_source_are_none() {
        let failed = |errno| Error::io("reading", io::Error::from_raw_os_error(errno));
        assert!(failed(libc::EIO).of_stored().context("in front").advise("behind").is_loss());
        assert!(Error::damaged("rotten").is_loss());
        assert!(!failed(libc::EIO).is_loss());
        assert!(!failed(libc::EACCES).of_stored().is_loss() && !failed(libc::ENOSPC).of_stored().is_loss());
        assert!(!Error::new(ErrorKind::Io, "no answer").of_stored().is_loss());
    }
}
