//! What an agent keeps on disk, read by the next one while the host is away.

use crate::agent::Agent;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::agent::Freshness;
use moorline_shared::api::data::PutEntry;

const KEEP: [&str; 4] = ["--keep", "config", "--keep", "meta/instance-id"];

async fn agent(deployment: &Deployment, guest: &External) -> Result<Agent> {
    Agent::start_with(deployment, "a", guest.socket(), &KEEP).await
}

/// Waits until the agent's file has these bytes in it.
async fn is_kept(deployment: &Deployment, value: &str) -> Result<()> {
    let file = deployment.folder().join("a.agent/mirror");
    let has = async || {
        let bytes = std::fs::read(&file).ok()?;
        bytes
            .windows(value.len())
            .any(|part| part == value.as_bytes())
            .then_some(())
    };
    wait::until(&format!("'{value}' in {}", file.display()), PATIENCE, has).await
}

#[tokio::test]
async fn an_agent_begun_anew_without_its_host_serves_what_it_kept() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let data = [("config/greeting", "hello"), ("other/thing", "unkept")];
    let guest = deployment.attach("a", &data).await?;
    let secret = PutEntry {
        secret: Some(true),
        ..PutEntry::value("sesame".into())
    };
    let (path, terms) = ("config/password".parse()?, Terms::fresh());
    deployment
        .client()
        .put_instance_data(guest.id, &path, &secret, &terms)
        .await?;
    let first = agent(&deployment, &guest).await?;
    first.reads("config/password", "sesame").await?;
    is_kept(&deployment, "hello").await?;
    let file = std::fs::read(deployment.folder().join("a.agent/mirror"))?;
    for left_out in ["sesame", "unkept"] {
        let found = file
            .windows(left_out.len())
            .any(|part| part == left_out.as_bytes());
        ensure!(!found, "'{left_out}' is on the disk");
    }

    // As it ends when its machine loses power, and the host with it.
    drop(first);
    deployment.kill_host().await?;
    let second = agent(&deployment, &guest).await?;
    let entry = second.entry("config/greeting").await?;
    ensure!(entry.freshness == Freshness::Stale, "{entry:?}");
    ensure!(entry.value.text() == Some("hello"), "{entry:?}");
    for unknown in ["config/password", "other/thing", "none"] {
        let told = second.ask(&["get", unknown]).await;
        let said = format!("{:#}", told.err().context("nobody knows what is there")?);
        ensure!(said.contains("has not sent"), "{unknown}: {said}");
    }

    let changed = PutEntry::value("goodbye".into());
    let path = "config/greeting".parse()?;
    let client = deployment.client();
    client
        .put_instance_data(guest.id, &path, &changed, &Terms::fresh())
        .await?;
    deployment.start_host().await?;
    second.reads("config/greeting", "goodbye").await?;
    let entry = second.entry("config/greeting").await?;
    ensure!(entry.freshness == Freshness::Fresh, "{entry:?}");
    is_kept(&deployment, "goodbye").await
}
