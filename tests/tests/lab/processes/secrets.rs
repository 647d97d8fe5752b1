//! A secret entry over its whole life, and then a look at everything that the daemons left: nothing tells it.

use super::telltale::{Telltale, search, tells_nothing};
use crate::alone::path;
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_shared::api::data::{AppendEntry, PutEntry};
use moorline_shared::{Digest, InstanceId};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A secret that stands nowhere else. None is part of another.
fn secret(of: &str) -> String {
    format!("lab-secret-of-{of}-4f1e0b7c")
}

/// What the lives below give, each in another way.
const GIVEN: [&str; 7] = ["attach", "put", "again", "append", "refused", "stdin", "run"];
/// Values that are no secret: a text, and what else has to be in bytes.
const ORDINARY: [&str; 2] = ["lab-text-of-no-secret-91d3", "lab-bytes-of-no-secret-70be"];

/// The same as bytes that are no text, which have another form in JSON.
fn no_text(value: &str) -> Bytes {
    [b"\xff", value.as_bytes()].concat().into()
}

#[tokio::test]
async fn nothing_that_the_daemons_leave_tells_a_secret() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let data = BTreeMap::from([(path("db/attached"), PutEntry::secret((&*secret("attach")).into()))]);
    let external = deployment.register(None, "a", data).await?;
    let there = async || deployment.guest_status(external.id).await?.revision;
    wait::until("the host to have the instance's data", PATIENCE, there).await?;
    let mut talker = Talker::begin(&external.socket()).await?;
    live(&deployment, external.id).await?;
    for (at, of) in [
        ("db/attached", "attach"),
        ("db/password", "again"),
        ("db/piped", "stdin"),
    ] {
        let value = secret(of);
        let shown = |mirror: &crate::talker::Mirror| mirror.text(at).as_deref() == Some(&*value);
        talker.until(at, shown).await?;
    }
    let revision = deployment
        .guest_status(external.id)
        .await
        .and_then(|status| status.revision);
    deployment
        .host_keeps(revision.context("the host has the data")?)
        .await?;
    let told = told(&deployment, external.id).await?;
    let secrets: Vec<_> = secrets().collect();
    tells_nothing("what the commands said", told.as_bytes(), &secrets)?;
    // Killed, so that the write-ahead log is still there.
    deployment.control_mut().kill().await?;
    deployment.kill_host().await?;
    let telltales: Vec<_> = secrets.into_iter().chain(ordinary()).collect();
    search(deployment.folder(), &telltales)
}

/// The secrets, and what one can be tried out against.
fn secrets() -> impl Iterator<Item = Telltale> {
    let texts = GIVEN.map(|of| (of, Bytes::from(secret(of))));
    let all = texts.into_iter().chain([("bytes", no_text(&secret("bytes")))]);
    all.flat_map(|(of, secret)| {
        let digest = Digest::of(&secret);
        [
            Telltale::of(format!("the secret of {of}"), secret),
            Telltale::of(format!("the digest of the secret of {of}"), digest.bytes()),
        ]
    })
}

/// What the store and the host's cache have in the clear, so that the search must find it there.
fn ordinary() -> [Telltale; 2] {
    let [text, bytes] = ORDINARY;
    [Bytes::from(text), no_text(bytes)]
        .map(|value| Telltale::of("what is no secret", value).in_file(&["store.db", "store.db-wal", ".view"]))
}

/// Secrets given, given again, refused and removed.
async fn live(deployment: &Deployment, id: InstanceId) -> Result<()> {
    let (client, at) = (deployment.client(), path("db/password"));
    let put = |of: &str| PutEntry::secret((&*secret(of)).into());
    let terms = Terms::fresh();
    let first = client.put_instance_data(id, &at, &put("put"), &terms).await?;
    let again = client.put_instance_data(id, &at, &put("put"), &terms).await?;
    ensure!(first.revision == again.revision, "it was done twice");
    let plainly = PutEntry::value((&*secret("again")).into());
    client
        .put_instance_data(id, &at, &plainly, &Terms::fresh())
        .await?;
    let more = AppendEntry {
        value: (&*secret("append")).into(),
    };
    let appended = client.append_instance_data(id, &at, &more, &Terms::fresh()).await;
    ensure!(appended.is_err(), "something was appended to a secret");
    let guarded = Terms::fresh().if_absent();
    let refused = client.put_instance_data(id, &at, &put("refused"), &guarded).await;
    ensure!(refused.is_err(), "the guard held nothing up");
    let gone = path("db/gone");
    client
        .put_instance_data(id, &gone, &put("run"), &Terms::fresh())
        .await?;
    client.delete_instance_data(id, &gone, &Terms::fresh()).await?;
    bytes_and_no_secrets(deployment, id).await?;
    piped(deployment, id).await
}

/// A secret that is no text, and entries that are no secret.
async fn bytes_and_no_secrets(deployment: &Deployment, id: InstanceId) -> Result<()> {
    let (client, [text, bytes]) = (deployment.client(), ORDINARY);
    for (at, entry) in [
        ("db/bytes", PutEntry::secret(no_text(&secret("bytes")).into())),
        ("ordinary/text", PutEntry::value(text.into())),
        ("ordinary/bytes", PutEntry::value(no_text(bytes).into())),
    ] {
        client
            .put_instance_data(id, &path(at), &entry, &Terms::fresh())
            .await?;
    }
    Ok(())
}

/// A secret by the standard input of the command line.
async fn piped(deployment: &Deployment, id: InstanceId) -> Result<()> {
    let mut command = deployment.cli();
    command.args(["data", "set", &id.to_string(), "db/piped", "--secret", "--stdin"]);
    command.stdin(std::process::Stdio::piped());
    let mut child = command.spawn().context("moorline data set")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin.write_all(secret("stdin").as_bytes()).await?;
    drop(stdin);
    ensure!(child.wait().await?.success(), "moorline data set failed");
    Ok(())
}

/// What those are told who ask what was done, and what the host is doing.
async fn told(deployment: &Deployment, id: InstanceId) -> Result<String> {
    let id = id.to_string();
    let mut told = String::new();
    let list = ["operation", "list", "--output", "json"];
    let entries = ["data", "list", &*id, "--output", "json"];
    for args in [&list[..], &entries] {
        told += &finish(deployment.cli().args(args)).await?;
    }
    let status: serde_json::Value = serde_json::to_value(deployment.guest_status(id.parse()?).await)?;
    Ok(told + &status.to_string())
}

/// A daemon that crashes leaves no core, by its limit and by what the kernel says of its end. (`nested` crashes them where
/// cores are passed on without regard to limits.)
#[tokio::test]
async fn no_daemon_writes_a_core_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut other = Command::new("sh");
    other.args(["-c", "ulimit -c unlimited && kill -ABRT $$"]);
    let other = other.current_dir(&folder).status().await?;
    ensure!(other.core_dumped(), "nobody's core is written here: {other}");
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    for (name, pid) in [
        ("the control plane", deployment.control_pid()),
        ("the host daemon", deployment.host_pid()),
    ] {
        let pid = pid.with_context(|| format!("{name} doesn't run"))?;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let cores = limits.lines().find(|line| line.starts_with("Max core file size"));
        let fields: Vec<_> = cores.context("no such limit")?.split_whitespace().collect();
        ensure!(fields[4..6] == ["0", "0"], "{name}: {fields:?}");
    }
    for ended in [
        deployment.abort_host().await?,
        deployment.control_mut().abort().await?,
    ] {
        ensure!(ended.signal().is_some() && !ended.core_dumped(), "{ended}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_under_another_master_key_is_not_served() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    deployment.control_mut().kill().await?;
    let key = deployment.folder().join("control/master.key");
    let kept = std::fs::read(&key)?;
    std::fs::write(&key, format!("{}\n", "0".repeat(64)))?;
    let mut command = tokio::process::Command::new(deployment.programs().path("moorline-control"));
    command.arg("--state").arg(deployment.folder().join("control"));
    command.args(["--listen", "127.0.0.1:0"]);
    let ended = command.output().await?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(!ended.status.success(), "it serves: {said}");
    ensure!(said.contains("master.key"), "nothing says what to do: {said}");
    std::fs::write(&key, kept)?;
    deployment.control_mut().restart().await
}
