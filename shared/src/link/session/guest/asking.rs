//! What the guest says of itself: who it is, what it asks, what it has applied and what it no longer wants.

use serde::Serialize;

use super::batches::Batches;
use super::{Guest, State, Stream};
use crate::entry::Value;
use crate::link::Moment;
use crate::link::body::{Applied, Code, Ended, Get, Hello, List, Relay, Watch};
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
}

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
