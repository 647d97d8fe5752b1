//! Answers made of entries.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use moorline_shared::agent::{AGE_MS, Entry as JsonEntry, FRESHNESS, Freshness, Listing};
use moorline_shared::entry::Value;
use serde::Serialize;

use super::document::Document;
use crate::local::body::Body;
use crate::mirror::{Entry, etag};

static AGE_NAME: HeaderName = HeaderName::from_static(AGE_MS);
static FRESHNESS_NAME: HeaderName = HeaderName::from_static(FRESHNESS);

/// The entry's bytes, or 304 where the client has them. All headers but the age were made when the entry came.
pub(super) fn entry_bytes(
    entry: &Entry,
    freshness: Freshness,
    age: HeaderValue,
    asked: &HeaderMap,
) -> Response<Body> {
    bytes(
        entry.content_type(),
        entry.etag(),
        entry.value().bytes(),
        (freshness, age),
        asked,
    )
}

/// Bytes with what is known about them, or 304 where the client has them.
pub(super) fn bytes(
    content_type: &HeaderValue,
    etag: &HeaderValue,
    value: &Bytes,
    (freshness, age): (Freshness, HeaderValue),
    asked: &HeaderMap,
) -> Response<Body> {
    let has = asked.get(IF_NONE_MATCH).is_some_and(|known| matches(known, etag));
    let body = if has { Bytes::new() } else { value.clone() };
    let mut response = Response::new(Body::Whole(body));
    if has {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(CONTENT_TYPE, content_type.clone());
    headers.insert(ETAG, etag.clone());
    headers.insert(AGE_NAME.clone(), age);
    headers.insert(
        FRESHNESS_NAME.clone(),
        HeaderValue::from_static(freshness.as_str()),
    );
    response
}

/// Whether `If-None-Match` names the tag: one of a list, weak or not, or all (RFC 9110, section 13.1.2).
fn matches(known: &HeaderValue, etag: &HeaderValue) -> bool {
    let (known, etag) = (known.as_bytes(), etag.as_bytes());
    known == etag
        || known
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
            .any(|one| one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == etag)
}

/// A JSON document.
pub(super) fn json(document: &impl Serialize) -> Response<Body> {
    // Our documents are structs of texts, numbers and lists, which are always JSON.
    let body = serde_json::to_vec(document).unwrap_or_default();
    let mut response = Response::new(Body::Whole(body.into()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A listing, written while it is sent.
pub(super) fn listing(head: &Listing, entries: impl Iterator<Item = JsonEntry> + 'static) -> Response<Body> {
    let pieces = stream::iter(Document::listing(head, entries));
    let mut response = Response::new(Body::Pieces(pieces.boxed_local()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ETAG, etag(head.revision));
    response
}

/// Whether an answer carries the values of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    Included,
    Omitted,
}

/// The entry in JSON.
pub(super) fn json_entry(entry: &Entry, values: Values) -> JsonEntry {
    JsonEntry {
        path: entry.path().clone(),
        revision: entry.revision(),
        content_type: text(entry.content_type()),
        length: entry.value().len() as u64,
        value: (values == Values::Included).then(|| Value::clone(entry.value())),
    }
}

/// A header of ours as text: it holds printable ASCII.
pub(super) fn text(header: &HeaderValue) -> String {
    header.to_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::matches;
    use http::HeaderValue;

    #[test]
    fn if_none_match_takes_lists_and_weak_tags() {
        let etag = HeaderValue::from_static("\"1.2\"");
        for known in ["\"1.2\"", "W/\"1.2\"", "\"0.1\", \"1.2\"", "*"] {
            assert!(matches(&HeaderValue::from_static(known), &etag), "{known}");
        }
        for known in ["\"1.3\"", "1.2", ""] {
            assert!(!matches(&HeaderValue::from_static(known), &etag), "{known}");
        }
    }
}
