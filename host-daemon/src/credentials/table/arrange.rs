//! Which slots an instance has: those that the feed says it is to have, as long as its VM lives.

use std::collections::BTreeSet;

use moorline_shared::InstanceId;
use moorline_shared::link::Moment;

use super::slot::Slot;
use super::{Grant, Instance, Item, Rhythm, Table};

impl Table {
    /// Makes the slots what the feed and the life of the VM say.
    pub(super) fn arrange(&mut self, id: InstanceId, now: Moment) {
        let Some(Instance {
            known: Some(known),
            incarnation: Some(_),
            slots,
            ..
        }) = self.instances.get(&id)
        else {
            return;
        };
        let wanted: BTreeSet<Item> = known.roles.iter().cloned().map(Item::Role).collect();
        let is_wanted = |item: &Item| *item == Item::Session || wanted.contains(item);
        let unwanted: Vec<_> = slots.keys().filter(|item| !is_wanted(item)).cloned().collect();
        let mut new: Vec<_> = wanted
            .iter()
            .filter(|item| !slots.contains_key(item))
            .cloned()
            .collect();
        if !slots.contains_key(&Item::Session) {
            new.insert(0, Item::Session);
        }
        for item in unwanted {
            self.withdraw(id, &item);
        }
        for item in new {
            self.begin(id, &item, now);
        }
    }

    fn begin(&mut self, id: InstanceId, item: &Item, now: Moment) {
        let refusal = self.refusal(id, item);
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let slot = Slot::new(refusal.clone());
        instance.slots.insert(item.clone(), slot);
        if refusal.is_some() || self.is_ended(id, item) {
            return;
        }
        if let Item::Role(role) = item {
            self.tell(id, Grant::Announced(role.clone()));
        }
        let has_session = self
            .wanted(id, item)
            .is_some_and(|wanted| wanted.session.is_some());
        if self.rhythm(item) == Rhythm::Own || has_session {
            self.due(id, item, now);
        }
    }

    /// Why this host gives the instance nothing for the item.
    fn refusal(&self, id: InstanceId, item: &Item) -> Option<String> {
        let Item::Role(role) = item else {
            return None;
        };
        let account = &self.instances.get(&id)?.known.as_ref()?.account;
        match self.roles.get(role) {
            None => Some(format!(
                "the host's configuration has no role '{role}': add [roles.{role}]"
            )),
            Some(config) if !config.is_for(account) => {
                Some(format!("the role '{role}' is not for account {account}"))
            }
            Some(_) => None,
        }
    }

    fn withdraw(&mut self, id: InstanceId, item: &Item) {
        self.rest(id, item);
        self.let_go(id, item);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.slots.remove(item);
        }
        if let Item::Role(role) = item {
            self.tell(id, Grant::Withdrawn(role.clone()));
        }
    }

    /// Takes everything away, and tells the guest.
    pub(super) fn empty(&mut self, id: InstanceId) {
        for item in self.held(id) {
            self.withdraw(id, &item);
        }
        self.tell(id, Grant::NoSession);
    }

    /// Forgets everything. The shard has done so for itself.
    pub(super) fn drop_slots(&mut self, id: InstanceId) {
        for item in self.held(id) {
            self.rest(id, &item);
            self.let_go(id, &item);
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.slots.clear();
        }
    }

    /// What it has slots for.
    fn held(&self, id: InstanceId) -> Vec<Item> {
        let slots = self.instances.get(&id).map(|instance| &instance.slots);
        slots
            .into_iter()
            .flat_map(|slots| slots.keys().cloned())
            .collect()
    }

    pub(super) fn forget_if_unknown(&mut self, id: InstanceId) {
        let unknown = |i: &Instance| i.known.is_none() && i.incarnation.is_none();
        if self.instances.get(&id).is_some_and(unknown) {
            self.instances.remove(&id);
        }
    }
}
