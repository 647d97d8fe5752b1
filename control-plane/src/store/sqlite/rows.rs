//! The statements, shared by the committer and the readers.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::store::key::Key;
use crate::store::transaction::Versioned;

/// Where a version stands: the transaction's `n` above, the write's place in it below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId(i64);

impl RowId {
    /// 4,096 places: as many as a transaction may have writes. That leaves 2^51 transactions.
    const PLACE_BITS: u32 = 12;

    /// After every row.
    pub(super) const MAX: Self = Self(i64::MAX);

    pub(super) fn new(n: u64, place: usize) -> Self {
        Self((n << Self::PLACE_BITS | place as u64).cast_signed())
    }

    /// Before every row of the transaction after `n`, and after every row of `n`.
    pub(super) fn after(n: u64) -> Self {
        Self::new(n + 1, 0)
    }

    pub(super) fn from_stored(id: i64) -> Self {
        Self(id)
    }

    pub(super) fn stored(self) -> i64 {
        self.0
    }

    pub(super) fn n(self) -> u64 {
        self.0.cast_unsigned() >> Self::PLACE_BITS
    }

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What is known of a key's newest version without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) version: u64,
}

impl From<&Versioned> for Stamp {
    fn from(of: &Versioned) -> Self {
        Self {
            created: of.created,
            modified: of.modified,
            version: of.version,
        }
    }
}

/// A version as it is stored: `value` is `None` if it is a deletion.
pub(super) struct Stored {
    pub(super) id: RowId,
    pub(super) value: Option<Versioned>,
}

/// The newest version of `key` before `before`.
pub(super) fn newest(db: &Connection, key: &[u8], before: RowId) -> rusqlite::Result<Option<Stored>> {
    db.prepare_cached(
        "SELECT id, created, version, value FROM versions WHERE key = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1",
    )?
    .query_row((key, before.stored()), stored)
    .optional()
}

/// The newest version of `key`, if it isn't a deletion, without its value.
pub(super) fn stamp(db: &Connection, key: &[u8]) -> rusqlite::Result<Option<Stamp>> {
    let found = db
        .prepare_cached(
            "SELECT id, created, version, value IS NULL FROM versions WHERE key = ?1 ORDER BY id DESC LIMIT 1",
        )?
        .query_row([key], |row| {
            let deleted: bool = row.get(3)?;
            let modified = RowId(row.get(0)?).n();
            let stamp = Stamp { created: number(row, 1)?, modified, version: number(row, 2)? };
            Ok((!deleted).then_some(stamp))
        })
        .optional()?;
    Ok(found.flatten())
}

/// Appends a version of `key`; a deletion without a value.
pub(super) fn append(
    db: &Connection,
    id: RowId,
    key: &[u8],
    new: Option<&Versioned>,
) -> rusqlite::Result<()> {
    let (created, version) = new.map_or((0, 0), |new| (new.created, new.version));
    let value = new.map(|new| &*new.value);
    db.prepare_cached("INSERT INTO versions (id, key, created, version, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            id.stored(),
            key,
            created.cast_signed(),
            version.cast_signed(),
            value,
        ))?;
    Ok(())
}

/// Writes what is there already, so that the transaction has something to make durable.
pub(super) fn touch(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET value = value WHERE name = 'schema'")?
        .execute([])
        .map(drop)
}

/// The newest transaction that the file holds, or 0.
pub(super) fn head(db: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<i64> = db.query_row("SELECT max(id) FROM versions", [], |row| row.get(0))?;
    Ok(newest.map_or(0, |id| RowId(id).n()))
}

/// Reads a version from the columns id, created, version, value.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let id = RowId(row.get(0)?);
    let value = match row.get_ref(3)?.as_blob_or_null()? {
        Some(bytes) => Some(Versioned {
            value: Bytes::copy_from_slice(bytes),
            created: number(row, 1)?,
            modified: id.n(),
            version: number(row, 2)?,
        }),
        None => None,
    };
    Ok(Stored { id, value })
}

/// A key from a column; an empty one is the mark of a transaction without changes.
pub(super) fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Key>> {
    let bytes = row.get_ref(column)?.as_blob()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let broken = |error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(error))
    };
    Key::try_from(bytes).map(Some).map_err(broken)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}
