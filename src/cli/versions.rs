//! `relict versions`: the different contents that a file had.

use super::FilterArgs;
use super::chains::{Chain, chains};
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{counted, escape, json_text, json_time, size, table};
use crate::catalog::history::{Span, Version, path_spans, paths::components, versions};
use crate::catalog::points::{Filter, short_id, time_name};
use crate::error::{Error, ErrorKind, Result};
use clap::Args;
use repo_format::{FileKind, PointRecord};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Memory for cached segments, in bytes: only tree nodes are read.
const CACHE_BYTES: usize = 64 << 20;

/// List the different contents that a file had
///
/// A content that came back is one version. Reads what changed of the file, not every restore point.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// The file's path in the restore points
    #[arg(value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Runs the command.
///
/// # Errors
/// `NotFound` when no restore point ever had the file, or the repository cannot be read.
pub fn run(context: &Context, args: &VersionsArgs) -> Result<Outcome> {
    let repo = context.repository(CACHE_BYTES)?;
    let path: Vec<u8> = components(args.path.as_bytes()).flat_map(|part| [b"/", part].concat()).collect();
    let (mut out, mut found, mut dirs) = (Out::new(), 0, false);
    for chain in chains(&repo, &Filter::from(&args.filter))? {
        let spans = path_spans(&*repo, &chain, &path)?;
        let versions = versions(&*repo, &chain, &spans)?;
        dirs |= spans.iter().any(|span| span.entry.kind == FileKind::Dir);
        found += versions.len();
        if context.json {
            versions.iter().try_for_each(|version| out.json(&json(&chain, &spans, version, &path)))?;
        } else if !versions.is_empty() {
            show(&mut out, context, &chain, &spans, &versions, &path)?;
        }
    }
    out.finish()?;
    if found > 0 {
        return Ok(Outcome::Complete);
    }
    let shown = escape(if path.is_empty() { b"/" } else { &path });
    Err(match dirs {
        true => Error::new(ErrorKind::Usage, format!("{shown} is a directory"))
            .advise("name a file; 'relict diff' compares directories"),
        false => Error::new(ErrorKind::NotFound, format!("no restore point has {shown}"))
            .advise("'relict find --all NAME' looks for it everywhere; a path begins at the root of the restore point"),
    })
}

fn show(
    out: &mut Out,
    context: &Context,
    chain: &Chain,
    spans: &[Span],
    versions: &[Version],
    path: &[u8],
) -> Result<()> {
    let Some(newest) = chain.last() else { return Ok(()) };
    if context.chatty() {
        out.line(&format!("{} of {} on {}:", escape(path), escape(&newest.source), escape(&newest.host)))?;
    }
    let rows: Vec<Vec<String>> = versions.iter().filter_map(|version| row(chain, version)).collect();
    out.bytes(
        table(&["first seen", "last seen", "points", "size", "id"], &[false, false, true, true, false], &rows)
            .as_bytes(),
    )?;
    if context.chatty() {
        let gone = match is_there(chain, spans) {
            true => String::new(),
            false => "; the newest restore point does not have it".to_owned(),
        };
        let n = counted(versions.len() as u64, "version");
        out.line(&format!("{n} in {}{gone}", counted(chain.len() as u64, "restore point")))?;
    }
    Ok(())
}

fn row(chain: &Chain, version: &Version) -> Option<Vec<String>> {
    let (first, last) = (chain.get(version.first)?, chain.get(version.last)?);
    let bytes = if version.entry.kind == FileKind::File {
        size(version.size)
    } else {
        kind_word(version.entry.kind).to_owned()
    };
    Some(vec![time_name(first.time), time_name(last.time), version.points.to_string(), bytes, short_id(first)])
}

fn is_there(chain: &Chain, spans: &[Span]) -> bool {
    spans.last().is_some_and(|span| span.last + 1 == chain.len())
}

fn json(chain: &Chain, spans: &[Span], version: &Version, path: &[u8]) -> serde_json::Value {
    let point = |index: usize| chain.get(index).map(|point: &Arc<PointRecord>| point.id.to_string());
    let time = |index: usize| chain.get(index).map(|point: &Arc<PointRecord>| json_time(point.time));
    let newest = chain.last();
    serde_json::json!({
        "message_type": "version",
        "path": json_text(path),
        "host": newest.map(|point| json_text(&point.host)),
        "source": newest.map(|point| json_text(&point.source)),
        "type": kind_word(version.entry.kind),
        "size": version.size,
        "first_point": point(version.first),
        "first_time": time(version.first),
        "last_point": point(version.last),
        "last_time": time(version.last),
        "points": version.points,
        "current": version.last + 1 == chain.len(),
        "deleted": !is_there(chain, spans),
    })
}

/// A type in one word.
pub const fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::Char => "char",
        FileKind::Block => "block",
    }
}
