//! Kills of everything that the demo runs on, one after the other. What was killed comes back as it does in production: a
//! daemon is started again by whoever supervises it, an agent by its guest. Nobody else is started again for it.

use super::{Actor, PATIENCE, Scene};
use anyhow::{Context, Result, ensure};

/// Which kill is the next.
#[derive(Debug, Default)]
pub(super) struct Kills {
    done: usize,
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    ControlPlane,
    HostDaemon,
    AgentOfA,
    AgentOfB,
    BothDaemons,
}

/// In this order, and then from the beginning.
const ORDER: [Victim; 5] = [
    Victim::ControlPlane,
    Victim::AgentOfA,
    Victim::HostDaemon,
    Victim::AgentOfB,
    Victim::BothDaemons,
];

impl Scene {
    /// Kills the next one if there is to be a mishap, and waits until both guests are served again.
    pub(super) async fn mishap(&mut self) -> Result<()> {
        let Some(kills) = &mut self.kills else {
            return Ok(());
        };
        let victim = ORDER[kills.done % ORDER.len()];
        kills.done += 1;
        match victim {
            Victim::ControlPlane => {
                self.deployment.control_mut().kill().await?;
                self.deployment.control_mut().restart().await?;
            }
            Victim::HostDaemon => {
                self.deployment.kill_host().await?;
                self.deployment.start_host().await?;
            }
            Victim::AgentOfA => self.a.kill_agent().await?,
            Victim::AgentOfB => self.b.kill_agent().await?,
            Victim::BothDaemons => {
                self.deployment.control_mut().kill().await?;
                self.deployment.kill_host().await?;
                self.deployment.control_mut().restart().await?;
                self.deployment.start_host().await?;
            }
        }
        for actor in [&self.a, &self.b] {
            let served = actor.is_served().await;
            served.with_context(|| format!("{victim:?} was killed\n{}", self.deployment.last_words()))?;
        }
        Ok(())
    }
}

impl Actor {
    async fn kill_agent(&self) -> Result<()> {
        let pid = "pidof moorline-agent | tr ' ' '\\n' | sort -n | head -1";
        let before = self.control.run(pid).await?.text()?;
        self.control.run(format!("kill -9 {before}")).await?.text()?;
        let another = format!("p=$({pid}) && [ -n \"$p\" ] && [ \"$p\" != {before} ] && echo $p");
        let after = self.control.wait_for(another, PATIENCE).await?;
        ensure!(after.trim() != before.trim(), "the agent is the same");
        Ok(())
    }

    /// Waits until the guest has the present state, and credentials.
    async fn is_served(&self) -> Result<()> {
        let fresh = "moorline-agent get --max-age 0 meta/instance-id";
        self.control.wait_for(fresh, PATIENCE).await?;
        let credentials = format!("moorline-agent credentials {}", super::trust::ROLE);
        self.control.wait_for(credentials, PATIENCE).await.map(drop)
    }
}
