//! Changes, through the host to the control plane.

use super::*;
use moorline_shared::OperationId;
use moorline_shared::id::Principal;

#[test]
fn changes_go_to_the_control_plane_and_back_into_the_mirror() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let mut put = request("PUT", "/v1/data/a?ttl=60&visibility=public", "written");
        put.headers_mut()
            .insert("content-type", "text/x-mine".parse().unwrap());
        put.headers_mut().insert("if-match", "\"1.2\"".parse().unwrap());
        put.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        put.headers_mut()
            .insert("cookie", "none of theirs".parse().unwrap());
        let answer = client.ask(put).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("moorline-operation")),
            (
                200,
                &*OperationId::derive(&Principal::Instance(OWN), &"k1".parse().unwrap()).to_string()
            )
        );
        assert_eq!(answer.header("x-inner"), "");
        assert_eq!(
            &client.ask(request("GET", "/v1/data/a", "")).await.body[..],
            b"written"
        );

        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(
            (relay.method.as_str(), relay.target),
            ("PUT", format!("/v1/instances/{OWN}/data/a"))
        );
        let headers: Vec<_> = relay
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            headers,
            [
                ("if-match", "\"1.2\""),
                ("idempotency-key", "k1"),
                ("content-type", "application/json")
            ]
        );
        let body: serde_json::Value = serde_json::from_slice(relay.body.bytes()).unwrap();
        let expected = serde_json::json!({
            "value": "written", "content_type": "text/x-mine", "visibility": "public", "ttl": 60
        });
        assert_eq!(body, expected);

        let refused = client
            .ask(request(
                "DELETE",
                &format!("/v1/instances/{OTHER}/data/open/x"),
                "",
            ))
            .await;
        assert_eq!(refused.status, 403);
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!((relay.method.as_str(), relay.body.len()), ("DELETE", 0));
        client.ask(request("POST", "/v1/data/log", "line\n")).await;
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(
            (relay.method.as_str(), relay.body.text()),
            ("POST", Some("{\"value\":\"line\\n\"}"))
        );
    });
}

#[test]
fn values_that_text_would_blow_up_go_in_base64() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        client
            .ask(request("PUT", "/v1/data/ctl", vec![1_u8; 256 * 1024]))
            .await;
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert!(relay.body.text().unwrap().contains("base64"));
        let too_large = client
            .ask(request("PUT", "/v1/data/ctl", vec![b'x'; 256 * 1024 + 1]))
            .await;
        assert_eq!(too_large.problem(), (413, "too-large".into()));
    });
}

#[test]
fn what_curl_says_of_any_bytes_is_no_content_type() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let mut put = request("PUT", "/v1/data/a", "x");
        let form = "application/x-www-form-urlencoded".parse().unwrap();
        put.headers_mut().insert("content-type", form);
        assert_eq!(client.ask(put).await.status, 200);
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(relay.body.text(), Some("{\"value\":\"x\"}"));
        let mut put = request("PUT", "/v1/data/a", "x");
        put.headers_mut().insert("content-type", "text".parse().unwrap());
        assert_eq!(client.ask(put).await.problem(), (400, "invalid-request".into()));
    });
}

#[test]
fn a_header_on_which_it_depends_is_never_left_out() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        for name in ["if-match", "if-none-match", "idempotency-key"] {
            let mut odd = request("PUT", "/v1/data/a", "x");
            let value = http::HeaderValue::from_bytes(b"\"1.2\xe9\"").unwrap();
            odd.headers_mut().insert(name, value);
            let mut twice = request("PUT", "/v1/data/a", "x");
            for value in ["\"1.2\"", "\"1.3\""] {
                twice.headers_mut().append(name, value.parse().unwrap());
            }
            for put in [odd, twice] {
                let answer = client.ask(put).await;
                assert_eq!(answer.problem(), (400, "invalid-request".into()));
                assert_eq!(answer.json::<ProblemDetails>().field.unwrap(), name);
            }
        }
        let mut long = request("PUT", "/v1/data/a", "x");
        long.headers_mut()
            .insert("idempotency-key", "k".repeat(129).parse().unwrap());
        assert_eq!(client.ask(long).await.problem(), (400, "invalid-request".into()));
        assert_eq!(rig.host.with(|state| state.relays.len()), 0);
    });
}

#[test]
fn programs_of_other_users_may_read_and_not_change() {
    run(async {
        let own = settings();
        let writer = own.writer + 1;
        let rig = Rig::linked_with(Settings { writer, ..own }).await;
        let mut client = Client::connect(&rig).await;
        for method in ["PUT", "POST", "DELETE"] {
            let answer = client.ask(request(method, "/v1/data/a", "x")).await;
            assert_eq!(answer.problem(), (403, "writer-only".to_owned()));
            let detail = answer.json::<ProblemDetails>().detail;
            assert!(
                detail.contains(&format!("only programs of user {writer} ")),
                "{detail}"
            );
        }
        assert_eq!(client.ask(request("GET", "/v1/data/a", "")).await.body, "one");
        assert_eq!(rig.host.with(|state| state.relays.len()), 0);
    });
}
