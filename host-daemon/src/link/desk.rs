//! What the guests of a shard share: the cache, and the way to the control plane.

use std::collections::HashMap;
use std::sync::Arc;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::link::body::Freshness;
use tokio::sync::mpsc;

use super::ask::{Ask, Errand, Question};
use super::clock::{Bounds, FeedClock, Standing};
use super::counts::Counts;
use super::grants::Notice;
use super::guest::Guest;
use super::log::Line;
use super::misses::Misses;
use super::room::Room;
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
    /// What the guests of all shards may take up.
    pub(super) room: Arc<Room>,
    pub(super) counts: Arc<Counts>,
    /// The control plane's name; nobody is welcomed before it is known.
    pub(super) deployment: Option<Arc<str>>,
    /// The time of this turn of the loop.
    pub(super) now: Moment,
    /// For how long what there is may be served without a word from the control plane.
    pub(super) bounds: Bounds,
    /// Views that the feed need not bring any more, which it was not told yet.
    unwanted: Vec<ViewId>,
    /// Who is told of guests' lives.
    pub(super) notices: Option<mpsc::UnboundedSender<Notice>>,
    asks: mpsc::Sender<Ask>,
    tickets: u64,
}

impl Desk {
    pub(super) fn new(
        shard: usize,
        link: LinkConfig,
        cache: CacheConfig,
        feed: Arc<FeedClock>,
        room: Arc<Room>,
        asks: mpsc::Sender<Ask>,
        now: Moment,
    ) -> Self {
        Self {
            shard,
            link,
            bounds: Bounds::new(&cache),
            misses: Misses::new(cache.refusal_ms),
            cache: Cache::new(cache),
            guests: HashMap::new(),
            feed,
            room,
            counts: Arc::default(),
            deployment: None,
            now,
            unwanted: Vec::new(),
            notices: None,
            asks,
            tickets: 0,
        }
    }

    /// How much an answer can be trusted now.
    pub(super) fn standing(&self) -> Standing {
        self.bounds.judge(self.feed.standing(self.now))
    }

    /// When a host that polls last heard that what it has is the present state; `None` for one that is told, or can't
    /// ask.
    pub(super) fn polled(&self) -> Option<Moment> {
        let standing = self.standing();
        let polls = standing.pause_ms > 0 && standing.freshness == Freshness::Fresh;
        polls.then(|| Moment(self.now.0.saturating_sub(standing.age_ms.into())))
    }

    /// Tells whoever decides what guests are given.
    pub(super) fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Nobody gives anything while the daemon ends.
            let _ = notices.send(notice);
        }
    }

    /// Whether a line about this guest may be logged now. Lines about no guest always may.
    pub(super) fn line_about(&mut self, instance: &InstanceId) -> Option<Line> {
        let guest = self.guests.get_mut(instance);
        let line = guest.map_or(Some(Line::default()), |guest| guest.log.line(self.now));
        if line.is_none() {
            self.counts.lines_suppressed.add();
        }
        line
    }

    /// A number for a request that is answered later.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Whether the guest may ask the control plane once more now. A request that it cancels is being asked all the same,
    /// so it is counted here and not by the session.
    pub(super) fn may_ask(&mut self, reader: &InstanceId, errand: Errand) -> bool {
        let guest = self.guests.get_mut(reader);
        guest.is_some_and(|guest| guest.upstream(errand).may_ask(self.now))
    }

    /// Asks the control plane. `false` if too much is being asked already.
    pub(super) fn ask(&mut self, reader: InstanceId, question: Question) -> bool {
        let errand = question.errand();
        let ask = Ask {
            shard: self.shard,
            reader,
            question,
        };
        if self.asks.try_send(ask).is_err() {
            return false;
        }
        if let (Some(errand), Some(guest)) = (errand, self.guests.get_mut(&reader)) {
            guest.upstream(errand).ask();
        }
        true
    }

    /// The control plane answered a question of the guest's.
    pub(super) fn answered(&mut self, reader: &InstanceId, errand: Errand) {
        if let Some(guest) = self.guests.get_mut(reader) {
            guest.upstream(errand).answered();
        }
    }

    /// Has the feed bring the view from now on. `held` are the other views of the reader that must stay. `false` if
    /// there is no room for it.
    pub(super) fn want(&mut self, view: ViewId, held: &[InstanceId]) -> bool {
        let held = |instance: &InstanceId| held.contains(instance);
        let Some(wanted) = self.cache.want(&view, self.now, &held) else {
            return false;
        };
        if let Wanted::New(dropped) = wanted {
            self.unwanted.extend(dropped);
            if !self.tell_interests(view.reader, vec![view]) {
                // What nobody brings would be waited for in vain; the next read tries again.
                self.cache.unwant(&view);
                return false;
            }
        }
        true
    }

    /// The feed need not bring these any more. It is told now, or by [`Self::tell_unwanted`] when it can be.
    pub(super) fn unwant(&mut self, dropped: Vec<ViewId>) {
        self.unwanted.extend(dropped);
        self.tell_unwanted();
    }

    /// Tells the feed which views it brings in vain, if it could not be told before.
    pub(super) fn tell_unwanted(&mut self) {
        if let Some(first) = self.unwanted.first() {
            self.tell_interests(first.reader, Vec::new());
        }
    }

    /// Whether the feed has yet to be told of views that it brings in vain.
    pub(super) fn has_unwanted(&self) -> bool {
        !self.unwanted.is_empty()
    }

    /// Nothing that was asked for goes, and what couldn't be said is kept.
    fn tell_interests(&mut self, reader: InstanceId, add: Vec<ViewId>) -> bool {
        let mut remove = std::mem::take(&mut self.unwanted);
        // Wanted anew before the feed heard that it was not: it never stops to bring it.
        remove.retain(|view| !self.cache.wants(view));
        let change = Question::Interest {
            add,
            remove: remove.clone(),
        };
        let told = self.ask(reader, change);
        if !told {
            self.unwanted = remove;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_shared::Revision;
    use moorline_shared::api::feed::FeedItem;

    use crate::cache::FeedBatch;
    use crate::link::clock::{now, now_and_time};
    use crate::link::tests::{id, spec};

    fn foreign(instance: u8) -> ViewId {
        ViewId {
            reader: id(1),
            instance: id(instance),
        }
    }

    /// A desk whose guest may have one view of another instance, and a queue of one question.
    fn desk() -> (Desk, mpsc::Receiver<Ask>) {
        let cache = CacheConfig {
            foreign_views: 1,
            ..CacheConfig::default()
        };
        let (asks, asked) = mpsc::channel(1);
        let mut desk = Desk::new(
            0,
            LinkConfig::default(),
            cache,
            Arc::default(),
            Arc::default(),
            asks,
            now(),
        );
        let batch = FeedBatch {
            from: None,
            to: Revision::new(1, 1),
            items: vec![FeedItem::Instance(spec(1))],
        };
        desk.cache.apply(batch, now_and_time());
        (desk, asked)
    }

    fn interests(asked: &mut mpsc::Receiver<Ask>) -> (Vec<ViewId>, Vec<ViewId>) {
        match asked.try_recv().map(|ask| ask.question) {
            Ok(Question::Interest { add, remove }) => (add, remove),
            other => panic!("{other:?} came instead of a change of interests"),
        }
    }

    #[test]
    fn what_the_feed_need_not_bring_is_said_as_soon_as_it_can_be() {
        let (mut desk, mut asked) = desk();
        assert!(desk.want(foreign(2), &[]));
        assert!(!desk.want(foreign(3), &[]), "the queue has room");
        desk.tell_unwanted();
        assert!(desk.has_unwanted());
        assert_eq!(interests(&mut asked), (vec![foreign(2)], vec![]));
        desk.tell_unwanted();
        assert_eq!(interests(&mut asked), (vec![], vec![foreign(2)]));
        assert!(!desk.has_unwanted());
    }

    #[test]
    fn what_is_wanted_again_is_brought_on() {
        let (mut desk, mut asked) = desk();
        assert!(desk.want(foreign(2), &[]));
        assert!(!desk.want(foreign(3), &[]), "the queue has room");
        assert_eq!(interests(&mut asked), (vec![foreign(2)], vec![]));
        assert!(desk.want(foreign(2), &[]));
        assert_eq!(interests(&mut asked), (vec![foreign(2)], vec![]));
    }
}
