//! Reading, in the calling thread.
//!
//! A read answers from memory, or asks `SQLite` under a short lock on one of a few connections. That blocks
//! the caller for microseconds when the pages are in the system's cache; handing the read to another thread
//! would cost more than the read itself. Only a page that must come from the disk takes longer, and a
//! range, whose size is bounded for that reason.
//!
//! What a read sees is fixed by `at`, not by when it runs, so reads need no transaction around them. Only
//! compaction can take versions away, and it raises the floor first: a read that finds the floor not above
//! `at` when it is done has missed nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::watch;

use super::current::{Current, Found, Ticket};
use super::recent::Recent;
use super::rows::{self, RowId};
use super::scan;
use super::stats::Stats;
use super::tail::Progress;
use crate::store::Page;
use crate::store::error::{Cause, ReadError};
use crate::store::key::{Key, Range};
use crate::store::transaction::Versioned;
use crate::store::watch::Batch;

/// What readers and watches use of the store, and the committer keeps up to date.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoch: u64,
    pub(super) head: AtomicU64,
    pub(super) floor: AtomicU64,
    pub(super) current: Current,
    pub(super) recent: Recent,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) connections: Connections,
    pub(super) stats: Stats,
}

impl Shared {
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Refuses a revision that can't be read any more.
    fn above_floor(&self, asked: u64) -> Result<(), ReadError> {
        let oldest = self.floor.load(Ordering::Acquire);
        if asked < oldest {
            Err(ReadError::Compacted { asked, oldest })
        } else {
            Ok(())
        }
    }

    /// Refuses a revision that can't be read at all.
    pub(super) fn check(&self, asked: u64) -> Result<(), ReadError> {
        let head = self.head();
        if asked > head {
            return Err(ReadError::Ahead { asked, head });
        }
        self.above_floor(asked)
    }
}

/// The connections that only read.
#[derive(Debug)]
pub(super) struct Connections {
    pool: Vec<Mutex<Connection>>,
    turn: AtomicUsize,
}

impl Connections {
    pub(super) fn new(pool: Vec<Connection>) -> Self {
        Self {
            pool: pool.into_iter().map(Mutex::new).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A free connection if there is one, else the next in turn.
    fn take(&self) -> MutexGuard<'_, Connection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (before, from) = self.pool.split_at(turn % self.pool.len());
        from.iter()
            .chain(before)
            .find_map(|connection| connection.try_lock().ok())
            .unwrap_or_else(|| {
                self.pool[turn % self.pool.len()]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            })
    }
}

/// See [`crate::store::Store::read`].
pub(super) fn read(shared: &Shared, at: u64, keys: &[Key]) -> Result<Vec<Option<Versioned>>, ReadError> {
    shared.check(at)?;
    let mut values = Vec::with_capacity(keys.len());
    let mut missing = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        values.push(match shared.current.get(key, at) {
            Found::Here(value) => value,
            Found::Elsewhere(ticket) => {
                missing.push((place, ticket));
                None
            }
        });
    }
    if !missing.is_empty() {
        let db = shared.connections.take();
        for (place, ticket) in missing {
            values[place] = fetch(shared, &db, at, &keys[place], ticket).map_err(unavailable)?;
        }
    }
    shared.above_floor(at)?;
    Ok(values)
}

/// Reads from the database, and leaves what is the newest version in memory.
fn fetch(
    shared: &Shared,
    db: &Connection,
    at: u64,
    key: &Key,
    ticket: Ticket,
) -> rusqlite::Result<Option<Versioned>> {
    let newest = rows::newest(db, key.as_bytes(), RowId::MAX)?;
    shared.current.offer(key, ticket, newest.as_ref());
    let found = match newest {
        Some(stored) if stored.id.n() > at => rows::newest(db, key.as_bytes(), RowId::after(at))?,
        newest => newest,
    };
    Ok(found.and_then(|stored| stored.value))
}

/// See [`crate::store::Store::range`].
pub(super) fn range(shared: &Shared, at: u64, range: &Range) -> Result<Page, ReadError> {
    shared.check(at)?;
    let page = scan::page(&shared.connections.take(), at, range).map_err(unavailable)?;
    shared.above_floor(at)?;
    Ok(page)
}

/// Transactions after `after` from disk: the next, and some that follow it. There must be a next one.
pub(super) fn replay(shared: &Shared, after: u64) -> Result<(Batch, VecDeque<Batch>), ReadError> {
    let head = shared.head();
    let replayed = scan::batches(&shared.connections.take(), after, head);
    shared.above_floor(after)?;
    let mut batches = replayed.map_err(unavailable)?;
    let gap = (after + 1..)
        .zip(&batches)
        .find(|(n, batch)| *n != batch.n)
        .map(|(n, _)| n);
    match (gap, batches.pop_front()) {
        (None, Some(next)) => Ok((next, batches)),
        (gap, _) => Err(ReadError::Unavailable {
            source: Cause::new(Missing {
                n: gap.unwrap_or(after + 1),
            }),
        }),
    }
}

/// The file lacks a transaction that it should have; skipping it would be worse than stopping.
#[derive(Debug, thiserror::Error)]
#[error("the store's file lacks transaction {n}: it is damaged")]
struct Missing {
    n: u64,
}

fn unavailable(error: rusqlite::Error) -> ReadError {
    ReadError::Unavailable {
        source: Cause::new(error),
    }
}
