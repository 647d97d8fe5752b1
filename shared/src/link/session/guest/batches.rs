//! Batches as they come: announced, piece by piece, whole.

use super::super::inbox::Assembly;
use super::super::{Fault, body, unexpected};
use super::{Guest, GuestEvent, Stream};
use crate::digest::Digest;
use crate::link::Moment;
use crate::link::body::{Begin, Commit, Credit, Item};
use crate::link::frame::{Frame, Last, StreamId};
use crate::link::kind::Kind;

/// The batches of a stream, one after the other. Their credit goes on counting from one to the next.
#[derive(Debug, Default)]
pub(super) struct Batches {
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

impl Batches {
    /// Whether no batch is under way.
    pub(super) const fn is_between(&self) -> bool {
        self.incomplete.is_none()
    }
}

impl Guest {
    /// The batch coming in on the stream, if batches may come there at all. A watch being cancelled takes none.
    fn incoming(&mut self, frame: &Frame<'_>) -> Result<Option<&mut Batches>, Fault> {
        if frame.stream == StreamId::SESSION {
            return Ok(Some(&mut self.push));
        }
        match self.streams.get_mut(&frame.stream) {
            Some(Stream::Watch(batches)) => Ok(Some(batches)),
            Some(Stream::Closing(_)) => Ok(None),
            _ => Err(unexpected(frame)),
        }
    }

    pub(super) fn begin(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
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

    pub(super) fn part(&mut self, frame: &Frame<'_>, now: Moment) -> Result<Option<GuestEvent>, Fault> {
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

    pub(super) fn commit(&mut self, frame: &Frame<'_>) -> Result<Option<GuestEvent>, Fault> {
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
        let secrets = self.marked(frame.stream);
        Ok(Some(GuestEvent::Batch {
            stream: frame.stream,
            from: begin.from,
            to: begin.to,
            items,
            secrets,
        }))
    }
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
