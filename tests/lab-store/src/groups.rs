//! How many groups a running control plane has committed, without asking it.
//!
//! `SQLite` counts the write transactions of a database in its wal-index, the file beside the database whose name ends
//! in `-shm`: the field `iChange` of the header, in the machine's own byte order (sqlite.org/walformat.html). A group of
//! the store is one such transaction.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where the field is.
const CHANGES_AT: u64 = 8;

/// The count of the database in `store`. It begins anywhere and goes on over its greatest number.
pub(crate) fn committed(store: &Path) -> Result<u32> {
    let mut name = OsString::from(store);
    name.push("-shm");
    let file = File::open(&name).context("open the index of the log")?;
    let mut field = [0; 4];
    file.read_exact_at(&mut field, CHANGES_AT)
        .context("read the index of the log")?;
    Ok(u32::from_ne_bytes(field))
}

#[cfg(test)]
mod tests {
    use super::committed;
    use rusqlite::Connection;

    #[test]
    fn each_transaction_counts_once_across_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let mut db = Connection::open(&file).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER)")
            .unwrap();
        let before = committed(&file).unwrap();
        for round in 0..4 {
            for n in 0..10 {
                let transaction = db.transaction().unwrap();
                for _ in 0..=n {
                    transaction.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
                }
                transaction.commit().unwrap();
            }
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .unwrap();
            assert_eq!(committed(&file).unwrap() - before, 10 * (round + 1));
        }
    }
}
