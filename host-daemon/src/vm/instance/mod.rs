//! The task of one instance: it alone touches the instance's VM.
//!
//! Each round asks [`next`] what is to be done and does it; when nothing is, it reports how things stand and waits for
//! the first of: another wish, something that happened to the VM, a deadline. Cancelled, it leaves the VM running.

mod ending;
mod recall;
mod report;

use std::sync::Arc;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, InstanceState};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::causes::Causes;
use crate::channel::ChannelSpec;
use crate::link::ShardsHandle;
use crate::uplink::Reports;
use crate::vm::config::VmConfig;
use crate::vm::plan::{Action, Observed, StopStep, Want, next};
use crate::vm::qemu::vm::{Vm, VmEvent};
use crate::vm::qemu::{Qemu, StartError};
use crate::vm::record::{EndedBy, Life, Record, Records};
use crate::vm::table::Table;

/// The longest pause between two tries to start a VM.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Between two tries to find a VM again, or to bind the channel of one that was found.
const BETWEEN_RECALLS: Duration = Duration::from_secs(5);

/// What all instances' tasks share.
#[derive(Debug)]
pub(in crate::vm) struct Tools {
    pub(in crate::vm) qemu: Qemu,
    pub(in crate::vm) records: Records,
    pub(in crate::vm) shards: ShardsHandle,
    pub(in crate::vm) reports: Reports,
    pub(in crate::vm) table: Table,
    pub(in crate::vm) config: VmConfig,
    pub(in crate::vm) starts: Semaphore,
}

/// What the control plane said of an instance.
#[derive(Clone, Debug)]
pub(in crate::vm) enum Wanted {
    /// Nothing yet.
    Unknown,
    /// This.
    Spec(Arc<InstanceSpec>),
    /// It is no longer this host's.
    Gone,
}

impl Wanted {
    pub(in crate::vm) fn want(&self) -> Want {
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
        how: EndedBy,
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
        trouble: Option<Trouble>,
    },
    Ending {
        vm: Vm,
        told: StopStep,
        since: Instant,
        /// Why, if nobody asked for it.
        by_guest: Option<String>,
    },
}

/// Why the guest of a VM that runs can't reach this host.
#[derive(Debug)]
enum Trouble {
    /// Its vsock device or its link key is gone; only another life has others.
    Lost(String),
    /// Its channel can't be bound, which is tried again.
    Unbound {
        channel: ChannelSpec,
        again: Instant,
        reason: String,
    },
}

impl Trouble {
    fn reason(&self) -> &str {
        match self {
            Self::Lost(reason) | Self::Unbound { reason, .. } => reason,
        }
    }
}

/// Whether the task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Another,
    Last,
}

/// The task of one instance.
#[derive(Debug)]
pub(in crate::vm) struct Task {
    instance: InstanceId,
    tools: Arc<Tools>,
    wanted: watch::Receiver<Wanted>,
    state: State,
    incarnation: u64,
    reboots: u64,
    reported: Option<ReportState>,
}

impl Task {
    pub(in crate::vm) fn new(
        instance: InstanceId,
        tools: Arc<Tools>,
        wanted: watch::Receiver<Wanted>,
    ) -> Self {
        Self {
            instance,
            tools,
            wanted,
            state: State::Off,
            incarnation: 0,
            reboots: 0,
            reported: None,
        }
    }

    /// Runs until the instance is no more on this host, or until cancelled.
    pub(in crate::vm) async fn run(mut self, cancel: CancellationToken) {
        while let Err(error) = self.recall().await {
            tracing::error!(instance = %self.instance, error = %Causes(&error), "can't find out how its VM is; trying again");
            // Cancel-safe: nothing is held between two tries.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(BETWEEN_RECALLS) => (),
            }
        }
        while self.round(&cancel).await == Round::Another {}
    }

    async fn round(&mut self, cancel: &CancellationToken) -> Round {
        self.bind_if_due().await;
        let wanted = self.wanted.borrow_and_update().clone();
        if let Wanted::Spec(spec) = &wanted {
            self.incarnation = self.incarnation.max(spec.incarnation);
        }
        let patience = self.tools.config.patience();
        match (next(wanted.want(), self.observed(), patience), &wanted) {
            (Action::Wait, _) => return self.rest(&wanted, self.next_try(), cancel).await,
            (Action::WaitFor(left), _) => return self.rest(&wanted, Some(left), cancel).await,
            (Action::Start, Wanted::Spec(spec)) => return self.start_in_turn(spec, cancel).await,
            // Nothing else than a specification asks for a start.
            (Action::Start, _) => return Round::Last,
            (Action::PowerDown, _) => self.tell(StopStep::Guest).await,
            (Action::Quit, _) => self.tell(StopStep::Vmm).await,
            (Action::Kill, _) => self.tell(StopStep::Killed).await,
            (Action::Settle, _) => self.turn_off().await,
            (Action::Remove, _) => {
                self.remove().await;
                self.report(InstanceState::Terminated, None);
                return Round::Last;
            }
            (Action::Forget, _) => {
                self.remove().await;
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
        let tools = Arc::clone(&self.tools);
        self.publish(InstanceState::Pending, None);
        // Cancel-safe: a turn that wasn't taken is another's.
        let turn = tokio::select! {
            () = cancel.cancelled() => return Round::Last,
            changed = self.wanted.changed() => {
                return if changed.is_ok() { Round::Another } else { Round::Last };
            }
            turn = tools.starts.acquire() => turn,
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
        let Tools {
            qemu,
            records,
            shards,
            ..
        } = &*self.tools;
        qemu.prepare(self.instance)?;
        records.keep(self.record(Life::Beginning)).await?;
        let ready = qemu.vsock(self.instance, self.incarnation).await?;
        shards
            .begin_incarnation(self.instance, self.incarnation, ready.channel())
            .await?;
        let (vm, processes) = qemu.boot(spec, ready).await?;
        records.keep(self.record(Life::Running(processes))).await?;
        Ok(vm)
    }

    async fn give_up(&mut self, error: &StartError, failures: u32) {
        let reason = Causes(error).to_string();
        tracing::warn!(instance = %self.instance, incarnation = self.incarnation, %reason, "could not start the VM");
        self.clear_away().await;
        self.keep(Life::Off).await;
        let first = Duration::from_secs(self.tools.config.retry_seconds.into());
        let pause = first.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        self.state = State::Failed {
            until: Instant::now() + pause,
            failures: failures + 1,
            reason,
        };
    }

    /// Ends whatever was started for this life, and the life itself.
    async fn clear_away(&self) {
        self.tools
            .shards
            .end_incarnation(self.instance, self.incarnation)
            .await;
        if let Err(error) = self.tools.qemu.clear(self.instance).await {
            tracing::error!(instance = %self.instance, %error, "can't end what was started for its VM");
        }
        self.discard_link_key().await;
    }

    async fn discard_link_key(&self) {
        if let Err(error) = self.tools.records.discard_link_key(self.instance).await {
            tracing::error!(instance = %self.instance, error = %Causes(&error), "can't remove the link key of a life that ended");
        }
    }

    async fn turn_off(&mut self) {
        self.state = State::Off;
        self.keep(Life::Off).await;
    }

    async fn remove(&self) {
        if let Err(error) = self.tools.records.discard(self.instance).await {
            tracing::error!(instance = %self.instance, error = %Causes(&error), "can't remove what belonged to its VM");
        }
        self.tools.table.remove(self.instance);
    }

    fn record(&self, life: Life) -> Record {
        Record::new(self.instance, self.incarnation, self.reboots, life)
    }

    /// Keeps how things stand. Failing that, the next daemon finds the VM gone and says so: nothing is lost.
    async fn keep(&self, life: Life) {
        // An instance that never had a folder has nothing to be kept.
        if !self.tools.records.folder(self.instance).exists() {
            return;
        }
        if let Err(error) = self.tools.records.keep(self.record(life)).await {
            tracing::error!(instance = %self.instance, error = %Causes(&error), "can't keep how its VM is");
        }
    }
}

/// The next thing that happens to a VM, if there is one; for ever pending otherwise.
async fn happening(state: &mut State) -> VmEvent {
    match state {
        State::Running { vm, .. } | State::Ending { vm, .. } => vm.event().await,
        State::Off | State::Ended { .. } | State::Failed { .. } => std::future::pending().await,
    }
}
