//! `forget`: restore points that no rule keeps are hidden. Nothing is removed before `prune`.

use super::maint::{Change, Chosen, Exclusive, clock, confirmed, label, named, point_json, short};
use clap::Args;
use relict::catalog::points::{printable, time_name};
use relict::catalog::protection::{Clock, Wish, next_state};
use relict::catalog::retention::{Age, Decision, Period, Policy, groups};
use relict::catalog::thin::VersionRule;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::counted;
use relict::store::States;
use relict::{Error, ErrorKind, Result};
use repo_format::{PointRecord, PointState, Time};
use serde_json::json;

/// A point may be dated so far after the clock: hosts differ, and a source may say when it was taken.
const MAX_FUTURE_SECS: i64 = 86_400;

/// Options of `forget`.
#[derive(Args)]
pub struct Options {
    /// Forget these restore points (ids or times), and no others
    points: Vec<String>,
    /// Keep the newest N of each host and source ('all' for N keeps all)
    #[arg(long, value_name = "N")]
    keep_last: Option<String>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<String>,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<String>,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    keep_weekly: Option<String>,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N")]
    keep_monthly: Option<String>,
    /// Keep the newest of each of the last N years that have one
    #[arg(long, value_name = "N")]
    keep_yearly: Option<String>,
    /// Keep all within this time before the newest (90d, 2w, 12h, 1y6m)
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Keep the newest of each hour within this time before the newest
    #[arg(long, value_name = "AGE")]
    keep_within_hourly: Option<String>,
    /// Keep the newest of each day within this time before the newest
    #[arg(long, value_name = "AGE")]
    keep_within_daily: Option<String>,
    /// Keep the newest of each week within this time before the newest
    #[arg(long, value_name = "AGE")]
    keep_within_weekly: Option<String>,
    /// Keep the newest of each month within this time before the newest
    #[arg(long, value_name = "AGE")]
    keep_within_monthly: Option<String>,
    /// Keep the newest of each year within this time before the newest
    #[arg(long, value_name = "AGE")]
    keep_within_yearly: Option<String>,
    /// Keep, of every file, the last N different contents ('all' for N keeps all): a restore point that no other rule keeps
    /// stays and no longer shows older contents. It is thinned, and 'snapshots' says so
    #[arg(long, value_name = "N")]
    keep_versions: Option<String>,
    /// Keep a file that is gone from the newest restore point for this time after the first one without it (90d, 1y)
    #[arg(long, value_name = "AGE")]
    keep_deleted_for: Option<String>,
    /// Keep all with this tag
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Keep the one whose id begins with this
    #[arg(long, value_name = "ID")]
    keep_id: Vec<String>,
    /// Allow that a host and source loses all its restore points
    #[arg(long)]
    unsafe_allow_remove_all: bool,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    change: Change,
}

impl Options {
    fn policy(&self) -> Result<Policy> {
        let mut out = Policy::default();
        let counts = [
            (Period::Last, &self.keep_last),
            (Period::Hourly, &self.keep_hourly),
            (Period::Daily, &self.keep_daily),
            (Period::Weekly, &self.keep_weekly),
            (Period::Monthly, &self.keep_monthly),
            (Period::Yearly, &self.keep_yearly),
        ];
        for (period, text) in counts {
            if let Some(text) = text {
                out.counts.push((period, number(text)?));
            }
        }
        let ages = [
            (Period::Last, &self.keep_within),
            (Period::Hourly, &self.keep_within_hourly),
            (Period::Daily, &self.keep_within_daily),
            (Period::Weekly, &self.keep_within_weekly),
            (Period::Monthly, &self.keep_within_monthly),
            (Period::Yearly, &self.keep_within_yearly),
        ];
        for (period, text) in ages {
            if let Some(text) = text {
                out.within.push((period, text.parse::<Age>()?));
            }
        }
        out.tags = self.keep_tag.iter().map(|tag| tag.clone().into_bytes()).collect();
        out.versions = self.versions()?;
        out.ids = self.keep_id.iter().map(|id| id.to_ascii_lowercase()).collect();
        Ok(out)
    }
}

impl Options {
    fn versions(&self) -> Result<Option<VersionRule>> {
        let most = self.keep_versions.as_deref().map(number).transpose()?;
        if most == Some(Some(0)) {
            return Err(Error::new(ErrorKind::Usage, "no file would keep any content")
                .advise("nothing was changed; 'forget' with the ids of restore points forgets them as a whole"));
        }
        let deleted_for = self.keep_deleted_for.as_deref().map(str::parse::<Age>).transpose()?;
        let asked = most.is_some() || deleted_for.is_some();
        Ok(asked.then(|| VersionRule { most: most.flatten(), deleted_for }))
    }
}

fn number(text: &str) -> Result<Option<u32>> {
    if text == "all" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("'{}' is not a number", printable(text.as_bytes())))
            .advise("give a number, or 'all'")
    })
}

/// Runs the command.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let policy = options.policy()?;
    if policy.is_empty() == options.points.is_empty() {
        let what = if policy.is_empty() {
            "nothing says which restore points to keep"
        } else {
            "a policy and names of restore points exclude each other"
        };
        return Err(Error::new(ErrorKind::Usage, what)
            .advise("nothing was changed; name what to keep (--keep-last 7, --keep-daily 30, --keep-within 90d ...), or what to forget (an id or a time)"));
    }
    let exclusive = Exclusive::open(context, options.change.wait)?;
    let repository = exclusive.repository();
    let (clock, states) = (clock(context, repository)?, repository.index().states()?);
    let filter = options.chosen.filter();
    let all = repository.point_records()?;
    let points: Vec<_> = all.iter().filter(|point| filter.admits(point)).cloned().collect();
    let mut decisions: Vec<Vec<Decision>> = if policy.is_empty() {
        let chosen = named(points.clone(), &options.points, &filter)?;
        let decide = |point| Decision { reasons: Vec::new(), point };
        groups(chosen).into_values().map(|group| group.into_iter().map(decide).collect()).collect()
    } else {
        groups(points.clone()).into_values().map(|group| policy.decide(group)).collect()
    };
    let left_alone = if policy.is_empty() { 0 } else { leave_future(context, &mut decisions, all, &clock) };
    protect(&mut decisions, &states, &clock);
    if policy.is_empty() {
        refuse_protected(&decisions)?;
    }
    if let Some(rule) = policy.versions {
        let run = super::thin::Run { context, exclusive: &exclusive, change: options.change, rule, states, clock };
        let done = run.thin(&decisions)?;
        return Ok(if left_alone > 0 { Outcome::Partial } else { done });
    }
    let sizes = groups(points);
    for group in &decisions {
        let going = group.iter().filter(|d| d.reasons.is_empty()).count();
        let Some(first) = group.first() else { continue };
        let all = sizes.get(&(first.point.host.clone(), first.point.source.clone())).map_or(0, Vec::len);
        if going == all && !options.unsafe_allow_remove_all {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "this would forget all restore points of {}:{}",
                    printable(&first.point.host),
                    printable(&first.point.source)
                ),
            )
            .advise("nothing was changed; if that is meant, add --unsafe-allow-remove-all"));
        }
    }
    let done = execute(context, options, &exclusive, &decisions, &states, &clock)?;
    Ok(if left_alone > 0 { Outcome::Partial } else { done })
}

/// Takes out the groups that have a point dated more than a day after the clock, and says so; gives their number. Either the
/// clock is wrong, or it was: by a policy such points would stand for the newest, and what is backed up from now on would be
/// forgotten at once. `all` are the visible points, also those that were not asked about: thinning counts from them, too.
fn leave_future(context: &Context, decisions: &mut Vec<Vec<Decision>>, all: Vec<PointRecord>, clock: &Clock) -> usize {
    let (before, all) = (decisions.len(), groups(all));
    decisions.retain(|group| {
        let Some(point) = group.first().map(|decision| &decision.point) else { return true };
        let source = all.get(&(point.host.clone(), point.source.clone()));
        let newest = source.and_then(|points| points.iter().max_by_key(|point| point.time));
        let Some(point) = newest.filter(|point| point.time.sec > clock.now.saturating_add(MAX_FUTURE_SECS)) else {
            return true;
        };
        let now = time_name(Time { sec: clock.now, nsec: 0 });
        let (host, source) = (printable(&point.host), printable(&point.source));
        let what = format!(
            "nothing of {host}:{source} was forgotten: the clock says {now}, but restore point {} is dated {}; set the clock, or, \
             if that point was made under a wrong clock, forget it by its id",
            short(&point.id),
            time_name(point.time)
        );
        if context.json {
            say!(
                "{}",
                json!({"message_type": "left_alone", "host": host, "source": source, "point": point_json(point), "what": what})
            );
        } else {
            relict::tell!("{what}");
        }
        false
    });
    before - decisions.len()
}

fn protect(decisions: &mut [Vec<Decision>], states: &States, clock: &Clock) {
    for decision in decisions.iter_mut().flatten() {
        let held = states.get(&decision.point.id).and_then(|state| clock.holds(state));
        decision.reasons.extend(held);
    }
}

fn refuse_protected(decisions: &[Vec<Decision>]) -> Result<()> {
    match decisions.iter().flatten().find(|decision| !decision.reasons.is_empty()) {
        None => Ok(()),
        Some(decision) => {
            let what = format!("restore point {} is {}", label(&decision.point), decision.reasons.join(", "));
            Err(Error::new(ErrorKind::Usage, what)
                .advise("nothing was changed; 'relict-maint unprotect' takes protection back, but not a lock by date"))
        }
    }
}

fn execute(
    context: &Context,
    options: &Options,
    exclusive: &Exclusive,
    decisions: &[Vec<Decision>],
    states: &States,
    clock: &Clock,
) -> Result<Outcome> {
    let repository = exclusive.repository();
    let mut new: Vec<PointState> = Vec::new();
    let mut kept = 0_u64;
    for decision in decisions.iter().flatten() {
        if context.json {
            let action = if decision.reasons.is_empty() { "forget" } else { "keep" };
            say!(
                "{}",
                json!({"message_type": "point", "point": point_json(&decision.point), "action": action, "reasons": decision.reasons})
            );
        } else if context.chatty() {
            let what = if decision.reasons.is_empty() {
                "forget".to_owned()
            } else {
                format!("keep: {}", decision.reasons.join(", "))
            };
            say!("{}  {what}", label(&decision.point));
        }
        if decision.reasons.is_empty() {
            new.extend(next_state(repository, states, clock, decision.point.id, Wish::Hide)?);
        } else {
            kept += 1;
        }
    }
    let (to_forget, dry_run) = (new.len(), options.change.dry_run);
    let what = counted(to_forget as u64, "restore point");
    let done = to_forget > 0 && confirmed(context, options.change, &format!("forget {what}?"))?;
    if done {
        exclusive.writer.record_states(&new)?;
    }
    if context.json {
        let forgotten = if done { to_forget } else { 0 };
        say!(
            "{}",
            json!({
                "message_type": "summary", "to_forget": to_forget, "forgotten": forgotten, "kept": kept,
                "dry_run": dry_run,
            })
        );
    } else if context.chatty() && done {
        say!("{what} forgotten; 'relict-maint undelete' shows them again, 'relict-maint prune' removes them");
    } else if context.chatty() && dry_run {
        say!("dry run: {what} would be forgotten, {kept} kept; nothing was changed");
    }
    Ok(Outcome::Complete)
}
