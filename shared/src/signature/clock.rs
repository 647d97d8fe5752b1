//! The time that signatures are made at: the control plane's, as far as it is known.

use super::Seconds;
use crate::link::Moment;

/// A signature is taken within a minute of the control plane's time. A clock that is further off than this was wrong.
const TOLERABLE_MS: u64 = 5_000;

/// The control plane's time, reckoned on the clock that never steps back and counts suspend.
///
/// Until it is known, this machine's calendar is believed, which may be off by years: the control plane then refuses, says
/// what time it is, and is believed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The time when the steady clock stood at zero, in milliseconds since 1970.
    beginning: Option<i64>,
}

impl Clock {
    /// The time at `now`, where this machine's calendar says `calendar_ms`.
    pub fn at(&self, now: Moment, calendar_ms: i64) -> Seconds {
        Seconds(self.millis(now, calendar_ms).div_euclid(1_000))
    }

    /// The control plane refuses what was signed at `signed`, and says that it is `server_ms`. Whether that is another time,
    /// so that signing anew may help; what others have learned meanwhile changes nothing about it.
    pub fn learn(&mut self, server_ms: i64, signed: Seconds, now: Moment) -> bool {
        self.beginning = Some(server_ms.saturating_sub(steady(now)));
        signed.0.saturating_mul(1_000).abs_diff(server_ms) > TOLERABLE_MS
    }

    fn millis(self, now: Moment, calendar_ms: i64) -> i64 {
        self.beginning
            .map_or(calendar_ms, |beginning| beginning.saturating_add(steady(now)))
    }
}

fn steady(now: Moment) -> i64 {
    i64::try_from(now.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_that_is_ten_years_off_is_set_right_once() {
        let (mut clock, server, calendar) = (Clock::default(), 1_900_000_000_000, 1_584_000_000_000);
        let wrong = clock.at(Moment(10), calendar);
        assert_eq!(wrong, Seconds(1_584_000_000));
        assert!(clock.learn(server, wrong, Moment(10)));
        let right = clock.at(Moment(2_010), calendar);
        assert_eq!(right, Seconds(1_900_000_002));
        assert!(
            !clock.learn(server + 3_000, right, Moment(2_010)),
            "that is how long an answer takes"
        );
        let before = clock.at(Moment(600_000), calendar);
        assert!(
            clock.learn(server, before, Moment(600_000)),
            "the machine was set back"
        );
    }

    #[test]
    fn all_that_was_signed_at_the_wrong_time_is_signed_anew() {
        let (mut clock, server, calendar) = (Clock::default(), 1_900_000_000_000, 1_584_000_000_000);
        let both = clock.at(Moment(10), calendar);
        assert!(clock.learn(server, both, Moment(10)));
        assert!(clock.learn(server + 100, both, Moment(110)));
    }
}
