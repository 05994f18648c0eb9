//! Whether this thread may wait for the medium (SPEC.md section 16).
//!
//! A mount answers on the threads that take requests what is in memory, and everything else on others, so that a slow
//! medium stops only who needs it. What is in memory is not known before it was looked for: so a question is asked
//! once where nobody may wait, and asked again elsewhere when it would have had to.

use crate::error::{Error, ErrorKind, Result};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::cell::Cell;
use std::hash::Hash;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    MayWait,
    MustNot,
    WouldHave,
}

thread_local!(static STATE: Cell<State> = const { Cell::new(State::MayWait) });

/// Runs `work`, in which nothing waits for the medium. None: something would have had to. Whatever `work` made of that
/// is worth nothing then.
pub fn without_waiting<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = STATE.replace(State::MustNot);
    let done = work();
    (STATE.replace(before) == State::MustNot).then_some(done)
}

/// Whether something would have had to wait since [`without_waiting`] began.
#[must_use]
pub fn would_have_waited() -> bool {
    STATE.get() == State::WouldHave
}

/// To be asked before anything waits for the medium.
///
/// # Errors
/// `Interrupted`, when this thread must not.
pub fn may_wait() -> Result<()> {
    if STATE.get() == State::MayWait {
        return Ok(());
    }
    STATE.set(State::WouldHave);
    Err(Error::new(ErrorKind::Interrupted, "this has to wait for the medium"))
}

/// What a cache has, or what `load` gives, which others who ask for it meanwhile wait for.
///
/// # Errors
/// `Interrupted`, when it is not in the cache and this thread must not wait, be it for another one that loads it. Those of `load`.
pub fn get_or_load<K, V, W>(cache: &Cache<K, V, W>, key: &K, load: impl FnOnce() -> Result<V>) -> Result<V>
where
    K: Hash + Eq + Clone,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    if let Some(value) = cache.get(key) {
        return Ok(value);
    }
    may_wait()?;
    cache.get_or_insert_with(key, load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_wait_is_known_also_when_its_error_is_dropped() {
        assert!(may_wait().is_ok());
        assert_eq!(without_waiting(|| 1), Some(1));
        assert_eq!(without_waiting(|| may_wait().is_ok() || !would_have_waited()), None);
        assert!(may_wait().is_ok() && !would_have_waited());
        // One within another: what the inner one could not have is not missing in the outer one.
        assert_eq!(without_waiting(|| without_waiting(|| may_wait().is_ok())), Some(None));
    }
}
