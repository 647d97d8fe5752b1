//! Deployments that do without push: hosts ask the control plane, and guests their host.

use super::put;
use crate::agent::Agent;
use crate::alone::{path, readers};
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::agent::Freshness;
use moorline_shared::api::data::SetAccess;

/// A deployment whose host is told this, with one guest that reads.
struct Scene {
    deployment: Deployment,
    guest: External,
    agent: Agent,
}

impl Scene {
    async fn open(tables: &[(&'static str, &str)]) -> Result<Self> {
        let plan = Plan::new(Programs::build().await?);
        let plan = tables
            .iter()
            .fold(plan, |plan, (table, lines)| plan.host(table, *lines));
        let deployment = plan.start().await?;
        let guest = deployment.attach("a", &[("config/greeting", "hello")]).await?;
        let agent = Agent::start(&deployment, "a", guest.socket()).await?;
        Ok(Self {
            deployment,
            guest,
            agent,
        })
    }

    /// A change arrives, and nothing on the way takes it for a fault.
    async fn changes(&self, value: &str) -> Result<()> {
        put(self.deployment.client(), self.guest.id, "config/greeting", value).await?;
        let read = self.agent.reads("config/greeting", value).await;
        read.with_context(|| self.deployment.last_words())
    }

    /// What the guest may not read any more goes from its mirror.
    async fn withdraws(&self, at: &str) -> Result<()> {
        put(self.deployment.client(), self.guest.id, at, "for a while").await?;
        self.agent.reads(at, "for a while").await?;
        let nobody = SetAccess {
            access: readers(&[])?,
        };
        let client = self.deployment.client();
        client
            .set_entry_access(self.guest.id, &path(at), &nobody, &Terms::fresh())
            .await?;
        let gone = |text: &str| !text.contains(at);
        self.agent.until("the withdrawal", &["list", ""], gone).await?;
        Ok(())
    }

    /// Changes and withdrawals arrive, also over restarts of everybody on the way.
    async fn goes_on(&mut self) -> Result<()> {
        self.changes("one").await?;
        self.withdraws("config/first").await?;
        self.deployment.kill_host().await?;
        self.deployment.start_host().await?;
        self.changes("two").await?;
        self.deployment.control_mut().kill().await?;
        self.deployment.control_mut().restart().await?;
        self.changes("three").await?;
        self.withdraws("config/second").await?;
        let said = self.deployment.host_said();
        for wrong in ["is not what", "can't be compared", "panicked"] {
            ensure!(
                !said.contains(wrong),
                "'{wrong}': {}",
                self.deployment.last_words()
            );
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_host_that_polls_brings_everything() -> Result<()> {
    let control = "sync = 'poll'\npoll_seconds = 1\nsync_seconds = 1";
    Scene::open(&[("control", control)]).await?.goes_on().await
}

#[tokio::test]
async fn a_host_with_long_polls_brings_everything_as_soon_as_it_is_there() -> Result<()> {
    // A poll that is kept for a minute would be waited for in vain.
    let control = "sync = 'long-poll'\npoll_seconds = 60\nsync_seconds = 1";
    Scene::open(&[("control", control)]).await?.goes_on().await
}

#[tokio::test]
async fn a_guest_that_has_to_ask_hears_of_everything() -> Result<()> {
    let link = "sync = 'poll'\npoll_seconds = 1\nsync_seconds = 1";
    Scene::open(&[("link", link)]).await?.goes_on().await
}

#[tokio::test]
async fn everything_arrives_where_nobody_is_pushed_to() -> Result<()> {
    // Polls that are kept for a minute would be waited for in vain.
    let tables = [
        ("control", "sync = 'long-poll'\npoll_seconds = 60"),
        ("link", "sync = 'long-poll'\npoll_seconds = 60"),
    ];
    let mut scene = Scene::open(&tables).await?;
    let mut watching = scene.agent.watch("config").await?;
    scene.goes_on().await?;
    // Whoever watches is woken by what the agent asked for.
    let third = |line: &str| line.contains("three");
    watching.wait_for("the last change", third).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_polled_says_how_old_it_is_and_is_fresh() -> Result<()> {
    let tables = [
        ("control", "sync = 'poll'\npoll_seconds = 2"),
        ("link", "sync = 'poll'\npoll_seconds = 2"),
    ];
    let scene = Scene::open(&tables).await?;
    scene.changes("one").await?;
    let (mut ages, mut last) = (0, 0);
    // Each poll of the host and each of the guest makes it younger, and nothing else does.
    let seen = async || {
        let entry = scene.agent.entry("config/greeting").await.ok()?;
        ages += u32::from(entry.age_ms < last);
        last = entry.age_ms;
        let fresh = entry.freshness == Freshness::Fresh && entry.age_ms < 15_000;
        (!fresh || ages == 3).then_some((fresh, entry))
    };
    let (fresh, entry) = wait::until("three polls", PATIENCE, seen).await?;
    ensure!(fresh, "{entry:?}");
    Ok(())
}
