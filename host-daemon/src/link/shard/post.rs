//! What the rest of the daemon tells a shard.

use moorline_shared::link::Moment;

use super::Shard;
use crate::link::clock::now_and_time;
use crate::link::mailbox::Message;

/// How long guests may take to read that the daemon ends, in milliseconds.
const DRAIN_MS: u64 = 5_000;

impl Shard {
    pub(super) fn take_messages(&mut self) {
        let messages: Vec<_> = self.inbox.take().collect();
        for message in messages {
            self.on_message(message);
            self.nudge_due();
        }
    }

    fn on_message(&mut self, message: Message) {
        // Nobody waits for a reply whose receiver is gone.
        match message {
            Message::Feed(batch, reply) => {
                let _ = reply.send(self.floor.apply(batch, now_and_time()));
            }
            Message::View(view, reply) => {
                let _ = reply.send(self.floor.replace(*view, now_and_time()));
            }
            Message::Lost(view, at) => self.floor.lose(&view, at),
            Message::Refused(view) => self.floor.refused(&view),
            Message::Deployment(name) => self.floor.deployment(name),
            Message::Restore(image) => self.floor.restore(*image),
            Message::Await(instance) => self.floor.await_own(instance),
            Message::TakeImage(instance, reply) => {
                let _ = reply.send(self.floor.take_image(&instance, now_and_time()));
            }
            Message::Begin(begin, reply) => {
                let _ = reply.send(self.begin(begin));
            }
            Message::End(instance, ended, reply) => {
                let _ = reply.send(self.end(instance, ended));
            }
            Message::HandOver(life) => self.floor.hand_over(life),
            Message::Arrived(instance, cid, socket) => self.arrived_from(cid, instance, socket),
            Message::Answer(reader, answer) => self.floor.answered(&reader, answer),
            Message::Grant(instance, incarnation, grant) => self.floor.grant(instance, incarnation, grant),
            Message::Notify(notices) => self.floor.desk.notices = Some(notices),
            Message::Status(reply) => {
                let _ = reply.send(self.floor.status());
            }
            Message::Alive(reply) => {
                let _ = reply.send(());
            }
            Message::Held(reply) => {
                let _ = reply.send(self.floor.held());
            }
            Message::Drain(reconnect_after_ms) => self.drain(reconnect_after_ms),
        }
    }

    fn drain(&mut self, reconnect_after_ms: u32) {
        self.draining = Some(Moment(self.floor.desk.now.0 + DRAIN_MS));
        for guest in self.floor.desk.guests.values_mut() {
            guest.listening = None;
        }
        self.listeners.clear();
        self.lobby = None;
        self.floor
            .send_all_away("the host daemon ends", reconnect_after_ms);
    }
}
