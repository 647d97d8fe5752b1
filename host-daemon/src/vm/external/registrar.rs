//! The one task that keeps all registrations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::host::{Channel, Registered, Supervision, VmStatus};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::peer::{find, peer};
use super::place::{Place, Socket};
use super::record::{Active, Record, Registrations};
use super::{Caller, Command, External, RegisterError, Registration};
use crate::causes::Causes;
use crate::link::{BeginError, Handover, LifeId, ShardsHandle};
use crate::uplink::{Reports, SpecChange};
use crate::vm::file::FileError;
use crate::vm::process::{self, Process};
use crate::vm::table::Table;

/// How many requests may wait for the registrar.
const QUEUE: usize = 64;

/// What is known of an instance.
#[derive(Debug, Default)]
pub(super) struct Entry {
    spec: Option<Arc<InstanceSpec>>,
    pub(super) record: Option<Record>,
    /// Whether the record is of this daemon's time, so that the control plane knew the instance meanwhile.
    fresh: bool,
    watch: Option<AbortHandle>,
    /// Where the channel of the registration is.
    spot: Option<Spot>,
    reported: Option<ReportState>,
}

impl Entry {
    fn active(&self) -> Option<&Active> {
        self.record.as_ref().and_then(|record| record.active.as_ref())
    }

    /// The life that goes on.
    pub(super) fn life(&self) -> Option<u64> {
        let record = self.record.as_ref()?;
        record.active.as_ref().map(|_| record.incarnation)
    }

    fn incarnation(&self) -> u64 {
        let recorded = self.record.as_ref().map_or(0, |record| record.incarnation);
        self.spec
            .as_ref()
            .map_or(0, |spec| spec.incarnation)
            .max(recorded)
    }
}

/// Where a channel is. Paths would not do: two of them may lead to one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spot {
    Cid(u32),
    Socket(Socket),
}

/// The VMM of a registration ended.
#[derive(Debug)]
struct VmmEnded {
    instance: InstanceId,
    incarnation: u64,
    how: process::Exit,
}

/// Keeps all registrations.
#[derive(Debug)]
pub(in crate::vm) struct Registrar {
    commands: mpsc::Receiver<Command>,
    allowed: Vec<PathBuf>,
    pub(super) registrations: Registrations,
    pub(super) shards: ShardsHandle,
    reports: Reports,
    pub(super) table: Table,
    pub(super) entries: BTreeMap<InstanceId, Entry>,
    watches: JoinSet<VmmEnded>,
    /// Guests that are to be given their link keys, and the shards' way to say so.
    pub(super) handovers: (mpsc::Sender<Handover>, mpsc::Receiver<Handover>),
}

impl Registrar {
    /// A registrar that keeps its records beneath the daemon's state folder, and the way to it.
    pub(in crate::vm) fn new(
        directories: &[PathBuf],
        state: &Path,
        shards: ShardsHandle,
        reports: Reports,
        table: Table,
    ) -> Result<(Self, External), FileError> {
        let registrations = Registrations::open(state)?;
        registrations.know_all()?;
        let (sender, commands) = mpsc::channel(QUEUE);
        let registrar = Self {
            commands,
            allowed: directories.to_vec(),
            registrations,
            shards,
            reports,
            table,
            entries: BTreeMap::new(),
            watches: JoinSet::new(),
            handovers: mpsc::channel(QUEUE),
        };
        Ok((registrar, External(sender)))
    }

    /// Takes up the registrations of an earlier daemon, and then does what is asked until cancelled.
    pub(in crate::vm) async fn run(mut self, cancel: CancellationToken) {
        self.recall_all().await;
        loop {
            // Cancel-safe: what wasn't taken is there the next time.
            tokio::select! {
                () = cancel.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.execute(command).await,
                    None => return,
                },
                Some(handover) = self.handovers.1.recv() => self.on_handover(handover).await,
                Some(ended) = self.watches.join_next() => {
                    // An error is a watch that was called off.
                    if let Ok(ended) = ended {
                        self.vmm_ended(ended).await;
                    }
                }
            }
        }
    }

    async fn execute(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile; what was done is done.
        match command {
            Command::Driver(instance, reply) => {
                let _ = reply.send(self.driver(instance));
            }
            Command::Check(registration, reply) => {
                let _ = reply.send(self.look_at(&registration).map(drop));
            }
            Command::Register(registration, reply) => {
                let _ = reply.send(self.register(*registration).await);
            }
            Command::Unregister(instance, caller, reply) => {
                let _ = reply.send(self.unregister(instance, caller).await);
            }
            Command::Change(change) => self.change(change).await,
        }
    }

    fn driver(&self, instance: InstanceId) -> Option<Driver> {
        let entry = self.entries.get(&instance)?;
        let recorded = entry.record.as_ref().map(|_| Driver::External);
        entry.spec.as_ref().map(|spec| spec.driver).or(recorded)
    }

    /// Everything about a registration that can be found out without doing anything.
    fn look_at(&self, registration: &Registration) -> Result<(Active, Option<Process>), RegisterError> {
        self.may_register(registration.instance, registration.caller)?;
        let vmm = match registration.supervision {
            Supervision::Vmm(reference) => Some(find(reference, registration.caller)?),
            Supervision::Unsupervised => None,
        };
        let active = Active {
            boot: process::boot_id().map_err(RegisterError::Boot)?,
            channel: registration.channel.clone(),
            peer: peer(registration, vmm.as_ref())?,
            vmm: vmm.as_ref().map(Process::identity),
            registrant: Some(registration.caller.uid),
        };
        self.locate(registration.instance, &active.channel)?;
        Ok((active, vmm))
    }

    /// Where the instance's channel is, which must not be that of another one, and the place of its socket, if it is one.
    fn locate(
        &self,
        instance: InstanceId,
        channel: &Channel,
    ) -> Result<(Spot, Option<Place>), RegisterError> {
        let (spot, place) = match channel {
            Channel::Vsock { cid } if !(3..u32::MAX).contains(cid) => return Err(RegisterError::Cid(*cid)),
            Channel::Vsock { cid } => (Spot::Cid(*cid), None),
            Channel::Hybrid { path, .. } => {
                let place = Place::find(path, &self.allowed)?;
                (Spot::Socket(place.socket(path)?), Some(place))
            }
        };
        match self.holder(&spot).filter(|holder| *holder != instance) {
            Some(holder) => Err(RegisterError::Taken { holder }),
            None => Ok((spot, place)),
        }
    }

    /// Whose channel is there now.
    fn holder(&self, spot: &Spot) -> Option<InstanceId> {
        let there = |entry: &Entry| entry.active().is_some() && entry.spot.as_ref() == Some(spot);
        let mut entries = self.entries.iter();
        entries.find(|(_, entry)| there(entry)).map(|(holder, _)| *holder)
    }

    async fn register(&mut self, registration: Registration) -> Result<Registered, RegisterError> {
        let instance = registration.instance;
        let (active, vmm) = self.look_at(&registration)?;
        let known = self.entries.get(&instance).map_or(0, Entry::incarnation);
        let incarnation = known.max(registration.incarnation) + 1;
        // Kept first: what isn't known to the next daemon can't be taken back there.
        let record = Record::new(instance, incarnation, Some(active.clone()));
        self.registrations.keep(record.clone()).await?;
        let entry = self.entries.entry(instance).or_default();
        let before = entry.record.replace(record);
        entry.fresh = true;
        if let Err(error) = self.bind(instance, incarnation, &active).await {
            self.take_back(instance, before).await;
            return Err(error);
        }
        self.begun(instance, incarnation, vmm);
        Ok(Registered {
            instance,
            incarnation,
        })
    }

    /// What was to be registered can't be bound. A VM that was registered before still is: its channel was not touched.
    async fn take_back(&mut self, instance: InstanceId, before: Option<Record>) {
        let before = before.filter(|record| record.active.is_some());
        let Some(record) = before else {
            return self.end(instance, None).await;
        };
        if let Err(error) = self.registrations.keep(record.clone()).await {
            tracing::error!(%instance, error = %Causes(&error), "can't keep that a registration goes on");
        }
        self.entries.entry(instance).or_default().record = Some(record);
    }

    fn may_register(&self, instance: InstanceId, caller: Caller) -> Result<(), RegisterError> {
        let entry = self.entries.get(&instance);
        let active = entry.and_then(Entry::active);
        if active.is_some_and(|active| !active.is_of(caller)) {
            return Err(RegisterError::NotYourRegistration(instance));
        }
        let spec = entry.and_then(|entry| entry.spec.as_ref());
        if spec.is_some_and(|spec| spec.driver != Driver::External) {
            return Err(RegisterError::NotExternal(instance));
        }
        if spec.is_some_and(|spec| spec.desired == Desired::Terminated) {
            return Err(RegisterError::Terminated(instance));
        }
        Ok(())
    }

    /// Checks where the channel lies and binds it as that of a life that begins.
    pub(super) async fn bind(
        &mut self,
        instance: InstanceId,
        incarnation: u64,
        active: &Active,
    ) -> Result<(), RegisterError> {
        let (spot, place) = self.locate(instance, &active.channel)?;
        let life = LifeId {
            instance,
            incarnation,
        };
        let channel = self.channel(life, active, place.as_ref())?;
        let begun = self
            .shards
            .begin_incarnation(instance, incarnation, channel)
            .await;
        // The channel's path leads by way of the place, which is let go only now.
        drop(place);
        begun.map_err(|error| known_by_path(error, &active.channel))?;
        self.entries.entry(instance).or_default().spot = Some(spot);
        Ok(())
    }

    pub(super) fn begun(&mut self, instance: InstanceId, incarnation: u64, vmm: Option<Process>) {
        tracing::info!(%instance, incarnation, supervised = vmm.is_some(), "a VM is taken for the instance's");
        let pid = vmm.as_ref().map(|vmm| vmm.identity().pid.unsigned_abs());
        let watch = vmm.map(|mut vmm| {
            self.watches.spawn(async move {
                let how = vmm.ended().await;
                VmmEnded {
                    instance,
                    incarnation,
                    how,
                }
            })
        });
        if let Some(entry) = self.entries.get_mut(&instance) {
            let before = std::mem::replace(&mut entry.watch, watch);
            before.inspect(AbortHandle::abort);
        }
        self.table
            .set(status(instance, InstanceState::Running, None, incarnation, pid));
        self.report(instance, InstanceState::Running, None);
    }

    async fn unregister(&mut self, instance: InstanceId, caller: Caller) -> Result<(), RegisterError> {
        let active = self.entries.get(&instance).and_then(Entry::active);
        if !active
            .ok_or(RegisterError::NotRegistered(instance))?
            .is_of(caller)
        {
            return Err(RegisterError::NotYourRegistration(instance));
        }
        self.end(instance, None).await;
        Ok(())
    }

    async fn vmm_ended(&mut self, ended: VmmEnded) {
        let VmmEnded {
            instance,
            incarnation,
            how,
        } = ended;
        let current = self.entries.get(&instance).map(Entry::incarnation);
        if current == Some(incarnation) {
            self.end(instance, Some(format!("its VMM {how}"))).await;
        }
    }

    /// Ends the instance's registration, if there is one, and says so.
    pub(super) async fn end(&mut self, instance: InstanceId, reason: Option<String>) {
        let Some(record) = self.entries.get_mut(&instance).and_then(|entry| {
            entry.watch.take().inspect(AbortHandle::abort);
            entry.record.as_mut()
        }) else {
            return;
        };
        let incarnation = record.incarnation;
        record.active = None;
        let record = record.clone();
        if let Err(error) = self.registrations.keep(record).await {
            tracing::error!(%instance, error = %Causes(&error), "can't keep that a registration ended");
        }
        tracing::info!(%instance, incarnation, ?reason, "a VM is no longer taken for the instance's");
        self.shards.end_incarnation(instance, incarnation).await;
        if let Err(error) = self.registrations.discard_link_key(instance).await {
            tracing::error!(%instance, error = %Causes(&error), "can't remove the link key of a life that ended");
        }
        let state = InstanceState::Stopped;
        self.table
            .set(status(instance, state, reason.clone(), incarnation, None));
        self.report(instance, state, reason);
    }

    async fn change(&mut self, change: SpecChange) {
        match change {
            SpecChange::Set(spec) => self.set(spec).await,
            SpecChange::Gone(instance) => self.forget(instance).await,
            SpecChange::Complete => self.complete().await,
        }
    }

    async fn set(&mut self, spec: InstanceSpec) {
        let instance = spec.instance;
        let terminated = spec.driver == Driver::External && spec.desired == Desired::Terminated;
        let entry = self.entries.entry(instance).or_default();
        if entry
            .spec
            .as_ref()
            .is_some_and(|known| known.revision > spec.revision)
        {
            return;
        }
        entry.spec = Some(Arc::new(spec));
        if terminated {
            let incarnation = entry.incarnation();
            self.forget(instance).await;
            self.send(instance, incarnation, InstanceState::Terminated, None);
        } else {
            self.report_as_is(instance);
        }
    }

    /// A registration of an earlier daemon whose instance wasn't named by now is of no instance of this host.
    async fn complete(&mut self) {
        let stale = |entry: &Entry| entry.spec.is_none() && !entry.fresh;
        let stale: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| stale(entry))
            .map(|(id, _)| *id)
            .collect();
        for instance in stale {
            tracing::warn!(%instance, "ending a registration whose instance the control plane doesn't know on this host");
            self.forget(instance).await;
        }
    }

    /// Ends the registration of an instance that is no more here, without a word to anybody.
    async fn forget(&mut self, instance: InstanceId) {
        let Some(entry) = self.entries.remove(&instance) else {
            return;
        };
        entry.watch.inspect(AbortHandle::abort);
        let Some(record) = entry.record else {
            return;
        };
        self.shards.end_incarnation(instance, record.incarnation).await;
        self.table.remove(instance);
        if let Err(error) = self.registrations.discard(instance).await {
            tracing::error!(%instance, error = %Causes(&error), "can't remove the record of a registration");
        }
    }

    /// Reports what the control plane may not have heard of from an earlier daemon.
    fn report_as_is(&mut self, instance: InstanceId) {
        let Some(status) = self
            .table
            .get(instance)
            .filter(|status| status.driver == Driver::External)
        else {
            return;
        };
        self.report(instance, status.state, status.reason);
    }

    /// Reports a state, once, and not before the control plane is known to know the instance.
    fn report(&mut self, instance: InstanceId, state: InstanceState, reason: Option<String>) {
        let Some(entry) = self.entries.get_mut(&instance) else {
            return;
        };
        let incarnation = entry.incarnation();
        if entry.spec.is_none() && !entry.fresh {
            return;
        }
        let report = report(instance, incarnation, state, reason);
        if entry.reported.as_ref() != Some(&report) {
            entry.reported = Some(report.clone());
            self.reports.report(report);
        }
    }

    fn send(&self, instance: InstanceId, incarnation: u64, state: InstanceState, reason: Option<String>) {
        self.reports.report(report(instance, incarnation, state, reason));
    }
}

fn report(
    instance: InstanceId,
    incarnation: u64,
    state: InstanceState,
    reason: Option<String>,
) -> ReportState {
    ReportState {
        instance,
        state,
        incarnation,
        reboots: 0,
        reason,
    }
}

pub(super) fn status(
    instance: InstanceId,
    state: InstanceState,
    reason: Option<String>,
    incarnation: u64,
    pid: Option<u32>,
) -> VmStatus {
    VmStatus {
        instance,
        driver: Driver::External,
        state,
        reason,
        incarnation,
        reboots: 0,
        pid,
    }
}

/// Names the socket in the words of whoever registered it.
fn known_by_path(error: BeginError, channel: &Channel) -> BeginError {
    match (error, channel) {
        (BeginError::Channel(error), Channel::Hybrid { path, .. }) => error.known_as(path).into(),
        (error, _) => error,
    }
}
