//! The bearer of an access token: a user, or a program with a user's token.

use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
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
    let shown = parts.headers.get(header::AUTHORIZATION).and_then(token);
    match shown {
        Some(token) => session(control, token).map(|(_, _, caller)| caller).into(),
        None => Said::Nothing,
    }
}

/// The token of ours that the `Authorization` header shows, if it is of a kind that is shown here.
pub(super) fn token(shown: &HeaderValue) -> Option<&str> {
    let is_ours = |token: &&str| Kind::strip(token).is_some_and(|(kind, _)| kind != Kind::Instance);
    bearer(shown).filter(is_ours)
}

/// Whose token it is, and the session and grant that it falls with.
pub(super) fn session(control: &Control, token: &str) -> Result<(SessionId, Grant, Caller), Failure> {
    let now = control.executor.now();
    let known = control.tokens.validate(token, &KINDS, now);
    let known = known.map_err(|refusal| refused(&refusal, now))?;
    if !gives_access(&known, now) {
        return Err(not_good(now));
    }
    let (session, grant) = (known.bundle.session, known.bundle.grant);
    let caller = member(control, &known).ok_or_else(|| not_good(now))?;
    Ok((session, grant, caller))
}

/// A token that can be exchanged too lives as long as its session, and is shown with requests no longer than any other.
fn gives_access(known: &Known, now: Timestamp) -> bool {
    known.bundle.kind == Kind::Access || now < known.bundle.issued.plus_seconds(ACCESS_SECONDS)
}

/// What somebody may do is found when they do it: a token says who they are, and nothing of their rights.
fn member(control: &Control, known: &Known) -> Option<Caller> {
    let (principal, account) = (known.bundle.subject.clone(), known.bundle.account.clone());
    let role = match &principal {
        Principal::User(name) => control.tokens.sessions().role(name, &account)?,
        _ => return None,
    };
    Some(Caller {
        principal,
        account,
        role,
        via: None,
        session: Some(known.bundle.session),
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
