//! How a VM ends: told to by its task, by its guest, or by an accident.

use moorline_shared::InstanceId;
use moorline_shared::api::instances::InstanceState;
use tokio::time::Instant;

use super::{State, Task, Trouble};
use crate::causes::Causes;
use crate::vm::plan::StopStep;
use crate::vm::qemu::vm::{Vm, VmEvent};
use crate::vm::record::{EndedBy, Life};

impl Task {
    /// Tells the VM to end; where one way fails, the next one is taken at once.
    pub(super) async fn tell(&mut self, how: StopStep) {
        let (mut vm, by_guest) = match std::mem::replace(&mut self.state, State::Off) {
            State::Running { vm, .. } => (vm, None),
            State::Ending { vm, by_guest, .. } => (vm, by_guest),
            other => {
                self.state = other;
                return;
            }
        };
        let told = told(self.instance, &mut vm, how).await;
        self.state = State::Ending {
            vm,
            told,
            since: Instant::now(),
            by_guest,
        };
        self.publish(InstanceState::Stopping, None);
    }

    pub(super) async fn happened(&mut self, event: VmEvent) {
        tracing::debug!(instance = %self.instance, incarnation = self.incarnation, ?event, "something happened to the VM");
        match event {
            VmEvent::GuestEnded { reason } => self.guest_ended(&reason).await,
            VmEvent::VmmEnded(ending) => self.vmm_ended(&ending.to_string()).await,
            VmEvent::DeviceEnded(ending) => self.device_ended(&ending.to_string()).await,
            VmEvent::Noted(_) => (),
        }
    }

    /// The guest is off; its QEMU is told to go, unless it was told already and this is what it says to that.
    async fn guest_ended(&mut self, word: &str) {
        match self.state {
            State::Running { .. } => {
                self.tell(StopStep::Vmm).await;
                if let State::Ending { by_guest, .. } = &mut self.state {
                    *by_guest = Some(in_words(word));
                }
            }
            State::Ending {
                told: StopStep::Guest,
                ..
            } => self.tell(StopStep::Vmm).await,
            _ => (),
        }
    }

    async fn vmm_ended(&mut self, how: &str) {
        self.tools
            .shards
            .end_incarnation(self.instance, self.incarnation)
            .await;
        let (vm, life) = match std::mem::replace(&mut self.state, State::Off) {
            State::Ending {
                vm, by_guest: None, ..
            } => (vm, Life::Off),
            State::Ending {
                vm,
                by_guest: Some(reason),
                ..
            } => {
                let how = EndedBy::Guest;
                (vm, Life::Ended { how, reason })
            }
            State::Running { vm, .. } => {
                let reason = format!("its QEMU {how}");
                (
                    vm,
                    Life::Ended {
                        how: EndedBy::Loss,
                        reason,
                    },
                )
            }
            _ => return,
        };
        tracing::info!(instance = %self.instance, incarnation = self.incarnation, ?life, "the VM ended");
        if let Err(error) = vm.clear().await {
            tracing::error!(instance = %self.instance, %error, "can't end the vsock device of a VM that ended");
        }
        self.discard_link_key().await;
        if let Life::Ended { how, reason } = &life {
            let reason = reason.clone();
            self.state = State::Ended { how: *how, reason };
        }
        self.keep(life).await;
    }

    async fn device_ended(&mut self, how: &str) {
        self.tools
            .shards
            .end_incarnation(self.instance, self.incarnation)
            .await;
        if let State::Running { trouble, .. } = &mut self.state {
            let reason = format!("its vsock device {how}; the guest can't reach this host before a reboot");
            tracing::warn!(instance = %self.instance, incarnation = self.incarnation, %reason);
            *trouble = Some(Trouble::Lost(reason));
        }
    }
}

/// Tells the VM to end, by `how` or, where that fails, by the next way. Answers with the one that was taken.
async fn told(instance: InstanceId, vm: &mut Vm, how: StopStep) -> StopStep {
    if how == StopStep::Guest {
        match vm.power_down().await {
            Ok(()) => return StopStep::Guest,
            Err(error) => tracing::warn!(%instance, error = %Causes(&error), "can't press the power button"),
        }
    }
    if how != StopStep::Killed {
        match vm.quit().await {
            Ok(()) => return StopStep::Vmm,
            Err(error) => tracing::warn!(%instance, error = %Causes(&error), "can't have QEMU quit"),
        }
    }
    tracing::warn!(%instance, "killing QEMU");
    if let Err(error) = vm.kill() {
        tracing::error!(%instance, %error, "can't kill QEMU");
    }
    StopStep::Killed
}

/// QEMU's word for why a guest ended, in a person's words.
fn in_words(word: &str) -> String {
    match word {
        "guest-shutdown" => "the guest powered off".to_owned(),
        "guest-reset" => "the guest restarted, which its image's arguments make its end".to_owned(),
        "guest-panic" => "the guest panicked".to_owned(),
        other => format!("the guest ended ({other})"),
    }
}
