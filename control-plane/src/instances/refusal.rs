//! Why an operation on instances or hosts is not done.

use moorline_shared::api::ProblemDetails;
use moorline_shared::id::{ImageName, TypeName};
use moorline_shared::{HostId, InstanceId, Principal};

use super::lifecycle::Never;
use crate::instance_data;
use crate::model::{Problem, Stop};

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The instance doesn't exist, or the caller may not know it.
    #[error("there is no instance {0}")]
    UnknownInstance(InstanceId),
    /// The host doesn't exist.
    #[error("there is no host {0}; `moorline host list` shows those that have registered")]
    UnknownHost(HostId),
    /// The type doesn't exist.
    #[error("there is no instance type {name}; there are: {known}")]
    UnknownType {
        /// What was asked for.
        name: TypeName,
        /// What there is.
        known: String,
    },
    /// No host can boot the image.
    #[error("no host can boot the image {name}; hosts offer: {known}")]
    UnknownImage {
        /// What was asked for.
        name: ImageName,
        /// What hosts offer.
        known: String,
    },
    /// No host has room.
    #[error(
        "no host has room for instance {nth} of {count}: {vcpus} vCPUs, {memory_mib} MiB, image {image}{place}"
    )]
    NoRoom {
        /// Which of them could not be placed.
        nth: u32,
        /// How many were asked for.
        count: u32,
        /// What each needs.
        vcpus: u32,
        /// What each needs, in MiB.
        memory_mib: u64,
        /// What they boot from.
        image: ImageName,
        /// Where they must be.
        place: String,
    },
    /// A number is out of bounds.
    #[error("{field} is {found}; it must be {least} to {most}")]
    Bound {
        /// Which field.
        field: &'static str,
        /// What it is.
        found: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// The name is not one.
    #[error("the name has {0} bytes or holds control characters; it must be 1 to 128 printable bytes")]
    Name(usize),
    /// The id is taken.
    #[error("the instance {0} exists already")]
    Exists(InstanceId),
    /// The state of the instance doesn't allow it.
    #[error("instance {instance} {}", match why {
        Never::Terminated => "is terminated; run a new one instead",
        Never::External => "is run by a VM manager; use that to start, stop or reboot its VM",
        Never::NotRunning => "is not meant to run; start it instead",
    })]
    Never {
        /// Which.
        instance: InstanceId,
        /// Why.
        why: Never,
    },
    /// Its type can only change while it is stopped.
    #[error("instance {0} is not stopped; stop it before you change its type")]
    NotStopped(InstanceId),
    /// The caller may not do this.
    #[error("{0} may not do this: it takes an administrator of the account")]
    NotAdministrator(Principal),
    /// The caller is not the host it speaks for.
    #[error("{caller} may not speak for host {host}")]
    NotTheHost {
        /// Who asks.
        caller: Principal,
        /// For which host.
        host: HostId,
    },
    /// The host doesn't have the instance.
    #[error("instance {instance} is not on host {host}")]
    NotHere {
        /// Which instance.
        instance: InstanceId,
        /// Which host.
        host: HostId,
    },
    /// The report is older than what is known.
    #[error(
        "the report is about incarnation {found} of instance {instance}, and incarnation {known} was reported"
    )]
    OldReport {
        /// Which instance.
        instance: InstanceId,
        /// What the report is about.
        found: u64,
        /// What is known.
        known: u64,
    },
    /// One of its entries can't be made.
    #[error(transparent)]
    Data(instance_data::Refusal),
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404, None),
            Self::UnknownHost(_) => ("host-not-found", "No such host", 422, Some("host")),
            Self::UnknownType { .. } => ("type-not-found", "No such instance type", 422, Some("type")),
            Self::UnknownImage { .. } => ("image-not-found", "No such image", 422, Some("image")),
            Self::NoRoom { .. } => ("no-room", "No host has room", 409, None),
            Self::Bound { field, .. } => ("out-of-bounds", "A number is out of bounds", 422, Some(*field)),
            Self::Name(_) => ("invalid-name", "The name is not well formed", 422, Some("name")),
            Self::Exists(_) => ("instance-exists", "The instance exists already", 409, Some("id")),
            Self::Never { .. } | Self::NotStopped(_) => {
                ("wrong-state", "The instance's state doesn't allow it", 409, None)
            }
            Self::NotAdministrator(_) | Self::NotTheHost { .. } => {
                ("access-denied", "Not allowed", 403, None)
            }
            Self::NotHere { .. } => ("not-on-host", "The host doesn't have the instance", 409, None),
            Self::OldReport { .. } => (
                "old-report",
                "The report is out of date",
                409,
                Some("incarnation"),
            ),
            Self::Data(refusal) => return refusal.problem(),
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

/// A refusal to write an instance's entries, as a refusal of what needed them written.
pub fn in_data(stop: Stop<instance_data::Refusal>) -> Stop<Refusal> {
    match stop {
        Stop::Refused(refusal) => Stop::Refused(Refusal::Data(refusal)),
        Stop::Load(load) => Stop::Load(load),
    }
}
