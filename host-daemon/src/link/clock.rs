//! The clock, and how far behind the control plane the host may be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use moorline_shared::Timestamp;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Code, Freshness};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::ask::Refusal;
use crate::cache::{Now, View};

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
}

/// What an answer says about its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the feed is up.
    pub freshness: Freshness,
    /// How long ago the control plane was last heard of, in milliseconds.
    pub age_ms: u32,
}

impl Standing {
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
        }
    }

    /// Other instances' data are served for `most_ms` only without being the present state: a right may have been
    /// withdrawn.
    pub(super) fn may_be_foreign(self, most_ms: u32) -> Result<Self, Refusal> {
        if self.freshness == Freshness::Fresh || self.age_ms <= most_ms {
            return Ok(self);
        }
        Err(Refusal::new(
            Code::Unavailable,
            "the host can't keep in step with the control plane, and without it other instances' data are not served",
        ))
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
        }
    }
}
