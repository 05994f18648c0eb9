//! Who may be removed: hidden, protected and locked points, and whether the clock may open a lock (SPEC.md section 8).

use super::points::time_name;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Repository, States};
use repo_format::{PointId, PointState, Time};

/// How far a clock may be behind the newest record: hosts differ by as much.
const MAX_BEHIND_SECS: i64 = 600;
/// How far it may be ahead.
const MAX_AHEAD_SECS: i64 = 366 * 86_400;

/// The clock, held against what the repository has seen.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What the clock says, in seconds since 1970.
    pub now: i64,
    /// The newest time of any record.
    pub newest: i64,
}

impl Clock {
    /// Compares `now` with the records of a repository.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn read(repository: &Repository, now: i64) -> Result<Self> {
        let sealed =
            repository.all_points()?.into_iter().filter_map(|(_, record)| record.ok()).map(|record| record.sealed.sec);
        let made = repository.index().states()?.into_values().map(|state| state.made);
        Ok(Self { now, newest: sealed.chain(made).max().unwrap_or(i64::MIN) })
    }

    /// Whether a time is after now: the clock is wrong, or was when that was written.
    #[must_use]
    pub const fn is_future(&self, sec: i64) -> bool {
        self.now < sec.saturating_sub(MAX_BEHIND_SECS)
    }

    /// Why the clock cannot be believed, if so.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let name = |sec| time_name(Time { sec, nsec: 0 });
        let (now, newest) = (name(self.now), name(self.newest));
        if self.is_future(self.newest) {
            Some(format!(
                "the clock says {now}, but the repository has a record of {newest}: every lock by date still holds"
            ))
        } else if self.newest != i64::MIN && self.now > self.newest.saturating_add(MAX_AHEAD_SECS) {
            Some(format!(
                "the clock says {now}, more than a year after the newest record ({newest}): every lock by date still holds; \
                 a new backup, or the right time, ends that"
            ))
        } else {
            None
        }
    }

    /// Why a point with this state must not be hidden, thinned or removed.
    #[must_use]
    pub fn holds(&self, state: &PointState) -> Option<String> {
        match state.locked_until {
            Some(until) if self.doubt().is_some() || self.now < until => {
                return Some(format!("locked until {}", time_name(Time { sec: until, nsec: 0 })));
            }
            _ => {}
        }
        state.protected.then(|| "protected".to_owned())
    }
}

/// What to change about a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Forget it.
    Hide,
    /// Show it again.
    Show,
    /// Protect it until that is taken back.
    Protect,
    /// Take protection back.
    Unprotect,
    /// Lock it until a time in seconds since 1970.
    LockUntil(i64),
}

/// The state that follows from `wish`; None when nothing changes.
///
/// # Errors
/// `Usage` when protection forbids it.
pub fn next_state(
    repository: &Repository,
    states: &States,
    clock: &Clock,
    point: PointId,
    wish: Wish,
) -> Result<Option<PointState>> {
    let repo = repository.header().repo;
    let free = PointState { repo, point, sequence: 0, made: 0, hidden: None, protected: false, locked_until: None };
    let old = states.get(&point).copied().unwrap_or(free);
    let refused = |why: &str| Err(Error::new(ErrorKind::Usage, format!("restore point {point} is {why}")));
    let mut new = old;
    match wish {
        Wish::Hide if old.hidden.is_none() => match clock.holds(&old) {
            Some(why) => return refused(&why),
            None => new.hidden = Some(clock.now),
        },
        Wish::Hide => {}
        Wish::Show => new.hidden = None,
        Wish::Protect | Wish::LockUntil(_) if old.hidden.is_some() => {
            return refused("forgotten")
                .map_err(|e| e.advise("'relict-maint undelete' brings it back; protect it then"));
        }
        Wish::Protect => new.protected = true,
        Wish::Unprotect => new.protected = false,
        Wish::LockUntil(until) => {
            match old.locked_until.filter(|_| clock.holds(&PointState { protected: false, ..old }).is_some()) {
                Some(locked) if until < locked => {
                    return refused(&format!("locked until {}", time_name(Time { sec: locked, nsec: 0 })))
                        .map_err(|e| e.advise("a lock can be made longer and not shorter"));
                }
                _ => new.locked_until = Some(until),
            }
        }
    }
    if new == old {
        return Ok(None);
    }
    // Never before what is recorded: the order of decisions stays that of their times.
    Ok(Some(PointState { sequence: old.sequence + 1, made: clock.now, ..new }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::RepoId;

    fn state(protected: bool, locked_until: Option<i64>) -> PointState {
        PointState {
            repo: RepoId::default(),
            point: PointId::default(),
            sequence: 1,
            made: 0,
            hidden: None,
            protected,
            locked_until,
        }
    }

    #[test]
    fn a_lock_opens_by_a_clock_that_can_be_believed_only() {
        const DAY: i64 = 86_400;
        let newest = 1_795_255_200;
        let at = |now| Clock { now, newest };
        let locked = state(false, Some(newest + 30 * DAY));
        assert!(at(newest + 29 * DAY).holds(&locked).is_some());
        assert!(at(newest + 30 * DAY).holds(&locked).is_none());
        let forward = at(newest + 800 * DAY);
        assert!(forward.doubt().unwrap().contains("more than a year after"));
        assert!(forward.holds(&locked).is_some(), "a clock set forward opens no lock");
        let back = at(newest - DAY);
        assert!(back.doubt().unwrap().contains("has a record of"));
        assert!(back.holds(&state(false, Some(newest - 2 * DAY))).is_some());
        assert!(at(newest - 60).doubt().is_none(), "hosts differ by a minute");
        assert!(Clock { now: 5, newest: i64::MIN }.doubt().is_none(), "an empty repository has seen nothing");
        assert!(at(newest).holds(&state(true, None)).is_some() && at(newest).holds(&state(false, None)).is_none());
    }
}
