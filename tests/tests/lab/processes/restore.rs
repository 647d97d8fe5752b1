//! A control plane that lost everything and was restored from a backup, with a host and guests that know more than it does.

use super::put;
use crate::agent::Agent;
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::api::data::ListQuery;
use moorline_shared::entry::Value;
use std::collections::BTreeMap;

/// What the master copy has of an instance.
async fn master(deployment: &Deployment, id: InstanceId) -> Result<BTreeMap<String, Option<Value>>> {
    let query = ListQuery {
        values: true,
        ..ListQuery::default()
    };
    let page = deployment.client().list_instance_data(id, &query).await?;
    ensure!(page.next.is_none(), "the instance has few entries");
    let entries = page.entries.into_iter();
    Ok(entries
        .map(|entry| (entry.path.to_string(), entry.value))
        .collect())
}

/// What the guest's own copy has.
async fn mirror(agent: &Agent) -> Result<BTreeMap<String, Option<Value>>> {
    let listing = agent.list("").await?;
    let entries = listing.entries.into_iter();
    Ok(entries
        .map(|entry| (entry.path.to_string(), entry.value))
        .collect())
}

/// Waits until the guest has what the control plane has, and its host the same in number.
async fn agree(deployment: &Deployment, guest: &External, agent: &Agent) -> Result<()> {
    let same = async || {
        let (master, mirror) = (
            master(deployment, guest.id).await.ok()?,
            mirror(agent).await.ok()?,
        );
        let host = deployment.guest_status(guest.id).await?;
        (master == mirror && host.entries == master.len() as u64).then_some(())
    };
    wait::until("control plane, host and guest to agree", PATIENCE, same)
        .await
        .with_context(|| deployment.last_words())
}

/// Whether the guest has its session: the control plane vouches for it.
async fn is_vouched_for(agent: &Agent) -> Result<()> {
    let command = ["identity-token", "--audience", "https://vault.example"];
    agent
        .until("an identity token", &command, |token| {
            token.split('.').count() == 3
        })
        .await?;
    Ok(())
}

/// Acceptance of operations: backup, disaster, restore, and hosts and guests come right by themselves.
#[tokio::test]
async fn after_a_restored_backup_hosts_and_guests_come_right_by_themselves() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let a = deployment
        .attach("a", &[("name", "kept"), ("removed", "kept")])
        .await?;
    let agent = Agent::start(&deployment, "a", a.socket()).await?;
    is_vouched_for(&agent).await?;
    let file = deployment.folder().join("backup");
    deployment.control().back_up(&file).await?;

    let lost = put(deployment.client(), a.id, "name", "lost").await?;
    put(deployment.client(), a.id, "more", "lost").await?;
    let terms = Terms::fresh();
    deployment
        .client()
        .delete_instance_data(a.id, &path("removed"), &terms)
        .await?;
    let unknown = deployment.attach("b", &[("name", "lost")]).await?;
    agent.reads("name", "lost").await?;
    agree(&deployment, &a, &agent).await?;
    let running = deployment.control().bring_back(&file).await;
    let refused = format!(
        "{:#}",
        running.err().context("a running control plane was restored")?
    );
    ensure!(refused.contains("a control plane runs on it"), "{refused}");

    let host = deployment.host_pid();
    deployment.control_mut().lose_all_and_restore(&file).await?;
    agent.reads("name", "kept").await?;
    agree(&deployment, &a, &agent).await?;
    let known = master(&deployment, a.id).await?;
    ensure!(
        known.contains_key("removed") && !known.contains_key("more"),
        "{known:?}"
    );
    let entry = deployment.client().get_instance_data(a.id, &path("name")).await?;
    ensure!(
        entry.revision > lost.revision && entry.revision.epoch > lost.revision.epoch,
        "{} could be taken for older than {}, which is lost",
        entry.revision,
        lost.revision
    );
    let gone = async || deployment.guest_status(unknown.id).await.is_none().then_some(());
    wait::until("the host to let go of what nobody knows any more", PATIENCE, gone).await?;

    // Everything goes on: changes by others and its own, and its session.
    put(deployment.client(), a.id, "name", "after").await?;
    agent.reads("name", "after").await?;
    let own = ["set", "own", "after"];
    agent.until("a change of its own", &own, |_| true).await?;
    agree(&deployment, &a, &agent).await?;
    is_vouched_for(&agent).await?;
    ensure!(deployment.host_pid() == host, "the host daemon was restarted");
    let instance = deployment.instance(a.id).await?;
    ensure!(
        instance.incarnation == a.incarnation,
        "the guest began another life"
    );
    Ok(())
}
