//! `relict-maint repair`: reads what can be trusted and writes a new truth; what is damaged is put aside, never destroyed.
//!
//! plan -> show -> execute. A damaged index is made anew first, since without it there is nothing to plan with.

mod execute;
mod header;
mod plan;
mod salvage;
mod sources;
mod truth;

use crate::check::{Finding, Kind, Totals, show_findings};
use crate::confirm::confirmed;
use clap::Args;
use execute::{Done, execute, mend_points};
use plan::{Plan, Sources};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::password::PasswordSource;
use relict::cli::progress::{Reporter, Status};
use relict::cli::text;
use relict::store::{OpenOptions, Repository, Writer};
use relict::{Error, ErrorKind, Result};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CACHE_BYTES: usize = 64 << 20;

/// Options of `repair`.
#[derive(Args)]
pub struct Options {
    /// Take what is lost from this second repository
    #[arg(long, value_name = "REPO")]
    from: Option<PathBuf>,
    /// Read the second repository's password from this file; without it the first one's is tried
    #[arg(long, value_name = "FILE", requires = "from")]
    from_password_file: Option<PathBuf>,
    /// Take lost content from the files below this directory: the source, or a copy of it
    #[arg(long, value_name = "PATH")]
    from_source: Option<PathBuf>,
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

/// Plans, shows, asks, and does.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let other = options.from.as_deref().map(|path| open_other(context, options, path)).transpose()?;
    if let Some(source) = options.from_source.as_deref().filter(|s| !s.is_dir()) {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("--from-source {}: there is no such directory", text::escape_path(source)),
        )
        .advise("nothing was changed; name a directory below which the files have the paths that 'relict ls' shows"));
    }
    if !header::mended(context, options)? {
        return Ok(Outcome::Partial);
    }
    // Asked once, although the repository may have to be opened again.
    let context = &Context { password: remembered(context)?, ..context.clone() };
    if options.dry_run {
        let plan = context
            .repository(CACHE_BYTES)
            .and_then(|repository| planned(context, options, &repository, other.as_deref()));
        return match plan {
            Err(e) if index_is_lost(&e, context) => announce_rebuild(context, &e),
            plan => plan.map(|plan| {
                show(context, &plan);
                if plan.is_empty() { Outcome::Complete } else { Outcome::Partial }
            }),
        };
    }
    let opened = || -> Result<(Writer, Plan)> {
        let writer = context.writer(CACHE_BYTES)?;
        let plan = planned(context, options, writer.repository(), other.as_deref())?;
        Ok((writer, plan))
    };
    let mut rebuilt = false;
    let (writer, plan) = match opened() {
        Err(e) if index_is_lost(&e, context) => {
            announce_rebuild(context, &e)?;
            if !confirmed(context, options.yes, "make a new index?")? {
                return Ok(Outcome::Partial);
            }
            rebuild(context)?;
            rebuilt = true;
            opened()?
        }
        opened => opened?,
    };
    show(context, &plan);
    if plan.is_empty() {
        return finish(context, &Done { rebuilt, ..Done::default() }, &plan);
    }
    if !confirmed(context, options.yes, "repair this?")? {
        return Ok(Outcome::Partial);
    }
    let mut done = execute(&writer, &plan, other.as_deref())?;
    done.rebuilt = rebuilt;
    // Opened again: what this process remembers of places is no longer true.
    drop(writer);
    let rest = if plan.rebuild {
        rebuild(context)?;
        done.rebuilt = true;
        // With a new index there may be points, and damage, that the plan could not know.
        let (writer, again) = opened()?;
        mend_again(&writer, &again, other.as_deref(), &mut done)?;
        again
    } else {
        plan
    };
    mend_points(&context.writer(CACHE_BYTES)?, &rest, &mut done)?;
    finish(context, &done, &rest)
}

/// The password, asked for once.
fn remembered(context: &Context) -> Result<PasswordSource> {
    if context.needs_password()? {
        Ok(PasswordSource::Value(context.password.read()?))
    } else {
        Ok(context.password.clone())
    }
}

/// A rebuild leaves damaged packages out of the index; what it did take in may still be damaged.
fn mend_again(writer: &Writer, plan: &Plan, other: Option<&Repository>, done: &mut Done) -> Result<()> {
    let again = execute(writer, plan, other)?;
    done.stored += again.stored;
    done.quarantined.extend(again.quarantined);
    Ok(())
}

fn open_other(context: &Context, options: &Options, path: &std::path::Path) -> Result<Arc<Repository>> {
    let environment = |name: &str| std::env::var_os(name.replacen("RELICT_", "RELICT_FROM_", 1));
    let own = PasswordSource::choose(options.from_password_file.as_deref(), None, &environment);
    let password = if own == PasswordSource::Ask { context.password.clone() } else { own };
    Repository::open(path, &mut || password.read(), &OpenOptions { cache_bytes: CACHE_BYTES })
        .map_err(|e| e.context("the second repository (--from)"))
}

/// Whether it is the database that cannot be read: everything else that is damaged is a finding, not an error.
fn index_is_lost(error: &Error, context: &Context) -> bool {
    let header = context.repo_path().ok().and_then(|path| relict::store::read_header(path).ok());
    let slots = context.repo_path().ok().and_then(|path| relict::store::list_slots(path).ok());
    let locked_out = slots.is_some_and(|slots| slots.iter().all(|file| file.slot.is_err()));
    error.kind() == ErrorKind::Damaged && header.is_some() && !locked_out
}

fn announce_rebuild(context: &Context, error: &Error) -> Result<Outcome> {
    if context.json {
        say!("{}", json!({"message_type": "plan", "rebuild": true, "why": error.to_string()}));
    } else if context.chatty() {
        say!("{}", text::escape_lines(&error.to_string()).trim_end());
        say!("make a new index from the packages; what else is to be done can only be seen then");
    }
    Ok(Outcome::Partial)
}

fn rebuild(context: &Context) -> Result<()> {
    relict::store::rebuild(context.repo_path()?, &mut || context.password.read()).map(drop)
}

fn planned(context: &Context, options: &Options, repository: &Repository, other: Option<&Repository>) -> Result<Plan> {
    let totals = Arc::new(Totals::default());
    let seen = Arc::clone(&totals);
    let _progress = Reporter::start(context.style(), "repair", move || Status {
        files: seen.packages.load(Ordering::Relaxed),
        bytes: seen.bytes_read.load(Ordering::Relaxed),
        ..Status::default()
    });
    let sources = Sources { other, source: options.from_source.as_deref() };
    let plan = Plan::make(repository, &sources, &totals, &context.stop)?;
    if context.stop.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Interrupted, "the repair was stopped before anything was changed"));
    }
    Ok(plan)
}

fn show(context: &Context, plan: &Plan) {
    show_findings(context, &plan.report.findings);
    if context.json {
        say!("{}", plan.json());
    } else if context.chatty() && !plan.is_empty() {
        say!("\nthe repair will:");
        plan.text().iter().for_each(|line| say!("  {line}"));
    }
}

fn finish(context: &Context, done: &Done, plan: &Plan) -> Result<Outcome> {
    let beyond = plan.beyond().count() as u64;
    let quarantined: Vec<String> = done.quarantined.iter().map(|p| p.display().to_string()).collect();
    if context.json {
        say!(
            "{}",
            json!({
                "message_type": "summary",
                "rebuilt": done.rebuilt,
                "stored_chunks": done.stored,
                "quarantined": quarantined,
                "mended_points": done.mended_points,
                "marked_files": done.marked_files,
                "beyond_repair": beyond,
            })
        );
    } else if context.chatty() {
        if done.rebuilt {
            say!("made a new index");
        }
        if plan.is_empty() && done.stored == 0 {
            say!("{}", if done.rebuilt { "nothing else had to be repaired" } else { "nothing to repair" });
        } else {
            say!(
                "stored {} again, gave {} a new truth",
                text::counted(done.stored, "chunk"),
                text::counted(done.mended_points, "restore point")
            );
        }
        quarantined
            .iter()
            .for_each(|path| say!("the damaged package is kept as {path}; remove it when nothing of it is needed"));
        plan.beyond().for_each(|f| say!("not mended: {}\n    {}", text::escape_lines(&f.what).trim_end(), f.remedy()));
    }
    let lost = !plan.files.is_empty() || !plan.dropped.is_empty();
    let known = |f: &Finding| {
        f.kind == Kind::KnownLoss && (f.chunks.is_empty() || f.chunks.iter().any(|id| !plan.origins.contains_key(id)))
    };
    let still_lost = plan.report.findings.iter().any(known);
    Ok(if lost || beyond > 0 || still_lost { Outcome::Partial } else { Outcome::Complete })
}
