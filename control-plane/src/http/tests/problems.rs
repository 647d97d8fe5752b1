//! What is wrong with a request is said so that it can be put right.

use axum::body::Body;
use axum::http::{Method, header};
use serde_json::{Value as Json, json};

use super::Api;

/// A request, the field at fault, and what must be said of it.
type Case = (Method, String, Json, &'static str, &'static str);

impl Api {
    async fn refuses(&self, cases: impl IntoIterator<Item = Case>) {
        for (method, target, body, field, says) in cases {
            let reply = self.json(method, &target, &[], body).await;
            assert!(reply.status.is_client_error(), "{target}: {reply:?}");
            assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(reply.body["field"], field, "{target}: {reply:?}");
            assert!(
                reply.body["detail"].as_str().unwrap().contains(says),
                "{target}: {reply:?}"
            );
        }
    }
}

#[tokio::test]
async fn every_refused_input_names_the_bound() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    api.refuses([
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"value": "x", "ttl": u64::MAX}),
            "ttl",
            "1 to 315360000 seconds",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"value": 5}),
            "value",
            "expected text, or bytes as {\"base64\": TEXT}",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/a"),
            json!({"value": {"base65": "x"}}),
            "value",
            "expected `base64`",
        ),
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "b", "type": "micro", "count": -1}),
            "count",
            "1 to 100",
        ),
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "busybox", "type": "micro", "count": 10, "name": "n".repeat(126)}),
            "name",
            "1 to 125",
        ),
        (
            Method::POST,
            "/v1/instances".to_owned(),
            json!({"image": "busybox", "type": "micro", "zone": "y"}),
            "zone",
            "hosts are in: z",
        ),
        (
            Method::PUT,
            format!("/v1/instances/{id}/data/meta/host"),
            json!({"value": "mine"}),
            "path",
            "changed by the provider only",
        ),
    ])
    .await;
}

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
    api.refuses(cases).await;
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
    let roles: Vec<_> = (0..17).map(|n| format!("role-{n}")).collect();
    let run = json!({"image": "busybox", "type": "micro", "roles": roles});
    let refused = api.json(Method::POST, "/v1/instances", &[], run).await;
    assert_eq!(
        refused.body["detail"], "roles holds 17; it must hold 0 to 16",
        "{refused:?}"
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

#[tokio::test]
async fn what_is_too_large_says_what_and_how_much_is_not() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/a");
    let body = json!({"value": "x".repeat(8 * 1024 * 1024)});
    let endless = api.json(Method::PUT, &target, &[], body).await;
    assert_eq!(endless.body["field"], "body", "{endless:?}");
    assert!(
        endless.body["detail"].as_str().unwrap().contains("8388608"),
        "{endless:?}"
    );
    // What they change at once is within an instance's bounds, and not within a transaction's.
    let clause = |n| json!({"subject": format!("instance:i-{n:032x}"), "rights": ["read", "append"]});
    let access: Vec<_> = (0..64).map(clause).collect();
    let change = |n| json!({"path": format!("p/{n}"), "action": {"put": {"value": "x", "access": access}}});
    let batch = json!({"changes": (0..500).map(change).collect::<Vec<_>>()});
    let target = format!("/v1/instances/{id}/batch");
    let refused = api.json(Method::POST, &target, &[], batch).await;
    assert_eq!(
        (refused.body["type"].as_str(), refused.body["field"].as_str()),
        (Some("too-large"), Some("body")),
        "{refused:?}"
    );
    let said = refused.body["detail"].as_str().unwrap();
    assert!(said.contains("at most 4194304 fit"), "{said}");
}

#[tokio::test]
async fn a_revision_that_can_not_be_read_is_named_with_the_field_that_gave_it() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let head = api.get("/v1/hosts").await.body["revision"]
        .as_str()
        .unwrap()
        .to_owned();
    let (epoch, _) = head.split_once('.').unwrap();
    let (early, ahead) = (format!("{epoch}.1"), format!("{epoch}.999999999"));
    api.store.compact(api.store.head().await.unwrap()).await.unwrap();
    for (target, field, kind, revision) in [
        (
            format!("{id}/watch?wait_seconds=1&after={ahead}"),
            "after",
            "revision-ahead",
            &ahead,
        ),
        (
            format!("{id}/data?revision={ahead}"),
            "revision",
            "revision-ahead",
            &ahead,
        ),
        (
            format!("{id}/data?revision={early}"),
            "revision",
            "revision-compacted",
            &early,
        ),
        (
            format!("{id}/data?cursor={early}~a"),
            "cursor",
            "revision-compacted",
            &early,
        ),
    ] {
        let refused = api.get(&format!("/v1/instances/{target}")).await;
        assert_eq!(
            (refused.body["type"].as_str(), refused.body["field"].as_str()),
            (Some(kind), Some(field)),
            "{refused:?}"
        );
        let said = refused.body["detail"].as_str().unwrap();
        assert!(said.contains(revision.as_str()), "{said}");
    }
    let page = api.get(&format!("/v1/instances?cursor={early}~{id}")).await;
    assert_eq!(page.body["field"], "cursor", "{page:?}");
}

#[tokio::test]
async fn who_may_not_is_told_which_header_says_so() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    for target in ["/v1/instances", "/v1/operations"] {
        let host = api.by_host(api.host(), Method::GET, target, &[], Json::Null);
        let guest = api.as_guest(id, target).await;
        for (refused, field) in [(host.await, None), (guest, Some("moorline-instance"))] {
            assert_eq!(
                (refused.body["type"].as_str(), refused.body["field"].as_str()),
                (Some("access-denied"), field),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_read_says_which_state_it_read() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/a");
    let put = api.json(Method::PUT, &target, &[], json!({"value": "x"})).await;
    assert!(put.status.is_success(), "{put:?}");
    let gone = api.send(Method::DELETE, &target, &[], Body::empty()).await;
    let refused = api.get(&target).await;
    assert_eq!(refused.body["type"], "entry-not-found");
    assert_eq!(refused.body["revision"], gone.body["revision"]);
    assert_eq!(
        refused.headers["moorline-revision"],
        refused.body["revision"].as_str().unwrap()
    );
}

#[tokio::test]
async fn a_refused_change_says_when_that_was_recorded() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/a");
    let guard = [("if-match", "\"1.1\"")];
    let refused = api
        .json(Method::PUT, &target, &guard, json!({"value": "x"}))
        .await;
    assert_eq!(refused.body["type"], "guard-failed");
    let operation = refused.body["operation"].as_str().unwrap();
    let record = api.get(&format!("/v1/operations/{operation}")).await;
    assert_eq!(refused.body["revision"], record.body["revision"], "{record:?}");
}

#[tokio::test]
async fn what_no_state_decides_names_none() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let refused = api.get(&format!("/v1/instances/{id}/data?limit=0")).await;
    assert_eq!(refused.body["field"], "limit");
    assert_eq!(refused.body.get("revision"), None);
    assert!(!refused.headers.contains_key("moorline-revision"));
}
