//! Requests that are sent again under the same key, by who did not hear the answer.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Api, Reply};

impl Api {
    /// Sends a request twice under one key: what the second try is answered is what the first was.
    async fn twice(&self, method: Method, target: &str, body: Json) -> Reply {
        let key = uuid::Uuid::new_v4().to_string();
        let headers = [("idempotency-key", key.as_str())];
        let first = self.json(method.clone(), target, &headers, body.clone()).await;
        assert!(first.status.is_success(), "{first:?}");
        let second = self.json(method, target, &headers, body).await;
        assert_eq!((second.status, &second.body), (first.status, &first.body));
        first
    }

    /// The same key with another request is refused.
    async fn reused(&self, method: Method, [first, second]: [(&str, Json); 2]) {
        let headers = [("idempotency-key", "the-same")];
        let done = self.json(method.clone(), first.0, &headers, first.1).await;
        assert!(done.status.is_success(), "{done:?}");
        let refused = self.json(method, second.0, &headers, second.1).await;
        assert_eq!(refused.body["type"], "idempotency-key-reused", "{refused:?}");
    }
}

#[tokio::test]
async fn a_user_is_made_once() {
    let api = Api::new().await;
    let ann = json!({"user": "ann", "password": "correct horse"});
    api.twice(Method::POST, "/v1/users", ann).await;
    assert_eq!(
        api.log_in("ann", "correct horse").await.status,
        StatusCode::CREATED
    );
    let bob = |password| ("/v1/users", json!({"user": "bob", "password": password}));
    api.reused(Method::POST, [bob("correct horse"), bob("another horse")])
        .await;
}

#[tokio::test]
async fn a_password_is_set_once() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let target = "/v1/users/ann/password";
    api.twice(Method::PUT, target, json!({"password": "correct horse"}))
        .await;
    let tokens = api.log_in("ann", "correct horse").await;
    assert_eq!(tokens.status, StatusCode::CREATED);
    let set = |password| (target, json!({ "password": password }));
    api.reused(Method::PUT, [set("one horse"), set("another horse")])
        .await;
    assert_eq!(api.log_in("ann", "one horse").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_retry_does_not_set_a_password_back() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let target = "/v1/users/ann/password";
    let (first, later) = (
        json!({"password": "first horse"}),
        json!({"password": "later horse"}),
    );
    let headers = [("idempotency-key", "first")];
    let done = api.json(Method::PUT, target, &headers, first.clone()).await;
    api.json(Method::PUT, target, &[], later).await;
    let again = api.json(Method::PUT, target, &headers, first).await;
    assert_eq!((again.status, &again.body), (StatusCode::OK, &done.body));
    assert_eq!(api.log_in("ann", "later horse").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_is_staged_once_and_destroyed_once() {
    let api = Api::new().await;
    api.twice(Method::POST, "/v1/token-keys", Json::Null).await;
    let keys = async || {
        api.get("/v1/token-keys").await.body["keys"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(keys().await, 2);
    for at in ["2/promote", "1/retire"] {
        let target = format!("/v1/token-keys/{at}");
        api.json(Method::POST, &target, &[], Json::Null).await;
    }
    api.twice(Method::DELETE, "/v1/token-keys/1", Json::Null).await;
    assert_eq!(keys().await, 2);
}

#[tokio::test]
async fn a_session_is_ended_once() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let target = format!("/v1/sessions/{}", ann["session"].as_str().unwrap());
    api.twice(Method::DELETE, &target, Json::Null).await;
    let another = api.json(Method::DELETE, &target, &[], Json::Null).await;
    assert_eq!(
        another.status,
        StatusCode::NOT_FOUND,
        "under another key it is gone"
    );
}

#[tokio::test]
async fn a_programs_token_is_of_one_session() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let bearer = format!("Bearer {}", ann["access_token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "ci")];
    let make = || api.json(Method::POST, "/v1/tokens", &headers, json!({"name": "ci"}));
    let (first, second) = (make().await, make().await);
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(first.body["session"], second.body["session"]);
}
