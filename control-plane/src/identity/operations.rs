//! What can be asked about sessions and keys, and what is answered.

use moorline_shared::entry::Value;
use moorline_shared::id::{ClientName, DirectoryName};
use moorline_shared::{AccountId, InstanceId, Principal, Timestamp};
use serde::{Deserialize, Serialize};

use super::records::{SessionPurpose, SessionRecord, TokenKeyRecord};
use super::token::{Grant, KeyId, SessionId};
use crate::model::operation::Effect;
use crate::model::{Content, Operation};
use crate::services::AnyOp;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Begins a session of somebody who proved who they are. Only the control plane itself does it, once it saw the proof.
    CreateSession(NewSession),
    /// Ends a session: everything of it is worth nothing from now on.
    EndSession {
        /// Whose.
        principal: Principal,
        /// Which.
        session: SessionId,
    },
    /// Removes what is kept of a session that is over by itself. Only the control plane itself does it.
    ForgetSession {
        /// Whose.
        principal: Principal,
        /// Which.
        session: SessionId,
    },
    /// Shows somebody's sessions.
    DescribeSessions {
        /// Whose.
        principal: Principal,
    },
    /// Takes a new key in, which opens tokens from now on and seals none yet.
    StageTokenKey {
        /// Its id, which no key had before.
        key: KeyId,
        /// Its bytes, under the master key.
        sealed: Value,
    },
    /// Has a staged key seal from now on; the one that did so before retires.
    PromoteTokenKey {
        /// Which.
        key: KeyId,
    },
    /// Has a staged key seal nothing ever: it retires before it began.
    RetireTokenKey {
        /// Which.
        key: KeyId,
    },
    /// Forgets a retiring key: what it sealed opens no more.
    DestroyTokenKey {
        /// Which.
        key: KeyId,
        /// When the last session ends that may have a token of it, as the control plane found; `None` if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        needed_until: Option<Timestamp>,
        /// What to do if that is still to come.
        #[serde(default)]
        if_needed: IfNeeded,
    },
    /// Shows the keys, without their bytes.
    DescribeTokenKeys {},
}

/// What to do with a key that tokens may still need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfNeeded {
    /// Nothing: refuse.
    #[default]
    Keep,
    /// Destroy it nevertheless.
    Destroy,
}

/// The parameters of `CreateSession`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewSession {
    /// Whose.
    pub principal: Principal,
    /// The directory that knows them.
    pub directory: DirectoryName,
    /// The account that they act in.
    pub account: AccountId,
    /// What for.
    pub purpose: SessionPurpose,
    /// The client that its first grant is for, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
    /// For how many seconds.
    pub lifetime: u32,
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::CreateSession(_) => "CreateSession",
            Self::EndSession { .. } => "EndSession",
            Self::ForgetSession { .. } => "ForgetSession",
            Self::DescribeSessions { .. } => "DescribeSessions",
            Self::StageTokenKey { .. } => "StageTokenKey",
            Self::PromoteTokenKey { .. } => "PromoteTokenKey",
            Self::RetireTokenKey { .. } => "RetireTokenKey",
            Self::DestroyTokenKey { .. } => "DestroyTokenKey",
            Self::DescribeTokenKeys {} => "DescribeTokenKeys",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::DescribeSessions { .. } | Self::DescribeTokenKeys {} => Effect::Read,
            _ => Effect::Change,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::CreateSession(NewSession { principal, .. })
            | Self::EndSession { principal, .. }
            | Self::ForgetSession { principal, .. } => match principal {
                Principal::Instance(id) => vec![*id],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Identity(op)
    }
}

/// What is answered. No token is ever part of it: answers are kept with the operations' records, and tokens are made of
/// them afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// A session, and what the tokens of its grant say.
    Session {
        /// The session.
        session: Box<SessionRecord>,
        /// The grant, if it has one.
        grant: Option<Grant>,
    },
    /// Sessions, those begun first first.
    Sessions(Vec<SessionRecord>),
    /// The keys, by id, without their bytes.
    Keys(Vec<TokenKeyRecord>),
}
