//! The question between a plan and its execution.

use relict::cli::context::Context;
use relict::{Error, ErrorKind, Result};
use std::io::{BufRead, IsTerminal, Write};

/// Goes on when a person says yes, or `--yes` was given.
///
/// # Errors
/// `Usage` without a terminal to ask at, `Interrupted` when the answer is no: nothing was changed then.
pub fn confirm(context: &Context, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !context.json;
    if !terminal {
        return Err(Error::new(
            ErrorKind::Usage,
            "this changes the repository, and there is nobody to ask; nothing was changed",
        )
        .advise("look at the plan above (or with --dry-run), then run it again with --yes"));
    }
    eprint!("do this? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| Error::io("reading the answer", e))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Interrupted, "not confirmed; nothing was changed")
        .advise("run it again and answer 'y', or give --yes"))
}
