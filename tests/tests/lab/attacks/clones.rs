//! A guest that goes on from a snapshot, and a copy of it that is given to another instance: real machines, saved as they
//! run, with everything that the agent has in its memory.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::guest::{Guest, GuestOptions, Shell, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::operations::{Operation, OperationQuery, Outcome};
use serde_json::Value;
use std::collections::BTreeMap;

const SECRET: &str = "what only the first may read";

/// What was done of this kind by or for an instance, the oldest first.
async fn records(deployment: &Deployment, of: InstanceId, api: &str) -> Result<Vec<Operation>> {
    let query = OperationQuery {
        limit: Some(500),
        ..OperationQuery::default()
    };
    let page = deployment.client().list_operations(&query).await?;
    let id = of.to_string();
    let about = |record: &Operation| {
        let parameters = serde_json::to_string(record).unwrap_or_default();
        record.api == api && record.outcome == Outcome::Done && parameters.contains(&id)
    };
    Ok(page.operations.into_iter().rev().filter(about).collect())
}

/// Waits until the instance's guest has made so many keys of its own known, each in another session.
async fn identified(deployment: &Deployment, of: InstanceId, times: usize) -> Result<Vec<Operation>> {
    let look = async || {
        let known = records(deployment, of, "IdentifyInstance").await.ok()?;
        (known.len() == times).then_some(known)
    };
    wait::until("the guest to make its key known", PATIENCE, look)
        .await
        .with_context(|| deployment.last_words())
}

/// A guest that has just begun or gone on changes its own data, by its signature.
async fn changes(deployment: &Deployment, guest: &Guest, of: InstanceId, value: &str) -> Result<()> {
    let set = format!("moorline-agent set own/{value} {value}");
    guest.wait_for(Shell::root(set), PATIENCE).await?;
    let at = format!("own/{value}").parse()?;
    let entry = deployment.client().get_instance_data(of, &at).await?;
    ensure!(
        entry
            .value
            .and_then(|value| value.text().map(str::to_owned))
            .as_deref()
            == Some(value)
    );
    Ok(())
}

#[tokio::test]
async fn what_a_snapshot_holds_signs_for_nobody_once_it_goes_on() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let seats = seats(2).await;
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let secret = BTreeMap::from([("own/secret".parse()?, PutEntry::secret(SECRET.into()))]);
    let first = deployment.register(None, "first", secret).await?;
    let options = |of: &External| GuestOptions::new(&image).saveable().vsock_at(of.device());
    let guest = Guest::boot(&seats, tools, options(&first)).await?;
    changes(&deployment, &guest, first.id, "before").await?;
    let before = identified(&deployment, first.id, 1).await?;
    let snapshot = deployment.folder().join("snapshot");
    guest.save(&snapshot).await?;

    // It goes on in the same life, as far as the host knows: only the machine says that it went back.
    let restored = Guest::restore(&seats, tools, options(&first), &snapshot).await?;
    changes(&deployment, &restored, first.id, "restored").await?;
    let after = identified(&deployment, first.id, 2).await?;
    let key = |record: &Operation| record.parameters["public_key"].clone();
    ensure!(
        key(&before[0]) != Value::Null && key(&before[0]) != key(&after[1]),
        "it has the key of before"
    );
    the_session_of_before_is_over(&deployment, first.id).await?;

    // A host daemon that begins anew has seen nothing of it, and finds out by what the one before kept.
    drop(restored);
    deployment.kill_host().await?;
    deployment.start_host().await?;
    let restored = Guest::restore(&seats, tools, options(&first), &snapshot).await?;
    changes(&deployment, &restored, first.id, "restored-again").await?;
    identified(&deployment, first.id, 3).await?;
    the_session_of_before_is_over(&deployment, first.id).await?;

    a_copy_is_another_instance_and_no_more(&deployment, &first, async |copy| {
        Guest::restore(&seats, tools, options(copy), &snapshot).await
    })
    .await?;
    // Which changes nothing for the first.
    changes(&deployment, &restored, first.id, "again").await?;
    ensure!(
        records(&deployment, first.id, "CreateInstanceSession")
            .await?
            .len()
            == 3
    );
    Ok(())
}

/// The host had a session made in the place of the one that the snapshot holds, which the master copy has no more.
async fn the_session_of_before_is_over(deployment: &Deployment, of: InstanceId) -> Result<()> {
    let made = records(deployment, of, "CreateInstanceSession").await?;
    let instead = made.last().map(|record| &record.parameters["instead_of"]);
    let instead = instead
        .and_then(Value::as_str)
        .context("a session in another's place")?;
    let last = made.last().context("a session")?;
    let gone = last
        .effects
        .iter()
        .any(|effect| effect.key.contains(instead) && effect.after.is_none());
    ensure!(gone, "the session {instead} goes on: {:?}", last.effects);
    Ok(())
}

/// The copy has all that the first had in memory, and the host takes it for whose channel it came by.
async fn a_copy_is_another_instance_and_no_more(
    deployment: &Deployment,
    first: &External,
    boot: impl AsyncFn(&External) -> Result<Guest>,
) -> Result<()> {
    let other = deployment.attach("copy", &[("name", "copy")]).await?;
    let copy = boot(&other).await?;
    let who = "moorline-agent get meta/instance-id";
    let is_it = format!("[ \"$({who})\" = {} ]", other.id);
    // The key of before is tried first.
    copy.wait_for(is_it, 2 * PATIENCE)
        .await
        .with_context(|| deployment.last_words())?;
    let secret = copy.run("moorline-agent get own/secret").await?;
    ensure!(!secret.succeeded(), "the copy still reads {secret:?}");
    let foreign = format!("moorline-agent get --instance {} own/secret", first.id);
    let foreign = copy.run(foreign).await?;
    ensure!(!foreign.succeeded(), "the copy is given {foreign:?}");
    let set = format!("moorline-agent set --instance {} own/before taken", first.id);
    let set = copy.run(set).await?;
    ensure!(!set.succeeded(), "the copy changes what is the first's: {set:?}");
    changes(deployment, &copy, other.id, "of-the-copy").await
}
