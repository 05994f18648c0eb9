//! `relict restore`: puts a restore point, or a part of it, into a directory.

use super::chains::readable;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::progress::{Reporter, Status};
use super::text::{counted, escape, escape_path, json_text, size, span};
use super::{FilterArgs, POINTS};
use crate::catalog::points::{Filter, short_id, split_path, time_name};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::{self, Finding, Options, Overwrite, Plan, Progress, Report};
use crate::store::Repository;
use clap::{Args, ValueEnum};
use repo_format::PointRecord;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CACHE_BYTES: usize = 64 << 20;
/// Findings shown in words.
const SHOWN: usize = 20;

/// Restore a restore point, or a part of it
#[derive(Debug, Args)]
#[command(after_help = format!("{POINTS}\n\n{EXAMPLES}"))]
pub struct RestoreArgs {
    /// The restore point, and a path in it
    #[arg(value_name = "POINT[:PATH]")]
    point: OsString,
    /// Where to: the directory that gets the content of PATH; for a single file its directory or new name
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    /// Restore only what matches, as in .gitignore, by the path in the restore point
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// What to do with files that exist: replace those that differ in size, time or type; all; none
    #[arg(long, value_name = "WHEN", default_value = "if-changed")]
    overwrite: When,
    /// Compare the content of existing files, and read everything back from the medium afterwards
    #[arg(long)]
    verify: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Number of worker threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    filter: FilterArgs,
}

const EXAMPLES: &str = "\
Examples:
  relict restore latest:/etc -t /tmp/etc        /tmp/etc becomes what /etc was
  relict restore latest:/etc/fstab -t /tmp/     writes /tmp/fstab
  relict restore 2026-11-21 -t / --include /home/ann

Files that are right already are not written again, so an interrupted restore goes on when it is run
again. Nothing is ever deleted, and no symbolic link in the target is followed.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum When {
    IfChanged,
    Always,
    Never,
}

/// Runs the command.
///
/// # Errors
/// When there is no such restore point or path, or the target cannot be written.
pub fn run(context: &Context, args: RestoreArgs) -> Result<Outcome> {
    let repo = context.repository(CACHE_BYTES)?;
    let (expression, path) = split_path(args.point.as_bytes());
    let (points, _) = readable(&repo)?;
    let point = points.resolve(&expression, &Filter::from(&args.filter))?;
    keep(context, &repo, point)?;
    let plan = restore::plan(&repo, point, path.unwrap_or_default(), options(&args))?;
    show_plan(context, point, &plan, args.dry_run)?;
    let started = Instant::now();
    let progress = Arc::new(Progress::default());
    let reporter = Reporter::start(context.style(), "restore", status(&plan, &progress));
    let report = plan.execute(&repo, &progress, &context.stop);
    drop(reporter);
    let report = report?;
    show_report(context, point, &plan, &report, started.elapsed(), args.dry_run)?;
    Ok(if report.is_complete() { Outcome::Complete } else { Outcome::Partial })
}

/// Keeps the point from being pruned while it is restored, where that can be.
fn keep(context: &Context, repo: &Repository, point: &PointRecord) -> Result<()> {
    match repo.pin_point(point) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Error::new(ErrorKind::NotFound, format!("restore point {} was just forgotten or changed", short_id(point)))
                .advise("nothing was restored; 'relict snapshots' lists what there is, 'relict-maint undelete' brings back what is not pruned yet"))
        }
        Err(error) => {
            if context.verbose {
                crate::tell!("relict: nothing keeps a prune from removing the point meanwhile: {error}");
            }
            Ok(())
        }
    }
}

fn options(args: &RestoreArgs) -> Options {
    Options {
        target: args.target.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        overwrite: match args.overwrite {
            When::IfChanged => Overwrite::IfChanged,
            When::Always => Overwrite::Always,
            When::Never => Overwrite::Never,
        },
        verify: args.verify,
        dry_run: args.dry_run,
        threads: args.threads.unwrap_or(0),
    }
}

fn status(plan: &Plan, progress: &Arc<Progress>) -> impl Fn() -> Status + Send + use<> {
    let (totals, progress) = (plan.totals, Arc::clone(progress));
    move || {
        let now = progress.totals();
        // The second pass has its own counters; it goes over the same files.
        let second = now.verified > 0;
        Status {
            files: if second { now.verified } else { now.files },
            total_files: totals.map(|t| t.0),
            bytes: if second { now.verified_bytes } else { now.bytes },
            total_bytes: totals.map(|t| t.1),
            new_bytes: None,
            errors: now.findings,
            current: escape(&progress.current()),
        }
    }
}

fn destination(plan: &Plan) -> String {
    let mut path = plan.directory.clone();
    if let Some(name) = &plan.name {
        path.push(std::ffi::OsStr::from_bytes(name));
    }
    escape_path(&path)
}

fn show_plan(context: &Context, point: &PointRecord, plan: &Plan, dry_run: bool) -> Result<()> {
    if !context.chatty() {
        return Ok(());
    }
    let mut out = Out::new();
    out.line(&format!(
        "{} {} of restore point {} ({}) to {}",
        if dry_run { "would restore" } else { "restoring" },
        escape(&plan.from),
        time_name(point.time),
        short_id(point),
        destination(plan)
    ))?;
    out.finish()
}

fn show_report(
    context: &Context,
    point: &PointRecord,
    plan: &Plan,
    report: &Report,
    took: Duration,
    dry_run: bool,
) -> Result<()> {
    let mut out = Out::new();
    if context.json {
        for finding in &report.findings {
            out.json(&finding_json(finding))?;
        }
        out.json(&summary_json(point, plan, report, took, dry_run))?;
        return out.finish();
    }
    if context.chatty() {
        summary(report, took, dry_run).iter().try_for_each(|line| out.line(line))?;
        report.notes.iter().try_for_each(|note| out.line(&format!("note: {}", escape(note.as_bytes()))))?;
    }
    out.finish()?;
    findings(report).iter().for_each(|line| crate::tell!("{line}"));
    Ok(())
}

fn summary(report: &Report, took: Duration, dry_run: bool) -> Vec<String> {
    let t = &report.totals;
    let mut files = vec![format!("{} new", counted(t.created, "file"))];
    for (number, word) in
        [(t.replaced, "replaced"), (t.unchanged, "right already"), (t.kept, "left alone"), (t.links, "hard links")]
    {
        if number > 0 {
            files.push(format!("{number} {word}"));
        }
    }
    let mut lines = vec![
        format!("files     {}", files.join(", ")),
        format!(
            "bytes     {}, {} {}",
            size(t.bytes),
            size(t.written_bytes),
            if dry_run { "to write" } else { "written" }
        ),
    ];
    if t.verified > 0 {
        lines.push(format!("verified  {}, {}", counted(t.verified, "file"), size(t.verified_bytes)));
    }
    let speed = t.bytes as f64 / took.as_secs_f64().max(0.001);
    lines.push(format!("time      {} ({}/s)", span(took), size(speed as u64)));
    lines
}

/// What was not restored as it was, and what to do.
fn findings(report: &Report) -> Vec<String> {
    if report.is_complete() {
        return Vec::new();
    }
    let were =
        if report.totals.findings == 1 { "was not restored as it was" } else { "were not restored as they were" };
    let mut lines = vec![format!("relict: {} {were}:", counted(report.totals.findings, "thing"))];
    for finding in report.findings.iter().take(SHOWN) {
        lines.push(format!("  {}: {}", escape(&finding.path), escape(finding.what.as_bytes())));
        let ranges = finding.ranges.iter().take(SHOWN);
        lines.extend(ranges.map(|(at, len)| format!("    {} from byte {at} on", counted(*len, "byte"))));
    }
    let more = report.totals.findings.saturating_sub(SHOWN as u64);
    if more > 0 {
        lines.push(format!("  and {more} more; --json lists up to {}", restore::MOST_FINDINGS));
    }
    lines.push("  everything else was restored".to_owned());
    if report.findings.iter().any(|f| !f.ranges.is_empty()) {
        lines.push(
            "  an older restore point may still have the content that is lost: 'relict snapshots' lists them,"
                .to_owned(),
        );
        lines.push("  and 'relict-maint check' says which restore points the damage concerns".to_owned());
    }
    lines
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "message_type": "finding",
        "path": json_text(&finding.path),
        "what": finding.what,
        "ranges": finding.ranges,
    })
}

fn summary_json(point: &PointRecord, plan: &Plan, report: &Report, took: Duration, dry_run: bool) -> serde_json::Value {
    let t = &report.totals;
    serde_json::json!({
        "message_type": "summary",
        "dry_run": dry_run,
        "id": point.id.to_string(),
        "name": time_name(point.time),
        "from": json_text(&plan.from),
        "target": destination(plan),
        "files": t.files,
        "dirs": t.dirs,
        "bytes": t.bytes,
        "written_bytes": t.written_bytes,
        "files_new": t.created,
        "files_replaced": t.replaced,
        "files_unchanged": t.unchanged,
        "files_kept": t.kept,
        "links": t.links,
        "files_verified": t.verified,
        "findings": t.findings,
        "notes": report.notes,
        "seconds": took.as_secs_f64(),
    })
}
