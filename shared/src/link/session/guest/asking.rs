//! What the guest says of itself: who it is, what it asks, what it has applied and what it no longer wants.

use postcard::ser_flavors::Size;
use serde::Serialize;

use super::batches::Batches;
use super::{Bound, Guest, State, Stream};
use crate::entry::Value;
use crate::link::Moment;
use crate::link::body::{Applied, Code, Differs, Ended, Get, Hello, List, Relay, Watch};
use crate::link::frame::{Last, MAX_BODY, StreamId};
use crate::link::kind::Kind;
use crate::revision::Revision;

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
    /// The head of the request, its method, target and headers, fits in no frame.
    #[error("the request's head has {length} bytes; the most is {most}", most = MAX_HEAD)]
    TooLong {
        /// How many bytes there are.
        length: usize,
    },
}

/// The longest head of a relay, in bytes: the length of the first piece of the body follows it in the frame.
const MAX_HEAD: usize = MAX_BODY - MAX_VARINT;
/// What the length of a piece takes at most, in bytes.
const MAX_VARINT: usize = 3;

impl Guest {
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

    /// Asks the host to pass a request on. `relay.body` is the whole body; what doesn't fit behind the head follows in
    /// pieces.
    pub fn relay(&mut self, mut relay: Relay, now: Moment) -> Result<StreamId, AskError> {
        let mut first = std::mem::take(&mut relay.body).bytes().clone();
        relay.length = u32::try_from(first.len()).unwrap_or(u32::MAX);
        let length = length_of(&relay);
        let room = MAX_HEAD.checked_sub(length).ok_or(AskError::TooLong { length })?;
        let rest = first.split_off(first.len().min(room));
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

    /// The lowest odd number that is not in use, within what the host allows. Streams being cancelled are in use, or
    /// who opens and cancels would be bounded by nothing.
    fn free_stream(&self, open: &Stream) -> Result<StreamId, AskError> {
        let bound = open.bound();
        let same = self.streams.values().filter(|other| other.bound() == bound);
        if same.count() >= usize::from(self.most(bound)) {
            return Err(AskError::TooMany);
        }
        let mut odd = (1..=u32::MAX).step_by(2).map(StreamId);
        odd.find(|id| !self.streams.contains_key(id))
            .ok_or(AskError::TooMany)
    }

    /// How many streams the host allows that count against the bound.
    pub fn most(&self, bound: Bound) -> u16 {
        match bound {
            Bound::Streams => self.limits.streams,
            Bound::Requests => self.limits.requests,
        }
    }

    /// Whether a request is on the stream that the host has not ended, be it cancelled or not.
    pub fn is_in_use(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Says that the batch is applied.
    pub fn applied(&mut self, stream: StreamId, revision: Revision, now: Moment) {
        self.outbox
            .control(Kind::Applied, stream, Last::No, &Applied { revision }, now);
    }

    /// Says that the mirror isn't what DIGEST said. A snapshot comes.
    pub fn differs(&mut self, differs: &Differs, now: Moment) {
        self.outbox
            .control(Kind::Differs, StreamId::SESSION, Last::No, differs, now);
    }

    /// Lets a request go. Nothing more of it becomes an event.
    pub fn cancel(&mut self, stream: StreamId, now: Moment) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if matches!(open, Stream::Closing(_)) {
            return;
        }
        *open = Stream::Closing(open.bound());
        self.marked.remove(&stream);
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
}

/// How many bytes a body takes on the wire.
fn length_of<T: Serialize>(body: &T) -> usize {
    // As in the outbox: our bodies are expressible in postcard.
    postcard::serialize_with_flavor(body, Size::default()).unwrap_or(usize::MAX)
}
