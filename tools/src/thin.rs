//! `forget --keep-versions`, `--keep-deleted-for`: restore points stay and no longer show old contents of files.

use super::maint::{Change, Exclusive, confirmed, label, now, point_json};
use relict::Result;
use relict::catalog::retention::{Decision, chains};
use relict::catalog::thin::{Member, Thinning, VersionRule, plan};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text::{counted, size};
use repo_format::{PointId, PointRecord, Time};
use serde_json::json;
use std::collections::HashMap;

/// What all chains together come to.
#[derive(Default)]
struct Sums {
    points: u64,
    files: u64,
    versions: u64,
    bytes: u64,
}

/// Thins the chains of the points that were decided about. A point that a rule keeps, or that was not asked about, stays
/// whole, and its contents count.
pub fn run(
    context: &Context,
    exclusive: &Exclusive,
    change: Change,
    decisions: &[Vec<Decision>],
    rule: VersionRule,
) -> Result<Outcome> {
    let decided: HashMap<PointId, &Decision> = decisions.iter().flatten().map(|d| (d.point.id, d)).collect();
    let goes_thin = |id: &PointId| decided.get(id).is_some_and(|decision| decision.reasons.is_empty());
    let (mut plans, mut sums) = (Vec::new(), Sums::default());
    for chain in chains(exclusive.repository().point_records()?) {
        if !chain.iter().any(|point| goes_thin(&point.id)) {
            chain.iter().rev().filter_map(|point| decided.get(&point.id)).for_each(|d| show(context, &d.point, d, 0));
            continue;
        }
        let members = chain.into_iter().map(|point| Member { whole: !goes_thin(&point.id), point }).collect();
        let plan = plan(exclusive.repository(), members, rule, &context.stop)?;
        for (member, names) in plan.members().iter().zip(&plan.names).rev() {
            if let Some(decision) = decided.get(&member.point.id) {
                show(context, &member.point, decision, *names);
            }
        }
        sums.add(&plan);
        if !plan.is_empty() {
            plans.push(plan);
        }
    }
    let total = sums.text();
    if context.chatty() && !context.json {
        println!("{total}");
    }
    let question = format!("thin {}?", counted(sums.points, "restore point"));
    let mut done = 0;
    if !plans.is_empty() && confirmed(context, change, &question)? {
        let at = Time { sec: now(), nsec: 0 };
        for plan in plans {
            done += plan.execute(&exclusive.writer, at, &context.stop)?.len();
        }
        if context.chatty() && !context.json {
            println!(
                "{} thinned; 'relict-maint undelete' makes them whole again, 'relict-maint prune' removes what they \
                 no longer show",
                counted(done as u64, "restore point")
            );
        }
    }
    if context.json {
        let (files, versions, bytes) = (sums.files, sums.versions, sums.bytes);
        println!(
            "{}",
            json!({
                "message_type": "summary", "forgotten": 0, "thinned": done, "to_thin": sums.points, "files": files,
                "versions": versions, "version_bytes": bytes, "dry_run": change.dry_run,
            })
        );
    }
    Ok(Outcome::Complete)
}

impl Sums {
    fn add(&mut self, plan: &Thinning) {
        self.points += plan.names.iter().filter(|names| **names > 0).count() as u64;
        self.files += plan.files;
        self.versions += plan.versions;
        self.bytes += plan.bytes;
    }

    fn text(&self) -> String {
        if self.points == 0 {
            return "no file has contents that are too old".to_owned();
        }
        format!(
            "{} lose old contents; {} of {} together will be in no restore point any more \
             (prune gives back what they do not share)",
            counted(self.files, "file"),
            counted(self.versions, "content"),
            size(self.bytes)
        )
    }
}

fn show(context: &Context, point: &PointRecord, decision: &Decision, names: u64) {
    let (action, what) = match (decision.reasons.is_empty(), names) {
        (false, _) => ("keep", format!("keep: {}", decision.reasons.join(", "))),
        (true, 0) => ("keep", "keep: nothing in it is too old".to_owned()),
        (true, names) => ("thin", format!("thin: {} will not be shown any more", counted(names, "file"))),
    };
    if context.json {
        println!(
            "{}",
            json!({
                "message_type": "point", "point": point_json(point), "action": action,
                "reasons": decision.reasons, "files": names,
            })
        );
    } else if context.chatty() {
        println!("{}  {what}", label(point));
    }
}
