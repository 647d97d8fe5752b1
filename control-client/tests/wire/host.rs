//! The host daemon's sockets: what is sent there, by the library and by the command.

use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use moorline_client::{ClientError, HostSocket};
use moorline_shared::InstanceId;
use moorline_shared::host::Unregister;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const ID: InstanceId = InstanceId::from_bytes([0x1a; 16]);

/// A register socket that takes everything. Each body arrives in the channel.
fn register_socket(path: &Path) -> (JoinSet<()>, mpsc::UnboundedReceiver<serde_json::Value>) {
    let (seen, bodies) = mpsc::unbounded_channel();
    let also_seen = seen.clone();
    let register = move |Json(body): Json<serde_json::Value>| async move {
        seen.send(body).unwrap();
        Json(serde_json::json!({"instance": ID, "incarnation": 3}))
    };
    let unregister = move |Json(body): Json<serde_json::Value>| async move {
        also_seen.send(body).unwrap();
        StatusCode::NO_CONTENT
    };
    let router = Router::new()
        .route("/v1/register", post(register))
        .route("/v1/unregister", post(unregister));
    let listener = UnixListener::bind(path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (tasks, bodies)
}

#[tokio::test]
async fn a_socket_is_asked_by_its_path_and_named_where_it_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("register.sock");
    let (_tasks, mut bodies) = register_socket(&path);
    let body = Unregister { instance: ID };
    HostSocket::new(&path).unwrap().unregister(&body).await.unwrap();
    assert_eq!(bodies.recv().await.unwrap(), serde_json::json!({"instance": ID}));

    let nobody = folder.path().join("nobody.sock");
    let error = HostSocket::new(&nobody).unwrap().status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    let text = error
        .to_string()
        .replace(folder.path().to_str().unwrap(), "/FOLDER");
    insta::assert_snapshot!(text, @"the host daemon at unix:/FOLDER/nobody.sock:/v1/status can't be reached: see that it runs, that the path is right, and that this user may use the socket");
}

/// The daemon may have to wait for the control plane, and makes the registration whether or not anybody waits for it.
#[tokio::test(start_paused = true)]
async fn a_registration_is_waited_for_as_long_as_the_daemon_is_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("register.sock");
    let unregister = || async {
        tokio::time::sleep(Duration::from_secs(119)).await;
        StatusCode::NO_CONTENT
    };
    let listener = UnixListener::bind(&path).unwrap();
    let router = Router::new().route("/v1/unregister", post(unregister));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let body = Unregister { instance: ID };
    HostSocket::new(&path).unwrap().unregister(&body).await.unwrap();
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_key_that_is_advised_is_the_one_that_was_sent() {
    use crate::server::{header, script};
    use axum::body::Body;
    let folder = tempfile::tempdir().unwrap();
    let (server, mut requests) = script(&["", "", "", "", "", "", "", ""]).await;
    let lose = async |line: &str| {
        let line: Vec<_> = line.split(' ').collect();
        let mut command = crate::command::moorline(&line);
        command
            .env("MOORLINE_URL", format!("http://{}", server.address))
            .env("MOORLINE_TOKEN", "hunter2");
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = lose("host revoke h1").await;
    for _ in 0..4 {
        let request = requests.recv().await.unwrap();
        let key = header(&request, "idempotency-key").unwrap();
        assert!(told.contains(&format!("--idempotency-key {key},")), "{told}");
    }
    // Another token has another secret: no key makes it the same.
    let told = lose("host enroll-token h1 --idempotency-key k1").await;
    assert!(
        told.contains("look before you repeat") && !told.contains("k1,"),
        "{told}"
    );
    assert_eq!(
        header(&requests.recv().await.unwrap(), "idempotency-key"),
        Some("k1")
    );

    let path = folder.path().join("register.sock");
    let (seen, mut bodies) = mpsc::unbounded_channel();
    let hang_up = move |Json(body): Json<serde_json::Value>| async move {
        seen.send(body).unwrap();
        let broken = async { Err::<String, _>(std::io::Error::other("hung up")) };
        Body::from_stream(futures_util::stream::once(broken))
    };
    let listener = UnixListener::bind(&path).unwrap();
    let mut tasks = JoinSet::new();
    let router = Router::new().route("/v1/register", post(hang_up));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let told = lose(&format!(
        "host attach --socket {} --cid 7 --unsupervised",
        path.display()
    ))
    .await;
    let body = bodies.recv().await.unwrap();
    let key = body["key"].as_str().unwrap();
    assert!(told.contains(&format!("--idempotency-key {key},")), "{told}");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn a_vm_is_attached_and_detached_without_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("register.sock");
    let (_tasks, mut bodies) = register_socket(&path);
    let socket = path.to_str().unwrap();
    let pid = std::process::id();
    let run = async |line: &str| {
        let line: Vec<_> = line.split(' ').collect();
        let output = crate::command::moorline(&line).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let told = run(&format!(
        "host attach --socket {socket} --path /vms/web.vsock --pid {pid} --name web"
    ))
    .await;
    assert_eq!(told, format!("attached as {ID}, in life 3 of its VM\n"));
    let body = bodies.recv().await.unwrap();
    assert_eq!(
        body["channel"],
        serde_json::json!({"hybrid": {"path": "/vms/web.vsock"}})
    );
    assert_eq!(body["supervision"]["vmm"]["pid"], pid);
    assert!(body["supervision"]["vmm"]["started"].is_u64(), "{body}");
    assert_eq!(body["name"], "web");

    run(&format!(
        "host attach --socket {socket} --cid 7 --unsupervised --data a/b=c --instance {ID}"
    ))
    .await;
    let body = bodies.recv().await.unwrap();
    assert_eq!(body["channel"], serde_json::json!({"vsock": {"cid": 7}}));
    assert_eq!(body["supervision"], "unsupervised");
    assert_eq!(body["data"]["a/b"]["value"], "c");

    let told = run(&format!(
        "host detach --socket {socket} 1a1a1a1a-1a1a-1a1a-1a1a-1a1a1a1a1a1a"
    ))
    .await;
    assert_eq!(told, format!("detached {ID}\n"));
}
