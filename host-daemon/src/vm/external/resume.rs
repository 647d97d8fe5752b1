//! Registrations that an earlier daemon took: held if what they were made of is still there.

use moorline_shared::InstanceId;
use moorline_shared::api::instances::InstanceState;

use super::record::{Active, Peer, Record};
use super::registrar::{Registrar, status};
use crate::causes::Causes;
use crate::vm::process::{self, Process};

impl Registrar {
    /// Takes up every registration of an earlier daemon that still holds.
    pub(super) async fn recall_all(&mut self) {
        let instances = match self.registrations.instances() {
            Ok(instances) => instances,
            Err(error) => {
                tracing::error!(error = %Causes(&error), "can't find the registrations of an earlier daemon");
                return;
            }
        };
        for instance in instances {
            match self.registrations.load(instance) {
                Ok(Some(record)) => self.recall(record).await,
                Ok(None) => (),
                Err(error) => tracing::error!(%instance, error = %Causes(&error), "lost a registration"),
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
        &mut self,
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
        bound.map_err(|error| Causes(&error).to_string())?;
        Ok(vmm)
    }
}

fn still(identity: process::Identity) -> Result<Option<Process>, String> {
    Process::find(identity).map_err(|error| error.to_string())
}
