//! What is to be sent: control frames before answers, answers before data, data under credit.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::Serialize;

use crate::digest::Digest;
use crate::link::Moment;
use crate::link::body::{Begin, Commit};
use crate::link::frame::{self, Last, MAX_BODY, StreamId};
use crate::link::kind::Kind;
use crate::revision::Revision;

/// A batch of changes, ready to be sent.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it builds on; `None` for a snapshot.
    pub from: Option<Revision>,
    /// Where the receiver stands once it is applied.
    pub to: Revision,
    /// A postcard sequence of [`crate::link::body::Item`].
    pub content: Bytes,
}

/// The frames of one connection that have not gone out yet.
///
/// At most one buffer is on its way to the socket at a time; the next one is chosen when it is empty, so a control
/// frame waits for one buffer at the most, never for a stream.
#[derive(Debug)]
pub struct Outbox {
    wire: BytesMut,
    control: BytesMut,
    answers: BytesMut,
    flows: VecDeque<Flow>,
    credit: u32,
    /// When a byte was last written, or since when there is something to write; `None` while nobody has seen anything
    /// wait.
    progress: Option<Moment>,
}

/// The data of one stream that waits for credit or for its turn.
#[derive(Debug)]
struct Flow {
    stream: StreamId,
    credit: u64,
    pieces: VecDeque<Piece>,
    /// Since when it has been seen to wait for credit and for nothing else.
    starved: Option<Moment>,
    /// The last frame of our side went out. A flow of batches never ends so: its credit goes on counting.
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    /// A frame as it goes out; it costs no credit.
    Frame(Bytes),
    /// Bytes to be cut into frames of this kind; the last one ends the stream if it says so.
    Data { kind: Kind, bytes: Bytes, last: Last },
}

/// How many bytes of data go out between two looks at the control frames.
const TURN_BYTES: usize = 64 * 1024;

impl Outbox {
    /// Nothing to send; each stream may carry `credit` bytes of data before it is granted more.
    pub(super) fn new(credit: u32) -> Self {
        Self {
            wire: BytesMut::new(),
            control: BytesMut::new(),
            answers: BytesMut::new(),
            flows: VecDeque::new(),
            credit,
            progress: None,
        }
    }

    pub(super) fn set_credit(&mut self, credit: u32) {
        self.credit = credit;
    }

    /// The bytes to write next; empty when nothing can be sent now.
    pub fn output(&mut self) -> &[u8] {
        if self.wire.is_empty() {
            self.refill();
        }
        &self.wire
    }

    /// `count` bytes of [`Self::output`] were written at `now`.
    pub fn wrote(&mut self, count: usize, now: Moment) {
        self.wire.advance(count);
        self.progress = (self.backlog() > 0).then_some(now);
    }

    /// How many bytes of answers wait: what a driver bounds by not reading on.
    pub fn backlog(&self) -> usize {
        self.wire.len() + self.control.len() + self.answers.len()
    }

    /// Lets go of buffers in which nothing waits: what a burst took is not kept for ever. How much that is can't be
    /// seen from a buffer's capacity, which counts only what lies behind its bytes.
    pub(super) fn rest(&mut self) {
        for buffer in [&mut self.wire, &mut self.control, &mut self.answers] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }

    /// How long something has waited without a byte being written, in milliseconds; 0 if nothing waits. What waited for
    /// credit before waits from the first look on.
    pub(super) fn stuck_for(&mut self, now: Moment) -> u64 {
        if self.backlog() == 0 {
            return 0;
        }
        now.since(*self.progress.get_or_insert(now))
    }

    /// Since when something is known to have waited without a byte being written.
    pub(super) fn stuck_since(&self) -> Option<Moment> {
        self.progress.filter(|_| self.backlog() > 0)
    }

    /// How long any stream's data have waited for credit as far as calls of this could see, in milliseconds.
    pub(super) fn starved_for(&mut self, now: Moment) -> u64 {
        let flows = self.flows.iter_mut();
        let starved = flows.filter_map(|flow| flow.starved_since(now));
        starved.min().map_or(0, |since| now.since(since))
    }

    /// How many bytes of answers wait for credit or for their turn.
    pub fn answer_bytes(&self) -> usize {
        let bytes = |piece: &Piece| match piece {
            Piece::Data {
                bytes,
                last: Last::Yes,
                ..
            } => bytes.len(),
            Piece::Data { .. } | Piece::Frame(_) => 0,
        };
        self.flows.iter().flat_map(|flow| &flow.pieces).map(bytes).sum()
    }

    fn refill(&mut self) {
        let next = if !self.control.is_empty() {
            &mut self.control
        } else if !self.answers.is_empty() {
            &mut self.answers
        } else {
            return self.refill_from_flows();
        };
        // The emptied buffer is kept for the next round: no allocation once both have grown.
        self.wire.clear();
        std::mem::swap(&mut self.wire, next);
    }

    /// Streams take turns: the first that may send is served and goes to the end.
    fn refill_from_flows(&mut self) {
        self.wire.clear();
        for _ in 0..self.flows.len() {
            let Some(mut flow) = self.flows.pop_front() else {
                return;
            };
            flow.send(&mut self.wire);
            if !flow.ended {
                self.flows.push_back(flow);
            }
            if !self.wire.is_empty() {
                return;
            }
        }
    }

    fn mark_progress_if_idle(&mut self, now: Moment) {
        if self.backlog() == 0 {
            self.progress = Some(now);
        }
    }

    /// Queues a frame of the session itself.
    pub(super) fn control<T: Serialize>(
        &mut self,
        kind: Kind,
        stream: StreamId,
        last: Last,
        body: &T,
        now: Moment,
    ) {
        self.mark_progress_if_idle(now);
        frame::put_with(&mut self.control, kind, last, stream, |out| put(out, body));
    }

    /// Queues an answer or a request.
    pub(super) fn answer<T: Serialize>(
        &mut self,
        kind: Kind,
        stream: StreamId,
        last: Last,
        body: &T,
        now: Moment,
    ) {
        self.mark_progress_if_idle(now);
        frame::put_with(&mut self.answers, kind, last, stream, |out| put(out, body));
    }

    /// Queues the rest of a value; its last piece ends the stream.
    pub(super) fn data(&mut self, stream: StreamId, bytes: Bytes) {
        let piece = Piece::Data {
            kind: Kind::Data,
            bytes,
            last: Last::Yes,
        };
        self.flow(stream).pieces.push_back(piece);
    }

    /// Queues a batch.
    pub(super) fn batch(&mut self, stream: StreamId, batch: Batch) {
        let length = u32::try_from(batch.content.len()).unwrap_or(u32::MAX);
        let begin = Begin {
            from: batch.from,
            to: batch.to,
            length,
        };
        let commit = Commit {
            to: batch.to,
            digest: Digest::of(&batch.content),
        };
        let flow = self.flow(stream);
        flow.pieces
            .push_back(Piece::Frame(framed(Kind::Begin, stream, &begin)));
        if !batch.content.is_empty() {
            flow.pieces.push_back(Piece::Data {
                kind: Kind::Part,
                bytes: batch.content,
                last: Last::No,
            });
        }
        flow.pieces
            .push_back(Piece::Frame(framed(Kind::Commit, stream, &commit)));
    }

    /// The peer takes so many more bytes on the stream. Credit for a stream that carries nothing is let go.
    pub(super) fn grant(&mut self, stream: StreamId, bytes: u32) {
        if let Some(flow) = self.flows.iter_mut().find(|flow| flow.stream == stream) {
            flow.credit = flow.credit.saturating_add(u64::from(bytes));
            flow.starved = None;
        }
    }

    /// Forgets what the stream still had to send.
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.flows.retain(|flow| flow.stream != stream);
    }

    /// Whether data of the stream still waits.
    pub(super) fn is_sending(&self, stream: StreamId) -> bool {
        self.flows
            .iter()
            .any(|flow| flow.stream == stream && !flow.pieces.is_empty())
    }

    /// How many answers have pieces left to send.
    pub(super) fn answering(&self) -> usize {
        let ends = |piece: &Piece| matches!(piece, Piece::Data { last: Last::Yes, .. });
        let answer = |flow: &&Flow| flow.pieces.front().is_some_and(ends);
        self.flows.iter().filter(answer).count()
    }

    fn flow(&mut self, stream: StreamId) -> &mut Flow {
        if let Some(at) = self.flows.iter().position(|flow| flow.stream == stream) {
            return &mut self.flows[at];
        }
        self.flows.push_back(Flow {
            stream,
            credit: u64::from(self.credit),
            pieces: VecDeque::new(),
            starved: None,
            ended: false,
        });
        let at = self.flows.len() - 1;
        &mut self.flows[at]
    }
}

impl Flow {
    /// Since when it has waited for credit; none if it has some, or nothing to spend it on.
    fn starved_since(&mut self, now: Moment) -> Option<Moment> {
        let waits = matches!(self.pieces.front(), Some(Piece::Data { .. }));
        self.starved = (waits && self.credit == 0).then(|| self.starved.unwrap_or(now));
        self.starved
    }

    /// Writes what credit and the turn allow.
    fn send(&mut self, wire: &mut BytesMut) {
        let mut turn = TURN_BYTES;
        while let Some(piece) = self.pieces.front_mut() {
            match piece {
                Piece::Frame(bytes) => wire.extend_from_slice(bytes),
                Piece::Data { kind, bytes, last } => {
                    let allowed = usize::try_from(self.credit).unwrap_or(usize::MAX).min(turn);
                    let sent = cut(wire, *kind, self.stream, bytes, *last, allowed);
                    self.credit -= sent as u64;
                    turn -= sent;
                    if !bytes.is_empty() {
                        return;
                    }
                    self.ended = *last == Last::Yes;
                }
            }
            self.pieces.pop_front();
        }
    }
}

/// Cuts frames off `bytes` while `allowed` lasts, and returns how many bytes went.
fn cut(
    out: &mut BytesMut,
    kind: Kind,
    stream: StreamId,
    bytes: &mut Bytes,
    last: Last,
    allowed: usize,
) -> usize {
    let mut sent = 0;
    while !bytes.is_empty() && sent < allowed {
        let piece = bytes.split_to(bytes.len().min(MAX_BODY).min(allowed - sent));
        let last = if bytes.is_empty() { last } else { Last::No };
        frame::put_header(out, kind, last, stream, piece.len());
        out.extend_from_slice(&piece);
        sent += piece.len();
    }
    sent
}

fn framed<T: Serialize>(kind: Kind, stream: StreamId, body: &T) -> Bytes {
    let mut out = BytesMut::new();
    frame::put_with(&mut out, kind, Last::No, stream, |out| put(out, body));
    out.freeze()
}

/// Writes a body behind what is there.
fn put<T: Serialize>(out: &mut BytesMut, body: &T) {
    // Postcard fails only for types that it can't express and for a full buffer; ours are neither.
    let written = postcard::serialize_with_flavor(body, Tail(out));
    debug_assert!(written.is_ok(), "a body of the link is expressible in postcard");
}

/// Lets postcard write behind what a buffer holds, without a copy in between.
struct Tail<'a>(&'a mut BytesMut);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
