//! One connection: its socket, its session, and the bounds on both. [`greeting`] is how a session begins.

mod greeting;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use moorline_shared::InstanceId;
use moorline_shared::link::body::Hello;
use moorline_shared::link::session::{Fault, Host, HostEvent};
use moorline_shared::link::{Moment, StreamId};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::answer::Pending;
use super::desk::Desk;
use super::guest::{Conversation, Requests};
use super::poll::{Interest, Ready, Token};
use super::push::Feeder;
use super::standing::Gist;

/// A guest is not read from while more than so many bytes of answers wait for it.
const MAX_BACKLOG: usize = 256 * 1024;
/// The most bytes in one write: vsock of some kernels stalls on more.
const MAX_WRITE: usize = 32 * 1024;
/// How many bytes are written before the other guests have their turn.
const TURN_BYTES: usize = 256 * 1024;
/// How often answers are made from what is read already before the other guests have their turn.
const TURN_ROUNDS: usize = 4;
/// How long a guest that was told to go may take to read it.
const LEAVE_MS: u64 = 1_000;

/// A connection of a guest.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) token: Token,
    pub(super) instance: InstanceId,
    pub(super) requests: Requests,
    pub(super) core: Host,
    pub(super) feeders: BTreeMap<StreamId, Feeder>,
    pub(super) pending: BTreeMap<StreamId, Pending>,
    /// What the guest was told last of how far its mirror can be trusted.
    pub(super) told: Option<Gist>,
    /// Whether a follower may have become ready for its next batch, or waits until its guest may have one.
    pub(super) feed_due: bool,
    /// Whether the shard goes on with it in its next turn.
    pub(super) goes_on: bool,
    socket: OwnedFd,
    /// What was read and not handled: a piece of a frame, or what came while too many answers waited.
    unhandled: Vec<u8>,
    held_back: bool,
    interest: Interest,
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
pub(super) enum End {
    #[error("the guest hung up")]
    HungUp,
    #[error("the guest left: {0}")]
    Left(String),
    #[error("the guest was told to go")]
    Sent,
    #[error("{0}")]
    Fault(Fault),
    #[error("{0}")]
    Socket(Errno),
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) progress: Progress,
    /// What the socket has to be waited for from now on, if that is something else than before.
    pub(super) interest: Option<Interest>,
    pub(super) rest: Rest,
}

/// What a turn brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    /// The guest said HELLO and is welcome.
    Welcomed,
}

/// Whether a turn ended before everything was done that could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    None,
    More,
}

/// How far writing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Everything that may go has gone.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// Others have their turn.
    Enough,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filled {
    bytes: usize,
    /// The buffer was filled, so there may be more.
    rest: Rest,
}

impl Conn {
    /// A connection was accepted.
    pub(super) fn new(
        token: Token,
        instance: InstanceId,
        socket: OwnedFd,
        nonce: [u8; 16],
        desk: &Desk,
    ) -> Self {
        Self {
            token,
            instance,
            requests: Requests::default(),
            core: Host::new(desk.link.limits(), nonce, desk.now),
            feeders: BTreeMap::new(),
            pending: BTreeMap::new(),
            told: None,
            feed_due: false,
            goes_on: false,
            socket,
            unhandled: Vec::new(),
            held_back: false,
            interest: Interest::READ,
            stage: Stage::Greeting,
            heard: desk.now,
        }
    }

    /// The socket, for the shard's epoll instance.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The socket has become ready: reads, answers, writes.
    pub(super) fn on_ready(&mut self, ready: Ready, buffer: &mut [u8], desk: &mut Desk) -> Result<Turn, End> {
        if ready.broken && !self.interest.read {
            return Err(End::HungUp);
        }
        let mut filled = if ready.read && self.interest.read {
            self.read(buffer)?
        } else {
            self.take_up(buffer)
        };
        if ready.ended {
            // The end is said once, together with what came before it.
            filled.rest = Rest::More;
        }
        self.turn(buffer, filled, desk)
    }

    /// The last turn left something to do.
    pub(super) fn resume(&mut self, buffer: &mut [u8], desk: &mut Desk) -> Result<Turn, End> {
        let filled = if self.interest.read {
            self.read(buffer)?
        } else {
            self.take_up(buffer)
        };
        self.turn(buffer, filled, desk)
    }

    /// Something happened elsewhere: sends what there is to send.
    pub(super) fn nudge(&mut self, buffer: &mut [u8], desk: &mut Desk) -> Result<Turn, End> {
        let filled = self.take_up(buffer);
        self.turn(buffer, filled, desk)
    }

    /// Puts what is unhandled into the buffer.
    fn take_up(&mut self, buffer: &mut [u8]) -> Filled {
        let bytes = self.unhandled.len();
        buffer[..bytes].copy_from_slice(&self.unhandled);
        let rest = Rest::None;
        Filled { bytes, rest }
    }

    /// The same, and behind it what can be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Filled, End> {
        let kept = self.take_up(buffer);
        let room = &mut buffer[kept.bytes..];
        let most = room.len();
        match rustix::net::recv(&self.socket, room, RecvFlags::empty()) {
            Ok((_, 0)) if most > 0 => Err(End::HungUp),
            Ok((_, count)) => Ok(Filled {
                bytes: kept.bytes + count,
                rest: if count == most { Rest::More } else { Rest::None },
            }),
            Err(Errno::AGAIN) => Ok(kept),
            Err(Errno::INTR) => Ok(Filled {
                rest: Rest::More,
                ..kept
            }),
            Err(error) => Err(End::Socket(error)),
        }
    }

    fn turn(&mut self, buffer: &[u8], filled: Filled, desk: &mut Desk) -> Result<Turn, End> {
        let (mut at, mut progress) = (0, Progress::Nothing);
        let mut written = Written::All;
        for _ in 0..TURN_ROUNDS {
            let (taken, welcomed) = self.handle(&buffer[at..filled.bytes], desk)?;
            at += taken;
            if welcomed == Progress::Welcomed {
                progress = welcomed;
            }
            self.feed(desk);
            written = self.write(desk.now)?;
            if !self.held_back || written != Written::All {
                break;
            }
        }
        self.keep(&buffer[at..filled.bytes]);
        let leaving = matches!(self.stage, Stage::Leaving { .. });
        if written == Written::All && leaving {
            return Err(End::Sent);
        }
        let unfinished = written == Written::Enough || (self.held_back && written == Written::All);
        let interest = Interest {
            read: !self.held_back && !leaving,
            write: written == Written::Blocked,
        };
        Ok(Turn {
            progress,
            interest: (std::mem::replace(&mut self.interest, interest) != interest).then_some(interest),
            rest: if unfinished { Rest::More } else { filled.rest },
        })
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

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            // An idle connection holds no buffer.
            self.unhandled = Vec::new();
        } else {
            self.unhandled.clear();
            self.unhandled.extend_from_slice(rest);
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

    fn write(&mut self, now: Moment) -> Result<Written, End> {
        let mut left = TURN_BYTES;
        loop {
            let output = self.core.outbox().output();
            if output.is_empty() {
                return Ok(Written::All);
            }
            if left == 0 {
                return Ok(Written::Enough);
            }
            let piece = &output[..output.len().min(MAX_WRITE).min(left)];
            let size = piece.len();
            match rustix::net::send(&self.socket, piece, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.core.outbox().wrote(count, now);
                    left -= count;
                    if count < size {
                        return Ok(Written::Blocked);
                    }
                }
                Err(Errno::AGAIN) => return Ok(Written::Blocked),
                Err(Errno::INTR) => {}
                Err(error) => return Err(End::Socket(error)),
            }
        }
    }
}

/// What a guest says of itself, fit for a log and for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
