//! What hangs on an instance's session: taken back when that is revoked, withheld while nobody knows, and vouched for.
//!
//! | what happens | then |
//! |---|---|
//! | the session was ended | everything is taken back, and nothing of it is fetched again in this life of the VM |
//! | the key that its token was sealed with is gone | everything is taken back, and fetched anew |
//! | the guest was restored or copied, or its agent began anew | the same, with another session in place of that one |
//! | the feed is silent | what there is stays, and is given to nobody who connects: that one's is asked for anew |
//!
//! A guest decides how often its agent begins anew, and each session that takes another's place is written at the control
//! plane. What there is, is taken back at once each time; another is asked for every [`REPLACE_EVERY_MS`] at most.

use moorline_shared::api::feed::{Revocation, Revoked};
use moorline_shared::link::Moment;
use moorline_shared::{Digest, InstanceId};

use super::{Action, Come, Grant, Greeted, Instance, Item, Rhythm, Slot, Table};
use crate::credentials::generations::Generation;
use crate::credentials::sources::Source as _;
use crate::link::{LifeId, Speaker};

/// How many of the last tokens of an instance are known by their session: each is good for a while beside the next.
pub(in crate::credentials) const MAX_GIVEN: usize = 4;
/// How long it takes at least from one session that takes another's place to the next, of one instance.
pub(super) const REPLACE_EVERY_MS: u64 = 10_000;

const ENDED: &str = "the instance's session was ended: it gets another when it was stopped and started again";
const KEY_GONE: &str = "the key that the instance's token was sealed with is gone: another token comes";
const RESTORED: &str = "the machine was restored or copied: another session comes";
const BEGAN_ANEW: &str = "the agent began anew, without its key: another session comes";

/// Whether this host knows what was revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::credentials) enum Knowledge {
    /// It does, as of a few seconds ago.
    Certain,
    /// It may not: the feed is silent.
    #[default]
    Doubt,
}

/// Whether a guest's request may be vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::credentials) enum Vouched {
    /// Its session stands, as far as this host has to know.
    Good,
    /// Its session was ended.
    Ended,
    /// The control plane has to be asked, and is: the next fetch of the instance's token answers.
    Asked,
}

impl Table {
    /// The feed is heard, or has fallen silent.
    pub(in crate::credentials) fn know(&mut self, knowledge: Knowledge, now: Moment) {
        let knowledge = match knowledge {
            Knowledge::Certain if self.denied.is_whole(now) => Knowledge::Certain,
            _ => Knowledge::Doubt,
        };
        if std::mem::replace(&mut self.knowledge, knowledge) == knowledge {
            return;
        }
        for id in self.instances.keys().copied().collect::<Vec<_>>() {
            for item in self.of_session(id) {
                match knowledge {
                    Knowledge::Certain => self.give(id, &item),
                    Knowledge::Doubt => self.withhold(id, &item),
                }
            }
        }
    }

    pub(in crate::credentials) fn knowledge(&self) -> Knowledge {
        self.knowledge
    }

    /// The feed says that something is worth nothing any more.
    pub(in crate::credentials) fn revoked(&mut self, revocation: &Revocation, now: Moment) {
        self.denied.take(revocation, now);
        match &revocation.revoked {
            Revoked::Session {
                instance: id,
                id: session,
            } => {
                let known = self.instances.get(id);
                // Also where its token has run out: what was made of it may last longer.
                if known.is_some_and(|instance| instance.session.as_ref() == Some(session)) {
                    self.session_ended(*id, ENDED);
                }
            }
            Revoked::Key { id: key } => {
                let sealed = |instance: &Instance| {
                    let held = instance.slots.get(&Item::Session).and_then(Slot::session);
                    held.is_some_and(|held| held.sealed_by == *key)
                };
                for id in self.whose(sealed) {
                    self.fetch_anew(id, KEY_GONE, now);
                }
            }
        }
    }

    fn whose(&self, is: impl Fn(&Instance) -> bool) -> Vec<InstanceId> {
        let all = self.instances.iter().filter(|(_, instance)| is(instance));
        all.map(|(id, _)| *id).collect()
    }

    /// Whether what came was revoked while it was on its way.
    pub(super) fn is_denied(&self, id: InstanceId, come: &Come, now: Moment) -> bool {
        match come {
            Come::Session(grant, _) => {
                self.denied.denies_session(id, &grant.session, now)
                    || self.denied.denies_key(grant.sealed_by, now)
            }
            Come::Ended(_) | Come::Role(_) => false,
        }
    }

    /// Whether a request that shows this token may be vouched for. Where nobody knows, the control plane is asked.
    pub(in crate::credentials) fn vouch(&mut self, id: InstanceId, token: &Digest, now: Moment) -> Vouched {
        if self.is_known_dead(id, token, now) {
            return Vouched::Ended;
        }
        if self.knowledge == Knowledge::Certain {
            return Vouched::Good;
        }
        self.due(id, &Item::Session, now);
        Vouched::Asked
    }

    /// The same, once the control plane has given the instance a token: that one's session stands.
    pub(in crate::credentials) fn vouch_asked(&self, id: InstanceId, token: &Digest, now: Moment) -> Vouched {
        let stands = self
            .instances
            .get(&id)
            .and_then(|instance| instance.slots.get(&Item::Session)?.session());
        match (stands, self.session_of(id, token)) {
            _ if self.is_known_dead(id, token, now) => Vouched::Ended,
            (Some(stands), Some(shown)) if stands.session != shown => Vouched::Ended,
            (Some(_), _) => Vouched::Good,
            (None, _) => Vouched::Asked,
        }
    }

    /// Whether the session that this token is of was ended, as far as this host knows without asking.
    pub(in crate::credentials) fn is_known_dead(&self, id: InstanceId, token: &Digest, now: Moment) -> bool {
        let ended = self
            .instances
            .get(&id)
            .is_some_and(|instance| instance.ended.is_some());
        let session = self.session_of(id, token);
        ended || session.is_some_and(|session| self.denied.denies_session(id, session, now))
    }

    /// The session of a token, if this host gave it to the instance in this life.
    fn session_of(&self, id: InstanceId, token: &Digest) -> Option<&str> {
        let given = &self.instances.get(&id)?.given;
        let found = given.iter().find(|(digest, _)| digest == token);
        found.map(|(_, session)| session.as_str())
    }

    pub(super) fn remember_given(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let Some(held) = instance.slots.get(&Item::Session).and_then(Slot::session) else {
            return;
        };
        if instance.given.len() == MAX_GIVEN {
            instance.given.pop_front();
        }
        instance.session = Some(held.session.clone());
        let digest = Digest::of(held.token.expose().as_bytes());
        instance.given.push_back((digest, held.session.clone()));
    }

    /// A guest that was restored from a snapshot, or copied, has a token that somebody else may have as well; an agent that
    /// begins anew hasn't the key any more that the one before signed with; one that comes after the time in which it had
    /// to use its token needs another; and while nobody knows what was revoked, each one's is asked for.
    pub(super) fn greeted(
        &mut self,
        life: LifeId,
        generation: Option<[u8; 16]>,
        speaker: Speaker,
        now: Moment,
    ) {
        let id = life.instance;
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if instance.incarnation != Some(life.incarnation) {
            return;
        }
        let before = generation.and_then(|new| instance.generation.replace(new));
        let restored = before.is_some() && before != generation;
        let lapsed = instance.identify_by.is_some_and(|last| last <= now);
        let anew = speaker == Speaker::New && instance.needs_another();
        let unknown = instance.session.is_none() && instance.instead_of.is_none();
        instance.greeted = Some(match speaker {
            _ if unknown && (restored || instance.greeted == Some(Greeted::Restored)) => Greeted::Restored,
            Speaker::New if !instance.has_session() => Greeted::Newcomer,
            _ => Greeted::Settled,
        });
        if restored || anew {
            self.replace_session(id, if restored { RESTORED } else { BEGAN_ANEW }, now);
        } else if lapsed || self.knowledge == Knowledge::Doubt && !self.is_ended(id, &Item::Session) {
            self.due(id, &Item::Session, now);
        }
        self.keep_generation(id);
    }

    /// Somebody has waited for this session. An agent that had nothing needs another if somebody has identified with it, and
    /// a machine that was restored in any case: it may be the one that the snapshot holds.
    pub(super) fn judge_waiting(&mut self, id: InstanceId, now: Moment) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let waited = instance.greeted;
        instance.greeted = waited.map(|_| Greeted::Settled);
        match waited {
            Some(Greeted::Restored) => self.replace_session(id, RESTORED, now),
            Some(Greeted::Newcomer) if instance.identify_by.is_none() => {
                self.replace_session(id, BEGAN_ANEW, now);
            }
            _ => {}
        }
        self.keep_generation(id);
    }

    /// Has it kept which generation the guest is, unless a session is left that an earlier one had: a daemon that begins
    /// before that has ended has to see the difference.
    fn keep_generation(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let (Some(incarnation), Some(generation)) = (instance.incarnation, instance.generation) else {
            return;
        };
        let left = instance.instead_of.is_some() || instance.greeted == Some(Greeted::Restored);
        let generation = Generation {
            incarnation,
            id: generation,
        };
        if !left && self.kept.insert(id, generation) != Some(generation) {
            self.actions.push(Action::Keep(id, Some(generation)));
        }
    }

    /// Of a life that ended nothing is kept.
    pub(super) fn forget_generation(&mut self, id: InstanceId) {
        if self.kept.remove(&id).is_some() {
            self.actions.push(Action::Keep(id, None));
        }
    }

    fn replace_session(&mut self, id: InstanceId, why: &str, now: Moment) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if instance.instead_of.is_some() {
            // What there was is taken back, and nobody has seen yet what takes its place.
            return self.due(id, &Item::Session, now);
        }
        // Its end is what this host asks for, and not the end of all.
        instance.instead_of = instance.session.take();
        if instance.instead_of.is_some() {
            let last = instance.replace_at;
            let next = last.map(|last| Moment(last.0.saturating_add(REPLACE_EVERY_MS)));
            instance.replace_at = Some(next.map_or(now, |next| next.max(now)));
        }
        self.fetch_anew(id, why, now);
    }

    /// Somebody ended the session: the instance gets no other in this life.
    pub(super) fn session_ended(&mut self, id: InstanceId, why: &str) {
        self.take_back(id, why);
        let items = self.of_session(id);
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        instance.ended = Some(why.to_owned());
        for item in items {
            if let Some(slot) = instance.slots.get_mut(&item) {
                slot.ended(why);
            }
        }
    }

    /// Whether the item would hang on a session that was ended.
    pub(super) fn is_ended(&self, id: InstanceId, item: &Item) -> bool {
        let ended = self
            .instances
            .get(&id)
            .is_some_and(|instance| instance.ended.is_some());
        ended && self.falls_with_session(item)
    }

    /// What there is, is worth nothing, and something else takes its place.
    fn fetch_anew(&mut self, id: InstanceId, why: &str, now: Moment) {
        self.take_back(id, why);
        for item in self.of_session(id) {
            if let Item::Role(role) = &item {
                self.tell(id, Grant::Announced(role.clone()));
            }
            if self.rhythm(&item) == Rhythm::Own {
                self.due(id, &item, now);
            }
        }
    }

    /// Takes the session's token away, and what hangs on it.
    fn take_back(&mut self, id: InstanceId, why: &str) {
        for item in self.of_session(id) {
            self.rest(id, &item);
            self.let_go(id, &item);
            let grant = match item {
                Item::Session => Grant::SessionOver(why.into()),
                Item::Role(role) => Grant::Withdrawn(role),
            };
            self.tell(id, grant);
        }
    }

    /// What the instance has, or is to have, that is worth nothing without its session.
    fn of_session(&self, id: InstanceId) -> Vec<Item> {
        let slots = self
            .instances
            .get(&id)
            .into_iter()
            .flat_map(|instance| &instance.slots);
        let hangs = slots.filter(|(item, slot)| !slot.is_refused() && self.falls_with_session(item));
        hangs.map(|(item, _)| item.clone()).collect()
    }

    pub(super) fn falls_with_session(&self, item: &Item) -> bool {
        match item {
            Item::Session => true,
            Item::Role(role) => {
                let config = self.roles.get(role);
                config.is_some_and(|config| config.source.falls_with_session())
            }
        }
    }

    /// A guest that connects is not given it.
    pub(super) fn withhold(&mut self, id: InstanceId, item: &Item) {
        let grant = match item {
            Item::Session => Grant::NoSession,
            Item::Role(role) => Grant::RanOut(role.clone()),
        };
        self.tell(id, grant);
    }

    /// A guest that connects is given what there is, and so is one that connected meanwhile.
    fn give(&mut self, id: InstanceId, item: &Item) {
        let Some(slot) = self
            .instances
            .get(&id)
            .and_then(|instance| instance.slots.get(item))
        else {
            return;
        };
        let grant = match item {
            Item::Session => slot.session().map(|held| Grant::Session(held.clone())),
            Item::Role(role) => slot.role().map(|held| Grant::Role(role.clone(), held.clone())),
        };
        if let Some(grant) = grant {
            self.tell(id, grant);
        }
    }

    /// The control plane has just said that the session stands: what hangs on it and was withheld is given once.
    pub(super) fn give_again(&mut self, id: InstanceId) {
        if self.knowledge == Knowledge::Certain {
            return;
        }
        for item in self.of_session(id) {
            if item != Item::Session && self.rhythm(&item) == Rhythm::Own {
                self.give(id, &item);
                self.withhold(id, &item);
            }
        }
    }
}
