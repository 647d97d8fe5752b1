//! The host's end: answers requests, pushes batches.
//!
//! Here are the states, the frames' ways, the batches and the timers; `answering` says what the guest asked for, and
//! `telling` what nobody did.

mod answering;
mod telling;

use std::collections::{BTreeMap, BTreeSet};

pub use answering::Deferred;
pub use telling::Told;

use super::inbox::Assembly;
use super::outbox::{Batch, Outbox};
use super::{DEAD_MS, Fault, PATIENCE_MS, body, code, unexpected};
use crate::entry::Value;
use crate::link::Moment;
use crate::link::body::{
    Applied, Beat, Challenge, Code, Credit, Differs, Ended, Get, GoAway, Hello, HelloAck, Limits, List, Poll,
    Relay, Watch,
};
use crate::link::frame::{self, Frame, Last, MAX_BODY, MAX_BODY_BEFORE_HELLO, StreamId};
use crate::link::kind::{Kind, KindSet};
use crate::link::proof;
use crate::revision::Revision;
use crate::secret::SecretKey;

/// The host's end of one connection.
#[derive(Debug)]
pub struct Host {
    outbox: Outbox,
    limits: Limits,
    state: State,
    nonce: [u8; 16],
    streams: BTreeMap<StreamId, Stream>,
    /// Relays that are answered, and whose answers may have pieces left to send.
    replying: BTreeSet<StreamId>,
    push: Push,
    pulls: Pulls,
    /// A DIGEST went out, which the guest may contradict once.
    compared: bool,
    heard: Moment,
    /// Since when the frame that is coming in is not whole.
    partial: Option<Moment>,
}

#[derive(Debug)]
enum State {
    AwaitHello { since: Moment },
    Open { kinds: KindSet },
}

/// What the guest has open besides requests that are answered at once.
#[derive(Debug)]
enum Stream {
    /// A request whose answer is being fetched.
    Asked,
    /// A relayed request whose body is still coming in.
    Relaying {
        head: Relay,
        body: Assembly,
    },
    /// A relayed request on its way to the control plane.
    Relayed,
    Watch(Push),
}

/// Whether a stream of batches can take the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Push {
    Ready,
    AwaitApplied(Revision),
}

/// When batches go to the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulls {
    /// Whenever there is something.
    Pushed,
    /// Once the guest has asked.
    Answered,
    /// Now: the guest has asked.
    Asked,
}

/// What a guest said that its host must act on.
#[derive(Debug, PartialEq, Eq)]
pub enum HostEvent<'a> {
    /// The first frame. The driver judges it and calls [`Host::welcome`] or hangs up.
    Hello(Hello),
    /// Answer with [`Host::found`], [`Host::refuse`] or [`Host::busy`], or [`Host::defer`] it.
    Get(StreamId, Get<'a>),
    /// Answer with [`Host::listing`], [`Host::refuse`] or [`Host::busy`], or [`Host::defer`] it.
    List(StreamId, List),
    /// Batches are wanted on this stream: [`Host::batch`] until the stream is cancelled.
    Watch(StreamId, Watch),
    /// A whole relayed request; answer with [`Host::relayed`] or [`Host::refuse`].
    Relay(StreamId, Relay),
    /// The guest's mirror (stream 0) or watch stands at this revision, and the next batch may go.
    Applied(StreamId, Revision),
    /// What has changed of the mirror? Answer with [`Host::as_of`], and with [`Host::batch`] on stream 0 before it if there
    /// is something.
    Poll,
    /// The guest's mirror isn't what [`Host::digest`] said: a snapshot is to replace it.
    Differs(Differs),
    /// The guest no longer wants the stream; nothing may be sent on it.
    Cancelled(StreamId, Code),
    /// The guest leaves.
    GoAway(GoAway),
}

/// What [`Host::receive`] found at the start of its input.
#[derive(Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// How many bytes the frame took; 0 if no frame is whole yet.
    pub taken: usize,
    /// What the driver must act on, if anything.
    pub event: Option<HostEvent<'a>>,
}

impl Host {
    /// A connection was accepted at `now`; the challenge carries `nonce`.
    pub fn new(limits: Limits, nonce: [u8; 16], now: Moment) -> Self {
        let mut outbox = Outbox::new(limits.credit);
        outbox.control(
            Kind::Challenge,
            StreamId::SESSION,
            Last::No,
            &Challenge { nonce },
            now,
        );
        Self {
            outbox,
            limits,
            state: State::AwaitHello { since: now },
            nonce,
            streams: BTreeMap::new(),
            replying: BTreeSet::new(),
            push: Push::Ready,
            pulls: Pulls::Pushed,
            compared: false,
            heard: now,
            partial: None,
        }
    }

    /// What is to be written; see [`Outbox::output`] and [`Outbox::wrote`].
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Takes the first frame of `input`. A fault ends the connection.
    pub fn receive<'a>(&mut self, input: &'a [u8], now: Moment) -> Result<Incoming<'a>, Fault> {
        let most = if self.is_open() {
            MAX_BODY
        } else {
            MAX_BODY_BEFORE_HELLO
        };
        let Some((frame, taken)) = frame::decode(input, most)? else {
            if !input.is_empty() {
                self.partial.get_or_insert(now);
            }
            return Ok(Incoming {
                taken: 0,
                event: None,
            });
        };
        self.heard = now;
        self.partial = None;
        let event = if self.is_open() {
            self.frame(&frame, now)?
        } else {
            Some(Self::first_frame(&frame)?)
        };
        Ok(Incoming { taken, event })
    }

    /// Whether the HELLO of this connection was made with the key.
    pub fn proves(&self, hello: &Hello, key: &SecretKey) -> bool {
        let proof = hello.proof.as_ref();
        proof.is_some_and(|proof| proof::proves(key, &self.nonce, proof))
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn first_frame<'a>(frame: &Frame<'a>) -> Result<HostEvent<'a>, Fault> {
        if frame.kind != Kind::Hello || frame.stream != StreamId::SESSION {
            return Err(unexpected(frame));
        }
        body(frame).map(HostEvent::Hello)
    }

    fn frame<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        if frame.stream == StreamId::SESSION {
            self.session_frame(frame, now)
        } else {
            self.stream_frame(frame, now)
        }
    }

    fn session_frame<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        match frame.kind {
            Kind::Ping => {
                let beat: Beat = body(frame)?;
                self.outbox
                    .control(Kind::Pong, StreamId::SESSION, Last::No, &beat, now);
                Ok(None)
            }
            Kind::Pong => body::<Beat>(frame).map(|_| None),
            Kind::GoAway => body(frame).map(HostEvent::GoAway).map(Some),
            Kind::Applied => self.applied(frame),
            Kind::Differs => self.differs(frame),
            Kind::Poll => self.poll(frame),
            Kind::Credit => self.credit(frame),
            _ => Err(unexpected(frame)),
        }
    }

    /// One question at a time, and none where everything is pushed.
    fn poll<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<HostEvent<'a>>, Fault> {
        body::<Poll>(frame)?;
        if self.pulls != Pulls::Answered {
            return Err(unexpected(frame));
        }
        self.pulls = Pulls::Asked;
        Ok(Some(HostEvent::Poll))
    }

    /// Each DIGEST is contradicted once at most, so that a guest has no snapshot after snapshot made for it.
    fn differs<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<HostEvent<'a>>, Fault> {
        let differs = body(frame)?;
        if !std::mem::take(&mut self.compared) {
            return Err(unexpected(frame));
        }
        Ok(Some(HostEvent::Differs(differs)))
    }

    fn stream_frame<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        match frame.kind {
            Kind::Get => self.open_get(frame, now),
            Kind::List => Ok(Some(HostEvent::List(self.open(frame)?, body(frame)?))),
            Kind::Watch => self.open_watch(frame, now),
            Kind::Relay => self.open_relay(frame, now),
            Kind::Data => self.data(frame, now),
            Kind::Applied => self.applied(frame),
            Kind::Credit => self.credit(frame),
            Kind::Cancel | Kind::Reset => self.cancelled(frame, now),
            _ => Err(unexpected(frame)),
        }
    }

    /// A request must open a free stream of the guest's.
    fn open(&self, frame: &Frame<'_>) -> Result<StreamId, Fault> {
        let free = frame.stream.is_guests() && !self.streams.contains_key(&frame.stream);
        if free && !self.outbox.is_sending(frame.stream) {
            Ok(frame.stream)
        } else {
            Err(unexpected(frame))
        }
    }

    /// Pieces of answers wait for their turn, so the answers that wait are bounded like the requests.
    fn open_get<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        let (stream, get) = (self.open(frame)?, body(frame)?);
        let bound = usize::from(self.limits.requests) + usize::from(self.limits.streams);
        if self.asked() + self.outbox.answering() >= bound {
            self.busy(stream, 1_000, now);
            return Ok(None);
        }
        Ok(Some(HostEvent::Get(stream, get)))
    }

    fn asked(&self) -> usize {
        let asked = |stream: &&Stream| matches!(stream, Stream::Asked);
        self.streams.values().filter(asked).count()
    }

    fn open_watch<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        self.open(frame)?;
        let watch = body(frame)?;
        if !self.has_room(now, frame.stream) {
            return Ok(None);
        }
        self.streams.insert(frame.stream, Stream::Watch(Push::Ready));
        Ok(Some(HostEvent::Watch(frame.stream, watch)))
    }

    fn open_relay<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        self.open(frame)?;
        let head: Relay = body(frame)?;
        let length = head.length as usize;
        if length > crate::entry::MAX_VALUE_BYTES * 2 {
            let message = format!(
                "the body has {length} bytes; the most is {}",
                crate::entry::MAX_VALUE_BYTES * 2
            );
            self.refuse(frame.stream, Code::TooMuch, &message, now);
            return Ok(None);
        }
        if !self.has_room(now, frame.stream) {
            return Ok(None);
        }
        let mut assembly = Assembly::new(frame.stream, length);
        assembly.add(head.body.bytes())?;
        if assembly.is_whole() {
            self.streams.insert(frame.stream, Stream::Relayed);
            return Ok(Some(HostEvent::Relay(frame.stream, head)));
        }
        self.streams
            .insert(frame.stream, Stream::Relaying { head, body: assembly });
        Ok(None)
    }

    /// Watches and relays count against the bound on streams until their last frame; over it the guest is told to come
    /// back.
    fn has_room(&mut self, now: Moment, stream: StreamId) -> bool {
        self.replying.retain(|stream| self.outbox.is_sending(*stream));
        let long = self.streams.len() - self.asked() + self.replying.len();
        let room = long < usize::from(self.limits.streams);
        if !room {
            self.busy(stream, 1_000, now);
        }
        room
    }

    fn data<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        // Pieces of a relay that was refused may still be under way.
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return Ok(None);
        };
        let Stream::Relaying { body, .. } = stream else {
            return Err(unexpected(frame));
        };
        body.add(frame.body)?;
        if let Some(bytes) = body.due_credit(self.limits.credit) {
            self.outbox
                .control(Kind::Credit, frame.stream, Last::No, &Credit { bytes }, now);
        }
        if !body.is_whole() {
            return Ok(None);
        }
        let Stream::Relaying { mut head, body } = std::mem::replace(stream, Stream::Relayed) else {
            return Err(unexpected(frame));
        };
        head.body = Value::from(body.into_bytes());
        Ok(Some(HostEvent::Relay(frame.stream, head)))
    }

    fn applied<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<HostEvent<'a>>, Fault> {
        let Applied { revision } = body(frame)?;
        let open = frame.stream == StreamId::SESSION || self.streams.contains_key(&frame.stream);
        if !open {
            // The watch was ended while this was under way.
            return Ok(None);
        }
        // Nobody has what was not sent: to believe a guest that grants no credit is to keep batch upon batch for it.
        let sent = !self.outbox.is_sending(frame.stream);
        let push = self.push_of(frame.stream).ok_or_else(|| unexpected(frame))?;
        if *push != Push::AwaitApplied(revision) || !sent {
            return Err(unexpected(frame));
        }
        *push = Push::Ready;
        Ok(Some(HostEvent::Applied(frame.stream, revision)))
    }

    fn push_of(&mut self, stream: StreamId) -> Option<&mut Push> {
        if stream == StreamId::SESSION {
            return Some(&mut self.push);
        }
        match self.streams.get_mut(&stream) {
            Some(Stream::Watch(push)) => Some(push),
            _ => None,
        }
    }

    fn credit<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<HostEvent<'a>>, Fault> {
        let Credit { bytes } = body(frame)?;
        self.outbox.grant(frame.stream, bytes);
        Ok(None)
    }

    /// The guest may have asked before our last frame reached it, so a stream that is gone is no fault.
    fn cancelled<'a>(&mut self, frame: &Frame<'a>, now: Moment) -> Result<Option<HostEvent<'a>>, Fault> {
        let ended: Ended = body(frame)?;
        let sending = self.outbox.is_sending(frame.stream);
        self.outbox.forget(frame.stream);
        let open = self.streams.remove(&frame.stream).is_some();
        if open || sending {
            self.reset(frame.stream, Code::Cancelled, now);
        }
        Ok(open.then(|| HostEvent::Cancelled(frame.stream, code(ended))))
    }

    /// Ends a stream before its time: the guest hears nothing more on it. It goes behind the answers, one of which may
    /// be this stream's.
    fn reset(&mut self, stream: StreamId, code: Code, now: Moment) {
        self.outbox
            .answer(Kind::Reset, stream, Last::Yes, &Ended { code: code as u16 }, now);
    }

    /// Begins the session: the guest is who `ack` says.
    pub fn welcome(&mut self, hello: &Hello, ack: &HelloAck, now: Moment) {
        self.limits = ack.limits;
        self.outbox.set_credit(ack.limits.credit);
        self.outbox
            .control(Kind::HelloAck, StreamId::SESSION, Last::No, ack, now);
        self.state = State::Open { kinds: hello.kinds };
    }

    /// Whether the guest understands `kind`; nothing else is sent.
    pub fn understands(&self, kind: Kind) -> bool {
        matches!(&self.state, State::Open { kinds } if kinds.has(kind))
    }

    /// Whether the stream is still open.
    #[cfg(test)]
    pub(super) fn awaits(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Whether the next batch may be sent on the stream: never to a guest that doesn't understand batches, and to the
    /// mirror of one that has to ask only when it has.
    pub fn can_push(&mut self, stream: StreamId) -> bool {
        let batches = [Kind::Begin, Kind::Part, Kind::Commit];
        let waits = stream == StreamId::SESSION && self.pulls == Pulls::Answered;
        !waits
            && batches.into_iter().all(|kind| self.understands(kind))
            && self.push_of(stream).is_some_and(|push| *push == Push::Ready)
    }

    /// Whether no batch is under way to the mirror.
    pub fn is_settled(&self) -> bool {
        self.push == Push::Ready
    }

    /// Whether the guest has asked what changed of its mirror, and waits for the answer.
    pub fn is_asked(&self) -> bool {
        self.pulls == Pulls::Asked
    }

    /// Sends a batch: on stream 0 for the mirror, on a watch's stream for the watch. Call [`Self::can_push`] first; a
    /// batch that comes too early is not sent.
    pub fn batch(&mut self, stream: StreamId, batch: Batch) {
        if !self.can_push(stream) {
            return;
        }
        if let Some(push) = self.push_of(stream) {
            *push = Push::AwaitApplied(batch.to);
        }
        self.outbox.batch(stream, batch);
    }

    /// Time passes. A fault ends the connection; call this at least once a second.
    pub fn tick(&mut self, now: Moment) -> Result<(), Fault> {
        self.outbox.rest();
        if let State::AwaitHello { since } = self.state
            && now.since(since) > PATIENCE_MS
        {
            return Err(Fault::NoHello);
        }
        if self.partial.is_some_and(|since| now.since(since) > PATIENCE_MS) {
            return Err(Fault::Slow);
        }
        if now.since(self.heard) > DEAD_MS {
            return Err(Fault::Silent);
        }
        // An agent grants credit as bytes come, whatever reads them in its guest: only one that wants the host to keep its
        // answers for ever grants none.
        if self.outbox.stuck_for(now).max(self.outbox.starved_for(now)) > DEAD_MS {
            Err(Fault::NotReading)
        } else {
            Ok(())
        }
    }
}
