//! Frames as the session cores wouldn't make them: with any header, at any time.

use moorline_shared::link::Kind;
use moorline_shared::link::body::Get;
use moorline_shared::link::frame::HEADER_BYTES;
use serde::Serialize;

/// The header of a frame, whatever it says.
pub fn header(length: u32, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    header[5] = flags;
    header[6..].copy_from_slice(&stream.to_le_bytes());
    header
}

/// A frame that ends its stream.
pub fn last(kind: Kind, stream: u32, body: &impl Serialize) -> Vec<u8> {
    frame(kind, 1, stream, body)
}

/// A frame with these flags.
///
/// # Panics
/// If the body can't be expressed in postcard, as all bodies of frames can.
pub fn frame(kind: Kind, flags: u8, stream: u32, body: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(body).expect("bodies can be expressed in postcard");
    let length = u32::try_from(body.len()).expect("bodies are short");
    [&header(length, kind as u8, flags, stream), &body[..]].concat()
}

/// A GET of one of the guest's own entries.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    let body = Get {
        instance: None,
        path: path.into(),
        max_age_ms: None,
    };
    last(Kind::Get, stream, &body)
}
