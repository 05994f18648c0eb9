//! `relict-maint check` as people and programs see it: its options, and its report as text and as JSON.

use super::{Finding, Report, finding::AFFECTED_SHOWN};
use clap::Args;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text;
use relict::{Error, ErrorKind, Result};
use serde_json::json;

/// Node and segment cache of a check; packages are read past it.
const CACHE_BYTES: usize = 128 << 20;

/// Options of `check`.
#[derive(Args)]
pub struct Options {
    /// Also read and verify every stored byte
    #[arg(long)]
    pub read_data: bool,
}

/// Checks and reports.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    let repository = context.repository(CACHE_BYTES)?;
    let report = super::check(&repository, options.read_data, &context.stop)?;
    if context.json {
        report.findings.iter().for_each(|finding| println!("{}", finding.json()));
        println!("{}", summary(&report, options));
    } else {
        report.findings.iter().for_each(show);
        if context.chatty() {
            println!("{}", counts(&report, options));
        }
    }
    match report.findings.len() {
        0 => {
            if context.chatty() {
                println!("no problems found{}", if options.read_data { "" } else { " (content was not read; --read-data does)" });
            }
            Ok(Outcome::Complete)
        }
        n => Err(Error::new(ErrorKind::Damaged, format!("the check found {}", text::counted(n as u64, "problem")))
            .advise("each one is listed above, with the files it affects and what can be done; all other files are intact")),
    }
}

fn counts(report: &Report, options: &Options) -> String {
    format!(
        "checked {} restore points, {} tree entries, {} packages, {} segments, {} chunks{}",
        report.points,
        report.entries,
        report.packages,
        report.segments,
        report.chunks,
        if options.read_data { format!("; read {}", text::size(report.bytes_read)) } else { String::new() }
    )
}

fn summary(report: &Report, options: &Options) -> serde_json::Value {
    json!({
        "message_type": "summary",
        "findings": report.findings.len(),
        "points": report.points,
        "entries": report.entries,
        "packages": report.packages,
        "segments": report.segments,
        "chunks": report.chunks,
        "read_data": options.read_data,
        "bytes_read": report.bytes_read,
    })
}

fn show(finding: &Finding) {
    println!("{}", text::escape_lines(&finding.what).trim_end());
    for (point, path) in finding.affected.iter().take(AFFECTED_SHOWN) {
        println!("    affects {path} in {point}");
    }
    if finding.affected.len() > AFFECTED_SHOWN {
        println!("    and {} more (--json names all)", finding.affected.len() - AFFECTED_SHOWN);
    }
    println!("    {}", finding.kind.remedy());
}
