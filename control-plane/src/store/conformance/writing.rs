//! Commits: revisions, guards, bounds, races.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::{commit, commit_if, delete, key, put, text, value, writes};
use crate::store::{CommitError, Guard, Invalid, Key, Store, WatchError, Write};

pub(in crate::store) async fn revisions_count_transactions(store: Store) {
    assert_eq!(store.head().await.unwrap(), 0);
    assert!(store.epoch() > 0);
    for n in 1..=5 {
        assert_eq!(commit(&store, [put("a", "1")]).await, n);
        assert_eq!(store.head().await.unwrap(), n);
    }
}

pub(in crate::store) async fn concurrent_transactions_share_no_revision(store: Store) {
    let mut tasks = JoinSet::new();
    for i in 0..100 {
        let store = store.clone();
        tasks.spawn(async move { commit(&store, [put(&format!("k{i:02}"), "1"), put("last", "x")]).await });
    }
    let revisions: BTreeSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(revisions, (1..=100).collect());
    for (_, value) in store
        .dump(100)
        .await
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != key("last"))
    {
        let then = store.read(value.modified, &[key("last")]).await.unwrap();
        assert_eq!(then[0].as_ref().unwrap().modified, value.modified);
    }
}

pub(in crate::store) async fn guards_hold_or_name_the_first(store: Store) {
    commit(&store, [put("a", "1"), put("b", "1")]).await;
    commit(&store, [put("a", "2")]).await;
    let (a, b, none) = (|| key("a"), || key("b"), || key("none"));
    let holding = [
        vec![],
        vec![Guard::Absent(none())],
        vec![Guard::Exists(a())],
        vec![Guard::At(a(), 2), Guard::At(b(), 1)],
        vec![
            Guard::Version(a(), 2),
            Guard::Version(b(), 1),
            Guard::Exists(a()),
            Guard::Absent(none()),
        ],
    ];
    for guards in holding {
        commit_if(&store, guards, put("c", "1")).await.unwrap();
    }
    let broken = [
        (vec![Guard::Absent(a())], 0),
        (vec![Guard::Exists(a()), Guard::Exists(none())], 1),
        (vec![Guard::At(a(), 1)], 0),
        (vec![Guard::At(none(), 1)], 0),
        (
            vec![
                Guard::Version(b(), 1),
                Guard::Absent(none()),
                Guard::Version(a(), 1),
                Guard::Absent(a()),
            ],
            2,
        ),
    ];
    for (guards, first) in broken {
        match commit_if(&store, guards.clone(), put("c", "1")).await {
            Err(CommitError::Conflict { guard, key }) => {
                assert_eq!((guard, &key), (first, guards[first].key()));
            }
            other => panic!("{guards:?}: {other:?}"),
        }
    }
}

pub(in crate::store) async fn a_conflict_changes_nothing(store: Store) {
    commit(&store, [put("a", "1")]).await;
    let before = store.dump(1).await.unwrap();
    assert!(
        commit_if(&store, [Guard::Absent(key("a"))], put("b", "1"))
            .await
            .is_err()
    );
    assert_eq!(store.head().await.unwrap(), 1);
    assert_eq!(store.dump(1).await.unwrap(), before);
    assert_eq!(commit(&store, [put("c", "1")]).await, 2);
}

pub(in crate::store) async fn versions_tell_a_keys_life(store: Store) {
    let lives = [
        Some((1, 1, 1)),
        Some((1, 2, 2)),
        None,
        Some((4, 4, 1)),
        Some((4, 5, 2)),
    ];
    for (n, life) in (1..).zip(lives) {
        let write = if life.is_some() {
            put("a", "1")
        } else {
            delete("a")
        };
        assert_eq!(commit(&store, [write]).await, n);
    }
    for (n, life) in (1..).zip(lives) {
        let found = store.read(n, &[key("a")]).await.unwrap().remove(0);
        assert_eq!(
            found.map(|value| (value.created, value.modified, value.version)),
            life,
            "at {n}"
        );
    }
}

pub(in crate::store) async fn deleting_nothing_makes_no_event(store: Store) {
    assert_eq!(commit(&store, [delete("a")]).await, 1);
    assert_eq!(commit(&store, [delete("a"), put("b", "1")]).await, 2);
    assert_eq!(commit(&store, []).await, 3);
    assert_eq!(commit(&store, [delete("b"), delete("c")]).await, 4);
    let mut watch = store.watch(0).await.unwrap();
    for expected in ["1:", "2: b=1", "3:", "4: b-"] {
        assert_eq!(text(&watch.next().await.unwrap()), expected);
    }
}

pub(in crate::store) async fn bounds_are_refused(store: Store) {
    let many: Vec<Write> = (0..4097).map(|i| put(&format!("k{i}"), "")).collect();
    let most = many[..4096].to_vec();
    let refused = store.commit(writes(many)).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Invalid(Invalid::Operations { found: 4097 })),
        "{refused}"
    );
    let large = "x".repeat(4 << 20);
    let refused = store.commit(writes([put("k", &large)])).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Invalid(Invalid::Bytes { .. })),
        "{refused}"
    );
    let refused = store
        .commit(writes([put("k", "1"), delete("k")]))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, CommitError::Invalid(Invalid::Repeated { write: 1, .. })),
        "{refused}"
    );
    assert_eq!(store.head().await.unwrap(), 0);
    assert_eq!(commit(&store, most).await, 1);
    assert_eq!(commit(&store, [put("k", &large[1..])]).await, 2);
    let mut watch = store.watch(0).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 4096);
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
}

/// The second store is a part of the same one, under other names: the transactions are recorded by a watch.
pub(in crate::store) async fn a_replay_gives_the_same_store(store: Store) {
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for i in 0..40 {
                let name = format!("k{}", (task * 7 + i * 3) % 11);
                let write = if i % 5 == 0 {
                    delete(&name)
                } else {
                    put(&name, &format!("{task}.{i}"))
                };
                commit(&store, [write, put(&format!("t{task}"), &i.to_string())]).await;
            }
        });
    }
    tasks.join_all().await;
    let mut watch = store.watch(0).await.unwrap();
    for _ in 0..160 {
        let batch = watch.next().await.unwrap();
        let copies = batch.events.iter().map(|event| match &event.value {
            Some(found) => Write::Put(copy(&event.key), found.value.clone()),
            None => Write::Delete(copy(&event.key)),
        });
        let n = store.commit(writes(copies.collect::<Vec<_>>())).await.unwrap();
        assert_eq!(n, batch.n + 160);
    }
    let (copies, originals): (Vec<_>, Vec<_>) = store
        .dump(320)
        .await
        .unwrap()
        .into_iter()
        .partition(|(key, _)| key.as_bytes().starts_with(b"copy/"));
    let expected = originals.into_iter().map(|(key, mut value)| {
        value.created += 160;
        value.modified += 160;
        (copy(&key), value)
    });
    assert_eq!(copies, expected.collect::<Vec<_>>());
}

fn copy(of: &Key) -> Key {
    key(&format!("copy/{of}"))
}

pub(in crate::store) async fn one_of_many_creates(store: Store) {
    let mut tasks = JoinSet::new();
    for task in 0..32 {
        let store = store.clone();
        tasks.spawn(async move {
            commit_if(&store, [Guard::Absent(key("a"))], put("a", &task.to_string()))
                .await
                .map(|_| task)
        });
    }
    let winners: Vec<_> = tasks
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::ok)
        .collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(value(&store, 1, "a").await, winners[0].to_string());
    assert_eq!(store.head().await.unwrap(), 1);
}

pub(in crate::store) async fn no_increment_is_lost(store: Store) {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..50 {
                        increment(&store).await;
                    }
                });
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap()))
        .await
        .unwrap();
    assert_eq!(value(&store, 400, "counter").await, "400");
}

/// Adds one, however often others come first.
async fn increment(store: &Store) {
    let counter = key("counter");
    loop {
        let read = store
            .read(store.head().await.unwrap(), std::slice::from_ref(&counter))
            .await
            .unwrap();
        let (guard, count) = match &read[0] {
            Some(found) => {
                let count: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                (Guard::At(counter.clone(), found.modified), count)
            }
            None => (Guard::Absent(counter.clone()), 0),
        };
        match commit_if(store, [guard], put("counter", &(count + 1).to_string())).await {
            Ok(_) => return,
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(in crate::store) async fn closing_ends_commits_and_watches(store: Store) {
    let mut watch = store.watch(0).await.unwrap();
    commit(&store, [put("a", "1")]).await;
    store.close().await;
    assert!(matches!(
        store.commit(writes([put("a", "2")])).await,
        Err(CommitError::Unavailable { .. })
    ));
    assert_eq!(watch.next().await.unwrap().n, 1);
    assert!(matches!(watch.next().await, Err(WatchError::Closed(_))));
    assert_eq!(value(&store, 1, "a").await, "1");
    store.close().await;
}
