//! New instances: `RunInstances` and `RegisterInstance`.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::hosts::HostStanding;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::id::{ImageName, ZoneName};
use moorline_shared::{HostId, InstanceId, Principal};

use super::checks::{
    MAX_INSTANCES, Step, administrator, bound, check, check_name_of_several, numbered, refuse, size,
};
use super::operations::{Register, Reply, Run, With};
use super::placement::{Need, place};
use super::provider_data;
use super::records::{HostRecord, InstanceRecord};
use super::refusal::{Place, Refusal, in_data, in_data_at};
use crate::identity::enrolment::records::HostIdentity;
use crate::instance_data::rules::{self, Data};
use crate::model::{Env, Kept, Page, View};
use crate::settings::InstanceType;

pub(super) fn run(v: &mut View<'_>, env: &Env, run: &Run) -> Step<Reply> {
    administrator(env)?;
    bound("count", u64::from(run.count), 1, MAX_INSTANCES)?;
    check(&run.with)?;
    if let Some(name) = run.with.name.as_deref().filter(|_| run.count > 1) {
        check_name_of_several(name, run.count)?;
    }
    let size = size(env, &run.instance_type)?;
    let hosts = eligible(v, run)?;
    let placed = place_all(v, env, run, size, hosts)?;
    foresee(v, env, &placed.instances, &run.with, placed.hosts.keys())?;
    for (place, instance) in placed.instances.iter().enumerate() {
        make(v, env, (instance, place), &run.with, "RunInstances")?;
    }
    for host in placed.hosts.values() {
        v.get::<HostRecord>(&host.id)?;
        v.put(host);
    }
    let made = placed.instances.iter().map(|instance| instance.id);
    Ok(Reply::Changed(made.collect()))
}

/// The hosts among which the instances are placed, once what is asked of the place and of the image can be had.
fn eligible(v: &mut View<'_>, run: &Run) -> Step<Vec<HostRecord>> {
    let hosts = v.scan::<HostRecord>(&(), &Page::ALL)?;
    let hosts: Vec<_> = hosts.into_iter().map(Kept::into_inner).collect();
    check_place(&hosts, run)?;
    check_image(&hosts, &run.image)?;
    if let Some(host) = &run.host {
        check_standing(v, host)?;
    }
    Ok(hosts)
}

/// New instances, and the hosts that they go to with that much less room.
struct Placed {
    instances: Vec<InstanceRecord>,
    hosts: BTreeMap<HostId, HostRecord>,
}

/// Finds a host for each of the instances: all or none.
fn place_all(
    v: &mut View<'_>,
    env: &Env,
    run: &Run,
    size: InstanceType,
    mut hosts: Vec<HostRecord>,
) -> Step<Placed> {
    let need = Need {
        image: &run.image,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        host: run.host.as_ref(),
        zone: run.zone.as_ref(),
    };
    let (mut instances, mut used) = (Vec::new(), BTreeMap::new());
    for nth in 1..=run.count {
        let Some(host) = place_where_served(v, &mut hosts, &need)? else {
            return no_room(run, nth, size);
        };
        host.take(size.vcpus, size.memory_mib);
        instances.push(running(v, env, run, nth, size, host));
        used.insert(host.id.clone(), host.clone());
    }
    let hosts = used;
    Ok(Placed { instances, hosts })
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
    for (place, instance) in instances.iter().enumerate() {
        let provider = provider_data::paths(instance, &env.settings);
        let provider = provider.iter().map(|path| (path, None));
        let customer = with.entries(place);
        let customer = customer.map(|(path, new)| (path, Some(&new.content)));
        all = rules::foresee_changes(v, instance.id, provider.chain(customer)).and(all);
    }
    Ok(all?)
}

/// The host with room that the instance goes to. One that is refused would never learn of it.
fn place_where_served<'h>(
    v: &mut View<'_>,
    hosts: &'h mut Vec<HostRecord>,
    need: &Need<'_>,
) -> Step<Option<&'h mut HostRecord>> {
    while let Some(best) = place(hosts, need).map(|host| host.id.clone()) {
        if standing(v, &best)?.is_none() {
            return Ok(place(hosts, need));
        }
        hosts.retain(|host| host.id != best);
    }
    Ok(None)
}

/// How a host stands that is refused.
fn standing(v: &mut View<'_>, host: &HostId) -> Step<Option<HostStanding>> {
    let identity = v.get::<HostIdentity>(host)?;
    let standing = identity.map(|identity| identity.standing);
    Ok(standing.filter(|standing| *standing != HostStanding::Enrolled))
}

fn check_standing(v: &mut View<'_>, host: &HostId) -> Step<()> {
    match standing(v, host)? {
        None => Ok(()),
        Some(standing) => refuse(Refusal::HostRefused {
            host: host.clone(),
            standing,
        }),
    }
}

/// Whether there is such a host, and such a zone, and the host is in the zone.
fn check_place(hosts: &[HostRecord], run: &Run) -> Step<()> {
    let named = match &run.host {
        Some(name) => match hosts.iter().find(|host| host.id == *name) {
            None => return refuse(Refusal::UnknownHost(name.clone())),
            found => found,
        },
        None => None,
    };
    let Some(zone) = &run.zone else { return Ok(()) };
    let zones = hosts.iter().map(|host| &host.offer.zone);
    match named {
        _ if !zones.clone().any(|known| known == zone) => refuse(Refusal::UnknownZone {
            name: zone.clone(),
            known: listed(zones.map(ZoneName::as_str)),
        }),
        Some(host) if host.offer.zone != *zone => refuse(Refusal::ElsewhereZone {
            host: host.id.clone(),
            found: host.offer.zone.clone(),
            wanted: zone.clone(),
        }),
        _ => Ok(()),
    }
}

fn check_image(hosts: &[HostRecord], name: &ImageName) -> Step<()> {
    let known = hosts.iter().flat_map(|host| &host.offer.images);
    if known.clone().any(|known| known == name) {
        return Ok(());
    }
    refuse(Refusal::UnknownImage {
        name: name.clone(),
        known: listed(known.map(ImageName::as_str)),
    })
}

/// Names in their order, each once.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: BTreeSet<_> = names.collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        Vec::from_iter(names).join(", ")
    }
}

fn no_room<T>(run: &Run, nth: u32, size: InstanceType) -> Step<T> {
    refuse(Refusal::NoRoom {
        nth,
        count: run.count,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        image: run.image.clone(),
        place: Place::of(run.host.as_ref(), run.zone.as_ref()),
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
            numbered(name, nth)
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
        roles: run.with.roles.clone(),
        desired: Desired::Running,
        state: InstanceState::Pending,
        reason: None,
        incarnation: 0,
        session_ended_in: None,
        reboots: 0,
        reboots_done: 0,
        created_at: env.now,
    }
}

/// Writes a new instance, the provider's entries and the customer's, as those of the instance at its place.
fn make(
    v: &mut View<'_>,
    env: &Env,
    (instance, place): (&InstanceRecord, usize),
    with: &With,
    api: &'static str,
) -> Step<()> {
    v.put(instance);
    let mut data = Data::of_new(v, env, instance.id, api).map_err(in_data)?;
    provider_data::write(&mut data, instance, &env.settings).map_err(in_data)?;
    for (path, new) in with.entries(place) {
        data.as_caller().put(path, None, new).map_err(in_data_at(path))?;
    }
    data.finish();
    Ok(())
}

pub(super) fn register(v: &mut View<'_>, env: &Env, register: &Register) -> Step<Reply> {
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
    make(v, env, (&instance, 0), &register.with, "RegisterInstance")?;
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
        roles: register.with.roles.clone(),
        desired: Desired::Running,
        state: InstanceState::Pending,
        reason: None,
        incarnation: 0,
        session_ended_in: None,
        reboots: 0,
        reboots_done: 0,
        created_at: env.now,
    }
}
