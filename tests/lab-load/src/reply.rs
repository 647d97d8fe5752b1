//! When a reply is whole, and whether it is the one that was wanted.
//!
//! The bytes that came so far go in; how many of them the reply takes comes out, or nothing while it isn't whole. A
//! reply that says no is an error: a server isn't quick because it refuses.

use anyhow::{Context as _, Result, bail, ensure};
use moorline_shared::link::Kind;
use moorline_shared::link::StreamId;
use moorline_shared::link::frame::{self, Frame, Last, MAX_BODY};

/// What a reply looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// So many bytes, whatever they are.
    Bytes(usize),
    /// The frame that ends stream 1, which must be FOUND. Frames of other streams come with it.
    Found,
    /// A bulk string of redis with a value in it.
    Bulk,
    /// HTTP/1.1 with a success and a `Content-Length`.
    Http,
}

impl Reply {
    /// How many of the bytes that came are the reply, once it is whole.
    pub fn length(self, came: &[u8]) -> Result<Option<usize>> {
        match self {
            Self::Bytes(length) => Ok((came.len() >= length).then_some(length)),
            Self::Found => found(came),
            Self::Bulk => bulk(came),
            Self::Http => http(came),
        }
    }
}

/// The stream that every request is made on; it is free again when its reply has come.
pub(crate) const STREAM: StreamId = StreamId(1);

fn found(came: &[u8]) -> Result<Option<usize>> {
    let mut at = 0;
    while let Some((frame, taken)) = frame::decode(&came[at..], MAX_BODY).context("understand a frame")? {
        at += taken;
        if ends_request(&frame)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn ends_request(frame: &Frame<'_>) -> Result<bool> {
    let ends = frame.stream == STREAM && frame.last == Last::Yes;
    ensure!(
        !ends || frame.kind == Kind::Found,
        "the answer is {:?} and not an entry",
        frame.kind
    );
    Ok(ends)
}

fn bulk(came: &[u8]) -> Result<Option<usize>> {
    let Some(end) = came.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = came[..end].trim_ascii_end();
    let Some((b'$', digits)) = line.split_first() else {
        bail!("redis says {}", String::from_utf8_lossy(line));
    };
    let length: usize = number(digits).context("redis has no such key")?;
    let whole = end + 1 + length + b"\r\n".len();
    Ok((came.len() >= whole).then_some(whole))
}

fn http(came: &[u8]) -> Result<Option<usize>> {
    let mut rest = came;
    let mut body = None;
    let mut first = true;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        if line.is_empty() {
            let head = came.len() - rest.len();
            let whole = head + body.context("the reply has no Content-Length")?;
            return Ok((came.len() >= whole).then_some(whole));
        }
        if std::mem::take(&mut first) {
            ensure!(
                line.starts_with(b"HTTP/1.1 2"),
                "the reply is: {}",
                String::from_utf8_lossy(came)
            );
        } else if let Some(length) = content_length(line) {
            body = Some(length?);
        }
    }
    Ok(None)
}

/// The value of this header line, if it is that header.
fn content_length(line: &[u8]) -> Option<Result<usize>> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    let is = name.eq_ignore_ascii_case(NAME);
    is.then(|| number(value.trim_ascii()).context("the reply's Content-Length is no number"))
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Reply, STREAM};
    use moorline_shared::link::frame::{Last, put_header};
    use moorline_shared::link::{Kind, StreamId};
    use proptest::prelude::*;

    fn frame(kind: Kind, last: Last, stream: StreamId, body: &[u8]) -> Vec<u8> {
        let mut bytes = Default::default();
        put_header(&mut bytes, kind, last, stream, body.len());
        [&bytes[..], body].concat()
    }

    fn replies() -> Vec<(Reply, Vec<u8>)> {
        let pong = frame(Kind::Pong, Last::No, StreamId::SESSION, b"1");
        let found = frame(Kind::Found, Last::Yes, STREAM, b"an entry");
        vec![
            (Reply::Bytes(5), b"12345".to_vec()),
            (Reply::Found, found.clone()),
            (Reply::Found, [pong, found].concat()),
            (Reply::Bulk, b"$3\r\nabc\r\n".to_vec()),
            (Reply::Bulk, b"$0\r\n\r\n".to_vec()),
            (
                Reply::Http,
                b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\nETag: \"1.2\"\r\n\r\n\r\n\r\n".to_vec(),
            ),
            (
                Reply::Http,
                b"HTTP/1.1 204 No Content\r\nContent-Length:0\r\n\r\n".to_vec(),
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_reply_is_whole_with_its_last_byte(which: prop::sample::Index, cut: prop::sample::Index, more: Vec<u8>) {
            let (reply, bytes) = which.get(&replies()).clone();
            prop_assert_eq!(reply.length(&bytes[..cut.index(bytes.len())]).unwrap(), None);
            let followed = [&bytes[..], &more].concat();
            prop_assert_eq!(reply.length(&followed).unwrap(), Some(bytes.len()));
        }
    }

    #[test]
    fn a_refusal_is_no_reply() {
        let refused = frame(Kind::Refused, Last::Yes, STREAM, b"no");
        for (reply, bytes) in [
            (Reply::Found, &refused[..]),
            (Reply::Found, b"\0\0\0\0nonsense"),
            (Reply::Bulk, b"$-1\r\n"),
            (Reply::Bulk, b"-ERR unknown command\r\n"),
            (
                Reply::Http,
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                Reply::Http,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (Reply::Http, b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        ] {
            assert!(reply.length(bytes).is_err(), "{reply:?} takes {bytes:?}");
        }
    }
}
