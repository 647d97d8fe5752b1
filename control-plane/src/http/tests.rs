//! The API without a socket: requests in, responses out, on a real store.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::auth::Tokens;
use super::feed::Dispatcher;
use super::feed::views::Views;
use super::{Control, openapi, router};
use crate::model::Executor;
use crate::services::Services;
use crate::settings::{Refusals, Settings};
use crate::store::Store;

struct Api {
    router: axum::Router,
    token: String,
    dispatcher: Option<Dispatcher>,
    _folder: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Json,
}

impl Api {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let token_file = folder.path().join("admin.token");
        let tokens = Tokens::open(&token_file).unwrap();
        let access = settings.access;
        let (dispatcher, feed) = Dispatcher::new(&store, access).await.unwrap();
        let control = Control {
            executor: Arc::new(Executor::new(store.clone(), settings)),
            services: Arc::new(Services::default()),
            tokens: Arc::new(tokens),
            feed,
            views: Views::new(store, access),
            deployment: "test".into(),
            cancel: CancellationToken::new(),
        };
        let token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        Self {
            router: router(control),
            token,
            dispatcher: Some(dispatcher),
            _folder: folder,
        }
    }

    async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: Body) -> Reply {
        let mut request = Request::builder().method(method).uri(target);
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        }
    }

    async fn json(&self, method: Method, target: &str, headers: &[(&str, &str)], body: Json) -> Reply {
        self.send(method, target, headers, Body::from(body.to_string()))
            .await
    }

    async fn get(&self, target: &str) -> Reply {
        self.send(Method::GET, target, &[], Body::empty()).await
    }

    /// A host and instances on it.
    async fn with_instances(&self, count: u32) -> Vec<String> {
        let offer = json!({"zone": "z", "vcpus": 64, "memory_mib": 65536, "images": ["busybox"]});
        let host = self
            .json(Method::PUT, "/v1/hosts/h1", &[("moorline-host", "h1")], offer)
            .await;
        assert_eq!(host.status, StatusCode::OK, "{host:?}");
        let run = json!({"image": "busybox", "type": "micro", "count": count, "name": "web"});
        let made = self.json(Method::POST, "/v1/instances", &[], run).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let instances = made.body["instances"].as_array().unwrap();
        instances
            .iter()
            .map(|instance| instance["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// As a guest on host `h1`.
fn as_guest(id: &str) -> [(&str, &str); 2] {
    [("moorline-host", "h1"), ("moorline-instance", id)]
}

#[tokio::test]
async fn an_entry_is_put_read_guarded_and_removed() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/config/x");
    let put = api
        .json(
            Method::PUT,
            &target,
            &[("if-none-match", "*")],
            json!({"value": "one"}),
        )
        .await;
    assert_eq!(put.status, StatusCode::OK, "{put:?}");
    assert_eq!(
        put.headers["moorline-revision"],
        put.body["revision"].as_str().unwrap()
    );
    let got = api.get(&target).await;
    assert_eq!(
        (got.body["value"].as_str(), got.body["version"].as_u64()),
        (Some("one"), Some(1))
    );
    assert_eq!(
        got.headers[header::ETAG],
        format!("\"{}\"", put.body["revision"].as_str().unwrap())
    );
    let again = api
        .json(
            Method::PUT,
            &target,
            &[("if-none-match", "*")],
            json!({"value": "two"}),
        )
        .await;
    assert_eq!(
        (again.status, again.body["type"].as_str()),
        (StatusCode::PRECONDITION_FAILED, Some("guard-failed"))
    );
    let tag = got.headers[header::ETAG].to_str().unwrap();
    let bytes = json!({"value": {"base64": "/wA="}});
    assert_eq!(
        api.json(Method::PUT, &target, &[("if-match", tag)], bytes)
            .await
            .status,
        StatusCode::OK
    );
    let appended = api.json(Method::POST, &target, &[], json!({"value": "z"})).await;
    assert_eq!(appended.status, StatusCode::OK);
    assert_eq!(api.get(&target).await.body["value"]["base64"], "/wB6");
    assert_eq!(
        api.send(Method::DELETE, &target, &[], Body::empty()).await.status,
        StatusCode::OK
    );
    assert_eq!(api.get(&target).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_retry_changes_nothing_more_and_another_body_is_refused() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/log");
    api.json(Method::PUT, &target, &[], json!({"value": "a"})).await;
    let key = [("idempotency-key", "k-1")];
    let first = api.json(Method::POST, &target, &key, json!({"value": "b"})).await;
    let retry = api.json(Method::POST, &target, &key, json!({"value": "b"})).await;
    assert_eq!(first.body, retry.body);
    assert_eq!(api.get(&target).await.body["value"], "ab");
    let other = api.json(Method::POST, &target, &key, json!({"value": "c"})).await;
    assert_eq!(other.body["type"], "idempotency-key-reused");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let batch = |second: Json| json!({"changes": [{"path": "a", "action": {"put": {"value": "1"}}}, second]});
    let target = format!("/v1/instances/{id}/batch");
    let refused = api
        .json(
            Method::POST,
            &target,
            &[],
            batch(json!({"path": "b", "action": {"delete": {}}})),
        )
        .await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(
        api.get(&format!("/v1/instances/{id}/data/a")).await.status,
        StatusCode::NOT_FOUND
    );
    let twice = api
        .json(
            Method::POST,
            &target,
            &[],
            batch(json!({"path": "a", "action": {"delete": {}}})),
        )
        .await;
    assert_eq!(
        (twice.body["type"].as_str(), twice.body["field"].as_str()),
        (Some("invalid-batch"), Some("changes"))
    );
    let put = json!({"path": "b", "action": {"put": {"value": "2"}}});
    let done = api.json(Method::POST, &target, &[], batch(put)).await;
    let (a, b) = (
        api.get(&format!("/v1/instances/{id}/data/a")).await,
        api.get(&format!("/v1/instances/{id}/data/b")).await,
    );
    assert_eq!(
        (&a.body["revision"], &b.body["revision"]),
        (&done.body["revision"], &done.body["revision"])
    );
}

#[tokio::test]
async fn pages_show_one_state() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    for name in ["a", "b", "c", "d"] {
        api.json(
            Method::PUT,
            &format!("/v1/instances/{id}/data/p/{name}"),
            &[],
            json!({"value": name}),
        )
        .await;
    }
    let first = api
        .get(&format!("/v1/instances/{id}/data?prefix=p&limit=2"))
        .await;
    api.json(
        Method::PUT,
        &format!("/v1/instances/{id}/data/p/bb"),
        &[],
        json!({"value": "late"}),
    )
    .await;
    let cursor = first.body["next"].as_str().unwrap();
    let second = api
        .get(&format!(
            "/v1/instances/{id}/data?prefix=p&limit=2&values=true&cursor={cursor}"
        ))
        .await;
    let paths: Vec<_> = second.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        (paths, &second.body["revision"]),
        (vec!["p/c", "p/d"], &first.body["revision"])
    );
    assert_eq!(second.body["entries"][0]["value"], "c");
    assert!(second.body["next"].is_null());
}

#[tokio::test]
async fn who_reads_what_is_decided_by_the_access_list_and_not_by_whose_it_is() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    let target = format!("/v1/instances/{b}/data/shared");
    api.json(Method::PUT, &target, &[], json!({"value": "for whom?"}))
        .await;
    let read = async |who: &str| {
        api.send(Method::GET, &target, &as_guest(who), Body::empty())
            .await
            .status
    };
    assert_eq!(
        (read(b).await, read(a).await),
        (StatusCode::OK, StatusCode::NOT_FOUND)
    );
    let clauses = json!({"access": [{"subject": format!("instance:{a}"), "rights": ["read", "append"]}]});
    let access = format!("/v1/instances/{b}/access/shared");
    assert_eq!(
        api.json(Method::PUT, &access, &[], clauses).await.status,
        StatusCode::OK
    );
    assert_eq!(
        (read(b).await, read(a).await),
        (StatusCode::NOT_FOUND, StatusCode::OK),
        "withheld from its own instance"
    );
    let put = api
        .json(Method::PUT, &target, &as_guest(a), json!({"value": "mine"}))
        .await;
    assert_eq!(
        (put.status, put.body["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("access-denied"))
    );
    assert!(put.body["detail"].as_str().unwrap().contains("update"), "{put:?}");
    let append = api
        .json(Method::POST, &target, &as_guest(a), json!({"value": "!"}))
        .await;
    assert_eq!(append.status, StatusCode::OK);
    let by_host = api
        .send(
            Method::GET,
            &target,
            &[("moorline-host", "h2"), ("moorline-instance", a)],
            Body::empty(),
        )
        .await;
    assert_eq!(by_host.body["type"], "not-on-host");
}

#[tokio::test]
async fn a_listing_never_names_what_a_read_denies() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    for name in ["open", "closed"] {
        api.json(
            Method::PUT,
            &format!("/v1/instances/{b}/data/{name}"),
            &[],
            json!({"value": "x", "visibility": "public"}),
        )
        .await;
    }
    let clauses = json!({"access": [{"subject": "account", "rights": ["read"]}]});
    api.json(
        Method::PUT,
        &format!("/v1/instances/{b}/access/open"),
        &[],
        clauses,
    )
    .await;
    let listed = api
        .send(
            Method::GET,
            &format!("/v1/instances/{b}/data"),
            &as_guest(a),
            Body::empty(),
        )
        .await;
    let paths: Vec<_> = listed.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["open"]);
    let described = api
        .send(
            Method::GET,
            &format!("/v1/instances/{b}/describe"),
            &as_guest(a),
            Body::empty(),
        )
        .await;
    let named = described.body["entries"].as_array().unwrap();
    let closed = named
        .iter()
        .find(|entry| entry["path"] == "closed")
        .expect("public entries are named");
    assert_eq!(closed["readable"], false);
}

#[tokio::test]
async fn how_much_a_refusal_says_is_the_deployments_choice_and_the_record_says_all() {
    for (refusals, kind) in [
        (Refusals::Generic, "access-denied"),
        (Refusals::Silent, "entry-not-found"),
    ] {
        let api = Api::with(Settings {
            refusals,
            ..Settings::default()
        })
        .await;
        let id = api.with_instances(1).await.remove(0);
        let target = format!("/v1/instances/{id}/data/meta/vcpus");
        let refused = api
            .json(Method::PUT, &target, &as_guest(&id), json!({"value": "64"}))
            .await;
        assert_eq!(refused.body["type"], kind);
        assert!(
            !refused.body["detail"].as_str().unwrap().contains("right to"),
            "{refused:?}"
        );
        let operation = refused.body["operation"].as_str().unwrap();
        let record = api.get(&format!("/v1/operations/{operation}")).await;
        assert_eq!(record.body["outcome"], "refused");
        assert!(
            record.body["problem"]["detail"]
                .as_str()
                .unwrap()
                .contains("right to update"),
            "{record:?}"
        );
    }
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
async fn nobody_comes_in_without_the_token() {
    let mut api = Api::new().await;
    api.token = "moor-admin-guess".into();
    let reply = api.get("/v1/instances").await;
    assert_eq!(
        (reply.status, reply.body["type"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("unauthenticated"))
    );
    assert_eq!(api.get("/v1/openapi.json").await.status, StatusCode::OK);
    assert!(api.dispatcher.is_some());
}

#[tokio::test]
async fn history_tells_who_changed_what_from_what_to_what() {
    let api = Api::new().await;
    let id = &api.with_instances(1).await[0];
    let target = format!("/v1/instances/{id}/data/h");
    let long = "long".repeat(1_000);
    for value in ["one", &long] {
        api.json(Method::PUT, &target, &[], json!({"value": value})).await;
    }
    api.send(Method::DELETE, &target, &[], Body::empty()).await;
    api.json(Method::PUT, &target, &[], json!({"value": "again"}))
        .await;
    let history = api.get(&format!("/v1/instances/{id}/history/h?limit=3")).await;
    let changes = history.body["changes"].as_array().unwrap();
    let seen: Vec<_> = changes
        .iter()
        .map(|c| (c["from"].as_str(), c["to"].as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (None, Some("again")),
            (Some(&*long), None),
            (Some("one"), Some(&*long))
        ]
    );
    let cursor = history.body["next"].as_str().unwrap();
    let older = api
        .get(&format!("/v1/instances/{id}/history/h?cursor={cursor}"))
        .await;
    assert_eq!(older.body["changes"][0]["to"], "one");
    assert_eq!(older.body["changes"][0]["principal"], "user:admin");
}

/// The document that is checked in is the one that is served; `--example openapi` writes it anew.
#[test]
fn the_openapi_document_is_the_one_that_is_checked_in() {
    let kept = include_str!("../../openapi.json");
    assert!(
        kept == openapi::document(),
        "run: cargo run -p moorline-control --example openapi > control-plane/openapi.json"
    );
}

/// Every operation of the document is served, with no other method beside those of the document.
#[tokio::test]
async fn the_server_serves_what_the_document_says_and_nothing_else() {
    let mut api = Api::new().await;
    api.token = "nobody".into();
    let document: Json = serde_json::from_str(&openapi::document()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let target = path
            .replace("{instance}", "i-00000000000000000000000000000000")
            .replace("{reader}", "i-00000000000000000000000000000000")
            .replace("{path}", "a")
            .replace("{host}", "h1")
            .replace("{operation}", "op-0");
        for method in [
            Method::GET,
            Method::PUT,
            Method::POST,
            Method::DELETE,
            Method::PATCH,
        ] {
            let documented = item.get(method.as_str().to_lowercase()).is_some();
            let reply = api.send(method.clone(), &target, &[], Body::empty()).await;
            let expected = if documented {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::METHOD_NOT_ALLOWED
            };
            assert_eq!(reply.status, expected, "{method} {path}");
        }
        ids.extend(
            item.as_object()
                .unwrap()
                .values()
                .filter_map(|op| op["operationId"].as_str().map(str::to_owned)),
        );
    }
    assert_eq!(ids.len(), 26, "{ids:?}");
}
