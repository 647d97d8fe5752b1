//! What is held, and for how long.

use std::collections::BTreeMap;
use std::rc::Rc;

use moorline_shared::credential::{Credential, CredentialError, MAX_ROLES};
use moorline_shared::id::{IdError, RoleName};
use moorline_shared::link::Moment;
use moorline_shared::link::body::{self, HelloAck};
use moorline_shared::secret::{Secret, SecretKey};
use moorline_shared::{InstanceId, Timestamp};

/// The instance's own token and the key that its requests are signed with.
#[derive(Debug)]
pub struct InstanceToken {
    /// The session's id.
    pub session: String,
    /// The token, `mli_...`.
    pub token: Secret,
    /// The token's id: what a signature names its key by.
    pub token_id: String,
    /// The key for `hmac-sha256` that belongs to the token.
    pub key: SecretKey,
    /// From this moment on it is no longer good.
    pub deadline: Moment,
}

/// The credentials of a role, all of one making.
#[derive(Debug)]
pub struct RoleCredential {
    /// Which role.
    pub role: RoleName,
    /// The secrets.
    pub credential: Credential,
    /// From this moment on they are no longer good.
    pub deadline: Moment,
    /// When that is by the host's calendar, for programs that ask for a date.
    pub expires_at: Timestamp,
}

/// What there is for a role.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Credentials that are good now.
    Given(Rc<RoleCredential>),
    /// None yet: the host has none yet itself, or has not said which roles there are.
    Awaited,
    /// None, and none are on their way.
    Unknown,
}

/// Why what the host sent was not taken. What was held before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a role's name.
    #[error("the host names a role that can't be")]
    Role(#[source] IdError),
    /// Not a credential.
    #[error("the host sent a credential that can't be used")]
    Credential(#[source] CredentialError),
    /// Not a time.
    #[error("the host sent a credential that ends at no time there is")]
    Time,
    /// More than an instance has.
    #[error("the host sent credentials for more than {MAX_ROLES} roles")]
    TooMany,
}

/// What is held for one life of the VM.
#[derive(Debug, Default)]
pub struct Held {
    life: Option<Life>,
    session: Option<Rc<InstanceToken>>,
    roles: BTreeMap<RoleName, Slot>,
    /// Whether the host has said in this session which roles there are.
    told: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Life {
    instance: InstanceId,
    incarnation: u64,
    authority: String,
}

#[derive(Debug)]
enum Slot {
    Given(Rc<RoleCredential>),
    Awaited,
}

impl Held {
    /// The host took the guest for this one. Of any other, nothing stays.
    pub fn begin(&mut self, ack: &HelloAck) {
        let life = Life {
            instance: ack.instance,
            incarnation: ack.incarnation,
            authority: ack.authority.clone(),
        };
        if self.life.as_ref() != Some(&life) {
            self.session = None;
            self.roles.clear();
        }
        self.life = Some(life);
        self.told = false;
        self.roles.retain(|_, slot| matches!(slot, Slot::Given(_)));
    }

    /// The host went on to other things: it has said which roles there are.
    pub fn told(&mut self) {
        self.told = true;
    }

    /// Takes the instance's token, which came at `now`.
    pub fn take_session(&mut self, said: body::Session, now: Moment) {
        self.session = Some(Rc::new(InstanceToken {
            session: said.session,
            token: said.token,
            token_id: said.token_id,
            key: said.key,
            deadline: after(now, said.expires_in_ms),
        }));
    }

    /// The instance's token is worth nothing any more, before its time.
    pub fn take_session_back(&mut self) {
        self.session = None;
    }

    /// Takes what a role's credentials are from `now` on. That there are none withdraws those that were held, unless the
    /// host is still saying which roles there are; where none were held, it announces them.
    pub fn take_credential(&mut self, said: &body::Credential, now: Moment) -> Result<(), Refusal> {
        let role: RoleName = said.role.parse().map_err(Refusal::Role)?;
        self.roles
            .retain(|name, slot| *name == role || slot.is_of_use(now));
        if self.roles.len() >= MAX_ROLES && !self.roles.contains_key(&role) {
            return Err(Refusal::TooMany);
        }
        match (&said.current, self.roles.get(&role)) {
            (Some(document), _) => {
                let given = read(role.clone(), document, now)?;
                self.roles.insert(role, Slot::Given(Rc::new(given)));
            }
            // A host that was restarted has none yet, and those that it gave before are good all the same.
            (None, Some(Slot::Given(_))) if !self.told => {}
            (None, Some(Slot::Given(_))) => drop(self.roles.remove(&role)),
            (None, _) => drop(self.roles.insert(role, Slot::Awaited)),
        }
        Ok(())
    }

    /// The instance's token, if it is good at `now`.
    pub fn session(&self, now: Moment) -> Option<&Rc<InstanceToken>> {
        self.session.as_ref().filter(|token| now < token.deadline)
    }

    /// The credentials of a role, if they are good at `now`.
    pub fn role(&self, name: &RoleName, now: Moment) -> Option<&Rc<RoleCredential>> {
        self.roles.get(name)?.given(now)
    }

    /// The credentials of all roles that are good at `now`, in the order of the roles' names.
    pub fn roles(&self, now: Moment) -> impl Iterator<Item = &Rc<RoleCredential>> {
        self.roles.values().filter_map(move |slot| slot.given(now))
    }

    /// What there is for a role at `now`.
    pub fn look(&self, name: &RoleName, now: Moment) -> Lookup {
        match self.roles.get(name) {
            Some(slot) => slot
                .given(now)
                .map_or(Lookup::Awaited, |given| Lookup::Given(Rc::clone(given))),
            None if self.told => Lookup::Unknown,
            None => Lookup::Awaited,
        }
    }

    /// Whether credentials are on their way that are not here at `now`: those of a role that was announced, or whose last
    /// ones have expired, or all of them because the host has not said which there are.
    pub fn is_incomplete(&self, now: Moment) -> bool {
        !self.told || self.roles.values().any(|slot| slot.given(now).is_none())
    }
}

impl Slot {
    fn given(&self, now: Moment) -> Option<&Rc<RoleCredential>> {
        match self {
            Self::Given(credential) if now < credential.deadline => Some(credential),
            Self::Given(_) | Self::Awaited => None,
        }
    }

    fn is_of_use(&self, now: Moment) -> bool {
        matches!(self, Self::Awaited) || self.given(now).is_some()
    }
}

fn read(role: RoleName, said: &body::CredentialDocument, now: Moment) -> Result<RoleCredential, Refusal> {
    let credential = Credential::parse(&said.kind, &said.document).map_err(Refusal::Credential)?;
    let expires_at = i64::try_from(said.expires_at_ms)
        .ok()
        .and_then(Timestamp::from_millis);
    let expires_at = expires_at.ok_or(Refusal::Time)?;
    Ok(RoleCredential {
        role,
        credential,
        deadline: after(now, said.expires_in_ms),
        expires_at,
    })
}

fn after(now: Moment, ms: u64) -> Moment {
    Moment(now.0.saturating_add(ms))
}
