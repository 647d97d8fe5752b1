//! What the store keeps of sessions, of what was revoked, and of the keys that tokens are sealed with.

use moorline_shared::entry::Value;
use moorline_shared::id::DirectoryName;
use moorline_shared::{AccountId, Principal, Timestamp};
use serde::{Deserialize, Serialize};

use super::public_key::PublicKey;
use super::session::Grants;
use super::token::{KeyId, SessionId, Stage};
use crate::model::record::{Record, key};
use crate::store::Key;

/// A session: what somebody who proved who they are has until it ends. Every token of it falls with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// Whose it is.
    pub principal: Principal,
    /// The directory that knows them.
    pub directory: DirectoryName,
    /// The account that they act in.
    pub account: AccountId,
    /// What it was begun for.
    pub purpose: SessionPurpose,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it ends by itself. From that millisecond on it is over.
    pub expires_at: Timestamp,
    /// What hangs on it.
    #[serde(default)]
    pub grants: Grants,
}

/// What a session was begun for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPurpose {
    /// Somebody logged in.
    Login,
    /// A program has one long-lived access token.
    Program {
        /// What it is called.
        name: String,
    },
    /// An instance is known by it.
    Instance(InstancePart),
}

/// What the session of an instance has more than others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePart {
    /// The life of its VM that it is for.
    pub incarnation: u64,
    /// When the instance must have used it, or it is over; `None` if there is no such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identify_by: Option<Timestamp>,
    /// Since when the instance is known to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identified: Option<Timestamp>,
    /// The key that the guest made and signs with, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
}

impl Record for SessionRecord {
    const KIND: &'static str = "session";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (Principal, SessionId);
    type Collection = Principal;

    fn key((principal, id): &Self::Id) -> Key {
        key(format!("session/{principal}/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        key(format!("session/{}/{}", self.principal, self.id).as_bytes())
    }

    fn prefix(of: &Principal) -> String {
        format!("session/{of}/")
    }
}

/// Something of which no token is good that was made before. Its revision in the store is its place in the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// What.
    pub revoked: Revoked,
    /// Tokens that were issued before are worth nothing.
    pub not_before: Timestamp,
    /// From when on there is no such token that has not expired by itself.
    pub until: Timestamp,
}

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// A session.
    Session {
        /// Whose.
        principal: Principal,
        /// Which.
        session: SessionId,
    },
    /// Every session of somebody.
    Principal(Principal),
    /// A key that tokens were sealed with.
    Key(KeyId),
}

impl Record for RevocationRecord {
    const KIND: &'static str = "revocation";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = Revoked;
    type Collection = ();

    fn key(of: &Revoked) -> Key {
        let key_of = |text: String| key(text.as_bytes());
        match of {
            Revoked::Session { session, .. } => key_of(format!("revocation/session/{session}")),
            Revoked::Principal(principal) => key_of(format!("revocation/principal/{principal}")),
            Revoked::Key(id) => key_of(format!("revocation/key/{id:08x}")),
        }
    }

    fn own_key(&self) -> Key {
        Self::key(&self.revoked)
    }

    fn prefix((): &()) -> String {
        "revocation/".to_owned()
    }
}

/// A key that tokens are sealed with. One that was destroyed stays as a name, so that no other ever has its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeyRecord {
    /// Which.
    pub id: KeyId,
    /// How far it is in its life.
    pub state: KeyState,
    /// Since when.
    pub since: Timestamp,
    /// When it came in.
    pub created_at: Timestamp,
}

/// How far a key is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It opens tokens.
    InRing {
        /// Whether it seals, too.
        stage: Stage,
        /// Its bytes, under the master key.
        sealed: Value,
    },
    /// What it sealed opens no more.
    Destroyed,
}

impl TokenKeyRecord {
    /// Its stage, unless it was destroyed.
    pub const fn stage(&self) -> Option<Stage> {
        match &self.state {
            KeyState::InRing { stage, .. } => Some(*stage),
            KeyState::Destroyed => None,
        }
    }
}

impl Record for TokenKeyRecord {
    const KIND: &'static str = "token-key";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = KeyId;
    type Collection = ();

    fn key(id: &KeyId) -> Key {
        key(format!("token-key/{id:08x}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.id)
    }

    fn prefix((): &()) -> String {
        "token-key/".to_owned()
    }
}
