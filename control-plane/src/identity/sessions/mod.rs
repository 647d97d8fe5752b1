//! All sessions in memory, for whoever checks a token: a look-up takes no allocation, and no reader waits for another.
//!
//! The [`Sessions`] are what the store holds, up to [`Sessions::position`]. They are brought in step by [`follow`], in
//! the order of the store's transactions; whoever has just committed one waits for it with [`Sessions::reach`], so that
//! a session that was ended is dead in this process before the request that ended it is answered.

mod entry;
pub mod follow;
mod members;
mod shards;
mod table;

use moorline_shared::{AccountId, Principal, Timestamp, UserName};

use self::entry::Entry;
use self::follow::Known;
use self::members::Members;
use self::shards::Shards;
use super::keys::Ring;
use super::records::{InstancePart, SessionRecord};
use super::token::{Grant, SessionId};
use crate::model::Role;
use crate::store::follow::{self as store, Follower};

/// Every session that there is.
#[derive(Debug)]
pub struct Sessions {
    entries: Shards<Entry>,
    members: Members,
    follower: Follower,
}

/// Whether a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does: its tokens are good.
    Stands,
    /// There is none: it was ended, or never was.
    Unknown,
    /// Its time is over.
    Expired,
    /// The grant of the token is over: it ended, or a token of it was exchanged twice.
    GrantOver,
    /// The instance has not used it in time.
    Unidentified,
}

/// The sessions can't be kept in step with the store.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The store ended, or can't be watched or read.
    #[error(transparent)]
    Store(#[from] store::FollowError),
    /// A key can't be had.
    #[error(transparent)]
    Key(#[from] super::keys::KeyError),
}

impl Sessions {
    /// No sessions yet; `follower` will tell of those that there are.
    pub(super) fn new(follower: Follower) -> Self {
        Self {
            entries: Shards::default(),
            members: Members::default(),
            follower,
        }
    }

    /// Whether a session stands at `now`.
    pub fn standing(&self, id: &SessionId, now: Timestamp) -> Standing {
        self.entries.read(id, |entry| match entry {
            Some(entry) => entry.standing(now),
            None => Standing::Unknown,
        })
    }

    /// Whether a session and one of its grants stand at `now`.
    pub fn standing_of_grant(&self, id: &SessionId, grant: Grant, now: Timestamp) -> Standing {
        let stands = self.if_stands(id, grant, now, || ());
        stands.map_or_else(|standing| standing, |()| Standing::Stands)
    }

    /// What `then` makes if a session and one of its grants stand at `now`.
    ///
    /// It is called while the session is held, and must not take long: that way the processor is on with it before the
    /// memory has said what the session is, which in a map of this size takes as long as reading a token's names.
    ///
    /// # Errors
    /// How they don't stand.
    pub fn if_stands<R>(
        &self,
        id: &SessionId,
        grant: Grant,
        now: Timestamp,
        then: impl FnOnce() -> R,
    ) -> Result<R, Standing> {
        self.entries.read(id, |entry| {
            let entry = entry.ok_or(Standing::Unknown)?;
            match entry.standing(now) {
                Standing::Stands if entry.grant_stands(grant, now) => Ok(then()),
                Standing::Stands => Err(Standing::GrantOver),
                standing => Err(standing),
            }
        })
    }

    /// What a user is in an account; `None` if they are nothing there, or disabled.
    pub fn role(&self, user: &UserName, account: &AccountId) -> Option<Role> {
        self.members.role(user, account)
    }

    /// Whose session it is, if there is one.
    pub fn principal(&self, id: &SessionId) -> Option<Principal> {
        self.entries
            .read(id, |entry| entry.map(|entry| entry.principal().clone()))
    }

    /// What the session has that is an instance's, if it is one's.
    pub fn instance(&self, id: &SessionId) -> Option<InstancePart> {
        self.entries.read(id, |entry| entry?.instance().cloned())
    }

    /// When the last session ends that was begun before `time`; `None` if there is none.
    pub fn last_end_of_those_begun_before(&self, time: Timestamp) -> Option<Timestamp> {
        self.entries.fold(None, |last, entry| {
            let ends = (entry.created_at() < time).then_some(entry.expires_at);
            last.max(ends)
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.fold(0, |count, _| count + 1)
    }

    /// Up to which transaction of the store they are in step.
    pub fn position(&self) -> u64 {
        self.follower.position()
    }

    /// Waits until they are in step with transaction `n`, which was committed. Cancel-safe.
    ///
    /// # Errors
    /// [`FollowError`] if the store ended or can't be read.
    pub async fn reach(&self, n: u64, ring: &Ring) -> Result<(), FollowError> {
        let known = Known { sessions: self, ring };
        self.follower.reach(n, &known).await
    }

    pub(super) fn put(&self, record: &SessionRecord) {
        self.entries.put(record.id, Entry::of(record));
    }

    fn remove(&self, id: &SessionId) {
        self.entries.remove(id);
    }

    fn clear(&self) {
        self.entries.clear();
        self.members.clear();
    }
}
