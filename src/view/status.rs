//! `.relict/health.json` and `.relict/metrics`: how the mount is, for people and for Prometheus.
//!
//! Each is made anew when its attributes are asked for and it is older than a second, which is as long as the
//! kernel keeps them; a read gives what was made last, so that a file is read as a whole.

use super::attr::Attr;
use super::backing::ChunkRef;
use super::inode::Ino;
use super::layout::{HEALTH, METRICS, Source};
use super::read::{Piece, Read};
use super::{View, errno};
use crate::catalog::points::{printable, time_name};
use crate::{Error, Result};
use repo_format::{FileKind, Time};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a text is good enough.
const LIFE: Duration = Duration::from_secs(1);

/// A number that somebody else counts, as Prometheus names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The metric's name, without `relict_`; one that ends in `_total` only grows.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// A label and its value.
    pub label: Option<(&'static str, String)>,
    /// The number.
    pub value: u64,
}

type Figures = Box<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// What the status files are made from, and what was made last.
#[derive(Default)]
pub(super) struct Status {
    figures: OnceLock<Figures>,
    followed: Mutex<Followed>,
    made: Mutex<[Option<Made>; 2]>,
}

/// How it went to look for new restore points.
#[derive(Default, Clone)]
struct Followed {
    last: Option<Time>,
    error: Option<String>,
}

#[derive(Clone)]
struct Made {
    since: Instant,
    time: Time,
    text: Arc<[u8]>,
}

impl Status {
    /// Notes how a look for new restore points went.
    pub(super) fn followed(&self, now: Time, error: Option<&Error>) {
        let mut followed = lock(&self.followed);
        followed.error = error.map(ToString::to_string);
        if error.is_none() {
            followed.last = Some(now);
        }
    }
}

impl View {
    /// Says who else has numbers for `.relict/metrics`. The first one counts.
    pub fn add_figures(&self, figures: impl Fn() -> Vec<Figure> + Send + Sync + 'static) {
        // A second caller is a mistake that costs numbers and nothing else.
        let _ = self.status.figures.set(Box::new(figures));
    }

    /// Attributes of a status file; None for other inodes.
    pub(super) fn status_attr(&self, ino: Ino) -> Option<Attr> {
        let made = self.made(ino, LIFE)?;
        let attr = self.dir_attr(ino, 0, made.time);
        let size = made.text.len() as u64;
        let blocks = super::attr::blocks_of(size);
        Some(Attr { kind: FileKind::File, perm: 0o444, nlink: 1, size, blocks, data_bytes: size, ..attr })
    }

    /// Content of a status file; None for other inodes.
    pub(super) fn read_status(&self, ino: Ino, offset: u64, len: u64) -> Option<Result<Read>> {
        let made = self.made(ino, Duration::MAX)?;
        let Ok(start) = usize::try_from(offset) else { return Some(Err(errno(libc::EINVAL))) };
        let start = start.min(made.text.len());
        let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(made.text.len());
        let piece = Piece::Data { chunk: ChunkRef::Bytes(made.text), start, end };
        Some(Ok(Read { pieces: if start < end { vec![piece] } else { Vec::new() }, ahead: Vec::new() }))
    }

    /// The file's text, made anew if it is older than `life`.
    fn made(&self, ino: Ino, life: Duration) -> Option<Made> {
        let index = match ino {
            HEALTH => 0,
            METRICS => 1,
            _ => return None,
        };
        let known = lock(&self.status.made).get(index).cloned().flatten();
        if let Some(known) = known.filter(|made| made.since.elapsed() < life) {
            return Some(known);
        }
        let time = clock();
        let text = if index == 0 { self.health(time) } else { self.metrics(time) };
        let made = Made { since: Instant::now(), time, text: text.into_bytes().into() };
        if let Some(place) = lock(&self.status.made).get_mut(index) {
            *place = Some(made.clone());
        }
        Some(made)
    }

    fn health(&self, now: Time) -> String {
        let (layout, followed) = (self.layout(), lock(&self.status.followed).clone());
        let damage = self.damage.listed();
        let status = if !damage.is_empty() {
            "damaged"
        } else if followed.error.is_some() {
            "not following"
        } else {
            "ok"
        };
        let source = |source: &Arc<Source>| {
            let newest = source.points.last();
            serde_json::json!({
                "host": newest.map(|point| printable(&point.host)),
                "source": newest.map(|point| printable(&point.source)),
                "points": source.points.len(),
                "newest": newest.map(|point| time_name(point.time)),
                "newest_age_seconds": newest.map(|point| now.sec.saturating_sub(point.time.sec)),
                "newest_errors": newest.map(|point| point.counts.errors),
            })
        };
        let lost = |damage: &super::Damage| serde_json::json!({ "path": printable(damage.path.as_bytes()), "offset": damage.offset, "reason": damage.reason });
        let health = serde_json::json!({
            "status": status,
            "repository": self.backing.name(),
            "time": time_name(now),
            "points": layout.points(),
            "stored_bytes": self.stats().stored_bytes,
            "last_followed": followed.last.map(time_name),
            "follow_error": followed.error,
            "damaged_files": self.damaged(),
            "damage": damage.iter().map(lost).collect::<Vec<_>>(),
            "sources": layout.sources().map(source).collect::<Vec<_>>(),
        });
        format!("{health:#}\n")
    }

    fn metrics(&self, now: Time) -> String {
        let (layout, followed) = (self.layout(), lock(&self.status.followed).clone());
        let mut out = Metrics::default();
        out.one("points", "Restore points shown.", layout.points() as u64);
        out.one("stored_bytes", "Bytes of all packages.", self.stats().stored_bytes);
        out.one("cache_bytes", "Content and tree nodes in memory.", self.backing.cache_bytes());
        out.one("damaged_files", "Files and directories with damage met since mounting.", self.damaged());
        out.one(
            "following",
            "1 if the last look for new restore points went well.",
            u64::from(followed.error.is_none()),
        );
        for source in layout.sources() {
            let Some(newest) = source.points.last() else { continue };
            let labels = format!("host=\"{}\",source=\"{}\"", label(&newest.host), label(&newest.source));
            let age = now.sec.saturating_sub(newest.time.sec).max(0).unsigned_abs();
            out.put("source_points", "Restore points of a source.", &labels, source.points.len() as u64);
            out.put("newest_point_age_seconds", "Age of the newest restore point of a source.", &labels, age);
            out.put(
                "newest_point_errors",
                "Files left out of the newest restore point of a source.",
                &labels,
                newest.counts.errors,
            );
        }
        for figure in self.status.figures.get().map(|figures| figures()).unwrap_or_default() {
            let labels = figure.label.map(|(name, value)| format!("{name}=\"{}\"", label(value.as_bytes())));
            out.put(figure.name, figure.help, &labels.unwrap_or_default(), figure.value);
        }
        out.text()
    }
}

/// Prometheus' text format wants the lines of one metric together.
#[derive(Default)]
struct Metrics(Vec<(&'static str, String)>);

impl Metrics {
    fn one(&mut self, name: &'static str, help: &str, value: u64) {
        self.put(name, help, "", value);
    }

    fn put(&mut self, name: &'static str, help: &str, labels: &str, value: u64) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let at = self.0.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.0.push((name, format!("# HELP relict_{name} {help}\n# TYPE relict_{name} {kind}\n")));
            self.0.len() - 1
        });
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        if let Some((_, text)) = self.0.get_mut(at) {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "relict_{name}{braces} {value}");
        }
    }

    fn text(self) -> String {
        self.0.into_iter().map(|(_, text)| text).collect()
    }
}

/// A label's value, as Prometheus wants it.
fn label(bytes: &[u8]) -> String {
    printable(bytes).replace('\\', "\\\\").replace('"', "\\\"")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clock() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
}
