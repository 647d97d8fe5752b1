//! The rules for sessions: how one begins, and the ways in which it ends.

use moorline_shared::{InstanceId, Principal, Timestamp};

use super::{Step, by_administrator, by_provider};
use crate::identity::instances::TOKEN_SECONDS;
use crate::identity::operations::{NewSession, Op, Reply};
use crate::identity::records::{RevocationRecord, Revoked, SessionPurpose, SessionRecord};
use crate::identity::refusal::{Refusal, refuse};
use crate::identity::session::Grants;
use crate::identity::token::{Grant, SessionId};
use crate::instances::records::InstanceRecord;
use crate::model::{Env, Intent, Kept, Page, Role, View};

/// The most sessions that somebody has at once: as many as one transaction can end.
pub const MAX_SESSIONS: usize = 500;
/// How many of them are of programs at most, so that there is always room for logins.
pub const MAX_PROGRAMS: usize = 400;

/// Begins the session that is asked for.
pub fn create(v: &mut View<'_>, env: &Env, new: &NewSession) -> Step<Reply> {
    by_provider(env)?;
    let (session, grant) = begin(v, env, new)?;
    Ok(Reply::Session {
        session: Box::new(session),
        grant,
    })
}

/// Begins a session of `new.principal`, whoever asks.
pub fn begin(v: &mut View<'_>, env: &Env, new: &NewSession) -> Step<(SessionRecord, Option<Grant>)> {
    make_room(v, env, new)?;
    let expires_at = env.now.plus_seconds(new.lifetime);
    let mut grants = Grants::default();
    // An instance's tokens are made anew from its session alone, so nothing of it is ever exchanged.
    let grant = match new.purpose {
        SessionPurpose::Instance(_) => None,
        _ => grants.begin(new.client.clone(), env.now, expires_at).ok(),
    };
    let session = SessionRecord {
        id: SessionId::from_bytes(v.fresh()),
        principal: new.principal.clone(),
        directory: new.directory.clone(),
        account: new.account.clone(),
        purpose: new.purpose.clone(),
        created_at: env.now,
        expires_at,
        grants,
    };
    v.put(&session);
    forget_at_its_end(v, &session);
    Ok((session, grant))
}

/// Sees to it that there is room for one session more. Those whose time is over make it, and then the one of longest ago
/// that is no program's: nobody is kept out by what they left open, and no program loses its token by what others do.
fn make_room(v: &mut View<'_>, env: &Env, new: &NewSession) -> Step<()> {
    let all = v.scan::<SessionRecord>(&new.principal, &Page::ALL)?;
    let (standing, over): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|session| env.now < session.expires_at);
    for session in &over {
        v.delete_kept(session);
    }
    let (programs, others): (Vec<_>, Vec<_>) = standing
        .into_iter()
        .partition(|session| is_programs(&session.purpose));
    if is_programs(&new.purpose) && programs.len() >= MAX_PROGRAMS {
        return refuse(Refusal::TooManyTokens(new.principal.clone()));
    }
    if programs.len() + others.len() >= MAX_SESSIONS {
        let oldest = others
            .iter()
            .min_by_key(|session| (session.created_at, session.id));
        match oldest {
            Some(oldest) => revoke(v, env, oldest),
            None => return refuse(Refusal::TooManyTokens(new.principal.clone())),
        }
    }
    Ok(())
}

const fn is_programs(purpose: &SessionPurpose) -> bool {
    matches!(purpose, SessionPurpose::Program { .. })
}

fn forget_at_its_end(v: &mut View<'_>, session: &SessionRecord) {
    let forget = Op::ForgetSession {
        principal: session.principal.clone(),
        session: session.id,
    };
    v.later(Intent {
        due: session.expires_at,
        submit: forget.into(),
    });
}

/// Ends a session for whoever has it, for administrators of its account, and for the control plane.
pub fn end(v: &mut View<'_>, env: &Env, principal: &Principal, id: SessionId) -> Step<Reply> {
    let Some(session) = v.get::<SessionRecord>(&(principal.clone(), id))? else {
        return refuse(Refusal::UnknownSession(id));
    };
    may_see(env, principal, &session)?;
    match (principal, &session.purpose) {
        (Principal::Instance(instance), SessionPurpose::Instance(part)) => {
            end_for_life(v, env, *instance, part.incarnation)?;
        }
        _ => revoke(v, env, &session),
    }
    Ok(Reply::Done)
}

/// Whoever ends the session of an instance ends all that there is and could be in this life of its VM: the next one may
/// have begun beside it, and the host would ask for another at once.
fn end_for_life(v: &mut View<'_>, env: &Env, instance: InstanceId, incarnation: u64) -> Step<()> {
    let of_life = |session: &SessionRecord| matches!(&session.purpose, SessionPurpose::Instance(part) if part.incarnation == incarnation);
    let all = v.scan::<SessionRecord>(&Principal::Instance(instance), &Page::ALL)?;
    for session in all.iter().filter(|session| of_life(session)) {
        revoke(v, env, session);
    }
    if let Some(instance) = v.get::<InstanceRecord>(&instance)? {
        v.put(&InstanceRecord {
            session_ended_in: Some(incarnation),
            ..instance.into_inner()
        });
    }
    Ok(())
}

fn may_see(env: &Env, principal: &Principal, session: &SessionRecord) -> Step<()> {
    let caller = &env.caller;
    let allowed = match caller.role {
        Role::Provider => true,
        Role::Administrator => caller.account == session.account,
        Role::Member => caller.principal == *principal && caller.account == session.account,
    };
    // Whoever may not see a session isn't told that it is there.
    if allowed {
        Ok(())
    } else {
        refuse(Refusal::UnknownSession(session.id))
    }
}

/// Ends a session, and has everybody told who may have seen a token of it.
pub fn revoke(v: &mut View<'_>, env: &Env, session: &Kept<SessionRecord>) {
    v.delete_kept(session);
    let revoked = Revoked::Session {
        principal: session.principal.clone(),
        session: session.id,
    };
    tell(v, env, revoked, last_token_ends(session, env.now));
}

/// When the last token that there can be of a session expires by itself.
fn last_token_ends(session: &SessionRecord, now: Timestamp) -> Timestamp {
    match session.purpose {
        SessionPurpose::Instance(_) => session.expires_at.min(now.plus_seconds(TOKEN_SECONDS)),
        SessionPurpose::Login | SessionPurpose::Program { .. } => session.expires_at,
    }
}

/// Has everybody told of what was revoked, until it is of no use to know it.
pub fn tell(v: &mut View<'_>, env: &Env, revoked: Revoked, until: Timestamp) {
    let forget = Op::ForgetRevocation {
        revoked: revoked.clone(),
    };
    v.put(&RevocationRecord {
        revoked,
        not_before: env.now,
        until,
    });
    v.later(Intent {
        due: until,
        submit: forget.into(),
    });
}

/// Ends every session that somebody has, and has everybody told that none of their tokens is good.
pub fn end_all(v: &mut View<'_>, env: &Env, principal: &Principal) -> Step<()> {
    let sessions = v.scan::<SessionRecord>(principal, &Page::ALL)?;
    let ends = sessions.iter().map(|session| last_token_ends(session, env.now));
    let Some(until) = ends.max() else {
        return Ok(());
    };
    for session in &sessions {
        v.delete_kept(session);
    }
    let revoked = Revoked::Principal(principal.clone());
    // It may be there from an earlier time, and is guarded by being read.
    v.get::<RevocationRecord>(&revoked)?;
    tell(v, env, revoked, until);
    Ok(())
}

/// Removes what says that something was revoked once no token of it is left that has not expired by itself.
pub fn forget_revocation(v: &mut View<'_>, env: &Env, revoked: &Revoked) -> Step<Reply> {
    by_provider(env)?;
    let kept = v.get::<RevocationRecord>(revoked)?;
    // What was revoked once more since is removed later.
    if kept.is_some_and(|kept| kept.until <= env.now) {
        v.delete::<RevocationRecord>(revoked);
    }
    Ok(Reply::Done)
}

/// Removes a session that came to its end.
pub fn forget(v: &mut View<'_>, env: &Env, principal: &Principal, id: SessionId) -> Step<Reply> {
    by_provider(env)?;
    let of = (principal.clone(), id);
    if let Some(session) = v.get::<SessionRecord>(&of)? {
        if env.now < session.expires_at {
            forget_at_its_end(v, &session);
        } else {
            v.delete::<SessionRecord>(&of);
        }
    }
    Ok(Reply::Done)
}

/// Somebody's sessions, for themselves and for administrators.
pub fn describe(v: &mut View<'_>, env: &Env, principal: &Principal) -> Step<Reply> {
    if env.caller.principal != *principal {
        by_administrator(env)?;
    }
    let all = v.scan::<SessionRecord>(principal, &Page::ALL)?;
    let visible = |session: &SessionRecord| {
        env.now < session.expires_at
            && (env.caller.role == Role::Provider || session.account == env.caller.account)
    };
    let mut sessions: Vec<_> = all.into_iter().map(Kept::into_inner).filter(visible).collect();
    sessions.sort_by_key(|session| (session.created_at, session.id));
    Ok(Reply::Sessions(sessions))
}
