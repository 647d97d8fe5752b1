//! The routes of identities.

pub mod groups;
pub mod keys;
pub mod sessions;
pub mod users;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use moorline_shared::OperationId;
use moorline_shared::api::identity::IdentityChanged;
use moorline_shared::id::IdempotencyKey;

use super::model::Model;
use super::operations::{Op, Reply};
use super::password::PasswordError;
use super::sessions::FollowError;
use super::tokens::MintError;
use crate::http::problem::Failure;
use crate::http::{Control, idempotency_key, operation_id, stamp};
use crate::model::{Attempt, Caller, Done};

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/users", post(users::create_user).get(users::describe_users))
        .route(
            "/v1/users/{user}",
            patch(users::modify_user).delete(users::delete_user),
        )
        .route("/v1/users/{user}/password", put(users::set_user_password))
        .route(
            "/v1/groups",
            post(groups::create_group).get(groups::describe_groups),
        )
        .route("/v1/groups/{group}", delete(groups::delete_group))
        .route(
            "/v1/groups/{group}/members/{member}",
            put(groups::add_group_member).delete(groups::remove_group_member),
        )
        .route("/v1/sessions", get(sessions::describe_sessions))
        .route("/v1/sessions/{session}", delete(sessions::end_session))
        .route("/v1/tokens", post(sessions::create_token))
        .route(
            "/v1/token-keys",
            post(keys::stage_token_key).get(keys::describe_token_keys),
        )
        .route("/v1/token-keys/{key}", delete(keys::destroy_token_key))
        .route("/v1/token-keys/{key}/promote", post(keys::promote_token_key))
        .route("/v1/token-keys/{key}/retire", post(keys::retire_token_key))
        .route("/v1/whoami", get(users::who_am_i))
}

/// The routes by which somebody becomes known: until then anybody may ask.
pub fn strangers_routes() -> Router<Control> {
    Router::new()
        .route("/v1/sessions", post(sessions::log_in))
        .route("/v1/tokens/refresh", post(sessions::refresh_tokens))
}

impl Control {
    /// Runs a change of identities, and waits until it counts for every token that is shown here.
    async fn identify(
        &self,
        op: Op,
        caller: Caller,
        key: Option<IdempotencyKey>,
    ) -> Result<Done<Reply>, Failure> {
        let id = operation_id(&caller, key);
        self.identify_as(op, caller, id).await
    }

    /// The same under an id that the operation is made with.
    async fn identify_as(&self, op: Op, caller: Caller, id: OperationId) -> Result<Done<Reply>, Failure> {
        let done = self.run(&Model, Attempt::new(op, caller, id)).await?;
        self.tokens.reach(done.revision.n).await?;
        Ok(done)
    }
}

/// Runs a change that is answered with its revision only.
async fn changed(
    control: &Control,
    op: Op,
    caller: Caller,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let done = control.identify(op, caller, idempotency_key(headers)?).await?;
    Ok(revised(&done))
}

/// The answer that is no more than a revision.
fn revised(done: &Done<Reply>) -> Response {
    let body = IdentityChanged {
        revision: done.revision,
        operation: done.operation,
    };
    (stamp(done), axum::Json(body)).into_response()
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Self {
        tracing::error!(%error, "the sessions are not in step with the store");
        Self::unavailable("it was done, and may not count everywhere yet; look again in a moment")
    }
}

impl From<MintError> for Failure {
    fn from(error: MintError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<PasswordError> for Failure {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Bounds => Self::invalid("password", error.to_string()),
            PasswordError::Busy => Self::unavailable(error.to_string()),
            PasswordError::Sealed { .. } | PasswordError::Hash => {
                tracing::error!(%error, "a password can't be checked");
                Self::new(
                    "internal",
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Something failed here",
                    error.to_string(),
                )
            }
        }
    }
}
