//! What is fetched when, and what becomes of what came.

use moorline_shared::InstanceId;
use moorline_shared::link::Moment;

use super::lane::Lane;
use super::slot::{Phase, Slot};
use super::{Action, Come, Grant, Item, Knowledge, Rhythm, Table, Ticket, Wanted};

impl Table {
    /// Time passes: what has run out goes, and what is due is fetched, as far as the lanes allow.
    pub(in crate::credentials) fn tick(&mut self, now: Moment) {
        while let Some((end, id, item)) = self.ends.first().filter(|(end, ..)| *end <= now).cloned() {
            self.ends.remove(&(end, id, item.clone()));
            self.let_go(id, &item);
            self.tell(
                id,
                match item {
                    Item::Session => Grant::NoSession,
                    Item::Role(role) => Grant::RanOut(role),
                },
            );
        }
        while let Some((id, item)) = self.next_due(now) {
            self.fetch(id, &item);
        }
    }

    /// When [`Self::tick`] has something to do next; `None` if never.
    pub(in crate::credentials) fn next(&self) -> Option<Moment> {
        let end = self.ends.first().map(|(end, ..)| *end);
        let due = self.lanes.values().filter_map(Lane::first).min();
        [end, due].into_iter().flatten().min()
    }

    /// Begins the fetch that is due the longest, of the first lane that has one.
    fn next_due(&mut self, now: Moment) -> Option<(InstanceId, Item)> {
        let mut lanes = self.lanes.iter_mut();
        lanes.find_map(|(item, lane)| lane.next(now).map(|id| (id, item.clone())))
    }

    fn fetch(&mut self, id: InstanceId, item: &Item) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let Some(wanted) = self.wanted(id, item) else {
            self.lane(item).end();
            return;
        };
        if let Some(slot) = self.instances.get_mut(&id).and_then(|i| i.slots.get_mut(item)) {
            slot.phase = Phase::Fetching(ticket);
        }
        self.fetching.insert(ticket, (id, item.clone()));
        self.actions.push(Action::Fetch(ticket, wanted));
    }

    pub(super) fn wanted(&self, id: InstanceId, item: &Item) -> Option<Wanted> {
        let instance = self.instances.get(&id)?;
        let session = instance.slots.get(&Item::Session).and_then(Slot::session);
        Some(Wanted {
            instance: id,
            incarnation: instance.incarnation?,
            account: instance.known.as_ref()?.account.clone(),
            item: item.clone(),
            session: session.cloned(),
            instead_of: instance.instead_of.clone(),
        })
    }

    /// What came of a fetch. One that nobody wants any more is let go.
    pub(in crate::credentials) fn fetched(
        &mut self,
        ticket: Ticket,
        come: Result<Come, String>,
        now: Moment,
    ) {
        let Some((id, item)) = self.fetching.remove(&ticket) else {
            return;
        };
        self.lane(&item).end();
        match come {
            Ok(Come::Ended(why)) => self.session_ended(id, &why),
            Ok(come) if self.is_denied(id, &come, now) => {
                self.failed(id, &item, "what came was revoked meanwhile", now);
            }
            Ok(come) if come.deadline().is_some_and(|end| end <= now) => {
                self.failed(id, &item, "what came has run out already", now);
            }
            Ok(come) => self.came(id, &item, come, now),
            Err(error) => self.failed(id, &item, &error, now),
        }
    }

    fn came(&mut self, id: InstanceId, item: &Item, come: Come, now: Moment) {
        let (Some(deadline), Some(instance)) = (come.deadline(), self.instances.get_mut(&id)) else {
            return;
        };
        let Some(slot) = instance.slots.get_mut(item) else {
            return;
        };
        slot.recovered();
        let again = self.times.refresh(item, now, deadline);
        let better = slot.deadline().is_none_or(|held| held < deadline);
        if let Come::Session(_, identify_by) = &come {
            instance.identify_by = *identify_by;
            instance.instead_of = None;
        }
        if better || matches!(item, Item::Session) {
            self.let_go(id, item);
            self.hold(id, item, come);
            self.ends.insert((deadline, id, item.clone()));
        }
        if self.rhythm(item) == Rhythm::Own {
            self.due(id, item, again);
        }
        if *item == Item::Session {
            self.remember_given(id);
            self.make_anew(id, now);
            self.give_again(id);
            self.judge_waiting(id, now);
        }
    }

    fn hold(&mut self, id: InstanceId, item: &Item, come: Come) {
        let slot = self
            .instances
            .get_mut(&id)
            .and_then(|instance| instance.slots.get_mut(item));
        let Some(slot) = slot else {
            return;
        };
        let grant = match (come, item) {
            (Come::Session(session, _), _) => Grant::Session(slot.hold_session(session)),
            (Come::Role(role), Item::Role(name)) => Grant::Role(name.clone(), slot.hold_role(role)),
            (Come::Role(_), Item::Session) | (Come::Ended(_), _) => return,
        };
        self.tell(id, grant);
        if self.knowledge == Knowledge::Doubt && self.falls_with_session(item) {
            // It was asked for just now; whoever comes later has to ask again.
            self.withhold(id, item);
        }
    }

    /// What is made of the instance's token is made of the new one.
    fn make_anew(&mut self, id: InstanceId, now: Moment) {
        for item in self.items(id, Rhythm::Session) {
            self.rest(id, &item);
            self.due(id, &item, now);
        }
    }

    fn failed(&mut self, id: InstanceId, item: &Item, error: &str, now: Moment) {
        let slot = self
            .instances
            .get_mut(&id)
            .and_then(|instance| instance.slots.get_mut(item));
        if let Some(slot) = slot {
            let failures = slot.failed(error);
            let again = self.times.again(failures, now);
            self.due(id, item, again);
        }
    }

    /// The slot's time has come at `at`, unless it is being fetched. A session that takes another's place has to wait for
    /// its own.
    pub(super) fn due(&mut self, id: InstanceId, item: &Item, at: Moment) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let at = match item {
            Item::Session => instance.replace_at.map_or(at, |first| first.max(at)),
            Item::Role(_) => at,
        };
        let Some(slot) = instance.slots.get_mut(item) else {
            return;
        };
        if let Phase::Fetching(ticket) = slot.phase
            && self.fetching.contains_key(&ticket)
        {
            return;
        }
        let before = std::mem::replace(&mut slot.phase, Phase::Due(at));
        let lane = self.lane(item);
        if let Phase::Due(before) = before {
            lane.unplan(before, id);
        }
        lane.plan(at, id);
    }

    /// Nothing is fetched for the slot until something happens.
    pub(super) fn rest(&mut self, id: InstanceId, item: &Item) {
        let Some(slot) = self.instances.get_mut(&id).and_then(|i| i.slots.get_mut(item)) else {
            return;
        };
        match std::mem::replace(&mut slot.phase, Phase::Resting) {
            Phase::Resting => {}
            Phase::Due(at) => self.lane(item).unplan(at, id),
            Phase::Fetching(ticket) => {
                if self.fetching.remove(&ticket).is_some() {
                    self.lane(item).end();
                    self.actions.push(Action::Abandon(ticket));
                }
            }
        }
    }

    pub(super) fn lane(&mut self, item: &Item) -> &mut Lane {
        // A role that is not configured has no slot that is planned; its lane stays empty.
        self.lanes.entry(item.clone()).or_insert_with(|| Lane::new(1))
    }
}
