//! `relict-maint stats`: what the repository holds, what it costs, and what forgetting a restore point would free.

mod usage;

use crate::check::{ChunkTable, all_records, label};
use clap::Args;
use relict::Result;
use relict::catalog::points::{Points, printable, short_id, time_name};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::text;
use relict::store::Repository;
use repo_format::{ChunkId, PackageKind, PointId, PointRecord};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use usage::{Share, Usage};

const CACHE_BYTES: usize = 32 << 20;

/// Options of `stats`.
#[derive(Args)]
pub struct Options {}

/// Bytes of one kind of package.
#[derive(Default, Clone, Copy)]
struct KindFigures {
    packages: u64,
    segments: u64,
    chunks: u64,
    raw_bytes: u64,
    stored_bytes: u64,
}

struct Stats {
    content: KindFigures,
    metadata: KindFigures,
    package_bytes: u64,
    /// Points, oldest first, with what each alone needs and the tree nodes that could not be read.
    points: Vec<(PointRecord, Share, u64)>,
    sources: BTreeMap<(Vec<u8>, Vec<u8>), SourceFigures>,
    unused: Share,
    /// Points that are forgotten: a prune frees what they alone need.
    hidden: HashSet<PointId>,
}

#[derive(Default)]
struct SourceFigures {
    points: u64,
    raw_bytes: u64,
    share: Share,
}

/// Counts and shows.
pub fn run(context: &Context, _: &Options) -> Result<Outcome> {
    let repository = context.repository(CACHE_BYTES)?;
    let work = crate::maint::Work::start(context, "stats", None);
    let stats = count(&repository)?;
    drop(work);
    if context.json {
        show_json(&stats);
    } else {
        show_text(&stats);
    }
    let incomplete: Vec<_> = stats.points.iter().filter(|(.., lost)| *lost > 0).collect();
    if !context.json {
        incomplete.iter().for_each(|(p, _, lost)| {
            say!(
                "{}: {} cannot be read, so its figures are too small; 'relict-maint check' says more",
                label(p),
                text::counted(*lost, "tree node")
            )
        });
    }
    Ok(if incomplete.is_empty() { Outcome::Complete } else { Outcome::Partial })
}

fn count(repository: &Repository) -> Result<Stats> {
    repository.refresh()?;
    let table = ChunkTable::load(repository.index())?;
    let order = table.by_place();
    let records: HashMap<PointId, ChunkId> = repository.index().points()?.into_iter().collect();
    let points = Points::new(all_records(repository)?);
    let record_of = |p: &PointRecord| records.get(&p.id).copied().unwrap_or_default();
    let mut by_point = Usage::new(&table);
    let mut lost = Vec::new();
    for (number, point) in points.all().iter().enumerate() {
        lost.push(by_point.mark(repository, point, &record_of(point), number as u32 + 1)?);
    }
    let mut shares = by_point.shares(points.all().len(), &order).into_iter();
    drop(by_point);
    let unused = shares.next().unwrap_or_default();
    let mut sources: BTreeMap<(Vec<u8>, Vec<u8>), SourceFigures> = BTreeMap::new();
    for point in points.all() {
        let figures = sources.entry((point.host.clone(), point.source.clone())).or_default();
        figures.points += 1;
        // A record can say anything.
        figures.raw_bytes = figures.raw_bytes.saturating_add(point.counts.bytes);
    }
    let mut by_source = Usage::new(&table);
    for point in points.all() {
        let number = sources.keys().position(|key| *key == (point.host.clone(), point.source.clone())).unwrap_or(0);
        by_source.mark(repository, point, &record_of(point), number as u32 + 1)?;
    }
    for (figures, share) in sources.values_mut().zip(by_source.shares(points.all().len(), &order).into_iter().skip(1)) {
        figures.share = share;
    }
    let (content, metadata, package_bytes) = kinds(repository, &table, &order)?;
    let with_share = points.all().iter().cloned().zip(shares).zip(lost).map(|((p, s), l)| (p, s, l));
    let hidden = repository
        .index()
        .states()?
        .into_iter()
        .filter(|(_, state)| state.hidden.is_some())
        .map(|(id, _)| id)
        .collect();
    Ok(Stats { hidden, content, metadata, package_bytes, points: with_share.collect(), sources, unused })
}

/// Figures of content and of metadata, from the index alone.
fn kinds(repository: &Repository, table: &ChunkTable, order: &[u32]) -> Result<(KindFigures, KindFigures, u64)> {
    let packages = repository.index().packages()?;
    let data: HashSet<u32> = packages.iter().filter(|p| p.kind == PackageKind::Data).map(|p| p.number).collect();
    let mut figures = [KindFigures::default(); 2];
    for info in &packages {
        if let Some(f) = figures.get_mut(usize::from(info.kind == PackageKind::Meta)) {
            f.packages += 1;
        }
    }
    let mut last = None;
    for at in order.iter().filter_map(|n| table.places().get(*n as usize)) {
        let Some(f) = figures.get_mut(usize::from(!data.contains(&at.package))) else { continue };
        f.chunks += 1;
        f.raw_bytes += u64::from(at.len);
        if last.replace((at.package, at.offset)) != Some((at.package, at.offset)) {
            f.segments += 1;
            f.stored_bytes += u64::from(at.segment_bytes);
        }
    }
    let [content, metadata] = figures;
    Ok((content, metadata, packages.iter().map(|p| p.bytes).fold(0, u64::saturating_add)))
}

fn ratio(a: u64, b: u64) -> String {
    if b == 0 { "-".to_owned() } else { format!("{:.2}", a as f64 / b as f64) }
}

fn show_text(stats: &Stats) {
    let raw: u64 = stats.points.iter().map(|(p, ..)| p.counts.bytes).fold(0, u64::saturating_add);
    say!("{} of files in {}", text::size(raw), text::counted(stats.points.len() as u64, "restore point"));
    say!("{} after deduplication ({} to 1)", text::size(stats.content.raw_bytes), ratio(raw, stats.content.raw_bytes));
    say!(
        "{} stored in {} ({} to 1 in all)",
        text::size(stats.package_bytes),
        text::counted(stats.content.packages + stats.metadata.packages, "package"),
        ratio(raw, stats.package_bytes)
    );
    say!(
        "{} of it in {} that no restore point needs",
        text::size(stats.unused.stored_bytes),
        text::counted(stats.unused.chunks, "chunk")
    );
    say!("");
    let right = [false, true, true, true, true, true];
    let kind = |name: &str, f: &KindFigures| {
        vec![
            name.to_owned(),
            text::count(f.chunks),
            text::count(f.segments),
            text::size(f.raw_bytes),
            text::size(f.stored_bytes),
            ratio(f.raw_bytes, f.stored_bytes),
        ]
    };
    let rows = [kind("content", &stats.content), kind("metadata", &stats.metadata)];
    crate::say::text(&text::table(&["kind", "chunks", "segments", "raw", "stored", "compression"], &right, &rows));
    say!("");
    let rows: Vec<Vec<String>> = stats.sources.iter().map(source_row).collect();
    crate::say::text(&text::table(&["source", "points", "raw", "its own", "stored"], &right, &rows));
    say!("");
    let rows: Vec<Vec<String>> = stats.points.iter().map(|row| point_row(row, &stats.hidden)).collect();
    crate::say::text(&text::table(&["point", "raw", "its own", "stored", "whole segments"], &right, &rows));
    say!("\n'its own' is what nothing else needs: forgetting and pruning that point or source frees its stored bytes;");
    say!("'whole segments' is the part of it that is freed without writing anything");
}

fn source_row(((host, source), figures): (&(Vec<u8>, Vec<u8>), &SourceFigures)) -> Vec<String> {
    vec![
        format!("{}:{}", printable(host), printable(source)),
        text::count(figures.points),
        text::size(figures.raw_bytes),
        text::size(figures.share.raw_bytes),
        text::size(figures.share.stored_bytes),
    ]
}

fn point_row((point, share, _): &(PointRecord, Share, u64), hidden: &HashSet<PointId>) -> Vec<String> {
    let forgotten = if hidden.contains(&point.id) { " (forgotten)" } else { "" };
    vec![
        format!(
            "{} {} {}:{}{forgotten}",
            short_id(point),
            time_name(point.time),
            printable(&point.host),
            printable(&point.source)
        ),
        text::size(point.counts.bytes),
        text::size(share.raw_bytes),
        text::size(share.stored_bytes),
        text::size(share.whole_segments_bytes),
    ]
}

fn share_json(share: &Share) -> serde_json::Value {
    json!({
        "chunks": share.chunks,
        "raw_bytes": share.raw_bytes,
        "stored_bytes": share.stored_bytes,
        "whole_segments_bytes": share.whole_segments_bytes,
    })
}

fn show_json(stats: &Stats) {
    for (point, share, lost) in &stats.points {
        say!(
            "{}",
            json!({
                "message_type": "point",
                "id": point.id.to_string(),
                "time": time_name(point.time),
                "host": text::json_text(&point.host),
                "source": text::json_text(&point.source),
                "files": point.counts.files,
                "bytes": point.counts.bytes,
                "unique": share_json(share),
                "forgotten": stats.hidden.contains(&point.id),
                "unreadable_nodes": lost,
            })
        );
    }
    for ((host, source), figures) in &stats.sources {
        say!(
            "{}",
            json!({
                "message_type": "source",
                "host": text::json_text(host),
                "source": text::json_text(source),
                "points": figures.points,
                "bytes": figures.raw_bytes,
                "unique": share_json(&figures.share),
            })
        );
    }
    let kind = |f: &KindFigures| json!({"packages": f.packages, "segments": f.segments, "chunks": f.chunks, "raw_bytes": f.raw_bytes, "stored_bytes": f.stored_bytes});
    say!(
        "{}",
        json!({
            "message_type": "summary",
            "points": stats.points.len(),
            "bytes": stats.points.iter().map(|(p, ..)| p.counts.bytes).fold(0, u64::saturating_add),
            "package_bytes": stats.package_bytes,
            "content": kind(&stats.content),
            "metadata": kind(&stats.metadata),
            "unused": share_json(&stats.unused),
        })
    );
}
