//! What goes up the link when something is changed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use moorline_shared::Timestamp;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::entry::Value;
use moorline_shared::link::body::{self, Relay};
use moorline_shared::signature::{self, Input, Request, SIGNATURE, SIGNATURE_INPUT, TOKEN, covered};
use ring::hmac;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::proof::ProveError;
use crate::test_host::{Give, HostState, OWN, Order, Rig, run};

const KEY: [u8; 32] = [9; 32];

fn session(name: &str) -> Order {
    Order::Give(Box::new(Give::Session(body::Session {
        session: name.to_owned(),
        token: format!("mli_{name}").into(),
        token_id: format!("t-{name}"),
        key: KEY.into(),
        expires_in_ms: 600_000,
    })))
}

fn put(value: &str) -> Relay {
    let body = serde_json::json!({ "value": value }).to_string();
    Relay {
        method: "PUT".to_owned(),
        target: format!("/v1/instances/{OWN}/data/a"),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        length: 0,
        body: Value::from(Bytes::from(body)),
    }
}

fn field<'a>(relay: &'a Relay, name: &str) -> &'a str {
    let found = relay.headers.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value)
}

/// What was signed, and the signature.
fn taken_apart(relay: &Relay) -> (Input, String, Vec<u8>) {
    let fields: Vec<_> = relay
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let request = Request {
        method: &relay.method,
        authority: "test",
        target: &relay.target,
        fields: &fields,
    };
    let input = Input::read_all(field(relay, SIGNATURE_INPUT))
        .unwrap()
        .remove(0)
        .1;
    assert_eq!(input.components(), covered(&request));
    let base = request.base(&input).unwrap();
    let signature = signature::signatures(field(relay, SIGNATURE))
        .unwrap()
        .remove(0)
        .1;
    (input, base, signature)
}

fn is_shared(relay: &Relay) -> bool {
    let (input, base, signature) = taken_apart(relay);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &KEY);
    input.algorithm() == Some("hmac-sha256") && hmac::verify(&key, base.as_bytes(), &signature).is_ok()
}

fn is_by(relay: &Relay, public: &[u8]) -> bool {
    let (input, base, signature) = taken_apart(relay);
    let key = UnparsedPublicKey::new(&ED25519, public);
    input.algorithm() == Some("ed25519") && key.verify(base.as_bytes(), &signature).is_ok()
}

/// The public key that the guest identified with, and the request by which it did.
async fn identified(rig: &Rig, session: &str) -> (Vec<u8>, Relay) {
    let key_id = format!("t-{session}");
    let identify = rig.host.until(|state| {
        let mut relays = state.relays.iter();
        let of = |relay: &&Relay| {
            relay.target.ends_with("/identify") && field(relay, SIGNATURE_INPUT).contains(&key_id)
        };
        relays.find(of).cloned()
    });
    let identify = identify.await;
    let body: serde_json::Value = serde_json::from_slice(identify.body.bytes()).unwrap();
    (
        STANDARD.decode(body["public_key"].as_str().unwrap()).unwrap(),
        identify,
    )
}

/// Puts until the answer to the identification has come, which is soon.
async fn own_put(rig: &Rig, public: &[u8]) {
    loop {
        rig.backing.prover.relay(&put("x")).await.unwrap();
        let last = rig.host.with(|state| state.relays.pop().unwrap());
        if is_by(&last, public) {
            return;
        }
        assert!(is_shared(&last));
    }
}

#[test]
fn each_session_has_a_key_of_the_guests_own() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.order(session("one"));
        let (first, identify) = identified(&rig, "one").await;
        assert!(is_shared(&identify));
        assert_eq!(field(&identify, TOKEN), "mli_one");
        own_put(&rig, &first).await;
        rig.host.order(session("two"));
        let (second, identify) = identified(&rig, "two").await;
        assert!(is_shared(&identify) && first != second);
        own_put(&rig, &second).await;
    });
}

#[test]
fn without_a_token_a_change_goes_as_it_is() {
    run(async {
        let rig = Rig::linked().await;
        let answer = rig.backing.prover.relay(&put("x")).await.unwrap();
        assert_eq!(answer.status, 200);
        let relay = rig.host.with(|state| state.relays.pop().unwrap());
        assert_eq!((field(&relay, SIGNATURE), field(&relay, TOKEN)), ("", ""));
    });
}

#[test]
fn row_15_a_guest_whose_calendar_is_years_off_signs_at_the_control_planes_time() {
    run(async {
        let rig = Rig::linked().await;
        let time = Timestamp::from_millis(2_100_000_000_000).unwrap();
        rig.host.with(|state| state.plane_time = Some(time));
        rig.host.order(session("one"));
        let (public, _) = identified(&rig, "one").await;
        own_put(&rig, &public).await;
        let answer = rig.backing.prover.relay(&put("later")).await.unwrap();
        assert_eq!(answer.status, 200);
        let relay = rig.host.with(|state| state.relays.pop().unwrap());
        let created = taken_apart(&relay).0.created().unwrap();
        assert!(created.0.abs_diff(2_100_000_000) < 60, "{created}");
    });
}

#[test]
fn a_request_that_is_sent_again_is_signed_anew() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.order(session("one"));
        let (public, _) = identified(&rig, "one").await;
        own_put(&rig, &public).await;
        rig.host.with(|state| state.relays.clear());
        let mut put = put("once");
        put.headers.push((IDEMPOTENCY_KEY.to_owned(), "k".to_owned()));
        for _ in 0..2 {
            assert_eq!(rig.backing.prover.relay(&put).await.unwrap().status, 200);
        }
        let relays = rig.host.with(|state| std::mem::take(&mut state.relays));
        let keys = [0, 1].map(|n: usize| field(&relays[n], IDEMPOTENCY_KEY));
        assert_eq!((relays.len(), keys), (2, ["k", "k"]));
        let nonce = |relay| taken_apart(relay).0.nonce().unwrap().to_owned();
        assert_ne!(nonce(&relays[0]), nonce(&relays[1]));
    });
}

#[test]
fn a_change_without_a_host_is_not_made() {
    run(async {
        let rig = Rig::without_host(crate::test_host::settings()).await;
        let failed = rig.backing.prover.relay(&put("x")).await.unwrap_err();
        assert!(
            matches!(failed, ProveError::Ask(crate::link::AskFailure::Away)),
            "{failed}"
        );
    });
}

/// How often the guest has identified with a token.
fn identifications(state: &HostState, token: &str) -> usize {
    let mut count = 0;
    for relay in &state.relays {
        count += usize::from(relay.target.ends_with("/identify") && field(relay, TOKEN) == token);
    }
    count
}

#[test]
fn a_guest_of_whose_keys_its_session_takes_none_begins_anew_and_is_given_another() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.identify.insert("mli_one", 401));
        rig.host.order(session("one"));
        let hello = rig.host.until(|state| state.hellos.get(1).cloned()).await;
        assert_eq!((hello.incarnation, hello.applied), (None, None));
        let tried = rig.host.with(|state| identifications(state, "mli_one"));
        assert!(
            tried >= 4,
            "it gave up after {tried} requests, of which each try takes two"
        );
        rig.host.order(session("two"));
        let (public, _) = identified(&rig, "two").await;
        own_put(&rig, &public).await;
        // From here on nothing is begun anew, and what was mirrored is there.
        rig.host.order(Order::Cut);
        let hello = rig.host.until(|state| state.hellos.get(2).cloned()).await;
        assert_eq!(hello.incarnation, Some(7));
        assert!(hello.applied.is_some());
    });
}

#[test]
fn a_guest_that_is_not_identified_for_another_reason_keeps_its_session() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.identify.insert("mli_one", 503));
        rig.host.order(session("one"));
        let tried = |state: &HostState| (identifications(state, "mli_one") == 2).then_some(());
        rig.host.until(tried).await;
        rig.host.with(|state| state.identify.clear());
        let (public, _) = identified(&rig, "one").await;
        own_put(&rig, &public).await;
        assert_eq!(rig.host.with(|state| state.hellos.len()), 1);
    });
}
