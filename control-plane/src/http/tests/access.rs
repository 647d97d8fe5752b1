//! Who comes in, who may do what, and how much a refusal says.

use axum::http::{Method, StatusCode, header};
use serde_json::json;

use super::Api;
use super::signing::Draft;
use crate::settings::{Refusals, Settings};

#[tokio::test]
async fn who_reads_what_is_decided_by_the_access_list_and_not_by_whose_it_is() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    let target = format!("/v1/instances/{b}/data/shared");
    api.json(Method::PUT, &target, &[], json!({"value": "for whom?"}))
        .await;
    let read = async |who: &str| api.as_guest(who, &target).await.status;
    assert_eq!(
        (read(b).await, read(a).await),
        (StatusCode::OK, StatusCode::NOT_FOUND)
    );
    let clauses = json!({"access": [{"subject": format!("instance:{a}"), "rights": ["read", "append"]}]});
    let access = format!("/v1/instances/{b}/access/shared");
    assert_eq!(
        api.json(Method::PUT, &access, &[], clauses).await.status,
        StatusCode::OK
    );
    assert_eq!(
        (read(b).await, read(a).await),
        (StatusCode::NOT_FOUND, StatusCode::OK),
        "withheld from its own instance"
    );
    let guest = api.guest(a).await;
    let change = async |method: Method, value: &str| {
        let body = json!({ "value": value }).to_string();
        let draft = Draft::new(&guest, method, &target, &body);
        draft.passed_on_by(api.host()).send(&api).await
    };
    let put = change(Method::PUT, "mine").await;
    assert_eq!(
        (put.status, put.body["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("access-denied"))
    );
    assert!(put.body["detail"].as_str().unwrap().contains("update"), "{put:?}");
    assert_eq!(change(Method::POST, "!").await.status, StatusCode::OK);
    let h2 = api.enrol("h2").await;
    let by_host = api.as_guest_of(&h2, a, &target).await;
    assert_eq!(by_host.body["type"], "not-on-host");
}

#[tokio::test]
async fn a_listing_never_names_what_a_read_denies() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    for name in ["open", "closed"] {
        api.json(
            Method::PUT,
            &format!("/v1/instances/{b}/data/{name}"),
            &[],
            json!({"value": "x", "visibility": "public"}),
        )
        .await;
    }
    let clauses = json!({"access": [{"subject": "account", "rights": ["read"]}]});
    api.json(
        Method::PUT,
        &format!("/v1/instances/{b}/access/open"),
        &[],
        clauses,
    )
    .await;
    let listed = api.as_guest(a, &format!("/v1/instances/{b}/data")).await;
    let paths: Vec<_> = listed.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["open"]);
    let described = api.as_guest(a, &format!("/v1/instances/{b}/describe")).await;
    let named = described.body["entries"].as_array().unwrap();
    let closed = named
        .iter()
        .find(|entry| entry["path"] == "closed")
        .expect("public entries are named");
    assert_eq!(closed["readable"], false);
}

#[tokio::test]
async fn how_much_a_refusal_says_is_the_deployments_choice_and_the_record_says_all() {
    for (refusals, kind) in [
        (Refusals::Generic, "access-denied"),
        (Refusals::Silent, "entry-not-found"),
    ] {
        let api = Api::with(Settings {
            refusals,
            ..Settings::default()
        })
        .await;
        let id = api.with_instances(1).await.remove(0);
        let target = format!("/v1/instances/{id}/data/meta/vcpus");
        let guest = api.guest(&id).await;
        let draft = Draft::new(&guest, Method::PUT, &target, r#"{"value": "64"}"#);
        let refused = draft.passed_on_by(api.host()).send(&api).await;
        assert_eq!(refused.body["type"], kind);
        assert!(
            !refused.body["detail"].as_str().unwrap().contains("right to"),
            "{refused:?}"
        );
        let operation = refused.body["operation"].as_str().unwrap();
        let record = api.get(&format!("/v1/operations/{operation}")).await;
        assert_eq!(record.body["outcome"], "refused");
        assert!(
            record.body["problem"]["detail"]
                .as_str()
                .unwrap()
                .contains("right to update"),
            "{record:?}"
        );
    }
}

#[tokio::test]
async fn nobody_comes_in_without_the_token() {
    let mut api = Api::new().await;
    api.token = "moor-admin-guess".into();
    let reply = api.get("/v1/instances").await;
    assert_eq!(
        (reply.status, reply.body["type"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("unauthenticated"))
    );
    assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(api.get("/v1/openapi.json").await.status, StatusCode::OK);
    assert!(api.dispatcher.is_some());
}

#[tokio::test]
async fn a_guest_that_asks_in_vain_for_ever_leaves_few_records_and_each_refused_write_one() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    let target = format!("/v1/instances/{b}/data/x");
    let mut recorded = 0;
    for _ in 0..60 {
        let read = api.as_guest(a, &target).await;
        assert_eq!(read.status, StatusCode::NOT_FOUND);
        recorded += usize::from(read.body["operation"].is_string());
    }
    // One more in each second that this takes.
    assert!((20..50).contains(&recorded), "{recorded} records");
    let guest = api.guest(a).await;
    for _ in 0..30 {
        let draft = Draft::new(&guest, Method::PUT, &target, r#"{"value": "mine"}"#);
        let write = draft.passed_on_by(api.host()).send(&api).await;
        assert!(write.body["operation"].is_string(), "{write:?}");
    }
}
