//! A control plane that stands still, and one that is killed and comes back.

use super::put;
use crate::agent::Agent;
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::api::feed::{BOOKMARK_SECONDS, MISSED_BOOKMARKS};
use moorline_shared::link::body::Freshness;
use moorline_shared::link::session::GuestEvent;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How soon a read must be answered, whatever becomes of the control plane.
const PROMPTLY: Duration = Duration::from_secs(1);

/// After how long without a word a feed is dead at the least. Half a bookmark's time is for a busy machine, which applies
/// the last one later than it came.
fn silence() -> Duration {
    let half = Duration::from_secs(BOOKMARK_SECONDS.into()) / 2;
    half * (2 * MISSED_BOOKMARKS - 1)
}

/// Invariant 6, its first half: nothing answers at the control plane, and its connections stay open.
#[tokio::test]
async fn guests_go_on_reading_while_the_control_plane_stands_still() -> Result<()> {
    let deployment = Plan::new(Programs::build().await?).start().await?;
    let (a, b) = (
        deployment.attach("a", &[("name", "a")]).await?,
        deployment.attach("b", &[("name", "b")]).await?,
    );
    let agent = Agent::start(&deployment, "a", a.socket()).await?;
    let mut talker = Talker::begin(&b.socket()).await?;
    talker.session().await?;
    let frozen = deployment.control().freeze()?;
    // A change that waits for the control plane holds up nobody, not even its own guest.
    let change = talker.put(b.id, "own", "changed").await?;
    let begun = Instant::now();
    loop {
        let found = timeout(PROMPTLY, talker.get("name"))
            .await
            .context("a read in the guest's daemon")??;
        let found = found.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        ensure!(*found.value == *b"b");
        let read = timeout(PROMPTLY, agent.entry("name"))
            .await
            .context("a read in the agent")??;
        ensure!(read.value.text() == Some("a"));
        // After three bookmarks that didn't come it is known that this is not the present state.
        if found.freshness == Freshness::Stale {
            ensure!(
                Duration::from_millis(found.age_ms.into()) >= silence(),
                "it is called stale after {} ms",
                found.age_ms
            );
            break;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "nobody noticed that nothing comes"
        );
        // A read each time that the machine has done something else.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(frozen);
    let relayed = talker.relayed(change).await?;
    ensure!(relayed.status == 200, "{relayed:?}");
    put(deployment.client(), a.id, "name", "a again").await?;
    agent.reads("name", "a again").await?;
    talker
        .until("its own change", |mirror| {
            mirror.text("own").as_deref() == Some("changed")
        })
        .await?;
    ensure!(talker.mirror.snapshots == 1, "the mirror came anew");
    Ok(())
}

/// Invariant 6: the control plane dies and comes back, and the host daemon takes its feed up where it was.
#[tokio::test]
async fn a_host_takes_up_its_feed_when_the_control_plane_comes_back() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let (a, b) = (
        deployment.attach("a", &[("name", "a")]).await?,
        deployment.attach("b", &[("name", "b")]).await?,
    );
    let agent = Agent::start(&deployment, "a", a.socket()).await?;
    let mut talker = Talker::begin(&b.socket()).await?;
    let host = deployment.host_pid();
    for round in 1..=2 {
        deployment.control_mut().kill().await?;
        let stale = async || {
            let found = talker.get("name").await.ok()?.ok()?;
            (found.freshness == Freshness::Stale).then_some(())
        };
        wait::until("reads to be called stale", PATIENCE, stale).await?;
        ensure!(
            agent
                .entry("name")
                .await?
                .value
                .text()
                .is_some_and(|text| text.starts_with('a'))
        );
        let change = talker.put(b.id, "own", "changed").await?;
        let refused = talker.event_of(change).await?;
        ensure!(
            matches!(refused, GuestEvent::Refused(..)),
            "{refused:?} came without a control plane"
        );

        deployment.control_mut().restart().await?;
        let value = format!("after {round}");
        put(deployment.client(), a.id, "name", &value).await?;
        put(deployment.client(), b.id, "name", &value).await?;
        agent.reads("name", &value).await?;
        talker
            .until("the change", |mirror| {
                mirror.text("name").as_deref() == Some(&*value)
            })
            .await?;
    }
    ensure!(deployment.host_pid() == host, "the host daemon was restarted");
    ensure!(talker.mirror.snapshots == 1, "the mirror came anew");
    let resumed = deployment.host_said().matches("the feed is open").count();
    ensure!(resumed == 3, "the feed was opened {resumed} times");
    for external in [&a, &b] {
        let instance = deployment.instance(external.id).await?;
        ensure!(instance.incarnation == 1, "a guest began another life");
    }
    Ok(())
}
