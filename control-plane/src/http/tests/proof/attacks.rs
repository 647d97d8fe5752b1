//! Requests that are not the instance's, or not as it made them.

use axum::http::StatusCode;
use moorline_shared::signature::{CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT, TOKEN};
use serde_json::json;

use super::super::signing::{Draft, Guest, Message, present, random, without};
use super::World;

async fn refused(world: &World, message: Message, why: &str) {
    let reply = message.send(&world.api).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{why}: {reply:?}");
    assert_eq!(reply.body["type"], "unproven", "{why}");
    assert!(reply.headers.contains_key("moorline-time"), "{why}");
    let told = reply.body["detail"].as_str().unwrap();
    assert!(
        told.starts_with("the request is not proven"),
        "{why} is told to the guest: {told}"
    );
    assert!(world.value().await.is_null(), "{why} was done");
}

#[tokio::test]
async fn what_is_changed_on_the_way_is_refused() {
    type Change = fn(&mut Message);
    let changes: [(&str, Change); 17] = [
        ("another path", |m| m.target = m.target.replace("/own", "/other")),
        ("a query", |m| m.target.push_str("?x=1")),
        ("another body", |m| m.body = json!({"value": "evil"}).to_string()),
        ("a truncated body", |m| m.body.truncate(m.body.len() - 1)),
        ("no body", |m| m.body.clear()),
        ("another digest", |m| {
            m.body = json!({"value": "evil"}).to_string();
            let digest = moorline_shared::Digest::of(m.body.as_bytes());
            m.change(CONTENT_DIGEST, |_| {
                moorline_shared::signature::content_digest::write(&digest)
            });
        }),
        ("no digest", |m| m.remove(CONTENT_DIGEST)),
        ("another key of idempotency", |m| {
            m.change("idempotency-key", |_| random());
        }),
        ("a condition more", |m| m.add("if-match", "\"1.1\"")),
        ("no token", |m| m.remove(TOKEN)),
        ("a second token", |m| m.add(TOKEN, "mli_x")),
        ("a later time", |m| {
            m.change(SIGNATURE_INPUT, |input| {
                input.replacen("created=1", "created=2", 1)
            });
        }),
        ("the labels exchanged", |m| {
            m.change(SIGNATURE, |value| {
                value
                    .replace("guest=", "x=")
                    .replace("host=", "guest=")
                    .replace("x=", "host=")
            });
        }),
        ("a truncated signature", |m| {
            m.change(SIGNATURE, |value| value.replacen("=:", "=:AAAA", 1));
        }),
        ("a label twice", |m| m.add(SIGNATURE, &m.field(SIGNATURE))),
        ("a third label", |m| m.add(SIGNATURE, "other=:AAAA:")),
        ("cut off", |m| {
            m.change(SIGNATURE_INPUT, |input| input[..input.len() / 2].to_owned());
        }),
    ];
    let world = World::new().await;
    for (why, change) in changes {
        let mut message = world.guest.put("good").passed_on_by(world.api.host());
        change(&mut message);
        refused(&world, message, why).await;
    }
    let mut moved = world.guest.put("good").passed_on_by(world.api.host());
    moved.method = axum::http::Method::POST;
    refused(&world, moved, "another method").await;
    let reasons = world.reasons().await;
    assert!(
        reasons
            .iter()
            .any(|why| why.contains("the body is not the one that was signed")),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn every_character_of_a_signature_counts() {
    let world = World::new().await;
    let good = world.guest.put("good").passed_on_by(world.api.host());
    for name in [SIGNATURE, SIGNATURE_INPUT] {
        // Each is there twice, the guest's and the host's.
        for (field, line) in good.lines(name) {
            for (at, known) in line.char_indices() {
                let other = if known == 'A' { 'B' } else { 'A' };
                let mut message = good.clone();
                message.fields[field].1 = format!("{}{other}{}", &line[..at], &line[at + 1..]);
                let reply = message.send(&world.api).await;
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{name} {at} of {line}");
            }
        }
    }
    assert!(world.value().await.is_null());
    assert_eq!(good.send(&world.api).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_signed_badly_is_refused() {
    type Change = fn(&mut Draft<'_>);
    let changes: [(&str, Change); 8] = [
        ("for another deployment", |d| d.authority = "elsewhere".to_owned()),
        ("too old", |d| d.created = present() - 61),
        ("too new", |d| d.created = present() + 62),
        ("ten years off", |d| d.created = present() - 315_000_000),
        ("a short nonce", |d| d.nonce = "short".to_owned()),
        ("another key id", |d| d.token_id = format!("t-{}", random())),
        ("no token of ours", |d| d.token = "mli_AAAA".to_owned()),
        ("no key of idempotency", |d| {
            d.input = Some(without(d, "idempotency-key"));
            d.fields.clear();
        }),
    ];
    let world = World::new().await;
    for (why, change) in changes {
        let message = world.guest.put("bad").with(change).passed_on_by(world.api.host());
        refused(&world, message, why).await;
    }
    for component in [
        "@method",
        "@authority",
        "@path",
        "@query",
        "content-digest",
        "moorline-token",
    ] {
        let bare = |draft: &mut Draft<'_>| draft.input = Some(without(draft, component));
        let message = world.guest.put("bad").with(bare).passed_on_by(world.api.host());
        refused(&world, message, component).await;
    }
}

#[tokio::test]
async fn a_request_is_taken_once() {
    let world = World::new().await;
    let message = world.guest.put("once").passed_on_by(world.api.host());
    assert_eq!(message.clone().send(&world.api).await.status, StatusCode::OK);
    let replayed = message.clone().send(&world.api).await;
    assert_eq!(replayed.status, StatusCode::UNAUTHORIZED);
    let mut again = message;
    again
        .fields
        .retain(|(name, value)| !name.starts_with("signature") || value.starts_with("guest="));
    again.countersign(world.api.host(), present());
    let replayed = again.send(&world.api).await;
    assert_eq!(
        replayed.status,
        StatusCode::UNAUTHORIZED,
        "the host signed it once more"
    );
    assert!(
        world
            .reasons()
            .await
            .iter()
            .any(|why| why.contains("sent before"))
    );
}

#[tokio::test]
async fn a_host_can_not_forge_for_its_guest() {
    let mut world = World::new().await;
    let forged = Guest {
        shared: vec![0; 32],
        ..Guest::of(
            &world.guest.id,
            &json!({"token": world.guest.token, "token_id": world.guest.token_id, "session": "s", "key": "AA=="}),
        )
    };
    refused(
        &world,
        forged.put("x").passed_on_by(world.api.host()),
        "without the key",
    )
    .await;
    world.guest.identify(&world.api, world.api.host()).await;
    let shared = world.guest.put("x").with(|draft| draft.own = None);
    refused(
        &world,
        shared.passed_on_by(world.api.host()),
        "with the shared key, for one that identified",
    )
    .await;
    let target = format!("/v1/instances/{}/identify", world.guest.id);
    let key = json!({"public_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}).to_string();
    let replace =
        Draft::new(&world.guest, axum::http::Method::POST, &target, &key).with(|draft| draft.own = None);
    refused(
        &world,
        replace.passed_on_by(world.api.host()),
        "another key in its place",
    )
    .await;
    let own =
        Draft::new(&world.guest, axum::http::Method::POST, &target, &key).passed_on_by(world.api.host());
    let replaced = own.send(&world.api).await;
    assert_eq!(
        replaced.body["type"], "already-identified",
        "not by the guest itself either"
    );
    let reasons = world.reasons().await;
    assert!(
        reasons.iter().any(|why| why.contains("session needs ed25519")),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn only_the_host_that_has_the_instance_passes_its_requests_on() {
    let world = World::new().await;
    let second = world.api.enrol("h2").await;
    let offer = json!({"zone": "z", "vcpus": 1, "memory_mib": 1, "images": ["busybox"]});
    world
        .api
        .by_host(&second, axum::http::Method::PUT, "/v1/hosts/h2", &[], offer)
        .await;
    refused(
        &world,
        world.guest.put("x").passed_on_by(&second),
        "by a second host",
    )
    .await;
    let under_its_name = world.guest.put("x").signed_by_host(&second, world.api.host());
    refused(&world, under_its_name, "signed by a second host").await;
    let stolen = world.guest.put("x").signed_by_host(world.api.host(), &second);
    refused(&world, stolen, "signed by the first, sent by the second").await;
    let mut late = world.guest.put("x").passed_on_by(world.api.host());
    late.fields
        .retain(|(name, value)| !name.starts_with("signature") || value.starts_with("guest="));
    late.countersign(world.api.host(), present() - 120);
    refused(&world, late, "by the host long ago").await;
    let mut alone = world.guest.put("x").passed_on_by(world.api.host());
    alone.fields.retain(|(_, value)| !value.starts_with("host="));
    refused(&world, alone, "not signed by the host").await;
    let reasons = world.reasons().await;
    assert!(
        reasons
            .iter()
            .any(|why| why.contains("is on host h1, and host h2")),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn one_instance_is_not_another() {
    let world = World::new().await;
    let other = world.api.guest(&world.other).await;
    let theirs = world.guest.put("x").with(|draft| {
        draft.token.clone_from(&other.token);
        draft.token_id.clone_from(&other.token_id);
    });
    refused(
        &world,
        theirs.passed_on_by(world.api.host()),
        "with another's token",
    )
    .await;
    let mut named = other.put("x").passed_on_by(world.api.host());
    named.instance.clone_from(&world.guest.id);
    refused(&world, named, "passed on in another's name").await;
    let target = format!("/v1/instances/{}/data/own", world.guest.id);
    let foreign = Draft::new(&other, axum::http::Method::PUT, &target, r#"{"value": "x"}"#);
    let denied = foreign.relayed(&world.api).await;
    assert_eq!(
        denied.status,
        StatusCode::NOT_FOUND,
        "it is who it says, and may not"
    );
    assert!(world.value().await.is_null());
}

#[tokio::test]
async fn what_is_no_token_is_no_instances() {
    let world = World::new().await;
    for token in ["", "mli_", "mli_AAAA", "mla_AAAA", &"m".repeat(10_000)] {
        let message = world
            .guest
            .put("x")
            .with(|draft| token.clone_into(&mut draft.token));
        refused(&world, message.passed_on_by(world.api.host()), token).await;
    }
}
