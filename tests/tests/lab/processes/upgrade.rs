//! What earlier releases left on disk, opened by this one: `tests/fixtures/record` made it.

use crate::agent::Agent;
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, Plan, Programs};
use moorline_lab::process::{finish, finish_reading};
use moorline_lab::setup::tools;
use moorline_shared::InstanceId;
use moorline_shared::agent::Freshness;
use moorline_shared::api::data::ListQuery;
use moorline_shared::api::operations::{OperationQuery, Outcome};
use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};

/// What is recorded of a release, by the schema of its store.
struct Recorded {
    name: &'static str,
    /// Whether the host has the cache, and the agent the mirror, that earlier releases didn't keep.
    copies: Copies,
}

/// The instance's data beside the control plane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    None,
    OnDisk,
}

/// Every form of the files that was released, the oldest first.
const RECORDED: [Recorded; 2] = [
    Recorded {
        name: "schema-1",
        copies: Copies::None,
    },
    Recorded {
        name: "schema-2",
        copies: Copies::OnDisk,
    },
];

/// What the record says of its instance.
const ENTRIES: [(&str, &str); 4] = [
    ("config/greeting", "hello again"),
    ("config/shared", "shared"),
    ("config/there", "twice"),
    ("db/password", "a secret"),
];

async fn instance(deployment: &Deployment) -> Result<InstanceId> {
    let page = deployment
        .client()
        .describe_instances(&Default::default())
        .await?;
    let found = page
        .instances
        .into_iter()
        .find(|found| found.name.as_deref() == Some("web"));
    Ok(found.context("the instance is lost")?.id)
}

/// Entries with their values, the sealed one opened.
async fn check_entries(deployment: &Deployment, id: InstanceId) -> Result<()> {
    let query = ListQuery {
        values: true,
        ..ListQuery::default()
    };
    let page = deployment.client().list_instance_data(id, &query).await?;
    let own = page
        .entries
        .iter()
        .filter(|entry| !entry.path.starts_with("meta/"));
    let paths: Vec<_> = own.map(|entry| entry.path.to_string()).collect();
    ensure!(paths == ENTRIES.map(|(path, _)| path), "{paths:?}");
    for (at, value) in ENTRIES {
        let entry = deployment.client().get_instance_data(id, &path(at)).await?;
        let text = entry.value.as_ref().and_then(|value| value.text());
        ensure!(text == Some(value), "{at} is {:?}", entry.value);
    }
    Ok(())
}

/// Records of everything that was done and of what was refused.
async fn check_records(deployment: &Deployment) -> Result<()> {
    let query = OperationQuery {
        limit: Some(1_000),
        ..OperationQuery::default()
    };
    let page = deployment.client().list_operations(&query).await?;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in &page.operations {
        *seen.entry(&operation.api).or_default() += 1;
    }
    for api in [
        "EnrolHost",
        "RegisterInstance",
        "PutInstanceData",
        "CreateUser",
        "StageTokenKey",
    ] {
        ensure!(seen.contains_key(api), "no record of {api}: {seen:?}");
    }
    let refused = page
        .operations
        .iter()
        .any(|operation| matches!(operation.outcome, Outcome::Refused { .. }));
    ensure!(refused, "{seen:?}");
    Ok(())
}

/// The password and the keys of tokens, which are sealed, still open.
async fn check_user(deployment: &Deployment) -> Result<()> {
    let mut password = tempfile::tempfile()?;
    password.write_all(b"a long password\n")?;
    password.rewind()?;
    let mut log_in = deployment.cli();
    let home = deployment.folder().join("home");
    log_in
        .env_remove("MOORLINE_TOKEN_FILE")
        .env("HOME", &home)
        .env("XDG_CONFIG_HOME", &home);
    log_in.args(["login", "--user", "ann", "--password-stdin"]);
    finish_reading(&mut log_in, password).await?;
    let mut group = deployment.cli();
    let groups = finish(group.args(["group", "list"])).await?;
    ensure!(groups.contains("operators"), "{groups}");
    Ok(())
}

/// What the host and the agent kept of the instance's data is of use before there is anybody to ask, and nothing was set
/// aside.
async fn check_copies(deployment: &Deployment) -> Result<()> {
    let said = std::fs::read_to_string(deployment.folder().join("host-1.log"))?;
    ensure!(said.contains("an earlier daemon's copy"), "the host says: {said}");
    let nowhere = deployment.folder().join("nobody-listens");
    let agent = Agent::start_with(deployment, "web", nowhere, &["--keep", ""]).await?;
    let entry = agent.entry("config/there").await?;
    ensure!(entry.freshness == Freshness::Stale, "{entry:?}");
    ensure!(entry.value.text() == Some("twice"), "{entry:?}");
    let mut find = tokio::process::Command::new("find");
    find.arg(deployment.folder()).args(["-name", "*corrupt*"]);
    let aside = finish(&mut find).await?;
    ensure!(aside.is_empty(), "these were set aside: {aside}");
    Ok(())
}

#[tokio::test]
async fn what_earlier_releases_left_is_read_and_gone_on_with() -> Result<()> {
    for Recorded { name, copies } in RECORDED {
        let archive = tools::workspace().join(format!("tests/fixtures/{name}.tar.gz"));
        let plan = Plan::new(Programs::build().await?).finding(archive);
        // The host is in step by its old certificate, or has renewed it.
        let deployment = plan.start().await.with_context(|| name.to_owned())?;
        let id = instance(&deployment).await?;
        check_entries(&deployment, id).await?;
        check_records(&deployment).await?;
        check_user(&deployment).await?;
        std::fs::rename(
            deployment.folder().join("agent"),
            deployment.folder().join("web.agent"),
        )?;
        if copies == Copies::OnDisk {
            check_copies(&deployment).await?;
        }
        let guest = deployment.register(Some(id), "web", BTreeMap::new()).await?;
        ensure!(
            guest.incarnation > 1,
            "the life that the release began was forgotten"
        );
        let agent = Agent::start(&deployment, "web", guest.socket()).await?;
        agent.reads("config/there", "twice").await?;
        super::put(deployment.client(), id, "config/there", "thrice").await?;
        agent.reads("config/there", "thrice").await?;
    }
    Ok(())
}
