//! Instances and hosts as administrators see them.

use moorline_shared::Principal;

use super::checks::{Step, administered, administrator};
use super::operations::{Op, Reply};
use super::records::{HostRecord, InstanceRecord};
use crate::model::{Env, Kept, Page, Record, Role, View};

/// Looks through a page of all instances; a page may show fewer than asked for, and says where the next begins.
pub(super) fn describe(v: &mut View<'_>, env: &Env, op: &Op) -> Step<Reply> {
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

pub(super) fn hosts(v: &mut View<'_>, env: &Env) -> Step<Reply> {
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
