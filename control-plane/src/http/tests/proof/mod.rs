//! What instances change, with proof that it is them, and what is done without.

mod attacks;
mod ended;
mod identity_token;

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::Api;
use super::signing::{Draft, Guest};

/// Two instances on a host, the first of which has its session.
struct World {
    api: Api,
    guest: Guest,
    other: String,
}

impl World {
    async fn new() -> Self {
        let api = Api::new().await;
        let ids = api.with_instances(2).await;
        Self {
            guest: api.guest(&ids[0]).await,
            other: ids[1].clone(),
            api,
        }
    }

    async fn value(&self) -> Json {
        let target = format!("/v1/instances/{}/data/own", self.guest.id);
        self.api.get(&target).await.body["value"].clone()
    }

    /// The reasons on record for requests that were refused, newest last.
    async fn reasons(&self) -> Vec<String> {
        let page = self.api.get("/v1/operations?limit=200").await.body;
        let records = page["operations"].as_array().unwrap().clone();
        let of = |record: &Json| record["parameters"]["reason"].as_str().map(str::to_owned);
        records.iter().filter_map(of).collect()
    }
}

async fn report(api: &Api, instance: &str, incarnation: u64) {
    let report = json!({"instance": instance, "state": "running", "incarnation": incarnation, "reboots": 0});
    let reply = api
        .by_host(api.host(), Method::POST, "/v1/hosts/h1/reports", &[], report)
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
}

#[tokio::test]
async fn an_instance_changes_its_data_by_its_signature() {
    let mut world = World::new().await;
    let put = world.guest.put("shared").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    assert_eq!(world.value().await, "shared");
    let identified = world.guest.identify(&world.api, world.api.host()).await;
    assert_eq!(identified.status, StatusCode::OK, "{identified:?}");
    let put = world.guest.put("own").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    assert_eq!(world.value().await, "own");
    let conditional = world.guest.put("never").with(|draft| {
        draft.fields.push(("if-none-match", "*".to_owned()));
    });
    let refused = conditional.relayed(&world.api).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
    let record = world
        .api
        .get(&format!(
            "/v1/operations/{}",
            put.body["operation"].as_str().unwrap()
        ))
        .await;
    assert_eq!(record.body["principal"], format!("instance:{}", world.guest.id));
}

#[tokio::test]
async fn what_is_asked_again_is_done_once() {
    let world = World::new().await;
    let append = |value: &str| {
        let target = format!("/v1/instances/{}/data/own", world.guest.id);
        let body = json!({ "value": value }).to_string();
        Draft::new(&world.guest, Method::POST, &target, &body).with(|draft| {
            draft.fields[0].1 = "the-same".to_owned();
        })
    };
    let begun = world.guest.put("b").relayed(&world.api).await;
    assert_eq!(begun.status, StatusCode::OK, "{begun:?}");
    let first = append("a").relayed(&world.api).await;
    let again = append("a").relayed(&world.api).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    assert_eq!(first.body, again.body, "it is signed anew, and the same change");
    assert_eq!(world.value().await, "ba");
    let other = append("b").relayed(&world.api).await;
    assert_eq!(other.body["type"], "idempotency-key-reused");
}

#[tokio::test]
async fn whoever_asked_for_something_may_know_what_became_of_it() {
    let world = World::new().await;
    let api = &world.api;
    let made = world.guest.put("made").relayed(api).await;
    let guarded = world.guest.put("never").with(|draft| {
        draft.fields.push(("if-none-match", "*".to_owned()));
    });
    let refused = guarded.relayed(api).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED, "{refused:?}");
    let describe = async |guest: &Guest, operation: &Json| {
        let target = format!("/v1/operations/{}", operation.as_str().unwrap());
        let asked = Draft::new(guest, Method::GET, &target, "");
        asked.relayed(api).await
    };
    let done = describe(&world.guest, &made.body["operation"]).await;
    assert_eq!(
        (done.status, &done.body["outcome"]),
        (StatusCode::OK, &json!("done")),
        "{done:?}"
    );
    assert_eq!(
        done.body["effects"],
        json!([]),
        "what was there before is not said"
    );
    let told = describe(&world.guest, &refused.body["operation"]).await;
    assert_eq!(told.body["outcome"], "refused", "{told:?}");
    let other = api.guest(&world.other).await;
    let others = describe(&other, &made.body["operation"]).await;
    let unknown = describe(&other, &json!(format!("op-{}", "0".repeat(64)))).await;
    assert_eq!(
        (others.status, unknown.status),
        (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND)
    );
    let all = Draft::new(&world.guest, Method::GET, "/v1/operations", "");
    let all = all.relayed(api).await;
    assert_eq!(all.status, StatusCode::FORBIDDEN, "{all:?}");
}

#[tokio::test]
async fn a_further_token_is_of_the_same_session_and_leaves_nothing_behind() {
    let world = World::new().await;
    let before = world.api.store.head().await.unwrap();
    let ask = || {
        world
            .api
            .session(world.api.host(), &world.guest.id, json!({"incarnation": 1}))
    };
    let (second, third) = (ask().await, ask().await);
    assert_eq!(
        world.api.store.head().await.unwrap(),
        before,
        "something was kept"
    );
    assert_eq!(second.body["session"], world.guest.session.as_str());
    assert_ne!(second.body["token"], third.body["token"]);
    assert_ne!(second.body["key"], third.body["key"]);
    for given in [second, third] {
        let put = Guest::of(&world.guest.id, &given.body)
            .put("x")
            .passed_on_by(world.api.host());
        assert_eq!(put.send(&world.api).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn only_the_instances_host_is_given_its_session() {
    let world = World::new().await;
    let offer = json!({"zone": "z", "vcpus": 1, "memory_mib": 1, "images": ["busybox"]});
    let h2 = world.api.enrol("h2").await;
    world
        .api
        .by_host(&h2, Method::PUT, "/v1/hosts/h2", &[], offer)
        .await;
    let asked = json!({"incarnation": 1});
    let elsewhere = world.api.session(&h2, &world.guest.id, asked.clone()).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    let target = format!("/v1/hosts/h1/instances/{}/session", world.guest.id);
    let by_h2 = world
        .api
        .by_host(&h2, Method::POST, &target, &[], asked.clone())
        .await;
    let by_administrator = world.api.json(Method::POST, &target, &[], asked).await;
    for other in [by_h2, by_administrator] {
        assert_eq!(other.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn a_later_life_ends_the_session_of_an_earlier_one() {
    let world = World::new().await;
    report(&world.api, &world.guest.id, 1).await;
    let later = world
        .api
        .session(world.api.host(), &world.guest.id, json!({"incarnation": 2}))
        .await;
    assert_eq!(later.status, StatusCode::OK, "{later:?}");
    let old = world.guest.put("old").relayed(&world.api).await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
    let new = Guest::of(&world.guest.id, &later.body);
    let put = new.put("new").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    let earlier = world
        .api
        .session(world.api.host(), &world.guest.id, json!({"incarnation": 1}))
        .await;
    assert_eq!(
        (earlier.status, &earlier.body["type"]),
        (StatusCode::CONFLICT, &json!("incarnation-over"))
    );
    report(&world.api, &world.guest.id, 3).await;
    let put = new.put("newer").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::UNAUTHORIZED, "a later life has begun");
    assert!(
        world
            .reasons()
            .await
            .iter()
            .any(|reason| reason.contains("incarnation 2, and 3 has begun"))
    );
}

#[tokio::test]
async fn a_copy_of_a_guest_loses_its_session_when_the_host_asks_for_another() {
    let mut world = World::new().await;
    world.guest.identify(&world.api, world.api.host()).await;
    let asked = json!({"incarnation": 1, "instead_of": world.guest.session});
    let fresh = world
        .api
        .session(world.api.host(), &world.guest.id, asked.clone())
        .await;
    let again = world.api.session(world.api.host(), &world.guest.id, asked).await;
    assert_ne!(fresh.body["session"], world.guest.session.as_str());
    assert_eq!(
        again.body["session"], fresh.body["session"],
        "a lost answer is asked for again"
    );
    let old = world.guest.put("copy").relayed(&world.api).await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
    let mut new = Guest::of(&world.guest.id, &fresh.body);
    assert_eq!(
        new.identify(&world.api, world.api.host()).await.status,
        StatusCode::OK
    );
    let put = new.put("new").relayed(&world.api).await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
}

#[tokio::test]
async fn a_session_that_is_not_used_in_its_window_is_over() {
    let settings = crate::settings::Settings {
        identify_within: 1.try_into().unwrap(),
        ..Default::default()
    };
    let api = Api::with(settings).await;
    let id = api.with_instances(1).await.remove(0);
    let ask = || api.session(api.host(), &id, json!({"incarnation": 1}));
    let (host, given) = (api.host(), ask().await);
    assert!(given.body["identify_within_seconds"].as_u64().unwrap() <= 1);
    let guest = Guest::of(&id, &given.body);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while guest.put("x").relayed(&api).await.status == StatusCode::OK {
        assert!(std::time::Instant::now() < deadline, "the session goes on");
    }
    let next = ask().await;
    assert_ne!(next.body["session"], given.body["session"]);
    let mut guest = Guest::of(&id, &next.body);
    assert_eq!(guest.identify(&api, host).await.status, StatusCode::OK);
    let further = ask().await;
    assert_eq!(further.body["session"], next.body["session"]);
    assert!(further.body.get("identify_within_seconds").is_none());
}
