//! An instance, by its signature: what it changes, it signs, and its host passes it on under a signature of its own.
//!
//! Whether a request is proven has to be known together with its body, so that it is found out before the request is
//! handed on: [`admit`] checks every request that carries signatures, and leaves [`Proven`] with it. An instance that is
//! only named by its host may read, which is another way to say who asks.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use moorline_shared::api::{IDEMPOTENCY_KEY, ON_BEHALF_OF, SERVER_TIME};
use moorline_shared::signature::{
    CONTENT_DIGEST, Request as SignedRequest, SIGNATURE, SIGNATURE_INPUT, TOKEN,
};
use moorline_shared::{AccountId, Digest, HostId, InstanceId, Principal, Timestamp};

use super::{Said, caller};
use crate::http::bodies::in_time;
use crate::http::peer::HostCertificate;
use crate::http::problem::Failure;
use crate::http::{Control, MAX_BODY_BYTES};
use crate::identity::instances::nonces::{NonceRefusal, Nonces};
use crate::identity::instances::operations::Op;
use crate::identity::instances::proof::{GuestKey, Shown, Unproven};
use crate::identity::instances::{Model, Refusal};
use crate::identity::token::{Kind, SessionId};
use crate::identity::tokens::{Known, TokenRefusal};
use crate::instances::records::InstanceRecord;
use crate::model::{Caller, ExecuteError, Problem as _, Record as _, Role};

/// The fields that signatures cover or are in.
const FIELDS: [&str; 7] = [
    SIGNATURE_INPUT,
    SIGNATURE,
    CONTENT_DIGEST,
    TOKEN,
    IDEMPOTENCY_KEY,
    "if-match",
    "if-none-match",
];

/// The requests that were seen in the last minutes, shared by all connections.
#[derive(Clone, Debug)]
pub struct Seen(Arc<Mutex<Nonces>>);

impl Seen {
    /// None was seen until `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Nonces::new(now))))
    }

    fn take(
        &self,
        instance: InstanceId,
        account: &AccountId,
        nonce: &str,
        now: Timestamp,
    ) -> Result<(), NonceRefusal> {
        // A panic elsewhere leaves at worst a nonce that is there and wasn't needed.
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.take(instance, account, nonce, now)
    }
}

/// An instance that is proven to have made a request, on a host that is proven to have passed it on.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Which.
    pub instance: InstanceId,
    /// In which session.
    pub session: SessionId,
    account: AccountId,
    host: HostId,
}

impl Proven {
    /// The instance as a caller.
    pub fn caller(&self) -> Caller {
        Caller {
            principal: Principal::Instance(self.instance),
            account: self.account.clone(),
            role: Role::Member,
            via: Some(self.host.clone()),
            session: Some(self.session),
        }
    }
}

impl FromRequestParts<Control> for Proven {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Control) -> Result<Self, Failure> {
        let proven = parts.extensions.get().cloned();
        proven.ok_or_else(|| unproven(Unproven::Missing(SIGNATURE_INPUT).to_string()))
    }
}

/// The instance that is proven to have made the request.
pub(super) fn look(_: &Control, parts: &Parts) -> Said {
    let proven: Option<&Proven> = parts.extensions.get();
    proven.map_or(Said::Nothing, |proven| Said::Caller(proven.caller()))
}

/// Why a request is not taken for an instance's.
#[derive(Debug, thiserror::Error)]
enum NotProven {
    #[error(transparent)]
    Unproven(#[from] Unproven),
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error("the token is not an instance's")]
    NotAnInstance,
    #[error("the token is of {token}, and the host speaks for {named}")]
    OtherInstance { token: InstanceId, named: String },
    #[error("the key that the token was sealed with is gone")]
    KeyGone,
    #[error("there is no instance {0} any more")]
    Gone(InstanceId),
    #[error("instance {instance} is on host {placed}, and host {relaying} passed its request on")]
    Elsewhere {
        instance: InstanceId,
        placed: HostId,
        relaying: HostId,
    },
    #[error("the token is of incarnation {found}, and {known} has begun")]
    EarlierLife { found: u64, known: u64 },
    #[error(transparent)]
    Nonce(#[from] NonceRefusal),
    /// Nothing is known of the request: it could not be looked at.
    #[error("{}", .0.0.detail)]
    Failed(Failure),
}

impl From<Failure> for NotProven {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Checks a request that carries signatures, with its body, before it is handed on. One without is handed on as it is.
///
/// What is refused here leaves a record that says precisely why, as far as a host doesn't have too many; the answer says
/// little. Every answer that somebody isn't known carries the time here, by which a guest sets its own.
pub async fn admit(State(control): State<Control>, request: Request, next: Next) -> Response {
    let answer = if request.headers().contains_key(SIGNATURE_INPUT) {
        match prove(&control, request).await {
            Ok(request) => next.run(request).await,
            Err(failure) => failure.into_response(),
        }
    } else {
        next.run(request).await
    };
    dated(answer, control.executor.now())
}

fn dated(mut answer: Response, now: Timestamp) -> Response {
    if answer.status() == StatusCode::UNAUTHORIZED
        && let Ok(value) = HeaderValue::try_from(now.to_string())
    {
        answer.headers_mut().insert(SERVER_TIME, value);
    }
    answer
}

/// The host that passed a request on, by its connection.
struct Relaying {
    caller: Caller,
    host: HostId,
    certificate: HostCertificate,
}

impl Relaying {
    fn of(control: &Control, parts: &mut Parts) -> Result<Self, Failure> {
        // It is the host that is asked for, and not the guest that it says it speaks for.
        let named = parts.headers.remove(ON_BEHALF_OF);
        let found = caller(control, parts);
        if let Some(named) = named {
            parts.headers.insert(ON_BEHALF_OF, named);
        }
        let caller = found?;
        match (&caller.principal, parts.extensions.get::<HostCertificate>()) {
            (Principal::Host(host), Some(certificate)) if certificate.host == *host => Ok(Self {
                host: host.clone(),
                certificate: certificate.clone(),
                caller,
            }),
            _ => Err(unproven("only a host passes requests of instances on".to_owned())),
        }
    }
}

async fn prove(control: &Control, request: Request) -> Result<Request, Failure> {
    let (mut parts, body) = request.into_parts();
    let relaying = Relaying::of(control, &mut parts)?;
    match check(control, &parts, &relaying, body).await {
        Ok((proven, body)) => {
            parts.extensions.insert(proven);
            Ok(Request::from_parts(parts, Body::from(body)))
        }
        Err(NotProven::Failed(failure)) => Err(failure),
        Err(NotProven::Nonce(
            NonceRefusal::TooMany | NonceRefusal::TooManyOfAccount | NonceRefusal::Full,
        )) => Err(Failure::unavailable(
            "too many requests of instances; send it again later",
        )),
        Err(reason) => Err(record(control, &parts, &relaying, &reason).await),
    }
}

async fn check(
    control: &Control,
    parts: &Parts,
    relaying: &Relaying,
    body: Body,
) -> Result<(Proven, Bytes), NotProven> {
    let now = control.executor.now();
    let fields = fields(&parts.headers)?;
    let shown = Shown::read(SignedRequest {
        method: parts.method.as_str(),
        authority: &control.deployment,
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()),
        fields: &fields,
    })?;
    let known = control.tokens.validate(shown.token(), &[Kind::Instance], now)?;
    let Principal::Instance(instance) = known.bundle.subject else {
        return Err(NotProven::NotAnInstance);
    };
    named(&parts.headers, instance)?;
    shown.check_guest(&guest_key(control, &known)?, &known.bundle.token.to_string(), now)?;
    let HostCertificate {
        public_key, serial, ..
    } = &relaying.certificate;
    shown.check_host(public_key, serial, now)?;
    placed(control, &known, instance, &relaying.host).await?;
    // Last of all that the head tells, so that nobody but the instance itself uses its room up.
    control
        .seen
        .take(instance, &known.bundle.account, shown.nonce()?, now)?;
    let body = signed(body, shown.body()).await?;
    let proven = Proven {
        instance,
        session: known.bundle.session,
        account: known.bundle.account,
        host: relaying.host.clone(),
    };
    Ok((proven, body))
}

/// The body, if it is the one that the signature is over.
async fn signed(body: Body, digest: Digest) -> Result<Bytes, NotProven> {
    let body = in_time(to_bytes(body, MAX_BODY_BYTES)).await?;
    let body = body.map_err(|_| Unproven::Body)?;
    if Digest::of(&body) != digest {
        return Err(Unproven::Body.into());
    }
    Ok(body)
}

/// The fields that count, as text.
fn fields(headers: &HeaderMap) -> Result<Vec<(&'static str, &str)>, Unproven> {
    let mut fields = Vec::new();
    for name in FIELDS {
        for value in headers.get_all(name) {
            let value = value.to_str().map_err(|_| Unproven::Missing(name))?;
            fields.push((name, value));
        }
    }
    Ok(fields)
}

/// The host says for whom it speaks, so that it doesn't take one guest's request for another's.
fn named(headers: &HeaderMap, token: InstanceId) -> Result<(), NotProven> {
    let Some(named) = headers.get(ON_BEHALF_OF) else {
        return Ok(());
    };
    let named = named.to_str().unwrap_or_default();
    if named == token.to_string() {
        return Ok(());
    }
    let named = named.chars().take(64).collect();
    Err(NotProven::OtherInstance { token, named })
}

fn guest_key(control: &Control, known: &Known) -> Result<GuestKey, NotProven> {
    let part = control.tokens.sessions().instance(&known.bundle.session);
    match part.ok_or(NotProven::NotAnInstance)?.public_key {
        Some(key) => Ok(GuestKey::Own(*key.bytes())),
        None => control
            .tokens
            .signing_key(&known.bundle.token, known.key)
            .map(GuestKey::Shared)
            .ok_or(NotProven::KeyGone),
    }
}

/// Whether the instance is on the host that passed its request on, in the life that its token is of.
async fn placed(
    control: &Control,
    known: &Known,
    instance: InstanceId,
    relaying: &HostId,
) -> Result<(), NotProven> {
    let store = control.executor.store();
    let head = store.head().await.map_err(Failure::from)?;
    let kept = store
        .get(head, &InstanceRecord::key(&instance))
        .await
        .map_err(Failure::from)?
        .ok_or(NotProven::Gone(instance))?;
    let record: InstanceRecord = serde_json::from_slice(&kept.value).map_err(|_| Failure::unexpected())?;
    if record.has_ended() {
        return Err(NotProven::Gone(instance));
    }
    if record.host != *relaying {
        return Err(NotProven::Elsewhere {
            instance,
            placed: record.host,
            relaying: relaying.clone(),
        });
    }
    let found = known.bundle.incarnation.unwrap_or(0);
    if found < record.incarnation {
        let known = record.incarnation;
        return Err(NotProven::EarlierLife { found, known });
    }
    Ok(())
}

/// Leaves a record of a request that is not proven, and answers it.
async fn record(control: &Control, parts: &Parts, relaying: &Relaying, reason: &NotProven) -> Failure {
    let named = parts
        .headers
        .get(ON_BEHALF_OF)
        .and_then(|name| name.to_str().ok());
    let op = Op::PassRequestOn {
        instance: named.and_then(|name| name.parse().ok()),
        method: parts.method.to_string(),
        path: parts.uri.path().chars().take(512).collect(),
        reason: reason.to_string(),
    };
    match control.look(&Model, op, relaying.caller.clone(), None).await {
        Err(refused @ ExecuteError::Refused { .. }) => refused.into(),
        Err(error) => error.into(),
        Ok(_) => Failure::unexpected(),
    }
}

fn unproven(reason: String) -> Failure {
    Failure(Box::new(Refusal::Unproven(reason).shown()))
}
