//! `forget --keep-versions`, `--keep-deleted-for`: restore points stay and no longer show old contents of files. One in which
//! no file would be left is forgotten as a whole.

use super::maint::{Change, Exclusive, Work, confirmed, label, now, point_json};
use relict::catalog::protection::{Clock, Wish, next_state};
use relict::catalog::retention::{Decision, chains};
use relict::catalog::thin::{Member, Thinning, VersionRule, plan};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::{counted, size};
use relict::store::States;
use relict::{Error, ErrorKind, Result};
use repo_format::{PointId, PointRecord, PointState, Time};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a thinning works with.
pub struct Run<'a> {
    pub context: &'a Context,
    pub exclusive: &'a Exclusive,
    pub change: Change,
    pub rule: VersionRule,
    pub states: States,
    pub clock: Clock,
}

/// What all chains together come to.
#[derive(Default)]
struct Sums {
    to_thin: u64,
    to_forget: u64,
    files: u64,
    versions: u64,
    versions_raw_bytes: u64,
}

/// What happens to one point.
#[derive(Clone, Copy, Default)]
struct Loss {
    names: u64,
    raw_bytes: u64,
    emptied: bool,
}

impl Run<'_> {
    /// Thins the chains of the points that were decided about. A point that a rule keeps, or that was not asked about, stays
    /// whole, and its contents count.
    pub fn thin(&self, decisions: &[Vec<Decision>]) -> Result<Outcome> {
        let decided: HashMap<PointId, &Decision> = decisions.iter().flatten().map(|d| (d.point.id, d)).collect();
        let goes_thin = |id: &PointId| decided.get(id).is_some_and(|decision| decision.reasons.is_empty());
        let (mut plans, mut sums) = (Vec::new(), Sums::default());
        for chain in chains(self.exclusive.repository().point_records()?) {
            if !chain.iter().any(|point| goes_thin(&point.id)) {
                let shown = chain.iter().rev().filter_map(|point| decided.get(&point.id));
                shown.for_each(|d| show(self.context, &d.point, d, Loss::default()));
                continue;
            }
            let members = chain.into_iter().map(|point| Member { whole: !goes_thin(&point.id), point }).collect();
            let planning = Work::start(self.context, "forget, plan", None);
            let plan = plan(self.exclusive.repository(), members, self.rule, &self.context.stop)?;
            drop(planning);
            for (index, member) in plan.members().iter().enumerate().rev() {
                if let Some(decision) = decided.get(&member.point.id) {
                    show(self.context, &member.point, decision, Loss::of(&plan, index));
                }
            }
            sums.add(&plan);
            if !plan.is_empty() {
                plans.push(plan);
            }
        }
        self.say(&sums.text());
        let asked = !plans.is_empty() && confirmed(self.context, self.change, &sums.question())?;
        let (thinned, forgotten) = if asked { self.execute(plans)? } else { (0, 0) };
        if self.change.dry_run {
            self.say("dry run: nothing was changed");
        }
        if self.context.json {
            say!("{}", sums.json(thinned, forgotten, self.change.dry_run));
        }
        Ok(Outcome::Complete)
    }

    fn say(&self, text: &str) {
        if self.context.chatty() && !self.context.json {
            say!("{text}");
        }
    }

    /// Gives how many points were thinned and how many forgotten.
    fn execute(&self, plans: Vec<Thinning>) -> Result<(usize, usize)> {
        let at = Time { sec: now(), nsec: 0 };
        let work = Work::start(self.context, "forget", None);
        let (mut thinned, mut forgotten) = (0, 0);
        for plan in plans {
            let (thin, forget) = self.one(plan, at).map_err(|e| stopped_after(e, thinned, forgotten))?;
            thinned += thin;
            forgotten += forget;
        }
        drop(work);
        let done = format!(
            "{}; 'relict-maint undelete' takes that back until 'relict-maint prune', whose --dry-run says what it frees",
            said(thinned as u64, "thinned", forgotten as u64, "forgotten")
        );
        self.say(&done);
        Ok((thinned, forgotten))
    }

    /// Thins the points of one chain, and forgets those that are to be forgotten.
    fn one(&self, plan: Thinning, at: Time) -> Result<(usize, usize)> {
        let (repository, mut hidden) = (self.exclusive.repository(), Vec::<PointState>::new());
        for point in plan.emptied() {
            hidden.extend(next_state(repository, &self.states, &self.clock, point.id, Wish::Hide)?);
        }
        let thinned = plan.execute(&self.exclusive.writer, at, &self.context.stop)?.len();
        if !hidden.is_empty() {
            self.exclusive.writer.record_states(&hidden)?;
        }
        Ok((thinned, hidden.len()))
    }
}

/// What came to an end, with what was done before it.
fn stopped_after(error: Error, thinned: usize, forgotten: usize) -> Error {
    if thinned + forgotten == 0 {
        return error;
    }
    let done = said(thinned as u64, "thinned", forgotten as u64, "forgotten");
    let advice =
        "run it again for the rest; 'relict-maint undelete' takes back what was done, until 'relict-maint prune'";
    match error.kind() {
        ErrorKind::Interrupted => {
            Error::new(ErrorKind::Interrupted, format!("stopped: {done}; the other sources are as they were"))
        }
        _ => error.context(format!("{done}; then")),
    }
    .advise(advice)
}

/// `3 restore points thinned, 1 forgotten`, without what is none.
fn said(thin: u64, thinned: &str, forget: u64, forgotten: &str) -> String {
    let parts = [(thin, thinned), (forget, forgotten)].into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| format!("{} {what}", counted(count, "restore point"))).collect::<Vec<_>>().join(", ")
}

impl Loss {
    fn of(plan: &Thinning, index: usize) -> Self {
        let number = |all: &[u64]| all.get(index).copied().unwrap_or(0);
        let emptied = plan.emptied.get(index).copied().unwrap_or(false);
        Self { names: number(&plan.names), raw_bytes: number(&plan.raw_bytes), emptied }
    }
}

impl Sums {
    fn add(&mut self, plan: &Thinning) {
        let hurt = plan.names.iter().filter(|names| **names > 0).count() as u64;
        let emptied = plan.emptied().count() as u64;
        self.to_thin += hurt - emptied;
        self.to_forget += emptied;
        self.files += plan.files;
        self.versions += plan.versions;
        self.versions_raw_bytes = self.versions_raw_bytes.saturating_add(plan.versions_raw_bytes);
    }

    fn text(&self) -> String {
        if self.to_thin + self.to_forget == 0 {
            return "no file has contents that are too old".to_owned();
        }
        format!(
            "old contents of {} go; of them no restore point of their source keeps {}, {} as restored. Stored they take less, \
             and nothing where others share them: 'relict-maint prune --dry-run' says the exact bytes once this is done",
            counted(self.files, "file"),
            counted(self.versions, "version"),
            size(self.versions_raw_bytes)
        )
    }

    fn question(&self) -> String {
        let parts = [(self.to_thin, "thin"), (self.to_forget, "forget")].into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            parts.map(|(count, verb)| format!("{verb} {}", counted(count, "restore point"))).collect();
        format!("{}?", parts.join(" and "))
    }

    fn json(&self, thinned: usize, forgotten: usize, dry_run: bool) -> Value {
        json!({
            "message_type": "summary", "forgotten": forgotten, "thinned": thinned, "to_thin": self.to_thin,
            "to_forget": self.to_forget, "files": self.files, "versions_dropped": self.versions,
            "versions_dropped_raw_bytes": self.versions_raw_bytes, "dry_run": dry_run,
        })
    }
}

fn show(context: &Context, point: &PointRecord, decision: &Decision, loss: Loss) {
    let lost = || format!("{} ({} as restored)", counted(loss.names, "file"), size(loss.raw_bytes));
    let (action, what) = match (decision.reasons.is_empty(), loss.names) {
        (false, _) => ("keep", format!("keep: {}", decision.reasons.join(", "))),
        (true, 0) => ("keep", "keep: nothing in it is too old".to_owned()),
        (true, _) if loss.emptied => ("forget", format!("forget: no file would be left of {}", lost())),
        (true, _) => ("thin", format!("thin: {} will not be shown any more", lost())),
    };
    if context.json {
        say!(
            "{}",
            json!({
                "message_type": "point", "point": point_json(point), "action": action,
                "reasons": decision.reasons, "files": loss.names, "raw_bytes": loss.raw_bytes,
            })
        );
    } else if context.chatty() {
        say!("{}  {what}", label(point));
    }
}
