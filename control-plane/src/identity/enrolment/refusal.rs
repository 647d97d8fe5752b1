//! Why a host gets no certificate.

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::enrolment::MAX_TOKEN_SECONDS;
use moorline_shared::{HostId, Timestamp};

use crate::model::{Caller, Problem, Stop};

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The caller may not do it.
    #[error("{} may not do this: it takes an administrator", .0.principal)]
    Denied(Box<Caller>),
    /// A token can't be good for so long.
    #[error("ttl is {0} seconds; an enrolment token is good for {MAX_TOKEN_SECONDS} seconds at most")]
    TooLong(u32),
    /// Somebody made a token with this secret before.
    #[error("there is an enrolment token with this secret; make another secret")]
    TokenTwice,
    /// No token has this secret, or not for this host.
    #[error("the enrolment token is not known for host {0}; make one with 'moorline host enroll-token {0}'")]
    UnknownToken(HostId),
    /// Another key was enrolled with it.
    #[error(
        "the enrolment token was used before; if not by you, run 'moorline host revoke {0}', and make another one with \
         'moorline host enroll-token {0}'"
    )]
    TokenUsed(HostId),
    /// Its time is over.
    #[error("the enrolment token expired at {at}; make another one with 'moorline host enroll-token {host}'")]
    TokenExpired {
        /// Whose.
        host: HostId,
        /// When.
        at: Timestamp,
    },
    /// The host has no certificate.
    #[error("host {0} is not enrolled; 'moorline host enroll-token {0}' makes a token for it")]
    NotEnrolled(HostId),
    /// An operator revoked it.
    #[error("host {0} was revoked; 'moorline host enroll-token {0}' makes a token to enrol it again")]
    Revoked(HostId),
    /// Two machines use one certificate.
    #[error(
        "two machines use the certificate of host {0}, so that neither may; see which one is the host, and enrol that one \
         again with a token of 'moorline host enroll-token {0}'"
    )]
    Cloned(HostId),
}

/// An operation that is refused.
pub(super) fn refuse<T>(refusal: Refusal) -> Result<T, Stop<Refusal>> {
    Err(Stop::Refused(refusal))
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::Denied(caller) => ("access-denied", "Not allowed", 403, caller.header()),
            Self::TooLong(_) => ("out-of-bounds", "A number is out of bounds", 422, Some("ttl")),
            Self::TokenTwice => ("token-exists", "There is such a token", 409, Some("digest")),
            Self::UnknownToken(_) => ("enrolment-token-unknown", "No such token", 403, Some("secret")),
            Self::TokenUsed(_) => ("enrolment-token-used", "The token was used", 403, Some("secret")),
            Self::TokenExpired { .. } => (
                "enrolment-token-expired",
                "The token has expired",
                403,
                Some("secret"),
            ),
            Self::NotEnrolled(_) => ("host-not-enrolled", "The host is not enrolled", 404, Some("host")),
            Self::Revoked(_) => ("host-revoked", "The host was revoked", 403, Some("host")),
            Self::Cloned(_) => ("host-cloned", "Two machines are this host", 403, Some("host")),
        };
        ProblemDetails::new(kind, title, status, self.to_string()).at(field)
    }
}
