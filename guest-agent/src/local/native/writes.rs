//! Changes, as programs ask for them, and what they are told; [`crate::writes`] makes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use moorline_shared::agent::{MIRRORED, OpenWrites};
use moorline_shared::api::data::{AppendEntry, PutEntry};
use moorline_shared::api::session::CreateIdentityToken;
use moorline_shared::api::{IDEMPOTENCY_KEY, OPERATION, REVISION};
use moorline_shared::entry::{ContentType, ContentTypeError, MAX_VALUE_BYTES, Value};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::body::{Relay, Relayed};
use moorline_shared::{EntryPath, InstanceId, Ttl};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::time::timeout;

use super::Native;
use super::answer::Outcome;
use super::params::Params;
use super::problem::Problem;
use super::respond::json as json_document;
use super::route::Owner;
use crate::access::{Peer, User};
use crate::local::body::Body;
use crate::proof::fresh_key;
use crate::writes::{Change, Made, Mark, Mirrored, Need};

/// The content type that `curl --data` gives to whatever it sends.
const CURLS_OWN: &str = "application/x-www-form-urlencoded";

/// The longest body that the host passes on. Text full of control characters is longer in JSON than this, and shorter
/// in base64.
const MOST_BODY: usize = 2 * MAX_VALUE_BYTES;

impl Native {
    /// A change is made in the instance's name, so not every program in the guest may make one.
    pub(super) fn may_change(&self, peer: &Peer) -> Result<(), Problem> {
        let writer = self.backing.settings.writer;
        if peer.user() == User::Known(writer) {
            Ok(())
        } else {
            Err(Problem::not_the_writer(peer.user(), writer))
        }
    }

    /// `PUT`, `POST` (append) and `DELETE /v1/data/{path}`.
    pub(super) async fn change(
        &self,
        head: &Parts,
        instance: InstanceId,
        path: &str,
        params: Params<'_>,
        body: Incoming,
    ) -> Outcome {
        let path: EntryPath = path.parse().map_err(|error| Problem::invalid("path", error))?;
        let mark = Mark {
            key: key_of(&head.headers)?,
            by: self.whose(Owner::Own)?,
            method: head.method.to_string(),
            target: format!("/v1/instances/{instance}/data/{path}"),
        };
        let value = self.whole(body).await?;
        let (body, need) = match head.method {
            Method::PUT => (put_body(&value, head, params)?, Need::Whole(path, value.len())),
            Method::POST => (append_body(&value, params)?, Need::More(path, value.len())),
            _ => (params.finish().map(|()| Bytes::new())?, Need::Nothing),
        };
        let relay = Relay {
            method: mark.method.clone(),
            target: mark.target.clone(),
            headers: headers_for(head, &mark.key, &body)?,
            length: 0,
            body: Value::from(body),
        };
        // What is another instance's is never this mirror's.
        let need = if mark.by == instance { need } else { Need::Nothing };
        let change = Change { mark, need, relay };
        let made = self.backing.writes.make(&change).await;
        Ok(answer(made.map_err(Problem::not_made)?, &change.mark))
    }

    /// `GET /v1/writes`: which changes are under way or in doubt.
    pub(super) fn open_writes(&self, params: Params<'_>) -> Outcome {
        params.finish()?;
        let writes = self.backing.writes.open();
        Ok(json_document(&OpenWrites { writes }))
    }

    /// `GET /v1/writes/{key}`: what became of a change.
    pub(super) async fn write_status(&self, key: &str, params: Params<'_>) -> Outcome {
        params.finish()?;
        let key = percent_decode_str(key).decode_utf8_lossy();
        let key = key.parse().map_err(|error| Problem::invalid("key", error))?;
        match self.backing.writes.status(&key).await {
            Ok(Some(status)) => Ok(json_document(&status)),
            Ok(None) => Err(Problem::no_such_write(&key)),
            Err(error) => Err(Problem::unrecorded(error)),
        }
    }

    /// `GET /v1/identity-token?audience=NAME`: asked for in the instance's name, as a change is.
    pub(super) async fn identity_token(&self, mut params: Params<'_>) -> Outcome {
        let audience = params.text("audience").map(std::borrow::Cow::into_owned);
        params.finish()?;
        let Some(audience) = audience else {
            return Err(Problem::invalid(
                "audience",
                "say whom the token is for: ?audience=NAME",
            ));
        };
        let body = json(&CreateIdentityToken { audience });
        let relay = Relay {
            method: Method::POST.to_string(),
            target: format!("/v1/instances/{}/identity-token", self.whose(Owner::Own)?),
            headers: vec![(CONTENT_TYPE.as_str().to_owned(), "application/json".to_owned())],
            length: 0,
            body: Value::from(body),
        };
        let relayed = self.backing.prover.relay(&relay).await;
        let mut response = response(relayed.map_err(Problem::unproven)?);
        let uncached = HeaderValue::from_static("no-store");
        response.headers_mut().insert(CACHE_CONTROL, uncached);
        Ok(response)
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, Problem> {
        let whole = Limited::new(body, MAX_VALUE_BYTES).collect();
        match timeout(self.backing.settings.patience, whole).await {
            Err(_) => Err(Problem::slow_body()),
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(MAX_VALUE_BYTES)),
            Ok(Err(error)) => Err(Problem::invalid("body", error)),
        }
    }
}

fn put_body(value: &Bytes, head: &Parts, mut params: Params<'_>) -> Result<Bytes, Problem> {
    let content_type = said_type(&head.headers)?;
    let seconds: Option<u32> = params.value("ttl")?;
    let ttl = seconds.map(|s| Ttl::try_from(s).map_err(|error| Problem::invalid("ttl", error)));
    let visibility = match params.text("visibility") {
        None => None,
        Some(text) => {
            Some(serde_json::from_value(text.into()).map_err(|error| Problem::invalid("visibility", error))?)
        }
    };
    params.finish()?;
    let ttl = ttl.transpose()?;
    let put = PutEntry {
        content_type,
        visibility,
        ttl,
        ..PutEntry::value(Value::from(value.clone()))
    };
    Ok(within_bound(&put, value))
}

fn append_body(value: &Bytes, params: Params<'_>) -> Result<Bytes, Problem> {
    params.finish()?;
    let append = AppendEntry {
        value: Value::from(value.clone()),
    };
    Ok(within_bound(&append, value))
}

/// What the program knows the change by, or a fresh key.
fn key_of(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    match said_once(headers, &HeaderName::from_static(IDEMPOTENCY_KEY))? {
        Some(said) => said
            .parse()
            .map_err(|error| Problem::invalid(IDEMPOTENCY_KEY, error)),
        None => fresh_key().map_err(|error| Problem::unproven(error.into())),
    }
}

/// A header on which it depends whether the change is made: one that is said twice, or is no text, is not left out.
fn said_once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut said = headers.get_all(name).iter();
    let (first, second) = (said.next(), said.next());
    let Some(first) = first else {
        return Ok(None);
    };
    let invalid = || {
        Problem::invalid(
            name.as_str().to_owned(),
            "it must be said once, in printable ASCII",
        )
    };
    if second.is_some() {
        return Err(invalid());
    }
    first.to_str().map(Some).map_err(|_| invalid())
}

/// What the client says the bytes are; what `curl` says of any bytes is not said by anyone.
fn said_type(headers: &HeaderMap) -> Result<Option<ContentType>, Problem> {
    let Some(said) = headers.get(CONTENT_TYPE).filter(|said| *said != CURLS_OWN) else {
        return Ok(None);
    };
    let parsed = said.to_str().ok().and_then(|text| text.parse().ok());
    parsed
        .map(Some)
        .ok_or_else(|| Problem::invalid("content-type", ContentTypeError))
}

/// The document, its value as text, or in base64 where the text would be too long.
fn within_bound(document: &impl Serialize, value: &Bytes) -> Bytes {
    let text = json(document);
    if text.len() <= MOST_BODY {
        return text;
    }
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["value"] = serde_json::json!({ "base64": STANDARD.encode(value) });
    json(&document)
}

fn json(document: &impl Serialize) -> Bytes {
    // Our documents are structs of texts and numbers, which are always JSON.
    serde_json::to_vec(document).unwrap_or_default().into()
}

fn headers_for(head: &Parts, key: &IdempotencyKey, body: &Bytes) -> Result<Vec<(String, String)>, Problem> {
    let mut headers = Vec::new();
    for name in [IF_MATCH, IF_NONE_MATCH] {
        let said = said_once(&head.headers, &name)?;
        headers.extend(said.map(|value| (name.as_str().to_owned(), value.to_owned())));
    }
    headers.push((IDEMPOTENCY_KEY.to_owned(), key.to_string()));
    if !body.is_empty() {
        headers.push((CONTENT_TYPE.as_str().to_owned(), "application/json".to_owned()));
    }
    Ok(headers)
}

/// The control plane's answer to a change, with what it is known by and whether the mirror has it.
fn answer(made: Made, mark: &Mark) -> Response<Body> {
    let mut response = response(made.answer);
    let headers = response.headers_mut();
    if let Ok(key) = HeaderValue::try_from(mark.key.to_string()) {
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), key);
    }
    let mirrored = match made.mirrored {
        Mirrored::Already => "true",
        Mirrored::NotYet => "false",
        Mirrored::NotOurs => return response,
    };
    headers.insert(
        HeaderName::from_static(MIRRORED),
        HeaderValue::from_static(mirrored),
    );
    response
}

/// The control plane's answer, with the headers that mean something here.
fn response(relayed: Relayed) -> Response<Body> {
    let passed = [
        CONTENT_TYPE,
        ETAG,
        RETRY_AFTER,
        HeaderName::from_static(OPERATION),
        HeaderName::from_static(REVISION),
    ];
    let mut response = Response::new(Body::Whole(relayed.body.bytes().clone()));
    // An interim status can't stand at the end.
    let status = StatusCode::from_u16(relayed.status)
        .ok()
        .filter(|status| !status.is_informational());
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in relayed.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .filter(|name| passed.contains(name));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(Bytes::from(value))) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
