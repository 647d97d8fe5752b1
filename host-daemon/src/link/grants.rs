//! What a guest is given to be somebody: its instance's token and the credentials of its roles.
//!
//! The shard keeps what a guest has now, so that one that connects has all of it right behind its welcome. It decides
//! nothing: what there is, and when it is replaced or taken away, [`crate::credentials`] says, for one life of the VM
//! at a time. Nothing is sent past its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moorline_shared::Timestamp;
use moorline_shared::credential::Credential;
use moorline_shared::id::RoleName;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{self, CredentialDocument};
use moorline_shared::link::session::{Host, Told};
use moorline_shared::secret::{Secret, SecretKey};

use super::admission::LifeId;

/// The most roles of which a guest is yet to hear that they were taken away. Others run out by themselves.
const MAX_WITHDRAWN: usize = 64;

/// An instance's token.
#[derive(Debug, PartialEq, Eq)]
pub struct SessionGrant {
    /// The session's id.
    pub session: String,
    /// The token.
    pub token: Secret,
    /// The token's id.
    pub token_id: String,
    /// The id of the key that it is sealed with.
    pub sealed_by: u32,
    /// The key that the instance's requests are signed with.
    pub key: SecretKey,
    /// From this moment on it is no longer good.
    pub deadline: Moment,
}

/// The credentials of a role.
#[derive(Debug, PartialEq, Eq)]
pub struct RoleGrant {
    /// The secrets.
    pub credential: Credential,
    /// From this moment on they are no longer good.
    pub deadline: Moment,
    /// When that is by the calendar.
    pub expires_at: Timestamp,
}

/// What becomes of what a guest has.
#[derive(Clone, Debug)]
pub enum Grant {
    /// The instance's token from now on.
    Session(Arc<SessionGrant>),
    /// It is given none for the present: it has run out, or nobody knows whether it is good.
    NoSession,
    /// Its token is worth nothing any more; the text says why.
    SessionOver(Arc<str>),
    /// A role's credentials from now on.
    Role(RoleName, Arc<RoleGrant>),
    /// A role whose credentials come later.
    Announced(RoleName),
    /// A role's credentials have run out; others may come.
    RanOut(RoleName),
    /// A role that it no longer has.
    Withdrawn(RoleName),
}

/// Something about a guest's life that decides what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A life of its VM began.
    Began(LifeId),
    /// A life of its VM ended.
    Ended(LifeId),
    /// It said HELLO.
    Greeted {
        /// In which life.
        life: LifeId,
        /// Which generation of the VM it is, as far as it knows: another than before was restored or copied.
        generation: Option<[u8; 16]>,
        /// Whether it has spoken in this life before.
        speaker: Speaker,
    },
}

/// Who says HELLO for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// An agent that knows the present life of its VM, and has what it was given in it.
    Known,
    /// One that has nothing yet: the agent or the guest's system began anew.
    New,
}

/// What a guest has in the present life of its VM.
#[derive(Debug, Default)]
pub(super) struct Grants {
    session: Option<Arc<SessionGrant>>,
    /// Why the token that it had is worth nothing, until there is another.
    over: Option<Arc<str>>,
    /// `None` for a role whose credentials are yet to come.
    roles: BTreeMap<RoleName, Option<Arc<RoleGrant>>>,
    /// Roles that were taken away while the guest was not connected.
    withdrawn: BTreeSet<RoleName>,
}

impl Grants {
    /// Takes what becomes of what the guest has, and tells it if it is connected.
    pub(super) fn take(&mut self, grant: Grant, guest: Option<&mut Host>, now: Moment) {
        match grant {
            Grant::Session(session) => {
                if let Some(guest) = guest {
                    tell_session(&session, guest, now);
                }
                self.session = Some(session);
                self.over = None;
            }
            Grant::NoSession => self.session = None,
            Grant::SessionOver(why) => {
                if let Some(guest) = guest {
                    tell_over(&why, guest, now);
                }
                self.session = None;
                self.over = Some(why);
            }
            Grant::Role(role, credential) => {
                if let Some(guest) = guest {
                    tell_role(&role, Some(&credential), guest, now);
                }
                self.withdrawn.remove(&role);
                self.roles.insert(role, Some(credential));
            }
            Grant::Announced(role) => self.announce(role, guest, now),
            Grant::RanOut(role) => {
                if let Some(slot) = self.roles.get_mut(&role) {
                    *slot = None;
                }
            }
            Grant::Withdrawn(role) => self.withdraw(role, guest, now),
        }
    }

    fn announce(&mut self, role: RoleName, guest: Option<&mut Host>, now: Moment) {
        // What a guest that was not connected still has is of an earlier grant of the same role, and as good.
        self.withdrawn.remove(&role);
        if let Some(guest) = guest {
            tell_role(&role, None, guest, now);
        }
        self.roles.insert(role, None);
    }

    fn withdraw(&mut self, role: RoleName, guest: Option<&mut Host>, now: Moment) {
        let held = self.roles.remove(&role).flatten();
        match guest {
            Some(guest) => tell_role(&role, None, guest, now),
            None if held.is_some() && self.withdrawn.len() < MAX_WITHDRAWN => {
                self.withdrawn.insert(role);
            }
            None => {}
        }
    }

    /// Tells a guest that was just welcomed all that it has. Every role is named, and the first STANDING says that
    /// all were.
    pub(super) fn tell_all(&self, guest: &mut Host, now: Moment) {
        if let Some(session) = &self.session {
            tell_session(session, guest, now);
        } else if let Some(why) = &self.over {
            // It may have been away when it was taken back.
            tell_over(why, guest, now);
        }
        for (role, grant) in &self.roles {
            tell_role(role, grant.as_deref(), guest, now);
        }
    }

    /// Tells it, behind the first STANDING, what was taken away since it was connected last.
    pub(super) fn tell_withdrawn(&mut self, guest: &mut Host, now: Moment) {
        for role in std::mem::take(&mut self.withdrawn) {
            tell_role(&role, None, guest, now);
        }
    }
}

fn tell_session(session: &SessionGrant, guest: &mut Host, now: Moment) {
    if now >= session.deadline {
        return;
    }
    let body = body::Session {
        session: session.session.clone(),
        token: session.token.clone(),
        token_id: session.token_id.clone(),
        key: session.key.clone(),
        expires_in_ms: session.deadline.since(now),
    };
    log_unsent(guest.session(&body, now), "the instance's token");
}

fn tell_over(why: &str, guest: &mut Host, now: Moment) {
    let reason = why.to_owned();
    log_unsent(
        guest.session_over(&body::SessionOver { reason }, now),
        "why its session is over",
    );
}

/// A role without credentials that are good is announced: they come when there are any.
fn tell_role(role: &RoleName, grant: Option<&RoleGrant>, guest: &mut Host, now: Moment) {
    let good = grant.filter(|grant| now < grant.deadline);
    let current = good.map(|grant| CredentialDocument {
        kind: grant.credential.kind().to_string(),
        document: grant.credential.document(),
        expires_in_ms: grant.deadline.since(now),
        expires_at_ms: u64::try_from(grant.expires_at.millis()).unwrap_or(0),
    });
    let role = role.to_string();
    let body = body::Credential { role, current };
    log_unsent(guest.credential(&body, now), "a role's credentials");
}

/// An agent of an older build is told nothing, and credentials are bounded where they are made.
fn log_unsent(told: Told, what: &str) {
    if told == Told::TooLong {
        tracing::error!("{what} don't fit a frame");
    }
}
