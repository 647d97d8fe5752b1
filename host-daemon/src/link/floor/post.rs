//! What the feed brings and what the control plane answers, and what the guests are told of it.

use std::sync::Arc;

use moorline_shared::api::feed::{View as WholeView, ViewId};
use moorline_shared::link::body::Code;
use moorline_shared::{InstanceId, Revision};

use super::Floor;
use crate::cache::{Effects, FeedBatch, Image, Inventory, Now, Touched, View};
use crate::link::admission::LifeId;
use crate::link::ask::{Answer, Refusal};
use crate::link::grants::{Grant, Grants, Notice};
use crate::link::guest::{Guest, GuestStatus};
use crate::link::handle::FeedEffects;
use crate::persistence::Taken;

/// How many bytes of views are looked at in one turn to see what they come to, and one view more at most: guests wait
/// meanwhile, a few milliseconds where the processor has instructions for SHA-256.
const LOOK_BYTES: usize = 4 * 1024 * 1024;

impl Floor {
    /// Applies a batch of the feed: from here on no guest is answered from before it.
    pub fn apply(&mut self, batch: FeedBatch, now: Now) -> FeedEffects {
        let effects = self.desk.cache.apply(batch, now);
        self.on_effects(effects)
    }

    /// Replaces a view by what the control plane showed when it was asked.
    pub fn replace(&mut self, view: WholeView, now: Now) -> FeedEffects {
        let effects = self.desk.cache.replace(view, now);
        self.on_effects(effects)
    }

    /// Changes of the view up to `at` were lost: readers see it as it was until it comes whole.
    pub fn lose(&mut self, view: &ViewId, at: Revision) {
        self.desk.cache.lose(view, at, self.desk.now);
    }

    /// What is kept on disk of an instance: its own view as it is now, and how old it is.
    pub fn take_image(&self, instance: &InstanceId, now: Now) -> Option<Taken> {
        let image = self.desk.cache.image(instance, now.moment)?;
        let age_ms = self.desk.standing().age_ms;
        Some(Taken { image, age_ms, now })
    }

    /// What there is of every view, to be compared with what there should be. Guests have their turn before too much is
    /// looked at for that.
    pub fn held(&mut self) -> Inventory {
        self.expire();
        self.desk.cache.held(LOOK_BYTES)
    }

    /// Begins with what was kept of an instance before this daemon.
    pub fn restore(&mut self, image: Image) {
        self.desk.cache.restore(image, self.desk.now);
    }

    /// Nothing that can be used was kept of an instance: its own view is waited for.
    pub fn await_own(&mut self, instance: InstanceId) {
        self.desk.cache.await_own(instance);
    }

    fn on_effects(&mut self, effects: Effects) -> FeedEffects {
        self.touched(&effects.touched);
        for view in &effects.dropped {
            self.end_watches(view, &no_room());
        }
        for instance in &effects.gone {
            self.forget_if_gone(*instance);
        }
        let own = |touched: &Touched| touched.view == ViewId::own(touched.view.reader);
        let touched = effects.touched.iter().filter(|touched| own(touched));
        let mut changed = effects.gone;
        changed.extend(touched.map(|touched| touched.view.reader));
        changed.dedup();
        FeedEffects {
            changed,
            wanting: effects.wanting,
            dropped: effects.dropped,
        }
    }

    /// Gives a guest something in this life of its VM. What was meant for another is let go.
    pub fn grant(&mut self, instance: InstanceId, incarnation: u64, grant: Grant) {
        let present = |guest: &&mut Guest| guest.alive && guest.incarnation == incarnation;
        let Some(guest) = self.desk.guests.get_mut(&instance).filter(present) else {
            return;
        };
        let talk = guest.talking.and_then(|token| self.talks.get_mut(&token));
        let talk = talk.filter(|talk| talk.is_talking());
        guest
            .grants
            .take(grant, talk.map(|talk| &mut talk.core), self.desk.now);
        if let Some(token) = guest.talking {
            self.nudge(token);
        }
    }

    /// The control plane won't bring this view: whoever waits for it is told so.
    pub fn refused(&mut self, view: &ViewId) {
        self.desk.cache.unwant(view);
        let refusal = Refusal::new(
            Code::Denied,
            "the control plane doesn't show the host this instance's data",
        );
        self.end_watches(view, &refusal);
    }

    fn end_watches(&mut self, view: &ViewId, refusal: &Refusal) {
        let guest = self.desk.guests.get(&view.reader);
        let Some(token) = guest.and_then(|guest| guest.talking) else {
            return;
        };
        if let Some(talk) = self.talks.get_mut(&token) {
            talk.end_watches(view, refusal, self.desk.now);
            self.nudge(token);
        }
    }

    /// The control plane's name, which revisions belong to. Those of another deployment mean nothing for what is here.
    pub fn deployment(&mut self, name: Arc<str>) {
        let other = self.desk.deployment.as_ref().is_some_and(|old| *old != name);
        self.desk.deployment = Some(name);
        if other {
            tracing::warn!(
                "the control plane is of another deployment than before: everything is asked anew"
            );
            self.desk.cache.clear();
            self.grant_anew();
            self.send_all_away("the host belongs to another deployment now", 0);
        }
    }

    /// What the guests have is of the other deployment: their lives begin anew as far as that goes.
    fn grant_anew(&mut self) {
        for guest in self.desk.guests.values_mut() {
            guest.grants = Grants::default();
        }
        let alive = self.desk.guests.iter().filter(|(_, guest)| guest.alive);
        for (instance, guest) in alive {
            self.desk.notify(Notice::Began(LifeId {
                instance: *instance,
                incarnation: guest.incarnation,
            }));
        }
    }

    /// The control plane answered a question in the reader's name.
    pub fn answered(&mut self, reader: &InstanceId, answer: Answer) {
        self.desk.answered(reader, answer.errand());
        self.answer(answer);
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Entry(key, answer) => {
                let now = self.desk.now;
                let askers = self.desk.misses.answered(&key, answer.as_ref().err(), now);
                for asker in askers {
                    if let Some(talk) = self.talks.get_mut(&asker.session) {
                        let entry = answer.as_ref().map(Box::as_ref);
                        talk.entry_came(&asker, entry, &mut self.desk, key.instance);
                        self.nudge(asker.session);
                    }
                }
            }
            Answer::Page(asker, page) => {
                if let Some(talk) = self.talks.get_mut(&asker.session) {
                    talk.page_came(&asker, page, &mut self.desk);
                    self.nudge(asker.session);
                }
            }
            Answer::Relayed(asker, reply) => {
                if let Some(talk) = self.talks.get_mut(&asker.session) {
                    talk.reply_came(&asker, reply, &self.desk);
                    self.nudge(asker.session);
                }
            }
        }
    }

    pub(in crate::link) fn status(&self) -> Vec<GuestStatus> {
        let known = self.desk.cache.instances();
        let unborn = known.filter(|instance| !self.desk.guests.contains_key(instance));
        let all = self.desk.guests.keys().chain(unborn);
        all.map(|instance| self.status_of(*instance)).collect()
    }

    fn status_of(&self, instance: InstanceId) -> GuestStatus {
        let guest = self.desk.guests.get(&instance);
        let talk = guest.and_then(|guest| self.talks.get(&guest.talking?));
        let mut requests = guest.map(|guest| guest.requests).unwrap_or_default();
        requests.add(talk.map(|talk| talk.requests).unwrap_or_default());
        let own = self.desk.cache.own(&instance);
        let (foreign_views, bytes) = self.desk.cache.usage(&instance);
        GuestStatus {
            instance,
            incarnation: guest.map_or(0, |guest| guest.incarnation),
            conversation: talk.and_then(|talk| talk.conversation(self.desk.now)),
            revision: own.map(View::revision),
            entries: own.map_or(0, View::len),
            bytes,
            foreign_views,
            requests,
        }
    }
}

fn no_room() -> Refusal {
    Refusal::new(
        Code::TooMuch,
        "the host has no room for this view any more: watch less, or watch again later",
    )
}
