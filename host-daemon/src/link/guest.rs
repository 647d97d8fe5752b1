//! What there is of a guest beside its connection: its channel, its incarnation, its budgets and its counts.

use std::sync::Arc;

use moorline_shared::link::Moment;
use moorline_shared::{InstanceId, Revision};

use super::admission::Gate;
use super::ask::Errand;
use super::budget::{Account, Bucket, Upstream};
use super::grants::Grants;
use super::log::Log;
use super::poll::Token;
use super::room::{Place, Room, Waiting};
use crate::channel::HybridListener;
use crate::config::LinkConfig;

/// How many connections are taken in at once, and how long until one more is, in milliseconds. So the agent has 32 ms at
/// least in which to answer its challenge, however often other processes of its guest connect; and they cost the host a
/// hundredth of a core.
const KNOCKS: u32 = 32;
const KNOCK_INTERVAL_MS: u32 = 1;

/// How many bytes of whole views a guest is sent on watches at once, and how many more each millisecond. To make them costs
/// the host far more than to ask for them and not to want them any more costs the guest.
const SNAPSHOT_BYTES: u64 = 8 * 1024 * 1024;
const SNAPSHOT_BYTES_PER_MS: u64 = 4 * 1024;

/// A guest of the shard.
#[derive(Debug)]
pub(super) struct Guest {
    /// The life of its VM; 0 before the first.
    pub(super) incarnation: u64,
    pub(super) listening: Option<Listening>,
    /// The CID of this life, where its connections arrive over `AF_VSOCK`.
    pub(super) cid: Option<u32>,
    /// What its HELLOs have to pass.
    pub(super) gate: Gate,
    /// Whether connections are its own: between the begin and the end of a life.
    pub(super) alive: bool,
    /// The connection on which it said HELLO.
    pub(super) talking: Option<Token>,
    /// Connections without HELLO.
    pub(super) greeting: Waiting,
    /// Its place on the host, for as long as a life of its VM goes on.
    pub(super) place: Option<Place>,
    /// How often it may connect, whoever it is in there that does.
    pub(super) knocks: Bucket,
    /// How often it may begin to speak.
    pub(super) connects: Bucket,
    /// What the whole views cost that it was sent on watches.
    pub(super) snapshots: Account,
    reads: Upstream,
    relays: Upstream,
    /// How often the log tells of it.
    pub(super) log: Log,
    /// What ended connections asked for.
    pub(super) requests: Requests,
    /// What it is given in this life.
    pub(super) grants: Grants,
}

/// The guest's own socket.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: HybridListener,
    pub(super) token: Token,
    /// It is not listened to for a while.
    pub(super) paused: bool,
}

impl Listening {
    /// Which is listened to.
    pub(super) const fn new(listener: HybridListener, token: Token) -> Self {
        Self {
            listener,
            token,
            paused: false,
        }
    }
}

impl Guest {
    pub(super) fn new(config: &LinkConfig, room: Arc<Room>, now: Moment) -> Self {
        let (streams, requests) = (usize::from(config.streams), usize::from(config.requests));
        Self {
            incarnation: 0,
            listening: None,
            cid: None,
            gate: Gate::Closed,
            alive: false,
            talking: None,
            greeting: Waiting::new(room),
            place: None,
            knocks: Bucket::new(KNOCKS, KNOCK_INTERVAL_MS, now),
            connects: Bucket::new(config.connect_burst, config.connect_interval_ms, now),
            snapshots: Account::new(SNAPSHOT_BYTES, SNAPSHOT_BYTES_PER_MS, now),
            reads: Upstream::new(streams + requests, config.upstream_per_second, now),
            relays: Upstream::new(streams, config.relays_per_second, now),
            log: Log::new(now),
            requests: Requests::default(),
            grants: Grants::default(),
        }
    }

    /// Another life of its VM begins, in which it has nothing yet.
    pub(super) fn begin(&mut self, incarnation: u64, cid: Option<u32>, gate: Gate) {
        (self.incarnation, self.alive) = (incarnation, true);
        (self.cid, self.gate) = (cid, gate);
        self.grants = Grants::default();
    }

    /// What the guest asks of the control plane, of one kind.
    pub(super) fn upstream(&mut self, errand: Errand) -> &mut Upstream {
        match errand {
            Errand::Read => &mut self.reads,
            Errand::Relay => &mut self.relays,
        }
    }

    /// A connection was accepted; returns the one that has to go for it. The one that waits for the link key stays.
    pub(super) fn greet(&mut self, token: Token) -> Option<Token> {
        self.greeting.push(token, self.gate.claimant())
    }

    /// A connection said HELLO; returns the one that it takes the place of.
    pub(super) fn welcome(&mut self, token: Token) -> Option<Token> {
        self.greeting.remove(token);
        self.talking.replace(token)
    }

    /// A connection ended.
    pub(super) fn leave(&mut self, token: Token) {
        self.greeting.remove(token);
        self.gate.leave(token);
        if self.talking == Some(token) {
            self.talking = None;
        }
    }

    /// All its connections.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.greeting.iter().chain(self.talking).collect()
    }
}

/// What is known of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestStatus {
    /// Whose.
    pub instance: InstanceId,
    /// The life of its VM; 0 before the first.
    pub incarnation: u64,
    /// Its connection, while it has one.
    pub conversation: Option<Conversation>,
    /// Where its own view stands; `None` before the feed brought it.
    pub revision: Option<Revision>,
    /// How many entries its own view has.
    pub entries: usize,
    /// How many bytes all its views take, foreign ones included.
    pub bytes: usize,
    /// How many views it has of other instances.
    pub foreign_views: usize,
    /// What it asked for since the daemon started.
    pub requests: Requests,
}

/// A guest's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The session's number, as in logs.
    pub session: u64,
    /// What its agent calls itself, without control characters.
    pub build: String,
    /// Where its mirror stands.
    pub applied: Option<Revision>,
    /// How long ago it was last heard of, in milliseconds.
    pub heard_ms_ago: u64,
}

/// How often a guest asked for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// GET frames.
    pub gets: u64,
    /// LIST frames.
    pub lists: u64,
    /// WATCH frames.
    pub watches: u64,
    /// RELAY frames.
    pub relays: u64,
    /// How many of all these were refused, for whatever reason.
    pub refused: u64,
    /// Connections that ended by the guest's fault.
    pub faults: u64,
}

impl Requests {
    pub(super) fn add(&mut self, other: Self) {
        self.gets += other.gets;
        self.lists += other.lists;
        self.watches += other.watches;
        self.relays += other.relays;
        self.refused += other.refused;
        self.faults += other.faults;
    }
}
