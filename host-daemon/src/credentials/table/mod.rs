//! Who has what, what has to be fetched when, and what a guest is told. Pure: `now` and what happened in, actions out.
//!
//! Each instance of this host whose VM lives has a [`Slot`] for its own token and one for each of its roles. A slot
//! has something or not, and is being fetched or waits for its time, and has nothing to do with any other slot: at most
//! one fetch is under way for it, and what comes of another is let go. All slots of the same [`Item`] share a [`Lane`],
//! which bounds how many of them are fetched at once.

mod lane;
mod session;
mod slot;
#[cfg(test)]
mod tests;
mod times;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::instances::Desired;
use moorline_shared::host::CredentialStatus;
use moorline_shared::id::{AccountId, RoleName};
use moorline_shared::link::Moment;
use moorline_shared::{Digest, InstanceId};

use super::config::{RoleConfig, Roles};
use super::denied::DenyList;
use super::sources::{Rhythm, Source as _};
use crate::link::{Grant, LifeId, Notice, RoleGrant, SessionGrant};
use lane::Lane;
pub(super) use session::{Knowledge, Vouched};
use slot::{Phase, Slot};
use times::Times;

/// How many tokens of instances are asked for at once.
const SESSIONS_AT_ONCE: u16 = 16;

/// Something that an instance has: its own token, or a role's credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Its own token.
    Session,
    /// A role's credentials.
    Role(RoleName),
}

/// A fetch, for as long as somebody wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What has to be done.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Fetch it, and say what came of it by [`Table::fetched`].
    Fetch(Ticket, Wanted),
    /// Nobody wants it any more.
    Abandon(Ticket),
    /// Tell the guest, in this life of its VM.
    Tell(InstanceId, u64, Grant),
}

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) instance: InstanceId,
    pub(super) incarnation: u64,
    pub(super) account: AccountId,
    pub(super) item: Item,
    /// The instance's present token.
    pub(super) session: Option<Arc<SessionGrant>>,
    /// The session that a new one has to take the place of.
    pub(super) instead_of: Option<String>,
}

/// What was fetched.
#[derive(Debug)]
pub(super) enum Come {
    /// A token, and until when it must have been used, if it has to be.
    Session(SessionGrant, Option<Moment>),
    /// No token in this life of the VM, and why: somebody ended the session.
    Ended(String),
    /// A role's credentials.
    Role(RoleGrant),
}

impl Come {
    /// `None` if nothing came that could run out.
    const fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Session(grant, _) => Some(grant.deadline),
            Self::Role(grant) => Some(grant.deadline),
            Self::Ended(_) => None,
        }
    }
}

/// Everything that guests of this host have.
#[derive(Debug)]
pub(super) struct Table {
    roles: BTreeMap<RoleName, RoleConfig>,
    instances: BTreeMap<InstanceId, Instance>,
    lanes: BTreeMap<Item, Lane>,
    fetching: BTreeMap<Ticket, (InstanceId, Item)>,
    /// When what there is runs out.
    ends: BTreeSet<(Moment, InstanceId, Item)>,
    tickets: u64,
    times: Times,
    actions: Vec<Action>,
    denied: DenyList,
    knowledge: Knowledge,
}

#[derive(Debug, Default)]
struct Instance {
    /// What the feed says of it.
    known: Option<Known>,
    /// The life of its VM.
    incarnation: Option<u64>,
    /// Which generation of the VM its guest said it is.
    generation: Option<[u8; 16]>,
    /// Who has said HELLO in this life, once somebody has.
    greeted: Option<Greeted>,
    /// The session that has to end because nobody has the key any more that its requests are signed with, or somebody else
    /// may have it too.
    instead_of: Option<String>,
    /// Until when its session must have been used.
    identify_by: Option<Moment>,
    /// The session that it has, also where its token has run out.
    session: Option<String>,
    /// Why nothing that hangs on its session is fetched in this life, if somebody ended that.
    ended: Option<String>,
    /// The last tokens that it was given in this life, each with its session.
    given: VecDeque<(Digest, String)>,
    slots: BTreeMap<Item, Slot>,
}

/// Who has said HELLO in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeted {
    /// An agent that had nothing yet, while there was no session to give it.
    Newcomer,
    /// One that has what it was given, or is about to.
    Settled,
}

#[derive(Debug)]
struct Known {
    account: AccountId,
    roles: BTreeSet<RoleName>,
}

impl Table {
    /// An empty table. `seed` makes the times of different hosts differ.
    pub(super) fn new(roles: Roles, seed: u64) -> Self {
        let of_role = |(name, config): (&RoleName, &RoleConfig)| {
            (Item::Role(name.clone()), Lane::new(config.fetches_at_once))
        };
        let mut lanes: BTreeMap<_, _> = roles.iter().map(of_role).collect();
        lanes.insert(Item::Session, Lane::new(SESSIONS_AT_ONCE));
        Self {
            roles,
            instances: BTreeMap::new(),
            lanes,
            fetching: BTreeMap::new(),
            ends: BTreeSet::new(),
            tickets: 0,
            times: Times::new(seed),
            actions: Vec::new(),
            denied: DenyList::default(),
            knowledge: Knowledge::default(),
        }
    }

    /// The feed says what an instance is.
    pub(super) fn set(&mut self, spec: &InstanceSpec, now: Moment) {
        if spec.desired == Desired::Terminated {
            return self.gone(spec.instance);
        }
        let instance = self.instances.entry(spec.instance).or_default();
        instance.known = Some(Known {
            account: spec.account.clone(),
            roles: spec.roles.clone(),
        });
        self.arrange(spec.instance, now);
    }

    /// The instance is no longer this host's, or is to end: it has nothing from now on.
    pub(super) fn gone(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        instance.known = None;
        self.empty(id);
        self.forget_if_unknown(id);
    }

    /// Something happened to a guest's life.
    pub(super) fn notice(&mut self, notice: Notice, now: Moment) {
        match notice {
            Notice::Began(LifeId {
                instance,
                incarnation,
            }) => {
                self.drop_slots(instance);
                let entry = self.instances.entry(instance).or_default();
                *entry = Instance {
                    known: entry.known.take(),
                    incarnation: Some(incarnation),
                    ..Instance::default()
                };
                self.arrange(instance, now);
            }
            Notice::Ended(LifeId {
                instance,
                incarnation,
            }) => {
                let entry = self.instances.get_mut(&instance);
                if let Some(entry) = entry.filter(|entry| entry.incarnation == Some(incarnation)) {
                    entry.incarnation = None;
                    self.drop_slots(instance);
                    self.forget_if_unknown(instance);
                }
            }
            Notice::Greeted {
                life,
                generation,
                speaker,
            } => self.greeted(life, generation, speaker, now),
        }
    }

    /// What came of a fetch. One that nobody wants any more is let go.
    pub(super) fn fetched(&mut self, ticket: Ticket, come: Result<Come, String>, now: Moment) {
        let Some((id, item)) = self.fetching.remove(&ticket) else {
            return;
        };
        self.lane(&item).end();
        match come {
            Ok(Come::Ended(why)) => self.session_ended(id, &why),
            Ok(come) if self.is_denied(&come, now) => {
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
        match item {
            Item::Session => {
                self.remember_given(id);
                self.make_anew(id, now);
                self.give_again(id);
            }
            Item::Role(_) => {}
        }
        if self.rhythm(item) == Rhythm::Own {
            self.due(id, item, again);
        }
        if *item == Item::Session {
            self.judge_newcomer(id, now);
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

    /// Time passes: what has run out goes, and what is due is fetched, as far as the lanes allow.
    pub(super) fn tick(&mut self, now: Moment) {
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

    fn wanted(&self, id: InstanceId, item: &Item) -> Option<Wanted> {
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

    /// When [`Self::tick`] has something to do next; `None` if never.
    pub(super) fn next(&self) -> Option<Moment> {
        let end = self.ends.first().map(|(end, ..)| *end);
        let due = self.lanes.values().filter_map(Lane::first).min();
        [end, due].into_iter().flatten().min()
    }

    /// What has to be done, in order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What people are shown: names, kinds, times and errors.
    pub(super) fn status(&self, now: Moment) -> BTreeMap<InstanceId, Vec<CredentialStatus>> {
        let shown = |instance: &Instance| {
            let slots = instance.slots.iter();
            slots.map(|(item, slot)| slot.status(item, now)).collect()
        };
        let alive = self.instances.iter().filter(|(_, i)| !i.slots.is_empty());
        alive.map(|(id, instance)| (*id, shown(instance))).collect()
    }

    /// Makes the slots what the feed and the life of the VM say.
    fn arrange(&mut self, id: InstanceId, now: Moment) {
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
    fn empty(&mut self, id: InstanceId) {
        let items: Vec<_> = self
            .instances
            .get(&id)
            .into_iter()
            .flat_map(|i| i.slots.keys().cloned())
            .collect();
        for item in items {
            self.withdraw(id, &item);
        }
        self.tell(id, Grant::NoSession);
    }

    /// Forgets everything. The shard has done so for itself.
    fn drop_slots(&mut self, id: InstanceId) {
        let items: Vec<_> = self
            .instances
            .get(&id)
            .into_iter()
            .flat_map(|i| i.slots.keys().cloned())
            .collect();
        for item in items {
            self.rest(id, &item);
            self.let_go(id, &item);
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.slots.clear();
        }
    }

    fn forget_if_unknown(&mut self, id: InstanceId) {
        let unknown = |i: &Instance| i.known.is_none() && i.incarnation.is_none();
        if self.instances.get(&id).is_some_and(unknown) {
            self.instances.remove(&id);
        }
    }

    /// Drops what is held, which wipes it as soon as the shard has let go of it, too.
    fn let_go(&mut self, id: InstanceId, item: &Item) {
        let slot = self.instances.get_mut(&id).and_then(|i| i.slots.get_mut(item));
        if let Some(slot) = slot
            && let Some(end) = slot.deadline()
        {
            slot.let_go();
            self.ends.remove(&(end, id, item.clone()));
        }
    }

    /// The slot's time has come at `at`, unless it is being fetched.
    fn due(&mut self, id: InstanceId, item: &Item, at: Moment) {
        let Some(slot) = self.instances.get_mut(&id).and_then(|i| i.slots.get_mut(item)) else {
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
    fn rest(&mut self, id: InstanceId, item: &Item) {
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

    /// The items of an instance that are fetched in this rhythm.
    fn items(&self, id: InstanceId, rhythm: Rhythm) -> Vec<Item> {
        let slots = self.instances.get(&id).into_iter().flat_map(|i| i.slots.iter());
        let configured = slots.filter(|(item, slot)| !slot.is_refused() && self.rhythm(item) == rhythm);
        configured.map(|(item, _)| item.clone()).collect()
    }

    fn rhythm(&self, item: &Item) -> Rhythm {
        match item {
            Item::Session => Rhythm::Own,
            Item::Role(role) => self
                .roles
                .get(role)
                .map_or(Rhythm::Own, |config| config.source.rhythm()),
        }
    }

    fn tell(&mut self, id: InstanceId, grant: Grant) {
        if let Some(incarnation) = self.instances.get(&id).and_then(|i| i.incarnation) {
            self.actions.push(Action::Tell(id, incarnation, grant));
        }
    }

    fn lane(&mut self, item: &Item) -> &mut Lane {
        // A role that is not configured has no slot that is planned; its lane stays empty.
        self.lanes.entry(item.clone()).or_insert_with(|| Lane::new(1))
    }
}
