//! `prune`: what forgotten restore points alone needed is removed.

use super::maint::{Change, Exclusive, Work, clock, confirmed, deadline, label, left, point_json, short};
use clap::Args;
use relict::catalog::prune::{Plan, PruneOptions, Pruned, plan};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::{count, counted, size};
use relict::store::pin_holders;
use relict::{Error, ErrorKind, Result};
use repo_format::PointId;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Options of `prune`.
#[derive(Args)]
pub struct Options {
    /// Stop after this time (90s, 30m, 1h); the next prune goes on
    #[arg(long, value_name = "TIME")]
    max_duration: Option<String>,
    /// Also remove what an interrupted backup stored and the next one would find
    #[arg(long)]
    discard_unfinished: bool,
    #[command(flatten)]
    change: Change,
}

/// `90`, `90s`, `30m`, `1h`.
pub fn duration(text: &str) -> Result<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let secs = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    secs.map(Duration::from_secs).ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!("'{}' is not a duration", relict::catalog::points::printable(text.as_bytes())),
        )
        .advise("write it like 90s, 30m or 1h")
    })
}

/// Runs the command.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let limit = options.max_duration.as_deref().map(duration).transpose()?;
    let deadline = deadline(limit);
    let exclusive = Exclusive::open(context, options.change.wait)?;
    let (keep, as_before) = kept_points(context, &exclusive)?;
    let discard_unfinished = options.discard_unfinished;
    let planning = Work::start(context, "prune, plan", None);
    let plan = plan(&exclusive.writer, &PruneOptions { keep, as_before, discard_unfinished, stop: &context.stop })?;
    drop(planning);
    show(context, &plan);
    if plan.is_empty() || !confirmed(context, options.change, &format!("free {}?", size(plan.room)))? {
        summary(context, &plan, options.change.dry_run, Pruned::default());
        return Ok(Outcome::Complete);
    }
    let work = Work::start(context, "prune", Some(plan.room));
    let pruned = plan.execute(&exclusive.writer, deadline, &context.stop, &|freed| work.done(freed))?;
    drop(work);
    summary(context, &plan, false, pruned);
    left(context, pruned.packages_left)
}

/// Hidden points that must stay: pinned by a mount, or protected after all. And all that are pinned.
fn kept_points(context: &Context, exclusive: &Exclusive) -> Result<(HashMap<PointId, String>, HashSet<PointId>)> {
    let repository = exclusive.repository();
    let clock = clock(context, repository)?;
    let mut keep = HashMap::new();
    for holder in pin_holders(repository.path())? {
        for point in holder.points {
            keep.insert(point, format!("in use by a mount or a restore: {}", holder.who));
        }
    }
    let pinned = keep.keys().copied().collect();
    for state in repository.index().states()?.into_values() {
        if let Some(why) = clock.holds(&state) {
            keep.insert(state.point, why);
        }
    }
    Ok((keep, pinned))
}

fn show(context: &Context, plan: &Plan) {
    if context.json {
        let packages: Vec<_> = plan
            .packages
            .iter()
            .map(|p| json!({"package": p.info.id.to_string(), "action": if p.parts.is_some() { "punch" } else { "remove" }, "bytes": p.room}))
            .collect();
        say!(
            "{}",
            json!({
                "message_type": "plan",
                "points": plan.points.iter().map(|p| point_json(p)).collect::<Vec<_>>(),
                "kept": plan.kept.iter().map(|(id, why)| json!({"id": id.to_string(), "why": why})).collect::<Vec<_>>(),
                "packages": packages,
                "dead_chunks": plan.dead_chunks,
                "live_chunks": plan.live_chunks,
                "bytes": plan.room,
                "stuck_bytes": plan.stuck_bytes,
                "unfinished_bytes": plan.unfinished_bytes,
            })
        );
        return;
    }
    plan.kept.iter().for_each(|(id, why)| say!("{} stays: {}", short(id), relict::cli::text::escape_lines(why)));
    if !context.chatty() {
        return;
    }
    plan.points.iter().for_each(|point| say!("{}: remove", label(point)));
    let whole = plan.packages.iter().filter(|package| package.parts.is_none()).count();
    say!(
        "{} of {} chunks are not needed; remove {}, free parts of {}: {} ({} bytes)",
        count(plan.dead_chunks),
        count(plan.dead_chunks + plan.live_chunks),
        counted(whole as u64, "package"),
        counted((plan.packages.len() - whole) as u64, "package"),
        size(plan.room),
        count(plan.room)
    );
    if plan.stuck_bytes > 0 {
        say!(
            "about {} more are not needed but share segments with what is; 'relict-maint compact' gets them back",
            size(plan.stuck_bytes)
        );
    }
    if plan.unfinished_bytes > 0 {
        say!(
            "{} of an interrupted backup are kept, so that the next one finds them; --discard-unfinished frees them",
            size(plan.unfinished_bytes)
        );
    }
}

fn summary(context: &Context, plan: &Plan, dry_run: bool, done: Pruned) {
    if context.json {
        say!(
            "{}",
            json!({
                "message_type": "summary",
                "dry_run": dry_run,
                "planned_bytes": plan.room,
                "freed_bytes": done.freed,
                "packages_removed": done.packages_removed,
                "packages_punched": done.packages_punched,
                "packages_left": done.packages_left,
            })
        );
    } else if context.chatty() {
        match (dry_run, plan.is_empty()) {
            (_, true) => say!("nothing to remove"),
            (true, _) => say!("dry run: nothing was changed"),
            (false, _) => say!("freed {}", size(done.freed)),
        }
    }
    if done.packages_left > 0 && !context.json {
        say!("{} left for the next prune", counted(done.packages_left, "package"));
    }
}
