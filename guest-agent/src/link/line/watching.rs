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
    pub(super) line: Rc<Line>,
    pub(super) stream: StreamId,
    pub(super) ask: u64,
    pub(super) batches: mpsc::Receiver<Answer<WatchBatch>>,
}

impl Watching {
    /// The next batch. Say [`Self::applied`] once it is dealt with; no other comes before. Dropping the future is
    /// harmless.
    pub async fn next(&mut self) -> Result<WatchBatch, AskFailure> {
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
