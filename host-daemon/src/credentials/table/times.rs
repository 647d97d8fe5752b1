//! When something is fetched again: well before a guest would ask for it, and never by all at once.

use moorline_shared::link::Moment;

use super::Item;

const MINUTE: u64 = 60_000;

/// The AWS SDKs begin to ask anew a quarter of an hour before their credentials run out.
const GUEST_WINDOW_MS: u64 = 15 * MINUTE;
/// How long a source may be out of order before a guest can notice.
const MARGIN_MS: u64 = 10 * MINUTE;
/// Over how long the fetches of many instances are spread.
const SPREAD_MS: u64 = 5 * MINUTE;
/// However soon something runs out, it is fetched no more often than this.
const LEAST_MS: u64 = 5_000;
/// The waits after failures.
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = MINUTE;

/// Times, with random numbers that are the same for the same seed.
#[derive(Debug)]
pub(super) struct Times {
    state: u64,
}

impl Times {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// When something that came at `now` and runs out at `deadline` is fetched again. A token of an instance, and
    /// whatever is short-lived, at about the half of its life.
    pub(super) fn refresh(&mut self, item: &Item, now: Moment, deadline: Moment) -> Moment {
        let life = deadline.since(now);
        let half = life / 2 + self.up_to(life / 10);
        let window = GUEST_WINDOW_MS + MARGIN_MS + self.up_to(SPREAD_MS);
        let remains = match item {
            Item::Session => half,
            Item::Role(_) => half.min(window),
        };
        Moment(now.0 + (life - remains).max(LEAST_MS))
    }

    /// When it is tried again after so many failures.
    pub(super) fn again(&mut self, failures: u32, now: Moment) -> Moment {
        let bound = FIRST_WAIT_MS << failures.saturating_sub(1).min(16);
        let bound = bound.min(LONGEST_WAIT_MS);
        Moment(now.0 + bound / 2 + self.up_to(bound / 2))
    }

    /// Any number from 0 to `most`, by `SplitMix64` (Steele, Lea and Flood, 2014).
    fn up_to(&mut self, most: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % (most + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{GUEST_WINDOW_MS, Item, LEAST_MS, LONGEST_WAIT_MS, MARGIN_MS, MINUTE, Times};
    use moorline_shared::link::Moment;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_guest_never_sees_its_window_while_the_source_works(seed: u64, life in 0..48 * 60 * MINUTE, now in 0..1u64 << 40) {
            let mut times = Times::new(seed);
            let (now, deadline) = (Moment(now), Moment(now + life));
            let role = Item::Role("r".parse().unwrap());
            for item in [Item::Session, role] {
                let at = times.refresh(&item, now, deadline);
                prop_assert!(at.since(now) >= LEAST_MS);
                if life < 4 * LEAST_MS {
                    continue;
                }
                let remains = deadline.since(at);
                prop_assert!(at < deadline && remains * 2 >= life.min(2 * (GUEST_WINDOW_MS + MARGIN_MS)));
                prop_assert!(item != Item::Session || at.since(now) * 10 >= life * 4 - 10);
            }
        }

        #[test]
        fn waits_grow_and_stay_bounded(seed: u64, failures in 1..100u32) {
            let wait = Times::new(seed).again(failures, Moment(7)).since(Moment(7));
            prop_assert!((500..=LONGEST_WAIT_MS).contains(&wait));
            prop_assert!(failures < 8 || wait >= LONGEST_WAIT_MS / 2);
        }
    }
}
