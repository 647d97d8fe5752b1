//! The transactions of a load, committed again with nothing around them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use moorline_control::store::{Batch, Store};
use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::per_second;

/// As the store's: the log is moved into the database once it has this many pages.
const CHECKPOINT_PAGES: usize = 4096;
/// As the store's: a row's id is its transaction's number and its place in it.
const PLACE_BITS: u32 = 12;

/// All transactions after a revision, in their order.
pub(crate) async fn recorded(store: &Store, after: u64) -> Result<Vec<Batch>> {
    let head = store.head().await?;
    let mut watch = store.watch(after).await?;
    let mut batches = Vec::new();
    for _ in after..head {
        batches.push(watch.next().await?);
    }
    Ok(batches)
}

/// Commits them into a new file, `group` at a time on average: how many per second.
pub(crate) fn bare(batches: &[Batch], group: f64, file: &Path) -> Result<f64> {
    ensure!(!batches.is_empty(), "no transaction was recorded");
    ensure!(group >= 1.0, "groups of {group} transactions can't be made");
    let mut db = open(file).context("make a database")?;
    let log_pages = count_pages(&mut db).context("follow the log")?;
    let begun = Instant::now();
    for group in groups(batches, group) {
        let transaction = db.transaction()?;
        for batch in group {
            insert(&transaction, batch)?;
        }
        transaction.commit().context("commit")?;
        if log_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES {
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .context("move the log into the database")?;
        }
    }
    Ok(per_second(batches.len() as u64, begun.elapsed()))
}

/// How many pages the log has, kept up to date by every commit.
fn count_pages(db: &mut Connection) -> rusqlite::Result<Arc<AtomicUsize>> {
    let pages = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pages);
    db.wal_hook(Some(move |_: &mut Wal, pages| {
        counter.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

/// Cuts so that after each group as many have gone as the average says.
fn groups<T>(mut rest: &[T], average: f64) -> impl Iterator<Item = &[T]> {
    let mut due = 0.0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        due += average;
        let size = whole(due).min(rest.len());
        due -= due.floor();
        let (group, later) = rest.split_at(size);
        rest = later;
        Some(group)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an average group, and less than one more, is a small positive number"
)]
fn whole(number: f64) -> usize {
    number.floor() as usize
}

/// The same settings and the same table as the store's, as far as they matter to its speed.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -32768;
         CREATE TABLE versions (id INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL,
                                version INTEGER NOT NULL, value BLOB) STRICT;
         CREATE INDEX by_key ON versions (key);",
    )?;
    Ok(db)
}

fn insert(db: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached("INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (place, event) in batch.events.iter().enumerate() {
        let id = (batch.n << PLACE_BITS | place as u64).cast_signed();
        let new = event.value.as_ref();
        let (created, version) = new.map_or((0, 0), |new| (new.created, new.version));
        let value = new.map(|new| &*new.value);
        statement.execute((
            id,
            event.key.as_bytes(),
            created.cast_signed(),
            version.cast_signed(),
            value,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{bare, groups, recorded};
    use moorline_control::store::sqlite::Options;
    use moorline_control::store::{Key, Store, Transaction, Write};

    #[test]
    fn groups_are_of_the_average_size() {
        let sizes = |average: f64| -> Vec<usize> { groups(&[(); 10], average).map(<[()]>::len).collect() };
        assert_eq!(sizes(1.0), [1; 10]);
        assert_eq!(sizes(2.5), [2, 3, 2, 3]);
        assert_eq!(sizes(4.0), [4, 4, 2]);
        assert_eq!(sizes(99.0), [10]);
    }

    #[test]
    fn what_was_recorded_is_committed_again() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Options::default()).unwrap();
        let key = Key::try_from("a/key").unwrap();
        runtime.block_on(async {
            for n in 0..5_u8 {
                let write = if n == 3 {
                    Write::Delete(key.clone())
                } else {
                    Write::Put(key.clone(), vec![n].into())
                };
                let writes = vec![write];
                store
                    .commit(Transaction {
                        guards: vec![],
                        writes,
                    })
                    .await
                    .unwrap();
            }
        });
        let batches = runtime.block_on(recorded(&store, 1)).unwrap();
        assert_eq!(batches.len(), 4, "those after the first");
        let file = folder.path().join("bare.db");
        assert!(bare(&batches, 2.0, &file).unwrap() > 0.0);
        let count = |file| {
            let db = rusqlite::Connection::open(file).unwrap();
            db.query_row("SELECT count(*) FROM versions WHERE id >> 12 > 1", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap()
        };
        assert_eq!(count(file), count(folder.path().join("store.db")));
    }
}
