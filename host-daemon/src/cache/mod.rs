//! What the guests of a shard may see: a pure data structure that batches of the feed are applied to.
//!
//! A [`View`] is what a reader may see of an instance. Each instance on the host has a view of itself, and a few of
//! others that it reads. [`Cache::apply`] takes a batch whole: what it says of a view that stands at a later revision
//! is ignored, so a revision never goes back, and a view over its quota is emptied and not served, never cut.

mod foreign;
mod held;
mod image;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;

use moorline_shared::api::feed::{FeedItem, View as WholeView, ViewId};
use moorline_shared::link::Moment;
use moorline_shared::{EntryPath, InstanceId, Revision, Timestamp};

use crate::config::CacheConfig;
use foreign::Foreign;
pub use held::{Held, Inventory};
pub use image::Image;
use view::Asked;
pub use view::{CachedEntry, View};

/// The time by both clocks: deadlines are measured by the moment, what people wrote is compared with the time.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On the clock that counts suspend.
    pub moment: Moment,
    /// Of the day.
    pub time: Timestamp,
}

/// A batch of the feed, or the part of it that concerns a shard.
#[derive(Clone, Debug)]
pub struct FeedBatch {
    /// What it builds on; `None` for everything anew.
    pub from: Option<Revision>,
    /// Where the host stands then.
    pub to: Revision,
    /// What changed.
    pub items: Vec<FeedItem>,
}

/// What a batch lies between.
struct Heading {
    from: Option<Revision>,
    to: Revision,
}

/// What a batch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Which views changed, and where.
    pub touched: Vec<Touched>,
    /// Views that must be asked for whole.
    pub wanting: Vec<ViewId>,
    /// Views of other instances that were let go to make room.
    pub dropped: Vec<ViewId>,
    /// Instances that are no longer this host's.
    pub gone: Vec<InstanceId>,
}

/// A change of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Of which view.
    pub view: ViewId,
    /// What of it.
    pub what: What,
}

/// How much of a view changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Anything may have.
    Everything,
    /// Nothing but the revision that it shows.
    Revision,
    /// This entry.
    Entry(EntryPath),
}

/// What the guests of a shard may see.
#[derive(Debug)]
pub struct Cache {
    quotas: CacheConfig,
    instances: HashMap<InstanceId, Known>,
    /// The number of the batch that is being applied: its items change a view whatever those before them did to it.
    batch: u64,
}

/// What there is for an instance of this host.
#[derive(Debug, Default)]
struct Known {
    own: Option<View>,
    foreign: Foreign,
}

impl Cache {
    /// An empty cache with these bounds.
    pub fn new(quotas: CacheConfig) -> Self {
        Self {
            quotas,
            instances: HashMap::new(),
            batch: 0,
        }
    }

    /// What an instance may see of itself; `None` before the feed said so.
    pub fn own(&self, instance: &InstanceId) -> Option<&View> {
        self.instances.get(instance)?.own.as_ref()
    }

    /// A view, whoever reads.
    pub fn view(&self, id: &ViewId) -> Option<&View> {
        if id.reader == id.instance {
            self.own(&id.reader)
        } else {
            self.instances.get(&id.reader)?.foreign.get(&id.instance)
        }
    }

    /// A reader was told by the control plane itself of a change of another instance. Until the view shows it, the view
    /// isn't read any more.
    pub fn told(&mut self, id: &ViewId, revision: Revision) {
        if let Some(known) = self.instances.get_mut(&id.reader) {
            known.foreign.told(&id.instance, revision);
        }
    }

    /// What a reader may see of another instance, marked as used at `now`; `None` while it is not here, or is of a time
    /// before what the reader was [told](Self::told).
    pub fn read_foreign(&mut self, id: &ViewId, now: Moment) -> Option<&View> {
        self.instances
            .get_mut(&id.reader)?
            .foreign
            .read(&id.instance, now)
    }

    /// Makes room for a view of another instance, which the feed will bring. `None` if the reader is not this host's
    /// any more, or no room can be made because all are `held`; otherwise the views that were let go for it.
    pub fn want(&mut self, id: &ViewId, now: Moment, held: &dyn Fn(&InstanceId) -> bool) -> Option<Wanted> {
        let known = self.instances.get_mut(&id.reader)?;
        known.foreign.want(id, now, self.quotas.foreign_views, held)
    }

    /// Whether the view is one of another instance that the feed brings, or will.
    pub fn wants(&self, id: &ViewId) -> bool {
        let known = self.instances.get(&id.reader);
        known.is_some_and(|known| known.foreign.has(&id.instance))
    }

    /// Lets go of a view of another instance.
    pub fn unwant(&mut self, id: &ViewId) {
        if let Some(known) = self.instances.get_mut(&id.reader) {
            known.foreign.remove(&id.instance);
        }
    }

    /// Lets go of the views of others that were not read for a while, and returns which.
    pub fn drop_idle(&mut self, now: Moment, held: &dyn Fn(&ViewId) -> bool) -> Vec<ViewId> {
        let idle = u64::try_from(self.quotas.foreign_idle().as_millis()).unwrap_or(u64::MAX);
        let mut dropped = Vec::new();
        for (reader, known) in &mut self.instances {
            known.foreign.drop_idle(*reader, now, idle, held, &mut dropped);
        }
        dropped
    }

    /// Whether the instance is this host's, as far as the feed has said.
    pub fn has(&self, instance: &InstanceId) -> bool {
        self.instances.contains_key(instance)
    }

    /// Which instances there is something for.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceId> {
        self.instances.keys()
    }

    /// How many views of others an instance has, and the bytes of all its views.
    pub fn usage(&self, instance: &InstanceId) -> (usize, usize) {
        let Some(known) = self.instances.get(instance) else {
            return (0, 0);
        };
        let own = known.own.as_ref().map_or(0, View::bytes);
        (known.foreign.len(), own + known.foreign.bytes())
    }

    /// Forgets everything: the revisions of another deployment can't be compared with what is here.
    pub fn clear(&mut self) {
        self.instances.clear();
    }

    /// Applies a batch whole.
    pub fn apply(&mut self, batch: FeedBatch, now: Now) -> Effects {
        self.batch += 1;
        let mut effects = Effects::default();
        if batch.from.is_none() {
            self.retain_named(&batch.items, &mut effects);
        }
        let heading = Heading {
            from: batch.from,
            to: batch.to,
        };
        for item in batch.items {
            self.apply_item(item, &heading, now, &mut effects);
        }
        self.ask_for_missing(&heading, &mut effects);
        self.keep_quotas(now.moment, &mut effects);
        effects
    }

    /// Replaces one view, as the control plane showed it when it was asked.
    pub fn replace(&mut self, view: WholeView, now: Now) -> Effects {
        let to = view.revision;
        let items = vec![FeedItem::View(view)];
        self.apply(
            FeedBatch {
                from: Some(to),
                to,
                items,
            },
            now,
        )
    }

    /// Changes of the view up to `at` were lost, as is known at `now`: until it comes whole, from then or later, readers
    /// see it as it was.
    pub fn lose(&mut self, id: &ViewId, at: Revision, now: Moment) {
        if let Some(view) = self.view_mut(id) {
            view.lose(at, now);
        }
    }

    fn view_mut(&mut self, id: &ViewId) -> Option<&mut View> {
        let known = self.instances.get_mut(&id.reader)?;
        if id.reader == id.instance {
            known.own.as_mut()
        } else {
            // One that has not come yet is waited for from now on: nothing that comes meanwhile is lost.
            Some(
                known
                    .foreign
                    .slot(&id.instance)?
                    .get_or_insert_with(View::awaited),
            )
        }
    }

    /// What a batch that says everything anew doesn't name is no more.
    fn retain_named(&mut self, items: &[FeedItem], effects: &mut Effects) {
        let named: std::collections::HashSet<_> = items
            .iter()
            .filter_map(|item| match item {
                FeedItem::Instance(spec) => Some(ViewId::own(spec.instance)),
                FeedItem::View(view) if view.view.reader != view.view.instance => Some(view.view),
                _ => None,
            })
            .collect();
        self.instances.retain(|instance, known| {
            let stays = named.contains(&ViewId::own(*instance));
            if stays {
                known.foreign.retain_named(*instance, &named, effects);
            } else {
                effects.gone.push(*instance);
            }
            stays
        });
    }

    fn apply_item(&mut self, item: FeedItem, batch: &Heading, now: Now, effects: &mut Effects) {
        match item {
            FeedItem::Instance(spec) => self.apply_instance(spec.instance, batch),
            FeedItem::InstanceGone { instance } => {
                if self.instances.remove(&instance).is_some() {
                    effects.gone.push(instance);
                }
            }
            FeedItem::View(whole) => self.apply_view(whole, now, effects),
            FeedItem::Entry { view, path, entry } => {
                let entry = entry.map(|entry| CachedEntry::new(entry, now));
                self.apply_entry(view, path, entry, batch.to, now.moment, effects);
            }
        }
    }

    /// An instance that is new between two revisions began with nothing: its first entries are in the same batch.
    fn apply_instance(&mut self, instance: InstanceId, batch: &Heading) {
        let number = self.batch;
        self.instances.entry(instance).or_insert_with(|| Known {
            own: batch.from.map(|_| View::empty(batch.to, number)),
            foreign: Foreign::default(),
        });
    }

    fn apply_view(&mut self, whole: WholeView, now: Now, effects: &mut Effects) {
        let (id, batch) = (whole.view, self.batch);
        let Some(known) = self.instances.get_mut(&id.reader) else {
            return;
        };
        let old = if id.reader == id.instance {
            &mut known.own
        } else {
            let Some(slot) = known.foreign.slot(&id.instance) else {
                return;
            };
            slot
        };
        let new = View::new(whole, now, batch);
        let touched = &mut effects.touched;
        let mut changed = |what| touched.push(Touched { view: id, what });
        let asked = if let Some(old) = old {
            old.replace(new, changed)
        } else {
            *old = Some(new);
            changed(What::Everything);
            Asked::Answered
        };
        if asked == Asked::Again {
            effects.wanting.push(id);
        }
    }

    fn apply_entry(
        &mut self,
        id: ViewId,
        path: EntryPath,
        entry: Option<CachedEntry>,
        to: Revision,
        now: Moment,
        effects: &mut Effects,
    ) {
        let batch = self.batch;
        let Some(known) = self.instances.get_mut(&id.reader) else {
            return;
        };
        let view = if id.reader == id.instance {
            known.own.get_or_insert_with(|| {
                effects.wanting.push(id);
                View::awaited()
            })
        } else {
            // A view of another instance comes whole first.
            match known.foreign.slot(&id.instance).and_then(Option::as_mut) {
                None => return,
                Some(view) => view,
            }
        };
        if view.retry_too_large(now) {
            effects.wanting.push(id);
        }
        if view.set(&path, entry, to, batch) {
            let what = What::Entry(path);
            effects.touched.push(Touched { view: id, what });
        }
    }

    /// Everything anew brings the own view of each instance; one that it didn't bring is asked for.
    fn ask_for_missing(&mut self, batch: &Heading, effects: &mut Effects) {
        if batch.from.is_some() {
            return;
        }
        for (instance, known) in self.instances.iter_mut().filter(|(_, known)| known.own.is_none()) {
            known.own = Some(View::awaited());
            effects.wanting.push(ViewId::own(*instance));
        }
    }

    /// Empties the views that the batch made too large.
    fn keep_quotas(&mut self, now: Moment, effects: &mut Effects) {
        let mut seen = None;
        for at in 0..effects.touched.len() {
            let id = effects.touched[at].view;
            if seen.replace(id) == Some(id) {
                continue;
            }
            let Some(known) = self.instances.get_mut(&id.reader) else {
                continue;
            };
            if id.reader != id.instance {
                known
                    .foreign
                    .keep_quota(&id, now, &self.quotas, &mut effects.dropped);
            } else if let Some(own) = &mut known.own {
                own.keep_quota(&id, self.quotas.entries, self.quotas.bytes, now);
            }
        }
    }

    /// Removes the entries whose validity has ended.
    pub fn expire(&mut self, now: Moment) -> Vec<Touched> {
        let mut touched = Vec::new();
        for (reader, known) in &mut self.instances {
            let id = ViewId::own(*reader);
            let own = known.own.as_mut().map(|view| (id, view));
            for (id, view) in own.into_iter().chain(known.foreign.views(*reader)) {
                view.expire(now, |path| {
                    let what = What::Entry(path);
                    touched.push(Touched { view: id, what });
                });
            }
        }
        touched
    }
}

/// A view was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It had been before.
    Already,
    /// It is new; these had to make room for it.
    New(Vec<ViewId>),
}
