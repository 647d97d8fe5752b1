//! The rules for sessions: how one begins, and the ways in which it ends.

use moorline_shared::Principal;

use super::{Step, allow, by_provider};
use crate::identity::operations::{NewSession, Op, Reply};
use crate::identity::records::{RevocationRecord, Revoked, SessionPurpose, SessionRecord};
use crate::identity::refusal::{Refusal, refuse};
use crate::identity::session::Grants;
use crate::identity::token::{Grant, SessionId};
use crate::model::{Env, Intent, Kept, Page, Role, View};

/// The most sessions that somebody has at once: as many as one transaction can end.
pub const MAX_SESSIONS: usize = 500;

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
    let standing = v.scan::<SessionRecord>(&new.principal, &Page::ALL)?;
    if standing.len() >= MAX_SESSIONS {
        return refuse(Refusal::TooManySessions(new.principal.clone()));
    }
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
    revoke(v, env, &session);
    Ok(Reply::Done)
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
    v.put(&RevocationRecord {
        revoked: Revoked::Session {
            principal: session.principal.clone(),
            session: session.id,
        },
        not_before: env.now,
        until: session.expires_at,
    });
}

/// Ends every session that somebody has, and has everybody told that none of their tokens is good.
pub fn end_all(v: &mut View<'_>, env: &Env, principal: &Principal) -> Step<()> {
    let sessions = v.scan::<SessionRecord>(principal, &Page::ALL)?;
    let Some(until) = sessions.iter().map(|session| session.expires_at).max() else {
        return Ok(());
    };
    for session in &sessions {
        v.delete_kept(session);
    }
    let revoked = Revoked::Principal(principal.clone());
    // It may be there from an earlier time, and is guarded by being read.
    v.get::<RevocationRecord>(&revoked)?;
    v.put(&RevocationRecord {
        revoked,
        not_before: env.now,
        until,
    });
    Ok(())
}

/// Removes what is left of a session once its time is over: its record if it came to its end, or that it was revoked.
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
    let revoked = Revoked::Session {
        principal: principal.clone(),
        session: id,
    };
    for revoked in [revoked, Revoked::Principal(principal.clone())] {
        let kept = v.get::<RevocationRecord>(&revoked)?;
        if kept.is_some_and(|kept| kept.until <= env.now) {
            v.delete::<RevocationRecord>(&revoked);
        }
    }
    Ok(Reply::Done)
}

/// Somebody's sessions, for themselves and for administrators.
pub fn describe(v: &mut View<'_>, env: &Env, principal: &Principal) -> Step<Reply> {
    let own = env.caller.principal == *principal;
    allow(
        env,
        own || env.caller.role != Role::Member,
        "an administrator of the account",
    )?;
    let all = v.scan::<SessionRecord>(principal, &Page::ALL)?;
    let visible = |session: &SessionRecord| {
        env.now < session.expires_at
            && (env.caller.role == Role::Provider || session.account == env.caller.account)
    };
    let mut sessions: Vec<_> = all.into_iter().map(Kept::into_inner).filter(visible).collect();
    sessions.sort_by_key(|session| (session.created_at, session.id));
    Ok(Reply::Sessions(sessions))
}
