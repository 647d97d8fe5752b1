//! The rules for logging in, for what keeps somebody logged in, and for the tokens of programs.

use moorline_shared::Principal;
use moorline_shared::api::identity::{MAX_TOKEN_SECONDS, UserState};
use moorline_shared::id::ClientName;

use super::sessions::begin;
use super::users::digest;
use super::{Step, by_login, by_provider, deny};
use crate::identity::directory::{UserRecord, local};
use crate::identity::operations::{Attempt, LogIn, NewSession, Reply};
use crate::identity::records::{SessionPurpose, SessionRecord};
use crate::identity::refusal::{NoLogin, Refusal, refuse};
use crate::identity::session::Exchange;
use crate::identity::token::{Grant, SessionId};
use crate::model::{Env, Role, View};

/// How long somebody stays logged in: thirty days, whatever they do meanwhile.
pub const LOGIN_SECONDS: u32 = 30 * 86_400;
/// How long an access token is good.
pub const ACCESS_SECONDS: u32 = 900;

/// Begins a session of a user who knows their password. Every attempt has an id, which the record of one that failed
/// names too.
pub fn log_in(v: &mut View<'_>, env: &Env, login: &LogIn) -> Step<Reply> {
    by_provider(env)?;
    let user = v.get::<UserRecord>(&login.user)?;
    let judged = judge(user.as_deref(), login);
    match judged {
        Ok(user) => {
            let (session, grant) = begin(v, env, &session_of(user, login))?;
            Ok(Reply::Session {
                session: Box::new(session),
                grant,
            })
        }
        Err(why) => refuse(Refusal::NoLogin {
            attempt: SessionId::from_bytes(v.fresh()),
            user: login.user.clone(),
            why,
        }),
    }
}

/// The user, if they are one, can be logged in, and have the password still that was checked.
fn judge<'a>(user: Option<&'a UserRecord>, login: &LogIn) -> Result<&'a UserRecord, NoLogin> {
    if login.directory != local() {
        return Err(NoLogin::Directory);
    }
    let user = user.ok_or(NoLogin::User)?;
    if user.state == UserState::Disabled {
        return Err(NoLogin::Disabled);
    }
    match (&login.attempt, user.password.as_ref().map(digest)) {
        (Attempt::Verified { password }, Some(current)) if *password == current => Ok(user),
        _ => Err(NoLogin::Password),
    }
}

fn session_of(user: &UserRecord, login: &LogIn) -> NewSession {
    NewSession {
        principal: user.principal(),
        directory: login.directory.clone(),
        account: user.account.clone(),
        purpose: SessionPurpose::Login,
        client: login.client.clone(),
        lifetime: LOGIN_SECONDS,
    }
}

/// Exchanges a refresh token's grant. One that was exchanged before is stolen: that is done too, and ends the grant.
pub fn refresh(
    v: &mut View<'_>,
    env: &Env,
    of: &(Principal, SessionId),
    grant: Grant,
    client: Option<&ClientName>,
) -> Step<Reply> {
    by_provider(env)?;
    let Some(session) = v
        .get::<SessionRecord>(of)?
        .filter(|session| env.now < session.expires_at)
    else {
        return refuse(Refusal::InvalidGrant);
    };
    let mut session = session.into_inner();
    let exchange = session.grants.exchange(grant, client, env.now);
    match exchange {
        Exchange::Done(grant) => {
            v.put(&session);
            Ok(Reply::Session {
                session: Box::new(session),
                grant: Some(grant),
            })
        }
        Exchange::Again(grant) => Ok(Reply::Session {
            session: Box::new(session),
            grant: Some(grant),
        }),
        Exchange::Reused => {
            v.put(&session);
            Ok(Reply::GrantEnded)
        }
        Exchange::Invalid => refuse(Refusal::InvalidGrant),
    }
}

/// Begins the session of a program's token, of the user who asks.
pub fn create_token(v: &mut View<'_>, env: &Env, name: &str, lifetime: u32) -> Step<Reply> {
    if !(1..=63).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return refuse(Refusal::TokenName);
    }
    if lifetime > MAX_TOKEN_SECONDS {
        return refuse(Refusal::TokenLifetime(lifetime));
    }
    by_login(v, env)?;
    is_user(v, env)?;
    let (session, grant) = begin(
        v,
        env,
        &NewSession {
            principal: env.caller.principal.clone(),
            directory: local(),
            account: env.caller.account.clone(),
            purpose: SessionPurpose::Program {
                name: name.to_owned(),
            },
            client: None,
            lifetime,
        },
    )?;
    Ok(Reply::Session {
        session: Box::new(session),
        grant,
    })
}

/// Refuses whoever is no user of the directory, and who may not act any more.
fn is_user(v: &mut View<'_>, env: &Env) -> Step<()> {
    let user = match &env.caller.principal {
        Principal::User(name) if env.caller.role != Role::Provider => v.get::<UserRecord>(name)?,
        _ => None,
    };
    if user.is_some_and(|user| user.state == UserState::Enabled) {
        return Ok(());
    }
    deny(
        env,
        "a user of the directory; the deployment's own token makes none, so log in with `moorline login`",
    )
}
