//! Instances that exist are started, stopped, rebooted, terminated, described otherwise, made larger or smaller.

use moorline_shared::InstanceId;
use moorline_shared::api::instances::{InstanceState, ModifyInstance};
use moorline_shared::id::TypeName;

use super::checks::{
    MAX_INSTANCES, MAX_TAGS, Step, administered, check_name, check_roles, count, refuse, size,
};
use super::lifecycle::{self, Ask, Never};
use super::operations::Reply;
use super::placement::{Need, place};
use super::provider_data;
use super::records::{HostRecord, InstanceRecord};
use super::refusal::{Refusal, in_data};
use crate::instance_data::rules::Data;
use crate::model::{Env, Stop, View};

pub(super) fn ask_all(v: &mut View<'_>, env: &Env, instances: &[InstanceId], ask: Ask) -> Step<Reply> {
    count("instances", instances.len(), 1, MAX_INSTANCES)?;
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

pub(super) fn modify(v: &mut View<'_>, env: &Env, id: InstanceId, change: &ModifyInstance) -> Step<Reply> {
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
        count("tags", tags.len(), 0, MAX_TAGS)?;
        instance.tags.clone_from(tags);
    }
    if let Some(roles) = &change.roles {
        check_roles(roles)?;
        instance.roles.clone_from(roles);
    }
    if let Some(name) = &change.instance_type {
        resize(v, env, &mut instance, name)?;
    }
    v.put(&instance);
    let mut data = Data::open(v, env, id, "ModifyInstanceAttribute").map_err(in_data)?;
    provider_data::write(&mut data, &instance, &env.settings).map_err(in_data)?;
    data.finish();
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
        return refuse(Refusal::NoRoomToGrow {
            instance: instance.id,
            host: instance.host.clone(),
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
        });
    };
    host.take(size.vcpus, size.memory_mib);
    v.put(&*host);
    (instance.vcpus, instance.memory_mib, instance.instance_type) =
        (size.vcpus, size.memory_mib, Some(name.clone()));
    Ok(())
}
