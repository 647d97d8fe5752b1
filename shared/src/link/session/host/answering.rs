//! What the host says to what it was asked, on the stream of the question: an answer, a no, or not now.

use bytes::Bytes;
use serde::Serialize;

use super::{Host, Stream};
use crate::link::Moment;
use crate::link::body::{Busy, Code, Found, Listing, Relayed};
use crate::link::frame::{Last, StreamId};
use crate::link::kind::Kind;

/// A [`Refused`](crate::link::body::Refused) whose text is somebody else's.
#[derive(Serialize)]
struct No<'a> {
    code: u16,
    message: &'a str,
    retry_after_ms: Option<u32>,
}

/// What became of a request that is to be answered later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// It is open; answer it when the answer is there.
    Open,
    /// Too many are open; the guest was told to come back.
    TooMany,
}

impl Host {
    /// Keeps a request open whose answer has to be fetched. Over the bound the guest is told to come back.
    pub fn defer(&mut self, stream: StreamId, now: Moment) -> Deferred {
        if self.asked() >= usize::from(self.limits.requests) {
            self.busy(stream, 1_000, now);
            return Deferred::TooMany;
        }
        self.streams.insert(stream, Stream::Asked);
        Deferred::Open
    }

    /// Answers a GET. `found.value` is the first piece and `rest` what follows it; together `found.length` bytes.
    pub fn found(&mut self, stream: StreamId, found: &Found<'_>, rest: Bytes, now: Moment) {
        self.finish(Kind::Found, stream, found, rest, now);
    }

    /// Answers a LIST with a page.
    pub fn listing(&mut self, stream: StreamId, listing: &Listing, now: Moment) {
        self.finish(Kind::Listing, stream, listing, Bytes::new(), now);
    }

    /// Answers a relay. `relayed.body` is the first piece and `rest` what follows it.
    pub fn relayed(&mut self, stream: StreamId, relayed: &Relayed, rest: Bytes, now: Moment) {
        if !rest.is_empty() {
            self.replying.insert(stream);
        }
        self.finish(Kind::Relayed, stream, relayed, rest, now);
    }

    /// Says no.
    pub fn refuse(&mut self, stream: StreamId, code: Code, message: &str, now: Moment) {
        let end = message
            .char_indices()
            .nth(512)
            .map_or(message.len(), |(at, _)| at);
        let refused = No {
            code: code as u16,
            message: &message[..end],
            retry_after_ms: None,
        };
        self.outbox.forget(stream);
        self.finish(Kind::Refused, stream, &refused, Bytes::new(), now);
    }

    /// Says not now.
    pub fn busy(&mut self, stream: StreamId, retry_after_ms: u32, now: Moment) {
        self.finish(Kind::Busy, stream, &Busy { retry_after_ms }, Bytes::new(), now);
    }

    fn finish<T: Serialize>(&mut self, kind: Kind, stream: StreamId, body: &T, rest: Bytes, now: Moment) {
        self.streams.remove(&stream);
        if rest.is_empty() {
            self.outbox.answer(kind, stream, Last::Yes, body, now);
        } else {
            self.outbox.answer(kind, stream, Last::No, body, now);
            self.outbox.data(stream, rest);
        }
    }
}
