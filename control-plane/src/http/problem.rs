//! What goes wrong, as problem details (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use moorline_shared::Revision;
use moorline_shared::api::{OPERATION, ProblemDetails, REVISION};

use crate::metrics::Reason;
use crate::model::ExecuteError;
use crate::store::{CommitError, ReadError};

/// A request that was not done.
#[derive(Debug)]
pub struct Failure(pub Box<ProblemDetails>);

impl Failure {
    /// A problem of this kind.
    pub fn new(
        kind: &'static str,
        status: StatusCode,
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

    /// The same, naming the field at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// A field of the request that is not well formed.
    pub fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(
            "invalid-request",
            StatusCode::UNPROCESSABLE_ENTITY,
            "The request is not well formed",
            detail,
        )
        .field(field)
    }

    /// A header that is not well formed.
    pub fn header(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(
            "invalid-request",
            StatusCode::BAD_REQUEST,
            "The request is not well formed",
            detail,
        )
        .field(name)
    }

    /// A revision that can't be read, which the request gave in `field`; revisions are of `epoch`.
    pub fn revision(error: ReadError, epoch: u64, field: &'static str) -> Self {
        let shown = |n| Revision::new(epoch, n);
        let detail = match &error {
            ReadError::Compacted { asked, oldest } => format!(
                "revision {} is gone: the oldest that can be read is {}; begin again without {field}",
                shown(*asked),
                shown(*oldest)
            ),
            ReadError::Ahead { asked, head } => format!(
                "revision {} does not exist: the newest is {}",
                shown(*asked),
                shown(*head)
            ),
            _ => return error.into(),
        };
        let mut failure = Self::from(error).field(field);
        failure.0.detail = detail;
        failure
    }

    /// A look that failed at the revision that the request gave in `field`; revisions are of `epoch`.
    pub fn look(error: ExecuteError, epoch: u64, field: &'static str) -> Self {
        match error {
            ExecuteError::Read(error) => Self::revision(error, epoch, field),
            error => error.into(),
        }
    }

    /// Nobody knows whose the request is.
    pub fn unauthenticated(title: &'static str, detail: impl Into<String>) -> Self {
        Self::new("unauthenticated", StatusCode::UNAUTHORIZED, title, detail)
    }

    /// It can't be done just now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not now", detail)
    }

    /// The rules answered with something else than was asked for: a bug here.
    pub fn unexpected() -> Self {
        tracing::error!("the rules answered with something else than was asked for");
        Self::internal("the answer is of another kind")
    }

    fn internal(detail: impl Into<String>) -> Self {
        Self::new(
            "internal",
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something failed here",
            detail,
        )
    }
}

impl From<ExecuteError> for Failure {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Refused {
                shown,
                operation,
                revision,
            } => Self(Box::new(ProblemDetails {
                operation,
                revision: Some(revision),
                ..*shown
            })),
            ExecuteError::KeyReused => Self::new(
                moorline_shared::api::KEY_REUSED,
                StatusCode::UNPROCESSABLE_ENTITY,
                "The key was used before",
                error.to_string(),
            )
            .field(moorline_shared::api::IDEMPOTENCY_KEY),
            ExecuteError::Contended(_) => Self::unavailable(error.to_string()),
            ExecuteError::Broken { .. } | ExecuteError::Reply(_) => {
                tracing::error!(error = %error, "an operation failed");
                Self::internal(error.to_string())
            }
            ExecuteError::Read(error) => error.into(),
            ExecuteError::Commit(error) => error.into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => {
                let detail = format!("{error}; list again without a revision");
                Self::new(
                    "revision-compacted",
                    StatusCode::GONE,
                    "The revision is gone",
                    detail,
                )
                .field("revision")
            }
            ReadError::Ahead { .. } => Self::new(
                "revision-ahead",
                StatusCode::UNPROCESSABLE_ENTITY,
                "No such revision",
                error.to_string(),
            )
            .field("revision"),
            ReadError::Damaged { .. } => {
                tracing::error!(%error, "what is kept is damaged");
                Self::internal(error.to_string())
            }
            ReadError::Unavailable { ref source } => {
                tracing::error!(cause = %source, "the store can't be read");
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        let detail = match &error {
            CommitError::Unknown { .. } => {
                "nobody can say whether it was done; send it again with the same idempotency key".to_owned()
            }
            CommitError::Unavailable { source } => {
                tracing::error!(cause = %source, "the store can't commit");
                format!(
                    "nothing was changed: {error}; check the control plane's disk and log, then try again"
                )
            }
            CommitError::Conflict { .. } | CommitError::Invalid(_) => error.to_string(),
        };
        Self::unavailable(detail)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let named = [
            (OPERATION, self.0.operation.map(|operation| operation.to_string())),
            (REVISION, self.0.revision.map(|revision| revision.to_string())),
        ];
        for (name, text) in named {
            if let Some(Ok(value)) = text.map(HeaderValue::try_from) {
                response.headers_mut().insert(name, value);
            }
        }
        // For who counts refusals.
        response.extensions_mut().insert(Reason::of(&self.0.kind, status));
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// There is nothing at this path.
pub async fn no_such_route(uri: Uri) -> Failure {
    let detail = format!(
        "there is nothing at {}; GET /v1/openapi.json tells what there is",
        uri.path()
    );
    Failure::new("no-such-route", StatusCode::NOT_FOUND, "No such route", detail)
}

/// The path has other methods.
pub async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let detail = format!(
        "{method} is not for {}; GET /v1/openapi.json tells what is",
        uri.path()
    );
    Failure::new(
        "no-such-method",
        StatusCode::METHOD_NOT_ALLOWED,
        "No such method",
        detail,
    )
}
