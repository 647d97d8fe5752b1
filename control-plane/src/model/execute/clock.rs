//! The time at which operations happen: it never steps back, and never stands still.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where an executor has the time from.
#[derive(Debug)]
pub(super) struct Clock {
    source: Source,
    begun: Instant,
    /// By how many milliseconds the time is ahead of those since the clock was begun: as many as it ever was.
    ahead: AtomicI64,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The system's time of day.
    System,
    /// It is what it was told last.
    Told,
}

impl Clock {
    /// The system's time of day. Where that is set forward this follows; where it is set back this goes on, since what is
    /// valid for a minute ends within a minute whatever the calendar says. The next process begins with the calendar's.
    pub(super) fn of_the_system() -> Self {
        Self::new(Source::System)
    }

    /// A clock that stands still but for what it is told.
    pub(super) fn told() -> Self {
        Self::new(Source::Told)
    }

    fn new(source: Source) -> Self {
        let ahead = match source {
            Source::System => i64::MIN,
            Source::Told => 0,
        };
        Self {
            source,
            begun: Instant::now(),
            ahead: AtomicI64::new(ahead),
        }
    }

    /// It is this by now, in milliseconds since 1970, unless it is later already.
    pub(super) fn tell(&self, millis: i64) {
        self.at(millis, self.steady());
    }

    /// The time, in milliseconds since 1970.
    pub(super) fn millis(&self) -> i64 {
        match self.source {
            // The calendar first: what comes between the two looks doesn't count as a step.
            Source::System => self.at(calendar(), self.steady()),
            Source::Told => self.ahead.load(Ordering::Relaxed),
        }
    }

    /// The present on a clock that can be reckoned with.
    pub(super) fn instant(&self) -> Instant {
        match self.source {
            Source::System => Instant::now(),
            Source::Told => self.begun + Duration::from_millis(u64::try_from(self.millis()).unwrap_or(0)),
        }
    }

    /// The time where the calendar says `calendar` after `steady` milliseconds.
    fn at(&self, calendar: i64, steady: i64) -> i64 {
        let ahead = calendar.saturating_sub(steady);
        steady.saturating_add(self.ahead.fetch_max(ahead, Ordering::Relaxed).max(ahead))
    }

    /// How many milliseconds have passed since it was begun.
    fn steady(&self) -> i64 {
        match self.source {
            Source::System => i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX),
            Source::Told => 0,
        }
    }
}

fn calendar() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn a_calendar_that_is_set_back_holds_up_nothing() {
        let clock = Clock::of_the_system();
        assert_eq!(clock.at(100 * DAY, 0), 100 * DAY);
        assert_eq!(clock.at(100 * DAY + 1_000, 1_000), 100 * DAY + 1_000);
        assert_eq!(clock.at(99 * DAY + 1_000, 1_000), 100 * DAY + 1_000);
        assert_eq!(clock.at(99 * DAY + 61_000, 61_000), 100 * DAY + 61_000);
    }

    #[test]
    fn a_calendar_that_is_set_forward_is_followed() {
        let clock = Clock::of_the_system();
        clock.at(100 * DAY, 0);
        assert_eq!(clock.at(101 * DAY, 5), 101 * DAY);
        assert_eq!(clock.at(101 * DAY + 10, 15), 101 * DAY + 10);
    }

    #[test]
    fn what_is_told_stays_until_more_is_told() {
        let clock = Clock::told();
        assert_eq!(clock.millis(), 0);
        clock.tell(5_000);
        clock.tell(4_000);
        assert_eq!(clock.millis(), 5_000);
        assert_eq!(clock.instant() - clock.begun, Duration::from_secs(5));
    }
}
