//! Whether the control plane lives, and whether it can work: for anybody who asks, a load balancer above all.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use moorline_shared::api::health::{Health, Readiness, ReadinessCheck};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Control;
use super::feed::FeedHandle;
use super::problem::Failure;
use crate::store::Store;

/// How long the last look counts, whoever asks: the look at the store is a write.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a look may take before what it looks at is not ready.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many transactions the feed may be behind.
const MOST_BEHIND: u64 = 100_000;

/// What was seen at the last look. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Looks(Arc<Mutex<Option<Look>>>);

#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    /// Why the control plane can't work; empty if it can.
    why_not: Vec<String>,
}

/// The routes, which need no token.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/health", get(get_health))
        .route("/v1/ready", get(get_readiness))
}

fn build() -> String {
    concat!("moorline-control ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Says that the process answers, and nothing about what it can do.
#[utoipa::path(get, path = "/v1/health", operation_id = "GetHealth", tag = "health", security(()),
    responses((status = 200, body = Health), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn get_health(State(control): State<Control>) -> Json<Health> {
    let now = control.executor.now();
    Json(Health { build: build(), now })
}

/// Says whether changes can be made and reach hosts; if not, the problem says why.
#[utoipa::path(get, path = "/v1/ready", operation_id = "GetReadiness", tag = "health", security(()),
    responses((status = 200, body = Readiness), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn get_readiness(State(control): State<Control>) -> Result<Json<Readiness>, Failure> {
    let store = control.executor.store();
    let why_not = control.looks.why_not(store, &control.feed).await;
    if why_not.is_empty() {
        let checks = vec![ReadinessCheck::Store, ReadinessCheck::Feed];
        return Ok(Json(Readiness {
            build: build(),
            checks,
        }));
    }
    let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "The control plane is not ready");
    Err(Failure::new("not-ready", status, title, why_not.join("; ")))
}

impl Looks {
    /// Looks, unless somebody has just done so. Those who ask meanwhile wait for the same look.
    async fn why_not(&self, store: &Store, feed: &FeedHandle) -> Vec<String> {
        let mut last = self.0.lock().await;
        let recent = last.as_ref().filter(|look| look.at.elapsed() < LOOK_EVERY);
        if let Some(look) = recent {
            return look.why_not.clone();
        }
        let mut why_not = Vec::new();
        why_not.extend(store_is_not(store).await);
        why_not.extend(feed_is_not(store, feed).await);
        *last = Some(Look {
            at: Instant::now(),
            why_not: why_not.clone(),
        });
        why_not
    }
}

async fn store_is_not(store: &Store) -> Option<String> {
    match timeout(PATIENCE, store.probe()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let cause = cause.unwrap_or_default();
            Some(format!(
                "{error}{cause}; check the disk of the folder of the state"
            ))
        }
        Err(_) => Some(format!(
            "the store has not committed for {} seconds; check the disk of the folder of the state",
            PATIENCE.as_secs()
        )),
    }
}

async fn feed_is_not(store: &Store, feed: &FeedHandle) -> Option<String> {
    let head = store.head().await.ok()?;
    let behind = head.saturating_sub(feed.position());
    (behind > MOST_BEHIND).then(|| format!("the feed is {behind} transactions behind the store"))
}
