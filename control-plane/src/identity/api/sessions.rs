//! The routes of sessions and tokens.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use moorline_shared::api::identity::{
    CreateToken, DEFAULT_TOKEN_SECONDS, IdentityChanged, LogIn, ProgramToken, RefreshTokens, Session,
    SessionKind, SessionPage, SessionQuery, TokenForm, Tokens,
};
use moorline_shared::id::ClientName;
use moorline_shared::secret::Secret;
use moorline_shared::{Ttl, UserName};

use super::changed;
use super::users::user_of;
use crate::http::auth::address::PeerAddress;
use crate::http::extract::{Json, Path, Query, segment};
use crate::http::problem::Failure;
use crate::http::{Control, idempotency_key, stamp};
use crate::identity::directory::local;
use crate::identity::model::Model;
use crate::identity::operations::{self, Attempt, Op, Reply};
use crate::identity::records::{SessionPurpose, SessionRecord};
use crate::identity::rules::login::ACCESS_SECONDS;
use crate::identity::token::{Grant, Kind, SessionId, Token};
use crate::model::{Caller, Done};
use crate::services::provider;

/// A user proves who they are, and gets the tokens of a session.
///
/// Every attempt has an id of its own and leaves a record; its password is never part of it.
#[utoipa::path(post, path = "/v1/sessions", operation_id = "LogIn", tag = "identity", security(()),
    request_body = LogIn,
    responses((status = 201, body = Tokens), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn log_in(
    State(control): State<Control>,
    PeerAddress(address): PeerAddress,
    Json(login): Json<LogIn>,
) -> Result<Response, Failure> {
    may_guess(&control, &login.user, address)?;
    let attempt = attempt(&control, &login.user, login.password).await?;
    let (user, client) = (login.user, login.client);
    let op = Op::LogIn(operations::LogIn {
        user: user.clone(),
        directory: login.directory.unwrap_or_else(local),
        client: client.clone(),
        address,
        attempt,
    });
    let done = control.identify(op, provider("identity"), None).await?;
    control.guesses.succeeded(&user, address, Instant::now());
    let tokens = tokens(&control, &done.reply, client.as_ref(), login.form)?;
    Ok((StatusCode::CREATED, stamp(&done), axum::Json(tokens)).into_response())
}

/// Counts a guess at a user's password, which is refused if there were too many.
pub(super) fn may_guess(control: &Control, user: &UserName, address: Option<IpAddr>) -> Result<(), Failure> {
    let counted = control.guesses.count(user, address, Instant::now());
    counted.map_err(|wait| too_many(wait, "to log in"))
}

/// The answer to who has to wait.
pub(super) fn too_many(wait: Duration, attempts: &str) -> Failure {
    let seconds = wait.as_secs() + 1;
    Failure::new(
        "too-many-attempts",
        StatusCode::TOO_MANY_REQUESTS,
        "Too many attempts",
        format!("there were too many attempts {attempts}; try again in {seconds} seconds"),
    )
}

async fn attempt(control: &Control, user: &UserName, password: Secret) -> Result<Attempt, Failure> {
    let kept = user_of(control, user).await?.and_then(|user| user.password);
    let verified = control.passwords.check(user, kept.as_ref(), password).await?;
    Ok(verified.map_or(Attempt::Failed, |password| Attempt::Verified { password }))
}

/// Exchanges a refresh token for fresh tokens. It is good for this once.
///
/// The same token may be shown again for ten seconds by whoever did not hear the answer. Shown later, it has been
/// stolen by somebody: then all tokens of its grant are good no more.
#[utoipa::path(post, path = "/v1/tokens/refresh", operation_id = "RefreshTokens", tag = "identity", security(()),
    request_body = RefreshTokens,
    responses((status = 200, body = Tokens), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn refresh_tokens(
    State(control): State<Control>,
    Json(refresh): Json<RefreshTokens>,
) -> Result<Response, Failure> {
    let now = control.executor.now();
    let kinds = [Kind::Refresh, Kind::AccessAndRefresh];
    let known = control
        .tokens
        .validate(refresh.refresh_token.expose(), &kinds, now);
    let bundle = known.map_err(|_| invalid_grant(now))?.bundle;
    let op = Op::RefreshTokens {
        principal: bundle.subject,
        session: bundle.session,
        grant: bundle.grant,
        client: refresh.client.clone(),
    };
    let done = control.identify(op, provider("identity"), None).await?;
    let form = match bundle.kind {
        Kind::AccessAndRefresh => TokenForm::Combined,
        _ => TokenForm::Separate,
    };
    let tokens = tokens(&control, &done.reply, refresh.client.as_ref(), form)?;
    Ok((stamp(&done), axum::Json(tokens)).into_response())
}

fn invalid_grant(now: moorline_shared::Timestamp) -> Failure {
    Failure::new(
        "invalid-grant",
        StatusCode::UNAUTHORIZED,
        "The refresh token is not good",
        format!(
            "it expired, was used before, or its session ended; log in again with `moorline login`; the time here is {now}"
        ),
    )
}

/// The tokens of the session and the grant that an operation came to. They are made now, and nowhere kept.
fn tokens(
    control: &Control,
    reply: &Reply,
    client: Option<&ClientName>,
    form: TokenForm,
) -> Result<Tokens, Failure> {
    let now = control.executor.now();
    let (session, grant) = match reply {
        Reply::Session {
            session,
            grant: Some(grant),
        } => (session, *grant),
        Reply::GrantEnded => return Err(invalid_grant(now)),
        _ => return Err(Failure::unexpected()),
    };
    let mint = |kind, lifetime| {
        control
            .tokens
            .mint(kind, session, grant, client.cloned(), lifetime, now)
    };
    let (access, refresh) = match form {
        TokenForm::Separate => (
            mint(Kind::Access, ACCESS_SECONDS)?,
            Some(mint(Kind::Refresh, u32::MAX)?),
        ),
        TokenForm::Combined => (mint(Kind::AccessAndRefresh, u32::MAX)?, None),
    };
    let access_expires_at = access.expires_at.min(now.plus_seconds(ACCESS_SECONDS));
    Ok(Tokens {
        session: session.id.to_string(),
        principal: session.principal.clone(),
        account: session.account.clone(),
        access_expires_at,
        access_expires_in_seconds: now.millis_until(access_expires_at) / 1_000,
        access_token: secret(&access.token),
        refresh_token: refresh.map(|refresh| secret(&refresh.token)),
        session_expires_at: session.expires_at,
    })
}

fn secret(token: &Token) -> Secret {
    token.expose().to_owned().into()
}

/// Makes an access token for a program, which has a session of its own: it is listed, and revoked by ending that.
#[utoipa::path(post, path = "/v1/tokens", operation_id = "CreateToken", tag = "identity",
    request_body = CreateToken, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = ProgramToken), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_token(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
    Json(create): Json<CreateToken>,
) -> Result<Response, Failure> {
    let lifetime = create.ttl.map_or(DEFAULT_TOKEN_SECONDS, Ttl::seconds);
    let op = Op::CreateToken {
        name: create.name,
        lifetime,
    };
    let done = control.identify(op, caller, idempotency_key(&headers)?).await?;
    let (session, grant) = begun(&done)?;
    let now = control.executor.now();
    let minted = control
        .tokens
        .mint(Kind::Access, session, grant, None, u32::MAX, now)?;
    let body = ProgramToken {
        session: session.id.to_string(),
        token: secret(&minted.token),
        expires_at: minted.expires_at,
    };
    Ok((StatusCode::CREATED, stamp(&done), axum::Json(body)).into_response())
}

fn begun(done: &Done<Reply>) -> Result<(&SessionRecord, Grant), Failure> {
    match &done.reply {
        Reply::Session {
            session,
            grant: Some(grant),
        } => Ok((session, *grant)),
        _ => Err(Failure::unexpected()),
    }
}

/// Shows the sessions of the caller, or of whomever an administrator asks for.
#[utoipa::path(get, path = "/v1/sessions", operation_id = "DescribeSessions", tag = "identity", params(SessionQuery),
    responses((status = 200, body = SessionPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_sessions(
    State(control): State<Control>,
    caller: Caller,
    Query(query): Query<SessionQuery>,
) -> Result<Response, Failure> {
    let principal = query.principal.unwrap_or_else(|| caller.principal.clone());
    let op = Op::DescribeSessions { principal };
    let done = control.look(&Model, op, caller, None).await?;
    let headers = stamp(&done);
    let Reply::Sessions(sessions) = done.reply else {
        return Err(Failure::unexpected());
    };
    let page = SessionPage {
        revision: done.revision,
        sessions: sessions.into_iter().map(shown).collect(),
    };
    Ok((headers, axum::Json(page)).into_response())
}

fn shown(session: SessionRecord) -> Session {
    let (kind, name) = match session.purpose {
        SessionPurpose::Login => (SessionKind::Login, None),
        SessionPurpose::Program { name } => (SessionKind::Program, Some(name)),
        SessionPurpose::Instance(_) => (SessionKind::Instance, None),
    };
    Session {
        session: session.id.to_string(),
        principal: session.principal,
        account: session.account,
        kind,
        name,
        created_at: session.created_at,
        expires_at: session.expires_at,
    }
}

/// Ends a session: every token of it is worth nothing from now on. Users end their own, administrators all of their
/// account.
///
/// An instance whose session is ended gets no other in this life of its VM: it is given one again when it was stopped and
/// started.
#[utoipa::path(delete, path = "/v1/sessions/{session}", operation_id = "EndSession", tag = "identity",
    params(("session" = String, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn end_session(
    State(control): State<Control>,
    caller: Caller,
    Path(session): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let session: SessionId = segment("session", &session)?;
    // Of one that is not there the rules say so, whosever it would be.
    let principal = control.tokens.sessions().principal(&session);
    let principal = principal.unwrap_or_else(|| caller.principal.clone());
    let op = Op::EndSession { principal, session };
    changed(&control, op, caller, &headers).await
}
