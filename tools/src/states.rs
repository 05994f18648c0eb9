//! `undelete`, `protect`, `unprotect`: states of single restore points.

use super::maint::{Change, Chosen, Exclusive, all_points, clock, confirmed, label, named, now, point_json};
use clap::Args;
use relict::catalog::protection::{Wish, next_state};
use relict::catalog::thin::unthinned;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::counted;
use relict::{Error, ErrorKind, Result};
use repo_format::{PointRecord, PointState, Time};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Options of `undelete`.
#[derive(Args)]
pub struct Undelete {
    /// Restore points: ids or times; without one, all that are forgotten or thinned
    points: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    change: Change,
}

/// Options of `protect`.
#[derive(Args)]
pub struct Protect {
    /// Restore points: latest, ids or times
    #[arg(required = true)]
    points: Vec<String>,
    /// Until this date (2027-01-31, or with a time 2027-01-31T12:00:00Z); nothing takes that back before
    #[arg(long, value_name = "DATE")]
    until: Option<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    change: Change,
}

/// Options of `unprotect`.
#[derive(Args)]
pub struct Unprotect {
    /// Restore points: latest, ids or times
    #[arg(required = true)]
    points: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    change: Change,
}

/// Runs `undelete`.
pub fn undelete(context: &Context, options: &Undelete) -> Result<Outcome> {
    let exclusive = Exclusive::open(context, options.change.wait)?;
    let repository = exclusive.repository();
    let (filter, sealed) = (options.chosen.filter(), Time { sec: now(), nsec: 0 });
    let (mut points, mut hidden, mut whole) = (Vec::new(), HashSet::new(), HashMap::new());
    for (point, is_hidden) in all_points(repository)?.into_iter().filter(|(point, _)| filter.admits(point)) {
        let before = unthinned(repository, &point, sealed)?;
        if is_hidden || before.is_some() {
            hidden.extend(is_hidden.then_some(point.id));
            whole.extend(before.map(|before| (point.id, before)));
            points.push(point);
        }
    }
    let pruned = "what was pruned cannot be brought back";
    if points.is_empty() {
        let what = "no restore point is forgotten, and none is thinned that could be brought back";
        return Err(Error::new(ErrorKind::NotFound, what).advise(pruned));
    }
    let named = |points| named(points, &options.points, &filter).map_err(|e| e.advise(pruned));
    let chosen = if options.points.is_empty() { points } else { named(points)? };
    let thinned: Vec<PointRecord> = chosen.iter().filter_map(|point| whole.remove(&point.id)).collect();
    for point in &thinned {
        if context.json {
            say!("{}", json!({"message_type": "point", "point": point_json(point), "action": "make whole again"}));
        } else if context.chatty() {
            say!("{}: make whole again", label(point));
        }
    }
    if !thinned.is_empty() && !options.change.dry_run {
        exclusive.writer.seal_all(&thinned)?;
    }
    let chosen: Vec<PointRecord> = chosen.into_iter().filter(|point| hidden.contains(&point.id)).collect();
    let made_whole = if options.change.dry_run { 0 } else { thinned.len() };
    change(context, &exclusive, options.change, &chosen, (Wish::Show, "show again"), made_whole)
}

/// Runs `protect`.
pub fn protect(context: &Context, options: &Protect) -> Result<Outcome> {
    let wish = options.until.as_deref().map_or(Ok(Wish::Protect), |date| until(date).map(Wish::LockUntil))?;
    let verb = if options.until.is_some() { "lock by date" } else { "protect" };
    of_visible(context, &options.points, &options.chosen, options.change, wish, verb)
}

/// Runs `unprotect`.
pub fn unprotect(context: &Context, options: &Unprotect) -> Result<Outcome> {
    of_visible(context, &options.points, &options.chosen, options.change, Wish::Unprotect, "unprotect")
}

fn of_visible(
    context: &Context,
    names: &[String],
    chosen: &Chosen,
    how: Change,
    wish: Wish,
    verb: &str,
) -> Result<Outcome> {
    let exclusive = Exclusive::open(context, how.wait)?;
    let points = named(exclusive.repository().point_records()?, names, &chosen.filter())?;
    change(context, &exclusive, how, &points, (wish, verb), 0)
}

fn until(date: &str) -> Result<i64> {
    let wrong = || {
        Error::new(ErrorKind::Usage, format!("'{}' is not a date", relict::catalog::points::printable(date.as_bytes())))
            .advise("write it like 2027-01-31 or 2027-01-31T12:00:00Z")
    };
    if let Ok(stamp) = date.parse::<jiff::Timestamp>() {
        return Ok(stamp.as_second());
    }
    let day = date.parse::<jiff::civil::Date>().map_err(|_| wrong())?;
    day.to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp().as_second()).map_err(|_| wrong())
}

fn change(
    context: &Context,
    exclusive: &Exclusive,
    how: Change,
    points: &[PointRecord],
    (wish, verb): (Wish, &str),
    already: usize,
) -> Result<Outcome> {
    let repository = exclusive.repository();
    let (clock, states) = (clock(context, repository)?, repository.index().states()?);
    let mut new: Vec<PointState> = Vec::new();
    for point in points {
        let state = next_state(repository, &states, &clock, point.id, wish)?;
        let locked = states.get(&point.id).and_then(|state| state.locked_until).filter(|_| wish == Wish::Unprotect);
        let what = match (state.is_some(), locked) {
            (true, None) => verb,
            (_, Some(_)) => "no longer protected, but the lock by date stays",
            (false, None) => "already so",
        };
        if context.json {
            say!("{}", json!({"message_type": "point", "point": point_json(point), "action": what}));
        } else if context.chatty() {
            say!("{}: {what}", label(point));
        }
        new.extend(state);
    }
    // What takes nothing away needs no question.
    let ask = Change { yes: how.yes || wish != Wish::Unprotect, ..how };
    let question = format!("{verb} {}?", counted(new.len() as u64, "restore point"));
    let done = !new.is_empty() && confirmed(context, ask, &question)?;
    if done {
        exclusive.writer.record_states(&new)?;
    }
    if context.json {
        let changed = already + if done { new.len() } else { 0 };
        say!("{}", json!({"message_type": "summary", "changed": changed, "dry_run": how.dry_run}));
    } else if how.dry_run && context.chatty() {
        say!("dry run: nothing was changed");
    }
    Ok(Outcome::Complete)
}
