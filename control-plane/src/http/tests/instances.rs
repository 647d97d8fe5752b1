//! Hosts and instances: what is refused of them, and what is answered long after.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::host::Host;
use super::{Api, Reply};

impl Api {
    async fn register_host(&self, host: &Host, headers: &[(&str, &str)], change: &Json) -> Reply {
        let mut offer = json!({"zone": "z", "vcpus": 64, "memory_mib": 65536, "images": ["busybox"]});
        for (field, value) in change.as_object().into_iter().flatten() {
            offer[field] = value.clone();
        }
        self.by_host(host, Method::PUT, "/v1/hosts/h1", headers, offer)
            .await
    }

    async fn report(&self, id: &str, state: &str, incarnation: u64) -> Reply {
        let report = json!({"instance": id, "state": state, "incarnation": incarnation, "reboots": 0});
        self.by_host(self.host(), Method::POST, "/v1/hosts/h1/reports", &[], report)
            .await
    }

    async fn ask(&self, verb: &str, id: &str) -> Reply {
        let target = format!("/v1/instances/{verb}");
        self.json(Method::POST, &target, &[], json!({"instances": [id]}))
            .await
    }

    async fn used_vcpus(&self) -> Option<u64> {
        self.get("/v1/hosts").await.body["hosts"][0]["used_vcpus"].as_u64()
    }
}

#[tokio::test]
async fn a_host_offers_no_more_than_hosts_have() {
    let api = Api::new().await;
    let host = api.enrol("h1").await;
    for (field, value, most) in [
        ("vcpus", u64::from(u32::MAX), "0 to 65536"),
        ("memory_mib", u64::MAX, "0 to 67108864"),
    ] {
        let refused = api.register_host(&host, &[], &json!({field: value})).await;
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
    let host = api.enrol("h1").await;
    let registered = api.register_host(&host, &key, &json!({})).await;
    assert_eq!(registered.status, StatusCode::OK, "{registered:?}");
    let key = [("idempotency-key", "k-2")];
    let run = json!({"image": "busybox", "type": "micro"});
    let first = api.json(Method::POST, "/v1/instances", &key, run.clone()).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let id = first.body["instances"][0]["id"].as_str().unwrap();
    let stop = json!({"instances": [id]});
    api.json(Method::POST, "/v1/instances/stop", &[], stop).await;
    api.store.compact(api.store.head().await.unwrap()).await.unwrap();

    let registered = api
        .register_host(&host, &[("idempotency-key", "k-1")], &json!({}))
        .await;
    assert_eq!(
        (registered.status, registered.body["id"].as_str()),
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

#[tokio::test]
async fn only_users_end_instances_and_their_room_is_given_back_once() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let id = ids[0].as_str();
    let before = api.used_vcpus().await.unwrap();
    for state in ["terminated", "shutting_down"] {
        let refused = api.report(id, state, 1).await;
        assert_eq!(
            (refused.status, refused.body["field"].as_str()),
            (StatusCode::CONFLICT, Some("state")),
            "{refused:?}"
        );
    }
    assert_eq!(api.used_vcpus().await, Some(before));
    assert_eq!(api.ask("terminate", id).await.status, StatusCode::OK);
    for incarnation in [1, 1, 2] {
        let report = api.report(id, "terminated", incarnation).await;
        assert_eq!(report.status, StatusCode::OK, "{report:?}");
        assert_eq!(api.used_vcpus().await, Some(before / 2));
    }
    for verb in ["start", "stop", "reboot"] {
        assert_eq!(api.ask(verb, id).await.body["type"], "wrong-state", "{verb}");
    }
    assert_eq!(api.report(id, "running", 3).await.status, StatusCode::OK);
    let shown = api.get(&format!("/v1/instances?instance={id}")).await;
    assert_eq!(shown.body["instances"][0]["state"], "terminated", "{shown:?}");
}

#[tokio::test]
async fn nothing_is_written_to_a_terminated_instance() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/secret");
    let value = || json!({"value": "x"});
    api.json(Method::PUT, &target, &[], value()).await;
    api.ask("terminate", id).await;
    for (method, target) in [
        (Method::PUT, target.clone()),
        (Method::POST, target.clone()),
        (Method::PUT, format!("/v1/instances/{id}/data/new")),
    ] {
        let refused = api.json(method, &target, &[], value()).await;
        assert_eq!(
            (refused.status, refused.body["field"].as_str()),
            (StatusCode::CONFLICT, Some("instance")),
            "{refused:?}"
        );
    }
    let gone = api
        .send(Method::DELETE, &target, &[], axum::body::Body::empty())
        .await;
    assert_eq!(
        gone.status,
        StatusCode::OK,
        "what is kept can be removed before its time: {gone:?}"
    );
}

#[tokio::test]
async fn a_host_with_instances_stays_in_its_zone() {
    let api = Api::new().await;
    let host = api.enrol("h1").await;
    assert_eq!(
        api.register_host(&host, &[], &json!({"zone": "a"})).await.status,
        StatusCode::OK
    );
    assert_eq!(
        api.register_host(&host, &[], &json!({"zone": "z"})).await.status,
        StatusCode::OK
    );
    api.with_instances(1).await;
    let refused = api.register_host(api.host(), &[], &json!({"zone": "a"})).await;
    assert_eq!(
        (refused.status, refused.body["field"].as_str()),
        (StatusCode::CONFLICT, Some("zone")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn where_there_is_no_room_is_said_of_what_was_asked_for() {
    let api = Api::new().await;
    let host = api.enrol("h1").await;
    api.register_host(&host, &[], &json!({"vcpus": 1})).await;
    for (place, field) in [
        (json!({}), "type"),
        (json!({"zone": "z"}), "zone"),
        (json!({"host": "h1"}), "host"),
        (json!({"host": "h1", "zone": "z"}), "host"),
    ] {
        let mut run = json!({"image": "busybox", "type": "micro", "count": 2});
        for (name, value) in place.as_object().unwrap() {
            run[name] = value.clone();
        }
        let refused = api.json(Method::POST, "/v1/instances", &[], run).await;
        assert_eq!(
            (refused.body["type"].as_str(), refused.body["field"].as_str()),
            (Some("no-room"), Some(field)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn roles_are_given_shown_and_changed() {
    let api = Api::new().await;
    let host = api.enrol("h1").await;
    api.register_host(&host, &[], &json!({})).await;
    let run = json!({"image": "busybox", "type": "micro", "roles": ["mail", "backup", "mail"]});
    let made = api.json(Method::POST, "/v1/instances", &[], run).await;
    let instance = &made.body["instances"][0];
    assert_eq!(instance["roles"], json!(["backup", "mail"]), "{made:?}");
    let id = instance["id"].as_str().unwrap();
    let target = format!("/v1/instances/{id}");
    for (change, roles) in [
        (json!({"name": "web"}), Some(json!(["backup", "mail"]))),
        (json!({"roles": ["web"]}), Some(json!(["web"]))),
        (json!({"roles": []}), None),
    ] {
        let changed = api.json(Method::PATCH, &target, &[], change).await;
        assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
        let shown = api.get(&format!("/v1/instances?instance={id}")).await;
        assert_eq!(
            shown.body["instances"][0].get("roles"),
            roles.as_ref(),
            "{shown:?}"
        );
    }
    let refused = api
        .json(Method::PATCH, &target, &[], json!({"roles": ["../x"]}))
        .await;
    assert_eq!(refused.body["field"], "roles[0]", "{refused:?}");
}
