//! The file: its tables, how it is made, and how it is told from others.
//!
//! One table holds every version of every key in the order of commits, so that values are appended and
//! written once; the index finds a key's versions. Its row id is the transaction's `n` and the write's place
//! in it, so that the table is the log as well. Tried against a table clustered by key with the values in it:
//! 50,000 instead of 34,000 puts/s in groups of 32 transactions, because fewer pages change.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::OFlags;

use super::rows::{self, RowId};
use super::upgrade;
use crate::store::error::OpenError;

/// Marks the file as a store of this project ("MOOR"), in the field that `SQLite` keeps for that.
const APPLICATION_ID: i32 = 0x4d4f_4f52;
/// The newest schema version that this release reads and writes.
pub(super) const SCHEMA: u64 = 2;
/// After a checkpoint the write-ahead log is cut back to this size, so that a peak doesn't keep the disk.
const LOG_FILE_BYTES: i64 = 64 << 20;
/// The committer keeps this much of the database at hand, in KiB; twice the size of the largest group.
const WRITER_CACHE_KIB: i64 = 32 << 10;
/// Each reader keeps this much, in KiB.
const READER_CACHE_KIB: i64 = 4 << 10;

const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    -- A row is a version of a key. Without a value it is a deletion; with an empty key it only says that
    -- its transaction changed nothing, so that no n is missing.
    CREATE TABLE versions (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        created INTEGER NOT NULL,
        version INTEGER NOT NULL,
        value BLOB
    ) STRICT;
    CREATE INDEX by_key ON versions (key);
    -- Which epoch the transactions from the first on are of; the last row is the present epoch.
    CREATE TABLE epochs (first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
";

/// An epoch, and the first transaction that is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) first: u64,
    pub(super) number: u64,
}

/// An open store: the one connection that writes, and what the file says about itself.
pub(super) struct Opened {
    pub(super) writer: Connection,
    /// All that there were, in order; at least one.
    pub(super) epochs: Vec<Epoch>,
    pub(super) floor: u64,
    pub(super) swept: RowId,
    pub(super) head: u64,
}

/// Takes the file for this process alone, until the result is dropped.
///
/// `SQLite` would let several processes write in turn, but each would miss the others' commits in its memory.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let inaccessible = |source| OpenError::Inaccessible {
        path: path.to_owned(),
        source,
    };
    let lock = private(&beside(path, ".lock")).map_err(inaccessible)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(inaccessible(source)),
    }
}

/// Opens or makes the file. `max_bytes` bounds its size.
pub(super) fn open(path: &Path, max_bytes: u64) -> Result<Opened, OpenError> {
    prepare(path).map_err(|source| OpenError::Inaccessible {
        path: path.to_owned(),
        source,
    })?;
    let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)
        .map_err(|source| refusal(path, source))?;
    recognise(path, &mut writer)?;
    limit_size(&writer, max_bytes)
        .and_then(|()| describe(&writer))
        .map(|(epochs, floor, swept, head)| Opened {
            writer,
            epochs,
            floor,
            swept,
            head,
        })
        .map_err(|source| refusal(path, source))
}

/// A connection that can only read.
pub(super) fn reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    connect(path, flags, READER_CACHE_KIB).map_err(|source| refusal(path, source))
}

/// Makes the file if there is none, readable by its owner only (`SQLite` gives its other files the same
/// mode), and makes the directory remember it.
fn prepare(path: &Path) -> io::Result<()> {
    private(path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that is its owner's alone. A link in its place is refused: root may restore a backup in another user's folder,
/// and the lock beside a link would be another one than that beside the store.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A connection for one thread at a time, with statements whose plans never depend on what is bound to
/// them: otherwise `SQLite`, as it is built here, plans them anew for each new key.
pub(super) fn connect(path: &Path, flags: OpenFlags, cache_kib: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    Ok(connection)
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// An empty database.
    Nothing,
    /// A store of this schema, which this release knows.
    Store(u64),
}

/// Checks that the file is a store, of this release's schema from now on, or makes an empty file one.
fn recognise(path: &Path, writer: &mut Connection) -> Result<(), OpenError> {
    let failed = |source| refusal(path, source);
    let found = look(path, writer)?;
    make_durable(writer).map_err(failed)?;
    match found {
        Found::Nothing => create(writer).map_err(failed),
        Found::Store(schema) => upgrade::to_present(writer, schema).map_err(failed),
    }
}

/// What the file is, if it is nothing that this release must keep its hands off.
pub(super) fn look(path: &Path, db: &Connection) -> Result<Found, OpenError> {
    let failed = |source| refusal(path, source);
    let application: i32 = db
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(failed)?;
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    let path = path.to_owned();
    match (application, tables) {
        (APPLICATION_ID, _) => {}
        (0, 0) => return Ok(Found::Nothing),
        _ => return Err(OpenError::Foreign { path }),
    }
    match number(db, "schema").map_err(failed)? {
        0 => Err(failed(rusqlite::Error::QueryReturnedNoRows)),
        found @ 1..=SCHEMA => Ok(Found::Store(found)),
        found => Err(OpenError::Newer {
            path,
            found,
            known: SCHEMA,
        }),
    }
}

/// A commit returns after its fsync. Checkpoints are the committer's, so none happens inside a commit.
fn make_durable(writer: &Connection) -> rusqlite::Result<()> {
    writer.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    writer.pragma_update(None, "synchronous", "FULL")?;
    writer.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    writer.pragma_update_and_check(None, "journal_size_limit", LOG_FILE_BYTES, |_| Ok(()))
}

fn create(writer: &mut Connection) -> rusqlite::Result<()> {
    let swept = RowId::after(0).stored().cast_unsigned();
    let transaction = writer.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    for (name, value) in [("schema", SCHEMA), ("floor", 0), ("swept", swept)] {
        transaction.execute("INSERT INTO meta VALUES (?1, ?2)", (name, value.cast_signed()))?;
    }
    begin_epoch(&transaction, 1, 0)?;
    transaction.commit()
}

/// Begins an epoch that is later than the one `before`, with the transaction `first`.
///
/// Its number is the time in milliseconds since 1970, so that JSON readers keep it exact, unless that clock went back.
pub(super) fn begin_epoch(db: &Connection, first: u64, before: u64) -> rusqlite::Result<u64> {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let number = now.max(before.saturating_add(1));
    db.execute(
        "INSERT OR REPLACE INTO epochs VALUES (?1, ?2)",
        (first.cast_signed(), number.cast_signed()),
    )?;
    Ok(number)
}

/// All epochs that there were, in order; at least one.
pub(super) fn epochs(db: &Connection) -> rusqlite::Result<Vec<Epoch>> {
    let mut rows = db.prepare("SELECT first, epoch FROM epochs ORDER BY first")?;
    let epoch = |row: &rusqlite::Row<'_>| {
        Ok(Epoch {
            first: row.get(0).map(i64::cast_unsigned)?,
            number: row.get(1).map(i64::cast_unsigned)?,
        })
    };
    let found: Vec<_> = rows.query_map([], epoch)?.collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    }
    Ok(found)
}

fn limit_size(writer: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let page: u64 = writer.pragma_query_value(None, "page_size", |row| row.get(0).map(i64::cast_unsigned))?;
    let pages = (max_bytes / page).clamp(1, u64::from(u32::MAX) - 1);
    writer.pragma_update_and_check(None, "max_page_count", pages.cast_signed(), |_| Ok(()))
}

fn describe(writer: &Connection) -> rusqlite::Result<(Vec<Epoch>, u64, RowId, u64)> {
    let floor = number(writer, "floor")?;
    let swept = RowId::from_stored(number(writer, "swept")?.cast_signed());
    Ok((epochs(writer)?, floor, swept, head(writer)?))
}

/// The newest transaction that the file had, also where it has been removed since.
pub(super) fn head(db: &Connection) -> rusqlite::Result<u64> {
    // Everything up to the floor may have been removed, and nothing above it.
    Ok(rows::head(db)?.max(number(db, "floor")?))
}

pub(super) fn number(writer: &Connection, name: &str) -> rusqlite::Result<u64> {
    writer.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
        row.get(0).map(i64::cast_unsigned)
    })
}

/// Sorts `SQLite`'s errors by what can be done about them.
pub(super) fn refusal(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        // Without a code, or with a general one, tables or rows that a store has are missing.
        None | Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) => {
            OpenError::Damaged { path, source }
        }
        Some(_) => OpenError::Failed { path, source },
    }
}
