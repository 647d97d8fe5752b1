//! `register.sock`: VM managers say which channel is whose.
//!
//! An instance that this host doesn't know is made at the control plane first, but only after everything that can
//! be checked here was found right: an instance that is made stays.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use moorline_client::{ClientError, fresh_key};
use moorline_shared::api::instances::{Driver, Instance, InstanceQuery, RegisterInstance};
use moorline_shared::host::{Register, Registered, Unregister};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::{Digest, HostId, InstanceId};

use super::Services;
use super::problem::{Problem, unknown_path};
use crate::causes::Causes;
use crate::channel::ChannelError;
use crate::link::BeginError;
use crate::vm::external::{Caller, RegisterError, Registration};

pub(super) fn routes(services: Arc<Services>) -> Router {
    Router::new()
        .route("/v1/register", post(register))
        .route("/v1/unregister", post(unregister))
        .fallback(unknown_path)
        .with_state(services)
}

async fn register(
    State(services): State<Arc<Services>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Register>, JsonRejection>,
) -> Result<Json<Registered>, Problem> {
    let Json(body) = body?;
    let instance = instance_of(&body, &services.host, caller)?;
    let mut registration = Registration {
        instance,
        incarnation: 0,
        channel: body.channel.clone(),
        supervision: body.supervision,
        caller,
    };
    services.external.check(registration.clone()).await?;
    let known = services.external.driver(instance).await?;
    if known.is_none() {
        registration.incarnation = make(&services, instance, body).await?.incarnation;
    }
    let registered = services.external.register(registration).await;
    let registered = registered.map_err(|error| {
        let problem = Problem::from(error);
        match known {
            Some(_) => problem,
            None => problem.and(&format!(
                " (The instance was made: register it again as {instance}.)"
            )),
        }
    })?;
    Ok(Json(registered))
}

/// Which instance a registration is of. A new one under a key is the same one however often it is asked for.
fn instance_of(body: &Register, host: &HostId, caller: Caller) -> Result<InstanceId, Problem> {
    match (body.instance, &body.key) {
        (Some(instance), _) => Ok(instance),
        (None, Some(key)) => Ok(id_under(key, host, caller)),
        (None, None) => fresh_id(),
    }
}

/// Keys are a caller's own, and so are the instances that are made under them.
fn id_under(key: &IdempotencyKey, host: &HostId, caller: Caller) -> InstanceId {
    let parts = [host.as_str(), &caller.uid.to_string(), &key.to_string()];
    let digest = Digest::of_parts(parts.map(str::as_bytes));
    let mut id = [0; 16];
    id.copy_from_slice(&digest.bytes()[..16]);
    InstanceId::from_bytes(id)
}

fn fresh_id() -> Result<InstanceId, Problem> {
    let mut bytes = [0; 16];
    let random = getrandom::fill(&mut bytes);
    random.map_err(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(
            status,
            "no-random-bytes",
            "The kernel gives no random bytes",
            error.to_string(),
        )
    })?;
    Ok(InstanceId::from_bytes(bytes))
}

/// Makes the instance at the control plane, or finds that an earlier registration has made it.
async fn make(services: &Services, instance: InstanceId, body: Register) -> Result<Instance, Problem> {
    let request = RegisterInstance {
        host: services.host.clone(),
        id: Some(instance),
        name: body.name,
        tags: body.tags,
        roles: body.roles,
        data: body.data,
    };
    match services.control.register_instance(&request, &fresh_key()).await {
        Ok(made) => made.instances.into_iter().next().ok_or_else(|| unclear(instance)),
        Err(error) if is_conflict(&error) => find(services, instance).await?.ok_or_else(|| refused(error)),
        Err(error) => Err(refused(error)),
    }
}

fn is_conflict(error: &ClientError) -> bool {
    error
        .problem()
        .is_some_and(|problem| problem.status == StatusCode::CONFLICT.as_u16())
}

/// The instance, if it is one of this host that somebody else runs: the feed may not have brought it yet.
async fn find(services: &Services, instance: InstanceId) -> Result<Option<Instance>, Problem> {
    let query = InstanceQuery {
        instance: Some(instance),
        ..InstanceQuery::default()
    };
    let page = services
        .control
        .describe_instances(&query)
        .await
        .map_err(refused)?;
    let ours = |found: &Instance| found.host == services.host && found.driver == Driver::External;
    Ok(page.instances.into_iter().find(ours))
}

fn unclear(instance: InstanceId) -> Problem {
    let detail = format!("it answered without the instance; look whether there is {instance}");
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "control-plane",
        "The control plane is not understood",
        detail,
    )
}

/// What the control plane said is the caller's to know; that it can't be reached is too.
fn refused(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => Problem::from(*problem),
        other => {
            let title = "The control plane can't be asked to make the instance";
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "control-plane",
                title,
                other.to_string(),
            )
        }
    }
}

async fn unregister(
    State(services): State<Arc<Services>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Unregister>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(Unregister { instance }) = body?;
    services.external.unregister(instance, caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let detail = Causes(&error).to_string();
        let problem = |status, kind, title| Self::new(status, kind, title, detail);
        let title = "The VM can't be registered";
        match error {
            RegisterError::NotExternal(_) | RegisterError::Terminated(_) => {
                problem(StatusCode::CONFLICT, "not-registrable", title).at("instance")
            }
            RegisterError::NotRegistered(_) => {
                let title = "There is no registration to take back";
                problem(StatusCode::NOT_FOUND, "not-registered", title).at("instance")
            }
            RegisterError::Taken { .. }
            | RegisterError::Channel(BeginError::Channel(ChannelError::CidTaken { .. })) => {
                problem(StatusCode::CONFLICT, "channel-taken", title).at("channel")
            }
            RegisterError::NoProcess { .. } => {
                problem(StatusCode::BAD_REQUEST, "no-such-process", title).at("supervision")
            }
            RegisterError::NotYours { .. } => {
                problem(StatusCode::FORBIDDEN, "not-your-process", title).at("supervision")
            }
            RegisterError::NotYourRegistration(_) => {
                let title = "The registration is another user's";
                problem(StatusCode::FORBIDDEN, "not-your-registration", title).at("instance")
            }
            RegisterError::Cid(_) => problem(StatusCode::BAD_REQUEST, "bad-cid", title).at("channel"),
            RegisterError::Place(_) => problem(StatusCode::BAD_REQUEST, "bad-path", title).at("channel"),
            RegisterError::Channel(BeginError::Full(_)) => {
                let title = "The host has no room for another guest";
                problem(StatusCode::SERVICE_UNAVAILABLE, "host-full", title)
            }
            RegisterError::Channel(_) => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "channel-unusable", title).at("channel")
            }
            RegisterError::Process { .. }
            | RegisterError::Boot(_)
            | RegisterError::Random(_)
            | RegisterError::File(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", title),
            RegisterError::Ending => problem(StatusCode::SERVICE_UNAVAILABLE, "ending", title),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, instance_of};
    use moorline_shared::host::{Channel, Register, Supervision};
    use moorline_shared::{HostId, InstanceId};

    fn id(key: Option<&str>, host: &str, uid: u32) -> InstanceId {
        let body = Register {
            instance: None,
            key: key.map(|key| key.parse().unwrap()),
            name: None,
            tags: Vec::new(),
            roles: Default::default(),
            data: Default::default(),
            channel: Channel::Vsock { cid: 7 },
            supervision: Supervision::Unsupervised,
        };
        let host: HostId = host.parse().unwrap();
        instance_of(&body, &host, Caller { uid }).unwrap()
    }

    #[test]
    fn a_new_instance_is_the_same_one_under_the_same_key() {
        let first = id(Some("k1"), "h1", 1_000);
        assert_eq!(first, id(Some("k1"), "h1", 1_000));
        for other in [
            id(Some("k2"), "h1", 1_000),
            id(Some("k1"), "h2", 1_000),
            id(Some("k1"), "h1", 1_001),
            id(None, "h1", 1_000),
        ] {
            assert_ne!(first, other);
        }
        assert_ne!(id(None, "h1", 1_000), id(None, "h1", 1_000));
    }
}
