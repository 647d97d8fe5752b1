//! What can be asked about instances and hosts, and what is answered.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::access::Tag;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::hosts::{Host, RegisterHost, ReportState};
use moorline_shared::api::instances::{Instance, InstanceState, MAX_INSTANCES, ModifyInstance};
use moorline_shared::id::{ImageName, RoleName, TypeName, ZoneName};
use moorline_shared::{EntryPath, HostId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::instance_data::rules::NewValue;
use crate::model::content::Secrecy;
use crate::model::operation::Effect;
use crate::model::sealing::Sealing;
use crate::model::{Content, Operation};
use crate::services::AnyOp;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Makes instances and has them started.
    RunInstances(Run),
    /// Makes an instance of a VM that somebody else runs.
    RegisterInstance(Register),
    /// Has instances started.
    StartInstances {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Has instances stopped.
    StopInstances {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Has instances rebooted.
    RebootInstances {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Ends instances for good.
    TerminateInstances {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Changes what is known of an instance.
    ModifyInstanceAttribute {
        /// Which.
        instance: InstanceId,
        /// What changes.
        change: ModifyInstance,
    },
    /// Shows instances.
    DescribeInstances(Describe),
    /// Removes a terminated instance with all that was kept of it, some at a time.
    ForgetInstance {
        /// Which.
        instance: InstanceId,
    },
    /// A host says what it offers.
    RegisterHost {
        /// Which.
        host: HostId,
        /// What it offers.
        offer: RegisterHost,
    },
    /// Shows the hosts.
    DescribeHosts {},
    /// A host saw an instance change.
    ReportInstanceState {
        /// Which host.
        host: HostId,
        /// What it saw.
        report: ReportState,
    },
}

/// The parameters of `RunInstances`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What they boot from.
    pub image: ImageName,
    /// How large they are.
    #[serde(rename = "type")]
    pub instance_type: TypeName,
    /// How many.
    pub count: u32,
    /// The host they must be on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The zone they must be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// What they are and begin with.
    #[serde(flatten)]
    pub with: With,
}

/// The parameters of `RegisterInstance`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// Where its VM runs.
    pub host: HostId,
    /// The id it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<InstanceId>,
    /// What it is and begins with.
    #[serde(flatten)]
    pub with: With,
}

/// What new instances are called and begin with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct With {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The roles whose credentials they are given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// Entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<EntryPath, NewValue>,
    /// The secret entries of each instance in turn: they are sealed for it and for no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<BTreeMap<EntryPath, NewValue>>,
}

impl With {
    /// These entries for each of `count` instances, the secrets among them once for each, and nothing else.
    pub fn of_each(count: u32, entries: BTreeMap<EntryPath, PutEntry>) -> Self {
        let entries = entries.into_iter().map(|(path, put)| (path, NewValue::from(put)));
        let (secrets, data): (BTreeMap<_, _>, _) =
            entries.partition(|(_, new)| new.secret == Some(Secrecy::Secret));
        // No more are made than the rules allow, which refuse a larger count.
        let times = if secrets.is_empty() {
            0
        } else {
            count.min(MAX_INSTANCES)
        };
        Self {
            data,
            secrets: vec![secrets; times as usize],
            ..Self::default()
        }
    }

    /// The entries that the instance at this place among those that are made begins with.
    pub fn entries(&self, place: usize) -> impl Iterator<Item = (&EntryPath, &NewValue)> {
        self.data
            .iter()
            .chain(self.secrets.get(place).into_iter().flatten())
    }

    fn all(&mut self) -> impl Iterator<Item = &mut NewValue> {
        let secrets = self.secrets.iter_mut().flat_map(BTreeMap::values_mut);
        self.data.values_mut().chain(secrets)
    }

    /// Offers the entries that all have, which aren't secret, and those of each instance; the only one may have the id
    /// that was `wanted`.
    fn seal(&mut self, wanted: Option<InstanceId>, sealing: &mut Sealing<'_, '_>) {
        let first = wanted.unwrap_or_else(|| sealing.fresh_instance(1));
        for (path, new) in &mut self.data {
            sealing.value(first, path, Some(Secrecy::Open), &mut new.content);
        }
        for (nth, secrets) in (1..).zip(&mut self.secrets) {
            let instance = wanted.unwrap_or_else(|| sealing.fresh_instance(nth));
            for (path, new) in secrets {
                sealing.value(instance, path, new.secret, &mut new.content);
            }
        }
    }
}

/// Which instances to show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Describe {
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
    /// Only those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<InstanceId>,
    /// The most.
    pub limit: u32,
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::RunInstances(_) => "RunInstances",
            Self::RegisterInstance(_) => "RegisterInstance",
            Self::StartInstances { .. } => "StartInstances",
            Self::StopInstances { .. } => "StopInstances",
            Self::RebootInstances { .. } => "RebootInstances",
            Self::TerminateInstances { .. } => "TerminateInstances",
            Self::ModifyInstanceAttribute { .. } => "ModifyInstanceAttribute",
            Self::DescribeInstances { .. } => "DescribeInstances",
            Self::ForgetInstance { .. } => "ForgetInstance",
            Self::RegisterHost { .. } => "RegisterHost",
            Self::DescribeHosts {} => "DescribeHosts",
            Self::ReportInstanceState { .. } => "ReportInstanceState",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::DescribeInstances { .. } | Self::DescribeHosts {} => Effect::Read,
            _ => Effect::Change,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::StartInstances { instances }
            | Self::StopInstances { instances }
            | Self::RebootInstances { instances }
            | Self::TerminateInstances { instances } => instances.clone(),
            Self::ModifyInstanceAttribute { instance, .. } | Self::ForgetInstance { instance } => {
                vec![*instance]
            }
            Self::ReportInstanceState { report, .. } => vec![report.instance],
            Self::RegisterInstance(register) => register.id.into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        let with = match self {
            Self::RunInstances(run) => &mut run.with,
            Self::RegisterInstance(register) => &mut register.with,
            _ => return Vec::new(),
        };
        with.all().map(|new| &mut new.content).collect()
    }

    fn seal(&mut self, sealing: &mut Sealing<'_, '_>) {
        match self {
            Self::RunInstances(run) => run.with.seal(None, sealing),
            Self::RegisterInstance(Register { id, with, .. }) => with.seal(*id, sealing),
            _ => {}
        }
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Instances(op)
    }
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// These were made or changed.
    Changed(Vec<InstanceId>),
    /// These were found.
    Found {
        /// The instances.
        instances: Vec<Instance>,
        /// The last one looked at, if there are more after it.
        next: Option<InstanceId>,
    },
    /// The hosts.
    Hosts(Vec<Host>),
    /// It is recorded.
    Recorded,
}
