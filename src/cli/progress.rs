//! Showing that work goes on: a bar at a terminal, a line every ten seconds in a log, JSON every second for programs.

use super::text::{count, size, span};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far a command is. Totals are None while nobody knows them.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Files finished.
    pub files: u64,
    /// Files in all.
    pub total_files: Option<u64>,
    /// Bytes of content finished.
    pub bytes: u64,
    /// Bytes of content in all.
    pub total_bytes: Option<u64>,
    /// Bytes of content that were new to the repository, uncompressed; of a backup only.
    pub new_bytes: Option<u64>,
    /// Files left out so far.
    pub errors: u64,
    /// What is being worked on, escaped.
    pub current: String,
}

/// How status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Silent,
    /// A bar on standard error.
    Bar,
    /// A line on standard error every ten seconds.
    Heartbeat,
    /// A line of JSON on standard output every second.
    Json,
}

impl Style {
    /// The style that fits the options and where standard error goes.
    #[must_use]
    pub fn choose(json: bool, silent: bool) -> Self {
        match (json, silent) {
            (_, true) => Self::Silent,
            (true, false) => Self::Json,
            (false, false) if std::io::stderr().is_terminal() => Self::Bar,
            (false, false) => Self::Heartbeat,
        }
    }

    const fn interval(self) -> Duration {
        match self {
            Self::Silent => Duration::MAX,
            Self::Bar => Duration::from_millis(100),
            Self::Heartbeat => Duration::from_secs(10),
            Self::Json => Duration::from_secs(1),
        }
    }
}

/// Shows status until it is dropped.
pub struct Reporter {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Reporter {
    /// Starts a thread that asks `status` as often as `style` needs it. `work` says what is going on: `backup`.
    #[must_use]
    pub fn start(style: Style, work: &'static str, status: impl Fn() -> Status + Send + 'static) -> Self {
        if style == Style::Silent {
            return Self { running: None };
        }
        let (stop, stopped) = bounded::<()>(1);
        let show = move || {
            let mut shown = Shown::new(style, work);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(style.interval()) {
                shown.show(&status());
            }
            shown.clear();
        };
        // Progress is a comfort: without its thread the work goes on unseen.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(show);
        Self { running: thread.ok().map(|thread| (stop, thread)) }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

struct Shown {
    style: Style,
    work: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(style: Style, work: &'static str) -> Self {
        Self { style, work, started: Instant::now(), bar: None }
    }

    fn show(&mut self, status: &Status) {
        match self.style {
            Style::Silent => {}
            Style::Bar => self.show_bar(status),
            Style::Heartbeat => {
                let _ = writeln!(std::io::stderr(), "{}: {}", self.work, line(status, self.started.elapsed()));
            }
            Style::Json => {
                let _ = writeln!(std::io::stdout(), "{}", json(status, self.work, self.started.elapsed()));
            }
        }
    }

    fn show_bar(&mut self, status: &Status) {
        let started = self.started;
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_message(format!("{}\n{}", gauge(status, started.elapsed()), clip(&status.current)));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// `[#########.....]  64 %  ` and the line of numbers behind it.
fn gauge(status: &Status, elapsed: Duration) -> String {
    const WIDTH: u64 = 24;
    let numbers = line(status, elapsed);
    match share(status) {
        Some(share) => {
            let full = (share * WIDTH as f64) as usize;
            let bar: String = "#".repeat(full) + &".".repeat((WIDTH as usize).saturating_sub(full));
            format!("[{bar}] {:3.0} %  {numbers}", share * 100.0)
        }
        None => numbers,
    }
}

/// The part that is done, 0 to 1, by bytes and files together: many small files and few large ones both count.
fn share(status: &Status) -> Option<f64> {
    const FILE_COSTS_BYTES: u64 = 16 * 1024;
    let weigh = |bytes: u64, files: u64| bytes.saturating_add(files.saturating_mul(FILE_COSTS_BYTES)) as f64;
    let total = weigh(status.total_bytes?, status.total_files.unwrap_or(0));
    (total > 0.0).then(|| (weigh(status.bytes, status.files) / total).min(1.0))
}

fn remaining(status: &Status, elapsed: Duration) -> Option<Duration> {
    let share = share(status).filter(|s| *s > 0.01 && elapsed.as_secs() >= 2)?;
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share).ok()
}

fn speed(status: &Status, elapsed: Duration) -> u64 {
    (status.bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn line(status: &Status, elapsed: Duration) -> String {
    let of = |total: Option<String>| total.map_or_else(String::new, |t| format!(" of {t}"));
    let files = (status.files > 0 || status.total_files.is_some())
        .then(|| format!("{}{} files, ", count(status.files), of(status.total_files.map(count))));
    if files.is_none() && status.bytes == 0 && status.total_bytes.is_none() {
        return format!("{} so far", span(elapsed));
    }
    let mut out = format!(
        "{}{}{}, {}/s",
        files.unwrap_or_default(),
        size(status.bytes),
        of(status.total_bytes.map(size)),
        size(speed(status, elapsed))
    );
    if let Some(new) = status.new_bytes.filter(|_| status.bytes > 0) {
        let known = status.bytes.saturating_sub(new) as f64 / status.bytes as f64;
        out.push_str(&format!(", {:.0} % deduplicated", known * 100.0));
    }
    if status.errors > 0 {
        out.push_str(&format!(", {} left out", count(status.errors)));
    }
    if let Some(left) = remaining(status, elapsed) {
        out.push_str(&format!(", {} left", span(left)));
    }
    out
}

fn json(status: &Status, work: &str, elapsed: Duration) -> String {
    serde_json::json!({
        "message_type": "status",
        "work": work,
        "seconds_elapsed": elapsed.as_secs(),
        "seconds_remaining": remaining(status, elapsed).map(|d| d.as_secs()),
        "part_done": share(status),
        "files_done": status.files,
        "total_files": status.total_files,
        "bytes_done": status.bytes,
        "total_bytes": status.total_bytes,
        "new_bytes": status.new_bytes,
        "errors": status.errors,
        "current": status.current,
    })
    .to_string()
}

/// The end of a path tells more than its beginning.
fn clip(text: &str) -> String {
    const MOST: usize = 76;
    let len = text.chars().count();
    if len <= MOST { text.to_owned() } else { format!("...{}", text.chars().skip(len - MOST + 3).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let mut status = Status { files: 1200, bytes: 3 << 20, ..Status::default() };
        assert_eq!(line(&status, Duration::from_secs(1)), "1,200 files, 3.0 MiB, 3.0 MiB/s");
        status.total_files = Some(2400);
        status.total_bytes = Some(6 << 20);
        status.new_bytes = Some(3 << 19);
        status.errors = 2;
        assert_eq!(
            line(&status, Duration::from_secs(10)),
            "1,200 of 2,400 files, 3.0 MiB of 6.0 MiB, 307.2 KiB/s, 50 % deduplicated, 2 left out, 10 s left"
        );
        assert!(gauge(&status, Duration::from_secs(1)).starts_with("[############............]  50 %"));
        assert!(json(&status, "backup", Duration::from_secs(10)).contains("\"part_done\":0.5"));
        let planning = Status::default();
        assert_eq!(line(&planning, Duration::from_secs(12)), format!("{} so far", span(Duration::from_secs(12))));
        let freeing = Status { bytes: 1 << 20, total_bytes: Some(4 << 20), ..Status::default() };
        assert_eq!(line(&freeing, Duration::from_secs(1)), "1.0 MiB of 4.0 MiB, 1.0 MiB/s");
        assert_eq!(share(&freeing), Some(0.25));
    }

    #[test]
    fn long_paths_lose_their_beginning() {
        assert_eq!(clip("/short"), "/short");
        let clipped = clip(&"x".repeat(100));
        assert!(clipped.starts_with("...x") && clipped.len() == 76);
    }

    #[test]
    fn a_reporter_ends_with_its_value() {
        let reporter = Reporter::start(Style::Heartbeat, "test", Status::default);
        drop(reporter);
    }
}
