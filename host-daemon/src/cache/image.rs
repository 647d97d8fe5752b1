//! What there is of a view, apart from the cache: for whoever keeps it beyond the daemon's life.

use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::{EntryPath, InstanceId, Revision};

use super::view::{CachedEntry, View};
use super::{Cache, Known};
use crate::cache::foreign::Foreign;

/// What an instance may see of itself, as it was at some moment. Cheap to make: the values are shared with the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Of which instance.
    pub instance: InstanceId,
    /// When its content last changed.
    pub revision: Revision,
    /// Up to where it is known to be as it is.
    pub known: Revision,
    /// Since when it has been behind because changes were lost; `None` while it is in step.
    pub behind_since: Option<Moment>,
    /// The entries that are valid, in byte order of their paths.
    pub entries: Vec<(EntryPath, CachedEntry)>,
}

impl Image {
    /// The bytes of all values.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.value.len()).sum()
    }
}

impl Cache {
    /// What the instance may see of itself at `now`; `None` if nothing of it is served.
    pub fn image(&self, instance: &InstanceId, now: Moment) -> Option<Image> {
        let view = self.own(instance).filter(|view| view.is_served())?;
        let entries = view.entries().filter(|(_, entry)| entry.is_valid(now));
        Some(Image {
            instance: *instance,
            revision: view.revision(),
            known: view.known(),
            behind_since: view.behind_since(),
            entries: entries
                .map(|(path, entry)| (path.clone(), entry.clone()))
                .collect(),
        })
    }

    /// Begins with what an earlier daemon had. Of an instance that the feed has named already nothing is taken.
    pub fn restore(&mut self, image: Image, now: Moment) {
        let id = ViewId::own(image.instance);
        let quotas = &self.quotas;
        self.instances.entry(image.instance).or_insert_with(|| {
            let mut view = View::restored(image);
            view.keep_quota(&id, quotas.entries, quotas.bytes, now);
            Known {
                own: Some(view),
                foreign: Foreign::default(),
            }
        });
    }

    /// The instance is this host's, and what it may see of itself has yet to be asked for. Nothing changes if there is
    /// something already.
    pub fn await_own(&mut self, instance: InstanceId) {
        let known = self.instances.entry(instance).or_default();
        known.own.get_or_insert_with(View::awaited);
    }
}
