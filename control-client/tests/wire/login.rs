//! A login over several commands, as processes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::command::moorline;
use crate::server::{Server, serve};

/// The number of the refresh token that is good. Each is good once, and any other ends the login.
type Turn = Arc<AtomicU32>;

/// Tokens that end at once, so that each command refreshes them.
fn tokens(nth: u32) -> Value {
    json!({
        "session": "s-1", "principal": "user:ann", "account": "default",
        "access_token": format!("mla_{nth}"), "access_expires_at": "2026-01-31T12:00:00Z",
        "access_expires_in_seconds": 0, "refresh_token": format!("mlr_{nth}"),
        "session_expires_at": "2026-02-28T12:00:00Z",
    })
}

async fn log_in(State(turn): State<Turn>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(
        (&body["user"], &body["password"]),
        (&json!("ann"), &json!("hunter2"))
    );
    (StatusCode::CREATED, Json(tokens(turn.load(Ordering::SeqCst))))
}

async fn refresh(State(turn): State<Turn>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    let nth = turn.fetch_add(1, Ordering::SeqCst);
    if body["refresh_token"] == format!("mlr_{nth}") {
        (StatusCode::OK, Json(tokens(nth + 1)))
    } else {
        (StatusCode::UNAUTHORIZED, Json(json!({"type": "invalid-grant"})))
    }
}

async fn who(headers: HeaderMap) -> Json<Value> {
    let bearer = headers["authorization"].to_str().unwrap();
    assert!(bearer.starts_with("Bearer mla_"), "{bearer}");
    Json(json!({"principal": "user:ann", "account": "default", "administrator": false}))
}

async fn control_plane() -> Server {
    let changed = json!({"revision": "1.42", "operation": format!("op-{}", "0".repeat(64))});
    let router = Router::new()
        .route("/v1/sessions", post(log_in))
        .route("/v1/sessions/s-1", delete(async || Json(changed)))
        .route("/v1/tokens/refresh", post(refresh))
        .route("/v1/whoami", get(who));
    serve(router.with_state(Turn::default())).await
}

async fn run(server: &Server, config: &Path, line: &[&str], input: &[u8]) -> Output {
    let mut command = moorline(line);
    command
        .env("MOORLINE_URL", format!("http://{}", server.address))
        .env("MOORLINE_CONFIG", config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn eight_shells_share_a_login_that_each_refreshes() {
    let (folder, server) = (tempfile::tempdir().unwrap(), control_plane().await);
    let config = folder.path().join("config.toml");
    let line = ["login", "--user", "ann", "--password-stdin"];
    let login = run(&server, &config, &line, b"hunter2\n").await;
    assert!(login.status.success(), "{login:?}");
    assert!(!format!("{login:?}").contains("mlr_") && !format!("{login:?}").contains("hunter2"));
    let shells = (0..8).map(|_| run(&server, &config, &["whoami"], b""));
    for shell in futures_util::future::join_all(shells).await {
        assert!(shell.status.success(), "{shell:?}");
        assert!(String::from_utf8(shell.stdout).unwrap().contains("user:ann"));
    }
    let out = run(&server, &config, &["logout"], b"").await;
    assert!(out.status.success(), "{out:?}");
    let nobody = run(&server, &config, &["whoami"], b"").await;
    assert!(
        String::from_utf8(nobody.stderr)
            .unwrap()
            .contains("moorline login")
    );
}
