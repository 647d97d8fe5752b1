//! How long to wait before dialling again.

use std::time::Duration;

const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 30_000;
const FIRST_PATIENCE_MS: u64 = 500;
const LONGEST_PATIENCE_MS: u64 = 5_000;

/// Waits that double from 100 ms to 30 s at the most, each drawn evenly from zero to that bound, so that the guests of a
/// host that comes back don't all dial at once.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait, drawn by `random`.
    pub fn next(&mut self, random: u64) -> Duration {
        let bound = (FIRST_MS << self.attempts).min(LONGEST_MS);
        self.attempts = (self.attempts + 1).min(LONGEST_MS.ilog2());
        Duration::from_millis(random % (bound + 1))
    }

    /// A session brought something: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Whether something failed since the last session that brought something.
    pub fn attempt(&self) -> Attempt {
        if self.attempts == 0 {
            Attempt::First
        } else {
            Attempt::Again
        }
    }

    /// How long the next connection may take to be made: half a second, and twice as long after each that failed, up to
    /// 5 s. A host that comes back is found soon, and a slow one is waited for in the end.
    pub fn patience(&self) -> Duration {
        let bound = FIRST_PATIENCE_MS << self.attempts.saturating_sub(1);
        Duration::from_millis(bound.min(LONGEST_PATIENCE_MS))
    }
}

/// Which attempt it is since something was last heard of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The first.
    First,
    /// One of those that follow.
    Again,
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Backoff};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_within_a_bound_that_doubles(draws in prop::collection::vec(any::<u64>(), 1..40)) {
            let mut backoff = Backoff::default();
            for (i, random) in draws.into_iter().enumerate() {
                let bound = (100_u128 << i.min(20)).min(30_000);
                prop_assert!(backoff.next(random).as_millis() <= bound);
            }
        }
    }

    #[test]
    fn progress_begins_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next(7);
        }
        assert_eq!(backoff.next(30_000).as_millis(), 30_000);
        backoff.reset();
        assert_eq!(backoff.next(100).as_millis(), 100);
        assert_eq!(backoff.next(201).as_millis(), 0);
    }

    #[test]
    fn a_slow_host_is_given_more_time_with_each_attempt() {
        let mut backoff = Backoff::default();
        let patience: Vec<_> = (0..30)
            .map(|_| {
                let patience = backoff.patience().as_millis();
                backoff.next(0);
                patience
            })
            .collect();
        assert_eq!(patience[..6], [500, 500, 1_000, 2_000, 4_000, 5_000]);
        assert_eq!(patience[29], 5_000);
        backoff.reset();
        assert_eq!(
            (backoff.patience().as_millis(), backoff.attempt()),
            (500, Attempt::First)
        );
    }
}
