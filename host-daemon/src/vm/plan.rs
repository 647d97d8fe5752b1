//! The state machine of one instance's VM: what is wanted and what there is give what to do next.
//!
//! ```text
//!            Start            PowerDown, Quit, Kill
//!   Off ----------> Running ------------------------> Ending ---> Off
//!    ^ \               |  the guest powered off, or
//!    |  \              v  the VMM was lost
//!    |   `---------  Ended    (stays so until a stop, or a start that counts as a reboot)
//!    `- Failed       (tried again after a while, longer each time)
//! ```
//! The next life after a reboot is begun from `Off`. Nothing here does anything: the instance's task does, and asks
//! again with what came of it.

use std::time::Duration;

/// What is wanted of an instance's VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing is known yet: what runs goes on, what is off stays off.
    Unknown,
    /// It runs, and has been started or rebooted since the reboot with this number was asked for.
    Running {
        /// How often a reboot was asked for.
        reboots: u64,
    },
    /// It is off.
    Stopped,
    /// It is off, and nothing of it is left on this host.
    Terminated,
    /// The same for an instance that is no longer this host's; nobody wants to hear of it.
    Gone,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// No VM, and nothing that speaks against starting one.
    Off,
    /// No VM, because it ended without having been told to.
    Ended {
        /// Up to which reboot it had been rebooted.
        reboots: u64,
    },
    /// No VM, because it could not be started.
    Failed {
        /// How long the host lets pass before it tries again.
        retry_in: Duration,
    },
    /// A VM runs.
    Running {
        /// Up to which reboot it has been rebooted.
        reboots: u64,
    },
    /// A VM was told to end.
    Ending {
        /// How it was told last.
        told: StopStep,
        /// How long ago that was.
        ago: Duration,
    },
}

/// How a VM was told to end, from the politest to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// The guest was asked, as by its power button.
    Guest,
    /// The VMM was asked.
    Vmm,
    /// Its process was killed.
    Killed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait for something to happen.
    Wait,
    /// Wait for something to happen, at most this long.
    WaitFor(Duration),
    /// Begin the next life.
    Start,
    /// Ask the guest to end.
    PowerDown,
    /// Ask the VMM to end.
    Quit,
    /// Kill its processes.
    Kill,
    /// What ended by itself counts as stopped from now on.
    Settle,
    /// Remove what is left of it, and say that it is no more.
    Remove,
    /// Remove what is left of it, and say nothing.
    Forget,
}

/// How long each way of telling a VM to end may take before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the guest, from the power button on.
    pub guest: Duration,
    /// For the VMM.
    pub vmm: Duration,
}

/// The next step from what there is to what is wanted.
pub fn next(want: Want, observed: Observed, patience: Patience) -> Action {
    match observed {
        Observed::Running { reboots } => running(want, reboots),
        Observed::Ending { told, ago } => ending(told, ago, patience),
        Observed::Off => off(want),
        Observed::Ended { reboots } => ended(want, reboots),
        Observed::Failed { retry_in } => failed(want, retry_in),
    }
}

fn running(want: Want, done: u64) -> Action {
    match want {
        Want::Unknown => Action::Wait,
        Want::Running { reboots } if reboots <= done => Action::Wait,
        Want::Running { .. } | Want::Stopped | Want::Terminated | Want::Gone => Action::PowerDown,
    }
}

/// Whatever is wanted by now, a guest that was told to end is half gone: the end comes first.
fn ending(told: StopStep, ago: Duration, patience: Patience) -> Action {
    let (patience, then) = match told {
        StopStep::Guest => (patience.guest, Action::Quit),
        StopStep::Vmm => (patience.vmm, Action::Kill),
        StopStep::Killed => return Action::Wait,
    };
    match patience.checked_sub(ago) {
        Some(left) if !left.is_zero() => Action::WaitFor(left),
        _ => then,
    }
}

fn off(want: Want) -> Action {
    match want {
        Want::Unknown | Want::Stopped => Action::Wait,
        Want::Running { .. } => Action::Start,
        Want::Terminated => Action::Remove,
        Want::Gone => Action::Forget,
    }
}

/// A guest that powers itself off must not be started again for it, or it could never be off; and one that takes
/// its VMM down must not do so in a circle.
fn ended(want: Want, done: u64) -> Action {
    match want {
        Want::Running { reboots } if reboots <= done => Action::Wait,
        Want::Stopped => Action::Settle,
        _ => off(want),
    }
}

fn failed(want: Want, retry_in: Duration) -> Action {
    match want {
        Want::Running { .. } if !retry_in.is_zero() => Action::WaitFor(retry_in),
        Want::Stopped => Action::Settle,
        _ => off(want),
    }
}

#[cfg(test)]
mod tests {
    use super::{Observed, Patience, StopStep, Want, next};
    use std::fmt::Write;
    use std::time::Duration;

    const PATIENCE: Patience = Patience {
        guest: Duration::from_secs(10),
        vmm: Duration::from_secs(3),
    };

    fn wants() -> [Want; 6] {
        [
            Want::Unknown,
            Want::Running { reboots: 1 },
            Want::Running { reboots: 2 },
            Want::Stopped,
            Want::Terminated,
            Want::Gone,
        ]
    }

    fn situations() -> Vec<Observed> {
        let ending = |told, seconds| Observed::Ending {
            told,
            ago: Duration::from_secs(seconds),
        };
        vec![
            Observed::Off,
            Observed::Ended { reboots: 1 },
            Observed::Failed {
                retry_in: Duration::from_secs(4),
            },
            Observed::Failed {
                retry_in: Duration::ZERO,
            },
            Observed::Running { reboots: 1 },
            ending(StopStep::Guest, 4),
            ending(StopStep::Guest, 10),
            ending(StopStep::Vmm, 0),
            ending(StopStep::Vmm, 3),
            ending(StopStep::Killed, 100),
        ]
    }

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for observed in situations() {
            writeln!(table, "{observed:?}").unwrap();
            for want in wants() {
                let action = next(want, observed, PATIENCE);
                writeln!(table, "    {:24} -> {action:?}", format!("{want:?}")).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_vm_that_was_told_to_end_is_killed_at_last_whatever_is_wanted() {
        for want in wants() {
            let mut told = StopStep::Guest;
            for (expected, after) in [
                (super::Action::Quit, StopStep::Vmm),
                (super::Action::Kill, StopStep::Killed),
            ] {
                let late = Observed::Ending {
                    told,
                    ago: Duration::from_mins(1),
                };
                assert_eq!(next(want, late, PATIENCE), expected);
                told = after;
            }
        }
    }
}
