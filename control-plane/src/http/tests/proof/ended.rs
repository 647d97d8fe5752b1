//! A session that somebody ends: from then on nothing is done or read in the instance's name, whoever says so.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::super::signing::{Draft, Guest};
use super::{World, report};

impl World {
    /// The first instance may read an entry of the second one's, which this returns.
    async fn shared(&self) -> String {
        let target = format!("/v1/instances/{}/data/shared", self.other);
        let access = json!([{"subject": format!("instance:{}", self.guest.id), "rights": ["read"]}]);
        let put = json!({"value": "theirs", "access": access});
        let reply = self.api.json(Method::PUT, &target, &[], put).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        target
    }

    async fn end_session(&self) {
        let target = format!("/v1/sessions/{}", self.guest.session);
        let reply = self.api.send(Method::DELETE, &target, &[], Body::empty()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }

    /// What the guest's host may read in its name.
    async fn reads(&self, operation: &Json) -> Vec<String> {
        let own = format!("/v1/instances/{}", self.guest.id);
        vec![
            self.shared().await,
            format!("{own}/data/own"),
            format!("{own}/data"),
            format!("{own}/describe"),
            format!("{own}/history/own"),
            format!("/v1/operations/{}", operation.as_str().unwrap()),
        ]
    }

    async fn all_are_read(&self, targets: &[String]) {
        for target in targets {
            let read = self.api.as_guest(&self.guest.id, target).await;
            assert_eq!(read.status, StatusCode::OK, "{target}: {read:?}");
        }
    }
}

#[tokio::test]
async fn what_a_host_reads_in_a_guests_name_falls_with_the_guests_session() {
    let world = World::new().await;
    report(&world.api, &world.guest.id, 1).await;
    let put = world.guest.put("before").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    let reads = world.reads(&put.body["operation"]).await;
    world.all_are_read(&reads).await;
    world.end_session().await;
    for target in &reads {
        let read = world.api.as_guest(&world.guest.id, target).await;
        assert_eq!(
            (read.status, read.body["type"].as_str()),
            (StatusCode::FORBIDDEN, Some("session-ended")),
            "{target}"
        );
    }
    let other = world.api.as_guest(&world.other, &reads[0]).await;
    assert_eq!(
        other.status,
        StatusCode::NOT_FOUND,
        "the other's session was not ended"
    );

    // In the next life it is heard again, already while the host has yet to report that.
    let given = world
        .api
        .session(world.api.host(), &world.guest.id, json!({"incarnation": 2}))
        .await;
    let next = Guest::of(&world.guest.id, &given.body);
    let put = next.put("after").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    report(&world.api, &world.guest.id, 2).await;
    world.all_are_read(&reads).await;
}

#[tokio::test]
async fn what_a_guest_signs_is_refused_once_its_session_was_ended() {
    let world = World::new().await;
    let api = &world.api;
    let target = format!("/v1/instances/{}/identity-token", world.guest.id);
    let ask = || Draft::new(&world.guest, Method::POST, &target, r#"{"audience": "a"}"#);
    let read = |path: &str| {
        let target = format!("/v1/instances/{}/data/{path}", world.guest.id);
        Draft::new(&world.guest, Method::GET, &target, "")
    };
    for good in [world.guest.put("before"), ask(), read("own")] {
        assert_eq!(good.relayed(api).await.status, StatusCode::OK);
    }
    world.end_session().await;
    for late in [world.guest.put("after"), ask(), read("own")] {
        let refused = late.relayed(api).await;
        assert_eq!(
            (refused.status, refused.body["type"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("unproven"))
        );
    }
    assert_eq!(world.value().await, "before");
}
