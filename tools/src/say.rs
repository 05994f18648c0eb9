//! Standard output of all commands. What cannot be written there ends no work: a change of the repository is never cut in the
//! middle because nobody listens any more. The exit code says it at the end.

use relict::cli::exit::Outcome;
use relict::cli::out::Out;
use relict::{Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first error of standard output; nothing is written after it.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Prints a line, as `println!` does, and goes on where that cannot be done.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say::text(&(format!($($arg)*) + "\n")) };
}

fn failed() -> MutexGuard<'static, Option<Error>> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints text as it is.
pub fn text(text: &str) {
    let mut failed = failed();
    if failed.is_none() {
        let mut out = Out::new();
        *failed = out.bytes(text.as_bytes()).and_then(|()| out.finish()).err();
    }
}

/// What a command comes to: its own error, else that of standard output.
///
/// # Errors
/// The first error of standard output, when something that was said could not be written.
pub fn concluded(result: Result<Outcome>) -> Result<Outcome> {
    result.and_then(|outcome| heard().map(|()| outcome))
}

/// Fails when what was said so far could not be written, and forgets about it.
///
/// # Errors
/// The first error of standard output.
pub fn heard() -> Result<()> {
    failed().take().map_or(Ok(()), Err)
}
