//! What is done to the daemons and the agents.

use super::{GUESTS, Victims};
use anyhow::{Context, Result};
use moorline_lab::process::Frozen;

/// How long a freeze takes at most, mostly.
const SHORT_FREEZE_MS: u64 = 2_000;
/// One in so many takes longer than a host waits for a word of the control plane.
const LONG_FREEZES: u64 = 6;
const LONG_FREEZE_MS: u64 = 7_000;

/// Something that happens to one of them, after which it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strike {
    KillControl,
    KillHost,
    KillBoth,
    /// Any agent but the first.
    KillAgent,
    FreezeControl,
    FreezeHost,
    /// Any agent.
    FreezeAgent,
}

/// All there are.
pub(super) const STRIKES: [Strike; 7] = [
    Strike::KillControl,
    Strike::KillHost,
    Strike::KillBoth,
    Strike::KillAgent,
    Strike::FreezeControl,
    Strike::FreezeHost,
    Strike::FreezeAgent,
];

/// Those in which the daemons and the first agent live on.
pub(super) const SPARING: [Strike; 4] = [
    Strike::KillAgent,
    Strike::FreezeControl,
    Strike::FreezeHost,
    Strike::FreezeAgent,
];

impl Victims {
    /// Does this to one of them, and waits until it runs again.
    pub(super) async fn strike(&mut self, strike: Strike) -> Result<()> {
        match strike {
            Strike::KillControl => {
                self.deployment.control_mut().kill().await?;
                self.a_while(500).await;
                self.deployment.control_mut().restart().await
            }
            Strike::KillHost => {
                self.deployment.kill_host().await?;
                self.a_while(500).await;
                self.deployment.launch_host()
            }
            Strike::KillBoth => {
                self.deployment.kill_host().await?;
                self.deployment.control_mut().kill().await?;
                self.deployment.launch_host()?;
                self.a_while(500).await;
                self.deployment.control_mut().restart().await
            }
            Strike::KillAgent => self.kill_agent().await,
            Strike::FreezeControl => self.freeze(self.deployment.control_pid()).await,
            Strike::FreezeHost => self.freeze(self.deployment.host_pid()).await,
            Strike::FreezeAgent => {
                let one = usize::try_from(self.dice.below(GUESTS))?;
                self.freeze(self.guests[one].1.pid()).await
            }
        }
    }

    async fn kill_agent(&mut self) -> Result<()> {
        let one = usize::try_from(1 + self.dice.below(GUESTS - 1))?;
        self.guests[one].1.kill().await?;
        self.a_while(300).await;
        self.guests[one].1.launch()
    }

    async fn freeze(&mut self, pid: Option<u32>) -> Result<()> {
        let frozen = Frozen::new(pid.context("it has ended")?)?;
        if self.dice.below(LONG_FREEZES) == 0 {
            self.a_while(LONG_FREEZE_MS).await;
        } else {
            self.a_while(SHORT_FREEZE_MS).await;
        }
        drop(frozen);
        Ok(())
    }
}
