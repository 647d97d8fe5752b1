//! Hosts over HTTP: what they are, and what they report.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::instances::InstanceState;
use crate::id::{HostId, ImageName, InstanceId, ZoneName};
use crate::revision::Revision;

/// The most vCPUs that a host gives to instances.
pub const MAX_HOST_VCPUS: u32 = 65_536;
/// The most memory that a host gives to instances, in MiB: 64 TiB.
pub const MAX_HOST_MEMORY_MIB: u64 = 64 * 1024 * 1024;

/// `RegisterHost`: what a host says of itself when it comes up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterHost {
    /// The failure domain it is in.
    pub zone: ZoneName,
    /// How many vCPUs it gives to instances, 0 to 65,536.
    pub vcpus: u32,
    /// How much memory it gives to instances, in MiB, 0 to 67,108,864.
    pub memory_mib: u64,
    /// What it can boot.
    pub images: Vec<ImageName>,
}

/// Whether a host's certificates count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HostStanding {
    /// They do: the host is served.
    Enrolled,
    /// An operator said that they don't. The host is refused until it is enrolled again.
    Revoked,
    /// Two machines used one. Both are refused until one of them is enrolled again.
    Cloned,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Host {
    /// Its name.
    pub id: HostId,
    /// What it said of itself.
    #[serde(flatten)]
    pub offer: RegisterHost,
    /// How many vCPUs its instances have.
    pub used_vcpus: u32,
    /// How much memory its instances have, in MiB.
    pub used_memory_mib: u64,
    /// How many instances it has.
    pub instances: u32,
    /// When it first registered.
    pub created_at: Timestamp,
    /// Whether its certificates count; absent for a host that was never enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<HostStanding>,
    /// From when on they do or don't; absent for a host that was never enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_since: Option<Timestamp>,
    /// When its record last changed.
    pub revision: Revision,
}

/// `DescribeHosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostPage {
    /// The state the page shows.
    pub revision: Revision,
    /// The hosts, by name.
    pub hosts: Vec<Host>,
}

/// `ReportInstanceState`: a transition the host saw. Heartbeats are not reported; transitions are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportState {
    /// Which of the host's instances.
    pub instance: InstanceId,
    /// What it is now.
    pub state: InstanceState,
    /// Which life of its VM this is about; a report about an earlier one than the record's is refused.
    pub incarnation: u64,
    /// Up to which reboot the host has rebooted it.
    pub reboots: u64,
    /// Why, where it is not what was wanted; 512 bytes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
