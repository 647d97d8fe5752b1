//! What hosts say: what they offer, and what they saw happen to their instances.

use moorline_shared::api::hosts::{MAX_HOST_MEMORY_MIB, MAX_HOST_VCPUS, RegisterHost, ReportState};
use moorline_shared::api::instances::InstanceState;
use moorline_shared::{HostId, Principal};

use super::checks::{Step, bound, count, refuse, speaks_for};
use super::lifecycle::Report;
use super::operations::Reply;
use super::records::{HostRecord, InstanceRecord};
use super::refusal::Refusal;
use super::{end, lifecycle};
use crate::identity::rules::groups::leave_all;
use crate::model::{Env, View};

/// The most images that a host offers.
const MAX_IMAGES: u64 = 1_000;
/// The longest reason of a report, in bytes.
const MAX_REASON_BYTES: u64 = 512;

pub(super) fn register_host(v: &mut View<'_>, env: &Env, host: &HostId, offer: &RegisterHost) -> Step<Reply> {
    speaks_for(env, host)?;
    count("images", offer.images.len(), 0, MAX_IMAGES)?;
    bound("vcpus", offer.vcpus.into(), 0, MAX_HOST_VCPUS.into())?;
    bound("memory_mib", offer.memory_mib, 0, MAX_HOST_MEMORY_MIB)?;
    let known = v.get::<HostRecord>(host)?;
    let mut record = known.as_deref().cloned().unwrap_or_else(|| HostRecord {
        id: host.clone(),
        offer: offer.clone(),
        used_vcpus: 0,
        used_memory_mib: 0,
        instances: 0,
        created_at: env.now,
    });
    if record.instances > 0 && record.offer.zone != offer.zone {
        return refuse(Refusal::ZoneTaken {
            host: host.clone(),
            zone: record.offer.zone,
            instances: record.instances,
        });
    }
    record.offer = offer.clone();
    if known.as_deref() != Some(&record) {
        v.put(&record);
    }
    Ok(Reply::Recorded)
}

pub(super) fn report_state(v: &mut View<'_>, env: &Env, host: &HostId, report: &ReportState) -> Step<Reply> {
    speaks_for(env, host)?;
    let found = report.reason.as_ref().map_or(0, String::len) as u64;
    if found > MAX_REASON_BYTES {
        let most = MAX_REASON_BYTES;
        return refuse(Refusal::ReasonTooLong { found, most });
    }
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
    match lifecycle::judge(&old, report.state) {
        Report::News => {}
        Report::Late => return Ok(Reply::Recorded),
        Report::NotAsked => return refuse(Refusal::NotAsked(report.instance)),
    }
    let new = after(&old, report);
    if new == *old {
        return Ok(Reply::Recorded);
    }
    if new.state == InstanceState::Terminated && old.state != InstanceState::Terminated {
        ended(v, env, &new)?;
    }
    v.put(&new);
    Ok(Reply::Recorded)
}

/// The instance as it is once its host has reported this.
fn after(old: &InstanceRecord, report: &ReportState) -> InstanceRecord {
    let mut new = old.clone();
    new.state = lifecycle::reported(old, report.state);
    new.incarnation = report.incarnation;
    new.reboots_done = new.reboots_done.max(report.reboots.min(new.reboots));
    new.reason.clone_from(&report.reason);
    new
}

/// Gives the room of a terminated instance back, takes it out of its groups, and has what is kept of it removed after a
/// while.
fn ended(v: &mut View<'_>, env: &Env, instance: &InstanceRecord) -> Step<()> {
    if let Some(host) = v.get::<HostRecord>(&instance.host)? {
        let mut host = host.into_inner();
        host.give_back(instance.vcpus, instance.memory_mib);
        v.put(&host);
    }
    leave_all(v, &Principal::Instance(instance.id))?;
    end::later(v, env, instance.id);
    Ok(())
}
