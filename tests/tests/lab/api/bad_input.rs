//! Bad input by plain HTTP: every refusal names the field and the bound, and changes nothing.

use crate::alone::Alone;
use anyhow::{Context, Result, ensure};
use moorline_shared::InstanceId;
use moorline_shared::api::ProblemDetails;
use moorline_shared::api::data::ListQuery;
use moorline_shared::entry::MAX_ENTRIES;
use reqwest::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value as Json, json};

/// The API without anything that a client mends.
struct Wire {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// A request, and what is wrong with it.
struct Case {
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    status: u16,
    field: Option<String>,
    bound: &'static str,
}

/// HTTP to a server that the control plane's own authority vouches for.
fn http(alone: &Alone) -> Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(alone.control.ca_file())?)?;
    let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .build()?)
}

impl Wire {
    fn of(alone: &Alone) -> Result<Self> {
        Ok(Self {
            http: http(alone)?,
            url: alone.control.url().to_owned(),
            token: std::fs::read_to_string(alone.control.token_file())?
                .trim()
                .to_owned(),
        })
    }

    /// Sends it, and answers with the problem that must come back.
    async fn refusal(&self, case: &Case) -> Result<ProblemDetails> {
        let url = format!("{}{}", self.url, case.target);
        let mut request = self
            .http
            .request(case.method.clone(), url)
            .bearer_auth(&self.token);
        for (name, value) in &case.headers {
            request = request.header(*name, value);
        }
        let response = request.body(case.body.clone()).send().await?;
        let status = response.status();
        let kind = response.headers().get("content-type").cloned();
        let text = response.text().await?;
        let is_problem = kind.is_some_and(|kind| kind == "application/problem+json");
        ensure!(is_problem, "{status} came without problem details: {text}");
        let problem: ProblemDetails = serde_json::from_str(&text)?;
        ensure!(problem.status == status.as_u16(), "{status}: {problem:?}");
        Ok(problem)
    }

    async fn check(&self, cases: &[Case]) -> Result<()> {
        for case in cases {
            let shown = || format!("{} {} {:.120}", case.method, case.target, case.body);
            let problem = self.refusal(case).await.with_context(shown)?;
            ensure!(problem.status == case.status, "{}: {problem:?}", shown());
            ensure!(
                problem.field.as_deref() == case.field.as_deref(),
                "{}: {problem:?}",
                shown()
            );
            ensure!(problem.detail.contains(case.bound), "{}: {problem:?}", shown());
            ensure!(
                problem.detail.len() < 1_000,
                "{}: it says {} bytes",
                shown(),
                problem.detail.len()
            );
        }
        Ok(())
    }
}

fn case(method: Method, target: impl Into<String>, body: &Json) -> Case {
    Case {
        method,
        target: target.into(),
        headers: vec![("content-type", "application/json".to_owned())],
        body: if body.is_null() {
            String::new()
        } else {
            body.to_string()
        },
        status: 400,
        field: None,
        bound: "",
    }
}

impl Case {
    fn refused(self, status: u16, field: impl Into<String>, bound: &'static str) -> Self {
        Self {
            status,
            field: Some(field.into()),
            bound,
            ..self
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn entry(id: InstanceId, path: &str) -> String {
    format!("/v1/instances/{id}/data/{path}")
}

#[tokio::test]
async fn an_entry_that_cannot_be_names_its_field_and_bound() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    alone.put(id, "here", "1").await?;
    let put = |path: &str, body: Json| case(Method::PUT, entry(id, path), &body);
    let value = json!({"value": "x"});
    let long_segment = "s".repeat(300);
    let long_path = vec!["segment"; 200].join("/");
    let clause = json!({"subject": "owner", "rights": ["read"]});
    Wire::of(&alone)?
        .check(&[
            put("a", json!({"value": "x".repeat(262_145)})).refused(413, "value", "262144"),
            put("a", json!({"value": {"base64": "no base64!"}})).refused(422, "value", "base64"),
            put("a", json!({})).refused(422, "body", "value"),
            put("a", json!({"value": "x", "tll": 5})).refused(422, "tll", "ttl"),
            put("a", json!({"value": "x", "ttl": 0})).refused(422, "ttl", "1 to 315360000"),
            put("a", json!({"value": "x", "ttl": u64::MAX})).refused(422, "ttl", "1 to 315360000"),
            put("a", json!({"value": 5})).refused(422, "value", "base64"),
            put("a", json!({"value": "x", "visibility": "hidden"})).refused(422, "visibility", "public"),
            put("a", json!({"value": "x", "content_type": "text/pl\u{e4}in\n"})).refused(
                422,
                "content_type",
                "character",
            ),
            put("a", json!({"value": "x", "access": vec![clause; 65]})).refused(422, "access", "64"),
            put(
                "a",
                json!({"value": "x", "access": [{"subject": "anybody", "rights": []}]}),
            )
            .refused(422, "access[0].subject", "owner"),
            put(
                "a",
                json!({"value": "x", "access": [{"subject": "owner", "rights": ["see"]}]}),
            )
            .refused(422, "access[0].rights[0]", "read"),
            put("meta/mine", value.clone()).refused(403, "path", "meta"),
            put("a//b", value.clone()).refused(422, "path", "segment"),
            put("a/%2e%2e%2fb", value.clone()).refused(422, "path", "segment"),
            put("a%00", value.clone()).refused(422, "path", "allowed are"),
            put("a%E2%80%AEb", value.clone()).refused(422, "path", "allowed are"),
            put(&long_segment, value.clone()).refused(422, "path", "bytes"),
            put(&long_path, value.clone()).refused(422, "path", "bytes"),
            put("here", value.clone()).with("if-none-match", "*").refused(
                412,
                "if-none-match",
                "must not exist",
            ),
            put("here", value.clone())
                .with("if-match", "\"1.1\"")
                .refused(412, "if-match", "must be at 1.1"),
            put("here", value.clone())
                .with("if-match", "1.1")
                .refused(400, "if-match", "EPOCH.N"),
            put("here", value.clone())
                .with("if-none-match", "\"1.1\"")
                .refused(400, "if-none-match", "If-Match"),
            put("here", value.clone())
                .with("idempotency-key", "k".repeat(129))
                .refused(400, "idempotency-key", "128"),
            put("here", value)
                .with("idempotency-key", "a key")
                .refused(400, "idempotency-key", "spaces"),
            case(Method::PUT, "/v1/instances/i-1/data/a", &json!({"value": "x"}))
                .refused(422, "instance", "i-"),
        ])
        .await?;
    let here = alone
        .client()
        .get_instance_data(id, &crate::alone::path("here"))
        .await?;
    ensure!(here.version == 1, "a refused change was made");
    Ok(())
}

#[tokio::test]
async fn an_instance_holds_so_much_and_no_more() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let (many, large) = (
        alone.instance("h", "many").await?,
        alone.instance("h", "large").await?,
    );
    let batch = |count: usize| {
        let put = |n| json!({"path": format!("p/{n}"), "action": {"put": {"value": "1"}}});
        json!({"changes": (0..count).map(put).collect::<Vec<_>>()})
    };
    let to = |id: InstanceId| format!("/v1/instances/{id}/batch");
    let wire = Wire::of(&alone)?;
    let quarter = "x".repeat(262_144);
    for path in ["a", "b", "c"] {
        alone.put(large, path, &quarter).await?;
    }
    // The provider's own entries count too.
    let provided = alone
        .client()
        .list_instance_data(many, &ListQuery::default())
        .await?;
    let first_over = format!("changes[{}].path", MAX_ENTRIES - provided.entries.len());
    wire.check(&[
        case(Method::POST, to(many), &batch(0)).refused(422, "changes", "1"),
        case(Method::POST, to(many), &batch(1_025)).refused(422, "changes", "1024"),
        case(Method::POST, to(many), &batch(1_024)).refused(409, first_over, "1024"),
        case(Method::PUT, entry(large, "d"), &json!({"value": quarter})).refused(409, "value", "1048576"),
    ])
    .await?;
    let page = alone
        .client()
        .list_instance_data(
            many,
            &ListQuery {
                prefix: "p".parse()?,
                ..Default::default()
            },
        )
        .await?;
    ensure!(page.entries.is_empty(), "a part of a refused batch was made");
    Ok(())
}

#[tokio::test]
async fn a_request_that_cannot_be_names_its_field_and_bound() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let run = |change: Json| {
        let mut body = json!({"image": "busybox", "type": "micro", "count": 1});
        for (key, value) in change.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        case(Method::POST, "/v1/instances", &body)
    };
    let get = |target: String| case(Method::GET, target, &Json::Null);
    let ids = |count: usize| {
        let ids: Vec<_> = (0..count).map(|n| format!("i-{n:032x}")).collect();
        case(Method::POST, "/v1/instances/stop", &json!({"instances": ids}))
    };
    let tags: Vec<_> = (0..51).map(|n| format!("k{n}=v")).collect();
    Wire::of(&alone)?
        .check(&[
            run(json!({"count": 0})).refused(422, "count", "100"),
            run(json!({"count": 101})).refused(422, "count", "100"),
            run(json!({"tags": tags})).refused(422, "tags", "50"),
            run(json!({"tags": ["no tag"]})).refused(422, "tags[0]", "KEY=VALUE"),
            run(json!({"type": "enormous"})).refused(422, "type", "micro"),
            run(json!({"image": "unheard-of"})).refused(422, "image", "unheard-of"),
            run(json!({"host": "unheard-of"})).refused(422, "host", "unheard-of"),
            run(json!({"name": "n".repeat(300)})).refused(422, "name", "1 to 128"),
            run(json!({"count": -1})).refused(422, "count", "1 to 100"),
            run(json!({"imge": "x"})).refused(422, "imge", "image"),
            ids(0).refused(422, "instances", "100"),
            ids(101).refused(422, "instances", "100"),
            get(format!("/v1/instances/{id}/data?limit=0")).refused(422, "limit", "1000"),
            get(format!("/v1/instances/{id}/data?limit=1001")).refused(422, "limit", "1000"),
            get(format!("/v1/instances/{id}/data?limt=5")).refused(422, "limt", "limit"),
            get(format!("/v1/instances/{id}/data?cursor=x")).refused(422, "cursor", "cursor"),
            get(format!("/v1/instances/{id}/data?prefix=a//b")).refused(422, "prefix", "segment"),
            get(format!("/v1/instances/{id}/watch?wait_seconds=0")).refused(422, "wait_seconds", "300"),
            get(format!("/v1/instances/{id}/watch?wait_seconds=301")).refused(422, "wait_seconds", "300"),
            get(format!("/v1/instances/{id}/watch?after=yesterday")).refused(422, "after", "EPOCH.N"),
            get("/v1/operations?limit=1001".into()).refused(422, "limit", "1000"),
        ])
        .await
}

#[tokio::test]
async fn who_is_nobody_is_asked_who_they_are_and_what_is_no_request_is_told_so() -> Result<()> {
    let alone = Alone::start().await?;
    let wire = Wire::of(&alone)?;
    let stranger = Wire {
        token: "moor-admin-0000000000000000000000000000000000000000000000".into(),
        ..Wire::of(&alone)?
    };
    let get = |target: &str| case(Method::GET, target, &Json::Null);
    let status = |status: StatusCode, case: Case| Case {
        status: status.as_u16(),
        ..case
    };
    stranger
        .check(&[status(StatusCode::UNAUTHORIZED, get("/v1/hosts"))])
        .await?;
    let mut torn = case(Method::POST, "/v1/instances", &Json::Null);
    torn.body = r#"{"image": "#.into();
    let mut endless = case(Method::POST, "/v1/instances", &Json::Null);
    endless.body = format!("\"{}\"", "x".repeat(8 * 1024 * 1024));
    wire.check(&[
        status(StatusCode::NOT_FOUND, get("/v2/hosts")),
        status(
            StatusCode::METHOD_NOT_ALLOWED,
            case(Method::DELETE, "/v1/hosts", &Json::Null),
        ),
        torn.refused(422, "image", "EOF"),
        Case {
            bound: "8388608",
            field: Some("body".into()),
            ..status(StatusCode::PAYLOAD_TOO_LARGE, endless)
        },
        get("/v1/hosts")
            .with("moorline-instance", "i-1")
            .refused(400, "moorline-instance", "only a host"),
        case(Method::POST, "/v1/hosts/h/feed", &json!({})).refused_without_field(403),
    ])
    .await
}

impl Case {
    fn refused_without_field(self, status: u16) -> Self {
        Self { status, ..self }
    }
}
