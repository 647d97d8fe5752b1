//! Why an operation on instances' sessions is not done.

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::session::SESSION_ENDED;
use moorline_shared::{HostId, InstanceId, Principal};

use crate::identity;
use crate::identity::token::SessionId;
use crate::model::Problem;

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// Somebody else than the host asks.
    #[error("{caller} is not host {host}: only a host asks for the sessions of its instances")]
    NotTheHost {
        /// Who asks.
        caller: Principal,
        /// Which host it would have to be.
        host: HostId,
    },
    /// The instance isn't there.
    #[error("there is no instance {instance} on host {host}")]
    NotHere {
        /// Which instance.
        instance: InstanceId,
        /// Which host.
        host: HostId,
    },
    /// The instance is over.
    #[error("instance {0} is terminated: it gets no session")]
    Terminated(InstanceId),
    /// A later life of the VM is known.
    #[error("incarnation {found} of instance {instance} is over: {known} has begun")]
    EarlierLife {
        /// Which instance.
        instance: InstanceId,
        /// Which life was said.
        found: u64,
        /// Which is known.
        known: u64,
    },
    /// Its session was ended, and not by its host.
    #[error(
        "the session of instance {instance} was ended, for as long as incarnation {incarnation} goes on: stop the instance and start it again, and it gets another"
    )]
    Ended {
        /// Which instance.
        instance: InstanceId,
        /// Which life of its VM.
        incarnation: u64,
    },
    /// Somebody else than the instance asks.
    #[error("{caller} is not instance {instance}: only an instance identifies itself")]
    NotTheInstance {
        /// Who asks.
        caller: Principal,
        /// Which instance it would have to be.
        instance: InstanceId,
    },
    /// The session is over.
    #[error("session {0} is over; the host gives the instance another one")]
    SessionOver(SessionId),
    /// The instance has said before what it signs with.
    #[error("session {0} has a key already; for another one the host must begin a session in its place")]
    AlreadyIdentified(SessionId),
    /// A request is not proven to be an instance's.
    #[error("the request is not proven to be the instance's: {0}")]
    Unproven(String),
    /// The session could not be begun.
    #[error(transparent)]
    Session(identity::Refusal),
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::NotTheHost { .. } => ("access-denied", "Not allowed", 403, Some("host")),
            Self::NotTheInstance { .. } => ("access-denied", "Not allowed", 403, Some("instance")),
            Self::NotHere { .. } => ("instance-not-found", "No such instance", 404, Some("instance")),
            Self::Terminated(_) => (
                "instance-terminated",
                "The instance is terminated",
                409,
                Some("instance"),
            ),
            Self::EarlierLife { .. } => (
                "incarnation-over",
                "That life of it is over",
                409,
                Some("incarnation"),
            ),
            Self::Ended { .. } => (SESSION_ENDED, "Its session was ended", 409, Some("incarnation")),
            Self::SessionOver(_) => ("session-not-found", "No such session", 404, None),
            Self::AlreadyIdentified(_) => (
                "already-identified",
                "The session has a key",
                409,
                Some("public_key"),
            ),
            Self::Unproven(_) => ("unproven", "Not proven to be the instance's", 401, None),
            Self::Session(refusal) => return refusal.problem(),
        };
        ProblemDetails::new(kind, title, status, self.to_string()).at(field)
    }

    /// What is wrong with a request that isn't the instance's is nobody's business but the operator's.
    fn shown(&self) -> ProblemDetails {
        let mut shown = self.problem();
        if let Self::Unproven(_) = self {
            "the request is not proven to be the instance's: sign it with the instance's present token and key, for the \
             present time, and never twice"
                .clone_into(&mut shown.detail);
        }
        shown
    }
}
