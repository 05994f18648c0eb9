//! `relict backup`: makes a restore point of directories and files.

use super::POINTS;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::progress::{Reporter, Status};
use super::snapshot;
use super::snapshots::point_json;
use super::text::{count, counted, escape, escape_path, json_text, parse_size, size, span};
use crate::catalog::points::{Filter, Points, short_id, time_name};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{BackupOptions, ExcludeOptions, Excludes, Finding, Progress, Severity, backup};
use crate::store::Writer;
use clap::Args;
use repo_format::{PointRecord, SetId, Time};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// Memory for tree nodes and segments of the point that is compared with, in bytes.
const CACHE_BYTES: usize = 32 << 20;
/// Findings shown in words.
const SHOWN: usize = 20;
/// Longest name made for a source, in bytes.
const MAX_SOURCE_BYTES: usize = 64;

/// Back up directories and files into a new restore point
#[derive(Debug, Args)]
#[command(after_help = format!("{POINTS}\n\n{PATTERNS}\n\n{}", snapshot::HELP))]
pub struct BackupArgs {
    /// What to back up
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tag of the restore point; may be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<OsString>,
    /// The set of restore points this one belongs to, as those of one moment on several sources
    #[arg(long, value_name = "GUID")]
    set: Option<String>,
    /// Host name of the restore point [default: this host's]
    #[arg(long, value_name = "NAME")]
    host: Option<OsString>,
    /// Name of the source; points of one source make a chain [default: made from the paths]
    #[arg(long, value_name = "NAME")]
    source: Option<OsString>,
    /// Leave out what matches, as in .gitignore, by its absolute path
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// As --exclude, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Read --exclude patterns from a file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the content of directories marked by a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out the content of directories that have this file, or this file beginning with HEADER
    #[arg(long, value_name = "NAME[:HEADER]")]
    exclude_if_present: Vec<String>,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE")]
    exclude_larger_than: Option<String>,
    /// Do not go into other file systems than those of the paths
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read all content, also of files that look unchanged
    #[arg(long)]
    force: bool,
    /// The restore point to compare with, or 'none' [default: the last one of the chain]
    #[arg(long, value_name = "POINT")]
    parent: Option<String>,
    /// Bound of the memory for content and buffers
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: String,
    /// Number of threads that read [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Back up a snapshot of PATH, a btrfs subvolume, by what differs from the last one
    #[arg(long, value_name = "KIND", value_parser = ["btrfs"], conflicts_with_all = SCAN_ONLY)]
    snapshot: Option<String>,
    /// Back up a snapshot of PATH that shell commands make, show and remove
    #[arg(long, value_names = ["create=CMD", "path=CMD-OR-PATH", "delete=CMD"], num_args = 3, conflicts_with = "snapshot")]
    snapshot_command: Vec<String>,
}

/// Options that choose what a scan takes; a snapshot is sent as a whole.
const SCAN_ONLY: [&str; 9] = [
    "exclude",
    "iexclude",
    "exclude_file",
    "exclude_caches",
    "exclude_if_present",
    "exclude_larger_than",
    "one_file_system",
    "force",
    "parent",
];

const PATTERNS: &str = "\
Patterns: '*.o' anywhere, '/var/cache/' only there and only a directory, '!keep.o' takes back in. Nothing
below a directory that is left out is looked at.";

/// Runs the command.
///
/// # Errors
/// When a path does not exist, the repository is locked or cannot be written, or the user interrupts:
/// there is no new restore point then, and what was stored is found by the next run.
pub fn run(context: &Context, args: BackupArgs) -> Result<Outcome> {
    let started = Instant::now();
    // Whatever can be wrong with the command line is said before the repository is locked.
    let mut options = options(&args)?;
    if args.snapshot.is_some() {
        return snapshot::btrfs(context, &options);
    }
    let commands = snapshot::commands(&args.snapshot_command, &options)?;
    let writer = context.writer(CACHE_BYTES)?;
    options.parent = parent(&args, &options, &writer)?;
    let held = commands.as_ref().map(|commands| snapshot::hold(commands, &mut options)).transpose()?;
    let progress = Arc::new(Progress::default());
    let reporter = Reporter::start(context.style(), "backup", status(&options, &progress));
    let done = backup(&writer, &options, &*progress, &context.stop);
    drop(reporter);
    if let Some(error) = held.and_then(|held| held.remove().err()) {
        crate::tell!("relict: {error}");
    }
    let done = done?;
    // Closing writes the database out: that belongs to the time it took.
    drop(writer);
    let summary = Summary { point: &done.point, progress: &progress, took: started.elapsed() };
    if context.json {
        done.report.findings.iter().for_each(|f| println_json(&finding_json(f)));
        println_json(&summary.json(done.report.errors, done.report.warnings));
    } else {
        if context.chatty() {
            summary.show(options.parent.as_ref())?;
        }
        let (errors, warnings) = (done.report.errors, done.report.warnings);
        left_out(&done.report.findings, errors, warnings, context.verbose)
            .iter()
            .for_each(|line| crate::tell!("{line}"));
    }
    Ok(if done.report.errors == 0 { Outcome::Complete } else { Outcome::Partial })
}

pub(super) fn println_json(value: &serde_json::Value) {
    let mut out = Out::new();
    // The restore point is sealed: that nobody listens any more does not change that.
    let _ = out.json(value).and_then(|()| out.finish());
}

fn options(args: &BackupArgs) -> Result<BackupOptions> {
    let paths = absolute(&args.paths)?;
    let excludes = Excludes::new(&ExcludeOptions {
        exclude: args.exclude.clone(),
        iexclude: args.iexclude.clone(),
        exclude_files: args.exclude_file.clone(),
        exclude_caches: args.exclude_caches,
        exclude_if_present: args.exclude_if_present.clone(),
        exclude_larger_than: match &args.exclude_larger_than {
            Some(text) => Some(parse_size(text).map_err(|e| e.context("--exclude-larger-than"))?),
            None => None,
        },
    })?;
    let memory = parse_size(&args.memory).map_err(|e| e.context("--memory"))?;
    let bytes = |text: &OsString| text.as_bytes().to_vec();
    Ok(BackupOptions {
        host: args.host.as_ref().map_or_else(host, bytes),
        source: args.source.as_ref().map_or_else(|| source_of(&paths), bytes),
        tags: args.tag.iter().map(bytes).collect(),
        set: args.set.as_deref().map(set).transpose()?,
        excludes,
        stand_in: None,
        one_file_system: args.one_file_system,
        force: args.force,
        parent: None,
        threads: args.threads.unwrap_or(0),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        time: now(),
        paths,
    })
}

fn set(text: &str) -> Result<SetId> {
    text.parse().map_err(|()| {
        Error::new(ErrorKind::Usage, format!("--set: '{}' is not a GUID", escape(text.as_bytes())))
            .advise("write 32 hexadecimal digits, such as 0123abcd-4567-89ef-0123-456789abcdef; 'uuidgen' makes one")
    })
}

/// Absolute paths, each once, sorted: the same directories are the same chain however they were typed.
/// The last component is kept as it is, so that a symbolic link is backed up and not followed.
fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let one = |path: &PathBuf| {
        let failed = |e: std::io::Error| {
            Error::io(format!("{} cannot be backed up", escape_path(path)), e)
                .advise("check the path; nothing was changed")
        };
        let parts = path.parent().zip(path.file_name());
        let found = match parts {
            None => path.canonicalize().map_err(failed)?,
            Some((above, name)) => {
                let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
                above.canonicalize().map_err(failed)?.join(name)
            }
        };
        found.symlink_metadata().map_err(failed)?;
        Ok(found)
    };
    let mut all: Vec<PathBuf> = paths.iter().map(one).collect::<Result<_>>()?;
    all.sort();
    all.dedup();
    Ok(all)
}

pub(super) fn host() -> Vec<u8> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { b"localhost".to_vec() } else { name.trim().as_bytes().to_vec() }
}

/// A name for what is backed up: `/etc` is `etc`, `/usr/share` with `/home/ann` is `home-ann+usr-share`, `/` is `root`.
fn source_of(paths: &[PathBuf]) -> Vec<u8> {
    let one = |path: &PathBuf| {
        let parts: Vec<_> = path.iter().skip(1).map(OsStrExt::as_bytes).collect();
        if parts.is_empty() { b"root".to_vec() } else { parts.join(&b'-') }
    };
    let mut name = paths.iter().map(one).collect::<Vec<_>>().join(&b'+');
    name.truncate(MAX_SOURCE_BYTES);
    name
}

pub(super) fn now() -> Time {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
}

fn parent(args: &BackupArgs, options: &BackupOptions, writer: &Writer) -> Result<Option<PointRecord>> {
    let points = Points::new(writer.repository().point_records()?);
    match args.parent.as_deref() {
        Some("none") => Ok(None),
        Some(expression) => {
            points.resolve(expression, &Filter::default()).cloned().map(Some).map_err(|e| e.context("--parent"))
        }
        None => {
            let paths: Vec<Vec<u8>> = options.paths.iter().map(|p| p.clone().into_os_string().into_vec()).collect();
            Ok(points.chain_head(&options.host, &options.source, &paths).cloned())
        }
    }
}

/// What is expected in all is what there was last time.
fn status(options: &BackupOptions, progress: &Arc<Progress>) -> impl Fn() -> Status + Send + use<> {
    let (expected, progress) = (options.parent.as_ref().map(|p| p.counts), Arc::clone(progress));
    move || Status {
        files: progress.files.load(Relaxed),
        total_files: expected.map(|c| c.files.max(progress.files.load(Relaxed))),
        bytes: progress.bytes.load(Relaxed),
        total_bytes: expected.map(|c| c.bytes.max(progress.bytes.load(Relaxed))),
        new_bytes: Some(progress.new_bytes.load(Relaxed)),
        errors: progress.errors.load(Relaxed),
        current: escape(&progress.path()),
    }
}

struct Summary<'a> {
    point: &'a PointRecord,
    progress: &'a Progress,
    took: Duration,
}

impl Summary<'_> {
    /// Files that are new, changed and unchanged. Those that could not be read in the end are among them.
    fn files(&self) -> [u64; 3] {
        let [all, changed, unchanged] =
            [&self.progress.files, &self.progress.changed_files, &self.progress.unchanged_files]
                .map(|n| n.load(Relaxed));
        [all.saturating_sub(changed + unchanged), changed, unchanged]
    }

    fn show(&self, parent: Option<&PointRecord>) -> Result<()> {
        let c = &self.point.counts;
        let [new, changed, unchanged] = self.files();
        let compared = match parent {
            Some(parent) => format!("compared with {} ({})", time_name(parent.time), short_id(parent)),
            None => "no restore point to compare with".to_owned(),
        };
        let mut out = Out::new();
        out.line(&format!("point   {}  {}", time_name(self.point.time), self.point.id))?;
        out.line(&format!(
            "files   {} new, {} changed, {} unchanged, {compared}",
            count(new),
            count(changed),
            count(unchanged)
        ))?;
        out.line(&format!("bytes   {} in {} and {}", size(c.bytes), counted(c.files, "file"), directories(c.dirs)))?;
        out.line(&format!("stored  {} for {} of new data", size(c.stored_bytes), size(c.new_bytes)))?;
        let speed = c.bytes as f64 / self.took.as_secs_f64().max(0.001);
        out.line(&format!("time    {} ({}/s)", span(self.took), size(speed as u64)))?;
        for note in &self.point.notes {
            out.line(&format!("note    {}", escape(note)))?;
        }
        out.finish()
    }

    fn json(&self, errors: u64, warnings: u64) -> serde_json::Value {
        let mut value = point_json(self.point);
        let [new, changed, unchanged] = self.files();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("message_type".into(), "summary".into());
            fields.insert("files_new".into(), new.into());
            fields.insert("files_changed".into(), changed.into());
            fields.insert("files_unchanged".into(), unchanged.into());
            fields.insert("errors".into(), errors.into());
            fields.insert("warnings".into(), warnings.into());
            fields.insert("seconds".into(), self.took.as_secs_f64().into());
        }
        value
    }
}

pub(super) fn directories(number: u64) -> String {
    if number == 1 { "1 directory".to_owned() } else { format!("{} directories", count(number)) }
}

/// What is not in the restore point, or not as it should be, and what to do about it.
pub(super) fn left_out(findings: &[Finding], errors: u64, warnings: u64, verbose: bool) -> Vec<String> {
    let changed =
        format!("relict: {} changed while being read, and may be mixed from old and new:", counted(warnings, "file"));
    let left_out = format!("relict: the restore point was made, but {} not in it, or not completely:", is_are(errors));
    let mut lines = listed(findings, Severity::Warning, warnings, changed, verbose);
    lines.extend(listed(findings, Severity::Error, errors, left_out, verbose));
    if errors > 0 {
        lines.push(
            "  everything else is; mend what is wrong (or leave it out by --exclude) and back up again".to_owned(),
        );
    }
    lines
}

/// The findings of a severity, of which there are `total`, below a heading; nothing where there are none.
pub(super) fn listed(
    findings: &[Finding],
    severity: Severity,
    total: u64,
    heading: String,
    verbose: bool,
) -> Vec<String> {
    if total == 0 {
        return Vec::new();
    }
    let most = if verbose { usize::MAX } else { SHOWN };
    let shown = || findings.iter().filter(|finding| finding.severity == severity).take(most);
    let line = |finding: &Finding| format!("  {}: {}", escape(&finding.path), escape(finding.what.as_bytes()));
    let mut lines: Vec<String> = std::iter::once(heading).chain(shown().map(line)).collect();
    let more = total.saturating_sub(shown().count() as u64);
    if more > 0 {
        let how = if verbose { "" } else { "; -v lists more, --json all that were kept" };
        lines.push(format!("  and {} more{how}", count(more)));
    }
    lines
}

fn is_are(number: u64) -> String {
    if number == 1 { "1 file is".to_owned() } else { format!("{} files are", count(number)) }
}

pub(super) fn finding_json(finding: &Finding) -> serde_json::Value {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    serde_json::json!({
        "message_type": "finding",
        "severity": severity,
        "path": json_text(&finding.path),
        "what": finding.what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_after_their_paths() {
        let name = |paths: &[&str]| {
            String::from_utf8(source_of(&paths.iter().map(PathBuf::from).collect::<Vec<_>>())).unwrap()
        };
        assert_eq!(name(&["/"]), "root");
        assert_eq!(name(&["/etc"]), "etc");
        assert_eq!(name(&["/home/ann", "/usr/share"]), "home-ann+usr-share");
        assert_eq!(name(&["/a-very-long-path-a-very-long-path-a-very-long-path-a-very-long-path"]).len(), 64);
    }

    #[test]
    fn paths_are_absolute_sorted_and_single() {
        let all = absolute(&["/usr".into(), "/etc/../etc".into(), "/etc".into(), "/".into()]).unwrap();
        assert_eq!(all, [PathBuf::from("/"), "/etc".into(), "/usr".into()]);
        assert!(absolute(&["/none/at/all".into()]).is_err());
    }

    #[test]
    fn what_is_left_out_is_listed_up_to_a_point() {
        let finding =
            |n: u32| Finding { path: format!("/f{n}").into_bytes(), severity: Severity::Error, what: "no".into() };
        let all: Vec<_> = (0..30).map(finding).collect();
        let lines = left_out(&all, 35, 0, false);
        assert_eq!(lines.len(), 1 + SHOWN + 2);
        assert_eq!(lines[0], "relict: the restore point was made, but 35 files are not in it, or not completely:");
        assert_eq!(lines[SHOWN + 1], "  and 15 more; -v lists more, --json all that were kept");
        assert!(left_out(&[], 0, 0, false).is_empty());
    }
}
