//! `admin.sock`: how the daemon, its instances and their guests are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use moorline_shared::InstanceId;
use moorline_shared::api::health::Health;
use moorline_shared::host::{
    CertificateStatus, ConnectionStatus, FeedStatus, GuestStatus, HostStatus, InstanceStatus, Readiness,
    RequestCounts, Serves, VmStatus,
};
use moorline_shared::link::body::Freshness;

use super::Services;
use super::problem::{Problem, unknown_path};
use crate::link;

pub(super) fn routes(services: Arc<Services>) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/ready", get(ready))
        .route("/v1/metrics", get(scrape))
        .route("/v1/status", get(status))
        .route("/v1/instances/{id}", get(instance))
        .fallback(unknown_path)
        .with_state(services)
}

const BUILD: &str = concat!("moorline-host ", env!("CARGO_PKG_VERSION"));

async fn health(State(services): State<Arc<Services>>) -> Json<Health> {
    Json(Health {
        build: BUILD.to_owned(),
        // A clock beyond all times still lets the daemon say that it lives.
        now: link::time().unwrap_or(services.started_at),
    })
}

/// A daemon is ready that has something to serve: the present state, or what it had when the control plane was last heard.
async fn ready(State(services): State<Arc<Services>>) -> Result<Json<Readiness>, Problem> {
    let standing = services.shards.feed_clock().standing(link::now());
    let serves = if standing.freshness == Freshness::Fresh {
        Serves::Fresh
    } else if guests(&services)
        .await?
        .values()
        .any(|guest| guest.revision.is_some())
    {
        Serves::Stale
    } else {
        let title = "The host daemon is not ready";
        let detail = "the control plane has not been reached since the daemon began, and there is nothing to serve from \
                      before; its log says what is in the way";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Problem::new(status, "not-ready", title, detail));
    };
    Ok(Json(Readiness {
        build: BUILD.to_owned(),
        serves,
        heard_ms_ago: u64::from(standing.age_ms),
    }))
}

async fn scrape(State(services): State<Arc<Services>>) -> Result<Response, Problem> {
    metrics(&services).await
}

/// What Prometheus reads, at whatever it asked.
pub(super) async fn metrics(services: &Services) -> Result<Response, Problem> {
    let text = super::metrics::text(services).await.map_err(ending)?;
    let kind = [(CONTENT_TYPE, moorline_daemon::metrics::CONTENT_TYPE)];
    Ok((kind, text).into_response())
}

fn ending(error: link::Ending) -> Problem {
    let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "The daemon is about to end");
    Problem::new(status, "ending", title, error.to_string())
}

async fn status(State(services): State<Arc<Services>>) -> Result<Json<HostStatus>, Problem> {
    let standing = services.shards.feed_clock().standing(link::now());
    let instances = guests(&services).await?;
    let mut instances = join(services.table.all(), instances);
    let mut credentials = services.credentials.status().await;
    let (from, until) = services.identity.present().validity();
    for status in &mut instances {
        status.credentials = credentials.remove(&status.instance).unwrap_or_default();
    }
    Ok(Json(HostStatus {
        host: services.host.clone(),
        build: BUILD.to_owned(),
        pid: std::process::id(),
        started_at: services.started_at,
        feed: FeedStatus {
            in_step: standing.freshness == Freshness::Fresh,
            heard_ms_ago: u64::from(standing.age_ms),
        },
        cache: services.cache.status(),
        certificate: Some(CertificateStatus { from, until }),
        instances,
    }))
}

async fn instance(
    State(services): State<Arc<Services>>,
    Path(id): Path<String>,
) -> Result<Json<InstanceStatus>, Problem> {
    let id: InstanceId = id.parse().map_err(|error: moorline_shared::id::IdError| {
        let title = "The path names no instance";
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", title, error.to_string()).at("id")
    })?;
    let vm = services.table.get(id);
    let guest = guests(&services).await?.remove(&id);
    if vm.is_none() && guest.is_none() {
        return Err(Problem::not_found(&format!("this host knows nothing of {id}")));
    }
    Ok(Json(InstanceStatus {
        instance: id,
        vm,
        guest,
        credentials: services
            .credentials
            .status()
            .await
            .remove(&id)
            .unwrap_or_default(),
    }))
}

async fn guests(services: &Services) -> Result<BTreeMap<InstanceId, GuestStatus>, Problem> {
    let all = services.shards.status().await.map_err(ending)?;
    Ok(all
        .into_iter()
        .map(|guest| (guest.instance, shown(guest)))
        .collect())
}

/// What either knows of an instance, in the order of the ids.
fn join(vms: Vec<VmStatus>, mut guests: BTreeMap<InstanceId, GuestStatus>) -> Vec<InstanceStatus> {
    let of_vm = vms.into_iter().map(|vm| InstanceStatus {
        instance: vm.instance,
        guest: guests.remove(&vm.instance),
        vm: Some(vm),
        credentials: Vec::new(),
    });
    let mut all: Vec<_> = of_vm.collect();
    all.extend(guests.into_iter().map(|(instance, guest)| InstanceStatus {
        instance,
        vm: None,
        guest: Some(guest),
        credentials: Vec::new(),
    }));
    all.sort_by_key(|status| status.instance);
    all
}

fn shown(guest: link::GuestStatus) -> GuestStatus {
    GuestStatus {
        incarnation: guest.incarnation,
        connection: guest.conversation.map(|conversation| ConnectionStatus {
            session: conversation.session,
            build: conversation.build,
            applied: conversation.applied,
            heard_ms_ago: conversation.heard_ms_ago,
        }),
        revision: guest.revision,
        entries: guest.entries as u64,
        bytes: guest.bytes as u64,
        foreign_views: guest.foreign_views as u64,
        requests: RequestCounts {
            gets: guest.requests.gets,
            lists: guest.requests.lists,
            watches: guest.requests.watches,
            relays: guest.requests.relays,
            refused: guest.requests.refused,
            faults: guest.requests.faults,
        },
    }
}
