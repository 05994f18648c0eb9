//! What people type: parse, make plain options, call one room, say what happened.
//!
//! Every command is a file here with its arguments and its words. `relict` has no command that deletes;
//! those are in `relict-maint`, so that a host can be given the one without the other.

mod backup;
mod cat;
mod chains;
pub mod context;
mod diff;
pub mod exit;
mod find;
mod ingest;
mod init;
mod ls;
mod mount;
mod mount_helper;
pub mod out;
pub mod password;
pub mod progress;
mod restore;
mod service;
mod snapshot;
mod snapshots;
pub mod text;
mod umount;
mod version;
mod versions;

#[cfg(test)]
mod tests;

use crate::catalog::points::Filter;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Compression;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use context::Context;
use exit::Outcome;
use password::PasswordSource;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// A deduplicating backup repository that you can mount.
#[derive(Debug, Parser)]
#[command(name = "relict", version, disable_help_subcommand = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: the output says what, and what to do
  2    the command line is wrong
  3    done, but something was left out: the output says what
  10   there is no repository
  11   another program is writing to the repository
  12   wrong password
  130  interrupted
  141  whoever read the output went away";

const GLOBAL: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = GLOBAL)]
struct Global {
    /// The repository's directory
    #[arg(short, long, global = true, env = "RELICT_REPOSITORY", hide_env_values = true, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Take the password from the first line of FILE [env: RELICT_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Take the password from what a shell command prints [env: RELICT_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "password_file")]
    password_command: Option<String>,
    /// Talk to a program: one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors and what was left out
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Show no progress
    #[arg(long, global = true)]
    no_progress: bool,
    /// How hard what is written is compressed: 'off', or a level of zstd from 1 (fast) to 19 (small) [default: 1]
    #[arg(long, global = true, env = "RELICT_COMPRESSION", hide_env_values = true, value_name = "LEVEL")]
    compression: Option<Compression>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Backup(backup::BackupArgs),
    Ingest(ingest::IngestArgs),
    Snapshots(snapshots::SnapshotsArgs),
    Ls(ls::LsArgs),
    Find(find::FindArgs),
    Versions(versions::VersionsArgs),
    Diff(diff::DiffArgs),
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Restore(restore::RestoreArgs),
    Cat(cat::CatArgs),
    Version(version::VersionArgs),
}

/// Which restore points may be meant.
#[derive(Debug, Clone, Default, Args)]
struct FilterArgs {
    /// Only restore points of this host
    #[arg(long, value_name = "NAME")]
    host: Option<OsString>,
    /// Only restore points of this source
    #[arg(long, value_name = "NAME")]
    source: Option<OsString>,
    /// Only restore points with this tag; given twice, with both
    #[arg(long, value_name = "TAG")]
    tag: Vec<OsString>,
}

impl From<&FilterArgs> for Filter {
    fn from(args: &FilterArgs) -> Self {
        let bytes = |text: &OsString| std::os::unix::ffi::OsStrExt::as_bytes(text.as_os_str()).to_vec();
        Self {
            host: args.host.as_ref().map(bytes),
            source: args.source.as_ref().map(bytes),
            tags: args.tag.iter().map(bytes).collect(),
        }
    }
}

/// How restore points are named; part of the help of commands that take one.
const POINTS: &str = "\
POINT is one of
  latest                 the newest restore point
  latest~1               the one before it; ~N works behind any of these
  1a2b3c4d               four or more digits of an id
  2026-11-21T10-00-00Z   a time, or its beginning (2026-11-21): the newest point not after it
  yesterday, -7d, -36h   the newest point not after that; all times are UTC";

/// Runs the program and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = mount_helper::main(std::env::args_os()) {
        return code;
    }
    let json = std::env::args_os().any(|a| a == "--json");
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error, json),
    };
    let json = cli.global.json;
    if matches!(cli.command, Command::Mount(_)) {
        exit::conclude_at_once(&run(cli), json);
    }
    exit::conclude(&run(cli), json)
}

fn parse(args: impl Iterator<Item = OsString>) -> std::result::Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

fn not_understood(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        // Help and version were asked for.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let mut parts = text.trim_end().splitn(2, "\n\n");
    let what = parts.next().unwrap_or_default();
    let error = Error::new(ErrorKind::Usage, what.strip_prefix("error: ").unwrap_or(what));
    let advice = parts.next().unwrap_or("For more information, try '--help'.");
    exit::conclude(&Err(error.advise(advice)), json)
}

fn run(cli: Cli) -> Result<Outcome> {
    let global = cli.global;
    // With fewer it works too, only slower.
    let _ = crate::os::raise_open_files();
    let context = Context {
        password: PasswordSource::choose(
            global.password_file.as_deref(),
            global.password_command.as_deref(),
            &|name| std::env::var_os(name),
        ),
        repo: global.repo,
        json: global.json,
        quiet: global.quiet,
        verbose: global.verbose,
        no_progress: global.no_progress,
        compression: global.compression.unwrap_or_default(),
        stop: context::catch_signals()?,
    };
    match cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Backup(args) => backup::run(&context, args),
        Command::Ingest(args) => ingest::run(&context, args),
        Command::Snapshots(args) => snapshots::run(&context, &args),
        Command::Ls(args) => ls::run(&context, &args),
        Command::Find(args) => find::run(&context, &args),
        Command::Versions(args) => versions::run(&context, &args),
        Command::Diff(args) => diff::run(&context, &args),
        Command::Mount(args) => mount::run(&context, &args),
        Command::Umount(args) => umount::run(&context, &args),
        Command::Restore(args) => restore::run(&context, args),
        Command::Cat(args) => cat::run(&context, &args),
        Command::Version(args) => version::run(&context, &args),
    }
}
