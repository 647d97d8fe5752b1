//! How a task begins: with what an earlier daemon left.

use super::{State, Task};
use crate::causes::Causes;
use crate::channel::ChannelSpec;
use crate::link::BeginError;
use crate::vm::qemu::{StartError, another_boot};
use crate::vm::record::{EndedBy, Life, Processes};

impl Task {
    /// Finds out from the record what an earlier daemon left. Adopts a VM that runs, cleans up one that was being
    /// started.
    pub(super) async fn recall(&mut self) -> Result<(), StartError> {
        let record = match self.tools.records.load(self.instance) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(instance = %self.instance, error = %Causes(&error), "ending what may run of its VM");
                self.clear_away().await;
                return Ok(());
            }
        };
        let Some(record) = record else {
            return Ok(());
        };
        self.incarnation = record.incarnation;
        self.reboots = record.reboots;
        self.state = match record.life {
            Life::Off => State::Off,
            Life::Ended { how, reason } => State::Ended { how, reason },
            Life::Beginning => {
                tracing::warn!(instance = %self.instance, "cleaning up a VM that was being started");
                self.clear_away().await;
                self.keep(Life::Off).await;
                State::Off
            }
            Life::Running(processes) => self.adopt(&processes).await?,
        };
        Ok(())
    }

    async fn adopt(&self, processes: &Processes) -> Result<State, StartError> {
        let Some(adopted) = self
            .tools
            .qemu
            .adopt(self.instance, self.incarnation, processes)?
        else {
            return self.missed(processes).await;
        };
        let trouble = match adopted.channel {
            Some(channel) => {
                self.begin_again(channel).await?;
                None
            }
            None => Some(
                "its vsock device or its link key is gone; the guest can't reach this host before a reboot"
                    .to_owned(),
            ),
        };
        tracing::info!(instance = %self.instance, incarnation = self.incarnation, "found the VM again");
        let vm = adopted.vm;
        Ok(State::Running { vm, trouble })
    }

    /// Binds the channel of a life that goes on; it is bound still where not the daemon ended, but only a task of it.
    async fn begin_again(&self, channel: ChannelSpec) -> Result<(), BeginError> {
        let shards = &self.tools.shards;
        let begun = shards.begin_incarnation(self.instance, self.incarnation, channel);
        match begun.await {
            Err(BeginError::Stale { current, .. }) if current == self.incarnation => Ok(()),
            begun => begun,
        }
    }

    /// The VM ended while no daemon ran. With the host's end that is no reason to leave it off.
    async fn missed(&self, processes: &Processes) -> Result<State, StartError> {
        // Looked at first: nothing outlives its boot, and after one there may be hundreds of VMs to be looked for.
        if another_boot(processes)? {
            self.keep(Life::Off).await;
            return Ok(State::Off);
        }
        self.clear_away().await;
        let how = EndedBy::Loss;
        let reason = "its QEMU ended while the host daemon was not running".to_owned();
        self.keep(Life::Ended {
            how,
            reason: reason.clone(),
        })
        .await;
        Ok(State::Ended { how, reason })
    }
}
