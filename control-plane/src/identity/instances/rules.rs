//! The rules for instances' sessions: who may have one, when it ends, and what it is signed with.

use moorline_shared::{InstanceId, Principal};

use super::operations::{Reply, Wanted};
use super::refusal::Refusal;
use super::{SESSION_SECONDS, TOKEN_SECONDS};
use crate::identity::operations::NewSession;
use crate::identity::public_key::PublicKey;
use crate::identity::records::{InstancePart, SessionPurpose, SessionRecord};
use crate::identity::rules::sessions;
use crate::identity::token::SessionId;
use crate::instances::records::InstanceRecord;
use crate::model::{Env, Kept, Page, Stop, View};

/// What an operation on instances' sessions comes to.
pub(super) type Step<T> = Result<T, Stop<Refusal>>;

/// A session with less than this many seconds left gives no further token: the next one begins beside it.
const LAST_SECONDS: u32 = 2 * TOKEN_SECONDS;

pub(super) fn refuse<T>(refusal: Refusal) -> Step<T> {
    Err(Stop::Refused(refusal))
}

/// The session that gives the instance its next token, if there is one.
pub(super) fn find(v: &mut View<'_>, env: &Env, wanted: &Wanted) -> Step<Reply> {
    may_ask(v, env, wanted)?;
    let all = all(v, wanted.instance)?;
    let found = all.into_iter().find(|session| serves(session, env, wanted));
    Ok(Reply::Session(
        found.map(|session| Box::new(session.into_inner())),
    ))
}

/// Begins the session, unless there is one, and ends those that it takes the place of.
pub(super) fn create(v: &mut View<'_>, env: &Env, wanted: &Wanted) -> Step<Reply> {
    let instance = may_ask(v, env, wanted)?;
    let mut found = None;
    for session in all(v, wanted.instance)? {
        if serves(&session, env, wanted) {
            found = Some(session.into_inner());
        } else if is_ended(&session, wanted) {
            sessions::revoke(v, env, &session);
        } else if is_lapsed(&session, env) {
            // Nothing of it is good any more, so that nobody need be told.
            v.delete_kept(&session);
        }
    }
    if let Some(session) = found {
        return Ok(Reply::Session(Some(Box::new(session))));
    }
    let new = NewSession {
        principal: Principal::Instance(instance.id),
        directory: "instances".parse().expect("this is a name"),
        account: instance.account.clone(),
        purpose: SessionPurpose::Instance(InstancePart {
            incarnation: wanted.incarnation,
            identify_by: Some(env.now.plus_seconds(env.settings.identify_within.seconds())),
            identified: None,
            public_key: None,
        }),
        client: None,
        lifetime: SESSION_SECONDS,
    };
    let (session, _) = sessions::begin(v, env, &new).map_err(of_sessions)?;
    Ok(Reply::Session(Some(Box::new(session))))
}

/// The instance, if its host asks for a life of its VM that is the present one or a later one.
fn may_ask(v: &mut View<'_>, env: &Env, wanted: &Wanted) -> Step<Kept<InstanceRecord>> {
    if env.caller.principal != Principal::Host(wanted.host.clone()) {
        return refuse(Refusal::NotTheHost {
            caller: env.caller.principal.clone(),
            host: wanted.host.clone(),
        });
    }
    let found = v.get::<InstanceRecord>(&wanted.instance)?;
    let Some(instance) = found.filter(|instance| instance.host == wanted.host) else {
        return refuse(Refusal::NotHere {
            instance: wanted.instance,
            host: wanted.host.clone(),
        });
    };
    if instance.is_terminated() {
        return refuse(Refusal::Terminated(wanted.instance));
    }
    let sessions = all(v, wanted.instance)?;
    let latest = sessions
        .iter()
        .filter_map(|session| part(session))
        .map(|part| part.incarnation);
    let known = latest.max().unwrap_or(0).max(instance.incarnation);
    if wanted.incarnation < known {
        return refuse(Refusal::EarlierLife {
            instance: wanted.instance,
            found: wanted.incarnation,
            known,
        });
    }
    if instance.session_ended_in == Some(wanted.incarnation) {
        return refuse(Refusal::Ended {
            instance: wanted.instance,
            incarnation: wanted.incarnation,
        });
    }
    Ok(instance)
}

fn all(v: &mut View<'_>, instance: InstanceId) -> Step<Vec<Kept<SessionRecord>>> {
    Ok(v.scan::<SessionRecord>(&Principal::Instance(instance), &Page::ALL)?)
}

fn part(session: &SessionRecord) -> Option<&InstancePart> {
    match &session.purpose {
        SessionPurpose::Instance(part) => Some(part),
        _ => None,
    }
}

/// Whether a further token can be of this session.
fn serves(session: &SessionRecord, env: &Env, wanted: &Wanted) -> bool {
    let of_this_life = part(session).is_some_and(|part| part.incarnation == wanted.incarnation);
    of_this_life
        && wanted.instead_of != Some(session.id)
        && env.now.plus_seconds(LAST_SECONDS) < session.expires_at
        && !is_lapsed(session, env)
}

/// Whether the session that is wanted takes its place.
fn is_ended(session: &SessionRecord, wanted: &Wanted) -> bool {
    let earlier = part(session).is_some_and(|part| part.incarnation < wanted.incarnation);
    earlier || wanted.instead_of == Some(session.id)
}

/// Whether the instance should have used it by now and hasn't.
fn is_lapsed(session: &SessionRecord, env: &Env) -> bool {
    part(session)
        .is_some_and(|part| part.identified.is_none() && part.identify_by.is_some_and(|last| last <= env.now))
}

/// Notes that the instance has its token, and the key that it signs with from now on.
pub(super) fn identify(
    v: &mut View<'_>,
    env: &Env,
    instance: InstanceId,
    id: SessionId,
    public_key: Option<PublicKey>,
) -> Step<Reply> {
    let principal = Principal::Instance(instance);
    if env.caller.principal != principal {
        return refuse(Refusal::NotTheInstance {
            caller: env.caller.principal.clone(),
            instance,
        });
    }
    let Some(session) = v.get::<SessionRecord>(&(principal, id))? else {
        return refuse(Refusal::SessionOver(id));
    };
    if is_lapsed(&session, env) || session.expires_at <= env.now {
        return refuse(Refusal::SessionOver(id));
    }
    let mut session = session.into_inner();
    let SessionPurpose::Instance(part) = &mut session.purpose else {
        return refuse(Refusal::SessionOver(id));
    };
    match (part.identified, part.public_key) {
        // An answer was lost.
        (Some(_), known) if known == public_key => return Ok(Reply::Done),
        // It may go over to a key of its own, and never from one to another or back.
        (Some(_), Some(_)) => return refuse(Refusal::AlreadyIdentified(id)),
        _ => {}
    }
    part.identified.get_or_insert(env.now);
    part.public_key = public_key;
    v.put(&session);
    Ok(Reply::Done)
}

fn of_sessions(stop: Stop<crate::identity::Refusal>) -> Stop<Refusal> {
    match stop {
        Stop::Refused(refusal) => Stop::Refused(Refusal::Session(refusal)),
        Stop::Load(load) => Stop::Load(load),
    }
}
