//! Guests that ask for what changes of their mirrors, where the host is told to push nothing.

use moorline_shared::link::body::Pull;
use moorline_shared::link::session::Told as Queued;
use moorline_shared::link::{Moment, StreamId};

use super::desk::Desk;
use super::push::Feeder;
use super::talk::Talk;
use crate::comparing::about;
use crate::config::{LinkConfig, Upkeep};

/// How a guest asks, and what became of its last question. It is all that a question costs while it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    /// How long after an answer it asks again, in milliseconds.
    every_ms: u32,
    /// For how long a question is kept until there is something, in milliseconds.
    wait_ms: u32,
    /// No question is answered before this: who asks too often waits.
    not_before: Moment,
    /// Until when the present question is kept.
    until: Moment,
}

impl Asking {
    /// As the host is told; `None` if it pushes. Each connection has a pace of its own, so that guests that came together
    /// don't ask together.
    fn new(link: &LinkConfig, mut seed: u64, now: Moment) -> Option<Self> {
        let pace = about(u64::from(link.poll_seconds) * 1_000, &mut seed);
        let pace = u32::try_from(pace).unwrap_or(u32::MAX);
        let (every_ms, wait_ms) = match link.sync {
            Upkeep::Push => return None,
            Upkeep::LongPoll => (0, pace),
            Upkeep::Poll => (pace, 0),
        };
        Some(Self {
            every_ms,
            wait_ms,
            not_before: now,
            until: now,
        })
    }

    /// How long the next answer may take, in milliseconds.
    pub(super) fn pause_ms(&self) -> u32 {
        self.every_ms.saturating_add(self.wait_ms)
    }
}

impl Talk {
    /// Has a guest that can ask do so, if the host pushes nothing.
    pub(super) fn have_ask(&mut self, desk: &Desk) {
        let Some(asking) = Asking::new(&desk.link, self.token, desk.now) else {
            return;
        };
        let pull = Pull {
            every_ms: asking.every_ms,
        };
        if self.core.pull(&pull, desk.now) == Queued::Queued {
            self.asking = Some(asking);
        }
    }

    /// The guest asks.
    pub(super) fn polled(&mut self, now: Moment) {
        if let Some(asking) = &mut self.asking {
            asking.until = Moment(now.0 + u64::from(asking.wait_ms));
        }
        self.feed_due = true;
    }

    /// Whether the guest waits for an answer that it may have now.
    pub(super) fn may_answer(&self, now: Moment) -> bool {
        let is_due = self.asking.is_some_and(|asking| asking.not_before <= now);
        is_due && self.is_talking() && self.core.is_asked() && self.core.is_settled()
    }

    /// Whether a question that was kept is to be answered by now.
    pub(super) fn has_to_answer(&self, desk: &Desk) -> bool {
        let behind = || {
            self.feeders
                .get(&StreamId::SESSION)
                .is_some_and(Feeder::is_behind)
        };
        self.may_answer(desk.now) && (self.is_over(desk) || behind() || self.stands_otherwise(desk))
    }

    /// Whether the present question was kept for as long as it may be.
    fn is_over(&self, desk: &Desk) -> bool {
        self.asking.is_some_and(|asking| asking.until <= desk.now)
    }

    /// Answers the guest's question if it was sent something just now, if its mirror can be trusted more or less than it was
    /// told, or if it has waited long enough.
    pub(super) fn answer_poll(&mut self, desk: &Desk) {
        let was_sent = !self.core.is_settled();
        if !was_sent && !self.is_over(desk) && !self.stands_otherwise(desk) {
            return;
        }
        self.told = Some(self.gist(desk));
        let as_of = self.as_of(desk);
        // It was asked to ask because it understands this.
        let _ = self.core.as_of(&as_of, desk.now);
        if let Some(asking) = &mut self.asking {
            asking.not_before = Moment(desk.now.0 + u64::from(asking.every_ms));
        }
    }
}
