//! Whether the control plane says how it is to those who have no token.

use axum::body::Body;
use axum::http::{Method, StatusCode};

use super::Api;

#[tokio::test]
async fn anybody_is_told_that_it_lives_and_whether_it_is_ready() {
    let api = Api::new().await;
    for target in ["/v1/health", "/v1/ready"] {
        let nobody = [("authorization", "Bearer nobody")];
        let reply = api.send(Method::GET, target, &nobody, Body::empty()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let build = reply.body["build"].as_str().unwrap();
        assert!(build.starts_with("moorline-control "), "{build}");
    }
    let head = api.store.head().await.unwrap();
    for _ in 0..20 {
        assert_eq!(api.get("/v1/ready").await.status, StatusCode::OK);
    }
    assert_eq!(api.store.head().await.unwrap(), head, "who looks changes nothing");
}

#[tokio::test]
async fn a_store_that_cannot_commit_is_not_ready_and_says_why() {
    let api = Api::new().await;
    api.store.close().await;
    let reply = api.get("/v1/ready").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
    assert_eq!(reply.body["type"], "not-ready");
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains("the store is closed"), "{detail}");
    assert_eq!(api.get("/v1/health").await.status, StatusCode::OK);
}
