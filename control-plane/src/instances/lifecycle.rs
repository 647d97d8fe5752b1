//! Which state of an instance follows which.

use moorline_shared::api::instances::{Desired, InstanceState};

use super::records::InstanceRecord;

/// What a user asks of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Run it.
    Start,
    /// Switch it off.
    Stop,
    /// Switch it off and on again.
    Reboot,
    /// End it for good.
    Terminate,
}

/// Why a user can't have what they ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {
    /// The instance is terminated.
    Terminated,
    /// Somebody else runs its VM.
    External,
    /// It doesn't run, so that it can't be rebooted.
    NotRunning,
}

/// Records what is wanted from now on; the host does it and reports. Asking for what is already so changes nothing.
pub fn ask(instance: &mut InstanceRecord, ask: Ask) -> Result<(), Never> {
    if instance.is_terminated() {
        return if ask == Ask::Terminate {
            Ok(())
        } else {
            Err(Never::Terminated)
        };
    }
    match ask {
        Ask::Terminate => want(instance, Desired::Terminated, InstanceState::ShuttingDown),
        _ if instance.image.is_none() => return Err(Never::External),
        Ask::Start if instance.desired == Desired::Running && instance.state != InstanceState::Failed => {
            restart_if_stopped(instance);
        }
        Ask::Start => start(instance),
        Ask::Stop if instance.state != InstanceState::Stopped => {
            want(instance, Desired::Stopped, InstanceState::Stopping);
        }
        Ask::Stop => {}
        Ask::Reboot if instance.desired == Desired::Running => instance.reboots += 1,
        Ask::Reboot => return Err(Never::NotRunning),
    }
    Ok(())
}

fn want(instance: &mut InstanceRecord, desired: Desired, state: InstanceState) {
    (instance.desired, instance.state, instance.reason) = (desired, state, None);
}

/// A start counts as a reboot, so that a host that has seen the VM end knows that it is wanted anew.
fn start(instance: &mut InstanceRecord) {
    want(instance, Desired::Running, InstanceState::Pending);
    instance.reboots += 1;
}

/// A guest that switched itself off is wanted running still, and a start brings it back.
fn restart_if_stopped(instance: &mut InstanceRecord) {
    if instance.state == InstanceState::Stopped {
        start(instance);
    }
}

/// What a host's report of an instance is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is to be recorded.
    News,
    /// The instance has ended, so that nothing more happens to it.
    Late,
    /// It says that the host ends what nobody asked it to end.
    NotAsked,
}

/// Judges the report that the instance went to `to`. Only users end instances: what a host loses has failed.
pub fn judge(instance: &InstanceRecord, to: InstanceState) -> Report {
    let ends = matches!(to, InstanceState::Terminated | InstanceState::ShuttingDown);
    if instance.has_ended() {
        Report::Late
    } else if ends && !instance.is_terminated() {
        Report::NotAsked
    } else {
        Report::News
    }
}

/// The state to record for a report: what the host saw, unless the user meanwhile asked for its end.
pub fn reported(instance: &InstanceRecord, to: InstanceState) -> InstanceState {
    match (instance.desired, to) {
        (Desired::Terminated, InstanceState::Terminated) => InstanceState::Terminated,
        (Desired::Terminated, _) => InstanceState::ShuttingDown,
        (Desired::Stopped, InstanceState::Running | InstanceState::Pending) => InstanceState::Stopping,
        (_, to) => to,
    }
}
