//! `relict snapshots`: the restore points of a repository.

use super::FilterArgs;
use super::chains::readable;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{count, counted, escape, json_text, json_time, size, table};
use crate::catalog::points::{Filter, short_id, time_name};
use crate::catalog::thin::Thinned;
use crate::error::Result;
use clap::Args;
use repo_format::{PointRecord, SourceKind};

/// Memory for cached segments, in bytes: the list needs none.
const CACHE_BYTES: usize = 8 << 20;

/// List restore points, oldest first
#[derive(Debug, Args)]
#[command(visible_alias = "points")]
pub struct SnapshotsArgs {
    #[command(flatten)]
    filter: FilterArgs,
}

/// Runs the command.
///
/// Partial when there are points whose records cannot be read.
///
/// # Errors
/// When the repository cannot be read.
pub fn run(context: &Context, args: &SnapshotsArgs) -> Result<Outcome> {
    let (points, unreadable) = readable(&*context.repository(CACHE_BYTES)?)?;
    let filter = Filter::from(&args.filter);
    let chosen: Vec<&PointRecord> = points.filtered(&filter).collect();
    let mut out = Out::new();
    if context.json {
        chosen.iter().try_for_each(|point| out.json(&point_json(point)))?;
    } else {
        show(&mut out, &chosen, context)?;
    }
    out.finish()?;
    Ok(if unreadable == 0 { Outcome::Complete } else { Outcome::Partial })
}

fn show(out: &mut Out, points: &[&PointRecord], context: &Context) -> Result<()> {
    if points.is_empty() {
        if context.chatty() {
            out.line("no restore points")?;
        }
        return Ok(());
    }
    let header = ["id", "time", "host", "source", "paths", "files", "size", "new stored", "notes"];
    let right = [false, false, false, false, false, true, true, true, false];
    let rows: Vec<Vec<String>> = points.iter().map(|p| row(p)).collect();
    out.bytes(table(&header, &right, &rows).as_bytes())?;
    if context.chatty() {
        out.line(&counted(points.len() as u64, "restore point"))?;
    }
    if context.verbose {
        for point in points.iter().filter(|p| !p.notes.is_empty()) {
            out.line(&format!("\nnotes of {} {}:", short_id(point), time_name(point.time)))?;
            point.notes.iter().try_for_each(|note| out.line(&format!("  {}", escape(note))))?;
        }
    }
    Ok(())
}

fn row(point: &PointRecord) -> Vec<String> {
    let c = &point.counts;
    let mut notes = Vec::new();
    if c.errors > 0 {
        notes.push(format!("{} left out", count(c.errors)));
    }
    if let Some(thinned) = Thinned::of(point) {
        notes.push(format!("thinned: {} no longer here", counted(thinned.names, "file")));
    }
    if !point.notes.is_empty() {
        notes.push(format!("{} (-v shows them)", counted(point.notes.len() as u64, "note")));
    }
    let tags: Vec<String> = point.tags.iter().map(|t| escape(t)).collect();
    if !tags.is_empty() {
        notes.push(format!("tags: {}", tags.join(" ")));
    }
    vec![
        short_id(point),
        time_name(point.time),
        escape(&point.host),
        escape(&point.source),
        point.paths.iter().map(|p| escape(p)).collect::<Vec<_>>().join(" "),
        count(c.files),
        size(c.bytes),
        size(c.stored_bytes),
        notes.join(", "),
    ]
}

/// A restore point as a program reads it.
#[must_use]
pub fn point_json(point: &PointRecord) -> serde_json::Value {
    let c = &point.counts;
    let list = |items: &[Vec<u8>]| items.iter().map(|i| json_text(i)).collect::<Vec<_>>();
    serde_json::json!({
        "message_type": "snapshot",
        "id": point.id.to_string(),
        "short_id": short_id(point),
        "time": json_time(point.time),
        "name": time_name(point.time),
        "sealed": json_time(point.sealed),
        "host": json_text(&point.host),
        "source": json_text(&point.source),
        "kind": kind_word(point.kind),
        "paths": list(&point.paths),
        "tags": list(&point.tags),
        "set": point.set().map(|set| set.to_string()),
        "parent": point.parent.map(|p| p.to_string()),
        "root": point.root.to_string(),
        "files": c.files,
        "dirs": c.dirs,
        "bytes": c.bytes,
        "read_bytes": c.read_bytes,
        "new_chunks": c.new_chunks,
        "new_bytes": c.new_bytes,
        "stored_bytes": c.stored_bytes,
        "errors": c.errors,
        "thinned": Thinned::of(point).map(|thinned| serde_json::json!({"files": thinned.names})),
        "notes": list(&point.notes),
        "program": json_text(&point.program),
    })
}

const fn kind_word(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Dir => "dir",
        SourceKind::Btrfs => "btrfs",
        SourceKind::Image => "image",
        SourceKind::Rbd => "rbd",
    }
}
