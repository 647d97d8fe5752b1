//! What is wrong with a request is said so that it can be put right.

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
