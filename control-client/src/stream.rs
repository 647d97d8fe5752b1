//! Streams of lines: opened, decoded, and ended where the connection ends.

use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::error::{Asked, ClientError};
use crate::ndjson::Lines;

/// What a stream brings, one item a line. It ends with `None` where the server ended it, and after the first error.
/// Dropping it closes the connection's stream.
pub type EventStream<T> = BoxStream<'static, Result<T, ClientError>>;

/// An answer that is being read.
struct Reading {
    asked: Asked,
    response: Response,
    lines: Lines,
}

impl Reading {
    async fn next<T: DeserializeOwned>(mut self) -> Result<Option<(T, Self)>, ClientError> {
        loop {
            let line = self.lines.next_line();
            if let Some(line) = line.map_err(|long| self.asked.protocol(long.to_string()))? {
                let item = serde_json::from_slice(&line);
                let item = item.map_err(|e| self.asked.unparsable("an unknown line", e))?;
                return Ok(Some((item, self)));
            }
            let piece = self.response.chunk().await;
            match piece.map_err(|error| self.asked.failed(error))? {
                Some(piece) => self.lines.push(&piece),
                None if self.lines.unfinished() == 0 => return Ok(None),
                None => return Err(self.asked.lost("the stream ended within a line")),
            }
        }
    }
}

/// The lines of the answer to `asked` as they come, each decoded into a `T`.
pub(crate) fn events<T: DeserializeOwned + Send + 'static>(
    asked: Asked,
    response: Response,
    lines: Lines,
) -> EventStream<T> {
    let reading = Reading {
        asked,
        response,
        lines,
    };
    try_unfold(reading, Reading::next).boxed()
}
