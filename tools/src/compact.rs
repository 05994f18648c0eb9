//! `compact`: packages that are mostly dead or small are rewritten.

use super::maint::{Change, Exclusive, Work, confirmed, deadline, label, left, named, point_json};
use super::prune::duration;
use clap::Args;
use relict::catalog::compact::{CompactOptions, CompactPlan, Compacted, Rewrite, compact, plan_compact, sequence};
use relict::catalog::points::Filter;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::{counted, parse_size, size};
use relict::{Error, ErrorKind, Result};
use serde_json::json;

/// Options of `compact`.
#[derive(Args)]
pub struct Options {
    /// Rewrite packages of whose bytes less than this share is needed
    #[arg(long, value_name = "SHARE", default_value = "0.6")]
    min_live: f64,
    /// Rewrite at most so much
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<String>,
    /// Stop after this time (90s, 30m, 1h)
    #[arg(long, value_name = "TIME")]
    max_duration: Option<String>,
    /// Make this restore point sequential, whatever packages look like
    #[arg(long, value_name = "POINT", conflicts_with_all = ["min_live", "max_bytes", "max_duration"])]
    point: Option<String>,
    #[command(flatten)]
    change: Change,
}

/// Runs the command.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    if !(0.0..=1.0).contains(&options.min_live) {
        return Err(Error::new(ErrorKind::Usage, "--min-live is a share from 0 to 1")
            .advise("0.6 rewrites packages that are less than 60 % alive"));
    }
    let deadline = deadline(options.max_duration.as_deref().map(duration).transpose()?);
    let max_bytes =
        options.max_bytes.as_deref().map_or(Ok(u64::MAX), parse_size).map_err(|e| e.context("--max-bytes"))?;
    let exclusive = Exclusive::open(context, options.change.wait)?;
    if let Some(name) = &options.point {
        return one_point(context, options, &exclusive, name);
    }
    let limits = CompactOptions { min_live: options.min_live, max_bytes, stop: &context.stop };
    let planning = Work::start(context, "compact, plan", None);
    let CompactPlan { rewrites, damaged } = plan_compact(&exclusive.writer, &limits)?;
    drop(planning);
    let (live, occupied) = rewrites.iter().fold((0, 0), |sum, r: &Rewrite| (sum.0 + r.live_bytes, sum.1 + r.occupied));
    if context.json {
        say!(
            "{}",
            json!({"message_type": "plan", "packages": rewrites.len(), "live_bytes": live, "occupied_bytes": occupied})
        );
    } else if context.chatty() {
        say!(
            "rewrite {}: {} that are needed, of {} on disk",
            counted(rewrites.len() as u64, "package"),
            size(live),
            size(occupied)
        );
    }
    if rewrites.is_empty() || !confirmed(context, options.change, &format!("rewrite {}?", size(live)))? {
        return summary(context, options, &Compacted { damaged, ..Compacted::default() });
    }
    // Lists of many chunks come and go beside what stays.
    relict::os::memory::keep_heaps_small();
    let work = Work::start(context, "compact", Some(live));
    let mut done = compact(&exclusive.writer, &rewrites, deadline, &context.stop, &|bytes| work.done(bytes))?;
    drop(work);
    done.damaged.extend(damaged);
    summary(context, options, &done)
}

fn one_point(context: &Context, options: &Options, exclusive: &Exclusive, name: &str) -> Result<Outcome> {
    let points = named(exclusive.repository().point_records()?, &[name.to_owned()], &Filter::default())?;
    let Some(point) = points.first() else { return Ok(Outcome::Complete) };
    if context.json {
        say!("{}", json!({"message_type": "plan", "point": point_json(point), "most_bytes": point.counts.bytes}));
    } else if context.chatty() {
        say!("make {} sequential: up to {} are rewritten", label(point), size(point.counts.bytes));
    }
    if !confirmed(context, options.change, "rewrite it?")? {
        return summary(context, options, &Compacted::default());
    }
    let work = Work::start(context, "compact", Some(point.counts.bytes));
    let done = sequence(&exclusive.writer, point, &context.stop, &|bytes| work.done(bytes))?;
    drop(work);
    summary(context, options, &done)
}

fn summary(context: &Context, options: &Options, done: &Compacted) -> Result<Outcome> {
    let ids: Vec<String> = done.damaged.iter().map(ToString::to_string).collect();
    if context.json {
        say!(
            "{}",
            json!({
                "message_type": "summary",
                "dry_run": options.change.dry_run,
                "packages": done.packages,
                "packages_left": done.packages_left,
                "moved_chunks": done.moved_chunks,
                "written_bytes": done.written,
                "freed_bytes": done.freed,
                "damaged_packages": ids,
            })
        );
    } else if context.chatty() && options.change.dry_run {
        say!("dry run: nothing was changed");
    } else if context.chatty() {
        say!("moved {} chunks, wrote {}, freed {}", done.moved_chunks, size(done.written), size(done.freed));
    }
    if done.packages_left > 0 && context.chatty() {
        say!("{} left for the next compact", counted(done.packages_left, "package"));
    }
    if !ids.is_empty() && !context.json {
        ids.iter()
            .for_each(|id| say!("package {id} is damaged and stays as it is: what can be read of it may be needed"));
        say!("run 'relict-maint repair', which stores that again and puts the package aside, then this again");
    }
    let outcome = left(context, done.packages_left)?;
    Ok(if ids.is_empty() { outcome } else { Outcome::Partial })
}
