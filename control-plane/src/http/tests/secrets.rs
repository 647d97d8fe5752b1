//! Secret entries over the API: shown to who may read them, and never taken from where they don't belong.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::damage::{assert_broken, key, spoil};
use super::{Api, Reply};
use crate::instance_data::records::EntryRecord;
use crate::model::content::{Content, LongValue};
use crate::model::record::Record;
use crate::store::{Key, Write};

impl Api {
    async fn put_secret(&self, id: &str, path: &str, value: &str) -> Reply {
        let target = format!("/v1/instances/{id}/data/{path}");
        let body = json!({"value": value, "secret": true});
        let put = self.json(Method::PUT, &target, &[], body).await;
        assert_eq!(put.status, StatusCode::OK, "{put:?}");
        put
    }

    async fn record<T: Record>(&self, key: &Key) -> T {
        let head = self.store.head().await.unwrap();
        let found = self.store.read(head, std::slice::from_ref(key)).await.unwrap();
        let found = found.into_iter().next().flatten().unwrap();
        serde_json::from_slice(&found.value).unwrap()
    }

    /// Copies the sealed value of `path` from one instance to the other by hand, names and all.
    async fn move_secret(&self, path: &str, from: &str, to: &str) -> Key {
        let taken = key(self, &format!("value/{from}/{path}")).await;
        let taken: LongValue = self.record(&taken).await;
        let entry = key(self, &format!("entry/{to}/{path}")).await;
        let mut entry: EntryRecord = self.record(&entry).await;
        let Content::Sealed(sealed) = &mut entry.content else {
            panic!("{entry:?} is no secret");
        };
        sealed.digest = taken.digest;
        let moved = LongValue {
            instance: entry.instance,
            ..taken
        };
        spoil(self, write(&moved)).await;
        spoil(self, write(&entry)).await;
        moved.own_key()
    }
}

fn write<T: Record>(record: &T) -> Write {
    let json = serde_json::to_vec(record).unwrap();
    Write::Put(record.own_key(), json.into())
}

/// The entry at `path` in a listing.
fn listed<'l>(listing: &'l Reply, path: &str) -> &'l Json {
    let entries = listing.body["entries"].as_array().unwrap();
    entries.iter().find(|entry| entry["path"] == path).unwrap()
}

#[tokio::test]
async fn a_secret_is_shown_to_who_may_read_it() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (own, other) = (ids[0].as_str(), ids[1].as_str());
    let before = api.put_secret(own, "db/password", "hunter1").await;
    api.put_secret(own, "db/password", "hunter2").await;
    let target = format!("/v1/instances/{own}/data/db/password");
    for reader in [None, Some(own)] {
        let get = async |target: &str| match reader {
            Some(guest) => api.as_guest(guest, target).await,
            None => api.get(target).await,
        };
        let got = get(&target).await;
        assert_eq!(
            (&got.body["value"], &got.body["secret"]),
            (&json!("hunter2"), &json!(true))
        );
        assert_eq!(got.body["length"], 7);
        let listing = format!("/v1/instances/{own}/data?values=true");
        let listing = get(&listing).await;
        let shown = listed(&listing, "db/password");
        assert_eq!(
            (&shown["value"], &shown["secret"]),
            (&json!("hunter2"), &json!(true))
        );
        assert_eq!(listed(&listing, "meta/instance-id").get("secret"), None);
        let history = format!("/v1/instances/{own}/history/db/password");
        let history = get(&history).await;
        let newest = &history.body["changes"][0];
        assert_eq!(
            (&newest["from"], &newest["to"]),
            (&json!("hunter1"), &json!("hunter2"))
        );
        let after = before.body["revision"].as_str().unwrap();
        let watch = format!("/v1/instances/{own}/watch?after={after}&wait_seconds=1");
        let watched = get(&watch).await;
        let entry = &watched.body["changes"][0]["entry"];
        assert_eq!(
            (&entry["value"], &entry["secret"]),
            (&json!("hunter2"), &json!(true))
        );
    }
    let hidden = api.as_guest(other, &target).await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND, "{hidden:?}");
}

#[tokio::test]
async fn a_host_is_told_which_entries_of_a_view_are_secret() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    api.put_secret(id, "db/password", "hunter2").await;
    let target = format!("/v1/hosts/h1/views/{id}/{id}");
    let view = api
        .by_host(api.host(), Method::GET, &target, &[], Json::Null)
        .await;
    let secrets: Vec<_> = view.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry.get("secret").is_some())
        .collect();
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert_eq!(
        (&secrets[0]["path"], &secrets[0]["value"]),
        (&json!("db/password"), &json!("hunter2"))
    );
}

#[tokio::test]
async fn an_operation_shows_nothing_of_a_secret_it_was_given() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let put = api.put_secret(id, "db/password", "hunter2").await;
    let operation = put.body["operation"].as_str().unwrap();
    let target = format!("/v1/instances/{id}/data/db/password");
    let append = api
        .json(Method::POST, &target, &[], json!({"value": "-and-more"}))
        .await;
    assert_eq!(
        (append.status, &append.body["type"]),
        (StatusCode::CONFLICT, &json!("entry-secret"))
    );
    let refused = append.body["operation"].as_str().unwrap();
    for operation in [operation, refused] {
        let shown = api.get(&format!("/v1/operations/{operation}")).await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        let text = shown.body.to_string();
        assert!(text.contains("sealed"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("-and-more"), "{text}");
    }
}

#[tokio::test]
async fn a_sealed_value_that_was_moved_does_not_open() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (from, to) = (ids[0].as_str(), ids[1].as_str());
    api.put_secret(from, "db/password", "hunter2").await;
    api.put_secret(to, "db/password", "7654321").await;
    let moved = api.move_secret("db/password", from, to).await;
    let [entry, listing, view] = [
        format!("/v1/instances/{to}/data/db/password"),
        format!("/v1/instances/{to}/data?values=true"),
        format!("/v1/hosts/h1/views/{to}/{to}"),
    ];
    for target in [&entry, &listing] {
        assert_broken(&api.get(target).await, &moved);
    }
    let view = api.by_host(api.host(), Method::GET, &view, &[], Json::Null).await;
    assert_broken(&view, &moved);
    let left_out = api.get(&format!("/v1/instances/{to}/data")).await;
    assert_eq!(
        left_out.status,
        StatusCode::OK,
        "no value is asked for, and none is opened"
    );
    let untouched = api.get(&format!("/v1/instances/{from}/data/db/password")).await;
    assert_eq!(untouched.body["value"], "hunter2");
}

#[tokio::test]
async fn new_instances_begin_with_secrets() {
    let api = Api::new().await;
    api.with_instances(1).await;
    let data = json!({"a": {"value": "plain"}, "b": {"value": "hunter2", "secret": true}});
    let run = json!({"image": "busybox", "type": "micro", "count": 2, "data": data});
    let ran = api.json(Method::POST, "/v1/instances", &[], run).await;
    let register = json!({"host": "h1", "data": data});
    let target = "/v1/instances/register";
    let registered = api.json(Method::POST, target, &[], register).await;
    let id = "i-0123456789abcdef0123456789abcdef";
    let known = json!({"host": "h1", "data": data, "id": id});
    let known = api.json(Method::POST, target, &[], known).await;
    let mut seen = 0;
    for made in [&ran, &registered, &known] {
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        for instance in made.body["instances"].as_array().unwrap() {
            let id = instance["id"].as_str().unwrap();
            let listing = api.get(&format!("/v1/instances/{id}/data?values=true")).await;
            assert_eq!(listed(&listing, "a")["value"], "plain");
            let secret = listed(&listing, "b");
            assert_eq!(
                (&secret["value"], &secret["secret"]),
                (&json!("hunter2"), &json!(true))
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}
