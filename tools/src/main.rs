//! `relict-maint`: the maintenance tool. It alone may change or remove what is stored; here it checks and rebuilds.

mod check;

use clap::{Args, Parser, Subcommand};
use relict::cli::context::{Context, catch_signals};
use relict::cli::exit::{Outcome, conclude};
use relict::cli::password::PasswordSource;
use relict::cli::text;
use relict::{Error, ErrorKind, Result};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Files named for one finding before the rest are only counted; `--json` names all.
const AFFECTED_SHOWN: usize = 20;

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
    /// One JSON object a line, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors and findings
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Verify the repository; exit code 1 when something is wrong
    Check {
        /// Also read and verify every stored byte
        #[arg(long)]
        read_data: bool,
    },
    /// Make a new index (db/) from the packages; the old one is kept beside it
    Rebuild,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.common.json;
    conclude(&run(arguments), json)
}

fn run(arguments: Arguments) -> Result<Outcome> {
    let common = arguments.common;
    let environment = |name: &str| std::env::var_os(name);
    let password = PasswordSource::choose(common.password_file.as_deref(), common.password_command.as_deref(), &environment);
    let context = Context {
        repo: common.repo,
        password,
        json: common.json,
        quiet: common.quiet,
        verbose: false,
        no_progress: false,
        stop: catch_signals()?,
    };
    match arguments.command {
        Command::Check { read_data } => run_check(&context, read_data),
        Command::Rebuild => run_rebuild(&context),
    }
}

/// Node and segment cache of a check; packages are read past it.
const CHECK_CACHE_BYTES: usize = 128 << 20;

fn run_check(context: &Context, read_data: bool) -> Result<Outcome> {
    let repository = context.repository(CHECK_CACHE_BYTES)?;
    let report = check::run(&repository, read_data, &context.stop)?;
    if context.json {
        report.findings.iter().for_each(|finding| println!("{}", finding.json()));
        println!("{}", summary(&report, read_data));
    } else {
        report.findings.iter().for_each(show);
        if context.chatty() {
            println!(
                "checked {} restore points, {} tree entries, {} packages, {} segments, {} chunks{}",
                report.points,
                report.entries,
                report.packages,
                report.segments,
                report.chunks,
                if read_data { format!("; read {}", text::size(report.bytes_read)) } else { String::new() }
            );
        }
    }
    match report.findings.len() {
        0 => {
            if context.chatty() {
                println!("no problems found{}", if read_data { "" } else { " (content was not read; --read-data does)" });
            }
            Ok(Outcome::Complete)
        }
        n => Err(Error::new(ErrorKind::Damaged, format!("the check found {}", text::counted(n as u64, "problem")))
            .advise("each one is listed above, with the files it affects and what can be done; all other files are intact")),
    }
}

fn summary(report: &check::Report, read_data: bool) -> serde_json::Value {
    json!({
        "message_type": "summary",
        "findings": report.findings.len(),
        "points": report.points,
        "entries": report.entries,
        "packages": report.packages,
        "segments": report.segments,
        "chunks": report.chunks,
        "read_data": read_data,
        "bytes_read": report.bytes_read,
    })
}

fn show(finding: &check::Finding) {
    println!("{}", text::escape_lines(&finding.what).trim_end());
    for (point, path) in finding.affected.iter().take(AFFECTED_SHOWN) {
        println!("    affects {path} in {point}");
    }
    if finding.affected.len() > AFFECTED_SHOWN {
        println!("    and {} more (--json names all)", finding.affected.len() - AFFECTED_SHOWN);
    }
    println!("    {}", finding.kind.remedy());
}

fn run_rebuild(context: &Context) -> Result<Outcome> {
    let path = context.repo_path()?.to_path_buf();
    let rebuilt = relict::store::rebuild(&path, &mut || context.password.read())?;
    if context.json {
        println!(
            "{}",
            json!({
                "message_type": "summary",
                "packages": rebuilt.packages,
                "chunks": rebuilt.chunks,
                "points": rebuilt.points,
                "damage": rebuilt.damage,
                "old_index": rebuilt.old_index.as_ref().map(|p| p.display().to_string()),
            })
        );
    } else {
        rebuilt.damage.iter().for_each(|what| println!("{}", text::escape_lines(what).trim_end()));
        if context.chatty() {
            println!("a new index of {} packages, {} chunks, {} restore points", rebuilt.packages, rebuilt.chunks, rebuilt.points);
            if let Some(old) = &rebuilt.old_index {
                println!("the old index is kept in {}; remove it when 'relict-maint check' is content", old.display());
            }
        }
    }
    Ok(if rebuilt.damage.is_empty() { Outcome::Complete } else { Outcome::Partial })
}
