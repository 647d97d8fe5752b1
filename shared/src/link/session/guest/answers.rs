//! Answers as they come: in one frame, or in pieces.

use std::borrow::Cow;

use super::super::inbox::Assembly;
use super::super::{Fault, body, code, unexpected};
use super::{Guest, GuestEvent, Stream};
use crate::entry::{MAX_VALUE_BYTES, Value};
use crate::link::Moment;
use crate::link::body::{Busy, Credit, Ended, Found, Relayed, Secrets};
use crate::link::frame::{Frame, Last, StreamId};
use crate::link::kind::Kind;

impl GuestEvent {
    /// The same with what was marked of it.
    fn with(self, secrets: Secrets) -> Self {
        match self {
            Self::Found(stream, found, _) => Self::Found(stream, found, secrets),
            Self::Listing(stream, listing, _) => Self::Listing(stream, listing, secrets),
            other => other,
        }
    }
}

impl Guest {
    pub(super) fn answer(&mut self, frame: &Frame<'_>, now: Moment) -> Result<Option<GuestEvent>, Fault> {
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return Err(unexpected(frame));
        };
        let id = frame.stream;
        let event = match (&mut *stream, frame.kind) {
            (Stream::Closing(_), _) => None,
            (_, Kind::Refused) => Some(GuestEvent::Refused(id, body(frame)?)),
            (_, Kind::Busy) => Some(GuestEvent::Busy(id, body::<Busy>(frame)?.retry_after_ms)),
            (_, Kind::Reset) => Some(GuestEvent::Ended(id, code(body::<Ended>(frame)?))),
            (Stream::List, Kind::Listing) => Some(GuestEvent::Listing(id, body(frame)?, Secrets::default())),
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
            (Last::Yes, None) if !matches!(self.streams.get(&frame.stream), Some(Stream::Closing(_))) => {
                Err(unexpected(frame))
            }
            (Last::Yes, _) => {
                self.streams.remove(&frame.stream);
                self.outbox.forget(frame.stream);
                let marked = self.marked(frame.stream);
                Ok(event.map(|event| event.with(marked)))
            }
        }
    }
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
        return Ok(Some(GuestEvent::Found(frame.stream, head, Secrets::default())));
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
    let closing = Stream::Closing(stream.bound());
    let event = match std::mem::replace(stream, closing) {
        Stream::FoundPart { mut head, body } => {
            head.value = Cow::Owned(Vec::from(body.into_bytes()));
            GuestEvent::Found(frame.stream, head, Secrets::default())
        }
        Stream::RelayedPart { mut head, body } => {
            head.body = Value::from(body.into_bytes());
            GuestEvent::Relayed(frame.stream, head)
        }
        _ => return Err(unexpected(frame)),
    };
    Ok((None, Some(event)))
}
