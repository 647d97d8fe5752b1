//! Keeping in step without a feed that stays open: the host asks, long or short, and comes again.

use std::time::Duration;

use moorline_shared::api::feed::{MAX_POLL_MS, Poll, ViewId, named};
use tokio::time::Instant;

use super::{Feed, Machines, Over};
use crate::config::{ControlConfig, Upkeep};

/// How much longer than it is kept a poll may be silent.
const GRACE: Duration = Duration::from_secs(10);
/// How soon after one poll the next may follow: what changes meanwhile comes together.
const CLOSEST: Duration = Duration::from_millis(100);
/// How soon after one poll the next may follow because a guest wants another instance's data.
const WANTED: Duration = Duration::from_secs(1);

/// How a host polls.
#[derive(Debug)]
pub(super) struct Polls {
    how: How,
    /// How long a poll is kept, or the pause between two, give or take a quarter.
    pace: Duration,
    began: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The control plane keeps each until there is something.
    Kept,
    /// Each is answered at once.
    Short,
}

impl Polls {
    /// As it is configured; `None` where the host is told.
    pub(super) fn new(control: &ControlConfig) -> Option<Self> {
        let how = match control.sync {
            Upkeep::Push => return None,
            Upkeep::LongPoll => How::Kept,
            Upkeep::Poll => How::Short,
        };
        Some(Self {
            how,
            pace: Duration::from_secs(control.poll_seconds.into()),
            began: Instant::now(),
        })
    }

    /// Whether the control plane keeps them.
    pub(super) fn are_kept(&self) -> bool {
        self.how == How::Kept
    }

    /// How long the next word may take after the last in good order, in milliseconds; the way there and back aside.
    pub(super) fn longest_ms(&self) -> u32 {
        let longest = millis(self.pace * 5 / 4);
        match self.how {
            How::Kept => longest.min(MAX_POLL_MS),
            How::Short => longest,
        }
    }

    /// How long one may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.pace * 5 / 4 + GRACE
    }

    /// Between three and five quarters of the pace, so that hosts that began together don't go on together.
    fn about_the_pace(&self) -> Duration {
        // Without random bytes it is the longest, which is only slow.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        self.pace
            .mul_f64(0.75 + f64::from(random) / f64::from(u32::MAX) / 2.0)
    }

    /// One begins now. Returns for how long it is to be kept.
    fn begin(&mut self) -> u32 {
        self.began = Instant::now();
        match self.how {
            How::Kept => millis(self.about_the_pace()).min(MAX_POLL_MS),
            How::Short => 0,
        }
    }

    /// When the next one is due.
    fn due(&self) -> Instant {
        match self.how {
            How::Kept => self.began + CLOSEST,
            How::Short => Instant::now() + self.about_the_pace(),
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Feed {
    /// What is said of itself by a feed that is opened now: where it is one, that it is a poll.
    pub(super) fn next_poll(&mut self) -> Option<Poll> {
        let polls = self.polls.as_mut()?;
        let wait_ms = polls.begin();
        let said = self.instances.iter().map(|(id, revision)| (*id, *revision));
        // The machines of an earlier daemon are not known by what it had.
        let is_named = self.machines == Machines::Named && self.cursor.is_some();
        Some(Poll {
            wait_ms,
            instances: is_named.then(|| named(said)),
            add: self.interests.next(0).map_or_else(Vec::new, |set| set.add),
        })
    }

    /// A poll brings each view that it was to add, unless the control plane doesn't show it to the host: who waits for it is
    /// told.
    pub(super) fn refuse_what_did_not_come(&mut self, added: &[ViewId]) {
        for view in added {
            if self.interests.is_asked(view) {
                tracing::warn!(reader = %view.reader, instance = %view.instance,
                    "the control plane doesn't bring a view of another instance");
                self.refuse(*view);
            }
        }
    }

    /// Lets time pass between two polls, and does meanwhile what is done beside them.
    pub(super) async fn rest(&mut self) -> Result<(), Over> {
        let Some(polls) = &self.polls else {
            return Ok(());
        };
        let (mut due, soonest) = (polls.due(), polls.began + WANTED);
        if self.interests.has_more() {
            due = due.min(soonest);
        }
        loop {
            self.ask_for_views();
            // Cancel-safe: the channel and the set of calls keep what was not taken, and the pause holds nothing.
            tokio::select! {
                () = tokio::time::sleep_until(due) => return Ok(()),
                Some(change) = self.changes.recv() => {
                    if !change.add.is_empty() {
                        due = due.min(soonest);
                    }
                    self.interests.change(change);
                }
                Some(called) = self.calls.under_way.join_next() => self.called(called).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Polls, Upkeep};
    use crate::config::ControlConfig;

    fn polls(sync: Upkeep) -> Option<Polls> {
        Polls::new(&ControlConfig {
            sync,
            poll_seconds: 40,
            ..ControlConfig::default()
        })
    }

    #[test]
    fn hosts_that_began_together_poll_apart() {
        let mut paces = BTreeSet::new();
        for _ in 0..1_000 {
            let pace = polls(Upkeep::Poll).unwrap().about_the_pace().as_millis();
            assert!((30_000..=50_000).contains(&pace), "{pace}");
            paces.insert(pace / 1_000);
        }
        assert!(paces.len() >= 18, "{paces:?}");
    }

    #[test]
    fn only_long_polls_are_kept_and_none_is_longer_than_it_may_be() {
        assert!(polls(Upkeep::Push).is_none());
        assert_eq!(polls(Upkeep::Poll).unwrap().begin(), 0);
        for _ in 0..100 {
            let mut long = polls(Upkeep::LongPoll).unwrap();
            let (wait, longest) = (long.begin(), long.longest_ms());
            assert!(30_000 <= wait && wait <= longest && longest <= 60_000, "{wait}");
        }
    }
}
