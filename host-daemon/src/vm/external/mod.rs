//! The driver for VMs that somebody else runs: a VM manager says which channel is whose, and until when.
//!
//! [`External`] is the way to ask from anywhere; one task, [`Registrar::run`], does it all in turn. A registration begins
//! an incarnation and ends with the VMM, by its process's descriptor, or when it is taken back. It is kept on disk
//! ([`record`]) and checked anew by the next daemon. Where its socket lies is checked by [`place`].

mod place;
mod record;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::host::{Channel, ProcessRef, Registered, Supervision, VmStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::place::Place;
use self::record::{Active, Peer, Record, Registrations};
use super::file::FileError;
use super::instance::{chain, shorten};
use super::process::{self, Process};
use super::table::Table;
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::link::{BeginError, ShardsHandle};
use crate::uplink::{Reports, SpecChange};

pub use self::place::PlaceError;

/// How many requests may wait for the registrar.
const QUEUE: usize = 64;

/// Who asks: the user at the other end of the daemon's socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
}

/// A VM that is to be taken for an instance's.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which instance; the control plane knows it.
    pub instance: InstanceId,
    /// The last life of it that the control plane knows.
    pub incarnation: u64,
    /// How its guest reaches the host.
    pub channel: Channel,
    /// What ends the registration.
    pub supervision: Supervision,
    /// Who registers it.
    pub caller: Caller,
}

/// Why a VM can't be registered, or not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The host runs the VM itself.
    #[error("the VM of {0} is run by this host daemon, so nobody else can register one for it")]
    NotExternal(InstanceId),
    /// The instance is no more.
    #[error("{0} is terminated")]
    Terminated(InstanceId),
    /// There is no registration to take back.
    #[error("no VM is registered for {0}")]
    NotRegistered(InstanceId),
    /// A CID that no guest can have.
    #[error("{0} is no guest's CID: the lowest is 3, and the highest 4294967294")]
    Cid(u32),
    /// The channel is another instance's.
    #[error("this channel is that of {holder}; unregister that first")]
    Taken {
        /// Whose it is.
        holder: InstanceId,
    },
    /// A process that isn't there.
    #[error("there is no process {pid}, or it isn't the one that started then")]
    NoProcess {
        /// Its id.
        pid: u32,
    },
    /// A process of somebody else.
    #[error("process {pid} isn't one of yours, and only root may register the VMs of others")]
    NotYours {
        /// Its id.
        pid: u32,
    },
    /// A process can't be looked at.
    #[error("can't look at process {pid}")]
    Process {
        /// Its id.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// The host doesn't say which boot this is.
    #[error("can't read the host's boot id")]
    Boot(#[source] io::Error),
    /// A socket where none may lie.
    #[error("the socket can't lie there")]
    Place(#[from] PlaceError),
    /// The channel can't be bound.
    #[error("can't bind the guest's channel")]
    Channel(#[from] BeginError),
    /// It can't be kept for the next daemon.
    #[error("can't keep the registration")]
    File(#[from] FileError),
    /// The daemon is about to end.
    #[error("the daemon is about to end")]
    Ending,
}

enum Command {
    Driver(InstanceId, oneshot::Sender<Option<Driver>>),
    Check(Box<Registration>, oneshot::Sender<Result<(), RegisterError>>),
    Register(
        Box<Registration>,
        oneshot::Sender<Result<Registered, RegisterError>>,
    ),
    Unregister(InstanceId, oneshot::Sender<Result<(), RegisterError>>),
    Change(SpecChange),
}

/// The way to the registrar. Cheap to clone.
#[derive(Clone, Debug)]
pub struct External(mpsc::Sender<Command>);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Driver(..) => "Driver",
            Self::Check(..) => "Check",
            Self::Register(..) => "Register",
            Self::Unregister(..) => "Unregister",
            Self::Change(_) => "Change",
        })
    }
}

impl External {
    /// Who runs the instance's VM, if the instance is known here.
    pub async fn driver(&self, instance: InstanceId) -> Result<Option<Driver>, RegisterError> {
        self.call(|reply| Command::Driver(instance, reply)).await
    }

    /// Whether the VM could be registered, as far as that can be seen beforehand.
    pub async fn check(&self, registration: Registration) -> Result<(), RegisterError> {
        self.call(|reply| Command::Check(Box::new(registration), reply))
            .await?
    }

    /// Takes the VM for the instance's from now on; one that was registered before is taken no longer.
    pub async fn register(&self, registration: Registration) -> Result<Registered, RegisterError> {
        self.call(|reply| Command::Register(Box::new(registration), reply))
            .await?
    }

    /// Takes the registration back.
    pub async fn unregister(&self, instance: InstanceId) -> Result<(), RegisterError> {
        self.call(|reply| Command::Unregister(instance, reply)).await?
    }

    /// Passes on what the feed says.
    pub(super) async fn change(&self, change: SpecChange) {
        // A registrar that has ended needs to know nothing.
        let _ = self.0.send(Command::Change(change)).await;
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, RegisterError> {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(command(reply))
            .await
            .map_err(|_| RegisterError::Ending)?;
        answer.await.map_err(|_| RegisterError::Ending)
    }
}

/// What is known of an instance.
#[derive(Debug, Default)]
struct Entry {
    spec: Option<Arc<InstanceSpec>>,
    record: Option<Record>,
    /// Whether the record is of this daemon's time, so that the control plane knew the instance meanwhile.
    fresh: bool,
    watch: Option<AbortHandle>,
    reported: Option<ReportState>,
}

impl Entry {
    fn active(&self) -> Option<&Active> {
        self.record.as_ref().and_then(|record| record.active.as_ref())
    }

    fn incarnation(&self) -> u64 {
        let recorded = self.record.as_ref().map_or(0, |record| record.incarnation);
        self.spec
            .as_ref()
            .map_or(0, |spec| spec.incarnation)
            .max(recorded)
    }
}

/// The VMM of a registration ended.
#[derive(Debug)]
struct VmmEnded {
    instance: InstanceId,
    incarnation: u64,
    how: process::Ending,
}

/// Keeps all registrations.
#[derive(Debug)]
pub(super) struct Registrar {
    commands: mpsc::Receiver<Command>,
    allowed: Vec<PathBuf>,
    registrations: Registrations,
    shards: ShardsHandle,
    reports: Reports,
    table: Table,
    entries: BTreeMap<InstanceId, Entry>,
    watches: JoinSet<VmmEnded>,
}

impl Registrar {
    /// A registrar that keeps its records beneath the daemon's state folder, and the way to it.
    pub(super) fn new(
        directories: &[PathBuf],
        state: &Path,
        shards: ShardsHandle,
        reports: Reports,
        table: Table,
    ) -> Result<(Self, External), FileError> {
        let (sender, commands) = mpsc::channel(QUEUE);
        let registrar = Self {
            commands,
            allowed: allowed(directories, state),
            registrations: Registrations::open(state)?,
            shards,
            reports,
            table,
            entries: BTreeMap::new(),
            watches: JoinSet::new(),
        };
        Ok((registrar, External(sender)))
    }

    /// Takes up the registrations of an earlier daemon, and then does what is asked until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        self.recall_all().await;
        loop {
            // Cancel-safe: a command or an end that wasn't taken is there the next time.
            tokio::select! {
                () = cancel.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.execute(command).await,
                    None => return,
                },
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
            Command::Unregister(instance, reply) => {
                let _ = reply.send(self.unregister(instance).await);
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
        self.may_register(registration)?;
        let vmm = match registration.supervision {
            Supervision::Vmm(reference) => Some(find(reference, registration.caller)?),
            Supervision::Unsupervised => None,
        };
        let active = Active {
            boot: process::boot_id().map_err(RegisterError::Boot)?,
            channel: registration.channel.clone(),
            peer: peer(registration, vmm.as_ref())?,
            vmm: vmm.as_ref().map(Process::identity),
        };
        match &active.channel {
            Channel::Vsock { cid } if !(3..u32::MAX).contains(cid) => return Err(RegisterError::Cid(*cid)),
            Channel::Vsock { .. } => (),
            Channel::Hybrid { path, .. } => drop(Place::find(path, &self.allowed)?),
        }
        Ok((active, vmm))
    }

    async fn register(&mut self, registration: Registration) -> Result<Registered, RegisterError> {
        let instance = registration.instance;
        let (active, vmm) = self.look_at(&registration)?;
        let entry = self.entries.entry(instance).or_default();
        let incarnation = entry.incarnation().max(registration.incarnation) + 1;
        // Kept first: what isn't known to the next daemon can't be taken back there.
        let record = Record::new(instance, incarnation, Some(active.clone()));
        self.registrations.save(&record)?;
        entry.record = Some(record);
        entry.fresh = true;
        if let Err(error) = self.bind(instance, incarnation, &active).await {
            self.end(instance, None).await;
            return Err(error);
        }
        self.begun(instance, incarnation, vmm);
        Ok(Registered {
            instance,
            incarnation,
        })
    }

    fn may_register(&self, registration: &Registration) -> Result<(), RegisterError> {
        let instance = registration.instance;
        let spec = self.entries.get(&instance).and_then(|entry| entry.spec.as_ref());
        if spec.is_some_and(|spec| spec.driver != Driver::External) {
            return Err(RegisterError::NotExternal(instance));
        }
        if spec.is_some_and(|spec| spec.desired == Desired::Terminated) {
            return Err(RegisterError::Terminated(instance));
        }
        let same = |entry: &Entry| {
            let active = entry.active();
            active.is_some_and(|active| same_channel(&active.channel, &registration.channel))
        };
        let holder = self
            .entries
            .iter()
            .find(|(other, entry)| **other != instance && same(entry));
        holder.map_or(Ok(()), |(holder, _)| {
            Err(RegisterError::Taken { holder: *holder })
        })
    }

    /// Checks where the channel lies and binds it as that of a life that begins.
    async fn bind(
        &self,
        instance: InstanceId,
        incarnation: u64,
        active: &Active,
    ) -> Result<(), RegisterError> {
        let place = match &active.channel {
            Channel::Vsock { .. } => None,
            Channel::Hybrid { path, .. } => Some(Place::find(path, &self.allowed)?),
        };
        let channel = channel(active, place.as_ref());
        let begun = self
            .shards
            .begin_incarnation(instance, incarnation, channel)
            .await;
        // The channel's path leads by way of the place, which is let go only now.
        drop(place);
        Ok(begun?)
    }

    fn begun(&mut self, instance: InstanceId, incarnation: u64, vmm: Option<Process>) {
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

    async fn unregister(&mut self, instance: InstanceId) -> Result<(), RegisterError> {
        let registered = self
            .entries
            .get(&instance)
            .is_some_and(|entry| entry.active().is_some());
        if !registered {
            return Err(RegisterError::NotRegistered(instance));
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
    async fn end(&mut self, instance: InstanceId, reason: Option<String>) {
        let Some(record) = self.entries.get_mut(&instance).and_then(|entry| {
            entry.watch.take().inspect(AbortHandle::abort);
            entry.record.as_mut()
        }) else {
            return;
        };
        let incarnation = record.incarnation;
        record.active = None;
        if let Err(error) = self.registrations.save(record) {
            tracing::error!(%instance, error = %chain(&error), "can't keep that a registration ended");
        }
        tracing::info!(%instance, incarnation, ?reason, "a VM is no longer taken for the instance's");
        self.shards.end_incarnation(instance, incarnation).await;
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
        if let Err(error) = self.registrations.remove(instance) {
            tracing::error!(%instance, error = %chain(&error), "can't remove the record of a registration");
        }
    }

    async fn recall_all(&mut self) {
        let instances = match self.registrations.instances() {
            Ok(instances) => instances,
            Err(error) => {
                tracing::error!(error = %chain(&error), "can't find the registrations of an earlier daemon");
                return;
            }
        };
        for instance in instances {
            match self.registrations.load(instance) {
                Ok(Some(record)) => self.recall(record).await,
                Ok(None) => (),
                Err(error) => tracing::error!(%instance, error = %chain(&error), "lost a registration"),
            }
        }
    }

    /// Takes a registration up again, if what it was made of is still there.
    async fn recall(&mut self, record: Record) {
        let (instance, incarnation) = (record.instance, record.incarnation);
        let active = record.active.clone();
        self.entries.entry(instance).or_default().record = Some(record);
        let Some(active) = active else {
            let state = InstanceState::Stopped;
            self.table.set(status(instance, state, None, incarnation, None));
            return;
        };
        match self.resume(instance, incarnation, &active).await {
            Ok(vmm) => self.begun(instance, incarnation, vmm),
            Err(why) => self.end(instance, Some(why)).await,
        }
    }

    /// Binds a registration's channel again; answers with its VMM, or why not.
    async fn resume(
        &self,
        instance: InstanceId,
        incarnation: u64,
        active: &Active,
    ) -> Result<Option<Process>, String> {
        let boot = process::boot_id().map_err(|error| error.to_string())?;
        if boot != active.boot {
            return Err("the host was restarted".to_owned());
        }
        let gone = |what: &str| format!("its {what} ended while the host daemon was not running");
        let vmm = match active.vmm {
            None => None,
            Some(vmm) => Some(still(vmm)?.ok_or_else(|| gone("VMM"))?),
        };
        if let Peer::Process(peer) = active.peer {
            still(peer)?.ok_or_else(|| gone("vsock device"))?;
        }
        let bound = self.bind(instance, incarnation, active).await;
        bound.map_err(|error| chain(&error))?;
        Ok(vmm)
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
        reason: reason.map(shorten),
    }
}

fn status(
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

fn channel(active: &Active, place: Option<&Place>) -> ChannelSpec {
    let peer = match active.peer {
        Peer::Process(identity) => ExpectedPeer::Process(identity.pid.unsigned_abs()),
        Peer::User(uid) => ExpectedPeer::User(uid),
    };
    match (&active.channel, place) {
        (Channel::Vsock { cid }, _) => ChannelSpec::Vsock { cid: *cid },
        (Channel::Hybrid { path, .. }, place) => ChannelSpec::HybridVsock {
            uds_path: place.map_or_else(|| path.clone(), Place::path),
            peer,
        },
    }
}

fn same_channel(one: &Channel, other: &Channel) -> bool {
    match (one, other) {
        (Channel::Vsock { cid }, Channel::Vsock { cid: other }) => cid == other,
        (Channel::Hybrid { path, .. }, Channel::Hybrid { path: other, .. }) => path == other,
        _ => false,
    }
}

/// Folders that hold the daemon's own VMs are nobody else's.
fn allowed(directories: &[PathBuf], state: &Path) -> Vec<PathBuf> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let state = real(state);
    let apart = |directory: &&PathBuf| {
        let folder = real(directory);
        let apart = !folder.starts_with(&state) && !state.starts_with(&folder);
        if !apart {
            tracing::error!(directory = %directory.display(), "external.directories is ignored where it holds state_dir");
        }
        apart
    };
    directories.iter().filter(apart).cloned().collect()
}

/// The process that is meant, if it is the caller's.
fn find(reference: ProcessRef, caller: Caller) -> Result<Process, RegisterError> {
    let ProcessRef { pid, started } = reference;
    let failed = |source| RegisterError::Process { pid, source };
    let gone = || RegisterError::NoProcess { pid };
    let id = i32::try_from(pid).map_err(|_| gone())?;
    let process = Process::with_id(id).map_err(failed)?.ok_or_else(gone)?;
    if started.is_some_and(|started| started != process.identity().started) {
        return Err(gone());
    }
    let user = process.user().map_err(failed)?.ok_or_else(gone)?;
    if caller.uid != 0 && caller.uid != user {
        return Err(RegisterError::NotYours { pid });
    }
    Ok(process)
}

fn still(identity: process::Identity) -> Result<Option<Process>, String> {
    Process::find(identity).map_err(|error| error.to_string())
}

/// Who may connect: the process where the daemon's user can let it, else its user; without one, the caller's.
fn peer(registration: &Registration, vmm: Option<&Process>) -> Result<Peer, RegisterError> {
    let caller = registration.caller;
    let device = match &registration.channel {
        Channel::Hybrid {
            device: Some(device), ..
        } => Some(find(*device, caller)?),
        _ => None,
    };
    let Some(process) = device.as_ref().or(vmm) else {
        return Ok(Peer::User(caller.uid));
    };
    let identity = process.identity();
    let pid = identity.pid.unsigned_abs();
    let user = process
        .user()
        .map_err(|source| RegisterError::Process { pid, source })?;
    let user = user.ok_or(RegisterError::NoProcess { pid })?;
    let ours = user == 0 || user == rustix::process::geteuid().as_raw();
    Ok(if ours {
        Peer::Process(identity)
    } else {
        Peer::User(user)
    })
}
