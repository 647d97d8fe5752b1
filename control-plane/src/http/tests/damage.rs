//! What is damaged in the store: an error that names the key, never an answer.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Api, Reply};
use crate::store::{Key, Range, Transaction, Write};

/// The only key that begins with `prefix`.
pub(super) async fn key(api: &Api, prefix: &str) -> Key {
    let head = api.store.head().await.unwrap();
    let page = api.store.range(head, &Range::prefix(prefix)).await.unwrap();
    assert_eq!(page.entries.len(), 1, "keys of {prefix}");
    page.entries[0].0.clone()
}

/// Writes to the store past all rules.
pub(super) async fn spoil(api: &Api, write: Write) {
    let mut transaction = Transaction::default();
    transaction.writes.push(write);
    api.store.commit(transaction).await.unwrap();
}

pub(super) fn assert_broken(reply: &Reply, key: &Key) {
    let status = reply.status;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{reply:?}");
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains(&key.to_string()), "{detail} doesn't name {key}");
}

async fn view(api: &Api, id: &str) -> Reply {
    let target = format!("/v1/hosts/h1/views/{id}/{id}");
    api.by_host(api.host(), Method::GET, &target, &[], Json::Null)
        .await
}

#[tokio::test]
async fn a_long_value_that_is_gone_is_no_empty_value() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/long");
    let value = "long".repeat(1_000);
    api.json(Method::PUT, &target, &[], json!({"value": value})).await;
    let value = key(&api, &format!("value/{id}/long")).await;
    spoil(&api, Write::Delete(value.clone())).await;
    assert_broken(&api.get(&target).await, &value);
    let listing = format!("/v1/instances/{id}/data?prefix=long&values=true");
    assert_broken(&api.get(&listing).await, &value);
    let history = format!("/v1/instances/{id}/history/long");
    assert_broken(&api.get(&history).await, &value);
    assert_broken(&view(&api, id).await, &value);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_left_out() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/x");
    api.json(Method::PUT, &target, &[], json!({"value": "1"})).await;
    let entry = key(&api, &format!("entry/{id}/x")).await;
    spoil(&api, Write::Put(entry.clone(), "{".into())).await;
    assert_broken(&api.get(&target).await, &entry);
    assert_broken(&api.get(&format!("/v1/instances/{id}/data")).await, &entry);
    assert_broken(&view(&api, id).await, &entry);
    let instance = key(&api, "instance/").await;
    spoil(&api, Write::Put(instance.clone(), "{".into())).await;
    assert_broken(&view(&api, id).await, &instance);
}
