//! Backups of a control plane that runs, and what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use moorline_shared::{Revision, Timestamp};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Header, HeaderError, KeyCheck, RestoreError, TakeError, Terms, restore, take};
use crate::config::Config;
use crate::server::Server;
use crate::store::{Key, Store, Transaction, Write};

fn config(state: &Path) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        state: state.to_owned(),
        ..Config::default()
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).unwrap()
}

fn terms() -> Terms {
    Terms {
        key: KeyCheck::Now,
        epoch_after: None,
        now: now(),
    }
}

/// A control plane's state as it is after its first start, and a backup of it.
struct Taken {
    folder: TempDir,
    header: Header,
}

impl Taken {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("state"));
        drop(Server::open(&config, CancellationToken::new()).await.unwrap());
        let file = folder.path().join("backup");
        let header = take(&config, Some(&file), Vec::new(), now()).unwrap();
        Self { folder, header }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("backup")).unwrap()
    }

    /// An empty state folder, but for the master key.
    fn empty(&self) -> Config {
        let state = self.folder.path().join("restored");
        fs::create_dir(&state).unwrap();
        let key = self.folder.path().join("state/master.key");
        fs::copy(key, state.join("master.key")).unwrap();
        config(&state)
    }
}

/// Why these bytes are not restored, which leaves nothing behind that a control plane would take for its store.
fn why_not(config: &Config, bytes: &[u8]) -> RestoreError {
    let refused = restore(config, bytes, &terms()).unwrap_err();
    assert!(!config.state.join("store.db.restoring").exists());
    refused
}

fn put(key: &str, value: &str) -> Transaction {
    let key = Key::try_from(key.as_bytes()).unwrap();
    let writes = vec![Write::Put(key, value.to_owned().into())];
    Transaction {
        writes,
        ..Transaction::default()
    }
}

async fn head(store: &Store) -> Revision {
    Revision::new(store.epoch(), store.head().await.unwrap())
}

#[tokio::test]
async fn a_backup_of_a_store_in_use_brings_back_its_state_in_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let here = config(&folder.path().join("here"));
    fs::create_dir(&here.state).unwrap();
    let store = Store::open_sqlite(here.state.join("store.db"), &Default::default()).unwrap();
    for n in 0..50 {
        store.commit(put(&format!("kept/{n}"), "kept")).await.unwrap();
    }
    let at = head(&store).await;
    let mut backup = Vec::new();
    let header = take(&here, None, &mut backup, now()).unwrap();
    assert_eq!((header.revision, header.master_key.as_deref()), (at, None));
    let kept = store.dump(at.n).await.unwrap();
    store.commit(put("lost", "lost")).await.unwrap();
    let lost = head(&store).await;

    let there = config(&folder.path().join("there"));
    let restored = restore(&there, &*backup, &terms()).unwrap();
    let store = Store::open_sqlite(there.state.join("store.db"), &Default::default()).unwrap();
    assert_eq!(head(&store).await, restored.revision);
    assert_eq!(store.dump(at.n).await.unwrap(), kept);
    assert!(
        restored.revision > lost,
        "{} is not after {lost}",
        restored.revision
    );
    let again = store.commit(put("after", "after")).await.unwrap();
    assert_eq!(
        again, lost.n,
        "the number is given out again, and the epoch tells them apart"
    );
    assert_eq!(store.epoch_of(at.n), at.epoch);
    assert_eq!(store.epoch_of(again), restored.revision.epoch);
    let files = fs::read_dir(&here.state).unwrap();
    let left = files.filter(|file| file.as_ref().unwrap().file_name() == "store.db.copy");
    assert_eq!(left.count(), 0, "the copy is left behind");
}

#[tokio::test]
async fn a_control_plane_starts_on_what_was_restored_and_knows_the_key() {
    let taken = Taken::new().await;
    let config = taken.empty();
    let restored = restore(&config, &*taken.bytes(), &terms()).unwrap();
    assert_eq!(restored.header, taken.header);
    drop(Server::open(&config, CancellationToken::new()).await.unwrap());
    let bytes = taken.bytes();
    let key = fs::read(config.state.join("master.key")).unwrap();
    assert!(
        !bytes
            .windows(key.len() - 1)
            .any(|window| window == &key[..key.len() - 1]),
        "the master key is in the backup"
    );
    let not_empty = why_not(&config, &bytes);
    assert!(matches!(not_empty, RestoreError::NotEmpty { .. }), "{not_empty}");
}

#[tokio::test]
async fn what_is_cut_damaged_or_no_backup_is_refused_and_named() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    let cut = why_not(&config, &bytes[..bytes.len() - 1]);
    assert!(matches!(cut, RestoreError::Length { .. }), "{cut}");
    let longer = why_not(&config, &[&bytes[..], b"x"].concat());
    assert!(matches!(longer, RestoreError::Length { .. }), "{longer}");
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let damaged = why_not(&config, &changed);
    assert!(matches!(damaged, RestoreError::Damaged), "{damaged}");
    for beginning in [&b""[..], b"moorline-backup", b"SQLite format 3\0\n", &bytes[..30]] {
        let refused = why_not(&config, beginning);
        let foreign = matches!(refused, RestoreError::Header(HeaderError::Foreign));
        assert!(foreign, "{refused}");
    }
    let format = why_not(&config, b"moorline-backup 2\n{}\n");
    assert!(
        format.to_string().contains("the release that took it"),
        "{format}"
    );
    let mut newer = taken.header.clone();
    newer.schema = 99;
    let newer = why_not(&config, &newer.to_bytes());
    assert!(newer.to_string().contains("schema 99"), "{newer}");
    restore(&config, &*bytes, &terms()).expect("after all that nothing is in the way");
}

#[tokio::test]
async fn another_key_another_deployment_and_a_running_control_plane_are_refused() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    let mut other = config.clone();
    other.deployment = "other".to_owned();
    let refused = why_not(&other, &bytes);
    assert!(refused.to_string().contains("deployment 'moorline'"), "{refused}");

    let key = config.state.join("master.key");
    let right = fs::read_to_string(&key).unwrap();
    fs::write(&key, "00".repeat(32)).unwrap();
    let refused = why_not(&config, &bytes);
    assert!(matches!(refused, RestoreError::OtherKey { .. }), "{refused}");
    fs::remove_file(&key).unwrap();
    let refused = why_not(&config, &bytes);
    assert!(matches!(refused, RestoreError::NoKey { .. }), "{refused}");
    assert!(!key.exists(), "a key was made that opens nothing");
    fs::write(&key, right).unwrap();

    let here = Config {
        state: taken.folder.path().join("state"),
        ..config.clone()
    };
    let running = Server::open(&here, CancellationToken::new()).await.unwrap();
    let refused = why_not(&here, &bytes);
    assert!(matches!(refused, RestoreError::Running { .. }), "{refused}");
    drop(running);
    let absent = Config {
        state: taken.folder.path().join("absent"),
        ..config
    };
    let nothing = take(&absent, None, Vec::new(), now()).unwrap_err();
    assert!(matches!(nothing, TakeError::NoStore { .. }), "{nothing}");
}

/// What a restore leaves behind that is killed while it begins the epoch: the file half changed, and the journal that takes
/// it back.
fn killed_while_it_began_the_epoch(state: &Path, backup: &[u8]) {
    let aside = tempfile::tempdir().unwrap();
    let at = aside.path().join("store.db.restoring");
    let mut content = backup;
    Header::read(&mut content).unwrap();
    fs::write(&at, content).unwrap();
    let db = rusqlite::Connection::open(&at).unwrap();
    // Far more than the cache takes: what was there before is in the journal, and that on disk, before it is written over.
    db.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN;
         UPDATE versions SET value = randomblob(20000);",
    )
    .unwrap();
    for name in ["store.db.restoring", "store.db.restoring-journal"] {
        let copied = fs::copy(aside.path().join(name), state.join(name)).unwrap();
        assert!(copied > 4_096, "{name} has {copied} bytes");
    }
}

#[tokio::test]
async fn a_restore_that_was_killed_is_done_again_and_takes_nothing_over() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    killed_while_it_began_the_epoch(&config.state, &bytes);
    restore(&config, &*bytes, &terms()).unwrap();
    let names = fs::read_dir(&config.state).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    let left = names.filter(|name| name.contains("restoring"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    let content = |state: &Path| {
        let db = rusqlite::Connection::open(state.join("store.db")).unwrap();
        let mut rows = db.prepare("SELECT id, value FROM versions ORDER BY id").unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
        rows.query_map([], row)
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    assert_eq!(
        content(&config.state),
        content(&taken.folder.path().join("state"))
    );
    drop(Server::open(&config, CancellationToken::new()).await.unwrap());
}

#[tokio::test]
async fn links_that_somebody_left_in_the_folder_lead_nowhere() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    let precious = taken.folder.path().join("precious");
    fs::write(&precious, "kept").unwrap();
    for name in ["store.db.lock", "store.db.restoring"] {
        let link = config.state.join(name);
        symlink(&precious, &link).unwrap();
        let refused = restore(&config, &*bytes, &terms()).unwrap_err();
        assert!(matches!(refused, RestoreError::NotEmpty { .. }), "{refused}");
        fs::remove_file(link).unwrap();
    }
    restore(&config, &*bytes, &terms()).unwrap();
    symlink(&precious, config.state.join("store.db.copy")).unwrap();
    take(&config, None, Vec::new(), now()).unwrap();
    assert_eq!(fs::read_to_string(precious).unwrap(), "kept");
}

#[tokio::test]
async fn a_restore_that_fails_leaves_nothing_that_is_roots() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    // Only root restores for another user; anybody else restores for himself.
    let _ = chown(&config.state, Some(4_711), Some(4_711));
    let cut = why_not(&config, &bytes[..bytes.len() - 1]);
    assert!(matches!(cut, RestoreError::Length { .. }), "{cut}");
    let owner = |path: &Path| path.metadata().unwrap().uid();
    assert_eq!(owner(&config.state.join("store.db.lock")), owner(&config.state));
}

#[tokio::test]
async fn no_epoch_is_earlier_than_one_that_was_given_out() {
    let taken = Taken::new().await;
    let (config, bytes) = (taken.empty(), taken.bytes());
    let before = Timestamp::from_millis(now().millis() - 1).unwrap();
    let early = Terms {
        now: before,
        ..terms()
    };
    let refused = restore(&config, &*bytes, &early).unwrap_err();
    assert!(matches!(refused, RestoreError::Clock { .. }), "{refused}");
    assert!(refused.to_string().contains("--epoch-after"), "{refused}");
    let never = Terms {
        epoch_after: Some(u64::MAX),
        ..early
    };
    let refused = restore(&config, &*bytes, &never).unwrap_err();
    assert!(matches!(refused, RestoreError::Epoch { .. }), "{refused}");
    // A restore of the same backup before gave this one out, and its machine's clock was ahead of this one's.
    let seen = 5_000_000_000_000;
    let later = Terms {
        epoch_after: Some(seen),
        ..early
    };
    let restored = restore(&config, &*bytes, &later).unwrap();
    assert_eq!(
        restored.revision,
        Revision::new(seen + 1, taken.header.revision.n)
    );
}
