//! The uplink: the feed down, reports up, and the requests that guests make of the control plane.

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use tokio::sync::mpsc;

/// What the feed says about the VMs of this host, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecChange {
    /// An instance of this host, new or changed.
    Set(InstanceSpec),
    /// An instance that is no longer this host's.
    Gone(InstanceId),
    /// Every instance of this host was named since the daemon started; one that was not is not this host's.
    Complete,
}

/// Takes reports for the control plane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::UnboundedSender<ReportState>);

impl Reports {
    /// Reports and where they come out; the uplink takes the other end.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<ReportState>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Has the transition reported until the control plane answers. A later report about the same instance replaces
    /// one that was not answered yet.
    pub fn report(&self, report: ReportState) {
        // The receiver goes only when the daemon does, and then nobody is left to be told.
        let _ = self.0.send(report);
    }
}
