//! What a task says of its VM: to the control plane, which keeps it, and to whoever looks at this host.

use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Driver, InstanceState};
use moorline_shared::host::VmStatus;

use super::{State, Task, Wanted};
use crate::vm::record::EndedBy;

impl Task {
    /// Says how things stand, now that they stand.
    pub(super) fn show(&mut self, wanted: &Wanted) {
        let (state, reason) = match &self.state {
            State::Off => (InstanceState::Stopped, None),
            State::Ended {
                how: EndedBy::Guest,
                reason,
            } => (InstanceState::Stopped, Some(reason.clone())),
            State::Ended {
                how: EndedBy::Loss,
                reason,
            }
            | State::Failed { reason, .. } => (InstanceState::Failed, Some(reason.clone())),
            State::Running { trouble, .. } => {
                let reason = trouble.as_ref().map(|trouble| trouble.reason().to_owned());
                (InstanceState::Running, reason)
            }
            // Not a state to report: the control plane asked for it, or hears the reason at the end.
            State::Ending { .. } => return,
        };
        self.publish(state, reason.clone());
        if matches!(wanted, Wanted::Spec(_)) {
            self.report(state, reason);
        }
    }

    /// Tells the control plane, unless that is what it was told last.
    pub(super) fn report(&mut self, state: InstanceState, reason: Option<String>) {
        let report = ReportState {
            instance: self.instance,
            state,
            incarnation: self.incarnation,
            reboots: self.reboots,
            reason,
        };
        if self.reported.as_ref() != Some(&report) {
            self.tools.reports.report(report.clone());
            self.reported = Some(report);
        }
    }

    /// Tells whoever looks at the table.
    pub(super) fn publish(&self, state: InstanceState, reason: Option<String>) {
        let pid = match &self.state {
            State::Running { vm, .. } | State::Ending { vm, .. } => Some(vm.pid()),
            _ => None,
        };
        self.tools.table.set(VmStatus {
            instance: self.instance,
            driver: Driver::Qemu,
            state,
            reason,
            incarnation: self.incarnation,
            reboots: self.reboots,
            pid,
        });
    }
}
