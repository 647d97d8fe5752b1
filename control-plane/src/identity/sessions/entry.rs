//! What is known of a session in memory: what its standing depends on, and no more.
//!
//! A map of a million sessions is far larger than any cache of the processor, and every miss costs as much as a hash. So
//! what is looked at for each token is all that lies in the map; the rest is behind a pointer.

use moorline_shared::{Principal, Timestamp};

use super::Standing;
use crate::identity::records::{InstancePart, SessionPurpose, SessionRecord};
use crate::identity::token::Grant;

/// A session in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) expires_at: Timestamp,
    first: First,
    rest: Box<Rest>,
}

/// What the session's first tokens hang on.
#[derive(Clone, Copy, Debug)]
enum First {
    /// An instance's session: its tokens are good as long as it is, and it has no grants.
    Instance,
    /// Nothing: there is no grant.
    NoGrant,
    /// The first grant. Most sessions have no other.
    Grant(Slot),
}

/// What is looked at when one session is asked about, not for each token.
#[derive(Debug)]
struct Rest {
    principal: Principal,
    created_at: Timestamp,
    others: Box<[Slot]>,
    /// Few sessions are an instance's and have one, and it is large.
    instance: Option<Box<InstancePart>>,
}

/// What is known of a grant's place.
#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    /// Until when its grant is good, in milliseconds since 1970; before every time if it is over.
    until: i64,
}

impl Entry {
    pub(super) fn of(record: &SessionRecord) -> Self {
        let slot = |(generation, expires): (u32, Option<Timestamp>)| Slot {
            generation,
            until: expires.map_or(i64::MIN, Timestamp::millis),
        };
        let mut slots = record.grants.standing().map(slot);
        let first = slots.next().map_or(First::NoGrant, First::Grant);
        let (first, instance) = match &record.purpose {
            SessionPurpose::Instance(part) => (First::Instance, Some(Box::new(part.clone()))),
            SessionPurpose::Login | SessionPurpose::Program { .. } => (first, None),
        };
        let rest = Rest {
            principal: record.principal.clone(),
            created_at: record.created_at,
            others: slots.collect(),
            instance,
        };
        Self {
            expires_at: record.expires_at,
            first,
            rest: Box::new(rest),
        }
    }

    pub(super) fn principal(&self) -> &Principal {
        &self.rest.principal
    }

    pub(super) fn created_at(&self) -> Timestamp {
        self.rest.created_at
    }

    /// What the session has that is an instance's, if it is one's.
    pub(super) fn instance(&self) -> Option<&InstancePart> {
        self.rest.instance.as_deref()
    }

    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        if now >= self.expires_at {
            return Standing::Expired;
        }
        match self.first {
            First::Instance if self.is_late(now) => Standing::Unidentified,
            First::Instance | First::NoGrant | First::Grant(_) => Standing::Stands,
        }
    }

    fn is_late(&self, now: Timestamp) -> bool {
        let late =
            |part: &InstancePart| part.identified.is_none() && part.identify_by.is_some_and(|by| now >= by);
        self.instance().is_some_and(late)
    }

    /// Whether the grant is the one that its place has, and good.
    pub(super) fn grant_stands(&self, grant: Grant, now: Timestamp) -> bool {
        let slot = match (self.first, grant.slot) {
            (First::Instance, _) => return true,
            (First::NoGrant, _) => None,
            (First::Grant(slot), 0) => Some(slot),
            (First::Grant(_), nth) => self.rest.others.get(usize::from(nth) - 1).copied(),
        };
        slot.is_some_and(|slot| slot.generation == grant.generation && now.millis() < slot.until)
    }
}
