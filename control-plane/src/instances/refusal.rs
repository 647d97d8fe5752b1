//! Why an operation on instances or hosts is not done.

use std::borrow::Cow;
use std::fmt;

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::hosts::HostStanding;
use moorline_shared::id::{ImageName, TypeName, ZoneName};
use moorline_shared::{EntryPath, HostId, InstanceId, Principal};

use super::lifecycle::Never;
use crate::instance_data;
use crate::model::{Caller, Problem, Stop};

/// Where instances must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    Any,
    /// On this host.
    Host(HostId),
    /// In this zone.
    Zone(ZoneName),
}

impl Place {
    /// Where a request says that instances must be; a host is in one zone.
    pub fn of(host: Option<&HostId>, zone: Option<&ZoneName>) -> Self {
        match (host, zone) {
            (Some(host), _) => Self::Host(host.clone()),
            (None, Some(zone)) => Self::Zone(zone.clone()),
            (None, None) => Self::Any,
        }
    }

    /// The field of a request that there is no room for.
    const fn field(&self) -> &'static str {
        match self {
            Self::Any => "type",
            Self::Host(_) => "host",
            Self::Zone(_) => "zone",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Host(host) => write!(f, ", on host {host}"),
            Self::Zone(zone) => write!(f, ", in zone {zone}"),
        }
    }
}

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The instance doesn't exist, or the caller may not know it.
    #[error("there is no instance {0}; list the instances to see which there are")]
    UnknownInstance(InstanceId),
    /// The host doesn't exist.
    #[error("there is no host {0}; `moorline host list` shows those that have registered")]
    UnknownHost(HostId),
    /// The host is refused itself, so that nothing can begin there.
    #[error("host {host} is {}; 'moorline host enroll-token {host}' makes a token to enrol it again", word(*.standing))]
    HostRefused {
        /// Which host.
        host: HostId,
        /// How it stands.
        standing: HostStanding,
    },
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
        "no host has room for instance {nth} of {count}: {vcpus} vCPUs, {memory_mib} MiB, image {image}{place}; \
         choose a smaller type, fewer instances or another place, or terminate others first"
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
        place: Place,
    },
    /// The instance's host has no room for it as it is to be, or no longer offers its image.
    #[error(
        "host {host} has no room for instance {instance} with {vcpus} vCPUs and {memory_mib} MiB, or lost its image; \
         choose a smaller type, or terminate others there first"
    )]
    NoRoomToGrow {
        /// Which instance.
        instance: InstanceId,
        /// Where it is.
        host: HostId,
        /// What it was to have.
        vcpus: u32,
        /// What it was to have, in MiB.
        memory_mib: u64,
    },
    /// No host is in the zone.
    #[error("no host is in zone {name}; hosts are in: {known}")]
    UnknownZone {
        /// What was asked for.
        name: ZoneName,
        /// Where hosts are.
        known: String,
    },
    /// The host is in another zone than the one that was asked for.
    #[error("host {host} is in zone {found}, not in {wanted}; name one of the two only, or others")]
    ElsewhereZone {
        /// Which host.
        host: HostId,
        /// Where it is.
        found: ZoneName,
        /// Where it was to be.
        wanted: ZoneName,
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
    /// There are too many of something, or too few.
    #[error("{field} holds {found}; it must hold {least} to {most}")]
    Count {
        /// Which field.
        field: &'static str,
        /// How many it holds.
        found: u64,
        /// The least it may hold.
        least: u64,
        /// The most it may hold.
        most: u64,
    },
    /// A reason is too long.
    #[error("the reason has {found} bytes; the most is {most}")]
    ReasonTooLong {
        /// How many bytes it has.
        found: u64,
        /// The most it may have.
        most: u64,
    },
    /// The name is not one.
    #[error(
        "the name has {found} bytes or holds control characters; it must be 1 to {most} printable bytes, with the \
         number that each of several instances gets at most {} bytes",
        super::checks::MAX_NAME_BYTES
    )]
    Name {
        /// How many bytes it has.
        found: usize,
        /// The most it may have, so that there is room for a number where it gets one.
        most: usize,
    },
    /// The id is taken.
    #[error("the instance {0} exists already; give another id, or none to have one made")]
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
    #[error("{} may not do this: it takes an administrator of the account", .0.principal)]
    NotAdministrator(Caller),
    /// The caller is not the host it speaks for.
    #[error("{caller} may not speak for host {host}: only the host itself does, by its certificate")]
    NotTheHost {
        /// Who asks.
        caller: Principal,
        /// For which host.
        host: HostId,
    },
    /// The host doesn't have the instance.
    #[error("instance {instance} is not on host {host}, so the host has nothing to report of it")]
    NotHere {
        /// Which instance.
        instance: InstanceId,
        /// Which host.
        host: HostId,
    },
    /// The host says that it ended what nobody asked it to end.
    #[error(
        "nobody asked for the end of instance {0}, so its host can't report it; report that it stopped or failed, and \
         have it terminated by its account's administrator"
    )]
    NotAsked(InstanceId),
    /// The host has instances, which are told its zone.
    #[error(
        "host {host} has {instances} instances in zone {zone}; it can change its zone once they are terminated, or \
         register under another name"
    )]
    ZoneTaken {
        /// Which host.
        host: HostId,
        /// The zone it is in.
        zone: ZoneName,
        /// How many instances it has.
        instances: u32,
    },
    /// The report is older than what is known.
    #[error(
        "the report is about incarnation {found} of instance {instance}, and incarnation {known} was reported; \
         report what is known of that one or a later one"
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
    #[error("{refusal}")]
    Data {
        /// Which, where it is one that was asked for.
        path: Option<EntryPath>,
        /// Why.
        refusal: instance_data::Refusal,
    },
}

impl Refusal {
    /// What it is in a word that stays the same, in a few words, and as an HTTP status.
    fn terms(&self) -> (&'static str, &'static str, u16) {
        match self {
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404),
            Self::UnknownHost(_) => ("host-not-found", "No such host", 422),
            Self::HostRefused { .. } => ("host-refused", "The host is refused", 409),
            Self::UnknownType { .. } => ("type-not-found", "No such instance type", 422),
            Self::UnknownImage { .. } => ("image-not-found", "No such image", 422),
            Self::NoRoom { .. } => ("no-room", "No host has room", 409),
            Self::NoRoomToGrow { .. } => ("no-room", "The host has no room", 409),
            Self::UnknownZone { .. } => ("zone-not-found", "No such zone", 422),
            Self::ElsewhereZone { .. } => ("zone-not-found", "The host is elsewhere", 422),
            Self::Bound { .. } | Self::Count { .. } => ("out-of-bounds", "A number is out of bounds", 422),
            Self::ReasonTooLong { .. } => ("out-of-bounds", "The reason is too long", 422),
            Self::Name { .. } => ("invalid-name", "The name is not well formed", 422),
            Self::Exists(_) => ("instance-exists", "The instance exists already", 409),
            Self::ZoneTaken { .. } => ("wrong-state", "The host has instances", 409),
            Self::NotAsked(_) => ("wrong-state", "The instance is not to end", 409),
            Self::Never { .. } | Self::NotStopped(_) => {
                ("wrong-state", "The instance's state doesn't allow it", 409)
            }
            Self::NotAdministrator(_) | Self::NotTheHost { .. } => ("access-denied", "Not allowed", 403),
            Self::NotHere { .. } => ("not-on-host", "The host doesn't have the instance", 409),
            Self::OldReport { .. } => ("old-report", "The report is out of date", 409),
            Self::Data { refusal, .. } => refusal.terms(),
        }
    }

    /// The field of the request that is at fault; that of an entry of a new instance is its path within `data`.
    fn field(&self) -> Option<Cow<'static, str>> {
        let field = match self {
            Self::UnknownHost(_) | Self::HostRefused { .. } | Self::NotTheHost { .. } => "host",
            Self::UnknownType { .. } | Self::NoRoomToGrow { .. } => "type",
            Self::UnknownImage { .. } => "image",
            Self::NoRoom { place, .. } => place.field(),
            Self::UnknownZone { .. } | Self::ElsewhereZone { .. } | Self::ZoneTaken { .. } => "zone",
            Self::Bound { field, .. } | Self::Count { field, .. } => field,
            Self::ReasonTooLong { .. } => "reason",
            Self::Name { .. } => "name",
            Self::Exists(_) => "id",
            Self::NotAsked(_) => "state",
            Self::UnknownInstance(_) | Self::Never { .. } | Self::NotStopped(_) | Self::NotHere { .. } => {
                "instance"
            }
            Self::NotAdministrator(caller) => return caller.header().map(Into::into),
            Self::OldReport { .. } => "incarnation",
            Self::Data { path: Some(path), .. } => return Some(format!("data.{path}").into()),
            Self::Data { path: None, refusal } => return Some(refusal.field()),
        };
        Some(field.into())
    }
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status) = self.terms();
        ProblemDetails::new(kind, title, status, self.to_string()).at(self.field())
    }
}

/// How a host stands, in a word.
const fn word(standing: HostStanding) -> &'static str {
    match standing {
        HostStanding::Enrolled => "enrolled",
        HostStanding::Revoked => "revoked",
        HostStanding::Cloned => "cloned: two machines used its certificate",
    }
}

/// A refusal to write an instance's entries, as a refusal of what needed them written.
pub fn in_data(stop: Stop<instance_data::Refusal>) -> Stop<Refusal> {
    at(None, stop)
}

/// The same for an entry that the request names.
pub fn in_data_at(path: &EntryPath) -> impl FnOnce(Stop<instance_data::Refusal>) -> Stop<Refusal> {
    |stop| at(Some(path.clone()), stop)
}

fn at(path: Option<EntryPath>, stop: Stop<instance_data::Refusal>) -> Stop<Refusal> {
    match stop {
        Stop::Refused(refusal) => Stop::Refused(Refusal::Data { path, refusal }),
        Stop::Load(load) => Stop::Load(load),
    }
}
