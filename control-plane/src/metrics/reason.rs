//! Why requests are refused, in few words: as many as a chart can show.

use axum::http::StatusCode;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is not known whose it is, or who it is may not come any more.
    Admission,
    /// A right is missing.
    Access,
    /// A bound of an instance, a user or the deployment is reached.
    Quota,
    /// What the caller may use of this process is used up: attempts, time, memory.
    Budget,
    /// A guard did not hold, or what there is doesn't allow it.
    State,
    /// It is not well formed, or about what isn't there.
    Request,
    /// The store can't commit or read now.
    Unavailable,
    /// A defect here.
    Internal,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Admission,
        Self::Access,
        Self::Quota,
        Self::Budget,
        Self::State,
        Self::Request,
        Self::Unavailable,
        Self::Internal,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Access => "access",
            Self::Quota => "quota",
            Self::Budget => "budget",
            Self::State => "state",
            Self::Request => "request",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The reason of a problem of this kind and status.
    pub fn of(kind: &str, status: StatusCode) -> Self {
        match kind {
            "too-many-entries" | "too-many-bytes" | "too-many-tokens" | "value-too-long" | "too-large"
            | "no-room" => return Self::Quota,
            "too-many-attempts" | "body-too-slow" | "body-too-long" => return Self::Budget,
            "login-failed" | "host-revoked" | "host-cloned" | "host-not-enrolled" | "session-ended" => {
                return Self::Admission;
            }
            _ => {}
        }
        match status {
            StatusCode::UNAUTHORIZED => Self::Admission,
            StatusCode::FORBIDDEN => Self::Access,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Self::State,
            StatusCode::TOO_MANY_REQUESTS => Self::Budget,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            status if status.is_server_error() => Self::Internal,
            _ => Self::Request,
        }
    }
}
