//! `relict-maint check` as people and programs see it: its options, and its report as text and as JSON.

use super::finding::AFFECTED_SHOWN;
use super::select::{Selection, parse_span};
use super::{Finding, Report, Request, Severity, Totals, now_sec};
use clap::Args;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::progress::{Reporter, Status};
use relict::cli::text;
use relict::store::{LastCheck, Repository, record_health};
use relict::{Error, ErrorKind, Result};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Node and segment cache of a check; packages are read past it.
const CACHE_BYTES: usize = 32 << 20;

/// How often a running check writes down what it has verified: the lease is held for that, for some hundredths of a second.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// [`KEEP_EVERY`]; tests set another time, in milliseconds.
fn keep_every() -> Duration {
    let set = std::env::var("RELICT_KEEP_EVERY_MS").ok().and_then(|text| text.parse().ok());
    set.map_or(KEEP_EVERY, Duration::from_millis)
}

/// Options of `check`.
#[derive(Args)]
pub struct Options {
    /// Also read and verify every stored byte
    #[arg(long, conflicts_with_all = ["read_data_subset", "max_age"])]
    read_data: bool,
    /// Read a part: n/t (the n-th of t parts), x% or a size (what was verified longest ago)
    #[arg(long, value_name = "PART", conflicts_with = "max_age")]
    read_data_subset: Option<String>,
    /// Read what was not verified for so long, e.g. 30d, longest ago first
    #[arg(long, value_name = "TIME")]
    max_age: Option<String>,
    /// Begin no further package after this time, e.g. 1h; the next check goes on from there
    #[arg(long, value_name = "TIME")]
    max_duration: Option<String>,
}

impl Options {
    fn request(&self) -> Result<Request> {
        let content = match (&self.read_data_subset, &self.max_age) {
            (Some(subset), _) => Selection::parse_subset(subset)?,
            (None, Some(age)) => Selection::OlderThan(parse_span(age)?.as_secs().try_into().unwrap_or(i64::MAX)),
            (None, None) if self.read_data => Selection::All,
            (None, None) => Selection::Nothing,
        };
        if self.max_duration.is_some() && content == Selection::Nothing {
            return Err(Error::new(
                ErrorKind::Usage,
                "--max-duration limits the reading of content, and none was asked for",
            )
            .advise("add --read-data, --read-data-subset or --max-age"));
        }
        let max_duration = self.max_duration.as_deref().map(parse_span).transpose()?;
        Ok(Request { content, max_duration, keep_every: Some(keep_every()) })
    }
}

/// Checks and reports.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let request = options.request()?;
    let repository = context.repository(CACHE_BYTES)?;
    let totals = Arc::new(Totals::default());
    let report = {
        let _progress = progress(context, &repository, &totals)?;
        settled(&repository, request, &totals, &context.stop)?
    };
    let stopped = context.stop.load(Ordering::Relaxed);
    show_findings(context, &report.findings);
    let note = remember(&repository, &report, request, stopped);
    if context.json {
        say!("{}", summary(&report, request, note.as_ref()));
    } else if context.chatty() {
        say!("{}", counts(&report, request));
        note.iter().for_each(|e| say!("when what was verified is not written down: {e}"));
    }
    conclude(context, &report, request, stopped)
}

/// Checks, and once more when there are problems and somebody has changed the repository meanwhile: prune and compact run
/// beside a check, and what they have moved or removed since it began looks like a loss.
fn settled(repository: &Repository, request: Request, totals: &Arc<Totals>, stop: &AtomicBool) -> Result<Report> {
    let before = repository.index().sequence();
    let report = super::check(repository, request, totals, stop)?;
    let followed = repository.refresh();
    let changed = followed.is_err() || repository.index().sequence() != before;
    if report.count(Severity::Problem) == 0 || !changed || stop.load(Ordering::Relaxed) {
        return Ok(report);
    }
    relict::tell!(
        "relict-maint: the repository was changed while it was checked, and something is wrong in it: checking again"
    );
    followed?;
    let Totals { packages, segments, chunks, bytes_read, packages_read, packages_left } = &**totals;
    let counts = [packages, segments, chunks, bytes_read, packages_read, packages_left];
    counts.into_iter().for_each(|count| count.store(0, Ordering::Relaxed));
    super::check(repository, request, totals, stop)
}

fn progress(context: &Context, repository: &Repository, totals: &Arc<Totals>) -> Result<Reporter> {
    let packages = repository.index().packages()?;
    let total = packages.len() as u64;
    let totals = Arc::clone(totals);
    // A package is a file; how many of its bytes are read depends on the options.
    Ok(Reporter::start(context.style(), "check", move || Status {
        files: totals.packages.load(Ordering::Relaxed),
        total_files: Some(total),
        bytes: totals.bytes_read.load(Ordering::Relaxed),
        ..Status::default()
    }))
}

/// Shows findings as text or as JSON.
pub fn show_findings(context: &Context, findings: &[Finding]) {
    if context.json {
        findings.iter().for_each(|finding| say!("{}", finding.json()));
    } else {
        findings.iter().for_each(show);
    }
}

/// Writes down what was verified; gives the reason when that cannot be.
fn remember(repository: &Repository, report: &Report, request: Request, stopped: bool) -> Option<Error> {
    let now = now_sec();
    let last = LastCheck {
        time_sec: now,
        findings: report.count(Severity::Problem),
        warnings: report.count(Severity::Warning),
        read_data: request.content != Selection::Nothing,
    };
    let damaged = report.damaged_segments(repository);
    damaged.and_then(|damaged| record_health(repository, &report.verified, (!stopped).then_some(last), &damaged)).err()
}

fn conclude(context: &Context, report: &Report, request: Request, stopped: bool) -> Result<Outcome> {
    let (problems, warnings) = (report.count(Severity::Problem), report.count(Severity::Warning));
    if stopped {
        return Err(Error::new(ErrorKind::Interrupted, "the check was stopped before it was done")
            .advise("what it saw until then stands above; packages that were verified are written down"));
    }
    if problems > 0 {
        return Err(Error::new(ErrorKind::Damaged, format!("the check found {}", text::counted(problems, "problem")))
            .advise(
                "each one is listed above, with the files it affects and what can be done; all other files are intact",
            ));
    }
    if context.chatty() {
        let unread = match request.content {
            Selection::All if request.max_duration.is_none() => "",
            Selection::Nothing => " (content was not read; --read-data does)",
            _ => " (a part of the content was read)",
        };
        say!("no problems found{unread}");
    }
    Ok(if warnings > 0 { Outcome::Partial } else { Outcome::Complete })
}

fn counts(report: &Report, request: Request) -> String {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let totals = &report.totals;
    let mut out = format!(
        "checked {} restore points, {} tree entries, {} packages, {} segments, {} chunks",
        report.points,
        report.entries,
        get(&totals.packages),
        get(&totals.segments),
        get(&totals.chunks),
    );
    if request.content != Selection::Nothing {
        out.push_str(&format!(
            "; read {} of {}",
            text::size(get(&totals.bytes_read)),
            text::counted(get(&totals.packages_read), "package")
        ));
    }
    if get(&totals.packages_left) > 0 {
        out.push_str(&format!("; time was up before {} more were read", get(&totals.packages_left)));
    }
    out
}

fn summary(report: &Report, request: Request, note: Option<&Error>) -> serde_json::Value {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let totals = &report.totals;
    json!({
        "message_type": "summary",
        "findings": report.count(Severity::Problem),
        "warnings": report.count(Severity::Warning),
        "points": report.points,
        "entries": report.entries,
        "packages": get(&totals.packages),
        "segments": get(&totals.segments),
        "chunks": get(&totals.chunks),
        "read_data": request.content != Selection::Nothing,
        "packages_read": get(&totals.packages_read),
        "packages_left": get(&totals.packages_left),
        "bytes_read": get(&totals.bytes_read),
        "not_recorded": note.map(ToString::to_string),
    })
}

fn show(finding: &Finding) {
    say!("{}: {}", finding.kind.severity().word(), text::escape_lines(&finding.what).trim_end());
    for affected in finding.affected.iter().take(AFFECTED_SHOWN) {
        say!("    affects {} in {}", affected.path, affected.point);
    }
    if finding.affected.len() > AFFECTED_SHOWN {
        say!("    and {} more (--json names all)", finding.affected.len() - AFFECTED_SHOWN);
    }
    say!("    {}", finding.remedy());
}
