//! What is counted of requests, and the list of all metrics.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use moorline_daemon::metrics::{Port, documented, names};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Api;
use crate::metrics::Reason;
use crate::metrics::scrape::Sources;

const DOCUMENT: &str = include_str!("../../../../packaging/METRICS.md");

impl Api {
    fn sources(&self) -> Sources {
        Sources {
            requests: self.control.requests.clone(),
            store: self.store.clone(),
            feed: self.control.feed.clone(),
        }
    }

    async fn scrape(&self) -> String {
        self.sources().text().await
    }
}

fn line<'t>(text: &'t str, begins: &str) -> Option<&'t str> {
    text.lines().find(|line| line.starts_with(begins))
}

#[tokio::test]
async fn every_metric_is_in_the_list_and_every_one_of_the_list_is_there() {
    let api = Api::new().await;
    let there = names(&api.scrape().await);
    let listed: BTreeSet<_> = documented(DOCUMENT, "moorline-control");
    assert_eq!(there, listed);
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_outcome() {
    let api = Api::new().await;
    let ids = api.with_instances(1).await;
    let target = format!("/v1/instances/{}/data/app/deep/name", ids[0]);
    let put = api.json(Method::PUT, &target, &[], json!({"value": "x"})).await;
    assert_eq!(put.status, StatusCode::OK);
    api.get(&target).await;
    api.get("/v1/nothing").await;
    let denied = api
        .send(
            Method::GET,
            &target,
            &[("authorization", "Bearer no")],
            axum::body::Body::empty(),
        )
        .await;
    assert_eq!(denied.status, StatusCode::UNAUTHORIZED);
    let text = api.scrape().await;
    for wanted in [
        r#"moorline_control_requests_total{operation="PutInstanceData",status="200"} 1"#,
        r#"moorline_control_requests_total{operation="GetInstanceData",status="200"} 1"#,
        r#"moorline_control_requests_total{operation="GetInstanceData",status="401"} 1"#,
        r#"moorline_control_requests_total{operation="none",status="404"} 1"#,
        r#"moorline_control_requests_refused_total{reason="admission"} 1"#,
        r#"moorline_control_requests_refused_total{reason="request"} 1"#,
        r#"moorline_control_request_seconds_count{operation="GetInstanceData"} 2"#,
        "moorline_control_requests_under_way 0",
        "moorline_control_store_writable 1",
    ] {
        assert!(line(&text, wanted).is_some(), "no {wanted} in:\n{text}");
    }
    for id in ids {
        assert!(!text.contains(&id), "a metric has a tenant's name in it");
    }
    let head = api.store.head().await.unwrap();
    let written = format!(r#"moorline_control_store_transactions_total{{outcome="written"}} {head}"#);
    assert!(line(&text, &written).is_some(), "no {written} in:\n{text}");
}

#[tokio::test]
async fn a_port_of_its_own_is_scraped_and_nothing_else_is_there() {
    let api = Api::new().await;
    let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, cancel) = (port.address().unwrap(), CancellationToken::new());
    let asks = async {
        let mut answers = Vec::new();
        for path in ["/metrics", "/v1/instances"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: local\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answers.push(answer);
        }
        cancel.cancel();
        answers
    };
    let sources = api.sources();
    let serving = port.serve(move || sources.answer(), cancel.clone());
    let ((), answers) = tokio::join!(serving, asks);
    assert!(answers[0].starts_with("HTTP/1.1 200") && answers[0].ends_with("# EOF\n"));
    assert!(answers[1].starts_with("HTTP/1.1 404"), "{}", answers[1]);
    assert_eq!(
        api.get("/metrics").await.status,
        StatusCode::NOT_FOUND,
        "the API shows metrics"
    );
}

#[test]
fn refusals_have_the_reason_that_helps() {
    for (kind, status, reason) in [
        ("too-many-entries", 409, Reason::Quota),
        ("too-many-attempts", 429, Reason::Budget),
        ("guard-failed", 412, Reason::State),
        ("access-denied", 403, Reason::Access),
        ("unavailable", 503, Reason::Unavailable),
        ("internal", 500, Reason::Internal),
        ("invalid-request", 422, Reason::Request),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(Reason::of(kind, status), reason, "{kind}");
    }
}
