//! Why an operation on sessions or keys is not done.

use moorline_shared::api::ProblemDetails;
use moorline_shared::{Principal, Timestamp};

use super::rules::sessions::MAX_SESSIONS;
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
    /// There are too many.
    #[error("{0} has {MAX_SESSIONS} sessions, which is the most; end one of them first")]
    TooManySessions(Principal),
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
}

/// An operation that is refused.
pub(super) fn refuse<T>(refusal: Refusal) -> Result<T, Stop<Refusal>> {
    Err(Stop::Refused(refusal))
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::Denied { caller, .. } => ("access-denied", "Not allowed", 403, Some(caller.header())),
            Self::UnknownSession(_) => ("session-not-found", "No such session", 404, Some("session")),
            Self::TooManySessions(_) => ("too-many-sessions", "Too many sessions", 409, None),
            Self::UnknownKey(_) => ("key-not-found", "No such key", 404, Some("key")),
            Self::KeyStage { .. } | Self::KeyTwice(_) => {
                ("key-stage", "The key is not at that stage", 409, Some("key"))
            }
            Self::KeyNeeded { .. } => ("key-needed", "The key may still be needed", 409, Some("force")),
        };
        ProblemDetails {
            kind: kind.into(),
            title: title.into(),
            status,
            detail: self.to_string(),
            field: field.map(Into::into),
            operation: None,
        }
    }
}
