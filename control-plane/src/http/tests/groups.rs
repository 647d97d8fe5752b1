//! Groups: who is in them, what that gives, and that nobody comes to what was meant for another.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Api, Reply};

impl Api {
    async fn group(&self, name: &str) -> Reply {
        self.json(Method::POST, "/v1/groups", &[], json!({"group": name}))
            .await
    }

    async fn join(&self, group: &str, member: &str) {
        let target = format!("/v1/groups/{group}/members/{member}");
        let done = self.json(Method::PUT, &target, &[], Json::Null).await;
        assert_eq!(done.status, StatusCode::OK, "{done:?}");
    }

    async fn leave(&self, group: &str, member: &str) {
        let target = format!("/v1/groups/{group}/members/{member}");
        let done = self.json(Method::DELETE, &target, &[], Json::Null).await;
        assert_eq!(done.status, StatusCode::OK, "{done:?}");
    }

    /// An entry `shared` of the instance that the group may read.
    async fn share(&self, instance: &str, group: &str) -> String {
        let clause = json!({"subject": format!("group:{group}"), "rights": ["read"]});
        let put = json!({"value": "for the group", "access": [clause]});
        let target = format!("/v1/instances/{instance}/data/shared");
        let done = self.json(Method::PUT, &target, &[], put).await;
        assert_eq!(done.status, StatusCode::OK, "{done:?}");
        target
    }
}

#[tokio::test]
async fn groups_have_members_who_leave_with_their_end() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let instance = api.with_instances(1).await.remove(0);
    let made = api
        .json(Method::POST, "/v1/groups", &[], json!({"group": "ops"}))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    for (member, status) in [
        ("user:ann".to_owned(), StatusCode::OK),
        (format!("instance:{instance}"), StatusCode::OK),
        ("user:ann".to_owned(), StatusCode::OK),
        ("user:nobody".to_owned(), StatusCode::NOT_FOUND),
        ("host:h1".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let target = format!("/v1/groups/ops/members/{member}");
        let added = api.json(Method::PUT, &target, &[], Json::Null).await;
        assert_eq!(added.status, status, "{member}: {added:?}");
    }
    let members = async || api.get("/v1/groups").await.body["groups"][0]["members"].clone();
    assert_eq!(
        members().await,
        json!([format!("instance:{instance}"), "user:ann"])
    );
    api.json(Method::DELETE, "/v1/users/ann", &[], Json::Null).await;
    assert_eq!(members().await, json!([format!("instance:{instance}")]));
    let deleted = api.json(Method::DELETE, "/v1/groups/ops", &[], Json::Null).await;
    assert_eq!(deleted.status, StatusCode::OK);
    assert_eq!(api.get("/v1/groups").await.body["groups"], json!([]));
    let rows = api.store.dump(api.store.head().await.unwrap()).await.unwrap();
    let left = rows.iter().filter(|(key, _)| key.to_string().contains("member"));
    assert!(
        left.clone().all(|(key, _)| key.to_string().starts_with("fence/")),
        "{:?}",
        left.count()
    );
}

#[tokio::test]
async fn users_and_instances_have_what_their_group_has_while_they_are_in_it() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (guest, owner) = (ids[0].as_str(), ids[1].as_str());
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    api.group("ops").await;
    let target = api.share(owner, "ops").await;
    let reads = async || {
        let user = api
            .by(&ann["access_token"], Method::GET, &target, Json::Null)
            .await;
        let guest = api.as_guest(guest, &target).await;
        (user.status.as_u16(), guest.status.as_u16())
    };
    assert_eq!(reads().await, (404, 404));
    api.join("ops", "user:ann").await;
    assert_eq!(reads().await, (200, 404));
    api.join("ops", &format!("instance:{guest}")).await;
    assert_eq!(reads().await, (200, 200));
    api.leave("ops", "user:ann").await;
    assert_eq!(reads().await, (404, 200));
    api.json(Method::DELETE, "/v1/groups/ops", &[], Json::Null).await;
    assert_eq!(reads().await, (404, 404));
}

#[tokio::test]
async fn whoever_watches_reads_anew_when_their_groups_change() {
    let api = Api::new().await;
    let id = api.with_instances(1).await.remove(0);
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    api.group("ops").await;
    api.join("ops", "user:ann").await;
    api.share(&id, "ops").await;
    let after = api.get(&format!("/v1/instances/{id}/data")).await.body["revision"].clone();
    api.leave("ops", "user:ann").await;
    let watch = format!(
        "/v1/instances/{id}/watch?wait_seconds=20&after={}",
        after.as_str().unwrap()
    );
    let told = api
        .by(&ann["access_token"], Method::GET, &watch, Json::Null)
        .await;
    assert_eq!(told.status, StatusCode::OK, "{told:?}");
    assert_eq!(told.body["event"], "resync", "{told:?}");
}

#[tokio::test]
async fn a_name_is_never_given_twice() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    api.group("ops").await;
    api.json(Method::DELETE, "/v1/users/ann", &[], Json::Null).await;
    api.json(Method::DELETE, "/v1/groups/ops", &[], Json::Null).await;
    let user = api
        .json(Method::POST, "/v1/users", &[], json!({"user": "ann"}))
        .await;
    for again in [user, api.group("ops").await] {
        assert_eq!(again.status, StatusCode::CONFLICT);
        assert_eq!(again.body["type"], "name-retired");
        let detail = again.body["detail"].as_str().unwrap();
        assert!(detail.contains("choose another name"), "{detail}");
    }
}

#[tokio::test]
async fn an_instance_that_ends_leaves_its_groups() {
    let api = Api::new().await;
    let id = api.with_instances(1).await.remove(0);
    api.group("ops").await;
    api.join("ops", &format!("instance:{id}")).await;
    let ended = json!({"instances": [id]});
    api.json(Method::POST, "/v1/instances/terminate", &[], ended)
        .await;
    let report = json!({"instance": id, "state": "terminated", "incarnation": 1, "reboots": 0});
    let reported = api
        .by_host(api.host(), Method::POST, "/v1/hosts/h1/reports", &[], report)
        .await;
    assert_eq!(reported.status, StatusCode::OK, "{reported:?}");
    assert_eq!(
        api.get("/v1/groups").await.body["groups"][0]["members"],
        json!([])
    );
    let target = format!("/v1/groups/ops/members/instance:{id}");
    let again = api.json(Method::PUT, &target, &[], Json::Null).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND, "{again:?}");
}
