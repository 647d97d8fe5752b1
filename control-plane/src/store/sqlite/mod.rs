//! The embedded backend: one `SQLite` file, one thread that writes, readers in their callers' threads.
//!
//! * A commit hands its transaction to the `committer` thread through a queue that is bounded in
//!   bytes, and returns after the fsync of the `group` that the transaction became part of.
//! * `reader` answers from `current` (the newest values in use, in memory) or from the file; `scan` reads
//!   ranges and stretches of the log.
//! * [`Tail`] follows the head through `recent`, the last transactions in memory, or from the file.
//! * `sweep` compacts in small steps. `schema` makes and recognises the file, and `upgrade` brings it from earlier
//!   schemas to the present one; `rows` has its statements.
//! * `stats` is what the committer counts.
//! * [`Detached`] is a file that no store has open: a copy of one in use, or one to be.

mod committer;
mod current;
mod detached;
mod group;
mod reader;
mod recent;
mod rows;
mod scan;
mod schema;
mod stats;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod upgrade;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::{Semaphore, oneshot, watch};

use committer::{Committer, Compaction, Job, Waiting};
use current::Current;
use reader::{Connections, Shared};
use recent::Recent;
use schema::{Epoch, Opened};
use sweep::Sweep;
use tail::{Life, Progress};

use super::Page;
use super::error::{Cause, Closed, CommitError, CompactError, OpenError, ReadError};
use super::key::{Key, Range};
use super::transaction::{Transaction, Versioned};

pub use detached::{Detached, lock_alone};
pub use stats::{Outcome, Stats};
pub use sweep::Retention;
pub use tail::Tail;

/// How an embedded store uses memory and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How much of the past is kept. Default: the last 100,000 revisions.
    pub retention: Retention,
    /// The bound of the newest values in memory, in bytes. Default: 64 MiB.
    pub current_bytes: usize,
    /// The bound of the transactions kept in memory for watches, in bytes. Default: 16 MiB.
    pub recent_bytes: usize,
    /// The bound of the transactions waiting to be committed, in bytes; further callers wait to hand in
    /// theirs. At least the size of one transaction. Default: 32 MiB.
    pub waiting_bytes: usize,
    /// The bound of the database file, in bytes; its write-ahead log comes on top. At the bound commits fail
    /// as on a full disk. Default: none but `SQLite`'s, 16 TiB.
    pub max_bytes: u64,
    /// How many threads can read the file at once. Default: 4.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::Last(100_000),
            current_bytes: 64 << 20,
            recent_bytes: 16 << 20,
            waiting_bytes: 32 << 20,
            max_bytes: u64::MAX,
            readers: 4,
        }
    }
}

/// An open file. Dropping it commits what was handed in and joins the committer, blocking meanwhile.
#[derive(Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
    epochs: Vec<Epoch>,
    jobs: mpsc::Sender<Job>,
    /// Room in the queue, in units of [`ROOM_UNIT`].
    room: Arc<Semaphore>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Held while the file is open.
    _lock: File,
}

/// A unit of room in the queue, in bytes; every transaction takes at least one.
const ROOM_UNIT: usize = 1 << 10;

impl Sqlite {
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let lock = schema::lock(path)?;
        let opened = schema::open(path, options.max_bytes)?;
        Self::start(path, lock, opened, options)
    }

    fn start(path: &Path, lock: File, opened: Opened, options: &Options) -> Result<Self, OpenError> {
        let readers: Result<_, _> = (0..options.readers.max(1))
            .map(|_| schema::reader(path))
            .collect();
        let sweep = Sweep::new(opened.floor, opened.swept, options.retention);
        let shared = Arc::new(shared(&opened, options, Connections::new(readers?)));
        let epochs = opened.epochs;
        let (jobs, queue) = mpsc::channel();
        let committer =
            Committer::new(opened.writer, queue, Arc::clone(&shared), sweep).map_err(|source| {
                OpenError::Failed {
                    path: path.to_owned(),
                    source,
                }
            })?;
        let thread = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(|| committer.run())
            .map_err(|source| OpenError::NoThread {
                path: path.to_owned(),
                source,
            })?;
        let room = options.waiting_bytes.max(Transaction::MAX_BYTES) / ROOM_UNIT;
        let room = Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        Ok(Self {
            shared,
            epochs,
            jobs,
            room,
            committer: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    pub(super) fn epoch_of(&self, n: u64) -> u64 {
        let begun = self.epochs.iter().rev().find(|epoch| epoch.first <= n);
        begun.map_or(self.shared.epoch, |epoch| epoch.number)
    }

    pub(super) fn head(&self) -> u64 {
        self.shared.head()
    }

    pub(super) fn read(&self, at: u64, keys: &[Key]) -> Result<Vec<Option<Versioned>>, ReadError> {
        reader::read(&self.shared, at, keys)
    }

    pub(super) fn range(&self, at: u64, range: &Range) -> Result<Page, ReadError> {
        reader::range(&self.shared, at, range)
    }

    pub(super) fn watch(&self, after: u64) -> Result<Tail, ReadError> {
        self.shared.check(after)?;
        Ok(Tail::new(Arc::clone(&self.shared), after))
    }

    pub(super) async fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        let bytes = transaction.check()?;
        let closed = || CommitError::Unavailable {
            source: Cause::new(Closed),
        };
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT).max(1)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(units)
            .await
            .map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        self.jobs
            .send(Job::Commit(Waiting {
                transaction,
                bytes,
                answer,
                room,
            }))
            .map_err(|_| closed())?;
        // Without an answer the committer ended in the middle of its work.
        answered.await.unwrap_or_else(|_| {
            Err(CommitError::Unknown {
                source: Cause::new(Closed),
            })
        })
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    pub(super) async fn probe(&self) -> Result<(), CommitError> {
        let closed = || CommitError::Unavailable {
            source: Cause::new(Closed),
        };
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Probe(answer)).map_err(|_| closed())?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) async fn compact(&self, to: u64) -> Result<(), CompactError> {
        let head = self.head();
        if to > head {
            return Err(CompactError::Ahead { asked: to, head });
        }
        let closed = || CompactError::Unavailable {
            source: Cause::new(Closed),
        };
        let (answer, answered) = oneshot::channel();
        self.jobs
            .send(Job::Compact(Compaction { to, answer }))
            .map_err(|_| closed())?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) async fn close(&self) {
        let (done, end) = oneshot::channel();
        // Neither fails but if the committer has ended already, and then there is nothing to wait for.
        if self.jobs.send(Job::Close(done)).is_ok() {
            let _ = end.await;
        }
        self.join();
    }

    fn join(&self) {
        let thread = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's committer panicked");
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let (done, _end) = oneshot::channel();
        let _ = self.jobs.send(Job::Close(done));
        self.join();
    }
}

fn shared(opened: &Opened, options: &Options, connections: Connections) -> Shared {
    Shared {
        epoch: opened.epochs.last().map_or(0, |epoch| epoch.number),
        head: AtomicU64::new(opened.head),
        floor: AtomicU64::new(opened.floor),
        current: Current::new(options.current_bytes),
        recent: Recent::new(options.recent_bytes),
        progress: watch::Sender::new(Progress {
            head: opened.head,
            life: Life::Open,
        }),
        connections,
        stats: Stats::default(),
    }
}
