//! The frame: a header of ten bytes and a body. Nothing is allocated before the header is found good.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::kind::Kind;

/// The header's length in bytes: `u32` length of the body, `u8` kind, `u8` flags, `u32` stream, little endian.
pub const HEADER_BYTES: usize = 10;
/// The longest body once HELLO is done, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
/// The longest body before, in bytes.
pub const MAX_BODY_BEFORE_HELLO: usize = 1024;
/// The flag that ends the sender's side of the stream; every other bit of the flags must be zero.
const FLAG_END: u8 = 1;

/// A stream within the connection: 0 is the session, the guest opens odd ones, the host even ones.
///
/// The number of a stream may be used again once both sides have ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The session's own stream.
    pub const SESSION: Self = Self(0);

    /// Whether the guest may open it.
    pub const fn is_guests(self) -> bool {
        self.0 % 2 == 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a frame is the sender's last on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// More may follow.
    No,
    /// Nothing follows.
    Yes,
}

/// A frame whose body lies in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whether it ends the sender's side of the stream.
    pub last: Last,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// The body, 1 to [`MAX_BODY`] bytes.
    pub body: &'a [u8],
}

/// Why bytes are not a frame. The connection they came on is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body's length is 0 or over the bound.
    #[error("the frame's body has {length} bytes; it must have 1 to {most}")]
    Length {
        /// What the header says.
        length: u32,
        /// The bound in force.
        most: usize,
    },
    /// The number is no kind's.
    #[error("no frame has the kind 0x{0:02x}")]
    Kind(u8),
    /// A flag that means nothing is set.
    #[error("the frame's flags are 0x{0:02x}; only bit 0 has a meaning")]
    Flags(u8),
}

/// The first frame of `input` and how many bytes it takes; `None` while it is not whole.
///
/// The header is judged as soon as its ten bytes are there, whatever of the body has come; `most` bounds the body.
pub fn decode(input: &[u8], most: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, kind, flags, s0, s1, s2, s3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length == 0 || length as usize > most {
        return Err(FrameError::Length { length, most });
    }
    let kind = Kind::from_number(kind).ok_or(FrameError::Kind(kind))?;
    let last = match flags {
        0 => Last::No,
        FLAG_END => Last::Yes,
        other => return Err(FrameError::Flags(other)),
    };
    let stream = StreamId(u32::from_le_bytes([s0, s1, s2, s3]));
    let length = length as usize;
    Ok(rest.get(..length).map(|body| {
        (
            Frame {
                kind,
                last,
                stream,
                body,
            },
            HEADER_BYTES + length,
        )
    }))
}

/// Writes the header of a frame whose body of `length` bytes follows.
pub fn put_header(out: &mut BytesMut, kind: Kind, last: Last, stream: StreamId, length: usize) {
    debug_assert!(
        (1..=MAX_BODY).contains(&length),
        "a body has 1 to {MAX_BODY} bytes, not {length}"
    );
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    header[5] = if last == Last::Yes { FLAG_END } else { 0 };
    header[6..].copy_from_slice(&stream.0.to_le_bytes());
    out.put_slice(&header);
}

/// Writes a frame whose body is written by `body` behind the header; the length is filled in afterwards.
pub fn put_with(
    out: &mut BytesMut,
    kind: Kind,
    last: Last,
    stream: StreamId,
    body: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    put_header(out, kind, last, stream, 1);
    body(out);
    let length = out.len() - start - HEADER_BYTES;
    debug_assert!(
        (1..=MAX_BODY).contains(&length),
        "a body has 1 to {MAX_BODY} bytes, not {length}"
    );
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameError, Last, MAX_BODY, StreamId, decode, put_header};
    use crate::link::Kind;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = (Kind, bool, u32, Vec<u8>)> {
        (
            prop::sample::select(Kind::ALL),
            any::<bool>(),
            any::<u32>(),
            prop::collection::vec(any::<u8>(), 1..300),
        )
    }

    proptest! {
        #[test]
        fn round_trips_and_every_truncation_waits((kind, last, stream, body) in frames(), cut: prop::sample::Index) {
            let last = if last { Last::Yes } else { Last::No };
            let mut wire = BytesMut::new();
            put_header(&mut wire, kind, last, StreamId(stream), body.len());
            wire.extend_from_slice(&body);
            let whole = decode(&wire, MAX_BODY).unwrap();
            let frame = Frame { kind, last, stream: StreamId(stream), body: &body };
            prop_assert_eq!(whole, Some((frame, wire.len())));
            prop_assert_eq!(decode(&wire[..cut.index(wire.len())], MAX_BODY).unwrap(), None);
        }

        #[test]
        fn any_bytes_are_a_frame_or_refused(input: Vec<u8>) {
            if let Ok(Some((frame, taken))) = decode(&input, MAX_BODY) {
                prop_assert!(taken <= input.len() && !frame.body.is_empty());
            }
        }
    }

    #[test]
    fn a_bad_header_is_refused_before_its_body_comes() {
        let header = |length: u32, kind: u8, flags: u8| {
            [&length.to_le_bytes()[..], &[kind, flags, 0, 0, 0, 0]].concat()
        };
        let refused = |bytes: &[u8]| decode(bytes, 1024).unwrap_err();
        assert_eq!(
            refused(&header(0, 3, 0)),
            FrameError::Length {
                length: 0,
                most: 1024
            }
        );
        assert_eq!(
            refused(&header(u32::MAX, 3, 0)),
            FrameError::Length {
                length: u32::MAX,
                most: 1024
            }
        );
        assert_eq!(
            refused(&header(1025, 3, 0)),
            FrameError::Length {
                length: 1025,
                most: 1024
            }
        );
        assert_eq!(refused(&header(4, 0xff, 0)), FrameError::Kind(0xff));
        assert_eq!(refused(&header(4, 3, 2)), FrameError::Flags(2));
    }
}
