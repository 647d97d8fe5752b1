//! What becomes of what the feed brings: the shards apply it, and then the machines are told what is wanted of them.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::{FeedItem, InstanceSpec, View, ViewId};
use moorline_shared::{InstanceId, Revision};

use super::{Feed, Machines, Over};
use crate::cache::FeedBatch;
use crate::link::FeedEffects;
use crate::uplink::SpecChange;
use crate::uplink::assembly::{Batch, Whole};
use crate::uplink::interests::InterestChange;

/// What is left to be done with the instances that a snapshot named.
#[derive(Default)]
pub(super) struct Snapshot {
    from: Option<Revision>,
    to: Revision,
    /// Instances that are new here: each is known from when its view comes, so that nobody takes it for empty.
    new: BTreeMap<InstanceId, InstanceSpec>,
    /// All of them, for the machines.
    instances: Vec<InstanceSpec>,
}

impl Feed {
    pub(super) async fn apply_whole(&mut self, snapshot: &mut Snapshot, whole: Whole) -> Result<(), Over> {
        match whole {
            Whole::Instances { from, to, instances } => {
                *snapshot = self.instances_named(from, to, instances).await?;
            }
            Whole::View(view) => self.view(snapshot, view).await?,
            Whole::SnapshotEnd(to) => {
                self.snapshot_end(std::mem::take(snapshot), to).await;
                self.stands_at(to);
            }
            Whole::Batch(batch) => {
                let to = batch.to;
                self.batch(batch).await?;
                self.stands_at(to);
            }
            Whole::Bookmark(revision) => self.stands_at(revision),
        }
        Ok(())
    }

    /// Everything up to here is applied.
    fn stands_at(&mut self, revision: Revision) {
        let cursor = self.cursor.unwrap_or_default().max(revision);
        self.cursor = Some(cursor);
        self.kept.stands(cursor);
    }

    fn build_on(&mut self, from: Revision) -> Result<(), Over> {
        if Some(from) > self.cursor {
            let at = self.cursor.take();
            return Err(Over::Gap { from, at });
        }
        Ok(())
    }

    /// Lets go of the instances that a snapshot doesn't name, and takes in those that it does.
    async fn instances_named(
        &mut self,
        from: Option<Revision>,
        to: Revision,
        instances: Vec<InstanceSpec>,
    ) -> Result<Snapshot, Over> {
        if let Some(from) = from {
            self.build_on(from)?;
        } else {
            // Until everything has come, nothing of it can be gone on from.
            self.cursor = None;
            self.shards.feed_counts().snapshots.add();
        }
        let named: BTreeSet<_> = instances.iter().map(|spec| spec.instance).collect();
        let unnamed = self.instances.keys().filter(|id| !named.contains(id));
        let unnamed: Vec<_> = unnamed.copied().collect();
        let (known, new): (Vec<_>, Vec<_>) = instances
            .iter()
            .cloned()
            .partition(|spec| from.is_none() || self.instances.contains_key(&spec.instance));
        let gone = unnamed.iter().map(|id| FeedItem::InstanceGone { instance: *id });
        let items = gone.chain(known.into_iter().map(FeedItem::Instance)).collect();
        self.apply(FeedBatch { from, to, items }).await?;
        for instance in unnamed {
            self.gone(instance).await;
        }
        Ok(Snapshot {
            from,
            to,
            new: new.into_iter().map(|spec| (spec.instance, spec)).collect(),
            instances,
        })
    }

    /// Applies a view of a snapshot, and the instance with it if that is new.
    async fn view(&mut self, snapshot: &mut Snapshot, view: View) -> Result<(), Over> {
        let (id, to) = (view.view, snapshot.to);
        let is_own = id == ViewId::own(id.reader);
        let new = if is_own {
            snapshot.new.remove(&id.reader)
        } else {
            None
        };
        if new.is_some() {
            self.instances.insert(id.reader, Revision::ZERO);
        }
        let new = new.map(FeedItem::Instance);
        let items = new.into_iter().chain([FeedItem::View(view)]).collect();
        let from = Some(to);
        self.apply(FeedBatch { from, to, items }).await
    }

    /// The machines are told of what is wanted of them now. An instance whose view did not come is no news to the control
    /// plane: this daemon doesn't have what an earlier one had.
    async fn snapshot_end(&mut self, snapshot: Snapshot, to: Revision) {
        for instance in snapshot.new.into_keys() {
            self.instances.insert(instance, Revision::ZERO);
            self.shards.await_own(instance);
            self.lost.insert(ViewId::own(instance));
        }
        self.cursor = self.cursor.max(Some(to));
        let anew = snapshot.from.is_none() || self.machines == Machines::Unnamed;
        for spec in snapshot.instances {
            let said = self.instances.get(&spec.instance).copied();
            if anew || said.is_none_or(|said| said < spec.revision) {
                self.set(spec).await;
            }
        }
        if anew {
            self.machines = Machines::Named;
            self.say(SpecChange::Complete).await;
        }
    }

    /// Applies a batch. The cursor moves only when every shard has applied its part.
    async fn batch(&mut self, batch: Batch) -> Result<(), Over> {
        self.build_on(batch.from)?;
        let machines: Vec<_> = batch.items.iter().filter_map(of_machine).collect();
        let to = batch.to;
        self.lose(&batch.resync, to);
        let (from, items) = (Some(batch.from), batch.items);
        self.apply(FeedBatch { from, to, items }).await?;
        // What was dropped may be of an instance that is new with the batch.
        self.lose(&batch.resync, to);
        self.shards
            .feed_counts()
            .resyncs
            .add_many(batch.resync.len() as u64);
        self.lost.extend(batch.resync);
        for change in machines {
            match change {
                SpecChange::Gone(instance) => self.gone(instance).await,
                SpecChange::Set(spec) => self.set(spec).await,
                SpecChange::Complete => {}
            }
        }
        Ok(())
    }

    /// Readers see these views as they were until they come whole.
    pub(super) fn lose(&self, views: &BTreeSet<ViewId>, at: Revision) {
        for view in views {
            self.shards.lose(*view, at);
        }
        let own = views.iter().filter(|view| **view == ViewId::own(view.reader));
        self.kept.changed(own.map(|view| view.reader));
    }

    async fn apply(&mut self, batch: FeedBatch) -> Result<(), Over> {
        for item in &batch.items {
            if let FeedItem::View(view) = item {
                self.interests.arrived(&view.view);
                self.lost.remove(&view.view);
            }
        }
        let effects = self.shards.apply(batch).await?;
        self.on_effects(effects);
        Ok(())
    }

    async fn set(&mut self, spec: InstanceSpec) {
        self.instances.insert(spec.instance, spec.revision);
        self.say(SpecChange::Set(spec)).await;
    }

    /// A supervisor that has ended starts and stops nothing.
    async fn say(&self, change: SpecChange) {
        self.credentials.spec(&change);
        let _ = self.specs.send(change).await;
    }

    async fn gone(&mut self, instance: InstanceId) {
        self.instances.remove(&instance);
        self.interests.reader_gone(&instance);
        self.lost.retain(|view| view.reader != instance);
        self.too_early.retain(|view| view.reader != instance);
        self.say(SpecChange::Gone(instance)).await;
    }

    pub(super) fn on_effects(&mut self, effects: FeedEffects) {
        self.kept.changed(effects.changed);
        self.lost.extend(effects.wanting);
        self.interests.change(InterestChange {
            add: Vec::new(),
            remove: effects.dropped,
        });
    }
}

/// What an item says about a machine.
fn of_machine(item: &FeedItem) -> Option<SpecChange> {
    match item {
        FeedItem::Instance(spec) => Some(SpecChange::Set(spec.clone())),
        FeedItem::InstanceGone { instance } => Some(SpecChange::Gone(*instance)),
        FeedItem::View(_) | FeedItem::Entry { .. } => None,
    }
}
