//! Refusals of the two sockets, as problem details.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use moorline_shared::api::ProblemDetails;

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Problem(Box<ProblemDetails>);

impl Problem {
    /// A problem of this kind; `detail` says what is wrong in this case and what to do.
    pub(super) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(ProblemDetails::new(
            kind,
            title,
            status.as_u16(),
            detail,
        )))
    }

    /// The same, with the field of the request that is at fault.
    pub(super) fn at(mut self, field: &'static str) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// The same, with what else the caller has to know.
    pub(super) fn and(mut self, also: &str) -> Self {
        self.0.detail.push_str(also);
        self
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", what)
    }
}

impl From<ProblemDetails> for Problem {
    fn from(details: ProblemDetails) -> Self {
        Self(Box::new(details))
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let title = "The body is not what is expected";
        Self::new(rejection.status(), "bad-request", title, rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

/// The answer to a path that neither socket knows.
pub(super) async fn unknown_path() -> Problem {
    Problem::not_found("this socket has no such path; moorline_shared::host lists those of each")
}
