//! A login over several commands, as processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::command::moorline;
use crate::server::{Server, serve};

const LOGIN: [&str; 4] = ["login", "--user", "ann", "--password-stdin"];

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
    control_plane_with(Router::new()).await
}

/// One that is asked other things as well.
async fn control_plane_with(others: Router<Turn>) -> Server {
    let router = others
        .route("/v1/sessions", post(log_in))
        .route("/v1/tokens/refresh", post(refresh))
        .route("/v1/whoami", get(who));
    let changed = json!({"revision": "1.42", "operation": format!("op-{}", "0".repeat(64))});
    // The first time the end of the session can't be kept.
    let ends = AtomicU32::default();
    let end = async move || match ends.fetch_add(1, Ordering::SeqCst) {
        0 => problem(StatusCode::SERVICE_UNAVAILABLE),
        _ => Json(changed.clone()).into_response(),
    };
    let end = Arc::new(end);
    let router = router.route("/v1/sessions/s-1", delete(move || async move { end().await }));
    serve(router.with_state(Turn::default())).await
}

fn problem(status: StatusCode) -> Response {
    let kind = [("content-type", "application/problem+json")];
    let body = json!({"type": "no", "title": "No", "status": status.as_u16(), "detail": "no"});
    (status, kind, Json(body)).into_response()
}

async fn run(server: &Server, config: &Path, line: &[&str], input: &[u8]) -> Output {
    run_with(server, config, line, input, &[]).await
}

async fn run_with(
    server: &Server,
    config: &Path,
    line: &[&str],
    input: &[u8],
    environment: &[(&str, &str)],
) -> Output {
    let mut command = moorline(line);
    command
        .envs(environment.iter().copied())
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
    let login = run(&server, &config, &LOGIN, b"hunter2\n").await;
    assert!(login.status.success(), "{login:?}");
    assert!(!format!("{login:?}").contains("mlr_") && !format!("{login:?}").contains("hunter2"));
    let shells = (0..8).map(|_| run(&server, &config, &["whoami"], b""));
    for shell in futures_util::future::join_all(shells).await {
        assert!(shell.status.success(), "{shell:?}");
        assert!(String::from_utf8(shell.stdout).unwrap().contains("user:ann"));
    }
}

#[tokio::test]
async fn whom_the_control_plane_cannot_log_out_is_still_logged_in() {
    let (folder, server) = (tempfile::tempdir().unwrap(), control_plane().await);
    let config = folder.path().join("config.toml");
    run(&server, &config, &LOGIN, b"hunter2\n").await;
    let failed = run(&server, &config, &["logout", "--idempotency-key", "k1"], b"").await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let told = String::from_utf8(failed.stderr).unwrap();
    assert!(
        told.contains("still logged in") && told.contains("--idempotency-key k1,"),
        "{told}"
    );
    let who = run(&server, &config, &["whoami"], b"").await;
    assert!(String::from_utf8(who.stdout).unwrap().contains("user:ann"));

    let out = run(&server, &config, &["logout"], b"").await;
    assert!(out.status.success(), "{out:?}");
    let nobody = run(&server, &config, &["whoami"], b"").await;
    assert!(
        String::from_utf8(nobody.stderr)
            .unwrap()
            .contains("moorline login")
    );
}

#[tokio::test]
async fn a_login_says_which_token_goes_before_it() {
    let (folder, server) = (tempfile::tempdir().unwrap(), control_plane().await);
    let config = folder.path().join("config.toml");
    let token = folder.path().join("token");
    std::fs::write(&token, "mla_of-a-file").unwrap();
    let by_file = [("MOORLINE_TOKEN_FILE", token.to_str().unwrap())];
    let login = run_with(&server, &config, &LOGIN, b"hunter2\n", &by_file).await;
    let told = String::from_utf8(login.stderr).unwrap();
    assert!(
        login.status.success() && told.contains("MOORLINE_TOKEN_FILE"),
        "{told}"
    );
    let login = run(&server, &config, &LOGIN, b"hunter2\n").await;
    assert!(login.stderr.is_empty(), "{login:?}");
    for (environment, source) in [(&by_file[..], "MOORLINE_TOKEN_FILE"), (&[], "the login at http")] {
        let who = run_with(&server, &config, &["whoami"], b"", environment).await;
        let told = String::from_utf8(who.stdout).unwrap();
        assert!(told.contains(source), "{told}");
    }
}

/// An access token lives for a quarter of an hour, and people watch for days.
#[tokio::test]
async fn a_watch_that_is_taken_up_again_shows_a_fresh_token() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tokens = seen.clone();
    let watch = async move |headers: HeaderMap| {
        let bearer = headers["authorization"].to_str().unwrap().to_owned();
        let mut tokens = tokens.lock().unwrap();
        tokens.push(bearer);
        let change =
            json!({"event": "changes", "revision": format!("1.{}", 7 + tokens.len()), "changes": []});
        format!("{change}\n")
    };
    let listing = async || Json(json!({"revision": "1.7", "entries": []}));
    let id = format!("i-{}", "1a".repeat(16));
    let others = Router::new()
        .route(&format!("/v1/instances/{id}/watch"), get(watch))
        .route(&format!("/v1/instances/{id}/data"), get(listing));
    let (folder, server) = (tempfile::tempdir().unwrap(), control_plane_with(others).await);
    let config = folder.path().join("config.toml");
    run(&server, &config, &LOGIN, b"hunter2\n").await;
    let watched = run(&server, &config, &["data", "watch", &id, "--count", "3"], b"").await;
    assert!(watched.status.success(), "{watched:?}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
}

#[tokio::test]
async fn in_json_mode_all_that_comes_is_json() {
    let (folder, server) = (tempfile::tempdir().unwrap(), control_plane().await);
    let config = folder.path().join("config.toml");
    let json = async |line: &str, input: &[u8]| {
        let line: Vec<_> = line.split(' ').chain(["-o", "json"]).collect();
        let output = run(&server, &config, &line, input).await;
        let told = if output.status.success() {
            String::from_utf8(output.stdout).unwrap()
        } else {
            // What is said on the side comes before it.
            let told = String::from_utf8(output.stderr).unwrap();
            told.lines().last().unwrap_or_default().to_owned()
        };
        serde_json::from_str::<Value>(&told).unwrap_or_else(|error| panic!("{line:?}: {error}: {told}"))
    };
    assert_eq!(json("profile show", b"").await, Value::Null);
    assert_eq!(json("logout", b"").await, json!({"session": null}));
    for (line, field, expected) in [
        ("profile set lab --url http://127.0.0.1:1", "name", json!("lab")),
        (
            "profile set other --url http://127.0.0.1:2",
            "chosen",
            json!(false),
        ),
        ("profile use other", "chosen", json!(true)),
        ("profile show", "name", json!("other")),
        ("profile remove lab", "name", json!("lab")),
        ("profile use nowhere", "type", json!("not-found")),
        (
            "login --user ann --password-stdin",
            "principal",
            json!("user:ann"),
        ),
        ("whoami", "principal", json!("user:ann")),
        ("logout", "status", json!(503)),
        ("logout", "session", json!("s-1")),
    ] {
        assert_eq!(json(line, b"hunter2\n").await[field], expected, "{line}");
    }
    assert_eq!(json("profile list", b"").await[0]["name"], "other");
}
