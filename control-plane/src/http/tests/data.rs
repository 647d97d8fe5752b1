//! Entries put, read, guarded, listed and looked back at.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use serde_json::{Value as Json, json};

use super::Api;

#[tokio::test]
async fn an_entry_is_put_read_guarded_and_removed() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/config/x");
    let put = api
        .json(
            Method::PUT,
            &target,
            &[("if-none-match", "*")],
            json!({"value": "one"}),
        )
        .await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    assert_eq!(
        put.headers["moorline-revision"],
        put.body["revision"].as_str().unwrap()
    );
    let got = api.get(&target).await;
    assert_eq!(
        (got.body["value"].as_str(), got.body["version"].as_u64()),
        (Some("one"), Some(1))
    );
    assert_eq!(
        got.headers[header::ETAG],
        format!("\"{}\"", put.body["revision"].as_str().unwrap())
    );
    let again = api
        .json(
            Method::PUT,
            &target,
            &[("if-none-match", "*")],
            json!({"value": "two"}),
        )
        .await;
    assert_eq!(
        (again.status, again.body["type"].as_str()),
        (StatusCode::PRECONDITION_FAILED, Some("guard-failed"))
    );
    let tag = got.headers[header::ETAG].to_str().unwrap();
    let bytes = json!({"value": {"base64": "/wA="}});
    assert_eq!(
        api.json(Method::PUT, &target, &[("if-match", tag)], bytes)
            .await
            .status,
        StatusCode::OK
    );
    let appended = api.json(Method::POST, &target, &[], json!({"value": "z"})).await;
    assert_eq!(appended.status, StatusCode::OK);
    assert_eq!(api.get(&target).await.body["value"]["base64"], "/wB6");
    assert_eq!(
        api.send(Method::DELETE, &target, &[], Body::empty()).await.status,
        StatusCode::OK
    );
    assert_eq!(api.get(&target).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_retry_changes_nothing_more_and_another_body_is_refused() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/log");
    api.json(Method::PUT, &target, &[], json!({"value": "a"})).await;
    let key = [("idempotency-key", "k-1")];
    let first = api.json(Method::POST, &target, &key, json!({"value": "b"})).await;
    let retry = api.json(Method::POST, &target, &key, json!({"value": "b"})).await;
    assert_eq!(first.body, retry.body);
    assert_eq!(api.get(&target).await.body["value"], "ab");
    let other = api.json(Method::POST, &target, &key, json!({"value": "c"})).await;
    assert_eq!(other.body["type"], "idempotency-key-reused");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let batch = |second: Json| json!({"changes": [{"path": "a", "action": {"put": {"value": "1"}}}, second]});
    let target = format!("/v1/instances/{id}/batch");
    let refused = api
        .json(
            Method::POST,
            &target,
            &[],
            batch(json!({"path": "b", "action": {"delete": {}}})),
        )
        .await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(
        api.get(&format!("/v1/instances/{id}/data/a")).await.status,
        StatusCode::NOT_FOUND
    );
    let twice = api
        .json(
            Method::POST,
            &target,
            &[],
            batch(json!({"path": "a", "action": {"delete": {}}})),
        )
        .await;
    assert_eq!(
        (twice.body["type"].as_str(), twice.body["field"].as_str()),
        (Some("invalid-batch"), Some("changes"))
    );
    let put = json!({"path": "b", "action": {"put": {"value": "2"}}});
    let done = api.json(Method::POST, &target, &[], batch(put)).await;
    let (a, b) = (
        api.get(&format!("/v1/instances/{id}/data/a")).await,
        api.get(&format!("/v1/instances/{id}/data/b")).await,
    );
    assert_eq!(
        (&a.body["revision"], &b.body["revision"]),
        (&done.body["revision"], &done.body["revision"])
    );
}

#[tokio::test]
async fn pages_show_one_state() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    for name in ["a", "b", "c", "d"] {
        api.json(
            Method::PUT,
            &format!("/v1/instances/{id}/data/p/{name}"),
            &[],
            json!({"value": name}),
        )
        .await;
    }
    let first = api
        .get(&format!("/v1/instances/{id}/data?prefix=p&limit=2"))
        .await;
    api.json(
        Method::PUT,
        &format!("/v1/instances/{id}/data/p/bb"),
        &[],
        json!({"value": "late"}),
    )
    .await;
    let cursor = first.body["next"].as_str().unwrap();
    let second = api
        .get(&format!(
            "/v1/instances/{id}/data?prefix=p&limit=2&values=true&cursor={cursor}"
        ))
        .await;
    let paths: Vec<_> = second.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        (paths, &second.body["revision"]),
        (vec!["p/c", "p/d"], &first.body["revision"])
    );
    assert_eq!(second.body["entries"][0]["value"], "c");
    assert!(second.body["next"].is_null());
}

#[tokio::test]
async fn history_tells_who_changed_what_from_what_to_what() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/h");
    let long = "long".repeat(1_000);
    for value in ["one", &long] {
        api.json(Method::PUT, &target, &[], json!({"value": value})).await;
    }
    api.send(Method::DELETE, &target, &[], Body::empty()).await;
    api.json(Method::PUT, &target, &[], json!({"value": "again"}))
        .await;
    let history = api.get(&format!("/v1/instances/{id}/history/h?limit=3")).await;
    let changes = history.body["changes"].as_array().unwrap();
    let seen: Vec<_> = changes
        .iter()
        .map(|c| (c["from"].as_str(), c["to"].as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (None, Some("again")),
            (Some(&*long), None),
            (Some("one"), Some(&*long))
        ]
    );
    let cursor = history.body["next"].as_str().unwrap();
    let older = api
        .get(&format!("/v1/instances/{id}/history/h?cursor={cursor}"))
        .await;
    assert_eq!(older.body["changes"][0]["to"], "one");
    assert_eq!(older.body["changes"][0]["principal"], "user:admin");
}
