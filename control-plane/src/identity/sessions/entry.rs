//! What is known of a session in memory: what its standing depends on, and no more.

use moorline_shared::{Principal, Timestamp};

use super::Standing;
use crate::identity::records::{InstancePart, SessionPurpose, SessionRecord};
use crate::identity::token::Grant;

/// A session in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) principal: Principal,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// The first grant lies with the rest, so that looking at it costs no further miss of the processor's cache.
    first: Option<Slot>,
    others: Box<[Slot]>,
    /// Few sessions are an instance's and have one, and it is large.
    pub(super) instance: Option<Box<InstancePart>>,
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
        Self {
            principal: record.principal.clone(),
            created_at: record.created_at,
            expires_at: record.expires_at,
            first: slots.next(),
            others: slots.collect(),
            instance: match &record.purpose {
                SessionPurpose::Instance(part) => Some(Box::new(part.clone())),
                SessionPurpose::Login | SessionPurpose::Program { .. } => None,
            },
        }
    }

    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        if now >= self.expires_at {
            return Standing::Expired;
        }
        let late =
            |part: &InstancePart| part.identified.is_none() && part.identify_by.is_some_and(|by| now >= by);
        match &self.instance {
            Some(part) if late(part) => Standing::Unidentified,
            _ => Standing::Stands,
        }
    }

    /// Whether the grant is the one that its place has, and good. An instance's session has no grants, and its tokens
    /// are good as long as it is.
    pub(super) fn grant_stands(&self, grant: Grant, now: Timestamp) -> bool {
        if self.instance.is_some() {
            return true;
        }
        let slot = match grant.slot {
            0 => self.first.as_ref(),
            nth => self.others.get(usize::from(nth) - 1),
        };
        slot.is_some_and(|slot| slot.generation == grant.generation && now.millis() < slot.until)
    }
}
