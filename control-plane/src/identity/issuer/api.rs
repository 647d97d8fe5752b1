//! The routes of identity tokens, and what those who check them ask for.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use moorline_shared::api::session::{CreateIdentityToken, IdentityToken};
use moorline_shared::{HostId, InstanceId, Principal};
use serde_json::json;

use super::keys::CACHE_SECONDS;
use super::model::{Model, Op, Refusal, Reply};
use crate::http::Control;
use crate::http::auth::instance::Proven;
use crate::http::extract::{Json, Path, segment};
use crate::http::problem::Failure;
use crate::model::{Caller, Problem as _};

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route(
            "/v1/hosts/{host}/instances/{instance}/identity-token",
            post(create_identity_token_for_host),
        )
        .route("/v1/instances/{instance}/identity-token", post(create_identity_token))
        // Where OpenID Connect Discovery and those who check tokens look; everybody may.
        .route("/.well-known/openid-configuration", get(configuration))
        .route("/.well-known/jwks.json", get(key_set))
}

/// Gives an instance a token by which others know it.
///
/// The request is signed by the instance. The token is a JSON Web Token, signed with ES256, whose key is found by the
/// discovery document of the issuer that it names. Nothing of it is kept.
#[utoipa::path(post, path = "/v1/instances/{instance}/identity-token", operation_id = "CreateIdentityToken",
    tag = "instances", request_body = CreateIdentityToken,
    params(("instance" = InstanceId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityToken), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_identity_token(
    State(control): State<Control>,
    proven: Proven,
    Path(instance): Path<String>,
    Json(asked): Json<CreateIdentityToken>,
) -> Result<Response, Failure> {
    issue(&control, proven.caller(), segment("instance", &instance)?, asked).await
}

/// Gives a host a token by which others know one of its instances, to have credentials of theirs for it.
#[utoipa::path(post, path = "/v1/hosts/{host}/instances/{instance}/identity-token",
    operation_id = "CreateIdentityTokenForHost", tag = "hosts", request_body = CreateIdentityToken,
    params(("host" = HostId, Path), ("instance" = InstanceId, Path)),
    responses((status = 200, body = IdentityToken), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_identity_token_for_host(
    State(control): State<Control>,
    caller: Caller,
    Path((host, instance)): Path<(String, String)>,
    Json(asked): Json<CreateIdentityToken>,
) -> Result<Response, Failure> {
    let host: HostId = segment("host", &host)?;
    if caller.principal != Principal::Host(host) {
        return Err(Failure(Box::new(Refusal::Denied(caller.principal).problem())));
    }
    issue(&control, caller, segment("instance", &instance)?, asked).await
}

async fn issue(
    control: &Control,
    caller: Caller,
    instance: InstanceId,
    asked: CreateIdentityToken,
) -> Result<Response, Failure> {
    let op = Op::CreateIdentityToken {
        instance,
        audience: asked.audience.clone(),
    };
    let Reply::Subject(subject) = control.look(&Model, op, caller, None).await?.reply else {
        return Err(Failure::unexpected());
    };
    let issued = control
        .issuer
        .issue(&control.executor, &subject, &asked.audience)
        .await;
    let (token, expires_at) = issued.map_err(|error| {
        tracing::error!(%error, "an identity token can't be made");
        Failure::unavailable(error.to_string())
    })?;
    let token = token.into();
    Ok(axum::Json(IdentityToken { token, expires_at }).into_response())
}

async fn configuration(State(control): State<Control>) -> Response {
    let issuer = control.issuer.url();
    public(&json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "account", "instance", "host", "zone", "image"],
    }))
}

async fn key_set(State(control): State<Control>) -> Response {
    public(&control.issuer.key_set())
}

fn public(document: &serde_json::Value) -> Response {
    let cached = format!("public, max-age={CACHE_SECONDS}");
    ([(header::CACHE_CONTROL, cached)], axum::Json(document)).into_response()
}
