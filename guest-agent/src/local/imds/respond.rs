//! Answers as EC2 gives them: plain text, and for errors a status with a word for people.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::request::{Refusal, TOKEN_TTL};
use super::token::TokenTtl;
use super::tree::Shown;
use crate::local::body::Body;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn with_type(content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Whole(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// What is under a path.
pub(super) fn shown(shown: Shown) -> Response<Body> {
    match shown {
        Shown::Text(text) => with_type(TEXT, text),
        Shown::Raw(bytes) => with_type(BYTES, bytes),
        Shown::Json(document) => with_type(JSON, document),
    }
}

/// A token, with its TTL as it was asked for.
pub(super) fn token(token: Option<String>, ttl: TokenTtl) -> Response<Body> {
    let Some(token) = token else {
        return refusal(Refusal::Unavailable);
    };
    let mut response = with_type(TEXT, token.into());
    let seconds = HeaderValue::from(ttl.seconds());
    response.headers_mut().insert(TOKEN_TTL.clone(), seconds);
    response
}

/// That the request is not answered.
pub(super) fn refusal(refusal: Refusal) -> Response<Body> {
    let (status, text) = match refusal {
        Refusal::Forbidden => (
            StatusCode::FORBIDDEN,
            "only for clients on this machine, by the service's own address",
        ),
        Refusal::BadTtl => (
            StatusCode::BAD_REQUEST,
            "X-aws-ec2-metadata-token-ttl-seconds must be 1 to 21600",
        ),
        Refusal::Unauthorized => (
            StatusCode::UNAUTHORIZED,
            "a token is needed: PUT /latest/api/token",
        ),
        Refusal::NotFound => (StatusCode::NOT_FOUND, "there is nothing here"),
        Refusal::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "not with this method"),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "not here yet"),
    };
    let mut response = with_type(TEXT, Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    let header = match refusal {
        Refusal::Method(allowed) => Some((ALLOW, HeaderValue::from_static(allowed))),
        Refusal::Unavailable => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => None,
    };
    response
        .headers_mut()
        .extend(header.map(|(name, value)| (Some(name), value)));
    response
}
