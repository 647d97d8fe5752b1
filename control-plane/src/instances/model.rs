//! The operations on instances and hosts.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::access::Tag;
use moorline_shared::api::ProblemDetails;
use moorline_shared::api::hosts::{Host, RegisterHost, ReportState};
use moorline_shared::api::instances::{Desired, Driver, Instance, InstanceState, ModifyInstance};
use moorline_shared::id::{ImageName, TypeName, ZoneName};
use moorline_shared::{EntryPath, HostId, InstanceId, Principal};
use serde::{Deserialize, Serialize};

use super::lifecycle::{self, Ask, Never};
use super::placement::{Need, place};
use super::provider_data;
use super::records::{HostRecord, InstanceRecord};
use crate::instance_data;
use crate::instance_data::rules::{self, Data, NewValue};
use crate::model::operation::Effect;
use crate::model::{
    Content, Env, Intent, Kept, Operation, Page, Problem, Record, Role, ServiceModel, Stop, View,
};
use crate::services::AnyOp;
use crate::settings::InstanceType;

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
    DescribeInstances {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
        /// Only those with this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Only those on this host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostId>,
        /// Only those in this state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<InstanceState>,
        /// Only those after this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<InstanceId>,
        /// The most.
        limit: u32,
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
    /// Entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<EntryPath, NewValue>,
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
            Self::ModifyInstanceAttribute { instance, .. } => vec![*instance],
            Self::ReportInstanceState { report, .. } => vec![report.instance],
            Self::RegisterInstance(register) => register.id.into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        let data = match self {
            Self::RunInstances(run) => &mut run.with.data,
            Self::RegisterInstance(register) => &mut register.with.data,
            _ => return Vec::new(),
        };
        data.values_mut().map(|new| &mut new.content).collect()
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
    Data(instance_data::model::Refusal),
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

/// The rules for instances and hosts.
#[derive(Clone, Copy, Debug)]
pub struct Model;

type Step<T> = Result<T, Stop<Refusal>>;

/// The most instances of one request.
pub const MAX_INSTANCES: u64 = 100;
/// The most tags of an instance.
pub const MAX_TAGS: u64 = 50;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::RunInstances(params) => run(v, env, params),
            Op::RegisterInstance(params) => register(v, env, params),
            Op::StartInstances { instances } => ask_all(v, env, instances, Ask::Start),
            Op::StopInstances { instances } => ask_all(v, env, instances, Ask::Stop),
            Op::RebootInstances { instances } => ask_all(v, env, instances, Ask::Reboot),
            Op::TerminateInstances { instances } => ask_all(v, env, instances, Ask::Terminate),
            Op::ModifyInstanceAttribute { instance, change } => modify(v, env, *instance, change),
            Op::DescribeInstances { .. } => describe(v, env, op),
            Op::RegisterHost { host, offer } => register_host(v, env, host, offer),
            Op::DescribeHosts {} => hosts(v, env),
            Op::ReportInstanceState { host, report } => report_state(v, env, host, report),
        }
    }

    /// Nothing of this service is in the outbox: hosts do what is wanted, and report.
    fn predict(&self, _: &mut View<'_>, _: &Intent, _: &Env) -> Step<Vec<(u64, AnyOp)>> {
        Ok(Vec::new())
    }
}

fn refuse<T>(refusal: Refusal) -> Step<T> {
    Err(Stop::Refused(refusal))
}

fn administrator(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Administrator | Role::Provider => Ok(()),
        Role::Member => refuse(Refusal::NotAdministrator(env.caller.principal.clone())),
    }
}

fn bound(field: &'static str, found: u64, least: u64, most: u64) -> Step<()> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        refuse(Refusal::Bound {
            field,
            found,
            least,
            most,
        })
    }
}

fn check(with: &With) -> Step<()> {
    bound("tags", with.tags.len() as u64, 0, MAX_TAGS)?;
    with.name.as_deref().map_or(Ok(()), check_name)
}

fn check_name(name: &str) -> Step<()> {
    let valid = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control);
    if valid {
        Ok(())
    } else {
        refuse(Refusal::Name(name.len()))
    }
}

fn size(env: &Env, name: &TypeName) -> Step<InstanceType> {
    if let Some(found) = env.settings.types.get(name) {
        Ok(*found)
    } else {
        let known: Vec<_> = env.settings.types.keys().map(TypeName::as_str).collect();
        refuse(Refusal::UnknownType {
            name: name.clone(),
            known: known.join(", "),
        })
    }
}

fn run(v: &mut View<'_>, env: &Env, run: &Run) -> Step<Reply> {
    administrator(env)?;
    bound("count", u64::from(run.count), 1, MAX_INSTANCES)?;
    check(&run.with)?;
    let size = size(env, &run.instance_type)?;
    let mut hosts: Vec<_> = v
        .scan::<HostRecord>(&(), &Page::ALL)?
        .into_iter()
        .map(Kept::into_inner)
        .collect();
    if let Some(host) = run
        .host
        .as_ref()
        .filter(|host| !hosts.iter().any(|h| h.id == **host))
    {
        return refuse(Refusal::UnknownHost(host.clone()));
    }
    check_image(&hosts, &run.image)?;
    let (mut instances, mut used) = (Vec::new(), BTreeMap::new());
    for nth in 1..=run.count {
        let need = Need {
            image: &run.image,
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
            host: run.host.as_ref(),
            zone: run.zone.as_ref(),
        };
        let Some(host) = place(&mut hosts, &need) else {
            return no_room(run, nth, size);
        };
        host.take(size.vcpus, size.memory_mib);
        used.insert(host.id.clone(), host.clone());
        let host = host.clone();
        instances.push(running(v, env, run, nth, size, &host));
    }
    foresee(v, env, &instances, &run.with, used.keys())?;
    for instance in &instances {
        make(v, env, instance, &run.with, "RunInstances")?;
    }
    for host in used.values() {
        v.get::<HostRecord>(&host.id)?;
        v.put(host);
    }
    Ok(Reply::Changed(
        instances.iter().map(|instance| instance.id).collect(),
    ))
}

/// Has at hand what is read when new instances are made.
fn foresee<'h>(
    v: &mut View<'_>,
    env: &Env,
    instances: &[InstanceRecord],
    with: &With,
    hosts: impl Iterator<Item = &'h HostId>,
) -> Step<()> {
    let mut all = v.foresee::<HostRecord>(hosts.cloned());
    for instance in instances {
        let provider = provider_data::paths(instance, &env.settings);
        let provider = provider.iter().map(|path| (path, None));
        let customer = with.data.iter().map(|(path, new)| (path, Some(&new.content)));
        all = rules::foresee_changes(v, instance.id, provider.chain(customer)).and(all);
    }
    Ok(all?)
}

fn check_image(hosts: &[HostRecord], name: &ImageName) -> Step<()> {
    let known: BTreeSet<_> = hosts
        .iter()
        .flat_map(|host| &host.offer.images)
        .map(ImageName::as_str)
        .collect();
    if known.contains(name.as_str()) {
        return Ok(());
    }
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        Vec::from_iter(known).join(", ")
    };
    refuse(Refusal::UnknownImage {
        name: name.clone(),
        known,
    })
}

fn no_room<T>(run: &Run, nth: u32, size: InstanceType) -> Step<T> {
    let host = run.host.as_ref().map(|host| format!(", on host {host}"));
    let zone = run.zone.as_ref().map(|zone| format!(", in zone {zone}"));
    refuse(Refusal::NoRoom {
        nth,
        count: run.count,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        image: run.image.clone(),
        place: host.or(zone).unwrap_or_default(),
    })
}

fn running(
    v: &mut View<'_>,
    env: &Env,
    run: &Run,
    nth: u32,
    size: InstanceType,
    host: &HostRecord,
) -> InstanceRecord {
    let name = run.with.name.as_ref().map(|name| {
        if run.count == 1 {
            name.clone()
        } else {
            format!("{name}-{nth}")
        }
    });
    InstanceRecord {
        id: v.fresh_instance(),
        account: env.caller.account.clone(),
        name,
        host: host.id.clone(),
        zone: host.offer.zone.clone(),
        driver: Driver::Qemu,
        image: Some(run.image.clone()),
        instance_type: Some(run.instance_type.clone()),
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        tags: run.with.tags.clone(),
        desired: Desired::Running,
        state: InstanceState::Pending,
        reason: None,
        incarnation: 0,
        reboots: 0,
        reboots_done: 0,
        created_at: env.now,
    }
}

/// Writes a new instance, the provider's entries and the customer's.
fn make(v: &mut View<'_>, env: &Env, instance: &InstanceRecord, with: &With, api: &'static str) -> Step<()> {
    v.put(instance);
    let mut data = Data::of_new(v, env, instance.id, api).map_err(in_data)?;
    provider_data::write(&mut data, instance, &env.settings).map_err(in_data)?;
    for (path, new) in &with.data {
        data.as_caller().put(path, None, new).map_err(in_data)?;
    }
    Ok(())
}

fn in_data(stop: Stop<instance_data::model::Refusal>) -> Stop<Refusal> {
    match stop {
        Stop::Refused(refusal) => Stop::Refused(Refusal::Data(refusal)),
        Stop::Load(load) => Stop::Load(load),
    }
}

fn register(v: &mut View<'_>, env: &Env, register: &Register) -> Step<Reply> {
    if env.caller.principal != Principal::Host(register.host.clone()) {
        administrator(env)?;
    }
    check(&register.with)?;
    let Some(host) = v.get::<HostRecord>(&register.host)? else {
        return refuse(Refusal::UnknownHost(register.host.clone()));
    };
    let id = register.id.unwrap_or_else(|| v.fresh_instance());
    if v.get::<InstanceRecord>(&id)?.is_some() {
        return refuse(Refusal::Exists(id));
    }
    let mut host = host.into_inner();
    host.take(0, 0);
    let instance = external(env, id, register, &host);
    v.put(&host);
    foresee(
        v,
        env,
        std::slice::from_ref(&instance),
        &register.with,
        std::iter::empty(),
    )?;
    make(v, env, &instance, &register.with, "RegisterInstance")?;
    Ok(Reply::Changed(vec![id]))
}

fn external(env: &Env, id: InstanceId, register: &Register, host: &HostRecord) -> InstanceRecord {
    InstanceRecord {
        id,
        account: env.caller.account.clone(),
        name: register.with.name.clone(),
        host: host.id.clone(),
        zone: host.offer.zone.clone(),
        driver: Driver::External,
        image: None,
        instance_type: None,
        vcpus: 0,
        memory_mib: 0,
        tags: register.with.tags.clone(),
        desired: Desired::Running,
        state: InstanceState::Pending,
        reason: None,
        incarnation: 0,
        reboots: 0,
        reboots_done: 0,
        created_at: env.now,
    }
}

/// The instance, if the caller administers it.
fn administered(v: &mut View<'_>, env: &Env, id: InstanceId) -> Step<Kept<InstanceRecord>> {
    administrator(env)?;
    let found = v.get::<InstanceRecord>(&id)?;
    let mine =
        |i: &Kept<InstanceRecord>| env.caller.role == Role::Provider || i.account == env.caller.account;
    found
        .filter(mine)
        .map_or_else(|| refuse(Refusal::UnknownInstance(id)), Ok)
}

fn ask_all(v: &mut View<'_>, env: &Env, instances: &[InstanceId], ask: Ask) -> Step<Reply> {
    bound("instances", instances.len() as u64, 1, MAX_INSTANCES)?;
    v.foresee::<InstanceRecord>(instances.iter().copied())?;
    for id in instances {
        let old = administered(v, env, *id)?;
        let mut new = InstanceRecord::clone(&old);
        lifecycle::ask(&mut new, ask).map_err(|why| Stop::Refused(Refusal::Never { instance: *id, why }))?;
        if new != *old {
            v.put(&new);
        }
    }
    Ok(Reply::Changed(instances.to_vec()))
}

fn modify(v: &mut View<'_>, env: &Env, id: InstanceId, change: &ModifyInstance) -> Step<Reply> {
    let mut instance = administered(v, env, id)?.into_inner();
    if instance.is_terminated() {
        return refuse(Refusal::Never {
            instance: id,
            why: Never::Terminated,
        });
    }
    if let Some(name) = &change.name {
        check_name(name)?;
        instance.name = Some(name.clone());
    }
    if let Some(tags) = &change.tags {
        bound("tags", tags.len() as u64, 0, MAX_TAGS)?;
        instance.tags.clone_from(tags);
    }
    if let Some(name) = &change.instance_type {
        resize(v, env, &mut instance, name)?;
    }
    v.put(&instance);
    let mut data = Data::open(v, env, id, "ModifyInstanceAttribute").map_err(in_data)?;
    provider_data::write(&mut data, &instance, &env.settings).map_err(in_data)?;
    Ok(Reply::Changed(vec![id]))
}

fn resize(v: &mut View<'_>, env: &Env, instance: &mut InstanceRecord, name: &TypeName) -> Step<()> {
    if instance.state != InstanceState::Stopped {
        return refuse(Refusal::NotStopped(instance.id));
    }
    let size = size(env, name)?;
    let Some(image) = instance.image.clone() else {
        return refuse(Refusal::Never {
            instance: instance.id,
            why: Never::External,
        });
    };
    let Some(host) = v.get::<HostRecord>(&instance.host)? else {
        return refuse(Refusal::UnknownHost(instance.host.clone()));
    };
    let mut hosts = [host.into_inner()];
    hosts[0].give_back(instance.vcpus, instance.memory_mib);
    let need = Need {
        image: &image,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        host: None,
        zone: None,
    };
    let Some(host) = place(&mut hosts, &need) else {
        let (vcpus, memory_mib, place) = (
            size.vcpus,
            size.memory_mib,
            format!(", on host {}", instance.host),
        );
        return refuse(Refusal::NoRoom {
            nth: 1,
            count: 1,
            vcpus,
            memory_mib,
            image,
            place,
        });
    };
    host.take(size.vcpus, size.memory_mib);
    v.put(&*host);
    (instance.vcpus, instance.memory_mib, instance.instance_type) =
        (size.vcpus, size.memory_mib, Some(name.clone()));
    Ok(())
}

/// Looks through a page of all instances; a page may show fewer than asked for, and says where the next begins.
fn describe(v: &mut View<'_>, env: &Env, op: &Op) -> Step<Reply> {
    let Op::DescribeInstances {
        instance,
        name,
        host,
        state,
        after,
        limit,
    } = op
    else {
        return Ok(Reply::Recorded);
    };
    administrator(env)?;
    if let Some(id) = instance {
        let found = administered(v, env, *id)?;
        let revision = found.revision;
        return Ok(Reply::Found {
            instances: vec![found.into_inner().shown(revision)],
            next: None,
        });
    }
    let limit = *limit as usize;
    let page = Page {
        after: after.as_ref().map(InstanceRecord::key),
        limit,
    };
    let found = v.scan::<InstanceRecord>(&(), &page)?;
    let next = found.last().filter(|_| found.len() == limit).map(|last| last.id);
    let wanted = |i: &Kept<InstanceRecord>| {
        (env.caller.role == Role::Provider || i.account == env.caller.account)
            && name.as_ref().is_none_or(|name| i.name.as_ref() == Some(name))
            && host.as_ref().is_none_or(|host| i.host == *host)
            && state.is_none_or(|state| i.state == state)
    };
    let instances = found
        .into_iter()
        .filter(wanted)
        .map(|i| (i.revision, i))
        .map(|(r, i)| i.into_inner().shown(r));
    Ok(Reply::Found {
        instances: instances.collect(),
        next,
    })
}

fn speaks_for(env: &Env, host: &HostId) -> Step<()> {
    if env.caller.principal == Principal::Host(host.clone()) {
        return Ok(());
    }
    refuse(Refusal::NotTheHost {
        caller: env.caller.principal.clone(),
        host: host.clone(),
    })
}

fn register_host(v: &mut View<'_>, env: &Env, host: &HostId, offer: &RegisterHost) -> Step<Reply> {
    speaks_for(env, host)?;
    bound("images", offer.images.len() as u64, 0, 1_000)?;
    let known = v.get::<HostRecord>(host)?;
    let mut record = known.as_deref().cloned().unwrap_or_else(|| HostRecord {
        id: host.clone(),
        offer: offer.clone(),
        used_vcpus: 0,
        used_memory_mib: 0,
        instances: 0,
        created_at: env.now,
    });
    record.offer = offer.clone();
    if known.as_deref() != Some(&record) {
        v.put(&record);
    }
    Ok(Reply::Recorded)
}

fn hosts(v: &mut View<'_>, env: &Env) -> Step<Reply> {
    if !matches!(env.caller.principal, Principal::Host(_)) {
        administrator(env)?;
    }
    let hosts = v.scan::<HostRecord>(&(), &Page::ALL)?;
    Ok(Reply::Hosts(
        hosts
            .into_iter()
            .map(|host| (host.revision, host))
            .map(|(r, h)| h.into_inner().shown(r))
            .collect(),
    ))
}

fn report_state(v: &mut View<'_>, env: &Env, host: &HostId, report: &ReportState) -> Step<Reply> {
    speaks_for(env, host)?;
    bound(
        "reason",
        report.reason.as_ref().map_or(0, String::len) as u64,
        0,
        512,
    )?;
    let Some(old) = v
        .get::<InstanceRecord>(&report.instance)?
        .filter(|i| i.host == *host)
    else {
        return refuse(Refusal::NotHere {
            instance: report.instance,
            host: host.clone(),
        });
    };
    if report.incarnation < old.incarnation {
        let (found, known) = (report.incarnation, old.incarnation);
        return refuse(Refusal::OldReport {
            instance: report.instance,
            found,
            known,
        });
    }
    if !lifecycle::may_report(&old, report.state) {
        return Ok(Reply::Recorded);
    }
    let mut new = InstanceRecord::clone(&old);
    new.state = lifecycle::reported(&old, report.state);
    new.incarnation = report.incarnation;
    new.reboots_done = new.reboots_done.max(report.reboots.min(new.reboots));
    new.reason.clone_from(&report.reason);
    if new == *old {
        return Ok(Reply::Recorded);
    }
    if new.state == InstanceState::Terminated && old.state != InstanceState::Terminated {
        end(v, env, &new)?;
    }
    v.put(&new);
    Ok(Reply::Recorded)
}

/// Gives the room of a terminated instance back, and has its data purged after they were kept for a while.
fn end(v: &mut View<'_>, env: &Env, instance: &InstanceRecord) -> Step<()> {
    if let Some(host) = v.get::<HostRecord>(&instance.host)? {
        let mut host = host.into_inner();
        host.give_back(instance.vcpus, instance.memory_mib);
        v.put(&host);
    }
    let due = env.now.plus_seconds(env.settings.keep_terminated.seconds());
    let purge = instance_data::Op::PurgeInstanceData {
        instance: instance.id,
    };
    v.later(Intent {
        due,
        submit: purge.into(),
    });
    Ok(())
}
