//! What watchers see: whole transactions, in order, each once.

use std::sync::Arc;

use super::error::WatchError;
use super::key::Key;
use super::transaction::Versioned;
use super::{memory, sqlite};

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key that changed.
    pub key: Key,
    /// What it is now; `None` means that it was deleted.
    pub value: Option<Versioned>,
}

impl Event {
    /// About what it takes in memory, in bytes, for the bounds of queues.
    pub(super) fn weight(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |versioned| versioned.value.len());
        size_of::<Self>() + self.key.as_bytes().len() + value
    }
}

/// The changes of one transaction, in the order of its writes.
///
/// It has no events if the transaction had no writes, or only deleted keys that were absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The transaction's revision within the epoch.
    pub n: u64,
    /// What changed.
    pub events: Arc<[Event]>,
}

impl Batch {
    /// About what it takes in memory, in bytes, for the bounds of queues.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.events.iter().map(Event::weight).sum::<usize>()
    }
}

/// A reader of the store's changes from a revision on. It never skips one and never splits one.
#[derive(Debug)]
pub struct Watch(Source);

#[derive(Debug)]
enum Source {
    Sqlite(sqlite::Tail),
    Memory(memory::Tail),
}

impl Watch {
    pub(super) fn sqlite(tail: sqlite::Tail) -> Self {
        Self(Source::Sqlite(tail))
    }

    pub(super) fn memory(tail: memory::Tail) -> Self {
        Self(Source::Memory(tail))
    }

    /// The next transaction, waiting for it if there is none yet.
    ///
    /// A watch that lags reads from disk, and fails with [`WatchError::Compacted`] once that is gone too;
    /// it never holds up a commit. After an error the watch stands where it stood. Cancel-safe: a future
    /// that is dropped has taken nothing.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        match &mut self.0 {
            Source::Sqlite(tail) => tail.next().await,
            Source::Memory(tail) => tail.next().await,
        }
    }
}
