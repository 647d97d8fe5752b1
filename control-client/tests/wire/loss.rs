//! Connections that don't come about, or break.

use std::net::TcpListener;
use std::time::Duration;

use moorline_client::{ClientError, Retries, fresh_key};
use moorline_shared::api::instances::InstanceIds;
use moorline_shared::id::IdempotencyKey;

use crate::server::{client, client_with, header, json, script};

const TWICE_MORE: Retries = Retries {
    more: 2,
    first_wait: Duration::from_millis(1),
};
const NONE: InstanceIds = InstanceIds {
    instances: Vec::new(),
};
const MADE: &str = r#"{"instances": [], "revision": "1.2",
    "operation": "op-0000000000000000000000000000000000000000000000000000000000000000"}"#;

#[tokio::test]
async fn where_nobody_listens_nothing_happened_and_the_address_is_named() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(address).describe_hosts().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(!error.may_have_happened() && error.is_silence());
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_change_is_sent_again_under_the_same_key() {
    let made = json("201 Created", "application/json", MADE);
    let (server, mut requests) = script(&["", &made[..made.len() - 5], &made]).await;
    let client = client_with(server.address, TWICE_MORE);
    let key: IdempotencyKey = fresh_key();
    client.start_instances(&NONE, &key).await.unwrap();
    for _ in 0..3 {
        let request = requests.recv().await.unwrap();
        assert_eq!(
            header(&request, "idempotency-key"),
            Some(key.to_string().as_str())
        );
    }
}

#[tokio::test]
async fn after_the_last_retry_a_change_may_have_happened_and_a_read_has_not() {
    let (server, mut requests) = script(&["", "", "", "", "", ""]).await;
    let client = client_with(server.address, TWICE_MORE);
    let error = client.start_instances(&NONE, &fresh_key()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Lost { .. }) && error.may_have_happened(),
        "{error:?}"
    );
    let error = client.describe_hosts().await.unwrap_err();
    assert!(!error.may_have_happened(), "{error:?}");
    let mut count = 0;
    while requests.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 6);
}

#[tokio::test]
async fn a_stated_problem_is_not_asked_for_again() {
    let body = r#"{"type": "unavailable", "title": "Not now", "status": 503, "detail": "later"}"#;
    let busy = json("503 Service Unavailable", "application/problem+json", body);
    let (server, _requests) = script(&[&busy]).await;
    let error = client_with(server.address, TWICE_MORE)
        .describe_hosts()
        .await
        .unwrap_err();
    assert_eq!(error.problem().unwrap().status, 503);
}

#[test]
fn keys_are_never_the_same() {
    assert_ne!(fresh_key(), fresh_key());
}
