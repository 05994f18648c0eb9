//! `relict ingest`: makes restore points from what a snapshot-diff tool says. Each producer is a file here.

mod btrfs;
mod image;
mod rbd;

use super::backup::{directories, finding_json, host, listed, now, println_json};
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::progress::{Reporter, Status};
use super::snapshots::point_json;
use super::text::{counted, escape, parse_size, size, span};
use crate::catalog::points::time_name;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Progress;
use crate::ingest::backup::Outcome as Ingested;
use crate::ingest::report::{Report, Severity};
use crate::ingest::stream::{Scope, StreamOptions};
use crate::store::Writer;
use clap::{Args, Subcommand};
use repo_format::{PointRecord, SourceKind, Time};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Memory for tree nodes and segments of the parent state, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// Make restore points from snapshot streams and disk images
#[derive(Debug, Args)]
pub struct IngestArgs {
    #[command(subcommand)]
    producer: Producer,
}

#[derive(Debug, Subcommand)]
enum Producer {
    Btrfs(btrfs::BtrfsArgs),
    Image(image::ImageArgs),
    Rbd(rbd::RbdArgs),
}

/// Options of every producer.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Name of the source; points of one source make a chain. HOST:NAME names the host, too
    #[arg(long, value_name = "[HOST:]NAME", required = true)]
    source: OsString,
    /// Tag of the restore points; may be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<OsString>,
    /// Host name of the restore points [default: that of --source, else this host's]
    #[arg(long, value_name = "NAME")]
    host: Option<OsString>,
    /// When the state was taken, such as 2026-11-21T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Bound of the memory for content and buffers
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: String,
    /// Number of threads that hash and compress [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl CommonArgs {
    /// The options of a stream of `kind`.
    ///
    /// # Errors
    /// `Usage` for a size that is none.
    pub fn options(&self, kind: SourceKind, scope: Scope) -> Result<StreamOptions> {
        let memory = parse_size(&self.memory).map_err(|e| e.context("--memory"))?;
        let bytes = |text: &OsString| text.as_bytes().to_vec();
        let (named_host, source) = split_source(self.source.as_bytes());
        Ok(StreamOptions {
            host: self.host.as_ref().map(bytes).or(named_host).unwrap_or_else(host),
            source,
            tags: self.tag.iter().map(bytes).collect(),
            notes: Vec::new(),
            extra: Vec::new(),
            kind,
            scope,
            time: self.time.as_deref().map_or_else(|| Ok(now()), parse_time)?,
            threads: self.threads.unwrap_or(0),
            memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        })
    }
}

fn parse_time(text: &str) -> Result<Time> {
    let stamp: jiff::Timestamp = text.parse().map_err(|e| {
        Error::new(ErrorKind::Usage, format!("--time: '{}' is no time: {e}", escape(text.as_bytes())))
            .advise("write it as 2026-11-21T10:00:00Z, with its offset from UTC")
    })?;
    let second = stamp.as_second() - i64::from(stamp.subsec_nanosecond() < 0);
    let nsec = stamp.subsec_nanosecond().rem_euclid(1_000_000_000);
    Ok(Time { sec: second, nsec: nsec.unsigned_abs() })
}

/// `nas1:data` is source `data` of host `nas1`.
fn split_source(text: &[u8]) -> (Option<Vec<u8>>, Vec<u8>) {
    match text.iter().position(|byte| *byte == b':') {
        Some(at) if at > 0 && at + 1 < text.len() => {
            (text.get(..at).map(<[u8]>::to_vec), text.get(at + 1..).unwrap_or_default().to_vec())
        }
        _ => (None, text.to_vec()),
    }
}

/// Opens the stream: a file, or standard input for None and `-`.
///
/// # Errors
/// When the file cannot be opened.
pub fn open_input(path: Option<&Path>) -> Result<Box<dyn Read>> {
    match path.filter(|path| *path != Path::new("-")) {
        None => Ok(Box::new(std::io::stdin().lock())),
        Some(path) => {
            let file = File::open(path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
            Ok(Box::new(file))
        }
    }
}

/// Takes the writer, runs `work` under the eyes of a progress display, and shows what came of it.
///
/// # Errors
/// Those of opening the repository, and of `work`.
pub fn conduct(context: &Context, work: impl FnOnce(&Writer, &Progress) -> Result<Vec<Ingested>>) -> Result<Outcome> {
    let started = Instant::now();
    let writer = context.writer(CACHE_BYTES)?;
    let progress = Arc::new(Progress::default());
    let reporter = Reporter::start(context.style(), "ingest", status(&progress));
    let done = work(&writer, &progress);
    drop(reporter);
    let done = done?;
    drop(writer);
    for outcome in &done {
        show(context, outcome, started)?;
    }
    let errors = done.iter().map(|outcome| outcome.report.errors).sum::<u64>();
    Ok(if errors == 0 { Outcome::Complete } else { Outcome::Partial })
}

fn status(progress: &Arc<Progress>) -> impl Fn() -> Status + Send + use<> {
    let progress = Arc::clone(progress);
    move || Status {
        files: progress.files.load(Relaxed),
        total_files: None,
        bytes: progress.read_bytes.load(Relaxed),
        total_bytes: None,
        new_bytes: Some(progress.new_bytes.load(Relaxed)),
        errors: progress.errors.load(Relaxed),
        current: escape(&progress.path()),
    }
}

fn show(context: &Context, outcome: &Ingested, started: Instant) -> Result<()> {
    let (point, report) = (&outcome.point, &outcome.report);
    if context.json {
        report.findings.iter().for_each(|finding| println_json(&finding_json(finding)));
        let mut value = point_json(point);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("message_type".into(), "summary".into());
            fields.insert("errors".into(), report.errors.into());
            fields.insert("warnings".into(), report.warnings.into());
            fields.insert("seconds".into(), started.elapsed().as_secs_f64().into());
        }
        println_json(&value);
        return Ok(());
    }
    if context.chatty() {
        show_point(point, started)?;
    }
    let lines = left_out(report, context.verbose);
    lines.iter().for_each(|line| crate::tell!("{line}"));
    Ok(())
}

/// What was mended on the way, and what is lost. Only what lost nothing is complete.
fn left_out(report: &Report, verbose: bool) -> Vec<String> {
    let is = if report.errors == 0 { "is complete" } else { "was made" };
    let warned = format!("relict: the restore point {is}; {}:", counted(report.warnings, "warning"));
    let damaged = "relict: the restore point was made, but content that it has from earlier ones is lost:".to_owned();
    let mut lines = listed(&report.findings, Severity::Warning, report.warnings, warned, verbose);
    lines.extend(listed(&report.findings, Severity::Error, report.errors, damaged, verbose));
    if report.errors > 0 {
        lines.push("  everything else is there; 'relict-maint check --read-data' names all that is damaged".to_owned());
    }
    lines
}

fn show_point(point: &PointRecord, started: Instant) -> Result<()> {
    let c = &point.counts;
    let mut out = Out::new();
    out.line(&format!("point   {}  {}", time_name(point.time), point.id))?;
    out.line(&format!("bytes   {} in {} and {}", size(c.bytes), counted(c.files, "file"), directories(c.dirs)))?;
    out.line(&format!("read    {} of content", size(c.read_bytes)))?;
    out.line(&format!("stored  {} for {} of new data", size(c.stored_bytes), size(c.new_bytes)))?;
    out.line(&format!("time    {}", span(started.elapsed())))?;
    for note in &point.notes {
        out.line(&format!("note    {}", escape(note)))?;
    }
    out.finish()
}

/// Runs the command.
///
/// # Errors
/// When the input is not valid or cannot be read, or the repository is locked or cannot be written. Restore points that
/// the stream completed before stay.
pub fn run(context: &Context, args: IngestArgs) -> Result<Outcome> {
    match args.producer {
        Producer::Btrfs(args) => btrfs::run(context, args),
        Producer::Image(args) => image::run(context, args),
        Producer::Rbd(args) => rbd::run(context, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::Finding;

    #[test]
    fn only_what_lost_nothing_is_complete() {
        let mut report = Report::default();
        let finding = |severity| Finding { path: b"/disk".to_vec(), severity, what: "read again".into() };
        report.add(finding(Severity::Warning));
        assert_eq!(left_out(&report, false)[0], "relict: the restore point is complete; 1 warning:");
        report.add(finding(Severity::Error));
        let said = left_out(&report, false).join("\n");
        assert!(said.contains("is lost:") && said.contains("was made; 1 warning:"), "{said}");
        assert!(!said.contains("complete"), "{said}");
    }

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let time = |text: &str| parse_time(text).map(|time| (time.sec, time.nsec)).ok();
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Some((1, 500_000_000)));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Some((0, 0)));
        assert_eq!(time("1969-12-31T23:59:59.9Z"), Some((-1, 900_000_000)));
        assert_eq!(time("1969-12-31T23:59:58Z"), Some((-2, 0)));
        assert_eq!((time("yesterday"), time("2026-11-21T10:00:00")), (None, None));
    }

    #[test]
    fn a_source_may_name_its_host() {
        let split = |text: &str| split_source(text.as_bytes());
        assert_eq!(split("nas1:data"), (Some(b"nas1".to_vec()), b"data".to_vec()));
        assert_eq!(split("data"), (None, b"data".to_vec()));
        assert_eq!(split(":data"), (None, b":data".to_vec()));
        assert_eq!(split("data:"), (None, b"data:".to_vec()));
        assert_eq!(split("kvm1:vm/sda:2"), (Some(b"kvm1".to_vec()), b"vm/sda:2".to_vec()));
    }
}
