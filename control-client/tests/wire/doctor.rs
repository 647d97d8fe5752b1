//! `moorline doctor` as a process, on hosts that are well and on hosts that aren't.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::command::moorline;
use crate::server::{Server, serve};

/// Something that runs as the daemon would, and ends with the test.
struct Process(Child);

impl Process {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -c 0; exec cat"])
            .stdin(Stdio::piped());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host: its files, a daemon's socket, and a control plane.
struct Host {
    folder: TempDir,
    process: Process,
    _control: Server,
    _socket: JoinSet<()>,
}

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ill {
    Not,
    /// The clock, the certificate, the feed, the release.
    Inside,
}

impl Host {
    async fn new(ill: Ill) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir_all(state.join("identity")).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o711)).unwrap();
        let control = control(ill).await;
        let enrolment = json!({"url": format!("http://{}", control.address)});
        fs::write(state.join("identity/enrolment.json"), enrolment.to_string()).unwrap();
        let identity = state.join("identity/identity.pem");
        fs::write(&identity, "key").unwrap();
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.path().join("vmlinuz"), "kernel").unwrap();
        let process = Process::start();
        let socket = daemon(&folder.path().join("admin.sock"), process.0.id(), ill);
        let host = Self {
            folder,
            process,
            _control: control,
            _socket: socket,
        };
        host.configure("");
        host
    }

    fn configure(&self, more: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "host = 'h1'\nzone = 'z1'\nstate_dir = '{folder}/state'\n[capacity]\nvcpus = 1\nmemory_mib = 64\n\
             [sockets]\nadmin = '{folder}/admin.sock'\n[qemu]\nbinary = '/bin/true'\naccel = 'tcg'\n\
             vsock = 'vhost-user'\nvsock_device = '/bin/true'\n[images.tiny]\nkernel = '{folder}/vmlinuz'\n{more}"
        );
        fs::write(self.folder.path().join("host.toml"), text).unwrap();
    }

    async fn doctor(&self, more: &[&str]) -> Output {
        let config = self.folder.path().join("host.toml");
        let mut line = vec!["doctor", "--config", config.to_str().unwrap()];
        line.extend(more);
        let mut command = moorline(&line);
        command.env("PATH", "/usr/bin:/bin");
        command.output().await.unwrap()
    }

    async fn report(&self) -> (Value, Option<i32>) {
        let output = self.doctor(&["--output", "json"]).await;
        let report = serde_json::from_slice(&output.stdout);
        (
            report.unwrap_or_else(|error| panic!("{error}: {output:?}")),
            output.status.code(),
        )
    }
}

fn now(plus_seconds: i64) -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    let millis = i64::try_from(since.as_millis()).unwrap() + plus_seconds * 1_000;
    moorline_shared::Timestamp::from_millis(millis)
        .unwrap()
        .to_string()
}

async fn control(ill: Ill) -> Server {
    let off = if ill == Ill::Not { 0 } else { 3_600 };
    let health = move || async move { Json(json!({"build": "moorline-control 0.1.0", "now": now(off)})) };
    serve(Router::new().route("/v1/health", get(health))).await
}

fn daemon(path: &Path, pid: u32, ill: Ill) -> JoinSet<()> {
    let well = ill == Ill::Not;
    let build = if well { env!("CARGO_PKG_VERSION") } else { "0.0.9" };
    let status = json!({
        "host": "h1", "build": format!("moorline-host {build}"), "pid": pid, "started_at": now(-60),
        "feed": {"in_step": well, "heard_ms_ago": 90_000},
        "cache": {"unwritten": 0, "set_aside": 0, "error": (!well).then_some("the disk is full")},
        "certificate": {"from": now(-100), "until": now(if well { 1_000 } else { -1 })},
        "instances": [],
    });
    let listener = UnixListener::bind(path).unwrap();
    let router = Router::new().route("/v1/status", get(|| async { Json(status) }));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    tasks
}

fn verdict<'r>(report: &'r Value, name: &str) -> &'r str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no check {name} in {report:#}"));
    let verdict = check["verdict"].as_str().unwrap();
    assert_eq!(verdict == "ok", check["advice"].is_null(), "{check}");
    verdict
}

#[tokio::test]
async fn a_host_that_is_well_is_told_so() {
    let host = Host::new(Ill::Not).await;
    let (report, status) = host.report().await;
    assert_eq!((&report["version"], &report["host"]), (&json!(1), &json!("h1")));
    for name in [
        "configuration",
        "daemon",
        "release",
        "certificate",
        "feed",
        "cache",
        "control plane",
        "clock",
        "kvm",
        "vsock",
        "qemu",
        "capacity",
        "core files",
        "state",
        "identity",
        "set aside",
        "images",
    ] {
        assert_eq!(verdict(&report, name), "ok", "{name}: {report:#}");
    }
    assert_eq!(status, Some(0), "{report:#}");
    assert!(host.process.0.id() > 0);
}

#[tokio::test]
async fn what_is_wrong_inside_is_told_with_what_to_do() {
    let host = Host::new(Ill::Inside).await;
    let (report, status) = host.report().await;
    for (name, found) in [
        ("release", "warn"),
        ("feed", "warn"),
        ("certificate", "fail"),
        ("cache", "fail"),
        ("clock", "fail"),
    ] {
        assert_eq!(verdict(&report, name), found, "{report:#}");
    }
    assert_eq!((&report["verdict"], status), (&json!("fail"), Some(1)));
    let output = host.doctor(&[]).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("-> set it, and keep it so"), "{table}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("3 of these checks failed"), "{said}");
}

#[tokio::test]
async fn files_that_are_missing_open_to_others_or_damaged_are_named() {
    let host = Host::new(Ill::Not).await;
    let state = host.folder.path().join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let identity = state.join("identity/identity.pem");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(state.join("generations.json.corrupt-1"), "").unwrap();
    fs::remove_file(host.folder.path().join("vmlinuz")).unwrap();
    let (report, status) = host.report().await;
    for (name, found) in [
        ("state", "fail"),
        ("identity", "fail"),
        ("set aside", "warn"),
        ("images", "fail"),
    ] {
        assert_eq!(verdict(&report, name), found, "{report:#}");
    }
    assert_eq!(status, Some(1));
}

#[tokio::test]
async fn a_host_on_which_nothing_runs_is_looked_at_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("host.toml");
    let state = folder.path().display();
    let text = format!(
        "state_dir = '{state}/none'\nsockets.admin = '{state}/none.sock'\ncontrol.url = 'http://127.0.0.1:9'\n\
         qemu.binary = '{state}/none'\n"
    );
    fs::write(&config, text).unwrap();
    let line = ["doctor", "--config", config.to_str().unwrap(), "--output", "json"];
    let output = moorline(&line).output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["daemon", "control plane", "state", "identity"] {
        assert_eq!(verdict(&report, name), "fail", "{report:#}");
    }
    assert_eq!(
        verdict(&report, "qemu"),
        "warn",
        "without images none is needed: {report:#}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_configuration_with_a_mistake_is_named_and_its_secrets_are_not() {
    let host = Host::new(Ill::Not).await;
    host.configure("[roles.a]\nenvironment = {KEY = 'hunter2', KEY = 'hunter2'}\n");
    let output = host.doctor(&["--output", "json"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(verdict(&report, "configuration"), "fail");
    assert!(!text.contains("hunter2"), "{text}");
}
