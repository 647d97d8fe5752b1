//! What becomes of a terminated instance: its data are purged, and at last it is forgotten.

use moorline_shared::{InstanceId, Principal, Timestamp};

use super::checks::Step;
use super::operations::{Op, Reply};
use super::records::InstanceRecord;
use super::refusal::in_data;
use crate::identity::directory::MembershipRecord;
use crate::identity::rules::groups::leave_all;
use crate::instance_data;
use crate::instance_data::rules::{Data, Progress};
use crate::model::{Env, Intent, View};
use crate::services::AnyOp;

/// Has the data of an instance that ended purged after they were kept for a while, and the instance forgotten after
/// it was shown for a longer one.
pub(super) fn later(v: &mut View<'_>, env: &Env, instance: InstanceId) {
    let purge = instance_data::Op::PurgeInstanceData { instance };
    let forget = Op::ForgetInstance { instance };
    let settings = &env.settings;
    submit(
        v,
        env.now.plus_seconds(settings.keep_terminated.seconds()),
        purge.into(),
    );
    submit(
        v,
        env.now.plus_seconds(settings.keep_terminated_history.seconds()),
        forget.into(),
    );
}

fn submit(v: &mut View<'_>, due: Timestamp, submit: AnyOp) {
    v.later(Intent { due, submit });
}

/// Removes some of what is kept of a terminated instance, and has the rest removed later. The instance goes last.
pub(super) fn forget(v: &mut View<'_>, env: &Env, id: InstanceId) -> Step<Reply> {
    let found = v.get::<InstanceRecord>(&id)?;
    if found.is_none_or(|instance| !instance.has_ended()) {
        return Ok(Reply::Recorded);
    }
    let mut data = Data::open(v, env, id, "ForgetInstance").map_err(in_data)?;
    match data.forget().map_err(in_data)? {
        Progress::Done => {
            leave_all(v, &Principal::Instance(id))?;
            v.delete_fence::<MembershipRecord>(&Principal::Instance(id));
            v.delete::<InstanceRecord>(&id);
        }
        Progress::Partly => submit(v, env.now, Op::ForgetInstance { instance: id }.into()),
    }
    Ok(Reply::Recorded)
}
