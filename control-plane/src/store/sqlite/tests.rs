//! What is this backend's own: the file, its bounds, and what the memory around it does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::store::conformance::{commit, conformance, delete, key, put, value, writes};
use crate::store::{CompactError, Store, WatchError};

fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store.db");
    (home, path)
}

fn open(options: &Options) -> (Store, TempDir) {
    let (home, path) = home();
    (Store::open_sqlite(path, options).unwrap(), home)
}

/// Nothing is kept in memory, so that everything is read from the file.
fn starved() -> Options {
    Options {
        current_bytes: 0,
        recent_bytes: 0,
        readers: 1,
        waiting_bytes: 0,
        ..Options::default()
    }
}

fn refusal(path: &Path) -> OpenError {
    Store::open_sqlite(path, &Options::default()).unwrap_err()
}

mod by_default {
    fn fresh() -> (super::Store, super::TempDir) {
        super::open(&super::Options::default())
    }
    super::conformance!(fresh);
}

/// So little that what was just used is dropped all the time.
mod with_little_memory {
    fn fresh() -> (super::Store, super::TempDir) {
        super::open(&super::Options {
            current_bytes: 16 * 300,
            recent_bytes: 1_000,
            ..super::Options::default()
        })
    }
    super::conformance!(fresh);
}

mod without_memory {
    fn fresh() -> (super::Store, super::TempDir) {
        super::open(&super::starved())
    }
    super::conformance!(fresh);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let (home, path) = home();
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    let epoch = store.epoch();
    for i in 0..20 {
        commit(
            &store,
            [
                put(&format!("k{}", i % 3), &i.to_string()),
                delete(&format!("k{}", (i + 1) % 3)),
            ],
        )
        .await;
    }
    store.compact(5).await.unwrap();
    let before = [store.dump(5).await.unwrap(), store.dump(20).await.unwrap()];
    drop(store);
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    assert_eq!((store.epoch(), store.head().await.unwrap()), (epoch, 20));
    assert_eq!(
        [store.dump(5).await.unwrap(), store.dump(20).await.unwrap()],
        before
    );
    assert!(matches!(
        store.read(4, &[]).await,
        Err(ReadError::Compacted { oldest: 5, .. })
    ));
    assert_eq!(store.watch(5).await.unwrap().next().await.unwrap().n, 6);
    assert_eq!(commit(&store, [put("k0", "x")]).await, 21);
    drop(home);
}

fn rows(path: &Path) -> i64 {
    let file = Connection::open(path).unwrap();
    file.query_row("SELECT count(*) FROM versions", [], |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn compaction_leaves_one_version_of_a_key() {
    let (_home, path) = home();
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    for n in 1..5 {
        assert_eq!(commit(&store, [put("a", "x"), put("b", "x")]).await, n);
        assert_eq!(rows(&path), 4 - 2 * i64::from(n == 1));
        store.compact(n).await.unwrap();
        assert_eq!(rows(&path), 2);
    }
    commit(&store, []).await;
    commit(&store, [delete("a")]).await;
    assert_eq!(rows(&path), 4);
    store.compact(6).await.unwrap();
    assert_eq!(rows(&path), 1);
}

#[tokio::test]
async fn the_head_stays_when_everything_is_compacted() {
    let (_home, path) = home();
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    commit(&store, [put("a", "1")]).await;
    commit(&store, [delete("a")]).await;
    store.compact(2).await.unwrap();
    drop(store);
    assert_eq!(rows(&path), 0);
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    assert_eq!(commit(&store, [put("a", "3")]).await, 3);
}

#[tokio::test]
async fn a_file_belongs_to_one_process() {
    let (_home, path) = home();
    let store = Store::open_sqlite(&path, &Options::default()).unwrap();
    assert!(matches!(refusal(&path), OpenError::InUse { .. }));
    drop(store);
    Store::open_sqlite(&path, &Options::default()).unwrap();
}

#[test]
fn what_is_no_store_is_named() {
    let (_home, path) = home();
    std::fs::write(
        &path,
        "not a database, but long enough to be read as one".repeat(100),
    )
    .unwrap();
    let error = refusal(&path);
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");

    std::fs::remove_file(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE cookies (name TEXT)")
        .unwrap();
    assert!(matches!(refusal(&path), OpenError::Foreign { .. }));

    let absent = path.with_file_name("absent").join("store.db");
    assert!(matches!(refusal(&absent), OpenError::Inaccessible { .. }));
}

#[test]
fn a_newer_schema_is_refused() {
    let (_home, path) = home();
    drop(Store::open_sqlite(&path, &Options::default()).unwrap());
    let file = Connection::open(&path).unwrap();
    file.execute("UPDATE meta SET value = 9 WHERE name = 'schema'", [])
        .unwrap();
    drop(file);
    assert!(matches!(
        refusal(&path),
        OpenError::Newer {
            found: 9,
            known: 2,
            ..
        }
    ));
}

#[test]
fn a_store_with_a_hole_is_refused() {
    let (_home, path) = home();
    drop(Store::open_sqlite(&path, &Options::default()).unwrap());
    Connection::open(&path)
        .unwrap()
        .execute("DELETE FROM epochs", [])
        .unwrap();
    assert!(matches!(refusal(&path), OpenError::Damaged { .. }));
}

#[test]
fn the_file_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let (home, path) = home();
    let _store = Store::open_sqlite(&path, &Options::default()).unwrap();
    for file in std::fs::read_dir(home.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
}

#[tokio::test]
async fn a_watch_that_lags_reads_the_file_and_skips_nothing() {
    let (store, _home) = open(&Options {
        recent_bytes: 2_000,
        ..Options::default()
    });
    let mut slow = store.watch(0).await.unwrap();
    let large = "x".repeat(100 << 10);
    for i in 0..200 {
        commit(
            &store,
            [put(&format!("k{i}"), if i % 50 == 0 { &large } else { "1" })],
        )
        .await;
    }
    for n in 1..=200 {
        assert_eq!(slow.next().await.unwrap().n, n);
    }
    commit(&store, [put("a", "1")]).await;
    assert_eq!(slow.next().await.unwrap().n, 201);
}

#[tokio::test]
async fn a_watch_that_lags_behind_the_floor_is_told() {
    let (store, _home) = open(&starved());
    let mut watch = store.watch(0).await.unwrap();
    for _ in 0..10 {
        commit(&store, [put("a", "1")]).await;
    }
    assert_eq!(watch.next().await.unwrap().n, 1);
    let mut behind = store.watch(3).await.unwrap();
    store.compact(8).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(
            behind.next().await,
            Err(WatchError::Compacted { after: 3, oldest: 8 })
        ));
    }
    // What the first one had read before, whole transactions, it may still tell.
    for n in 2..=10 {
        assert_eq!(watch.next().await.unwrap().n, n);
    }
}

#[tokio::test]
async fn retention_moves_the_floor() {
    let (home, path) = home();
    let store = Store::open_sqlite(
        &path,
        &Options {
            retention: Retention::Last(100),
            ..Options::default()
        },
    )
    .unwrap();
    for i in 0..1000 {
        commit(
            &store,
            [put("a", &i.to_string()), put(&format!("k{}", i % 10), "1")],
        )
        .await;
    }
    assert!(matches!(
        store.read(880, &[]).await,
        Err(ReadError::Compacted { .. })
    ));
    assert_eq!(value(&store, 900, "a").await, "899");
    drop(store);
    let rows = rows(&path);
    assert!(
        rows < 300,
        "{rows} rows for 100 revisions of 2 keys each, and 11 keys"
    );
    drop(home);
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    let (store, _home) = open(&Options {
        max_bytes: 1 << 20,
        ..Options::default()
    });
    let value_of = |i: u32| put("a", &i.to_string().repeat(20 << 10));
    let mut committed = 0;
    let error = loop {
        match store.commit(writes([value_of(committed % 10)])).await {
            Ok(n) => committed = u32::try_from(n).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::Unavailable { .. }), "{error:?}");
    assert!(committed > 10);
    let head = store.head().await.unwrap();
    assert_eq!(head, u64::from(committed));
    assert!(store.commit(writes([value_of(1)])).await.is_err());
    assert_eq!(value(&store, head, "a").await.len(), 20 << 10);
    store.compact(head).await.unwrap();
    assert_eq!(commit(&store, [value_of(2)]).await, head + 1);
}

/// A store whose commits `SQLite` refuses at their very end, as after a failed fsync, while the switch is on.
fn failing(path: &Path) -> (Store, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let mut opened = schema::open(path, u64::MAX).unwrap();
    let hook = Arc::clone(&fails);
    opened
        .writer
        .commit_hook(Some(move || hook.load(Ordering::SeqCst)))
        .unwrap();
    let lock = schema::lock(path).unwrap();
    let backend = Sqlite::start(path, lock, opened, &Options::default()).unwrap();
    (Store::Sqlite(Arc::new(backend)), fails)
}

#[tokio::test]
async fn a_compaction_that_waits_is_answered_when_its_group_fails() {
    let (_home, path) = home();
    let (store, fails) = failing(&path);
    for _ in 0..3 {
        commit(&store, [put("a", "1")]).await;
    }
    fails.store(true, Ordering::SeqCst);
    let both = async { tokio::join!(store.commit(writes([put("a", "lost")])), store.compact(2)) };
    let (committed, compacted) = timeout(Duration::from_secs(20), both)
        .await
        .expect("both are answered");
    assert!(
        matches!(committed, Err(CommitError::Unknown { .. })),
        "{committed:?}"
    );
    assert!(
        matches!(compacted, Err(CompactError::Unavailable { .. })),
        "{compacted:?}"
    );
    // Alone in its group it fares no better.
    assert!(store.compact(2).await.is_err());
    fails.store(false, Ordering::SeqCst);
    store.compact(2).await.unwrap();
    assert_eq!(value(&store, 3, "a").await, "1");
}

#[tokio::test]
async fn a_commit_of_unknown_fate_says_so() {
    let (_home, path) = home();
    let (store, fails) = failing(&path);
    assert_eq!(commit(&store, [put("a", "1")]).await, 1);
    fails.store(true, Ordering::SeqCst);
    let error = store.commit(writes([put("a", "lost")])).await.unwrap_err();
    assert!(matches!(error, CommitError::Unknown { .. }), "{error:?}");
    assert_eq!(value(&store, 1, "a").await, "1");
    fails.store(false, Ordering::SeqCst);
    assert_eq!(commit(&store, [put("a", "2")]).await, 2);
    let mut watch = store.watch(1).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap().events[0]
            .value
            .as_ref()
            .unwrap()
            .value,
        "2"
    );
}

#[tokio::test]
async fn a_probe_says_whether_the_store_can_commit_and_changes_nothing() {
    let (_home, path) = home();
    let (store, fails) = failing(&path);
    commit(&store, [put("a", "1")]).await;
    store.probe().await.unwrap();
    assert!(!store.stats().is_failing());
    fails.store(true, Ordering::SeqCst);
    store.probe().await.unwrap_err();
    assert!(store.stats().is_failing());
    fails.store(false, Ordering::SeqCst);
    store.probe().await.unwrap();
    assert!(!store.stats().is_failing());
    assert_eq!(store.head().await.unwrap(), 1, "a probe is no transaction");
    assert_eq!(store.stats().transactions(Outcome::Written), 1);
}

#[tokio::test]
async fn memory_holds_what_fits_and_nothing_stale() {
    // Room for about 10 small values in each of the 16 shards.
    let (store, _home) = open(&Options {
        current_bytes: 16 * 2_000,
        ..Options::default()
    });
    for round in 0..3_u32 {
        for i in 0..400 {
            let name = format!("k{i}");
            let n = commit(&store, [put(&name, &format!("{round}.{i}"))]).await;
            assert_eq!(value(&store, n, &name).await, format!("{round}.{i}"));
            let other = (i * 7) % 400;
            let expected = if other <= i {
                Some(round)
            } else {
                round.checked_sub(1)
            };
            let expected = expected.map_or("-".to_owned(), |round| format!("{round}.{other}"));
            assert_eq!(value(&store, n, &format!("k{other}")).await, expected);
        }
    }
    let head = store.head().await.unwrap();
    let large = "x".repeat(3_000);
    commit(&store, [put("k0", &large)]).await;
    assert_eq!(value(&store, head + 1, "k0").await, large);
    assert_eq!(value(&store, head, "k0").await, "2.0");
    assert!(store.read(head + 1, &[key("none")]).await.unwrap()[0].is_none());
}
