//! Why an operation on sessions or keys is not done.

use std::fmt;

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::identity::MAX_TOKEN_SECONDS;
use moorline_shared::id::GroupName;
use moorline_shared::{Principal, Timestamp, UserName};

use super::directory::Former;
use super::rules::groups::{MAX_GROUPS, MAX_MEMBERS, MAX_MEMBERSHIPS};
use super::rules::sessions::MAX_PROGRAMS;
use super::rules::users::MAX_USERS;
use super::token::{KeyId, SessionId};
use crate::model::{Caller, Problem, Stop};

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The caller may not do it.
    #[error("{} may not do this: it takes {takes}", .caller.principal)]
    Denied {
        /// Who asked.
        caller: Box<Caller>,
        /// Who may.
        takes: &'static str,
    },
    /// There is no such session, or it is over.
    #[error("there is no session {0}; `moorline token list` shows those that there are")]
    UnknownSession(SessionId),
    /// There are too many tokens of programs.
    #[error(
        "{0} has {MAX_PROGRAMS} tokens for programs, which is the most; end one with `moorline token revoke` first"
    )]
    TooManyTokens(Principal),
    /// There is no such key, or it was destroyed.
    #[error("there is no key {0}; `moorline key list` shows those that there are")]
    UnknownKey(KeyId),
    /// A key can't go from where it is to where it was asked to go.
    #[error("key {key} is {is}; only a key that is {must_be} can be {to}")]
    KeyStage {
        /// Which.
        key: KeyId,
        /// What it is.
        is: &'static str,
        /// What it would have to be.
        must_be: &'static str,
        /// What was asked.
        to: &'static str,
    },
    /// The id was a key's before.
    #[error("key {0} was there before; a new key has an id that none had")]
    KeyTwice(KeyId),
    /// Tokens may still need the key.
    #[error(
        "key {key} may have sealed tokens that are good until {until}; wait until then, or destroy it by force, \
         which ends these sessions"
    )]
    KeyNeeded {
        /// Which.
        key: KeyId,
        /// When the last of them ends.
        until: Timestamp,
    },
    /// There is no such user, or the caller may not know of them.
    #[error("there is no user {0}; `moorline user list` shows those that there are")]
    UnknownUser(UserName),
    /// The name is taken.
    #[error("there is a user {0} already; choose another name")]
    UserTwice(UserName),
    /// There are too many.
    #[error("the directory has {MAX_USERS} users, which is the most; remove one first")]
    TooManyUsers,
    /// There is no such group.
    #[error("there is no group {0}; `moorline group list` shows those that there are")]
    UnknownGroup(GroupName),
    /// The name is taken.
    #[error("there is a group {0} already; choose another name")]
    GroupTwice(GroupName),
    /// There are too many.
    #[error("the account has {MAX_GROUPS} groups, which is the most; delete one first")]
    TooManyGroups,
    /// The name was somebody's who is no more.
    #[error("{}; access clauses may still name it, so it is not given again: choose another name", Formerly(.0))]
    NameOfFormer(Former),
    /// Somebody is in too many groups.
    #[error("{0} is in {MAX_MEMBERSHIPS} groups, which is the most; take it out of one first")]
    TooManyMemberships(Principal),
    /// There are too many.
    #[error("group {0} has {MAX_MEMBERS} members, which is the most; take one out first")]
    TooManyMembers(GroupName),
    /// Whoever is to be taken in can't be.
    #[error("there is no {0} in this account; users and instances of the account can be members")]
    NoSuchMember(Principal),
    /// Whoever is to be taken out isn't in.
    #[error("{member} is not in group {group}")]
    NotAMember {
        /// The group.
        group: GroupName,
        /// Who.
        member: Principal,
    },
    /// Somebody was not logged in.
    #[error("attempt {attempt} to log in as {user} failed: {why}")]
    NoLogin {
        /// The id of the attempt, which would have been the session's.
        attempt: SessionId,
        /// Who they said they are.
        user: UserName,
        /// The truth, for the record.
        why: NoLogin,
    },
    /// A refresh token is not good.
    #[error("the refresh token is not good: it expired, was used, or its session ended; log in again")]
    InvalidGrant,
    /// A token's name is out of bounds.
    #[error("a token's name has 1 to 63 characters, none of them a control character")]
    TokenName,
    /// A token's life is out of bounds.
    #[error("ttl is {0}; it must be 1 to {MAX_TOKEN_SECONDS} seconds")]
    TokenLifetime(u32),
}

/// Says whose a name was.
struct Formerly<'a>(&'a Former);

impl fmt::Display for Formerly<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Former::User(name) => write!(f, "there was a user {name} before"),
            Former::Group(_, name) => write!(f, "there was a group {name} before"),
        }
    }
}

/// Why somebody was not logged in. They are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLogin {
    /// There is no such directory.
    Directory,
    /// There is no such user.
    User,
    /// The user is disabled.
    Disabled,
    /// It is not the user's password.
    Password,
}

impl fmt::Display for NoLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "there is no such directory",
            Self::User => "there is no such user",
            Self::Disabled => "the user is disabled",
            Self::Password => "it is not the user's password",
        })
    }
}

/// An operation that is refused.
pub(super) fn refuse<T>(refusal: Refusal) -> Result<T, Stop<Refusal>> {
    Err(Stop::Refused(refusal))
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::Denied { caller, .. } => ("access-denied", "Not allowed", 403, caller.header()),
            Self::UnknownSession(_) => ("session-not-found", "No such session", 404, Some("session")),
            Self::TooManyTokens(_) => ("too-many-tokens", "Too many tokens", 409, None),
            Self::UnknownKey(_) => ("key-not-found", "No such key", 404, Some("key")),
            Self::KeyStage { .. } | Self::KeyTwice(_) => {
                ("key-stage", "The key is not at that stage", 409, Some("key"))
            }
            Self::KeyNeeded { .. } => ("key-needed", "The key may still be needed", 409, Some("force")),
            Self::UnknownUser(_) => ("user-not-found", "No such user", 404, Some("user")),
            Self::TooManyUsers => ("quota", "Too many", 409, Some("user")),
            Self::UserTwice(_) => ("user-exists", "The name is taken", 409, Some("user")),
            Self::UnknownGroup(_) => ("group-not-found", "No such group", 404, Some("group")),
            Self::GroupTwice(_) => ("group-exists", "The name is taken", 409, Some("group")),
            Self::NameOfFormer(Former::User(_)) => {
                ("name-retired", "The name was given before", 409, Some("user"))
            }
            Self::NameOfFormer(Former::Group(..)) => {
                ("name-retired", "The name was given before", 409, Some("group"))
            }
            Self::TooManyMemberships(_) => ("quota", "Too many", 409, Some("member")),
            Self::TooManyGroups | Self::TooManyMembers(_) => ("quota", "Too many", 409, Some("group")),
            Self::NoSuchMember(_) | Self::NotAMember { .. } => {
                ("member-not-found", "No such member", 404, Some("member"))
            }
            Self::NoLogin { .. } => ("login-failed", "Not logged in", 401, None),
            Self::InvalidGrant => ("invalid-grant", "The refresh token is not good", 401, None),
            Self::TokenName => (
                "invalid-request",
                "The request is not well formed",
                422,
                Some("name"),
            ),
            Self::TokenLifetime(_) => ("out-of-bounds", "A number is out of bounds", 422, Some("ttl")),
        };
        ProblemDetails::new(kind, title, status, self.to_string()).at(field)
    }

    /// Whoever fails to log in is not told whether there is such a user.
    fn shown(&self) -> ProblemDetails {
        let problem = self.problem();
        match self {
            Self::NoLogin { attempt, .. } => ProblemDetails {
                detail: format!("the user or the password is wrong (attempt {attempt})"),
                ..problem
            },
            _ => problem,
        }
    }
}
