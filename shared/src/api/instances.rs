//! Instances over HTTP: run, described, started, stopped, changed, terminated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::time::Timestamp;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::data::PutEntry;
use crate::access::Tag;
use crate::id::{AccountId, HostId, ImageName, InstanceId, OperationId, RoleName, TypeName, ZoneName};
use crate::path::EntryPath;
use crate::revision::Revision;

/// `RunInstances`: makes instances and starts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunInstances {
    /// What they boot from: a name that a host's configuration knows.
    pub image: ImageName,
    /// How large they are: a name of the control plane's settings.
    #[serde(rename = "type")]
    pub instance_type: TypeName,
    /// How many, 1 to 100.
    #[serde(default = "one", deserialize_with = "count")]
    pub count: u32,
    /// The host; absent for a host of the zone with room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The zone; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// A name for people; of several instances each gets its number behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags, 50 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The roles whose credentials each is given, 16 at most: names that the host's configuration knows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<RoleName>, max_items = 16))]
    pub roles: BTreeSet<RoleName>,
    /// Entries that each instance begins with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, PutEntry>))]
    pub data: BTreeMap<EntryPath, PutEntry>,
}

impl RunInstances {
    /// One instance on any host with room, with no name, tags, roles or data: what a request is that says no more
    /// than its image and its type. Whatever else is wanted is set over it, with `..RunInstances::of(image, type)`.
    #[must_use]
    pub const fn of(image: ImageName, instance_type: TypeName) -> Self {
        Self {
            image,
            instance_type,
            count: one(),
            host: None,
            zone: None,
            name: None,
            tags: Vec::new(),
            roles: BTreeSet::new(),
            data: BTreeMap::new(),
        }
    }
}

const fn one() -> u32 {
    1
}

/// The most instances of one request.
pub const MAX_INSTANCES: u32 = 100;

/// A number that no count can be is answered with the bounds, not with the width of an integer.
fn count<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    struct Count;

    impl Visitor<'_> for Count {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a number of instances, 1 to {MAX_INSTANCES}")
        }

        fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<u32, E> {
            u32::try_from(count).map_err(|_| E::invalid_value(Unexpected::Unsigned(count), &self))
        }
    }

    d.deserialize_u64(Count)
}

/// `RegisterInstance`: makes an instance of a VM that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterInstance {
    /// The host on which the VM runs.
    pub host: HostId,
    /// The id it is to have, such as the VM manager's UUID; absent for a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<InstanceId>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags, 50 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The roles whose credentials it is given, 16 at most: names that the host's configuration knows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<RoleName>, max_items = 16))]
    pub roles: BTreeSet<RoleName>,
    /// Entries that it begins with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, PutEntry>))]
    pub data: BTreeMap<EntryPath, PutEntry>,
}

/// `StartInstances`, `StopInstances`, `RebootInstances`, `TerminateInstances`: on these, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceIds {
    /// Which, 1 to 100.
    pub instances: Vec<InstanceId>,
}

/// `ModifyInstanceAttribute`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModifyInstance {
    /// Another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other tags, instead of all it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
    /// Other roles, instead of all it has, 16 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<RoleName>>, max_items = 16))]
    pub roles: Option<BTreeSet<RoleName>>,
    /// Another type; the instance must be stopped.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<TypeName>,
}

/// What a user wants of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Desired {
    /// Its VM runs.
    Running,
    /// Its VM is off.
    Stopped,
    /// It is no more.
    Terminated,
}

/// What an instance's host last reported, or what it was told and has not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum InstanceState {
    /// Its host was told to start it.
    Pending,
    /// Its VM runs.
    Running,
    /// Its host was told to stop it.
    Stopping,
    /// Its VM is off.
    Stopped,
    /// Its host was told to end it.
    ShuttingDown,
    /// It is no more; its data are kept for a while.
    Terminated,
    /// Its host could not start it or lost it; `reason` says why.
    Failed,
}

/// Who runs an instance's VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Driver {
    /// The host daemon, with QEMU.
    Qemu,
    /// A VM manager, which registers it with the host daemon.
    External,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    /// Its id, for ever.
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
    /// What it boots from; absent where somebody else runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// How large it is; absent where somebody else runs it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<TypeName>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// The roles whose credentials it is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<RoleName>))]
    pub roles: BTreeSet<RoleName>,
    /// What is wanted of it.
    pub desired: Desired,
    /// What it is.
    pub state: InstanceState,
    /// Why it is so, where that is not what was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often its VM has been begun, as far as its host reported.
    pub incarnation: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub revision: Revision,
}

/// `RunInstances` and `RegisterInstance` answer with what they made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstancesMade {
    /// The instances as they are now.
    pub instances: Vec<Instance>,
    /// The operation's record.
    pub operation: OperationId,
    /// When it was committed.
    pub revision: Revision,
}

/// `DescribeInstances`: a page, in the order of the ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstancePage {
    /// The state the page shows.
    pub revision: Revision,
    /// The instances.
    pub instances: Vec<Instance>,
    /// What to ask for as `cursor` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `DescribeInstances`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct InstanceQuery {
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Only those with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<InstanceState>,
    /// The page to show: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most instances of a page, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::RunInstances;

    #[test]
    fn a_request_that_says_no_more_is_the_same_made_and_read() {
        let (image, instance_type) = ("debian".parse().unwrap(), "micro".parse().unwrap());
        let read = serde_json::from_str(r#"{"image": "debian", "type": "micro"}"#).ok();
        assert_eq!(read, Some(RunInstances::of(image, instance_type)));
    }
}
