//! What several operations check before they do anything.

use std::collections::BTreeSet;

use moorline_shared::credential::MAX_ROLES;
use moorline_shared::id::{RoleName, TypeName};
use moorline_shared::{HostId, InstanceId, Principal};

use super::operations::With;
use super::records::InstanceRecord;
use super::refusal::Refusal;
use crate::model::{Env, Kept, Role, Stop, View};
use crate::settings::InstanceType;

/// What an operation on instances comes to.
pub(super) type Step<T> = Result<T, Stop<Refusal>>;

/// The most instances of one request.
pub(super) const MAX_INSTANCES: u64 = moorline_shared::api::instances::MAX_INSTANCES as u64;

/// The longest name of an instance, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 128;

/// The most tags of an instance.
pub(super) const MAX_TAGS: u64 = 50;

pub(super) fn refuse<T>(refusal: Refusal) -> Step<T> {
    Err(Stop::Refused(refusal))
}

pub(super) fn administrator(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Administrator | Role::Provider => Ok(()),
        Role::Member => refuse(Refusal::NotAdministrator(env.caller.clone())),
    }
}

pub(super) fn bound(field: &'static str, found: u64, least: u64, most: u64) -> Step<()> {
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

/// Bounds how many there are of something.
pub(super) fn count(field: &'static str, found: usize, least: u64, most: u64) -> Step<()> {
    let found = found as u64;
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        refuse(Refusal::Count {
            field,
            found,
            least,
            most,
        })
    }
}

pub(super) fn check(with: &With) -> Step<()> {
    count("tags", with.tags.len(), 0, MAX_TAGS)?;
    check_roles(&with.roles)?;
    with.name.as_deref().map_or(Ok(()), check_name)
}

pub(super) fn check_roles(roles: &BTreeSet<RoleName>) -> Step<()> {
    count("roles", roles.len(), 0, MAX_ROLES as u64)
}

pub(super) fn check_name(name: &str) -> Step<()> {
    check_name_within(name, MAX_NAME_BYTES)
}

/// Checks the name of several instances, each of which gets its number behind it.
pub(super) fn check_name_of_several(name: &str, count: u32) -> Step<()> {
    check_name_within(name, MAX_NAME_BYTES - numbered("", count).len())
}

/// The name of the `nth` of several instances.
pub(super) fn numbered(name: &str, nth: u32) -> String {
    format!("{name}-{nth}")
}

fn check_name_within(name: &str, most: usize) -> Step<()> {
    let found = name.len();
    let valid = (1..=most).contains(&found) && !name.chars().any(char::is_control);
    if valid {
        Ok(())
    } else {
        refuse(Refusal::Name { found, most })
    }
}

pub(super) fn size(env: &Env, name: &TypeName) -> Step<InstanceType> {
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

/// The instance, if the caller administers it.
pub(super) fn administered(v: &mut View<'_>, env: &Env, id: InstanceId) -> Step<Kept<InstanceRecord>> {
    administrator(env)?;
    let found = v.get::<InstanceRecord>(&id)?;
    let mine =
        |i: &Kept<InstanceRecord>| env.caller.role == Role::Provider || i.account == env.caller.account;
    found
        .filter(mine)
        .map_or_else(|| refuse(Refusal::UnknownInstance(id)), Ok)
}

pub(super) fn speaks_for(env: &Env, host: &HostId) -> Step<()> {
    if env.caller.principal == Principal::Host(host.clone()) {
        return Ok(());
    }
    refuse(Refusal::NotTheHost {
        caller: env.caller.principal.clone(),
        host: host.clone(),
    })
}
