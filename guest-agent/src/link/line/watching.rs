//! A watch at the host, from the side of whoever watches.

use std::rc::Rc;

use moorline_shared::Revision;
use moorline_shared::link::StreamId;
use tokio::sync::mpsc;

use super::{Answer, AskFailure, Line, WatchBatch};
use crate::platform::now;

/// A watch at the host; dropping it ends it.
#[derive(Debug)]
pub struct Watching {
    line: Rc<Line>,
    stream: StreamId,
    ask: u64,
    batches: mpsc::Receiver<Answer<WatchBatch>>,
    /// The snapshot, until it is taken.
    first: Option<WatchBatch>,
}

impl Watching {
    /// A watch that was asked for on the stream, once its snapshot is there.
    pub(super) async fn begin(
        line: Rc<Line>,
        stream: StreamId,
        ask: u64,
        batches: mpsc::Receiver<Answer<WatchBatch>>,
    ) -> Answer<Self> {
        let mut watching = Self {
            line,
            stream,
            ask,
            batches,
            first: None,
        };
        watching.first = Some(watching.next().await?);
        Ok(watching)
    }

    /// The next batch; the first is a snapshot, and is there. Say [`Self::applied`] once it is dealt with; no other comes
    /// before. Dropping the future is harmless.
    pub async fn next(&mut self) -> Result<WatchBatch, AskFailure> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        self.batches.recv().await.unwrap_or(Err(AskFailure::Away))
    }

    /// The batch that led to `revision` is dealt with.
    pub fn applied(&self, revision: Revision) {
        let mut state = self.line.state.borrow_mut();
        if state
            .waiting
            .get(&self.stream)
            .is_some_and(|waiting| waiting.ask == self.ask)
        {
            state.core.applied(self.stream, revision, now());
            self.line.wake.notify_one();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.line.take_back(self.stream, self.ask);
    }
}
