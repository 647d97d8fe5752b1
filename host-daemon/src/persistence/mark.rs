//! A moment that a later daemon can measure from, whatever becomes of the clocks between.
//!
//! Within one boot of the host that is the clock that nobody sets. Over a boot only the calendar goes on, which may have
//! been stepped; but what was written before a boot is at least as old as the boot, so that no step makes it young. Where
//! the calendar has gone back nobody knows how long it was, and so what ends at a set time is asked for anew.

use moorline_shared::Timestamp;
use moorline_shared::link::Moment;
use serde::{Deserialize, Serialize};

use crate::cache::Now;

/// Which boot of the host, as in `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootId(Box<str>);

impl From<&str> for BootId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// A moment by all clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    boot: BootId,
    /// Since that boot, in milliseconds.
    moment_ms: u64,
    time: Timestamp,
}

impl Mark {
    /// This moment of this boot.
    pub(super) fn new(boot: &BootId, now: Now) -> Self {
        Self {
            boot: boot.clone(),
            moment_ms: now.moment.0,
            time: now.time,
        }
    }

    /// How many milliseconds have passed up to a later one: the least that it can be if nobody knows.
    pub(super) fn until(&self, later: &Self) -> u64 {
        self.passed(later).unwrap_or(later.moment_ms)
    }

    /// How many milliseconds have passed up to a later one; `None` if nobody knows, because the calendar has gone back over
    /// a boot.
    pub(super) fn passed(&self, later: &Self) -> Option<u64> {
        if self.boot == later.boot {
            return Some(later.moment_ms.saturating_sub(self.moment_ms));
        }
        let known = self.time <= later.time;
        known.then(|| self.time.millis_until(later.time).max(later.moment_ms))
    }

    /// On the clock that nobody sets. It means nothing in another boot.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.moment_ms)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::Mark;
    use crate::cache::Now;
    use moorline_shared::Timestamp;
    use moorline_shared::link::Moment;

    pub(in crate::persistence) fn mark(boot: &str, moment_ms: u64, time: i64) -> Mark {
        let now = Now {
            moment: Moment(moment_ms),
            time: Timestamp::from_millis(time).unwrap(),
        };
        Mark::new(&boot.into(), now)
    }

    #[test]
    fn within_a_boot_no_step_of_the_calendar_counts() {
        let then = mark("a", 1_000, 500_000);
        assert_eq!(then.until(&mark("a", 4_000, 0)), 3_000);
        assert_eq!(then.until(&mark("a", 4_000, 9_000_000)), 3_000);
        assert_eq!(then.until(&mark("a", 500, 500_000)), 0);
    }

    #[test]
    fn over_a_boot_the_calendar_counts_and_never_makes_young() {
        let then = mark("a", 1_000, 500_000);
        assert_eq!(then.until(&mark("b", 4_000, 600_000)), 100_000);
        assert_eq!(
            then.until(&mark("b", 4_000, 400_000)),
            4_000,
            "it was stepped back"
        );
        assert_eq!(then.passed(&mark("b", 4_000, 400_000)), None);
        assert_eq!(then.until(&mark("b", 4_000, 500_001)), 4_000);
    }
}
