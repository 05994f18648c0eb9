//! What a restore did: counters that progress reads while it runs, findings, and the report at the end.

use super::lookup::components;
use crate::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Findings kept in words; more are only counted.
pub const MOST_FINDINGS: usize = 1000;

/// One thing that was not restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path in the restore point, bytes.
    pub path: Vec<u8>,
    /// What is missing or different, and why.
    pub what: String,
    /// Byte ranges of the content that are lost (left as holes) or differ: (offset, bytes).
    pub ranges: Vec<(u64, u64)>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters, while the restore runs.
        #[derive(Debug, Default)]
        pub struct Progress {
            $($(#[$doc])* pub $name: AtomicU64,)*
            current: Mutex<Vec<u8>>,
        }

        /// The same counters, when it has ended.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Progress {
            /// The counters now.
            #[must_use]
            pub fn totals(&self) -> Totals {
                Totals { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Files (everything but directories) that are finished, right before or not.
    files,
    /// Directories made or found.
    dirs,
    /// Bytes of content handled, holes included.
    bytes,
    /// Bytes written.
    written_bytes,
    /// Files that did not exist and were made.
    created,
    /// Files that were different and were replaced.
    replaced,
    /// Files whose content was right already.
    unchanged,
    /// Existing files left alone because of `--overwrite never`.
    kept,
    /// Second and further names of hard links.
    links,
    /// Files that were read back or compared.
    verified,
    /// Bytes of content that were.
    verified_bytes,
    /// Findings.
    findings,
}

impl Progress {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Says what is being worked on.
    pub fn at(&self, path: Vec<u8>) {
        // Only for show: whoever is busy with it need not be waited for.
        if let Ok(mut current) = self.current.try_lock() {
            *current = path;
        }
    }

    /// What is being worked on.
    #[must_use]
    pub fn current(&self) -> Vec<u8> {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }
}

/// Collects findings and notes from all threads, and the error that ends everything.
#[derive(Debug, Default)]
pub struct Log {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    findings: Vec<Finding>,
    notes: Vec<Note>,
    fatal: Option<Error>,
}

#[derive(Debug)]
struct Note {
    what: &'static str,
    count: u64,
    first: String,
}

impl Log {
    /// Adds a finding.
    pub fn find(&self, progress: &Progress, finding: Finding) {
        Progress::add(&progress.findings, 1);
        let mut inner = self.lock();
        if inner.findings.len() < MOST_FINDINGS {
            inner.findings.push(finding);
        }
    }

    /// Counts something that needs no finding of its own; the first path and reason stand for all.
    pub fn note(&self, what: &'static str, first: impl FnOnce() -> String) {
        let mut inner = self.lock();
        match inner.notes.iter_mut().find(|n| n.what == what) {
            Some(note) => note.count += 1,
            None => inner.notes.push(Note { what, count: 1, first: first() }),
        }
    }

    /// Keeps the first error that ends everything.
    pub fn fail(&self, error: Error) {
        self.lock().fatal.get_or_insert(error);
    }

    /// Findings, notes and the fatal error.
    #[must_use]
    pub fn take(&self) -> (Vec<Finding>, Vec<String>, Option<Error>) {
        let inner = std::mem::take(&mut *self.lock());
        let note = |n: Note| match n.count {
            1 => format!("{}: {}", n.what, n.first),
            count => format!("{}: {count} times, first {}", n.what, n.first),
        };
        (inner.findings, inner.notes.into_iter().map(note).collect(), inner.fatal)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Everything under the lock is whole between any two statements.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How a restore ended.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Counters.
    pub totals: Totals,
    /// What was not restored as it was; at most [`MOST_FINDINGS`], `totals.findings` counts all.
    pub findings: Vec<Finding>,
    /// What the reader should know although nothing is lost: owners that only root can give.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether everything was restored as it was.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.totals.findings == 0
    }
}

/// Adds a range to ascending ranges, joining neighbours.
pub fn join_range(ranges: &mut Vec<(u64, u64)>, offset: u64, bytes: u64) {
    match ranges.last_mut() {
        Some((start, len)) if *start + *len == offset => *len += bytes,
        _ => ranges.push((offset, bytes)),
    }
}

/// A path with exactly one slash before each component.
#[must_use]
pub fn normal_path(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 1);
    components(path).for_each(|part| {
        out.push(b'/');
        out.extend_from_slice(part);
    });
    if out.is_empty() { b"/".to_vec() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ranges_are_one() {
        let mut ranges = Vec::new();
        [(0, 5), (5, 5), (20, 1)].into_iter().for_each(|(o, b)| join_range(&mut ranges, o, b));
        assert_eq!(ranges, [(0, 10), (20, 1)]);
    }

    #[test]
    fn notes_are_counted_and_findings_bounded() {
        let (log, progress) = (Log::default(), Progress::default());
        for _ in 0..3 {
            log.note("owners", || "/a".to_owned());
        }
        for _ in 0..MOST_FINDINGS + 5 {
            log.find(&progress, Finding { path: vec![], what: String::new(), ranges: vec![] });
        }
        let (findings, notes, fatal) = log.take();
        assert_eq!(findings.len(), MOST_FINDINGS);
        assert_eq!(progress.totals().findings, MOST_FINDINGS as u64 + 5);
        assert_eq!(notes, ["owners: 3 times, first /a"]);
        assert!(fatal.is_none());
    }

    #[test]
    fn paths_have_one_form() {
        assert_eq!(normal_path(b"etc//ssh/./x/"), b"/etc/ssh/x");
        assert_eq!(normal_path(b""), b"/");
    }
}
