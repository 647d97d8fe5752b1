//! How long to wait before the next attempt: any time up to a bound that doubles, so that hosts don't come at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// The waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { bound: FIRST }
    }

    /// Something came of the last attempt: the waits are short again.
    pub(super) fn reset(&mut self) {
        self.bound = FIRST;
    }

    /// The wait before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(LONGEST);
        // Without random bytes the wait is the longest, which is only slow.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, FIRST, LONGEST};

    #[test]
    fn waits_are_random_up_to_a_bound_that_doubles() {
        let mut backoff = Backoff::new();
        let mut bound = FIRST;
        for _ in 0..20 {
            assert!(backoff.next() <= bound);
            bound = (bound * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
        let waits: std::collections::BTreeSet<_> = (0..20)
            .map(|_| {
                backoff.bound = LONGEST;
                backoff.next()
            })
            .collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
