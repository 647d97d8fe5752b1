//! Errors as local programs see them: problem details, with what to do.

use std::borrow::Cow;

use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use moorline_shared::api::{IDEMPOTENCY_KEY, ProblemDetails};
use moorline_shared::id::{IdempotencyKey, RoleName};
use moorline_shared::link::body::Code;
use moorline_shared::{PathPrefix, Revision};

use crate::access::User;
use crate::link::AskFailure;
use crate::local::body::Body;
use crate::mirror::etag;
use crate::proof::ProveError;
use crate::writes::{NoRoom, RecordError, WriteError};

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    field: Option<Cow<'static, str>>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            title,
            detail: detail.into(),
            field: None,
            header: None,
        }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    fn retry_after(self, ms: u32) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)))
    }

    /// A part of the request is wrong.
    pub(super) fn invalid(field: impl Into<Cow<'static, str>>, detail: impl std::fmt::Display) -> Self {
        let status = StatusCode::BAD_REQUEST;
        let mut problem = Self::new(
            status,
            "invalid-request",
            "The request is not valid",
            detail.to_string(),
        );
        problem.field = Some(field.into());
        problem
    }

    /// A program of this user may not change data.
    pub(super) fn not_the_writer(user: User, writer: u32) -> Self {
        let detail = format!(
            "through this agent only programs of user {writer} may change data, in the instance's name; this one is of user {user}"
        );
        Self::new(
            StatusCode::FORBIDDEN,
            "writer-only",
            "This user may not change data",
            detail,
        )
    }

    /// There are no credentials of this role that are good now.
    pub(super) fn no_credentials(role: &RoleName) -> Self {
        let detail = format!(
            "there are no credentials of a role '{role}' now, or not for this user; moorline-agent credentials names those there are, and whoever \
             runs this instance can give it roles"
        );
        Self::new(
            StatusCode::NOT_FOUND,
            "credentials-not-found",
            "There are no such credentials",
            detail,
        )
    }

    /// No such place in this surface.
    pub(super) fn unknown_path() -> Self {
        let detail = "there is /v1/status, /v1/credentials, /v1/identity-token, /v1/writes, /v1/data, /v1/entries, /v1/watch, and the last three below /v1/instances/ID";
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-path",
            "There is nothing under this path",
            detail,
        )
    }

    pub(super) fn wrong_method(allowed: &'static str) -> Self {
        let detail = format!("here one can {allowed}");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong-method",
            "This can't be done here",
            detail,
        )
        .with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// No such entry; `removed` is when it went, as far as that is known.
    pub(super) fn absent(path: &str, removed: Revision) -> Self {
        let detail =
            format!("there is no entry '{path}', or this instance, or this user on it, may not read it");
        Self::new(
            StatusCode::NOT_FOUND,
            "entry-not-found",
            "There is no such entry",
            detail,
        )
        .with(ETAG, etag(removed))
    }

    /// Other answers to users wait to be read, and hold all the memory that there is for them.
    pub(super) fn too_much_unread() -> Self {
        let detail = "programs on this machine have asked for much of other instances' data and not read it yet; read what was asked for, or try later";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-much-unread",
            "Too many answers wait to be read",
            detail,
        )
        .retry_after(1_000)
    }

    /// This machine's own rules show this user nothing there.
    pub(super) fn ruled_out(path: &str) -> Self {
        let detail = format!(
            "the access rules of this machine let this user read nothing below '{path}'; its root may change them"
        );
        Self::new(
            StatusCode::FORBIDDEN,
            "access-denied",
            "This user may not read there",
            detail,
        )
    }

    pub(super) fn expired(path: &str) -> Self {
        let detail =
            format!("the entry '{path}' is past its validity, and the host can't be asked for a newer one");
        Self::new(
            StatusCode::NOT_FOUND,
            "entry-expired",
            "The entry has expired",
            detail,
        )
        .with(ETAG, etag(Revision::ZERO))
    }

    pub(super) fn not_ready() -> Self {
        let detail =
            "the host has not sent this instance's data yet; see /v1/status for the link to the host";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            "The agent has no data yet",
            detail,
        )
        .retry_after(1_000)
    }

    pub(super) fn too_old(age_ms: u64) -> Self {
        let detail = format!(
            "what is known is {age_ms} ms old, and the host can't be asked; raise max_age_ms or try later"
        );
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-old",
            "Nothing as recent as asked for is known",
            detail,
        )
        .retry_after(1_000)
    }

    pub(super) fn too_large(most: usize) -> Self {
        let detail = format!("the body is longer than {most} bytes, the most an entry can have");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "too-large", "The value is too large", detail)
    }

    pub(super) fn slow_body() -> Self {
        let detail = "the body didn't come in time";
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            "The request took too long",
            detail,
        )
    }

    pub(super) fn unsettled(prefix: &PathPrefix) -> Self {
        let detail =
            format!("the entries below '{prefix}' changed again and again while they were listed; try again");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unsettled",
            "The listing didn't settle",
            detail,
        )
        .retry_after(1_000)
    }

    /// A change without an answer.
    pub(super) fn not_made(error: WriteError) -> Self {
        match error {
            WriteError::Prove(error) => Self::unproven(error),
            WriteError::NoRoom(NoRoom::Open) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-changes",
                "Too many changes are under way",
                error.to_string(),
            )
            .retry_after(1_000),
            WriteError::NoRoom(_) => Self::new(
                StatusCode::CONFLICT,
                "no-room",
                "The instance has no room for this",
                error.to_string(),
            ),
            WriteError::Unsettled { ref key, .. } => {
                let key = HeaderValue::try_from(key.to_string()).ok();
                let problem = Self::outcome_unknown(error.to_string());
                match key {
                    Some(key) => problem.with(HeaderName::from_static(IDEMPOTENCY_KEY), key),
                    None => problem,
                }
            }
        }
    }

    fn outcome_unknown(detail: String) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "outcome-unknown",
            "Nobody can say yet whether it was done",
            detail,
        )
    }

    /// Nobody knows of a change with this key.
    pub(super) fn no_such_write(key: &IdempotencyKey) -> Self {
        let detail = format!(
            "neither this agent nor the control plane knows of a change that this instance asked for under the key '{key}'"
        );
        Self::new(
            StatusCode::NOT_FOUND,
            "change-not-found",
            "There is no such change",
            detail,
        )
    }

    /// The control plane's record of a change was not to be had.
    pub(super) fn unrecorded(error: RecordError) -> Self {
        match error {
            RecordError::Prove(error) => Self::unproven(error),
            RecordError::Status(_) | RecordError::Malformed(_) => Self::new(
                StatusCode::BAD_GATEWAY,
                "no-record",
                "The control plane's record can't be had",
                error.to_string(),
            ),
        }
    }

    /// A request that the control plane gave no answer to.
    pub(super) fn unproven(error: ProveError) -> Self {
        match error {
            ProveError::Ask(failure) => Self::from_host(failure),
            ProveError::Sign(error) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "not-signed",
                "The request can't be signed",
                error.to_string(),
            ),
        }
    }

    /// The host said no or nothing.
    pub(super) fn from_host(failure: AskFailure) -> Self {
        let detail = failure.to_string();
        let unavailable = |detail| {
            Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "host-unavailable",
                "The host can't answer now",
                detail,
            )
        };
        match failure {
            AskFailure::Away | AskFailure::Lost => unavailable(detail).retry_after(1_000),
            AskFailure::Busy { retry_after_ms } => unavailable(detail).retry_after(retry_after_ms),
            AskFailure::NotUnderstood(_) => {
                let title = "The host is too old for this";
                Self::new(StatusCode::NOT_IMPLEMENTED, "host-too-old", title, detail)
            }
            AskFailure::NoAnswer => {
                let title = "The host didn't answer in time";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "host-silent", title, detail)
            }
            AskFailure::TooLong(_) => {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                Self::new(status, "headers-too-long", "The headers are too long", detail)
            }
            AskFailure::Ended(code) => Self::from_code(code, detail),
            AskFailure::Refused(refused) => {
                let problem = Self::from_code(Code::from_number(refused.code), detail);
                match refused.retry_after_ms {
                    Some(ms) => problem.retry_after(ms),
                    None => problem,
                }
            }
        }
    }

    fn from_code(code: Code, detail: String) -> Self {
        let (status, kind, title) = match code {
            Code::Internal => (StatusCode::BAD_GATEWAY, "host-failed", "The host failed"),
            Code::Invalid => (
                StatusCode::BAD_REQUEST,
                "invalid-request",
                "The request is not valid",
            ),
            Code::NotFound => (StatusCode::NOT_FOUND, "entry-not-found", "There is no such entry"),
            Code::Denied => (
                StatusCode::FORBIDDEN,
                "access-denied",
                "This instance may not do this",
            ),
            Code::TooMuch => (StatusCode::PAYLOAD_TOO_LARGE, "too-much", "This is over a bound"),
            Code::Unsettled => return Self::outcome_unknown(detail),
            Code::Unavailable | Code::Cancelled => (
                StatusCode::SERVICE_UNAVAILABLE,
                "host-unavailable",
                "The host can't answer now",
            ),
        };
        Self::new(status, kind, title, detail)
    }

    /// The answer.
    pub(super) fn response(self) -> Response<Body> {
        let details =
            ProblemDetails::new(self.kind, self.title, self.status.as_u16(), self.detail).at(self.field);
        // Strings and numbers are always JSON.
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response = Response::new(Body::Whole(body.into()));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
            .headers_mut()
            .extend(self.header.map(|(name, value)| (Some(name), value)));
        response
    }
}
