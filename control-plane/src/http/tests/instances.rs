//! Hosts and instances: what is refused of them, and what is answered long after.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Api, Reply};

impl Api {
    async fn register_host(&self, headers: &[(&str, &str)], change: &Json) -> Reply {
        let mut offer = json!({"zone": "z", "vcpus": 64, "memory_mib": 65536, "images": ["busybox"]});
        for (field, value) in change.as_object().into_iter().flatten() {
            offer[field] = value.clone();
        }
        let headers = [&[("moorline-host", "h1")], headers].concat();
        self.json(Method::PUT, "/v1/hosts/h1", &headers, offer).await
    }
}

#[tokio::test]
async fn a_host_offers_no_more_than_hosts_have() {
    let api = Api::new().await;
    for (field, value, most) in [
        ("vcpus", u64::from(u32::MAX), "0 to 65536"),
        ("memory_mib", u64::MAX, "0 to 67108864"),
    ] {
        let refused = api.register_host(&[], &json!({field: value})).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        assert_eq!(refused.body["field"], field, "{refused:?}");
        assert!(
            refused.body["detail"].as_str().unwrap().contains(most),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_request_sent_again_after_its_revision_is_gone_is_answered() {
    let api = Api::new().await;
    let key = [("idempotency-key", "k-1")];
    let host = api.register_host(&key, &json!({})).await;
    assert_eq!(host.status, StatusCode::OK, "{host:?}");
    let key = [("idempotency-key", "k-2")];
    let run = json!({"image": "busybox", "type": "micro"});
    let first = api.json(Method::POST, "/v1/instances", &key, run.clone()).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let id = first.body["instances"][0]["id"].as_str().unwrap();
    let stop = json!({"instances": [id]});
    api.json(Method::POST, "/v1/instances/stop", &[], stop).await;
    api.store.compact(api.store.head().await.unwrap()).await.unwrap();

    let host = api.register_host(&[("idempotency-key", "k-1")], &json!({})).await;
    assert_eq!(
        (host.status, host.body["id"].as_str()),
        (StatusCode::OK, Some("h1"))
    );
    let again = api.json(Method::POST, "/v1/instances", &key, run).await;
    assert_eq!(again.status, StatusCode::CREATED, "{again:?}");
    assert_eq!(again.body["revision"], first.body["revision"]);
    let instance = &again.body["instances"][0];
    assert_eq!(
        (instance["id"].as_str(), instance["state"].as_str()),
        (Some(id), Some("stopping"))
    );
}
