//! Requests parsed into types, with problems that name the field.

use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use moorline_shared::api::data::EntryGuard;
use serde::de::DeserializeOwned;

use super::bodies::in_time;
use super::problem::Failure;

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = in_time(Bytes::from_request(request, state)).await?;
        let bytes = bytes.map_err(|rejection| unread(&rejection))?;
        parse(&bytes).map(Self)
    }
}

fn unread(rejection: &BytesRejection) -> Failure {
    if let BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) = rejection {
        let detail = format!(
            "the body is too long; the most is {} bytes",
            super::MAX_BODY_BYTES
        );
        return Failure::new(
            "body-too-long",
            StatusCode::PAYLOAD_TOO_LARGE,
            "The body is too long",
            detail,
        )
        .field("body");
    }
    Failure::new(
        "invalid-request",
        StatusCode::BAD_REQUEST,
        "The request is not well formed",
        "the body could not be read to its end; send it again",
    )
    .field("body")
}

/// Parses a JSON body; the problem names the field by its path.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.is_empty() {
        return Err(Failure::invalid("body", "there is no body; send one of JSON"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        Failure::invalid(
            if field == "." { "body".to_owned() } else { field },
            bounded(&error.into_inner().to_string()),
        )
    })?;
    json.end()
        .map_err(|error| Failure::invalid("body", error.to_string()))?;
    Ok(parsed)
}

/// What is wrong, with the bounds of a number instead of the width of an integer.
fn bounded(reason: &str) -> String {
    let widths = [
        ("u16", u64::from(u16::MAX)),
        ("u32", u64::from(u32::MAX)),
        ("u64", u64::MAX),
    ];
    let found = widths
        .iter()
        .find(|(name, _)| reason.contains(&format!("expected {name}")));
    found.map_or_else(
        || reason.to_owned(),
        |(name, most)| {
            let bounds = format!("expected a whole number, 0 to {most}");
            reason.replace(&format!("expected {name}"), &bounds)
        },
    )
}

/// The query of a request.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        let sent = |field: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == field);
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| {
                let field = error.path().to_string();
                let reason = error.into_inner();
                let detail = match sent(&field) {
                    Some((_, value)) => format!("it is '{}': {reason}", value.escape_debug()),
                    None => reason.to_string(),
                };
                Failure::invalid(if field == "." { "query".to_owned() } else { field }, detail)
            })
    }
}

/// The parts of the path, as text; [`segment`] parses them.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(found) = found.map_err(|rejection| {
            Failure::invalid(
                "path",
                format!("{}; write other bytes as UTF-8 in %XX", rejection.body_text()),
            )
        })?;
        Ok(Self(found))
    }
}

/// A part of the path that must parse.
pub fn segment<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    text: &str,
) -> Result<T, Failure> {
    text.parse()
        .map_err(|error: T::Err| Failure::invalid(name, error.to_string()))
}

/// A failure of a guard, naming the header that said it.
#[must_use]
pub fn guard_failure(failure: Failure, headers: &HeaderMap) -> Failure {
    if failure.0.field.as_deref() != Some("guard") {
        return failure;
    }
    failure.field(if headers.contains_key(header::IF_MATCH) {
        "if-match"
    } else {
        "if-none-match"
    })
}

/// The guard that `If-Match` and `If-None-Match` say: a revision in quotes, or `*` for *If-None-Match*.
pub fn guard(headers: &HeaderMap) -> Result<Option<EntryGuard>, Failure> {
    const HELP: &str =
        "write If-Match: \"EPOCH.N\" for a revision, or If-None-Match: * for an entry that must not exist";
    match (headers.get(header::IF_MATCH), headers.get(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some(star)) if star == "*" => Ok(Some(EntryGuard::Absent)),
        (Some(tag), None) => {
            let text = tag
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            text.map(|revision| Some(EntryGuard::Revision(revision)))
                .ok_or_else(|| Failure::header("if-match", HELP))
        }
        _ => Err(Failure::header("if-none-match", HELP)),
    }
}
