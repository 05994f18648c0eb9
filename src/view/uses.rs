//! When each restore point was asked for last, so that one that was forgotten stays as long as somebody reads it, and
//! no longer: prune cannot remove what a mount holds (SPEC.md section 10).

use repo_format::{PointId, PointRecord};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long a restore point that was forgotten stays readable after its last use.
pub const KEEP_FORGOTTEN: Duration = Duration::from_secs(600);

pub(super) struct Uses {
    begun: Instant,
    keep: Duration,
    points: RwLock<HashMap<PointId, Use>>,
}

#[derive(Default)]
struct Use {
    /// Milliseconds since the view began, plus one; 0: never.
    last: AtomicU64,
    released: bool,
}

impl Uses {
    pub(super) fn new(keep: Duration) -> Self {
        Self { begun: Instant::now(), keep, points: RwLock::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Notes that a point is asked for. False: it was let go, and may be gone.
    pub(super) fn touch(&self, point: &PointId) -> bool {
        let points = self.points.read().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = points.get(point) else { return true };
        found.last.store(self.now(), Relaxed);
        !found.released
    }

    /// Takes note of the points that are listed now. Returns those that are not any more and that nobody reads: they
    /// are let go.
    pub(super) fn follow(&self, listed: &[Arc<PointRecord>]) -> Vec<PointId> {
        let listed: HashSet<PointId> = listed.iter().map(|point| point.id).collect();
        // The lock is held until the last use is compared: nobody begins to read what is let go.
        let mut points = self.points.write().unwrap_or_else(PoisonError::into_inner);
        listed.iter().for_each(|id| points.entry(*id).or_default().released = false);
        let (now, keep) = (self.now(), u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX));
        let mut let_go = Vec::new();
        for (id, found) in points.iter_mut().filter(|(id, found)| !found.released && !listed.contains(id)) {
            let last = found.last.load(Relaxed);
            if last == 0 || now.saturating_sub(last) >= keep {
                found.released = true;
                let_go.push(*id);
            }
        }
        let_go
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::memory::point;

    #[test]
    fn what_is_forgotten_stays_while_it_is_read() {
        let (a, b) = (point(1, 0, "h", "s", &[]), point(2, 0, "h", "s", &[]));
        let uses = Uses::new(Duration::from_secs(600));
        assert_eq!(uses.follow(&[Arc::clone(&a), Arc::clone(&b)]), []);
        assert!(uses.touch(&a.id));
        assert_eq!(uses.follow(&[]), [b.id], "the one that nobody read");
        assert!(uses.touch(&a.id) && !uses.touch(&b.id));
        // Back again, as undelete brings it.
        assert_eq!(uses.follow(&[Arc::clone(&b)]), []);
        assert!(uses.touch(&b.id));
        let uses = Uses::new(Duration::ZERO);
        assert_eq!(uses.follow(&[Arc::clone(&a)]), []);
        assert!(uses.touch(&a.id));
        assert_eq!((uses.follow(&[]), uses.follow(&[])), (vec![a.id], vec![]), "once");
        assert!(!uses.touch(&a.id));
    }
}
