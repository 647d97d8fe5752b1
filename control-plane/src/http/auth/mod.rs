//! Who asks.
//!
//! There are several ways for a request to say who makes it, one module each. [`WAYS`] has them in the order in which
//! they are tried; the first that finds anything decides, and a request that says nothing by any of them is refused.
//! A further kind of caller is a module here and a line there.

pub mod address;
pub mod administrator;
pub mod bearer;
mod host;
pub mod instance;
pub mod lease;

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use moorline_shared::Timestamp;

use super::Control;
use super::problem::Failure;
use crate::model::Caller;

/// The ways, in the order in which they are tried.
const WAYS: &[Way] = &[instance::look, bearer::look, administrator::look, host::look];

/// Looks whether a request says by one of the ways who makes it.
type Way = fn(&Control, &Parts) -> Said;

/// What a request says by one of the ways.
enum Said {
    /// Nothing: another way may find something.
    Nothing,
    /// It is this caller's.
    Caller(Caller),
    /// It claims what isn't so.
    Wrong(Failure),
}

impl From<Result<Caller, Failure>> for Said {
    fn from(said: Result<Caller, Failure>) -> Self {
        said.map_or_else(Self::Wrong, Self::Caller)
    }
}

impl FromRequestParts<Control> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Self, Failure> {
        caller(control, parts)
    }
}

/// Who makes the request.
fn caller(control: &Control, parts: &Parts) -> Result<Caller, Failure> {
    for look in WAYS {
        match look(control, parts) {
            Said::Nothing => {}
            Said::Caller(caller) => return Ok(caller),
            Said::Wrong(failure) => return Err(failure),
        }
    }
    Err(unknown(control.executor.now()))
}

/// The token in the value of an `Authorization: Bearer` header (RFC 6750).
fn bearer(shown: &HeaderValue) -> Option<&str> {
    let (scheme, token) = shown.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unknown(now: Timestamp) -> Failure {
    Failure::unauthenticated(
        "The token is missing or wrong",
        format!(
            "log in with `moorline login`, or send Authorization: Bearer TOKEN with the token that the control plane \
             keeps in admin.token; the time here is {now}"
        ),
    )
}

/// The header `name` as what it stands for, if it is there.
fn named<T: FromStr<Err: Display>>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, Failure> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Failure::header(name, "it must be printable ASCII"))?;
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| Failure::header(name, error.to_string()))
}
