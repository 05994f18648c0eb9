//! `relict-maint`: the maintenance tool. It alone may change or remove what is stored.
//!
//! This file is a table: one module a command, each with its `Options` and its `run`.

#[macro_use]
mod say;

mod check;
mod compact;
mod confirm;
mod dump;
mod forget;
mod health;
mod keys;
mod maint;
mod prune;
mod rebuild;
mod repair;
mod states;
mod stats;
mod thin;

use clap::{Args, Parser, Subcommand};
use relict::Result;
use relict::cli::context::{Context, catch_signals};
use relict::cli::exit::{Outcome, conclude};
use relict::cli::password::PasswordSource;
use relict::store::Compression;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "relict-maint", version, about = "Checks and repairs a relict repository")]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The repository
    #[arg(short, long, global = true, env = "RELICT_REPOSITORY", value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Read the password from this file
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read the password from this command's output
    #[arg(long, global = true, value_name = "COMMAND")]
    password_command: Option<String>,
    /// How hard what is written is compressed: 'off', or a level of zstd from 1 (fast) to 19 (small) [default: 1]
    #[arg(long, global = true, env = "RELICT_COMPRESSION", hide_env_values = true, value_name = "LEVEL")]
    compression: Option<Compression>,
    /// One JSON object a line, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors and findings
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Command {
    /// Verify the repository; exit code 1 when something is wrong
    Check(check::Options),
    /// Forget restore points by a policy or by name; prune removes them, undelete brings them back until then
    Forget(forget::Options),
    /// Show forgotten restore points again, and thinned ones as they were
    Undelete(states::Undelete),
    /// Keep restore points from being forgotten, thinned or removed
    Protect(states::Protect),
    /// Take protection back (a lock by date stays)
    Unprotect(states::Unprotect),
    /// Remove what forgotten restore points and interrupted backups left, and give the room back
    Prune(prune::Options),
    /// Rewrite packages that are mostly dead or small, so that what is read together lies together
    Compact(compact::Options),
    /// Passwords: list, add, change, remove key slots; recovery sheets
    Keys(keys::Options),
    /// Make a new index (db/) from the packages; the old one is kept beside it
    Rebuild(rebuild::Options),
    /// Mend damage: bring back what can be had, put damaged packages aside, say what is lost
    Repair(repair::Options),
    /// Show what the repository holds, what it costs, and what forgetting a restore point would free
    Stats(stats::Options),
    /// Show points, ages, verification and findings for monitoring
    Health(health::Options),
    /// Show any record as JSON
    Dump(dump::Options),
}

impl Command {
    fn run(self, context: &Context) -> Result<Outcome> {
        match self {
            Self::Check(options) => check::run(context, &options),
            Self::Forget(options) => forget::run(context, &options),
            Self::Undelete(options) => states::undelete(context, &options),
            Self::Protect(options) => states::protect(context, &options),
            Self::Unprotect(options) => states::unprotect(context, &options),
            Self::Prune(options) => prune::run(context, &options),
            Self::Compact(options) => compact::run(context, &options),
            Self::Keys(options) => keys::run(context, &options),
            Self::Rebuild(options) => rebuild::run(context, &options),
            Self::Repair(options) => repair::run(context, &options),
            Self::Stats(options) => stats::run(context, &options),
            Self::Health(options) => health::run(context, &options),
            Self::Dump(options) => dump::run(context, &options),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.common.json;
    let result = context(arguments.common).and_then(|context| arguments.command.run(&context));
    conclude(&say::concluded(result), json)
}

fn context(common: Common) -> Result<Context> {
    let environment = |name: &str| std::env::var_os(name);
    let password =
        PasswordSource::choose(common.password_file.as_deref(), common.password_command.as_deref(), &environment);
    Ok(Context {
        repo: common.repo,
        password,
        json: common.json,
        quiet: common.quiet,
        verbose: false,
        no_progress: false,
        compression: common.compression.unwrap_or_default(),
        stop: catch_signals()?,
    })
}
