//! The `moorline` command against a real control plane: exit statuses, JSON, keys, a watch that outlives its server.

use super::watches::told;
use crate::alone::Alone;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::data::{Changed, Description, Entry, EntryPage, History, WatchEvent};
use moorline_shared::api::hosts::HostPage;
use moorline_shared::api::instances::{Desired, Instance, InstancePage, InstanceState, InstancesMade};
use moorline_shared::api::operations::{Operation, OperationPage};
use serde::de::DeserializeOwned;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

impl Alone {
    async fn moorline(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.control.cli().args(arguments).output().await?)
    }

    /// Runs a command that must end with this status, and answers with what it said of the error.
    async fn ends_with(&self, status: i32, arguments: &[&str]) -> Result<String> {
        let output = self.moorline(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(status),
            "{arguments:?} ended with {}: {said}",
            output.status
        );
        Ok(said)
    }

    /// What a command answers with in JSON.
    async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self
            .moorline(&[arguments, &["--output", "json"]].concat())
            .await?;
        let (text, said) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success(),
            "{arguments:?} ended with {}: {said}",
            output.status
        );
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} wrote: {text}"))
    }
}

#[tokio::test]
async fn the_exit_status_says_how_a_command_ended() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    alone.instance("h", "web").await?;
    alone
        .ends_with(0, &["data", "set", "web", "config/mode", "blue"])
        .await?;

    let refused = alone
        .ends_with(1, &["data", "set", "web", "config/mode", "red", "--if-absent"])
        .await?;
    ensure!(
        refused.contains("record: moorline operation show op-"),
        "{refused}"
    );
    let provider = alone
        .ends_with(1, &["data", "set", "web", "meta/instance-id", "mine"])
        .await?;
    ensure!(provider.contains("meta"), "{provider}");

    for wrong in [
        &["data", "set", "web", "config//mode", "red"][..],
        &["data", "set", "web", "config/mode"],
        &["data", "set", "web", "config/mode", "red", "--ttl", "0s"],
        &[
            "instance", "run", "--image", "x", "--type", "micro", "--count", "101",
        ],
        &["no-such-noun"],
    ] {
        alone.ends_with(2, wrong).await?;
    }

    for missing in [
        &["data", "get", "web", "no/such/entry"][..],
        &["data", "get", "nobody", "config/mode"],
        &["instance", "show", "nobody"],
        &["operation", "show", &format!("op-{}", "0".repeat(64))],
    ] {
        alone.ends_with(4, missing).await?;
    }

    let mut alone = alone;
    alone.control.kill().await?;
    let silent = alone.ends_with(3, &["instance", "list"]).await?;
    ensure!(silent.contains("can't be reached"), "{silent}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_told_from_a_missing_one() -> Result<()> {
    let alone = Alone::start().await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "x".repeat(40))?;
    let wrong = file.path().display().to_string();
    let refused = alone
        .ends_with(1, &["instance", "list", "--token-file", &wrong])
        .await?;
    ensure!(
        !refused.contains(&"x".repeat(40)),
        "the token is shown: {refused}"
    );
    ensure!(refused.contains("the token that was sent is"), "{refused}");
    alone
        .ends_with(1, &["instance", "list", "--token-file", "/no/such/file"])
        .await?;
    Ok(())
}

#[tokio::test]
async fn every_answer_in_json_is_the_apis_own() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let set: Changed = alone.json(&["data", "set", "web", "config/mode", "blue"]).await?;
    alone
        .json::<Changed>(&["data", "append", "web", "config/mode", "green"])
        .await?;
    alone
        .json::<Changed>(&[
            "data",
            "access",
            "set",
            "web",
            "config/mode",
            "--grant",
            "owner=read",
        ])
        .await?;
    alone
        .json::<Changed>(&["data", "batch", "web", "--set", "a=1", "--set", "b=2"])
        .await?;
    alone.json::<Changed>(&["data", "delete", "web", "b"]).await?;

    let entry: Entry = alone.json(&["data", "get", "web", "config/mode"]).await?;
    ensure!(entry.value == Some("bluegreen".into()), "{entry:?}");
    let page: EntryPage = alone.json(&["data", "list", "web", "config", "--values"]).await?;
    ensure!(page.entries.len() == 1, "{page:?}");
    let history: History = alone.json(&["data", "history", "web", "config/mode"]).await?;
    let apis: Vec<_> = history.changes.iter().map(|change| change.api.as_str()).collect();
    ensure!(
        apis.last() == Some(&"PutInstanceData") && apis.contains(&"AppendInstanceData"),
        "{apis:?}"
    );
    alone.json::<Description>(&["data", "describe", "web"]).await?;

    let instance: Instance = alone.json(&["instance", "show", "web"]).await?;
    ensure!(instance.id == id, "{instance:?}");
    let instances: InstancePage = alone.json(&["instance", "list"]).await?;
    ensure!(instances.instances.len() == 1, "{instances:?}");
    let hosts: HostPage = alone.json(&["host", "list"]).await?;
    ensure!(hosts.hosts.len() == 1, "{hosts:?}");
    let operation: Operation = alone
        .json(&["operation", "show", &set.operation.to_string()])
        .await?;
    ensure!(
        (operation.id, operation.revision) == (set.operation, set.revision),
        "{operation:?}"
    );
    let operations: OperationPage = alone.json(&["operation", "list", "--instance", "web"]).await?;
    ensure!(
        operations
            .operations
            .iter()
            .any(|found| found.id == set.operation)
    );
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_is_a_problem_in_json() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    alone.instance("h", "web").await?;
    let problem = async |status, arguments: &[&str]| {
        let said = alone
            .ends_with(status, &[arguments, &["--output", "json"]].concat())
            .await?;
        serde_json::from_str::<serde_json::Value>(&said)
            .with_context(|| format!("{arguments:?} said: {said}"))
    };
    let set = &["data", "set", "web", "meta/host", "mine"];
    let refused = problem(1, set).await?;
    ensure!(refused["type"] == "access-denied", "{refused}");
    ensure!(
        refused["field"] == "path" && refused["status"] == 403,
        "{refused}"
    );
    let operation = refused["operation"].as_str().context("there is a record")?;
    let record: Operation = alone.json(&["operation", "show", operation]).await?;
    ensure!(record.api == "PutInstanceData", "{record:?}");
    let unknown = problem(4, &["data", "get", "nobody", "a"]).await?;
    ensure!(unknown["type"] == "not-found", "{unknown}");
    let mut alone = alone;
    alone.control.kill().await?;
    let said = alone
        .ends_with(3, &["instance", "list", "--output", "json"])
        .await?;
    let silent: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(silent["type"] == "no-answer", "{silent}");
    ensure!(silent["causes"].is_array(), "{silent}");
    Ok(())
}

#[tokio::test]
async fn the_life_of_an_instance_is_told_in_json() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let run = [
        "instance", "run", "--image", "busybox", "--type", "micro", "--name", "web",
    ];
    let made: InstancesMade = alone.json(&run).await?;
    let id = made.instances.first().context("one was made")?.id;
    for (arguments, state, desired) in [
        (
            &["modify", "web", "--tag", "role=web"][..],
            InstanceState::Pending,
            Desired::Running,
        ),
        (&["stop", "web"], InstanceState::Stopping, Desired::Stopped),
        (&["start", "web"], InstanceState::Pending, Desired::Running),
        (&["reboot", "web"], InstanceState::Pending, Desired::Running),
        (
            &["terminate", "web"],
            InstanceState::ShuttingDown,
            Desired::Terminated,
        ),
    ] {
        let made: InstancesMade = alone.json(&[&["instance"], arguments].concat()).await?;
        let found = made.instances.first().context("it is shown")?;
        ensure!(
            (found.id, found.state, found.desired) == (id, state, desired),
            "{arguments:?}: {found:?}"
        );
        ensure!(found.tags.len() == 1, "{found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_profile_is_told_in_json() -> Result<()> {
    let alone = Alone::start().await?;
    let folder = tempfile::tempdir()?;
    let run = async |arguments: &[&str]| {
        let mut command = alone.control.cli();
        command.env("MOORLINE_CONFIG", folder.path().join("profiles.toml"));
        let output = command.args(arguments).args(["-o", "json"]).output().await?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(serde_json::from_slice::<serde_json::Value>(&output.stdout)?)
    };
    let set = run(&["profile", "set", "lab", "--url", "https://127.0.0.1:1"]).await?;
    ensure!(set["name"] == "lab" && set["chosen"] == true, "{set}");
    let shown = run(&["profile", "show", "lab"]).await?;
    ensure!(shown["url"] == set["url"], "{shown}");
    let list = run(&["profile", "list"]).await?;
    ensure!(list.as_array().is_some_and(|all| all.len() == 1), "{list}");
    Ok(())
}

#[tokio::test]
async fn access_is_set_only_where_the_entry_stands_as_was_said() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    alone.instance("h", "web").await?;
    let set: Changed = alone.json(&["data", "set", "web", "a", "1"]).await?;
    let (at, early) = (set.revision.to_string(), "1.1");
    let access = |revision| {
        [
            "data",
            "access",
            "set",
            "web",
            "a",
            "--default",
            "--if-revision",
            revision,
        ]
    };
    let refused = alone.ends_with(1, &access(early)).await?;
    ensure!(refused.contains("must be at 1.1"), "{refused}");
    alone.json::<Changed>(&access(&at)).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_repeated_with_its_key_is_done_once() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    alone.instance("h", "web").await?;
    alone.json::<Changed>(&["data", "set", "web", "log", "a"]).await?;
    let append = ["data", "append", "web", "log", "b", "--idempotency-key", "once"];
    let first: Changed = alone.json(&append).await?;
    let again: Changed = alone.json(&append).await?;
    ensure!(first == again, "{first:?} is another answer than {again:?}");
    let entry: Entry = alone.json(&["data", "get", "web", "log"]).await?;
    ensure!(entry.value == Some("ab".into()), "{entry:?}");
    let other = ["data", "append", "web", "log", "c", "--idempotency-key", "once"];
    let refused = alone.ends_with(1, &other).await?;
    ensure!(refused.to_lowercase().contains("key"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_watch_of_the_command_outlives_the_control_plane() -> Result<()> {
    let mut alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let mut command = alone.control.cli();
    command.args([
        "data", "watch", "web", "config", "--count", "4", "--output", "json",
    ]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = watch.stdout.take().context("the command's output")?;
    let mut lines = BufReader::new(output).lines();
    let mut seen = Vec::new();
    // The watch begins where the entries stand when it starts, so the first change is made until it is seen.
    let mut n = 0;
    while seen.is_empty() {
        alone.put(id, "config/first", &n.to_string()).await?;
        n += 1;
        let line = timeout(std::time::Duration::from_millis(200), lines.next_line()).await;
        if let Ok(line) = line {
            seen.extend(changed(&line?.context("the watch ended")?)?);
        }
    }
    alone.put(id, "elsewhere", "not watched").await?;
    alone.control.kill().await?;
    alone.control.restart().await?;
    for value in ["one", "two", "three"] {
        alone.put(id, "config/second", value).await?;
    }
    let rest = async {
        while let Some(line) = lines.next_line().await? {
            seen.extend(changed(&line)?);
        }
        watch.wait().await.context("wait for the command")
    };
    let ended = timeout(PATIENCE, rest).await.context("the watch doesn't end")??;
    ensure!(ended.success(), "it ended with {ended}");
    ensure!(seen.len() == 4, "{seen:?}");
    let after: Vec<_> = seen
        .iter()
        .filter(|text| text.starts_with("config/second"))
        .collect();
    let expected = ["one", "two", "three"].map(|value| format!("config/second={value}"));
    ensure!(
        after
            .iter()
            .zip(&expected)
            .all(|(found, expected)| *found == expected),
        "{seen:?}"
    );
    Ok(())
}

/// What a line of a watch says, as `PATH=VALUE`.
fn changed(line: &str) -> Result<Vec<String>> {
    let event: WatchEvent = serde_json::from_str(line).with_context(|| format!("the line: {line}"))?;
    Ok(match event {
        WatchEvent::Changes { changes, .. } => told(&changes),
        _ => Vec::new(),
    })
}
