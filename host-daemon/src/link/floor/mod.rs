//! The guests of a shard and what they are told: everything of a shard but its sockets.
//!
//! Connections, what guests say, messages of the rest of the daemon and the time go in. What is to be written on a
//! connection stands in its session, and [`Floor::next_due`] names the connections that have to be looked at for it. So
//! whoever drives it owns the sockets and the clock, and it comes to the same whenever the same goes in. [`doors`] is how
//! lives begin and end and guests come in; [`post`] is what the feed and the control plane's answers do.

mod doors;
mod post;

pub(super) use doors::Way;
pub use doors::{Arrival, NotLater};

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::link::session::Outbox;
use tokio::sync::mpsc;

use super::ask::Ask;
use super::clock::FeedClock;
use super::desk::Desk;
use super::log::Line;
use super::poll::Token;
use super::standing::Told;
use super::talk::{End, Progress, Talk};
use crate::cache::{Cache, Touched};
use crate::config::{CacheConfig, LinkConfig};

/// How often caches are tidied, in milliseconds.
const TIDY_MS: u64 = 5_000;

/// The guests of a shard.
#[derive(Debug)]
pub struct Floor {
    pub(super) desk: Desk,
    talks: HashMap<Token, Talk, BuildHasherDefault<TokenHasher>>,
    /// Connections that have something to send, or have ended.
    due: VecDeque<Token>,
    tidied: Moment,
}

impl Floor {
    /// No guests yet. What can't be answered here is asked by `asks`.
    pub fn new(
        link: LinkConfig,
        cache: CacheConfig,
        feed: Arc<FeedClock>,
        asks: mpsc::Sender<Ask>,
        now: Moment,
    ) -> Self {
        Self::of(Desk::new(0, link, cache, feed, Arc::default(), asks, now))
    }

    pub(super) fn of(desk: Desk) -> Self {
        Self {
            tidied: desk.now,
            desk,
            talks: HashMap::default(),
            due: VecDeque::new(),
        }
    }

    /// It is `now`, until this is called again.
    pub fn turn(&mut self, now: Moment) {
        self.desk.now = now;
    }

    /// What the guests may see.
    pub fn cache(&self) -> &Cache {
        &self.desk.cache
    }

    /// A connection that has something to send or has ended, if there is one. It is named once for each time.
    pub fn next_due(&mut self) -> Option<Token> {
        self.due.pop_front()
    }

    /// Takes what whole frames there are in `input`, which came on this connection, and says how many bytes it took. What
    /// is answered waits in [`Self::outbox`].
    ///
    /// # Errors
    /// The connection is over, as [`Self::close`] is to be told.
    pub fn receive(&mut self, token: Token, input: &[u8]) -> Result<usize, End> {
        let (talk, desk) = self.talk(token).ok_or(End::HungUp)?;
        let (count, progress) = talk.exchange(input, desk)?;
        if progress == Progress::Welcomed {
            self.welcomed(token);
        }
        Ok(count)
    }

    /// What is to be written on this connection; `None` if there is no such connection.
    pub fn outbox(&mut self, token: Token) -> Option<&mut Outbox> {
        self.talks.get_mut(&token).map(|talk| talk.core.outbox())
    }

    /// Whether the connection ends once all is written.
    pub fn is_leaving(&self, token: Token) -> bool {
        self.talks.get(&token).is_some_and(Talk::is_leaving)
    }

    /// The session of a connection, and what it shares with the others.
    pub(super) fn talk(&mut self, token: Token) -> Option<(&mut Talk, &mut Desk)> {
        Some((self.talks.get_mut(&token)?, &mut self.desk))
    }

    fn nudge(&mut self, token: Token) {
        self.due.push_back(token);
    }

    /// The guest speaks on this connection now; the one it spoke on before goes.
    pub(super) fn welcomed(&mut self, token: Token) {
        let Some(talk) = self.talks.get(&token) else {
            return;
        };
        let instance = talk.instance;
        let build = talk.conversation(self.desk.now).map(|told| told.build);
        self.desk.counts.welcomed.add();
        if let Some(Line { suppressed }) = self.desk.line_about(&instance) {
            tracing::info!(%instance, session = token, suppressed, ?build, "a guest is connected");
        }
        let guest = self.desk.guests.get_mut(&instance);
        let before = guest.and_then(|guest| guest.welcome(token));
        if let Some(before) = before.filter(|before| *before != token) {
            self.send_away(before, "the guest has connected anew", 0);
        }
    }

    fn send_away(&mut self, token: Token, reason: &str, reconnect_after_ms: u32) {
        if let Some(talk) = self.talks.get_mut(&token) {
            talk.send_away(reason, reconnect_after_ms, self.desk.now);
            self.nudge(token);
        }
    }

    /// The connection is over.
    pub fn close(&mut self, token: Token, end: &End) {
        let Some(mut talk) = self.talks.remove(&token) else {
            return;
        };
        self.nudge(token);
        let Some(guest) = self.desk.guests.get_mut(&talk.instance) else {
            return;
        };
        guest.leave(token);
        let faulty = matches!(end, End::Fault(_));
        talk.requests.faults += u64::from(faulty);
        guest.requests.add(talk.requests);
        let (instance, session) = (talk.instance, token);
        if !faulty {
            tracing::debug!(%instance, session, "a guest's connection ends: {end}");
            return;
        }
        self.desk.counts.faults.add();
        if let Some(Line { suppressed }) = self.desk.line_about(&instance) {
            tracing::warn!(%instance, session, suppressed, "a guest's connection ends: {end}");
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
            let follows = self.talks.get_mut(&token).is_some_and(|talk| talk.mark(touched));
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

    pub(super) fn send_all_away(&mut self, reason: &str, reconnect_after_ms: u32) {
        for token in self.talks.keys().copied().collect::<Vec<_>>() {
            self.send_away(token, reason, reconnect_after_ms);
        }
    }

    /// Time has passed: ends who is silent, and sends what had to wait. Call it about twice a second.
    pub fn tick(&mut self) {
        let now = self.desk.now;
        let ended = self.talks.iter_mut();
        let ended = ended.filter_map(|(token, talk)| talk.tick(now).err().map(|end| (*token, end)));
        for (token, end) in ended.collect::<Vec<_>>() {
            self.close(token, &end);
        }
        self.tell_standings();
        self.desk.tell_unwanted();
        self.expire();
        self.compare_mirrors();
        if now.since(self.tidied) >= TIDY_MS {
            self.tidied = now;
            self.tidy();
        }
    }

    /// Tells the guests whose mirrors can be trusted more or less than before, and sends others what had to wait.
    fn tell_standings(&mut self) {
        let desk = &self.desk;
        let news = self.talks.iter_mut().filter_map(|(token, talk)| {
            let told = talk.tell_standing(desk);
            talk.feed_due |= talk.has_to_answer(desk);
            (told == Told::News || talk.feed_due).then_some(*token)
        });
        for token in news.collect::<Vec<_>>() {
            self.nudge(token);
        }
    }

    /// Lets go of what has ended by now, and has that sent.
    fn expire(&mut self) {
        let expired = self.desk.cache.expire(self.desk.now);
        self.touched(&expired);
    }

    /// Looks whether mirrors are what they should be. It comes after what has expired was told, so that what is no longer
    /// valid counts on neither side.
    fn compare_mirrors(&mut self) {
        let desk = &self.desk;
        let compared = self.talks.iter_mut();
        let compared =
            compared.filter_map(|(token, talk)| (talk.compare(desk) == Told::News).then_some(*token));
        for token in compared.collect::<Vec<_>>() {
            self.nudge(token);
        }
    }

    fn tidy(&mut self) {
        self.desk.misses.tidy(self.desk.now);
        let watched = |view: &ViewId| {
            let guest = self.desk.guests.get(&view.reader);
            let talk = guest.and_then(|guest| self.talks.get(&guest.talking?));
            talk.is_some_and(|talk| talk.watched().contains(&view.instance))
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
