//! The guest's end: asks, and applies what is pushed.
//!
//! Here are the states, the frames' ways and the timers; `asking` sends, `answers` and `batches` take what comes, `polls`
//! asks for what is not pushed.

mod answers;
mod asking;
mod batches;
mod polls;

use std::collections::BTreeMap;

use super::inbox::Assembly;
use super::outbox::Outbox;
use super::{DEAD_MS, DEFAULT_LIMITS, Fault, PATIENCE_MS, body, code, unexpected};
use crate::link::Moment;
use crate::link::body::{
    AsOf, Beat, Challenge, Code, Credential, Credit, Found, GoAway, HelloAck, Item, Limits, LinkKey, Listing,
    MirrorDigest, Pull, Refused, Relayed, Secrets, Session, SessionOver, Standing,
};
use crate::link::frame::{self, Frame, Last, MAX_BODY, StreamId};
use crate::link::kind::{Kind, KindSet};
use crate::revision::Revision;

pub use asking::AskError;
use batches::Batches;
use polls::Asking;

/// The guest's end of one connection.
#[derive(Debug)]
pub struct Guest {
    outbox: Outbox,
    state: State,
    limits: Limits,
    heartbeat_ms: u64,
    streams: BTreeMap<StreamId, Stream>,
    /// What SECRETS said of what comes next on a stream.
    marked: BTreeMap<StreamId, Secrets>,
    push: Batches,
    /// How the host has the mirror asked for, if it doesn't push.
    asking: Option<Asking>,
    heard: Moment,
    beat: Moment,
    beats: u64,
    partial: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitChallenge { since: Moment },
    AwaitAck { since: Moment },
    Open { kinds: KindSet },
}

/// What the guest has open.
#[derive(Debug)]
enum Stream {
    Get,
    FoundPart {
        head: Found<'static>,
        body: Assembly,
    },
    List,
    Relay,
    RelayedPart {
        head: Relayed,
        body: Assembly,
    },
    Watch(Batches),
    /// Cancelled; whatever still comes until the host ends the stream is let go.
    Closing(Bound),
}

/// Which of the host's [`Limits`] a request counts against, until the host has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A watch or a relay: `streams`.
    Streams,
    /// Any other: `requests`.
    Requests,
}

impl Stream {
    fn bound(&self) -> Bound {
        match self {
            Self::Watch(_) | Self::Relay | Self::RelayedPart { .. } => Bound::Streams,
            Self::Get | Self::FoundPart { .. } | Self::List => Bound::Requests,
            Self::Closing(bound) => *bound,
        }
    }
}

/// What the host said that the guest's driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// Answer with [`Guest::hello`].
    Challenge([u8; 16]),
    /// The session is open.
    Ready(HelloAck),
    /// Apply it and say [`Guest::applied`]. `from: None` replaces everything.
    Batch {
        /// 0 for the mirror, otherwise the watch.
        stream: StreamId,
        /// What it builds on; `None` for a snapshot.
        from: Option<Revision>,
        /// Where the mirror stands then.
        to: Revision,
        /// What changed.
        items: Vec<Item>,
        /// Which of these are secret.
        secrets: Secrets,
    },
    /// The entry that was asked for, whole. It is secret if the place 0 is marked.
    Found(StreamId, Found<'static>, Secrets),
    /// The page that was asked for, and which of its entries are secret.
    Listing(StreamId, Listing, Secrets),
    /// The control plane's answer, whole.
    Relayed(StreamId, Relayed),
    /// The request was not done.
    Refused(StreamId, Refused),
    /// The request was not begun; ask again after so many milliseconds.
    Busy(StreamId, u32),
    /// The stream ended before its time. On stream 0 with [`Code::Denied`], before [`Self::Ready`]: the host doesn't
    /// believe the proof that HELLO had, or misses one; GOAWAY follows.
    Ended(StreamId, Code),
    /// How far the mirror can be trusted from now on.
    Standing(Standing),
    /// The instance's token from now on; the one before is good until it expires.
    Session(Session),
    /// The instance's token is worth nothing any more.
    SessionOver(SessionOver),
    /// A role's credentials from now on, or that there are none any more.
    Credential(Credential),
    /// What proofs are to be made with from the next connection on; keep it where only root reads it.
    LinkKey(LinkKey),
    /// The mirror is not pushed to from now on: [`Guest`] asks by itself.
    Pull(Pull),
    /// Of when the mirror is, once it stands where this says.
    AsOf(AsOf),
    /// What the mirror is if nothing went wrong: if it is something else, say [`Guest::differs`].
    Digest(MirrorDigest),
    /// The host ends the connection.
    GoAway(GoAway),
}

/// What [`Guest::receive`] found at the start of its input.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes the frame took; 0 if no frame is whole yet.
    pub taken: usize,
    /// What the driver must act on, if anything.
    pub event: Option<GuestEvent>,
}

impl Guest {
    /// A connection was made at `now`.
    pub fn new(now: Moment) -> Self {
        Self {
            outbox: Outbox::new(DEFAULT_LIMITS.credit),
            state: State::AwaitChallenge { since: now },
            limits: DEFAULT_LIMITS,
            heartbeat_ms: u64::from(super::HEARTBEAT_MS),
            streams: BTreeMap::new(),
            marked: BTreeMap::new(),
            push: Batches::default(),
            asking: None,
            heard: now,
            beat: now,
            beats: 0,
            partial: None,
        }
    }

    /// What is to be written; see [`Outbox::output`] and [`Outbox::wrote`].
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Takes the first frame of `input`. A fault ends the connection; it is one if nothing had come for too long before.
    pub fn receive(&mut self, input: &[u8], now: Moment) -> Result<Received, Fault> {
        // A machine that stood still finds in its socket what was said long ago. That is no news, and its host has given
        // it up by now.
        if !input.is_empty() && now.since(self.heard) > self.patience_ms() {
            return Err(Fault::Silent);
        }
        let Some((frame, taken)) = frame::decode(input, MAX_BODY)? else {
            if !input.is_empty() {
                self.partial.get_or_insert(now);
            }
            return Ok(Received {
                taken: 0,
                event: None,
            });
        };
        self.heard = now;
        self.partial = None;
        let event = match self.state {
            State::AwaitChallenge { .. } => Some(challenge(&frame)?),
            State::AwaitAck { .. } => self.ready(&frame)?,
            State::Open { .. } => self.frame(&frame, now)?,
        };
        Ok(Received { taken, event })
    }

    fn ready(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
        if frame.kind == Kind::GoAway {
            return body(frame).map(GuestEvent::GoAway).map(Some);
        }
        if frame.kind == Kind::Reset && frame.stream == StreamId::SESSION {
            return Ok(Some(GuestEvent::Ended(frame.stream, code(body(frame)?))));
        }
        if frame.kind != Kind::HelloAck || frame.stream != StreamId::SESSION {
            return Err(unexpected(frame));
        }
        let ack: HelloAck = body(frame)?;
        self.limits = ack.limits;
        self.outbox.set_credit(ack.limits.credit);
        self.heartbeat_ms = u64::from(ack.heartbeat_ms.max(1_000));
        self.state = State::Open { kinds: ack.kinds };
        Ok(Some(GuestEvent::Ready(ack)))
    }

    fn frame(&mut self, frame: &Frame<'_>, now: Moment) -> Result<Option<GuestEvent>, Fault> {
        match frame.kind {
            Kind::Ping => {
                let beat: Beat = body(frame)?;
                self.outbox
                    .control(Kind::Pong, StreamId::SESSION, Last::No, &beat, now);
                Ok(None)
            }
            Kind::Pong => body::<Beat>(frame).map(|_| None),
            Kind::GoAway => body(frame).map(GuestEvent::GoAway).map(Some),
            Kind::Standing
            | Kind::Session
            | Kind::SessionOver
            | Kind::Credential
            | Kind::LinkKey
            | Kind::Digest
            | Kind::Pull
            | Kind::AsOf
                if frame.stream == StreamId::SESSION =>
            {
                let event = told(frame)?;
                self.asked(&event, now);
                Ok(Some(event))
            }
            Kind::Credit => {
                let Credit { bytes } = body(frame)?;
                self.outbox.grant(frame.stream, bytes);
                Ok(None)
            }
            Kind::Secrets => self.secrets(frame),
            Kind::Begin => self.begin(frame),
            Kind::Part => self.part(frame, now),
            Kind::Commit => self.commit(frame),
            _ => self.answer(frame, now),
        }
    }

    /// What is marked comes next on the stream, where nothing is marked yet and entries may come.
    fn secrets(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
        let secrets = body(frame)?;
        let awaits = match self.streams.get(&frame.stream) {
            Some(Stream::Closing(_)) => return Ok(None),
            Some(Stream::Watch(batches)) => batches.is_between(),
            Some(Stream::Get | Stream::List) => true,
            None => frame.stream == StreamId::SESSION && self.push.is_between(),
            _ => false,
        };
        if awaits && frame.last == Last::No && self.marked.insert(frame.stream, secrets).is_none() {
            Ok(None)
        } else {
            Err(unexpected(frame))
        }
    }

    /// Takes what is marked of what has come on the stream.
    fn marked(&mut self, stream: StreamId) -> Secrets {
        self.marked.remove(&stream).unwrap_or_default()
    }

    /// Time passes: says PING when it is due. A fault ends the connection.
    pub fn tick(&mut self, now: Moment) -> Result<(), Fault> {
        self.outbox.rest();
        match self.state {
            State::AwaitChallenge { since } | State::AwaitAck { since } if now.since(since) > PATIENCE_MS => {
                return Err(Fault::NoWelcome);
            }
            State::Open { .. } if now.since(self.beat) >= self.heartbeat_ms => self.ping(now),
            _ => {}
        }
        self.poll_if_due(now);
        if self.partial.is_some_and(|since| now.since(since) > PATIENCE_MS) {
            return Err(Fault::Slow);
        }
        if now.since(self.heard) > self.patience_ms() {
            return Err(Fault::Silent);
        }
        if self.outbox.stuck_for(now) > DEAD_MS {
            Err(Fault::NotReading)
        } else {
            Ok(())
        }
    }

    /// When [`Self::tick`] has something to do next, if nothing comes before.
    pub fn next_tick(&self) -> Moment {
        let open = match self.state {
            State::AwaitChallenge { since } | State::AwaitAck { since } => since.0 + PATIENCE_MS + 1,
            State::Open { .. } => self.beat.0 + self.heartbeat_ms,
        };
        let whole = self.partial.map_or(u64::MAX, |since| since.0 + PATIENCE_MS + 1);
        let heard = self.heard.0 + self.patience_ms() + 1;
        let written = self
            .outbox
            .stuck_since()
            .map_or(u64::MAX, |since| since.0 + DEAD_MS + 1);
        Moment(open.min(whole).min(heard).min(written).min(self.next_poll()))
    }

    /// For how long the host may say nothing.
    fn patience_ms(&self) -> u64 {
        DEAD_MS.max(3 * self.heartbeat_ms)
    }

    fn ping(&mut self, now: Moment) {
        self.beat = now;
        self.beats += 1;
        self.outbox.control(
            Kind::Ping,
            StreamId::SESSION,
            Last::No,
            &Beat { number: self.beats },
            now,
        );
    }
}

fn challenge(frame: &Frame<'_>) -> Result<GuestEvent, Fault> {
    if frame.kind != Kind::Challenge || frame.stream != StreamId::SESSION {
        return Err(unexpected(frame));
    }
    body(frame).map(|Challenge { nonce }| GuestEvent::Challenge(nonce))
}

/// What the host says unasked and the driver keeps.
fn told(frame: &Frame<'_>) -> Result<GuestEvent, Fault> {
    match frame.kind {
        Kind::Standing => body(frame).map(GuestEvent::Standing),
        Kind::Session => body(frame).map(GuestEvent::Session),
        Kind::SessionOver => body(frame).map(GuestEvent::SessionOver),
        Kind::Credential => body(frame).map(GuestEvent::Credential),
        Kind::LinkKey => body(frame).map(GuestEvent::LinkKey),
        Kind::Digest => body(frame).map(GuestEvent::Digest),
        Kind::Pull => body(frame).map(GuestEvent::Pull),
        Kind::AsOf => body(frame).map(GuestEvent::AsOf),
        _ => Err(unexpected(frame)),
    }
}
