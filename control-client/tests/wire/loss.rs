//! Connections that don't come about, or break.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use moorline_client::{ClientError, Retries, fresh_key};
use moorline_shared::InstanceId;
use moorline_shared::api::identity::{LogIn, RefreshTokens};
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

/// Each request of these would begin another session, or show a token twice that is good once.
#[tokio::test]
async fn what_has_no_key_and_changes_something_is_sent_once() {
    let (server, mut requests) = script(&["", "", ""]).await;
    let client = client_with(server.address, TWICE_MORE);
    let login = LogIn {
        user: "ann".parse().unwrap(),
        password: "hunter2".to_owned().into(),
        directory: None,
        client: None,
        form: Default::default(),
    };
    let refresh = RefreshTokens {
        refresh_token: "mlr_1".to_owned().into(),
        client: None,
    };
    let lost = client.log_in(&login).await.unwrap_err();
    assert!(lost.may_have_happened(), "{lost:?}");
    client.refresh_tokens(&refresh).await.unwrap_err();
    let (host, instance) = ("h1".parse().unwrap(), InstanceId::from_bytes([7; 16]));
    let asked = client.create_identity_token(&host, instance, "sts").await;
    asked.unwrap_err();
    for path in ["/v1/sessions ", "/v1/tokens/refresh ", "/v1/hosts/h1/instances/"] {
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with(&format!("POST {path}")), "{request}");
    }
    assert!(requests.try_recv().is_err());
}

/// The waits between the attempts show that there are several.
#[tokio::test]
async fn what_reached_nobody_is_sent_again_whatever_it_is() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refresh = RefreshTokens {
        refresh_token: "mlr_1".to_owned().into(),
        client: None,
    };
    let retries = Retries {
        more: 2,
        first_wait: Duration::from_millis(20),
    };
    let began = Instant::now();
    let error = client_with(address, retries).refresh_tokens(&refresh).await;
    assert!(matches!(error, Err(ClientError::Unreachable { .. })), "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(60));
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
