//! The loop of a shard: waits, moves bytes between the sockets and the [`Floor`] where the guests are, takes messages, and
//! ticks. [`door`] lets guests in, [`post`] takes the messages.

mod door;
mod post;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use moorline_shared::InstanceId;
use moorline_shared::link::Moment;
use rustix::io::Errno;

use super::conn::{Conn, Rest, Turn};
use super::desk::Desk;
use super::floor::{Floor, TokenHasher};
use super::guest::Guest;
use super::lobby::Lobby;
use super::mailbox::Inbox;
use super::poll::{Events, Interest, LOBBY, MAILBOX, Poll, Ready, Token};
use super::talk::{End, Progress};

/// How often deadlines are looked at, in milliseconds.
const TICK_MS: u64 = 500;
/// How long guests that connect too often are not listened to, in milliseconds.
const CROWDED_MS: u64 = 1;
/// How much is read from a guest at once.
const READ_BYTES: usize = 64 * 1024;

/// One shard.
#[derive(Debug)]
pub(super) struct Shard {
    floor: Floor,
    poll: Poll,
    inbox: Inbox,
    conns: HashMap<Token, Conn, BuildHasherDefault<TokenHasher>>,
    listeners: HashMap<Token, InstanceId>,
    lobby: Option<Lobby>,
    /// Tokens of all shards, so that a session's number is its own.
    tokens: Arc<AtomicU64>,
    buffer: Vec<u8>,
    /// Connections that have more to do than their turn allowed.
    again: Vec<Token>,
    /// Guests that have connected as often as they may for now.
    crowded: Vec<InstanceId>,
    ticked: Moment,
    /// The daemon ends: until when guests may read that.
    draining: Option<Moment>,
}

impl Shard {
    pub(super) fn new(
        desk: Desk,
        inbox: Inbox,
        lobby: Option<Lobby>,
        tokens: Arc<AtomicU64>,
    ) -> Result<Self, Errno> {
        let poll = Poll::new()?;
        poll.add(&inbox, MAILBOX, Interest::READ)?;
        if let Some(lobby) = &lobby {
            poll.add(&lobby.port, LOBBY, Interest::READ)?;
        }
        Ok(Self {
            ticked: desk.now,
            floor: Floor::of(desk),
            poll,
            inbox,
            conns: HashMap::default(),
            listeners: HashMap::new(),
            lobby,
            tokens,
            buffer: vec![0; READ_BYTES],
            again: Vec::new(),
            crowded: Vec::new(),
            draining: None,
        })
    }

    /// Serves until it is told to drain, and has.
    pub(super) fn run(mut self) -> Result<(), Errno> {
        let mut events = Events::new();
        loop {
            self.poll.wait(&mut events, self.timeout())?;
            self.floor.turn(super::clock::now());
            self.resume_crowded();
            let mut mail = false;
            for token in std::mem::take(&mut self.again) {
                self.resume(token);
            }
            for ready in events.iter() {
                if ready.token == MAILBOX {
                    mail = true;
                } else {
                    self.on_ready(ready);
                }
            }
            if mail {
                self.take_messages();
            }
            self.tick_if_due();
            let drained = |until| self.conns.is_empty() || until <= self.floor.desk.now;
            if self.draining.is_some_and(drained) {
                return Ok(());
            }
        }
    }

    /// Whether a socket is not listened to for a while.
    fn listens_less(&self) -> bool {
        let paused = |guest: &Guest| guest.listening.as_ref().is_some_and(|l| l.paused);
        self.lobby.as_ref().is_some_and(|lobby| lobby.paused) || self.floor.desk.guests.values().any(paused)
    }

    /// Only connections, sockets that are not listened to for a while, and what is yet to be said need the time.
    fn timeout(&self) -> Option<u64> {
        if !self.again.is_empty() {
            return Some(0);
        }
        if !self.crowded.is_empty() {
            return Some(CROWDED_MS);
        }
        // Asked last and only without connections: it takes a look at every guest, and this is done at every turn.
        let idle = self.conns.is_empty() && !self.floor.desk.has_unwanted() && !self.listens_less();
        (!idle).then(|| {
            TICK_MS
                .saturating_sub(self.floor.desk.now.since(self.ticked))
                .max(1)
        })
    }

    fn on_ready(&mut self, ready: Ready) {
        if let Some(conn) = self.conns.get_mut(&ready.token) {
            if let Some(talk) = self.floor.talk(ready.token) {
                let result = conn.on_ready(ready, &mut self.buffer, talk);
                self.settle(ready.token, result);
            }
        } else if let Some(instance) = self.listeners.get(&ready.token).copied() {
            self.accept(instance);
        } else if ready.token == LOBBY {
            self.receive();
        }
        self.nudge_due();
    }

    /// A connection goes on where its last turn ended.
    fn resume(&mut self, token: Token) {
        if let (Some(conn), Some(talk)) = (self.conns.get_mut(&token), self.floor.talk(token)) {
            conn.goes_on = false;
            let result = conn.resume(&mut self.buffer, talk);
            self.settle(token, result);
        }
        self.nudge_due();
    }

    /// Sends every connection what there is to send, and lets go of the sockets of those that have ended.
    fn nudge_due(&mut self) {
        while let Some(token) = self.floor.next_due() {
            let Some(talk) = self.floor.talk(token) else {
                self.conns.remove(&token);
                continue;
            };
            if let Some(conn) = self.conns.get_mut(&token) {
                let result = conn.nudge(&mut self.buffer, talk);
                self.settle(token, result);
            }
        }
    }

    fn settle(&mut self, token: Token, result: Result<Turn, End>) {
        let turn = match result {
            Ok(turn) => turn,
            Err(end) => return self.floor.close(token, &end),
        };
        if let Some(interest) = turn.interest
            && let Some(conn) = self.conns.get(&token)
            && let Err(error) = self.poll.modify_once(conn.socket(), token, interest)
        {
            return self.floor.close(token, &End::Socket(error));
        }
        if turn.rest == Rest::More
            && let Some(conn) = self.conns.get_mut(&token)
            && !std::mem::replace(&mut conn.goes_on, true)
        {
            self.again.push(token);
        }
        if turn.progress == Progress::Welcomed {
            self.floor.welcomed(token);
        }
    }

    fn tick_if_due(&mut self) {
        let now = self.floor.desk.now;
        if now.since(self.ticked) < TICK_MS {
            return;
        }
        self.ticked = now;
        self.resume_listeners();
        self.floor.tick();
        self.nudge_due();
    }
}
