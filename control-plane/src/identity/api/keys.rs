//! The routes of the keys that tokens are sealed with.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use moorline_shared::api::identity::{
    DestroyTokenKeyQuery, IdentityChanged, TokenKey, TokenKeyPage, TokenKeyStage,
};

use super::changed;
use crate::http::extract::{Path, Query, segment};
use crate::http::problem::Failure;
use crate::http::{Control, stamp};
use crate::identity::keys::{make, next_id};
use crate::identity::model::Model;
use crate::identity::operations::{IfNeeded, Op, Reply};
use crate::identity::records::TokenKeyRecord;
use crate::identity::token::Stage;
use crate::model::Caller;

async fn keys(control: &Control, caller: Caller) -> Result<(HeaderMap, TokenKeyPage), Failure> {
    let done = control
        .look(&Model, Op::DescribeTokenKeys {}, caller, None)
        .await?;
    let headers = stamp(&done);
    let Reply::Keys(keys) = &done.reply else {
        return Err(Failure::unexpected());
    };
    let page = TokenKeyPage {
        revision: done.revision,
        keys: keys.iter().map(shown).collect(),
    };
    Ok((headers, page))
}

fn shown(key: &TokenKeyRecord) -> TokenKey {
    TokenKey {
        key: key.id,
        stage: match key.stage() {
            Some(Stage::Staged) => TokenKeyStage::Staged,
            Some(Stage::Primary) => TokenKeyStage::Primary,
            Some(Stage::Retiring) => TokenKeyStage::Retiring,
            None => TokenKeyStage::Destroyed,
        },
        since: key.since,
        created_at: key.created_at,
    }
}

/// Shows the keys of tokens. Nobody is ever shown their bytes.
#[utoipa::path(get, path = "/v1/token-keys", operation_id = "DescribeTokenKeys", tag = "identity",
    responses((status = 200, body = TokenKeyPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_token_keys(
    State(control): State<Control>,
    caller: Caller,
) -> Result<Response, Failure> {
    let (headers, page) = keys(&control, caller).await?;
    Ok((headers, axum::Json(page)).into_response())
}

/// Makes a new key, which opens tokens from now on and seals none yet.
#[utoipa::path(post, path = "/v1/token-keys", operation_id = "StageTokenKey", tag = "identity",
    params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn stage_token_key(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let found = control
        .look(&Model, Op::DescribeTokenKeys {}, caller.clone(), None)
        .await?;
    let Reply::Keys(keys) = found.reply else {
        return Err(Failure::unexpected());
    };
    let key = next_id(&keys);
    let sealed = make(&control.master, key).map_err(|error| Failure::unavailable(error.to_string()))?;
    let made = changed(&control, Op::StageTokenKey { key, sealed }, caller, &headers).await?;
    Ok((StatusCode::CREATED, made).into_response())
}

/// Has a staged key seal all tokens from now on; the one that did so before only opens.
#[utoipa::path(post, path = "/v1/token-keys/{key}/promote", operation_id = "PromoteTokenKey", tag = "identity",
    params(("key" = u32, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn promote_token_key(
    State(control): State<Control>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let key = segment("key", &key)?;
    changed(&control, Op::PromoteTokenKey { key }, caller, &headers).await
}

/// Has a staged key retire before it sealed anything.
#[utoipa::path(post, path = "/v1/token-keys/{key}/retire", operation_id = "RetireTokenKey", tag = "identity",
    params(("key" = u32, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn retire_token_key(
    State(control): State<Control>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let key = segment("key", &key)?;
    changed(&control, Op::RetireTokenKey { key }, caller, &headers).await
}

/// Destroys a retiring key: what it sealed opens no more. Refused while a token may still need it, unless forced.
#[utoipa::path(delete, path = "/v1/token-keys/{key}", operation_id = "DestroyTokenKey", tag = "identity",
    params(("key" = u32, Path), DestroyTokenKeyQuery, ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn destroy_token_key(
    State(control): State<Control>,
    caller: Caller,
    Path(key): Path<String>,
    Query(query): Query<DestroyTokenKeyQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let key = segment("key", &key)?;
    let (_, page) = keys(&control, caller.clone()).await?;
    // Whatever was begun before the key retired may have tokens of it.
    let retired = page.keys.iter().find(|one| one.key == key).map(|one| one.since);
    let needed_until =
        retired.and_then(|since| control.tokens.sessions().last_end_of_those_begun_before(since));
    let if_needed = if query.force {
        IfNeeded::Destroy
    } else {
        IfNeeded::Keep
    };
    let op = Op::DestroyTokenKey {
        key,
        needed_until,
        if_needed,
    };
    changed(&control, op, caller, &headers).await
}
