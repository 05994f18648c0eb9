//! What a backup has to say about single files, as data; and the seam through which progress is watched.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Most findings a report keeps; later ones are counted only, so that a dying disk cannot fill the memory.
pub const MAX_FINDINGS: usize = 10_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong: a file went away before it was read.
    Note,
    /// The file is in the restore point, but it changed while it was read.
    Warning,
    /// The file, or part of it, is not in the restore point.
    Error,
}

/// How a file stands to the parent point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum News {
    /// The parent point does not have it, or there is no parent point.
    New,
    /// It has it, and not as it is now.
    Changed,
    /// It has it as it is.
    Unchanged,
}

/// One thing that happened to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, absolute, bytes as the system has them.
    pub path: Vec<u8>,
    /// How bad it is.
    pub severity: Severity,
    /// What happened and what it means.
    pub what: String,
}

/// All findings of one backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The first [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Number of errors, those not kept too: files that are not in the point, or not completely.
    pub errors: u64,
    /// Number of warnings, those not kept too.
    pub warnings: u64,
}

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Note => {}
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Watches a backup. Called from all of its threads, often: implementations are cheap and never block.
pub trait Monitor: Sync {
    /// A directory is being looked at.
    fn on_dir(&self, _path: &[u8]) {}
    /// A file that is not a directory was seen; `bytes` is its size, 0 if it has no content.
    fn on_file(&self, _bytes: u64, _news: News) {}
    /// So many bytes of content were read from the source.
    fn on_read(&self, _bytes: u64) {}
    /// So many bytes of content were new to the repository.
    fn on_new(&self, _bytes: u64) {}
    /// Something happened to a file.
    fn on_finding(&self, _finding: &Finding) {}
}

/// The monitor that a progress display polls.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files seen that are not directories.
    pub files: AtomicU64,
    /// Of these, files found unchanged and not read.
    pub unchanged_files: AtomicU64,
    /// And files that the parent point has, in another state; with `force`, in whatever state.
    pub changed_files: AtomicU64,
    /// Directories seen.
    pub dirs: AtomicU64,
    /// Sum of the sizes of the files seen, in bytes.
    pub bytes: AtomicU64,
    /// Bytes of content read.
    pub read_bytes: AtomicU64,
    /// Bytes of content that were new to the repository.
    pub new_bytes: AtomicU64,
    /// Errors so far.
    pub errors: AtomicU64,
    path: Mutex<Vec<u8>>,
}

impl Progress {
    /// The directory being looked at, roughly.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Monitor for Progress {
    fn on_dir(&self, path: &[u8]) {
        self.dirs.fetch_add(1, Relaxed);
        // A display that is just reading the path gets the next one.
        if let Ok(mut current) = self.path.try_lock() {
            current.clear();
            current.extend_from_slice(path);
        }
    }

    fn on_file(&self, bytes: u64, news: News) {
        self.files.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.unchanged_files.fetch_add(u64::from(news == News::Unchanged), Relaxed);
        self.changed_files.fetch_add(u64::from(news == News::Changed), Relaxed);
    }

    fn on_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    fn on_new(&self, bytes: u64) {
        self.new_bytes.fetch_add(bytes, Relaxed);
    }

    fn on_finding(&self, finding: &Finding) {
        self.errors.fetch_add(u64::from(finding.severity == Severity::Error), Relaxed);
    }
}
