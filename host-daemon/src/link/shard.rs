//! The loop of a shard: waits, serves whoever is ready, takes messages, and ticks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use rustix::io::Errno;

use super::ask::{Answer, Question};
use super::conn::{Conn, End, Progress, Rest, Turn};
use super::desk::Desk;
use super::guest::{Guest, GuestStatus, Listening};
use super::handle::{BeginError, Ended, FeedEffects};
use super::lobby::Lobby;
use super::mailbox::{Begin, Inbox, Message};
use super::poll::{Events, Interest, LOBBY, MAILBOX, Poll, Ready, Token};
use crate::cache::{Effects, Touched};
use crate::channel::Accepted;

/// How often deadlines are looked at, in milliseconds.
const TICK_MS: u64 = 500;
/// How often caches are tidied, in milliseconds.
const TIDY_MS: u64 = 5_000;
/// How much is read from a guest at once.
const READ_BYTES: usize = 64 * 1024;
/// How many connections of one guest are accepted before the others have their turn.
const ACCEPTS: usize = 4;
/// How long guests may take to read that the daemon ends, in milliseconds.
const DRAIN_MS: u64 = 5_000;

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
            draining: None,
        })
    }

    /// Serves until it is told to drain, and has.
    pub(super) fn run(mut self) -> Result<(), Errno> {
        let mut events = Events::new();
        loop {
            self.poll.wait(&mut events, self.timeout())?;
            self.desk.now = super::clock::now();
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

    /// Only connections, and sockets that are not listened to for a while, need the time.
    fn timeout(&self) -> Option<u64> {
        if !self.again.is_empty() {
            return Some(0);
        }
        let paused = |guest: &Guest| guest.listening.as_ref().is_some_and(|l| l.paused);
        let idle = self.conns.is_empty() && !self.desk.guests.values().any(paused);
        (!idle).then(|| TICK_MS.saturating_sub(self.desk.now.since(self.ticked)).max(1))
    }

    fn on_ready(&mut self, ready: Ready) {
        if let Some(conn) = self.conns.get_mut(&ready.token) {
            let result = conn.on_ready(ready, &mut self.buffer, &mut self.desk);
            self.settle(ready.token, result);
        } else if let Some(instance) = self.listeners.get(&ready.token).copied() {
            self.accept(instance);
        } else if let Some(lobby) = self.lobby.as_ref().filter(|_| ready.token == LOBBY) {
            lobby.receive();
        }
    }

    /// A connection goes on where its last turn ended.
    fn resume(&mut self, token: Token) {
        if let Some(conn) = self.conns.get_mut(&token) {
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
        if turn.rest == Rest::More && !self.again.contains(&token) {
            self.again.push(token);
        }
        if turn.progress == Progress::Welcomed {
            self.welcomed(token);
        }
    }

    /// The guest speaks on this connection now; the one it spoke on before goes.
    fn welcomed(&mut self, token: Token) {
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

    fn accept(&mut self, instance: InstanceId) {
        for _ in 0..ACCEPTS {
            let Some(guest) = self.desk.guests.get_mut(&instance) else {
                return;
            };
            let Some(listening) = &mut guest.listening else {
                return;
            };
            if !guest.connects.has(self.desk.now) {
                listening.paused = true;
                let _ = self
                    .poll
                    .modify(&listening.listener, listening.token, Interest::NONE);
                return;
            }
            match listening.listener.accept() {
                Ok(None) => return,
                Ok(Some(Accepted::Guest(socket))) => self.arrived(instance, socket),
                Ok(Some(Accepted::Stranger { uid, pid })) => {
                    guest.connects.take(self.desk.now);
                    if guest.log.take(self.desk.now) {
                        tracing::warn!(%instance, uid, pid, "somebody else than the VM's device connected");
                    }
                }
                Err(error) => {
                    // Descriptors are short, most likely; the socket is left alone until the next tick.
                    listening.paused = true;
                    let _ = self
                        .poll
                        .modify(&listening.listener, listening.token, Interest::NONE);
                    tracing::error!(%instance, %error, "a guest's connection can't be accepted");
                    return;
                }
            }
        }
    }

    /// A connection from the instance's channel.
    fn arrived(&mut self, instance: InstanceId, socket: OwnedFd) {
        let now = self.desk.now;
        let Some(guest) = self.desk.guests.get_mut(&instance) else {
            return;
        };
        if self.draining.is_some() || !guest.alive || !guest.connects.take(now) {
            return;
        }
        let mut nonce = [0; 16];
        if let Err(error) = getrandom::fill(&mut nonce) {
            tracing::error!(%error, "no random bytes for a guest's challenge");
            return;
        }
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        if let Some(oldest) = guest.greet(token) {
            self.close(oldest, &End::HungUp);
        }
        let conn = Conn::new(token, instance, socket, nonce, &self.desk);
        if let Err(error) = self.poll.add_once(conn.socket(), token, Interest::READ) {
            tracing::error!(%instance, %error, "a guest's connection can't be waited for");
            return;
        }
        self.conns.insert(token, conn);
        self.nudge(token);
    }

    fn take_messages(&mut self) {
        let messages: Vec<_> = self.inbox.take().collect();
        for message in messages {
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: Message) {
        // Nobody waits for a reply whose receiver is gone.
        match message {
            Message::Feed(batch, reply) => {
                let effects = self.desk.cache.apply(batch, super::clock::now_and_time());
                let _ = reply.send(self.on_effects(effects));
            }
            Message::View(view, reply) => {
                let effects = self.desk.cache.replace(*view, super::clock::now_and_time());
                let _ = reply.send(self.on_effects(effects));
            }
            Message::Lost(view, at) => self.desk.cache.lose(&view, at),
            Message::Deployment(name) => self.deployment(name),
            Message::Begin(begin, reply) => {
                let _ = reply.send(self.begin(begin));
            }
            Message::End(instance, ended, reply) => {
                self.end(instance, ended);
                let _ = reply.send(());
            }
            Message::Arrived(instance, socket) => self.arrived(instance, socket),
            Message::Answer(answer) => self.answer(answer),
            Message::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Message::Drain(reconnect_after_ms) => self.drain(reconnect_after_ms),
        }
    }

    fn on_effects(&mut self, effects: Effects) -> FeedEffects {
        self.touched(&effects.touched);
        for view in &effects.dropped {
            self.end_watches(view);
        }
        for instance in &effects.gone {
            self.forget_if_gone(*instance);
        }
        FeedEffects {
            wanting: effects.wanting,
            dropped: effects.dropped,
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

    fn end_watches(&mut self, view: &ViewId) {
        let guest = self.desk.guests.get(&view.reader);
        let Some(token) = guest.and_then(|guest| guest.talking) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(&token) {
            conn.end_watches(view, self.desk.now);
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
            self.send_all_away("the host belongs to another deployment now", 0);
        }
    }

    fn send_all_away(&mut self, reason: &str, reconnect_after_ms: u32) {
        for token in self.conns.keys().copied().collect::<Vec<_>>() {
            self.send_away(token, reason, reconnect_after_ms);
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), BeginError> {
        let (instance, incarnation) = (begin.instance, begin.incarnation);
        let guest = self.desk.guests.entry(instance);
        let guest = guest.or_insert_with(|| Guest::new(&self.desk.link, self.desk.now));
        if guest.incarnation >= incarnation {
            return Err(BeginError::Stale {
                instance,
                incarnation,
                current: guest.incarnation,
            });
        }
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = &begin.listener {
            let added = self.poll.add(listener, token, Interest::READ);
            added.map_err(|source| BeginError::Poll { instance, source })?;
            self.listeners.insert(token, instance);
        }
        let new = begin.listener.map(|listener| Listening {
            listener,
            token,
            paused: false,
        });
        (guest.incarnation, guest.alive) = (incarnation, true);
        let tokens = guest.tokens();
        if let Some(old) = std::mem::replace(&mut guest.listening, new) {
            self.listeners.remove(&old.token);
        }
        for token in tokens {
            self.send_away(token, "another life of this instance has begun", 0);
        }
        Ok(())
    }

    fn end(&mut self, instance: InstanceId, ended: Ended) {
        let Some(guest) = self.desk.guests.get_mut(&instance) else {
            return;
        };
        if guest.incarnation != ended.0 {
            return;
        }
        guest.alive = false;
        if let Some(old) = guest.listening.take() {
            self.listeners.remove(&old.token);
        }
        for token in guest.tokens() {
            self.send_away(token, "this life of the instance has ended", 0);
        }
        self.forget_if_gone(instance);
    }

    /// Nothing is kept of a guest whose VM has ended and whose instance is no longer this host's.
    fn forget_if_gone(&mut self, instance: InstanceId) {
        let dead = self.desk.guests.get(&instance).is_some_and(|guest| !guest.alive);
        if dead && !self.desk.cache.has(&instance) {
            self.desk.guests.remove(&instance);
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
        self.resume_listeners();
        let expired = self.desk.cache.expire(now);
        self.touched(&expired);
        if now.since(self.tidied) >= TIDY_MS {
            self.tidied = now;
            self.tidy();
        }
    }

    fn resume_listeners(&mut self) {
        let now = self.desk.now;
        for guest in self.desk.guests.values_mut() {
            let ready = guest.connects.has(now);
            if let Some(listening) = guest.listening.as_mut().filter(|l| l.paused && ready) {
                listening.paused = false;
                let _ = self
                    .poll
                    .modify(&listening.listener, listening.token, Interest::READ);
            }
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
        if let Some(first) = dropped.first() {
            let (reader, add) = (first.reader, Vec::new());
            self.desk.ask(reader, Question::Interest { add, remove: dropped });
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
            revision: own.map(crate::cache::View::revision),
            entries: own.map_or(0, crate::cache::View::len),
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
