//! Requests with one answer.

use bytes::Bytes;
use moorline_client::{
    BaseUrl, Client, ClientError, Endpoint, GuestRequest, MAX_REPLY_BYTES, Terms, fresh_key,
};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::InstanceIds;
use moorline_shared::entry::Value;
use moorline_shared::{InstanceId, Revision};

use crate::server::{client, header, json, script};

const ID: InstanceId = InstanceId::from_bytes([7; 16]);
const JSON: &str = "application/json";
const CHANGED: &str = r#"{"revision": "1.42", "operation": "op-0000000000000000000000000000000000000000000000000000000000000000"}"#;
const PROBLEM: &str = r#"{"type": "guard-failed", "title": "The entry has changed", "status": 412,
    "detail": "it is at 1.9: read it again", "field": "if-match"}"#;

#[tokio::test]
async fn a_change_goes_out_with_its_key_its_guard_and_the_token() {
    let (server, mut requests) = script(&[&json("200 OK", JSON, CHANGED)]).await;
    let terms = Terms::keyed("k1".parse().unwrap()).if_revision(Revision::new(1, 9));
    let path = "net/a:b@c+d=e".parse().unwrap();
    let body = PutEntry::value(Value::from("on"));
    let changed = client(server.address)
        .put_instance_data(ID, &path, &body, &terms)
        .await
        .unwrap();
    assert_eq!(changed.revision, Revision::new(1, 42));

    let request = requests.recv().await.unwrap();
    let line = format!("PUT /v1/instances/{ID}/data/net/a:b@c+d=e HTTP/1.1");
    assert_eq!(request.lines().next().unwrap(), line);
    assert_eq!(header(&request, "idempotency-key"), Some("k1"));
    assert_eq!(header(&request, "if-match"), Some("\"1.9\""));
    assert_eq!(header(&request, "authorization"), Some("Bearer hunter2"));
    assert_eq!(header(&request, "moorline-instance"), None);
    assert!(request.ends_with(r#"{"value":"on"}"#), "{request}");
}

#[tokio::test]
async fn a_problem_arrives_as_it_was_stated() {
    let answer = json("412 Precondition Failed", "application/problem+json", PROBLEM);
    let (server, _requests) = script(&[&answer]).await;
    let body = InstanceIds { instances: vec![ID] };
    let error = client(server.address)
        .stop_instances(&body, &fresh_key())
        .await
        .unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.kind.as_ref(), problem.status), ("guard-failed", 412));
    assert!(!error.may_have_happened());
    insta::assert_snapshot!(error, @"The entry has changed: it is at 1.9: read it again (field if-match)");
}

#[tokio::test]
async fn what_no_control_plane_says_is_a_protocol_error() {
    let answers = [
        json("502 Bad Gateway", "text/html", "<h1>proxy</h1>"),
        json("404 Not Found", "application/problem+json", "{}"),
        json("200 OK", JSON, r#"{"hosts": 7}"#),
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ];
    let answers: Vec<_> = answers.iter().map(String::as_str).collect();
    let (server, _requests) = script(&answers).await;
    for answer in answers {
        let error = client(server.address).describe_hosts().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Protocol { .. }),
            "{error:?} for {answer:.40}"
        );
    }
}

/// What a guest is given is far less than what the host itself takes.
#[tokio::test]
async fn an_answer_is_read_as_far_as_its_bound() {
    let body = |bytes: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(bytes));
    let (whole, long) = (body(4 << 20), body((4 << 20) + 1));
    let longest = body(MAX_REPLY_BYTES + 1);
    let (server, _requests) = script(&[&whole, &long, &longest]).await;
    let host = client(server.address);
    let target = format!("/v1/instances/{ID}/data");
    let request = GuestRequest::new("GET", &target, &[]).unwrap();
    let relayed = host.relay(ID, &request, Bytes::new()).await.unwrap();
    assert_eq!(relayed.body.len(), 4 << 20);
    let bound = |error| match error {
        ClientError::TooLong { most, .. } => most,
        other => panic!("{other:?}"),
    };
    let relayed = host.relay(ID, &request, Bytes::new()).await.unwrap_err();
    assert!(!relayed.may_have_happened());
    assert_eq!(bound(relayed), 4 << 20);
    assert_eq!(bound(host.describe_hosts().await.unwrap_err()), MAX_REPLY_BYTES);
}

#[tokio::test]
async fn a_guests_request_is_relayed_byte_for_byte_and_so_is_its_answer() {
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\nmoorline-revision: 1.7\r\n\
                  x-inner: secret\r\ncontent-length: 2\r\n\r\n{}";
    let (server, mut requests) = script(&[answer]).await;
    let endpoint = Endpoint::new(base(&server), "hunter2".parse().unwrap());
    let host = Client::new(endpoint).unwrap();
    let target = format!("/v1/instances/{ID}/data/a?x=%41&y='~");
    let headers = [("Content-Type".to_owned(), "application/json ;odd".to_owned())];
    // The apostrophe is one of those bytes that a URL's parser escapes in a query.
    let mended = GuestRequest::new("POST", &target, &headers).unwrap();
    let error = host.relay(ID, &mended, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Request { .. }), "{error:?}");

    let target = target.replace('\'', "");
    let request = GuestRequest::new("POST", &target, &headers).unwrap();
    let reply = host
        .relay(ID, &request, Bytes::from_static(b"{ \"value\":1}"))
        .await
        .unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.lines().next().unwrap(), format!("POST {target} HTTP/1.1"));
    assert_eq!(header(&request, "content-type"), Some("application/json ;odd"));
    assert_eq!(
        header(&request, "moorline-instance"),
        Some(ID.to_string().as_str())
    );
    assert!(request.ends_with("\r\n\r\n{ \"value\":1}"), "{request}");
    assert_eq!((reply.status, &reply.body[..]), (404, &b"{}"[..]));
    let names: Vec<_> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-type", "moorline-revision"]);
}

fn base(server: &crate::server::Server) -> BaseUrl {
    format!("http://{}", server.address).parse().unwrap()
}
