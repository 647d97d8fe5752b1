//! One group: the transactions that share an fsync, one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use super::current::{Current, FoundStamp};
use super::rows::{self, RowId, Stamp};
use crate::store::key::Key;
use crate::store::transaction::{Guard, Transaction, Versioned, Write};
use crate::store::watch::{Batch, Event};

/// Transactions on their way into one `SQLite` transaction. Each sees those before it.
pub(super) struct Group<'a> {
    db: &'a Connection,
    current: &'a Current,
    head: u64,
    /// What the group wrote or looked up so far: `current` learns of writes only when they are durable.
    seen: HashMap<Key, Option<Stamp>>,
    batches: Vec<Batch>,
}

/// What became of a transaction, provided that the group is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is revision `n`.
    Written { n: u64 },
    /// This guard didn't hold.
    Conflict { guard: usize, key: Key },
}

impl<'a> Group<'a> {
    pub(super) fn new(db: &'a Connection, current: &'a Current, head: u64) -> Self {
        Self {
            db,
            current,
            head,
            seen: HashMap::new(),
            batches: Vec::new(),
        }
    }

    /// Judges the transaction's guards, and writes it if they hold.
    pub(super) fn apply(&mut self, transaction: &Transaction) -> rusqlite::Result<Verdict> {
        if let Some(guard) = self.first_broken(&transaction.guards)? {
            return Ok(Verdict::Conflict {
                guard,
                key: transaction.guards[guard].key().clone(),
            });
        }
        let n = self.head + 1;
        let mut events = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            if let Some(event) = self.event(n, write)? {
                rows::append(
                    self.db,
                    RowId::new(n, events.len()),
                    event.key.as_bytes(),
                    event.value.as_ref(),
                )?;
                self.seen
                    .insert(event.key.clone(), event.value.as_ref().map(Stamp::from));
                events.push(event);
            }
        }
        if events.is_empty() {
            rows::append(self.db, RowId::new(n, 0), &[], None)?;
        }
        self.head = n;
        self.batches.push(Batch {
            n,
            events: Arc::from(events),
        });
        Ok(Verdict::Written { n })
    }

    /// What to publish once the group is durable.
    pub(super) fn into_batches(self) -> Vec<Batch> {
        self.batches
    }

    fn first_broken(&mut self, guards: &[Guard]) -> rusqlite::Result<Option<usize>> {
        for (place, guard) in guards.iter().enumerate() {
            if !holds(guard, self.stamp(guard.key())?) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The change that the write makes; a deletion of nothing makes none.
    fn event(&mut self, n: u64, write: &Write) -> rusqlite::Result<Option<Event>> {
        let before = self.stamp(write.key())?;
        let value = match (write, before) {
            (Write::Put(_, value), before) => Some(version(n, value, before)),
            (Write::Delete(_), Some(_)) => None,
            (Write::Delete(_), None) => return Ok(None),
        };
        Ok(Some(Event {
            key: write.key().detached(),
            value,
        }))
    }

    fn stamp(&mut self, key: &Key) -> rusqlite::Result<Option<Stamp>> {
        if let Some(stamp) = self.seen.get(key) {
            return Ok(*stamp);
        }
        let stamp = match self.current.stamp(key) {
            FoundStamp::Here(stamp) => stamp,
            FoundStamp::Elsewhere => rows::stamp(self.db, key.as_bytes())?,
        };
        self.seen.insert(key.clone(), stamp);
        Ok(stamp)
    }
}

/// The value is copied: it may be a part of a large buffer, which would stay in memory with it.
fn version(n: u64, value: &Bytes, before: Option<Stamp>) -> Versioned {
    let value = Bytes::copy_from_slice(value);
    let (created, version) = before.map_or((n, 1), |before| (before.created, before.version + 1));
    Versioned {
        value,
        created,
        modified: n,
        version,
    }
}

fn holds(guard: &Guard, found: Option<Stamp>) -> bool {
    match (guard, found) {
        (Guard::Absent(_), found) => found.is_none(),
        (Guard::Exists(_), found) => found.is_some(),
        (Guard::At(_, modified), found) => found.is_some_and(|found| found.modified == *modified),
        (Guard::Version(_, version), found) => found.is_some_and(|found| found.version == *version),
    }
}
