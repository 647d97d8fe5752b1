//! What is wrong with a request is said so that it can be put right.

use axum::body::Body;
use axum::http::{Method, header};
use serde_json::json;

use super::Api;

#[tokio::test]
async fn every_refused_input_names_the_field() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let cases = [
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "b", "type": "micro", "count": 0}),
            "count",
            "1 to 100",
        ),
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "b", "type": "huge"}),
            "type",
            "micro",
        ),
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "B", "type": "micro"}),
            "image",
            "a-z",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a/../b"),
            json!({"value": "x"}),
            "path",
            "..",
        ),
        (
            Method::PUT,
            "/v1/instances/i-1/data/a".to_owned(),
            json!({"value": "x"}),
            "instance",
            "i-",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"value": "x".repeat(262_145)}),
            "value",
            "262144",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"value": "x", "ttl": 0}),
            "ttl",
            "1 to",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"valu": "x"}),
            "valu",
            "value",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/meta/x"),
            json!({"value": "x"}),
            "path",
            "meta/",
        ),
        (
            Method::POST,
            format!("/v1/instances/{id}/batch"),
            json!({"changes": []}),
            "changes",
            "1 to",
        ),
    ];
    for (method, target, body, field, says) in cases {
        let reply = api.json(method, &target, &[], body).await;
        assert!(reply.status.is_client_error(), "{target}: {reply:?}");
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(reply.body["field"], field, "{target}: {reply:?}");
        assert!(
            reply.body["detail"].as_str().unwrap().contains(says),
            "{target}: {reply:?}"
        );
    }
    let limit = api.get(&format!("/v1/instances/{id}/data?limit=1001")).await;
    assert_eq!(limit.body["field"], "limit");
    let unknown = api.get("/v1/instances?colour=red").await;
    assert!(
        unknown.body["detail"].as_str().unwrap().contains("colour"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_failed_guard_names_what_said_it_and_what_is_there() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/config/x");
    let put = api.json(Method::PUT, &target, &[], json!({"value": "one"})).await;
    let at = put.body["revision"].as_str().unwrap();
    let says = |must: &str| {
        format!(
            "the entry config/x is at revision {at}, and the request says that it must {must}; look at it again and \
             decide anew"
        )
    };
    let old = [("if-match", "\"1.1\"")];
    let absent = [("if-none-match", "*")];
    for (header, must) in [(old, "be at 1.1"), (absent, "not exist")] {
        let refused = api
            .json(Method::PUT, &target, &header, json!({"value": "two"}))
            .await;
        assert_eq!(refused.body["field"], header[0].0, "{refused:?}");
        assert_eq!(refused.body["detail"], says(must), "{refused:?}");
    }
    let change = json!({"path": "config/x", "guard": "absent", "action": {"put": {"value": "two"}}});
    let other = json!({"path": "config/y", "action": {"put": {"value": "two"}}});
    let batch = json!({"changes": [other, change]});
    let refused = api
        .json(Method::POST, &format!("/v1/instances/{id}/batch"), &[], batch)
        .await;
    assert_eq!(refused.body["field"], "changes[1].guard", "{refused:?}");
    assert_eq!(refused.body["detail"], says("not exist"), "{refused:?}");
}

#[tokio::test]
async fn what_is_wrong_deep_within_a_request_is_named_by_its_path() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let long = "x".repeat(262_145);
    let put = json!({"path": "b", "action": {"put": {"value": long}}});
    let batch = json!({"changes": [{"path": "a", "action": {"put": {"value": "1"}}}, put]});
    let target = format!("/v1/instances/{id}/batch");
    let refused = api.json(Method::POST, &target, &[], batch).await;
    assert_eq!(refused.body["field"], "changes[1].action", "{refused:?}");
    let run = json!({"image": "busybox", "type": "micro", "data": {"config/x": {"value": long}}});
    let refused = api.json(Method::POST, "/v1/instances", &[], run).await;
    assert_eq!(refused.body["field"], "data.config/x", "{refused:?}");
    let tags: Vec<_> = (0..51).map(|n| format!("role={n}")).collect();
    let tagged = api
        .json(
            Method::PATCH,
            &format!("/v1/instances/{id}"),
            &[],
            json!({"tags": tags}),
        )
        .await;
    assert_eq!(
        tagged.body["detail"], "tags holds 51; it must hold 0 to 50",
        "{tagged:?}"
    );
}

#[tokio::test]
async fn what_can_not_be_understood_is_shown() {
    let api = Api::new().await;
    let limit = api.get("/v1/instances?limit=abc").await;
    assert_eq!(limit.body["field"], "limit");
    assert_eq!(limit.body["detail"], "it is 'abc': invalid digit found in string");
    let path = api.get("/v1/instances/%ff/data").await;
    assert_eq!(
        (path.status.as_u16(), path.body["field"].as_str()),
        (422, Some("path"))
    );
    let empty = api.send(Method::POST, "/v1/instances", &[], Body::empty()).await;
    assert_eq!(empty.body["detail"], "there is no body; send one of JSON");
}
