//! What every command starts from: where the repository is, how it is unlocked, how to talk, when to stop.

use super::password::PasswordSource;
use super::progress::Style;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Compression, OpenOptions, Repository, Unlock, Writer, read_header};
use repo_format::Encryption;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How often a person may type a wrong password.
const ATTEMPTS: u32 = 3;

/// The options that all commands share.
#[derive(Debug, Clone)]
pub struct Context {
    /// The repository, if one was named.
    pub repo: Option<PathBuf>,
    /// Where its password comes from.
    pub password: PasswordSource,
    /// Talk to a program.
    pub json: bool,
    /// Say nothing but errors.
    pub quiet: bool,
    /// Say more.
    pub verbose: bool,
    /// No progress.
    pub no_progress: bool,
    /// How hard what is written is compressed.
    pub compression: Compression,
    /// Set by SIGINT and SIGTERM.
    pub stop: Arc<AtomicBool>,
}

impl Context {
    /// The repository's path.
    ///
    /// # Errors
    /// `Usage` when none was named.
    pub fn repo_path(&self) -> Result<&Path> {
        self.repo.as_deref().filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no repository was named")
                .advise("name it by -r REPO, or set the variable RELICT_REPOSITORY")
        })
    }

    /// Opens the repository for reading. A person may mistype the password twice.
    ///
    /// # Errors
    /// `NoRepository`, `WrongPassword`, `NewerFormat`, `Damaged`, and what the password source says.
    pub fn repository(&self, cache_bytes: usize) -> Result<Arc<Repository>> {
        let path = self.repo_path()?;
        self.unlocking(&mut |unlock| Repository::open(path, unlock, &OpenOptions { cache_bytes }))
    }

    /// Opens the repository for writing and takes the writer lease.
    ///
    /// # Errors
    /// As [`Context::repository`], and `Locked`.
    pub fn writer(&self, cache_bytes: usize) -> Result<Writer> {
        let path = self.repo_path()?;
        let writer = self.unlocking(&mut |unlock| Writer::open(path, unlock, &OpenOptions { cache_bytes }))?;
        writer.compress_by(self.compression);
        Ok(writer)
    }

    fn unlocking<T>(&self, open: &mut dyn FnMut(&mut Unlock<'_>) -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let opened = open(&mut || self.password.read());
            match opened {
                Err(e)
                    if e.kind() == ErrorKind::WrongPassword && self.password.can_ask_again() && attempt < ATTEMPTS =>
                {
                    crate::tell!("this password does not open the repository");
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Whether the repository needs a password, from its header alone.
    ///
    /// # Errors
    /// `NoRepository` when there is none; `NewerFormat` or `Damaged` when the header cannot be used.
    pub fn needs_password(&self) -> Result<bool> {
        Ok(read_header(self.repo_path()?)?.encryption != Encryption::None)
    }

    /// How progress is shown.
    #[must_use]
    pub fn style(&self) -> Style {
        Style::choose(self.json, self.quiet || self.no_progress)
    }

    /// Whether sentences for people are wanted.
    #[must_use]
    pub const fn chatty(&self) -> bool {
        !self.json && !self.quiet
    }
}

/// Makes SIGINT and SIGTERM set the stop flag, and a second one end the program at once with code 130.
///
/// # Errors
/// When the system refuses the handlers.
pub fn catch_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(ErrorKind::Interrupted.exit_code());
        flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|e| Error::io("catching signals", e))?;
    }
    Ok(stop)
}
