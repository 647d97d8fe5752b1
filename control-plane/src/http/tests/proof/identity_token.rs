//! Tokens by which others know an instance, checked as they would.

use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value as Json, json};

use super::super::signing::Draft;
use super::World;

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// The claims of a token that the published keys say is the issuer's.
async fn claims(world: &World, token: &str) -> Json {
    let configuration = world.api.get("/.well-known/openid-configuration").await.body;
    assert_eq!(configuration["issuer"], "https://moorline.test");
    assert_eq!(
        configuration["jwks_uri"],
        "https://moorline.test/.well-known/jwks.json"
    );
    let keys = world.api.get("/.well-known/jwks.json").await;
    assert_eq!(keys.headers["cache-control"], "public, max-age=300");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Json = serde_json::from_slice(&decoded(header)).unwrap();
    assert_eq!(header["alg"], "ES256");
    let mut keys = keys.body["keys"].as_array().unwrap().iter();
    let key = keys.find(|key| key["kid"] == header["kid"]).unwrap();
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        point.extend(decoded(key[coordinate].as_str().unwrap()));
    }
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(signed.as_bytes(), &decoded(signature)).unwrap();
    serde_json::from_slice(&decoded(claims)).unwrap()
}

#[tokio::test]
async fn an_instance_and_its_host_have_tokens_that_the_published_keys_check() {
    let world = World::new().await;
    let target = format!("/v1/instances/{}/identity-token", world.guest.id);
    let body = json!({"audience": "sts.example"}).to_string();
    let ask = || Draft::new(&world.guest, Method::POST, &target, &body).passed_on_by(world.api.host());
    let before = world.api.store.head().await.unwrap();
    let (first, second) = (ask().send(&world.api).await, ask().send(&world.api).await);
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    assert_ne!(first.body["token"], second.body["token"]);
    let by_host = format!("/v1/hosts/h1/instances/{}/identity-token", world.guest.id);
    let asked = json!({"audience": "sts.example"});
    let third = world
        .api
        .by_host(world.api.host(), Method::POST, &by_host, &[], asked)
        .await;
    assert_eq!(world.api.store.head().await.unwrap(), before, "nothing is kept");
    for given in [first, second, third] {
        let claims = claims(&world, given.body["token"].as_str().unwrap()).await;
        assert_eq!(claims["sub"], format!("instance:{}", world.guest.id));
        assert_eq!(
            (&claims["aud"], &claims["host"]),
            (&json!("sts.example"), &json!("h1"))
        );
        let (issued, expires) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert_eq!(expires - issued, 900);
    }
}

#[tokio::test]
async fn nobody_has_a_token_for_another() {
    let world = World::new().await;
    let body = json!({"audience": "a"});
    let other = format!("/v1/instances/{}/identity-token", world.other);
    let foreign = Draft::new(&world.guest, Method::POST, &other, &body.to_string());
    let refused = foreign.relayed(&world.api).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{refused:?}");
    let own = format!("/v1/instances/{}/identity-token", world.guest.id);
    let unsigned = world.api.json(Method::POST, &own, &[], body.clone()).await;
    assert_eq!(
        unsigned.status,
        StatusCode::UNAUTHORIZED,
        "an administrator is no instance"
    );
    let by_host = format!("/v1/hosts/h2/instances/{}/identity-token", world.guest.id);
    let h2 = world.api.enrol("h2").await;
    for (host, status) in [
        (world.api.host(), StatusCode::FORBIDDEN),
        (&h2, StatusCode::NOT_FOUND),
    ] {
        let reply = world
            .api
            .by_host(host, Method::POST, &by_host, &[], body.clone())
            .await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    for audience in ["", "a b", &"a".repeat(257)] {
        let body = json!({ "audience": audience }).to_string();
        let reply = Draft::new(&world.guest, Method::POST, &own, &body).passed_on_by(world.api.host());
        assert_eq!(reply.send(&world.api).await.body["field"], "audience");
    }
}
