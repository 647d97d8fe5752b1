//! Brings what runs on this host into agreement with what the control plane wants to run on it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::instances::Driver;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::Tables;
use super::external::{External, Registrar};
use super::file::FileError;
use super::instance::{Parts, Task, Wanted};
use super::plan::Want;
use super::qemu::Qemu;
use super::record::{Lock, Records};
use super::table::Table;
use crate::link::ShardsHandle;
use crate::uplink::{Reports, SpecChange};

/// For what is under way when the daemon ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Owns a task for each instance whose VM this host runs, and the registrar of those that others run.
#[derive(Debug)]
pub struct Supervisor {
    parts: Arc<Parts>,
    wanted: BTreeMap<InstanceId, watch::Sender<Wanted>>,
    tasks: JoinSet<InstanceId>,
    cancel: CancellationToken,
    external: External,
    registrar: Option<Registrar>,
    _lock: Lock,
}

impl Supervisor {
    /// A supervisor that keeps its records beneath the daemon's state folder. Nothing is done before [`Self::run`].
    ///
    /// Fails when the folders can't be made, or another daemon works there.
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
        let lock = records.lock()?;
        let qemu = Qemu::new(tables.qemu.clone(), tables.images.clone(), records.clone());
        let starts = Semaphore::new(tables.vm.starts_at_once as usize);
        Ok(Self {
            parts: Arc::new(Parts {
                qemu,
                records,
                shards,
                reports,
                table,
                config: tables.vm.clone(),
                starts,
            }),
            wanted: BTreeMap::new(),
            tasks: JoinSet::new(),
            cancel: CancellationToken::new(),
            external,
            registrar: Some(registrar),
            _lock: lock,
        })
    }

    /// What is known of the VMs, the registered ones included.
    pub fn table(&self) -> Table {
        self.parts.table.clone()
    }

    /// The way to register VMs; it answers once [`Self::run`] does.
    pub fn external(&self) -> External {
        self.external.clone()
    }

    /// Adopts what an earlier daemon left running, and then follows the changes until there are no more or it is
    /// cancelled. VMs run on after that.
    ///
    /// Fails when the records can't be listed.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<SpecChange>,
        cancel: CancellationToken,
    ) -> Result<(), FileError> {
        self.cancel = cancel.child_token();
        let mut registrar = JoinSet::new();
        if let Some(task) = self.registrar.take() {
            registrar.spawn(task.run(self.cancel.clone()));
        }
        for instance in self.parts.records.instances()? {
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
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
        self.cancel.cancel();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            while registrar.join_next().await.is_some() {}
        };
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
                self.spawn(instance, receiver);
            }
        }
    }

    fn spawn(&mut self, instance: InstanceId, wanted: watch::Receiver<Wanted>) {
        let task = Task::new(instance, Arc::clone(&self.parts), wanted);
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            task.run(cancel).await;
            instance
        });
    }

    /// A task ends when its instance is no more, unless something else came to be wanted at that very moment.
    fn ended(&mut self, ended: Result<InstanceId, tokio::task::JoinError>) {
        let instance = match ended {
            Ok(instance) => instance,
            Err(error) => {
                tracing::error!(%error, "the task of an instance failed; its VM is left alone");
                return;
            }
        };
        let Some(sender) = self.wanted.get(&instance) else {
            return;
        };
        let want = sender.borrow().want();
        if matches!(want, Want::Terminated | Want::Gone) {
            self.wanted.remove(&instance);
        } else {
            self.spawn(instance, sender.subscribe());
        }
    }
}
