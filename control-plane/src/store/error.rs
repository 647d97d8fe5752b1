//! What can go wrong, one enum per operation.

use std::path::PathBuf;
use std::sync::Arc;

use super::key::Key;
use super::transaction::Transaction;

/// A backend's own error. It is shared because one failure can end many transactions.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl Cause {
    pub(super) fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }
}

/// The store was closed, or the thread that commits is gone.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

/// A transaction that no backend takes. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// More than [`Transaction::MAX_OPERATIONS`].
    #[error(
        "transaction: {found} guards and writes, and at most {} fit",
        Transaction::MAX_OPERATIONS
    )]
    Operations {
        /// How many there are.
        found: usize,
    },
    /// More than [`Transaction::MAX_BYTES`].
    #[error(
        "transaction: {found} bytes of keys and values, and at most {} fit",
        Transaction::MAX_BYTES
    )]
    Bytes {
        /// How many there are.
        found: usize,
    },
    /// A key may be written once: etcd knows no order within a transaction.
    #[error("transaction: writes[{write}] changes {key} again, and a key may be written once")]
    Repeated {
        /// The index of the second write.
        write: usize,
        /// The key of both.
        key: Key,
    },
}

/// Why a transaction was not committed, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold. Nothing was written.
    #[error("guards[{guard}] on {key} does not hold")]
    Conflict {
        /// The index of the first guard that did not hold.
        guard: usize,
        /// Its key.
        key: Key,
    },
    /// The transaction is out of bounds. Nothing was written.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Nobody can say whether it was committed: look for one of its writes before trying again.
    #[error("it is unknown whether the transaction was committed")]
    Unknown {
        /// What the backend said.
        source: Cause,
    },
    /// Nothing was written, and the same transaction may succeed later: a full disk, a closed store.
    #[error("the store can't commit now")]
    Unavailable {
        /// What the backend said.
        source: Cause,
    },
}

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The revision was compacted.
    #[error("revision {asked} is gone: the oldest that can be read is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// The oldest one that can be read.
        oldest: u64,
    },
    /// The revision was not committed yet, or belongs to another store.
    #[error("revision {asked} does not exist: the newest is {head}")]
    Ahead {
        /// The revision that was asked for.
        asked: u64,
        /// The newest one.
        head: u64,
    },
    /// What is there is not what was written, or a newer release wrote it.
    #[error("the record {key} can't be read: {reason}; it was written by a newer release or is damaged")]
    Damaged {
        /// Its key.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// The backend failed.
    #[error("the store can't be read now")]
    Unavailable {
        /// What the backend said.
        source: Cause,
    },
}

/// Why a watch ended. It stays where it was, so that `next` may be called again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// The revisions after the watch's cursor were compacted: read the state anew and watch from there.
    #[error("the changes after revision {after} are gone: the oldest cursor is {oldest}")]
    Compacted {
        /// The last revision that the watch delivered, or began after.
        after: u64,
        /// The oldest one to watch after.
        oldest: u64,
    },
    /// The store was closed, and everything committed before was delivered.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The backend failed.
    #[error("the store can't be watched now")]
    Unavailable {
        /// What the backend said.
        source: Cause,
    },
}

/// Why a compaction did not happen, or not to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompactError {
    /// The revision was not committed yet.
    #[error("revision {asked} does not exist: the newest is {head}")]
    Ahead {
        /// The revision that was asked for.
        asked: u64,
        /// The newest one.
        head: u64,
    },
    /// The backend failed; what was compacted stays so, and the rest is tried again with later work.
    #[error("the store can't be compacted now")]
    Unavailable {
        /// What the backend said.
        source: Cause,
    },
}

/// Why a store's file could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("store {}: it can't be opened; check that the directory exists and that this user may write to it", path.display())]
    Inaccessible {
        /// The store's file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("store {}: another process has it open; stop that one first", path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// It isn't a database at all, or is damaged.
    #[error("store {}: it is damaged or no database; move it and its -wal file away, then restore a backup or start empty", path.display())]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What the database library said.
        source: rusqlite::Error,
    },
    /// It is a database of another program.
    #[error("store {}: it is another program's database; give the store a path of its own", path.display())]
    Foreign {
        /// The store's file.
        path: PathBuf,
    },
    /// A newer release wrote it.
    #[error("store {}: its schema is {found} and this release knows up to {known}; run the release that wrote it, or a newer one", path.display())]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The schema version found.
        found: u64,
        /// The newest version that this release knows.
        known: u64,
    },
    /// The system has no room for another thread.
    #[error("store {}: the committer's thread can't be started; check the limits on threads and memory", path.display())]
    NoThread {
        /// The store's file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The database library failed in another way.
    #[error("store {}: the database can't be opened; check that the disk has room and is healthy", path.display())]
    Failed {
        /// The store's file.
        path: PathBuf,
        /// What the database library said.
        source: rusqlite::Error,
    },
}
