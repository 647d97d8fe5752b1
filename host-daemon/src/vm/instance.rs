//! The task of one instance: it alone touches the instance's VM.
//!
//! Each round asks [`next`] what is to be done and does it; when nothing is, it reports how things stand and waits for
//! the first of: another wish, something that happened to the VM, a deadline. Cancelled, it leaves the VM running.

use std::sync::Arc;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::host::VmStatus;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::config::VmConfig;
use super::plan::{Action, Observed, Told, Want, next};
use super::qemu::vm::{Vm, VmEvent};
use super::qemu::{Qemu, StartError};
use super::record::{Ended, Life, Processes, Record, Records};
use super::table::Table;
use crate::link::ShardsHandle;
use crate::uplink::Reports;

/// The longest pause between two tries to start a VM.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Between two tries to find a VM again.
const BETWEEN_RECALLS: Duration = Duration::from_secs(5);
/// As `ReportState` has it.
const MAX_REASON: usize = 512;

/// What all instances' tasks share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) qemu: Qemu,
    pub(super) records: Records,
    pub(super) shards: ShardsHandle,
    pub(super) reports: Reports,
    pub(super) table: Table,
    pub(super) config: VmConfig,
    pub(super) starts: Semaphore,
}

/// What the control plane said of an instance.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Nothing yet.
    Unknown,
    /// This.
    Spec(Arc<InstanceSpec>),
    /// It is no longer this host's.
    Gone,
}

impl Wanted {
    pub(super) fn want(&self) -> Want {
        match self {
            Self::Unknown => Want::Unknown,
            Self::Gone => Want::Gone,
            Self::Spec(spec) => match spec.desired {
                Desired::Running => Want::Running {
                    reboots: spec.reboots,
                },
                Desired::Stopped => Want::Stopped,
                Desired::Terminated => Want::Terminated,
            },
        }
    }
}

/// How it is with the VM.
#[derive(Debug)]
enum State {
    Off,
    Ended {
        how: Ended,
        reason: String,
    },
    Failed {
        until: Instant,
        failures: u32,
        reason: String,
    },
    Running {
        vm: Vm,
        /// What is wrong with it although it runs.
        trouble: Option<String>,
    },
    Ending {
        vm: Vm,
        told: Told,
        since: Instant,
        /// Why, if nobody asked for it.
        by_guest: Option<String>,
    },
}

/// Whether the task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Another,
    Last,
}

/// The task of one instance.
#[derive(Debug)]
pub(super) struct Task {
    instance: InstanceId,
    parts: Arc<Parts>,
    wanted: watch::Receiver<Wanted>,
    state: State,
    incarnation: u64,
    reboots: u64,
    reported: Option<ReportState>,
}

impl Task {
    pub(super) fn new(instance: InstanceId, parts: Arc<Parts>, wanted: watch::Receiver<Wanted>) -> Self {
        Self {
            instance,
            parts,
            wanted,
            state: State::Off,
            incarnation: 0,
            reboots: 0,
            reported: None,
        }
    }

    /// Runs until the instance is no more on this host, or until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        while let Err(error) = self.recall().await {
            tracing::error!(instance = %self.instance, error = %chain(&error), "can't find out how its VM is; trying again");
            // Cancel-safe: nothing is held between two tries.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(BETWEEN_RECALLS) => (),
            }
        }
        while self.round(&cancel).await == Round::Another {}
    }

    async fn round(&mut self, cancel: &CancellationToken) -> Round {
        let wanted = self.wanted.borrow_and_update().clone();
        if let Wanted::Spec(spec) = &wanted {
            self.incarnation = self.incarnation.max(spec.incarnation);
        }
        let patience = self.parts.config.patience();
        match (next(wanted.want(), self.observed(), patience), &wanted) {
            (Action::Wait, _) => return self.rest(&wanted, None, cancel).await,
            (Action::WaitFor(left), _) => return self.rest(&wanted, Some(left), cancel).await,
            (Action::Start, Wanted::Spec(spec)) => return self.start_in_turn(spec, cancel).await,
            // Nothing else than a specification asks for a start.
            (Action::Start, _) => return Round::Last,
            (Action::PowerDown, _) => self.tell(Told::Guest).await,
            (Action::Quit, _) => self.tell(Told::Vmm).await,
            (Action::Kill, _) => self.tell(Told::Killed).await,
            (Action::Settle, _) => self.turn_off(),
            (Action::Remove, _) => {
                self.remove();
                self.report(InstanceState::Terminated, None);
                return Round::Last;
            }
            (Action::Forget, _) => {
                self.remove();
                return Round::Last;
            }
        }
        Round::Another
    }

    fn observed(&self) -> Observed {
        match &self.state {
            State::Off => Observed::Off,
            State::Ended { .. } => Observed::Ended {
                reboots: self.reboots,
            },
            State::Failed { until, .. } => Observed::Failed {
                retry_in: until.saturating_duration_since(Instant::now()),
            },
            State::Running { .. } => Observed::Running {
                reboots: self.reboots,
            },
            State::Ending { told, since, .. } => Observed::Ending {
                told: *told,
                ago: since.elapsed(),
            },
        }
    }

    /// Waits until there is a reason for another round.
    async fn rest(
        &mut self,
        wanted: &Wanted,
        at_most: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Round {
        self.show(wanted);
        let deadline = async {
            match at_most {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: an event that wasn't taken is there the next time, and a wish is looked at in every round.
        tokio::select! {
            () = cancel.cancelled() => return Round::Last,
            changed = self.wanted.changed() => if changed.is_err() { return Round::Last },
            event = happening(&mut self.state) => self.happened(event).await,
            () = deadline => (),
        }
        Round::Another
    }

    async fn start_in_turn(&mut self, spec: &InstanceSpec, cancel: &CancellationToken) -> Round {
        let parts = Arc::clone(&self.parts);
        self.publish(InstanceState::Pending, None);
        // Cancel-safe: a turn that wasn't taken is another's.
        let turn = tokio::select! {
            () = cancel.cancelled() => return Round::Last,
            changed = self.wanted.changed() => {
                return if changed.is_ok() { Round::Another } else { Round::Last };
            }
            turn = parts.starts.acquire() => turn,
        };
        self.start(spec).await;
        drop(turn);
        Round::Another
    }

    /// Begins the next life. Not cut short: what it leaves half done is cleaned up by a later daemon only.
    async fn start(&mut self, spec: &InstanceSpec) {
        let failures = match &self.state {
            State::Failed { failures, .. } => *failures,
            _ => 0,
        };
        self.incarnation += 1;
        self.reboots = spec.reboots;
        let begun = Instant::now();
        match self.begin(spec).await {
            Ok(vm) => {
                let took = begun.elapsed();
                tracing::info!(instance = %self.instance, incarnation = self.incarnation, ?took, "started the VM");
                self.state = State::Running { vm, trouble: None };
            }
            Err(error) => self.give_up(&error, failures).await,
        }
    }

    async fn begin(&self, spec: &InstanceSpec) -> Result<Vm, StartError> {
        let Parts {
            qemu,
            records,
            shards,
            ..
        } = &*self.parts;
        qemu.prepare(self.instance)?;
        records.save(&self.record(Life::Beginning))?;
        let ready = qemu.vsock(self.instance).await?;
        shards
            .begin_incarnation(self.instance, self.incarnation, ready.channel())
            .await?;
        let (vm, processes) = qemu.boot(spec, ready).await?;
        records.save(&self.record(Life::Running(processes)))?;
        Ok(vm)
    }

    async fn give_up(&mut self, error: &StartError, failures: u32) {
        let reason = chain(error);
        tracing::warn!(instance = %self.instance, incarnation = self.incarnation, %reason, "could not start the VM");
        self.clear_away().await;
        self.keep(Life::Off);
        let first = Duration::from_secs(self.parts.config.retry_seconds.into());
        let pause = first.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        self.state = State::Failed {
            until: Instant::now() + pause,
            failures: failures + 1,
            reason,
        };
    }

    /// Ends whatever was started for this life, and the life itself.
    async fn clear_away(&self) {
        self.parts
            .shards
            .end_incarnation(self.instance, self.incarnation)
            .await;
        if let Err(error) = self.parts.qemu.clear(self.instance).await {
            tracing::error!(instance = %self.instance, %error, "can't end what was started for its VM");
        }
    }

    /// Tells the VM to end; where one way fails, the next one is taken at once.
    async fn tell(&mut self, how: Told) {
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

    async fn happened(&mut self, event: VmEvent) {
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
                self.tell(Told::Vmm).await;
                if let State::Ending { by_guest, .. } = &mut self.state {
                    *by_guest = Some(in_words(word));
                }
            }
            State::Ending {
                told: Told::Guest, ..
            } => self.tell(Told::Vmm).await,
            _ => (),
        }
    }

    async fn vmm_ended(&mut self, how: &str) {
        self.parts
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
                let how = Ended::ByGuest;
                (vm, Life::Ended { how, reason })
            }
            State::Running { vm, .. } => {
                let reason = format!("its QEMU {how}");
                (
                    vm,
                    Life::Ended {
                        how: Ended::Lost,
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
        if let Life::Ended { how, reason } = &life {
            let reason = reason.clone();
            self.state = State::Ended { how: *how, reason };
        }
        self.keep(life);
    }

    async fn device_ended(&mut self, how: &str) {
        self.parts
            .shards
            .end_incarnation(self.instance, self.incarnation)
            .await;
        if let State::Running { trouble, .. } = &mut self.state {
            let reason = format!("its vsock device {how}; the guest can't reach this host before a reboot");
            tracing::warn!(instance = %self.instance, incarnation = self.incarnation, %reason);
            *trouble = Some(reason);
        }
    }

    fn turn_off(&mut self) {
        self.state = State::Off;
        self.keep(Life::Off);
    }

    fn remove(&self) {
        if let Err(error) = self.parts.records.remove(self.instance) {
            tracing::error!(instance = %self.instance, error = %chain(&error), "can't remove what belonged to its VM");
        }
        self.parts.table.remove(self.instance);
    }

    fn record(&self, life: Life) -> Record {
        Record::new(self.instance, self.incarnation, self.reboots, life)
    }

    /// Keeps how things stand. Failing that, the next daemon finds the VM gone and says so: nothing is lost.
    fn keep(&self, life: Life) {
        // An instance that never had a folder has nothing to be kept.
        if !self.parts.records.folder(self.instance).exists() {
            return;
        }
        if let Err(error) = self.parts.records.save(&self.record(life)) {
            tracing::error!(instance = %self.instance, error = %chain(&error), "can't keep how its VM is");
        }
    }

    /// Finds out from the record what an earlier daemon left. Adopts a VM that runs, cleans up one that was being
    /// started.
    async fn recall(&mut self) -> Result<(), StartError> {
        let record = match self.parts.records.load(self.instance) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(instance = %self.instance, error = %chain(&error), "ending what may run of its VM");
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
                self.keep(Life::Off);
                State::Off
            }
            Life::Running(processes) => self.adopt(&processes).await?,
        };
        Ok(())
    }

    async fn adopt(&self, processes: &Processes) -> Result<State, StartError> {
        let Some(adopted) = self.parts.qemu.adopt(self.instance, processes)? else {
            return self.missed(processes).await;
        };
        let trouble = match adopted.channel {
            Some(channel) => {
                let begun = self
                    .parts
                    .shards
                    .begin_incarnation(self.instance, self.incarnation, channel);
                begun.await?;
                None
            }
            None => {
                Some("its vsock device is gone; the guest can't reach this host before a reboot".to_owned())
            }
        };
        tracing::info!(instance = %self.instance, incarnation = self.incarnation, "found the VM again");
        let vm = adopted.vm;
        Ok(State::Running { vm, trouble })
    }

    /// The VM ended while no daemon ran. With the host's end that is no reason to leave it off.
    async fn missed(&self, processes: &Processes) -> Result<State, StartError> {
        self.clear_away().await;
        if super::qemu::another_boot(processes)? {
            self.keep(Life::Off);
            return Ok(State::Off);
        }
        let how = Ended::Lost;
        let reason = "its QEMU ended while the host daemon was not running".to_owned();
        self.keep(Life::Ended {
            how,
            reason: reason.clone(),
        });
        Ok(State::Ended { how, reason })
    }

    /// Says how things stand, now that they stand.
    fn show(&mut self, wanted: &Wanted) {
        let (state, reason) = match &self.state {
            State::Off => (InstanceState::Stopped, None),
            State::Ended {
                how: Ended::ByGuest,
                reason,
            } => (InstanceState::Stopped, Some(reason.clone())),
            State::Ended {
                how: Ended::Lost,
                reason,
            }
            | State::Failed { reason, .. } => (InstanceState::Failed, Some(reason.clone())),
            State::Running { trouble, .. } => (InstanceState::Running, trouble.clone()),
            // Not a state to report: the control plane asked for it, or hears the reason at the end.
            State::Ending { .. } => return,
        };
        self.publish(state, reason.clone());
        if matches!(wanted, Wanted::Spec(_)) {
            self.report(state, reason);
        }
    }

    /// Tells the control plane, unless that is what it was told last.
    fn report(&mut self, state: InstanceState, reason: Option<String>) {
        let report = ReportState {
            instance: self.instance,
            state,
            incarnation: self.incarnation,
            reboots: self.reboots,
            reason: reason.map(shorten),
        };
        if self.reported.as_ref() != Some(&report) {
            self.parts.reports.report(report.clone());
            self.reported = Some(report);
        }
    }

    /// Tells whoever looks at the table.
    fn publish(&self, state: InstanceState, reason: Option<String>) {
        let pid = match &self.state {
            State::Running { vm, .. } | State::Ending { vm, .. } => Some(vm.pid()),
            _ => None,
        };
        self.parts.table.set(VmStatus {
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

/// The next thing that happens to a VM, if there is one; for ever pending otherwise.
async fn happening(state: &mut State) -> VmEvent {
    match state {
        State::Running { vm, .. } | State::Ending { vm, .. } => vm.event().await,
        State::Off | State::Ended { .. } | State::Failed { .. } => std::future::pending().await,
    }
}

/// Tells the VM to end, by `how` or, where that fails, by the next way. Answers with the one that was taken.
async fn told(instance: InstanceId, vm: &mut Vm, how: Told) -> Told {
    if how == Told::Guest {
        match vm.power_down().await {
            Ok(()) => return Told::Guest,
            Err(error) => tracing::warn!(%instance, error = %chain(&error), "can't press the power button"),
        }
    }
    if how != Told::Killed {
        match vm.quit().await {
            Ok(()) => return Told::Vmm,
            Err(error) => tracing::warn!(%instance, error = %chain(&error), "can't have QEMU quit"),
        }
    }
    tracing::warn!(%instance, "killing QEMU");
    if let Err(error) = vm.kill() {
        tracing::error!(%instance, %error, "can't kill QEMU");
    }
    Told::Killed
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

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Cuts a reason to what a report may carry.
pub(super) fn shorten(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    reason
}
