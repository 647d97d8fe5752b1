//! The command itself, as a process: what it asks, prints and returns.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::server::{header, json, script, serve};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const ID: &str = "i-1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a";
const CHANGED: &str = r#"{"revision": "1.42", "operation": "op-0000000000000000000000000000000000000000000000000000000000000000"}"#;

/// A command with nothing of this process's environment in it.
pub(crate) fn moorline(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command
        .args(line)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn ask(address: SocketAddr, line: &[&str]) -> Output {
    let mut command = moorline(line);
    command
        .env("MOORLINE_URL", format!("http://{address}"))
        .env("MOORLINE_TOKEN", "hunter2");
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn instance(state: &str) -> String {
    format!(
        r#"{{"id": "{ID}", "name": "web", "account": "main", "host": "h1", "zone": "z1", "driver": "qemu",
        "tags": [], "desired": "running", "state": "{state}", "incarnation": 0,
        "created_at": "2026-01-31T12:00:00Z", "revision": "1.7"}}"#
    )
}

fn page(state: &str) -> String {
    let body = format!(r#"{{"revision": "1.7", "instances": [{}]}}"#, instance(state));
    json("200 OK", JSON, &body)
}

fn entry(value: &str) -> String {
    let body = format!(
        r#"{{"path": "a", "revision": "1.9", "version": 2, "content_type": "text/plain", "length": 3,
        "value": {value}, "origin": "customer", "visibility": "private", "changed_by": "user:ann",
        "changed_at": "2026-01-31T12:00:00Z"}}"#
    );
    json("200 OK", JSON, &body)
}

#[tokio::test]
async fn a_value_is_set_on_an_instance_that_is_named() {
    let answers = [page("running"), json("200 OK", JSON, CHANGED)];
    let (server, mut requests) = script(&[&answers[0], &answers[1]]).await;
    let line = [
        "data",
        "set",
        "web",
        "app/mode",
        "blue",
        "--ttl",
        "1h",
        "--public",
        "--if-absent",
    ];
    let output = ask(server.address, &line).await;
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("done at revision 1.42 by op-0000"));

    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("GET /v1/instances?name=web "), "{request}");
    let request = requests.recv().await.unwrap();
    assert!(
        request.starts_with(&format!("PUT /v1/instances/{ID}/data/app/mode ")),
        "{request}"
    );
    assert_eq!(header(&request, "if-none-match"), Some("*"));
    assert_eq!(header(&request, "idempotency-key").map(str::len), Some(32));
    assert!(
        request.ends_with(r#"{"value":"blue","visibility":"public","ttl":3600}"#),
        "{request}"
    );
}

#[tokio::test]
async fn a_program_gets_a_value_byte_for_byte() {
    let (server, _requests) = script(&[&entry(r#"{"base64": "/wAK"}"#), &entry("\"b\\u001b\"")]).await;
    let output = ask(server.address, &["data", "get", ID, "a"]).await;
    assert_eq!(output.stdout, b"\xff\0\n");
    let output = ask(server.address, &["data", "get", ID, "a", "--output", "json"]).await;
    let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (body["revision"].as_str(), body["value"].as_str()),
        (Some("1.9"), Some("b\u{1b}"))
    );
}

#[tokio::test]
async fn a_value_is_read_from_the_standard_input() {
    let (server, mut requests) = script(&[&json("200 OK", JSON, CHANGED)]).await;
    let mut command = moorline(&["data", "append", ID, "a", "--stdin", "--output", "json"]);
    command
        .env("MOORLINE_URL", format!("http://{}", server.address))
        .env("MOORLINE_TOKEN", "hunter2");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["revision"], "1.42");
    assert!(
        requests
            .recv()
            .await
            .unwrap()
            .ends_with(r#"{"value":"one\ntwo"}"#)
    );
}

#[tokio::test]
async fn a_run_waits_until_the_instance_runs() {
    let operation = "0".repeat(64);
    let made = format!(
        r#"{{"instances": [{}], "operation": "op-{operation}", "revision": "1.7"}}"#,
        instance("pending")
    );
    let answers = [json("201 Created", JSON, &made), page("pending"), page("running")];
    let (server, _requests) = script(&answers.each_ref().map(String::as_str)).await;
    let line = [
        "instance",
        "run",
        "--image",
        "debian-13",
        "--type",
        "small",
        "--wait",
        "-o",
        "json",
    ];
    let output = ask(server.address, &line).await;
    let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["instances"][0]["state"], "running", "{output:?}");
}

#[tokio::test]
async fn a_watch_prints_a_line_of_json_for_each_event() {
    let events = "{\"event\": \"changes\", \"revision\": \"1.8\", \"changes\": [{\"path\": \"a\"}]}\n\
                  {\"event\": \"bookmark\", \"revision\": \"1.9\"}\n\
                  {\"event\": \"resync\", \"revision\": \"1.10\"}\n\
                  {\"event\": \"changes\", \"revision\": \"1.11\", \"changes\": [{\"path\": \"b\"}]}\n";
    let watch = move |RawQuery(query): RawQuery| async move {
        assert_eq!(query.as_deref(), Some("prefix=app&after=1.7"));
        events
    };
    let listing = r#"{"revision": "1.7", "entries": []}"#;
    let router = Router::new()
        .route(&format!("/v1/instances/{ID}/watch"), get(watch))
        .route(
            &format!("/v1/instances/{ID}/data"),
            get(move || async move { listing }),
        );
    let server = serve(router).await;
    let line = ["data", "watch", ID, "app", "--count", "2", "--output", "json"];
    let output = ask(server.address, &line).await;
    let revisions: Vec<_> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].clone())
        .collect();
    assert_eq!(revisions, ["1.8", "1.9", "1.10", "1.11"]);
    let output = ask(server.address, &line[..6]).await;
    insta::assert_snapshot!(text(&output.stdout), @r"
    1.8  a  (gone)
    resync: changes before 1.10 were dropped; list the entries to see where they stand
    1.11  b  (gone)
    ");
}

#[tokio::test]
async fn the_exit_status_says_what_went_wrong_and_the_text_what_to_do() {
    let problem = |status: u16, title: &str, detail: &str| {
        let body = format!(
            r#"{{"type": "kind", "title": "{title}", "status": {status}, "detail": "{detail}",
            "operation": "op-{}"}}"#,
            "1".repeat(64)
        );
        json(&format!("{status} Status"), PROBLEM, &body)
    };
    let answers = [
        problem(404, "No such entry", "there is no entry 'a': see 'data list'"),
        problem(403, "Denied", "user:ann may not read 'a'\\u001b[2J"),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ];
    let (server, _requests) = script(&answers.each_ref().map(String::as_str)).await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let output = ask(server.address, &["data", "get", ID, "a"]).await;
    assert_eq!(output.status.code(), Some(4));
    let output = ask(server.address, &["data", "get", ID, "a"]).await;
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(text(&output.stderr));
    let line = ["data", "delete", ID, "a", "--idempotency-key", "k1"];
    let output = ask(server.address, &line).await;
    assert_eq!(output.status.code(), Some(3));
    let stderr = text(&output.stderr).replace(&server.address.to_string(), "ADDRESS");
    insta::assert_snapshot!(stderr);
    let output = ask(nobody, &["instance", "list"]).await;
    assert_eq!(output.status.code(), Some(3));
    insta::assert_snapshot!(text(&output.stderr).replace(&nobody.to_string(), "ADDRESS"));
    assert_eq!(ask(nobody, &["instnce"]).await.status.code(), Some(2));
    assert_eq!(ask(nobody, &["--help"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn profiles_are_kept_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("deep/config.toml");
    let run = async |line: &[&str], input: &[u8]| {
        let mut command = moorline(line);
        command.env("MOORLINE_CONFIG", &config).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        (
            output.status.code(),
            format!("{}{}", text(&output.stdout), text(&output.stderr)),
        )
    };
    let lab = [
        "profile",
        "set",
        "lab",
        "--url",
        "http://127.0.0.1:1",
        "--token-stdin",
    ];
    assert_eq!(run(&lab, b"hunter2\n").await, (Some(0), String::new()));
    let other = [
        "profile",
        "set",
        "other",
        "--url",
        "https://other:2",
        "--token-file",
        "/x/token",
    ];
    assert_eq!(run(&other, b"").await.0, Some(0));
    assert_eq!(mode(&config), 0o600);
    let (status, listing) = run(&["profile", "list"], b"").await;
    assert_eq!(status, Some(0));
    insta::assert_snapshot!(listing);
    let (_, shown) = run(&["profile", "show"], b"").await;
    insta::assert_snapshot!(shown);
    assert_eq!(run(&["instance", "list"], b"").await.0, Some(3));
    assert_eq!(run(&["profile", "use", "nowhere"], b"").await.0, Some(4));
    assert_eq!(run(&["profile", "use", "other"], b"").await.0, Some(0));
    assert_eq!(run(&["profile", "remove", "lab"], b"").await.0, Some(0));
    let kept = std::fs::read_to_string(&config).unwrap();
    assert!(
        kept.starts_with("chosen = \"other\"") && !kept.contains("hunter2"),
        "{kept}"
    );
    let (status, refused) = run(&["profile", "set", "bad", "--token-stdin"], b"hunter2 and more").await;
    assert!(status == Some(2) && !refused.contains("hunter2"), "{refused}");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_reader_that_has_had_enough_is_no_failure() {
    let mut command = moorline(&["completion", "bash"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = moorline(&["completion", shell]).output().await.unwrap();
        assert!(text(&output.stdout).contains("moorline"), "{output:?}");
    }
}
