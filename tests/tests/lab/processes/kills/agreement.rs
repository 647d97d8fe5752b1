//! Whether everybody has the same in the end, and whether that is what was acknowledged.

use super::{Acknowledged, Victims};
use crate::agent::Agent;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{PATIENCE, host_name};
use moorline_lab::wait;
use moorline_shared::api::data::ListQuery;
use moorline_shared::api::feed::ViewId;
use moorline_shared::api::sync::{HostSync, SyncHost, ViewState, together};
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::{Digest, InstanceId, Revision};
use std::collections::BTreeMap;

/// An instance's entries, as the master copy has them: when each last changed, and its text.
type Entries = BTreeMap<String, (Revision, String)>;

/// What a host says when it finds that something is not what it should be, and mends it.
const MENDED: [&str; 2] = ["is not what the control plane has", "is not what the host has"];

/// Everybody's copy is the master's. The mirrors are looked at twice: as they are, and anew from what the host has on its
/// disk while the control plane is away, which is how its copy is seen.
pub(super) async fn all_agree(victims: &mut Victims, acknowledged: &Acknowledged) -> Result<()> {
    let mut here = BTreeMap::new();
    for (external, agent) in &victims.guests {
        let wanted = master_copy(victims, external.id).await?;
        agent.mirrors(&wanted).await?;
        here.insert(external.id, wanted);
    }
    nothing_is_lost(victims, acknowledged, &here).await?;
    let digests = digests(victims).await?;
    control_plane_agrees(victims, &digests).await?;
    begin_cold(victims, &here).await?;
    ensure!(
        self::digests(victims).await? == digests,
        "the host's disk has another state"
    );
    nothing_had_to_be_mended(victims)
}

async fn master_copy(victims: &Victims, id: InstanceId) -> Result<Entries> {
    let query = ListQuery {
        values: true,
        limit: Some(1_000),
        ..ListQuery::default()
    };
    let client = victims.deployment.client();
    let page = client.list_instance_data(id, &query).await?;
    let entries = page.entries.into_iter().map(|entry| {
        let text = entry
            .value
            .as_ref()
            .and_then(|value| value.text())
            .unwrap_or_default();
        (entry.path.to_string(), (entry.revision, text.to_owned()))
    });
    Ok(entries.collect())
}

/// Each write that was acknowledged is there, and was done once.
async fn nothing_is_lost(
    victims: &Victims,
    acknowledged: &Acknowledged,
    here: &BTreeMap<InstanceId, Entries>,
) -> Result<()> {
    for ((instance, at), (value, times)) in acknowledged {
        let entry = here[instance].get(at.as_str());
        let (revision, text) = entry.with_context(|| format!("{at} was acknowledged and is lost"))?;
        ensure!(
            text == value,
            "{at} is {text} at {revision}, and {value} was acknowledged last"
        );
        let client = victims.deployment.client();
        let entry = client.get_instance_data(*instance, at).await?;
        ensure!(
            entry.version == *times,
            "{at} was written {times} times, and it is version {}",
            entry.version
        );
    }
    Ok(())
}

/// What each mirror comes to.
async fn digests(victims: &Victims) -> Result<Vec<ViewState>> {
    let mut all = Vec::new();
    for (external, agent) in &victims.guests {
        all.push(ViewState {
            view: ViewId::own(external.id),
            digest: digest(agent).await?,
        });
    }
    Ok(all)
}

async fn digest(agent: &Agent) -> Result<Digest> {
    let listing = agent.list("").await?;
    let rows: Option<Vec<_>> = listing
        .entries
        .iter()
        .map(|entry| {
            Some(Row {
                path: entry.path.as_str(),
                revision: entry.revision,
                content_type: &entry.content_type,
                secret: false,
                value: Digest::of(entry.value.as_ref()?.bytes()),
            })
        })
        .collect();
    Ok(ViewDigest::of(rows.context("a listing has values")?))
}

/// The control plane is asked as the host asks it, whether what the mirrors come to is what they should be.
async fn control_plane_agrees(victims: &Victims, digests: &[ViewState]) -> Result<()> {
    let said = SyncHost {
        revision: victims.deployment.client().describe_hosts().await?.revision,
        digest: together(digests),
        foreign: Vec::new(),
        without: Vec::new(),
    };
    let host = victims.deployment.client_of_host()?;
    let told = async || match host.sync_host(&host_name(), &said).await {
        Ok(HostSync::Later) | Err(_) => None,
        Ok(told) => Some(told),
    };
    let told = wait::until("the control plane to compare", PATIENCE, told).await?;
    ensure!(
        told == HostSync::InStep,
        "the mirrors come to {digests:?}, and the control plane says {told:?}"
    );
    Ok(())
}

/// The control plane goes, and the host and its guests begin anew with what is on the host's disk.
async fn begin_cold(victims: &mut Victims, here: &BTreeMap<InstanceId, Entries>) -> Result<()> {
    victims.deployment.on_disk().await?;
    victims.deployment.kill_host().await?;
    victims.deployment.control_mut().kill().await?;
    victims.deployment.launch_host()?;
    for (external, agent) in &mut victims.guests {
        agent.kill().await?;
        agent.launch()?;
        let mirrors = agent.mirrors(&here[&external.id]).await;
        mirrors.context("from the host's disk")?;
    }
    Ok(())
}

/// In no life has the host found itself or a guest to have something else than it should: that it would be mended is no
/// excuse for it.
fn nothing_had_to_be_mended(victims: &Victims) -> Result<()> {
    let said = victims.deployment.host_ever_said()?;
    let mended: Vec<_> = said
        .lines()
        .filter(|line| MENDED.iter().any(|mended| line.contains(mended)))
        .collect();
    ensure!(mended.is_empty(), "{}", mended.join("\n"));
    Ok(())
}
