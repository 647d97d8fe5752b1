//! How a task begins: with what an earlier daemon left.

use std::time::Duration;

use tokio::time::Instant;

use super::{BETWEEN_RECALLS, State, Task, Trouble};
use crate::causes::Causes;
use crate::channel::ChannelSpec;
use crate::link::BeginError;
use crate::vm::file::FileError;
use crate::vm::qemu::{StartError, another_boot};
use crate::vm::record::{EndedBy, Life, Processes};

impl Task {
    /// Finds out from the record what an earlier daemon left. Adopts a VM that runs, cleans up one that was being
    /// started.
    pub(super) async fn recall(&mut self) -> Result<(), StartError> {
        let record = match self.tools.records.load(self.instance) {
            Ok(record) => record,
            Err(error @ FileError::Corrupt { .. }) => {
                tracing::error!(instance = %self.instance, error = %Causes(&error), "ending what may run of its VM");
                self.clear_away().await;
                return Ok(());
            }
            // The VM is none the worse for a disk that can't be read at the moment.
            Err(error) => return Err(error.into()),
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
            Some(channel) => self.bind(channel).await,
            None => Some(Trouble::Lost(
                "its vsock device or its link key is gone; the guest can't reach this host before a reboot"
                    .to_owned(),
            )),
        };
        if let Some(trouble) = &trouble {
            tracing::error!(instance = %self.instance, incarnation = self.incarnation, reason = trouble.reason());
        }
        tracing::info!(instance = %self.instance, incarnation = self.incarnation, "found the VM again");
        let vm = adopted.vm;
        Ok(State::Running { vm, trouble })
    }

    /// Binds the channel of a VM that was found again, or says what is wrong with that. It is no reason to let go of the
    /// VM: what is in the way may be of the guest's making, and who wants to stop it must be able to.
    async fn bind(&self, channel: ChannelSpec) -> Option<Trouble> {
        let error = self.begin_again(channel.clone()).await.err()?;
        let reason = format!(
            "the guest can't reach this host, its channel can't be bound: {}",
            Causes(&error)
        );
        let again = Instant::now() + BETWEEN_RECALLS;
        Some(Trouble::Unbound {
            channel,
            again,
            reason,
        })
    }

    /// Tries again to bind a channel that couldn't be, once it is time.
    pub(super) async fn bind_if_due(&mut self) {
        let State::Running {
            trouble: Some(Trouble::Unbound { channel, again, .. }),
            ..
        } = &self.state
        else {
            return;
        };
        if *again > Instant::now() {
            return;
        }
        let now = self.bind(channel.clone()).await;
        if now.is_none() {
            tracing::info!(instance = %self.instance, incarnation = self.incarnation, "the guest's channel is bound again");
        }
        if let State::Running { trouble, .. } = &mut self.state {
            *trouble = now;
        }
    }

    /// How long until [`Self::bind_if_due`] has something to do.
    pub(super) fn next_try(&self) -> Option<Duration> {
        match &self.state {
            State::Running {
                trouble: Some(Trouble::Unbound { again, .. }),
                ..
            } => Some(again.saturating_duration_since(Instant::now())),
            _ => None,
        }
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
            self.discard_link_key().await;
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
