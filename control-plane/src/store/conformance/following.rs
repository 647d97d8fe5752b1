//! Watches, and compaction, which ends them.

use tokio::task::JoinSet;

use super::{commit, delete, key, put, text, values};
use crate::store::{Range, ReadError, Store};

pub(in crate::store) async fn watches_see_whole_transactions(store: Store) {
    let mut live = store.watch(0).await.unwrap();
    commit(&store, [put("b", "1"), put("a", "1"), delete("none")]).await;
    commit(&store, [delete("a"), put("c", "\n")]).await;
    let mut late = store.watch(0).await.unwrap();
    for watch in [&mut live, &mut late] {
        assert_eq!(text(&watch.next().await.unwrap()), "1: b=1 a=1");
        let second = watch.next().await.unwrap();
        assert_eq!(text(&second), "2: a- c=\\n");
        let c = second.events[1].value.clone();
        assert_eq!(Some(c), store.read(2, &[key("c")]).await.unwrap().pop());
    }
}

pub(in crate::store) async fn watches_resume(store: Store) {
    for i in 0..50 {
        commit(&store, [put(&format!("k{i}"), &i.to_string())]).await;
    }
    for after in 0..50 {
        let mut watch = store.watch(after).await.unwrap();
        for n in after + 1..=50 {
            assert_eq!(
                text(&watch.next().await.unwrap()),
                format!("{n}: k{0}={0}", n - 1)
            );
        }
    }
}

pub(in crate::store) async fn watches_wait(store: Store) {
    let mut watch = store.watch(0).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { text(&watch.next().await.unwrap()) });
    // The task is waiting or is about to; either way it gets the first transaction.
    tokio::task::yield_now().await;
    commit(&store, [put("a", "1")]).await;
    assert_eq!(tasks.join_all().await, ["1: a=1"]);
}

pub(in crate::store) async fn compaction_keeps_what_the_floor_shows(store: Store) {
    commit(
        &store,
        [
            put("kept", "1"),
            put("changed", "1"),
            put("deleted", "1"),
            put("again", "1"),
        ],
    )
    .await;
    commit(&store, [put("changed", "2"), delete("deleted"), delete("again")]).await;
    commit(&store, [put("changed", "3"), put("again", "3")]).await;
    commit(&store, [put("changed", "4"), delete("kept")]).await;
    let before = [store.dump(3).await.unwrap(), store.dump(4).await.unwrap()];
    store.compact(3).await.unwrap();
    assert_eq!(
        [store.dump(3).await.unwrap(), store.dump(4).await.unwrap()],
        before
    );
    let all = ["kept", "changed", "deleted", "again"];
    assert_eq!(values(&store, 3, &all).await, "1 3 - 3");
    assert_eq!(values(&store, 4, &all).await, "- 4 - 3");
    for at in 0..3 {
        let gone =
            |error: ReadError| matches!(error, ReadError::Compacted { asked, oldest: 3 } if asked == at);
        assert!(gone(store.read(at, &[key("kept")]).await.unwrap_err()));
        assert!(gone(store.range(at, &Range::all()).await.unwrap_err()));
        assert!(gone(store.watch(at).await.unwrap_err()));
    }
    store.compact(1).await.unwrap();
    store.compact(4).await.unwrap();
    assert_eq!(store.dump(4).await.unwrap(), before[1]);
    assert_eq!(commit(&store, [put("kept", "5")]).await, 5);
}

pub(in crate::store) async fn compaction_ends_watches(store: Store) {
    for i in 0..10 {
        commit(&store, [put("a", &i.to_string())]).await;
    }
    let mut on_the_floor = store.watch(8).await.unwrap();
    store.compact(8).await.unwrap();
    assert!(matches!(
        store.watch(7).await,
        Err(ReadError::Compacted { asked: 7, oldest: 8 })
    ));
    assert_eq!(text(&on_the_floor.next().await.unwrap()), "9: a=8");
    assert_eq!(
        text(&store.watch(9).await.unwrap().next().await.unwrap()),
        "10: a=9"
    );
}

pub(in crate::store) async fn compaction_goes_on_while_writes_do(store: Store) {
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for i in 0..100 {
                commit(
                    &store,
                    [
                        put(&format!("k{}", i % 7), "x"),
                        put(&format!("own{task}"), &i.to_string()),
                    ],
                )
                .await;
            }
        });
    }
    let mut floor = 0;
    // The tasks may be done before anything was compacted.
    while floor == 0 || !tasks.is_empty() {
        floor = store.head().await.unwrap();
        store.compact(floor).await.unwrap();
        while let Some(finished) = tasks.try_join_next() {
            finished.unwrap();
        }
    }
    assert!(floor > 0);
    let mut watch = store.watch(floor).await.unwrap();
    for n in floor + 1..=400 {
        assert_eq!(watch.next().await.unwrap().n, n);
    }
    store.compact(400).await.unwrap();
    assert_eq!(store.dump(400).await.unwrap().len(), 11);
    assert_eq!(
        values(&store, 400, &["own0", "own1", "own2", "own3"]).await,
        "99 99 99 99"
    );
}
