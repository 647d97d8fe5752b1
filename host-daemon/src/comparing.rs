//! When two copies of the same data are compared next, beside what keeps them in step. Pure: the time and the seed go in.

use moorline_shared::link::Moment;

/// When something is compared next. The pauses are three to five quarters of what is configured, and other ones for each
/// seed, so that what began together isn't compared together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparing {
    pause_ms: u64,
    seed: u64,
    due: Moment,
}

impl Comparing {
    /// Every `seconds` or so from `now` on; never if that is 0. Whoever has another `seed` has other pauses.
    pub(crate) fn every(seconds: u32, seed: u64, now: Moment) -> Self {
        let mut comparing = Self {
            pause_ms: u64::from(seconds) * 1_000,
            seed,
            due: now,
        };
        comparing.put_off(now);
        comparing
    }

    /// Whether it is to be done now.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        self.pause_ms > 0 && self.due <= now
    }

    /// It was done at `now`.
    pub(crate) fn put_off(&mut self, now: Moment) {
        self.due = Moment(now.0 + about(self.pause_ms, &mut self.seed));
    }
}

/// Three to five quarters of a time, another one each time and for each seed.
pub(crate) fn about(ms: u64, seed: &mut u64) -> u64 {
    // A step of splitmix64's: numbers that follow each other give times that don't.
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ms * 3 / 4 + (mixed >> 32) % (ms / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::{Comparing, Moment};

    #[test]
    fn pauses_are_spread_around_what_is_configured() {
        let mut pauses = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut comparing = Comparing::every(300, seed, Moment(0));
            for _ in 0..3 {
                let begun = comparing.due;
                assert!(comparing.is_due(begun) && !comparing.is_due(Moment(begun.0 - 1)));
                comparing.put_off(begun);
                let pause = comparing.due.since(begun);
                assert!((225_000..=375_000).contains(&pause), "{pause}");
                pauses.insert(pause / 10_000);
            }
        }
        assert!(pauses.len() >= 14, "{pauses:?}");
    }

    #[test]
    fn none_is_none() {
        assert!(!Comparing::every(0, 7, Moment(5)).is_due(Moment(u64::MAX)));
    }
}
