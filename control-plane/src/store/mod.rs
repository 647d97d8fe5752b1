//! The revisioned, ordered key-value store that holds the master copy.
//!
//! Every transaction that commits gets its own number `n`, one more than the one before, starting at 1;
//! `(epoch, n)` is a revision of the outside world, and an epoch begins when the store's file is made, and when a
//! backup is restored.
//! Everything is read at an `n`: values, ranges, and by a [`Watch`] the changes after it, as whole
//! transactions. The same transactions in the same order make the same store, byte for byte ([`Store::dump`]).
//!
//! * [`key`]: names, and spans of them. [`Pages`]: a span that is longer than a page. [`transaction`]: guards and
//!   writes, and their bounds.
//! * [`watch`]: batches of changes. [`follow`]: something in memory that is kept in step by them.
//! * [`error`]: one enum per operation.
//! * [`sqlite`]: the embedded backend; one thread commits groups of transactions with one fsync each.
//! * [`memory`]: what is thrown away in the end: simulations and forks.
//! * `conformance`: what any backend must do, as tests.
//!
//! [`Store`] is an enum of the backends instead of a trait: callers hold one plain, cloneable type, calls
//! cost neither boxes nor virtual dispatch, and a further backend is one more variant whose missing
//! operations the compiler names. What the operations promise is what etcd can promise as well: guards are
//! comparisons of existence, version and modified revision, a key is written once per transaction, and
//! revisions can be compacted.

pub mod error;
pub mod follow;
pub mod key;
pub mod memory;
mod pages;
pub mod sqlite;
pub mod transaction;
pub mod watch;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model_tests;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use error::{Cause, Closed, CommitError, CompactError, Invalid, OpenError, ReadError, WatchError};
pub use key::{End, Key, KeyError, Range};
pub use pages::Pages;
pub use transaction::{Guard, Transaction, Versioned, Write};
pub use watch::{Batch, Event, Watch};

/// A handle on a store; clones are handles on the same one.
#[derive(Debug, Clone)]
pub enum Store {
    /// The embedded store in a local file.
    Sqlite(Arc<sqlite::Sqlite>),
    /// A store that nothing is kept of.
    Memory(Arc<memory::Memory>),
}

/// Part of a range, as it was at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys in ascending order with their values. There may be fewer than the limit, even none, although
    /// more follow: only `next` tells.
    pub entries: Vec<(Key, Versioned)>,
    /// Where the rest begins (see [`Range::resume_at`]); `None` means that this page ends the range.
    pub next: Option<Bytes>,
}

#[expect(
    clippy::unused_async,
    reason = "a distributed backend awaits in all of these, and callers shouldn't change for it"
)]
impl Store {
    /// Opens the embedded store in the file `path`, or makes it with a new epoch.
    ///
    /// Blocks while it reads the file and recovers what a crash left. [`OpenError`] says what to do.
    pub fn open_sqlite(path: impl AsRef<Path>, options: &sqlite::Options) -> Result<Self, OpenError> {
        Ok(Self::Sqlite(Arc::new(sqlite::Sqlite::open(
            path.as_ref(),
            options,
        )?)))
    }

    /// The epoch that every `n` of this store belongs to. A later epoch is a greater number.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Sqlite(backend) => backend.epoch(),
            Self::Memory(backend) => backend.epoch(),
        }
    }

    /// The epoch in which the transaction `n` was committed. What it wrote is of the [present one](Self::epoch) since.
    pub fn epoch_of(&self, n: u64) -> u64 {
        match self {
            Self::Sqlite(backend) => backend.epoch_of(n),
            // It has one.
            Self::Memory(backend) => backend.epoch(),
        }
    }

    /// The newest revision: that of the last committed transaction, or 0.
    pub async fn head(&self) -> Result<u64, ReadError> {
        match self {
            Self::Sqlite(backend) => Ok(backend.head()),
            Self::Memory(backend) => Ok(backend.head()),
        }
    }

    /// The values of `keys` at revision `at`, in the order of `keys`; `None` where a key had none.
    ///
    /// Fails with [`ReadError::Compacted`] or [`ReadError::Ahead`] if `at` can't be read.
    pub async fn read(&self, at: u64, keys: &[Key]) -> Result<Vec<Option<Versioned>>, ReadError> {
        match self {
            Self::Sqlite(backend) => backend.read(at, keys),
            Self::Memory(backend) => backend.read(at, keys),
        }
    }

    /// The value of one key at revision `at`; `None` where it had none.
    ///
    /// Fails as [`Store::read`] does.
    pub async fn get(&self, at: u64, key: &Key) -> Result<Option<Versioned>, ReadError> {
        let found = self.read(at, std::slice::from_ref(key)).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// One page of `range` at revision `at`. Pages asked for at the same `at` fit together.
    ///
    /// Fails with [`ReadError::Compacted`] or [`ReadError::Ahead`] if `at` can't be read.
    pub async fn range(&self, at: u64, range: &Range) -> Result<Page, ReadError> {
        match self {
            Self::Sqlite(backend) => backend.range(at, range),
            Self::Memory(backend) => backend.range(at, range),
        }
    }

    /// The pages of `range` at revision `at`, to be gone through without holding more than one.
    pub const fn pages(&self, at: u64, range: Range) -> Pages<'_> {
        Pages::new(self, at, range)
    }

    /// Every entry of `range` at revision `at`, in ascending order.
    ///
    /// It takes as much memory as they have. Fails as [`Store::range`] does.
    pub async fn all(&self, at: u64, range: Range) -> Result<Vec<(Key, Versioned)>, ReadError> {
        let (mut pages, mut entries) = (self.pages(at, range), Vec::new());
        while let Some(page) = pages.next().await? {
            entries.extend(page);
        }
        Ok(entries)
    }

    /// Commits a transaction and answers with its `n` once it is durable.
    ///
    /// Not cancel-safe: a future that is dropped may have committed. [`CommitError`] tells the failures
    /// apart; only after [`CommitError::Unknown`] may something have been written.
    pub async fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        match self {
            Self::Sqlite(backend) => backend.commit(transaction).await,
            Self::Memory(backend) => backend.commit(transaction),
        }
    }

    /// Whether the store can commit now: makes something durable that changes nothing and is no transaction.
    ///
    /// Fails as [`Store::commit`] does. Cancel-safe.
    pub async fn probe(&self) -> Result<(), CommitError> {
        match self {
            Self::Sqlite(backend) => backend.probe().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// What the store has done since it was opened.
    pub fn stats(&self) -> &sqlite::Stats {
        match self {
            Self::Sqlite(backend) => backend.stats(),
            Self::Memory(backend) => backend.stats(),
        }
    }

    /// Watches the transactions after revision `after`; 0 means from the first on.
    ///
    /// Fails with [`ReadError::Compacted`] or [`ReadError::Ahead`] if the watch can't begin there.
    pub async fn watch(&self, after: u64) -> Result<Watch, ReadError> {
        match self {
            Self::Sqlite(backend) => backend.watch(after).map(Watch::sqlite),
            Self::Memory(backend) => backend.watch(after).map(Watch::memory),
        }
    }

    /// Makes `to` the oldest revision that can be read, and removes what only older ones needed.
    ///
    /// Returns when the room is free for new writes. Commits go on meanwhile. If the future is dropped the
    /// compaction still happens. Does nothing if an equal or higher revision is the oldest already.
    pub async fn compact(&self, to: u64) -> Result<(), CompactError> {
        match self {
            Self::Sqlite(backend) => backend.compact(to).await,
            Self::Memory(backend) => backend.compact(to),
        }
    }

    /// Every key with its value at revision `at`, in order: what two equal stores have in common.
    ///
    /// It takes as much memory as they have. Fails as [`Store::range`] does.
    pub async fn dump(&self, at: u64) -> Result<Vec<(Key, Versioned)>, ReadError> {
        self.all(at, Range::all()).await
    }

    /// Closes the store: what was handed in is committed, the committer ends, and later calls of
    /// [`Store::commit`] fail. Watches end with [`Closed`] after the last transaction; reads still work.
    ///
    /// Dropping the last handle does the same, blocking.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(backend) => backend.close().await,
            Self::Memory(backend) => backend.close(),
        }
    }
}
