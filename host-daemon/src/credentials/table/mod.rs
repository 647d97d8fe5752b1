//! Who has what, what has to be fetched when, and what a guest is told. Pure: `now` and what happened in, actions out.
//!
//! Each instance of this host whose VM lives has a [`Slot`] for its own token and one for each of its roles. A slot
//! has something or not, and is being fetched or waits for its time, and has nothing to do with any other slot: at most
//! one fetch is under way for it, and what comes of another is let go. All slots of the same [`Item`] share a [`Lane`],
//! which bounds how many of them are fetched at once.

mod arrange;
mod fetching;
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
use super::generations::Generation;
use super::sources::{Rhythm, Source as _};
use crate::link::{Grant, LifeId, Notice, RoleGrant, SessionGrant};
use lane::Lane;
pub(super) use session::{Knowledge, MAX_GIVEN, Vouched};
use slot::Slot;
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
    /// Keep which generation of its VM the guest is, for the next daemon; or nothing any more.
    Keep(InstanceId, Option<Generation>),
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
    /// Which generation each guest was that has, or had, the session that there is.
    kept: BTreeMap<InstanceId, Generation>,
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
    /// From when on the last session could be asked for that took another's place, or the next one can be.
    replace_at: Option<Moment>,
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

impl Instance {
    fn has_session(&self) -> bool {
        let slot = self.slots.get(&Item::Session);
        slot.is_some_and(|slot| slot.session().is_some())
    }

    /// Whether an agent that has nothing yet can't do with the session that there is: whoever was greeted before may have
    /// identified with it, and so has somebody if there is no time left in which to do it.
    fn needs_another(&self) -> bool {
        let used = self.has_session() && self.identify_by.is_none();
        self.ended.is_none() && (used || self.greeted == Some(Greeted::Settled))
    }
}

/// Who has said HELLO in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeted {
    /// An agent that had nothing yet, while there was no session to give it.
    Newcomer,
    /// A machine that was restored or copied, while it wasn't known which session it had before.
    Restored,
    /// One that has what it was given, or is about to.
    Settled,
}

#[derive(Debug)]
struct Known {
    account: AccountId,
    roles: BTreeSet<RoleName>,
}

impl Table {
    /// An empty table, but for which generations the guests were. `seed` makes the times of different hosts differ.
    pub(super) fn new(roles: Roles, kept: BTreeMap<InstanceId, Generation>, seed: u64) -> Self {
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
            kept,
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

    /// The feed has named every instance of this host: of others nothing is kept.
    pub(super) fn complete(&mut self) {
        let known = |id: &InstanceId| {
            self.instances
                .get(id)
                .is_some_and(|instance| instance.known.is_some())
        };
        let unknown: Vec<_> = self.kept.keys().filter(|id| !known(id)).copied().collect();
        for id in unknown {
            self.forget_generation(id);
        }
    }

    /// Something happened to a guest's life.
    pub(super) fn notice(&mut self, notice: Notice, now: Moment) {
        match notice {
            Notice::Began(LifeId {
                instance,
                incarnation,
            }) => {
                self.drop_slots(instance);
                let kept = self.kept.get(&instance);
                let of_life = kept.filter(|kept| kept.incarnation == incarnation);
                let generation = of_life.map(|kept| kept.id);
                let entry = self.instances.entry(instance).or_default();
                *entry = Instance {
                    known: entry.known.take(),
                    incarnation: Some(incarnation),
                    generation,
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
                    self.forget_generation(instance);
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
}
