//! Deployments where nobody is pushed to: hosts ask the control plane.

use super::put;
use crate::agent::Agent;
use crate::alone::{path, readers};
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, External, Plan, Programs};
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
