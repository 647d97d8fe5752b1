//! The bearer of an access token: a user, or a program with a user's token.

use axum::http::HeaderMap;
use axum::http::request::Parts;
use moorline_shared::{Principal, Timestamp};

use super::{Said, bearer};
use crate::http::Control;
use crate::http::problem::Failure;
use crate::identity::rules::login::ACCESS_SECONDS;
use crate::identity::token::{Grant, Kind, SessionId};
use crate::identity::tokens::{Known, TokenRefusal};
use crate::model::Caller;

/// The kinds of tokens that are shown here. An instance's is shown another way.
const KINDS: [Kind; 2] = [Kind::Access, Kind::AccessAndRefresh];

/// The caller, if the request shows a token of ours.
pub(super) fn look(control: &Control, parts: &Parts) -> Said {
    match bearer(&parts.headers) {
        Some(token) if is_ours(token) => caller(control, token).into(),
        _ => Said::Nothing,
    }
}

fn is_ours(token: &str) -> bool {
    Kind::strip(token).is_some_and(|(kind, _)| kind != Kind::Instance)
}

fn caller(control: &Control, token: &str) -> Result<Caller, Failure> {
    let now = control.executor.now();
    let known = control.tokens.validate(token, &KINDS, now);
    let known = known.map_err(|refusal| refused(&refusal, now))?;
    if !gives_access(&known, now) {
        return Err(not_good(now));
    }
    member(control, known).ok_or_else(|| not_good(now))
}

/// A token that can be exchanged too lives as long as its session, and is shown with requests no longer than any other.
fn gives_access(known: &Known, now: Timestamp) -> bool {
    known.bundle.kind == Kind::Access || now < known.bundle.issued.plus_seconds(ACCESS_SECONDS)
}

/// The session that the request's token is of, if it is of one.
pub(super) fn session(control: &Control, headers: &HeaderMap) -> Option<(SessionId, Grant, Caller)> {
    let token = bearer(headers).filter(|token| is_ours(token))?;
    let known = control
        .tokens
        .validate(token, &KINDS, control.executor.now())
        .ok()?;
    let (session, grant) = (known.bundle.session, known.bundle.grant);
    Some((session, grant, member(control, known)?))
}

/// What somebody may do is found when they do it: a token says who they are, and nothing of their rights.
fn member(control: &Control, known: Known) -> Option<Caller> {
    let (principal, account) = (known.bundle.subject, known.bundle.account);
    let role = match &principal {
        Principal::User(name) => control.tokens.sessions().role(name, &account)?,
        _ => return None,
    };
    Some(Caller {
        principal,
        account,
        role,
        via: None,
    })
}

fn refused(refusal: &TokenRefusal, now: Timestamp) -> Failure {
    tracing::debug!(%refusal, "a token is not taken");
    match refusal {
        TokenRefusal::NoRing => Failure::unavailable(refusal.to_string()),
        _ => not_good(now),
    }
}

/// Which of the many reasons it is helps nobody who has a good one.
fn not_good(now: Timestamp) -> Failure {
    Failure::unauthenticated(
        "The token is not good",
        format!(
            "it expired, its session ended, or it is no access token; log in again with `moorline login`; \
             the time here is {now}"
        ),
    )
}
