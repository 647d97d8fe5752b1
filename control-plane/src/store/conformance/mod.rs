//! What any backend must do: each function is one test, given an empty store.
//!
//! A backend runs them all with [`conformance!`], and adds tests of what is its own.

pub(super) mod following;
pub(super) mod reading;
pub(super) mod writing;

use bytes::Bytes;

use super::{Batch, CommitError, Guard, Key, Range, Store, Transaction, Write};

/// Makes one test of each function. `$fresh` gives a store and what has to live as long as it.
macro_rules! conformance {
    ($fresh:path) => {
        $crate::store::conformance::conformance! { $fresh:
            writing::revisions_count_transactions,
            writing::concurrent_transactions_share_no_revision,
            writing::guards_hold_or_name_the_first,
            writing::a_conflict_changes_nothing,
            writing::versions_tell_a_keys_life,
            writing::deleting_nothing_makes_no_event,
            writing::bounds_are_refused,
            writing::a_replay_gives_the_same_store,
            writing::one_of_many_creates,
            writing::no_increment_is_lost,
            writing::closing_ends_commits_and_watches,
            reading::reads_see_their_revision,
            reading::the_future_cannot_be_read,
            reading::ranges_hold_what_they_span,
            reading::pages_fit_together_while_writes_go_on,
            reading::large_values_end_a_page,
            reading::readers_see_exactly_their_revision_while_writes_go_on,
            reading::readers_are_told_when_compaction_overtakes_them,
            following::watches_see_whole_transactions,
            following::watches_resume,
            following::watches_wait,
            following::compaction_keeps_what_the_floor_shows,
            following::compaction_ends_watches,
            following::compaction_goes_on_while_writes_do,
        }
    };
    ($fresh:path: $($part:ident::$check:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let (store, _home) = $fresh();
                $crate::store::conformance::$part::$check(store).await;
            }
        )*
    };
}
pub(super) use conformance;

pub(super) fn key(name: &str) -> Key {
    name.try_into().unwrap()
}

pub(super) fn put(name: &str, value: &str) -> Write {
    Write::Put(key(name), Bytes::copy_from_slice(value.as_bytes()))
}

pub(super) fn delete(name: &str) -> Write {
    Write::Delete(key(name))
}

pub(super) fn writes(writes: impl Into<Vec<Write>>) -> Transaction {
    Transaction {
        guards: vec![],
        writes: writes.into(),
    }
}

pub(super) async fn commit(store: &Store, all: impl Into<Vec<Write>>) -> u64 {
    store.commit(writes(all)).await.unwrap()
}

async fn commit_if(store: &Store, guards: impl Into<Vec<Guard>>, write: Write) -> Result<u64, CommitError> {
    store
        .commit(Transaction {
            guards: guards.into(),
            writes: vec![write],
        })
        .await
}

/// The value of a key as text; `-` if it has none.
pub(super) async fn value(store: &Store, at: u64, name: &str) -> String {
    match &store.read(at, &[key(name)]).await.unwrap()[0] {
        Some(found) => String::from_utf8(found.value.to_vec()).unwrap(),
        None => "-".to_owned(),
    }
}

async fn values(store: &Store, at: u64, names: &[&str]) -> String {
    let mut all = Vec::new();
    for name in names {
        all.push(value(store, at, name).await);
    }
    all.join(" ")
}

/// A batch as text: its revision, and `key=value` or `key-` for each event.
fn text(batch: &Batch) -> String {
    let events = batch.events.iter().map(|event| match &event.value {
        Some(found) => format!(" {}={}", event.key, found.value.escape_ascii()),
        None => format!(" {}-", event.key),
    });
    format!("{}:{}", batch.n, events.collect::<String>())
}

async fn names(store: &Store, at: u64, range: Range) -> Vec<String> {
    let (limit, mut pages, mut names) = (range.limit, store.pages(at, range), Vec::new());
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.len() <= limit);
        names.extend(page.iter().map(|(key, _)| key.to_string()));
    }
    names
}
