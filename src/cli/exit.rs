//! How a command ends: its exit code, and errors as people and programs read them (SPEC.md section 11).

use super::text::escape_lines;
use crate::error::{Error, ErrorKind, Result};
use std::process::ExitCode;

/// A command that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything: exit code 0.
    Complete,
    /// It finished, but something was left out, and the output says what: exit code 3.
    Partial,
}

/// Exit code of [`Outcome::Partial`].
pub const PARTIAL: u8 = 3;
/// The reader of our output went away; what a shell shows for SIGPIPE.
const PIPE_CLOSED: u8 = 141;

/// The word for a kind in `--json` output. Scripts depend on these: they do not change.
#[must_use]
pub const fn kind_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Usage => "usage",
        ErrorKind::NoRepository => "no_repository",
        ErrorKind::Locked => "locked",
        ErrorKind::WrongPassword => "wrong_password",
        ErrorKind::NewerFormat => "newer_format",
        ErrorKind::Damaged => "damaged",
        ErrorKind::BadInput => "bad_input",
        ErrorKind::NotFound => "not_found",
        ErrorKind::NoSpace => "no_space",
        ErrorKind::ReadOnly => "read_only",
        ErrorKind::Io => "io",
        ErrorKind::Interrupted => "interrupted",
    }
}

/// What to do about an error that brought no advice of its own.
#[must_use]
pub const fn general_advice(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Locked => {
            "wait until the other program has finished, then run this again; reading and mounting work meanwhile"
        }
        ErrorKind::WrongPassword => "check the password; nothing can open the repository without it",
        ErrorKind::NewerFormat => "use the program that made the repository, or a newer one; nothing was changed",
        ErrorKind::Damaged => "run 'relict-maint check' to see what is damaged and which restore points need it",
        ErrorKind::BadInput => "make it again with the tool that it came from; the repository is not affected",
        ErrorKind::NoSpace => {
            "free some space or give the device more, then run this again; \
             finished restore points are not affected"
        }
        ErrorKind::ReadOnly => "the file system is mounted read-only; remount it writable, or choose another target",
        ErrorKind::Interrupted => "run it again to go on; what is stored already is not read or sent again",
        _ => return None,
    })
}

/// The error as one line of JSON.
#[must_use]
pub fn error_json(error: &Error) -> String {
    serde_json::json!({
        "message_type": "error",
        "kind": kind_word(error.kind()),
        "code": error.kind().exit_code(),
        "message": error.to_string(),
        "advice": advice(error),
    })
    .to_string()
}

/// The error for people: what happened, and below it what to do.
#[must_use]
pub fn error_text(error: &Error) -> String {
    let mut out = format!("relict: {}\n", indent(&error.to_string(), "  "));
    if let Some(advice) = advice(error) {
        out.push_str(&format!("  {}\n", indent(advice, "  ")));
    }
    out
}

fn advice(error: &Error) -> Option<&str> {
    error.advice().or(general_advice(error.kind()))
}

fn indent(text: &str, by: &str) -> String {
    escape_lines(text).trim_end().replace('\n', &format!("\n{by}"))
}

/// Whether the error only says that the reader of our output has gone, as in `relict ls latest | head`.
fn pipe_closed(error: &Error) -> bool {
    error.errno() == Some(libc::EPIPE)
}

/// Says what went wrong, if something did, and gives the exit code.
pub fn conclude(result: &Result<Outcome>, json: bool) -> ExitCode {
    ExitCode::from(code_of(result, json))
}

/// As [`conclude`], and ends the process at once. Threads of a mount may still wait for a medium or hold the database; they
/// must not meet what the end of a process takes apart.
pub fn conclude_at_once(result: &Result<Outcome>, json: bool) -> ! {
    use std::io::Write as _;
    let code = code_of(result, json);
    let _ = std::io::stdout().flush();
    crate::os::exit_at_once(code)
}

fn code_of(result: &Result<Outcome>, json: bool) -> u8 {
    match result {
        Ok(Outcome::Complete) => 0,
        Ok(Outcome::Partial) => PARTIAL,
        Err(error) if pipe_closed(error) => PIPE_CLOSED,
        Err(error) => {
            // In JSON mode errors go where the other messages go; programs read one stream.
            use std::io::Write as _;
            let _ = if json {
                writeln!(std::io::stdout(), "{}", error_json(error))
            } else {
                write!(std::io::stderr(), "{}", error_text(error))
            };
            error.kind().exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_happened_and_what_to_do() {
        let error = Error::new(ErrorKind::Locked, "process 17 is writing to /srv/b\x1b[2J");
        assert_eq!(
            error_text(&error),
            "relict: process 17 is writing to /srv/b\\x1b[2J\n  wait until the other program has finished, \
             then run this again; reading and mounting work meanwhile\n"
        );
        let own = Error::new(ErrorKind::Usage, "no").advise("try\nthis");
        assert_eq!(error_text(&own), "relict: no\n  try\n  this\n");
        let json: serde_json::Value = serde_json::from_str(&error_json(&error)).unwrap();
        assert_eq!((json["kind"].as_str(), json["code"].as_u64()), (Some("locked"), Some(11)));
    }
}
