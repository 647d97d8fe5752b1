//! What the rest of the daemon tells a shard, and what comes of it.

use std::sync::Arc;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::link::body::Code;

use super::Shard;
use crate::cache::{Effects, View};
use crate::link::admission::LifeId;
use crate::link::ask::{Answer, Refusal};
use crate::link::clock::now_and_time;
use crate::link::grants::{Grant, Grants, Notice};
use crate::link::guest::{Guest, GuestStatus};
use crate::link::handle::FeedEffects;
use crate::link::mailbox::Message;

/// How long guests may take to read that the daemon ends, in milliseconds.
const DRAIN_MS: u64 = 5_000;

impl Shard {
    pub(super) fn take_messages(&mut self) {
        let messages: Vec<_> = self.inbox.take().collect();
        for message in messages {
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: Message) {
        // Nobody waits for a reply whose receiver is gone.
        match message {
            Message::Feed(batch, reply) => {
                let effects = self.desk.cache.apply(batch, now_and_time());
                let _ = reply.send(self.on_effects(effects));
            }
            Message::View(view, reply) => {
                let effects = self.desk.cache.replace(*view, now_and_time());
                let _ = reply.send(self.on_effects(effects));
            }
            Message::Lost(view, at) => self.desk.cache.lose(&view, at, self.desk.now),
            Message::Refused(view) => self.refused(&view),
            Message::Deployment(name) => self.deployment(name),
            Message::Begin(begin, reply) => {
                let _ = reply.send(self.begin(begin));
            }
            Message::End(instance, ended, reply) => {
                let _ = reply.send(self.end(instance, ended));
            }
            Message::HandOver(life) => self.hand_over(life),
            Message::Arrived(instance, cid, socket) => self.arrived_from(cid, instance, socket),
            Message::Answer(reader, answer) => {
                self.desk.answered(&reader, answer.errand());
                self.answer(answer);
            }
            Message::Grant(instance, incarnation, grant) => self.grant(instance, incarnation, grant),
            Message::Notify(notices) => self.desk.notices = Some(notices),
            Message::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Message::Alive(reply) => {
                let _ = reply.send(());
            }
            Message::Drain(reconnect_after_ms) => self.drain(reconnect_after_ms),
        }
    }

    fn on_effects(&mut self, effects: Effects) -> FeedEffects {
        self.touched(&effects.touched);
        for view in &effects.dropped {
            self.end_watches(view, &no_room());
        }
        for instance in &effects.gone {
            self.forget_if_gone(*instance);
        }
        FeedEffects {
            wanting: effects.wanting,
            dropped: effects.dropped,
        }
    }

    /// What was meant for another life of the VM is let go.
    fn grant(&mut self, instance: InstanceId, incarnation: u64, grant: Grant) {
        let present = |guest: &&mut Guest| guest.alive && guest.incarnation == incarnation;
        let Some(guest) = self.desk.guests.get_mut(&instance).filter(present) else {
            return;
        };
        let conn = guest.talking.and_then(|token| self.conns.get_mut(&token));
        let conn = conn.filter(|conn| conn.is_talking());
        guest
            .grants
            .take(grant, conn.map(|conn| &mut conn.core), self.desk.now);
        if let Some(token) = guest.talking {
            self.nudge(token);
        }
    }

    fn refused(&mut self, view: &ViewId) {
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
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.end_watches(view, refusal, self.desk.now);
            self.nudge(token);
        }
    }

    /// The revisions of another deployment mean nothing for what is here.
    fn deployment(&mut self, name: Arc<str>) {
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

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Entry(key, answer) => {
                let now = self.desk.now;
                let askers = self.desk.misses.answered(&key, answer.as_ref().err(), now);
                for asker in askers {
                    if let Some(conn) = self.conns.get_mut(&asker.session) {
                        let entry = answer.as_ref().map(Box::as_ref);
                        conn.entry_came(&asker, entry, &mut self.desk, key.instance);
                        self.nudge(asker.session);
                    }
                }
            }
            Answer::Page(asker, page) => {
                if let Some(conn) = self.conns.get_mut(&asker.session) {
                    conn.page_came(&asker, page, &mut self.desk);
                    self.nudge(asker.session);
                }
            }
            Answer::Relayed(asker, reply) => {
                if let Some(conn) = self.conns.get_mut(&asker.session) {
                    conn.reply_came(&asker, reply, &self.desk);
                    self.nudge(asker.session);
                }
            }
        }
    }

    fn status(&self) -> Vec<GuestStatus> {
        let known = self.desk.cache.instances();
        let unborn = known.filter(|instance| !self.desk.guests.contains_key(instance));
        let all = self.desk.guests.keys().chain(unborn);
        all.map(|instance| self.status_of(*instance)).collect()
    }

    fn status_of(&self, instance: InstanceId) -> GuestStatus {
        let guest = self.desk.guests.get(&instance);
        let conn = guest.and_then(|guest| self.conns.get(&guest.talking?));
        let mut requests = guest.map(|guest| guest.requests).unwrap_or_default();
        requests.add(conn.map(|conn| conn.requests).unwrap_or_default());
        let own = self.desk.cache.own(&instance);
        let (foreign_views, bytes) = self.desk.cache.usage(&instance);
        GuestStatus {
            instance,
            incarnation: guest.map_or(0, |guest| guest.incarnation),
            conversation: conn.and_then(|conn| conn.conversation(self.desk.now)),
            revision: own.map(View::revision),
            entries: own.map_or(0, View::len),
            bytes,
            foreign_views,
            requests,
        }
    }

    fn drain(&mut self, reconnect_after_ms: u32) {
        self.draining = Some(Moment(self.desk.now.0 + DRAIN_MS));
        for guest in self.desk.guests.values_mut() {
            guest.listening = None;
        }
        self.listeners.clear();
        self.lobby = None;
        self.send_all_away("the host daemon ends", reconnect_after_ms);
    }
}

fn no_room() -> Refusal {
    Refusal::new(
        Code::TooMuch,
        "the host has no room for this view any more: watch less, or watch again later",
    )
}
