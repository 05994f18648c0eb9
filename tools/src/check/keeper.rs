//! Writes down while a check runs what it has verified. What cannot be written now (a backup has the lease) is kept for the
//! next time, and at last for the end of the check.

use relict::store::{Repository, record_health};
use repo_format::PackageId;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::now_sec;

/// What was verified and is not written down.
pub struct Keeper<'a> {
    repository: &'a Repository,
    every: Option<Duration>,
    state: Mutex<State>,
}

struct State {
    kept: Instant,
    verified: Vec<(PackageId, i64)>,
}

impl<'a> Keeper<'a> {
    /// `every`: None writes nothing before the end.
    pub fn new(repository: &'a Repository, every: Option<Duration>) -> Self {
        Self { repository, every, state: Mutex::new(State { kept: Instant::now(), verified: Vec::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A package was read and is right.
    pub fn verified(&self, package: PackageId) {
        let mut state = self.state();
        state.verified.push((package, now_sec()));
        if self.every.is_none_or(|every| state.kept.elapsed() < every) {
            return;
        }
        // The lock is held meanwhile: other threads have read what they will add, and go on reading until they do.
        if record_health(self.repository, &state.verified, None, &[]).is_ok() {
            state.verified.clear();
        }
        state.kept = Instant::now();
    }

    /// What is left for the end.
    pub fn left(&self) -> Vec<(PackageId, i64)> {
        std::mem::take(&mut self.state().verified)
    }
}
