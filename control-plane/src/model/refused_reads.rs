//! How many refused reads leave a record: a bound for each caller, so that none can fill the disk by asking in vain.
//!
//! The same goes for logging in, where whoever asks is nobody yet: all attempts that fail together have one bound. Any
//! other refused change always leaves a record. What is not recorded is counted, and the next record of the same caller
//! says how many there were.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moorline_shared::Principal;

use super::operation::Effect;

/// So many are recorded at once.
const BURST: u32 = 20;
/// After a burst, one in each of these is recorded.
const EVERY: Duration = Duration::from_secs(1);
/// After a burst, one failed log-in in each of these is recorded: some sixty thousand in the week for which they are kept.
const EVERY_LOGIN: Duration = Duration::from_secs(10);
/// Callers that are remembered before those are forgotten who have their whole burst again.
const REMEMBERED: usize = 4_096;

/// What each caller may still have recorded.
#[derive(Debug)]
pub(super) struct RefusedReads {
    burst: u32,
    callers: Mutex<Callers>,
}

#[derive(Debug, Default)]
struct Callers {
    all: HashMap<Principal, Spent>,
    forget_at: usize,
}

#[derive(Debug)]
struct Spent {
    /// When the caller has its whole burst again.
    whole: Instant,
    /// How many were not recorded since the last one that was.
    unrecorded: u64,
}

/// Whether a refused read is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is, and so many before it were not.
    After(u64),
    /// It is only counted.
    Not,
}

impl Default for RefusedReads {
    fn default() -> Self {
        Self::with(BURST)
    }
}

impl RefusedReads {
    fn with(burst: u32) -> Self {
        Self {
            burst,
            callers: Mutex::default(),
        }
    }

    /// Without a bound, for tests that compare every answer with its record.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        Self::with(u32::MAX)
    }

    /// Counts a refused read of `caller`, or a change of a kind of which not every refusal is recorded, and says whether
    /// this one is.
    pub(super) fn count(&self, caller: &Principal, effect: Effect, now: Instant) -> Recorded {
        let every = match effect {
            Effect::Read => EVERY,
            Effect::Change => EVERY_LOGIN,
        };
        // What a panic left behind is still a count.
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.forget(now);
        let spent = callers.all.entry(caller.clone()).or_insert(Spent {
            whole: now,
            unrecorded: 0,
        });
        spent.whole = spent.whole.max(now);
        if spent.whole - now > every.saturating_mul(self.burst - 1) {
            spent.unrecorded += 1;
            return Recorded::Not;
        }
        spent.whole += every;
        Recorded::After(std::mem::take(&mut spent.unrecorded))
    }
}

impl Callers {
    /// Forgets those who have their whole burst again, once there are many.
    fn forget(&mut self, now: Instant) {
        if self.all.len() < self.forget_at.max(REMEMBERED) {
            return;
        }
        self.all.retain(|caller, spent| {
            let keep = spent.whole > now;
            if !keep && spent.unrecorded > 0 {
                tracing::warn!(%caller, unrecorded = spent.unrecorded, "refused reads were not recorded");
            }
            keep
        });
        self.forget_at = 2 * self.all.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: usize) -> Principal {
        Principal::User(format!("u{n}").parse().unwrap())
    }

    #[test]
    fn a_burst_is_recorded_and_then_one_a_second_with_the_count_of_the_others() {
        let (reads, begin) = (RefusedReads::default(), Instant::now());
        let count = |seconds, n| reads.count(&user(n), Effect::Read, begin + Duration::from_secs(seconds));
        for _ in 0..20 {
            assert_eq!(count(0, 1), Recorded::After(0));
        }
        for _ in 0..49 {
            assert_eq!(count(0, 1), Recorded::Not);
        }
        assert_eq!(
            count(0, 2),
            Recorded::After(0),
            "another caller has its own burst"
        );
        assert_eq!(count(1, 1), Recorded::After(49));
        assert_eq!(count(1, 1), Recorded::Not);
        for _ in 0..20 {
            assert!(matches!(count(60, 1), Recorded::After(_)));
        }
        assert_eq!(count(60, 1), Recorded::Not);
    }

    #[test]
    fn whoever_fails_to_log_in_for_a_week_leaves_a_bounded_number_of_records() {
        let (logins, begin) = (RefusedReads::default(), Instant::now());
        let recorded = |second| {
            let now = begin + Duration::from_secs(second);
            logins.count(&user(0), Effect::Change, now) != Recorded::Not
        };
        let week = 7 * 86_400;
        assert_eq!((0..week).filter(|second| recorded(*second)).count(), 60_499);
    }

    #[test]
    fn callers_who_have_their_burst_again_are_forgotten() {
        let (reads, begin) = (RefusedReads::default(), Instant::now());
        for n in 0..REMEMBERED {
            reads.count(&user(n), Effect::Read, begin);
        }
        reads.count(&user(REMEMBERED), Effect::Read, begin + EVERY * 2);
        assert_eq!(reads.callers.lock().unwrap().all.len(), 1);
    }
}
