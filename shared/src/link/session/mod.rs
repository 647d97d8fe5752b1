//! The two ends of a session, as pure cores: bytes and the time in, events and bytes out.
//!
//! A driver owns the socket. It gives what it reads to `receive`, one frame at a time; it writes what `output` shows
//! and says with `wrote` how much went; and it calls `tick` now and then, which hangs up on a peer that is silent,
//! slow or doesn't read. No core allocates for a frame before the frame is whole and found good.
//!
//! [`Host`] answers requests and pushes batches; [`Guest`] asks and applies. Both stand on [`outbox`] (what is to be
//! sent: control before answers before data, under credit) and [`inbox`] (what comes in pieces).

mod guest;
mod host;
mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

pub use guest::{AskError, Bound, Guest, GuestEvent, Received};
pub use host::{Deferred, Host, HostEvent, Incoming, Told};
pub use outbox::{Batch, Outbox};

use super::body::{Code, Limits};
use super::frame::{self, FrameError, StreamId};
use super::kind::Kind;

/// How often the guest says PING, in milliseconds.
pub const HEARTBEAT_MS: u32 = 10_000;
/// After so long without a frame the other side is taken for dead, in milliseconds.
pub const DEAD_MS: u64 = 30_000;
/// How long a connection may take until HELLO is done, and a frame until it is whole, in milliseconds.
pub const PATIENCE_MS: u64 = 10_000;

/// What a host allows where nothing else is configured.
pub const DEFAULT_LIMITS: Limits = Limits {
    body: 16 * 1024,
    streams: 16,
    requests: 32,
    credit: 256 * 1024,
    batch: 4 * 1024 * 1024,
};

/// Why a session is over. The connection is closed; the guest dials again after its backoff.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The body is not what its kind has.
    #[error("the body of a {0:?} frame is malformed")]
    Body(Kind),
    /// The kind has no place here: from the wrong side, on the wrong stream, or at the wrong time.
    #[error("a {kind:?} frame has no place on stream {stream} here")]
    Unexpected {
        /// The frame's kind.
        kind: Kind,
        /// The frame's stream.
        stream: StreamId,
    },
    /// More came than was announced or granted.
    #[error("stream {stream} carried more than {bound} bytes")]
    TooMuch {
        /// The stream.
        stream: StreamId,
        /// What was announced or granted.
        bound: u64,
    },
    /// The content of a batch has another digest than its COMMIT says.
    #[error("a batch arrived damaged: its digest differs")]
    Digest,
    /// No HELLO came in time.
    #[error("no HELLO within {PATIENCE_MS} ms")]
    NoHello,
    /// No CHALLENGE came in time, or no `HELLO_ACK`.
    #[error("the host didn't let this guest in within {PATIENCE_MS} ms")]
    NoWelcome,
    /// A frame was begun and not finished in time.
    #[error("a frame was not whole within {PATIENCE_MS} ms")]
    Slow,
    /// Nothing came for too long.
    #[error("nothing was heard for {DEAD_MS} ms")]
    Silent,
    /// The peer doesn't read what it is sent.
    #[error("nothing of what is to be sent was read for {DEAD_MS} ms")]
    NotReading,
}

/// Decodes a body; trailing bytes are a fault, since a changed body is a new kind.
fn body<'a, T: serde::Deserialize<'a>>(frame: &frame::Frame<'a>) -> Result<T, Fault> {
    match postcard::take_from_bytes(frame.body) {
        Ok((body, [])) => Ok(body),
        _ => Err(Fault::Body(frame.kind)),
    }
}

/// The fault for a frame that has no place.
fn unexpected(frame: &frame::Frame<'_>) -> Fault {
    Fault::Unexpected {
        kind: frame.kind,
        stream: frame.stream,
    }
}

/// The code a peer gave, as this build knows it.
fn code(ended: super::body::Ended) -> Code {
    Code::from_number(ended.code)
}
