//! `admin.sock`: how the daemon, its instances and their guests are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use moorline_shared::InstanceId;
use moorline_shared::host::{
    ConnectionStatus, FeedStatus, GuestStatus, HostStatus, InstanceStatus, RequestCounts, VmStatus,
};
use moorline_shared::link::body::Freshness;

use super::Services;
use super::problem::{Problem, unknown_path};
use crate::link;

pub(super) fn routes(services: Arc<Services>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/instances/{id}", get(instance))
        .fallback(unknown_path)
        .with_state(services)
}

async fn status(State(services): State<Arc<Services>>) -> Result<Json<HostStatus>, Problem> {
    let standing = services.shards.feed_clock().standing(link::now());
    let instances = guests(&services).await?;
    let mut instances = join(services.table.all(), instances);
    let mut credentials = services.credentials.status().await;
    for status in &mut instances {
        status.credentials = credentials.remove(&status.instance).unwrap_or_default();
    }
    Ok(Json(HostStatus {
        host: services.host.clone(),
        build: concat!("moorline-host ", env!("CARGO_PKG_VERSION")).to_owned(),
        pid: std::process::id(),
        started_at: services.started_at,
        feed: FeedStatus {
            in_step: standing.freshness == Freshness::Fresh,
            heard_ms_ago: u64::from(standing.age_ms),
        },
        cache: services.cache.status(),
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
    let all = services.shards.status().await.map_err(|error| {
        let title = "The daemon is about to end";
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ending",
            title,
            error.to_string(),
        )
    })?;
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
