//! What the commands that change a repository share: waiting for the lease, room when the disk is full, plans that are
//! confirmed, names of restore points.

use clap::Args;
use relict::catalog::points::{Filter, Points, printable, short_id, time_name};
use relict::catalog::protection::Clock;
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::progress::{Reporter, Status};
use relict::cli::text::counted;
use relict::store::{Lease, Repository, Writer, reserve};
use relict::{Error, ErrorKind, Result};
use repo_format::{PointId, PointRecord};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Memory for segments and nodes that maintenance reads.
const CACHE_BYTES: usize = 64 << 20;
/// How often a lease that somebody else holds is asked for.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Options of every command that changes something.
#[derive(Args, Clone, Copy)]
pub struct Change {
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Wait for a backup that is running, rather than end with exit code 11
    #[arg(long)]
    pub wait: bool,
}

/// Which restore points are meant.
#[derive(Args, Clone)]
pub struct Chosen {
    /// Only restore points of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only restore points of this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only restore points with this tag
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
}

impl Chosen {
    pub fn filter(&self) -> Filter {
        let bytes = |text: &String| text.clone().into_bytes();
        Filter {
            host: self.host.as_ref().map(bytes),
            source: self.source.as_ref().map(bytes),
            tags: self.tag.iter().map(bytes).collect(),
        }
    }
}

/// The repository in the hands of this process alone, with the reserve given back so that there is room to work in.
pub struct Exclusive {
    pub writer: Writer,
}

impl Exclusive {
    /// Waits for the lease if that is wanted, and opens.
    pub fn open(context: &Context, wait: bool) -> Result<Self> {
        let path = context.repo_path()?.to_path_buf();
        relict::store::read_header(&path)?;
        let (mut told, mut without_room) = (false, false);
        let writer = loop {
            // Looked for first: nobody is asked for a password in vain. Somebody may be faster before it is taken.
            let opened = Lease::take(&path.join("lock")).map(drop).and_then(|()| context.writer(CACHE_BYTES));
            let e = match opened {
                Ok(writer) => break writer,
                Err(e) => e,
            };
            match e.kind() {
                ErrorKind::Locked if wait => {}
                // A full disk: the reserve is for this.
                ErrorKind::NoSpace if reserve::spend(&path) => {
                    without_room = true;
                    continue;
                }
                _ => return Err(e),
            }
            if !std::mem::replace(&mut told, true) {
                relict::tell!("waiting: {e}");
            }
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "stopped while waiting; nothing was changed"));
            }
            std::thread::sleep(ASK_EVERY);
        };
        reserve::spend(&path);
        if without_room {
            // What the log holds may be what could not be synced: after a sync that failed, another one proves nothing.
            writer.repository().index().flush()?;
        }
        Ok(Self { writer })
    }

    pub fn repository(&self) -> &Repository {
        self.writer.repository()
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        reserve::refill(self.repository().path());
    }
}

/// Asks on a terminal; without one, `--yes` must have been said. False: the plan was shown and nothing is to be done.
pub fn confirmed(context: &Context, change: Change, question: &str) -> Result<bool> {
    if change.dry_run {
        return Ok(false);
    }
    crate::confirm::confirmed(context, change.yes, question)
}

/// What a command comes to that leaves packages for another time: because time was up, or because it was stopped.
pub fn left(context: &Context, packages: u64) -> Result<Outcome> {
    if packages == 0 {
        return Ok(Outcome::Complete);
    }
    if context.stop.load(Ordering::Relaxed) {
        let what = format!("stopped with {} left", counted(packages, "package"));
        return Err(
            Error::new(ErrorKind::Interrupted, what).advise("what was done stays done; run it again for the rest")
        );
    }
    Ok(Outcome::Partial)
}

/// Shows that work goes on, and how much of it is done where that is known. Drop it before anybody is asked.
pub struct Work {
    done: Arc<AtomicU64>,
    _reporter: Reporter,
}

impl Work {
    /// `total_bytes` None: nobody knows, and only the time is shown.
    pub fn start(context: &Context, name: &'static str, total_bytes: Option<u64>) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&done);
        let status = move || Status { bytes: seen.load(Ordering::Relaxed), total_bytes, ..Status::default() };
        Self { done, _reporter: Reporter::start(context.style(), name, status) }
    }

    /// So many bytes are done in all.
    pub fn done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }
}

/// When `limit` is over; never, if that is beyond all clocks.
pub fn deadline(limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| Instant::now().checked_add(limit))
}

/// Seconds since 1970 by the clock.
pub fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The clock; what is doubtful about it is said.
pub fn clock(context: &Context, repository: &Repository) -> Result<Clock> {
    let clock = Clock::read(repository, now())?;
    if let Some(doubt) = clock.doubt() {
        if context.json {
            say!("{}", json!({"message_type": "clock", "what": doubt}));
        } else {
            relict::tell!("{doubt}");
        }
    }
    Ok(clock)
}

/// All points with a readable record: (point, whether it is hidden).
pub fn all_points(repository: &Repository) -> Result<Vec<(PointRecord, bool)>> {
    let states = repository.index().states()?;
    let readable = repository.all_points()?.into_iter().filter_map(|(_, record)| record.ok());
    Ok(readable.map(|r| (PointRecord::clone(&r), states.get(&r.id).is_some_and(|s| s.hidden.is_some()))).collect())
}

/// The points that expressions name, each once, among `points`.
pub fn named(points: Vec<PointRecord>, names: &[String], filter: &Filter) -> Result<Vec<PointRecord>> {
    let points = Points::new(points);
    let mut out: Vec<PointRecord> = Vec::new();
    for name in names {
        let point = points.resolve(name, filter)?;
        if out.iter().all(|known| known.id != point.id) {
            out.push(point.clone());
        }
    }
    Ok(out)
}

/// A point in a sentence.
pub fn label(point: &PointRecord) -> String {
    format!("{} {} {}:{}", short_id(point), time_name(point.time), printable(&point.host), printable(&point.source))
}

/// A point in JSON.
pub fn point_json(point: &PointRecord) -> Value {
    json!({
        "id": point.id.to_string(),
        "name": time_name(point.time),
        "host": printable(&point.host),
        "source": printable(&point.source),
    })
}

/// An id in a sentence.
pub fn short(id: &PointId) -> String {
    id.to_string().chars().take(8).collect()
}
