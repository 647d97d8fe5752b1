//! A watch of this backend: from memory while it keeps up, from disk while it lags.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::reader::{self, Shared};
use crate::store::error::{Cause, Closed, ReadError, WatchError};
use crate::store::watch::Batch;

/// How far the store is, told to all watches at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) head: u64,
    pub(super) life: Life,
}

/// Whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    Closed,
}

/// A cursor in the store's changes.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    after: u64,
    /// Read from disk and not delivered yet.
    replayed: VecDeque<Batch>,
}

impl Tail {
    pub(super) fn new(shared: Arc<Shared>, after: u64) -> Self {
        let progress = shared.progress.subscribe();
        Self {
            shared,
            progress,
            after,
            replayed: VecDeque::new(),
        }
    }

    /// See [`crate::store::Watch::next`].
    pub(in crate::store) async fn next(&mut self) -> Result<Batch, WatchError> {
        // A watch with much to catch up with never waits below, and would starve its thread's other tasks.
        tokio::task::coop::consume_budget().await;
        self.arrived().await?;
        let batch = self.take()?;
        self.after = batch.n;
        Ok(batch)
    }

    /// Waits until there is a transaction after the cursor.
    async fn arrived(&mut self) -> Result<(), Closed> {
        let after = self.after;
        let ready = self
            .progress
            .wait_for(|now| now.head > after || now.life == Life::Closed)
            .await;
        match ready {
            Ok(now) if now.head > after => Ok(()),
            _ => Err(Closed),
        }
    }

    fn take(&mut self) -> Result<Batch, WatchError> {
        if let Some(batch) = self
            .replayed
            .pop_front()
            .or_else(|| self.shared.recent.get(self.after + 1))
        {
            return Ok(batch);
        }
        let (next, others) = reader::replay(&self.shared, self.after).map_err(|error| self.failed(error))?;
        self.replayed = others;
        Ok(next)
    }

    fn failed(&self, error: ReadError) -> WatchError {
        match error {
            ReadError::Compacted { oldest, .. } => WatchError::Compacted {
                after: self.after,
                oldest,
            },
            ReadError::Ahead { .. } => Closed.into(),
            ReadError::Unavailable { source } => WatchError::Unavailable { source },
            damaged @ ReadError::Damaged { .. } => WatchError::Unavailable {
                source: Cause::new(damaged),
            },
        }
    }
}
