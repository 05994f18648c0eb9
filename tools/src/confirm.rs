//! The question between a plan and its execution: one for all commands.

use relict::cli::context::Context;
use relict::{Error, ErrorKind, Result};
use std::io::{BufRead, IsTerminal};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long an interrupt goes unnoticed while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks on a terminal, unless `yes` was given. False: the answer is no, and was said so; nothing is to be done.
///
/// # Errors
/// `Usage` without a terminal to ask at; `Interrupted` by Ctrl-C.
pub fn confirmed(context: &Context, yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    // Nobody has seen the plan that the question is about.
    crate::say::heard()?;
    if context.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(ErrorKind::Usage, "nobody can be asked whether to do this, and --yes was not given")
            .advise("nothing was changed; add --yes in scripts, or --dry-run to see the plan"));
    }
    relict::error::tell(&format!("{question} [y/N] "));
    if matches!(answer(context)?.trim(), "y" | "Y" | "yes" | "Yes") {
        return Ok(true);
    }
    say!("nothing was changed");
    Ok(false)
}

/// A line from the terminal. Reading it is not ended by a signal, so a thread of its own does that.
fn answer(context: &Context) -> Result<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = send.send(read.map(|_| line));
    });
    loop {
        match receive.recv_timeout(LOOK_EVERY) {
            Ok(line) => return line.map_err(|e| Error::io("reading the answer", e)),
            Err(RecvTimeoutError::Disconnected) => return Ok(String::new()),
            Err(RecvTimeoutError::Timeout) if context.stop.load(Ordering::Relaxed) => {
                relict::tell!("");
                return Err(Error::new(ErrorKind::Interrupted, "stopped at the question; nothing was changed"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
