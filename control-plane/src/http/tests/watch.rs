//! What watchers are told, and what they never are.

use axum::body::Body;
use axum::http::Method;
use moorline_shared::api::data::{EntryChange, WatchEvent};
use serde_json::json;

use super::Api;
use super::damage::{key, spoil};
use crate::store::Write;

/// What a guest, or an administrator, who watches `id` is told first after revision `after`.
async fn first(api: &Api, id: &str, guest: Option<&str>, after: &str) -> WatchEvent {
    let target = format!("/v1/instances/{id}/watch?after={after}&wait_seconds=1");
    let reply = match guest {
        Some(guest) => api.as_guest(guest, &target).await,
        None => api.get(&target).await,
    };
    serde_json::from_value(reply.body).unwrap()
}

/// Puts an entry that only `readers` may read, and returns the revision.
async fn put(api: &Api, id: &str, path: &str, readers: &[&str]) -> String {
    let readers = readers
        .iter()
        .map(|reader| json!({"subject": reader, "rights": ["read"]}));
    let administrator =
        json!({"subject": "user:admin", "rights": ["read", "update", "delete", "administer"]});
    let clauses: Vec<_> = readers.chain([administrator]).collect();
    let body = json!({"value": "v", "access": clauses});
    let target = format!("/v1/instances/{id}/data/{path}");
    let put = api.json(Method::PUT, &target, &[], body).await;
    put.body["revision"].as_str().expect("it is put").to_owned()
}

fn assert_gone(event: &WatchEvent, path: &str) {
    let WatchEvent::Changes { changes, .. } = event else {
        panic!("{event:?} came")
    };
    let gone = |change: &EntryChange| change.path.to_string() == path && change.entry.is_none();
    assert!(changes.len() == 1 && gone(&changes[0]), "{changes:?}");
}

#[tokio::test]
async fn a_watcher_hears_nothing_of_an_entry_that_it_never_could_read() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (own, guest) = (&ids[0], Some(ids[1].as_str()));
    let begin = put(&api, own, "known", &["owner"]).await;
    let secret = put(&api, own, "secret-name", &["owner"]).await;
    put(&api, own, "secret-name", &["account"]).await;
    let given = first(&api, own, guest, &secret).await;
    assert!(matches!(given, WatchEvent::Changes { .. }), "{given:?}");
    let target = format!("/v1/instances/{own}/data/known");
    let put = api
        .json(Method::PUT, &target, &[], json!({"value": "other"}))
        .await;
    let changed = put.body["revision"].as_str().unwrap();
    api.send(Method::DELETE, &target, &[], Body::empty()).await;
    let after_all = first(&api, own, guest, changed).await;
    assert!(matches!(after_all, WatchEvent::Bookmark { .. }), "{after_all:?}");
    // The first thing that the guest hears of is what it was given: nothing of what came before.
    let heard = first(&api, own, guest, &begin).await;
    assert_eq!(heard, given);
}

#[tokio::test]
async fn a_watcher_hears_of_a_withdrawal_and_of_a_removal() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (own, guest) = (&ids[0], Some(ids[1].as_str()));
    let given = put(&api, own, "shared", &["account"]).await;
    put(&api, own, "shared", &["owner"]).await;
    assert_gone(&first(&api, own, guest, &given).await, "shared");
    let again = put(&api, own, "shared", &["account"]).await;
    let target = format!("/v1/instances/{own}/data/shared");
    api.send(Method::DELETE, &target, &[], Body::empty()).await;
    assert_gone(&first(&api, own, guest, &again).await, "shared");
}

#[tokio::test]
async fn a_watcher_whose_tags_change_reads_anew() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (own, guest) = (&ids[0], Some(ids[1].as_str()));
    let begin = put(&api, own, "x", &["owner"]).await;
    let target = format!("/v1/instances/{}", ids[1]);
    let tagged = api
        .json(Method::PATCH, &target, &[], json!({"tags": ["role=web"]}))
        .await;
    assert!(tagged.status.is_success(), "{tagged:?}");
    let event = first(&api, own, guest, &begin).await;
    assert!(matches!(event, WatchEvent::Resync { .. }), "{event:?}");
}

/// Damage, like a revision that was compacted meanwhile, is no deletion.
#[tokio::test]
async fn a_change_that_cannot_be_read_is_not_told_as_a_deletion() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let begin = put(&api, id, "x", &["owner"]).await;
    let entry = key(&api, &format!("entry/{id}/x")).await;
    spoil(&api, Write::Put(entry, "{".into())).await;
    let event = first(&api, id, None, &begin).await;
    assert!(matches!(event, WatchEvent::Resync { .. }), "{event:?}");
}
