//! Instances and hosts as administrators see them.

use std::collections::BTreeMap;

use moorline_shared::Principal;

use super::checks::{Step, administered, administrator};
use super::operations::{Describe, Reply};
use super::records::{HostRecord, InstanceRecord};
use crate::identity::enrolment::records::HostIdentity;
use crate::model::{Env, Page, Record, Role, View};

/// Looks through a page of all instances; a page may show fewer than asked for, and says where the next begins.
pub(super) fn describe(v: &mut View<'_>, env: &Env, which: &Describe) -> Step<Reply> {
    administrator(env)?;
    if let Some(id) = which.instance {
        let found = administered(v, env, id)?;
        let revision = found.revision;
        return Ok(Reply::Found {
            instances: vec![found.into_inner().shown(revision)],
            next: None,
        });
    }
    let limit = which.limit as usize;
    let page = Page {
        after: which.after.as_ref().map(InstanceRecord::key),
        limit,
    };
    let found = v.scan::<InstanceRecord>(&(), &page)?;
    let next = found.last().filter(|_| found.len() == limit).map(|last| last.id);
    let instances = found
        .into_iter()
        .filter(|instance| is_wanted(instance, env, which))
        .map(|i| (i.revision, i))
        .map(|(r, i)| i.into_inner().shown(r));
    Ok(Reply::Found {
        instances: instances.collect(),
        next,
    })
}

fn is_wanted(instance: &InstanceRecord, env: &Env, which: &Describe) -> bool {
    (env.caller.role == Role::Provider || instance.account == env.caller.account)
        && (which.name.is_none() || instance.name == which.name)
        && which.host.as_ref().is_none_or(|host| instance.host == *host)
        && which.state.is_none_or(|state| instance.state == state)
}

pub(super) fn hosts(v: &mut View<'_>, env: &Env) -> Step<Reply> {
    if !matches!(env.caller.principal, Principal::Host(_)) {
        administrator(env)?;
    }
    let hosts = v.scan::<HostRecord>(&(), &Page::ALL)?;
    let identities = v.scan::<HostIdentity>(&(), &Page::ALL)?;
    let identities: BTreeMap<_, _> = identities.iter().map(|known| (&known.host, &**known)).collect();
    let shown = hosts.into_iter().map(|host| {
        let identity = identities.get(&host.id).copied();
        let revision = host.revision;
        host.into_inner().shown(revision, identity)
    });
    Ok(Reply::Hosts(shown.collect()))
}
