//! `relict-maint health`: the few numbers that an alarm hangs on, as text, JSON, or for Prometheus.

use crate::check::{now_sec, oldest};
use clap::Args;
use relict::Result;
use relict::catalog::points::{Points, printable};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text;
use relict::store::{LastCheck, Repository};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const CACHE_BYTES: usize = 8 << 20;

/// Options of `health`.
#[derive(Args)]
pub struct Options {
    /// In Prometheus' text format, for a node exporter's textfile collector
    #[arg(long)]
    prometheus: bool,
}

struct Health {
    now_sec: i64,
    points: u64,
    unreadable_points: u64,
    stored_bytes: u64,
    packages: u64,
    never_verified: u64,
    /// When the package was verified that was verified longest ago; None when one never was, or there is none.
    oldest_verified: Option<i64>,
    last: Option<LastCheck>,
    /// By host and source: points, and when the newest was taken.
    sources: BTreeMap<(String, String), (u64, i64)>,
}

/// Gathers and shows. Reads no content.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let health = gather(&*context.repository(CACHE_BYTES)?)?;
    if options.prometheus {
        crate::say::text(&prometheus(&health));
    } else if context.json {
        say!("{}", as_json(&health));
    } else {
        crate::say::text(&as_text(&health));
    }
    Ok(Outcome::Complete)
}

fn gather(repository: &Repository) -> Result<Health> {
    repository.refresh()?;
    let known = repository.index().health()?;
    let packages: Vec<_> = repository.index().packages()?.into_iter().filter(|p| p.sealed).collect();
    let all = repository.points()?;
    let total = all.len() as u64;
    let points = Points::new(repository.point_records()?);
    let mut sources: BTreeMap<(String, String), (u64, i64)> = BTreeMap::new();
    for point in points.all() {
        let source = sources.entry((printable(&point.host), printable(&point.source))).or_insert((0, i64::MIN));
        *source = (source.0 + 1, source.1.max(point.time.sec));
    }
    Ok(Health {
        now_sec: now_sec(),
        points: total,
        unreadable_points: total - points.all().len() as u64,
        stored_bytes: packages.iter().map(|p| p.bytes).fold(0, u64::saturating_add),
        packages: packages.len() as u64,
        never_verified: packages.iter().filter(|p| !known.verified.contains_key(&p.id)).count() as u64,
        oldest_verified: oldest(&packages, &known),
        last: known.last,
        sources,
    })
}

fn age(now: i64, then: i64) -> i64 {
    now.saturating_sub(then)
}

fn ago(now: i64, then: i64) -> String {
    match u64::try_from(age(now, then)) {
        Ok(secs) => format!("{} ago", text::span(Duration::from_secs(secs))),
        Err(_) => "in the future: a clock is or was wrong".to_owned(),
    }
}

fn as_text(h: &Health) -> String {
    let mut out = format!(
        "{}, {} in {}\n",
        text::counted(h.points, "restore point"),
        text::size(h.stored_bytes),
        text::counted(h.packages, "package")
    );
    if h.unreadable_points > 0 {
        out.push_str(&format!(
            "{} cannot be read; 'relict-maint check' says why\n",
            text::counted(h.unreadable_points, "restore point")
        ));
    }
    for ((host, source), (points, newest)) in &h.sources {
        out.push_str(&format!(
            "  {host}:{source}: {}, the newest {}\n",
            text::counted(*points, "point"),
            ago(h.now_sec, *newest)
        ));
    }
    match h.oldest_verified {
        Some(time) => {
            out.push_str(&format!("every package was verified, the one longest ago {}\n", ago(h.now_sec, time)))
        }
        None => out.push_str(&format!(
            "{} never verified ('relict-maint check --max-age 30d' begins with them)\n",
            text::counted(h.never_verified, "package")
        )),
    }
    match h.last {
        Some(last) => out.push_str(&format!(
            "the last check, {}, found {} and {}{}\n",
            ago(h.now_sec, last.time_sec),
            text::counted(last.findings, "problem"),
            text::counted(last.warnings, "warning"),
            if last.read_data { "" } else { "; it did not read content" }
        )),
        None => out.push_str("no check has been written down\n"),
    }
    out
}

fn as_json(h: &Health) -> serde_json::Value {
    let sources: Vec<_> = h.sources.iter().map(|((host, source), (points, newest))| {
        json!({"host": host, "source": source, "points": points, "newest_point_age_seconds": age(h.now_sec, *newest)})
    }).collect();
    json!({
        "message_type": "health",
        "points": h.points,
        "unreadable_points": h.unreadable_points,
        "stored_bytes": h.stored_bytes,
        "packages": h.packages,
        "packages_never_verified": h.never_verified,
        "oldest_verified_age_seconds": h.oldest_verified.map(|t| age(h.now_sec, t)),
        "last_check": h.last.map(|last| json!({
            "age_seconds": age(h.now_sec, last.time_sec),
            "findings": last.findings,
            "warnings": last.warnings,
            "read_data": last.read_data,
        })),
        "sources": sources,
    })
}

/// A label's value as the text format wants it.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What cannot be known is left out, so that an alarm on absence works.
fn prometheus(h: &Health) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, values: Vec<(String, i64)>| {
        if !values.is_empty() {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
            values.iter().for_each(|(labels, value)| out.push_str(&format!("{name}{labels} {value}\n")));
        }
    };
    let one = |value: u64| vec![(String::new(), value.cast_signed())];
    metric("relict_points", "Restore points.", one(h.points));
    metric("relict_unreadable_points", "Restore points whose record cannot be read.", one(h.unreadable_points));
    metric("relict_stored_bytes", "Bytes of all packages.", one(h.stored_bytes));
    metric("relict_packages", "Sealed packages.", one(h.packages));
    metric("relict_packages_never_verified", "Packages whose content no check has read.", one(h.never_verified));
    let labelled = |value: fn(&(u64, i64), i64) -> i64| {
        let line = |((host, source), figures): (&(String, String), &(u64, i64))| {
            (format!("{{host=\"{}\",source=\"{}\"}}", label(host), label(source)), value(figures, h.now_sec))
        };
        h.sources.iter().map(line).collect::<Vec<_>>()
    };
    metric("relict_source_points", "Restore points of a source.", labelled(|(points, _), _| points.cast_signed()));
    metric(
        "relict_newest_point_age_seconds",
        "Age of a source's newest restore point.",
        labelled(|(_, newest), now| age(now, *newest)),
    );
    let known = |value: Option<i64>| value.map(|v| (String::new(), v)).into_iter().collect::<Vec<_>>();
    metric(
        "relict_oldest_verified_age_seconds",
        "Age of the verification that is longest ago; absent while a package was never verified.",
        known(h.oldest_verified.map(|t| age(h.now_sec, t))),
    );
    metric(
        "relict_last_check_age_seconds",
        "Age of the last check; absent before the first.",
        known(h.last.map(|l| age(h.now_sec, l.time_sec))),
    );
    metric(
        "relict_last_check_findings",
        "Problems that the last check found.",
        known(h.last.map(|l| l.findings.cast_signed())),
    );
    metric(
        "relict_last_check_warnings",
        "Warnings of the last check.",
        known(h.last.map(|l| l.warnings.cast_signed())),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text() {
        let last = LastCheck { time_sec: 900, findings: 2, warnings: 1, read_data: true };
        let sources = BTreeMap::from([(("h\"ost".to_owned(), "a\\b".to_owned()), (3, 400))]);
        let mut health = Health {
            now_sec: 1000,
            points: 3,
            unreadable_points: 0,
            stored_bytes: 7,
            packages: 2,
            never_verified: 1,
            oldest_verified: None,
            last: Some(last),
            sources,
        };
        let out = prometheus(&health);
        assert!(out.contains("# TYPE relict_points gauge\nrelict_points 3\n"), "{out}");
        assert!(out.contains("relict_newest_point_age_seconds{host=\"h\\\"ost\",source=\"a\\\\b\"} 600\n"), "{out}");
        assert!(
            out.contains("relict_last_check_age_seconds 100\nrelict_last_check")
                || out.contains("relict_last_check_age_seconds 100\n"),
            "{out}"
        );
        assert!(!out.contains("relict_oldest_verified"), "what is not known is not there: {out}");
        health.oldest_verified = Some(750);
        assert!(prometheus(&health).contains("relict_oldest_verified_age_seconds 250\n"));
        assert!(
            as_text(&health).contains("the last check, 1 min 40 s ago, found 2 problems and 1 warning")
                || as_text(&health).contains("found 2 problems and 1 warning\n")
        );
    }
}
