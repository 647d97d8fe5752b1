//! Who follows views on a connection: the guest's mirror, and its watches.

use moorline_shared::api::feed::ViewId;
use moorline_shared::link::body::Hello;
use moorline_shared::link::{Moment, StreamId};
use moorline_shared::{InstanceId, PathPrefix};

use super::ask::Refusal;
use super::desk::Desk;
use super::push::{Feeder, Push};
use super::reply::tell_secrets;
use super::talk::Talk;
use crate::cache::{Touched, What};

/// How many bytes of batches may be under way on watches before another watch has to wait.
const MAX_WATCH_BYTES: usize = 2 * 1024 * 1024;

impl Talk {
    /// A view changed. Returns whether the guest follows it.
    pub(super) fn mark(&mut self, touched: &Touched) -> bool {
        let mut follows = false;
        for (stream, feeder) in &mut self.feeders {
            // A watch is no older than this daemon, and has been shown all that lay between two revisions.
            let concerns = touched.what != What::Revision || *stream == StreamId::SESSION;
            if feeder.view == touched.view && concerns {
                feeder.mark(&touched.what);
                follows = true;
            }
        }
        self.feed_due |= follows;
        follows
    }

    /// Sends what changed to every follower that is ready for it. A watch that has to begin anew waits while its guest has
    /// had too much of that.
    pub(super) fn feed(&mut self, desk: &mut Desk) {
        if !std::mem::take(&mut self.feed_due) {
            return;
        }
        let answers = self.may_answer(desk.now);
        self.feed_all(desk);
        if answers {
            self.answer_poll(desk);
        }
    }

    fn feed_all(&mut self, desk: &mut Desk) {
        let shown = self.shown();
        let keeps_mirror = self.asking.is_some() && !self.may_answer(desk.now);
        let serves_own = self.own_view(desk).is_ok();
        let mut account = desk
            .guests
            .get_mut(&self.instance)
            .map(|guest| &mut guest.snapshots);
        let mut under_way: usize = self.watches().map(Feeder::in_flight).sum();
        for (stream, feeder) in &mut self.feeders {
            let waits = if *stream == StreamId::SESSION {
                keeps_mirror
            } else {
                under_way > MAX_WATCH_BYTES
            };
            if waits || !feeder.is_behind() || !self.core.can_push(*stream) {
                continue;
            }
            if feeder.view.instance == self.instance && !serves_own {
                // It may be served again by the next tick.
                self.feed_due = true;
                continue;
            }
            let anew = *stream != StreamId::SESSION && feeder.begins_anew();
            if anew && account.as_mut().is_some_and(|account| !account.is_good(desk.now)) {
                // The next tick asks again.
                self.feed_due = true;
                continue;
            }
            let view = desk.cache.view(&feeder.view).filter(|view| view.is_served());
            let Some(Push { batch, secrets }) = view.and_then(|view| feeder.next(view, shown, desk.now))
            else {
                continue;
            };
            under_way += batch.content.len();
            match batch.from {
                Some(_) => desk.counts.changes_pushed.add(),
                None => desk.counts.snapshots_pushed.add(),
            }
            if let Some(account) = account.as_mut().filter(|_| anew) {
                account.charge(batch.content.len());
            }
            tell_secrets(&mut self.core, *stream, &secrets, desk.now);
            self.core.batch(*stream, batch);
        }
    }

    fn watches(&self) -> impl Iterator<Item = &Feeder> {
        self.feeders
            .iter()
            .filter(|(stream, _)| **stream != StreamId::SESSION)
            .map(|(_, feeder)| feeder)
    }

    /// The other instances that the guest watches.
    pub(super) fn watched(&self) -> Vec<InstanceId> {
        let foreign = self
            .watches()
            .filter(|feeder| feeder.view.instance != self.instance);
        foreign.map(|feeder| feeder.view.instance).collect()
    }

    /// Ends the watches of a view that is not kept, and says why.
    pub(super) fn end_watches(&mut self, view: &ViewId, refusal: &Refusal, now: Moment) {
        let of_view = |(stream, feeder): (&StreamId, &Feeder)| (feeder.view == *view).then_some(*stream);
        let streams: Vec<_> = self.feeders.iter().filter_map(of_view).collect();
        for stream in streams {
            self.feeders.remove(&stream);
            self.core.refuse(stream, refusal.code, &refusal.message, now);
        }
    }
}

/// The guest's mirror follows its own view: from where it stands if that is where the view does, else anew.
pub(super) fn mirror(instance: InstanceId, incarnation: u64, hello: &Hello, desk: &Desk) -> Feeder {
    let id = ViewId::own(instance);
    let stands = desk.cache.own(&instance).filter(|view| view.is_served());
    match (hello.applied, stands) {
        (Some(applied), Some(view))
            if applied == view.revision() && hello.incarnation == Some(incarnation) =>
        {
            Feeder::in_step(id, applied)
        }
        _ => Feeder::from_nothing(id, PathPrefix::ALL),
    }
}
