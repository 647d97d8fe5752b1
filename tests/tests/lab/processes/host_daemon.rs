//! A host daemon that is killed and comes back, with guests whose VMs are somebody else's.

use super::put;
use crate::agent::Agent;
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::api::instances::InstanceState;

/// Invariant 6, its second half.
#[tokio::test]
async fn guests_outlive_their_host_daemon_and_catch_up() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let (a, b, c) = (
        deployment.attach("a", &[("name", "a"), ("gone", "1")]).await?,
        deployment.attach("b", &[("name", "b")]).await?,
        deployment.attach("c", &[("name", "c")]).await?,
    );
    let (first, second) = tokio::try_join!(
        Agent::start(&deployment, "a", a.socket()),
        Agent::start(&deployment, "b", b.socket())
    )?;
    let mut talker = Talker::begin(&c.socket()).await?;
    let mut watch = first.watch("").await?;

    for round in 1..=2 {
        let value = format!("changed in round {round}");
        let before = first.entry("name").await?.value;
        deployment.kill_host().await?;
        talker.hung_up().await?;
        for external in [&a, &b, &c] {
            put(deployment.client(), external.id, "name", &value).await?;
            put(deployment.client(), external.id, &format!("new/{round}"), "1").await?;
        }
        let read = first.entry("name").await?;
        ensure!(
            read.value == before,
            "without its host the agent reads {:?}",
            read.value
        );

        deployment.start_host().await?;
        tokio::try_join!(first.reads("name", &value), second.reads("name", &value))?;
        first.reads(&format!("new/{round}"), "1").await?;
        watch.wait_for("the change", |line| line.contains(&value)).await?;
        let redial = async || Talker::begin(&c.socket()).await.ok();
        talker = wait::until("the guest to be served again", PATIENCE, redial).await?;
        talker
            .until("the change", |mirror| {
                mirror.text("name").as_deref() == Some(&*value)
            })
            .await?;
    }
    for external in [&a, &b, &c] {
        let instance = deployment.instance(external.id).await?;
        ensure!(
            (instance.incarnation, instance.state) == (1, InstanceState::Running),
            "{instance:?}"
        );
        let status = deployment.guest_status(external.id).await.context("the guest")?;
        ensure!(
            status.incarnation == 1,
            "the daemon began another life: {status:?}"
        );
    }
    Ok(())
}

/// What the daemon kept is served before the control plane is heard of again, if there is something it may serve.
#[tokio::test]
async fn a_host_daemon_and_a_control_plane_that_both_died_come_back_in_any_order() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let a = deployment.attach("a", &[("name", "a")]).await?;
    let agent = Agent::start(&deployment, "a", a.socket()).await?;
    deployment.kill_host().await?;
    deployment.control_mut().kill().await?;
    ensure!(agent.entry("name").await?.value.text() == Some("a"));
    deployment.launch_host()?;
    ensure!(agent.entry("name").await?.value.text() == Some("a"));
    deployment.control_mut().restart().await?;
    put(deployment.client(), a.id, "name", "changed").await?;
    agent.reads("name", "changed").await?;
    ensure!(deployment.instance(a.id).await?.incarnation == 1);
    Ok(())
}
