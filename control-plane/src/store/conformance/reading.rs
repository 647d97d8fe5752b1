//! Reads of keys and ranges at a revision.

use tokio::task::JoinSet;

use super::{commit, delete, key, names, put, values};
use crate::store::{CompactError, Range, ReadError, Store};

pub(in crate::store) async fn reads_see_their_revision(store: Store) {
    commit(&store, [put("a", "1"), put("b", "1")]).await;
    commit(&store, [put("a", "2"), delete("b")]).await;
    commit(&store, [put("c", ""), delete("a"), put("b", "3")]).await;
    for _ in 0..2 {
        // The second time a backend may know some of it by heart.
        assert_eq!(values(&store, 0, &["a", "b", "c"]).await, "- - -");
        assert_eq!(values(&store, 1, &["a", "b", "c"]).await, "1 1 -");
        assert_eq!(values(&store, 2, &["a", "b", "c"]).await, "2 - -");
        assert_eq!(values(&store, 3, &["a", "b", "c"]).await, "- 3 ");
    }
    let together = store.read(3, &[key("b"), key("none"), key("b")]).await.unwrap();
    assert_eq!(together[0], together[2]);
    assert!(together[1].is_none());
    assert!(store.read(3, &[]).await.unwrap().is_empty());
}

pub(in crate::store) async fn the_future_cannot_be_read(store: Store) {
    commit(&store, [put("a", "1")]).await;
    let ahead = |error: ReadError| matches!(error, ReadError::Ahead { asked: 2, head: 1 });
    assert!(ahead(store.read(2, &[key("a")]).await.unwrap_err()));
    assert!(ahead(store.range(2, &Range::all()).await.unwrap_err()));
    assert!(ahead(store.watch(2).await.unwrap_err()));
    assert!(matches!(
        store.compact(2).await,
        Err(CompactError::Ahead { asked: 2, head: 1 })
    ));
}

pub(in crate::store) async fn ranges_hold_what_they_span(store: Store) {
    let all = ["a", "a/1", "a/2", "a/2/x", "a0", "b"];
    commit(&store, all.map(|name| put(name, "1"))).await;
    commit(&store, [delete("a/2")]).await;
    assert_eq!(names(&store, 1, Range::all()).await, all);
    assert_eq!(names(&store, 0, Range::all()).await, Vec::<String>::new());
    assert_eq!(names(&store, 2, Range::prefix("a/")).await, ["a/1", "a/2/x"]);
    assert_eq!(names(&store, 1, Range::prefix("a/2")).await, ["a/2", "a/2/x"]);
    assert_eq!(names(&store, 2, Range::prefix("c")).await, Vec::<String>::new());
    for limit in 1..4 {
        assert_eq!(
            names(&store, 1, Range::all().limit(limit)).await,
            all,
            "by {limit}"
        );
    }
    let one = store.range(1, &Range::all().limit(0)).await.unwrap();
    assert_eq!(one.entries.len(), 1, "a page of nothing would never end");
}

pub(in crate::store) async fn pages_fit_together_while_writes_go_on(store: Store) {
    let all: Vec<String> = (0..300).map(|i| format!("k{i:03}")).collect();
    let at = commit(
        &store,
        all.iter().map(|name| put(name, "old")).collect::<Vec<_>>(),
    )
    .await;
    let mut pages = store.pages(at, Range::prefix("k").limit(7));
    let mut seen = Vec::new();
    for round in 0.. {
        let Some(page) = pages.next().await.unwrap() else {
            break;
        };
        seen.extend(page);
        // Ahead of the page, behind it, and often enough that some keys get many versions.
        let changes = [
            put("k299", "new"),
            put("k000", "new"),
            put(&format!("k{round:03}+"), "new"),
        ];
        commit(&store, changes).await;
        commit(&store, [delete(&format!("k{:03}", 290 - round))]).await;
    }
    assert_eq!(
        seen.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        all
    );
    assert!(
        seen.iter()
            .all(|(_, value)| value.value == "old" && value.modified == at)
    );
    assert_eq!(store.dump(at).await.unwrap(), seen);
}

pub(in crate::store) async fn large_values_end_a_page(store: Store) {
    let large = "x".repeat(600 << 10);
    commit(&store, ["a", "b", "c", "d"].map(|name| put(name, &large))).await;
    let page = store.range(1, &Range::all()).await.unwrap();
    assert_eq!(page.entries.len(), 2);
    assert_eq!(store.dump(1).await.unwrap().len(), 4);
}

/// Every transaction writes the key, so that what is read at a revision must be of that revision.
pub(in crate::store) async fn readers_see_exactly_their_revision_while_writes_go_on(store: Store) {
    const LAST: u64 = 500;
    commit(&store, [put("a", "1")]).await;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        readers.spawn(async move {
            let mut reads = 0_u64;
            loop {
                let at = store.head().await.unwrap();
                for at in [at, at.div_ceil(2), at] {
                    let found = store
                        .read(at, &[key("other"), key("a")])
                        .await
                        .unwrap()
                        .remove(1)
                        .unwrap();
                    assert_eq!((found.modified, found.version), (at, at));
                    reads += 1;
                }
                if at == LAST {
                    return reads;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for n in 2..=LAST {
        assert_eq!(
            commit(
                &store,
                [put("a", &n.to_string()), put(&format!("other{}", n % 50), "x")]
            )
            .await,
            n
        );
    }
    assert!(readers.join_all().await.into_iter().all(|reads| reads > 0));
}

/// As above, but what is read may be compacted at any moment: then the reader is told, and never misled.
pub(in crate::store) async fn readers_are_told_when_compaction_overtakes_them(store: Store) {
    const LAST: u64 = 300;
    commit(&store, [put("a", "1")]).await;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        readers.spawn(async move {
            loop {
                let head = store.head().await.unwrap();
                let at = head.saturating_sub(1).max(1);
                match store.read(at, &[key("other"), key("a")]).await {
                    Ok(found) => assert_eq!(found[1].as_ref().unwrap().modified, at),
                    Err(error) => assert!(matches!(error, ReadError::Compacted { .. }), "{error}"),
                }
                match store.range(at, &Range::prefix("a")).await {
                    Ok(page) => assert_eq!(page.entries[0].1.modified, at),
                    Err(error) => assert!(matches!(error, ReadError::Compacted { .. }), "{error}"),
                }
                if head == LAST {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for n in 2..=LAST {
        commit(&store, [put("a", &n.to_string())]).await;
        store.compact(n).await.unwrap();
    }
    readers.join_all().await;
}
