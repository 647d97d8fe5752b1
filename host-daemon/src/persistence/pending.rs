//! What is not on disk yet: said by whoever changes it, taken by the writer. Saying it waits for nothing, and however
//! often a view changes, it is there once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_shared::host::CacheStatus;
use moorline_shared::{InstanceId, Revision};
use tokio::sync::Notify;

/// Tells the writer what changed. Cheap to clone; the default one has no writer, and keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Handle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    bell: Notify,
    status: Mutex<CacheStatus>,
}

/// What has to be done for the disk to show what the memory does.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The control plane that everything is of.
    pub deployment: Option<String>,
    /// What is done first.
    pub before: Before,
    /// The instances whose files have to be written anew, or removed.
    pub views: BTreeSet<InstanceId>,
    /// Where the host stands once all that is on disk.
    pub cursor: Option<Revision>,
}

/// What becomes of what is on disk before anything is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    #[default]
    Keep,
    /// It is of another deployment, whose revisions mean nothing now.
    Remove,
}

/// How soon something has to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// There is nothing to write.
    None,
    /// Only that the host has heard of the control plane since.
    Position,
    /// Data.
    Views,
}

impl Handle {
    /// Everything from now on is of this control plane. What is kept of another is removed.
    pub fn deployment(&self, name: &str) {
        let mut pending = self.pending();
        let before = pending.deployment.replace(name.to_owned());
        if before.is_some_and(|before| before != name) {
            pending.before = Before::Remove;
            pending.views.clear();
            pending.cursor = None;
            self.0.bell.notify_one();
        }
    }

    /// What these instances may see of themselves changed, or is no more.
    pub fn changed(&self, instances: impl IntoIterator<Item = InstanceId>) {
        let mut pending = self.pending();
        pending.views.extend(instances);
        if !pending.views.is_empty() {
            self.0.bell.notify_one();
        }
    }

    /// Everything is applied up to here, and what that changed was said before.
    pub fn stands(&self, cursor: Revision) {
        self.pending().cursor = Some(cursor);
        self.0.bell.notify_one();
    }

    /// How what the host has is kept.
    pub fn status(&self) -> CacheStatus {
        let unwritten = self.pending().views.len() as u64;
        CacheStatus {
            unwritten,
            ..self
                .0
                .status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut CacheStatus)) {
        update(&mut self.0.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when something was said since it was last ready. Cancel-safe.
    pub(super) async fn said(&self) {
        self.0.bell.notified().await;
    }

    pub(super) fn urgency(&self) -> Urgency {
        let pending = self.pending();
        if pending.deployment.is_none() {
            Urgency::None
        } else if pending.before == Before::Remove || !pending.views.is_empty() {
            Urgency::Views
        } else if pending.cursor.is_some() {
            Urgency::Position
        } else {
            Urgency::None
        }
    }

    /// All that has to be done. It is the taker's from now on.
    pub fn take(&self) -> Pending {
        let mut pending = self.pending();
        let deployment = pending.deployment.clone();
        std::mem::replace(
            &mut pending,
            Pending {
                deployment,
                ..Pending::default()
            },
        )
    }

    /// This could not be done. What is of another deployment by now need not be any more.
    pub fn give_back(&self, undone: Pending) {
        let mut pending = self.pending();
        if pending.before == Before::Remove {
            return;
        }
        pending.before = undone.before;
        pending.views.extend(undone.views);
        pending.cursor = pending.cursor.max(undone.cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::{Before, Handle, Urgency};
    use crate::link::tests::{id, revision};

    #[test]
    fn what_changes_often_is_written_once() {
        let handle = Handle::default();
        handle.changed([id(1)]);
        assert_eq!(handle.urgency(), Urgency::None, "nobody knows whose it is");
        handle.deployment("lab");
        handle.changed([id(1), id(2), id(1)]);
        handle.stands(revision(5));
        handle.stands(revision(6));
        assert_eq!((handle.urgency(), handle.status().unwritten), (Urgency::Views, 2));
        let taken = handle.take();
        assert_eq!(
            (taken.views, taken.cursor),
            ([id(1), id(2)].into(), Some(revision(6)))
        );
        assert_eq!(handle.urgency(), Urgency::None);
        handle.stands(revision(7));
        assert_eq!(handle.urgency(), Urgency::Position);
    }

    #[test]
    fn what_could_not_be_done_is_done_with_what_comes_next() {
        let handle = Handle::default();
        handle.deployment("lab");
        handle.changed([id(1)]);
        handle.stands(revision(5));
        let undone = handle.take();
        handle.changed([id(2)]);
        handle.stands(revision(6));
        handle.give_back(undone);
        let taken = handle.take();
        assert_eq!(
            (taken.views, taken.cursor),
            ([id(1), id(2)].into(), Some(revision(6)))
        );
    }

    #[test]
    fn what_is_of_another_deployment_is_never_written() {
        let handle = Handle::default();
        handle.deployment("lab");
        handle.changed([id(1)]);
        handle.stands(revision(5));
        let undone = handle.take();
        handle.changed([id(2)]);
        handle.deployment("other");
        handle.give_back(undone);
        let taken = handle.take();
        assert_eq!(taken.before, Before::Remove);
        assert_eq!((taken.views, taken.cursor), ([].into(), None));
    }
}
