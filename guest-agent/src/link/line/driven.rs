//! What the driver does with the line: it owns the socket, and passes on what the host says.

use std::cell::RefMut;

use moorline_shared::Revision;
use moorline_shared::agent::{Identity, LinkState};
use moorline_shared::link::body::{Hello, HelloAck};
use moorline_shared::link::session::{Fault, Guest, GuestEvent};
use moorline_shared::link::{KindSet, Moment, StreamId};

use super::super::driver::Lost;
use super::{AskFailure, Life, Line, Reply, Waiting, WatchBatch};
use crate::mirror::Origin;
use crate::platform::{boot_id, generation, now};

impl Line {
    /// A connection was made.
    pub(in crate::link) fn begin(&self, core: Guest) {
        self.state.borrow_mut().core = core;
    }

    pub(in crate::link) fn core(&self) -> RefMut<'_, Guest> {
        RefMut::map(self.state.borrow_mut(), |state| &mut state.core)
    }

    pub(in crate::link) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// A stream may have ended: those who wait for one try again.
    pub(in crate::link) fn freed(&self) {
        self.freed.notify_waiters();
    }

    pub(in crate::link) fn next_tick(&self) -> Moment {
        self.state.borrow().core.next_tick()
    }

    pub(in crate::link) fn tick(&self, now: Moment) -> Result<(), Fault> {
        self.core().tick(now)
    }

    pub(in crate::link) fn is_open(&self) -> bool {
        self.state.borrow().link == LinkState::Connected
    }

    /// Whether the session is to end, so that another begins without a claim.
    pub(in crate::link) fn begins_anew(&self) -> bool {
        self.is_open() && self.state.borrow().anew
    }

    /// Whose the mirror is that was kept on disk, until the host says who this guest is.
    pub(crate) fn remember(&self, of: Origin) {
        let Origin {
            instance,
            incarnation,
            authority,
        } = of;
        self.state.borrow_mut().identity.get_or_insert(Identity {
            instance,
            incarnation,
            authority,
            session: 0,
        });
    }

    /// Answers the challenge: who speaks, what proves that, and where its mirror stands.
    pub(in crate::link) fn hello(&self, applied: Option<Revision>, proof: Option<[u8; 32]>, now: Moment) {
        let mut state = self.state.borrow_mut();
        let incarnation = state.identity.as_ref().map(|identity| identity.incarnation);
        // Both or none: an incarnation alone says nothing about a mirror.
        let claimed = incarnation.zip(applied).filter(|_| !state.anew);
        state.claimed = claimed.map(|(incarnation, _)| incarnation);
        let hello = Hello {
            kinds: KindSet::ours(),
            build: crate::BUILD.to_owned(),
            boot_id: boot_id(),
            vmgenid: generation(),
            incarnation: state.claimed,
            applied: claimed.map(|(_, applied)| applied),
            journal: 0,
            proof,
        };
        state.core.hello(&hello, now);
    }

    /// The host didn't believe HELLO. This may be the copy of another machine, whose incarnation has the same number by
    /// chance: the next HELLO speaks of no mirror. If it did, its session would have to be ended at once, and the link key
    /// that comes with it would be lost, which nobody is given twice.
    pub(in crate::link) fn denied(&self) {
        self.state.borrow_mut().anew = true;
    }

    /// The session is open.
    pub(in crate::link) fn ready(&self, ack: HelloAck, now: Moment) -> Life {
        let mut state = self.state.borrow_mut();
        let identity = Identity {
            instance: ack.instance,
            incarnation: ack.incarnation,
            authority: ack.authority,
            session: ack.session,
        };
        let life = match &state.identity {
            None => Life::First,
            Some(before) if same_life(before, &identity) => Life::Same,
            Some(_) if state.claimed == Some(identity.incarnation) => Life::Mistaken,
            Some(_) => Life::Another,
        };
        state.identity = Some(identity);
        state.anew = false;
        state.link = LinkState::Connected;
        state.since = now;
        self.freed.notify_waiters();
        life
    }

    /// The session is over: nobody who waits is answered any more.
    pub(in crate::link) fn lost(&self, lost: &Lost, now: Moment) {
        let mut state = self.state.borrow_mut();
        if state.link == LinkState::Connected {
            state.since = now;
        }
        state.link = LinkState::Connecting;
        state.last_error = Some(lost.with_cause());
        state.anew |= matches!(lost, Lost::Batch(_));
        state.core = Guest::new(now);
        state.waiting.clear();
        self.freed.notify_waiters();
    }

    /// Passes an answer to whoever waits for it.
    pub(in crate::link) fn answered(&self, event: GuestEvent) {
        match event {
            GuestEvent::Found(stream, found, secrets) => self.reply(stream, |reply| {
                if let Reply::Found(sender) = reply {
                    let _ = sender.send(Ok((found, secrets)));
                }
            }),
            GuestEvent::Listing(stream, listing, secrets) => self.reply(stream, |reply| {
                if let Reply::Listing(sender) = reply {
                    let _ = sender.send(Ok((listing, secrets)));
                }
            }),
            GuestEvent::Relayed(stream, relayed) => self.reply(stream, |reply| {
                if let Reply::Relayed(sender) = reply {
                    let _ = sender.send(Ok(relayed));
                }
            }),
            GuestEvent::Refused(stream, refused) => self.fail(stream, AskFailure::Refused(refused)),
            GuestEvent::Busy(stream, retry_after_ms) => {
                self.state.borrow_mut().shares.busy(retry_after_ms, now());
                self.fail(stream, AskFailure::Busy { retry_after_ms });
            }
            GuestEvent::Ended(stream, code) => self.fail(stream, AskFailure::Ended(code)),
            GuestEvent::Challenge(_)
            | GuestEvent::Ready(_)
            | GuestEvent::Batch { .. }
            | GuestEvent::Standing(_)
            | GuestEvent::Session(_)
            | GuestEvent::SessionOver(_)
            | GuestEvent::Credential(_)
            | GuestEvent::LinkKey(_)
            | GuestEvent::Digest(_)
            | GuestEvent::Pull(_)
            | GuestEvent::AsOf(_)
            | GuestEvent::GoAway(_) => {}
        }
    }

    /// Ends a stream with its answer. A receiver that is gone took its question back at the same moment.
    fn reply(&self, stream: StreamId, send: impl FnOnce(Reply)) {
        if let Some(waiting) = self.state.borrow_mut().waiting.remove(&stream) {
            send(waiting.reply);
        }
        self.freed.notify_waiters();
    }

    fn fail(&self, stream: StreamId, failure: AskFailure) {
        self.reply(stream, |reply| match reply {
            Reply::Found(sender) => drop(sender.send(Err(failure))),
            Reply::Listing(sender) => drop(sender.send(Err(failure))),
            Reply::Relayed(sender) => drop(sender.send(Err(failure))),
            Reply::Watch(sender) => drop(sender.try_send(Err(failure))),
        });
    }

    /// The next question about the mirror may be due sooner than anything else was.
    pub(in crate::link) fn asks_again(&self) {
        self.wake.notify_one();
    }

    /// A batch for a watch. The host sends the next one only when this one was applied; one that doesn't wait for that
    /// has its watch ended.
    pub(in crate::link) fn watched(&self, stream: StreamId, batch: WatchBatch, now: Moment) {
        let mut state = self.state.borrow_mut();
        let taken = match state.waiting.get(&stream) {
            Some(Waiting {
                reply: Reply::Watch(sender),
                ..
            }) => sender.try_send(Ok(batch)).is_ok(),
            _ => false,
        };
        if !taken {
            state.waiting.remove(&stream);
            state.core.cancel(stream, now);
        }
    }
}

fn same_life(before: &Identity, after: &Identity) -> bool {
    (before.instance, before.incarnation, &before.authority)
        == (after.instance, after.incarnation, &after.authority)
}
