//! The guest's end: asks, and applies what is pushed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::inbox::Assembly;
use super::outbox::Outbox;
use super::{DEAD_MS, DEFAULT_LIMITS, Fault, PATIENCE_MS, body, unexpected};
use crate::digest::Digest;
use crate::entry::{MAX_VALUE_BYTES, Value};
use crate::link::Moment;
use crate::link::body::{
    Applied, Beat, Begin, Busy, Challenge, Code, Commit, Credit, Ended, Found, Get, GoAway, Hello, HelloAck,
    Item, Limits, List, Listing, Refused, Relay, Relayed, Watch,
};
use crate::link::frame::{self, Frame, Last, MAX_BODY, StreamId};
use crate::link::kind::{Kind, KindSet};
use crate::revision::Revision;

/// The guest's end of one connection.
#[derive(Debug)]
pub struct Guest {
    outbox: Outbox,
    state: State,
    limits: Limits,
    heartbeat_ms: u64,
    streams: BTreeMap<StreamId, Stream>,
    push: Batches,
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
    Closing,
}

/// The batches of a stream, one after the other. Their credit goes on counting from one to the next.
#[derive(Debug, Default)]
struct Batches {
    incomplete: Option<Incomplete>,
    /// What came in since the last grant, up to the last whole batch.
    ungranted: u32,
}

/// A batch whose COMMIT has not come.
#[derive(Debug)]
struct Incomplete {
    begin: Begin,
    content: Assembly,
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
    },
    /// The entry that was asked for, whole.
    Found(StreamId, Found<'static>),
    /// The page that was asked for.
    Listing(StreamId, Listing),
    /// The control plane's answer, whole.
    Relayed(StreamId, Relayed),
    /// The request was not done.
    Refused(StreamId, Refused),
    /// The request was not begun; ask again after so many milliseconds.
    Busy(StreamId, u32),
    /// The stream ended before its time.
    Ended(StreamId, Code),
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

/// A request could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The session is not open yet.
    #[error("the session with the host is not open")]
    NotOpen,
    /// As many requests or streams are open as the host allows.
    #[error("as many requests are open as the host allows")]
    TooMany,
    /// The host is of an older build.
    #[error("the host doesn't understand {0:?} frames")]
    NotUnderstood(Kind),
}

impl Guest {
    /// A connection was made at `now`.
    pub fn new(now: Moment) -> Self {
        Self {
            outbox: Outbox::new(DEFAULT_LIMITS.credit, now),
            state: State::AwaitChallenge { since: now },
            limits: DEFAULT_LIMITS,
            heartbeat_ms: u64::from(super::HEARTBEAT_MS),
            streams: BTreeMap::new(),
            push: Batches::default(),
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

    /// Takes the first frame of `input`. A fault ends the connection.
    pub fn receive(&mut self, input: &[u8], now: Moment) -> Result<Received, Fault> {
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
            Kind::Credit => {
                let Credit { bytes } = body(frame)?;
                self.outbox.grant(frame.stream, bytes);
                Ok(None)
            }
            Kind::Begin => self.begin(frame),
            Kind::Part => self.part(frame, now),
            Kind::Commit => self.commit(frame),
            _ => self.answer(frame, now),
        }
    }

    /// The batch coming in on the stream, if batches may come there at all. A watch being cancelled takes none.
    fn incoming(&mut self, frame: &Frame<'_>) -> Result<Option<&mut Batches>, Fault> {
        if frame.stream == StreamId::SESSION {
            return Ok(Some(&mut self.push));
        }
        match self.streams.get_mut(&frame.stream) {
            Some(Stream::Watch(batches)) => Ok(Some(batches)),
            Some(Stream::Closing) => Ok(None),
            _ => Err(unexpected(frame)),
        }
    }

    fn begin(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
        let begin: Begin = body(frame)?;
        let bound = self.limits.batch;
        let Some(batches) = self.incoming(frame)? else {
            return Ok(None);
        };
        if batches.incomplete.is_some() {
            return Err(unexpected(frame));
        }
        if begin.length > bound {
            return Err(Fault::TooMuch {
                stream: frame.stream,
                bound: u64::from(bound),
            });
        }
        let ungranted = std::mem::take(&mut batches.ungranted);
        batches.incomplete = Some(Incomplete {
            begin,
            content: Assembly::following(frame.stream, begin.length as usize, ungranted),
        });
        Ok(None)
    }

    fn part(&mut self, frame: &Frame<'_>, now: Moment) -> Result<Option<GuestEvent>, Fault> {
        let initial = self.limits.credit;
        let Some(batches) = self.incoming(frame)? else {
            return Ok(None);
        };
        let Some(incomplete) = &mut batches.incomplete else {
            return Err(unexpected(frame));
        };
        incomplete.content.add(frame.body)?;
        if let Some(bytes) = incomplete.content.due_credit(initial) {
            self.outbox
                .control(Kind::Credit, frame.stream, Last::No, &Credit { bytes }, now);
        }
        Ok(None)
    }

    fn commit(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
        let commit: Commit = body(frame)?;
        let Some(batches) = self.incoming(frame)? else {
            return Ok(None);
        };
        let Some(Incomplete { begin, content }) = batches.incomplete.take() else {
            return Err(unexpected(frame));
        };
        if !content.is_whole() || commit.to != begin.to {
            return Err(unexpected(frame));
        }
        batches.ungranted = content.ungranted();
        let content = content.into_bytes();
        if Digest::of(&content) != commit.digest {
            return Err(Fault::Digest);
        }
        let items = items(&content).ok_or(Fault::Body(Kind::Part))?;
        Ok(Some(GuestEvent::Batch {
            stream: frame.stream,
            from: begin.from,
            to: begin.to,
            items,
        }))
    }

    fn answer(&mut self, frame: &Frame<'_>, now: Moment) -> Result<Option<GuestEvent>, Fault> {
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return Err(unexpected(frame));
        };
        let id = frame.stream;
        let event = match (&mut *stream, frame.kind) {
            (Stream::Closing, _) => None,
            (_, Kind::Refused) => Some(GuestEvent::Refused(id, body(frame)?)),
            (_, Kind::Busy) => Some(GuestEvent::Busy(id, body::<Busy>(frame)?.retry_after_ms)),
            (_, Kind::Reset) => Some(GuestEvent::Ended(id, super::code(body::<Ended>(frame)?))),
            (Stream::List, Kind::Listing) => Some(GuestEvent::Listing(id, body(frame)?)),
            (Stream::Get, Kind::Found) => first_found(stream, frame)?,
            (Stream::Relay, Kind::Relayed) => first_relayed(stream, frame)?,
            (Stream::FoundPart { .. } | Stream::RelayedPart { .. }, Kind::Data) => {
                let (credit, event) = more(stream, frame, self.limits.credit)?;
                if let Some(bytes) = credit {
                    self.outbox
                        .control(Kind::Credit, id, Last::No, &Credit { bytes }, now);
                }
                event
            }
            _ => return Err(unexpected(frame)),
        };
        self.end_if_last(frame, event)
    }

    /// An answer and the end of its stream come together, or the peer lost its way.
    fn end_if_last(
        &mut self,
        frame: &Frame<'_>,
        event: Option<GuestEvent>,
    ) -> Result<Option<GuestEvent>, Fault> {
        match (frame.last, &event) {
            (Last::No, Some(_)) => Err(unexpected(frame)),
            (Last::No, None) => Ok(None),
            (Last::Yes, None) if !matches!(self.streams.get(&frame.stream), Some(Stream::Closing)) => {
                Err(unexpected(frame))
            }
            (Last::Yes, _) => {
                self.streams.remove(&frame.stream);
                self.outbox.forget(frame.stream);
                Ok(event)
            }
        }
    }

    /// Says who speaks. The driver makes `hello.proof` from the challenge, if it has a link key.
    pub fn hello(&mut self, hello: &Hello, now: Moment) {
        self.outbox
            .control(Kind::Hello, StreamId::SESSION, Last::No, hello, now);
        self.state = State::AwaitAck { since: now };
    }

    /// Asks for an entry.
    pub fn get(&mut self, get: &Get<'_>, now: Moment) -> Result<StreamId, AskError> {
        self.ask(Kind::Get, Stream::Get, get, now)
    }

    /// Asks for a page of a listing.
    pub fn list(&mut self, list: &List, now: Moment) -> Result<StreamId, AskError> {
        self.ask(Kind::List, Stream::List, list, now)
    }

    /// Asks for batches of changes until [`Self::cancel`].
    pub fn watch(&mut self, watch: &Watch, now: Moment) -> Result<StreamId, AskError> {
        self.ask(Kind::Watch, Stream::Watch(Batches::default()), watch, now)
    }

    /// Asks the host to pass a request on. `relay.body` is the whole body; what doesn't fit follows in pieces.
    pub fn relay(&mut self, mut relay: Relay, now: Moment) -> Result<StreamId, AskError> {
        const FIRST_PIECE: usize = MAX_BODY / 2;
        let mut first = relay.body.bytes().clone();
        let rest = first.split_off(first.len().min(FIRST_PIECE));
        relay.length = u32::try_from(first.len() + rest.len()).unwrap_or(u32::MAX);
        relay.body = Value::from(first);
        if rest.is_empty() {
            return self.ask(Kind::Relay, Stream::Relay, &relay, now);
        }
        let stream = self.open(Kind::Relay, Stream::Relay)?;
        self.outbox.answer(Kind::Relay, stream, Last::No, &relay, now);
        self.outbox.data(stream, rest);
        Ok(stream)
    }

    fn ask<T: Serialize>(
        &mut self,
        kind: Kind,
        open: Stream,
        body: &T,
        now: Moment,
    ) -> Result<StreamId, AskError> {
        let stream = self.open(kind, open)?;
        self.outbox.answer(kind, stream, Last::Yes, body, now);
        Ok(stream)
    }

    fn open(&mut self, kind: Kind, open: Stream) -> Result<StreamId, AskError> {
        let State::Open { kinds } = self.state else {
            return Err(AskError::NotOpen);
        };
        if !kinds.has(kind) {
            return Err(AskError::NotUnderstood(kind));
        }
        let stream = self.free_stream(&open)?;
        self.streams.insert(stream, open);
        Ok(stream)
    }

    /// The lowest odd number that is not in use, within what the host allows.
    fn free_stream(&self, open: &Stream) -> Result<StreamId, AskError> {
        let long = |stream: &Stream| {
            matches!(
                stream,
                Stream::Watch(_) | Stream::Relay | Stream::RelayedPart { .. }
            )
        };
        let same = self
            .streams
            .values()
            .filter(|other| long(other) == long(open))
            .count();
        let bound = if long(open) {
            self.limits.streams
        } else {
            self.limits.requests
        };
        if same >= usize::from(bound) {
            return Err(AskError::TooMany);
        }
        let mut odd = (1..=u32::MAX).step_by(2).map(StreamId);
        odd.find(|id| !self.streams.contains_key(id))
            .ok_or(AskError::TooMany)
    }

    /// Says that the batch is applied.
    pub fn applied(&mut self, stream: StreamId, revision: Revision, now: Moment) {
        self.outbox
            .control(Kind::Applied, stream, Last::No, &Applied { revision }, now);
    }

    /// Lets a request go. Nothing more of it becomes an event.
    pub fn cancel(&mut self, stream: StreamId, now: Moment) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if matches!(open, Stream::Closing) {
            return;
        }
        *open = Stream::Closing;
        self.outbox.forget(stream);
        // Behind the requests, one of which may be this stream's: what comes before its request cancels nothing.
        self.outbox.answer(
            Kind::Cancel,
            stream,
            Last::Yes,
            &Ended {
                code: Code::Cancelled as u16,
            },
            now,
        );
    }

    /// Time passes: says PING when it is due. A fault ends the connection.
    pub fn tick(&mut self, now: Moment) -> Result<(), Fault> {
        self.outbox.rest();
        match self.state {
            State::AwaitChallenge { since } | State::AwaitAck { since } if now.since(since) > PATIENCE_MS => {
                return Err(Fault::Silent);
            }
            State::Open { .. } if now.since(self.beat) >= self.heartbeat_ms => self.ping(now),
            _ => {}
        }
        if self.partial.is_some_and(|since| now.since(since) > PATIENCE_MS) {
            return Err(Fault::Slow);
        }
        if now.since(self.heard) > DEAD_MS.max(3 * self.heartbeat_ms) {
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
        let heard = self.heard.0 + DEAD_MS.max(3 * self.heartbeat_ms) + 1;
        let written = self
            .outbox
            .stuck_since()
            .map_or(u64::MAX, |since| since.0 + DEAD_MS + 1);
        Moment(open.min(whole).min(heard).min(written))
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

/// All items of a batch's content, or nothing if it is malformed.
fn items(mut content: &[u8]) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    while !content.is_empty() {
        let (item, rest) = postcard::take_from_bytes(content).ok()?;
        items.push(item);
        content = rest;
    }
    Some(items)
}

fn first_found(stream: &mut Stream, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
    let found: Found<'_> = body(frame)?;
    let head = Found {
        revision: found.revision,
        age_ms: found.age_ms,
        freshness: found.freshness,
        content_type: Cow::Owned(found.content_type.into_owned()),
        length: found.length,
        value: Cow::Owned(found.value.into_owned()),
    };
    let assembly = assemble(frame.stream, head.length, MAX_VALUE_BYTES, &head.value)?;
    if assembly.is_whole() {
        return Ok(Some(GuestEvent::Found(frame.stream, head)));
    }
    *stream = Stream::FoundPart { head, body: assembly };
    Ok(None)
}

fn first_relayed(stream: &mut Stream, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
    const BOUND: usize = 4 * 1024 * 1024;
    let head: Relayed = body(frame)?;
    let assembly = assemble(frame.stream, head.length, BOUND, head.body.bytes())?;
    if assembly.is_whole() {
        return Ok(Some(GuestEvent::Relayed(frame.stream, head)));
    }
    *stream = Stream::RelayedPart { head, body: assembly };
    Ok(None)
}

fn assemble(stream: StreamId, length: u32, bound: usize, first: &[u8]) -> Result<Assembly, Fault> {
    if length as usize > bound {
        return Err(Fault::TooMuch {
            stream,
            bound: bound as u64,
        });
    }
    let mut assembly = Assembly::new(stream, length as usize);
    assembly.add(first)?;
    Ok(assembly)
}

/// The next piece of an answer: the credit that is due, and the whole answer with its last piece.
fn more(
    stream: &mut Stream,
    frame: &Frame<'_>,
    initial: u32,
) -> Result<(Option<u32>, Option<GuestEvent>), Fault> {
    let (Stream::FoundPart { body, .. } | Stream::RelayedPart { body, .. }) = &mut *stream else {
        return Err(unexpected(frame));
    };
    body.add(frame.body)?;
    if !body.is_whole() {
        return Ok((body.due_credit(initial), None));
    }
    let event = match std::mem::replace(stream, Stream::Closing) {
        Stream::FoundPart { mut head, body } => {
            head.value = Cow::Owned(Vec::from(body.into_bytes()));
            GuestEvent::Found(frame.stream, head)
        }
        Stream::RelayedPart { mut head, body } => {
            head.body = Value::from(body.into_bytes());
            GuestEvent::Relayed(frame.stream, head)
        }
        _ => return Err(unexpected(frame)),
    };
    Ok((None, Some(event)))
}
