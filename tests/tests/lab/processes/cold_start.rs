//! A host daemon that begins while the control plane is away, with what the one before it left on the disk; and one whose
//! disk takes nothing.

use super::put;
use crate::agent::Agent;
use crate::alone::path;
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_shared::agent::Freshness as Reading;
use moorline_shared::api::data::PutEntry;
use moorline_shared::link::body::{Code, Freshness};
use std::path::PathBuf;
use tokio::process::Command;

/// Both daemons die as in a loss of power, and the host's comes back alone.
async fn begin_cold(deployment: &mut Deployment) -> Result<()> {
    deployment.control_mut().kill().await?;
    deployment.kill_host().await?;
    deployment.launch_host()
}

/// The guest, as soon as the daemon lets it in.
async fn let_in(external: &External) -> Result<Talker> {
    let dial = async || Some(Talker::dial(&external.socket()).await.ok()?.0);
    wait::until("the guest to be let in", PATIENCE, dial).await
}

fn file_of(deployment: &Deployment, external: &External) -> PathBuf {
    deployment.host_cache().join(format!("{}.view", external.id))
}

#[tokio::test]
async fn guests_read_what_the_host_kept_while_the_control_plane_is_away() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let (a, b) = (
        deployment.attach("a", &[("name", "before")]).await?,
        deployment.attach("b", &[("name", "b")]).await?,
    );
    let secret = PutEntry::secret("lab-secret-of-a-cold-start".into());
    let client = deployment.client();
    client
        .put_instance_data(a.id, &path("db/password"), &secret, &Terms::fresh())
        .await?;
    let changed = put(client, a.id, "name", "kept").await?;
    deployment.host_keeps(changed.revision).await?;
    begin_cold(&mut deployment).await?;

    let mut talker = let_in(&a).await?;
    for (at, value) in [("name", "kept"), ("db/password", "lab-secret-of-a-cold-start")] {
        let found = talker.get(at).await?;
        let found = found.map_err(|refused| anyhow::anyhow!("{at}: {refused:?}"))?;
        ensure!(&found.value[..] == value.as_bytes(), "{at} is another one");
        ensure!(
            found.freshness == Freshness::Stale && found.age_ms > 0,
            "{found:?}"
        );
    }
    // An agent that has nothing yet is served the same.
    let agent = Agent::start(&deployment, "b", b.socket()).await?;
    let read = agent.entry("name").await?;
    ensure!(
        read.value.text() == Some("b") && read.freshness == Reading::Stale && read.age_ms > 0,
        "{read:?}"
    );

    deployment.control_mut().restart().await?;
    put(deployment.client(), b.id, "name", "after").await?;
    agent.reads("name", "after").await?;
    let fresh = async || {
        let read = agent.entry("name").await.ok()?;
        (read.freshness == Reading::Fresh).then_some(())
    };
    wait::until("the data to be fresh", PATIENCE, fresh).await?;
    let instance = deployment.instance(b.id).await?;
    ensure!(
        instance.incarnation == 1,
        "its VM was not found again: {instance:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_file_that_cant_be_used_costs_its_own_instance_a_fetch() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let (a, b) = (
        deployment.attach("a", &[("name", "a")]).await?,
        deployment.attach("b", &[("name", "b")]).await?,
    );
    let changed = put(deployment.client(), b.id, "last", "1").await?;
    deployment.host_keeps(changed.revision).await?;
    deployment.control_mut().kill().await?;
    deployment.kill_host().await?;
    let file = file_of(&deployment, &a);
    let mut bytes = std::fs::read(&file).context("read the file of a view")?;
    bytes[80] ^= 1;
    std::fs::write(&file, &bytes)?;
    deployment.launch_host()?;

    let found = let_in(&b).await?.get("name").await?;
    ensure!(
        found.is_ok_and(|found| &found.value[..] == b"b"),
        "b is not served"
    );
    let mut talker = let_in(&a).await?;
    let refused = talker
        .get("name")
        .await?
        .err()
        .context("a is served what is damaged")?;
    ensure!(refused.code == Code::Unavailable as u16, "{refused:?}");
    let said = deployment.host_said();
    ensure!(
        said.contains(&format!("{}.view", a.id)) && said.contains("not those that were written"),
        "{said}"
    );
    let aside = deployment.host_cache().join(format!("corrupt/{}.view.1", a.id));
    ensure!(std::fs::read(aside)? == bytes, "something else was set aside");

    deployment.control_mut().restart().await?;
    talker
        .until("its data", |mirror| mirror.text("name").as_deref() == Some("a"))
        .await?;
    wait::until("its file", PATIENCE, async || file.exists().then_some(())).await
}

/// Waits until what the host says of its disk is as wanted.
async fn disk(deployment: &Deployment, what: &str, wanted: impl Fn(Option<&str>) -> bool) -> Result<()> {
    let look = async || {
        let error = deployment.host_cache_status().await?.error;
        wanted(error.as_deref()).then_some(())
    };
    wait::until(what, PATIENCE, look)
        .await
        .with_context(|| deployment.last_words())
}

#[tokio::test]
async fn while_the_disk_is_full_guests_are_served_and_then_it_is_written_again() -> Result<()> {
    let plan = Plan::new(Programs::build().await?).host_cache_of_kib(128);
    let deployment = plan.start().await?;
    let a = deployment.attach("a", &[("name", "a")]).await?;
    let mut talker = Talker::begin(&a.socket()).await?;
    let first = put(deployment.client(), a.id, "name", "b").await?;
    deployment.host_keeps(first.revision).await?;
    put(deployment.client(), a.id, "large", &"x".repeat(200 * 1024)).await?;
    disk(&deployment, "the disk to be full", |error| {
        error.is_some_and(|error| error.contains("No space left"))
    })
    .await?;
    put(deployment.client(), a.id, "name", "c").await?;
    let full = |mirror: &crate::talker::Mirror| {
        mirror.text("name").as_deref() == Some("c") && mirror.entries.contains_key("large")
    };
    talker.until("what the disk has no room for", full).await?;
    let client = deployment.client();
    let smaller = client
        .delete_instance_data(a.id, &path("large"), &Terms::fresh())
        .await?;
    deployment.host_keeps(smaller.revision).await?;
    disk(&deployment, "the disk to take it", |error| error.is_none()).await?;
    let said = deployment.host_said();
    let times = said.matches("can't be kept on disk").count();
    ensure!(times == 1, "it was said {times} times: {said}");
    Ok(())
}

/// Mounts the host's cache anew, in the namespace that only its daemon sees.
async fn remount(deployment: &Deployment, how: &str) -> Result<()> {
    let pid = deployment.host_pid().context("the host daemon runs")?;
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &pid.to_string(), "--", "mount", "-o"]);
    command.arg(format!("remount,{how}")).arg(deployment.host_cache());
    finish(&mut command).await.map(drop)
}

#[tokio::test]
async fn while_the_disk_is_read_only_guests_are_served_and_then_it_is_written_again() -> Result<()> {
    let plan = Plan::new(Programs::build().await?).host_cache_of_kib(1_024);
    let deployment = plan.start().await?;
    let a = deployment.attach("a", &[("name", "a")]).await?;
    let mut talker = Talker::begin(&a.socket()).await?;
    let first = put(deployment.client(), a.id, "name", "b").await?;
    deployment.host_keeps(first.revision).await?;
    remount(&deployment, "ro").await?;
    let second = put(deployment.client(), a.id, "name", "c").await?;
    disk(&deployment, "the disk to refuse", |error| {
        error.is_some_and(|error| error.contains("Read-only"))
    })
    .await?;
    talker
        .until("the change", |mirror| mirror.text("name").as_deref() == Some("c"))
        .await?;
    let status = deployment.host_cache_status().await.context("its status")?;
    ensure!(
        status.unwritten == 1 && status.revision < Some(second.revision),
        "{status:?}"
    );
    remount(&deployment, "rw").await?;
    deployment.host_keeps(second.revision).await
}
