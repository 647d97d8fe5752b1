//! The clock, and how far behind the control plane the host may be.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use moorline_shared::Timestamp;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Code, Freshness};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::ask::Refusal;
use crate::cache::{Now, View};
use crate::config::CacheConfig;

/// This moment, on the clock that counts suspend and that nobody sets.
pub fn now() -> Moment {
    Moment(u64::try_from(millis(clock_gettime(ClockId::Boottime))).unwrap_or(0))
}

/// The time of day; `None` beyond the year 9999.
pub fn time() -> Option<Timestamp> {
    Timestamp::from_millis(millis(clock_gettime(ClockId::Realtime)))
}

/// The same with the time of day.
pub(crate) fn now_and_time() -> Now {
    Now {
        moment: now(),
        // By a clock beyond all times nothing expires early.
        time: time()
            .or_else(|| Timestamp::from_millis(0))
            .expect("1970 is a time"),
    }
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// When the host last knew that what it has is the present state. The uplink writes it, each answer reads it.
#[derive(Debug, Default)]
pub struct FeedClock {
    in_step: AtomicBool,
    heard: AtomicU64,
    /// How old what it has was at that moment: more than nothing where an earlier daemon was the one that heard.
    before: AtomicU64,
    /// How long the next word may take in good order, in milliseconds, where the host asks for each; 0 where it is told.
    pause: AtomicU32,
}

/// What an answer says about its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the feed is up.
    pub freshness: Freshness,
    /// How long ago the control plane was last heard of, in milliseconds.
    pub age_ms: u32,
    /// How long its next word may take after the last, in milliseconds, where the host polls; 0 where it is told.
    pub pause_ms: u32,
}

impl Standing {
    fn is_within(self, most_ms: u32) -> bool {
        self.freshness == Freshness::Fresh || self.age_ms <= most_ms
    }

    /// How much an answer from `view` can be trusted at `now`: one that has lost changes is as old as the loss, however
    /// well the feed does.
    pub(super) fn of_view(self, view: &View, now: Moment) -> Self {
        let Some(since) = view.behind_since() else {
            return self;
        };
        let age = u32::try_from(now.since(since)).unwrap_or(u32::MAX);
        Self {
            freshness: Freshness::Stale,
            age_ms: self.age_ms.max(age),
            ..self
        }
    }
}

/// How long what there is may be served without a word from the control plane, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    stale_after: u32,
    own: u32,
    foreign: u32,
}

impl Bounds {
    pub(super) fn new(cache: &CacheConfig) -> Self {
        let ms = |seconds: u32| seconds.saturating_mul(1_000);
        Self {
            stale_after: ms(cache.stale_after_seconds),
            own: ms(cache.never_serve_after_seconds),
            foreign: ms(cache.foreign_stale_after_seconds),
        }
    }

    /// A feed that seems to be up, and over which nothing comes, is as good as none.
    pub(super) fn judge(&self, standing: Standing) -> Standing {
        let silent = standing.age_ms > self.stale_after.saturating_add(standing.pause_ms);
        Standing {
            freshness: if silent {
                Freshness::Stale
            } else {
                standing.freshness
            },
            ..standing
        }
    }

    /// For how long more it counts as fresh if nothing else is heard, in milliseconds.
    pub(super) fn fresh_for(&self, standing: Standing) -> u32 {
        match standing.freshness {
            Freshness::Fresh => {
                let most = self.stale_after.saturating_add(standing.pause_ms);
                most.saturating_sub(standing.age_ms)
            }
            Freshness::Stale => 0,
        }
    }

    /// An instance is served its own data for so long only without their being the present state.
    pub(super) fn own(&self, standing: Standing) -> Result<Standing, Refusal> {
        if standing.is_within(self.own) {
            return Ok(standing);
        }
        let (age, most) = (whole(standing.age_ms), whole(self.own));
        let message = format!(
            "the host has not heard of the control plane for {age}, and serves what it has for {most} at most: try again when \
             the host is connected"
        );
        Err(Refusal::new(Code::Unavailable, message))
    }

    /// So are other instances' data: a right may have been withdrawn.
    pub(super) fn foreign(&self, standing: Standing) -> Result<Standing, Refusal> {
        if standing.is_within(self.foreign) {
            return Ok(standing);
        }
        Err(Refusal::new(
            Code::Unavailable,
            "the host can't keep in step with the control plane, and without it other instances' data are not served",
        ))
    }
}

/// A time for people, in the largest unit of which it has two.
fn whole(ms: u32) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl FeedClock {
    /// A message of the feed was applied at `now`: what there is, is the present state.
    pub fn heard(&self, now: Moment) {
        self.heard.store(now.0, Ordering::Relaxed);
        self.before.store(0, Ordering::Relaxed);
        self.in_step.store(true, Ordering::Relaxed);
    }

    /// What there is at `now` is of an earlier daemon, and was the present state so many milliseconds ago.
    pub fn restored(&self, now: Moment, age_ms: u64) {
        self.heard.store(now.0, Ordering::Relaxed);
        self.before.store(age_ms, Ordering::Relaxed);
    }

    /// The host asks for each word, which takes so many milliseconds at most in good order.
    pub fn polls(&self, pause_ms: u32) {
        self.pause.store(pause_ms, Ordering::Relaxed);
    }

    /// Whether the host asks for each word.
    pub fn is_polled(&self) -> bool {
        self.pause.load(Ordering::Relaxed) > 0
    }

    /// The feed was lost.
    pub fn lost(&self) {
        self.in_step.store(false, Ordering::Relaxed);
    }

    /// How much an answer at `now` can be trusted.
    pub fn standing(&self, now: Moment) -> Standing {
        let in_step = self.in_step.load(Ordering::Relaxed);
        let heard = now.since(Moment(self.heard.load(Ordering::Relaxed)));
        let age = heard.saturating_add(self.before.load(Ordering::Relaxed));
        Standing {
            freshness: if in_step {
                Freshness::Fresh
            } else {
                Freshness::Stale
            },
            age_ms: u32::try_from(age).unwrap_or(u32::MAX),
            pause_ms: self.pause.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, FeedClock};
    use crate::config::CacheConfig;
    use moorline_shared::link::Moment;
    use moorline_shared::link::body::Freshness;

    /// Stale after 10 s, and not served after 20.
    fn bounds() -> Bounds {
        Bounds::new(&CacheConfig {
            stale_after_seconds: 10,
            never_serve_after_seconds: 20,
            ..CacheConfig::default()
        })
    }

    #[test]
    fn a_feed_that_says_nothing_is_as_good_as_none() {
        let clock = FeedClock::default();
        clock.heard(Moment(5_000));
        let at = |now| bounds().judge(clock.standing(Moment(now)));
        assert_eq!(
            (at(15_000).freshness, at(15_000).age_ms),
            (Freshness::Fresh, 10_000)
        );
        assert_eq!(at(15_001).freshness, Freshness::Stale);
        assert!(bounds().own(at(25_000)).is_ok());
        let refused = bounds().own(at(25_001)).unwrap_err();
        assert!(
            refused.message.contains("for 20 seconds at most"),
            "{}",
            refused.message
        );
        clock.heard(Moment(25_001));
        assert_eq!(at(25_001).freshness, Freshness::Fresh);
    }

    #[test]
    fn a_host_that_polls_waits_for_the_next_word_before_it_doubts_the_last() {
        let clock = FeedClock::default();
        clock.polls(30_000);
        clock.heard(Moment(5_000));
        let at = |now| bounds().judge(clock.standing(Moment(now)));
        assert_eq!(
            (at(45_000).freshness, at(45_000).age_ms),
            (Freshness::Fresh, 40_000)
        );
        assert_eq!(at(45_001).freshness, Freshness::Stale);
        clock.heard(Moment(46_000));
        clock.lost();
        assert_eq!(at(46_001).freshness, Freshness::Stale, "a poll failed");
    }

    #[test]
    fn the_age_counts_on_from_what_an_earlier_daemon_left() {
        let clock = FeedClock::default();
        clock.restored(Moment(500), 15_000);
        let at = |now| bounds().judge(clock.standing(Moment(now)));
        assert_eq!((at(600).freshness, at(600).age_ms), (Freshness::Stale, 15_100));
        assert!(bounds().own(at(5_501)).is_err());
        clock.heard(Moment(6_000));
        assert_eq!((at(6_000).freshness, at(6_000).age_ms), (Freshness::Fresh, 0));
    }

    #[test]
    fn with_no_time_at_all_nothing_stale_is_served() {
        let never = Bounds::new(&CacheConfig {
            never_serve_after_seconds: 0,
            ..CacheConfig::default()
        });
        let clock = FeedClock::default();
        clock.heard(Moment(5_000));
        assert!(never.own(clock.standing(Moment(5_001))).is_ok());
        clock.lost();
        assert!(never.own(clock.standing(Moment(5_001))).is_err());
    }
}
