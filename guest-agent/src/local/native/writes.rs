//! Changes: passed on to the control plane by the host, and the control plane's answer passed back.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use moorline_shared::api::data::{AppendEntry, Changed, PutEntry};
use moorline_shared::api::session::CreateIdentityToken;
use moorline_shared::api::{IDEMPOTENCY_KEY, OPERATION, REVISION};
use moorline_shared::entry::{ContentType, ContentTypeError, MAX_VALUE_BYTES, Value};
use moorline_shared::link::body::{Relay, Relayed};
use moorline_shared::{EntryPath, InstanceId, Ttl};
use serde::Serialize;
use tokio::time::timeout;

use super::Native;
use super::answer::Outcome;
use super::params::Params;
use super::problem::Problem;
use super::route::Owner;
use crate::access::{Peer, User};
use crate::local::body::Body;

/// How long an answer to a change of the instance's own data waits for the mirror to have it, so that a program reads
/// what it wrote. What the instance may write but not read never comes.
const OWN_CHANGE_WAIT: Duration = Duration::from_millis(500);

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
        EntryPath::check(path).map_err(|error| Problem::invalid("path", error))?;
        let value = self.whole(body).await?;
        let body = match head.method {
            Method::PUT => put_body(&value, head, params)?,
            Method::POST => {
                params.finish()?;
                within_bound(
                    &AppendEntry {
                        value: Value::from(value.clone()),
                    },
                    &value,
                )
            }
            _ => {
                params.finish()?;
                Bytes::new()
            }
        };
        let relay = Relay {
            method: head.method.to_string(),
            target: format!("/v1/instances/{instance}/data/{path}"),
            headers: headers_for(head, &body),
            length: 0,
            body: Value::from(body),
        };
        let relayed = self.backing.prover.relay(relay).await;
        let relayed = relayed.map_err(Problem::unproven)?;
        self.until_mirrored(instance, &relayed).await;
        Ok(response(relayed))
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
        let relayed = self.backing.prover.relay(relay).await;
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

    async fn until_mirrored(&self, instance: InstanceId, relayed: &Relayed) {
        let own = self
            .backing
            .line
            .identity()
            .is_some_and(|own| own.instance == instance);
        if !own || !(200..300).contains(&relayed.status) {
            return;
        }
        if let Ok(changed) = serde_json::from_slice::<Changed>(relayed.body.bytes()) {
            let mirrored = self.backing.given.mirror.until(|mirror| {
                mirror
                    .revision()
                    .is_some_and(|at| at >= changed.revision)
                    .then_some(())
            });
            // Whether it is mirrored yet or not, the change is made.
            let _ = timeout(OWN_CHANGE_WAIT, mirrored).await;
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

fn headers_for(head: &Parts, body: &Bytes) -> Vec<(String, String)> {
    let names = [IF_MATCH, IF_NONE_MATCH, HeaderName::from_static(IDEMPOTENCY_KEY)];
    let passed = names.iter().filter_map(|name| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    let typed = (!body.is_empty()).then(|| (CONTENT_TYPE.as_str().to_owned(), "application/json".to_owned()));
    passed.chain(typed).collect()
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
