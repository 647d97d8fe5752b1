//! The bodies of the host daemon's two sockets, version 1: `register.sock` for VM managers, `admin.sock` for root.
//!
//! `register.sock`: `POST /v1/register` ([`Register`] -> [`Registered`]) and `POST /v1/unregister` ([`Unregister`], no
//! answer but its status 204). Who may use it can read the secrets of every instance that it registers.
//!
//! `admin.sock`: `GET /v1/status` ([`HostStatus`]), `GET /v1/instances/{id}` ([`InstanceStatus`]), `GET /v1/health`
//! ([`crate::api::health::Health`]: the daemon answers), `GET /v1/ready` ([`Readiness`], or a problem with the status 503
//! that says why not) and `GET /v1/metrics` (text for Prometheus).
//!
//! Errors are [`crate::api::ProblemDetails`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::access::Tag;
use crate::api::data::PutEntry;
use crate::api::instances::{Driver, InstanceState};
use crate::id::{HostId, IdempotencyKey, InstanceId, RoleName};
use crate::path::EntryPath;
use crate::revision::Revision;
use crate::time::Timestamp;

/// A VM that somebody else runs: its channel begins to be its instance's. Send it before the VM starts, or the
/// guest's agent has to wait between two tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Which instance it is; absent for a new one. One that the control plane doesn't know is made there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// What makes it safe to send again when the answer was lost: a new instance is the same one under the same key, for
    /// the same user of this host. Absent, each request without an instance makes a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// A name for people, where the instance is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags, 50 at most, where the instance is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The roles whose credentials it is given, 16 at most, where the instance is made.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// Entries that it begins with, where the instance is made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<EntryPath, PutEntry>,
    /// How its guest reaches the host.
    pub channel: Channel,
    /// What ends the registration by itself.
    pub supervision: Supervision,
}

/// How a guest reaches its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Channel {
    /// Hybrid vsock, as Firecracker, Cloud Hypervisor and vhost-device-vsock have it.
    Hybrid {
        /// The socket that the VMM was given (`uds_path`): absolute, and beneath one of the folders that the daemon's
        /// configuration names. The daemon binds `<path>_8470`.
        path: PathBuf,
        /// The process that connects there; absent if the VMM itself does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<ProcessRef>,
    },
    /// The kernel's vsock.
    Vsock {
        /// The guest's context id, 3 to 4294967294.
        cid: u32,
    },
}

/// What ends a registration by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Supervision {
    /// The end of the VMM.
    Vmm(ProcessRef),
    /// Nothing: whoever registered the VM unregisters it, or the next VM on its channel is taken for it.
    Unsupervised,
}

/// A process on the host, of the caller's user unless the caller is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRef {
    /// Its id, as the daemon's own process namespace has it.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`). With it, a process that has the id
    /// by now and isn't the one that was meant is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
}

/// The answer to [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Which instance the VM is.
    pub instance: InstanceId,
    /// The life of its VM that begins.
    pub incarnation: u64,
}

/// The instance's VM ended, or is to be served no longer. Its data stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unregister {
    /// Which instance.
    pub instance: InstanceId,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host's name.
    pub host: HostId,
    /// The daemon's version.
    pub build: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// How it stands with the control plane.
    pub feed: FeedStatus,
    /// How what it has is kept on its disk.
    #[serde(default)]
    pub cache: CacheStatus,
    /// What it is known by; absent from older daemons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// Its instances, in the order of their ids.
    pub instances: Vec<InstanceStatus>,
}

/// A daemon that can serve its guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The daemon's version.
    pub build: String,
    /// What guests are served.
    pub serves: Serves,
    /// How long ago the control plane was heard, in milliseconds; without meaning if it never was.
    pub heard_ms_ago: u64,
}

/// What guests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// The present state.
    Fresh,
    /// What the host had when it last heard the control plane.
    Stale,
}

/// When a host's certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// From when on.
    pub from: Timestamp,
    /// Until when. The daemon asks for the next one at a third of its time.
    pub until: Timestamp,
}

/// How a host stands with the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// Whether the feed is up, so that what the host has is the present state.
    pub in_step: bool,
    /// How long ago the control plane was heard, in milliseconds; without meaning if it never was.
    pub heard_ms_ago: u64,
}

/// How what a host has of its instances' data is kept on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// How many instances' data are not on disk as they are in memory.
    pub unwritten: u64,
    /// Up to where everything is on disk; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// When the disk was last written to; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<Timestamp>,
    /// Why nothing can be written now; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many files the daemon could not use when it started, and set aside.
    pub set_aside: u64,
}

/// What a host knows of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Which.
    pub instance: InstanceId,
    /// Its VM; absent if the host never had one for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmStatus>,
    /// Its guest; absent if the host keeps nothing of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestStatus>,
    /// What its guest is given to be somebody, without any secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<CredentialStatus>,
}

/// An instance's token, or the credentials of one of its roles, as people may see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// Which role; absent for the instance's own token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// What there is now: `session`, `aws`, `bearer`; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// For how many milliseconds it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// Why the last attempt to get new ones failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an instance's VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Whose.
    pub instance: InstanceId,
    /// Who runs it.
    pub driver: Driver,
    /// How it is.
    pub state: InstanceState,
    /// Why it is so, where that is not what was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last life of it that was begun; 0 before the first.
    pub incarnation: u64,
    /// Up to which reboot it has been rebooted.
    pub reboots: u64,
    /// The VMM's process id, while it runs and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// How an instance's guest and its data are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// The life of the VM that its channel belongs to; 0 for none.
    pub incarnation: u64,
    /// Its connection, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionStatus>,
    /// Where what the host has of its data stands; absent before the feed brought any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// How many entries it can see of itself.
    pub entries: u64,
    /// How many bytes all that it can see take, that of other instances included.
    pub bytes: u64,
    /// How many other instances' data the host keeps for it.
    pub foreign_views: u64,
    /// What it asked for since the daemon started.
    pub requests: RequestCounts,
}

/// A guest's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The session's number, as in logs.
    pub session: u64,
    /// What the guest's agent calls itself. The guest says so; it proves nothing.
    pub build: String,
    /// Where the guest's mirror stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Revision>,
    /// How long ago the guest was heard, in milliseconds.
    pub heard_ms_ago: u64,
}

/// How often a guest asked for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// Reads of an entry.
    pub gets: u64,
    /// Listings.
    pub lists: u64,
    /// Watches.
    pub watches: u64,
    /// Requests passed on to the control plane.
    pub relays: u64,
    /// How many of all these were refused.
    pub refused: u64,
    /// Connections that ended because the guest broke the protocol.
    pub faults: u64,
}

#[cfg(test)]
mod tests {
    use super::{Channel, ProcessRef, Register, Supervision};

    #[test]
    fn a_registration_reads_as_documented() {
        let text = r#"{
            "channel": {"hybrid": {"path": "/run/firecracker/a/vsock.sock"}},
            "supervision": {"vmm": {"pid": 4242}}
        }"#;
        let parsed: Register = serde_json::from_str(text).unwrap();
        let path = "/run/firecracker/a/vsock.sock".into();
        assert_eq!(parsed.channel, Channel::Hybrid { path, device: None });
        let vmm = ProcessRef {
            pid: 4242,
            started: None,
        };
        assert_eq!(parsed.supervision, Supervision::Vmm(vmm));

        let text = r#"{"channel": {"vsock": {"cid": 7}}, "supervision": "unsupervised"}"#;
        let parsed: Register = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.channel, Channel::Vsock { cid: 7 });
        assert_eq!(parsed.supervision, Supervision::Unsupervised);

        let unsaid = r#"{"channel": {"vsock": {"cid": 7}}}"#;
        assert!(
            serde_json::from_str::<Register>(unsaid).is_err(),
            "to go unsupervised must be said"
        );
    }
}
