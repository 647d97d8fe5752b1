//! What can be asked about identities, and what is answered.

use std::net::IpAddr;

use moorline_shared::api::identity::{AccountRole, Group, ModifyUser, User};
use moorline_shared::entry::Value;
use moorline_shared::id::{ClientName, DirectoryName, GroupName};
use moorline_shared::{AccountId, Digest, InstanceId, Principal, Timestamp, UserName};
use serde::{Deserialize, Serialize};

use super::records::{Revoked, SessionPurpose, SessionRecord, TokenKeyRecord};
use super::token::{Grant, KeyId, SessionId};
use crate::model::operation::{Effect, RefusalRecords};
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
    /// Removes what says that something was revoked, once nobody need know it. Only the control plane itself does it.
    ForgetRevocation {
        /// What was revoked.
        revoked: Revoked,
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
    /// Makes a user.
    CreateUser {
        /// Their name.
        user: UserName,
        /// What they are in the account.
        role: AccountRole,
        /// The hash of their password, under the master key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Value>,
    },
    /// Gives a user another password, and ends all of their sessions.
    SetUserPassword {
        /// Which.
        user: UserName,
        /// The hash of the password, under the master key.
        password: Value,
        /// What the one is known by that the caller has shown to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        knows: Option<Digest>,
    },
    /// Changes what a user may do.
    ModifyUser {
        /// Which.
        user: UserName,
        /// What changes.
        change: ModifyUser,
    },
    /// Removes a user.
    DeleteUser {
        /// Which.
        user: UserName,
    },
    /// Shows users.
    DescribeUsers {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserName>,
    },
    /// Makes a group.
    CreateGroup {
        /// Its name.
        group: GroupName,
    },
    /// Removes a group.
    DeleteGroup {
        /// Which.
        group: GroupName,
    },
    /// Takes somebody into a group.
    AddGroupMember {
        /// Which.
        group: GroupName,
        /// Whom.
        member: Principal,
    },
    /// Takes somebody out of a group.
    RemoveGroupMember {
        /// Which.
        group: GroupName,
        /// Whom.
        member: Principal,
    },
    /// Shows the groups of the account.
    DescribeGroups {},
    /// Somebody logs in, or fails to. Only the control plane itself does it, once it checked the password.
    LogIn(LogIn),
    /// Exchanges the grant of a refresh token. Only the control plane itself does it, once it opened the token.
    RefreshTokens {
        /// Whose it is.
        principal: Principal,
        /// Its session.
        session: SessionId,
        /// What it says.
        grant: Grant,
        /// Who shows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<ClientName>,
    },
    /// Begins the session of a program's token.
    CreateToken {
        /// What it is called.
        name: String,
        /// For how many seconds.
        lifetime: u32,
    },
}

/// The parameters of `LogIn`. No password is part of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogIn {
    /// Who they say they are.
    pub user: UserName,
    /// The directory that is to know them.
    pub directory: DirectoryName,
    /// The client that the tokens are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
    /// Where the request came from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What came of the password.
    pub attempt: Attempt,
}

/// What came of a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// It is the user's.
    Verified {
        /// What the password is known by that it was compared with.
        password: Digest,
    },
    /// It is not, or the user has none.
    Failed,
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
            Self::ForgetRevocation { .. } => "ForgetRevocation",
            Self::DescribeSessions { .. } => "DescribeSessions",
            Self::StageTokenKey { .. } => "StageTokenKey",
            Self::PromoteTokenKey { .. } => "PromoteTokenKey",
            Self::RetireTokenKey { .. } => "RetireTokenKey",
            Self::DestroyTokenKey { .. } => "DestroyTokenKey",
            Self::DescribeTokenKeys {} => "DescribeTokenKeys",
            Self::CreateUser { .. } => "CreateUser",
            Self::SetUserPassword { .. } => "SetUserPassword",
            Self::ModifyUser { .. } => "ModifyUser",
            Self::DeleteUser { .. } => "DeleteUser",
            Self::DescribeUsers { .. } => "DescribeUsers",
            Self::CreateGroup { .. } => "CreateGroup",
            Self::DeleteGroup { .. } => "DeleteGroup",
            Self::AddGroupMember { .. } => "AddGroupMember",
            Self::RemoveGroupMember { .. } => "RemoveGroupMember",
            Self::DescribeGroups {} => "DescribeGroups",
            Self::LogIn(_) => "LogIn",
            Self::RefreshTokens { .. } => "RefreshTokens",
            Self::CreateToken { .. } => "CreateToken",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::DescribeSessions { .. }
            | Self::DescribeTokenKeys {}
            | Self::DescribeUsers { .. }
            | Self::DescribeGroups {} => Effect::Read,
            _ => Effect::Change,
        }
    }

    /// Anybody can fail to log in.
    fn refusal_records(&self) -> RefusalRecords {
        match (self, self.effect()) {
            (Self::LogIn(_) | Self::RefreshTokens { .. }, _) | (_, Effect::Read) => RefusalRecords::Some,
            (_, Effect::Change) => RefusalRecords::All,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::CreateSession(NewSession { principal, .. })
            | Self::AddGroupMember {
                member: principal, ..
            }
            | Self::RemoveGroupMember {
                member: principal, ..
            }
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

    fn conceal(&mut self) {
        let concealed = || Value::from("sealed");
        match self {
            Self::StageTokenKey { sealed, .. } => *sealed = concealed(),
            Self::CreateUser { password, .. } => *password = password.take().map(|_| concealed()),
            Self::SetUserPassword { password, .. } => *password = concealed(),
            _ => {}
        }
    }

    fn repeats(&self, recorded: &AnyOp) -> bool {
        let AnyOp::Identity(recorded) = recorded else {
            return false;
        };
        match (self, recorded) {
            // Nothing is asked but that there be a key.
            (Self::StageTokenKey { .. }, Self::StageTokenKey { .. }) => true,
            // Whose it was is not known any more once it ended.
            (Self::EndSession { session, .. }, Self::EndSession { session: ended, .. }) => session == ended,
            (
                Self::DestroyTokenKey { key, if_needed, .. },
                Self::DestroyTokenKey {
                    key: destroyed,
                    if_needed: then,
                    ..
                },
            ) => (key, if_needed) == (destroyed, then),
            // The password before is not known any more once there is another.
            (
                Self::SetUserPassword { user, password, .. },
                Self::SetUserPassword {
                    user: of,
                    password: set,
                    ..
                },
            ) => (user, password) == (of, set),
            _ => self == recorded,
        }
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
    /// Users, by name.
    Users(Vec<User>),
    /// Groups, by name.
    Groups(Vec<Group>),
    /// A refresh token was shown twice, so its grant is over.
    GrantEnded,
}
