//! The loop of a shard: waits, serves whoever is ready, takes messages, and ticks. [`door`] lets guests in, [`post`]
//! takes the messages.

mod door;
mod post;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use rustix::io::Errno;

use super::conn::{Conn, End, Progress, Rest, Turn};
use super::desk::Desk;
use super::guest::Guest;
use super::lobby::Lobby;
use super::mailbox::Inbox;
use super::poll::{Events, Interest, LOBBY, MAILBOX, Poll, Ready, Token};
use super::standing::Told;
use crate::cache::Touched;

/// How often deadlines are looked at, in milliseconds.
const TICK_MS: u64 = 500;
/// How long guests that connect too often are not listened to, in milliseconds.
const CROWDED_MS: u64 = 1;
/// How often caches are tidied, in milliseconds.
const TIDY_MS: u64 = 5_000;
/// How much is read from a guest at once.
const READ_BYTES: usize = 64 * 1024;

/// One shard.
#[derive(Debug)]
pub(super) struct Shard {
    desk: Desk,
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
    tidied: Moment,
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
            tidied: desk.now,
            desk,
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
            self.desk.now = super::clock::now();
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
            let drained = |until| self.conns.is_empty() || until <= self.desk.now;
            if self.draining.is_some_and(drained) {
                return Ok(());
            }
        }
    }

    /// Whether a socket is not listened to for a while.
    fn listens_less(&self) -> bool {
        let paused = |guest: &Guest| guest.listening.as_ref().is_some_and(|l| l.paused);
        self.lobby.as_ref().is_some_and(|lobby| lobby.paused) || self.desk.guests.values().any(paused)
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
        let idle = self.conns.is_empty() && !self.desk.has_unwanted() && !self.listens_less();
        (!idle).then(|| TICK_MS.saturating_sub(self.desk.now.since(self.ticked)).max(1))
    }

    fn on_ready(&mut self, ready: Ready) {
        if let Some(conn) = self.conns.get_mut(&ready.token) {
            let result = conn.on_ready(ready, &mut self.buffer, &mut self.desk);
            self.settle(ready.token, result);
        } else if let Some(instance) = self.listeners.get(&ready.token).copied() {
            self.accept(instance);
        } else if ready.token == LOBBY {
            self.receive();
        }
    }

    /// A connection goes on where its last turn ended.
    fn resume(&mut self, token: Token) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.goes_on = false;
            let result = conn.resume(&mut self.buffer, &mut self.desk);
            self.settle(token, result);
        }
    }

    /// Sends a connection what there is to send.
    fn nudge(&mut self, token: Token) {
        if let Some(conn) = self.conns.get_mut(&token) {
            let result = conn.nudge(&mut self.buffer, &mut self.desk);
            self.settle(token, result);
        }
    }

    fn settle(&mut self, token: Token, result: Result<Turn, End>) {
        let turn = match result {
            Ok(turn) => turn,
            Err(end) => return self.close(token, &end),
        };
        if let Some(interest) = turn.interest
            && let Some(conn) = self.conns.get(&token)
            && let Err(error) = self.poll.modify_once(conn.socket(), token, interest)
        {
            return self.close(token, &End::Socket(error));
        }
        if turn.rest == Rest::More
            && let Some(conn) = self.conns.get_mut(&token)
            && !std::mem::replace(&mut conn.goes_on, true)
        {
            self.again.push(token);
        }
        if turn.progress == Progress::Welcomed {
            self.welcomed(token);
        }
    }

    /// The guest speaks on this connection now; the one it spoke on before goes.
    pub(super) fn welcomed(&mut self, token: Token) {
        let Some(conn) = self.conns.get(&token) else {
            return;
        };
        let instance = conn.instance;
        let build = conn.conversation(self.desk.now).map(|told| told.build);
        tracing::info!(%instance, session = token, ?build, "a guest is connected");
        let guest = self.desk.guests.get_mut(&instance);
        let before = guest.and_then(|guest| guest.welcome(token));
        if let Some(before) = before.filter(|before| *before != token) {
            self.send_away(before, "the guest has connected anew", 0);
        }
    }

    fn send_away(&mut self, token: Token, reason: &str, reconnect_after_ms: u32) {
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.send_away(reason, reconnect_after_ms, self.desk.now);
            self.nudge(token);
        }
    }

    fn close(&mut self, token: Token, end: &End) {
        let Some(mut conn) = self.conns.remove(&token) else {
            return;
        };
        let Some(guest) = self.desk.guests.get_mut(&conn.instance) else {
            return;
        };
        guest.leave(token);
        let faulty = matches!(end, End::Fault(_));
        conn.requests.faults += u64::from(faulty);
        guest.requests.add(conn.requests);
        let (instance, session) = (conn.instance, token);
        if faulty && guest.log.take(self.desk.now) {
            tracing::warn!(%instance, session, "a guest's connection ends: {end}");
        } else {
            tracing::debug!(%instance, session, "a guest's connection ends: {end}");
        }
    }

    /// Has everybody who follows one of the views sent what changed: each once, after all of it is known.
    fn touched(&mut self, touched: &[Touched]) {
        let mut tokens = Vec::new();
        for touched in touched {
            let guest = self.desk.guests.get(&touched.view.reader);
            let Some(token) = guest.and_then(|guest| guest.talking) else {
                continue;
            };
            let follows = self.conns.get_mut(&token).is_some_and(|conn| conn.mark(touched));
            if follows && tokens.last() != Some(&token) {
                tokens.push(token);
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            self.nudge(token);
        }
    }

    fn send_all_away(&mut self, reason: &str, reconnect_after_ms: u32) {
        for token in self.conns.keys().copied().collect::<Vec<_>>() {
            self.send_away(token, reason, reconnect_after_ms);
        }
    }

    fn tick_if_due(&mut self) {
        let now = self.desk.now;
        if now.since(self.ticked) < TICK_MS {
            return;
        }
        self.ticked = now;
        let ended: Vec<_> = self
            .conns
            .iter_mut()
            .filter_map(|(token, conn)| conn.tick(now).err().map(|end| (*token, end)))
            .collect();
        for (token, end) in ended {
            self.close(token, &end);
        }
        self.tell_standings();
        self.resume_listeners();
        self.desk.tell_unwanted();
        let expired = self.desk.cache.expire(now);
        self.touched(&expired);
        if now.since(self.tidied) >= TIDY_MS {
            self.tidied = now;
            self.tidy();
        }
    }

    /// Tells the guests whose mirrors can be trusted more or less than before, and sends others what had to wait.
    fn tell_standings(&mut self) {
        let desk = &self.desk;
        let news = self.conns.iter_mut().filter_map(|(token, conn)| {
            let told = conn.tell_standing(desk);
            (told == Told::News || conn.feed_due).then_some(*token)
        });
        for token in news.collect::<Vec<_>>() {
            self.nudge(token);
        }
    }

    fn tidy(&mut self) {
        self.desk.misses.tidy(self.desk.now);
        let watched = |view: &ViewId| {
            let guest = self.desk.guests.get(&view.reader);
            let conn = guest.and_then(|guest| self.conns.get(&guest.talking?));
            conn.is_some_and(|conn| conn.watched().contains(&view.instance))
        };
        let dropped = self.desk.cache.drop_idle(self.desk.now, &watched);
        self.desk.unwant(dropped);
    }
}

/// Tokens are numbers that we give, one after another: no guest can choose them, so they need no hashing.
#[derive(Debug, Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The table looks at the highest bits as well as the lowest.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
