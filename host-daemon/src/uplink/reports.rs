//! What became of the machines, said until the control plane has answered.

use std::collections::BTreeMap;
use std::ops::Bound;

use moorline_client::{Client, ClientError, fresh_key};
use moorline_shared::api::hosts::ReportState;
use moorline_shared::id::IdempotencyKey;
use moorline_shared::{HostId, InstanceId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Causes;
use super::backoff::Backoff;

/// How long a reason may be, in bytes, as [`ReportState`] has it.
const MAX_REASON: usize = 512;

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
    /// one that was not answered yet. A reason is cut to what a report may carry.
    pub fn report(&self, mut report: ReportState) {
        if let Some(reason) = &mut report.reason {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
        }
        // The receiver goes only when the daemon does, and then nobody is left to be told.
        let _ = self.0.send(report);
    }
}

/// What was not answered yet: of each instance the last, with the key that makes it safe to send again.
#[derive(Debug, Default)]
struct Unanswered(BTreeMap<InstanceId, (ReportState, IdempotencyKey)>);

impl Unanswered {
    fn add(&mut self, report: ReportState) {
        self.0.insert(report.instance, (report, fresh_key()));
    }

    /// The next one after an instance's, around in a circle: one that is not answered holds no other up.
    fn after(&self, last: Option<InstanceId>) -> Option<(ReportState, IdempotencyKey)> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.0.range((after, Bound::Unbounded)).chain(&self.0).next();
        next.map(|(_, report)| report.clone())
    }

    /// The next one to be sent, once there is one; none if no more can come. What has come meanwhile is taken in.
    /// Cancel-safe: a report that wasn't taken stays in the channel.
    async fn next(
        &mut self,
        last: Option<InstanceId>,
        reports: &mut mpsc::UnboundedReceiver<ReportState>,
    ) -> Option<(ReportState, IdempotencyKey)> {
        while let Ok(report) = reports.try_recv() {
            self.add(report);
        }
        if self.0.is_empty() {
            self.add(reports.recv().await?);
        }
        self.after(last)
    }

    /// The report was answered; a later one about the same instance stays.
    fn answered(&mut self, report: &ReportState) {
        if self
            .0
            .get(&report.instance)
            .is_some_and(|(last, _)| last == report)
        {
            self.0.remove(&report.instance);
        }
    }
}

/// Delivers reports until it is cancelled or no more can come.
pub(super) async fn deliver(
    client: Client,
    host: HostId,
    mut reports: mpsc::UnboundedReceiver<ReportState>,
    cancel: CancellationToken,
) {
    let mut unanswered = Unanswered::default();
    let mut backoff = Backoff::new();
    let mut last = None;
    // Cancel-safe: whatever wasn't answered would be sent again with the same key, and the daemon ends anyway.
    let delivering = async {
        while let Some((report, key)) = unanswered.next(last, &mut reports).await {
            last = Some(report.instance);
            let answer = client.report_instance_state(&host, &report, &key).await;
            if is_final(&report, &answer.map(drop)) {
                unanswered.answered(&report);
                backoff.reset();
            } else {
                tokio::time::sleep(backoff.next()).await;
            }
        }
    };
    cancel.run_until_cancelled(delivering).await;
}

/// Whether asking again can't change the answer.
fn is_final(report: &ReportState, answer: &Result<(), ClientError>) -> bool {
    let Err(error) = answer else {
        return true;
    };
    let (instance, state) = (report.instance, report.state);
    // Who isn't known, is too slow or asks too often may be heard the next time; what a machine did stays true.
    let refused = error
        .problem()
        .is_some_and(|problem| problem.status < 500 && !matches!(problem.status, 401 | 408 | 429));
    if refused {
        tracing::warn!(%instance, ?state, error = %Causes(error), "the control plane refused a report");
    } else {
        tracing::debug!(%instance, ?state, error = %Causes(error), "a report was not answered yet");
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::{Reports, Unanswered};
    use moorline_shared::InstanceId;
    use moorline_shared::api::hosts::ReportState;
    use moorline_shared::api::instances::InstanceState;

    fn report(n: u8, state: InstanceState) -> ReportState {
        ReportState {
            instance: InstanceId::from_bytes([n; 16]),
            state,
            incarnation: 1,
            reboots: 0,
            reason: None,
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let (reports, mut received) = Reports::channel();
        let reason = Some(format!("{}é", "x".repeat(511)));
        reports.report(ReportState {
            reason,
            ..report(1, InstanceState::Failed)
        });
        let reason = received.try_recv().unwrap().reason.unwrap();
        assert_eq!(reason, "x".repeat(511));
    }

    #[test]
    fn the_last_report_counts() {
        let mut unanswered = Unanswered::default();
        unanswered.add(report(1, InstanceState::Running));
        unanswered.add(report(1, InstanceState::Stopped));
        unanswered.answered(&report(1, InstanceState::Running));
        assert_eq!(
            unanswered.after(None).unwrap().0,
            report(1, InstanceState::Stopped)
        );
        unanswered.answered(&report(1, InstanceState::Stopped));
        assert!(unanswered.after(None).is_none());
    }

    #[test]
    fn a_report_that_is_not_answered_holds_no_other_up() {
        let mut unanswered = Unanswered::default();
        for n in 1..=3 {
            unanswered.add(report(n, InstanceState::Running));
        }
        let mut last = None;
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (next, _) = unanswered.after(last).unwrap();
            last = Some(next.instance);
            seen.push(next.instance.bytes()[0]);
        }
        assert_eq!(seen, [1, 2, 3, 1]);
    }
}
