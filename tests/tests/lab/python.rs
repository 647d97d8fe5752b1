//! A guest that was written in Python from `PROTOCOL.md` alone, against real daemons: the document is enough.
//!
//! The guest is in the folder `python` beside this test's package, and tells what it sees in lines of JSON.

use crate::alone::{path, readers};
use crate::processes::put;
use anyhow::{Context, Result, bail, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::process::tied;
use moorline_lab::setup::{self, packages};
use moorline_shared::InstanceId;
use moorline_shared::api::data::{Changed, SetAccess};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Far more than a frame takes, and less than a value may have.
const LARGE: usize = 200 * 1024;

/// Python, where the guest's package and its tests are found, leaving nothing behind in the checkout.
async fn python() -> Result<Command> {
    packages::installed(&[setup::PYTHON]).await?;
    let mut command = tied("python3");
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// The Python guest, running.
struct Guest {
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it told and nobody has asked for yet.
    told: Vec<Value>,
    requests: u64,
    _process: Child,
}

impl Guest {
    async fn start(socket: PathBuf) -> Result<Self> {
        let mut command = python().await?;
        command.args(["-m", "moorline_guest", "--link"]).arg(socket);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().context("the guest's output")?;
        Ok(Self {
            input: process.stdin.take().context("the guest's input")?,
            lines: BufReader::new(output).lines(),
            told: Vec::new(),
            requests: 0,
            _process: process,
        })
    }

    async fn say(&mut self, command: &Value) -> Result<()> {
        let line = format!("{command}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .context("command the guest")
    }

    /// The first event that is wanted and that wasn't taken yet.
    async fn event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(place) = self.told.iter().position(&wanted) {
            return Ok(self.told.remove(place));
        }
        let next = async {
            while let Some(line) = self.lines.next_line().await? {
                let event = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
                if wanted(&event) {
                    return Ok(event);
                }
                self.told.push(event);
            }
            bail!("the guest ended")
        };
        let event = timeout(PATIENCE, next)
            .await
            .map_err(anyhow::Error::from)
            .flatten();
        event.with_context(|| format!("wait for {what}; told meanwhile: {:?}", self.told))
    }

    /// Asks for something, and answers with what ends the request.
    async fn ask(&mut self, mut request: Value) -> Result<Value> {
        self.requests += 1;
        let id = self.requests;
        request["id"] = id.into();
        self.say(&request).await?;
        let answers = |event: &Value| event["event"] == "answer" && event["id"] == id;
        self.event("an answer", answers).await
    }

    async fn get(&mut self, instance: InstanceId, path: &str) -> Result<Value> {
        let request = json!({ "do": "get", "instance": instance.to_string(), "path": path });
        self.ask(request).await
    }

    /// The beginning of the next session.
    async fn session(&mut self) -> Result<Value> {
        self.event("a session", |event| event["event"] == "session").await
    }

    /// The next batch of its mirror.
    async fn batch(&mut self) -> Result<Value> {
        let of_mirror = |event: &Value| event["event"] == "batch" && event["id"].is_null();
        self.event("a batch", of_mirror).await
    }

    /// Takes the next batch of its mirror, which must consist of one change, the one that brought it from where it
    /// stood to `changed`. Answers with what became of the entry.
    async fn only_change(&mut self, from: &str, path: &str, changed: &Changed) -> Result<Value> {
        let batch = self.batch().await?;
        ensure!(
            batch["from"] == from && batch["to"] == changed.revision.to_string(),
            "{batch}"
        );
        match &batch["changes"].as_array().context("the changes")?[..] {
            [change] if change["path"] == path => Ok(change.clone()),
            others => bail!("{others:?} instead of a change at {path}"),
        }
    }

    /// Everything in its mirror, whose age it must have been told.
    async fn mirror(&mut self) -> Result<Value> {
        self.say(&json!({ "do": "mirror" })).await?;
        let mirror = self.event("the mirror", |event| event["event"] == "mirror");
        let mut mirror = mirror.await?;
        ensure!(mirror["age_ms"].is_u64(), "how old is it? {mirror}");
        Ok(mirror["entries"].take())
    }

    /// Waits until its mirror stands where this change led, or beyond.
    async fn reaches(&mut self, changed: &Changed) -> Result<()> {
        loop {
            let batch = self.batch().await?;
            let to = batch["to"].as_str().context("where the batch leads")?;
            if to.parse::<moorline_shared::Revision>()? >= changed.revision {
                return Ok(());
            }
        }
    }
}

/// What the guest tells of a value.
fn shown(value: &str) -> Value {
    let digest = format!("{:x}", Sha256::digest(value));
    let mut shown = json!({ "length": value.len(), "sha256": digest });
    if value.len() <= 1_024 {
        shown["text"] = value.into();
    }
    shown
}

async fn two_instances() -> Result<(Deployment, External, External)> {
    let deployment = Plan::new(Programs::build().await?).start().await?;
    let own = deployment
        .attach("own", &[("name", "own"), ("gone", "soon")])
        .await?;
    let other = deployment
        .attach("other", &[("open", "to both"), ("closed", "to others")])
        .await?;
    Ok((deployment, own, other))
}

#[tokio::test]
async fn python_takes_every_vector_and_refuses_every_fault() -> Result<()> {
    let mut command = python().await?;
    let output = command.args(["-m", "unittest", "discover"]).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    // With nothing to run it succeeds as well.
    ensure!(
        said.contains("Ran ") && !said.contains("Ran 0 tests"),
        "there are no tests: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_mirror_of_a_python_guest_follows_its_instance() -> Result<()> {
    let (deployment, own, _other) = two_instances().await?;
    let client = deployment.client();
    let mut guest = Guest::start(own.socket()).await?;
    let session = guest.session().await?;
    ensure!(
        session["instance"] == own.id.to_string() && session["incarnation"] == own.incarnation,
        "{session}"
    );
    ensure!(session["applied"].is_null(), "{session}");
    let snapshot = guest.batch().await?;
    ensure!(snapshot["from"].is_null(), "{snapshot}");
    let mut at = snapshot["to"].as_str().context("where it leads")?.to_owned();
    let mirror = guest.mirror().await?;
    ensure!(
        mirror["meta/instance-id"] == shown(&own.id.to_string()),
        "{mirror}"
    );
    ensure!(
        mirror["name"] == shown("own") && mirror["gone"] == shown("soon"),
        "{mirror}"
    );

    let large = "0123456789abcdef".repeat(LARGE / 16);
    for value in ["changed", &large, ""] {
        let changed = put(client, own.id, "name", value).await?;
        let change = guest.only_change(&at, "name", &changed).await?;
        ensure!(change["value"] == shown(value), "{change}");
        at = changed.revision.to_string();
    }
    let gone = client
        .delete_instance_data(own.id, &path("gone"), &Terms::fresh())
        .await?;
    let change = guest.only_change(&at, "gone", &gone).await?;
    ensure!(change["gone"] == true, "{change}");
    let mirror = guest.mirror().await?;
    ensure!(
        mirror["gone"].is_null() && mirror["name"] == shown(""),
        "{mirror}"
    );
    Ok(())
}

#[tokio::test]
async fn a_python_guest_reads_what_it_may_and_writes_its_own() -> Result<()> {
    let (deployment, own, other) = two_instances().await?;
    let client = deployment.client();
    let body = SetAccess {
        access: readers(&["owner", &format!("instance:{}", own.id)])?,
    };
    client
        .set_entry_access(other.id, &path("open"), &body, &Terms::fresh())
        .await?;
    let mut guest = Guest::start(own.socket()).await?;
    guest.session().await?;
    guest.batch().await?;

    let found = guest.get(own.id, "name").await?;
    ensure!(
        found["kind"] == "FOUND" && found["value"] == shown("own"),
        "{found}"
    );
    let found = guest.get(other.id, "open").await?;
    ensure!(
        found["kind"] == "FOUND" && found["value"] == shown("to both"),
        "{found}"
    );
    for (instance, path, code) in [
        (other.id, "closed", "NotFound"),
        (other.id, "none", "NotFound"),
        (own.id, "none", "NotFound"),
        (own.id, "no//path", "Invalid"),
    ] {
        let refused = guest.get(instance, path).await?;
        ensure!(
            refused["kind"] == "REFUSED" && refused["code"] == code,
            "{path}: {refused}"
        );
    }
    let request = json!({ "do": "list", "prefix": "", "instance": other.id.to_string() });
    let listing = guest.ask(request).await?;
    let names: Vec<_> = listing["entries"]
        .as_array()
        .context("the entries")?
        .iter()
        .map(|entry| &entry["path"])
        .collect();
    ensure!(names == ["open"], "{listing}");

    watches(&mut guest, &deployment, &other).await?;

    // A body of many frames goes up as DATA, and the value comes back as DATA and as a batch.
    let large = "fedcba9876543210".repeat(LARGE / 16);
    let request = json!({
        "do": "relay", "method": "PUT",
        "target": format!("/v1/instances/{}/data/written", own.id),
        "headers": { "content-type": "application/json" },
        "body": json!({ "value": large }).to_string(),
    });
    let relayed = guest.ask(request).await?;
    ensure!(
        relayed["kind"] == "RELAYED" && relayed["status"] == 200,
        "{relayed}"
    );
    let batch = guest.batch().await?;
    ensure!(batch["changes"][0]["value"] == shown(&large), "{batch}");
    let found = guest.get(own.id, "written").await?;
    ensure!(found["value"] == shown(&large), "{found}");
    Ok(())
}

/// Watches what may be read of the other instance, until it is told to stop.
async fn watches(guest: &mut Guest, deployment: &Deployment, other: &External) -> Result<()> {
    let watched = |event: &Value| event["event"] == "batch" && event["id"] == "watch";
    let instance = other.id.to_string();
    guest
        .say(&json!({ "id": "watch", "do": "watch", "prefix": "open", "instance": instance }))
        .await?;
    let snapshot = guest.event("the watch's snapshot", watched).await?;
    ensure!(snapshot["from"].is_null(), "{snapshot}");
    ensure!(snapshot["changes"][0]["value"] == shown("to both"), "{snapshot}");
    put(deployment.client(), other.id, "open", "changed").await?;
    let change = guest.event("the watch's change", watched).await?;
    ensure!(change["from"] == snapshot["to"], "{change}");
    ensure!(change["changes"][0]["value"] == shown("changed"), "{change}");
    guest.say(&json!({ "id": "watch", "do": "cancel" })).await?;
    let ends = |event: &Value| event["event"] == "answer" && event["id"] == "watch";
    let end = guest.event("the watch's end", ends).await?;
    ensure!(end["kind"] == "RESET" && end["code"] == "Cancelled", "{end}");
    Ok(())
}

#[tokio::test]
async fn a_python_guest_goes_on_from_the_revision_that_it_applied() -> Result<()> {
    let (mut deployment, own, _other) = two_instances().await?;
    let mut guest = Guest::start(own.socket()).await?;
    guest.session().await?;
    let snapshot = guest.batch().await?;
    let mut at = snapshot["to"].as_str().context("where it leads")?.to_owned();

    // The host has nothing newer: it sends nothing but the next change.
    for value in ["first", "second"] {
        guest.say(&json!({ "do": "redial" })).await?;
        let session = guest.session().await?;
        ensure!(session["applied"] == at && session["kept"] == true, "{session}");
        let changed = put(deployment.client(), own.id, "name", value).await?;
        let change = guest.only_change(&at, "name", &changed).await?;
        ensure!(change["value"] == shown(value), "{change}");
        at = changed.revision.to_string();
    }

    deployment.kill_host().await?;
    let gone = deployment
        .client()
        .delete_instance_data(own.id, &path("gone"), &Terms::fresh())
        .await?;
    deployment.start_host().await?;
    let session = guest.session().await?;
    ensure!(session["applied"] == at && session["kept"] == true, "{session}");
    guest.reaches(&gone).await?;
    let mirror = guest.mirror().await?;
    ensure!(
        mirror["gone"].is_null() && mirror["name"] == shown("second"),
        "{mirror}"
    );
    // And it lives on.
    let changed = put(deployment.client(), own.id, "name", "third").await?;
    guest.reaches(&changed).await?;
    ensure!(guest.mirror().await?["name"] == shown("third"));
    Ok(())
}
