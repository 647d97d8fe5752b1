//! A file that no store has open: a copy of one in use, or one that is to be the store.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use moorline_shared::Revision;
use rusqlite::{Connection, OpenFlags};

use super::rows::{self, RowId};
use super::schema::{self, Found};
use super::upgrade;
use crate::store::error::OpenError;
use crate::store::key::Key;

/// How much of the file is kept in memory, in KiB.
const CACHE_KIB: i64 = 8 << 10;

/// A store's file that nobody else uses.
#[derive(Debug)]
pub struct Detached {
    path: PathBuf,
    db: Connection,
    schema: u64,
}

impl Detached {
    /// Copies the store in the file `from`, as it is at one revision, into the empty file `to`.
    ///
    /// Another process may have the store open and go on writing. Blocks while it copies; the store's write-ahead log
    /// grows meanwhile. Fails as opening the store does, and where `to` has no room.
    pub fn copy(from: &Path, to: &Path) -> Result<Self, OpenError> {
        if let Err(source) = std::fs::File::open(from) {
            let path = from.to_owned();
            return Err(OpenError::Inaccessible { path, source });
        }
        let failed = |source| schema::refusal(from, source);
        let source = schema::connect(from, OpenFlags::SQLITE_OPEN_READ_ONLY, CACHE_KIB).map_err(failed)?;
        schema::look(from, &source)?;
        // A file name in SQLite's own encoding is UTF-8, and ours are chosen by us or an operator.
        let name = to.to_string_lossy();
        source.execute("VACUUM INTO ?1", [&name]).map_err(failed)?;
        Self::open(to)
    }

    /// Opens a store's file, and reads all of it to see that it is whole.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| schema::refusal(path, source);
        let db = schema::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, CACHE_KIB).map_err(failed)?;
        let Found::Store(schema) = schema::look(path, &db)? else {
            let path = path.to_owned();
            return Err(OpenError::Foreign { path });
        };
        let verdict: String = db
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
        if verdict != "ok" {
            return Err(failed(rusqlite::Error::QueryReturnedNoRows));
        }
        Ok(Self {
            path: path.to_owned(),
            db,
            schema,
        })
    }

    /// Its schema.
    pub const fn schema(&self) -> u64 {
        self.schema
    }

    /// The newest schema that this release reads.
    pub const fn newest_schema() -> u64 {
        schema::SCHEMA
    }

    /// Its newest revision.
    pub fn revision(&self) -> Result<Revision, OpenError> {
        let epoch = if self.schema == 1 {
            schema::number(&self.db, "epoch")
        } else {
            schema::epochs(&self.db).map(|all| all.last().map_or(0, |epoch| epoch.number))
        };
        let head = schema::head(&self.db);
        epoch
            .and_then(|epoch| Ok(Revision::new(epoch, head?)))
            .map_err(|source| schema::refusal(&self.path, source))
    }

    /// The newest value of a key.
    pub fn get(&self, key: &Key) -> Result<Option<Bytes>, OpenError> {
        let found = rows::newest(&self.db, key.as_bytes(), RowId::MAX);
        let found = found.map_err(|source| schema::refusal(&self.path, source))?;
        Ok(found.and_then(|found| found.value).map(|kept| kept.value))
    }

    /// Begins a new epoch, so that no revision that was ever given out of what came after this file's state fits again.
    /// It is later than the epoch `after` as well. It is durable when this returns, and the file is complete by itself.
    /// Answers with where the store begins again.
    pub fn begin_epoch(mut self, after: u64) -> Result<Revision, OpenError> {
        let at = self.revision()?;
        let begun = self.begin(Revision::new(at.epoch.max(after), at.n));
        begun.map_err(|source| schema::refusal(&self.path, source))
    }

    fn begin(&mut self, before: Revision) -> rusqlite::Result<Revision> {
        let db = &mut self.db;
        db.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
        db.pragma_update(None, "synchronous", "FULL")?;
        upgrade::to_present(db, self.schema)?;
        let epoch = schema::begin_epoch(db, before.n + 1, before.epoch)?;
        Ok(Revision::new(epoch, before.n))
    }
}

/// Takes the store's file `path` for this process, before it is there, until the result is dropped.
///
/// Fails with [`OpenError::InUse`] if another process has it.
pub fn lock_alone(path: &Path) -> Result<std::fs::File, OpenError> {
    schema::lock(path)
}
