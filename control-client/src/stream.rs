//! Streams of lines: opened, decoded, and ended where the connection ends.

use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::error::ClientError;
use crate::ndjson::Lines;

/// What a stream brings, one item a line. It ends with `None` where the server ended it, and after the first error.
/// Dropping it closes the connection's stream.
pub type EventStream<T> = BoxStream<'static, Result<T, ClientError>>;

/// An answer that is being read.
struct Reading {
    url: String,
    response: Response,
    lines: Lines,
}

impl Reading {
    async fn next<T: DeserializeOwned>(mut self) -> Result<Option<(T, Self)>, ClientError> {
        loop {
            let line = self.lines.next_line();
            if let Some(line) = line.map_err(|long| ClientError::protocol(&self.url, long.to_string()))? {
                let item = serde_json::from_slice(&line);
                let item = item.map_err(|e| ClientError::unparsable(&self.url, "an unknown line", e))?;
                return Ok(Some((item, self)));
            }
            let piece = self.response.chunk().await;
            match piece.map_err(|error| ClientError::of_transport(&self.url, error))? {
                Some(piece) => self.lines.push(&piece),
                None if self.lines.unfinished() == 0 => return Ok(None),
                None => return Err(ClientError::lost(&self.url, "the stream ended within a line")),
            }
        }
    }
}

/// The lines of `response` as they come, each decoded into a `T`.
pub(crate) fn events<T: DeserializeOwned + Send + 'static>(
    response: Response,
    lines: Lines,
) -> EventStream<T> {
    let reading = Reading {
        url: response.url().to_string(),
        response,
        lines,
    };
    try_unfold(reading, Reading::next).boxed()
}
