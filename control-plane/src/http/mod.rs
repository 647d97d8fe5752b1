//! The HTTP API: routing, authentication, problem errors, the `OpenAPI` document, the feed.
//!
//! Each service has its routes in its own `api.rs`; [`router`] joins them. A request is authenticated by [`auth`],
//! parsed by [`extract`] into types that can't be invalid, and run by the executor; what is long is listed by the
//! [`page`]; whatever goes wrong leaves as a problem ([`problem`]). [`listen`] and [`bodies`] bound what callers can use
//! up. [`openapi`] is the document of all this, and a test compares it with the server.

pub mod auth;
pub mod bodies;
pub mod extract;
pub mod feed;
pub mod feed_api;
pub mod health;
pub mod listen;
pub mod openapi;
pub mod page;
pub mod problem;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use moorline_shared::OperationId;
use moorline_shared::api::data::Changed;
use moorline_shared::api::{IDEMPOTENCY_KEY, OPERATION, REVISION};
use moorline_shared::id::IdempotencyKey;
use tokio_util::sync::CancellationToken;

use self::auth::administrator::AdministratorToken;
use self::auth::instance::Seen;
use self::bodies::{Budget, MAX_STRANGERS_BODY_BYTES};
use self::feed::FeedHandle;
use self::feed::views::Views;
use self::problem::Failure;
use crate::identity::authority::Authority;
pub use crate::identity::authority::peer;
use crate::identity::enrolment::{self, Hosts};
use crate::identity::guesses::Guesses;
use crate::identity::issuer::Issuer;
use crate::identity::master::MasterKey;
use crate::identity::password::Passwords;
use crate::identity::tokens::Tokens;
use crate::metrics::Requests;
use crate::model::{Attempt, Caller, Done, ExecuteError, Executor, ServiceModel};
use crate::services::Services;
use crate::{accounts, identity, instance_data, instances};

/// The longest body of a request, in bytes: a batch of values in base64 with room for the rest.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// What every request is served with.
#[derive(Clone, Debug)]
pub struct Control {
    /// Runs operations.
    pub executor: Arc<Executor>,
    /// The rules.
    pub services: Arc<Services>,
    /// The deployment's own token.
    pub administrator: Arc<AdministratorToken>,
    /// Makes and checks all other tokens, and knows all sessions.
    pub tokens: Tokens,
    /// Makes identity tokens.
    pub issuer: Issuer,
    /// The signed requests of the last minutes.
    pub seen: Seen,
    /// Hashes and checks passwords.
    pub passwords: Arc<Passwords>,
    /// How often somebody may try one.
    pub guesses: Arc<Guesses>,
    /// What kept secrets are sealed with.
    pub master: Arc<MasterKey>,
    /// What vouches for hosts and for this control plane.
    pub authority: Arc<Authority>,
    /// By which certificates hosts are known.
    pub hosts: Hosts,
    /// The feed to hosts.
    pub feed: FeedHandle,
    /// What readers may see.
    pub views: Views,
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// What was asked so far.
    pub requests: Requests,
    /// When it was last seen whether this can work.
    pub looks: health::Looks,
    /// Ends long answers when the control plane ends.
    pub cancel: CancellationToken,
}

/// Every route.
pub fn router(control: Control) -> Router {
    Router::new()
        .merge(instances::api::routes())
        .merge(instance_data::api::routes())
        .merge(accounts::api::routes())
        .merge(identity::instances::api::routes())
        .merge(identity::api::routes())
        .merge(identity::issuer::api::routes())
        .merge(enrolment::api::routes())
        .merge(feed_api::routes())
        .merge(openapi::routes())
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(control.clone(), auth::instance::admit))
        .layer(from_fn_with_state(Budget::of_callers(), Budget::admit))
        .merge(strangers())
        .layer(from_fn_with_state(control.clone(), auth::lease::hold))
        .layer(from_fn_with_state(control.requests.clone(), Requests::count))
        .with_state(control)
}

/// What anybody may ask, with a budget of its own.
fn strangers() -> Router<Control> {
    identity::api::strangers_routes()
        .merge(health::routes())
        .layer(DefaultBodyLimit::max(MAX_STRANGERS_BODY_BYTES))
        .layer(from_fn_with_state(Budget::of_strangers(), Budget::admit))
}

impl Control {
    /// Runs a change for a caller, under the idempotency key of the request or a fresh one.
    pub async fn change<M: ServiceModel>(
        &self,
        model: &M,
        op: M::Op,
        caller: Caller,
        key: Option<IdempotencyKey>,
    ) -> Result<Done<M::Reply>, Failure> {
        let id = operation_id(&caller, key);
        self.run(model, Attempt::new(op, caller, id)).await
    }

    /// Runs a change under the id that it has.
    pub async fn run<M: ServiceModel>(
        &self,
        model: &M,
        attempt: Attempt<M::Op>,
    ) -> Result<Done<M::Reply>, Failure> {
        Ok(self.executor.execute(model, attempt).await?)
    }

    /// Runs an operation that only looks, at the head or at revision `at`.
    pub async fn look<M: ServiceModel>(
        &self,
        model: &M,
        op: M::Op,
        caller: Caller,
        at: Option<u64>,
    ) -> Result<Done<M::Reply>, ExecuteError> {
        let id = operation_id(&caller, None);
        self.executor.read(model, Attempt::new(op, caller, id), at).await
    }
}

/// The id of a caller's operation: the same one for every try under the same key.
pub fn operation_id(caller: &Caller, key: Option<IdempotencyKey>) -> OperationId {
    OperationId::derive(&caller.principal, &key.unwrap_or_else(fresh_key))
}

/// A key that nobody used: 128 bits from a generator that was seeded by the kernel.
fn fresh_key() -> IdempotencyKey {
    uuid::Uuid::new_v4()
        .to_string()
        .parse()
        .expect("a UUID is 36 printable characters")
}

/// The headers that name the operation and the revision of an answer.
pub fn stamp<R>(done: &Done<R>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let texts = [
        (OPERATION, done.operation.to_string()),
        (REVISION, done.revision.to_string()),
    ];
    for (name, text) in texts {
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
    }
    headers
}

/// The answer to a change that says no more than when it was committed and under which record.
pub fn changed<R>(done: &Done<R>) -> Response {
    let body = Changed {
        revision: done.revision,
        operation: done.operation,
    };
    (stamp(done), Json(body)).into_response()
}

/// The idempotency key of a request, if it has one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Failure> {
    let Some(header) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = header.to_str().ok().and_then(|text| text.parse().ok());
    key.map(Some).ok_or_else(|| {
        Failure::header(
            IDEMPOTENCY_KEY,
            "an idempotency key is 1 to 128 printable ASCII characters without spaces",
        )
    })
}
