//! One guest's session: what it says, what it is answered, and the bounds on both. Bytes and the time in, bytes out; whose
//! socket they travel by is not its concern. [`greeting`] is how it begins.

mod greeting;

use std::collections::BTreeMap;

use moorline_shared::link::body::Hello;
use moorline_shared::link::session::{Fault, Host, HostEvent};
use moorline_shared::link::{Moment, StreamId};
use moorline_shared::{InstanceId, Revision};
use rustix::io::Errno;

use super::answer::Pending;
use super::desk::Desk;
use super::guest::{Conversation, Requests};
use super::poll::Token;
use super::polls::Asking;
use super::push::Feeder;
use super::standing::Gist;
use crate::comparing::Comparing;

/// A guest is not read from while more than so many bytes of answers wait for it.
const MAX_BACKLOG: usize = 256 * 1024;
/// How long a guest that was told to go may take to read it.
const LEAVE_MS: u64 = 1_000;

/// The session of one connection.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) token: Token,
    pub(super) instance: InstanceId,
    pub(super) requests: Requests,
    pub(super) core: Host,
    pub(super) feeders: BTreeMap<StreamId, Feeder>,
    pub(super) pending: BTreeMap<StreamId, Pending>,
    /// Up to where the guest was shown its own data beside its mirror, or by an earlier daemon.
    pub(super) shown_up_to: Option<Revision>,
    /// What the guest was told last of how far its mirror can be trusted.
    pub(super) told: Option<Gist>,
    /// How it asks for what changes of its mirror, if that is not pushed.
    pub(super) asking: Option<Asking>,
    /// When its mirror is compared with what the host has.
    pub(super) comparing: Comparing,
    /// Whether a follower may have become ready for its next batch, or waits until its guest may have one.
    pub(super) feed_due: bool,
    held_back: bool,
    stage: Stage,
    heard: Moment,
}

#[derive(Debug)]
enum Stage {
    Greeting,
    /// It said HELLO, and is welcome once it may be given its link key.
    Waiting(Box<Hello>),
    Talking {
        build: String,
    },
    Leaving {
        until: Moment,
    },
}

/// How a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The guest closed it.
    #[error("the guest hung up")]
    HungUp,
    /// The guest said goodbye; this is why.
    #[error("the guest left: {0}")]
    Left(String),
    /// It was told to go, and has read that or taken too long to.
    #[error("the guest was told to go")]
    Sent,
    /// The guest said what it may not say, or nothing for too long.
    #[error("{0}")]
    Fault(Fault),
    /// The socket failed.
    #[error("{0}")]
    Socket(Errno),
}

/// What a turn brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    /// The guest said HELLO and is welcome.
    Welcomed,
}

impl Talk {
    /// A connection was accepted, and is challenged with `nonce`.
    pub(super) fn new(token: Token, instance: InstanceId, nonce: [u8; 16], desk: &Desk) -> Self {
        Self {
            token,
            instance,
            requests: Requests::default(),
            core: Host::new(desk.link.limits(), nonce, desk.now),
            feeders: BTreeMap::new(),
            pending: BTreeMap::new(),
            told: None,
            asking: None,
            comparing: Comparing::every(desk.link.sync_seconds, token, desk.now),
            shown_up_to: None,
            feed_due: false,
            held_back: false,
            stage: Stage::Greeting,
            heard: desk.now,
        }
    }

    /// Takes what whole frames there are in `input`, answers them, and sends what there is to send. Says how many bytes
    /// it took: not all, where a frame is not whole or too many answers wait.
    pub(super) fn exchange(&mut self, input: &[u8], desk: &mut Desk) -> Result<(usize, Progress), End> {
        let handled = self.handle(input, desk)?;
        self.feed(desk);
        Ok(handled)
    }

    /// Whether too many answers wait for more to be read.
    pub(super) const fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Whether it ends once what waits is written.
    pub(super) const fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    /// Handles whole frames until too many answers wait.
    fn handle(&mut self, input: &[u8], desk: &mut Desk) -> Result<(usize, Progress), End> {
        let (mut at, mut progress) = (0, Progress::Nothing);
        loop {
            self.held_back = self.core.outbox().backlog() > MAX_BACKLOG;
            if self.held_back || at == input.len() || matches!(self.stage, Stage::Leaving { .. }) {
                return Ok((at, progress));
            }
            let incoming = self.core.receive(&input[at..], desk.now).map_err(End::Fault)?;
            if incoming.taken == 0 {
                return Ok((at, progress));
            }
            at += incoming.taken;
            self.heard = desk.now;
            if let Some(event) = incoming.event
                && self.act(event, desk)? == Progress::Welcomed
            {
                progress = Progress::Welcomed;
            }
        }
    }

    fn act(&mut self, event: HostEvent<'_>, desk: &mut Desk) -> Result<Progress, End> {
        match event {
            HostEvent::Get(stream, get) => self.get(stream, &get, desk),
            HostEvent::List(stream, list) => self.list(stream, list, desk),
            HostEvent::Watch(stream, watch) => self.watch(stream, watch, desk),
            HostEvent::Relay(stream, relay) => self.relay(stream, relay, desk),
            HostEvent::Applied(stream, revision) => {
                if let Some(feeder) = self.feeders.get_mut(&stream) {
                    feeder.applied(revision);
                }
                self.feed_due = true;
            }
            HostEvent::Poll => self.polled(desk.now),
            HostEvent::Differs(differs) => self.differs(differs, desk),
            HostEvent::Cancelled(stream, _) => {
                self.feeders.remove(&stream);
                self.pending.remove(&stream);
                self.feed_due = true;
            }
            HostEvent::GoAway(go) => return Err(End::Left(printable(&go.reason))),
            HostEvent::Hello(hello) => return self.hello(hello, desk),
        }
        Ok(Progress::Nothing)
    }

    /// Whether the guest is welcome and was not told to go.
    pub(super) fn is_talking(&self) -> bool {
        matches!(self.stage, Stage::Talking { .. })
    }

    /// What is known of the guest, while it speaks on this connection.
    pub(super) fn conversation(&self, now: Moment) -> Option<Conversation> {
        let Stage::Talking { build } = &self.stage else {
            return None;
        };
        Some(Conversation {
            session: self.token,
            build: build.clone(),
            applied: self.feeders.get(&StreamId::SESSION).and_then(Feeder::at),
            heard_ms_ago: now.since(self.heard),
        })
    }

    /// Tells the guest to go. The connection ends when it has read that, or soon.
    pub(super) fn send_away(&mut self, reason: &str, reconnect_after_ms: u32, now: Moment) {
        if matches!(self.stage, Stage::Leaving { .. }) {
            return;
        }
        self.core.go_away(reason, reconnect_after_ms, now);
        self.stage = Stage::Leaving {
            until: Moment(now.0 + LEAVE_MS),
        };
        self.feeders.clear();
        self.pending.clear();
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Moment) -> Result<(), End> {
        match self.stage {
            Stage::Leaving { until } if until <= now => Err(End::Sent),
            Stage::Leaving { .. } => Ok(()),
            _ => self.core.tick(now).map_err(End::Fault),
        }
    }
}

/// What a guest says of itself, fit for a log and for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
