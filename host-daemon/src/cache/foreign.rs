//! The views that an instance has of others: few, and the one that was not read for longest goes first.

use std::collections::{BTreeMap, HashSet};

use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::{InstanceId, Revision};

use super::view::View;
use super::{Effects, Touched, Wanted, What};
use crate::config::CacheConfig;

/// The views that one instance has of others.
#[derive(Debug, Default)]
pub(super) struct Foreign(BTreeMap<InstanceId, Slot>);

/// A view that was asked for; `None` until it comes.
#[derive(Debug)]
struct Slot {
    view: Option<View>,
    used: Moment,
    /// The latest change of the instance that the reader was told of by the control plane itself.
    told: Option<Revision>,
}

impl Foreign {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0
            .values()
            .filter_map(|slot| slot.view.as_ref())
            .map(View::bytes)
            .sum()
    }

    pub(super) fn get(&self, instance: &InstanceId) -> Option<&View> {
        self.0.get(instance)?.view.as_ref()
    }

    pub(super) fn has(&self, instance: &InstanceId) -> bool {
        self.0.contains_key(instance)
    }

    /// The view, unless it is of a time before what its reader was told: what somebody sees never goes back.
    pub(super) fn read(&mut self, instance: &InstanceId, now: Moment) -> Option<&View> {
        let slot = self.0.get_mut(instance)?;
        slot.used = now;
        let told = slot.told;
        slot.view
            .as_ref()
            .filter(|view| told.is_none_or(|told| view.known() >= told))
    }

    /// The reader was told of a change at `revision` that the view may not show yet.
    pub(super) fn told(&mut self, instance: &InstanceId, revision: Revision) {
        if let Some(slot) = self.0.get_mut(instance) {
            slot.told = slot.told.max(Some(revision));
        }
    }

    /// Where the view belongs, if it was asked for.
    pub(super) fn slot(&mut self, instance: &InstanceId) -> Option<&mut Option<View>> {
        self.0.get_mut(instance).map(|slot| &mut slot.view)
    }

    pub(super) fn views(&mut self, reader: InstanceId) -> impl Iterator<Item = (ViewId, &mut View)> {
        self.0.iter_mut().filter_map(move |(instance, slot)| {
            let id = ViewId {
                reader,
                instance: *instance,
            };
            slot.view.as_mut().map(|view| (id, view))
        })
    }

    /// Every view that was asked for, and what there is of it.
    pub(super) fn all(&self, reader: InstanceId) -> impl Iterator<Item = (ViewId, Option<&View>)> {
        self.0.iter().map(move |(instance, slot)| {
            let id = ViewId {
                reader,
                instance: *instance,
            };
            (id, slot.view.as_ref())
        })
    }

    pub(super) fn want(
        &mut self,
        id: &ViewId,
        now: Moment,
        most: usize,
        held: &dyn Fn(&InstanceId) -> bool,
    ) -> Option<Wanted> {
        if let Some(slot) = self.0.get_mut(&id.instance) {
            slot.used = now;
            return Some(Wanted::Already);
        }
        let mut dropped = Vec::new();
        while self.0.len() >= most {
            let oldest = self.oldest(|instance| !held(instance))?;
            self.0.remove(&oldest);
            dropped.push(ViewId {
                reader: id.reader,
                instance: oldest,
            });
        }
        let slot = Slot {
            view: None,
            used: now,
            told: None,
        };
        self.0.insert(id.instance, slot);
        Some(Wanted::New(dropped))
    }

    pub(super) fn remove(&mut self, instance: &InstanceId) {
        self.0.remove(instance);
    }

    fn oldest(&self, may_go: impl Fn(&InstanceId) -> bool) -> Option<InstanceId> {
        let mut slots = self
            .0
            .iter()
            .filter(|(instance, _)| may_go(instance))
            .collect::<Vec<_>>();
        slots.sort_by_key(|(_, slot)| slot.used);
        slots.first().map(|(instance, _)| **instance)
    }

    pub(super) fn drop_idle(
        &mut self,
        reader: InstanceId,
        now: Moment,
        idle_ms: u64,
        held: &dyn Fn(&ViewId) -> bool,
        dropped: &mut Vec<ViewId>,
    ) {
        self.0.retain(|instance, slot| {
            let id = ViewId {
                reader,
                instance: *instance,
            };
            let stays = now.since(slot.used) <= idle_ms || held(&id);
            if !stays {
                dropped.push(id);
            }
            stays
        });
    }

    /// Empties the views that everything anew doesn't name; they stay asked for.
    pub(super) fn retain_named(
        &mut self,
        reader: InstanceId,
        named: &HashSet<ViewId>,
        effects: &mut Effects,
    ) {
        for (instance, slot) in &mut self.0 {
            let view = ViewId {
                reader,
                instance: *instance,
            };
            if !named.contains(&view) && slot.view.take().is_some() {
                let what = What::Everything;
                effects.touched.push(Touched { view, what });
            }
        }
    }

    /// Keeps all views together within their bound: the changed one is emptied if it is too large by itself,
    /// otherwise the ones not read for longest go.
    pub(super) fn keep_quota(
        &mut self,
        id: &ViewId,
        now: Moment,
        quotas: &CacheConfig,
        dropped: &mut Vec<ViewId>,
    ) {
        if let Some(slot) = self.0.get_mut(&id.instance)
            && let Some(view) = &mut slot.view
        {
            view.keep_quota(id, quotas.entries, quotas.bytes.min(quotas.foreign_bytes), now);
            slot.used = now;
        }
        while self.bytes() > quotas.foreign_bytes {
            let Some(oldest) = self.oldest(|instance| *instance != id.instance) else {
                return;
            };
            self.0.remove(&oldest);
            dropped.push(ViewId {
                reader: id.reader,
                instance: oldest,
            });
        }
    }
}
