//! What the store keeps of instances and hosts.

use std::collections::BTreeSet;

use moorline_shared::access::Tag;
use moorline_shared::api::hosts::{Host, RegisterHost};
use moorline_shared::api::instances::{Desired, Driver, Instance, InstanceState};
use moorline_shared::id::{ImageName, RoleName, TypeName, ZoneName};
use moorline_shared::{AccountId, HostId, InstanceId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::identity::enrolment::records::HostIdentity;
use crate::model::record::{Record, key};
use crate::store::Key;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub account: AccountId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    pub host: HostId,
    /// The host's zone.
    pub zone: ZoneName,
    /// Who runs its VM.
    pub driver: Driver,
    /// What it boots from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// How large it is, by name.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<TypeName>,
    /// How many vCPUs it has; 0 where somebody else runs it.
    pub vcpus: u32,
    /// How much memory it has, in MiB; 0 where somebody else runs it.
    pub memory_mib: u64,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The roles whose credentials it is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// What is wanted of it.
    pub desired: Desired,
    /// What it is.
    pub state: InstanceState,
    /// Why, where that is not what was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often its VM has been begun.
    pub incarnation: u64,
    /// The life of its VM in which somebody ended its session: it gets no other before the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ended_in: Option<u64>,
    /// How often a reboot was asked for.
    pub reboots: u64,
    /// How many of these its host has done.
    pub reboots_done: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

impl InstanceRecord {
    /// The instance as its account sees it.
    pub fn shown(self, revision: Option<Revision>) -> Instance {
        Instance {
            id: self.id,
            account: self.account,
            name: self.name,
            host: self.host,
            zone: self.zone,
            driver: self.driver,
            image: self.image,
            instance_type: self.instance_type,
            tags: self.tags,
            roles: self.roles,
            desired: self.desired,
            state: self.state,
            reason: self.reason,
            incarnation: self.incarnation,
            created_at: self.created_at,
            revision: revision.unwrap_or_default(),
        }
    }

    /// Whether somebody ended its session, and no later life of its VM has begun.
    pub fn is_out_of_session(&self) -> bool {
        self.session_ended_in.is_some_and(|life| self.incarnation <= life)
    }

    /// Whether its VM has ended for good, as its host reported after the user asked for it.
    pub fn has_ended(&self) -> bool {
        self.state == InstanceState::Terminated
    }

    /// Whether its end was asked for, so that nothing else can be; it may not [have come](Self::has_ended) yet.
    pub fn is_terminated(&self) -> bool {
        self.desired == Desired::Terminated || self.has_ended()
    }
}

impl Record for InstanceRecord {
    const KIND: &'static str = "instance";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = InstanceId;
    type Collection = ();

    fn key(id: &InstanceId) -> Key {
        key(format!("instance/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.id)
    }

    fn prefix((): &()) -> String {
        "instance/".to_owned()
    }
}

/// A host, and what its instances take of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its name.
    pub id: HostId,
    /// What it said of itself.
    pub offer: RegisterHost,
    /// How many vCPUs its instances have.
    pub used_vcpus: u32,
    /// How much memory its instances have, in MiB.
    pub used_memory_mib: u64,
    /// How many instances it has.
    pub instances: u32,
    /// When it first registered.
    pub created_at: Timestamp,
}

impl HostRecord {
    /// The host as administrators see it, with what it is known by.
    pub fn shown(self, revision: Option<Revision>, identity: Option<&HostIdentity>) -> Host {
        Host {
            id: self.id,
            offer: self.offer,
            used_vcpus: self.used_vcpus,
            used_memory_mib: self.used_memory_mib,
            instances: self.instances,
            created_at: self.created_at,
            standing: identity.map(|identity| identity.standing),
            standing_since: identity.map(|identity| identity.since),
            revision: revision.unwrap_or_default(),
        }
    }

    /// Takes room for an instance.
    pub fn take(&mut self, vcpus: u32, memory_mib: u64) {
        self.used_vcpus += vcpus;
        self.used_memory_mib += memory_mib;
        self.instances += 1;
    }

    /// Gives an instance's room back.
    pub fn give_back(&mut self, vcpus: u32, memory_mib: u64) {
        self.used_vcpus = self.used_vcpus.saturating_sub(vcpus);
        self.used_memory_mib = self.used_memory_mib.saturating_sub(memory_mib);
        self.instances = self.instances.saturating_sub(1);
    }
}

impl Record for HostRecord {
    const KIND: &'static str = "host";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = HostId;
    type Collection = ();

    fn key(id: &HostId) -> Key {
        key(format!("host/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.id)
    }

    fn prefix((): &()) -> String {
        "host/".to_owned()
    }
}
