//! What the guests of a shard share: the cache, and the way to the control plane.

use std::collections::HashMap;
use std::sync::Arc;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Code, Freshness};
use tokio::sync::mpsc;

use super::ask::{Ask, Question, Refusal};
use super::clock::{FeedClock, Standing};
use super::guest::Guest;
use super::misses::Misses;
use crate::cache::{Cache, Wanted};
use crate::config::{CacheConfig, LinkConfig};

/// Everything of a shard but its connections.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) shard: usize,
    pub(super) link: LinkConfig,
    pub(super) cache: Cache,
    pub(super) guests: HashMap<InstanceId, Guest>,
    pub(super) misses: Misses,
    pub(super) feed: Arc<FeedClock>,
    /// The control plane's name; nobody is welcomed before it is known.
    pub(super) deployment: Option<Arc<str>>,
    /// The time of this turn of the loop.
    pub(super) now: Moment,
    foreign_stale_after_ms: u32,
    asks: mpsc::Sender<Ask>,
    tickets: u64,
}

impl Desk {
    pub(super) fn new(
        shard: usize,
        link: LinkConfig,
        cache: CacheConfig,
        feed: Arc<FeedClock>,
        asks: mpsc::Sender<Ask>,
    ) -> Self {
        Self {
            shard,
            link,
            foreign_stale_after_ms: cache.foreign_stale_after_seconds.saturating_mul(1_000),
            misses: Misses::new(cache.refusal_ms),
            cache: Cache::new(cache),
            guests: HashMap::new(),
            feed,
            deployment: None,
            now: super::clock::now(),
            asks,
            tickets: 0,
        }
    }

    /// How much an answer can be trusted now.
    pub(super) fn standing(&self) -> Standing {
        self.feed.standing(self.now)
    }

    /// Other instances' data are served without a word from the control plane for a short while only: a right may have
    /// been withdrawn.
    pub(super) fn may_serve_foreign(&self, standing: Standing) -> Result<(), Refusal> {
        if standing.freshness == Freshness::Fresh || standing.age_ms <= self.foreign_stale_after_ms {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Unavailable,
            "the control plane is out of reach, and without it other instances' data are not served",
        ))
    }

    /// A number for a request that is answered later.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Whether the guest may ask the control plane once more now. A request that it cancels is being asked all the same,
    /// so it is counted here and not by the session.
    pub(super) fn may_ask(&mut self, reader: &InstanceId) -> bool {
        let now = self.now;
        let most = usize::from(self.link.streams) + usize::from(self.link.requests);
        self.guests
            .get_mut(reader)
            .is_some_and(|guest| guest.asked < most && guest.upstream.take(now))
    }

    /// Asks the control plane. `false` if too much is being asked already.
    pub(super) fn ask(&mut self, reader: InstanceId, question: Question) -> bool {
        let answered = !matches!(question, Question::Interest { .. });
        let ask = Ask {
            shard: self.shard,
            reader,
            question,
        };
        if self.asks.try_send(ask).is_err() {
            return false;
        }
        if let Some(guest) = self.guests.get_mut(&reader).filter(|_| answered) {
            guest.asked += 1;
        }
        true
    }

    /// The control plane answered a question of the guest's.
    pub(super) fn answered(&mut self, reader: &InstanceId) {
        if let Some(guest) = self.guests.get_mut(reader) {
            // A guest that was forgotten meanwhile, and is known again, never asked.
            guest.asked = guest.asked.saturating_sub(1);
        }
    }

    /// Has the feed bring the view from now on. `held` are the other views of the reader that must stay. `false` if
    /// there is no room for it.
    pub(super) fn want(&mut self, view: ViewId, held: &[InstanceId]) -> bool {
        let held = |instance: &InstanceId| held.contains(instance);
        let Some(wanted) = self.cache.want(&view, self.now, &held) else {
            return false;
        };
        if let Wanted::New(remove) = wanted {
            let add = vec![view];
            if !self.ask(view.reader, Question::Interest { add, remove }) {
                // What nobody brings would be waited for in vain; the next read tries again.
                self.cache.unwant(&view);
                return false;
            }
        }
        true
    }
}
