//! What is known of the VMs right now, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_shared::InstanceId;
use moorline_shared::host::VmStatus;

/// The state of each instance's VM. Cheap to clone; all clones are one table.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Mutex<BTreeMap<InstanceId, VmStatus>>>);

impl Table {
    /// All of them, in the order of the ids.
    pub fn all(&self) -> Vec<VmStatus> {
        self.lock().values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, instance: InstanceId) -> Option<VmStatus> {
        self.lock().get(&instance).cloned()
    }

    pub(super) fn set(&self, status: VmStatus) {
        self.lock().insert(status.instance, status);
    }

    pub(super) fn remove(&self, instance: InstanceId) {
        self.lock().remove(&instance);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, VmStatus>> {
        // Every change is one insertion or removal, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
