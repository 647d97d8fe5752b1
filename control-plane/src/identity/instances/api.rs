//! The routes of instances' sessions.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use moorline_shared::api::data::Changed;
use moorline_shared::api::session::{CreateInstanceSession, IdentifyInstance, InstanceSession};
use moorline_shared::{HostId, InstanceId, Timestamp};

use super::TOKEN_SECONDS;
use super::model::Model;
use super::operations::{Op, Reply, Wanted};
use crate::http::auth::instance::Proven;
use crate::http::extract::{Json, Path, segment};
use crate::http::problem::Failure;
use crate::http::{Control, changed, idempotency_key};
use crate::identity::public_key::PublicKey;
use crate::identity::records::{SessionPurpose, SessionRecord};
use crate::identity::token::{Grant, Kind};
use crate::model::Caller;

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route(
            "/v1/hosts/{host}/instances/{instance}/session",
            post(create_instance_session),
        )
        .route("/v1/instances/{instance}/identify", post(identify_instance))
}

/// Gives a host a token of one of its instances.
///
/// The first one for a life of its VM begins a session; further ones are of the same session and leave nothing behind.
#[utoipa::path(post, path = "/v1/hosts/{host}/instances/{instance}/session", operation_id = "CreateInstanceSession",
    tag = "hosts", request_body = CreateInstanceSession,
    params(("host" = HostId, Path), ("instance" = InstanceId, Path)),
    responses((status = 200, body = InstanceSession), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_instance_session(
    State(control): State<Control>,
    caller: Caller,
    Path((host, instance)): Path<(String, String)>,
    Json(asked): Json<CreateInstanceSession>,
) -> Result<Response, Failure> {
    let instead_of = asked.instead_of.as_deref();
    let wanted = Wanted {
        host: segment("host", &host)?,
        instance: segment("instance", &instance)?,
        incarnation: asked.incarnation,
        instead_of: instead_of.map(|id| segment("instead_of", id)).transpose()?,
    };
    let session = session(&control, caller, wanted).await?;
    Ok(axum::Json(token(&control, &session)?).into_response())
}

/// The session that there is, or a new one.
async fn session(control: &Control, caller: Caller, wanted: Wanted) -> Result<SessionRecord, Failure> {
    let find = Op::FindInstanceSession(wanted.clone());
    let found = control.look(&Model, find, caller.clone(), None).await?;
    if let Reply::Session(Some(session)) = found.reply {
        return Ok(*session);
    }
    let create = Op::CreateInstanceSession(wanted);
    let made = control.change(&Model, create, caller, None).await?;
    let reached = control.tokens.reach(made.revision.n).await;
    reached.map_err(|_| Failure::unexpected())?;
    match made.reply {
        Reply::Session(Some(session)) => Ok(*session),
        _ => Err(Failure::unexpected()),
    }
}

/// A token of a session, and what goes with it.
fn token(control: &Control, session: &SessionRecord) -> Result<InstanceSession, Failure> {
    let now = control.executor.now();
    let minted = control
        .tokens
        .mint(
            Kind::Instance,
            session,
            Grant::default(),
            None,
            TOKEN_SECONDS,
            now,
        )
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let key = control.tokens.signing_key(&minted.id, minted.key);
    Ok(InstanceSession {
        session: session.id.to_string(),
        token: minted.token.expose().to_owned().into(),
        token_id: minted.id.to_string(),
        sealed_by: minted.key,
        key: key.ok_or_else(Failure::unexpected)?,
        expires_at: minted.expires_at,
        expires_in_seconds: seconds(now, minted.expires_at),
        identify_within_seconds: identify_by(session).map(|last| seconds(now, last)),
    })
}

/// When the instance must have used its session, if it hasn't.
fn identify_by(session: &SessionRecord) -> Option<Timestamp> {
    match &session.purpose {
        SessionPurpose::Instance(part) if part.identified.is_none() => part.identify_by,
        _ => None,
    }
}

fn seconds(now: Timestamp, later: Timestamp) -> u32 {
    u32::try_from(now.millis_until(later) / 1_000).unwrap_or(u32::MAX)
}

/// An instance shows that it has its token, and gives the key that it signs with from now on.
///
/// The request is signed with the key that came with the token. Sent again it has the same answer.
#[utoipa::path(post, path = "/v1/instances/{instance}/identify", operation_id = "IdentifyInstance",
    tag = "instances", request_body = IdentifyInstance,
    params(("instance" = InstanceId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn identify_instance(
    State(control): State<Control>,
    proven: Proven,
    Path(instance): Path<String>,
    headers: HeaderMap,
    Json(asked): Json<IdentifyInstance>,
) -> Result<Response, Failure> {
    let op = Op::IdentifyInstance {
        instance: segment("instance", &instance)?,
        session: proven.session,
        public_key: asked.public_key.as_deref().map(public_key).transpose()?,
    };
    let done = control
        .change(&Model, op, proven.caller(), idempotency_key(&headers)?)
        .await?;
    let reached = control.tokens.reach(done.revision.n).await;
    reached.map_err(|_| Failure::unexpected())?;
    Ok(changed(&done))
}

fn public_key(text: &str) -> Result<PublicKey, Failure> {
    serde_json::from_value(text.into()).map_err(|error| Failure::invalid("public_key", error.to_string()))
}
