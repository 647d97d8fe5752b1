//! Brings what runs on this host into agreement with what the control plane wants to run on it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::instances::Driver;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::config::Tables;
use super::external::{External, Registrar};
use super::file::FileError;
use super::instance::{Task, Tools, Wanted};
use super::plan::Want;
use super::qemu::Qemu;
use super::record::Records;
use super::table::Table;
use crate::link::ShardsHandle;
use crate::parts::{PartError, Parts};
use crate::uplink::{Reports, SpecChange};

/// For what is under way when the daemon ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// Before an instance whose task panicked has another: what made it panic is likely to be there still.
const BEFORE_ANOTHER: Duration = Duration::from_secs(10);

/// Owns a task for each instance whose VM this host runs, and the registrar of those that others run.
#[derive(Debug)]
pub struct Supervisor {
    instances: Instances,
    registrar: Registrar,
}

/// The tasks of the instances.
#[derive(Debug)]
struct Instances {
    tools: Arc<Tools>,
    wanted: BTreeMap<InstanceId, watch::Sender<Wanted>>,
    tasks: JoinSet<()>,
    /// Whose each of the tasks is.
    owners: HashMap<Id, InstanceId>,
    cancel: CancellationToken,
    external: External,
}

/// When a task begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Now,
    AfterPause,
}

impl Supervisor {
    /// A supervisor that keeps its records beneath the daemon's state folder, which the caller keeps every other daemon
    /// away from ([`Records::lock`]). Nothing is done before [`Self::run`].
    ///
    /// Fails when the folders can't be made, and when a newer release has left something in them: to go on without it would
    /// end VMs that run.
    pub fn new(
        tables: &Tables,
        state: &Path,
        shards: ShardsHandle,
        reports: Reports,
    ) -> Result<Self, FileError> {
        let table = Table::default();
        let (registrar, external) = Registrar::new(
            &tables.external.directories,
            state,
            shards.clone(),
            reports.clone(),
            table.clone(),
        )?;
        let records = Records::open(state)?;
        records.know_all()?;
        let qemu = Qemu::new(tables, records.clone(), shards.vsock());
        let starts = Semaphore::new(tables.vm.starts_at_once as usize);
        let tools = Arc::new(Tools {
            qemu,
            records,
            shards,
            reports,
            table,
            config: tables.vm.clone(),
            starts,
        });
        let instances = Instances::new(tools, external);
        Ok(Self { instances, registrar })
    }

    /// What is known of the VMs, the registered ones included.
    pub fn table(&self) -> Table {
        self.instances.tools.table.clone()
    }

    /// The way to register VMs; it answers once [`Self::run`] does.
    pub fn external(&self) -> External {
        self.instances.external.clone()
    }

    /// Adopts what an earlier daemon left running, and then follows the changes until there are no more or it is
    /// cancelled. VMs run on after that.
    ///
    /// Fails when the records can't be listed, or a part of it ends before it is cancelled.
    pub async fn run(
        self,
        changes: mpsc::Receiver<SpecChange>,
        cancel: CancellationToken,
    ) -> Result<(), PartError> {
        let cancel = cancel.child_token();
        let mut parts = Parts::new(cancel.clone());
        let (tools, end) = (Arc::clone(&self.instances.tools), cancel.clone());
        parts.add("the watch over the logs", async move {
            end.run_until_cancelled(tools.qemu.watch_logs()).await;
        });
        parts.add("the registrar", self.registrar.run(cancel.clone()));
        parts.add_fallible("the care for the instances", self.instances.run(changes, cancel));
        parts.run().await
    }
}

impl Instances {
    fn new(tools: Arc<Tools>, external: External) -> Self {
        Self {
            tools,
            wanted: BTreeMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            cancel: CancellationToken::new(),
            external,
        }
    }

    async fn run(
        mut self,
        mut changes: mpsc::Receiver<SpecChange>,
        cancel: CancellationToken,
    ) -> Result<(), FileError> {
        self.cancel = cancel.child_token();
        for instance in self.tools.records.instances()? {
            self.want(instance, Wanted::Unknown);
        }
        loop {
            // Cancel-safe: a change or an ended task that wasn't taken is there the next time.
            tokio::select! {
                () = cancel.cancelled() => break,
                change = changes.recv() => match change {
                    Some(change) => self.change(change).await,
                    None => break,
                },
                Some(ended) = self.tasks.join_next_with_id() => self.ended(&ended),
            }
        }
        self.cancel.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(DRAIN_PATIENCE, ended).await.is_err() {
            tracing::warn!("leaving VMs that are being started to the next daemon, which will clean them up");
        }
        Ok(())
    }

    async fn change(&mut self, change: SpecChange) {
        self.external.change(change.clone()).await;
        match change {
            SpecChange::Set(spec) if spec.driver == Driver::Qemu => self.set(spec),
            SpecChange::Set(_) => (),
            SpecChange::Gone(instance) => self.gone(instance),
            SpecChange::Complete => self.complete(),
        }
    }

    fn set(&mut self, spec: InstanceSpec) {
        let known = self
            .wanted
            .get(&spec.instance)
            .map(|sender| sender.borrow().clone());
        let older = |known: &InstanceSpec| spec.revision < known.revision;
        if matches!(&known, Some(Wanted::Spec(known)) if older(known)) {
            return;
        }
        self.want(spec.instance, Wanted::Spec(Arc::new(spec)));
    }

    fn gone(&mut self, instance: InstanceId) {
        if self.wanted.contains_key(&instance) {
            self.want(instance, Wanted::Gone);
        }
    }

    /// What nobody spoke for by now is no longer this host's.
    fn complete(&mut self) {
        let unknown = |sender: &watch::Sender<Wanted>| matches!(*sender.borrow(), Wanted::Unknown);
        for (instance, sender) in self.wanted.iter().filter(|(_, sender)| unknown(sender)) {
            tracing::warn!(%instance, "ending a VM whose instance the control plane doesn't know on this host");
            sender.send_replace(Wanted::Gone);
        }
    }

    fn want(&mut self, instance: InstanceId, wanted: Wanted) {
        match self.wanted.entry(instance) {
            Entry::Occupied(entry) => {
                entry.get().send_replace(wanted);
            }
            Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(wanted);
                entry.insert(sender);
                self.spawn(instance, receiver, Begin::Now);
            }
        }
    }

    fn spawn(&mut self, instance: InstanceId, wanted: watch::Receiver<Wanted>, begin: Begin) {
        let task = Task::new(instance, Arc::clone(&self.tools), wanted);
        let cancel = self.cancel.clone();
        let task = self.tasks.spawn(async move {
            if begin == Begin::AfterPause && cancel.run_until_cancelled(sleep(BEFORE_ANOTHER)).await.is_none()
            {
                return;
            }
            task.run(cancel).await;
        });
        self.owners.insert(task.id(), instance);
    }

    /// A task ends when its instance is no more, unless something else came to be wanted at that very moment. One that
    /// panicked left its VM alone; the next one finds that again as the next daemon would.
    fn ended(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(instance) = self.owners.remove(&id) else {
            return;
        };
        let Some(sender) = self.wanted.get(&instance) else {
            return;
        };
        let want = sender.borrow().want();
        let wanted = sender.subscribe();
        match ended {
            Err(error) => {
                tracing::error!(%instance, %error, pause = ?BEFORE_ANOTHER, "the task of an instance panicked; it gets another");
                self.spawn(instance, wanted, Begin::AfterPause);
            }
            Ok(_) if matches!(want, Want::Terminated | Want::Gone) => drop(self.wanted.remove(&instance)),
            Ok(_) => self.spawn(instance, wanted, Begin::Now),
        }
    }
}

#[cfg(test)]
mod tests;
